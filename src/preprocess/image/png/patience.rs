//! How long a stream may keep the fast inflater: a few times what its bytes need. Of one that takes longer the blocks are counted, so that
//! on a slow machine a picture is decoded twice, and none is refused for its time.

/// For each byte that is inflated, in nanoseconds. Those of pictures take 1 to 4, with all that is done with them.
const OF_BYTE: u64 = 16;

/// For what does not depend on that.
const OF_STREAM: u64 = 20_000_000;

/// What is left, for a stream of known length.
pub(super) struct Patience {
    /// By [`now`].
    until: u64,
}

impl Patience {
    /// None.
    #[cfg(test)]
    pub(super) const OVER: Self = Self { until: 0 };

    /// For a stream that inflates to so many bytes.
    pub(super) fn for_bytes(bytes: u64) -> Self {
        Self { until: now().saturating_add(OF_STREAM).saturating_add(bytes.saturating_mul(OF_BYTE)) }
    }

    pub(super) fn has_ended(&self) -> bool {
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
