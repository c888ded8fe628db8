//! What the files beside a tokenizer say of it: the token that fills texts up, and the tokens that were added to it.
//!
//! Owns reading `tokenizer_config.json`, `special_tokens_map.json` and `added_tokens.json`, and which of them counts: as in
//! `transformers` 4.57 and 5.24, `added_tokens_decoder` of the first one goes before the last one, which older versions wrote, and
//! either is added to a `tokenizer.json` as to a `vocab.json`, and so is a special token that none of them has. Does not add them:
//! `preprocess::text` does.
//!
//! Invariant: added tokens come in the order of their ids. The ids themselves do not count, in `transformers` neither: a token that the
//! vocabulary has not gets the next free one.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::Path,
};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::error::{ModelError, one_line, read};

/// The settings of whoever saved the tokenizer.
pub(super) const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
/// Which tokens are special, where that is not in the [`TOKENIZER_CONFIG`].
pub(super) const SPECIAL_TOKENS: &str = "special_tokens_map.json";
/// Ids of added tokens by their text.
pub(super) const ADDED_TOKENS: &str = "added_tokens.json";

/// `CLIPTokenizer`'s default `bos_token`.
pub const START: &str = "<|startoftext|>";
/// `CLIPTokenizer`'s default `eos_token`, `unk_token` and `pad_token`.
pub const END: &str = "<|endoftext|>";

/// A token that is found in a text before it is cut into words. The fields are those of `AddedToken` in `tokenizers`, with its defaults.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct AddedToken {
    /// Its text.
    pub content: String,
    /// Whether it is found only where it is a whole word.
    #[serde(default)]
    pub single_word: bool,
    /// Whether it takes the white space before it.
    #[serde(default)]
    pub lstrip: bool,
    /// Whether it takes the white space after it.
    #[serde(default)]
    pub rstrip: bool,
    /// Whether it is looked for in the normalised text; `None` where it is when it is not special.
    pub normalized: Option<bool>,
    /// Whether decoding may leave it out.
    #[serde(default)]
    pub special: bool,
}

impl AddedToken {
    /// A plain one.
    fn of(content: String) -> Self {
        Self { content, single_word: false, lstrip: false, rstrip: false, normalized: None, special: false }
    }
}

/// What the files beside one tokenizer say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenizerSettings {
    /// `pad_token`, where there is one.
    pub pad_token: Option<String>,
    /// The tokens to add, those among them that the tokenizer has already.
    pub added: Vec<AddedToken>,
}

/// A special token as `transformers` saves it: its text, or an object with it.
#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a text, or an object with a content")]
enum SpecialToken {
    Text(String),
    Added { content: String },
}

impl SpecialToken {
    fn text(self) -> String {
        match self {
            Self::Text(text) | Self::Added { content: text } => text,
        }
    }
}

impl TokenizerSettings {
    /// Reads the files beside the one at `tokenizer`, as far as they are there.
    ///
    /// # Errors
    /// Names the file that is damaged.
    pub fn beside(tokenizer: &Path) -> Result<Self, ModelError> {
        let (config, map) =
            (Members::beside(tokenizer, TOKENIZER_CONFIG)?, Members::beside(tokenizer, SPECIAL_TOKENS)?);
        let pad_token = |members: &Members| members.get::<SpecialToken>("pad_token");
        let pad_token = pad_token(&config)?.map_or_else(|| pad_token(&map), |token| Ok(Some(token)))?;
        let by_id = config.get::<BTreeMap<u32, AddedToken>>("added_tokens_decoder")?;
        // The map is of older versions, as the file of added tokens is: where the configuration has these, it does not count.
        let special = if by_id.is_some() { config.special_tokens() } else { map.or(&config) };
        let mut added: Vec<AddedToken> = match by_id {
            Some(by_id) => by_id.into_values().collect(),
            None => {
                let special: BTreeSet<&str> = special.iter().map(|token| token.content.as_str()).collect();
                let path = tokenizer.with_file_name(ADDED_TOKENS);
                let ids: BTreeMap<String, u32> =
                    if path.is_file() { read(&path, |text| serde_json::from_str(text))? } else { BTreeMap::new() };
                let mut by_id: Vec<(u32, String)> = ids.into_iter().map(|(content, id)| (id, content)).collect();
                by_id.sort_unstable();
                let twice = by_id.windows(2).find_map(|pair| match pair {
                    [(one, first), (other, second)] if one == other => Some((one, first, second)),
                    _ => None,
                });
                if let Some((id, one, other)) = twice {
                    let reason = one_line(&format!("the id {id} is that of {one:?} and of {other:?}"));
                    return Err(ModelError::File { path, reason });
                }
                let token =
                    |content: String| AddedToken { special: special.contains(&*content), ..AddedToken::of(content) };
                by_id.into_iter().map(|(_, content)| token(content)).collect()
            }
        };
        // What is special and nowhere else becomes a token by that.
        for token in special {
            if added.iter().all(|other| other.content != token.content) {
                added.push(token);
            }
        }
        Ok(Self { pad_token: pad_token.map(SpecialToken::text), added })
    }

