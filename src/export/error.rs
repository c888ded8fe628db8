//! Why an export failed, in words for the operator: each message names the file, field or tensor and what was expected.
//!
//! Invariant: a message is one line, and what it repeats of a file is short, whatever is in that.

use std::{
    io::{self, ErrorKind},
    path::{Path, PathBuf},
};

use crate::model::{DigestError, ModelError, Weights, clip_config::ConfigError, one_line};

/// Why a checkpoint could not be exported.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// A file could not be read or written.
    #[error("{path}: {error}", path = path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// There is no room for what is written.
    #[error(
        "{path}: {error}; the graphs take about as many bytes as the checkpoint's weights: make room for them, or give another folder \
         (`--cache-dir` or model.cache_dir of a service)",
        path = path.display()
    )]
    NoRoom {
        /// What was being written, which is gone again.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The configuration does not describe a CLIP model that can be built.
    #[error("{file}: {error}", error = one_line(&.error.to_string()))]
    Config {
        /// Its name.
        file: &'static str,
        /// Why not.
        error: ConfigError,
    },
    /// Which file says how pictures are prepared cannot be told.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A JSON file other than `config.json` is malformed.
    #[error("{file}: {reason}", reason = one_line(.reason))]
    Json {
        /// Its name.
        file: String,
        /// What is wrong and where.
        reason: String,
    },
    /// A tensor that the configuration asks for is not in the checkpoint.
    #[error("tensor `{name}` is missing from the checkpoint", name = one_line(.0))]
    MissingTensor(String),
    /// The checkpoint has a tensor that no CLIP model has: its weights would be ignored silently.
    #[error("tensor `{name}` is not part of a CLIP model with this configuration", name = one_line(.0))]
    UnknownTensor(String),
    /// The checkpoint has a tensor of something else than CLIP's two transformers.
    #[error(
        "tensor `{name}` is of {what}, which is not served: of such models, those whose towers are open_clip's own transformers are",
        name = one_line(.name)
    )]
    OtherTower {
        /// The tensor.
        name: String,
        /// What it belongs to.
        what: &'static str,
    },
    /// A tensor's shape contradicts the configuration.
    #[error(
        "tensor `{name}` has shape {actual}, the configuration asks for {expected:?}",
        name = one_line(.name),
        actual = one_line(&format!("{:?}", .actual))
    )]
    TensorShape {
        /// The tensor.
        name: String,
        /// Its shape in the checkpoint.
        actual: Vec<usize>,
        /// The shape that follows from `config.json`.
        expected: Vec<usize>,
    },
    /// A tensor's element type is not one of F32, F16, BF16.
    #[error(
        "tensor `{name}` has element type {dtype}; F32, F16 and BF16 are supported",
        name = one_line(.name),
        dtype = one_line(.dtype)
    )]
    TensorType {
        /// The tensor.
        name: String,
        /// Its element type.
        dtype: String,
    },
    /// A weight is too large for the precision asked for.
    #[error("tensor `{name}` has values beyond 65504, which f16 cannot hold: export it in f32", name = one_line(.0))]
    TensorRange(String),
    /// A size that is not made of whole groups.
    #[error("{field} is {size}: in int8 OpenVINO takes multiples of {group}; use bf16, or int8 on the CPU provider")]
    Groups {
        /// The field of `config.json`.
        field: &'static str,
        /// Its value.
        size: usize,
        /// Values in a group.
        group: usize,
    },
    /// Nothing is where a checkpoint should be.
    #[error(
        "{path} is not there: a checkpoint is a folder or file on this machine; `clipserve serve --model owner/name` takes one from the hub, \
         and makes and keeps its graphs", path = .0.display()
    )]
    Absent(PathBuf),
    /// No weights that we read.
    #[error(
        "{path} has no weights: none of {names}, no index of the shards of one, and not one file that ends in .pt; other formats are not \
         read, `save_pretrained` of transformers writes the first", path = .0.display(), names = Weights::ALL.map(Weights::file).join(", ")
    )]
    NoWeights(PathBuf),
    /// The checkpoint has neither tower.
    #[error("the checkpoint has no tensor of a CLIP text model (`text_model.…`) or vision model (`vision_model.…`)")]
    NoTower,
    /// The folder to write is in use.
    #[error("{path} exists and is not empty: give the name of a new folder", path = .0.display())]
    OutputExists(PathBuf),
    /// A file of weights is not what its name says.
    #[error("{path}: {reason}", path = path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

impl ExportError {
    pub(crate) fn malformed(path: &Path, reason: String) -> Self {
        Self::Malformed { path: path.to_owned(), reason: one_line(&reason) }
    }

    /// For `map_err` on digests.
    pub(crate) fn digest(path: impl AsRef<Path>) -> impl FnOnce(DigestError) -> Self {
        let path = path.as_ref().to_path_buf();
        move |error| match error {
            DigestError::Io(error) => Self::Io { path, error },
            DigestError::Damaged => Self::Malformed { path, reason: error.to_string() },
        }
    }

    /// For `map_err` on file operations: keeps which file it was about.
    pub(crate) fn io(path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Self {
        let path = path.as_ref().to_path_buf();
        move |error| match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => Self::NoRoom { path, error },
            _ => Self::Io { path, error },
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::clip_config::ClipConfig;

    #[test]
    fn whatever_a_file_says_an_error_is_one_short_line() {
        let much = "a\nb".repeat(10_000);
        let config = |config: serde_json::Value| {
            let error = ClipConfig::from_json(&config.to_string()).expect_err("it is none");
            ExportError::Config { file: "config.json", error }
        };
        let values = config(json!({"projection_dim": vec![&*much; 9]}));
        assert!(values.to_string().ends_with("a whole number from 1 to 1048576"), "{values}");
        for error in [
            values,
            config(json!({&*much: 1})),
            config(json!({"model_type": much})),
            config(json!({"architectures": [much]})),
            ExportError::Json { file: "model.safetensors.index.json".to_owned(), reason: much.clone() },
            ExportError::UnknownTensor(much.clone()),
            ExportError::MissingTensor(much.clone()),
            ExportError::OtherTower { name: much.clone(), what: "a ResNet" },
            ExportError::TensorShape { name: much.clone(), actual: vec![1; 10_000], expected: vec![1] },
            ExportError::TensorType { name: much.clone(), dtype: much.clone() },
            ExportError::TensorRange(much.clone()),
            ExportError::malformed(Path::new("x"), much.clone()),
        ] {
            let text = error.to_string();
            assert!(!text.contains('\n') && text.len() < 2000, "{} bytes", text.len());
        }
    }
}
