//! Whose numbers a model answers: the library that its files were written for, because the indexes of its users were built with that.
//!
//! Owns the libraries, and which files say how a tower's inputs are prepared. Does not look for files (`search`, `layout`), nor read what is
//! in them (`pictures`, `texts`).
//!
//! Invariant: the rules follow from the kind of the file that says how inputs are prepared; nobody can ask for others.

use std::path::{Path, PathBuf};

/// The library whose way of preparing inputs is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, schemars::JsonSchema, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Rules {
    /// `CLIPProcessor` of `transformers` 4.57 on Pillow.
    Transformers,
    /// `image_transform` and `tokenize` of open_clip 3.3 on Pillow and torchvision.
    OpenClip,
    /// `clip.load` and `clip.tokenize` of OpenAI's own code: the pictures of open_clip, its own special tokens.
    #[serde(rename = "openai")]
    OpenAi,
    /// Immich's service for machine learning, 2.2.
    Immich,
}

impl Rules {
    const ALL: [Self; 4] = [Self::Transformers, Self::OpenClip, Self::OpenAi, Self::Immich];

    /// Those of this [`name`](Self::name).
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|rules| rules.name() == name)
    }

    /// As `/info` and the log have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Transformers => "transformers",
            Self::OpenClip => "open_clip",
            Self::OpenAi => "openai",
            Self::Immich => "immich",
        }
    }
}

/// Where it is said how pictures are prepared, and so whose rules that follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PictureRules {
    /// `preprocessor_config.json`, or a `processor_config.json` with an image processor.
    Transformers(PathBuf),
    /// `preprocess_cfg.json`, or an `open_clip_config.json` with a member of that name.
    OpenClip(PathBuf),
    /// The `config.json` with the size of the crop; of the rest OpenAI's code leaves nothing open.
    OpenAi(PathBuf),
    /// The `preprocess_cfg.json` beside the graph in `visual/`.
    Immich(PathBuf),
}

impl PictureRules {
    /// Whose they are.
    pub fn rules(&self) -> Rules {
        match self {
            Self::Transformers(_) => Rules::Transformers,
            Self::OpenClip(_) => Rules::OpenClip,
            Self::OpenAi(_) => Rules::OpenAi,
            Self::Immich(_) => Rules::Immich,
        }
    }

    /// The file that says it.
    pub fn file(&self) -> &Path {
        match self {
            Self::Transformers(path) | Self::OpenClip(path) | Self::OpenAi(path) | Self::Immich(path) => path,
        }
    }
}

/// Where it is said how texts become ids, and so whose rules that follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TextRules {
    /// `tokenizer.json`, or `vocab.json` with `merges.txt` beside it.
    Transformers(PathBuf),
    /// CLIP's own vocabulary, which is in the program, unless the configuration names another tokenizer.
    OpenClip {
        /// The `config.json` or `open_clip_config.json` with `text_cfg`.
        config: PathBuf,
        /// As [`Self::Transformers`], where there is one: what `text_cfg.hf_tokenizer_name` stands for.
        tokenizer: Option<PathBuf>,
    },
    /// CLIP's own vocabulary, and nothing that could be set.
    OpenAi,
    /// The `tokenizer.json` beside the graph in `textual/`.
    Immich {
        /// The `config.json` with `text_cfg`.
        config: PathBuf,
        /// The tokenizer.
        tokenizer: PathBuf,
    },
}

impl TextRules {
    /// Whose they are.
    pub fn rules(&self) -> Rules {
        match self {
            Self::Transformers(_) => Rules::Transformers,
            Self::OpenClip { .. } => Rules::OpenClip,
            Self::OpenAi => Rules::OpenAi,
            Self::Immich { .. } => Rules::Immich,
        }
    }
}
