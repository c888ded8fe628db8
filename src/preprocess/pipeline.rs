//! From a text to all of its ids, by the rules of the model's library.
//!
//! Owns opening the tokenizer with what is added to it, and cleaning before it. Does not own any limit, nor cutting (`text`).
//!
//! Invariant: the ids begin with the start token and end with the end token.

use tokenizers::Tokenizer;

use super::{
    clean::{TooManyPasses, basic_clean, joined, without_punctuation},
    clip_tokenizer,
    simple_tokenizer::{SimpleTokenizer, Special},
};
use crate::model::{
    texts::{Clean, Tokenization},
    tokens::AddedToken,
};

/// One token of a text, as it is without any cutting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The id.
    pub id: u32,
    /// Bytes of the text that it stands for, whole characters, all of them where cleaning has changed the text; `None` for one that frames
    /// the text.
    pub span: Option<(u32, u32)>,
}

/// Why a text has no ids.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    /// Cleaning it takes too long.
    #[error("it takes too many passes to clean")]
    TooManyPasses,
    /// The tokenizer's own.
    #[error(transparent)]
    Tokenizer(#[from] tokenizers::Error),
}

impl From<TooManyPasses> for Fault {
    fn from(_: TooManyPasses) -> Self {
        Self::TooManyPasses
    }
}

/// A tokenizer and what comes before it.
#[derive(Debug)]
pub(super) enum Pipeline {
    /// A `tokenizer.json`, or what stands for one.
    Whole { tokenizer: Box<Tokenizer>, cleaning: Cleaning },
    /// CLIP's own vocabulary.
    Simple { tokenizer: Box<SimpleTokenizer>, cleaning: Cleaning },
}

/// What is done to a text before it is tokenized.
#[derive(Clone, Copy, Debug)]
pub(super) enum Cleaning {
    /// Nothing: the tokenizer does all.
    None,
    /// As open_clip, and with [`Clean::Lower`] OpenAI's code.
    OpenClip(Clean),
    /// As Immich.
    Immich { canonicalize: bool },
}

impl Cleaning {
    fn apply(self, text: &str) -> Result<String, Fault> {
        Ok(match self {
            Self::None => text.to_owned(),
            Self::OpenClip(clean) => {
                let text = basic_clean(text)?;
                match clean {
                    Clean::Lower => joined(&text).to_lowercase(),
                    Clean::Whitespace => joined(&text),
                    Clean::Canonicalize => joined(&without_punctuation(&text.replace('_', " ")).to_lowercase()),
                }
            }
            Self::Immich { canonicalize: false } => joined(text),
            Self::Immich { canonicalize: true } => without_punctuation(&joined(text)).to_lowercase(),
        })
    }
}

impl Pipeline {
    /// Opens what `tokenization` names, and adds `added` to it.
    pub(super) fn open(tokenization: &Tokenization, added: &[AddedToken]) -> Result<Self, String> {
        let simple = |special, clean| {
            let tokenizer = SimpleTokenizer::new(special).map_err(|error| error.to_string())?;
            Ok(Self::Simple { tokenizer: Box::new(tokenizer), cleaning: Cleaning::OpenClip(clean) })
        };
        let (path, cleaning) = match tokenization {
            Tokenization::Transformers(path) => (path, Cleaning::None),
            Tokenization::OpenClipHuggingFace(path, clean) => (path, Cleaning::OpenClip(*clean)),
            Tokenization::Immich { tokenizer, canonicalize } => {
                (tokenizer, Cleaning::Immich { canonicalize: *canonicalize })
            }
            Tokenization::OpenClip(clean) => return simple(Special::OpenClip, *clean),
            Tokenization::OpenAi => return simple(Special::OpenAi, Clean::Lower),
        };
        if !path.is_file() {
            return Err("no such file".to_owned());
        }
        let mut tokenizer = if path.file_name().is_some_and(|name| name == "vocab.json") {
            clip_tokenizer::read(path)?
        } else {
            Tokenizer::from_file(path).map_err(|error| error.to_string())?
        };
        add_tokens(&mut tokenizer, added).map_err(|error| error.to_string())?;
        // The file may carry the settings of whoever saved it; truncation and padding are ours.
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(|error| error.to_string())?;
        Ok(Self::Whole { tokenizer: Box::new(tokenizer), cleaning })
    }

