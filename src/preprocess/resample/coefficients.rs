//! The weights of Pillow's convolution resize, for a window of output positions.
//!
//! Owns the filter functions, the support of each output position and its fixed-point weights: a transcription of what
//! Pillow's `Resample.c` computes (`precompute_coeffs`, `normalize_coeffs_8bpc`), in the same order of `f64` operations, since
//! one ulp can move a weight and a weight can move a byte. Does not touch a pixel.

use std::{f64::consts::PI, ops::Range};

use crate::model::preprocessor::Resample;

/// Fractional bits of a weight: 32 bits less 8 of the sample and 2 of head-room, as in Pillow.
pub(super) const PRECISION_BITS: u32 = 32 - 8 - 2;

/// Weights in one table at most; wider windows are done in strips. A usual crop has some 10,000.
pub(super) const MAX_TABLE: usize = 1 << 20;

/// Bytes that one weight takes at most, in all forms that a kernel needs it in, with the room that a table leaves as it grows.
const WEIGHT_BYTES: usize = 64;

/// One axis of a picture: its samples, and the part of them that is resized (one side of the `box` of Pillow's `Image.resize`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Axis {
    samples: usize,
    start: f64,
    length: f64,
}

impl Axis {
    /// All of `samples`.
    pub fn whole(samples: u32) -> Self {
        Self { samples: samples as usize, start: 0.0, length: f64::from(samples) }
    }

    /// The first `length` of `samples`, where the last one need not count whole.
    ///
    /// # Panics
    /// When that is nothing, or more than there is.
    pub fn first(length: f64, samples: u32) -> Self {
        assert!(length > 0.0 && length <= f64::from(samples), "{length} of {samples} samples");
        Self { samples: samples as usize, start: 0.0, length }
    }

    /// The same axis seen from its other end.
    pub fn mirrored(self) -> Self {
        Self { start: self.samples as f64 - self.start - self.length, ..self }
    }

    /// How many samples there are.
    pub fn samples(&self) -> usize {
        self.samples
    }

    /// How many of them are resized.
    pub fn length(&self) -> f64 {
        self.length
    }

    /// Where the part that is resized begins.
    pub(super) fn start(&self) -> f64 {
        self.start
    }

    /// Whether resizing to `output` changes nothing.
    pub(super) fn is_already(&self, output: usize) -> bool {
        self.samples == output && self.length == output as f64
    }
}

/// A filter function and the distance from the centre beyond which it is zero.
#[derive(Clone, Copy, Debug)]
pub(super) struct Filter {
    name: Resample,
    function: fn(f64) -> f64,
    support: f64,
}

impl Filter {
    /// Pillow's convolution filter of that name; `None` for nearest, which is not a convolution.
    pub(super) fn of(resample: Resample) -> Option<Self> {
        let (function, support): (fn(f64) -> f64, f64) = match resample {
            Resample::Nearest => return None,
            Resample::Lanczos => (lanczos, 3.0),
            Resample::Bilinear => (bilinear, 1.0),
            Resample::Bicubic => (bicubic, 2.0),
            Resample::Box => (box_, 0.5),
            Resample::Hamming => (hamming, 1.0),
        };
        Some(Self { name: resample, function, support })
    }
}

/// How the samples of an axis lie in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Order {
    /// From its far end to its near one.
    pub(super) mirrored: bool,
    /// So many of those that come first are not there.
    pub(super) without: usize,
}

/// The source samples and weights of each output position of a window; kept from one picture to the next, which often has the
/// same size.
#[derive(Debug, Default)]
pub(super) struct Coefficients {
    of: Option<(Resample, Axis, usize, Range<usize>, Order)>,
    spans: Vec<Range<usize>>,
    weights: Vec<i32>,
    stride: usize,
    exact: Vec<f64>,
}

