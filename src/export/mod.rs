//! A checkpoint of `transformers`, of open_clip or of OpenAI to the ONNX graphs we serve, without Python.
//!
//! Owns the graphs: what CLIP computes, written as ONNX nodes and driven by every field of the configuration that changes the
//! arithmetic. Does not own running them, and never names the runtime's API. What comes out is a model folder:
//!
//! ```text
//! config.json                 as it was; of open_clip's and OpenAI's checkpoints, what `transformers` would say of them
//! processor and tokenizer files, open_clip_config.json        as they were
//! onnx/vision_model.onnx      pixel_values u8 [batch, side, side, channels] -> image_embeds [batch, projection]
//! onnx/vision_outputs.onnx    the same -> image_embeds and every output of `outputs`
//! onnx/vision_model.onnx_data the weights of both
//! onnx/text_model.onnx        input_ids i64 [batch, sequence] -> text_embeds [batch, projection]
//! onnx/text_outputs.onnx      input_ids, attention_mask -> text_embeds and every output of `outputs`
//! onnx/text_model.onnx_data   the weights of both
//! onnx/checksums.json         what all files in onnx/ are: see `model::checksums`
//! ```
//!
//! A checkpoint without a tower has no files of that tower; one without a projection has only the `_outputs` graph, without the
//! embedding. Embeddings are not normalised: that is the caller's option. Outputs are f32 in every precision. The weights are
//! external data, so that they are neither copied on the way (one tensor at a time is in memory) nor bounded by protobuf's
//! 2 GB, and the runtime maps them. A graph in int8 has operators of our own, and brings them along as functions of standard
//! ones (`functions`, `crate::model::row_operators`). Each graph says what it is in its metadata: see [`metadata`].

mod activation;
mod cache;
mod checkpoint;
mod claim;
mod encoder;
mod error;
mod folder;
mod functions;
mod graph;
mod int8;
mod linear;
pub mod metadata;
mod model;
mod normalization;
mod outputs;
mod proto;
mod rows;
mod synthetic;
mod text;
mod vision;
mod weights;

pub use self::{
    cache::export_cached,
    checkpoint::Checkpoint,
    error::ExportError,
    folder::ExportedModel,
    metadata::exporter_version,
    model::{export_checkpoint, write_synthetic_model},
    normalization::PixelNormalization,
    synthetic::SyntheticWeights,
    weights::{Half, WeightSource},
};