    /// The vocabulary.
    pub(super) fn tokenizer(&self) -> &Tokenizer {
        match self {
            Self::Whole { tokenizer, .. } => tokenizer,
            Self::Simple { tokenizer, .. } => tokenizer.tokenizer(),
        }
    }

    /// What texts are filled up with where no file says it.
    pub(super) fn default_pad_id(&self, end: u32) -> u32 {
        match self {
            Self::Whole { .. } => end,
            Self::Simple { .. } => 0,
        }
    }

    /// All ids of `text`, with those that frame it.
    pub(super) fn ids(&self, text: &str) -> Result<Vec<u32>, Fault> {
        match self {
            Self::Whole { tokenizer, cleaning: Cleaning::None } => {
                Ok(tokenizer.encode_fast(text, true)?.get_ids().to_vec())
            }
            Self::Whole { tokenizer, cleaning } => {
                Ok(tokenizer.encode_fast(cleaning.apply(text)?, true)?.get_ids().to_vec())
            }
            Self::Simple { tokenizer, cleaning } => {
                let [start, end] = tokenizer.frame();
                let mut ids = vec![start];
                tokenizer.for_each(&cleaning.apply(text)?, |id, _| ids.push(id))?;
                ids.push(end);
                Ok(ids)
            }
        }
    }

    /// The same with their places; with those that frame it when `framed`.
    pub(super) fn pieces(&self, text: &str, framed: bool) -> Result<Vec<Piece>, Fault> {
        let (Self::Whole { cleaning, .. } | Self::Simple { cleaning, .. }) = self;
        let cleaned = match cleaning {
            Cleaning::None => None,
            cleaning => Some(cleaning.apply(text)?),
        };
        // Letters made small keep their places, as long as they are ASCII.
        let is_changed = cleaned.as_ref().is_some_and(|cleaned| !cleaned.eq_ignore_ascii_case(text));
        let cleaned = cleaned.as_deref().unwrap_or(text);
        let span = |(start, end): (usize, usize)| {
            if is_changed {
                return Some((0, text.len() as u32));
            }
            // A character that is several tokens belongs to each of them.
            Some((text.floor_char_boundary(start) as u32, text.ceil_char_boundary(end) as u32))
        };
        match self {
            Self::Whole { tokenizer, .. } => {
                let encoding = tokenizer.encode(cleaned, framed)?;
                let frames = encoding.get_special_tokens_mask();
                let pieces = encoding.get_ids().iter().zip(encoding.get_offsets()).zip(frames);
                let piece = |((&id, &place), &frame)| Piece { id, span: if frame == 0 { span(place) } else { None } };
                Ok(pieces.map(piece).collect())
            }
            Self::Simple { tokenizer, .. } => {
                let [start, end] = tokenizer.frame().map(|id| Piece { id, span: None });
                let mut pieces = Vec::from_iter(framed.then_some(start));
                tokenizer.for_each(cleaned, |id, place| pieces.push(Piece { id, span: span(place) }))?;
                pieces.extend(framed.then_some(end));
                Ok(pieces)
            }
        }
    }
}

/// Adds `tokens` in their order, as `PreTrainedTokenizerFast` does: what the tokenizer has added itself stays as it is.
fn add_tokens(tokenizer: &mut Tokenizer, tokens: &[AddedToken]) -> tokenizers::Result<()> {
    for group in tokens.chunk_by(|a, b| a.special == b.special) {
        let special = group.first().is_some_and(|token| token.special);
        let group = group.iter().map(|token| {
            tokenizers::AddedToken::from(token.content.as_str(), token.special)
                .single_word(token.single_word)
                .lstrip(token.lstrip)
                .rstrip(token.rstrip)
                .normalized(token.normalized.unwrap_or(!token.special))
        });
        if special {
            tokenizer.add_special_tokens(group)?;
        } else {
            tokenizer.add_tokens(group)?;
        }
    }
    Ok(())
}
