//! The rows of a PNG: inflated as they are wanted, and their filters undone.
//!
//! Invariant: memory for a few rows and what the inflater looks back to, however much the stream holds; time for the
//! rows that are wanted and for what these can need of the stream, twice, in blocks that are no smaller than encoders make them.
//!
//! As in Pillow: pixels are whole with the last row, whatever follows; a stream that ends properly with a row leaves the others zero;
//! its checksum counts where it lies in the same piece as the end of the last row.

use fdeflate::{DecompressionError, Decompressor};
use zlib_rs::{Inflate, InflateFlush, Status};

use super::{
    chunks::Chunks,
    patience::Patience,
    refusal::{FORMAT, damaged, truncated},
    unfilter,
};
use crate::preprocess::{
    image::{ImageError, blocks::Blocks},
    memory,
    memory::OutOfMemory,
};

/// How far back a stream may refer.
const LOOK_BACK: usize = 32 << 10;

/// What is inflated at a time, so that it stays near.
const AT_A_TIME: usize = 128 << 10;

/// Room behind the last row: without any the inflater does not go on to the checksum.
const SPARE: usize = 1;

/// Bytes that a stream may have in any case, besides twice those of its rows: blocks that hold nothing cost time, too.
const ALLOWED: u64 = 1 << 20;

/// Rows behind each of which an encoder may have flushed, which ends a block and is one: many times what any picture is high.
const FLUSHED_ROWS: u64 = 1 << 16;

/// Why there are no more rows.
#[derive(Debug, PartialEq)]
pub(super) enum Stop {
    Refused(ImageError),
    /// The fast inflater is the wrong one: of a code that may be merely odd, or since the stream takes much longer than its bytes do.
    /// The careful one tells.
    Doubtful,
}

impl From<ImageError> for Stop {
    fn from(error: ImageError) -> Self {
        Self::Refused(error)
    }
}

impl From<OutOfMemory> for Stop {
    fn from(error: OutOfMemory) -> Self {
        Self::Refused(error.into())
    }
}

impl From<Stop> for ImageError {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Refused(error) => error,
            Stop::Doubtful => damaged("a stream that nothing inflates"),
        }
    }
}

/// What there is of a pixel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pixel {
    /// Bytes that are wanted: 1 to 4.
    pub(super) wanted: usize,
    /// Bytes that are stored for each of these: 1, or 2, of which the first is wanted.
    pub(super) stored: usize,
}

/// What inflates a stream.
pub(super) enum Inflater {
    /// Takes half the time, and some codes for damaged that are merely odd.
    Fast { inner: Box<Decompressor>, patience: Patience },
    /// By zlib's rules, from block to block.
    Careful { inner: Inflate, is_done: bool, blocks: Blocks },
}

impl Inflater {
    /// For a stream that inflates to so many rows and bytes.
    fn new(is_careful: bool, rows: u64, bytes: u64) -> Self {
        match is_careful {
            false => Self::Fast { inner: Box::new(Decompressor::new()), patience: Patience::for_bytes(bytes) },
            true => Self::Careful {
                inner: Inflate::new(true, 15),
                is_done: false,
                blocks: Blocks::of(rows.min(FLUSHED_ROWS), bytes),
            },
        }
    }

    fn is_done(&self) -> bool {
        match self {
            Self::Fast { inner, .. } => inner.is_done(),
            Self::Careful { is_done, .. } => *is_done,
        }
    }

    /// Inflates to the end of `buffer`, of which so many bytes are filled, or of a block. Returns how many it took and gave.
    fn read(&mut self, piece: &[u8], buffer: &mut [u8], filled: usize) -> Result<(usize, usize), Stop> {
        match self {
            Self::Fast { inner, patience } => {
                let done = inner.read(piece, buffer, filled, false).map_err(|error| match error {
                    DecompressionError::BadCodeLengthHuffmanTree
                    | DecompressionError::BadLiteralLengthHuffmanTree
                    | DecompressionError::BadDistanceHuffmanTree => Stop::Doubtful,
                    other => damaged(&format!("{other:?}")).into(),
                })?;
                if patience.has_ended() { Err(Stop::Doubtful) } else { Ok(done) }
            }
            Self::Careful { inner, is_done, blocks } => {
                let (taken, given) = (inner.total_in(), inner.total_out());
                let room = &mut buffer[filled..];
                let room_bytes = room.len();
                let status = inner.decompress(piece, room, InflateFlush::Block);
                *is_done = status.map_err(|error| damaged(error.as_str()))? == Status::StreamEnd;
                let (taken, given) = ((inner.total_in() - taken) as usize, (inner.total_out() - given) as usize);
                if taken < piece.len() && given < room_bytes {
                    blocks.spend(FORMAT)?;
                }
                Ok((taken, given))
            }
        }
    }
}

/// The rows of a stream.
pub(super) struct Rows {
    inflater: Inflater,
    /// Bytes of the stream that may still be read.
    allowed: u64,
    buffer: Vec<u8>,
    /// Of the row that comes next, in the buffer.
    start: usize,
    /// Of the buffer.
    filled: usize,
    /// Bytes of all rows that are not inflated yet.
    missing: u64,
    ended: Option<Ended>,
    /// Whether the piece of input that is read has given bytes.
    gave: bool,
    row: Vec<u8>,
    above: Vec<u8>,
    /// The bytes that are wanted of a row before its filter is undone, where others lie between.
    higher: Vec<u8>,
}

