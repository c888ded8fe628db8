//! Where a model's parts are: the files of each tower, and what belongs to both.
//!
//! Owns the shape of the answer, and the names of a checkpoint's weights. Does not look for graphs (`search` does), nor read any file.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{
    companions::{companion, preprocessor_of},
    error::ModelError,
    open_clip::OPEN_CLIP_FILE,
    preprocessor::{PREPROCESSOR_FILE, PROCESSOR_FILE},
    rules::{PictureRules, Rules, TextRules},
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
    /// The checkpoint's file that the graphs were exported from.
    pub weights: Option<String>,
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
    /// The checkpoint's file that the graphs were exported from.
    pub weights: Option<String>,
}

/// What graphs of our own export were made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Where the files are that say how inputs are made.
    pub directory: PathBuf,
    /// The `config.json` that describes the graphs.
    pub config: PathBuf,
    /// Whose rules prepare the inputs.
    pub rules: Rules,
    /// The file of weights, where it is there: an export is served without.
    pub weights: Option<String>,
}

impl ModelFiles {
    /// The model of these graphs of our own export of `origin`.
    ///
    /// # Errors
    /// Names the first file that is missing.
    pub fn beside(origin: &Origin, vision: Option<Graphs>, text: Option<Graphs>) -> Result<Self, ModelError> {
        let Origin { directory, config, rules, weights } = origin;
        let one_of = |names: &[&str]| {
            let found = names.iter().find_map(|name| companion(directory, name));
            found.ok_or_else(|| ModelError::missing(directory, names))
        };
        let tokenizer = || one_of(&["tokenizer.json", "vocab.json"]);
        let pictures = || match rules {
            Rules::OpenClip => one_of(&[OPEN_CLIP_FILE]).map(PictureRules::OpenClip),
            Rules::OpenAi => Ok(PictureRules::OpenAi(config.clone())),
            Rules::Transformers | Rules::Immich => match preprocessor_of(directory)? {
                Some(path) => Ok(PictureRules::Transformers(path)),
                None => Err(ModelError::missing(directory, &[PREPROCESSOR_FILE, PROCESSOR_FILE])),
            },
        };
        let texts = || match rules {
            Rules::OpenClip => {
                Ok(TextRules::OpenClip { config: one_of(&[OPEN_CLIP_FILE])?, tokenizer: tokenizer().ok() })
            }
            Rules::OpenAi => Ok(TextRules::OpenAi),
            Rules::Transformers | Rules::Immich => tokenizer().map(TextRules::Transformers),
        };
        let vision_files = |graphs| {
            Ok(VisionFiles { graphs, preparation: pictures()?, config: Some(config.clone()), weights: weights.clone() })
        };
        let text_files =
            |graphs| Ok(TextFiles { graphs, preparation: texts()?, config: config.clone(), weights: weights.clone() });
        Ok(Self {
            vision: vision.map(vision_files).transpose()?,
            text: text.map(text_files).transpose()?,
            // Another library's is not beside its own weights.
            weights: one_of(&["model.safetensors"]).ok().filter(|_| *rules == Rules::Transformers),
        })
    }

    /// The `config.json` that says what belongs to both towers: the text tower's, where there is one.
    pub fn config(&self) -> Option<&Path> {
        let of_vision = || self.vision.as_ref()?.config.as_deref();
        self.text.as_ref().map(|text| text.config.as_path()).or_else(of_vision)
    }
}

/// In which format a folder has a checkpoint's weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weights {
    /// `model.safetensors`.
    Safetensors,
    /// `pytorch_model.bin`, by `torch.save`.
    PyTorch,
    /// `model.fp16.safetensors`, as `save_pretrained(variant="fp16")` names it: pipelines often have nothing else.
    Fp16Variant,
    /// `tf_model.h5`, by the TensorFlow classes.
    TensorFlow,
    /// `flax_model.msgpack`, by the Flax classes.
    Flax,
    /// `open_clip_model.safetensors`, by open_clip.
    OpenClipSafetensors,
    /// `open_clip_pytorch_model.bin`, by open_clip and `torch.save`.
    OpenClipPyTorch,
}

