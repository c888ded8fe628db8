//! JSON as this program writes it.
//!
//! Owns that a name from a source cannot steer the terminal that shows it, nor turn the direction of the text or end a line for a program that
//! takes more than `\n` for a line end. Invariant: what is written has the same value.

use std::fmt::Write as _;

use serde::Serialize;

use crate::telemetry::is_hostile;

/// `value` on one line, with its end.
///
/// # Errors
/// When it is no JSON.
pub(super) fn line(value: &impl Serialize) -> serde_json::Result<String> {
    serde_json::to_string(value).map(|text| escaped(&text) + "\n")
}

/// `value` for people, with a line end.
///
/// # Errors
/// When it is no JSON.
pub(super) fn page(value: &impl Serialize) -> serde_json::Result<String> {
    serde_json::to_string_pretty(value).map(|text| escaped(&text) + "\n")
}

/// JSON with the escapes of JSON for what could do harm. Outside of its strings it has none of that but line ends.
fn escaped(json: &str) -> String {
    let mut text = String::with_capacity(json.len() + 1);
    let mut rest = json;
    while let Some((at, character)) = rest.char_indices().find(|(_, c)| *c != '\n' && is_hostile(*c)) {
        text.push_str(&rest[..at]);
        for unit in character.encode_utf16(&mut [0; 2]) {
            // Into a string, which takes everything.
            let _ = write!(text, "\\u{unit:04x}");
        }
        rest = &rest[at + character.len_utf8()..];
    }
    text + rest
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn nothing_that_steers_a_terminal_is_written_and_the_value_is_the_same() {
        let hostile = (0..0x20).chain(0x7f..0xa0).filter_map(char::from_u32).collect::<String>();
        let hostile = format!("é{hostile}\u{2028}\u{2029}\u{61c}\u{200e}\u{202e}\u{2066}\u{2069}ü");
        let value = json!({"id": hostile, &*hostile: [1.5, null, {"a": "b"}]});
        for text in [line(&value).unwrap(), page(&value).unwrap()] {
            assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), value);
            assert!(
                !text.contains(|c| c != '\n' && is_hostile(c)) && text.contains("\\u202e") && text.contains('é'),
                "{text}"
            );
        }
        assert_eq!(line(&value).unwrap().lines().count(), 1);
    }
}
