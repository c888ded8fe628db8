//! Is the process alive, is it ready: the facts behind `/livez` and `/readyz`, and the watchdog that ends a run without end.
//!
//! Owns the readiness state and the workers' heartbeats. Does not own the routes.
//!
//! Invariants: readiness goes Starting -> Ready -> Draining and never back; overload never changes it (shedding is the answer
//! to overload, or every replica would leave the load balancer at once); reading it takes no lock that a worker holds during a
//! run.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU8, Ordering},
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
        self.lock()
            .iter()
            .filter(|beat| beat.is_sick(now, self.stall_timeout))
            .map(|beat| beat.worker.clone())
            .collect()
    }

    /// One look of the watchdog: interrupts each run that has gone on for too long. Called about once a second.
    pub fn interrupt_stalled(&self, now: Instant) {
        for beat in self.lock().iter() {
            if beat.interrupt_if_stalled(now, self.stall_timeout) {
                tracing::error!(worker = beat.worker, timeout = ?self.stall_timeout, "a run was stalled and is interrupted");
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Heartbeat>>> {
        self.heartbeats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one worker thread tells of itself.
#[derive(Debug)]
pub struct Heartbeat {
    worker: String,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The start of the present run, and what ends it.
    run: Option<(Instant, Interrupt)>,
    is_broken: bool,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { run, is_broken } = self;
        let busy_since = run.as_ref().map(|(since, _)| since);
        f.debug_struct("State").field("busy_since", &busy_since).field("is_broken", is_broken).finish_non_exhaustive()
    }
}

impl State {
    fn is_stalled(&self, now: Instant, stall_timeout: Duration) -> bool {
        self.run.as_ref().is_some_and(|(since, _)| now.saturating_duration_since(*since) > stall_timeout)
    }
}

impl Heartbeat {
    fn new(worker: String) -> Self {
        Self { worker, state: Mutex::default() }
    }

    /// The worker runs a batch until the guard is dropped; `interrupt` ends the run. It is called under a lock: it must return at once.
    pub fn busy(&self, interrupt: Interrupt) -> Busy<'_> {
        self.lock().run = Some((Instant::now(), interrupt));
        Busy(self)
    }

    /// The worker has no encoder and could not make one, or a new one fails as the last one did.
    pub fn broken(&self) {
        self.lock().is_broken = true;
    }

    /// A run has given an answer: a worker that was broken is no longer.
    pub fn well(&self) {
        self.lock().is_broken = false;
    }

    fn is_sick(&self, now: Instant, stall_timeout: Duration) -> bool {
        let state = self.lock();
        state.is_broken || state.is_stalled(now, stall_timeout)
    }

    /// Whether it was. Under the lock, so that the run which is stalled does not end and another begin in between.
    fn interrupt_if_stalled(&self, now: Instant, stall_timeout: Duration) -> bool {
        let state = self.lock();
        let is_stalled = state.is_stalled(now, stall_timeout);
        if let Some((_, interrupt)) = state.run.as_ref().filter(|_| is_stalled) {
            interrupt();
        }
        is_stalled
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The worker is inside a run.
#[derive(Debug)]
pub struct Busy<'a>(&'a Heartbeat);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.lock().run = None;
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
        let interrupt: Interrupt = Arc::new(move || {
            counter.fetch_add(1, Ordering::SeqCst);
        });
        let later = Instant::now() + TIMEOUT * 2;
        assert!(health.sick_workers(later).is_empty(), "idle");
        let busy = beat.busy(interrupt);
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
    fn a_broken_worker_is_sick_until_a_run_has_answered() {
        let health = Health::new(TIMEOUT);
        let beat = health.register("text-0");
        beat.broken();
        assert_eq!(health.sick_workers(Instant::now()), ["text-0"]);
        drop(beat.busy(Arc::new(|| {})));
        assert_eq!(
            health.sick_workers(Instant::now()),
            ["text-0"],
            "a run that ends may have failed as the last one did"
        );
        beat.well();
        assert!(health.sick_workers(Instant::now()).is_empty());
    }
}
