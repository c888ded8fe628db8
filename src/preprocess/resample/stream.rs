//! The resize of a picture whose rows come one after the other, as they are stored: equal to that of the whole picture, turned upright,
//! to the byte.
//!
//! Owns which rows and columns are needed, and what is held of them. Does not own the passes (`kernel`) or the weights (`coefficients`).
//!
//! A row is dropped with the last row of the result that needs it. Which pass comes first shows in the bytes, and is told of the picture as
//! it is upright; of one that lies on its side the first pass of these is the second of those that are stored. Sums are of whole numbers,
//! so that it does not show in which order samples come.
//!
//! Invariant: what is held is twice the rows that one row of the result needs, and a few: of the window's width where rows are resized as
//! they come, of the columns that it needs where columns are.

use std::{mem, ops::Range};

use super::{
    coefficients::{self, Axis, Coefficients, Filter, MAX_TABLE, Order, max_taps, table_bytes},
    kernel::Kernel,
};
use crate::{
    model::preprocessor::Resample,
    preprocess::memory::{self, OutOfMemory},
};

/// Rows that are taken at once: the kernels do four in the time of two.
const GROUP: usize = 16;

/// Rows that go through the second pass at once where that is the horizontal one.
const BATCH: usize = 4;

/// How a picture that is resized upright is stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Turn {
    /// Upright columns are stored rows.
    pub sideways: bool,
    /// The first upright column is stored as the last column, or row.
    pub mirrored_columns: bool,
    /// The first upright row is stored as the last row, or column.
    pub mirrored_rows: bool,
}

/// One side of a picture as it is stored, and what becomes of it.
#[derive(Clone, Debug)]
struct Side {
    /// As it is upright.
    axis: Axis,
    /// Positions of the result, upright, and which of them are wanted.
    output: usize,
    window: Range<usize>,
    mirrored: bool,
}

impl Side {
    fn is_resized(&self) -> bool {
        !self.axis.is_already(self.output)
    }

    /// Which stored samples are needed.
    fn needed(&self, filter: Filter) -> Range<usize> {
        let Self { axis, output, ref window, mirrored } = *self;
        let upright =
            if self.is_resized() { coefficients::source_range(filter, axis, output, window) } else { window.clone() };
        if mirrored { axis.samples() - upright.end..axis.samples() - upright.start } else { upright }
    }

    fn weights(&self, filter: Filter, without: usize, weights: &mut Coefficients) {
        let order = Order { mirrored: self.mirrored, without };
        weights.set_in_order(filter, self.axis, self.output, self.window.clone(), order);
    }
}

/// What becomes of a picture's rows.
#[derive(Clone, Debug)]
pub struct Plan {
    filter: Filter,
    across: Side,
    down: Side,
    /// Whether columns are resized first.
    down_first: bool,
}

impl Plan {
    /// To resize a picture whose upright sides are `columns` and `rows` to `size` (width, height) as [`super::Resizer::resize`] does, and
    /// to cut out the columns and rows of `window`. `None` where that is no work for a stream: nothing is resized, or no filter does it,
    /// or there is no end of weights.
    ///
    /// # Panics
    /// When the window is not inside `size`.
    pub fn new(
        [columns, rows]: [Axis; 2],
        size: (usize, usize),
        window: [Range<usize>; 2],
        resample: Resample,
        turn: Turn,
    ) -> Option<Self> {
        let (width, height) = size;
        let [window_columns, window_rows] = window;
        assert!(window_columns.end <= width && window_rows.end <= height, "a window of {width}x{height}");
        let filter = Filter::of(resample)?;
        let upright = [
            Side { axis: columns, output: width, window: window_columns, mirrored: turn.mirrored_columns },
            Side { axis: rows, output: height, window: window_rows, mirrored: turn.mirrored_rows },
        ];
        let fits = |side: &Side| side.window.len() <= MAX_TABLE / max_taps(filter, side.axis, side.output);
        let is_work = upright.iter().any(Side::is_resized);
        if !is_work || !upright.iter().all(|side| fits(side) && !side.window.is_empty()) {
            return None;
        }
        // Where one side keeps its length, there is only one pass.
        let in_both = upright.iter().all(Side::is_resized);
        let down_first = in_both && vertical_first(columns, rows, size) != turn.sideways;
        let [columns, rows] = upright;
        let (across, down) = if turn.sideways { (rows, columns) } else { (columns, rows) };
        Some(Self { filter, across, down, down_first })
    }

