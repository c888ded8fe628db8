//! Character references of HTML, as Python resolves them.
//!
//! Owns `html.unescape` (Python 3.11 to 3.14), and ftfy's stricter reading of the same names. Does not own when either runs.
//!
//! Invariant: a text grows by a fifth at most: `&nGt;` becomes six bytes.

use std::borrow::Cow;

use htmlize::ENTITIES;
use memchr::memchr;

/// Characters of a name that are looked at, at most.
const LONGEST_NAME: usize = 32;

/// What Windows-1252 has at 0x80 to 0x9f, where HTML takes the numbers of a reference for that; its holes stand for themselves.
const WINDOWS_1252: [char; 32] = [
    '€', '\u{81}', '‚', 'ƒ', '„', '…', '†', '‡', 'ˆ', '‰', 'Š', '‹', 'Œ', '\u{8d}', 'Ž', '\u{8f}', '\u{90}', '‘', '’',
    '“', '”', '•', '–', '—', '˜', '™', 'š', '›', 'œ', '\u{9d}', 'ž', 'Ÿ',
];

/// `html.unescape(text)`: every reference, also one without a semicolon, and of a longer word the longest beginning that is a name.
pub(super) fn unescape(text: &str) -> Cow<'_, str> {
    replace(text, reference)
}

/// ftfy's `unescape_html(text)`: references with a semicolon, their names as HTML has them or all in capitals.
pub(super) fn unescape_with_semicolon(text: &str) -> Cow<'_, str> {
    replace(text, |rest| {
        let number = rest.strip_prefix('#');
        let word = number.unwrap_or(rest);
        let length = word.bytes().take_while(u8::is_ascii_alphanumeric).count();
        if !(1..=24).contains(&length) || word.as_bytes().get(length) != Some(&b';') {
            return None;
        }
        let whole = rest.len() - word.len() + length + 1;
        let stands_for = match number {
            Some(_) => reference(rest).filter(|&(taken, _)| taken == whole)?.1,
            None => named(&rest[..whole]).map(Cow::Borrowed).or_else(|| in_capitals(&rest[..whole]))?,
        };
        Some((whole, stands_for))
    })
}

/// `text` with what `find` finds behind an `&`: the bytes that it takes there, and what stands in their place.
fn replace<'a>(text: &'a str, find: impl Fn(&'a str) -> Option<(usize, Cow<'static, str>)>) -> Cow<'a, str> {
    let Some(first) = memchr(b'&', text.as_bytes()) else { return Cow::Borrowed(text) };
    let mut out = String::with_capacity(text.len());
    let (mut done, mut next) = (0, Some(first));
    while let Some(at) = next {
        let mut from = at + 1;
        if let Some((length, stands_for)) = find(&text[from..]) {
            out.push_str(&text[done..at]);
            out.push_str(&stands_for);
            from += length;
            done = from;
        }
        next = memchr(b'&', &text.as_bytes()[from..]).map(|ahead| from + ahead);
    }
    out.push_str(&text[done..]);
    Cow::Owned(out)
}

/// The reference that `rest`, which follows an `&`, begins with: its bytes, and what it stands for.
fn reference(rest: &str) -> Option<(usize, Cow<'static, str>)> {
    if let Some(number) = rest.strip_prefix('#') {
        let hexadecimal = number.strip_prefix(['x', 'X']);
        let digits = hexadecimal.unwrap_or(number);
        let radix = if hexadecimal.is_some() { 16 } else { 10 };
        let count = digits.bytes().take_while(|&byte| char::from(byte).is_digit(radix)).count();
        if count == 0 {
            return None;
        }
        let value = digits[..count].bytes().fold(0u32, |value, digit| {
            let digit = char::from(digit).to_digit(radix).unwrap_or(0);
            value.saturating_mul(radix).saturating_add(digit)
        });
        let semicolon = usize::from(digits[count..].starts_with(';'));
        let taken = rest.len() - digits.len() + count + semicolon;
        return Some((taken, numbered(value).map_or(Cow::Borrowed(""), |char| Cow::Owned(char.to_string()))));
    }
    let stop = |&(_, char): &(usize, char)| matches!(char, '\t' | '\n' | '\u{c}' | ' ' | '<' | '&' | '#' | ';');
    let end = rest.char_indices().take(LONGEST_NAME).take_while(|at| !stop(at)).last();
    let end = end.map_or(0, |(at, char)| at + char.len_utf8());
    if end == 0 {
        return None;
    }
    // Names are ASCII, so that only what precedes another character can be one.
    let ascii = rest.as_bytes()[..end].iter().take_while(|byte| byte.is_ascii()).count();
    let whole = end + usize::from(rest[end..].starts_with(';'));
    let lengths = (2..=ascii).rev();
    let whole = (whole == end + 1 && ascii == end).then_some(whole);
    whole.into_iter().chain(lengths).find_map(|length| Some((length, Cow::Borrowed(named(&rest[..length])?))))
}

/// The character that a number stands for; `None` for those that HTML takes out.
fn numbered(value: u32) -> Option<char> {
    match value {
        0 => Some('\u{fffd}'),
        0x0d => Some('\r'),
        0x80..=0x9f => Some(WINDOWS_1252[value as usize - 0x80]),
        1..=8 | 0x0b | 0x0e..=0x1f | 0x7f | 0xfdd0..=0xfdef => None,
        _ if value <= 0x0010_ffff && value & 0xfffe == 0xfffe => None,
        _ => Some(char::from_u32(value).unwrap_or('\u{fffd}')),
    }
}

/// What `name`, its semicolon with it where it has one, stands for.
fn named(name: &str) -> Option<&'static str> {
    let mut key = [b'&'; LONGEST_NAME + 2];
    let key = key.get_mut(..=name.len())?;
    key[1..].copy_from_slice(name.as_bytes());
    std::str::from_utf8(ENTITIES.get(&*key)?).ok()
}

/// What `name` stands for if it is that of a lower-case name written in capitals, which HTML does not know: the same in capitals.
fn in_capitals(name: &str) -> Option<Cow<'static, str>> {
    if name.bytes().any(|byte| byte.is_ascii_lowercase()) || reference(name).is_some() {
        return None;
    }
    Some(Cow::Owned(named(&name.to_ascii_lowercase())?.to_uppercase()))
}