    /// The tokens among [`added`](Self::added) that the file at `tokenizer` has not added itself: with them its ids are others.
    ///
    /// # Errors
    /// When that file is no tokenizer.
    pub(super) fn added_to(self, tokenizer: &Path) -> Result<Vec<AddedToken>, ModelError> {
        #[derive(Deserialize)]
        struct Tokenizer {
            added_tokens: Vec<AddedToken>,
        }
        let mut added = self.added;
        added.retain(|token| ![START, END].contains(&token.content.as_str()));
        if added.is_empty() || tokenizer.ends_with("vocab.json") {
            return Ok(added);
        }
        let Tokenizer { added_tokens } = read(tokenizer, |text| serde_json::from_str(text))?;
        let own: BTreeSet<&str> = added_tokens.iter().map(|token| token.content.as_str()).collect();
        added.retain(|token| !own.contains(token.content.as_str()));
        Ok(added)
    }
}

/// The members of one of the files; none where there is no such file.
struct Members<'a> {
    tokenizer: &'a Path,
    file: &'static str,
    members: Map<String, Value>,
}

impl<'a> Members<'a> {
    fn beside(tokenizer: &'a Path, file: &'static str) -> Result<Self, ModelError> {
        let path = tokenizer.with_file_name(file);
        let fault = |reason: String| ModelError::File { path: path.clone(), reason: one_line(&reason) };
        let members = match fs::read_to_string(&path) {
            Ok(text) => serde_json::from_str(&text).map_err(|error| fault(error.to_string()))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Map::new(),
            Err(error) => return Err(fault(error.to_string())),
        };
        Ok(Self { tokenizer, file, members })
    }

    fn get<T: serde::de::DeserializeOwned>(&self, name: &str) -> Result<Option<T>, ModelError> {
        let value = self.members.get(name).cloned().unwrap_or(Value::Null);
        serde_json::from_value(value).map_err(|error| ModelError::File {
            path: self.tokenizer.with_file_name(self.file),
            reason: one_line(&format!("`{name}`: {error}")),
        })
    }

    /// The special tokens that these name, and those of `config` under the names that these do not have.
    fn or(&self, config: &Self) -> Vec<AddedToken> {
        let mut members = config.members.clone();
        members.extend(self.members.clone());
        Self { tokenizer: self.tokenizer, file: self.file, members }.special_tokens()
    }

