//! The resampler against a straightforward transcription of the algorithm, and its kernels against each other.

use proptest::prelude::*;
use sha2::{Digest, Sha256};

use super::{
    coefficients::{Coefficients, Filter},
    *,
};

const FILTERS: [Resample; 6] =
    [Resample::Nearest, Resample::Lanczos, Resample::Bilinear, Resample::Bicubic, Resample::Box, Resample::Hamming];

/// A resizer for every kernel that this machine runs.
fn resizers() -> Vec<Resizer> {
    Kernel::of_this_machine().into_iter().map(Resizer::with).collect()
}

fn resize(source: Source, size: (usize, usize), window: &Window, resample: Resample) -> Vec<u8> {
    Resizer::default().resize(source, size, window, resample).unwrap()
}

/// Full of extremes, so that sums overshoot on both sides and are clamped.
fn noise(width: usize, height: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    (0..width * height * 3)
        .map(|_| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            match state >> 62 {
                0 => 0,
                1 => 255,
                _ => (state >> 40) as u8,
            }
        })
        .collect()
}

/// One axis in the plainest way: every output position, `i64` sums, no windows. `at(i)` is sample `i`.
fn naive_axis(filter: Filter, input: Axis, output: usize, at: impl Fn(usize) -> u8) -> Vec<u8> {
    let mut coefficients = Coefficients::default();
    coefficients.set(filter, input, output, 0..output);
    coefficients
        .iter()
        .map(|(span, weights)| {
            let sum: i64 = span.zip(weights).map(|(i, &w)| i64::from(at(i)) * i64::from(w)).sum();
            ((sum + (1 << 21)) >> 22).clamp(0, 255) as u8
        })
        .collect()
}

/// The whole resize in the plainest way.
fn naive(width: usize, height: usize, data: &[u8], to: (usize, usize), filter: Filter) -> Vec<u8> {
    let horizontal = |data: &[u8], height: usize| {
        let mut out = vec![0; to.0 * height * 3];
        for y in 0..height {
            for c in 0..3 {
                let line = naive_axis(filter, Axis::whole(width as u32), to.0, |x| data[(y * width + x) * 3 + c]);
                line.iter().enumerate().for_each(|(x, &v)| out[(y * to.0 + x) * 3 + c] = v);
            }
        }
        out
    };
    let vertical = |data: &[u8], width: usize| {
        let mut out = vec![0; width * to.1 * 3];
        for i in 0..width * 3 {
            let line = naive_axis(filter, Axis::whole(height as u32), to.1, |y| data[y * width * 3 + i]);
            line.iter().enumerate().for_each(|(y, &v)| out[y * width * 3 + i] = v);
        }
        out
    };
    let (narrower, shorter) = (width as i64 - to.0 as i64, height as i64 - to.1 as i64);
    match (to.0 != width, to.1 != height) {
        (false, false) => data.to_vec(),
        (true, false) => horizontal(data, height),
        (false, true) => vertical(data, width),
        (true, true) if shorter > 0 && shorter > 2 * narrower => horizontal(&vertical(data, width), to.1),
        (true, true) => vertical(&horizontal(data, height), to.0),
    }
}

fn cut(data: &[u8], width: usize, window: &Window) -> Vec<u8> {
    let rows = window.rows().map(|y| &data[(y * width + window.left) * 3..][..window.width * 3]);
    rows.flatten().copied().collect()
}

fn whole((width, height): (usize, usize)) -> Window {
    Window { left: 0, top: 0, width, height }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn every_kernel_and_every_window_equals_the_transcription(
        which in 1..FILTERS.len(),
        from in (1usize..90, 1usize..90), to in (1usize..90, 1usize..90), keep in (0u8..4, 0u8..4),
        corner in (0.0f64..1.0, 0.0f64..1.0), extent in (0.0f64..=1.0, 0.0f64..=1.0), seed: u64,
    ) {
        // One time in four a side keeps its length, so that passes are skipped.
        let to = (if keep.0 == 0 { from.0 } else { to.0 }, if keep.1 == 0 { from.1 } else { to.1 });
        let left = (corner.0 * to.0 as f64) as usize;
        let top = (corner.1 * to.1 as f64) as usize;
        let window = Window {
            left, top,
            width: (extent.0 * (to.0 - left) as f64) as usize,
            height: (extent.1 * (to.1 - top) as f64) as usize,
        };
        let data = noise(from.0, from.1, seed);
        let source = Source::new(from.0 as u32, from.1 as u32, &data);
        let expected = naive(from.0, from.1, &data, to, Filter::of(FILTERS[which]).unwrap());
        for mut resizer in resizers() {
            prop_assert_eq!(&resizer.resize(source, to, &whole(to), FILTERS[which]).unwrap(), &expected);
            let part = resizer.resize(source, to, &window, FILTERS[which]).unwrap();
            prop_assert_eq!(part, cut(&expected, to.0, &window), "{:?}", window);
        }
    }

    #[test]
    fn what_was_resized_before_changes_nothing(
        pictures in prop::collection::vec(
            ((1u32..60, 1u32..60), (1usize..60, 1usize..60), 0..FILTERS.len(), 0.5f64..=1.0, any::<bool>(), any::<u64>()), 2..6,
        ),
    ) {
        for mut used in resizers() {
            // Each size twice, so that tables are met again too.
            for (from, to, which, part, mirrored, seed) in pictures.iter().chain(&pictures) {
                let axis = |samples: u32| {
                    let axis = Axis::first((f64::from(samples) * part).max(1.0), samples);
                    if *mirrored { axis.mirrored() } else { axis }
                };
                let data = noise(from.0 as usize, from.1 as usize, *seed);
                let source = Source::of(axis(from.0), axis(from.1), &data);
                let expected = resize(source, *to, &whole(*to), FILTERS[*which]);
                prop_assert_eq!(used.resize(source, *to, &whole(*to), FILTERS[*which]).unwrap(), expected);
            }
        }
    }

    #[test]
    fn a_window_of_nearest_is_cut_from_the_whole(
        from in (1usize..90, 1usize..90), to in (1usize..90, 1usize..90), corner in (0.0f64..1.0, 0.0f64..1.0), seed: u64,
    ) {
        let data = noise(from.0, from.1, seed);
        let source = Source::new(from.0 as u32, from.1 as u32, &data);
        let all = resize(source, to, &whole(to), Resample::Nearest);
        let (left, top) = ((corner.0 * to.0 as f64) as usize, (corner.1 * to.1 as f64) as usize);
        let window = Window { left, top, width: to.0 - left, height: to.1 - top };
        prop_assert_eq!(resize(source, to, &window, Resample::Nearest), cut(&all, to.0, &window));
    }
}

