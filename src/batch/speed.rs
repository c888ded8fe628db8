//! How long work takes on this machine, as measured: what every forecast is made of.
//!
//! Owns the measurements of one stage (decoding, or the runs of one encoder), smoothed. Units of work are the stage's own: pixels
//! weighed by format, images, tokens. Does not own what is forecast from it (`flow`), nor the clock.
//!
//! Invariants: the latest measurements weigh most, so that a machine that changes its speed is followed within a few of them;
//! nothing measured yet answers zero, which refuses nobody.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// Of the means, what one more measurement makes.
const WEIGHT: f64 = 0.25;

/// Sizes of runs that are told apart: powers of two.
const SIZES: usize = 40;

/// The measurements of one stage.
#[derive(Debug)]
pub struct Speed(Mutex<Measured>);

#[derive(Debug)]
struct Measured {
    /// Means of the latest measurements, whatever their size.
    work: f64,
    seconds: f64,
    /// Mean work and seconds of the runs of one power of two.
    by_size: [Option<(f64, f64)>; SIZES],
}

impl Speed {
    /// Nothing measured.
    pub fn new() -> Self {
        Self(Mutex::new(Measured { work: 0.0, seconds: 0.0, by_size: [None; SIZES] }))
    }

    /// `work` units took so long.
    pub fn observe(&self, work: u64, took: Duration) {
        let mut measured = self.lock();
        let (work, seconds) = (work.max(1) as f64, took.as_secs_f64());
        let weight = if measured.work > 0.0 { WEIGHT } else { 1.0 };
        measured.work += (work - measured.work) * weight;
        measured.seconds += (seconds - measured.seconds) * weight;
        let index = (work.log2() as usize).min(SIZES - 1);
        // Larger runs take no longer a unit, as far as anybody knows: what says so is from a time when the machine was slower, and
        // would keep such runs from being measured again.
        for (size, larger) in measured.by_size.iter_mut().skip(index + 1).flatten() {
            let proportional = *size * seconds / work;
            *larger += (proportional - *larger).min(0.0) * WEIGHT;
        }
        let size = &mut measured.by_size[index];
        *size = Some(size.map_or((work, seconds), |(mean_work, mean_seconds)| {
            (mean_work + (work - mean_work) * WEIGHT, mean_seconds + (seconds - mean_seconds) * WEIGHT)
        }));
    }

    /// Seconds that one unit has taken of late, in runs as large as they were.
    pub fn seconds_per_unit(&self) -> f64 {
        let measured = self.lock();
        if measured.work > 0.0 { measured.seconds / measured.work } else { 0.0 }
    }

    /// Work and seconds of a run as they have been of late; zero while nothing is measured.
    pub fn run_of_late(&self) -> (f64, f64) {
        let measured = self.lock();
        (measured.work, measured.seconds)
    }

    /// Seconds that a run of `work` units takes; 0 while nothing is measured.
    pub fn seconds(&self, work: u64) -> f64 {
        let measured = self.lock();
        let work = work.max(1) as f64;
        let mut below: Option<(f64, f64)> = None;
        for (size, seconds) in measured.by_size.iter().copied().flatten() {
            if size >= work {
                return match below {
                    // Less work than was ever measured takes no longer than the least that was.
                    None => seconds,
                    Some((less, sooner)) => sooner + (seconds - sooner) * (work - less) / (size - less).max(1.0),
                };
            }
            below = Some((size, seconds));
        }
        below.map_or(0.0, |(size, seconds)| seconds * work / size)
    }

    /// The most work that a run may have and take no longer than `seconds`, at least 1.
    pub fn work_within(&self, seconds: f64) -> u64 {
        let measured = self.lock();
        let mut below: Option<(f64, f64)> = None;
        for (size, took) in measured.by_size.iter().copied().flatten() {
            if took > seconds {
                return match below {
                    None => 1,
                    Some((less, sooner)) => {
                        let part = (seconds - sooner) / (took - sooner).max(f64::EPSILON);
                        (less + (size - less) * part).max(1.0) as u64
                    }
                };
            }
            below = Some((size, took));
        }
        // More than was ever measured: in proportion.
        below.map_or(u64::MAX, |(size, took)| (size * seconds / took.max(f64::EPSILON)).max(1.0) as u64)
    }

    fn lock(&self) -> MutexGuard<'_, Measured> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Speed {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod unit {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// A vision encoder on a CPU: one image takes 57 ms, eight take 350.
    fn encoder() -> Speed {
        let speed = Speed::new();
        speed.observe(8, ms(350));
        speed.observe(1, ms(57));
        speed
    }

    #[test]
    fn runs_between_those_that_were_measured_are_interpolated() {
        let speed = encoder();
        let near = |work, expected: f64| {
            let seconds = speed.seconds(work);
            assert!((seconds - expected).abs() < 1e-3, "{work}: {seconds}, expected {expected}");
        };
        near(1, 0.057);
        near(8, 0.350);
        near(2, 0.057 + 0.293 / 7.0);
        near(16, 0.700);
        assert_eq!(Speed::new().seconds(8), 0.0, "nothing measured");
    }

    #[test]
    fn the_work_within_a_time_is_the_inverse_of_the_time_of_a_work() {
        let speed = encoder();
        assert_eq!(speed.work_within(0.086), 1);
        assert_eq!(speed.work_within(0.100), 2);
        assert_eq!(speed.work_within(0.351), 8);
        assert_eq!(speed.work_within(0.701), 16);
        assert_eq!(speed.work_within(0.001), 1, "something is always run");
        assert_eq!(Speed::new().work_within(0.001), u64::MAX, "nothing measured");
    }

    #[test]
    fn a_machine_that_becomes_faster_is_followed_for_runs_that_were_too_long_to_be_tried() {
        let speed = encoder();
        for _ in 0..20 {
            speed.observe(1, ms(10));
        }
        assert!((speed.seconds(8) - 0.08).abs() < 0.01, "{}", speed.seconds(8));
    }

    #[test]
    fn a_machine_that_becomes_slower_is_followed() {
        let speed = encoder();
        for _ in 0..12 {
            speed.observe(8, ms(700));
        }
        assert!((speed.seconds(8) - 0.7).abs() < 0.02);
        assert!((speed.seconds_per_unit() - 0.0875).abs() < 0.003);
    }
}
