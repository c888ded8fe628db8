//! Why a run ends before its last item.
//!
//! Owns the words. What is wrong with one item is no error of a run: it is the reason in that item's row.

use std::{io, path::Path};

use crate::embedder::{EmbedError, StartError};

/// Why a run did not come to its end, in one line for the operator. What is complete under `--out` stays.
#[derive(Debug, thiserror::Error)]
pub enum BulkError {
    /// The model does not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The model has no embeddings of what is asked for.
    #[error("the model has no {what} embeddings: {error}")]
    Model {
        /// `image` or `text`.
        what: &'static str,
        /// What it lacks.
        error: EmbedError,
    },
    /// A source that cannot be read as it is given.
    #[error("{0}")]
    Source(String),
    /// The sources are no longer those that the parts under `--out` were made of.
    #[error("{0}")]
    Changed(String),
    /// `--out` cannot be used.
    #[error("--out {0}")]
    Out(String),
    /// The report cannot be written.
    #[error("--report {0}")]
    Report(String),
    /// More items failed than may.
    #[error(
        "{errors} items could not be embedded, --max-errors is {limit}; errors.jsonl says why. Run the same command with a higher \
         limit to go on"
    )]
    TooManyErrors {
        /// How many.
        errors: u64,
        /// How many may.
        limit: u64,
    },
    /// The encoder fails whatever it is given.
    #[error("the model stopped answering: {0}")]
    Faulty(String),
    /// The system has no thread to give, or one ended by a panic, which the log has.
    #[error("{0}")]
    Thread(String),
}

impl BulkError {
    /// What the system said about a file of ours.
    pub(super) fn at(path: &Path, error: impl Into<io::Error>) -> Self {
        Self::Out(format!("{}: {}", path.display(), error.into()))
    }
}
