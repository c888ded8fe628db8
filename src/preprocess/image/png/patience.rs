//! How long a stream may keep the fast inflater: a few times what its bytes need. This bounds the time of those whose blocks are nothing
//! but tables. Whatever it says, the picture is the same: zlib's inflater begins anew.

/// For each byte that is inflated, in nanoseconds. Those of pictures take 1 to 4, with all that is done with them.
const OF_GIVEN: u64 = 4;

/// For each byte of the stream besides. Those of pictures take 2 to 6.
const OF_TAKEN: u64 = 16;

/// For what does not depend on these.
const OF_STREAM: u64 = 20_000_000;

/// What is left for a stream.
pub(super) struct Patience {
    /// By [`now`].
    until: u64,
}

impl Patience {
    /// None.
    #[cfg(test)]
    pub(super) const NONE: Self = Self { until: 0 };

    /// For a stream that begins now.
    pub(super) fn new() -> Self {
        Self { until: now().saturating_add(OF_STREAM) }
    }

    /// Whether it is over with a step of so many bytes.
    pub(super) fn is_over(&mut self, taken: usize, given: usize) -> bool {
        self.until = self.until.saturating_add(OF_TAKEN * taken as u64 + OF_GIVEN * given as u64);
        now() > self.until
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
