//! What an [`Embedder`](super::Embedder) is assembled from: encoders that are ready, and what prepares their inputs.
//!
//! Owns these values. Does not own how they are made (`start`) or what becomes of them (`lanes`).

use std::{sync::Arc, time::Duration};

use super::ModelInfo;
use crate::{
    encoder::OutputShape,
    engine::PixelsEncoder,
    model::Graphs,
    preprocess::{image::ImageProcessor, text::TextTokenizer},
};

/// The sessions of one encoder, and how to make another one in a worker.
pub struct Sessions<E> {
    /// One worker thread for each; at least one.
    pub encoders: Vec<E>,
    /// The first of them that have a session of their own; all others run that of the first.
    pub distinct: usize,
    /// Makes another.
    pub rebuild: Arc<dyn Fn() -> Result<E, String> + Send + Sync>,
    /// How long the runs so far took, with their work: what is known of their speed before the first request.
    pub runs: Vec<(u64, Duration)>,
}

/// What an [`Embedder`](super::Embedder) is assembled from; at least one of the two encoders.
pub struct Parts<V, T> {
    /// What runs.
    pub info: ModelInfo,
    /// For images.
    pub vision: Option<VisionParts<V>>,
    /// For texts.
    pub text: Option<TextParts<T>>,
}

/// What a tower can answer; at least one of both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abilities {
    /// Embeddings: it has a projection.
    pub embeds: bool,
    /// The other outputs of the reference classes, so large.
    pub outputs: Option<OutputShape>,
}

impl Abilities {
    pub(super) fn of(graphs: &Graphs, outputs: Option<OutputShape>) -> Self {
        Self { embeds: graphs.embedding().is_some(), outputs }
    }
}

/// What embeds images.
pub struct VisionParts<V> {
    /// What of them.
    pub abilities: Abilities,
    /// From bytes to crops.
    pub processor: ImageProcessor,
    /// Crops to `image_embeds`.
    pub sessions: Sessions<V>,
    /// `pixel_values` to `image_embeds`, where a graph can be had that takes them.
    pub pixels: Option<Sessions<PixelsEncoder>>,
}

/// What embeds texts.
pub struct TextParts<T> {
    /// What of them.
    pub abilities: Abilities,
    /// From text to ids.
    pub tokenizer: TextTokenizer,
    /// Ids to `text_embeds`.
    pub sessions: Sessions<T>,
}
