//! Who goes first: the two classes of requests, and how lately the first one has been seen.
//!
//! Owns the classes and the memory of the first. Does not own how a client says which it is (`http`).
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

/// When a model's lanes last had an interactive item; one for all of them, since they share the machine.
#[derive(Debug)]
pub struct Activity {
    base: Instant,
    /// Nanoseconds after `base`; 0 for never.
    interactive: AtomicU64,
}

impl Activity {
    /// Nothing has been seen.
    pub fn new() -> Self {
        Self { base: Instant::now(), interactive: AtomicU64::new(0) }
    }

    /// An interactive item came, or was answered.
    pub(super) fn seen(&self, now: Instant) {
        let since = now.saturating_duration_since(self.base).as_nanos();
        self.interactive.fetch_max(u64::try_from(since).unwrap_or(u64::MAX).max(1), Ordering::Relaxed);
    }

    /// Whether interactive items have been seen within [`ACTIVE`].
    pub(super) fn is_interactive(&self, now: Instant) -> bool {
        match self.interactive.load(Ordering::Relaxed) {
            0 => false,
            at => now.saturating_duration_since(self.base + Duration::from_nanos(at)) < ACTIVE,
        }
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
    }
}
