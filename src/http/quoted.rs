//! The client's own words, as messages repeat them.
//!
//! Owns how much of them is repeated and what is escaped. Everything of a request that goes into a message (keys, values, names of
//! fields, content types) goes through here, also where another's error text holds it.
//!
//! Invariant: what is shown has at most [`MAX_CHARS`] characters, all of them printable, on one line and in reading order.

use std::fmt::{self, Write as _};

/// Characters that are shown.
const MAX_CHARS: usize = 64;

/// Shows the beginning of a client's text, without quotation marks around it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Quoted<'a>(pub &'a str);

impl Quoted<'_> {
    /// Whether the text is shown as it is, told without looking far: a long one never is.
    pub(super) fn is_plain(self) -> bool {
        let plain = |byte: u8| (byte.is_ascii_graphic() || byte == b' ') && byte != b'"' && byte != b'\\';
        self.0.len() <= MAX_CHARS && self.0.bytes().all(plain)
    }
}

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut chars = self.0.chars().peekable();
        let mut left = MAX_CHARS;
        while let Some(char) = chars.next() {
            // The text of another's error has its words in quotation marks of either kind, so one of them is left alone.
            let escaped = (char != '\'').then(|| char.escape_debug());
            let len = escaped.as_ref().map_or(1, ExactSizeIterator::len);
            // The last place is for what tells that there is more.
            if len + usize::from(chars.peek().is_some()) > left {
                return f.write_char('…');
            }
            match escaped {
                Some(escaped) => write!(f, "{escaped}")?,
                None => f.write_char(char)?,
            }
            left -= len;
        }
        Ok(())
    }
}

/// `text`, the error of a parser, with every one of the client's `words` that it repeats [`Quoted`].
pub(super) fn requote<'a>(text: String, words: impl IntoIterator<Item = &'a str>) -> String {
    words.into_iter().filter(|word| !Quoted(word).is_plain()).fold(text, |text, word| {
        let quoted = Quoted(word).to_string();
        // Parsers repeat a word as it is, or as Rust's `Debug` does.
        let debug = format!("{word:?}");
        text.replace(&debug, &format!("\"{quoted}\"")).replace(word, &quoted)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_most_64_characters_are_shown_and_the_rest_is_told() {
        for (text, shown) in [
            ("top_k".to_owned(), "top_k".to_owned()),
            ("a".repeat(64), "a".repeat(64)),
            ("a".repeat(65), format!("{}…", "a".repeat(63))),
            ("ü".repeat(1000), format!("{}…", "ü".repeat(63))),
            (format!("{}\n", "a".repeat(63)), format!("{}…", "a".repeat(63))),
            (String::new(), String::new()),
        ] {
            assert_eq!(Quoted(&text).to_string(), shown);
        }
    }

    #[test]
    fn nothing_that_moves_the_cursor_or_the_reading_order_is_shown() {
        let bidi = ['\u{61c}', '\u{200e}', '\u{200f}'].into_iter();
        let bidi = bidi.chain('\u{202a}'..='\u{202e}').chain('\u{2066}'..='\u{2069}').chain(['\u{2028}', '\u{2029}']);
        for char in ('\0'..='\u{1f}').chain('\u{7f}'..='\u{9f}').chain(bidi) {
            let shown = Quoted(&format!("a{char}b")).to_string();
            assert!(shown.starts_with("a\\") && shown.ends_with('b') && !shown.contains(char), "{char:?}: {shown}");
        }
        assert_eq!(Quoted("it's \"so\"\n").to_string(), r#"it's \"so\"\n"#);
    }

    #[test]
    fn the_words_in_a_parsers_text_are_cut_wherever_they_stand() {
        let long = "x".repeat(100);
        let cut = Quoted(&long).to_string();
        let text =
            requote(format!("unknown variant `{long}`, expected `a`; invalid type: string {long:?}"), [&*long, "a"]);
        assert_eq!(text, format!("unknown variant `{cut}`, expected `a`; invalid type: string \"{cut}\""));
        assert_eq!(requote("string \"a\\nb\"".to_owned(), ["a\nb"]), "string \"a\\nb\"");
    }
}
