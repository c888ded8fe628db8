//! Giving back to the system what the allocator holds and nobody uses.
//!
//! glibc's lets go only of what lies at the end of one of its heaps, and of that only what is beyond a threshold which grows with the largest
//! block that was ever freed, a large picture's. So a burst is held for good behind any small block that came after it, and within an hour a
//! service held twice what it used. Owns the thread that has that given back, once in [`PERIOD`]; it takes a millisecond, and more behind a
//! burst (`docs/reliability.md`), in which who shares a heap waits. On other systems, whose allocators have a rule of their own, there is no
//! such thread.
//!
//! Invariant: the thread ends before its [`Memory`] is gone.

use std::{
    io,
    sync::mpsc::{self, RecvTimeoutError, Sender},
    thread::{self, JoinHandle},
    time::Duration,
};

/// What was given back and is wanted again costs its pages anew: once a minute is nothing beside what a burst was.
const PERIOD: Duration = Duration::from_secs(60);

/// Gives memory back until it is dropped.
#[derive(Debug)]
pub(super) struct Memory {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Memory {
    /// Starts the thread, where there is something for it to do.
    ///
    /// # Errors
    /// When the operating system has no thread to give.
    pub(super) fn start() -> io::Result<Self> {
        if cfg!(not(all(target_os = "linux", target_env = "gnu"))) {
            return Ok(Self { stop: None, thread: None });
        }
        let (stop, stopped) = mpsc::channel::<()>();
        let body = move || {
            while matches!(stopped.recv_timeout(PERIOD), Err(RecvTimeoutError::Timeout)) {
                give_back();
            }
        };
        let thread = thread::Builder::new().name("memory".to_owned()).spawn(body)?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic of its own has been logged by the panic hook.
            let _ = thread.join();
        }
    }
}

/// Gives back what the allocator holds and nobody uses, of all its heaps.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[expect(unsafe_code, reason = "a function of glibc's")]
fn give_back() {
    // SAFETY: it takes the allocator's own locks, and touches nothing that anybody has.
    unsafe { libc::malloc_trim(0) };
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn give_back() {}

#[cfg(all(test, target_os = "linux", target_env = "gnu"))]
mod unit {
    use super::*;

    /// Resident, in MiB.
    fn resident() -> usize {
        let status = std::fs::read_to_string("/proc/self/status").expect("Linux has it");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a line of it");
        line.trim().trim_end_matches(" kB").parse::<usize>().expect("a number") >> 10
    }

    #[test]
    fn what_was_freed_before_a_block_in_use_is_given_back() {
        // In pieces that the allocator keeps in its heaps, and with one in use behind them.
        let mut pieces: Vec<Vec<u8>> = (0..8192).map(|_| vec![1; 64 << 10]).collect();
        let last = pieces.pop();
        drop(pieces);
        let held = resident();
        give_back();
        let left = resident();
        // Of 512 MiB, what other tests take meanwhile left aside.
        assert!(left + 256 < held, "{held} MiB, and {left} afterwards");
        drop(last);
    }

    #[test]
    fn the_thread_ends_with_its_owner() {
        drop(Memory::start().expect("a thread"));
    }
}
