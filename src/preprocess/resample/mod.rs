//! Pillow's `Image.resize` for 8-bit RGB, equal to it byte for byte, for any window of the result.
//!
//! Owns the algorithm (`coefficients`: weights; `scalar`, `avx2`: the two passes; `nearest`: the filter that is no convolution)
//! and the choice of kernel. Does not own which size and window: that is `preprocess::image`.
//!
//! Only the window is computed, and of the source only the rows and columns it needs: a 1x16384 picture whose shorter side
//! becomes 224 costs a 224x224 crop, not a 224x3670016 resize. Invariants: the result equals cutting the window out of the whole
//! resize; every kernel gives the same bytes; memory beyond the answer is what lies between the two passes, of the
//! order of the window times the picture's shorter side, and a bounded table of weights.

mod coefficients;
mod nearest;
mod scalar;

#[cfg(target_arch = "x86_64")]
mod avx2;

use std::ops::Range;

use self::coefficients::{Coefficients, Filter, max_taps};
use crate::model::preprocessor::Resample;

/// Weights in one table at most; wider windows are done in strips. A usual crop has some 10,000.
const MAX_TABLE: usize = 1 << 20;

/// A picture to read: rows first, RGB interleaved, no padding.
#[derive(Clone, Copy)]
pub struct Source<'a> {
    width: usize,
    height: usize,
    data: &'a [u8],
}

impl<'a> Source<'a> {
    /// Wraps `data`, `height * width * 3` bytes.
    ///
    /// # Panics
    /// When `data` has any other length, or no pixel.
    pub fn new(width: u32, height: u32, data: &'a [u8]) -> Self {
        let (width, height) = (width as usize, height as usize);
        assert!(width > 0 && height > 0, "a picture has at least one pixel");
        assert_eq!(data.len(), width * height * 3, "an RGB buffer of {width}x{height}");
        Self { width, height, data }
    }

    /// Some of its rows, as a picture.
    fn rows(&self, rows: Range<usize>) -> Self {
        let data = &self.data[rows.start * self.width * 3..rows.end * self.width * 3];
        Self { width: self.width, height: rows.len(), data }
    }

    fn row(&self, row: usize) -> &'a [u8] {
        &self.data[row * self.width * 3..][..self.width * 3]
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

/// Resizes `source` to `size` (width, height) as Pillow's `Image.resize` does and returns `window` of the result:
/// `window.height * window.width * 3` bytes. Resizing to the source's own size copies, whatever the filter, as Pillow does.
///
/// # Panics
/// When the window is not inside `size`.
pub fn resize(source: Source, size: (usize, usize), window: &Window, resample: Resample) -> Vec<u8> {
    resize_with(Kernel::best(), source, size, window, resample)
}

fn resize_with(kernel: Kernel, source: Source, size: (usize, usize), window: &Window, resample: Resample) -> Vec<u8> {
    let (width, height) = size;
    assert!(window.columns().end <= width && window.rows().end <= height, "{window:?} of {width}x{height}");
    if size == (source.width, source.height) {
        return copy(source, window);
    }
    let Some(filter) = Filter::of(resample) else { return nearest::resize(source, size, window) };

    let passes = Passes { kernel, filter };
    let (columns, rows) = (window.columns(), window.rows());
    let mut out = vec![0; window.width * window.height * 3];
    if out.is_empty() {
        return out;
    }
    if height == source.height {
        passes.horizontal(source.rows(rows), width, columns, &mut out);
    } else if width == source.width {
        passes.vertical(source, height, 0, rows, columns, &mut out);
    } else if vertical_first(source, size) {
        let mut narrow = vec![0; source.width * window.height * 3];
        passes.vertical(source, height, 0, rows, 0..source.width, &mut narrow);
        let narrow = Source { width: source.width, height: window.height, data: &narrow };
        passes.horizontal(narrow, width, columns, &mut out);
    } else {
        let needed = coefficients::source_range(filter, source.height, height, &rows);
        let mut wide = vec![0; window.width * needed.len() * 3];
        passes.horizontal(source.rows(needed.clone()), width, columns, &mut wide);
        let wide = Source { width: window.width, height: source.height, data: &wide };
        passes.vertical(wide, height, needed.start, rows, 0..window.width, &mut out);
    }
    out
}

/// Since 13.0, Pillow starts with the vertical pass where the height shrinks by more than twice what the width does; before,
/// it never did. The order shows, since the samples between the passes are rounded to 8 bits. It also bounds the memory between
/// them: neither order leaves a long side as it was.
fn vertical_first(source: Source, (width, height): (usize, usize)) -> bool {
    let (narrower, shorter) = (source.width as i64 - width as i64, source.height as i64 - height as i64);
    shorter > 0 && shorter > narrower * 2
}

/// The two passes, each over a window, in strips where a table of weights would be too large.
#[derive(Clone, Copy)]
struct Passes {
    kernel: Kernel,
    filter: Filter,
}

impl Passes {
    /// Resizes every row of `source` to `width` and writes the `columns` of that, rows first.
    fn horizontal(self, source: Source, width: usize, columns: Range<usize>, out: &mut [u8]) {
        let (row_bytes, out_bytes) = (source.width * 3, columns.len() * 3);
        let at_once = (MAX_TABLE / max_taps(self.filter, source.width, width)).max(1);
        if columns.len() <= at_once {
            let columns = Coefficients::new(self.filter, source.width, width, columns);
            return self.kernel.horizontal(source.data, row_bytes, &columns, out);
        }
        for start in columns.clone().step_by(at_once) {
            let strip = start..columns.end.min(start + at_once);
            let strip_bytes = (start - columns.start) * 3..(strip.end - columns.start) * 3;
            let strip = Coefficients::new(self.filter, source.width, width, strip);
            for (row, out) in source.data.chunks_exact(row_bytes).zip(out.chunks_exact_mut(out_bytes)) {
                self.kernel.horizontal(row, row_bytes, &strip, &mut out[strip_bytes.clone()]);
            }
        }
    }

