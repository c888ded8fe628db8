//! Where a model's parts are: the files of each tower, and what belongs to both.
//!
//! Owns the shape of the answer. Does not look for graphs (`search` does), nor read any file.

use std::path::{Path, PathBuf};

use super::ModelError;

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
    /// `preprocessor_config.json` of `transformers`, or `preprocess_cfg.json` of open_clip.
    pub preprocessor: PathBuf,
}

/// What texts need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextFiles {
    /// Token ids to `text_embeds`.
    pub graph: PathBuf,
    /// `tokenizer.json`, or `vocab.json` with `merges.txt` beside it.
    pub tokenizer: PathBuf,
}

impl ModelFiles {
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

fn one_of(directory: &Path, candidates: &[String], hint: &str) -> Result<PathBuf, ModelError> {
    candidates.iter().map(|file| directory.join(file)).find(|path| path.is_file()).ok_or_else(|| {
        ModelError::MissingFile {
            directory: directory.to_owned(),
            file: candidates.join(" or "),
            hint: hint.to_owned(),
        }
    })
}
