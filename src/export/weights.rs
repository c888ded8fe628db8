//! Where weights come from ([`WeightSource`]) and where they go ([`WeightFile`], the external-data file beside the graphs).
//!
//! Owns alignment, element conversion and the rule that a tensor is written once however many graphs use it. Does not own the
//! meaning of any tensor. Invariant: one tensor at a time is in memory, whatever the size of the model.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

use half::{bf16, f16};

use super::{
    error::ExportError,
    proto::{DataType, StringStringEntryProto, TensorProto},
};
use crate::model::checksums::{Checksum, Checksumming};

/// Named tensors, as a checkpoint of `transformers` names them.
pub trait WeightSource {
    /// The elements of `name`, row-major, which must have exactly `shape`.
    ///
    /// # Errors
    /// When the tensor is missing, has another shape or an element type that is not a float, or cannot be read.
    fn read(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, ExportError>;

    /// Whether there is a tensor of that name.
    fn contains(&self, name: &str) -> bool;

    /// To which type the class that wrote the weights rounds what it computes of these tensors alone; f32 where there is none.
    fn rounding(&self, names: &[&str]) -> Option<Half> {
        let _ = names;
        None
    }
}

/// A float of 16 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Half {
    /// IEEE 754's binary16.
    F16,
    /// The upper half of f32.
    BF16,
}

impl Half {
    /// The nearest number that the type holds.
    pub(crate) fn round(self, value: f32) -> f32 {
        match self {
            Self::F16 => f16::from_f32(value).to_f32(),
            Self::BF16 => bf16::from_f32(value).to_f32(),
        }
    }

    /// The type as an element of a graph.
    pub(crate) fn data_type(self) -> DataType {
        match self {
            Self::F16 => DataType::Float16,
            Self::BF16 => DataType::BFloat16,
        }
    }
}

/// A tensor's start in the file, bytes: the widest vector load, and what ONNX Runtime's own writer uses at least.
const ALIGNMENT: u64 = 64;

/// One file of tensors that the graphs beside it refer to by offset. ONNX Runtime maps it into memory.
#[derive(Debug)]
pub(crate) struct WeightFile {
    path: PathBuf,
    location: String,
    out: BufWriter<Checksumming<File>>,
    end: u64,
    written: HashMap<String, TensorProto>,
}

impl WeightFile {
    /// Creates `path`; graphs refer to it by its file name, so they must be written into the same folder.
    pub(crate) fn create(path: &Path) -> Result<Self, ExportError> {
        let file = File::create(path).and_then(Checksumming::new).map_err(ExportError::io(path))?;
        let location = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Self {
            path: path.to_owned(),
            location,
            out: BufWriter::with_capacity(1 << 18, file),
            end: 0,
            written: HashMap::new(),
        })
    }

    /// The tensor called `name`, stored as `element`: written with what `elements` gives the first time, found again every other time.
    pub(crate) fn tensor(
        &mut self,
        name: &str,
        element: DataType,
        dims: &[usize],
        elements: impl FnOnce() -> Result<Vec<f32>, ExportError>,
    ) -> Result<TensorProto, ExportError> {
        if let Some(tensor) = self.written.get(name) {
            return Ok(tensor.clone());
        }
        let elements = elements()?;
        if element == DataType::Float16 && elements.iter().any(|v| v.is_finite() && f16::from_f32(*v).is_infinite()) {
            return Err(ExportError::TensorRange(name.to_owned()));
        }
        debug_assert_eq!(elements.len(), dims.iter().product::<usize>(), "{name}");
        let io = |error| ExportError::io(&self.path)(error);
        let offset = self.end.next_multiple_of(ALIGNMENT);
        self.out.write_all(&[0; ALIGNMENT as usize][..(offset - self.end) as usize]).map_err(io)?;
        let mut bytes = Vec::with_capacity(1 << 16);
        for chunk in elements.chunks(1 << 14) {
            bytes.clear();
            chunk.iter().for_each(|&value| element.encode(value, &mut bytes));
            self.out.write_all(&bytes).map_err(io)?;
        }
        let length = elements.len() as u64 * element.size();
        self.end = offset + length;
        let entry = |key: &str, value: String| StringStringEntryProto { key: key.into(), value };
        let tensor = TensorProto {
            name: name.to_owned(),
            dims: dims.iter().map(|&d| d as i64).collect(),
            data_type: element as i32,
            external_data: vec![
                entry("location", self.location.clone()),
                entry("offset", offset.to_string()),
                entry("length", length.to_string()),
            ],
            data_location: Some(TensorProto::EXTERNAL),
            raw_data: None,
        };
        self.written.insert(name.to_owned(), tensor.clone());
        Ok(tensor)
    }

    /// Flushes the file: it, its name, and its checksum.
    pub(crate) fn finish(self) -> Result<(File, String, Checksum), ExportError> {
        let file = self.out.into_inner().map_err(io::IntoInnerError::into_error);
        let (file, checksum) = file.and_then(Checksumming::finish).map_err(ExportError::io(&self.path))?;
        Ok((file, self.location, checksum))
    }
}

/// `[rows, columns]` to `[columns, rows]`: a `Linear` weight is stored output-first, a matrix product wants it input-first.
pub(crate) fn transpose(matrix: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    // Square tiles keep both the reads and the writes of a tile in the first-level cache.
    const TILE: usize = 32;
    let mut out = vec![0.0; matrix.len()];
    for row0 in (0..rows).step_by(TILE) {
        for column0 in (0..columns).step_by(TILE) {
            for row in row0..(row0 + TILE).min(rows) {
                for column in column0..(column0 + TILE).min(columns) {
                    out[column * rows + row] = matrix[row * columns + column];
                }
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transpose_swaps_rows_and_columns_of_any_shape() {
        for (rows, columns) in [(1, 1), (3, 5), (32, 32), (33, 70)] {
            let matrix: Vec<f32> = (0..rows * columns).map(|i| i as f32).collect();
            let turned = transpose(&matrix, rows, columns);
            assert!((0..rows).all(|r| (0..columns).all(|c| turned[c * rows + r] == matrix[r * columns + c])));
        }
    }

    #[test]
    fn a_weight_that_f16_cannot_hold_is_an_error_not_infinity() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = WeightFile::create(&dir.path().join("data")).unwrap();
        file.tensor("fits", DataType::Float16, &[1], || Ok(vec![-65504.0])).unwrap();
        let error = file.tensor("large", DataType::Float16, &[1], || Ok(vec![65520.0])).unwrap_err();
        assert!(error.to_string().contains("`large`"), "{error}");
    }

    #[test]
    fn a_tensor_is_written_once_and_starts_aligned() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data");
        let mut file = WeightFile::create(&path).unwrap();
        file.tensor("a", DataType::Float, &[3], || Ok(vec![1.0, 2.0, 3.0])).unwrap();
        let b = file.tensor("b", DataType::Float16, &[1], || Ok(vec![4.0])).unwrap();
        assert_eq!(file.tensor("b", DataType::Float16, &[1], || panic!("asked for a second time")).unwrap(), b);
        assert_eq!(b.external_data[1].value, "64");
        let (_, name, checksum) = file.finish().unwrap();
        assert_eq!(name, "data");
        assert!(checksum.is_of(&path).unwrap());
        let bytes = std::fs::read(path).unwrap();
        assert_eq!((bytes.len(), &bytes[64..]), (66, &f16::from_f32(4.0).to_le_bytes()[..]));
    }
}