    /// Resizes the `columns` of `source` to `height` and writes the `rows` of that. Of `source`, `data` begins at row `first`.
    fn vertical(
        self,
        source: Source,
        height: usize,
        first: usize,
        rows: Range<usize>,
        columns: Range<usize>,
        out: &mut [u8],
    ) {
        let (stride, out_bytes) = (source.width * 3, columns.len() * 3);
        let at_once = (MAX_TABLE / max_taps(self.filter, source.height, height)).max(1);
        for (start, out) in rows.clone().step_by(at_once).zip(out.chunks_mut(out_bytes * at_once)) {
            let strip = start..rows.end.min(start + at_once);
            let strip = Coefficients::new(self.filter, source.height, height, strip);
            for ((span, weights), out) in strip.iter().zip(out.chunks_exact_mut(out_bytes)) {
                let data = &source.data[(span.start - first) * stride + columns.start * 3..];
                self.kernel.vertical_row(data, stride, weights, out);
            }
        }
    }
}

fn copy(source: Source, window: &Window) -> Vec<u8> {
    let mut out = Vec::with_capacity(window.width * window.height * 3);
    for row in window.rows() {
        out.extend_from_slice(&source.row(row)[window.left * 3..][..window.width * 3]);
    }
    out
}

/// Which code runs the passes. All kernels give the same bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kernel {
    Scalar,
    #[cfg(target_arch = "x86_64")]
    Avx2,
}

impl Kernel {
    /// The fastest that this machine runs. (The detection is cached by the standard library.)
    fn best() -> Self {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") {
            return Self::Avx2;
        }
        Self::Scalar
    }

    /// `data`: whole rows of `row_bytes` bytes. `out`: as many rows of one RGB pixel per column.
    #[cfg_attr(target_arch = "x86_64", expect(unsafe_code, reason = "calling code built for a CPU feature"))]
    fn horizontal(self, data: &[u8], row_bytes: usize, columns: &Coefficients, out: &mut [u8]) {
        match self {
            Self::Scalar => {
                for (row, out) in data.chunks_exact(row_bytes).zip(out.chunks_exact_mut(columns.len() * 3)) {
                    scalar::horizontal_row(row, columns, out);
                }
            }
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `best` gives this kernel only where the CPU has AVX2, and tests ask first.
            Self::Avx2 => unsafe { avx2::horizontal(data, row_bytes, &avx2::columns(columns), out) },
        }
    }

    /// `data`: rows `stride` bytes apart, as many as `weights`. `out`: as many bytes as are wanted of each.
    #[cfg_attr(target_arch = "x86_64", expect(unsafe_code, reason = "calling code built for a CPU feature"))]
    fn vertical_row(self, data: &[u8], stride: usize, weights: &[i32], out: &mut [u8]) {
        match self {
            Self::Scalar => scalar::vertical_row(data, stride, weights, out),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `best` gives this kernel only where the CPU has AVX2, and tests ask first.
            Self::Avx2 => unsafe { avx2::vertical_row(data, stride, weights, out) },
        }
    }
}

#[cfg(test)]
mod tests;
