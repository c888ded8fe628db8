//! The container that `torch.save` writes: a zip archive, in versions before 1.6 a stream of pickles, before 0.1.10 a tar archive.
//!
//! Owns what is read of one, and the refusals. The reading is `pytorch-reader`'s, which runs nothing that a pickle asks for and gathers
//! what is stored as a view of something else.
//!
//! Invariants: every pickle in a file has passed `pickle_globals` before its tensors are looked for; no storage is larger than the file.

use std::{
    fs::File,
    io::{self, Read, Seek},
    path::{Path, PathBuf},
    sync::Arc,
};

use pytorch_reader::{DType, PytorchReader};

use super::{
    instructions::MAX_PICKLE,
    pickle_globals, pickle_tar,
    stored::{Element, Stored},
};
use crate::export::error::ExportError;

/// Pickles at the start of a file by versions before 1.6: a magic number, the protocol, the system, the weights, the storages' keys.
const STREAM: usize = 5;
/// Where a tar archive says that it is one, and how.
const TAR_MAGIC: (usize, &[u8]) = (257, b"ustar");

/// The tensors of one file, by the path of keys that leads to each, joined by dots.
pub(super) fn open(path: &Path) -> Result<Vec<(String, Stored)>, ExportError> {
    let malformed = |reason: String| ExportError::malformed(path, format!("not weights by torch.save: {reason}"));
    check_globals(path).map_err(malformed)?;
    let tensors = PytorchReader::new(path).map_err(|error| malformed(error.to_string()))?.into_tensors();
    let length = path.metadata().map_err(ExportError::io(path))?.len();
    let path = Arc::new(PathBuf::from(path));
    let stored = tensors.into_iter().map(|(name, tensor)| {
        let (_, dtype, shape, read) = tensor.into_parts();
        let element = match dtype {
            DType::F32 => Element::F32,
            DType::F16 => Element::F16,
            DType::BF16 => Element::BF16,
            other => Element::Other(format!("{other:?}")),
        };
        // A view may repeat its storage, which is in the file, as often as it likes.
        let size = shape.iter().try_fold(element.size() as u64, |size, &side| size.checked_mul(side as u64));
        match size.filter(|size| *size <= length) {
            Some(_) => Ok((name, Stored::new(&path, element, shape, read))),
            None => Err(malformed(format!("a tensor of the shape {shape:?} is larger than the file"))),
        }
    });
    stored.collect()
}

/// Looks through every pickle in the file.
fn check_globals(path: &Path) -> Result<(), String> {
    let text = |error: io::Error| error.to_string();
    let mut file = File::open(path).map_err(text)?;
    let mut start = Vec::new();
    file.by_ref().take(512).read_to_end(&mut start).map_err(text)?;
    file.rewind().map_err(text)?;
    if start.starts_with(b"PK") {
        return check_archive(file);
    }
    if start.get(TAR_MAGIC.0..).is_some_and(|rest| rest.starts_with(TAR_MAGIC.1)) {
        return pickle_tar::check(file);
    }
    let mut bytes = Vec::new();
    file.take(MAX_PICKLE).read_to_end(&mut bytes).map_err(text)?;
    let mut rest = bytes.as_slice();
    // A file of one pickle, with no storage, ends sooner.
    for _ in 0..STREAM {
        if rest.is_empty() {
            break;
        }
        rest = pickle_globals::check(rest)?;
    }
    Ok(())
}

fn check_archive(file: File) -> Result<(), String> {
    let mut archive = zip::ZipArchive::new(file).map_err(|error| error.to_string())?;
    let mut bytes = Vec::new();
    for index in 0..archive.len() {
        let entry = archive.by_index(index).map_err(|error| error.to_string())?;
        let name = entry.name().map_err(|error| error.to_string())?.into_owned();
        if name.ends_with(".pkl") {
            // Of all of them together: what stands in one place of the file may be several entries.
            let rest = MAX_PICKLE.saturating_sub(bytes.len() as u64);
            let start = bytes.len();
            entry.take(rest + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
            pickle_globals::check(bytes.get(start..).unwrap_or_default())?;
        } else if entry.compression() != zip::CompressionMethod::Stored && name.split('/').any(|part| part == "data") {
            return Err("its storages are compressed, which those of torch.save are not".to_owned());
        }
    }
    Ok(())
}
