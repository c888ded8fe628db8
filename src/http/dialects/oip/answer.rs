//! The answer of an inference: tensors in JSON, or behind it.
//!
//! Owns how they are written. Does not own their values (`infer`), nor how large they may become (`output`, `answer` of `http`).

use axum::response::Response;
use http::HeaderValue;
use ndarray::ArrayViewD;
use schemars::JsonSchema;
use serde::{Serialize, Serializer};

use super::{output::Name, request::HEADER_LENGTH, route::VERSION};
use crate::{
    embedder::Timings,
    http::{ApiError, answer::Room, connection::held::Held, reply::Written},
};

/// The values of an output.
#[derive(Debug)]
pub(super) enum Values<'a> {
    Floats(ArrayViewD<'a, f32>),
    Integers(ArrayViewD<'a, i64>),
}

impl Values<'_> {
    fn shape(&self) -> &[usize] {
        match self {
            Self::Floats(values) => values.shape(),
            Self::Integers(values) => values.shape(),
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Floats(values) => values.len() * size_of::<f32>(),
            Self::Integers(values) => values.len() * size_of::<i64>(),
        }
    }

    /// Little-endian, in the order of the axes.
    fn write(&self, buffer: &mut Vec<u8>) {
        match self {
            Self::Floats(values) => values.iter().for_each(|value| buffer.extend_from_slice(&value.to_le_bytes())),
            Self::Integers(values) => values.iter().for_each(|value| buffer.extend_from_slice(&value.to_le_bytes())),
        }
    }
}

impl Serialize for Values<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            // A slice is written in fewer steps than an array of any number of axes.
            Self::Floats(values) => match values.as_slice() {
                Some(values) => serializer.collect_seq(values),
                None => serializer.collect_seq(values),
            },
            Self::Integers(values) => serializer.collect_seq(values),
        }
    }
}

/// One output, to be written.
#[derive(Debug)]
pub(super) struct Tensor<'a> {
    pub(super) output: Name,
    /// As the request calls it: its client looks for that name.
    pub(super) name: &'a str,
    pub(super) values: Values<'a>,
    /// Whether behind the JSON.
    pub(super) binary: bool,
}

#[derive(Serialize, JsonSchema)]
#[schemars(inline)]
struct Wire<'s, 'v> {
    name: &'s str,
    datatype: &'static str,
    shape: &'s [usize],
    #[serde(skip_serializing_if = "Option::is_none")]
    parameters: Option<Parameters>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Vec<f32>>")]
    data: Option<&'s Values<'v>>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(inline)]
struct Parameters {
    binary_data_size: usize,
}

impl Serialize for Tensor<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Wire {
            name: self.name,
            datatype: self.output.datatype(),
            shape: self.values.shape(),
            parameters: self.binary.then(|| Parameters { binary_data_size: self.values.bytes() }),
            data: (!self.binary).then_some(&self.values),
        }
        .serialize(serializer)
    }
}

/// The answer, but for what stands behind it.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "OipResponse")]
pub(super) struct Answer<'a, 'v> {
    model_name: &'a str,
    model_version: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    #[schemars(with = "Vec<Wire<'static, 'static>>")]
    outputs: &'a [Tensor<'v>],
}

/// An answer, written.
pub(super) struct WrittenAnswer {
    written: Written,
    /// Bytes of the JSON, where there are others behind it.
    header: Option<usize>,
}

impl<'a, 'v> Answer<'a, 'v> {
    /// Of these outputs of `model_name` to the request `id`.
    pub(super) fn new(model_name: &'a str, id: Option<&'a str>, outputs: &'a [Tensor<'v>]) -> Self {
        Self { model_name, model_version: VERSION, id, outputs }
    }

    /// Writes it into `buffer`.
    ///
    /// # Errors
    /// 500 when it cannot be written, which does not happen in memory.
    pub(super) fn write(&self, mut buffer: Vec<u8>) -> Result<WrittenAnswer, ApiError> {
        if !self.outputs.iter().any(|output| output.binary) {
            return Ok(WrittenAnswer { written: Written::json(buffer, self)?, header: None });
        }
        serde_json::to_writer(&mut buffer, self).map_err(|error| ApiError::internal(error.to_string()))?;
        let header = buffer.len();
        self.outputs.iter().filter(|output| output.binary).for_each(|output| output.values.write(&mut buffer));
        Ok(WrittenAnswer { written: Written::bytes(buffer), header: Some(header) })
    }
}

impl WrittenAnswer {
    /// As [`Written::answer`], with the header that says where the JSON ends.
    pub(super) fn answer(self, room: Room, held: &Held, timings: Timings) -> Response {
        let mut response = self.written.answer(room, held, timings);
        if let Some(header) = self.header {
            response.headers_mut().insert(HEADER_LENGTH, HeaderValue::from(header));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use ndarray::{ArrayD, IxDyn};

    use super::*;
    use crate::{embedder::Modality, encoder::Output, http::answer::Size};

    /// The longest name, the longest numbers.
    #[test]
    fn no_answer_is_longer_than_its_bound() {
        let floats = ArrayD::from_elem(IxDyn(&[3, 2, 4, 5, 5]), -0.000_001_000_000_1f32);
        let integers = ArrayD::from_elem(IxDyn(&[2, 7]), 1i64);
        let output = Name::State(Modality::Image, Output::LastHiddenState);
        let name = output.to_string();
        for binary in [false, true] {
            let tensors = [
                Tensor { output, name: &name, values: Values::Floats(floats.view()), binary },
                Tensor {
                    output: Name::AttentionMask,
                    name: "attention_mask",
                    values: Values::Integers(integers.view()),
                    binary,
                },
            ];
            let written = Answer::new("model", None, &tensors).write(Vec::new()).expect("in memory");
            let size = tensors.iter().fold(Size::new("model"), |size, tensor| {
                tensor.output.add_to(size, tensor.values.shape(), tensor.binary)
            });
            assert!(written.written.len() <= size.written(), "{} > {}", written.written.len(), size.written());
            let (json, behind) = written.split();
            assert!(json.starts_with(br#"{"model_name":"model","model_version":"1","outputs":[{"name":"vision_"#));
            assert_eq!(behind.len(), if binary { 600 * 4 + 14 * 8 } else { 0 });
        }
    }

    impl WrittenAnswer {
        fn split(self) -> (Vec<u8>, Vec<u8>) {
            let mut json = self.written.into_bytes();
            let behind = json.split_off(self.header.unwrap_or(json.len()));
            (json, behind)
        }
    }
}
