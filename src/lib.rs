//! clipserve: CLIP over HTTP, with the numbers of Hugging Face `transformers`, batched across requests, on ONNX Runtime.

pub mod cli;
pub mod config;
