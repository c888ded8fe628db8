//! How a model's texts become ids.
//!
//! Owns the answer: which tokenizer, and what is cleaned before it. Does not read configurations (`open_clip`) nor tokenizers
//! (`preprocess::text`).
//!
//! Invariant: every state of a [`Tokenization`] is one that a library has.

use std::path::{Path, PathBuf};

use super::rules::Rules;

/// From a text to its ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tokenization {
    /// `CLIPTokenizerFast` of `tokenizer.json`, or of `vocab.json` with `merges.txt` beside it.
    Transformers(PathBuf),
    /// open_clip's `SimpleTokenizer`: CLIP's own vocabulary, the special tokens `<start_of_text>` and `<end_of_text>`.
    OpenClip(Clean),
    /// open_clip's `HFTokenizer`: what [`Self::Transformers`] has, of a text that was cleaned.
    OpenClipHuggingFace(PathBuf, Clean),
    /// OpenAI's `clip.tokenize`: CLIP's own vocabulary, the special tokens `<|startoftext|>` and `<|endoftext|>`.
    OpenAi,
    /// Immich's: a `tokenizer.json` by itself, white space joined before it.
    Immich {
        /// The file.
        tokenizer: PathBuf,
        /// Whether ASCII's punctuation is taken out and letters are made small.
        canonicalize: bool,
    },
}

/// The `clean` of open_clip's tokenizers. All begin with `basic_clean`: ftfy, and HTML unescaped twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clean {
    /// White space joined, letters small.
    Lower,
    /// White space joined.
    Whitespace,
    /// `_` a space, ASCII's punctuation taken out, letters small, white space joined.
    Canonicalize,
}

impl Tokenization {
    /// Whose it is.
    pub fn rules(&self) -> Rules {
        match self {
            Self::Transformers(_) => Rules::Transformers,
            Self::OpenClip(_) | Self::OpenClipHuggingFace(..) => Rules::OpenClip,
            Self::OpenAi => Rules::OpenAi,
            Self::Immich { .. } => Rules::Immich,
        }
    }

    /// The tokenizer's file; `None` where that is in the program.
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::Transformers(path) | Self::OpenClipHuggingFace(path, _) | Self::Immich { tokenizer: path, .. } => {
                Some(path)
            }
            Self::OpenClip(_) | Self::OpenAi => None,
        }
    }

    /// Whether tokens that files beside [`file`](Self::file) have are added to it, as `transformers` does.
    pub fn adds_tokens(&self) -> bool {
        matches!(self, Self::Transformers(_) | Self::OpenClipHuggingFace(..))
    }

    /// What ids depend on besides the tokenizer's files; `None` for `transformers`, where it is nothing.
    pub(super) fn identity(&self) -> Option<String> {
        let name = self.rules().name();
        match self {
            Self::Transformers(_) => None,
            Self::OpenClip(clean) | Self::OpenClipHuggingFace(_, clean) => Some(format!("{name} {clean:?}")),
            Self::OpenAi | Self::Immich { canonicalize: false, .. } => Some(name.to_owned()),
            Self::Immich { canonicalize: true, .. } => Some(format!("{name} canonicalize")),
        }
    }
}
