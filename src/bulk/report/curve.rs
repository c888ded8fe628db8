//! Items by time, as one line of an SVG, however long a run is.
//!
//! Owns the buckets and the drawing. Invariant: there are no more than [`MOST`] buckets; when a run goes on, two become one.

use std::{fmt::Write as _, time::Duration};

/// Buckets at most.
const MOST: usize = 240;
/// How long a bucket is at first.
const FIRST: Duration = Duration::from_secs(1);

// Pixels, which the page scales.
const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 260.0;
const LEFT: f64 = 64.0;
const BOTTOM: f64 = 28.0;
const TOP: f64 = 12.0;
const RIGHT: f64 = 12.0;
/// Lines across, about.
const LINES: f64 = 5.0;
/// Marks of time, at most.
const MARKS: f64 = 8.0;

/// Items in buckets of time.
#[derive(Debug)]
pub(super) struct Curve {
    bucket: Duration,
    items: Vec<u64>,
}

impl Curve {
    pub(super) fn new() -> Self {
        Self { bucket: FIRST, items: Vec::new() }
    }

    /// One more item, so long after the start.
    pub(super) fn add(&mut self, at: Duration) {
        let mut place = self.place(at);
        while place >= MOST {
            self.items = self.items.chunks(2).map(|two| two.iter().sum()).collect();
            self.bucket *= 2;
            place = self.place(at);
        }
        if self.items.len() <= place {
            self.items.resize(place + 1, 0);
        }
        self.items[place] += 1;
    }

    fn place(&self, at: Duration) -> usize {
        usize::try_from(at.as_nanos() / self.bucket.as_nanos()).unwrap_or(usize::MAX)
    }

    /// Items per second by time: where each stretch ends, in seconds, and its rate. The last one is as long as it was, and part of that
    /// before it where it was short.
    fn rates(&self, took: Duration) -> Vec<(f64, f64)> {
        let bucket = self.bucket.as_secs_f64();
        let mut items: Vec<f64> = self.items.iter().map(|items| *items as f64).collect();
        let end = took.as_secs_f64().max(1e-3);
        items.resize(items.len().max((end / bucket).ceil() as usize).clamp(1, MOST), 0.0);
        let last = end - (items.len() - 1) as f64 * bucket;
        let mut ends: Vec<f64> = (1..items.len()).map(|at| at as f64 * bucket).collect();
        ends.push(end);
        if last < bucket / 2.0 && items.len() > 1 {
            let rest = items.pop().unwrap_or_default();
            if let Some(before) = items.last_mut() {
                *before += rest;
            }
            ends.remove(ends.len() - 2);
        }
        let starts = std::iter::once(0.0).chain(ends.clone());
        let rate = |((start, end), items): ((f64, f64), f64)| (end, items / (end - start).max(1e-3));
        starts.zip(ends).zip(items).map(rate).collect()
    }

    /// The curve of a run that took so long.
    pub(super) fn svg(&self, took: Duration) -> String {
        let rates = self.rates(took);
        let end = rates.last().map_or(1.0, |(end, _)| *end);
        let most = rates.iter().fold(1e-3_f64, |most, (_, rate)| most.max(*rate));
        let mean = self.items.iter().sum::<u64>() as f64 / end;
        let mark = step((end / MARKS).max(1.0), &[1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0]);
        let line = step(most / LINES, &[1.0, 2.0, 5.0, 10.0]);
        let top = (most / line).ceil() * line;
        let x = |seconds: f64| LEFT + seconds / end * (WIDTH - LEFT - RIGHT);
        let y = |rate: f64| HEIGHT - BOTTOM - rate / top * (HEIGHT - BOTTOM - TOP);
        let mut svg = format!(
            "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"Items per second over time, {mean:.1} on average\">\n"
        );
        // Writing to a string cannot fail.
        for number in 0..=(top / line).round() as u32 {
            let rate = f64::from(number) * line;
            let (y, digits) = (y(rate), (-line.log10()).ceil().max(0.0) as usize);
            let _ = writeln!(
                svg,
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/><text class=\"rate\" x=\"{}\" \
                 y=\"{:.1}\">{rate:.digits$}</text>",
                WIDTH - RIGHT,
                LEFT - 8.0,
                y + 4.0
            );
        }
        for number in 0..=(end / mark) as u32 {
            let seconds = f64::from(number) * mark;
            let _ = writeln!(
                svg,
                "<text class=\"time\" x=\"{:.1}\" y=\"{}\">{}</text>",
                x(seconds),
                HEIGHT - 8.0,
                clock(seconds)
            );
        }
        let (mut points, mut start) = (String::new(), 0.0);
        for (end, rate) in &rates {
            let _ = write!(points, "{:.1},{:.1} {:.1},{:.1} ", x(start), y(*rate), x(*end), y(*rate));
            start = *end;
        }
        let ground = HEIGHT - BOTTOM;
        let _ = writeln!(
            svg,
            "<polygon class=\"area\" points=\"{LEFT},{ground} {points}{:.1},{ground}\"/><polyline class=\"curve\" points=\"{points}\"/>",
            x(end)
        );
        let _ = writeln!(
            svg,
            "<line class=\"mean\" x1=\"{LEFT}\" x2=\"{}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/></svg>",
            WIDTH - RIGHT,
            y = y(mean)
        );
        svg
    }
}

