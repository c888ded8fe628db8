//! How many lines of one kind the log takes in a second.
//!
//! Owns the count. Does not own which lines are of one kind. There is one for what clients are refused, one for what is not answered and one
//! for pictures that are not fetched, since a client chooses how often these are: under overload a line for each refusal is a quarter of what
//! the refusal takes, and pushes out of the log what somebody will look for there.
//!
//! Invariant: what is left out is counted, and told with the next line.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Lines in a [`WINDOW`]: more than anybody reads while they come.
const MOST: u64 = 100;

const WINDOW: Duration = Duration::from_secs(1);

/// The limit of one kind of lines.
#[derive(Debug, Default)]
pub struct LogLimit(Mutex<Window>);

#[derive(Debug, Default)]
struct Window {
    since: Option<Instant>,
    lines: u64,
    left_out: u64,
}

impl LogLimit {
    /// Writes a line of this kind, or counts it as left out. `line` is given how many were left out since the last one, where any were.
    pub fn write(&self, line: impl FnOnce(Option<u64>)) {
        if let Some(left_out) = self.admit(Instant::now()) {
            line((left_out > 0).then_some(left_out));
        }
    }

    /// Whether a line may be written at `now`: with how many were left out since the last one that was.
    pub fn admit(&self, now: Instant) -> Option<u64> {
        // Nothing under the lock can panic.
        let mut window = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if window.since.is_none_or(|since| now.saturating_duration_since(since) >= WINDOW) {
            (window.since, window.lines) = (Some(now), 0);
        }
        if window.lines >= MOST {
            window.left_out += 1;
            return None;
        }
        window.lines += 1;
        Some(std::mem::take(&mut window.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beyond_a_hundred_a_second_lines_are_counted_and_told_of_with_the_next() {
        let (limit, start) = (LogLimit::default(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        assert!((0..100).all(|ms| limit.admit(at(ms)) == Some(0)));
        assert!((100..1000).all(|ms| limit.admit(at(ms)).is_none()));
        assert_eq!(limit.admit(at(1000)), Some(900));
        assert_eq!(limit.admit(at(1001)), Some(0));
        assert!((2..100).all(|ms| limit.admit(at(1000 + ms)) == Some(0)), "a second holds as many again");
        assert_eq!(limit.admit(at(1999)), None);
        // A clock that is behind, as another thread's may be by a little.
        assert_eq!(limit.admit(at(1500)), None);
        assert_eq!(limit.admit(at(60_000)), Some(2));
    }
}
