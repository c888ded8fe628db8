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
    fn rows_that_come_one_after_the_other_make_what_the_whole_upright_picture_makes(
        which in 1..FILTERS.len(),
        from in (1usize..90, 1usize..300), to in (1usize..60, 1usize..60), keep in (0u8..5, 0u8..5),
        corner in (0.0f64..1.0, 0.0f64..1.0), extent in (0.0f64..=1.0, 0.0f64..=1.0), parts in (0.7f64..=1.0, 0.7f64..=1.0),
        turn in (any::<bool>(), any::<bool>(), any::<bool>()), margin in (0usize..9, 0usize..9), at_once in 1usize..40, seed: u64,
    ) {
        let (sideways, mirrored_columns, mirrored_rows) = turn;
        let turn = Turn { sideways, mirrored_columns, mirrored_rows };
        let (width, height) = if sideways { (from.1, from.0) } else { from };
        let to = (if keep.0 == 0 { width } else { to.0 }, if keep.1 == 0 { height } else { to.1 });
        let axis = |samples: usize, kept: u8, part: f64, mirrored: bool| {
            let axis = Axis::first(if kept < 2 { samples as f64 } else { (samples as f64 * part).max(1.0) }, samples as u32);
            if mirrored { axis.mirrored() } else { axis }
        };
        let axes = [axis(width, keep.0, parts.0, mirrored_columns), axis(height, keep.1, parts.1, mirrored_rows)];
        let (left, top) = ((corner.0 * to.0 as f64) as usize, (corner.1 * to.1 as f64) as usize);
        let window = Window {
            left, top,
            width: ((extent.0 * (to.0 - left) as f64) as usize).max(1),
            height: ((extent.1 * (to.1 - top) as f64) as usize).max(1),
        };
        let stored = noise(from.0, from.1, seed);
        let upright = upright(&stored, from, turn);
        let source = Source::of(axes[0], axes[1], &upright);
        let plan = Plan::new(axes, to, [window.columns(), window.rows()], FILTERS[which], turn);
        prop_assert_eq!(plan.is_none(), axes[0].is_already(to.0) && axes[1].is_already(to.1));
        let Some(plan) = plan else { return Ok(()) };
        for mut resizer in resizers() {
            let expected = resizer.resize(source, to, &window, FILTERS[which]).unwrap();
            // What was there before must not show.
            let streamed = streamed(&mut resizer, &plan, &stored, from.0, margin, at_once);
            let turned = self::upright(&streamed, plan.result(), turn);
            prop_assert!(turned == expected, "{plan:?}");
            prop_assert!(resizer.resize(source, to, &window, FILTERS[which]).unwrap() == expected);
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

/// The picture in `stored`, of that width and height, upright.
fn upright(stored: &[u8], (width, height): (usize, usize), turn: Turn) -> Vec<u8> {
    let (columns, rows) = if turn.sideways { (height, width) } else { (width, height) };
    let pixel = |x: usize, y: usize| {
        let x = if turn.mirrored_columns { columns - 1 - x } else { x };
        let y = if turn.mirrored_rows { rows - 1 - y } else { y };
        let (x, y) = if turn.sideways { (y, x) } else { (x, y) };
        &stored[(y * width + x) * 3..][..3]
    };
    (0..rows).flat_map(|y| (0..columns).flat_map(move |x| pixel(x, y))).copied().collect()
}

/// The result of a plan, of rows that come with some columns more than are needed.
fn streamed(
    resizer: &mut Resizer,
    plan: &Plan,
    stored: &[u8],
    width: usize,
    margin: (usize, usize),
    at_once: usize,
) -> Vec<u8> {
    let (columns, rows) = (plan.columns(), plan.rows());
    let given = columns.start.saturating_sub(margin.0)..(columns.end + margin.1).min(width);
    let mut stream = resizer.begin(plan, given.clone()).unwrap();
    let mut row = rows.start;
    while row < rows.end {
        let room = stream.room(at_once.min(rows.end - row));
        for line in room.chunks_exact_mut(given.len() * 3) {
            line.copy_from_slice(&stored[(row * width + given.start) * 3..][..given.len() * 3]);
            row += 1;
        }
        let bytes = room.len();
        stream.take(bytes);
    }
    stream.finish()
}

#[test]
fn a_picture_that_comes_by_the_row_is_held_by_the_few_rows_of_one_row_of_the_result() {
    let (width, height) = (4000, 3000);
    let axes = [Axis::whole(width), Axis::whole(height)];
    let turned = [axes[1], axes[0]];
    for (axes, size, window, sideways, most) in [
        (axes, (298, 224), [37..261, 0..224], false, 224 * 3 * 130 + 4000 * 3 * 17),
        (turned, (224, 298), [0..224, 37..261], true, 4000 * 3 * 130),
    ] {
        let plan = Plan::new(axes, size, window, Resample::Bicubic, Turn { sideways, ..Turn::default() }).unwrap();
        let mut resizer = Resizer::default();
        let mut stream = resizer.begin(&plan, 0..width as usize).unwrap();
        let mut left = plan.rows().len();
        while left > 0 {
            let bytes = stream.room(left).len();
            stream.take(bytes);
            left -= bytes / (width as usize * 3);
        }
        assert_eq!(stream.finish().len(), 224 * 224 * 3);
        let held = resizer.between.capacity() + resizer.passing.capacity();
        assert!(held < most, "{held} of {}", width * height * 3);
    }
}

#[test]
fn what_has_no_end_of_weights_and_what_no_filter_does_is_not_done_by_the_row() {
    let plan = |columns, resample, size: (usize, usize)| {
        let axes = [Axis::whole(columns), Axis::whole(100)];
        Plan::new(axes, size, [0..size.0, 0..size.1], resample, Turn::default())
    };
    assert!(plan(2_400_000, Resample::Bicubic, (20, 20)).is_none());
    assert!(plan(240_000, Resample::Bicubic, (20, 20)).is_some());
    assert!(plan(100, Resample::Nearest, (20, 20)).is_none());
    assert!(plan(100, Resample::Bicubic, (100, 100)).is_none());
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
