//! What a file is called in its row.
//!
//! Owns the one rule for names that are not UTF-8, which neither JSON nor Parquet can hold: their rows have no embedding, and an id that
//! tells them apart, each such byte as `\xff`. Invariant: a name that is UTF-8 is its own id.

use std::{fmt::Write as _, path::Path};

/// Why a row of such a name has no embedding.
pub(super) const NOT_UTF8: &str = "the path is not UTF-8";

/// What is said of an address where a path is expected.
pub(super) const WEB_ADDRESS: &str = "a web address, and these are not fetched; give the path of a file";

/// Whether it begins as an address of the web or of an object store does.
pub(super) fn is_web_address(text: &str) -> bool {
    let begins = |scheme: &&str| text.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme));
    ["http://", "https://", "s3://", "gs://", "hf://"].iter().any(begins)
}

/// What a name that leads to nothing was taken for; `None` where no more can be said than that.
pub(super) fn taken_for(name: &str) -> Option<String> {
    if is_web_address(name) {
        return Some(format!("it is {WEB_ADDRESS}"));
    }
    let braces = "braces are a shell's, which leaves them alone inside quotes: give `*` there, or no quotes";
    name.contains('{').then(|| braces.to_owned())
}

/// `name` as text.
pub(super) fn escaped(name: &[u8]) -> String {
    let mut text = String::with_capacity(name.len());
    for chunk in name.utf8_chunks() {
        text.push_str(chunk.valid());
        for byte in chunk.invalid() {
            // Into a string, which takes everything.
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

/// What the file at `path` is known by.
pub(super) fn id(path: &Path) -> String {
    escaped(path.as_os_str().as_encoded_bytes())
}

/// Why nothing of this name is embedded, if so.
pub(super) fn fault(path: &Path) -> Option<String> {
    path.to_str().is_none().then(|| NOT_UTF8.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_told_from_a_path_in_whatever_case() {
        assert!(["http://a", "HTTPS://a/b.jpg", "s3://bucket/a"].iter().all(|text| is_web_address(text)));
        assert!(["http:/a", "https", "a/http://b", "file:///a", "ä"].iter().all(|text| !is_web_address(text)));
    }

    #[test]
    fn bytes_that_are_no_text_are_told_apart_and_text_stays() {
        for (name, expected) in [
            (&b"a\xff.png"[..], "a\\xff.png"),
            (b"a\xfe.png", "a\\xfe.png"),
            ("ä/\u{fffd}.png".as_bytes(), "ä/\u{fffd}.png"),
            (b"\xc3", "\\xc3"),
        ] {
            assert_eq!(escaped(name), expected);
        }
    }
}