impl Weights {
    /// All formats, in the order in which they count: those of `transformers`, then open_clip's.
    pub const ALL: [Self; 7] = [
        Self::Safetensors,
        Self::PyTorch,
        Self::Fp16Variant,
        Self::TensorFlow,
        Self::Flax,
        Self::OpenClipSafetensors,
        Self::OpenClipPyTorch,
    ];

    /// The format that counts in `directory`, whole or in shards.
    pub fn of(directory: &Path) -> Option<Self> {
        Self::among(|file| directory.join(file).is_file())
    }

    /// The format that counts where these files are: the first, unless it looks like one of `transformers` and is timm's, which leaves
    /// `config.json` and `model.safetensors` of the one tower beside open_clip's of the whole, but no image processor.
    pub fn among(has: impl Fn(&str) -> bool) -> Option<Self> {
        let there = || Self::ALL.into_iter().filter(|weights| has(weights.file()) || has(weights.index()));
        let is_open_clip = |weights: &Self| weights.config() == OPEN_CLIP_FILE && has(OPEN_CLIP_FILE);
        let first = there().next()?;
        if has(PREPROCESSOR_FILE) || has(PROCESSOR_FILE) {
            return Some(first);
        }
        Some(there().find(is_open_clip).unwrap_or(first))
    }

    /// The file of the whole.
    pub fn file(self) -> &'static str {
        match self {
            Self::Safetensors => "model.safetensors",
            Self::PyTorch => "pytorch_model.bin",
            Self::Fp16Variant => "model.fp16.safetensors",
            Self::TensorFlow => "tf_model.h5",
            Self::Flax => "flax_model.msgpack",
            Self::OpenClipSafetensors => "open_clip_model.safetensors",
            Self::OpenClipPyTorch => "open_clip_pytorch_model.bin",
        }
    }

    /// The file that says which shard has which tensor; open_clip itself writes none.
    pub fn index(self) -> &'static str {
        match self {
            Self::Safetensors => "model.safetensors.index.json",
            Self::PyTorch => "pytorch_model.bin.index.json",
            Self::Fp16Variant => "model.safetensors.index.fp16.json",
            Self::TensorFlow => "tf_model.h5.index.json",
            Self::Flax => "flax_model.msgpack.index.json",
            Self::OpenClipSafetensors => "open_clip_model.safetensors.index.json",
            Self::OpenClipPyTorch => "open_clip_pytorch_model.bin.index.json",
        }
    }

    /// What the name of a shard has before and behind `00001-of-00002`.
    pub fn around_shard(self) -> (&'static str, &'static str) {
        match self {
            Self::Safetensors => ("model-", ".safetensors"),
            Self::PyTorch => ("pytorch_model-", ".bin"),
            Self::Fp16Variant => ("model.fp16-", ".safetensors"),
            Self::TensorFlow => ("tf_model-", ".h5"),
            Self::Flax => ("flax_model-", ".msgpack"),
            Self::OpenClipSafetensors => ("open_clip_model-", ".safetensors"),
            Self::OpenClipPyTorch => ("open_clip_pytorch_model-", ".bin"),
        }
    }

    /// The file that describes the model.
    pub fn config(self) -> &'static str {
        match self {
            Self::Safetensors | Self::PyTorch | Self::Fp16Variant | Self::TensorFlow | Self::Flax => "config.json",
            Self::OpenClipSafetensors | Self::OpenClipPyTorch => OPEN_CLIP_FILE,
        }
    }
}

/// Where a checkpoint's weights are, and with that what describes them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckpointFiles {
    /// In a folder, as a library saves them, with its configuration beside them.
    Folder {
        /// The folder.
        directory: PathBuf,
        /// The format that counts.
        weights: Weights,
    },
    /// One file of weights as open_clip's training leaves it, beside the [`OPEN_CLIP_FILE`] of its model.
    Trained {
        /// The folder of both.
        directory: PathBuf,
        /// The weights.
        path: PathBuf,
    },
    /// One file of weights as OpenAI's code names them, which nothing beside it describes.
    Bare(PathBuf),
}

