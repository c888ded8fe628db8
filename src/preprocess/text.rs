//! From a text to its `input_ids`.
//!
//! Owns the byte limit, truncation, which id pads, and the way back from ids to a text. Does not own the tokenizer (`pipeline`), nor pad: the
//! encoder does, to its batch's longest.
//!
//! Invariant: the ids are those of the library whose rules the model follows, of `transformers`
//! `CLIPTokenizerFast(text, truncation=True, max_length=context_length)`: the first is the start token, the last the end token, also after
//! truncation.

use tokenizers::{ModelWrapper, models::bpe::BPE};

pub use super::pipeline::Piece;
use super::pipeline::{Fault, Pipeline};
use crate::{
    encoder::{InputError, InputErrorKind, Tokens},
    model::{ModelError, one_line, texts::Tokenization, tokens::TokenizerSettings},
};

/// Why a tokenizer cannot be used, in one line for the operator.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// The tokenizer itself.
    #[error("tokenizer {name}: {reason}")]
    Tokenizer {
        /// Its file, or what it is.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A file beside it.
    #[error(transparent)]
    Settings(#[from] ModelError),
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
    pipeline: Pipeline,
    context_length: usize,
    max_text_bytes: usize,
    end_id: u32,
    pad_id: u32,
    vocab_size: Option<usize>,
}

impl TextTokenizer {
    /// Loads the tokenizer, for a model whose ids are below `vocab_size`, where that is known: a tokenizer may have more.
    ///
    /// # Errors
    /// When its file is missing, is not a tokenizer, does not frame a text with a start and an end token, or frames or pads it with
    /// one that the model has not.
    pub fn open(
        tokenization: &Tokenization,
        context_length: usize,
        max_text_bytes: usize,
        vocab_size: Option<usize>,
    ) -> Result<Self, TokenizerError> {
        let name = tokenization.file().map_or_else(|| "CLIP's own".to_owned(), |path| path.display().to_string());
        // It may quote the file.
        let fault = |reason: String| TokenizerError::Tokenizer { name: name.clone(), reason: one_line(&reason) };
        let settings = tokenization.file().map(TokenizerSettings::beside).transpose();
        // A tokenizer that is not there is what is to be said.
        let added = match &settings {
            Ok(Some(settings)) if tokenization.adds_tokens() => settings.added.as_slice(),
            _ => &[],
        };
        let pipeline = Pipeline::open(tokenization, added).map_err(fault)?;
        let pad_token = settings?.and_then(|settings| settings.pad_token);
        let empty = pipeline.ids("").map_err(|error| fault(error.to_string()))?;
        let [start, end] = *empty else {
            return Err(fault(format!(
                "an empty text has {} ids, expected 2: CLIP needs a start and an end token around each text",
                empty.len()
            )));
        };
        let pad_id = match pad_token {
            Some(token) => pipeline
                .tokenizer()
                .token_to_id(&token)
                .ok_or_else(|| fault(format!("it has no token {token:?}, the pad_token")))?,
            None => pipeline.default_pad_id(end),
        };
        if let Some((id, vocab_size)) = outside(&[start, end, pad_id], vocab_size) {
            return Err(fault(format!(
                "its start, end or padding token is {id}, and the model's vocabulary has {vocab_size} tokens: they do not belong together"
            )));
        }
        Ok(Self { pipeline, context_length, max_text_bytes, end_id: end, pad_id, vocab_size })
    }

    /// What `CLIPTokenizer` fills a text up with: `pad_token`, by default the end token.
    pub fn pad_id(&self) -> u32 {
        self.pad_id
    }

    /// The longest sequence of ids, start and end token included.
    pub fn context_length(&self) -> usize {
        self.context_length
    }

    /// The ids of a text that somebody else has tokenized, of which the first `attended` are attended to.
    ///
    /// # Errors
    /// When there are none, or more than the context length, or one that the model has not. What a graph from elsewhere has, it does
    /// not say: there they must be ids that this tokenizer has, since one that is outside of the table would fail a whole batch.
    pub fn accept(&self, ids: &[i64], attended: usize) -> Result<Tokens, InputError> {
        let invalid = |message: String| InputError { kind: InputErrorKind::InvalidText, message };
        if !(1..=self.context_length).contains(&ids.len()) {
            return Err(invalid(format!("there are {} ids, expected 1 to {}", ids.len(), self.context_length)));
        }
        let vocab_size = self.vocab_size.unwrap_or_else(|| self.pipeline.tokenizer().get_vocab_size(true));
        let known = |&id: &i64| u32::try_from(id).ok().filter(|&id| (id as usize) < vocab_size).ok_or(id);
        let ids: Vec<u32> = ids.iter().map(known).collect::<Result<_, _>>().map_err(|id| {
            invalid(format!(
                "the id {id} is no token of the model, whose vocabulary has {vocab_size}; use its own tokenizer"
            ))
        })?;
        Ok(Tokens::new(ids).attending(attended))
    }

    /// Those of `tokens` that are attended to, if their embedding is that of all of them: it is taken from the end token (by older
    /// checkpoints from the highest id), and nothing behind that counts, since attention looks back.
    ///
    /// # Errors
    /// When the end token may be among the others.
    pub fn attended(&self, tokens: &Tokens) -> Result<Tokens, InputError> {
        let (attended, rest) = tokens.ids().split_at(tokens.attended());
        let pooled_in_rest = !attended.contains(&self.end_id) && rest.contains(&self.end_id);
        if attended.is_empty() || pooled_in_rest || rest.iter().max() > attended.iter().max() {
            return Err(InputError {
                kind: InputErrorKind::InvalidText,
                message: format!(
                    "the mask shuts out the token that the embedding is taken from; attend to all of the text, its end token ({}) \
                     among it",
                    self.end_id
                ),
            });
        }
        Ok(if rest.is_empty() { tokens.clone() } else { Tokens::new(attended) })
    }

    /// Tokenizes one text. Too many ids are cut when `truncate`, else refused.
    ///
    /// # Errors
    /// When the text is over the byte limit (checked first: tokenizing takes time in proportion to the bytes, also of what is
    /// cut off afterwards), over the context length without `truncate`, or has a token that the model has not.
    pub fn tokenize(&self, text: &str, truncate: bool) -> Result<Tokenized, InputError> {
        self.check_bytes(text)?;
        let ids = self.pipeline.ids(text).map_err(not_tokenized)?;
        let truncated = ids.len() > self.context_length;
        if truncated && !truncate {
            return Err(invalid(format!(
                "the text has {} tokens, the model's context length is {}; shorten it, or send \"truncate\": true",
                ids.len(),
                self.context_length
            )));
        }
        let tokens = if truncated {
            let (kept, end) = (&ids[..self.context_length - 1], ids[ids.len() - 1]);
            Tokens::new([kept, &[end]].concat())
        } else {
            Tokens::new(ids)
        };
        if let Some((id, vocab_size)) = outside(tokens.ids(), self.vocab_size) {
            let token = self.pipeline.tokenizer().id_to_token(id).unwrap_or_default();
            return Err(invalid(format!(
                "the text has the token {token:?} with the id {id}, the model's vocabulary has {vocab_size}; leave it out"
            )));
        }
        Ok(Tokenized { tokens, truncated })
    }

    fn check_bytes(&self, text: &str) -> Result<(), InputError> {
        if text.len() <= self.max_text_bytes {
            return Ok(());
        }
        Err(invalid(format!(
            "the text has {} bytes, the limit is {} (limits.max_text_bytes); only about the first {} words can count, so send less",
            text.len(),
            self.max_text_bytes,
            self.context_length
        )))
    }

    /// The most pieces that a text of so many bytes has: normalisation makes three bytes of one at most, and two more frame the text.
    pub fn most_pieces(bytes: usize) -> usize {
        bytes.saturating_mul(3).saturating_add(2)
    }

    /// All tokens of a text, also those beyond the context length; with the start and the end token when `framed`.
    ///
    /// # Errors
    /// When the text is over the byte limit.
    pub fn pieces(&self, text: &str, framed: bool) -> Result<Vec<Piece>, InputError> {
        self.check_bytes(text)?;
        self.pipeline.pieces(text, framed).map_err(not_tokenized)
    }

    /// How the token with this id is written, if there is one.
    pub fn token(&self, id: u32) -> Option<String> {
        self.pipeline.tokenizer().id_to_token(id)
    }

    /// The text of `ids`, as `CLIPTokenizerFast.decode(ids, clean_up_tokenization_spaces=False)` has it. Never more characters and
    /// invalid bytes than the tokens have bytes, and one for each token.
    ///
    /// # Errors
    /// When they are no text.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String, InputError> {
        let text = self.pipeline.tokenizer().decode(ids, skip_special).map_err(|error| {
            tracing::warn!(%error, "ids could not be decoded");
            invalid("the ids cannot be decoded".to_owned())
        })?;
        Ok(match self.pipeline.tokenizer().get_model() {
            ModelWrapper::BPE(BPE { end_of_word_suffix: Some(suffix), .. }) if !suffix.is_empty() => {
                text.replace(suffix.as_str(), " ").trim().to_owned()
            }
            _ => text,
        })
    }
}

