//! What a lossless WebP was changed by before it was compressed, undone row by row.
//!
//! Pixels are numbers: alpha highest, then red, green, blue. Arithmetic is per channel and wraps, but where it is said to clamp.
//!
//! As in libwebp: a predictor is told by four bits, and the two that the specification leaves out are as the first; what is to the
//! right of a row's last pixel and above it is the first pixel of the row itself; a colour that a palette lacks is transparent black.
//!
//! Invariant: rows are undone from the first on, each once.

use super::failure::Failure;
use crate::preprocess::memory;

/// Opaque black.
const BLACK: u32 = 0xff00_0000;

/// Numbers that lie in blocks of the picture.
pub(super) struct Blocks {
    /// The side of a block is that power of two.
    pub(super) bits: u32,
    /// Blocks side by side.
    pub(super) across: usize,
    pub(super) values: Vec<u32>,
}

impl Blocks {
    /// Those of a row of pixels.
    fn row(&self, y: usize) -> &[u32] {
        &self.values[(y >> self.bits) * self.across..][..self.across]
    }
}

pub(super) enum Transform {
    /// What is stored is the difference from a prediction.
    Predictor {
        modes: Blocks,
        /// The row before, and behind it room for what is above and right of its end.
        above: Vec<u32>,
    },
    /// Red and blue were changed by green, blue by red.
    Colour(Blocks),
    SubtractGreen,
    /// The green of a pixel holds the numbers of one to eight colours.
    Palette {
        colours: Vec<u32>,
        /// Pixels in one are that power of two.
        bundle: u32,
        /// Columns without it.
        width: usize,
    },
}

impl Transform {
    /// Predictions of rows that are `width` wide.
    pub(super) fn predictor(modes: Blocks, width: usize) -> Result<Self, Failure> {
        let mut above = memory::room(width + 1)?;
        above.resize(width + 1, 0);
        Ok(Self::Predictor { modes, above })
    }

    /// The palette whose colours are stored as differences from those before.
    pub(super) fn palette(mut colours: Vec<u32>, width: usize) -> Result<Self, Failure> {
        let bundle = bundle(colours.len());
        let mut last = 0;
        for colour in &mut colours {
            last = add(*colour, last);
            *colour = last;
        }
        let size = 1 << (8 >> bundle);
        colours.try_reserve(size - colours.len())?;
        colours.resize(size, 0);
        Ok(Self::Palette { colours, bundle, width })
    }

    /// Columns that are stored of a row of `width`.
    pub(super) fn stored_width(&self, width: usize) -> usize {
        match self {
            Self::Palette { bundle, .. } => width.div_ceil(1 << bundle),
            _ => width,
        }
    }

    /// Undoes it in row `y`, whose first pixels are in `row`, which has room for all.
    pub(super) fn undo(&mut self, y: usize, row: &mut [u32]) {
        match self {
            Self::Predictor { modes, above } => {
                let row = &mut row[..above.len() - 1];
                predict(y, modes, above, row);
                above[..row.len()].copy_from_slice(row);
            }
            Self::Colour(blocks) => {
                for (pixels, &factors) in row.chunks_mut(1 << blocks.bits).zip(blocks.row(y)) {
                    add_colours(factors, pixels);
                }
            }
            Self::SubtractGreen => {
                for pixel in row {
                    let green = *pixel >> 8 & 0xff;
                    *pixel = *pixel & 0xff00_ff00 | ((*pixel & 0x00ff_00ff) + (green << 16 | green)) & 0x00ff_00ff;
                }
            }
            Self::Palette { colours, bundle: 0, width } => {
                if let Some(colours) = colours.first_chunk::<256>() {
                    for pixel in &mut row[..*width] {
                        *pixel = colours[(*pixel >> 8 & 0xff) as usize];
                    }
                }
            }
            Self::Palette { colours, bundle, width } => match bundle {
                1 => unbundle::<2, 16>(colours, &mut row[..*width]),
                2 => unbundle::<4, 4>(colours, &mut row[..*width]),
                _ => unbundle::<8, 2>(colours, &mut row[..*width]),
            },
        }
    }
}

