//! Why the engine cannot start.
//!
//! Owns the error. Invariant: it is one line that names the provider, the precision or the file.

use std::path::PathBuf;

/// Why the engine cannot start, in one line for the operator.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// No library anywhere.
    #[error("the ONNX Runtime library was not found (looked for libonnxruntime.so* in {}); set engine.library or ORT_DYLIB_PATH", .searched.join(", "))]
    LibraryNotFound {
        /// Where it was looked for.
        searched: Vec<String>,
    },
    /// There is a file, but it is not a library that can be used.
    #[error("ONNX Runtime library {path}: {reason}", path = .path.display())]
    Library {
        /// The file.
        path: PathBuf,
        /// Missing, not a library, or too old.
        reason: String,
    },
    /// An explicit provider that does not start.
    #[error("engine.provider = \"{provider}\" cannot start: {reason}")]
    Provider {
        /// The provider's name.
        provider: &'static str,
        /// What ONNX Runtime said.
        reason: String,
    },
    /// An explicit precision that this machine does not have.
    #[error("engine.precision = \"{precision}\" cannot be had: {reason}")]
    Precision {
        /// The precision's name.
        precision: &'static str,
        /// Why.
        reason: String,
    },
    /// A graph file that is missing, corrupt, or cannot be run.
    #[error("{encoder} encoder {path}: {reason}", path = .path.display())]
    Graph {
        /// `vision` or `text`.
        encoder: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}
