//! What can be wrong with a configuration, said so that the operator can mend it without reading the source.
//!
//! Owns the wording: each error is one line and names the key, its value, where that came from and what is allowed. All errors
//! of a start are collected and shown together. The value of an unknown key is never shown: it may be a secret whose key is
//! misspelt; nor is the value of a known secret.

use std::{fmt, path::PathBuf};

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The compiled-in `config/default.toml`.
    Default,
    /// The file named by `--config`.
    File(PathBuf),
    /// The environment variable of this name.
    Environment(String),
    /// `--set section.key=value`.
    Set,
    /// A flag of its own, such as `--listen`.
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Environment(name) => write!(f, "environment variable {name}"),
            Self::Set => f.write_str("--set"),
            Self::Flag(name) => f.write_str(name),
        }
    }
}

/// One thing that is wrong; [`fmt::Display`] is one line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The file named by `--config` cannot be read.
    #[error("--config {}: cannot read the file: {reason}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        reason: String,
    },
    /// The file named by `--config` is not TOML.
    #[error("--config {}: line {line}: not valid TOML: {reason}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// The parser's reason, without the source line (which may hold a secret).
        reason: String,
    },
    /// `--set` without a `=`.
    #[error("--set {key}: must be section.key=value")]
    SetWithoutValue {
        /// What stands where the key should be.
        key: String,
    },
    /// An environment variable of ours whose value is not UTF-8.
    #[error("{key} (environment variable {variable}): must be UTF-8 text")]
    NotUtf8 {
        /// The key that the variable sets.
        key: String,
        /// The variable.
        variable: String,
    },
    /// A variable that is no key's and that others name; its value may be a secret.
    #[error("environment variable {variable}: must be {allowed}")]
    Variable {
        /// The variable.
        variable: &'static str,
        /// What it takes.
        allowed: String,
    },
    /// A key that does not exist.
    #[error("{key} ({origin}): {hint}")]
    UnknownKey {
        /// The key as given.
        key: String,
        /// Who gave it.
        origin: Origin,
        /// Which keys there are instead.
        hint: String,
    },
    /// A value of the wrong kind, out of range, or at odds with another key.
    #[error("{key} = {value} ({origin}): must be {allowed}")]
    Invalid {
        /// The key.
        key: &'static str,
        /// The value as given, on one line.
        value: String,
        /// Who gave it.
        origin: Origin,
        /// What the key takes.
        allowed: String,
    },
}

/// Everything that is wrong with a configuration, at least one thing; [`fmt::Display`] is one line each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors(pub(super) Vec<ConfigError>);

impl ConfigErrors {
    /// The errors, in the order of the layers and then of the keys.
    pub fn iter(&self) -> impl Iterator<Item = &ConfigError> {
        self.0.iter()
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            // A file's name or a key may hold a line break; the promise is one line each.
            f.write_str(&error.to_string().replace(['\n', '\r'], " "))?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}
