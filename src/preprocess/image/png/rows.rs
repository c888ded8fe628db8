//! The rows of a PNG: inflated as they are wanted, and their filters undone.
//!
//! Of two inflaters zlib's says what a stream is: it is given a piece of data and room for rows as Pillow gives them, and stops where
//! Pillow does. The fast one saves time, half of it where the encoder is fast as well, and is believed only where it finds a whole stream
//! with its checksum, of which zlib's says the same. It may be given up at any time ([`Patience`]), which changes no answer.
//!
//! Invariant: memory for a few rows and what the inflater looks back to, however much the stream holds; time for the rows that are wanted
//! and for what these can need of the stream. A byte of it takes zlib's inflater some 0.1 µs at most, of blocks that are nothing but
//! tables, so that blocks are not counted: 32 MiB are through in 4 s. The fast one takes six times that, and runs out of patience.
//! (`cargo test --release --lib tables_alone -- --ignored --nocapture`, on a Xeon.)
//!
//! As in Pillow: pixels are whole with the last row, whatever follows, but for damage that zlib meets on its way to the next symbol; no row
//! is made where all data is used up, though a copy of bytes may be left over; a stream that ends properly with a row leaves the others
//! zero; its checksum counts where it lies in the same piece as the end of the last row.

use fdeflate::Decompressor;
use zlib_rs::{Inflate, InflateFlush, Status};

use super::{
    chunks::Chunks,
    patience::Patience,
    refusal::{FORMAT, damaged, truncated},
    unfilter,
};
use crate::preprocess::{image::ImageError, memory, memory::OutOfMemory};

/// How far back a stream may refer.
const LOOK_BACK: usize = 32 << 10;

/// What is inflated at a time, so that it stays near.
const AT_A_TIME: usize = 128 << 10;

/// Room behind the last row: without any the fast inflater does not go on to the checksum.
const SPARE: usize = 1;

/// Bytes that a stream may have in any case, besides twice those of its rows: blocks that hold nothing cost time, too.
const ALLOWED: u64 = 1 << 20;

/// The last bytes of all, which zlib's inflater is given by the row. Besides a row it takes the next symbol, tables before it included, and
/// with these the data may be used up.
const LAST: usize = 1 << 10;

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
    Fast { inner: Box<Decompressor>, patience: Patience },
    Zlib { inner: Inflate, is_done: bool },
}

impl Inflater {
    pub(super) fn fast(patience: Patience) -> Self {
        Self::Fast { inner: Box::new(Decompressor::new()), patience }
    }

    pub(super) fn zlib() -> Self {
        Self::Zlib { inner: Inflate::new(true, 15), is_done: false }
    }

    fn is_fast(&self) -> bool {
        matches!(self, Self::Fast { .. })
    }

    fn is_done(&self) -> bool {
        match self {
            Self::Fast { inner, .. } => inner.is_done(),
            Self::Zlib { is_done, .. } => *is_done,
        }
    }

