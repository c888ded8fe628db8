//! `GET /info`: what runs, and what it takes.

use schemars::JsonSchema;
use serde::Serialize;

use crate::{
    config::Config,
    embedder::{Embedder, Modality, Towers},
    encoder::OneByOne,
    model::{LogitScaleSource, rules::Rules},
};

// Another service's fields stand beside these (`dialects::tei`, which has the handler).
/// Our part of the answer.
#[derive(Serialize, JsonSchema)]
pub(in crate::http) struct Info<'a> {
    model: Model<'a>,
    provider: &'a str,
    precision: &'a str,
    limits: Limits,
    versions: Versions<'a>,
}

#[derive(Serialize, JsonSchema)]
struct Model<'a> {
    name: &'a str,
    fingerprint: &'a str,
    /// The library whose way of preparing inputs each tower's follow.
    preprocessing: &'a Towers<Rules>,
    /// The files that the graphs were made from, where they were made from a checkpoint that is there.
    weights: &'a Towers<String>,
    /// Those with an embedding.
    towers: Vec<&'static str>,
    /// Those whose other outputs can be asked for.
    outputs: Vec<&'static str>,
    dim: Option<usize>,
    image_size: Option<Size>,
    context_length: Option<usize>,
    logit_scale: Option<f32>,
    logit_scale_source: Option<LogitScaleSource>,
    /// Of whole embeddings; `None` where there are none.
    int8_scale: Option<f32>,
    /// Why the items of a tower run one at a time, whatever `batch.*.max_batch_size` says; `null` where they share runs.
    one_by_one: &'a Towers<OneByOne>,
}

#[derive(Serialize, JsonSchema)]
struct Size {
    height: u32,
    width: u32,
}

#[derive(Serialize, JsonSchema)]
struct Limits {
    max_body_bytes: usize,
    max_images: usize,
    max_texts: usize,
    max_pixels: u64,
    max_text_bytes: usize,
    max_output_bytes: usize,
    max_batch_size_image: usize,
    max_batch_size_text: usize,
}

#[derive(Serialize, JsonSchema)]
struct Versions<'a> {
    clipserve: &'a str,
    onnxruntime: &'a str,
}

impl<'a> Info<'a> {
    /// Model, provider really in use, limits, versions.
    pub(in crate::http) fn of(config: &Config, embedder: &'a Embedder) -> Self {
        let info = embedder.info();
        let limits = &config.limits;
        Self {
            model: Model {
                name: &info.name,
                fingerprint: &info.fingerprint,
                preprocessing: &info.rules,
                weights: &info.weights,
                towers: towers(&|modality| embedder.dim(modality).is_ok()),
                outputs: towers(&|modality| embedder.output_shape(modality).is_ok()),
                dim: info.dim,
                image_size: info.image_size.map(|(height, width)| Size { height, width }),
                context_length: info.context_length,
                logit_scale: info.logit_scale.map(|scale| scale.value),
                logit_scale_source: info.logit_scale.map(|scale| scale.source),
                int8_scale: info.dim.map(|dim| info.int8_scale(dim)),
                one_by_one: &info.one_by_one,
            },
            provider: &info.provider,
            precision: &info.precision,
            limits: Limits {
                max_body_bytes: limits.max_body_bytes,
                max_images: limits.max_images,
                max_texts: limits.max_texts,
                max_pixels: limits.max_pixels,
                max_text_bytes: limits.max_text_bytes,
                max_output_bytes: limits.max_output_bytes,
                max_batch_size_image: info.batch_sizes.images,
                max_batch_size_text: info.batch_sizes.texts,
            },
            versions: Versions { clipserve: env!("CARGO_PKG_VERSION"), onnxruntime: &info.onnxruntime },
        }
    }
}

/// The names of the towers that can do something.
fn towers(can: &dyn Fn(Modality) -> bool) -> Vec<&'static str> {
    let towers = [("vision", Modality::Image), ("text", Modality::Text)];
    towers.into_iter().filter(|(_, modality)| can(*modality)).map(|(name, _)| name).collect()
}
