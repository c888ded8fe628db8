//! Text that was decoded with the wrong encoding, decoded again with the right one: ftfy's `fix_encoding`.
//!
//! Owns the order in which encodings are tried, and the repairs of bytes that did not come through whole. Does not own the tables
//! (`encodings`) nor the suspicion (`badness`).
//!
//! Invariant: each step is linear in the text, and is counted ([`Passes`]).

use std::{borrow::Cow, collections::BTreeSet, sync::LazyLock};

use memchr::memmem;
use regex::bytes::Regex;

use super::{
    badness::is_bad,
    encodings::{Encoding, LATIN_1, LOST, OTHERS, WINDOWS_1252},
    passes::{Passes, TooManyPasses},
};

/// Decodes `text` again, as often as that changes it.
///
/// # Errors
/// When `passes` are used up.
pub(super) fn fix_encoding(text: &str, passes: &mut Passes) -> Result<String, TooManyPasses> {
    let mut text = Cow::Borrowed(text);
    loop {
        passes.count(text.len())?;
        match step(&text, passes)? {
            Some(fixed) if fixed != text => text = Cow::Owned(fixed),
            _ => return Ok(text.into_owned()),
        }
    }
}

/// One decoding of `text`; `None` where there is nothing to repair.
fn step(text: &str, passes: &mut Passes) -> Result<Option<String>, TooManyPasses> {
    if text.is_ascii() || !is_bad(text) {
        return Ok(None);
    }
    let mut encodings = [&*LATIN_1, &*WINDOWS_1252].into_iter().chain(OTHERS.iter());
    if let Some(fixed) = encodings.find_map(|encoding| decoded_again(text, encoding)) {
        return Ok(Some(fixed));
    }
    let fixed = fix_parts(text, passes)?;
    if fixed != text {
        return Ok(Some(fixed));
    }
    if let Some(bytes) = LATIN_1.encode(text)
        // The holes of Windows-1252 are no characters here.
        && let Some(fixed) = bytes.iter().map(|&byte| windows_1252(byte)).collect::<Option<String>>()
        && fixed != text
    {
        return Ok(Some(fixed));
    }
    Ok(Some(fix_c1_controls(text).into_owned()))
}

fn windows_1252(byte: u8) -> Option<char> {
    match byte {
        0x81 | 0x8d | 0x8f | 0x90 | 0x9d => None,
        0..=0x7f => Some(char::from(byte)),
        _ => Some(WINDOWS_1252.char(byte)),
    }
}

/// ftfy's `fix_c1_controls`: the control characters of Latin-1 as what Windows-1252 has in their places.
pub(super) fn fix_c1_controls(text: &str) -> Cow<'_, str> {
    let is_c1 = |char| ('\u{80}'..='\u{9f}').contains(&char);
    if !text.contains(is_c1) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(text.chars().map(|char| if is_c1(char) { WINDOWS_1252.char(char as u8) } else { char }).collect())
}

/// `text` as UTF-8 that somebody took for `encoding`.
fn decoded_again(text: &str, encoding: &Encoding) -> Option<String> {
    let mut bytes = encoding.encode(text)?;
    if encoding.has_no_break_space_at_a0 {
        bytes = restore_no_break_spaces(bytes);
    }
    if encoding.is_sloppy {
        bytes = LOSSY.replace_all(&bytes, LOST.to_string().as_bytes()).into_owned();
    }
    if bytes.iter().any(|byte| matches!(byte, 0xed | 0xc0)) { variants(&bytes) } else { String::from_utf8(bytes).ok() }
}

/// UTF-8 in which a no-break space, a byte 0xa0, has become a space.
static ALTERED: LazyLock<Regex> = LazyLock::new(|| {
    let pattern = r"(?-u)[\xc2\xc3\xc5\xce\xd0\xd9] |[\xe2\xe3] [\x80-\x84\x86-\x9f\xa1-\xbf]|[\xe0-\xe3][\x80-\x84\x86-\x9f\xa1-\xbf] |\xf0 [\x80-\xbf]{2}|\xf0[\x80-\xbf] [\x80-\xbf]|\xf0[\x80-\xbf]{2} ";
    Regex::new(pattern).expect("a pattern of constants")
});

/// UTF-8, or CESU-8, of which some bytes were lost. A question mark may stand for one of them.
static LOSSY: LazyLock<Regex> = LazyLock::new(|| {
    let pattern = r"(?-u)[\xc2-\xdf]\x1a|[\xc2\xc3]\?|\xed[\xa0-\xaf][\x1a?]\xed[\xb0-\xbf][\x1a?\x80-\xbf]|\xed[\xa0-\xaf][\x1a?\x80-\xbf]\xed[\xb0-\xbf][\x1a?]|[\xe0-\xef][\x1a?][\x1a\x80-\xbf]|[\xe0-\xef][\x1a\x80-\xbf][\x1a?]|[\xf0-\xf4][\x1a?][\x1a\x80-\xbf]{2}|[\xf0-\xf4][\x1a\x80-\xbf][\x1a?][\x1a\x80-\xbf]|[\xf0-\xf4][\x1a\x80-\xbf]{2}[\x1a?]|\x1a";
    Regex::new(pattern).expect("a pattern of constants")
});

