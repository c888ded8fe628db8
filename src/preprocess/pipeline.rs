//! From a text to all of its ids, by the rules of the model's library.
//!
//! Owns opening the tokenizer with what is added to it, and cleaning before it. Does not own any limit, nor cutting (`text`).
//!
//! Invariant: the ids begin with the start token and end with the end token.

use std::{fs, panic, path::Path};

use serde::de::IgnoredAny;
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

/// The tokenizer of the file at `path`.
///
/// The crate expects of some parts that they are read without a fault, and panics where they are not (0.23.2): so what is no JSON is refused
/// before, and what is left, such as a thousand lists in one another, is contained.
fn read(path: &Path) -> Result<Tokenizer, String> {
    let text = fs::read_to_string(path).map_err(|error| error.to_string())?;
    serde_json::from_str::<IgnoredAny>(&text).map_err(|error| error.to_string())?;
    let read = panic::catch_unwind(|| text.parse::<Tokenizer>());
    read.map_err(|_| "the reader of tokenizers gave up".to_owned())?.map_err(|error| error.to_string())
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
            read(path)?
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;

    use super::*;

    #[derive(Deserialize)]
    struct Goldens {
        texts: Vec<Golden>,
    }

    /// By each way that differs from open_clip's usual one, and that one.
    #[derive(Deserialize)]
    struct Golden {
        text: String,
        ids: BTreeMap<String, Vec<u32>>,
    }

    fn fixture(name: &str) -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
    }

    #[test]
    fn a_tokenizer_that_is_cut_short_anywhere_is_one_line() {
        let whole = fs::read_to_string(fixture("tiny-clip/tokenizer.json")).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokenizer.json");
        assert!(read(&fixture("tiny-clip/tokenizer.json")).is_ok());
        for part in 1..64 {
            fs::write(&path, &whole[..whole.floor_char_boundary(whole.len() * part / 64)]).unwrap();
            let error = read(&path).unwrap_err();
            assert!(error.contains("EOF while parsing") && !error.contains('\n'), "{error}");
        }
    }

    fn ways() -> [(&'static str, Tokenization); 7] {
        let tokenizer = || fixture("tiny-clip/tokenizer.json");
        let immich = |canonicalize| Tokenization::Immich { tokenizer: tokenizer(), canonicalize };
        [
            ("open_clip", Tokenization::OpenClip(Clean::Lower)),
            ("open_clip_whitespace", Tokenization::OpenClip(Clean::Whitespace)),
            ("open_clip_canonicalize", Tokenization::OpenClip(Clean::Canonicalize)),
            ("open_clip_hf", Tokenization::OpenClipHuggingFace(tokenizer(), Clean::Whitespace)),
            ("openai", Tokenization::OpenAi),
            ("immich", immich(false)),
            ("immich_canonicalize", immich(true)),
        ]
    }

    /// The texts whose ids differ from the golden's, by way.
    fn differing(goldens: &Path) -> Vec<(&'static str, String)> {
        let Goldens { texts } = serde_json::from_str(&fs::read_to_string(goldens).expect("goldens")).expect("goldens");
        assert!(texts.len() > 500);
        let mut differing = Vec::new();
        for (name, tokenization) in ways() {
            let pipeline = Pipeline::open(&tokenization, &[]).expect("a tokenizer");
            for Golden { text, ids: expected } in &texts {
                let mut ids = pipeline.ids(text).expect("ids");
                if let (Some(&end), true) = (ids.last(), ids.len() > 77) {
                    ids.truncate(76);
                    ids.push(end);
                }
                if Some(&ids) != expected.get(name).or(expected.get("open_clip")) {
                    differing.push((name, text.clone()));
                }
            }
        }
        differing
    }

    #[test]
    fn the_ids_are_those_of_each_library() {
        assert_eq!(differing(&fixture("golden/rules.json")), []);
    }

    #[test]
    #[ignore = "wants target/bench/rules, made by onnx/formats/rules.py"]
    fn the_ids_equal_other_goldens() {
        let made = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/bench/rules");
        assert_eq!(differing(&made.join("goldens.json")), []);
    }

    #[test]
    fn a_text_that_is_cleaned_without_end_is_refused_and_no_other() {
        let pipeline = Pipeline::open(&Tokenization::OpenClip(Clean::Lower), &[]).expect("constants");
        let nested = |times| format!("&{}lt;", "amp;".repeat(times));
        assert!(matches!(pipeline.ids(&nested(5000)), Err(Fault::TooManyPasses)));
        assert_eq!(pipeline.ids(&nested(20)).expect("ids"), pipeline.ids("<").expect("ids"));
    }

    #[test]
    fn places_are_those_in_the_text_unless_cleaning_has_changed_it() {
        let pipeline = Pipeline::open(&Tokenization::OpenClip(Clean::Lower), &[]).expect("constants");
        let spans = |text: &str| -> Vec<_> {
            pipeline.pieces(text, false).expect("a text").into_iter().map(|piece| piece.span).collect()
        };
        assert_eq!(spans("A Cat!"), [Some((0, 1)), Some((2, 5)), Some((5, 6))]);
        assert_eq!(spans("a  b"), [Some((0, 4)), Some((0, 4))]);
        let framed = pipeline.pieces("a", true).expect("a text");
        assert_eq!(framed.iter().map(|piece| piece.span).collect::<Vec<_>>(), [None, Some((0, 1)), None]);
    }
}