impl CheckpointFiles {
    /// Those at `place`: a folder with weights of a known name; one that has none of them but one file that ends in `.pt`; or such a file.
    pub fn of(place: &Path) -> Option<Self> {
        let is_single = |path: &Path| path.extension().is_some_and(|extension| extension == "pt") && path.is_file();
        let single = |path: PathBuf| match path.parent() {
            Some(directory) if directory.join(OPEN_CLIP_FILE).is_file() => {
                Self::Trained { directory: directory.to_owned(), path }
            }
            _ => Self::Bare(path),
        };
        if is_single(place) {
            return Some(single(place.to_owned()));
        }
        if let Some(weights) = Weights::of(place) {
            return Some(Self::Folder { directory: place.to_owned(), weights });
        }
        let mut singles = fs::read_dir(place).ok()?.flatten().map(|entry| entry.path()).filter(|path| is_single(path));
        match (singles.next(), singles.next()) {
            (Some(only), None) => Some(single(only)),
            _ => None,
        }
    }

    /// The folder with what describes the weights, and its configuration's name there.
    pub fn description(&self) -> Option<(&Path, &'static str)> {
        match self {
            Self::Folder { directory, weights } => Some((directory, weights.config())),
            Self::Trained { directory, .. } => Some((directory, OPEN_CLIP_FILE)),
            Self::Bare(_) => None,
        }
    }

    /// Whose rules prepare the inputs of the model.
    pub fn rules(&self) -> Rules {
        match self {
            Self::Folder { weights: Weights::OpenClipSafetensors | Weights::OpenClipPyTorch, .. } => Rules::OpenClip,
            Self::Folder { .. } => Rules::Transformers,
            Self::Trained { .. } => Rules::OpenClip,
            Self::Bare(_) => Rules::OpenAi,
        }
    }

    /// The file of the whole weights, for messages.
    pub fn weights(&self) -> &Path {
        match self {
            Self::Folder { weights, .. } => Path::new(weights.file()),
            Self::Trained { path, .. } | Self::Bare(path) => path,
        }
    }
}

/// Whether there is a checkpoint at `place`: weights, and what describes them.
pub fn is_checkpoint(place: &Path) -> bool {
    CheckpointFiles::of(place).is_some_and(|files| match files.description() {
        Some((directory, config)) => directory.join(config).is_file(),
        None => true,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_several_formats_the_first_counts_unless_it_is_timm_s() {
        let all =
            ["open_clip_pytorch_model.bin", "open_clip_model.safetensors", "pytorch_model.bin", "model.safetensors"];
        let among = |files: &[&str]| Weights::among(|file| files.contains(&file));
        for (files, expected) in [
            (&all[..1], Some(Weights::OpenClipPyTorch)),
            (&all[..2], Some(Weights::OpenClipSafetensors)),
            (&all[..3], Some(Weights::PyTorch)),
            (&all, Some(Weights::Safetensors)),
            (&["model.safetensors.index.json"], Some(Weights::Safetensors)),
            (&["model.fp16.safetensors"], Some(Weights::Fp16Variant)),
            (&["model.fp16.safetensors", "pytorch_model.bin"], Some(Weights::PyTorch)),
            (&[], None),
        ] {
            assert_eq!(among(files), expected, "{files:?}");
        }
        let described = [&all[..], &[OPEN_CLIP_FILE]].concat();
        assert_eq!(among(&described), Some(Weights::OpenClipSafetensors));
        assert_eq!(among(&[&described[..], &[PREPROCESSOR_FILE]].concat()), Some(Weights::Safetensors));
    }

    #[test]
    fn one_file_alone_is_a_checkpoint_and_two_are_none() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("ViT-B-32.pt");
        fs::write(&file, "").unwrap();
        for place in [dir.path(), &file] {
            assert_eq!(CheckpointFiles::of(place), Some(CheckpointFiles::Bare(file.clone())));
            assert!(is_checkpoint(place));
        }
        fs::write(dir.path().join("other.pt"), "").unwrap();
        assert_eq!(CheckpointFiles::of(dir.path()), None);
        fs::write(dir.path().join("open_clip_model.safetensors"), "").unwrap();
        assert!(!is_checkpoint(dir.path()), "nothing describes it");
        fs::write(dir.path().join(OPEN_CLIP_FILE), "").unwrap();
        assert!(is_checkpoint(dir.path()));
        assert_eq!(CheckpointFiles::of(dir.path()).map(|files| files.rules()), Some(Rules::OpenClip));
    }
}
