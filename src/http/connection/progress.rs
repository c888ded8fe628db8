//! How fast the bytes of one peer move, over the last second or so.
//!
//! Owns the measurement. Does not own what is done about a slow one (`peers`).

use std::time::Duration;

use tokio::time::Instant;

/// A peer is judged by what it does in so long a time, and never before so long a time is over.
pub(super) const WINDOW: Duration = Duration::from_secs(1);

/// Bytes that moved since some instant.
#[derive(Clone, Copy, Debug)]
pub(super) struct Progress {
    began: Instant,
    /// All of them.
    bytes: u64,
    window: Instant,
    in_window: u64,
    /// Of the last whole window.
    rate: Option<f64>,
}

impl Progress {
    /// Nothing has moved yet.
    pub(super) fn begin(now: Instant) -> Self {
        Self { began: now, bytes: 0, window: now, in_window: 0, rate: None }
    }

    /// When it began.
    pub(super) fn began(&self) -> Instant {
        self.began
    }

    /// Bytes that have moved.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// `bytes` more have moved.
    pub(super) fn moved(&mut self, bytes: usize, now: Instant) {
        if let Some(rate) = self.window_rate(now) {
            (self.window, self.in_window, self.rate) = (now, 0, Some(rate));
        }
        self.bytes += bytes as u64;
        self.in_window += bytes as u64;
    }

    /// Bytes a second of late; `None` while it is too early to say.
    pub(super) fn rate(&self, now: Instant) -> Option<f64> {
        self.window_rate(now).or(self.rate)
    }

    /// Of the present window, once it is long enough.
    fn window_rate(&self, now: Instant) -> Option<f64> {
        let elapsed = now.saturating_duration_since(self.window);
        (elapsed >= WINDOW).then(|| self.in_window as f64 / elapsed.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_that_of_the_last_second_and_unknown_before() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut progress = Progress::begin(start);
        progress.moved(1_000_000, at(10));
        assert_eq!(progress.rate(at(500)), None, "too early");
        assert_eq!(progress.rate(at(2000)), Some(500_000.0));
        progress.moved(1, at(2000));
        progress.moved(1, at(2500));
        assert_eq!(progress.rate(at(2600)), Some(500_000.0), "of the last whole window");
        assert_eq!(progress.rate(at(4000)), Some(1.0), "the burst at the start is forgotten");
        assert_eq!((progress.bytes(), progress.began()), (1_000_002, start));
    }
}
