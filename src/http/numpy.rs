//! Embeddings as NumPy arrays: the type of the array is that of the values.
//!
//! Owns which NumPy type each of ours is (`f4`, `f2`, `i1`, `u1`) and making such arrays. Does not own the values (`embedding`), nor the
//! files (`reply`).

use std::io;

use half::f16;
use ndarray::Array2;
use ndarray_npy::{WritableElement, WriteDataError};
use py_literal::Value;

use super::{
    ApiError,
    answer::{Shape, Size},
    embedding::{EmbeddingType, ScaledForm},
    reply::{Npz, Written},
};

/// One array, in the type of its values.
enum Typed<'a> {
    Float(&'a Array2<f32>),
    Float16(Array2<F16>),
    Signed(Array2<i8>),
    Unsigned(Array2<u8>),
}

/// `size` with `rows` embeddings of `columns` values written so, and what is made of them until then.
pub(super) fn add_to(size: Size, kind: EmbeddingType, rows: usize, columns: usize) -> Size {
    let words = rows.saturating_mul(kind.bytes(columns)).div_ceil(size_of::<f32>());
    let made = if kind == EmbeddingType::Float { 0 } else { words };
    size.holding(made).writing_array(&[words], Shape::Npy)
}

/// A `.npy` file of the embeddings, into `buffer`.
///
/// # Errors
/// 500 when it cannot be written, which does not happen in memory.
pub(super) fn npy(buffer: Vec<u8>, rows: &Array2<f32>, form: ScaledForm) -> Result<Written, ApiError> {
    match typed(rows, form)? {
        Typed::Float(array) => Written::npy(buffer, array),
        Typed::Float16(array) => Written::npy(buffer, &array),
        Typed::Signed(array) => Written::npy(buffer, &array),
        Typed::Unsigned(array) => Written::npy(buffer, &array),
    }
}

/// Adds the embeddings to an archive.
///
/// # Errors
/// As [`npy`].
pub(super) fn add(npz: &mut Npz, name: &str, rows: &Array2<f32>, form: ScaledForm) -> Result<(), ApiError> {
    match typed(rows, form)? {
        Typed::Float(array) => npz.add(name, array),
        Typed::Float16(array) => npz.add(name, &array),
        Typed::Signed(array) => npz.add(name, &array),
        Typed::Unsigned(array) => npz.add(name, &array),
    }
}

fn typed(rows: &Array2<f32>, form: ScaledForm) -> Result<Typed<'_>, ApiError> {
    let shape = (rows.nrows(), form.kind.bytes(rows.ncols()));
    let mismatch = |error: ndarray::ShapeError| ApiError::internal(error.to_string());
    Ok(match form.kind {
        EmbeddingType::Float => Typed::Float(rows),
        EmbeddingType::Float16 => Typed::Float16(rows.mapv(|value| F16(f16::from_f32(value)))),
        EmbeddingType::Int8 | EmbeddingType::Binary => {
            let values = bytemuck::allocation::cast_vec(form.bytes_of(rows.view()));
            Typed::Signed(Array2::from_shape_vec(shape, values).map_err(mismatch)?)
        }
        EmbeddingType::Uint8 | EmbeddingType::Ubinary => {
            Typed::Unsigned(Array2::from_shape_vec(shape, form.bytes_of(rows.view())).map_err(mismatch)?)
        }
    })
}

/// An f16 as NumPy has it, which `ndarray-npy` does not know.
#[derive(Clone, Copy)]
struct F16(f16);

impl WritableElement for F16 {
    fn type_descriptor() -> Value {
        Value::String("<f2".to_owned())
    }

    fn write<W: io::Write>(&self, mut writer: W) -> Result<(), WriteDataError> {
        Ok(writer.write_all(&self.0.to_le_bytes())?)
    }

    fn write_slice<W: io::Write>(slice: &[Self], mut writer: W) -> Result<(), WriteDataError> {
        slice.iter().try_for_each(|value| value.write(&mut writer))
    }
}

#[cfg(test)]
mod tests {
    use ndarray::array;
    use ndarray_npy::ReadNpyExt;
    use proptest::prelude::*;

    use super::*;
    use crate::http::embedding::{EmbeddingForm, EncodingFormat};

    fn file(rows: &Array2<f32>, kind: EmbeddingType) -> Vec<u8> {
        let form = EmbeddingForm { kind, format: EncodingFormat::Float }.scaled(200.0);
        npy(Vec::new(), rows, form).expect("in memory").into_bytes()
    }

    #[test]
    fn the_type_of_the_array_is_that_of_the_values() {
        let rows = array![[0.5, -0.25, 0.0, -0.1, 0.1, 0.2, -0.3, 0.7], [-0.5, 0.25, 0.1, 0.1, 0.1, 0.1, -0.3, -0.7]];
        let header = |kind| String::from_utf8_lossy(&file(&rows, kind)[10..128]).into_owned();
        for (kind, descr, columns) in [
            (EmbeddingType::Float, "<f4", 8),
            (EmbeddingType::Float16, "<f2", 8),
            (EmbeddingType::Int8, "|i1", 8),
            (EmbeddingType::Uint8, "|u1", 8),
            (EmbeddingType::Binary, "|i1", 1),
            (EmbeddingType::Ubinary, "|u1", 1),
        ] {
            let header = header(kind);
            assert!(header.contains(&format!("'descr': '{descr}'")), "{kind:?}: {header}");
            assert!(header.contains(&format!("'shape': (2, {columns})")), "{kind:?}: {header}");
        }
        let int8 = Array2::<i8>::read_npy(&file(&rows, EmbeddingType::Int8)[..]).expect("an array");
        assert_eq!(int8, array![[100, -50, 0, -20, 20, 40, -60, 127], [-100, 50, 20, 20, 20, 20, -60, -127]]);
        let uint8 = Array2::<u8>::read_npy(&file(&rows, EmbeddingType::Uint8)[..]).expect("an array");
        assert_eq!(uint8, int8.mapv(|value| (i16::from(value) + 128) as u8));
        let bits = Array2::<u8>::read_npy(&file(&rows, EmbeddingType::Ubinary)[..]).expect("an array");
        assert_eq!(bits, array![[0b1010_1101], [0b0111_1100]]);
        let half = file(&rows, EmbeddingType::Float16);
        assert_eq!(half[half.len() - 32..][..4], [0x00, 0x38, 0x00, 0xb4], "0.5, -0.25");
    }

    proptest! {
        #[test]
        fn no_file_is_longer_than_its_bound(rows in 1usize..9, columns in 1usize..20) {
            let array = Array2::from_elem((rows, columns), 0.1f32);
            for kind in EmbeddingType::ALL {
                let bound = add_to(Size::new(""), kind, rows, columns).written();
                prop_assert!(file(&array, kind).len() <= bound, "{:?}", kind);
                let mut npz = Npz::new(Vec::new());
                let form = EmbeddingForm { kind, format: EncodingFormat::Float }.scaled(200.0);
                add(&mut npz, "embeddings", &array, form).expect("in memory");
                prop_assert!(npz.finish().expect("in memory").len() <= bound, "{:?}", kind);
            }
        }
    }
}
