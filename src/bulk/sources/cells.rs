//! What is in the cells of a batch of a Parquet file: ids, texts, pictures and their paths.
//!
//! Owns turning a row into a sample. Invariant: a cell that is too long, or a string that is not UTF-8, is the fault of its row alone.

use std::path::Path;

use arrow_array::{Array, ArrayRef, BinaryArray, RecordBatch, StructArray, cast::AsArray as _, downcast_integer_array};
use bytes::Bytes;

use super::{
    columns::{Column, Columns},
    file::{Limits, read_picture},
    names,
    records::resolved,
};
use crate::bulk::sample::{Sample, name_of};

/// A batch whose rows become samples.
pub(super) struct Cells<'a> {
    ids: Option<&'a ArrayRef>,
    texts: Option<&'a ArrayRef>,
    images: Option<(&'a ArrayRef, &'a Column)>,
    /// What relative paths are below.
    folder: &'a Path,
    limits: Limits,
}

impl<'a> Cells<'a> {
    /// Those of `batch`, which has `columns` in the order of the file.
    pub(super) fn new(batch: &'a RecordBatch, columns: &'a Columns, folder: &'a Path, limits: Limits) -> Self {
        let roots = columns.roots();
        let of = |column: &Option<Column>| {
            let at = roots.binary_search(&column.as_ref()?.root).ok()?;
            batch.columns().get(at)
        };
        Self {
            ids: of(&columns.id),
            texts: of(&columns.text),
            images: of(&columns.image).zip(columns.image.as_ref()),
            folder,
            limits,
        }
    }

    /// The sample of row `at`, which is known by `place` where it has no id.
    pub(super) fn sample(&self, at: usize, place: String) -> Sample {
        let mut sample = Sample { id: place, ..Sample::default() };
        if let Some(id) = self.ids.and_then(|ids| id_at(ids, at))
            && let Some(id) = sample.take(id)
        {
            sample.id = id;
        }
        if let Some(text) = self.texts.and_then(|texts| bytes_at(texts, at)) {
            // Its length first: it may be as long as a page.
            let text = self.limits.text(text.len() as u64).and_then(|()| self.limits.text_of(text.to_vec()));
            sample.caption = sample.take_text(text);
        }
        if let Some((images, column)) = self.images {
            let cell = Cell::at(images, column, at);
            let path = cell.path.map(|path| name_of(path, "path")).transpose();
            if let Some(path) = sample.take_picture(path) {
                let picture = cell.picture(path.as_deref(), self.folder, self.limits);
                sample.picture = sample.take_picture(picture).flatten();
                sample.path = path;
            }
        }
        sample
    }
}

/// A cell with a picture.
#[derive(Default)]
struct Cell<'a> {
    bytes: Option<&'a [u8]>,
    path: Option<&'a [u8]>,
}

impl<'a> Cell<'a> {
    fn at(images: &'a ArrayRef, column: &Column, at: usize) -> Self {
        if images.is_null(at) {
            return Self::default();
        }
        if let Some(fields) = images.as_any().downcast_ref::<StructArray>() {
            let field = |name: &str| fields.column_by_name(name).and_then(|array| bytes_at(array, at));
            return Self { bytes: field("bytes"), path: field("path") };
        }
        let bytes = bytes_at(images, at);
        if column.is_path() { Self { bytes: None, path: bytes } } else { Self { bytes, path: None } }
    }

    fn picture(&self, path: Option<&str>, folder: &Path, limits: Limits) -> Result<Option<Bytes>, String> {
        match (self.bytes, path) {
            (Some(bytes), _) => {
                limits.picture(bytes.len() as u64)?;
                Ok(Some(Bytes::copy_from_slice(bytes)))
            }
            (None, Some(path)) if names::is_web_address(path) => Err(format!(
                "the picture is not in the Parquet file but named by it, and that is {}",
                names::WEB_ADDRESS
            )),
            (None, Some(path)) => read_picture(&resolved(folder, path), limits)
                .map(Some)
                .map_err(|error| format!("the picture is not in the Parquet file but named by it, and {error}")),
            (None, None) => Ok(None),
        }
    }
}

fn bytes_at(array: &ArrayRef, at: usize) -> Option<&[u8]> {
    let binaries: &BinaryArray = array.as_binary_opt()?;
    binaries.is_valid(at).then(|| binaries.value(at))
}

fn id_at(array: &ArrayRef, at: usize) -> Option<Result<String, String>> {
    if array.is_null(at) {
        return None;
    }
    downcast_integer_array!(
        array => Some(Ok(array.value(at).to_string())),
        _ => bytes_at(array, at).map(|id| name_of(id, "id"))
    )
}
