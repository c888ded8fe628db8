//! The compressions of TIFF that are not pictures of their own: PackBits, LZW, Deflate, LZMA and Zstandard.
//!
//! Owns filling a buffer from a chunk's bytes. Invariants: what fills it ends it, whatever follows, as in libtiff, so that nothing
//! inflates beyond it; a chunk that does not fill it is an error. Besides the buffer LZMA and Zstandard take their dictionary, of which
//! no more is touched than the buffer has; that of Zstandard is kept for the next chunk. Whoever calls bounds the bytes of a chunk: what
//! gives nothing, as codes that clear a table or blocks of nothing, costs time all the same.

use std::io::{ErrorKind, Read};

use flate2::{Decompress, FlushDecompress, Status};
use ruzstd::decoding::{FrameDecoder, StreamingDecoder};

use super::refusal::{FORMAT, corrupt};
use crate::preprocess::{
    image::{
        error::ImageError,
        lzw::{self, Codes, Damage, Growth},
    },
    memory,
};

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
}

/// Decompresses the chunks of one picture, one after the other.
pub(super) struct Decoder {
    codec: Codec,
    /// Its window is that of the largest chunk so far: taking one for each takes longer than many a chunk.
    zstd: Box<FrameDecoder>,
}

impl Decoder {
    pub(super) fn new(codec: Codec) -> Result<Self, ImageError> {
        let mut zstd = Box::new(FrameDecoder::new());
        if codec == Codec::Zstd {
            // The decoder takes the window at once, whatever is in it.
            memory::ask(MAX_ZSTD)?;
            zstd.set_max_window_size(MAX_ZSTD);
        }
        Ok(Self { codec, zstd })
    }

    /// Fills `out` from `data`.
    pub(super) fn decode(&mut self, data: &[u8], out: &mut [u8]) -> Result<(), ImageError> {
        match self.codec {
            Codec::PackBits => pack_bits(data, out),
            Codec::Lzw => lzw(data, out),
            Codec::Deflate => deflate(data, out),
            Codec::Lzma => {
                let size = u64::from(MAX_LZMA) << 10;
                memory::ask(size.min(out.len() as u64))?;
                read(lzma_rust2::XzReader::new_mem_limit(data, true, MAX_LZMA), out)
            }
            Codec::Zstd => zstd(data, &mut self.zstd, out),
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

fn lzw(data: &[u8], out: &mut [u8]) -> Result<(), ImageError> {
    // Old files have the lowest bits of a code first, so that the first code, which clears the table, begins with a zero.
    let is_old = matches!(data, [0, second, ..] if second & 1 == 1);
    let done = if is_old {
        lzw::expand(&mut LowFirst(Bits { data, held: 0, count: 0 }), 8, Growth::Needed, out)
    } else {
        lzw::expand(&mut HighFirst(Bits { data, held: 0, count: 0 }), 8, Growth::Early, out)
    };
    done.map_err(|damage| match damage {
        Damage::Ended => TRUNCATED,
        Damage::Broken => corrupt("a code that nothing stands for"),
        Damage::TooLong => ImageError::TooMuchMemory { format: FORMAT },
    })
}

/// Bits that have been taken out of `data`.
struct Bits<'a> {
    data: &'a [u8],
    held: u32,
    count: u32,
}

/// The first code in the highest bits.
struct HighFirst<'a>(Bits<'a>);

/// The first code in the lowest bits.
struct LowFirst<'a>(Bits<'a>);

impl Codes for HighFirst<'_> {
    fn next(&mut self, size: u32) -> Result<usize, Damage> {
        let Bits { data, held, count } = &mut self.0;
        while *count < size {
            let (&byte, rest) = data.split_first().ok_or(Damage::Ended)?;
            (*data, *held, *count) = (rest, *held << 8 | u32::from(byte), *count + 8);
        }
        *count -= size;
        Ok((*held >> *count & ((1 << size) - 1)) as usize)
    }

    fn pass_end(&mut self) -> Result<(), Damage> {
        Err(Damage::Ended)
    }
}

impl Codes for LowFirst<'_> {
    fn next(&mut self, size: u32) -> Result<usize, Damage> {
        let Bits { data, held, count } = &mut self.0;
        while *count < size {
            let (&byte, rest) = data.split_first().ok_or(Damage::Ended)?;
            (*data, *held, *count) = (rest, *held | u32::from(byte) << *count, *count + 8);
        }
        let code = *held & ((1 << size) - 1);
        (*held, *count) = (*held >> size, *count - size);
        Ok(code as usize)
    }

    fn pass_end(&mut self) -> Result<(), Damage> {
        Err(Damage::Ended)
    }
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

fn zstd(data: &[u8], decoder: &mut FrameDecoder, out: &mut [u8]) -> Result<(), ImageError> {
    let decoder = StreamingDecoder::new_with_decoder(data, decoder);
    read(decoder.map_err(|error| corrupt(error.to_string()))?, out)
}

fn read(mut decoder: impl Read, out: &mut [u8]) -> Result<(), ImageError> {
    decoder.read_exact(out).map_err(|error| match error.kind() {
        ErrorKind::UnexpectedEof => TRUNCATED,
        ErrorKind::OutOfMemory => ImageError::TooMuchMemory { format: FORMAT },
        _ => corrupt(error.to_string()),
    })
}