/// How a stream ended.
#[derive(Clone, Copy, PartialEq)]
enum Ended {
    /// In the piece that its last bytes were in.
    WithThem,
    Later,
}

impl Rows {
    /// For `rows` rows of `longest` bytes at most, without their filters, which have `all` bytes in all with them.
    pub(super) fn new(is_careful: bool, longest: usize, rows: u64, all: u64) -> Result<Self, OutOfMemory> {
        let length = (longest + 1 + LOOK_BACK + AT_A_TIME + SPARE)
            .min(usize::try_from(all).map_or(usize::MAX, |all| all.saturating_add(SPARE)));
        Ok(Self {
            inflater: Inflater::new(is_careful, rows, all),
            allowed: all.saturating_mul(2).saturating_add(ALLOWED),
            buffer: memory::zeroed(Vec::new(), length)?,
            start: 0,
            filled: 0,
            missing: all,
            ended: None,
            gave: false,
            row: memory::zeroed(Vec::new(), longest)?,
            above: memory::zeroed(Vec::new(), longest)?,
            higher: Vec::new(),
        })
    }

    /// With no time left for the fast inflater.
    #[cfg(test)]
    pub(super) fn out_of_time(mut self) -> Self {
        if let Inflater::Fast { patience, .. } = &mut self.inflater {
            *patience = Patience::OVER;
        }
        self
    }

    /// Begins a pass: above its first row there is nothing.
    pub(super) fn begin_pass(&mut self) {
        self.row.fill(0);
    }

    /// What is wanted of the next row, of which `length` bytes are stored.
    pub(super) fn next(&mut self, input: &mut Input, length: usize, pixel: Pixel) -> Result<&[u8], Stop> {
        let wanted = length / pixel.stored;
        while self.filled - self.start <= length {
            if let Some(ended) = self.ended {
                // Of a row that has begun nothing is shown, nor of a stream that has none.
                if self.filled != self.start || self.filled == 0 || ended == Ended::Later {
                    return Err(truncated().into());
                }
                self.row.fill(0);
                return Ok(&self.row[..wanted]);
            }
            self.inflate(input)?;
        }
        std::mem::swap(&mut self.row, &mut self.above);
        let (filter, mut stored) = (self.buffer[self.start], &self.buffer[self.start + 1..][..length]);
        if pixel.stored == 2 {
            self.higher = memory::any(std::mem::take(&mut self.higher), wanted)?;
            unfilter::higher(stored, &mut self.higher);
            stored = &self.higher;
        }
        let (row, above) = (&mut self.row[..wanted], &self.above[..wanted]);
        unfilter::undo(filter, pixel.wanted, stored, above, row).ok_or_else(|| damaged("an unknown filter"))?;
        self.start += length + 1;
        Ok(row)
    }

    /// Goes on to the end of the piece that the last row ended in, unless the stream holds more than was wanted.
    pub(super) fn finish(&mut self, input: &mut Input) -> Result<(), Stop> {
        let wanted = self.filled;
        while self.ended.is_none() && self.filled == wanted {
            let left = input.piece.len();
            // The inflater may hold the last bytes of the piece unread.
            if self.read(input, SPARE)? == 0 && input.piece.len() == left {
                break;
            }
        }
        Ok(())
    }

    fn inflate(&mut self, input: &mut Input) -> Result<(), Stop> {
        if self.buffer.len() - self.filled < LOOK_BACK && self.buffer.len() > LOOK_BACK + AT_A_TIME {
            let kept = self.start.min(self.filled.saturating_sub(LOOK_BACK));
            self.buffer.copy_within(kept..self.filled, 0);
            self.start -= kept;
            self.filled -= kept;
        }
        let more = !input.piece.is_empty() || {
            self.gave = false;
            input.advance()
        };
        let room = self.buffer.len() - SPARE - self.filled;
        let given = self.read(input, usize::try_from(self.missing).map_or(room, |missing| missing.min(room)))?;
        self.missing -= given as u64;
        // It may still hold what it has not given.
        if !more && given == 0 && self.ended.is_none() {
            return Err(truncated().into());
        }
        Ok(())
    }

    /// Inflates into `room` bytes. Returns how many that gave.
    fn read(&mut self, input: &mut Input, room: usize) -> Result<usize, Stop> {
        let buffer = &mut self.buffer[..self.filled + room];
        let (taken, given) = self.inflater.read(input.piece, buffer, self.filled)?;
        self.allowed = self.allowed.checked_sub(taken as u64).ok_or(ImageError::Wasteful { format: FORMAT })?;
        if taken == 0 && given == 0 && !input.piece.is_empty() && !self.inflater.is_done() {
            return Err(damaged("a stream that does not go on").into());
        }
        input.piece = &input.piece[taken..];
        self.filled += given;
        self.gave |= given > 0;
        if self.inflater.is_done() {
            self.ended = Some(if self.gave { Ended::WithThem } else { Ended::Later });
        }
        Ok(given)
    }
}

/// The data of pixels, by the piece.
pub(super) struct Input<'c, 'a> {
    chunks: &'c mut Chunks<'a>,
    /// What is left of the piece that is read.
    piece: &'a [u8],
}

impl<'c, 'a> Input<'c, 'a> {
    pub(super) fn new(chunks: &'c mut Chunks<'a>) -> Self {
        Self { chunks, piece: &[] }
    }

    /// Goes to the next piece, if there is one.
    fn advance(&mut self) -> bool {
        self.piece = self.chunks.data().unwrap_or_default();
        !self.piece.is_empty()
    }
}
