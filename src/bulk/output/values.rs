//! Embeddings as the files have them.
//!
//! Owns the conversion to each type. Does not own the scale of `int8`, which is the model's.
//!
//! | type | a value |
//! |---|---|
//! | `f32` | as the model gives it |
//! | `f16` | nearest, ties to even |
//! | `int8` | `round(x * scale)`, -127 to 127, with one scale for all vectors of the model |

use std::sync::Arc;

use arrow_array::{ArrayRef, FixedSizeListArray, Float16Array, Float32Array, Int8Array};
use arrow_buffer::NullBuffer;
use arrow_schema::{DataType, Field};
use half::f16;
use serde::Serialize;

use crate::{bulk::options::Dtype, model::int8_scale::quantized};

/// The type of the values, and what they are made with.
#[derive(Clone, Copy, Debug)]
pub(in crate::bulk) struct Values {
    /// Their type.
    pub(in crate::bulk) dtype: Dtype,
    /// What `int8` multiplies with.
    pub(in crate::bulk) scale: f32,
    /// Values of one embedding.
    pub(in crate::bulk) dim: usize,
}

/// The values of an embedding, written as short as they can be.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(super) enum Numbers {
    /// Of `f32` and `f16`.
    Floats(Vec<f32>),
    /// Of `int8`.
    Integers(Vec<i8>),
}

impl Values {
    /// The bytes of one embedding, little-endian.
    pub(super) fn bytes(&self, embedding: &[f32]) -> Vec<u8> {
        match self.dtype {
            Dtype::F32 => embedding.iter().flat_map(|value| value.to_le_bytes()).collect(),
            Dtype::F16 => embedding.iter().flat_map(|&value| f16::from_f32(value).to_le_bytes()).collect(),
            Dtype::Int8 => embedding.iter().flat_map(|&value| quantized(value, self.scale).to_le_bytes()).collect(),
        }
    }

    /// What NumPy calls the type.
    pub(super) fn numpy(&self) -> &'static str {
        match self.dtype {
            Dtype::F32 => "<f4",
            Dtype::F16 => "<f2",
            Dtype::Int8 => "|i1",
        }
    }

    /// One embedding for JSON: numbers that parse to the same values.
    pub(super) fn numbers(&self, embedding: &[f32]) -> Numbers {
        match self.dtype {
            Dtype::F32 => Numbers::Floats(embedding.to_vec()),
            Dtype::F16 => Numbers::Floats(embedding.iter().map(|&value| f16::from_f32(value).to_f32()).collect()),
            Dtype::Int8 => Numbers::Integers(embedding.iter().map(|&value| quantized(value, self.scale)).collect()),
        }
    }

    /// The type of a column of embeddings.
    pub(super) fn column(&self) -> DataType {
        let size = i32::try_from(self.dim).unwrap_or(i32::MAX);
        DataType::FixedSizeList(Arc::new(self.element()), size)
    }

    /// `element`, as the standard of Parquet has it and most writers do.
    fn element(&self) -> Field {
        let data_type = match self.dtype {
            Dtype::F32 => DataType::Float32,
            Dtype::F16 => DataType::Float16,
            Dtype::Int8 => DataType::Int8,
        };
        Field::new("element", data_type, true)
    }

    /// A column of embeddings, null where there is none.
    pub(super) fn array(&self, embeddings: &[Option<&[f32]>]) -> ArrayRef {
        // What stands in memory in place of a null is not written.
        let zeros = vec![0.0; self.dim];
        let values = embeddings.iter().flat_map(|embedding| embedding.unwrap_or(&zeros).iter().copied());
        let values: ArrayRef = match self.dtype {
            Dtype::F32 => Arc::new(values.collect::<Vec<_>>().into_iter().map(Some).collect::<Float32Array>()),
            Dtype::F16 => Arc::new(values.map(|value| Some(f16::from_f32(value))).collect::<Float16Array>()),
            Dtype::Int8 => Arc::new(values.map(|value| Some(quantized(value, self.scale))).collect::<Int8Array>()),
        };
        let nulls = NullBuffer::from_iter(embeddings.iter().map(Option::is_some));
        let size = i32::try_from(self.dim).unwrap_or(i32::MAX);
        Arc::new(FixedSizeListArray::new(Arc::new(self.element()), size, values, Some(nulls)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_in_bytes_and_in_json() {
        let of = |dtype| Values { dtype, scale: 200.0, dim: 3 };
        let row = [0.5f32, -0.25, 0.7];
        assert_eq!(of(Dtype::F32).bytes(&row), row.map(f32::to_le_bytes).concat());
        assert_eq!(of(Dtype::F16).bytes(&row)[..4], [0x00, 0x38, 0x00, 0xb4]);
        assert_eq!(of(Dtype::Int8).bytes(&row), [100, (-50i8).to_le_bytes()[0], 127]);
        let json = |dtype| serde_json::to_string(&of(dtype).numbers(&row)).unwrap();
        assert_eq!((&*json(Dtype::Int8), &*json(Dtype::F32)), ("[100,-50,127]", "[0.5,-0.25,0.7]"));
        assert_eq!(json(Dtype::F16), "[0.5,-0.25,0.7001953]");
    }
}