/// The least of `steps`, which go on in the next power of their last one, that is not below `least`.
fn step(least: f64, steps: &[f64]) -> f64 {
    let base = steps.last().copied().unwrap_or(10.0);
    let mut unit = if least > 0.0 { base.powf((least.ln() / base.ln()).floor()) } else { 1.0 };
    loop {
        if let Some(step) = steps.iter().map(|step| step * unit).find(|step| *step >= least) {
            return step;
        }
        unit *= base;
    }
}

/// `0`, `15 s`, `2:30`, `1:02:30`.
fn clock(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        0 => "0".to_owned(),
        1..60 => format!("{whole} s"),
        60..3600 => format!("{}:{:02}", whole / 60, whole % 60),
        _ => format!("{}:{:02}:{:02}", whole / 3600, whole / 60 % 60, whole % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_merge_and_no_item_is_lost() {
        let mut curve = Curve::new();
        for second in 0..100_000 {
            curve.add(Duration::from_secs(second));
            assert!(curve.items.len() <= MOST);
        }
        assert_eq!(curve.items.iter().sum::<u64>(), 100_000);
        assert_eq!(curve.bucket, Duration::from_secs(512));
        assert!(curve.items[..curve.items.len() - 1].iter().all(|items| *items == 512), "{:?}", curve.items);
        curve.add(Duration::MAX);
        assert!(curve.items.len() <= MOST);
    }

    #[test]
    fn rates_are_of_the_time_that_there_was() {
        let mut curve = Curve::new();
        for at in [100, 200, 1100, 2100, 2200, 2300] {
            curve.add(Duration::from_millis(at));
        }
        assert_eq!(curve.rates(Duration::from_millis(2500)), [(1.0, 2.0), (2.0, 1.0), (2.5, 6.0)]);
        // The last bit is part of what was before it.
        assert_eq!(curve.rates(Duration::from_millis(2400)).len(), 2);
        // Nothing came for a while, and at all.
        assert_eq!(curve.rates(Duration::from_secs(5)).len(), 5);
        assert_eq!(Curve::new().rates(Duration::ZERO).len(), 1);
    }

    #[test]
    fn the_drawing_is_bounded_and_has_numbers_alone() {
        let mut curve = Curve::new();
        (0..50_000).for_each(|second| curve.add(Duration::from_secs(second)));
        let svg = curve.svg(Duration::from_secs(50_000));
        assert!(svg.len() < 30_000, "{}", svg.len());
        for svg in [svg, Curve::new().svg(Duration::ZERO)] {
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        }
    }

    #[test]
    fn steps_and_times_are_round() {
        for (least, expected) in [(0.3, 0.5), (0.9, 1.0), (3.0, 5.0), (70.0, 100.0)] {
            assert_eq!(step(least, &[1.0, 2.0, 5.0, 10.0]), expected);
        }
        for (seconds, expected) in [(0.0, "0"), (15.0, "15 s"), (150.0, "2:30"), (3750.0, "1:02:30")] {
            assert_eq!(clock(seconds), expected);
        }
    }
}
