//! NumPy arrays beside Parquet metadata, in the folders and under the names that clip-retrieval gives them: `img_emb/img_emb_0.npy`,
//! `text_emb/text_emb_0.npy`, `metadata/metadata_0.parquet`.
//!
//! Owns these names, and the head of an array that grows. An array has no null, so a row that lacks an embedding is in none of the
//! three files (`errors.jsonl` has it), and row `i` of one belongs to row `i` of the others; a part without rows has no files. `image_path`
//! is never null, since clip-retrieval 2.45.0's `back` looks whether a file of that name is there and fails where there is no name.
//!
//! Invariant: when all parts are there, their numbers are padded with zeros as wide as the last one needs, so that the order of names
//! is that of numbers; until then, to [`WIDTH`].

use std::{
    fs::File,
    io::{BufWriter, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
};

use super::{
    draft::{Draft, Written, rename},
    table::{Column, Columns, Table, strings},
    values::Values,
};
use crate::bulk::{error::BulkError, row::Row};

/// Digits of a part's number while the last one is not known.
pub(super) const WIDTH: usize = 5;

/// Where parts are, and what their names begin with.
pub(super) const FOLDERS: [(&str, &str); 3] =
    [("img_emb", "img_emb_"), ("text_emb", "text_emb_"), ("metadata", "metadata_")];

/// Bytes in front of the values: as many as NumPy itself writes for any shape that there is.
const HEAD: usize = 128;

/// The columns of the metadata.
pub(super) fn columns(has_images: bool, values: &Values, notes: &[(String, String)]) -> Columns {
    let all =
        [("image_path", Column::Key), ("caption", Column::Text), ("key", Column::Key), ("metadata", Column::Text)];
    Columns::new(&all[usize::from(!has_images)..], values, notes)
}

/// An array whose rows are counted when they are all there.
struct Array {
    draft: Draft,
    file: BufWriter<File>,
    values: Values,
    rows: u64,
}

impl Array {
    fn begin(path: PathBuf, values: Values) -> Result<Self, BulkError> {
        let (draft, mut file) = Draft::begin(path)?;
        file.write_all(&[0; HEAD]).map_err(|error| draft.error(error))?;
        Ok(Self { draft, file, values, rows: 0 })
    }

    fn push(&mut self, embedding: &[f32]) -> Result<(), BulkError> {
        self.rows += 1;
        self.file.write_all(&self.values.bytes(embedding)).map_err(|error| self.draft.error(error))
    }

    fn finish(self) -> Result<Written, BulkError> {
        let Self { draft, mut file, values, rows } = self;
        let head = head(values.numpy(), rows, values.dim);
        let written = file.seek(SeekFrom::Start(0)).and_then(|_| file.write_all(&head));
        written.map_err(|error| draft.error(error))?;
        draft.written(file)
    }
}

/// The head of a `.npy` file, version 1.0.
fn head(descr: &str, rows: u64, columns: usize) -> Vec<u8> {
    let text = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({rows}, {columns}), }}");
    let mut head = b"\x93NUMPY\x01\x00\x76\x00".to_vec();
    head.extend_from_slice(text.as_bytes());
    head.resize(HEAD - 1, b' ');
    head.push(b'\n');
    head
}

/// The files of one part.
pub(super) struct Arrays {
    image: Option<Array>,
    text: Option<Array>,
    metadata: Table,
    rows: u64,
}

impl Arrays {
    /// Begins part `number`, with arrays of what is asked for.
    ///
    /// # Errors
    /// [`BulkError::Out`].
    pub(super) fn begin(
        root: &Path,
        number: u64,
        (images, texts): (bool, bool),
        columns: &Columns,
        values: Values,
    ) -> Result<Self, BulkError> {
        let path = |name: &str, suffix: &str| root.join(name).join(format!("{name}_{number:0WIDTH$}.{suffix}"));
        Ok(Self {
            image: images.then(|| Array::begin(path("img_emb", "npy"), values)).transpose()?,
            text: texts.then(|| Array::begin(path("text_emb", "npy"), values)).transpose()?,
            metadata: columns.begin(path("metadata", "parquet"))?,
            rows: 0,
        })
    }