impl Coefficients {
    /// Makes these the weights for resizing `input` to `output` positions, of which those in `window`.
    pub(super) fn set(&mut self, filter: Filter, input: Axis, output: usize, window: Range<usize>) {
        self.set_in_order(filter, input, output, window, Order::default());
    }

    /// The same of samples that lie in another order: where that is mirrored, so are the positions. They are the same weights to the last
    /// bit, which those of a mirrored axis need not be.
    ///
    /// # Panics
    /// When a position needs a sample that is not there.
    pub(super) fn set_in_order(
        &mut self,
        filter: Filter,
        input: Axis,
        output: usize,
        window: Range<usize>,
        order: Order,
    ) {
        let of = Some((filter.name, input, output, window.clone(), order));
        if self.of == of {
            return;
        }
        // Should a panic come between, these are the weights of nothing.
        self.of = None;
        let (scale, support) = scale_and_support(filter, input, output);
        let inverse_filter_scale = 1.0 / scale.max(1.0);
        self.stride = max_taps(filter, input, output);
        self.spans.clear();
        self.weights.clear();
        self.weights.resize(window.len() * self.stride, 0);
        for (position, fixed) in window.zip(self.weights.chunks_exact_mut(self.stride)) {
            let center = input.start + (position as f64 + 0.5) * scale;
            let span = span(center, support, input.samples);
            self.exact.clear();
            let samples = span.clone();
            self.exact
                .extend(samples.map(|sample| (filter.function)((sample as f64 - center + 0.5) * inverse_filter_scale)));
            let sum: f64 = self.exact.iter().sum();
            for (fixed, &weight) in fixed.iter_mut().zip(&self.exact) {
                let weight = if sum == 0.0 { weight } else { weight / sum };
                *fixed = to_fixed(weight);
            }
            self.spans.push(span);
        }
        if order.mirrored {
            self.spans.reverse();
            self.weights.reverse();
            for (span, weights) in self.spans.iter_mut().zip(self.weights.chunks_exact_mut(self.stride)) {
                // What was behind the weights is now before them.
                weights.rotate_left(self.stride - span.len());
                *span = input.samples - span.end..input.samples - span.start;
            }
        }
        for span in &mut self.spans {
            assert!(span.start >= order.without, "sample {} of those behind {}", span.start, order.without);
            *span = span.start - order.without..span.end - order.without;
        }
        self.of = of;
    }

    /// The most samples that a position uses.
    pub(super) fn longest(&self) -> usize {
        self.spans.iter().map(Range::len).max().unwrap_or(0)
    }

    /// One of the positions, as [`iter`](Self::iter) has them; `None` behind the last.
    pub(super) fn get(&self, position: usize) -> Option<(Range<usize>, &[i32])> {
        let span = self.spans.get(position)?.clone();
        let weights = self.weights.get(position * self.stride..)?.get(..span.len())?;
        Some((span, weights))
    }

    /// Bytes of memory kept.
    pub(super) fn kept_bytes(&self) -> usize {
        self.spans.capacity() * size_of::<Range<usize>>()
            + self.weights.capacity() * size_of::<i32>()
            + self.exact.capacity() * size_of::<f64>()
    }

    /// How many output positions.
    pub(super) fn len(&self) -> usize {
        self.spans.len()
    }

    /// Per output position of the window, in order: which source samples, and one weight for each of them.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Range<usize>, &[i32])> {
        // Before the first `set` there is no position, whatever the stride.
        self.spans.iter().zip(self.weights.chunks_exact(self.stride.max(1))).map(|(span, weights)| {
            let (weights, _padding) = weights.split_at(span.len());
            (span.clone(), weights)
        })
    }
}

/// All source samples that any position of `window` uses.
pub(super) fn source_range(filter: Filter, input: Axis, output: usize, window: &Range<usize>) -> Range<usize> {
    if window.is_empty() {
        return 0..0;
    }
    let (scale, support) = scale_and_support(filter, input, output);
    let span = |position: usize| span(input.start + (position as f64 + 0.5) * scale, support, input.samples);
    span(window.start).start..span(window.end - 1).end
}

