//! Bodies in the codings of HTTP, whole or broken.
//!
//! Owns the coding; Brotli, of which there is no encoder here, is written in stored blocks.

use std::io::Write;

use fastrand::Rng;
use flate2::{
    Compression,
    write::{DeflateEncoder, GzEncoder, ZlibEncoder},
};
use ruzstd::encoding::{CompressionLevel, compress_to_vec};

use super::bytes;
use crate::Result;

/// The name of a coding and the body in it, broken in three of four cases.
pub(super) fn coded(body: &[u8], rng: &mut Rng) -> Result<(&'static str, Vec<u8>)> {
    let level = Compression::fast();
    let (name, mut coded) = match rng.u8(..5) {
        0 => {
            let mut encoder = GzEncoder::new(Vec::new(), level);
            encoder.write_all(body)?;
            ("gzip", encoder.finish()?)
        }
        1 => {
            let mut encoder = ZlibEncoder::new(Vec::new(), level);
            encoder.write_all(body)?;
            ("deflate", encoder.finish()?)
        }
        2 => {
            let mut encoder = DeflateEncoder::new(Vec::new(), level);
            encoder.write_all(body)?;
            ("deflate", encoder.finish()?)
        }
        3 => ("br", stored_brotli(body)),
        _ => ("zstd", compress_to_vec(body, CompressionLevel::Fastest)),
    };
    if rng.u8(..4) > 0 {
        let whole = coded.clone();
        bytes::mutate(&mut coded, &whole, rng);
    }
    Ok((name, coded))
}

/// RFC 7932: a window of 16 bits, metablocks that are stored, and an empty one at the end.
fn stored_brotli(body: &[u8]) -> Vec<u8> {
    let mut coded = Vec::new();
    for (number, block) in body.chunks(1 << 16).enumerate() {
        // ISLAST 0, MNIBBLES 4, MLEN - 1, ISUNCOMPRESSED 1, behind the window's one bit in the first block; then to the next byte.
        let head = (block.len() as u32 - 1) << 3 | 1 << 19;
        let head = if number == 0 { head << 1 } else { head };
        coded.extend_from_slice(&head.to_le_bytes()[..3]);
        coded.extend_from_slice(block);
    }
    // ISLAST and ISLASTEMPTY; with nothing before it, behind the window's bit.
    coded.push(if body.is_empty() { 0b110 } else { 0b11 });
    coded
}
