//! A text file: each line is a text, also one that is empty, so that row and line numbers agree.
//!
//! Owns that. Does not own lines (`lines`).

use std::{io::BufReader, path::Path};

use super::{
    file::Limits,
    lines::{self, Line},
};
use crate::{
    bulk::sample::{Sample, Sink, Stop},
    regular,
};

/// Sends the texts of the file at `path`.
///
/// # Errors
/// When the sink says so.
pub(super) fn send(path: &Path, sink: &mut dyn Sink, limits: Limits) -> Result<(), Stop> {
    let name = path.to_string_lossy();
    let reader = regular::open(path).map(|(file, _)| BufReader::new(file));
    lines::each(&name, reader, limits.text, sink, |number, line, sink| {
        let id = format!("{name}:{number}");
        let Some(ticket) = sink.ticket(&id)? else { return Ok(()) };
        let mut sample = Sample { id, ..Sample::default() };
        sample.caption = sample.take_text(match line {
            Line::Whole(bytes) => limits.text_in_file(bytes),
            Line::TooLong(bytes) => limits.text(bytes).map(|()| String::new()),
        });
        sink.send(ticket, sample)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bulk::sample::Kept;

    #[test]
    fn each_line_is_a_row_and_a_bad_one_fails_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.txt");
        std::fs::write(&path, b"one\n\ntoo long a line\n\xff\nlast").unwrap();
        let mut kept = Kept::default();
        send(&path, &mut kept, Limits { picture: 1, text: 4 }).unwrap();
        let texts: Vec<_> = kept.samples.iter().map(|sample| sample.caption.as_deref()).collect();
        assert_eq!(texts, [Some("one"), Some(""), None, None, Some("last")]);
        assert!(kept.samples[2].no_text.as_ref().unwrap().contains("15 bytes, the limit is 4"));
        assert_eq!(kept.samples[3].no_text.as_deref(), Some("the text is not UTF-8"));
        assert_eq!(kept.samples[4].id, format!("{}:5", path.display()));
    }

    #[test]
    fn a_file_that_has_gone_is_a_row() {
        let mut kept = Kept::default();
        send(Path::new("/absent/t.txt"), &mut kept, Limits { picture: 1, text: 4 }).unwrap();
        assert_eq!(kept.samples[0].id, "/absent/t.txt:1");
        assert!(kept.samples[0].error.as_ref().unwrap().contains("cannot be read"), "{:?}", kept.samples);
    }
}
