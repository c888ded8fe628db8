//! A thread for code that may panic and may not be unwound: the functions of the AV1 decoder are C's to their callers, and Rust ends the
//! process where a panic would leave one of these.
//!
//! So none leaves one. The panic hook runs before anything is unwound: where a thread of this module panics, it tells the one who waits,
//! who goes on with a panic of its own, and keeps the thread for ever. What that holds stays taken, which is why it is bounded: past
//! [`MAX_LOST`] nothing is run any more.
//!
//! Invariants: the hook that is there is called first, in the span of the one who waits, and wrapped once, when something is run for the
//! first time; whoever sets another one does so before that. Since a thread that is kept is within the hook, setting one later waits for
//! ever.

use std::{
    cell::RefCell,
    panic,
    sync::{
        Once,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc,
    },
    thread,
};

use super::refusal::FORMAT;
use crate::preprocess::{image::error::ImageError, memory::OutOfMemory};

/// What kept threads may hold before nothing is run any more. Those that run at the time come on top.
const MAX_LOST: u64 = 512 << 20;

/// What a thread holds besides what its work takes.
const OF_THREAD: u64 = 4 << 20;

/// What kept threads hold.
static LOST: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// On a thread of this module: tells the one who waits that there will be no answer.
    static GIVE_UP: RefCell<Option<Box<dyn FnOnce()>>> = const { RefCell::new(None) };
}

/// Runs `work`, which takes `bytes` at most, on a thread of its own, and waits for it.
///
/// # Errors
/// When there is no thread to be had, or too much has been lost already.
///
/// # Panics
/// When `work` does; that has been reported then, by the hook.
pub(super) fn run<T: Send + 'static>(bytes: u64, work: impl FnOnce() -> T + Send + 'static) -> Result<T, ImageError> {
    if LOST.load(Relaxed) > MAX_LOST {
        return Err(ImageError::GivenUp { format: FORMAT });
    }
    keep_threads_that_panic();
    let (answer, answered) = mpsc::sync_channel(1);
    let span = tracing::Span::current();
    let thread = thread::Builder::new().name("av1".into()).spawn(move || {
        span.in_scope(|| {
            let give_up = answer.clone();
            GIVE_UP.set(Some(Box::new(move || {
                LOST.fetch_add(bytes.saturating_add(OF_THREAD), Relaxed);
                let _ = give_up.send(None);
            })));
            let done = work();
            GIVE_UP.set(None);
            let _ = answer.send(Some(done));
        });
    });
    // The only other reason is a name with a zero in it.
    thread.map_err(|_| OutOfMemory)?;
    match answered.recv() {
        Ok(Some(done)) => Ok(done),
        Ok(None) | Err(mpsc::RecvError) => panic::resume_unwind(Box::new("the AV1 decoder panicked")),
    }
}

fn keep_threads_that_panic() {
    static WRAPPED: Once = Once::new();
    WRAPPED.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            before(info);
            if let Ok(Some(give_up)) = GIVE_UP.try_with(RefCell::take) {
                give_up();
                loop {
                    thread::park();
                }
            }
        }));
    });
}

#[cfg(test)]
mod tests {
    use std::{
        panic::{AssertUnwindSafe, catch_unwind},
        process::{self, Command},
    };

    use re_rav1d::dav1d::{Decoder, Settings};

    use super::*;

    /// Data that panic when the decoder lets go of them, as it does within functions of C's.
    struct Hostile(Vec<u8>);

    impl AsRef<[u8]> for Hostile {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }

    impl Drop for Hostile {
        fn drop(&mut self) {
            panic!("within the decoder");
        }
    }

    /// What the child ends with once it has seen everything: zero is also that of no test at all.
    const SEEN: i32 = 42;

    /// In a process of its own, since those who run tests set another panic hook in the end.
    #[test]
    #[cfg(target_os = "linux")]
    fn a_panic_within_the_decoder_is_one_of_the_caller() {
        let (_, module) = module_path!().split_once("::").unwrap();
        let mut child = Command::new("/proc/self/exe");
        let child = child.args(["--ignored", "--exact", &format!("{module}::panics_are_contained")]).output().unwrap();
        assert_eq!(child.status.code(), Some(SEEN), "{}", String::from_utf8_lossy(&child.stdout));
    }

    #[test]
    #[ignore = "ends the process: the test before it runs it"]
    #[expect(
        clippy::disallowed_methods,
        reason = "nothing is drained here, and a test has no other way to say so much"
    )]
    fn panics_are_contained() {
        let decode = || {
            let mut settings = Settings::new();
            settings.set_n_threads(1);
            let mut decoder = Decoder::with_settings(&settings).unwrap();
            let _ = decoder.send_data(Hostile(vec![0x0a; 64]), None, None, None);
            let _ = decoder.get_picture();
            drop(decoder);
        };
        for _ in 0..2 {
            let lost = LOST.load(Relaxed);
            let panicked = catch_unwind(AssertUnwindSafe(|| run(1 << 20, decode))).unwrap_err();
            assert_eq!(panicked.downcast_ref(), Some(&"the AV1 decoder panicked"));
            assert_eq!(LOST.load(Relaxed), lost + (5 << 20));
        }
        // Threads of their own for each other; and a panic elsewhere is what it was.
        assert_eq!(run(1, || 5), Ok(5));
        assert!(catch_unwind(|| panic!("elsewhere")).is_err());
        process::exit(SEEN);
    }
}
