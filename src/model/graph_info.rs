//! What a graph of our own export says about itself in its metadata, as far as the service asks.
//!
//! Owns the keys that are read back, and reading them off a file without running it. Does not own writing them (`export`). A graph
//! from elsewhere says nothing, and is served by what it declares.

use std::{fs, io, path::Path};

use prost::Message;

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

/// What a loader cannot see from a graph's inputs and outputs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GraphInfo {
    /// The precision it was exported in.
    pub precision: Precision,
    /// `exp(logit_scale)`, where the checkpoint has both towers.
    pub logit_scale: Option<f32>,
    /// [`PACKED`].
    pub packed: bool,
    /// [`ACTIVATION_GROUP`].
    pub activation_group: usize,
}

/// Our graphs keep their weights outside, so none comes near this, bytes; most graphs from elsewhere are larger.
const MAX_GRAPH_BYTES: u64 = 32 << 20;

/// `ModelProto` with nothing but its metadata; everything else is skipped.
#[derive(Clone, PartialEq, prost::Message)]
struct ModelMetadata {
    #[prost(message, repeated, tag = "14")]
    metadata_props: Vec<Entry>,
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
        Ok(ModelMetadata::decode(bytes.as_slice()).ok().and_then(|model| Self::of(&model)))
    }

    fn of(model: &ModelMetadata) -> Option<Self> {
        let value = |key| model.metadata_props.iter().find(|entry| entry.key == key).map(|entry| entry.value.as_str());
        value(EXPORTER)?;
        let precisions = [Precision::F32, Precision::F16, Precision::Int8, Precision::Int8Weights];
        let precision = precisions.into_iter().find(|&precision| value(PRECISION) == Some(precision.name()))?;
        Some(Self {
            precision,
            logit_scale: value(LOGIT_SCALE).and_then(|scale| scale.parse().ok()),
            packed: value(PACKED) == Some("true"),
            activation_group: value(ACTIVATION_GROUP).and_then(|group| group.parse().ok()).unwrap_or(LEAST_GROUP),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(entries: &[(&str, &str)]) -> Option<GraphInfo> {
        let entry = |(key, value): &(&str, &str)| Entry { key: (*key).into(), value: (*value).into() };
        let model = ModelMetadata { metadata_props: entries.iter().map(entry).collect() };
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), model.encode_to_vec()).unwrap();
        GraphInfo::read(file.path()).unwrap()
    }

    #[test]
    fn a_graph_of_ours_says_what_it_is() {
        let ours = [(EXPORTER, "1"), (PRECISION, "int8"), (LOGIT_SCALE, "99.5")];
        let info =
            GraphInfo { precision: Precision::Int8, logit_scale: None, packed: false, activation_group: LEAST_GROUP };
        assert_eq!(read(&ours), Some(GraphInfo { logit_scale: Some(99.5), ..info }));
        assert_eq!(read(&ours[..2]), Some(info));
        let text = [&ours[..2], &[(PACKED, "true"), (ACTIVATION_GROUP, "384")]].concat();
        assert_eq!(read(&text), Some(GraphInfo { packed: true, activation_group: 384, ..info }));
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