/// Spreads the pixels of a row, each of which holds the numbers of `PIXELS` of `COLOURS`.
fn unbundle<const PIXELS: usize, const COLOURS: usize>(colours: &[u32], row: &mut [u32]) {
    let Some(colours) = colours.first_chunk::<COLOURS>() else { return };
    let spread = |stored: u32| -> [u32; PIXELS] {
        let numbers = stored >> 8 & 0xff;
        std::array::from_fn(|place| colours[(numbers >> (place * 8 / PIXELS)) as usize % COLOURS])
    };
    // From the end on: what is not yet read lies before what is written.
    let whole = row.len() / PIXELS;
    if whole * PIXELS < row.len() {
        let last = spread(row[whole]);
        let rest = &mut row[whole * PIXELS..];
        rest.copy_from_slice(&last[..rest.len()]);
    }
    for at in (0..whole).rev() {
        let pixels = spread(row[at]);
        row[at * PIXELS..][..PIXELS].copy_from_slice(&pixels);
    }
}

/// Of a palette of that many colours, how many pixels are in one, as a power of two.
pub(super) fn bundle(colours: usize) -> u32 {
    match colours {
        0..=2 => 3,
        3..=4 => 2,
        5..=16 => 1,
        _ => 0,
    }
}

/// The sum of two pixels.
#[inline(always)]
fn add(a: u32, b: u32) -> u32 {
    const EVEN: u32 = 0x00ff_00ff;
    ((a & EVEN) + (b & EVEN)) & EVEN | ((a & !EVEN).wrapping_add(b & !EVEN)) & !EVEN
}

/// Half their sum, rounded down.
#[inline(always)]
fn average(a: u32, b: u32) -> u32 {
    (((a ^ b) & 0xfefe_fefe) >> 1) + (a & b)
}

fn add_colours(factors: u32, pixels: &mut [u32]) {
    let signed = |number: u32| i32::from(number as u8 as i8);
    let [green_to_red, green_to_blue, red_to_blue] = [factors, factors >> 8, factors >> 16].map(signed);
    for pixel in pixels {
        let green = signed(*pixel >> 8);
        let red = (*pixel >> 16).wrapping_add(((green_to_red * green) >> 5) as u32) & 0xff;
        let blue = pixel.wrapping_add(((green_to_blue * green) >> 5) as u32);
        let blue = blue.wrapping_add(((red_to_blue * signed(red)) >> 5) as u32) & 0xff;
        *pixel = *pixel & 0xff00_ff00 | red << 16 | blue;
    }
}

fn predict(y: usize, modes: &Blocks, above: &mut [u32], row: &mut [u32]) {
    if y == 0 {
        let mut left = BLACK;
        for pixel in row {
            left = add(*pixel, left);
            *pixel = left;
        }
        return;
    }
    let width = row.len();
    row[0] = add(row[0], above[0]);
    above[width] = row[0];
    let modes_row = modes.row(y);
    let mut at = 1;
    let mut block = 0;
    while at < width {
        let mode = modes_row[block] >> 8 & 0xf;
        // Blocks of the same mode at once.
        let same = modes_row[block..].iter().take_while(|&&other| other >> 8 & 0xf == mode).count();
        block += same;
        let end = (block << modes.bits).min(width);
        predict_run(mode, above, row, at, end);
        at = end;
    }
}

/// Predicts the pixels from `from` on, which is not the first of its row, to `to`.
fn predict_run(mode: u32, above: &[u32], row: &mut [u32], from: usize, to: usize) {
    let top = &above[from..to];
    let top_left = &above[from - 1..to - 1];
    let top_right = &above[from + 1..to + 1];
    let left = row[from - 1];
    let pixels = &mut row[from..to];
    match mode {
        1 => {
            let mut left = left;
            for pixel in pixels {
                left = add(*pixel, left);
                *pixel = left;
            }
        }
        2 => pixels.iter_mut().zip(top).for_each(|(pixel, &top)| *pixel = add(*pixel, top)),
        3 => pixels.iter_mut().zip(top_right).for_each(|(pixel, &right)| *pixel = add(*pixel, right)),
        4 => pixels.iter_mut().zip(top_left).for_each(|(pixel, &left)| *pixel = add(*pixel, left)),
        5 => by(pixels, left, top_left, top, top_right, |left, _, top, right| average(average(left, right), top)),
        6 => by(pixels, left, top_left, top, top_right, |left, top_left, _, _| average(left, top_left)),
        7 => by(pixels, left, top_left, top, top_right, |left, _, top, _| average(left, top)),
        8 => {
            for ((pixel, &left), &top) in pixels.iter_mut().zip(top_left).zip(top) {
                *pixel = add(*pixel, average(left, top));
            }
        }
        9 => {
            for ((pixel, &top), &right) in pixels.iter_mut().zip(top).zip(top_right) {
                *pixel = add(*pixel, average(top, right));
            }
        }
        10 => by(pixels, left, top_left, top, top_right, |left, top_left, top, right| {
            average(average(left, top_left), average(top, right))
        }),
        // Left or above: which is nearer to the sum of both less what is between them.
        11 => by_lanes(pixels, left, top_left, top, |left, top_left, top| {
            if distance(left, top_left) <= distance(top, top_left) { top } else { left }
        }),
        12 => {
            by_lanes(pixels, left, top_left, top, |left, top_left, top| clamp(left + (top + LANES * 0x100 - top_left)))
        }
        13 => by_lanes(pixels, left, top_left, top, |left, top_left, top| {
            let middle = ((left + top) >> 1) & (LANES * 0xff);
            // Half the slope, towards zero, and what keeps lanes positive.
            let slope = middle + LANES * 0x100 - top_left;
            let half = ((slope + (!slope >> 8 & LANES)) >> 1) & (LANES * 0xff);
            clamp(middle + half + LANES * 0x80)
        }),
        _ => pixels.iter_mut().for_each(|pixel| *pixel = add(*pixel, BLACK)),
    }
}

