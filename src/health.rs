//! Is the process alive, is it ready: the facts behind `/livez` and `/readyz`, and the watchdog that ends a run without end.
//!
//! Owns the readiness state and the workers' heartbeats. Does not own the routes.
//!
//! Invariants: readiness goes Starting -> Ready -> Draining and never back; overload never changes it (shedding is the answer
//! to overload, or every replica would leave the load balancer at once); reading it takes no lock that a worker holds.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use crate::encoder::Interrupt;

/// What `/readyz` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Readiness {
    /// The model is loading, or has not passed its canary yet.
    Starting,
    /// Loaded, warmed, canary passed.
    Ready,
    /// Shutting down.
    Draining,
}

/// The health of one server.
#[derive(Debug)]
pub struct Health {
    readiness: AtomicU8,
    stall_timeout: Duration,
    heartbeats: Mutex<Vec<Arc<Heartbeat>>>,
}

impl Health {
    /// Starting, with no workers yet. A run longer than `stall_timeout` counts as stalled.
    pub fn new(stall_timeout: Duration) -> Self {
        Self { readiness: AtomicU8::new(Readiness::Starting as u8), stall_timeout, heartbeats: Mutex::default() }
    }

    /// The present readiness.
    pub fn readiness(&self) -> Readiness {
        match self.readiness.load(Ordering::Acquire) {
            0 => Readiness::Starting,
            1 => Readiness::Ready,
            _ => Readiness::Draining,
        }
    }

    /// Moves on to `to`; a step back is ignored (a model that finishes loading while the server drains changes nothing).
    pub fn advance(&self, to: Readiness) {
        self.readiness.fetch_max(to as u8, Ordering::AcqRel);
    }

    /// A heartbeat for a new worker.
    pub fn register(&self, worker: impl Into<String>) -> Arc<Heartbeat> {
        let beat = Arc::new(Heartbeat::new(worker.into()));
        self.lock().push(Arc::clone(&beat));
        beat
    }

    /// The names of workers that are stalled or broken at `now`; none means alive.
    pub fn sick_workers(&self, now: Instant) -> Vec<String> {
        self.lock().iter().filter(|beat| beat.sick(now, self.stall_timeout)).map(|beat| beat.worker.clone()).collect()
    }

    /// One look of the watchdog: interrupts each run that has gone on for too long. Called about once a second.
    pub fn interrupt_stalled(&self, now: Instant) {
        for beat in self.lock().iter() {
            if beat.busy_for(now).is_some_and(|busy| busy > self.stall_timeout) {
                tracing::error!(worker = beat.worker, timeout = ?self.stall_timeout, "a run is stalled and is interrupted");
                beat.interrupt();
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Heartbeat>>> {
        self.heartbeats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one worker thread tells of itself.
pub struct Heartbeat {
    worker: String,
    epoch: Instant,
    /// Microseconds from `epoch` to the start of the present run, plus one; zero when idle.
    busy_since: AtomicU64,
    broken: AtomicBool,
    interrupt: Mutex<Option<Interrupt>>,
}

impl std::fmt::Debug for Heartbeat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Heartbeat").field("worker", &self.worker).finish_non_exhaustive()
    }
}

impl Heartbeat {
    fn new(worker: String) -> Self {
        Self {
            worker,
            epoch: Instant::now(),
            busy_since: AtomicU64::new(0),
            broken: AtomicBool::new(false),
            interrupt: Mutex::new(None),
        }
    }

    /// From now on this is how the worker's run is stopped; a worker that was broken is well again.
    pub fn watch(&self, interrupt: Interrupt) {
        *self.interrupt.lock().unwrap_or_else(PoisonError::into_inner) = Some(interrupt);
        self.broken.store(false, Ordering::Release);
    }

    /// The worker runs a batch until the guard is dropped.
    pub fn busy(&self) -> Busy<'_> {
        let micros = u64::try_from(self.epoch.elapsed().as_micros()).unwrap_or(u64::MAX - 1);
        self.busy_since.store(micros + 1, Ordering::Release);
        Busy(self)
    }

    /// The worker has no encoder and could not make one.
    pub fn broken(&self) {
        self.broken.store(true, Ordering::Release);
    }

    fn busy_for(&self, now: Instant) -> Option<Duration> {
        let since = self.busy_since.load(Ordering::Acquire).checked_sub(1)?;
        Some(now.saturating_duration_since(self.epoch + Duration::from_micros(since)))
    }

    fn sick(&self, now: Instant, stall_timeout: Duration) -> bool {
        self.broken.load(Ordering::Acquire) || self.busy_for(now).is_some_and(|busy| busy > stall_timeout)
    }

    fn interrupt(&self) {
        // Cloned out, so that the handle runs without the lock.
        let handle = self.interrupt.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(interrupt) = handle {
            interrupt();
        }
    }
}

/// The worker is inside a run.
#[derive(Debug)]
pub struct Busy<'a>(&'a Heartbeat);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.busy_since.store(0, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(60);

    #[test]
    fn readiness_never_goes_back() {
        let health = Health::new(TIMEOUT);
        assert_eq!(health.readiness(), Readiness::Starting);
        health.advance(Readiness::Draining);
        health.advance(Readiness::Ready);
        assert_eq!(health.readiness(), Readiness::Draining);
    }

    #[test]
    fn a_run_that_does_not_end_is_sick_and_interrupted_and_an_idle_worker_is_neither() {
        let health = Health::new(TIMEOUT);
        let beat = health.register("vision-0");
        let calls = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&calls);
        beat.watch(Arc::new(move || {
            counter.fetch_add(1, Ordering::SeqCst);
        }));
        let later = Instant::now() + TIMEOUT * 2;
        assert!(health.sick_workers(later).is_empty(), "idle");
        let busy = beat.busy();
        assert!(health.sick_workers(Instant::now()).is_empty(), "busy, but not for long");
        health.interrupt_stalled(Instant::now());
        assert_eq!(calls.load(Ordering::SeqCst), 0);
        assert_eq!(health.sick_workers(later), ["vision-0"]);
        health.interrupt_stalled(later);
        assert_eq!(calls.load(Ordering::SeqCst), 1);
        drop(busy);
        assert!(health.sick_workers(later).is_empty(), "the run is over");
    }

    #[test]
    fn a_broken_worker_is_sick_until_it_has_an_encoder_again() {
        let health = Health::new(TIMEOUT);
        let beat = health.register("text-0");
        beat.broken();
        assert_eq!(health.sick_workers(Instant::now()), ["text-0"]);
        beat.watch(Arc::new(|| {}));
        assert!(health.sick_workers(Instant::now()).is_empty());
    }
}