/// The source samples within `support` of `center`.
fn span(center: f64, support: f64, input: usize) -> Range<usize> {
    // `as` truncates like C's cast, and clamps below at 0 as Pillow does in a separate step.
    (center - support + 0.5) as usize..((center + support + 0.5) as usize).min(input)
}

/// The most source samples that one output position uses, rounded up: what one position costs in memory.
pub(super) fn max_taps(filter: Filter, input: Axis, output: usize) -> usize {
    let (_, support) = scale_and_support(filter, input, output);
    support.ceil() as usize * 2 + 1
}

/// What the table of so many positions takes at most, in bytes.
pub(super) fn table_bytes(filter: Filter, positions: usize, input: Axis, output: usize) -> usize {
    let taps = max_taps(filter, input, output);
    positions.saturating_mul(taps).min(MAX_TABLE.max(taps)).saturating_mul(WEIGHT_BYTES)
}

fn scale_and_support(filter: Filter, input: Axis, output: usize) -> (f64, f64) {
    let scale = input.length / output as f64;
    (scale, filter.support * scale.max(1.0))
}

/// Rounds half away from zero, by truncation, as Pillow does.
fn to_fixed(weight: f64) -> i32 {
    let scaled = weight * f64::from(1u32 << PRECISION_BITS);
    if weight < 0.0 { (scaled - 0.5) as i32 } else { (scaled + 0.5) as i32 }
}

fn box_(x: f64) -> f64 {
    if x > -0.5 && x <= 0.5 { 1.0 } else { 0.0 }
}

fn bilinear(x: f64) -> f64 {
    let x = x.abs();
    if x < 1.0 { 1.0 - x } else { 0.0 }
}

fn hamming(x: f64) -> f64 {
    let x = x.abs();
    if x == 0.0 {
        return 1.0;
    }
    if x >= 1.0 {
        return 0.0;
    }
    let x = x * PI;
    // Pillow writes these two as single-precision constants.
    x.sin() / x * (f64::from(0.54f32) + f64::from(0.46f32) * x.cos())
}

/// Keys' cubic with a = -0.5.
fn bicubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

fn sinc(x: f64) -> f64 {
    if x == 0.0 {
        return 1.0;
    }
    let x = x * PI;
    x.sin() / x
}

