//! How embeddings are written: the types of their values, as numbers or in base64.
//!
//! Owns the conversion of f32 to the narrower types and how each is written in JSON and how long that becomes. Does not own which types a
//! dialect knows and under which names.
//!
//! | type | a value | as numbers | as bytes (base64, NumPy) |
//! |---|---|---|---|
//! | `float` | f32 | shortest that parses to the same f32 | little-endian f32 |
//! | `float16` | nearest, ties to even | as that f32 | little-endian f16 |
//! | `int8` | `round(x * scale)`, -127 to 127 | integers | i8 |
//! | `uint8` | that of `int8` + 128, 1 to 255 | integers | u8 |
//! | `ubinary` | bit `x >= 0`, eight in a byte, the first the highest, as `numpy.packbits` has them | 0 to 255 | u8 |
//! | `binary` | that of `ubinary` - 128 | -128 to 127 | i8 |
//!
//! `int8` and `uint8` have one scale for each model and number of values (`ModelInfo::int8_scale`), so that vectors of different requests,
//! replicas and days can be compared; a form is written with it once the model is known ([`ScaledForm`]).

use std::fmt;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use half::f16;
use ndarray::{ArrayView1, ArrayView2};
use schemars::JsonSchema;
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error, Visitor},
};

use super::{
    ApiError,
    answer::{Shape, Size},
};
use crate::model::{UNIT_SCALE, int8_scale::quantized};

/// The type of an embedding's values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema, Serialize)]
#[serde(rename_all = "lowercase")]
pub(in crate::http) enum EmbeddingType {
    /// f32.
    #[default]
    Float,
    /// f16.
    Float16,
    /// A signed byte a value.
    Int8,
    /// An unsigned byte a value.
    Uint8,
    /// A bit a value, in signed bytes.
    Binary,
    /// A bit a value, in unsigned bytes.
    Ubinary,
}

/// How embeddings are written in JSON.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema, Serialize)]
#[serde(rename_all = "lowercase")]
pub(in crate::http) enum EncodingFormat {
    /// Arrays of numbers.
    #[default]
    Float,
    /// One string an embedding: base64 of its bytes.
    Base64,
}

// Written out, as other services take a list here, and what serde says of one tells their users nothing.
impl<'de> Deserialize<'de> for EmbeddingType {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct One;

        impl Visitor<'_> for One {
            type Value = EmbeddingType;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("one type as a string, such as \"int8\", and no list of types")
            }

            fn visit_str<E: Error>(self, name: &str) -> Result<EmbeddingType, E> {
                const NAMES: [&str; 6] = ["float", "float16", "int8", "uint8", "binary", "ubinary"];
                let found = EmbeddingType::ALL.into_iter().find(|kind| kind.name() == name);
                found.ok_or_else(|| E::unknown_variant(name, &NAMES))
            }
        }

        deserializer.deserialize_any(One)
    }
}

impl EmbeddingType {
    /// Every type.
    pub(in crate::http) const ALL: [Self; 6] =
        [Self::Float, Self::Float16, Self::Int8, Self::Uint8, Self::Binary, Self::Ubinary];

