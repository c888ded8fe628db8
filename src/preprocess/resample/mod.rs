//! Pillow's `Image.resize` for 8-bit RGB, equal to it byte for byte, for any window of the result.
//!
//! Owns the algorithm (`coefficients`: weights; `scalar`, `avx2`, `avx512`: the two passes, of which `kernel` chooses; `nearest`: the
//! filter that is no convolution; `stream`: a picture whose rows come one by one). Does not own which size and window: that is `preprocess::image`.
//!
//! Only the window is computed, and of the source only the rows and columns it needs: a 1x16384 picture whose shorter side
//! becomes 224 costs a 224x224 crop, not a 224x3670016 resize. Invariants: the result equals cutting the window out of the whole
//! resize; every kernel gives the same bytes; what a [`Resizer`] has resized before changes nothing; memory beyond the answer is
//! what lies between the two passes, of the order of the window times the picture's shorter side, and bounded tables of weights.

mod coefficients;
mod kernel;
mod nearest;
mod scalar;
mod stream;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;

use std::ops::Range;

pub use self::{
    coefficients::Axis,
    stream::{Plan, Stream, Turn},
};
use self::{
    coefficients::{Coefficients, Filter, MAX_TABLE, max_taps, table_bytes},
    kernel::Kernel,
    stream::{Workshop, vertical_first},
};
use super::memory::{self, OutOfMemory};
use crate::model::preprocessor::Resample;

/// A picture to read: rows first, RGB interleaved, no padding.
#[derive(Clone, Copy)]
pub struct Source<'a> {
    columns: Axis,
    rows: Axis,
    data: &'a [u8],
}

impl<'a> Source<'a> {
    /// Wraps `data`, `height * width * 3` bytes.
    ///
    /// # Panics
    /// When `data` has any other length, or no pixel.
    pub fn new(width: u32, height: u32, data: &'a [u8]) -> Self {
        Self::of(Axis::whole(width), Axis::whole(height), data)
    }

    /// Wraps `data`, of which the parts that `columns` and `rows` say are resized.
    ///
    /// # Panics
    /// When `data` does not have 3 bytes for each sample of both, or no pixel.
    pub fn of(columns: Axis, rows: Axis, data: &'a [u8]) -> Self {
        let (width, height) = (columns.samples(), rows.samples());
        assert!(width > 0 && height > 0, "a picture has at least one pixel");
        assert_eq!(data.len(), width * height * 3, "an RGB buffer of {width}x{height}");
        Self { columns, rows, data }
    }

    fn row_bytes(&self) -> usize {
        self.columns.samples() * 3
    }

    /// The samples of some of its rows.
    fn data_of(&self, rows: Range<usize>) -> &'a [u8] {
        &self.data[rows.start * self.row_bytes()..rows.end * self.row_bytes()]
    }
}

/// A rectangle of the resized picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// Columns left of it.
    pub left: usize,
    /// Rows above it.
    pub top: usize,
    /// Its columns.
    pub width: usize,
    /// Its rows.
    pub height: usize,
}

impl Window {
    fn columns(&self) -> Range<usize> {
        self.left..self.left + self.width
    }

    fn rows(&self) -> Range<usize> {
        self.top..self.top + self.height
    }
}

/// Resizes one picture after the other. Keeps its tables and buffers, so that the next picture of the same size costs no memory
/// but that of its answer.
#[derive(Debug)]
pub struct Resizer {
    kernel: Kernel,
    column_weights: Coefficients,
    row_weights: Coefficients,
    /// What lies between the two passes; whatever is left in it is overwritten.
    between: Vec<u8>,
    /// Rows of a [`Stream`] on their way, the same.
    passing: Vec<u8>,
}

impl Default for Resizer {
    fn default() -> Self {
        Self::with(Kernel::best())
    }
}

impl Resizer {
    fn with(kernel: Kernel) -> Self {
        let (column_weights, row_weights) = Default::default();
        Self { kernel, column_weights, row_weights, between: Vec::new(), passing: Vec::new() }
    }

    /// Resizes `source` to `size` (width, height) as Pillow's `Image.resize` does and returns `window` of the result:
    /// `window.height * window.width * 3` bytes. Resizing to the source's own size copies, whatever the filter, as Pillow does.
    ///
    /// # Errors
    /// When there is no memory for it.
    ///
    /// # Panics
    /// When the window is not inside `size`.
    pub fn resize(
        &mut self,
        source: Source,
        size: (usize, usize),
        window: &Window,
        resample: Resample,
    ) -> Result<Vec<u8>, OutOfMemory> {
        let (width, height) = size;
        assert!(window.columns().end <= width && window.rows().end <= height, "{window:?} of {width}x{height}");
        let (same_width, same_height) = (source.columns.is_already(width), source.rows.is_already(height));
        if same_width && same_height {
            return copy(source, window);
        }
        let Some(filter) = Filter::of(resample) else { return nearest::resize(source, size, window) };

        let (columns, rows) = (window.columns(), window.rows());
        let mut out = memory::zeroed(Vec::new(), window.width * window.height * 3)?;
        if out.is_empty() {
            return Ok(out);
        }
        let tables = table_bytes(filter, window.width, source.columns, width).saturating_add(table_bytes(
            filter,
            window.height,
            source.rows,
            height,
        ));
        memory::ask(tables as u64)?;
        let Self { kernel, column_weights, row_weights, between, passing: _ } = self;
        let mut passes = Passes { kernel, filter, column_weights, row_weights };
        let all = Rows { data: source.data, first: 0, width: source.columns.samples() };
        if same_height {
            passes.horizontal(source.data_of(rows), source.columns, width, columns, &mut out);
        } else if same_width {
            passes.vertical(all, source.rows, height, rows, columns, &mut out);
        } else if vertical_first(source.columns, source.rows, size) {
            set_length(between, source.row_bytes() * window.height)?;
            passes.vertical(all, source.rows, height, rows, 0..all.width, between);
            passes.horizontal(between, source.columns, width, columns, &mut out);
        } else {
            let needed = coefficients::source_range(filter, source.rows, height, &rows);
            set_length(between, window.width * needed.len() * 3)?;
            passes.horizontal(source.data_of(needed.clone()), source.columns, width, columns, between);
            let narrow = Rows { data: between, first: needed.start, width: window.width };
            passes.vertical(narrow, source.rows, height, rows, 0..window.width, &mut out);
        }
        Ok(out)
    }

