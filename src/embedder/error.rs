//! Why a model cannot be served.
//!
//! Owns the error. Invariant: it is one line that names the file, the field or the thing.

use std::{io, path::PathBuf};

use crate::{
    engine::EngineError,
    export::ExportError,
    model::{ModelError, hub::HubError},
    preprocess::{image::UnsupportedPreprocessing, text::TokenizerError},
};

/// Why a model cannot be served, in one line for the operator.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its download.
    #[error(transparent)]
    Hub(#[from] HubError),
    /// Its directory.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// It is a checkpoint that cannot be exported.
    #[error("checkpoint {checkpoint}: {error}", checkpoint = .checkpoint.display())]
    Export {
        /// Its directory.
        checkpoint: PathBuf,
        /// What is wrong with it, or with the cache.
        error: ExportError,
    },
    /// It is a checkpoint, and there is nowhere to keep its graphs.
    #[error(
        "the model is a checkpoint, and there is no folder for its graphs: give --cache-dir DIR (model.cache_dir), or set HOME"
    )]
    NoCacheDir,
    /// It has no tower at all.
    #[error("the model has neither a vision nor a text encoder")]
    NoEncoder,
    /// Its preprocessing.
    #[error("preprocessor_config.json: {0}")]
    Preprocessing(#[from] UnsupportedPreprocessing),
    /// Its tokenizer.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// ONNX Runtime, the provider, or a graph.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// It loads, but what it answers cannot be right.
    #[error("the model failed its canary: {0}")]
    Canary(String),
    /// No threads.
    #[error("a worker thread could not be started: {0}")]
    Threads(#[from] io::Error),
}
