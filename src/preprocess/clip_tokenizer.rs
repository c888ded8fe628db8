//! CLIP's tokenizer from `vocab.json` and `merges.txt`, the two files of checkpoints that have no `tokenizer.json`.
//!
//! Owns the pipeline around the vocabulary, which those files do not hold: the one that `transformers`' converter of a slow
//! `CLIPTokenizer` writes into a `tokenizer.json`. Does not own truncation, padding or limits.
//!
//! Invariant: the ids are those of the `tokenizer.json` that `save_pretrained` writes for the same two files.

use std::path::Path;

use tokenizers::{
    AddedToken, SplitDelimiterBehavior, Tokenizer,
    models::bpe::BPE,
    normalizers::{self, Lowercase, NFC, Replace, replace::ReplacePattern},
    pre_tokenizers::{
        byte_level::ByteLevel,
        sequence::Sequence,
        split::{Split, SplitPattern},
    },
    processors::roberta::RobertaProcessing,
};

use crate::model::tokens::{END, START};

/// The file beside `vocab.json`.
const MERGES_FILE: &str = "merges.txt";
/// What is a word, from OpenAI's tokenizer: an English contraction, a run of letters, one digit, a run of anything else.
const WORDS: &str = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";

/// Reads `vocab` and the [`MERGES_FILE`] beside it.
///
/// # Errors
/// When either is missing or damaged, or the vocabulary lacks the start or the end token.
pub(super) fn read(vocab: &Path) -> Result<Tokenizer, String> {
    let merges = vocab.with_file_name(MERGES_FILE);
    if !merges.is_file() {
        return Err(format!("there is no {MERGES_FILE} beside it"));
    }
    build(vocab, &merges).map_err(|error| error.to_string())
}

fn build(vocab: &Path, merges: &Path) -> tokenizers::Result<Tokenizer> {
    let text = |path: &Path| path.to_str().map(str::to_owned).ok_or("the path is not UTF-8");
    let model = BPE::from_file(&text(vocab)?, &text(merges)?)
        .unk_token(END.to_owned())
        .continuing_subword_prefix(String::new())
        .end_of_word_suffix("</w>".to_owned())
        .build()?;
    let mut tokenizer = Tokenizer::new(model);
    let id = |token: &str| {
        tokenizer.token_to_id(token).ok_or_else(|| format!("the vocabulary has no {token}: it is not CLIP's"))
    };
    let (start, end) = (id(START)?, id(END)?);
    tokenizer.with_normalizer(Some(normalizers::Sequence::new(vec![
        NFC.into(),
        Replace::new(ReplacePattern::Regex(r"\s+".to_owned()), " ")?.into(),
        Lowercase.into(),
    ])))?;
    let words = Split::new(SplitPattern::Regex(WORDS.to_owned()), SplitDelimiterBehavior::Removed, true)?;
    tokenizer.with_pre_tokenizer(Some(Sequence::new(vec![words.into(), ByteLevel::new(false, true, true).into()])));
    tokenizer.with_post_processor(Some(
        RobertaProcessing::new((END.to_owned(), end), (START.to_owned(), start))
            .trim_offsets(false)
            .add_prefix_space(false),
    ));
    let special = [START, END].map(|token| AddedToken::from(token, true).normalized(true));
    tokenizer.add_special_tokens(special)?;
    Ok(tokenizer)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde::Deserialize;

    use super::*;

    #[derive(Deserialize)]
    struct Golden {
        text: String,
        input_ids: Vec<u32>,
    }

    #[derive(Deserialize)]
    struct Texts {
        texts: Vec<Golden>,
    }

    fn fixture(name: &str) -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
    }

    fn golden<T: for<'de> Deserialize<'de>>(name: &str) -> T {
        serde_json::from_str(&fs::read_to_string(fixture(name)).expect("a golden")).expect("its shape")
    }

    #[test]
    fn the_ids_are_those_of_the_reference() {
        let tokenizer = read(&fixture("tiny-clip/vocab.json")).expect("the fixture");
        let mut texts = golden::<Texts>("golden/texts.json").texts;
        texts.extend(golden::<Vec<Golden>>("golden/naughty_ids.json"));
        assert_eq!(texts.len(), 24 + 515);
        for Golden { text, input_ids } in texts {
            let mut ids = tokenizer.encode_fast(text.as_str(), true).expect("ids").get_ids().to_vec();
            if let (Some(&end), true) = (ids.last(), ids.len() > 77) {
                ids.truncate(76);
                ids.push(end);
            }
            assert_eq!(ids, input_ids, "{text:?}");
        }
    }

    #[test]
    fn files_that_are_missing_damaged_or_not_clips_are_named() {
        let root = tempfile::tempdir().expect("a folder");
        let vocab = root.path().join("vocab.json");
        fs::write(&vocab, r#"{"a": 0}"#).expect("a file");
        assert!(read(&vocab).expect_err("no merges").contains("merges.txt"));
        fs::write(root.path().join("merges.txt"), "#version: 0.2\n").expect("a file");
        assert!(read(&vocab).expect_err("no special tokens").contains("<|startoftext|>"));
        fs::write(&vocab, "[").expect("a file");
        assert!(read(&vocab).is_err());
    }
}