    /// Writes rows.
    ///
    /// # Errors
    /// [`BulkError::Out`].
    pub(super) fn write(&mut self, rows: &[Row]) -> Result<(), BulkError> {
        let whole: Vec<&Row> = rows.iter().filter(|row| row.error.is_none()).collect();
        for row in &whole {
            if let (Some(array), Some(embedding)) = (&mut self.image, &row.image) {
                array.push(embedding)?;
            }
            if let (Some(array), Some(embedding)) = (&mut self.text, &row.text) {
                array.push(embedding)?;
            }
        }
        self.rows += whole.len() as u64;
        let mut columns = vec![
            strings(whole.iter().map(|row| row.caption.as_deref())),
            strings(whole.iter().map(|row| Some(&*row.id))),
            strings(whole.iter().map(|row| row.metadata.as_deref())),
        ];
        if self.image.is_some() {
            columns.insert(0, strings(whole.iter().map(|row| Some(row.path.as_deref().unwrap_or(&row.id)))));
        }
        self.metadata.write(columns)
    }

    /// All rows are written.
    ///
    /// # Errors
    /// [`BulkError::Out`].
    pub(super) fn finish(self) -> Result<Vec<Written>, BulkError> {
        let Self { image, text, metadata, rows } = self;
        let arrays = [image, text].into_iter().flatten();
        if rows == 0 {
            arrays.map(|array| array.draft).try_for_each(Draft::discard)?;
            metadata.discard()?;
            return Ok(Vec::new());
        }
        let mut files = arrays.map(Array::finish).collect::<Result<Vec<_>, _>>()?;
        files.push(metadata.finish()?);
        Ok(files)
    }
}

/// The name of a part's file once there are `parts` parts.
pub(super) fn settled(path: &Path, parts: u64) -> PathBuf {
    let digits = |number: u64| number.to_string().len();
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let renamed = name.rsplit_once('_').and_then(|(name, rest)| {
        let (number, suffix) = rest.split_once('.')?;
        let (number, width) = (number.parse::<u64>().ok()?, digits(parts.saturating_sub(1)));
        Some(format!("{name}_{number:0width$}.{suffix}"))
    });
    renamed.map_or_else(|| path.to_owned(), |name| path.with_file_name(name))
}

/// Gives the part's file at `path` its last name, where it has not got it yet, and answers that.
///
/// # Errors
/// [`BulkError::Out`].
pub(super) fn settle(path: &Path, parts: u64) -> Result<PathBuf, BulkError> {
    let to = settled(path, parts);
    if to != path && (path.exists() || !to.exists()) {
        rename(path, &to)?;
    }
    Ok(to)
}

#[cfg(test)]
mod tests {
    use ndarray::Array2;
    use ndarray_npy::ReadNpyExt as _;

    use super::*;
    use crate::bulk::options::Dtype;

    #[test]
    fn an_array_is_what_numpy_reads() {
        let folder = tempfile::tempdir().unwrap();
        let values = Values { dtype: Dtype::F32, scale: 127.0, dim: 3 };
        let mut array = Array::begin(folder.path().join("a.npy"), values).unwrap();
        array.push(&[1.0, 2.0, 3.0]).unwrap();
        array.push(&[4.0, 5.0, 6.0]).unwrap();
        array.finish().unwrap().publish().unwrap();
        let read = Array2::<f32>::read_npy(File::open(folder.path().join("a.npy")).unwrap()).unwrap();
        assert_eq!(read, ndarray::array![[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]);
        assert_eq!(head("|i1", u64::MAX, usize::MAX).len(), HEAD);
    }

    #[test]
    fn numbers_are_as_wide_as_the_last_one() {
        let path = |name: &str| Path::new("img_emb").join(name);
        for (parts, name) in
            [(1, "img_emb_3.npy"), (10, "img_emb_3.npy"), (11, "img_emb_03.npy"), (101, "img_emb_003.npy")]
        {
            assert_eq!(settled(&path("img_emb_00003.npy"), parts), path(name), "{parts}");
        }
    }
}
