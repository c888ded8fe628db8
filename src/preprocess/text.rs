//! From a text to its `input_ids`.
//!
//! Owns the byte limit, the tokenizer and truncation. Does not pad (the encoder does, to its batch's longest).
//!
//! Invariant: the ids are those of `CLIPTokenizerFast(text, truncation=True, max_length=context_length)`: the first is the
//! start token, the last the end token, also after truncation.

use std::path::{Path, PathBuf};

use tokenizers::Tokenizer;

use super::clip_tokenizer;
use crate::encoder::{InputError, InputErrorKind, Tokens};

/// Why a tokenizer cannot be used, in one line for the operator.
#[derive(Debug, thiserror::Error)]
#[error("tokenizer {path}: {reason}", path = .path.display())]
pub struct TokenizerError {
    path: PathBuf,
    reason: String,
}

/// A tokenized text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tokenized {
    /// The ids, at most the context length.
    pub tokens: Tokens,
    /// Whether ids were cut off.
    pub truncated: bool,
}

/// A model's tokenizer with the limits that texts are held to.
#[derive(Debug)]
pub struct TextTokenizer {
    tokenizer: Tokenizer,
    context_length: usize,
    max_text_bytes: usize,
}

impl TextTokenizer {
    /// Loads `tokenizer.json`, or `vocab.json` with the `merges.txt` beside it.
    ///
    /// # Errors
    /// When the file is missing, is not a tokenizer, or does not frame a text with a start and an end token.
    pub fn open(path: &Path, context_length: usize, max_text_bytes: usize) -> Result<Self, TokenizerError> {
        let fault = |reason: String| TokenizerError { path: path.to_owned(), reason };
        if !path.is_file() {
            return Err(fault("no such file".to_owned()));
        }
        let read = if path.file_name().is_some_and(|name| name == "vocab.json") {
            clip_tokenizer::read(path)
        } else {
            Tokenizer::from_file(path).map_err(|error| error.to_string())
        };
        let mut tokenizer = read.map_err(fault)?;
        // The file may carry the settings of whoever saved it; truncation and padding are ours.
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(|error| fault(error.to_string()))?;
        let empty = tokenizer.encode_fast("", true).map_err(|error| fault(error.to_string()))?;
        if empty.get_ids().len() != 2 {
            return Err(fault(format!(
                "an empty text has {} ids, expected 2: CLIP needs a start and an end token around each text",
                empty.get_ids().len()
            )));
        }
        Ok(Self { tokenizer, context_length, max_text_bytes })
    }

    /// The longest sequence of ids, start and end token included.
    pub fn context_length(&self) -> usize {
        self.context_length
    }

    /// Tokenizes one text. Too many ids are cut when `truncate`, else refused.
    ///
    /// # Errors
    /// When the text is over the byte limit (checked first: tokenizing takes time in proportion to the bytes, also of what is
    /// cut off afterwards), or over the context length without `truncate`.
    pub fn tokenize(&self, text: &str, truncate: bool) -> Result<Tokenized, InputError> {
        let invalid = |message: String| InputError { kind: InputErrorKind::InvalidText, message };
        if text.len() > self.max_text_bytes {
            return Err(invalid(format!(
                "the text has {} bytes, the limit is {}; only about the first {} words can count, so send less",
                text.len(),
                self.max_text_bytes,
                self.context_length
            )));
        }
        let encoding = self.tokenizer.encode_fast(text, true).map_err(|error| {
            tracing::warn!(%error, "a text could not be tokenized");
            invalid("the text cannot be tokenized".to_owned())
        })?;
        let ids = encoding.get_ids();
        let truncated = ids.len() > self.context_length;
        if !truncated {
            return Ok(Tokenized { tokens: Tokens::new(ids.to_vec()), truncated });
        }
        if !truncate {
            return Err(invalid(format!(
                "the text has {} tokens, the model's context length is {}; shorten it, or send \"truncate\": true",
                ids.len(),
                self.context_length
            )));
        }
        let (kept, end) = (&ids[..self.context_length - 1], ids[ids.len() - 1]);
        Ok(Tokenized { tokens: Tokens::new([kept, &[end]].concat()), truncated })
    }
}
