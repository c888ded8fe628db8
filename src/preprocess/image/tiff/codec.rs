//! The compressions of TIFF that are not pictures of their own: PackBits, LZW, Deflate, LZMA and Zstandard.
//!
//! Owns filling a buffer from a chunk's bytes. Invariants: what fills it ends it, whatever follows, as in libtiff, so that nothing
//! inflates beyond it; a chunk that does not fill it is an error. Besides the buffer LZMA and Zstandard take their dictionary, of which
//! no more is touched than the buffer has; that of Zstandard is kept for the next chunk. Whoever calls bounds the bytes of a chunk, as
//! what gives nothing costs time all the same; blocks, which cost more than their bytes, are counted here, of all chunks together.

use std::io::{self, ErrorKind, Read};

use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};
use zlib_rs::{Inflate, InflateFlush, Status};

use super::refusal::{FORMAT, corrupt};
use crate::preprocess::{
    image::{
        blocks::Blocks,
        error::ImageError,
        lzw::{self, Codes, Damage, Growth},
    },
    memory,
};

/// Of a dictionary: that of the highest level of `xz`, with what else the decoder takes.
const MAX_LZMA: u32 = (64 << 10) + 1024;

/// Of a window: libzstd's own limit is 128 MiB, its levels up to 19 take 8 MiB at most.
const MAX_ZSTD: u64 = 128 << 20;

/// Of the strings that libtiff counts before the table is cleared: 1024 more than it has codes for.
const MOST_STRINGS: usize = 4095 + 1024;

/// How often the LZMA decoder reads for a block, about: it does not tell of blocks, and takes the bytes of one at once.
const READS_OF_BLOCK: u32 = 8;

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
    blocks: Blocks,
    /// Its window is that of the largest chunk so far: taking one for each takes longer than many a chunk.
    zstd: Box<FrameDecoder>,
}

impl Decoder {
    /// For chunks in so many blocks.
    pub(super) fn new(codec: Codec, blocks: Blocks) -> Result<Self, ImageError> {
        let mut zstd = Box::new(FrameDecoder::new());
        if codec == Codec::Zstd {
            // The decoder takes the window at once, whatever is in it.
            memory::ask(MAX_ZSTD)?;
            zstd.set_max_window_size(MAX_ZSTD);
        }
        Ok(Self { codec, blocks, zstd })
    }

    /// Fills `out` from `data`.
    pub(super) fn decode(&mut self, data: &[u8], out: &mut [u8]) -> Result<(), ImageError> {
        match self.codec {
            Codec::PackBits => pack_bits(data, out),
            Codec::Lzw => lzw(data, out),
            Codec::Deflate => deflate(data, &mut self.blocks, out),
            Codec::Lzma => lzma(data, &mut self.blocks, out),
            Codec::Zstd => zstd(data, &mut self.zstd, &mut self.blocks, out),
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
        const CLEAR: usize = 256;
        let mut codes = HighFirst(Bits { data, held: 0, count: 0 });
        match codes.next(9) {
            Ok(CLEAR) => lzw::expand(&mut codes, 8, Growth::Early, out),
            Ok(_) => return Err(corrupt("a first code that does not clear the table")),
            Err(damage) => Err(damage),
        }
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
    const MOST_STRINGS: usize = MOST_STRINGS;

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
    const MOST_STRINGS: usize = MOST_STRINGS;

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

fn deflate(mut data: &[u8], blocks: &mut Blocks, out: &mut [u8]) -> Result<(), ImageError> {
    let mut decoder = Inflate::new(true, 15);
    let mut at = 0;
    // On to the checksum behind the last byte, if it lies there: libtiff has it looked at.
    loop {
        let (before_in, before_out) = (decoder.total_in(), decoder.total_out());
        let status = decoder.decompress(data, &mut out[at..], InflateFlush::Block);
        let (taken, given) = (decoder.total_in() - before_in, decoder.total_out() - before_out);
        data = &data[taken as usize..];
        at += given as usize;
        match status {
            Ok(Status::Ok) if taken + given > 0 => blocks.spend(FORMAT)?,
            Ok(_) if at < out.len() => return Err(TRUNCATED),
            Ok(_) => return Ok(()),
            Err(error) => return Err(corrupt(error.as_str().to_owned())),
        }
    }
}

fn lzma(data: &[u8], blocks: &mut Blocks, out: &mut [u8]) -> Result<(), ImageError> {
    let size = u64::from(MAX_LZMA) << 10;
    memory::ask(size.min(out.len() as u64))?;
    let counted = Counted { data, blocks, reads: 0 };
    let read = lzma_rust2::XzReader::new_mem_limit(counted, true, MAX_LZMA).read_exact(out);
    read.map_err(|error| match error.kind() {
        ErrorKind::UnexpectedEof => TRUNCATED,
        ErrorKind::OutOfMemory => ImageError::TooMuchMemory { format: FORMAT },
        ErrorKind::QuotaExceeded => ImageError::Wasteful { format: FORMAT },
        _ => corrupt(error.to_string()),
    })
}

/// Bytes that are read no more often than their blocks need.
struct Counted<'a> {
    data: &'a [u8],
    blocks: &'a mut Blocks,
    reads: u32,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.reads += 1;
        if self.reads == READS_OF_BLOCK {
            self.reads = 0;
            self.blocks.spend(FORMAT).map_err(|_| ErrorKind::QuotaExceeded)?;
        }
        self.data.read(buffer)
    }
}

fn zstd(mut data: &[u8], decoder: &mut FrameDecoder, blocks: &mut Blocks, out: &mut [u8]) -> Result<(), ImageError> {
    let damaged = |error: &dyn std::error::Error| corrupt(error.to_string());
    decoder.reset(&mut data).map_err(|error| damaged(&error))?;
    let mut at = 0;
    while at < out.len() {
        let given = decoder.read(&mut out[at..]).map_err(|error| damaged(&error))?;
        at += given;
        if given == 0 {
            if decoder.is_finished() {
                return Err(TRUNCATED);
            }
            blocks.spend(FORMAT)?;
            let one = BlockDecodingStrategy::UptoBlocks(1);
            decoder.decode_blocks(&mut data, one).map_err(|error| damaged(&error))?;
        }
    }
    // Of a frame that is not read to its end libzstd does not know, and of one that says nothing it does not ask.
    let stated = decoder.content_size();
    if decoder.is_finished() && stated > 0 {
        if stated != at as u64 + decoder.can_collect() as u64 {
            return Err(corrupt("a frame of another size than it says"));
        }
        let sum = decoder.get_checksum_from_data();
        if decoder.can_collect() == 0 && sum.is_some() && sum != decoder.get_calculated_checksum() {
            return Err(corrupt("a checksum is wrong"));
        }
    }
    Ok(())
}
