//! What our graphs say about themselves, as `metadata_props`: the keys, and how their values are written.
//!
//! Owns the keys but those that the service reads back (`model::graph_info`). Numbers are written so that they read back the same; lists
//! are JSON arrays. Invariant: a loader needs nothing but the graph to know what to feed it and what its answers mean.

use super::{graph::Entries, int8, normalization::PixelNormalization, vision};
pub use crate::model::graph_info::{
    ACTIVATION_GROUP, CONTEXT_LENGTH, EXPORTER, LOGIT_SCALE, PACKED, PRECISION, RULES, VOCAB_SIZE,
};
use crate::{
    config::Precision,
    model::{
        clip_config::{Projected, TextConfig, TransformerConfig, VisionConfig},
        rules::Rules,
    },
};

/// The sha256 of the checkpoint's `model.safetensors`, in hexadecimal.
pub const SOURCE_SHA256: &str = "clipserve.source_sha256";
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

/// Changes whenever the same checkpoint gives another graph of `precision`: part of every cache key, and of the fingerprint, so it
/// stays where nothing changes.
pub fn exporter_version(precision: Precision) -> u32 {
    match precision {
        Precision::Int8 => 7,
        Precision::F32 | Precision::F16 | Precision::Int8Weights => 5,
    }
}

/// What both graphs of a model say.
pub(crate) struct Provenance<'a> {
    pub(crate) source_sha256: &'a str,
    pub(crate) precision: Precision,
    pub(crate) rules: Rules,
    /// The checkpoint's parameter, a logarithm; `None` for the classes that have a single tower.
    pub(crate) logit_scale: Option<f32>,
}

impl Provenance<'_> {
    /// Of a tower of `transformer`, with other layers whose inputs are of `others`.
    fn entries(&self, projection_dim: usize, transformer: &TransformerConfig, others: &[usize]) -> Entries {
        let mut entries = vec![
            entry(EXPORTER, exporter_version(self.precision)),
            entry(PRECISION, self.precision.name()),
            entry(SOURCE_SHA256, self.source_sha256),
            entry(PROJECTION_DIM, projection_dim),
        ];
        // Only then, so that a graph that was exported before there were others stays the same, and its fingerprint.
        entries.extend((self.rules != Rules::Transformers).then(|| entry(RULES, self.rules.name())));
        entries.extend(self.logit_scale.map(|ln| entry(LOGIT_SCALE, ln.exp())));
        if self.precision == Precision::Int8Weights {
            entries.push(entry(ACTIVATION_GROUP, int8::activation_group(transformer, others)));
        }
        entries
    }
}

/// The vision graph's entries.
pub(crate) fn vision(
    provenance: &Provenance,
    config: &Projected<VisionConfig>,
    normalization: &PixelNormalization,
) -> Entries {
    let patch = vision::bytes_per_patch(&config.tower);
    let mut entries = provenance.entries(config.projection_dim, &config.tower.transformer, &[patch]);
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
    let mut entries = provenance.entries(config.projection_dim, &config.tower.transformer, &[]);
    entries.extend([
        entry(CONTEXT_LENGTH, config.tower.max_position_embeddings),
        entry(VOCAB_SIZE, config.tower.vocab_size),
        entry(PACKED, packed),
    ]);
    entries
}

fn entry(key: &str, value: impl ToString) -> (String, String) {
    (key.to_owned(), value.to_string())
}
