//! What an [`Embedder`](super::Embedder) is assembled from: encoders that are ready, and what prepares their inputs.
//!
//! Owns these values. Does not own how they are made (`start`) or what becomes of them (`lanes`).

use std::time::Duration;

use super::ModelInfo;
use crate::{
    encoder::{OutputShape, Role, Runner},
    engine::PixelsEncoder,
    model::Graphs,
    preprocess::{image::ImageProcessor, text::TextTokenizer},
};

/// The runs of one encoder that go on at the same time.
pub struct Sessions<E> {
    /// One worker thread for each; at least one with a session of its own.
    pub runners: Vec<Runner<E>>,
    /// How long the runs so far took, with their work: what is known of their speed before the first request.
    pub runs: Vec<(u64, Duration)>,
}

impl<E> Sessions<E> {
    /// Of these, none of which has run yet.
    pub fn new(runners: Vec<Runner<E>>) -> Self {
        Self { runners, runs: Vec::new() }
    }

    /// The first of them.
    pub(super) fn first(&self) -> Option<&E> {
        self.runners.first().map(|runner| &runner.encoder)
    }

    /// How many do not take their threads from another one; at least 1.
    pub(super) fn independent(&self) -> usize {
        self.runners.iter().filter(|runner| runner.role != Role::Beside).count().max(1)
    }

    /// How many share the threads of one session.
    pub(super) fn beside(&self) -> usize {
        self.runners.len().div_ceil(self.independent())
    }
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
