//! What kind of reason a row has for lacking its embedding.
//!
//! Pure: a reason without what is the item's own, so that a thousand broken pictures are one kind.

/// Characters of a kind.
const MAX_CHARS: usize = 200;

/// `reason` without the item's names, other paths and numbers.
pub(super) fn kind<'a>(reason: &str, names: impl IntoIterator<Item = &'a str>) -> String {
    let mut reason = reason.to_owned();
    // A path may have blanks in it; a key such as `a` may be any word.
    for name in names.into_iter().filter(|name| name.contains('/')) {
        reason = reason.replace(name, "…");
    }
    let words: Vec<_> = reason.split_whitespace().map(word).collect();
    words.join(" ").chars().take(MAX_CHARS).collect()
}

fn word(word: &str) -> String {
    if word.contains('/') {
        return if word.ends_with(':') { "…:" } else { "…" }.to_owned();
    }
    let mut shown = String::new();
    let mut was_digit = false;
    for character in word.chars() {
        let is_digit = character.is_ascii_digit();
        if !is_digit {
            shown.push(character);
        } else if !was_digit {
            shown.push('#');
        }
        was_digit = is_digit;
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_that_differ_in_the_item_alone_are_one_kind() {
        for (reason, expected) in [
            ("/data/a b/1.jpg: No such file or directory (os error 2)", "…: No such file or directory (os error #)"),
            (
                "the picture has 40000000 bytes, the limit is 33554432 (--set limits.max_body_bytes=...)",
                "the picture has # bytes, the limit is # (--set limits.max_body_bytes=...)",
            ),
            ("named by it, and /x/y.jpg: it is no file", "named by it, and …: it is no file"),
            ("the image is 9000x8000 pixels", "the image is #x# pixels"),
            ("the JPEG image is truncated; send the whole file", "the JPEG image is truncated; send the whole file"),
        ] {
            assert_eq!(kind(reason, ["/data/a b/1.jpg", "a"]), expected);
        }
        assert_eq!(kind(&"ä ".repeat(500), []).chars().count(), MAX_CHARS);
    }
}
