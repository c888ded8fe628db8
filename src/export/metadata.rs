//! What our graphs say about themselves, as `metadata_props`: the keys, and how their values are written.
//!
//! Owns the keys, and reading back what a loader asks a graph for. Numbers are written so that they read back the same; lists are JSON arrays. Invariant: a loader needs nothing
//! but the graph to know what to feed it and what its answers mean.

use std::{fs, io, path::Path};

use prost::Message;

use super::{EXPORTER_VERSION, normalization::PixelNormalization, proto::StringStringEntryProto};
pub use crate::model::PACKED;
use crate::{
    config::Precision,
    model::clip_config::{Projected, TextConfig, VisionConfig},
};

/// [`EXPORTER_VERSION`] of the build that wrote the graph; that a graph has this key says that it is ours.
pub const EXPORTER: &str = "clipserve.exporter_version";
/// `f32`, `f16`, `int8` or `int8-weights`.
pub const PRECISION: &str = "clipserve.precision";
/// The sha256 of the checkpoint's `model.safetensors`, in hexadecimal.
pub const SOURCE_SHA256: &str = "clipserve.source_sha256";
/// What similarities are multiplied by: `exp` of the checkpoint's `logit_scale`, usually 100. Absent where the checkpoint has
/// one tower only.
pub const LOGIT_SCALE: &str = "clipserve.logit_scale";
/// Length of an embedding.
pub const PROJECTION_DIM: &str = "clipserve.projection_dim";
/// Vision: side of the picture, pixels.
pub const IMAGE_SIZE: &str = "clipserve.image_size";
/// Vision: what the graph multiplies bytes by.
pub const RESCALE_FACTOR: &str = "clipserve.rescale_factor";
/// Vision: what the graph then subtracts, per channel.
pub const IMAGE_MEAN: &str = "clipserve.image_mean";
/// Vision: what the graph then divides by, per channel.
pub const IMAGE_STD: &str = "clipserve.image_std";
/// Text: the most ids that one text may have.
pub const CONTEXT_LENGTH: &str = "clipserve.context_length";
/// Text: ids are below this.
pub const VOCAB_SIZE: &str = "clipserve.vocab_size";

/// Keys and values.
pub(crate) type Entries = Vec<(String, String)>;

/// What both graphs of a model say.
pub(crate) struct Provenance<'a> {
    pub(crate) source_sha256: &'a str,
    pub(crate) precision: Precision,
    /// The checkpoint's parameter, a logarithm; `None` for the classes that have a single tower.
    pub(crate) logit_scale: Option<f32>,
}

impl Provenance<'_> {
    fn entries(&self, projection_dim: usize) -> Entries {
        let mut entries = vec![
            entry(EXPORTER, EXPORTER_VERSION),
            entry(PRECISION, self.precision.name()),
            entry(SOURCE_SHA256, self.source_sha256),
            entry(PROJECTION_DIM, projection_dim),
        ];
        entries.extend(self.logit_scale.map(|ln| entry(LOGIT_SCALE, ln.exp())));
        entries
    }
}

/// The vision graph's entries.
pub(crate) fn vision(
    provenance: &Provenance,
    config: &Projected<VisionConfig>,
    normalization: &PixelNormalization,
) -> Entries {
    let mut entries = provenance.entries(config.projection_dim);
    entries.extend([
        entry(IMAGE_SIZE, config.tower.image_size),
        entry(RESCALE_FACTOR, normalization.rescale_factor),
        entry(IMAGE_MEAN, format!("{:?}", normalization.mean)),
        entry(IMAGE_STD, format!("{:?}", normalization.std)),
    ]);
    entries
}

/// A text graph's entries.
pub(crate) fn text(provenance: &Provenance, config: &Projected<TextConfig>, packed: bool) -> Entries {
    let mut entries = provenance.entries(config.projection_dim);
    entries.extend([
        entry(CONTEXT_LENGTH, config.tower.max_position_embeddings),
        entry(VOCAB_SIZE, config.tower.vocab_size),
        entry(PACKED, packed),
    ]);
    entries
}

/// What a graph of ours says about itself that a loader cannot see from its inputs and outputs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GraphInfo {
    /// The precision it was exported in.
    pub precision: Precision,
    /// `exp(logit_scale)`, where the checkpoint has both towers.
    pub logit_scale: Option<f32>,
}

/// Our graphs keep their weights outside, so none comes near this, bytes; most graphs from elsewhere are larger.
const MAX_GRAPH_BYTES: u64 = 32 << 20;

/// `ModelProto` with nothing but its metadata; everything else is skipped.
#[derive(Clone, PartialEq, prost::Message)]
struct ModelMetadata {
    #[prost(message, repeated, tag = "14")]
    metadata_props: Vec<StringStringEntryProto>,
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
        Some(Self { precision, logit_scale: value(LOGIT_SCALE).and_then(|scale| scale.parse().ok()) })
    }
}

fn entry(key: &str, value: impl ToString) -> (String, String) {
    (key.to_owned(), value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(entries: &[(&str, &str)]) -> Option<GraphInfo> {
        let entry = |(key, value): &(&str, &str)| StringStringEntryProto { key: (*key).into(), value: (*value).into() };
        let model = ModelMetadata { metadata_props: entries.iter().map(entry).collect() };
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), model.encode_to_vec()).unwrap();
        GraphInfo::read(file.path()).unwrap()
    }

    #[test]
    fn a_graph_of_ours_says_its_precision_and_scale() {
        let ours = [(EXPORTER, "1"), (PRECISION, "int8"), (LOGIT_SCALE, "99.5")];
        let info = |logit_scale| Some(GraphInfo { precision: Precision::Int8, logit_scale });
        assert_eq!((read(&ours), read(&ours[..2])), (info(Some(99.5)), info(None)));
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
