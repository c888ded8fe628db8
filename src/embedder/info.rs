//! What is known of a loaded model.
//!
//! Owns no more than the answer. Does not own where each part of it comes from (`start`).

use crate::{
    encoder::{BatchSizes, OneByOne},
    model::{LogitScale, int8_scale, rules::Rules},
};

/// What runs: the answer of `GET /info` that does not come from the configuration.
#[derive(Clone, Debug)]
pub struct ModelInfo {
    /// The name that answers carry.
    pub name: String,
    /// Two models with the same fingerprint, precision and provider give the same embeddings.
    pub fingerprint: String,
    /// Whose rules its inputs are prepared by.
    pub rules: Towers<Rules>,
    /// The files of weights that its graphs were exported from, where they were there at the start.
    pub weights: Towers<String>,
    /// Length of an embedding; `None` for a model without any projection, which has other outputs only.
    pub dim: Option<usize>,
    /// Height and width of the crop that the vision encoder sees, where there is one.
    pub image_size: Option<(u32, u32)>,
    /// Longest sequence of token ids, where there is a text encoder.
    pub context_length: Option<usize>,
    /// `exp(logit_scale)`, and where it came from, where there are both.
    pub logit_scale: Option<LogitScale>,
    /// The scale of whole embeddings as `int8`.
    pub int8_scale: f32,
    /// The execution provider in use.
    pub provider: String,
    /// The precision in use.
    pub precision: String,
    /// ONNX Runtime's version.
    pub onnxruntime: String,
    /// How many items one run takes at most.
    pub batch_sizes: BatchSizes,
    /// What that is with this provider when the configuration and the graphs leave it open.
    pub automatic_batch_sizes: BatchSizes,
    /// Why a tower's inputs run one at a time, where they do.
    pub one_by_one: Towers<OneByOne>,
}

/// What each tower has, where it has it.
#[derive(Clone, Debug, PartialEq, Eq, schemars::JsonSchema, serde::Serialize)]
#[schemars(rename = "TowersOf{T}")]
pub struct Towers<T> {
    /// That of images.
    pub vision: Option<T>,
    /// That of texts.
    pub text: Option<T>,
}

impl ModelInfo {
    /// What embeddings that are cut to `columns` values are multiplied with to become `int8`: one number for all of them.
    pub fn int8_scale(&self, columns: usize) -> f32 {
        int8_scale::of_columns(self.int8_scale, self.dim.unwrap_or(columns), columns)
    }
}
