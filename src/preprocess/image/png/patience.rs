//! How long a stream may keep the fast inflater: a few times what its bytes need. This bounds the time of those whose blocks are nothing
//! but tables. What becomes of the bytes meanwhile does not count. Whatever it says, the picture is the same: zlib's inflater begins anew.

/// For each byte that is inflated, in nanoseconds. Those of pictures take 1 to 4.
const OF_GIVEN: u64 = 4;

/// For each byte of the stream besides. Those of pictures take 2 to 6.
const OF_TAKEN: u64 = 16;

/// For what does not depend on these.
const OF_STREAM: i64 = 20_000_000;

/// What is left for a stream, in nanoseconds.
pub(super) struct Patience(i64);

impl Patience {
    /// None.
    #[cfg(test)]
    pub(super) const NONE: Self = Self(i64::MIN / 2);

    /// For a stream of which nothing is inflated yet.
    pub(super) fn new() -> Self {
        Self(OF_STREAM)
    }

    /// A step begins.
    pub(super) fn begin() -> u64 {
        now()
    }

    /// Whether it is over with a step of so many bytes, which has `begun` then.
    pub(super) fn is_over(&mut self, begun: u64, taken: usize, given: usize) -> bool {
        let spent = i64::try_from(now().saturating_sub(begun)).unwrap_or(i64::MAX);
        let earned = (OF_TAKEN * taken as u64 + OF_GIVEN * given as u64) as i64;
        self.0 = self.0.saturating_add(earned).saturating_sub(spent);
        self.0 < 0
    }
}

/// Nanoseconds that this thread has run: whatever else the machine does meanwhile does not count.
#[cfg(target_os = "linux")]
fn now() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    (time.tv_sec as u64).saturating_mul(1_000_000_000).saturating_add(time.tv_nsec as u64)
}

/// Nanoseconds, with what else the machine did meanwhile.
#[cfg(not(target_os = "linux"))]
fn now() -> u64 {
    use std::{sync::LazyLock, time::Instant};

    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    START.elapsed().as_nanos() as u64
}