fn invalid(message: String) -> InputError {
    InputError { kind: InputErrorKind::InvalidText, message }
}

fn not_tokenized(error: Fault) -> InputError {
    match error {
        Fault::TooManyPasses => invalid(
            "the text is escaped or misread so many times over that cleaning it takes too long; send it as it is to be read"
                .to_owned(),
        ),
        Fault::Tokenizer(error) => {
            tracing::warn!(%error, "a text could not be tokenized");
            invalid("the text cannot be tokenized".to_owned())
        }
    }
}

/// The first of `ids` that is not in the vocabulary, and its size, where that is known.
fn outside(ids: &[u32], vocab_size: Option<usize>) -> Option<(u32, usize)> {
    let vocab_size = vocab_size?;
    ids.iter().find(|&&id| id as usize >= vocab_size).map(|&id| (id, vocab_size))
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        path::{Path, PathBuf},
    };

    use super::*;

    fn fixture(file: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiny-clip").join(file)
    }

    /// As the tokenizer itself counts them, which is what TEI answers: bytes, and of a character that is composed first its base alone.
    #[test]
    fn spans_count_bytes_of_the_text_as_it_was_given() {
        let tokenizer = TextTokenizer::open(&Tokenization::Transformers(fixture("tokenizer.json")), 77, 1024, None)
            .expect("the fixture");
        for (text, expected) in [
            ("cafe\u{301} x", &["cafe", "x"][..]),
            ("cafe\u{301}\u{301} x", &["cafe", "\u{301}", "\u{301}", "x"]),
            ("x\u{301}y", &["x", "\u{301}", "\u{301}", "y"]),
            ("\u{130}!", &["\u{130}", "\u{130}", "\u{130}", "!"]),
            ("\u{fb01}ne", &["\u{fb01}", "\u{fb01}", "\u{fb01}", "ne"]),
        ] {
            let pieces = tokenizer.pieces(text, false).expect("a text");
            let spans = pieces.iter().map(|piece| piece.span.expect("no frame"));
            let texts: Vec<&str> = spans.map(|(start, stop)| &text[start as usize..stop as usize]).collect();
            assert_eq!(texts, expected, "{text:?}");
        }
    }

    #[test]
    fn padding_is_what_the_files_beside_the_tokenizer_say_else_the_end_token() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("tokenizer.json");
        fs::copy(fixture("tokenizer.json"), &path).expect("a copy");
        let pad_id = || {
            TextTokenizer::open(&Tokenization::Transformers(path.clone()), 77, 1024, None)
                .map(|tokenizer| tokenizer.pad_id())
        };
        assert_eq!(pad_id().expect("no such file"), 49407);
        let write = |text: &str| fs::write(dir.path().join("tokenizer_config.json"), text).expect("written");
        write(r#"{"pad_token": "!"}"#);
        assert_eq!(pad_id().expect("a token"), 0);
        write(r#"{"pad_token": "[PAD]"}"#);
        assert_eq!(pad_id().expect("it is added"), 49408);
        let error = TextTokenizer::open(&Tokenization::Transformers(path.clone()), 77, 1024, Some(49408))
            .expect_err("the model has it not")
            .to_string();
        assert!(error.contains("padding") && error.contains("49408"), "{error}");
    }

    #[test]
    fn whatever_a_tokenizer_says_its_error_is_one_short_line() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("tokenizer.json");
        let open = || TextTokenizer::open(&Tokenization::Transformers(path.clone()), 77, 1024, None);
        let much = "a\nb".repeat(10_000);
        let text = fs::read_to_string(fixture("tokenizer.json")).expect("the fixture");
        let mut odd: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        odd["model"]["vocab"]["a"] = much.clone().into();
        fs::write(&path, odd.to_string()).expect("written");
        let of_vocabulary = open().expect_err("an id is a number").to_string();
        fs::write(&path, text).expect("written");
        let settings = serde_json::json!({"added_tokens_decoder": {"1": {"content": "a", "special": much}}});
        fs::write(dir.path().join("tokenizer_config.json"), settings.to_string()).expect("written");
        let of_settings = open().expect_err("it is true or false").to_string();
        for error in [of_vocabulary, of_settings] {
            assert!(!error.contains('\n') && error.len() < 1000, "{} bytes", error.len());
        }
    }

    /// The ids are those of `CLIPTokenizerFast` of `transformers` 4.57.6 and of `CLIPTokenizer` of 5.24.0.
    #[test]
    fn added_tokens_are_found_in_texts_as_the_reference_finds_them() {
        let special = |content: &str, id: &str| {
            format!(r#""{id}": {{"content": "{content}", "normalized": true, "special": true}}"#)
        };
        let own = [special("<|startoftext|>", "49406"), special("<|endoftext|>", "49407")].join(",");
        let config = format!(r#"{{"added_tokens_decoder": {{{own}, "49408": {{"content": "<sks>"}}}}}}"#);
        let without = format!(r#"{{"added_tokens_decoder": {{{own}}}}}"#);
        let special_alone = r#"{"additional_special_tokens": ["<sks>"]}"#.to_owned();
        // A special one is not looked for in the normalised text.
        let special_found: &[(&str, &[u32])] =
            &[("<sks> cat", &[49406, 49408, 2368, 49407]), ("a <SKS> b", &[49406, 320, 283, 48136, 285, 321, 49407])];
        let pad = r#"{"pad_token": "!"}"#.to_owned();
        let pad_found: &[(&str, &[u32])] = &[("wow!", &[49406, 2781, 0, 49407])];
        let sks: [(&str, &[u32]); 6] = [
            ("<sks> cat", &[49406, 49408, 2368, 49407]),
            ("a<sks>cat", &[49406, 320, 49408, 2368, 49407]),
            ("a <SKS> b", &[49406, 320, 49408, 321, 49407]),
            ("x <sks>  y", &[49406, 343, 49408, 344, 49407]),
            ("sks2 <sk", &[49406, 48136, 273, 283, 2058, 49407]),
            ("<new> a", &[49406, 283, 686, 285, 320, 49407]),
        ];
        let plain: &[(&str, &[u32])] = &[("<sks> cat", &[49406, 283, 48136, 285, 2368, 49407])];
        let both: &[(&str, &[u32])] =
            &[("<sks> cat", &[49406, 49409, 2368, 49407]), ("<new> a", &[49406, 49408, 320, 49407])];
        for (added, config, expected) in [
            (None, None, plain),
            (Some(r#"{"<sks>": 49408}"#), None, &sks[..]),
            // The configuration goes before.
            (Some(r#"{"<sks>": 49408}"#), Some(&without), plain),
            (Some(r#"{"<new>": 49408}"#), Some(&config), &sks),
            (None, Some(&config), &sks),
            // The order of the ids counts, not the ids.
            (Some(r#"{"<sks>": 49410}"#), None, &sks),
            (Some(r#"{"<sks>": 49409, "<new>": 49408}"#), None, both),
            (None, Some(&special_alone), special_found),
            (None, Some(&pad), pad_found),
        ] {
            for files in [&["tokenizer.json"][..], &["vocab.json", "merges.txt"]] {
                let dir = tempfile::tempdir().expect("a folder");
                for file in files {
                    fs::copy(fixture(file), dir.path().join(file)).expect("a copy");
                }
                let write = |name: &str, text: Option<&str>| {
                    text.inspect(|text| fs::write(dir.path().join(name), text).expect("written"));
                };
                write("added_tokens.json", added);
                write("tokenizer_config.json", config.map(String::as_str));
                let tokenizer =
                    TextTokenizer::open(&Tokenization::Transformers(dir.path().join(files[0])), 77, 1024, None)
                        .expect("a tokenizer");
                for (text, ids) in expected {
                    let tokens = tokenizer.tokenize(text, false).expect("ids").tokens;
                    assert_eq!(tokens.ids(), *ids, "{text:?} by {files:?}, {added:?}, {config:?}");
                }
            }
        }
    }
}
