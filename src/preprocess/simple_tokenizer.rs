//! The tokenizer of OpenAI's code, which open_clip has taken over: `SimpleTokenizer`.
//!
//! Owns what is a word, and the special tokens of both. Does not own the vocabulary (`clip_vocabulary`), cleaning (`clean`) nor the frame of
//! a text.
//!
//! Invariant: the ids are those of `SimpleTokenizer.encode` for a text that was cleaned.

use icu_properties::{
    CodePointMapData,
    props::{GeneralCategory, GeneralCategoryGroup},
};
use regex::Regex;
use tokenizers::{AddedToken, Model, Tokenizer, decoders::byte_level::ByteLevel};

use super::clip_vocabulary::{characters_of_bytes, model};

/// The two special tokens, start and end.
#[derive(Clone, Copy, Debug)]
pub(super) enum Special {
    OpenClip,
    OpenAi,
}

impl Special {
    fn tokens(self) -> [&'static str; 2] {
        match self {
            Self::OpenClip => ["<start_of_text>", "<end_of_text>"],
            Self::OpenAi => ["<|startoftext|>", "<|endoftext|>"],
        }
    }
}

/// The characters of `group`, for a class of a pattern: by Unicode 18, as in Python's `regex` 2026.11.19. The tables of the crate `regex`
/// end with Unicode 16.
fn class(group: GeneralCategoryGroup) -> String {
    let ranges = CodePointMapData::<GeneralCategory>::new().iter_ranges_for_group(group);
    ranges.map(|range| format!(r"\u{{{:x}}}-\u{{{:x}}}", range.start(), range.end())).collect()
}

/// A vocabulary with what is a word of it.
#[derive(Debug)]
pub(super) struct SimpleTokenizer {
    /// For the vocabulary, and the way back.
    tokenizer: Tokenizer,
    words: Regex,
    special: [(&'static str, u32); 2],
    characters: [char; 256],
}

impl SimpleTokenizer {
    pub(super) fn new(special: Special) -> tokenizers::Result<Self> {
        let tokens = special.tokens();
        let mut tokenizer = Tokenizer::new(model(tokens));
        tokenizer.with_decoder(Some(ByteLevel::default()));
        tokenizer.add_special_tokens(tokens.map(|token| AddedToken::from(token, true)))?;
        let id = |token: &'static str| (token, tokenizer.token_to_id(token).expect("the vocabulary was made with it"));
        let special = tokens.map(id);
        // Ignoring case, Python's `regex` finds U+0345 in none of these classes: it parts words and is none.
        let [start, end] = tokens.map(regex::escape);
        let [letter, number] = [GeneralCategoryGroup::Letter, GeneralCategoryGroup::Number].map(class);
        let words = format!(
            r"(?i:{start}|{end}|'s|'t|'re|'ve|'m|'ll|'d)|[{letter}]+|[{number}]|[^\s{letter}{number}\u{{345}}]+"
        );
        let words = Regex::new(&words).expect("a pattern of constants");
        Ok(Self { tokenizer, words, special, characters: characters_of_bytes() })
    }

    pub(super) fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The ids of the start and the end token.
    pub(super) fn frame(&self) -> [u32; 2] {
        self.special.map(|(_, id)| id)
    }

    /// Hands each id of `text` to `keep`, with the place of its word.
    pub(super) fn for_each(&self, text: &str, mut keep: impl FnMut(u32, (usize, usize))) -> tokenizers::Result<()> {
        let mut word = String::new();
        for found in self.words.find_iter(text) {
            let place = (found.start(), found.end());
            if let Some(&(_, id)) = self.special.iter().find(|(token, _)| *token == found.as_str()) {
                keep(id, place);
                continue;
            }
            word.clear();
            word.extend(found.as_str().bytes().map(|byte| self.characters[usize::from(byte)]));
            for token in self.tokenizer.get_model().tokenize(&word)? {
                keep(token.id, place);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(special: Special, text: &str) -> Vec<u32> {
        let tokenizer = SimpleTokenizer::new(special).expect("constants");
        let mut ids = Vec::new();
        tokenizer.for_each(text, |id, _| ids.push(id)).expect("a text");
        ids
    }

    #[test]
    fn special_tokens_inside_a_text_are_the_librarys_own_and_only_where_a_word_begins() {
        assert_eq!(ids(Special::OpenClip, "a<end_of_text>"), [320, 49407]);
        // Other characters before it are one word with its bracket.
        assert_ne!(ids(Special::OpenClip, "!<end_of_text>").last(), Some(&49407));
        assert!(!ids(Special::OpenClip, "<|endoftext|>").contains(&49407));
        assert_eq!(ids(Special::OpenAi, "<|startoftext|>a<|endoftext|>"), [49406, 320, 49407]);
        // The pattern finds it in either case, and the vocabulary has it in one.
        assert!(!ids(Special::OpenClip, "<END_OF_TEXT>").contains(&49407));
    }

    #[test]
    fn letters_and_numbers_are_those_of_unicode_18() {
        // Letters, and numbers, that came with Unicode 17 and 18.
        let tokenizer = SimpleTokenizer::new(Special::OpenClip).expect("constants");
        let words = |text| tokenizer.words.find_iter(text).map(|found| found.as_str()).collect::<Vec<_>>();
        assert_eq!(
            words("a\u{88f}!\u{558}b\u{11de0}\u{125a0}"),
            ["a\u{88f}", "!", "\u{558}b", "\u{11de0}", "\u{125a0}"]
        );
        // So many of each has `regex` 2026.11.19.
        let count = |group| {
            let ranges = CodePointMapData::<GeneralCategory>::new().iter_ranges_for_group(group);
            ranges.map(|range| range.count()).sum::<usize>()
        };
        assert_eq!(count(GeneralCategoryGroup::Letter), 158_172);
        assert_eq!(count(GeneralCategoryGroup::Number), 2247);
    }
}