    /// Begins to resize a picture of whose rows, as they are stored, the columns `given` will come.
    ///
    /// # Errors
    /// When there is no memory for it.
    ///
    /// # Panics
    /// When not all columns that are needed will come.
    pub fn begin(&mut self, plan: &Plan, given: Range<usize>) -> Result<Stream<'_>, OutOfMemory> {
        let Self { kernel, column_weights, row_weights, between, passing } = self;
        Stream::begin(
            Workshop { kernel, across: column_weights, down: row_weights, held: between, passing },
            plan,
            given,
        )
    }

    /// Bytes of memory kept for the next picture.
    pub fn kept_bytes(&self) -> usize {
        let weights = self.column_weights.kept_bytes() + self.row_weights.kept_bytes();
        self.kernel.kept_bytes() + weights + self.between.capacity() + self.passing.capacity()
    }
}

/// As `Vec::resize`, where there may be no memory.
fn set_length(buffer: &mut Vec<u8>, length: usize) -> Result<(), OutOfMemory> {
    buffer.try_reserve(length.saturating_sub(buffer.len()))?;
    buffer.resize(length, 0);
    Ok(())
}

/// Rows of a picture from number `first` on, `width` pixels each.
#[derive(Clone, Copy)]
struct Rows<'a> {
    data: &'a [u8],
    first: usize,
    width: usize,
}

/// The two passes, each over a window, in strips where a table of weights would be too large.
struct Passes<'a> {
    kernel: &'a mut Kernel,
    filter: Filter,
    column_weights: &'a mut Coefficients,
    row_weights: &'a mut Coefficients,
}

impl Passes<'_> {
    /// Resizes every row of `data`, each of which is `axis`, to `width` and writes the `columns` of that, rows first.
    fn horizontal(&mut self, data: &[u8], axis: Axis, width: usize, columns: Range<usize>, out: &mut [u8]) {
        let (row_bytes, out_bytes) = (axis.samples() * 3, columns.len() * 3);
        let at_once = (MAX_TABLE / max_taps(self.filter, axis, width)).max(1);
        let weights = &mut *self.column_weights;
        if columns.len() <= at_once {
            weights.set(self.filter, axis, width, columns);
            self.kernel.lay_out(weights);
            return self.kernel.horizontal(data, row_bytes, weights, out);
        }
        for start in columns.clone().step_by(at_once) {
            let strip = start..columns.end.min(start + at_once);
            let strip_bytes = (start - columns.start) * 3..(strip.end - columns.start) * 3;
            weights.set(self.filter, axis, width, strip);
            self.kernel.lay_out(weights);
            for (row, out) in data.chunks_exact(row_bytes).zip(out.chunks_exact_mut(out_bytes)) {
                self.kernel.horizontal(row, row_bytes, weights, &mut out[strip_bytes.clone()]);
            }
        }
    }

    /// Resizes the `columns` of `source`, each of which is `axis`, to `height` and writes the `rows` of that.
    fn vertical(
        &mut self,
        source: Rows,
        axis: Axis,
        height: usize,
        rows: Range<usize>,
        columns: Range<usize>,
        out: &mut [u8],
    ) {
        let (stride, out_bytes) = (source.width * 3, columns.len() * 3);
        let at_once = (MAX_TABLE / max_taps(self.filter, axis, height)).max(1);
        for (start, out) in rows.clone().step_by(at_once).zip(out.chunks_mut(out_bytes * at_once)) {
            self.row_weights.set(self.filter, axis, height, start..rows.end.min(start + at_once));
            for ((span, weights), out) in self.row_weights.iter().zip(out.chunks_exact_mut(out_bytes)) {
                let data = &source.data[(span.start - source.first) * stride + columns.start * 3..];
                self.kernel.vertical_row(data, stride, weights, out);
            }
        }
    }
}

fn copy(source: Source, window: &Window) -> Result<Vec<u8>, OutOfMemory> {
    let mut out = memory::room(window.width * window.height * 3)?;
    for row in window.rows() {
        out.extend_from_slice(&source.data_of(row..row + 1)[window.left * 3..][..window.width * 3]);
    }
    Ok(out)
}

#[cfg(test)]
mod tests;