    /// The tokens that are special by the names of `transformers`, in its order.
    fn special_tokens(&self) -> Vec<AddedToken> {
        const NAMES: [&str; 8] = [
            "bos_token",
            "eos_token",
            "unk_token",
            "sep_token",
            "pad_token",
            "cls_token",
            "mask_token",
            "additional_special_tokens",
        ];
        let values = NAMES.iter().filter_map(|name| self.members.get(*name)).flat_map(|value| match value {
            Value::Array(values) => values.clone(),
            value => vec![value.clone()],
        });
        let token = |value: Value| match value {
            Value::String(content) => Some(AddedToken::of(content)),
            value => serde_json::from_value(value).ok(),
        };
        values.filter_map(token).map(|token: AddedToken| AddedToken { special: true, ..token }).collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn folder(files: &[(&str, Value)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        for (name, value) in files {
            fs::write(folder.path().join(name), value.to_string()).expect("written");
        }
        folder
    }

    fn settings(files: &[(&str, Value)]) -> TokenizerSettings {
        TokenizerSettings::beside(&folder(files).path().join("tokenizer.json")).expect("well formed")
    }

    fn texts(added: &[AddedToken]) -> Vec<&str> {
        added.iter().map(|token| token.content.as_str()).collect()
    }

    #[test]
    fn padding_is_what_the_first_of_two_files_says() {
        assert_eq!(settings(&[]), TokenizerSettings::default());
        let map = (SPECIAL_TOKENS, json!({"pad_token": {"content": "!", "lstrip": false}}));
        assert_eq!(settings(std::slice::from_ref(&map)).pad_token.as_deref(), Some("!"));
        let config = (TOKENIZER_CONFIG, json!({"pad_token": START}));
        assert_eq!(settings(&[map.clone(), config]).pad_token.as_deref(), Some(START));
        let config = (TOKENIZER_CONFIG, json!({"pad_token": null}));
        assert_eq!(settings(&[map, config]).pad_token.as_deref(), Some("!"));
    }

    #[test]
    fn added_tokens_come_by_id_and_the_configuration_goes_before_the_older_file() {
        let older = (ADDED_TOKENS, json!({"<b>": 49409, "<a>": 49408, "[PAD]": 49410}));
        let map = (SPECIAL_TOKENS, json!({"pad_token": "[PAD]", "additional_special_tokens": ["<b>"]}));
        let found = settings(&[older.clone(), map.clone()]);
        assert_eq!(texts(&found.added), ["<a>", "<b>", "[PAD]"]);
        assert_eq!(found.added.iter().map(|token| token.special).collect::<Vec<_>>(), [false, true, true]);
        let by_id = json!({"49409": {"content": "<d>", "special": true}, "9": {"content": "<c>", "normalized": true}});
        let only = |special: Value| texts(&settings(&[(SPECIAL_TOKENS, special)]).added).join(" ");
        assert_eq!(
            only(json!({"additional_special_tokens": ["<e>", {"content": "<f>"}], "pad_token": "!"})),
            "! <e> <f>"
        );
        let found = settings(&[older, map, (TOKENIZER_CONFIG, json!({"added_tokens_decoder": by_id}))]);
        assert_eq!(texts(&found.added), ["<c>", "<d>"]);
        assert_eq!(found.added[0].normalized, Some(true));
        assert!(found.added[1].special && !found.added[1].lstrip);
    }

    #[test]
    fn what_a_tokenizer_has_itself_is_not_added_to_it() {
        let of = |file: &str, own: Value| {
            let added = (ADDED_TOKENS, json!({START: 49406, END: 49407, "<a>": 49408, "<b>": 49409}));
            let root = folder(&[added, (file, json!({"added_tokens": own}))]);
            let tokenizer = root.path().join(file);
            let added =
                TokenizerSettings::beside(&tokenizer).expect("well formed").added_to(&tokenizer).expect("a tokenizer");
            texts(&added).join(" ")
        };
        assert_eq!(of("vocab.json", json!([])), "<a> <b>");
        assert_eq!(of("tokenizer.json", json!([])), "<a> <b>");
        assert_eq!(of("tokenizer.json", json!([{"id": 49408, "content": "<a>"}])), "<b>");
    }

    #[test]
    fn a_damaged_file_is_named() {
        for (file, value) in [
            (TOKENIZER_CONFIG, json!([])),
            (TOKENIZER_CONFIG, json!({"pad_token": 7})),
            (TOKENIZER_CONFIG, json!({"added_tokens_decoder": {"x": {"content": "a"}}})),
            (SPECIAL_TOKENS, json!({"pad_token": []})),
            (ADDED_TOKENS, json!({"a": -1})),
            (ADDED_TOKENS, json!({"a": 49408, "b": 49408})),
        ] {
            let root = folder(&[(file, value)]);
            let error = TokenizerSettings::beside(&root.path().join("tokenizer.json")).expect_err(file).to_string();
            assert!(error.contains(file), "{error}");
        }
    }
}
