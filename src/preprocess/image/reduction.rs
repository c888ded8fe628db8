//! `preprocess.fast_decode`: how far a JPEG is shrunk while it is decoded.
//!
//! A JPEG stores each 8x8 block by frequency, and leaving out the high ones gives the block at 1/2, 1/4 or 1/8 of its sides for a
//! fraction of the work. That is another low-pass filter than the reference's, so the crop differs; how much depends on how far
//! the resize still has to shrink what was decoded. Owns that choice and its bound. Does not decode (`jpeg`).
//!
//! The choice is that of Pillow's `thumbnail` with its default `reducing_gap=2.0`: at least [`MIN_GAP`] times the size that the
//! resize makes is kept on both sides. Like `thumbnail`, and unlike a plain resize of what was decoded, the resize then starts from
//! the exact fraction of a sample where the picture ends: without that, an odd side shifts the far edge, and single levels differ by
//! up to 64 instead of 17.
//!
//! Bound, over the JPEGs among the fixtures and the other fixtures made JPEGs, at crops of 24 to 224 pixels: no level of a crop
//! differs by more than [`MAX_DIFFERENCE`], and all of them on average by no more than [`MAX_MEAN_DIFFERENCE`], or
//! [`MAX_MEAN_DIFFERENCE_DITHERED`] where a picture is dithered in two colours, all of it high frequencies. `tests` holds it.

use crate::preprocess::resample::Axis;

/// How many times the resized picture what is decoded must be, on both sides.
const MIN_GAP: f64 = 2.0;

/// The most that one level of a crop differs.
#[cfg(test)]
pub(super) const MAX_DIFFERENCE: u8 = 24;

/// The most that the levels of a crop differ on average.
#[cfg(test)]
pub(super) const MAX_MEAN_DIFFERENCE: f64 = 1.5;

/// The same for a dithered picture of two colours.
#[cfg(test)]
pub(super) const MAX_MEAN_DIFFERENCE_DITHERED: f64 = 4.5;

/// The part of its sides at which a picture is decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reduction {
    Whole = 1,
    Half = 2,
    Quarter = 4,
    Eighth = 8,
}

impl Reduction {
    /// The furthest that leaves enough of a picture of `from` (width, height) for a resize to `to`.
    pub(super) fn between(from: (u32, u32), to: (usize, usize)) -> Self {
        let shrinks = (f64::from(from.0) / to.0 as f64).min(f64::from(from.1) / to.1 as f64);
        let enough = |reduction: &Self| shrinks >= MIN_GAP * f64::from(reduction.denominator());
        [Self::Eighth, Self::Quarter, Self::Half].into_iter().find(enough).unwrap_or(Self::Whole)
    }

    /// A side of so many samples, reduced: the last of those that are left may stand for less than the others.
    pub(super) fn axis(self, samples: u32) -> Axis {
        let denominator = self.denominator();
        Axis::first(f64::from(samples) / f64::from(denominator), samples.div_ceil(denominator))
    }

    /// One side is divided by this, rounded up.
    pub(super) fn denominator(self) -> u32 {
        self as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twice_the_resized_picture_is_kept_on_the_side_that_shrinks_least() {
        let between = |from, to| Reduction::between(from, to).denominator();
        // 480 / 2 would leave 240 for 224.
        assert_eq!(between((640, 480), (298, 224)), 1);
        assert_eq!(between((1194, 896), (298, 224)), 2);
        assert_eq!(between((1194, 895), (298, 224)), 1);
        assert_eq!(between((1920, 1280), (336, 224)), 2);
        assert_eq!(between((4000, 3000), (298, 224)), 4);
        assert_eq!(between((65_535, 65_535), (224, 224)), 8);
        assert_eq!(between((65_535, 300), (224, 224)), 1);
        assert_eq!(between((1, 1), (224, 224)), 1);
    }
}
