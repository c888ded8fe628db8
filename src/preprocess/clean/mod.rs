//! Text as open_clip, OpenAI's code and Immich clean it before they tokenize it.
//!
//! Owns the order of the cleaning and Python's idea of white space. `ftfy` repairs, `html` unescapes. Does not tokenize.
//!
//! Invariant: what cleaning takes, in time and memory, is linear in the text.

mod ftfy;
mod html;

pub(super) use self::ftfy::TooManyPasses;

/// `basic_clean` of open_clip and OpenAI's code: ftfy, and HTML unescaped twice.
///
/// # Errors
/// When ftfy takes too long.
pub(super) fn basic_clean(text: &str) -> Result<String, TooManyPasses> {
    let fixed = ftfy::fix_text(text)?;
    let once = html::unescape(&fixed);
    Ok(html::unescape(&once).trim_matches(is_space).to_owned())
}

/// `" ".join(text.split())`.
pub(super) fn joined(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for word in text.split(is_space).filter(|word| !word.is_empty()) {
        if !out.is_empty() {
            out.push(' ');
        }
        out.push_str(word);
    }
    out
}

/// Without the punctuation of ASCII (`string.punctuation`).
pub(super) fn without_punctuation(text: &str) -> String {
    text.chars().filter(|char| !char.is_ascii_punctuation()).collect()
}

/// What Python's `str.isspace` says: Unicode's white space, and four separators of ASCII.
fn is_space(char: char) -> bool {
    char.is_whitespace() || ('\x1c'..='\x1f').contains(&char)
}