    /// The name on the wire.
    pub(in crate::http) fn name(self) -> &'static str {
        match self {
            Self::Float => "float",
            Self::Float16 => "float16",
            Self::Int8 => "int8",
            Self::Uint8 => "uint8",
            Self::Binary => "binary",
            Self::Ubinary => "ubinary",
        }
    }

    /// The bytes of an embedding of `columns` values.
    pub(in crate::http) fn bytes(self, columns: usize) -> usize {
        match self {
            Self::Float => columns.saturating_mul(4),
            Self::Float16 => columns.saturating_mul(2),
            Self::Int8 | Self::Uint8 => columns,
            Self::Binary | Self::Ubinary => columns.div_ceil(8),
        }
    }

    /// Whether embeddings of `columns` values, of length 1 or not, can be had in it.
    ///
    /// # Errors
    /// 400 for bits that fill no byte, and for a scale that would not fit.
    pub(in crate::http) fn check(self, columns: usize, normalize: bool) -> Result<(), ApiError> {
        let name = self.name();
        match self {
            Self::Binary | Self::Ubinary if !columns.is_multiple_of(8) => Err(ApiError::invalid(format!(
                "embeddings of {columns} values are no whole number of bytes in {name}; ask for dimensions that are a multiple of 8"
            ))),
            Self::Int8 | Self::Uint8 if !normalize => Err(ApiError::invalid(format!(
                "{name} is of embeddings of length 1, whose scale is known; leave out normalize, or ask for float16"
            ))),
            _ => Ok(()),
        }
    }

    /// Appends the bytes of `values`, which are some of an embedding's. Bits come in whole bytes: only the last part of an embedding may be
    /// other than a multiple of eight.
    fn write<'v>(self, values: impl Iterator<Item = &'v f32>, scale: f32, out: &mut Vec<u8>) {
        match self {
            Self::Float => values.for_each(|value| out.extend_from_slice(&value.to_le_bytes())),
            Self::Float16 => values.for_each(|&value| out.extend_from_slice(&f16::from_f32(value).to_le_bytes())),
            Self::Int8 => out.extend(values.map(|&value| quantized(value, scale).to_ne_bytes()[0])),
            Self::Uint8 => out.extend(values.map(|&value| quantized(value, scale).to_ne_bytes()[0] ^ 0x80)),
            Self::Ubinary => pack(values, out),
            Self::Binary => {
                let start = out.len();
                pack(values, out);
                // As a signed byte this is the number less 128.
                out[start..].iter_mut().for_each(|byte| *byte ^= 0x80);
            }
        }
    }
}

fn pack<'v>(values: impl Iterator<Item = &'v f32>, out: &mut Vec<u8>) {
    let mut bits = values.map(|&value| u8::from(value >= 0.0));
    while let Some(first) = bits.next() {
        let byte = (1..8).fold(first << 7, |byte, place| byte | bits.next().unwrap_or(0) << (7 - place));
        out.push(byte);
    }
}

/// One way to write embeddings, as it is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::http) struct EmbeddingForm {
    /// Of the values.
    pub(in crate::http) kind: EmbeddingType,
    /// Of the text.
    pub(in crate::http) format: EncodingFormat,
}

impl EmbeddingForm {
    /// With the scale that `int8` and `uint8` have for the embeddings of one model.
    pub(in crate::http) fn scaled(self, scale: f32) -> ScaledForm {
        ScaledForm { kind: self.kind, format: self.format, scale }
    }

    /// As arrays of f32.
    pub(in crate::http) const FLOATS: Self = Self { kind: EmbeddingType::Float, format: EncodingFormat::Float };

    /// As base64 of f32.
    pub(in crate::http) const BASE64: Self = Self { kind: EmbeddingType::Float, format: EncodingFormat::Base64 };

    /// `size` with `rows` embeddings of `columns` values written so.
    pub(in crate::http) fn add_to(self, size: Size, rows: usize, columns: usize) -> Size {
        match (self.format, self.kind) {
            (EncodingFormat::Base64, kind) => {
                // In values of four bytes, as the bound of base64 counts.
                size.writing_array(&[rows, kind.bytes(columns).div_ceil(4)], Shape::Base64)
            }
            (EncodingFormat::Float, EmbeddingType::Binary | EmbeddingType::Ubinary) => {
                size.writing_array(&[rows, columns.div_ceil(8)], Shape::Numbers)
            }
            (EncodingFormat::Float, _) => size.writing_array(&[rows, columns], Shape::Numbers),
        }
    }
}

/// One way to write the embeddings of one model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::http) struct ScaledForm {
    /// Of the values.
    pub(in crate::http) kind: EmbeddingType,
    /// Of the text.
    pub(in crate::http) format: EncodingFormat,
    /// What `int8` and `uint8` multiply values with.
    pub(in crate::http) scale: f32,
}

