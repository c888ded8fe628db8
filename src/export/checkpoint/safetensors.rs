//! The container safetensors: a header that says where each tensor lies, then their bytes.
//!
//! Owns what the field `format` of a header says of the names: `tf` and `flax` are written by the TensorFlow and Flax classes. Anything
//! else, `pt` and `mlx` and no such field among it, means the names of the PyTorch classes.
//!
//! Invariant: what is read lies within the file, by a header that was checked as a whole.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use safetensors::{Dtype, tensor::Metadata};

use super::{
    naming::Family,
    stored::{Element, Stored},
};
use crate::export::error::ExportError;

/// The format's own limit on a header, bytes.
const MAX_HEADER: u64 = 100_000_000;

/// The tensors of one file, by name, and whose names they are.
pub(super) fn open(path: &Path) -> Result<(Vec<(String, Stored)>, Family), ExportError> {
    let malformed = |reason: String| ExportError::malformed(path, format!("not a safetensors file: {reason}"));
    let begin = || -> io::Result<(File, u64, u64)> {
        let file = File::open(path)?;
        let size = file.metadata()?.len();
        let mut length = [0; 8];
        if size >= 8 {
            file.read_exact_at(&mut length, 0)?;
        }
        Ok((file, size, u64::from_le_bytes(length)))
    };
    let (file, size, header_length) = begin().map_err(ExportError::io(path))?;
    if size < 8 || header_length > MAX_HEADER || header_length > size - 8 {
        return Err(malformed("the header does not fit the file".into()));
    }
    let mut header = vec![0; header_length as usize];
    file.read_exact_at(&mut header, 8).map_err(ExportError::io(path))?;
    // Deserializing checks that the tensors lie back to back and that each has the size of its shape.
    let metadata: Metadata = serde_json::from_slice(&header).map_err(|e| malformed(e.to_string()))?;
    let expected = (8 + header_length).saturating_add(metadata.data_len() as u64);
    if expected != size {
        return Err(malformed(format!("its header describes {expected} bytes, the file has {size}")));
    }
    let (path, file, begin) = (Arc::new(PathBuf::from(path)), Arc::new(file), 8 + header_length);
    let tensors = metadata.tensors().into_iter().map(|(name, info)| {
        let (start, end) = info.data_offsets;
        let element = match info.dtype {
            Dtype::F32 => Element::F32,
            Dtype::F16 => Element::F16,
            Dtype::BF16 => Element::BF16,
            other => Element::Other(format!("{other:?}")),
        };
        let part = begin + start as u64..begin + end as u64;
        (name, Stored::within(&path, &file, element, info.shape.clone(), vec![part]))
    });
    let format = metadata.metadata().as_ref().and_then(|fields| fields.get("format"));
    let family = match format.map(String::as_str) {
        Some("tf") => Family::TensorFlow,
        Some("flax") => Family::Flax,
        _ => Family::PyTorch,
    };
    Ok((tensors.collect(), family))
}
