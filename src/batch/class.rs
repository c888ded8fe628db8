//! Who goes first: the two classes of requests, and how lately the first one has been seen, and small requests of it.
//!
//! Owns the classes and that memory. Does not own how a client says which it is (`http`).
//!
//! Invariant: a lane without first-class work, and one whose model has not seen any for [`ACTIVE`], treats both alike.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

/// How long after its last item the first class counts as active: several runs of a large model on a CPU.
pub(super) const ACTIVE: Duration = Duration::from_secs(2);

/// The class of a request. The first goes before the second in every queue, and the second is refused first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Somebody waits for the answer.
    #[default]
    Interactive,
    /// It may take its time: what is left of the machine is enough.
    Bulk,
}

/// For how long small requests count as coming after the last of them.
pub(super) const SMALL_COME: Duration = Duration::from_secs(10);

/// When a model's lanes last had an interactive item, and one of a small request; one for all of them, since they share the machine.
#[derive(Debug)]
pub struct Activity {
    base: Instant,
    interactive: Moment,
    small: Moment,
}

/// Nanoseconds after the base; 0 for never.
#[derive(Debug, Default)]
struct Moment(AtomicU64);

impl Moment {
    fn seen(&self, base: Instant, now: Instant) {
        let since = now.saturating_duration_since(base).as_nanos();
        self.0.fetch_max(u64::try_from(since).unwrap_or(u64::MAX).max(1), Ordering::Relaxed);
    }

    fn is_within(&self, time: Duration, base: Instant, now: Instant) -> bool {
        match self.0.load(Ordering::Relaxed) {
            0 => false,
            at => now.saturating_duration_since(base + Duration::from_nanos(at)) < time,
        }
    }
}

impl Activity {
    /// Nothing has been seen.
    pub fn new() -> Self {
        Self { base: Instant::now(), interactive: Moment::default(), small: Moment::default() }
    }

    /// An interactive item came, or was answered.
    pub(super) fn seen(&self, now: Instant) {
        self.interactive.seen(self.base, now);
    }

    /// An interactive item of a small request came.
    pub(super) fn seen_small(&self, now: Instant) {
        self.small.seen(self.base, now);
    }

    /// Whether interactive items have been seen within [`ACTIVE`].
    pub(super) fn is_interactive(&self, now: Instant) -> bool {
        self.interactive.is_within(ACTIVE, self.base, now)
    }

    /// Whether small requests come: one was seen within [`SMALL_COME`].
    pub(super) fn small_come(&self, now: Instant) -> bool {
        self.small.is_within(SMALL_COME, self.base, now)
    }
}

impl Default for Activity {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn the_first_class_is_active_for_a_while_after_it_was_seen() {
        let activity = Activity::new();
        let now = Instant::now();
        assert!(!activity.is_interactive(now), "never seen");
        activity.seen(now);
        assert!(activity.is_interactive(now) && activity.is_interactive(now + ACTIVE / 2));
        assert!(!activity.is_interactive(now + ACTIVE * 2));
        assert!(!activity.small_come(now), "it was not said to be small");
        activity.seen_small(now);
        assert!(activity.small_come(now + SMALL_COME / 2) && !activity.small_come(now + SMALL_COME * 2));
    }
}
