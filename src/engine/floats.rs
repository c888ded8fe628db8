//! A vision graph that is fed `pixel_values`: the floats that `CLIPModel.forward` takes, in place of crops.
//!
//! Owns making a graph of floats out of one of our own, which takes bytes and has the normalisation in its patch weights, and how a batch
//! of floats becomes the tensor that the graph wants.
//!
//! Our graph is affine in what it is fed: `w s (u - z) + (w (s z + t) + ..)` for a byte `u` that stands for the pixel `s u + t`. Nothing in
//! that wants `u` to be whole. So the same graph with its input declared as `f32` takes any pixel `v` as `u = (v - t) / s`, which is
//! computed in f64 here and rounded once: its error is that of `v` itself. Only a graph of 8-bit integer products (`int8`) cannot
//! have it. A graph from elsewhere takes `pixel_values` as they are.

use std::{io, ops::Range, path::Path};

use half::f16;
use ort::{
    session::{Session, SessionInputValue},
    value::{TensorElementType, TensorRef},
};
use prost::encoding::{WireType, decode_key, decode_varint};

use super::{
    graph::{self, NamedInput},
    late::LateEncoder,
    tower::TowerInput,
    vision::Normalization,
};
use crate::{encoder::PixelValues, model::graph_info::GraphInfo};

/// How a graph is fed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Feed {
    /// As it says.
    AsIs,
    /// Floats, also where it is ours and says bytes.
    Floats,
}

/// The batch as the graph wants it; the buffer is kept between runs.
enum Form {
    /// Of our own graph: height, width, channel, and of each channel `(1 / s, -t / s)`.
    Own(Vec<f32>, [(f64, f64); 3]),
    F32(Vec<f32>),
    F16(Vec<f16>),
}

/// What a vision graph of floats is fed.
pub struct FloatInput {
    name: String,
    form: Form,
}

/// A vision graph of floats, opened by its first batch.
pub type PixelsEncoder = LateEncoder<FloatInput>;

impl FloatInput {
    /// Reads from the inputs of a session which tensor it wants.
    pub(super) fn of(
        session: &Session,
        info: Option<&GraphInfo>,
        normalization: &Normalization,
    ) -> Result<Self, String> {
        let inputs = graph::inputs(session);
        let [input] = inputs.as_slice() else {
            return Err(format!("it has the inputs ({}), expected one image input", graph::describe(&inputs)));
        };
        let form = match (input.element, info) {
            (TensorElementType::Float32, Some(_)) => Form::Own(Vec::new(), normalization.inverse()),
            (TensorElementType::Float32, None) => Form::F32(Vec::new()),
            (TensorElementType::Float16, None) => Form::F16(Vec::new()),
            _ => return Err(format!("its input is {}, which takes no floats", graph::describe(&inputs))),
        };
        Ok(Self { name: input.name.clone(), form })
    }
}

impl TowerInput for FloatInput {
    type Item = PixelValues;

    fn tensors<'a>(&'a mut self, items: &'a [PixelValues]) -> ort::Result<Vec<NamedInput<'a>>> {
        let (height, width) = items.first().map_or((0, 0), |first| (first.height(), first.width()));
        let nchw = [items.len(), 3, height, width];
        let tensor: SessionInputValue<'_> = match &mut self.form {
            Form::Own(buffer, inverse) => {
                buffer.clear();
                items.iter().for_each(|item| interleave(buffer, item, inverse));
                TensorRef::from_array_view(([items.len(), height, width, 3], buffer.as_slice()))?.into()
            }
            Form::F32(buffer) => {
                buffer.clear();
                items.iter().for_each(|item| buffer.extend_from_slice(item.values()));
                TensorRef::from_array_view((nchw, buffer.as_slice()))?.into()
            }
            Form::F16(buffer) => {
                buffer.clear();
                items.iter().for_each(|item| buffer.extend(item.values().iter().copied().map(f16::from_f32)));
                TensorRef::from_array_view((nchw, buffer.as_slice()))?.into()
            }
        };
        Ok(vec![(self.name.as_str().into(), tensor)])
    }

    fn positions(_item: &PixelValues) -> Option<usize> {
        None
    }
}

