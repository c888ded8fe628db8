//! Arrival times of the open loop.
//!
//! Owns when requests arrive, as times after the start. Pure: no clock. Invariants: times never go back; the same seed gives
//! the same times, so compared services see the same traffic.

use std::time::Duration;

/// How arrivals are spread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Arrivals {
    /// Independent of each other, as of many users: exponential gaps.
    Poisson,
    /// Evenly spaced.
    Fixed,
}

/// The times of all arrivals, without end.
#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    arrivals: Arrivals,
    /// Seconds between two arrivals, on average.
    gap: f64,
    /// Seconds after the start.
    at: f64,
    random: fastrand::Rng,
}

impl Schedule {
    /// `rate` requests per second, which must be positive.
    pub(crate) fn new(arrivals: Arrivals, rate: f64, seed: u64) -> Self {
        Self { arrivals, gap: 1.0 / rate, at: 0.0, random: fastrand::Rng::with_seed(seed) }
    }
}

impl Iterator for Schedule {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        self.at += match self.arrivals {
            Arrivals::Fixed => self.gap,
            // 1 - x is in (0, 1]: never the logarithm of zero.
            Arrivals::Poisson => -(1.0 - self.random.f64()).ln() * self.gap,
        };
        Some(Duration::from_secs_f64(self.at))
    }
}
