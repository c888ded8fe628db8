//! The two convolution passes in plain Rust: what runs where no vector unit is known, and what the vector kernels must equal.

use super::coefficients::{Coefficients, PRECISION_BITS};

/// What a sum starts from: half a unit, so that the final shift rounds.
pub(super) const HALF: i32 = 1 << (PRECISION_BITS - 1);

/// One row of the horizontal pass: `source` is a row of RGB pixels, `out` gets one RGB pixel per position of `columns`.
pub(super) fn horizontal_row(source: &[u8], columns: &Coefficients, out: &mut [u8]) {
    for ((span, weights), out) in columns.iter().zip(out.chunks_exact_mut(3)) {
        out.copy_from_slice(&pixel(source, span.start, weights));
    }
}

/// One RGB pixel: the weighted sum of `weights.len()` pixels of `row`, from pixel `first` on.
pub(super) fn pixel(row: &[u8], first: usize, weights: &[i32]) -> [u8; 3] {
    let mut sums = [HALF; 3];
    for (sample, &weight) in row[first * 3..].chunks_exact(3).zip(weights) {
        for (sum, &value) in sums.iter_mut().zip(sample) {
            *sum += i32::from(value) * weight;
        }
    }
    sums.map(to_byte)
}

/// One row of the vertical pass: `out[i]` is the weighted sum of byte `i` of `weights.len()` rows. The rows are `stride` bytes
/// apart in `rows`, which starts at byte 0 of the first of them.
pub(super) fn vertical_row(rows: &[u8], stride: usize, weights: &[i32], out: &mut [u8]) {
    // A strip of sums small enough for registers; each row is walked once per strip.
    const STRIP: usize = 32;
    for (strip, out) in out.chunks_mut(STRIP).enumerate() {
        let mut sums = [HALF; STRIP];
        for (row, &weight) in rows[strip * STRIP..].chunks(stride).zip(weights) {
            for (sum, &value) in sums.iter_mut().zip(&row[..out.len()]) {
                *sum += i32::from(value) * weight;
            }
        }
        for (out, sum) in out.iter_mut().zip(sums) {
            *out = to_byte(sum);
        }
    }
}

fn to_byte(sum: i32) -> u8 {
    (sum >> PRECISION_BITS).clamp(0, 255) as u8
}
