//! Where a model's parts are in its directory.
//!
//! Owns the file names of the layouts that are served. Does not read the files.
//!
//! Graphs from elsewhere are laid out as transformers.js exports them: `onnx/vision_model.onnx` and `onnx/text_model.onnx` with
//! `config.json`, `preprocessor_config.json` and `tokenizer.json` beside the `onnx` folder. A precision other than f32 is a file
//! name suffix, and only the file with that suffix will do: f32 is never served in place of a precision that was asked for.
//! Graphs of our own are named by whoever exported or recognised them; the files beside them have the same names.

use std::path::{Path, PathBuf};

use super::ModelError;
use crate::config::Precision;

/// The parts of a model that were found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelFiles {
    /// The vision tower, where the model has one.
    pub vision: Option<VisionFiles>,
    /// The text tower, where the model has one.
    pub text: Option<TextFiles>,
    /// `config.json`.
    pub config: Option<PathBuf>,
    /// The checkpoint's weights, where it has them: `logit_scale` is in no graph from elsewhere.
    pub weights: Option<PathBuf>,
}

/// What images need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VisionFiles {
    /// Crops to `image_embeds`.
    pub graph: PathBuf,
    /// `preprocessor_config.json`.
    pub preprocessor: PathBuf,
}

/// What texts need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextFiles {
    /// Token ids to `text_embeds`.
    pub graph: PathBuf,
    /// `tokenizer.json`.
    pub tokenizer: PathBuf,
}

impl ModelFiles {
    /// Finds the parts of the model in `directory` with graphs of `precision` from elsewhere.
    ///
    /// # Errors
    /// [`ModelError::NoGraphs`] when there is no graph of that precision at all, else names the first part that is missing.
    pub fn locate(directory: &Path, precision: Precision) -> Result<Self, ModelError> {
        let metadata = directory
            .metadata()
            .map_err(|error| ModelError::Directory { path: directory.to_owned(), reason: error.to_string() })?;
        if !metadata.is_dir() {
            let reason = "not a directory".to_owned();
            return Err(ModelError::Directory { path: directory.to_owned(), reason });
        }
        let encoder = |name: &str| {
            let candidates: Vec<String> =
                suffixes(precision).iter().map(|suffix| format!("onnx/{name}{suffix}.onnx")).collect();
            let hint = match precision {
                Precision::F32 => "",
                Precision::F16 | Precision::Int8 => ", which engine.precision asks for; use f32 or add the file",
            };
            one_of(directory, &candidates, hint)
        };
        let (vision, text) = (encoder("vision_model"), encoder("text_model"));
        if let (Err(ModelError::MissingFile { directory, file, hint }), Err(_)) = (&vision, &text) {
            return Err(ModelError::NoGraphs { directory: directory.clone(), file: file.clone(), hint: hint.clone() });
        }
        Self::beside(directory, Some(vision?), Some(text?))
    }

    /// The model whose graphs are these and whose other files are in `directory`.
    ///
    /// # Errors
    /// Names the first file that is missing.
    pub fn beside(
        directory: &Path,
        vision_graph: Option<PathBuf>,
        text_graph: Option<PathBuf>,
    ) -> Result<Self, ModelError> {
        let part = |file: &str| one_of(directory, &[file.to_owned()], "");
        let vision = |graph| Ok(VisionFiles { graph, preprocessor: part("preprocessor_config.json")? });
        let text = |graph| Ok(TextFiles { graph, tokenizer: part("tokenizer.json")? });
        Ok(Self {
            vision: vision_graph.map(vision).transpose()?,
            text: text_graph.map(text).transpose()?,
            config: Some(part("config.json")?),
            weights: part("model.safetensors").ok(),
        })
    }
}

/// Whether `directory` is a checkpoint as `save_pretrained` writes it: `config.json` and weights, whole or in shards.
pub fn is_checkpoint(directory: &Path) -> bool {
    let has = |file: &str| directory.join(file).is_file();
    has("config.json") && (has("model.safetensors") || has("model.safetensors.index.json"))
}

/// The suffixes that transformers.js gives a precision, the first one first.
pub(super) fn suffixes(precision: Precision) -> &'static [&'static str] {
    match precision {
        Precision::F32 => &[""],
        Precision::F16 => &["_fp16"],
        Precision::Int8 => &["_int8", "_quantized"],
    }
}

fn one_of(directory: &Path, candidates: &[String], hint: &str) -> Result<PathBuf, ModelError> {
    candidates.iter().map(|file| directory.join(file)).find(|path| path.is_file()).ok_or_else(|| {
        ModelError::MissingFile {
            directory: directory.to_owned(),
            file: candidates.join(" or "),
            hint: hint.to_owned(),
        }
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn directory(files: &[&str]) -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("a folder");
        for file in files {
            let path = root.path().join(file);
            fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
            fs::write(path, "").expect("a file");
        }
        root
    }

    const WHOLE: [&str; 5] =
        ["onnx/vision_model.onnx", "onnx/text_model.onnx", "tokenizer.json", "preprocessor_config.json", "config.json"];

    #[test]
    fn a_missing_part_is_named() {
        for missing in WHOLE {
            let rest: Vec<&str> = WHOLE.into_iter().filter(|file| *file != missing).collect();
            let root = directory(&rest);
            let error = ModelFiles::locate(root.path(), Precision::F32).expect_err(missing).to_string();
            assert!(error.contains(missing), "{error}");
        }
        let neither = ModelFiles::locate(directory(&WHOLE[2..]).path(), Precision::F32).expect_err("no graphs");
        assert!(matches!(neither, ModelError::NoGraphs { .. }), "{neither}");
        assert!(ModelFiles::locate(directory(&WHOLE).path(), Precision::F32).is_ok());
    }

    #[test]
    fn a_precision_that_the_model_does_not_have_is_refused() {
        let root = directory(&WHOLE);
        let error = ModelFiles::locate(root.path(), Precision::F16).expect_err("no f16 files").to_string();
        assert!(error.contains("onnx/vision_model_fp16.onnx"), "{error}");
        let root =
            directory(&[&WHOLE[..], &["onnx/vision_model_quantized.onnx", "onnx/text_model_int8.onnx"]].concat());
        let files = ModelFiles::locate(root.path(), Precision::Int8).expect("both names of int8");
        assert!(files.vision.is_some_and(|vision| vision.graph.ends_with("onnx/vision_model_quantized.onnx")));
        assert!(files.text.is_some_and(|text| text.graph.ends_with("onnx/text_model_int8.onnx")));
    }

    #[test]
    fn a_directory_that_is_not_there_or_not_one_is_named() {
        let root = directory(&["file"]);
        for (name, expected) in [("nowhere", "No such file"), ("file", "not a directory")] {
            let error = ModelFiles::locate(&root.path().join(name), Precision::F32).expect_err(name).to_string();
            assert!(error.contains(name) && error.contains(expected), "{error}");
        }
    }
}
