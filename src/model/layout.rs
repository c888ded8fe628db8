//! Where a model's parts are: the files of each tower, and what belongs to both.
//!
//! Owns the shape of the answer. Does not look for graphs (`search` does), nor read any file.

use std::path::{Path, PathBuf};

use super::{
    companions::{companion, preprocessor_of},
    error::ModelError,
    open_clip::OPEN_CLIP_FILE,
    preprocessor::{PREPROCESSOR_FILE, PROCESSOR_FILE},
    rules::{PictureRules, TextRules},
};

/// The parts of a model that were found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelFiles {
    /// The vision tower, where the model has one.
    pub vision: Option<VisionFiles>,
    /// The text tower, where the model has one.
    pub text: Option<TextFiles>,
    /// The checkpoint's weights, where it has them: `logit_scale` is in no graph from elsewhere.
    pub weights: Option<PathBuf>,
}

/// The graphs of one tower.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Graphs {
    /// The embedding and nothing else: graphs from elsewhere.
    Embedding(PathBuf),
    /// Our export of a tower with its projection.
    Both {
        /// The embedding.
        embedding: PathBuf,
        /// The embedding and every output of the reference classes.
        outputs: PathBuf,
    },
    /// Our export of a tower without projection.
    Outputs(PathBuf),
}

impl Graphs {
    /// Those that there are; `None` for none at all.
    pub fn new(embedding: Option<PathBuf>, outputs: Option<PathBuf>) -> Option<Self> {
        match (embedding, outputs) {
            (Some(embedding), Some(outputs)) => Some(Self::Both { embedding, outputs }),
            (Some(embedding), None) => Some(Self::Embedding(embedding)),
            (None, Some(outputs)) => Some(Self::Outputs(outputs)),
            (None, None) => None,
        }
    }

    /// The graph of the embedding alone.
    pub fn embedding(&self) -> Option<&Path> {
        match self {
            Self::Embedding(embedding) | Self::Both { embedding, .. } => Some(embedding),
            Self::Outputs(_) => None,
        }
    }

    /// The graph of all outputs.
    pub fn outputs(&self) -> Option<&Path> {
        match self {
            Self::Outputs(outputs) | Self::Both { outputs, .. } => Some(outputs),
            Self::Embedding(_) => None,
        }
    }

    /// The one that is opened at the start, from whose file (and weights) the tower's numbers follow.
    pub fn first(&self) -> &Path {
        match self {
            Self::Embedding(graph) | Self::Both { embedding: graph, .. } | Self::Outputs(graph) => graph,
        }
    }
}

/// What images need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VisionFiles {
    /// Crops to `image_embeds`.
    pub graphs: Graphs,
    /// What says how pictures are prepared.
    pub preparation: PictureRules,
    /// `config.json`.
    pub config: Option<PathBuf>,
}

/// What texts need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextFiles {
    /// Token ids to `text_embeds`.
    pub graphs: Graphs,
    /// What says how texts become ids.
    pub preparation: TextRules,
    /// `config.json`: without it nobody knows how many ids a graph takes.
    pub config: PathBuf,
}

impl ModelFiles {
    /// The model whose graphs are these and whose other files are in `directory`.
    ///
    /// # Errors
    /// Names the first file that is missing.
    pub fn beside(directory: &Path, vision: Option<Graphs>, text: Option<Graphs>) -> Result<Self, ModelError> {
        let one_of = |names: &[&str]| {
            let found = names.iter().find_map(|name| companion(directory, name));
            found.ok_or_else(|| ModelError::missing(directory, names))
        };
        let config = one_of(&["config.json"])?;
        let preprocessor = preprocessor_of(directory)?;
        let vision_files = |graphs| {
            let preparation = match (&preprocessor, one_of(&[OPEN_CLIP_FILE])) {
                (Some(path), _) => PictureRules::Transformers(path.clone()),
                (None, Ok(path)) => PictureRules::OpenClip(path),
                (None, Err(_)) => {
                    return Err(ModelError::missing(directory, &[PREPROCESSOR_FILE, PROCESSOR_FILE, OPEN_CLIP_FILE]));
                }
            };
            Ok(VisionFiles { graphs, preparation, config: Some(config.clone()) })
        };
        let text_files = |graphs| {
            let tokenizer = one_of(&["tokenizer.json", "vocab.json"]);
            let preparation = match one_of(&[OPEN_CLIP_FILE]) {
                // Where both libraries left their files, those of `transformers` go first.
                Ok(config) if preprocessor.is_none() => TextRules::OpenClip { config, tokenizer: tokenizer.ok() },
                _ => TextRules::Transformers(tokenizer?),
            };
            Ok(TextFiles { graphs, preparation, config: config.clone() })
        };
        Ok(Self {
            vision: vision.map(vision_files).transpose()?,
            text: text.map(text_files).transpose()?,
            weights: one_of(&["model.safetensors"]).ok(),
        })
    }

    /// The `config.json` that says what belongs to both towers: the text tower's, where there is one.
    pub fn config(&self) -> Option<&Path> {
        let of_vision = || self.vision.as_ref()?.config.as_deref();
        self.text.as_ref().map(|text| text.config.as_path()).or_else(of_vision)
    }
}

/// In which format a checkpoint has its weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weights {
    /// `model.safetensors`.
    Safetensors,
    /// `pytorch_model.bin`, by `torch.save`.
    PyTorch,
}

impl Weights {
    /// All formats; where a directory has several, the first counts.
    pub const ALL: [Self; 2] = [Self::Safetensors, Self::PyTorch];

    /// The format that counts in `directory`, whole or in shards.
    pub fn of(directory: &Path) -> Option<Self> {
        let has = |file: &str| directory.join(file).is_file();
        Self::ALL.into_iter().find(|weights| has(weights.file()) || has(weights.index()))
    }

    /// The file of the whole.
    pub fn file(self) -> &'static str {
        match self {
            Self::Safetensors => "model.safetensors",
            Self::PyTorch => "pytorch_model.bin",
        }
    }

    /// The file that says which shard has which tensor.
    pub fn index(self) -> &'static str {
        match self {
            Self::Safetensors => "model.safetensors.index.json",
            Self::PyTorch => "pytorch_model.bin.index.json",
        }
    }

    /// What the name of a shard has before and behind `00001-of-00002`.
    pub fn around_shard(self) -> (&'static str, &'static str) {
        match self {
            Self::Safetensors => ("model-", ".safetensors"),
            Self::PyTorch => ("pytorch_model-", ".bin"),
        }
    }
}

/// Whether `directory` is a checkpoint as `save_pretrained` writes it: `config.json` and weights.
pub fn is_checkpoint(directory: &Path) -> bool {
    directory.join("config.json").is_file() && Weights::of(directory).is_some()
}
