//! Work of a request that would hold an I/O thread for too long: tokenizing kilobytes, reading and writing megabytes.
//!
//! Owns where it is done. Tokio's `block_in_place`: the thread that has the request does the work where its data is, and hands its other
//! connections to another thread first. So many at a time as there are cores, in the order in which they came; who has more to do
//! than a few milliseconds asks again for each part, so that requests take turns here too. Does not own the work.
//!
//! Invariants: threads beyond the I/O threads are never more than [`Heavy::new`] was told; what is small is done at once and waits for
//! nobody; on a runtime of one thread (a test's) all is done at once.

use std::{sync::Arc, time::Duration};

use tokio::{
    runtime::{Handle, RuntimeFlavor},
    sync::Semaphore,
    task,
};

/// What takes no longer is done at once, on the I/O thread that has it.
pub const SMALL: Duration = Duration::from_millis(2);

/// Places for heavy work. Clones share them.
#[derive(Clone, Debug)]
pub struct Heavy(Arc<Semaphore>);

impl Heavy {
    /// For `threads` at a time.
    pub fn new(threads: usize) -> Self {
        Self(Arc::new(Semaphore::new(threads.max(1))))
    }

    /// Does `work`, which is expected to take so long, off the I/O threads if it is heavy.
    pub async fn run<R>(&self, takes: Duration, work: impl FnOnce() -> R) -> R {
        if takes <= SMALL || Handle::current().runtime_flavor() == RuntimeFlavor::CurrentThread {
            return work();
        }
        // Nobody closes the semaphore; without a place the work would still have to be done.
        let _place = self.0.acquire().await.ok();
        task::block_in_place(work)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Barrier, mpsc};

    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn heavy_work_does_not_hold_the_only_io_thread() {
        let heavy = Heavy::new(1);
        let (go_on, wait) = mpsc::channel::<()>();
        let working = tokio::spawn({
            let heavy = heavy.clone();
            async move { heavy.run(SMALL * 2, move || wait.recv_timeout(Duration::from_secs(60)).is_ok()).await }
        });
        // Runs on the same I/O thread while the work waits for it.
        tokio::spawn(async move { go_on.send(()) }).await.expect("no panic").expect("the work waits");
        assert!(working.await.expect("no panic"), "the other task has run meanwhile");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn no_more_than_so_many_are_done_at_a_time() {
        let heavy = Heavy::new(2);
        let both = Arc::new(Barrier::new(2));
        let work = |heavy: Heavy, both: Arc<Barrier>| async move {
            heavy.run(SMALL * 2, || both.wait()).await;
        };
        let (one, other) = (work(heavy.clone(), Arc::clone(&both)), work(heavy.clone(), both));
        let (one, other) = (tokio::spawn(one), tokio::spawn(other));
        one.await.expect("no panic");
        other.await.expect("no panic");
        assert_eq!(heavy.0.available_permits(), 2, "given back");
    }

    #[tokio::test]
    async fn what_is_small_waits_for_nobody() {
        let heavy = Heavy::new(1);
        let _taken = heavy.0.acquire().await.expect("a place");
        assert_eq!(heavy.run(SMALL, || 7).await, 7);
    }
}
