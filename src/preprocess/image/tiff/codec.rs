//! The compressions of TIFF that are not pictures of their own: PackBits, LZW, Deflate, LZMA and Zstandard.
//!
//! Owns filling a buffer from a chunk's bytes. Invariants: what fills it ends it, whatever follows, as in libtiff, so that nothing
//! inflates beyond it; a chunk that does not fill it is an error. Besides the buffer LZMA and Zstandard take their dictionary, of which
//! no more is touched than the buffer has.

use std::io::{ErrorKind, Read};

use flate2::{Decompress, FlushDecompress, Status};
use weezl::{BitOrder, LzwStatus, decode::Decoder as LzwDecoder};

use super::refusal::{FORMAT, corrupt};
use crate::preprocess::{image::error::ImageError, memory};

/// Of a dictionary: that of the highest level of `xz`, with what else the decoder takes.
const MAX_LZMA: u32 = (64 << 10) + 1024;

/// Of a window: libzstd's own limit is 128 MiB, its levels up to 19 take 8 MiB at most.
const MAX_ZSTD: u64 = 128 << 20;

/// How a chunk is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Codec {
    PackBits,
    Lzw,
    Deflate,
    Lzma,
    Zstd,
}

impl Codec {
    /// Whether differences may be stored in place of samples.
    pub(super) fn predicts(self) -> bool {
        self != Self::PackBits
    }

    /// Fills `out` from `data`.
    pub(super) fn decode(self, data: &[u8], out: &mut [u8]) -> Result<(), ImageError> {
        match self {
            Self::PackBits => pack_bits(data, out),
            Self::Lzw => lzw(data, out),
            Self::Deflate => deflate(data, out),
            Self::Lzma => {
                let size = u64::from(MAX_LZMA) << 10;
                memory::ask(size.min(out.len() as u64))?;
                read(lzma_rust2::XzReader::new_mem_limit(data, true, MAX_LZMA), out)
            }
            Self::Zstd => zstd(data, out),
        }
    }
}

const TRUNCATED: ImageError = ImageError::Truncated { format: FORMAT };

fn pack_bits(mut data: &[u8], out: &mut [u8]) -> Result<(), ImageError> {
    let mut at = 0;
    while at < out.len() {
        let (&head, rest) = data.split_first().ok_or(TRUNCATED)?;
        data = rest;
        let room = &mut out[at..];
        // What is beyond the end of the chunk is left out.
        match head {
            0..128 => {
                let length = room.len().min(usize::from(head) + 1);
                let literals = data.get(..length).ok_or(TRUNCATED)?;
                room[..length].copy_from_slice(literals);
                data = &data[length..];
                at += length;
            }
            128 => {}
            129.. => {
                let length = room.len().min(257 - usize::from(head));
                let (&value, rest) = data.split_first().ok_or(TRUNCATED)?;
                room[..length].fill(value);
                data = rest;
                at += length;
            }
        }
    }
    Ok(())
}

fn lzw(mut data: &[u8], out: &mut [u8]) -> Result<(), ImageError> {
    // Old files have the lowest bits of a code first, so that the first code, which clears the table, begins with a zero.
    let is_old = matches!(data, [0, second, ..] if second & 1 == 1);
    let mut decoder =
        if is_old { LzwDecoder::new(BitOrder::Lsb, 8) } else { LzwDecoder::with_tiff_size_switch(BitOrder::Msb, 8) };
    let mut at = 0;
    while at < out.len() {
        let done = decoder.decode_bytes(data, &mut out[at..]);
        data = &data[done.consumed_in..];
        at += done.consumed_out;
        match done.status {
            Ok(LzwStatus::Ok) => {}
            Ok(LzwStatus::NoProgress | LzwStatus::Done) if at < out.len() => return Err(TRUNCATED),
            Ok(LzwStatus::NoProgress | LzwStatus::Done) => {}
            Err(error) => return Err(corrupt(error.to_string())),
        }
    }
    Ok(())
}

fn deflate(mut data: &[u8], out: &mut [u8]) -> Result<(), ImageError> {
    let mut decoder = Decompress::new(true);
    let mut at = 0;
    while at < out.len() {
        let (before_in, before_out) = (decoder.total_in(), decoder.total_out());
        let status = decoder.decompress(data, &mut out[at..], FlushDecompress::None);
        let (taken, given) = (decoder.total_in() - before_in, decoder.total_out() - before_out);
        data = &data[taken as usize..];
        at += given as usize;
        match status {
            Ok(Status::Ok) if taken + given > 0 => {}
            Ok(_) if at < out.len() => return Err(TRUNCATED),
            Ok(_) => {}
            Err(error) => return Err(corrupt(error.to_string())),
        }
    }
    Ok(())
}

fn zstd(data: &[u8], out: &mut [u8]) -> Result<(), ImageError> {
    // The decoder takes the window at once, whatever is in it.
    memory::ask(MAX_ZSTD)?;
    let decoder = ruzstd::decoding::StreamingDecoder::new_with_max_window_size(data, MAX_ZSTD);
    read(decoder.map_err(|error| corrupt(error.to_string()))?, out)
}

fn read(mut decoder: impl Read, out: &mut [u8]) -> Result<(), ImageError> {
    decoder.read_exact(out).map_err(|error| match error.kind() {
        ErrorKind::UnexpectedEof => TRUNCATED,
        ErrorKind::OutOfMemory => ImageError::TooMuchMemory { format: FORMAT },
        _ => corrupt(error.to_string()),
    })
}