impl ScaledForm {
    /// The bytes of all embeddings, one behind the other.
    pub(in crate::http) fn bytes_of(self, rows: ArrayView2<'_, f32>) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(rows.nrows() * self.kind.bytes(rows.ncols()));
        rows.rows().into_iter().for_each(|row| self.kind.write(row.iter(), self.scale, &mut bytes));
        bytes
    }
}

impl PartialEq<EmbeddingForm> for ScaledForm {
    fn eq(&self, other: &EmbeddingForm) -> bool {
        (self.kind, self.format) == (other.kind, other.format)
    }
}

/// One embedding, written in a form.
#[derive(Debug)]
pub(in crate::http) struct Embedding<'a> {
    pub(in crate::http) row: ArrayView1<'a, f32>,
    pub(in crate::http) form: ScaledForm,
}

impl Serialize for Embedding<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { row, form: ScaledForm { kind, format, scale } } = *self;
        let bytes = || {
            let mut bytes = Vec::new();
            kind.write(row.iter(), scale, &mut bytes);
            bytes
        };
        match (format, kind) {
            (EncodingFormat::Base64, kind) => serializer.collect_str(&Base64 { row, kind, scale }),
            // serde_json writes each as the shortest that parses to the same f32, and faster than anything else that was measured on
            // rows of 512 and 768.
            (EncodingFormat::Float, EmbeddingType::Float) => serializer.collect_seq(row),
            (EncodingFormat::Float, EmbeddingType::Float16) => {
                serializer.collect_seq(row.iter().map(|&value| f16::from_f32(value).to_f32()))
            }
            (EncodingFormat::Float, EmbeddingType::Int8) => {
                serializer.collect_seq(row.iter().map(|&value| quantized(value, scale)))
            }
            (EncodingFormat::Float, EmbeddingType::Uint8 | EmbeddingType::Ubinary) => serializer.collect_seq(bytes()),
            (EncodingFormat::Float, EmbeddingType::Binary) => {
                serializer.collect_seq(bytes().into_iter().map(|byte| i8::from_ne_bytes([byte])))
            }
        }
    }
}

/// A matrix whose rows are embeddings, or written like some.
#[derive(Debug)]
pub(in crate::http) struct Embeddings<'a> {
    pub(in crate::http) rows: ArrayView2<'a, f32>,
    pub(in crate::http) form: ScaledForm,
}

impl<'a> Embeddings<'a> {
    /// As arrays of f32.
    pub(in crate::http) fn floats(rows: ArrayView2<'a, f32>) -> Self {
        Self { rows, form: EmbeddingForm::FLOATS.scaled(UNIT_SCALE) }
    }
}

impl Serialize for Embeddings<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.rows.rows().into_iter().map(|row| Embedding { row, form: self.form }))
    }
}

/// Base64 of an embedding's bytes, written as it is encoded.
struct Base64<'a> {
    row: ArrayView1<'a, f32>,
    kind: EmbeddingType,
    scale: f32,
}

impl fmt::Display for Base64<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Three bytes are four characters, so only the last piece is padded; and eight values are a byte of bits.
        const VALUES: usize = 192;
        let (mut bytes, mut text) = (Vec::with_capacity(4 * VALUES), [0; 4 * VALUES / 3 * 4]);
        let mut values = self.row.iter();
        loop {
            bytes.clear();
            self.kind.write(values.by_ref().take(VALUES), self.scale, &mut bytes);
            if bytes.is_empty() {
                return Ok(());
            }
            let len = BASE64_STANDARD.encode_slice(&bytes, &mut text).map_err(|_| fmt::Error)?;
            f.write_str(std::str::from_utf8(&text[..len]).map_err(|_| fmt::Error)?)?;
        }
    }
}

#[cfg(test)]
mod tests {
    use ndarray::{Array2, array};
    use serde_json::json;

    use super::*;