    /// The stored columns that are needed.
    pub fn columns(&self) -> Range<usize> {
        self.across.needed(self.filter)
    }

    /// The stored rows that are needed.
    pub fn rows(&self) -> Range<usize> {
        self.down.needed(self.filter)
    }

    /// Width and height of the result, as the picture is stored.
    pub fn result(&self) -> (usize, usize) {
        (self.across.window.len(), self.down.window.len())
    }
}

/// Since 13.0, Pillow starts with the vertical pass where the height shrinks by more than twice what the width does; before,
/// it never did. The order shows, since the samples between the passes are rounded to 8 bits. It also bounds the memory between
/// them: neither order leaves a long side as it was.
pub(super) fn vertical_first(columns: Axis, rows: Axis, (width, height): (usize, usize)) -> bool {
    let (columns, rows) = (columns.samples() as i64, rows.samples() as i64);
    let (narrower, shorter) = (columns - width as i64, rows - height as i64);
    shorter > 0 && shorter > narrower * 2
}

/// What a [`Stream`] works with, kept from one picture to the next.
pub(super) struct Workshop<'a> {
    pub(super) kernel: &'a mut Kernel,
    pub(super) across: &'a mut Coefficients,
    pub(super) down: &'a mut Coefficients,
    /// For rows that are held.
    pub(super) held: &'a mut Vec<u8>,
    /// For rows on their way.
    pub(super) passing: &'a mut Vec<u8>,
}

/// A picture that is being resized.
pub struct Stream<'a> {
    kernel: &'a mut Kernel,
    /// Where that side is resized.
    across: Option<&'a Coefficients>,
    down: Option<&'a Coefficients>,
    down_first: bool,
    /// The bytes that are needed of a row that comes, which has so many.
    needed: Range<usize>,
    row_bytes: usize,
    held: Held<'a>,
    passing: &'a mut Vec<u8>,
    /// Of `passing`, what waits there for the second pass.
    batched: usize,
    /// Rows of the result that have been begun.
    next: usize,
    out_bytes: usize,
    out: Vec<u8>,
}

/// The last rows, one behind the other.
struct Held<'a> {
    data: &'a mut Vec<u8>,
    row_bytes: usize,
    /// Number of the first.
    first: usize,
    count: usize,
}

impl Held<'_> {
    fn end(&self) -> usize {
        self.first + self.count
    }

    /// Memory for `rows` more; those before number `wanted` may go for it.
    fn room(&mut self, rows: usize, wanted: usize) -> &mut [u8] {
        if (self.count + rows) * self.row_bytes > self.data.len() {
            let gone = wanted.saturating_sub(self.first).min(self.count);
            self.data.copy_within(gone * self.row_bytes..self.count * self.row_bytes, 0);
            (self.first, self.count) = (self.first + gone, self.count - gone);
        }
        &mut self.data[self.count * self.row_bytes..][..rows * self.row_bytes]
    }

    fn from(&self, row: usize) -> &[u8] {
        &self.data[(row - self.first) * self.row_bytes..self.count * self.row_bytes]
    }
}

impl<'a> Stream<'a> {
    /// Begins with a picture of whose rows the columns `given` will come.
    pub(super) fn begin(workshop: Workshop<'a>, plan: &Plan, given: Range<usize>) -> Result<Self, OutOfMemory> {
        let Workshop { kernel, across, down, held, passing } = workshop;
        let Plan { filter, down_first, .. } = *plan;
        let columns = plan.columns();
        assert!(given.start <= columns.start && columns.end <= given.end, "{columns:?} of {given:?}");
        let (width, height) = plan.result();
        let (row_bytes, out_bytes) = (given.len() * 3, width * 3);
        let out = memory::zeroed(Vec::new(), out_bytes * height)?;
        let table = |side: &Side| table_bytes(filter, side.window.len(), side.axis, side.output);
        memory::ask(table(&plan.across).saturating_add(table(&plan.down)) as u64)?;
        if plan.across.is_resized() {
            plan.across.weights(filter, if down_first { columns.start } else { given.start }, across);
            kernel.lay_out(across);
        }
        if plan.down.is_resized() {
            plan.down.weights(filter, plan.rows().start, down);
        }
        let longest = if plan.down.is_resized() { down.longest() } else { 0 };
        let (held_bytes, passing_bytes) =
            if down_first { (row_bytes, columns.len() * 3 * BATCH) } else { (out_bytes, row_bytes * GROUP) };
        *held = memory::any(mem::take(held), (2 * longest + GROUP) * held_bytes)?;
        *passing = memory::any(mem::take(passing), passing_bytes)?;
        let needed = (columns.start - given.start) * 3..(columns.end - given.start) * 3;
        Ok(Self {
            kernel,
            across: plan.across.is_resized().then_some(across),
            down: plan.down.is_resized().then_some(down),
            down_first,
            needed,
            row_bytes,
            held: Held { data: held, row_bytes: held_bytes, first: 0, count: 0 },
            passing,
            batched: 0,
            next: 0,
            out_bytes,
            out,
        })
    }

