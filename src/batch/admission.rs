//! The item gate: who may put work into a lane, and what a refused client is told.
//!
//! Owns the permits of one lane and the measured rate behind `Retry-After`. Does not own the request gate (`http`).
//!
//! Invariants: never waits; a request gets all its permits or none; a permit is free again only when its job is gone.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError};

/// The right of one item to be in a lane, from admission until its job is answered or dropped.
#[derive(Debug)]
pub struct Permit(#[expect(dead_code, reason = "held for its Drop")] OwnedSemaphorePermit);

/// Why a request was not admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The lane has no room for all of the request's items now.
    Full {
        /// When room is likely, by the measured rate: 1 to 10 seconds.
        retry_after: Duration,
    },
    /// The lane takes no more work: the server is draining.
    Closed,
}

/// The gate of one lane.
#[derive(Debug)]
pub struct Admission {
    permits: Arc<Semaphore>,
    capacity: usize,
    rate: Mutex<Rate>,
}

impl Admission {
    /// A gate of `capacity` items.
    pub fn new(capacity: usize) -> Self {
        Self { permits: Arc::new(Semaphore::new(capacity)), capacity, rate: Mutex::default() }
    }

    /// Permits for `n` items at once, or a refusal at once.
    ///
    /// # Errors
    /// [`Refused`] when fewer than `n` are free, or after [`Admission::close`].
    pub fn try_admit(&self, n: usize) -> Result<Vec<Permit>, Refused> {
        let want = u32::try_from(n).unwrap_or(u32::MAX);
        match Arc::clone(&self.permits).try_acquire_many_owned(want) {
            Ok(mut all) => Ok((0..n).map_while(|_| all.split(1)).map(Permit).collect()),
            Err(TryAcquireError::NoPermits) => Err(Refused::Full { retry_after: self.retry_after() }),
            Err(TryAcquireError::Closed) => Err(Refused::Closed),
        }
    }

    /// Refuses everything from now on.
    pub fn close(&self) {
        self.permits.close();
    }

    /// Items admitted and not yet gone.
    pub fn live(&self) -> usize {
        self.capacity - self.permits.available_permits()
    }

    /// Told by the worker after each run, so that [`Refused::Full`] can say when to come back.
    pub(super) fn observe_run(&self, items: usize, took: Duration) {
        self.rate.lock().unwrap_or_else(PoisonError::into_inner).observe(items, took);
    }

    fn retry_after(&self) -> Duration {
        let rate = self.rate.lock().unwrap_or_else(PoisonError::into_inner).items_per_second;
        retry_after(self.live(), rate)
    }
}

/// Items per second of a busy session, smoothed over about the last ten runs.
#[derive(Debug, Default)]
struct Rate {
    items_per_second: f64,
}

impl Rate {
    fn observe(&mut self, items: usize, took: Duration) {
        let now = items as f64 / took.as_secs_f64().max(1e-6);
        self.items_per_second =
            if self.items_per_second == 0.0 { now } else { self.items_per_second * 0.9 + now * 0.1 };
    }
}

/// Whole seconds until `depth` items are done at `rate` items per second, held between 1 and 10.
fn retry_after(depth: usize, rate: f64) -> Duration {
    let seconds = if rate > 0.0 { (depth as f64 / rate).ceil() } else { 1.0 };
    Duration::from_secs(seconds.clamp(1.0, 10.0) as u64)
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn a_request_gets_all_its_permits_or_none() {
        let gate = Admission::new(4);
        let held = gate.try_admit(3).expect("three of four");
        assert!(matches!(gate.try_admit(2), Err(Refused::Full { .. })));
        assert_eq!(gate.live(), 3, "the refused request took nothing");
        drop(held);
        assert_eq!(gate.try_admit(4).expect("all free again").len(), 4);
    }

    #[test]
    fn a_closed_gate_says_so() {
        let gate = Admission::new(4);
        gate.close();
        assert_eq!(gate.try_admit(1).unwrap_err(), Refused::Closed);
    }

    #[test]
    fn retry_after_is_depth_over_rate_between_one_and_ten_seconds() {
        assert_eq!(retry_after(100, 0.0).as_secs(), 1, "nothing measured yet");
        assert_eq!(retry_after(100, 1000.0).as_secs(), 1);
        assert_eq!(retry_after(100, 30.0).as_secs(), 4);
        assert_eq!(retry_after(10_000, 30.0).as_secs(), 10);
    }
}
