//! A picture whose rows come from the top to the bottom, resized while they come.
//!
//! Owns what such a decoder is asked for, how its rows get to the resize, and what is told meanwhile of whoever waits. Decoders give
//! the rows (`jpeg`, `png`), `preprocess::resample` resizes them.
//! Invariant: a picture is decoded to its end, and judged by it, however few of its rows are wanted; no more of them is held than the
//! resize needs.

use std::{
    ops::Range,
    time::{Duration, Instant},
};

use super::error::ImageError;
use crate::preprocess::resample::{Plan, Resizer};

/// Rows of a picture that are decoded at once.
const AT_ONCE: usize = 16;

/// A decoder that gives one row after the other, as stored, in RGB.
pub(super) trait RowSource {
    /// Reads up to the first row, of which the columns `wanted` are to be given. Returns those that will be, which may be more.
    fn begin(&mut self, wanted: Range<usize>) -> Result<Range<usize>, ImageError>;

    /// Passes over so many rows.
    fn skip(&mut self, rows: usize) -> Result<(), ImageError>;

    /// Fills `out` with the next rows.
    fn read(&mut self, out: &mut [u8]) -> Result<(), ImageError>;

    /// Goes on to the end of the picture, whose other rows nobody wants.
    fn finish(&mut self) -> Result<(), ImageError>;
}

/// A picture on its way to a crop. Whoever waits is asked whether to go on; how long the resize took, which goes on beside the decoding, is
/// kept.
pub struct Progress<'a> {
    is_wanted: &'a dyn Fn() -> bool,
    resize: Duration,
    is_resizing: bool,
}

impl<'a> Progress<'a> {
    /// Of one that is given up as soon as it is found not to be wanted any more.
    pub fn new(is_wanted: &'a dyn Fn() -> bool) -> Self {
        Self { is_wanted, resize: Duration::ZERO, is_resizing: false }
    }

    /// Time that went into the resize so far.
    pub fn resize(&self) -> Duration {
        self.resize
    }

    /// Whether it is being resized, rather than decoded: where it panicked.
    pub fn is_resizing(&self) -> bool {
        self.is_resizing
    }

    /// Whether it is still wanted.
    pub(super) fn is_wanted(&self) -> bool {
        (self.is_wanted)()
    }

    /// Does a part of the resize.
    pub(super) fn resizing<T>(&mut self, work: impl FnOnce() -> T) -> T {
        self.is_resizing = true;
        let started = Instant::now();
        let done = work();
        self.resize += started.elapsed();
        self.is_resizing = false;
        done
    }
}

/// The result of `plan` as it is stored; `None` where it is not wanted any more.
pub(super) fn resize(
    source: &mut dyn RowSource,
    plan: &Plan,
    resizer: &mut Resizer,
    progress: &mut Progress,
) -> Result<Option<Vec<u8>>, ImageError> {
    let rows = plan.rows();
    let given = source.begin(plan.columns())?;
    let row_bytes = given.len() * 3;
    source.skip(rows.start)?;
    let mut stream = progress.resizing(|| resizer.begin(plan, given))?;
    let mut left = rows.len();
    while left > 0 {
        if !progress.is_wanted() {
            return Ok(None);
        }
        let room = stream.room(left.min(AT_ONCE));
        let bytes = room.len();
        source.read(room)?;
        progress.resizing(|| stream.take(bytes));
        left -= bytes / row_bytes;
    }
    source.finish()?;
    Ok(Some(stream.finish()))
}