    /// Memory for the next rows, whole ones, no more than `rows`; the first are the first of [`Plan::rows`].
    pub fn room(&mut self, rows: usize) -> &mut [u8] {
        let rows = rows.min(GROUP);
        if self.down_first {
            let wanted = self.wanted();
            self.held.room(rows, wanted)
        } else {
            &mut self.passing[..rows * self.row_bytes]
        }
    }

    /// Takes what has been written into the last [`room`](Self::room).
    ///
    /// # Panics
    /// When there were more rows than [`Plan::rows`].
    pub fn take(&mut self, bytes: usize) {
        let rows = bytes / self.row_bytes;
        if self.down_first {
            self.held.count += rows;
            self.columns_first();
        } else {
            self.rows_first(rows);
        }
    }

    /// The result, as the picture is stored: rows first, RGB interleaved.
    ///
    /// # Panics
    /// When not all rows have come.
    pub fn finish(self) -> Vec<u8> {
        assert_eq!((self.next * self.out_bytes, self.batched), (self.out.len(), 0), "all rows have come");
        self.out
    }

    /// The first row that is still needed.
    fn wanted(&self) -> usize {
        self.down.and_then(|down| down.get(self.next)).map_or(usize::MAX, |(span, _)| span.start)
    }

    /// Resizes rows, and then columns as far as rows reach.
    fn rows_first(&mut self, rows: usize) {
        let Self { kernel, across, down, needed, row_bytes, held, passing, next, out_bytes, out, .. } = self;
        let (row_bytes, out_bytes) = (*row_bytes, *out_bytes);
        let data = &passing[..rows * row_bytes];
        let wanted = down.and_then(|down| down.get(*next)).map_or(usize::MAX, |(span, _)| span.start);
        let narrow = match down {
            Some(_) => held.room(rows, wanted),
            None => &mut out[*next * out_bytes..][..rows * out_bytes],
        };
        match across {
            Some(across) => kernel.horizontal(data, row_bytes, across, narrow),
            None => {
                for (row, narrow) in data.chunks_exact(row_bytes).zip(narrow.chunks_exact_mut(out_bytes)) {
                    narrow.copy_from_slice(&row[needed.clone()]);
                }
            }
        }
        let Some(down) = down else {
            *next += rows;
            return;
        };
        held.count += rows;
        while let Some((span, weights)) = down.get(*next).filter(|(span, _)| span.end <= held.end()) {
            let out = &mut out[*next * out_bytes..][..out_bytes];
            kernel.vertical_row(held.from(span.start), out_bytes, weights, out);
            *next += 1;
        }
    }

    /// Resizes columns as far as rows reach, and then what that has made.
    fn columns_first(&mut self) {
        let Self { kernel, across, down, needed, row_bytes, held, passing, batched, next, out_bytes, out, .. } = self;
        // Both are resized where columns come first.
        let (Some(across), Some(down)) = (across, down) else { return };
        let wide = needed.len();
        while let Some((span, weights)) = down.get(*next).filter(|(span, _)| span.end <= held.end()) {
            let data = &held.from(span.start)[needed.start..];
            kernel.vertical_row(data, *row_bytes, weights, &mut passing[*batched * wide..][..wide]);
            (*next, *batched) = (*next + 1, *batched + 1);
            if *batched == BATCH || *next == down.len() {
                let done = &mut out[(*next - *batched) * *out_bytes..*next * *out_bytes];
                kernel.horizontal(&passing[..*batched * wide], wide, across, done);
                *batched = 0;
            }
        }
    }
}
