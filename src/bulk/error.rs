//! Why a run ends before its last item.
//!
//! Owns the words. What is wrong with one item is no error of a run: it is the reason in that item's row.

use std::{
    io,
    path::{Path, PathBuf},
};

use crate::embedder::{EmbedError, StartError};

/// Why a run did not come to its end, in one line for the operator. What is complete under `--out` stays.
#[derive(Debug, thiserror::Error)]
pub enum BulkError {
    /// The model does not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The model has no embeddings of what is asked for.
    #[error("{0}; give another model, or another --modality")]
    Model(EmbedError),
    /// What is asked for cannot be: a source, `--out` or `--report` as they are given. Nothing was done.
    #[error("{0}")]
    Usage(String),
    /// The run was told to stop.
    #[error("stopped: {rows}{} rows are complete; the same command goes on", of(*.total))]
    Stopped {
        /// The signal.
        signal: i32,
        /// Complete rows.
        rows: u64,
        /// How many there will be, where that is known.
        total: Option<u64>,
    },
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
        "{} could not be embedded, --max-errors is {limit}; {} says why. Run the same command with a higher limit to go on",
        counted(*.errors, "item"),
        .file.display()
    )]
    TooManyErrors {
        /// How many.
        errors: u64,
        /// How many may.
        limit: u64,
        /// Where they are.
        file: PathBuf,
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

    /// The signal that ended the run, if one did.
    pub fn signal(&self) -> Option<i32> {
        match self {
            Self::Stopped { signal, .. } => Some(*signal),
            _ => None,
        }
    }

    /// `--out` cannot be what it is.
    pub(super) fn usage_of_out(reason: String) -> Self {
        Self::Usage(format!("--out {reason}"))
    }
}

fn of(total: Option<u64>) -> String {
    total.map_or(String::new(), |total| format!(" of {total}"))
}

/// `count` of what is called so.
pub(super) fn counted(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_stopped_says_how_far_it_is() {
        let stopped = |total| BulkError::Stopped { signal: 2, rows: 400, total }.to_string();
        assert_eq!(stopped(Some(1000)), "stopped: 400 of 1000 rows are complete; the same command goes on");
        assert_eq!(stopped(None), "stopped: 400 rows are complete; the same command goes on");
        let errors = BulkError::TooManyErrors { errors: 1, limit: 0, file: "out/errors.jsonl".into() }.to_string();
        assert!(errors.starts_with("1 item could not") && errors.contains("out/errors.jsonl says why"), "{errors}");
    }
}
