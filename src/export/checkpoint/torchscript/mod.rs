//! The container that `torch.jit.save` writes, in which OpenAI published CLIP: a zip archive of a program and its module's attributes.
//!
//! Owns reading the tensors off `data.pkl`: the attributes of a tree of modules, whose storages lie beside it. The program (`code/`), its
//! constants (`constants.pkl`, where a causal mask may be) and the inputs that it was traced with are not weights, and are not read.
//!
//! Nothing is run: what the pickle describes, `machine` tells.
//!
//! Invariants: no tensor reaches outside of its storage, none has more elements than that, and a storage lies in the file as it is.

mod machine;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    fs::File,
    io::{BufReader, Read},
    path::{Path, PathBuf},
    sync::Arc,
};

use zip::{CompressionMethod, ZipArchive};

use self::machine::{Machine, Tensor};
use super::{instructions::MAX_PICKLE, stored::Stored};
use crate::export::error::ExportError;

/// The file whose presence tells such an archive from one by `torch.save`.
const CONSTANTS: &str = "constants.pkl";
const DATA: &str = "data.pkl";

/// Whether the zip archive at `path` is one; what is no zip archive is none.
pub(super) fn is_one(path: &Path) -> Result<bool, ExportError> {
    let mut file = File::open(path).map_err(ExportError::io(path))?;
    let mut start = [0; 2];
    if file.read_exact(&mut start).is_err() || &start != b"PK" {
        return Ok(false);
    }
    let archive = ZipArchive::new(BufReader::new(file));
    // What is wrong with an archive, the container says whose it then is.
    Ok(archive.is_ok_and(|archive| {
        let is_constants = |name: &str| in_root(name) == CONSTANTS;
        archive.file_names().any(|name| name.is_ok_and(|name| is_constants(&name)))
    }))
}

/// The tensors of one file, by the attributes that lead to each, joined by dots.
pub(super) fn open(path: &Path) -> Result<Vec<(String, Stored)>, ExportError> {
    let malformed = |reason: String| ExportError::malformed(path, format!("not a TorchScript archive: {reason}"));
    let file = File::open(path).map_err(ExportError::io(path))?;
    let length = file.metadata().map_err(ExportError::io(path))?.len();
    let archive = Archive::open(&file, length).map_err(malformed)?;
    let mut machine = Machine::default();
    let root = machine.run(&archive.pickle).map_err(malformed)?;
    let tensors = machine.tensors(root).map_err(malformed)?;
    let (path, file) = (Arc::new(PathBuf::from(path)), Arc::new(file));
    let stored = tensors.into_iter().map(|(name, tensor)| {
        let stored = archive.stored(tensor, &path, &file);
        match stored {
            Ok(stored) => Ok((name, stored)),
            Err(reason) => Err(malformed(format!("tensor `{name}` {reason}"))),
        }
    });
    stored.collect()
}

/// The name below the archive's one folder.
fn in_root(name: &str) -> &str {
    name.split_once('/').map_or(name, |(_, rest)| rest)
}

/// What is read of the zip archive.
struct Archive {
    pickle: Vec<u8>,
    /// Where each storage lies in the file, by its key: the first byte, and how many.
    storages: HashMap<String, (u64, u64)>,
}

impl Archive {
    fn open(file: &File, length: u64) -> Result<Self, String> {
        let mut zip = ZipArchive::new(BufReader::new(file)).map_err(|error| error.to_string())?;
        let (mut pickle, mut storages) = (None, HashMap::new());
        for index in 0..zip.len() {
            let mut entry = zip.by_index(index).map_err(|error| error.to_string())?;
            let name = entry.name().map_err(|error| error.to_string())?.into_owned();
            let name = in_root(&name);
            if name == DATA {
                let mut bytes = Vec::new();
                entry.by_ref().take(MAX_PICKLE).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
                if pickle.replace(bytes).is_some() {
                    return Err(format!("it has two files {DATA}"));
                }
            } else if let Some(key) = name.strip_prefix("data/") {
                if entry.compression() != CompressionMethod::Stored {
                    return Err("its storages are compressed, which those of torch.jit.save are not".to_owned());
                }
                let start = entry.data_start().ok_or("a storage in it is nowhere")?;
                if start.checked_add(entry.size()).is_none_or(|end| end > length) {
                    return Err(format!("storage {key:?} reaches beyond the end of the file"));
                }
                storages.insert(key.to_owned(), (start, entry.size()));
            }
        }
        let pickle = pickle.ok_or_else(|| format!("it has no {DATA}"))?;
        Ok(Self { pickle, storages })
    }

    /// The tensor where it lies in `file`; else why it cannot be there.
    fn stored(&self, tensor: &Tensor, path: &Arc<PathBuf>, file: &Arc<File>) -> Result<Stored, String> {
        let Tensor { storage, offset, shape, strides } = tensor;
        let &(start, bytes) = self.storages.get(&storage.key).ok_or("has no storage")?;
        let element = storage.element.clone();
        let size = element.size();
        if size == 0 {
            // Never read, so where it lies does not matter.
            let nothing = start..start;
            return Ok(Stored::within(path, file, element, shape.clone(), [nothing]));
        }
        let outside = || "reaches outside of its storage".to_owned();
        let count = shape.iter().try_fold(1, |count: u64, &side| count.checked_mul(side as u64)).ok_or_else(outside)?;
        let last = shape.iter().zip(strides).try_fold(0, |last: u64, (&side, &stride)| {
            last.checked_add((side as u64).saturating_sub(1).checked_mul(stride as u64)?)
        });
        let end = last.and_then(|last| last.checked_add(*offset)?.checked_add(1)).ok_or_else(outside)?;
        let there = bytes / size as u64;
        if count > there || count > 0 && end > there {
            return Err(outside());
        }
        let start = start + offset.min(&there) * size as u64;
        // Not negative, as it is what the tensor has between its first element and its last.
        let span = if count == 0 { 0 } else { end - offset };
        let elements = usize::try_from(span).map_err(|_| outside())?;
        let part = start..start + span * size as u64;
        let all = Stored::within(path, file, element, vec![elements], [part]);
        Ok(all.viewed(shape.clone(), strides))
    }
}
