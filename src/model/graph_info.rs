//! What a graph of our own export says about itself in its metadata, as far as the service asks.
//!
//! Owns the keys that are read back, and reading them and the inputs off a file without running it. Does not own writing them (`export`). A graph
//! from elsewhere says nothing, and is served by what it declares.

use std::{fs, io, path::Path};

use prost::Message;

use super::rules::Rules;
use crate::config::Precision;

/// The version of the exporter that wrote the graph; that a graph has this key says that it is ours.
pub const EXPORTER: &str = "clipserve.exporter_version";
/// `f32`, `f16`, `int8` or `int8-weights`.
pub const PRECISION: &str = "clipserve.precision";
/// What similarities are multiplied by: `exp` of the checkpoint's `logit_scale`, usually 100. Absent where the checkpoint has
/// one tower only.
pub const LOGIT_SCALE: &str = "clipserve.logit_scale";
/// Text: `true` where the blocks compute nothing for padding, so that texts of any lengths may share a run.
pub const PACKED: &str = "clipserve.packed";
/// `int8-weights`: how many values of a row are to be quantised with one scale. It divides the inputs of every layer.
pub const ACTIVATION_GROUP: &str = "clipserve.activation_group";

/// The least [`ACTIVATION_GROUP`], and that of a graph that does not say: it divides the layers of every CLIP that we know.
pub const LEAST_GROUP: usize = 128;

/// Text: the most ids that one text may have.
pub const CONTEXT_LENGTH: &str = "clipserve.context_length";
/// Text: ids are below this, the rows of the token embedding.
pub const VOCAB_SIZE: &str = "clipserve.vocab_size";

/// Whose rules prepare its inputs, by [`Rules::name`]; `transformers` where it does not say.
pub const RULES: &str = "clipserve.rules";

/// What a loader wants to know before there is a session.
#[derive(Clone, Debug, PartialEq)]
pub struct GraphInfo {
    /// The precision it was exported in.
    pub precision: Precision,
    /// [`RULES`].
    pub rules: Rules,
    /// `exp(logit_scale)`, where the checkpoint has both towers.
    pub logit_scale: Option<f32>,
    /// [`PACKED`].
    pub packed: bool,
    /// [`ACTIVATION_GROUP`].
    pub activation_group: usize,
    /// [`CONTEXT_LENGTH`], of a text graph.
    pub context_length: Option<usize>,
    /// [`VOCAB_SIZE`], of a text graph.
    pub vocab_size: Option<usize>,
    /// What it is fed.
    pub inputs: Vec<GraphInput>,
}

/// One input as a graph declares it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GraphInput {
    /// Its name.
    pub name: String,
    /// Its shape.
    pub dimensions: Vec<Dimension>,
}

/// One dimension of an input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dimension {
    /// Always of this size.
    Fixed(usize),
    /// Of any size, by its name: `batch` or `sequence`.
    Named(String),
}

/// Our graphs keep their weights outside, so none comes near this, bytes; most graphs from elsewhere are larger.
const MAX_GRAPH_BYTES: u64 = 32 << 20;

/// `ModelProto` with nothing but its inputs and metadata; everything else is skipped.
#[derive(Clone, PartialEq, prost::Message)]
struct Model {
    #[prost(message, optional, tag = "7")]
    graph: Option<Graph>,
    #[prost(message, repeated, tag = "14")]
    metadata_props: Vec<Entry>,
}

/// `GraphProto`.
#[derive(Clone, PartialEq, prost::Message)]
struct Graph {
    #[prost(message, repeated, tag = "11")]
    input: Vec<ValueInfo>,
}

/// `ValueInfoProto`.
#[derive(Clone, PartialEq, prost::Message)]
struct ValueInfo {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    r#type: Option<Type>,
}

/// `TypeProto`, of a tensor.
#[derive(Clone, PartialEq, prost::Message)]
struct Type {
    #[prost(message, optional, tag = "1")]
    tensor_type: Option<Tensor>,
}

/// `TypeProto.Tensor`.
#[derive(Clone, PartialEq, prost::Message)]
struct Tensor {
    #[prost(message, optional, tag = "2")]
    shape: Option<Shape>,
}

/// `TensorShapeProto`.
#[derive(Clone, PartialEq, prost::Message)]
struct Shape {
    #[prost(message, repeated, tag = "1")]
    dim: Vec<Dim>,
}

/// `TensorShapeProto.Dimension`, of which one is there.
#[derive(Clone, PartialEq, prost::Message)]
struct Dim {
    #[prost(int64, optional, tag = "1")]
    dim_value: Option<i64>,
    #[prost(string, tag = "2")]
    dim_param: String,
}

