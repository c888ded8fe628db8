//! ftfy: text that was decoded wrongly, escaped or typeset, as it was meant.
//!
//! Owns `ftfy.fix_text(text)` of version 6.3.1 with its defaults, written anew from what that does: the order of its repairs, and those
//! that look at single characters. `encoding` decodes again, `badness` says what needs that, `passes` bounds how often. Does not own HTML's
//! names (`html`).
//!
//! Invariants: the result is ftfy's, but for a text that takes more than [`passes`] allows, which is refused; time and memory are linear
//! in the text.
//!
//! The tables are ftfy's (Apache-2.0, Robyn Speer), where they are not derived.

mod badness;
mod encoding;
mod encodings;
mod passes;

use std::borrow::Cow;

use unicode_normalization::{UnicodeNormalization, is_nfc};

pub(in crate::preprocess) use self::passes::TooManyPasses;
use self::{
    encoding::{fix_c1_controls, fix_encoding},
    passes::Passes,
};
use super::html;

/// Characters that ftfy looks at in one piece, at most.
const MAX_SEGMENT: usize = 1_000_000;

/// Repairs `text`, line by line.
///
/// # Errors
/// When it takes too many passes.
pub(super) fn fix_text(text: &str) -> Result<String, TooManyPasses> {
    let mut passes = Passes::over(text.len());
    // HTML that has a tag is taken for what it is: from there on, nothing is unescaped.
    let mut unescape = true;
    let mut out = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        let mut rest = line;
        while !rest.is_empty() {
            let end = rest.char_indices().nth(MAX_SEGMENT).map_or(rest.len(), |(at, _)| at);
            let (segment, more) = rest.split_at(end);
            unescape &= !segment.contains('<');
            out.push_str(&fix_segment(segment, unescape, &mut passes)?);
            rest = more;
        }
    }
    Ok(out)
}

/// Repairs one line until there is nothing left to repair.
fn fix_segment(segment: &str, unescape: bool, passes: &mut Passes) -> Result<String, TooManyPasses> {
    let mut text = segment.to_owned();
    loop {
        passes.count(text.len())?;
        let unescaped = if unescape { html::unescape_with_semicolon(&text) } else { Cow::Borrowed(&*text) };
        let decoded = fix_encoding(&unescaped, passes)?;
        let fixed = fix_characters(&fix_c1_controls(&decoded));
        let fixed = without_control_characters(&without_terminal_escapes(&fixed));
        let fixed = if is_nfc(&fixed) { fixed } else { fixed.nfc().collect() };
        if fixed == text {
            return Ok(text);
        }
        text = fixed;
    }
}

/// Ligatures of Latin letters apart, wide and narrow forms as usual ones, quotes straight, and every end of a line `\n`.
fn fix_characters(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(char) = chars.next() {
        match char {
            '\0'..='\x0c' | '\x0e'..='\x7f' => out.push(char),
            '\r' => {
                chars.next_if_eq(&'\n');
                out.push('\n');
            }
            '\u{85}' | '\u{2028}' | '\u{2029}' => out.push('\n'),
            '\u{2bc}' | '\u{2018}'..='\u{201b}' => out.push('\''),
            '\u{201c}'..='\u{201f}' => out.push('"'),
            '\u{3000}' => out.push(' '),
            '\u{ff01}'..='\u{ffef}' => out.extend(std::iter::once(char).nfkc()),
            _ => match ligature(char) {
                // Its apostrophe is one of the quotes.
                Some(letters) => out.extend(letters.chars().map(|char| if char == '\u{2bc}' { '\'' } else { char })),
                None => out.push(char),
            },
        }
    }
    out
}

/// The letters of a ligature that is seldom meant as one.
fn ligature(char: char) -> Option<&'static str> {
    Some(match char {
        'Ĳ' => "IJ",
        'ĳ' => "ij",
        'ŉ' => "\u{2bc}n",
        'Ǳ' => "DZ",
        'ǲ' => "Dz",
        'ǳ' => "dz",
        'Ǆ' => "DŽ",
        'ǅ' => "Dž",
        'ǆ' => "dž",
        'Ǉ' => "LJ",
        'ǈ' => "Lj",
        'ǉ' => "lj",
        'Ǌ' => "NJ",
        'ǋ' => "Nj",
        'ǌ' => "nj",
        'ﬀ' => "ff",
        'ﬁ' => "fi",
        'ﬂ' => "fl",
        'ﬃ' => "ffi",
        'ﬄ' => "ffl",
        'ﬅ' => "ſt",
        'ﬆ' => "st",
        _ => return None,
    })
}

/// Without the sequences that colour a terminal: `ESC [ digits letter`.
fn without_terminal_escapes(text: &str) -> Cow<'_, str> {
    const START: &str = "\x1b[";
    if !text.contains(START) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(START) {
        let (before, sequence) = rest.split_at(at);
        out.push_str(before);
        let after = sequence[START.len()..].trim_start_matches(|char: char| char == ';' || is_decimal(char));
        rest = match after.strip_prefix(|char: char| char.is_ascii_alphabetic()) {
            Some(after) => after,
            None => {
                out.push_str(START);
                &sequence[START.len()..]
            }
        };
    }
    out.push_str(rest);
    Cow::Owned(out)
}

/// Whether Python's `\d` finds it, as far as anybody writes such sequences.
fn is_decimal(char: char) -> bool {
    char.is_ascii_digit()
}

/// Without the control characters that nobody writes on purpose.
fn without_control_characters(text: &str) -> String {
    let is_control = |char: &char| {
        matches!(
            char,
            '\0'..='\x08' | '\x0b' | '\x0e'..='\x1f' | '\x7f' | '\u{206a}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffc}'
        )
    };
    text.chars().filter(|char| !is_control(char)).collect()
}
