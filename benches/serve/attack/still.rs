//! Whether the machine has stood still: stopped, suspended, or so busy that this program did not run.
//!
//! Owns a thread that looks at the clock. What ended badly meanwhile says nothing of the service: time limits on both sides have run out
//! without anybody having had that time.

use std::{
    sync::{
        Once,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use super::target::hold;

/// How often is looked. Who judges waits that long first, so that the thread has looked as well.
pub(crate) const LOOK: Duration = Duration::from_millis(50);

/// Who comes back so late has not run.
pub(crate) const LATE: Duration = Duration::from_secs(1);

static TIMES: AtomicU64 = AtomicU64::new(0);

/// How often that was, since this was first asked.
pub(crate) fn times() -> u64 {
    static WATCHED: Once = Once::new();
    WATCHED.call_once(|| {
        thread::spawn(|| {
            loop {
                let looked = Instant::now();
                hold(LOOK);
                if looked.elapsed() > LATE {
                    TIMES.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
    });
    TIMES.load(Ordering::Relaxed)
}