    fn written(kind: EmbeddingType, format: EncodingFormat) -> serde_json::Value {
        let rows = array![[0.5, -0.5, 0.25, -0.25, 0.0, -0.1, 0.1, 0.3, 0.5]];
        serde_json::to_value(Embeddings { rows: rows.view(), form: EmbeddingForm { kind, format }.scaled(127.0) })
            .expect("JSON")[0]
            .take()
    }

    fn bytes(kind: EmbeddingType) -> Vec<u8> {
        let text = written(kind, EncodingFormat::Base64);
        BASE64_STANDARD.decode(text.as_str().expect("a string")).expect("base64")
    }

    #[test]
    fn every_type_as_numbers() {
        let numbers = |kind| written(kind, EncodingFormat::Float);
        assert_eq!(numbers(EmbeddingType::Float16)[5], json!(f64::from(f16::from_f32(-0.1).to_f32())));
        assert_eq!(numbers(EmbeddingType::Int8), json!([64, -64, 32, -32, 0, -13, 13, 38, 64]));
        assert_eq!(numbers(EmbeddingType::Uint8), json!([192, 64, 160, 96, 128, 115, 141, 166, 192]));
        assert_eq!(numbers(EmbeddingType::Ubinary), json!([0b1010_1011, 0b1000_0000]));
        assert_eq!(numbers(EmbeddingType::Binary), json!([0b1010_1011 - 128, 0]));
    }

    #[test]
    fn every_type_as_bytes() {
        let floats: Vec<u8> = [0.5f32, -0.5, 0.25, -0.25, 0.0, -0.1, 0.1, 0.3, 0.5].map(f32::to_le_bytes).concat();
        assert_eq!(bytes(EmbeddingType::Float), floats);
        assert_eq!(bytes(EmbeddingType::Float16)[..4], [0x00, 0x38, 0x00, 0xb8]);
        assert_eq!(bytes(EmbeddingType::Int8)[..2], [64, 192]);
        assert_eq!(bytes(EmbeddingType::Uint8)[..2], [192, 64]);
        assert_eq!(bytes(EmbeddingType::Ubinary), [0xab, 0x80]);
        assert_eq!(bytes(EmbeddingType::Binary), [0x2b, 0x00]);
        for kind in EmbeddingType::ALL {
            assert_eq!(bytes(kind).len(), kind.bytes(9), "{}", kind.name());
        }
    }

    #[test]
    fn long_embeddings_are_encoded_in_pieces_and_are_the_same() {
        let row = Array2::from_shape_fn((1, 1000), |(_, column)| (column as f32 * 0.7).sin() / 30.0);
        for kind in EmbeddingType::ALL {
            let mut whole = Vec::new();
            kind.write(row.iter(), 400.0, &mut whole);
            let text = Base64 { row: row.row(0), kind, scale: 400.0 }.to_string();
            assert_eq!(text, BASE64_STANDARD.encode(whole), "{}", kind.name());
        }
    }

    #[test]
    fn no_form_is_longer_than_its_bound() {
        for columns in [1, 8, 63, 64, 512] {
            let rows = Array2::from_shape_fn((3, columns), |(row, column)| ((row * columns + column) as f32).sin());
            for kind in EmbeddingType::ALL {
                for format in [EncodingFormat::Float, EncodingFormat::Base64] {
                    let form = EmbeddingForm { kind, format };
                    let json = serde_json::to_string(&Embeddings { rows: rows.view(), form: form.scaled(127.0) })
                        .expect("JSON");
                    let bound = form.add_to(Size::new(""), 3, columns).written();
                    assert!(json.len() <= bound, "{kind:?} {format:?} of {columns}: {} > {bound}", json.len());
                }
            }
        }
    }

    #[test]
    fn what_cannot_be_had_is_refused() {
        assert!(EmbeddingType::Ubinary.check(512, true).is_ok() && EmbeddingType::Int8.check(512, true).is_ok());
        assert!(EmbeddingType::Ubinary.check(60, true).is_err() && EmbeddingType::Int8.check(512, false).is_err());
    }
}