    /// Inflates to the end of `buffer`, of which so many bytes are filled. Returns how many it took and gave.
    fn read(&mut self, piece: &[u8], buffer: &mut [u8], filled: usize) -> Result<(usize, usize), ImageError> {
        match self {
            Self::Fast { inner, patience } => {
                let begun = Patience::begin();
                let done = inner.read(piece, buffer, filled, false);
                let (taken, given) = done.map_err(|error| damaged(&format!("{error:?}")))?;
                let is_over = patience.is_over(begun, taken, given);
                if is_over { Err(ImageError::Wasteful { format: FORMAT }) } else { Ok((taken, given)) }
            }
            Self::Zlib { inner, is_done } => {
                let (taken, given) = (inner.total_in(), inner.total_out());
                let status = inner.decompress(piece, &mut buffer[filled..], InflateFlush::NoFlush);
                *is_done = status.map_err(|error| damaged(error.as_str()))? == Status::StreamEnd;
                Ok(((inner.total_in() - taken) as usize, (inner.total_out() - given) as usize))
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
    /// Whether the stream has ended at once with the last of its bytes: where its end was not in the same piece, Pillow does not know.
    ended_with_them: bool,
    row: Vec<u8>,
    above: Vec<u8>,
    /// The bytes that are wanted of a row before its filter is undone, where others lie between.
    higher: Vec<u8>,
}

impl Rows {
    /// For rows of `longest` bytes at most, without their filters, which have `all` bytes in all with them.
    pub(super) fn new(inflater: Inflater, longest: usize, all: u64) -> Result<Self, OutOfMemory> {
        let length = (longest + 1 + LOOK_BACK + AT_A_TIME + SPARE)
            .min(usize::try_from(all).map_or(usize::MAX, |all| all.saturating_add(SPARE)));
        Ok(Self {
            inflater,
            allowed: all.saturating_mul(2).saturating_add(ALLOWED),
            buffer: memory::zeroed(Vec::new(), length)?,
            start: 0,
            filled: 0,
            missing: all,
            ended_with_them: false,
            row: memory::zeroed(Vec::new(), longest)?,
            above: memory::zeroed(Vec::new(), longest)?,
            higher: Vec::new(),
        })
    }

    /// Begins a pass: above its first row there is nothing.
    pub(super) fn begin_pass(&mut self) {
        self.row.fill(0);
    }

    /// What is wanted of the next row, of which `length` bytes are stored.
    pub(super) fn next(&mut self, input: &mut Input, length: usize, pixel: Pixel) -> Result<&[u8], ImageError> {
        let wanted = length / pixel.stored;
        while self.filled - self.start <= length {
            if self.inflater.is_done() {
                // Of a row that has begun nothing is shown, nor of a stream that has none.
                if self.filled != self.start || !self.ended_with_them {
                    return Err(truncated());
                }
                self.row.fill(0);
                return Ok(&self.row[..wanted]);
            }
            self.inflate(input, length)?;
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

    /// Whether rows and stream end together: the fast inflater goes on to the end, for what else there is zlib's has to tell.
    pub(super) fn finish(&mut self, input: &mut Input) -> Result<(), ImageError> {
        if !self.inflater.is_fast() {
            return Ok(());
        }
        let wanted = self.filled;
        while !self.inflater.is_done() {
            if input.piece.is_empty() && !input.advance() {
                return Err(truncated());
            }
            let piece = input.piece;
            self.read(input, piece, SPARE)?;
            if self.filled != wanted {
                return Err(damaged("more data than pixels"));
            }
        }
        // Where a chunk begins that is cut behind the stream depends on the inflater.
        if input.chunks.is_cut() { Err(truncated()) } else { Ok(()) }
    }

    /// Inflates more of a row of `length` bytes, and of those behind it.
    fn inflate(&mut self, input: &mut Input, length: usize) -> Result<(), ImageError> {
        let is_near =
            self.buffer.len() - self.filled < LOOK_BACK || self.buffer.len() - self.start < length + 1 + SPARE;
        if is_near && self.buffer.len() > LOOK_BACK + AT_A_TIME {
            let kept = self.start.min(self.filled.saturating_sub(LOOK_BACK));
            self.buffer.copy_within(kept..self.filled, 0);
            self.start -= kept;
            self.filled -= kept;
        }
        let more = !input.piece.is_empty() || input.advance();
        let is_fast = self.inflater.is_fast();
        // The fast one may still hold what it has not given.
        if !more && !is_fast {
            return Err(truncated());
        }
        let room = self.buffer.len() - SPARE - self.filled;
        let room = usize::try_from(self.missing).map_or(room, |missing| missing.min(room));
        let piece = input.piece;
        let given = if is_fast || !input.is_last() {
            self.read(input, piece, room)?
        } else if piece.len() > LAST {
            self.read(input, &piece[..piece.len() - LAST], room)?
        } else {
            self.read(input, piece, self.start + length + 1 - self.filled)?
        };
        self.missing -= given as u64;
        if !more && given == 0 && !self.inflater.is_done() {
            return Err(truncated());
        }
        Ok(())
    }

    /// Inflates `piece`, with which the input goes on, into `room` bytes. Returns how many that gave.
    fn read(&mut self, input: &mut Input, piece: &[u8], room: usize) -> Result<usize, ImageError> {
        let buffer = &mut self.buffer[..self.filled + room];
        let (taken, given) = self.inflater.read(piece, buffer, self.filled)?;
        self.allowed = self.allowed.checked_sub(taken as u64).ok_or(ImageError::Wasteful { format: FORMAT })?;
        if taken == 0 && given == 0 && !piece.is_empty() && !self.inflater.is_done() {
            return Err(damaged("a stream that does not go on"));
        }
        input.piece = &input.piece[taken..];
        self.filled += given;
        self.ended_with_them = given > 0;
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

    /// Whether no piece follows the one that is read.
    fn is_last(&self) -> bool {
        self.chunks.clone().data().is_none()
    }

    /// Goes to the next piece, if there is one.
    fn advance(&mut self) -> bool {
        self.piece = self.chunks.data().unwrap_or_default();
        !self.piece.is_empty()
    }
}
