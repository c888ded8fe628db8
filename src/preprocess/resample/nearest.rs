//! Pillow's nearest-neighbour resize (`ImagingScaleAffine`), for a window of the output.

use std::ops::Range;

use super::{Axis, Source, Window};
use crate::preprocess::memory::{self, OutOfMemory};

/// Output lengths up to which positions are found as Pillow finds them. Beyond, no reference exists (Pillow cannot hold such a
/// picture), and adding up from position 0 would take seconds.
const LONGEST_SUMMED: usize = 1 << 26;

/// Resizes to `width x height` and returns the bytes of `window` of that.
pub(super) fn resize(source: Source, (width, height): (usize, usize), window: &Window) -> Result<Vec<u8>, OutOfMemory> {
    let columns = positions(source.columns, width, window.columns());
    let rows = positions(source.rows, height, window.rows());
    let mut out = memory::room(window.width * window.height * 3)?;
    for row in rows {
        let row = source.data_of(row..row + 1);
        for &column in &columns {
            out.extend_from_slice(&row[column * 3..][..3]);
        }
    }
    Ok(out)
}

/// Which source sample each output position of the window shows. Pillow steps through the output adding up `scale`, so the
/// rounding errors of the sum are part of the answer.
fn positions(input: Axis, output: usize, window: Range<usize>) -> Vec<usize> {
    let scale = input.length() / output as f64;
    let mut at = input.start() + scale * 0.5;
    if output <= LONGEST_SUMMED {
        for _ in 0..window.start {
            at += scale;
        }
    } else {
        at += scale * window.start as f64;
    }
    window
        .map(|_| {
            let position = (at as usize).min(input.samples() - 1);
            at += scale;
            position
        })
        .collect()
}