/// Appends the channels of `item` pixel by pixel, as bytes would stand there.
fn interleave(buffer: &mut Vec<f32>, item: &PixelValues, inverse: &[(f64, f64); 3]) {
    let plane = item.height() * item.width();
    let values = item.values();
    buffer.extend((0..plane * 3).map(|at| {
        let (pixel, channel) = (at / 3, at % 3);
        let (scale, shift) = inverse[channel];
        f64::from(values[channel * plane + pixel]).mul_add(scale, shift) as f32
    }));
}

/// `TensorProto.DataType`.
const FLOAT: u8 = 1;
const UINT8: u8 = 2;

/// The graph of ours at `path` with its input of bytes declared as one of floats.
///
/// # Errors
/// When the file cannot be read, or is no such graph.
pub(super) fn with_floats(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = std::fs::read(path)?;
    let at =
        element_type(&bytes).ok_or_else(|| io::Error::other("its input is not declared as our own graphs have it"))?;
    bytes[at] = FLOAT;
    Ok(bytes)
}

/// Where the element type of the only input stands: `ModelProto.graph` (7), `GraphProto.input` (11), `ValueInfoProto.type` (2),
/// `TypeProto.tensor_type` (1), `Tensor.elem_type` (1).
fn element_type(bytes: &[u8]) -> Option<usize> {
    let mut range = 0..bytes.len();
    for number in [7, 11, 2, 1] {
        range = only(bytes, range, number, WireType::LengthDelimited)?;
    }
    let at = only(bytes, range, 1, WireType::Varint)?;
    (bytes[at.clone()] == [UINT8]).then_some(at.start)
}

/// The payload of the only field `number` of the message in `range`.
fn only(bytes: &[u8], range: Range<usize>, number: u32, wire: WireType) -> Option<Range<usize>> {
    let mut found = None;
    let mut rest = bytes.get(range.clone())?;
    while !rest.is_empty() {
        let (field, kind) = decode_key(&mut rest).ok()?;
        let length = match kind {
            WireType::Varint => {
                let mut after = rest;
                decode_varint(&mut after).ok()?;
                rest.len() - after.len()
            }
            WireType::LengthDelimited => usize::try_from(decode_varint(&mut rest).ok()?).ok()?,
            WireType::SixtyFourBit => 8,
            WireType::ThirtyTwoBit => 4,
            WireType::StartGroup | WireType::EndGroup => return None,
        };
        let start = range.end - rest.len();
        rest = rest.get(length..)?;
        if field == number && (kind != wire || found.replace(start..start + length).is_some()) {
            return None;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_stand_where_bytes_would_and_mean_the_same() {
        let clip = Normalization {
            rescale_factor: Some(1.0 / 255.0),
            mean_std: Some(([0.48145466, 0.4578275, 0.40821073], [0.268_629_54, 0.261_302_6, 0.275_777_1])),
        };
        // The values that numpy gives for the bytes 0, 255, 128 of the three channels, and in the second pixel a value of no byte.
        let values = vec![-1.792_262_6, 0.0, 2.074_883_7, 0.5, 0.339_948_77, -10.0];
        let item = PixelValues::new(1, 2, values.into(), 0);
        let mut buffer = Vec::new();
        interleave(&mut buffer, &item, &clip.inverse());
        let expected = [
            0.0,
            255.0,
            128.0,
            0.48145466 * 255.0,
            (0.5 * 0.261_302_6 + 0.4578275) * 255.0,
            (0.40821073 - 2.757_771) * 255.0,
        ];
        for (actual, expected) in buffer.iter().zip(expected) {
            assert!((actual - expected).abs() < 1e-4, "{actual} {expected}");
        }
    }

    #[test]
    fn the_element_type_of_the_only_input_is_found() {
        let field = |number: u8, payload: &[u8]| [&[number << 3 | 2, payload.len() as u8], payload].concat();
        let input = |element: u8| field(11, &[field(1, b"x"), field(2, &field(1, &[1 << 3, element]))].concat());
        let model = |graph: &[u8]| [vec![1 << 3, 9], field(7, graph), field(14, b"metadata")].concat();
        let bytes = model(&[field(1, b"a node"), input(UINT8)].concat());
        let at = element_type(&bytes).expect("one input");
        assert_eq!(bytes[at], UINT8);
        for other in [input(FLOAT), [input(UINT8), input(UINT8)].concat(), field(1, b"a node")] {
            assert_eq!(element_type(&model(&other)), None);
        }
        assert_eq!(element_type(&bytes[..bytes.len() - 3]), None, "cut short");
    }
}
