//! How the second class gets on in one lane while the first is there.
//!
//! Owns how long its runs are, and when one is not held up any more. Pure: it has no clock and no queue. Does not own which runs go on
//! (`floor`) or whose turn it is (`turn`).
//!
//! A run that can be ended is tried whenever there is room, and costs the first class next to nothing. The longer it is, the more an item costs
//! less, and the more often the run comes to nothing: it becomes longer by each run that gets through, and half as long by each that does not.
//! Where none has got through for [`STARVED`] times of what it takes, one is begun whatever goes on and waits, and not ended. A run that cannot
//! be ended is followed by a rest.

use std::time::{Duration, Instant};

/// A run that can't be ended is followed by a rest of so many times what it took: one of sixteen arrivals then meets one at most, so that
/// the first class hardly notices the second.
const REST: f64 = 15.0;

/// For so many times of what a run takes the second class may be held up. Beside a first class that leaves no room at all, one in so many of
/// its arrivals then meets a run that it cannot end, and waits for a part of it.
const STARVED: f64 = 50.0;

/// How many times as long as the shortest a run becomes, and by how much at once. The time until a run sees that it is to end grows with it:
/// about a hundredth of it, an operator's.
const LONGEST: f64 = 4.0;
const LONGER: f64 = 0.5;

/// What a lane remembers of its second class.
#[derive(Debug)]
pub(super) struct SecondClass {
    /// How many times as long as the shortest its runs are.
    stretch: f64,
    /// The end of the last run that got through.
    finished: Option<Instant>,
    /// Until when none begins that cannot be ended.
    rest: Option<Instant>,
}

impl Default for SecondClass {
    fn default() -> Self {
        Self { stretch: 1.0, finished: None, rest: None }
    }
}

impl SecondClass {
    /// How long a run may take, of which the shortest takes `shortest` seconds.
    pub(super) fn longest(&self, shortest: f64) -> f64 {
        shortest * self.stretch
    }

    /// A run has got through.
    pub(super) fn finished(&mut self, ended: Instant, took: Duration) {
        self.stretch = (self.stretch + LONGER).min(LONGEST);
        self.finished = self.finished.max(Some(ended));
        self.rest = Some(ended + took.mul_f64(REST));
    }

    /// A run was ended.
    pub(super) fn ended(&mut self) {
        self.stretch = (self.stretch / 2.0).max(1.0);
    }

    /// From when on a run of `seconds` is held up no longer, of which the oldest item waits since `since`.
    pub(super) fn due(&self, since: Instant, seconds: f64) -> Instant {
        self.finished.map_or(since, |finished| finished.max(since))
            + Duration::from_secs_f64((seconds * STARVED).clamp(0.0, 3600.0))
    }

    /// Until when a run that cannot be ended does not begin.
    pub(super) fn rests(&self, now: Instant) -> Option<Instant> {
        self.rest.filter(|until| *until > now)
    }
}

#[cfg(test)]
mod unit {
    use super::*;

    const RUN: Duration = Duration::from_millis(10);

    #[test]
    fn runs_become_longer_as_they_get_through_and_half_as_long_as_they_do_not() {
        let (mut second, now) = (SecondClass::default(), Instant::now());
        let mut after = |gets_through: bool| {
            if gets_through {
                second.finished(now, RUN)
            } else {
                second.ended()
            }
            second.longest(2.0)
        };
        let seen = [true, true, false, false, true].map(&mut after);
        assert_eq!(seen, [3.0, 4.0, 2.0, 2.0, 3.0]);
        assert_eq!((0..20).map(|_| after(true)).last(), Some(8.0));
    }

    #[test]
    fn a_run_is_due_when_none_has_got_through_for_long() {
        let (mut second, since) = (SecondClass::default(), Instant::now());
        assert_eq!(second.due(since, 0.01), since + RUN * 50);
        assert_eq!(second.due(since, 0.02), since + RUN * 100, "a longer one is in the way for longer");
        second.finished(since + RUN, RUN);
        assert_eq!(second.due(since, 0.01), since + RUN * 51, "others of its class have got through");
        assert_eq!(second.due(since + RUN * 9, 0.01), since + RUN * 59, "when it did not wait yet");
        second.ended();
        assert_eq!(second.due(since, 0.01), since + RUN * 51);
    }

    #[test]
    fn a_run_that_cannot_be_ended_is_followed_by_a_rest() {
        let (mut second, now) = (SecondClass::default(), Instant::now());
        assert_eq!(second.rests(now), None);
        second.finished(now, RUN);
        assert_eq!(second.rests(now + RUN), Some(now + RUN * 15));
        assert_eq!(second.rests(now + RUN * 15), None);
    }
}
