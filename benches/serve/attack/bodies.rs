//! Bodies that no well-meaning client sends, and some that many send.
//!
//! Owns their bytes. Does not send them.

use base64::{Engine, engine::general_purpose::STANDARD};

use super::request::jpeg_start;

/// The media type of a JSON body.
pub(crate) const JSON: &str = "application/json";

/// Just below the limit of one body, 32 MiB.
pub(crate) const LARGE: usize = 33_000_000;

const BOUNDARY: &str = "clipserve-attack-boundary";

/// `{"key": value}`.
pub(crate) fn object(key: &str, value: &str) -> Vec<u8> {
    format!("{{\"{key}\": {value}}}").into_bytes()
}

/// A JSON list of this `item` that takes `bytes`.
pub(crate) fn list(item: &str, bytes: usize) -> String {
    let items = bytes / (item.len() + 1);
    let mut list = String::with_capacity(bytes + 2);
    list.push('[');
    list.push_str(&format!("{item},").repeat(items.max(1)));
    list.pop();
    list.push(']');
    list
}

/// A JSON string of this many letters.
pub(crate) fn string(letters: usize) -> String {
    format!("\"{}\"", "a".repeat(letters))
}

/// `{"texts": [...]}` with `count` different texts of `bytes` each, which begin with letters, as digits take a token each.
pub(crate) fn texts(count: usize, bytes: usize) -> Vec<u8> {
    let words = "a photo of a red cat beside the old wooden bridge ".repeat(bytes / 50 + 1);
    let letter = |number: usize| char::from(b'a' + (number % 26) as u8);
    let texts = (0..count).map(|number| {
        let letters = [letter(number / 676), letter(number / 26), letter(number)];
        format!("\"{} {}\"", String::from_iter(letters), &words[..bytes.max(4) - 4])
    });
    let texts: Vec<_> = texts.collect();
    object("texts", &format!("[{}]", texts.join(",")))
}

/// Multipart: content type and body of parts, each the rest of its content disposition and its bytes.
pub(crate) fn multipart<'a>(parts: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> (String, Vec<u8>) {
    let mut body = Vec::new();
    for (disposition, bytes) in parts {
        body.extend_from_slice(
            format!("--{BOUNDARY}\r\ncontent-disposition: form-data; {disposition}\r\n\r\n").as_bytes(),
        );
        body.extend_from_slice(bytes);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(format!("--{BOUNDARY}--\r\n").as_bytes());
    (format!("multipart/form-data; boundary={BOUNDARY}"), body)
}

/// Multipart of pictures.
pub(crate) fn pictures(pictures: &[Vec<u8>]) -> (String, Vec<u8>) {
    multipart(pictures.iter().map(|picture| ("name=\"image\"; filename=\"p\"", picture.as_slice())))
}

/// A JSON list of one picture's base64, `count` times.
pub(crate) fn base64_list(picture: &[u8], count: usize) -> String {
    let picture = format!("\"{}\"", STANDARD.encode(picture));
    format!("[{}]", vec![picture; count].join(","))
}

/// `count` files with the pixels of one JPEG.
pub(crate) fn jpegs(picture: &[u8], count: u64) -> Vec<Vec<u8>> {
    let rest = picture.get(2..).unwrap_or_default();
    (0..count).map(|number| [&jpeg_start(number)[..], rest].concat()).collect()
}

/// A lossless WebP of one colour, `side` x `side` pixels, in some thirty bytes: each of its five alphabets has one symbol, which
/// takes no bits.
pub(crate) fn webp(side: u32, colour: u8) -> Vec<u8> {
    let mut bits: Vec<bool> = Vec::new();
    let mut put = |value: u32, count: u32| bits.extend((0..count).map(|bit| value >> bit & 1 == 1));
    put(side - 1, 14);
    put(side - 1, 14);
    // No alpha, version 0; no transform, no colour cache, no meta prefix codes.
    put(0, 1 + 3 + 3);
    for symbol in [colour, 0, 0, 255, 0] {
        // A simple code of one symbol of eight bits.
        put(0b101, 3);
        put(symbol.into(), 8);
    }
    let mut data = vec![0x2f];
    data.extend(bits.chunks(8).map(|byte| byte.iter().rev().fold(0, |byte, &bit| byte << 1 | u8::from(bit))));
    // Readers look ahead.
    data.resize(data.len().next_multiple_of(2) + 8, 0);
    let chunk = data.len() as u32;
    [b"RIFF", &(chunk + 12).to_le_bytes()[..], b"WEBPVP8L", &chunk.to_le_bytes(), &data].concat()
}
