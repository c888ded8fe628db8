//! CLIP's own vocabulary, for checkpoints that come without one: those of open_clip and OpenAI.
//!
//! Owns the merges, which are in the program (`clip_merges.txt.gz`, one pair a line), and the order of tokens that follows from them. Does not
//! own what is a word.
//!
//! Invariant: each token but the two special ones has the id that it has in CLIP's `vocab.json`.

use std::io::Read;

use flate2::read::GzDecoder;
use tokenizers::models::bpe::{BPE, Vocab};

/// What the last token of a word ends in.
pub(super) const END_OF_WORD: &str = "</w>";

const MERGES: &[u8] = include_bytes!("clip_merges.txt.gz");

/// The bytes that stand for themselves, then the others, in the order of their tokens.
fn bytes_in_order() -> impl Iterator<Item = u8> {
    let stands = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    (0..=255u8).filter(stands).chain((0..=255u8).filter(move |byte| !stands(byte)))
}

/// The characters that bytes are written as: themselves, or 256 and the number of those before that do not stand for themselves.
pub(super) fn characters_of_bytes() -> [char; 256] {
    let mut characters = ['\0'; 256];
    let mut others = 256u32..;
    for byte in bytes_in_order() {
        let stands = matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
        let number = if stands { Some(u32::from(byte)) } else { others.next() };
        characters[usize::from(byte)] = number.and_then(char::from_u32).expect("a number below 512");
    }
    characters
}

/// The model, with `special` as the last two tokens.
pub(super) fn model(special: [&str; 2]) -> BPE {
    let mut text = String::new();
    GzDecoder::new(MERGES).read_to_string(&mut text).expect("the merges are in the program");
    let pair = |line: &str| line.split_once(' ').map(|(one, other)| (one.to_owned(), other.to_owned()));
    let merges: Vec<(String, String)> = text.lines().filter_map(pair).collect();
    let characters = characters_of_bytes();
    let single = || bytes_in_order().map(|byte| characters[usize::from(byte)].to_string());
    let tokens = single()
        .chain(single().map(|character| character + END_OF_WORD))
        .chain(merges.iter().map(|(one, other)| format!("{one}{other}")))
        .chain(special.map(str::to_owned));
    let vocabulary: Vocab = tokens.zip(0..).collect();
    let builder = BPE::builder().vocab_and_merges(vocabulary, merges).end_of_word_suffix(END_OF_WORD.to_owned());
    builder.build().expect("each token of a merge is in the vocabulary")
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn the_vocabulary_in_the_program_is_clips() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/tiny-clip/vocab.json");
        let expected: HashMap<String, u32> =
            serde_json::from_str(&std::fs::read_to_string(path).expect("the fixture")).expect("a vocabulary");
        assert_eq!(expected.len(), 49408);
        let model = model(["<|startoftext|>", "<|endoftext|>"]);
        let vocabulary: HashMap<String, u32> = model.get_vocab().into_iter().collect();
        assert_eq!(vocabulary, expected);
        let merges = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/tiny-clip/merges.txt");
        let merges = std::fs::read_to_string(merges).expect("the fixture");
        let mut text = String::new();
        GzDecoder::new(MERGES).read_to_string(&mut text).expect("text");
        assert!(merges.lines().filter(|line| !line.starts_with("#version")).eq(text.lines()));
    }
}
