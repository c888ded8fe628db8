//! Why a model's directory cannot be served.
//!
//! Owns the error, and reading a JSON file so that whatever is wrong with it names it.
//!
//! Invariant: a message has the directory or the file, and what is wrong, in one line.

use std::{
    fmt::Display,
    fs,
    path::{Path, PathBuf},
};

/// Why a model's directory cannot be served, in one line for the operator.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The directory is not there.
    #[error("model directory {path}: {reason}", path = .path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the system says.
        reason: String,
    },
    /// Nothing that could be run.
    #[error(
        "model directory {directory} has no {file}{hint}, nor weights to make it from ({weights}, or one file *.pt)",
        directory = .directory.display()
    )]
    NoGraphs {
        /// The directory.
        directory: PathBuf,
        /// The first graph that was looked for, relative to it.
        file: String,
        /// What to do, or nothing.
        hint: String,
        /// The names under which weights were looked for.
        weights: String,
    },
    /// A file of the layout is not there.
    #[error("model directory {directory} has no {file}{hint}", directory = .directory.display())]
    MissingFile {
        /// The directory.
        directory: PathBuf,
        /// The file, relative to it.
        file: String,
        /// What to do, or nothing.
        hint: String,
    },
    /// A file that is there says something that cannot be.
    #[error("{path}: {reason}", path = .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong in it.
        reason: String,
    },
}

impl ModelError {
    /// None of the `names` under which a file goes is in `directory`.
    pub(super) fn missing(directory: &Path, names: &[&str]) -> Self {
        Self::MissingFile { directory: directory.to_owned(), file: names.join(" or "), hint: String::new() }
    }
}

/// Reads and parses one JSON file.
pub(super) fn read<T, E: Display>(path: &Path, parse: impl Fn(&str) -> Result<T, E>) -> Result<T, ModelError> {
    let fault = |reason: String| ModelError::File { path: path.to_owned(), reason };
    let text = fs::read_to_string(path).map_err(|error| fault(error.to_string()))?;
    parse(&text).map_err(|error| fault(error.to_string()))
}