fn lanczos(x: f64) -> f64 {
    if (-3.0..3.0).contains(&x) { sinc(x) * sinc(x / 3.0) } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CONVOLUTIONS: [Resample; 5] =
        [Resample::Lanczos, Resample::Bilinear, Resample::Bicubic, Resample::Box, Resample::Hamming];

    fn coefficients(filter: Filter, input: Axis, output: usize, window: Range<usize>) -> Coefficients {
        let mut coefficients = Coefficients::default();
        coefficients.set(filter, input, output, window);
        coefficients
    }

    #[test]
    fn samples_in_another_order_have_the_same_weights() {
        for (name, input, output, window) in [
            (Resample::Bicubic, Axis::whole(641), 298, 37..261),
            (Resample::Lanczos, Axis::first(319.5, 320), 75, 3..70),
            (Resample::Bilinear, Axis::first(319.5, 320).mirrored(), 75, 0..75),
            (Resample::Box, Axis::whole(5), 224, 0..224),
        ] {
            let (filter, samples) = (Filter::of(name).unwrap(), input.samples());
            let expected = coefficients(filter, input, output, window.clone());
            let mut reused = Coefficients::default();
            for (mirrored, without) in [(false, 0), (true, 0), (true, 1), (false, 2), (false, 0)] {
                let range = source_range(filter, input, output, &window);
                let first = if mirrored { samples - range.end } else { range.start };
                let without = first.min(without);
                reused.set_in_order(filter, input, output, window.clone(), Order { mirrored, without });
                let mut positions: Vec<_> = reused
                    .iter()
                    .map(|(span, weights)| {
                        let (span, mut weights) = (span.start + without..span.end + without, weights.to_vec());
                        let span = if mirrored { samples - span.end..samples - span.start } else { span };
                        if mirrored {
                            weights.reverse();
                        }
                        (span, weights)
                    })
                    .collect();
                if mirrored {
                    positions.reverse();
                }
                let same = |((span, weights), other): (_, &(Range<usize>, Vec<i32>))| {
                    (span, weights) == (other.0.clone(), &other.1[..])
                };
                assert!(expected.iter().zip(&positions).all(same) && positions.len() == window.len(), "{name:?}");
                assert!((0..window.len()).map(|position| reused.get(position).unwrap()).eq(reused.iter()));
                assert_eq!(reused.get(window.len()), None);
            }
        }
    }

    #[test]
    fn weights_made_after_others_are_those_made_first() {
        let filter = |name| Filter::of(name).unwrap();
        let axis = Axis::whole(640);
        let half = Axis::first(319.5, 320);
        let mut reused = Coefficients::default();
        for (filter, input, output, window) in [
            (filter(Resample::Bicubic), axis, 298, 37..261),
            (filter(Resample::Lanczos), axis, 298, 37..261),
            (filter(Resample::Lanczos), Axis::whole(641), 298, 37..261),
            (filter(Resample::Lanczos), axis, 224, 37..200),
            (filter(Resample::Lanczos), axis, 224, 38..200),
            (filter(Resample::Box), half, 100, 0..100),
            (filter(Resample::Box), half.mirrored(), 100, 0..100),
            (filter(Resample::Box), half.mirrored(), 100, 0..100),
        ] {
            reused.set(filter, input, output, window.clone());
            assert!(reused.iter().eq(coefficients(filter, input, output, window).iter()));
        }
    }

    proptest! {
        #[test]
        fn a_window_has_the_weights_of_the_whole(
            which in 0..CONVOLUTIONS.len(), input in 1u32..3000, output in 1usize..600, a in 0usize..600, b in 0usize..600,
        ) {
            let filter = Filter::of(CONVOLUTIONS[which]).unwrap();
            let (a, b) = (a.min(output), b.min(output));
            let window = a.min(b)..a.max(b);
            let input = Axis::whole(input);
            let whole = coefficients(filter, input, output, 0..output);
            let part = coefficients(filter, input, output, window.clone());
            prop_assert!(part.iter().eq(whole.iter().skip(window.start).take(window.len())));
        }

        #[test]
        fn weights_sum_to_one_and_fit_their_digits_and_no_sum_of_samples_overflows(
            which in 0..CONVOLUTIONS.len(), input in 1u32..20_000, output in 1usize..400, part in 0.01f64..=1.0, mirrored: bool,
        ) {
            let filter = Filter::of(CONVOLUTIONS[which]).unwrap();
            let axis = Axis::first(f64::from(input) * part, input);
            let axis = if mirrored { axis.mirrored() } else { axis };
            for (span, weights) in coefficients(filter, axis, output, 0..output).iter() {
                prop_assert!(!span.is_empty() && span.end <= input as usize);
                let sum: i64 = weights.iter().map(|&w| i64::from(w)).sum();
                prop_assert!((sum - (1 << PRECISION_BITS)).abs() <= weights.len() as i64);
                // What three signed digits of base 256 reach, for `avx512`; `avx2` has bits to spare.
                prop_assert!(weights.iter().all(|w| (-0x80_8080..=0x7f_7f7f).contains(w)));
                let largest: i64 = weights.iter().map(|&w| i64::from(w).abs() * 255).sum();
                prop_assert!(largest + (1 << (PRECISION_BITS - 1)) <= i64::from(i32::MAX));
            }
        }
    }
}