/// The first 8 bytes of its SHA-256.
fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes)[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn every_filter_equals_pillow_13_shrinking_in_either_order_and_growing() {
    // The first 8 bytes of the SHA-256 of what Pillow 13.0.0 makes of the same noise.
    let expected = [
        (Resample::Nearest, ["f950999070dc7c46", "8ea1f47dc7e26b5e", "77df7566828971de"]),
        (Resample::Lanczos, ["707a971ea719be04", "11bc71030962a60c", "78d96a3cb18e029f"]),
        (Resample::Bilinear, ["d2e706146c18b13d", "92defa5bc2125e26", "59b0ed9c6992e2f5"]),
        (Resample::Bicubic, ["3fcd21c38369b654", "76fc93eb612becc1", "5186c2eec8277a84"]),
        (Resample::Box, ["bb20dde0b0923d16", "5ade15def691cbb4", "921d83c4157efc4c"]),
        (Resample::Hamming, ["21b0238dda6a7261", "fd0f18f03521328e", "13882d756cd3baf3"]),
    ];
    let shapes = [((90, 60), (37, 41)), ((60, 200), (33, 44)), ((40, 30), (100, 77))];
    for (filter, hashes) in expected {
        for ((from, to), hash) in shapes.into_iter().zip(hashes) {
            let data = noise(from.0, from.1, 11);
            let resized = resize(Source::new(from.0 as u32, from.1 as u32, &data), to, &whole(to), filter);
            assert_eq!(digest(&resized), hash, "{filter:?} {from:?} to {to:?}");
        }
    }
}

#[test]
fn part_of_a_picture_is_resized_as_by_pillow_13_with_a_box() {
    // `resize((37, 41), filter, box)` with a box of (0, 0, 89.5, 59.25), then (0.5, 0.75, 90, 60), of the noise above.
    let expected = [
        (Resample::Nearest, ["33563ae19d80de0b", "5ae0fc01301f1c97"]),
        (Resample::Lanczos, ["6185271a5a375720", "84c99b3b01d319c7"]),
        (Resample::Bilinear, ["d52bccc1381592da", "1b6cc63b5bf542ca"]),
        (Resample::Bicubic, ["1a581430ae732386", "d1c96c3ba874a5ae"]),
        (Resample::Box, ["aa5be78f63997903", "15d55ddbbf1653f9"]),
        (Resample::Hamming, ["da6986c8efd3911a", "b0179a176ade0e17"]),
    ];
    let data = noise(90, 60, 11);
    let (columns, rows) = (Axis::first(89.5, 90), Axis::first(59.25, 60));
    for (filter, hashes) in expected {
        for ((columns, rows), hash) in [(columns, rows), (columns.mirrored(), rows.mirrored())].into_iter().zip(hashes)
        {
            let resized = resize(Source::of(columns, rows, &data), (37, 41), &whole((37, 41)), filter);
            assert_eq!(digest(&resized), hash, "{filter:?} {columns:?}");
        }
    }
}

#[test]
fn the_same_size_is_a_copy_whatever_the_filter() {
    let data = noise(7, 5, 3);
    for filter in FILTERS {
        assert_eq!(resize(Source::new(7, 5, &data), (7, 5), &whole((7, 5)), filter), data);
    }
}

#[test]
fn a_side_too_long_for_one_table_of_weights_is_done_in_strips_with_the_same_bytes() {
    // 4 x 120,000 taps a position: two positions a table at 2^20 weights.
    let long = 2_400_000;
    let data = noise(long, 1, 9);
    let filter = Filter::of(Resample::Bicubic).unwrap();
    for (width, height, to) in [(long, 1, (20, 1)), (1, long, (1, 20)), (1, long, (3, 20))] {
        let source = Source::new(width as u32, height as u32, &data);
        let expected = naive(width, height, &data, to, filter);
        for mut resizer in resizers() {
            assert!(resizer.resize(source, to, &whole(to), Resample::Bicubic).unwrap() == expected, "{to:?}");
        }
    }
}

#[test]
fn the_middle_of_an_absurdly_long_result_costs_only_the_window() {
    let data = noise(1, 16_384, 5);
    let to = (224, 3_670_016);
    let window = Window { left: 0, top: 1_834_896, width: 224, height: 224 };
    for filter in FILTERS {
        let crop = resize(Source::new(1, 16_384, &data), to, &window, filter);
        assert_eq!(crop.len(), 224 * 224 * 3);
        // One source column: every output column shows the same.
        assert!(crop.chunks_exact(224 * 3).all(|row| row.chunks_exact(3).all(|pixel| pixel == &row[..3])));
    }
}