/// ftfy's `restore_byte_a0`. An à that is a word of its own, in French or Portuguese, keeps the space behind it.
fn restore_no_break_spaces(bytes: Vec<u8>) -> Vec<u8> {
    // Only then, or every word with such an à would be two.
    if !ALTERED.is_match(&bytes) {
        return bytes;
    }
    let mut words = Vec::with_capacity(bytes.len() + bytes.len() / 2);
    let mut done = 0;
    for at in memmem::find_iter(&bytes, b"\xc3 ") {
        let (before, after) = (&bytes[done..at], &bytes[at + 2..]);
        words.extend_from_slice(before);
        let of_another = [&b" "[..], b"quele", b"quela", b"quilo", b"s "].iter().any(|word| after.starts_with(word));
        words.extend_from_slice(if of_another { b"\xc3 " } else { b"\xc3\xa0 " });
        done = at + 2;
    }
    words.extend_from_slice(&bytes[done..]);
    let restore = |found: &regex::bytes::Captures| -> Vec<u8> {
        found[0].iter().map(|&byte| if byte == b' ' { 0xa0 } else { byte }).collect()
    };
    ALTERED.replace_all(&words, restore).into_owned()
}

/// UTF-8 in which a character beyond U+FFFF may be two surrogates of three bytes each (CESU-8), and U+0000 two bytes (Java).
fn variants(bytes: &[u8]) -> Option<String> {
    let mut out = String::with_capacity(bytes.len());
    let mut rest = bytes;
    while !rest.is_empty() {
        let special = |at: &usize| matches!(rest[*at..], [0xc0, 0x80, ..] | [0xc0, b'\n'] | [0xed, 0xa0..=0xbf, ..]);
        let at = (0..rest.len()).find(special).unwrap_or(rest.len());
        out.push_str(std::str::from_utf8(&rest[..at]).ok()?);
        rest = match rest[at..] {
            [] => &[],
            // A line's end behind half of it goes with it, as Python's `$` has it.
            [0xc0, 0x80, ref rest @ ..] | [0xc0, b'\n', ref rest @ ..] => {
                out.push('\0');
                rest
            }
            [0xed, a @ 0xa0..=0xaf, b @ 0x80..=0xbf, 0xed, c @ 0xb0..=0xbf, d @ 0x80..=0xbf, ref rest @ ..] => {
                let bits = [(a & 0xf, 16), (b & 0x3f, 10), (c & 0xf, 6), (d & 0x3f, 0)];
                let offset: u32 = bits.iter().map(|&(bits, shift)| u32::from(bits) << shift).sum();
                out.push(char::from_u32(0x1_0000 + offset)?);
                rest
            }
            _ => return None,
        };
    }
    Some(out)
}

/// What the bytes of UTF-8 look like in the encodings of the Windows family.
struct Clues {
    /// By the number of bytes that a character has that begins with it.
    first: [BTreeSet<char>; 3],
    continuation: BTreeSet<char>,
    /// Of those the ones behind which nothing begins.
    strict: BTreeSet<char>,
}

static CLUES: LazyLock<Clues> = LazyLock::new(|| {
    let of = |bytes: &mut dyn Iterator<Item = u8>| -> BTreeSet<char> {
        let encodings = || [&*LATIN_1, &*WINDOWS_1252].into_iter().chain(&OTHERS[..5]);
        bytes.flat_map(|byte| encodings().map(move |encoding| encoding.char(byte))).collect()
    };
    let mut continuation = of(&mut (0x80..=0xbf));
    // Dashes, quotes, a bullet and dots may well stand before a word that is to be repaired.
    let strict = continuation.difference(&"–—―‘’‚“”„•…".chars().collect()).copied().collect();
    continuation.insert(' ');
    // Of four bytes, those of emoji, and of what has been added since.
    let first = [of(&mut (0xc2..=0xdf)), of(&mut (0xe0..=0xef)), of(&mut [0xf0, 0xf3].into_iter())];
    Clues { first, continuation, strict }
});

impl Clues {
    /// How many characters at the beginning of `chars` look like one of UTF-8.
    fn sequence(&self, chars: &[char]) -> Option<usize> {
        let (first, rest) = chars.split_first()?;
        let fits = |more: &usize| {
            let continues = |rest: &[char]| rest.iter().all(|char| self.continuation.contains(char));
            self.first[*more - 1].contains(first) && rest.get(..*more).is_some_and(continues)
        };
        (1..=3).find(fits).map(|more| more + 1)
    }
}

/// ftfy's `decode_inconsistent_utf8`: parts of the text that look like UTF-8 misread, each decoded by itself.
fn fix_parts(text: &str, passes: &mut Passes) -> Result<String, TooManyPasses> {
    let clues = &*CLUES;
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let mut end = at;
        if at == 0 || !clues.strict.contains(&chars[at - 1]) {
            while let Some(length) = clues.sequence(&chars[end..]) {
                end += length;
            }
        }
        if end == at {
            out.push(chars[at]);
            at += 1;
            continue;
        }
        let part: String = chars[at..end].iter().collect();
        // The whole is what failed as such.
        let fixed = if end - at < chars.len() && is_bad(&part) { fix_encoding(&part, passes)? } else { part };
        out.push_str(&fixed);
        at = end;
    }
    Ok(out)
}
