//! Why a model's directory cannot be served.
//!
//! Owns the error, and reading a JSON file so that whatever is wrong with it names it.
//!
//! Invariant: a message has the directory or the file, and what is wrong, in one line.

use std::{
    fmt::Display,
    fs, io,
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
        "model directory {directory} has no {file}{hint}, nor weights to make it from {weights}",
        directory = .directory.display()
    )]
    NoGraphs {
        /// The directory.
        directory: PathBuf,
        /// The first graph that was looked for, relative to it.
        file: String,
        /// What to do, or nothing.
        hint: String,
        /// The names under which weights were looked for; and what the directory holds instead, with the way out, where that is known.
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

/// Bytes of a file of JSON. A `tokenizer.json` of 900,000 tokens has some 70 million.
const MAX_JSON: u64 = 256 << 20;
/// Characters of what a parser says, which may hold words of the file.
const MAX_REASON: usize = 300;

/// The text of one JSON file, however it comes to stand where it is.
///
/// # Errors
/// When it cannot be read, is no plain file, or is larger than a description of a model is.
pub fn read_text(path: &Path) -> io::Result<String> {
    let metadata = fs::metadata(path)?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is no plain file"));
    }
    if metadata.len() > MAX_JSON {
        return Err(io::Error::other(format!("it has {} bytes, expected at most {MAX_JSON}", metadata.len())));
    }
    fs::read_to_string(path)
}

/// What another has to say, in one line: the beginning, with control characters as escapes.
pub fn one_line(text: &str) -> String {
    let mut shown = String::new();
    for char in text.chars().take(MAX_REASON) {
        if char.is_control() {
            shown.extend(char.escape_default());
        } else {
            shown.push(char);
        }
    }
    shown
}

/// Reads and parses one JSON file.
pub(super) fn read<T, E: Display>(path: &Path, parse: impl Fn(&str) -> Result<T, E>) -> Result<T, ModelError> {
    let fault = |reason: String| ModelError::File { path: path.to_owned(), reason };
    let text = read_text(path).map_err(|error| fault(error.to_string()))?;
    parse(&text).map_err(|error| fault(one_line(&error.to_string())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_plain_file_or_says_much_is_one_short_line() {
        let root = tempfile::tempdir().expect("a folder");
        let error = read(root.path(), |_| Ok::<_, String>(())).expect_err("a folder").to_string();
        assert!(error.ends_with("no plain file"), "{error}");
        let path = root.path().join("config.json");
        fs::write(&path, "{}").expect("written");
        let error = read(&path, |_| Err::<(), _>("a\nb".repeat(1000))).expect_err("much").to_string();
        assert!(!error.contains('\n') && error.len() < 1000, "{error}");
    }
}
