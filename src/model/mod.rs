//! What a model is: the files of a directory, what its configuration says, and the fingerprint that names its numbers.
//!
//! Owns reading a model's directory. Does not run anything: `engine` opens the graphs, `preprocess` builds the image processor
//! and the tokenizer from what is read here.
//!
//! Invariants: every file that a [`Model`] names was there when it was loaded; an error names the file, and the field in it.

pub mod clip_config;
mod fields;
mod fingerprint;
mod layout;
mod logit_scale;
pub mod preprocessor;

use std::{
    fs,
    path::{Path, PathBuf},
};

pub use fingerprint::Fingerprint;
pub use layout::ModelFiles;
pub use logit_scale::{LogitScale, LogitScaleSource};

use clip_config::ClipConfig;
use preprocessor::PreprocessorConfig;

use crate::config::{ModelConfig, Precision};

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

/// A model as its directory describes it.
#[derive(Debug)]
pub struct Model {
    /// The name that answers carry.
    pub name: String,
    /// Where its parts are.
    pub files: ModelFiles,
    /// Decode, resize, crop and normalise, as `preprocessor_config.json` says.
    pub preprocessor: PreprocessorConfig,
    /// Longest sequence of token ids (`max_position_embeddings`).
    pub context_length: usize,
    /// `exp(logit_scale)`, and where it came from.
    pub logit_scale: LogitScale,
    /// Hash of everything that the embeddings depend on.
    pub fingerprint: Fingerprint,
}

impl Model {
    /// Reads the directory that `config` names.
    ///
    /// # Errors
    /// Names the file that is missing or wrong.
    pub fn open(config: &ModelConfig, precision: Precision) -> Result<Self, ModelError> {
        let files = ModelFiles::locate(&config.path, precision)?;
        let clip = read(&files.config, ClipConfig::from_json)?;
        let preprocessor = read(&files.preprocessor, PreprocessorConfig::from_json)?;
        let text = clip.text.as_ref().ok_or_else(|| ModelError::File {
            path: files.config.clone(),
            reason: "it has no text_config: both towers are needed".to_owned(),
        })?;
        let logit_scale = LogitScale::read(files.weights.as_deref(), &files.config)?;
        let fingerprint = Fingerprint::of(&files)?;
        Ok(Self {
            name: config.name.clone().unwrap_or_else(|| directory_name(&config.path)),
            context_length: text.tower.max_position_embeddings,
            preprocessor,
            logit_scale,
            fingerprint,
            files,
        })
    }
}

/// Reads and parses one JSON file.
fn read<T, E: std::fmt::Display>(path: &Path, parse: impl Fn(&str) -> Result<T, E>) -> Result<T, ModelError> {
    let fault = |reason: String| ModelError::File { path: path.to_owned(), reason };
    let text = fs::read_to_string(path).map_err(|error| fault(error.to_string()))?;
    parse(&text).map_err(|error| fault(error.to_string()))
}

fn directory_name(path: &Path) -> String {
    let absolute = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    absolute.file_name().map_or_else(|| "clip".to_owned(), |name| name.to_string_lossy().into_owned())
}
