//! How the second class gets on in one lane while the first is there.
//!
//! Owns how long its runs are, and when one is not held up any more. Pure: it has no clock and no queue. Does not own which runs go on
//! (`floor`) or whose turn it is (`turn`).
//!
//! A run that can be ended is tried where there is room. The longer it is, the more an item costs less, and the more often the run comes to
//! nothing: it becomes longer by each run that gets through, and half as long by each that does not. What comes to nothing costs the first class
//! next to nothing where it leaves much room, and something where it leaves next to none: so after a run that was ended the next one waits, and
//! twice as long after each in a row. Where none has got through for [`STARVED`] times of what it takes, one is begun whatever goes on and waits,
//! and not ended. A run that cannot be ended is followed by a rest.

use std::time::{Duration, Instant};

/// A run that can't be ended is followed by a rest of so many times what it took: one of sixteen arrivals then meets one at most, so that
/// the first class hardly notices the second.
const REST: f64 = 15.0;

/// For so many times of what a run takes the second class may be held up. Beside a first class that leaves no room at all, one in so many of
/// its arrivals then meets a run that it cannot end, and waits for a part of it.
const STARVED: f64 = 100.0;

/// Of the pause after runs that came to nothing, what one that gets through leaves: less than a half, so that it is short where half of
/// them do.
const RECOVERY: f64 = 0.25;

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
    /// For how many times of what a run takes none begins after one that was ended.
    pause: f64,
    /// Until when none begins.
    rest: Option<Instant>,
}

impl Default for SecondClass {
    fn default() -> Self {
        Self { stretch: 1.0, finished: None, pause: 0.0, rest: None }
    }
}

impl SecondClass {
    /// How long a run may take, of which the shortest takes `shortest` seconds.
    pub(super) fn longest(&self, shortest: f64) -> f64 {
        shortest * self.stretch
    }

    /// A run has got through, which could have been ended or not.
    pub(super) fn finished(&mut self, ended: Instant, took: Duration, gives_way: bool) {
        self.stretch = (self.stretch + LONGER).min(LONGEST);
        self.pause *= RECOVERY;
        self.finished = self.finished.max(Some(ended));
        self.rest = (!gives_way).then(|| ended + took.mul_f64(REST));
    }

    /// A run that would have taken so many seconds was ended.
    pub(super) fn ended(&mut self, now: Instant, seconds: f64) {
        self.stretch = (self.stretch / 2.0).max(1.0);
        self.pause = (self.pause * 2.0).clamp(1.0, STARVED);
        self.rest = Some(now + times(seconds, self.pause));
    }

    /// From when on a run of `seconds` is held up no longer, of which the oldest item waits since `since`.
    pub(super) fn due(&self, since: Instant, seconds: f64) -> Instant {
        self.finished.map_or(since, |finished| finished.max(since)) + times(seconds, STARVED)
    }

    /// Until when none begins that is not due.
    pub(super) fn rests(&self, now: Instant) -> Option<Instant> {
        self.rest.filter(|until| *until > now)
    }
}

fn times(seconds: f64, factor: f64) -> Duration {
    Duration::from_secs_f64((seconds * factor).clamp(0.0, 3600.0))
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
                second.finished(now, RUN, true)
            } else {
                second.ended(now, 0.01)
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
        assert_eq!(second.due(since, 0.01), since + RUN * 100);
        assert_eq!(second.due(since, 0.02), since + RUN * 200, "a longer one is in the way for longer");
        second.finished(since + RUN, RUN, true);
        assert_eq!(second.due(since, 0.01), since + RUN * 101, "others of its class have got through");
        assert_eq!(second.due(since + RUN * 9, 0.01), since + RUN * 109, "when it did not wait yet");
        second.ended(since + RUN * 20, 0.01);
        assert_eq!(second.due(since, 0.01), since + RUN * 101);
    }

    #[test]
    fn after_runs_that_were_ended_the_next_one_waits_twice_as_long_each_time() {
        let (mut second, now) = (SecondClass::default(), Instant::now());
        let rest = |second: &SecondClass| second.rests(now).map_or(Duration::ZERO, |until| until - now);
        let ended = |second: &mut SecondClass| {
            second.ended(now, 0.01);
            rest(second)
        };
        assert_eq!([(); 4].map(|()| ended(&mut second)), [1, 2, 4, 8].map(|runs| RUN * runs));
        second.finished(now, RUN, true);
        assert_eq!(rest(&second), Duration::ZERO, "this one got through");
        assert_eq!(ended(&mut second), RUN * 4);
        assert_eq!((0..20).map(|_| ended(&mut second)).last(), Some(RUN * 100));
    }

    #[test]
    fn a_run_that_cannot_be_ended_is_followed_by_a_rest() {
        let (mut second, now) = (SecondClass::default(), Instant::now());
        assert_eq!(second.rests(now), None);
        second.finished(now, RUN, false);
        assert_eq!(second.rests(now + RUN), Some(now + RUN * 15));
        assert_eq!(second.rests(now + RUN * 15), None);
    }
}
