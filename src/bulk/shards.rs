//! What else a folder of output holds: `shard-I-of-N` below it, each with a run of its own.
//!
//! Owns that shards of another number are not mixed, nor with a run that is no shard, since their rows would be there twice. Does not own
//! a run's own folder (`journal`).

use std::{fs, io, path::Path};

use super::{error::BulkError, options::Shard};

/// Looks whether `out` may be filled by this shard, or by a run that is none.
///
/// # Errors
/// [`BulkError::Usage`] where it may not, [`BulkError::Out`] where that cannot be seen.
pub(super) fn must_be_of(out: &Path, shard: Option<Shard>, run: &str) -> Result<(), BulkError> {
    let wrong = |reason: String| Err(BulkError::usage_of_out(format!("{}: {reason}", out.display())));
    let entries = match fs::read_dir(out) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            return wrong("it is no folder; give another".to_owned());
        }
        Err(error) => return Err(BulkError::at(out, error)),
    };
    for entry in entries {
        let name = entry.map_err(|error| BulkError::at(out, error))?.file_name();
        let Some(other) = name.to_str().and_then(Shard::named) else { continue };
        match shard {
            Some(shard) if shard.count() == other.count() => {}
            Some(_) => {
                return wrong(format!(
                    "it holds shards of another number, such as {other}; give the same N, or another folder"
                ));
            }
            None => return wrong(format!("it holds shards, made by --shard {other}; give --shard, or another folder")),
        }
    }
    if shard.is_some() && out.join(run).exists() {
        return wrong("it holds a run without --shard; give the same arguments, or another folder".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_of_two_numbers_are_not_mixed_nor_with_a_whole_run() {
        let folder = tempfile::tempdir().unwrap();
        let shard = |index, count| Some(Shard::new(index, count).unwrap());
        let asked = |shard| must_be_of(folder.path(), shard, "run.json").map_err(|error| error.to_string());
        assert_eq!((asked(None), asked(shard(0, 2))), (Ok(()), Ok(())));
        fs::create_dir(folder.path().join("shard-1-of-2")).unwrap();
        assert_eq!((asked(shard(0, 2)), asked(shard(1, 2))), (Ok(()), Ok(())));
        assert!(asked(shard(0, 3)).unwrap_err().contains("shards of another number, such as 1/2"));
        assert!(asked(None).unwrap_err().contains("made by --shard 1/2"));
        fs::remove_dir(folder.path().join("shard-1-of-2")).unwrap();
        fs::write(folder.path().join("run.json"), "").unwrap();
        assert!(asked(shard(0, 2)).unwrap_err().contains("without --shard"));
        let file = must_be_of(&folder.path().join("run.json"), None, "run.json").unwrap_err().to_string();
        assert!(file.contains("it is no folder"), "{file}");
        assert_eq!(
            must_be_of(&folder.path().join("absent"), None, "run.json").map_err(|error| error.to_string()),
            Ok(())
        );
    }
}
