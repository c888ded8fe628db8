//! A sample with what became of it.
//!
//! Owns no more than the type. Invariant: an embedding is finite and of length 1, or is not there and `error` says why.

use super::{glimpse::Glimpse, sample::Chain};
use crate::embedder::Timings;

/// One row of the output.
#[derive(Clone, Debug)]
pub(super) struct Row {
    /// What it is known by.
    pub(super) id: String,
    /// Where the picture came from.
    pub(super) path: Option<String>,
    /// The text.
    pub(super) caption: Option<String>,
    /// What else its source has on it, as JSON.
    pub(super) metadata: Option<String>,
    /// The picture's embedding.
    pub(super) image: Option<Vec<f32>>,
    /// The text's embedding.
    pub(super) text: Option<Vec<f32>>,
    /// Why one that is asked for is not there.
    pub(super) error: Option<String>,
    /// Whether that is no fault of the sample.
    pub(super) faulty: bool,
    /// Of all samples up to this one.
    pub(super) chain: Chain,
    /// Where its time went.
    pub(super) timings: Timings,
    /// What a report shows of it, if it does.
    pub(super) glimpse: Option<Glimpse>,
}