/// `StringStringEntryProto`.
#[derive(Clone, PartialEq, prost::Message)]
struct Entry {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(string, tag = "2")]
    value: String,
}

impl GraphInfo {
    /// Reads it from a graph's file; `None` for a graph that is not ours (or no graph: the runtime will say what is wrong).
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn read(graph: &Path) -> io::Result<Option<Self>> {
        if fs::metadata(graph)?.len() > MAX_GRAPH_BYTES {
            return Ok(None);
        }
        let bytes = fs::read(graph)?;
        Ok(Model::decode(bytes.as_slice()).ok().and_then(|model| Self::of(&model)))
    }

    fn of(model: &Model) -> Option<Self> {
        let value = |key| model.metadata_props.iter().find(|entry| entry.key == key).map(|entry| entry.value.as_str());
        value(EXPORTER)?;
        let precisions = [Precision::F32, Precision::F16, Precision::Int8, Precision::Int8Weights];
        let precision = precisions.into_iter().find(|&precision| value(PRECISION) == Some(precision.name()))?;
        Some(Self {
            precision,
            rules: value(RULES).map_or(Some(Rules::Transformers), Rules::named)?,
            logit_scale: value(LOGIT_SCALE).and_then(|scale| scale.parse().ok()),
            packed: value(PACKED) == Some("true"),
            activation_group: value(ACTIVATION_GROUP).and_then(|group| group.parse().ok()).unwrap_or(LEAST_GROUP),
            context_length: value(CONTEXT_LENGTH).and_then(|length| length.parse().ok()),
            vocab_size: value(VOCAB_SIZE).and_then(|size| size.parse().ok()),
            inputs: model.graph.iter().flat_map(|graph| &graph.input).map(GraphInput::of).collect(),
        })
    }
}

impl GraphInput {
    fn of(info: &ValueInfo) -> Self {
        let shape = info.r#type.as_ref().and_then(|r#type| r#type.tensor_type.as_ref()?.shape.as_ref());
        let dimension = |dim: &Dim| match dim.dim_value.and_then(|size| usize::try_from(size).ok()) {
            Some(size) => Dimension::Fixed(size),
            None => Dimension::Named(dim.dim_param.clone()),
        };
        let dimensions = shape.iter().flat_map(|shape| &shape.dim).map(dimension).collect();
        Self { name: info.name.clone(), dimensions }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(entries: &[(&str, &str)]) -> Option<GraphInfo> {
        let entry = |(key, value): &(&str, &str)| Entry { key: (*key).into(), value: (*value).into() };
        let model = Model { graph: None, metadata_props: entries.iter().map(entry).collect() };
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), model.encode_to_vec()).unwrap();
        GraphInfo::read(file.path()).unwrap()
    }

    #[test]
    fn a_graph_of_ours_says_what_it_is() {
        let ours = [(EXPORTER, "1"), (PRECISION, "int8"), (LOGIT_SCALE, "99.5")];
        let info = GraphInfo {
            precision: Precision::Int8,
            rules: Rules::Transformers,
            logit_scale: None,
            packed: false,
            activation_group: LEAST_GROUP,
            context_length: None,
            vocab_size: None,
            inputs: Vec::new(),
        };
        assert_eq!(read(&ours), Some(GraphInfo { logit_scale: Some(99.5), ..info.clone() }));
        assert_eq!(read(&ours[..2]), Some(info.clone()));
        let of_open_clip = [&ours[..2], &[(RULES, "open_clip")]].concat();
        assert_eq!(read(&of_open_clip), Some(GraphInfo { rules: Rules::OpenClip, ..info.clone() }));
        assert_eq!(read(&[&ours[..2], &[(RULES, "mine")]].concat()), None);
        let more = [(PACKED, "true"), (ACTIVATION_GROUP, "384"), (CONTEXT_LENGTH, "77"), (VOCAB_SIZE, "49408")];
        let text = [&ours[..2], &more].concat();
        let (context_length, vocab_size) = (Some(77), Some(49408));
        let expected = GraphInfo { packed: true, activation_group: 384, context_length, vocab_size, ..info };
        assert_eq!(read(&text), Some(expected));
    }

    #[test]
    fn what_is_not_ours_or_not_a_graph_is_none_and_no_file_is_an_error() {
        assert_eq!(read(&[]), None);
        assert_eq!(read(&[(PRECISION, "f32"), (LOGIT_SCALE, "1")]), None);
        assert_eq!(read(&[(EXPORTER, "1"), (PRECISION, "f8")]), None);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.onnx");
        assert!(GraphInfo::read(&path).is_err());
        fs::write(&path, [0xff; 100]).unwrap();
        assert_eq!(GraphInfo::read(&path).unwrap(), None);
    }
}
