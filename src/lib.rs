//! clipserve: CLIP over HTTP, with the numbers of Hugging Face `transformers`, batched across requests, on ONNX Runtime.

pub mod batch;
pub mod cli;
pub mod config;
pub mod encoder;
pub mod engine;
pub mod export;
pub mod health;
pub mod model;
pub mod preprocess;
pub mod telemetry;
