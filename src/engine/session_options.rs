//! What a session is opened with, whatever the provider.
//!
//! Owns the values. What a provider makes of them, `provider` and `openvino` know.

use super::tensorrt::Profile;
use crate::model::graph_info::LEAST_GROUP;

/// What a session is opened with, whatever the provider.
pub(super) struct SessionOptions {
    pub intra_threads: usize,
    /// Of the graph: `GraphInfo::activation_group`.
    pub activation_group: usize,
    /// Whether what a run used is kept for the next one, as much as the largest batch has needed.
    pub keeps_memory: bool,
    /// Of the graph's inputs: [`RunningProvider::profile`].
    pub profile: Option<Profile>,
    /// Whether weights of signed bytes are rewritten as unsigned ones, whose products ONNX Runtime sums in 32 bits on every CPU. Without
    /// VNNI its products of unsigned and signed bytes saturate in 16: int8 embeddings are then 0.28 of their norm off (AVX2, ONNX
    /// Runtime 1.32). With VNNI they are exact, and this costs more than half of the speed and most of a start: it is left out there.
    /// Not every graph can be loaded so: one that shares a zero point between products cannot.
    pub exact_integers: bool,
}

impl SessionOptions {
    /// Of a session that is opened to see whether a provider starts.
    pub(super) const PROBE: Self = Self {
        intra_threads: 1,
        activation_group: LEAST_GROUP,
        keeps_memory: false,
        profile: None,
        exact_integers: false,
    };
}