/// Predicts each pixel by those left, above and left, above, above and right of it.
#[inline(always)]
fn by(
    pixels: &mut [u32],
    mut left: u32,
    top_left: &[u32],
    top: &[u32],
    top_right: &[u32],
    prediction: impl Fn(u32, u32, u32, u32) -> u32,
) {
    for (((pixel, &top_left), &top), &top_right) in pixels.iter_mut().zip(top_left).zip(top).zip(top_right) {
        left = add(*pixel, prediction(left, top_left, top, top_right));
        *pixel = left;
    }
}

/// One in each of four lanes of 16 bits: with a channel in each, what may leave a byte is reckoned for all at once.
const LANES: u64 = 0x0001_0001_0001_0001;

/// The same as [`by`] in lanes, without what is right.
#[inline(always)]
fn by_lanes(pixels: &mut [u32], left: u32, top_left: &[u32], top: &[u32], prediction: impl Fn(u64, u64, u64) -> u64) {
    let mut left = spread(left);
    let mut before = spread(top_left.first().copied().unwrap_or(0));
    for (pixel, &top) in pixels.iter_mut().zip(top) {
        let top = spread(top);
        left = (spread(*pixel) + prediction(left, before, top)) & (LANES * 0xff);
        before = top;
        *pixel = left as u32 | (left >> 24) as u32;
    }
}

/// The channels of a pixel in lanes: blue and red, green and alpha.
#[inline(always)]
fn spread(pixel: u32) -> u64 {
    let pixel = u64::from(pixel);
    pixel & 0x00ff_00ff | (pixel & 0xff00_ff00) << 24
}

/// The sum of how far the lanes are from each other.
#[inline(always)]
fn distance(a: u64, b: u64) -> u64 {
    let difference = (a | (LANES * 0x100)) - b;
    let is_negative = !difference >> 8 & LANES;
    let size = ((difference & (LANES * 0xff)) ^ ((is_negative << 8) - is_negative)) + is_negative;
    size.wrapping_mul(LANES) >> 48
}

/// Lanes less 256, clamped to a byte.
#[inline(always)]
fn clamp(lanes: u64) -> u64 {
    let mask = |bit: u32| {
        let is_set = lanes >> bit & LANES;
        (is_set << 8) - is_set
    };
    lanes & mask(8) | mask(9)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn by_channel(mode: u32, left: u32, top_left: u32, top: u32) -> u32 {
        let channels = |pixel: u32| pixel.to_le_bytes().map(i32::from);
        let middle = channels(average(left, top));
        let [l, tl, t] = [left, top_left, top].map(channels);
        let far = |a: [i32; 4]| (0..4).map(|at| (a[at] - tl[at]).abs()).sum::<i32>();
        let clamped = |channel: fn(i32, i32, i32, i32) -> i32| {
            u32::from_le_bytes([0, 1, 2, 3].map(|at| channel(l[at], tl[at], t[at], middle[at]).clamp(0, 255) as u8))
        };
        match mode {
            11 => {
                if far(l) <= far(t) {
                    top
                } else {
                    left
                }
            }
            12 => clamped(|l, tl, t, _| l + t - tl),
            _ => clamped(|_, tl, _, middle| middle + (middle - tl) / 2),
        }
    }

    proptest! {
        #[test]
        fn lanes_are_as_channels(left: u32, top_left: u32, top: u32, pixel: u32) {
            for mode in 11..=13 {
                let mut row = [left, pixel];
                predict_run(mode, &[top_left, top, 0], &mut row, 1, 2);
                prop_assert_eq!(row[1], add(pixel, by_channel(mode, left, top_left, top)));
            }
        }
    }
}
