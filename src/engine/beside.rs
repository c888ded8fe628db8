//! Running one session of the CPU provider on several threads at the same time.
//!
//! Owns the session that they have ([`Source`]), and the calls of ONNX Runtime's C API for that: `ort` 2.0.0-rc.15 wants a session for itself, since there are providers that cannot be
//! run so. Does not own which threads have which session (`runs`).
//!
//! Weights that are laid out for the kernels are in memory once, however many runs compute with them. What the threads of the session do is
//! decided by where a run is ([`Place`]): a run of a caller's thread has the help of all that have nothing else to do, and a run that is on
//! one of them is something to do. So one run alone has all threads, two have their part each, and no more threads compute than the session
//! has, whatever comes and ends when.

use std::{
    borrow::Cow,
    ffi::{CString, c_void},
    ptr::{self, NonNull},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc::{self, SyncSender},
    },
};

use ort::{
    AsPointer,
    session::{NoSelectedOutputs, RunOptions, Session, SessionInputValue},
    sys::{OrtStatusPtr, OrtValue},
    value::DynValue,
};

/// The thread of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// That of the caller.
    Caller,
    /// One of the session's own, of which it has at least one; the caller waits.
    Session,
}

/// A session as all of its runs find it: what replaces a broken one is that of all from their next run on.
pub(super) struct Source {
    latest: Mutex<Latest>,
    /// Held by who makes another, while the others go on with the one that is there.
    making: Mutex<()>,
}

struct Latest {
    session: Arc<Session>,
    /// How many were there before it.
    number: u64,
}

impl Source {
    /// With the first one.
    pub(super) fn new(session: Session) -> Arc<Self> {
        let latest = Mutex::new(Latest { session: Arc::new(session), number: 0 });
        Arc::new(Self { latest, making: Mutex::new(()) })
    }

    /// Replaces the session that was `used` last by one of its runs, unless another of them has done so since.
    pub(super) fn replace<E>(&self, used: &AtomicU64, open: impl FnOnce() -> Result<Session, E>) -> Result<(), E> {
        let _making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        if self.latest().number == used.load(Ordering::Relaxed) {
            let session = Arc::new(open()?);
            let mut latest = self.latest();
            let number = latest.number + 1;
            *latest = Latest { session, number };
        }
        Ok(())
    }

    fn latest(&self) -> MutexGuard<'_, Latest> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One run's part of a session.
pub(super) struct Shared {
    source: Arc<Source>,
    place: Place,
    /// Which session was looked at last.
    used: Arc<AtomicU64>,
}

impl Shared {
    /// Of a run at `place`; `used` tells [`Source::replace`] which session it has had.
    pub(super) fn new(source: &Arc<Source>, place: Place, used: &Arc<AtomicU64>) -> Self {
        Self { source: Arc::clone(source), place, used: Arc::clone(used) }
    }

    /// As it is now.
    pub(super) fn session(&self) -> Arc<Session> {
        let latest = self.source.latest();
        self.used.store(latest.number, Ordering::Relaxed);
        Arc::clone(&latest.session)
    }

    /// Where it runs.
    pub(super) fn place(&self) -> Place {
        self.place
    }
}

/// Runs a session of the CPU provider that other threads run at the same time: the value of `output`.
///
/// # Errors
/// What the runtime says.
#[expect(unsafe_code, reason = "`Session::run` wants the session for itself")]
pub(super) fn run(
    session: &Session,
    place: Place,
    inputs: &[(Cow<'_, str>, SessionInputValue<'_>)],
    output: &str,
    options: &RunOptions<NoSelectedOutputs>,
) -> ort::Result<DynValue> {
    let name = |name: &str| CString::new(name).map_err(ort::Error::wrap);
    let names = inputs.iter().map(|(input, _)| name(input)).collect::<ort::Result<Vec<_>>>()?;
    let name_pointers: Vec<_> = names.iter().map(|name| name.as_ptr()).collect();
    let values: Vec<_> = inputs.iter().map(|(_, value)| value.ptr()).collect();
    let output = name(output)?;
    let (session_pointer, count) = (session.ptr().cast_mut(), values.len());
    let mut found = ptr::null_mut();
    match place {
        Place::Caller => {
            // SAFETY: all pointers are of values that outlive the call, as many as it says; the session is changed by no run of the CPU
            // provider, whose allocator takes a lock.
            let status = unsafe {
                (ort::api().Run)(
                    session_pointer,
                    options.ptr(),
                    name_pointers.as_ptr(),
                    values.as_ptr(),
                    count,
                    &output.as_ptr(),
                    1,
                    &raw mut found,
                )
            };
            // SAFETY: it is what the call above answered, and looked at once.
            unsafe { ort::Error::result_from_status(status) }?;
        }
        Place::Session => {
            let (answer, answered) = mpsc::sync_channel(1);
            let answer: *mut SyncSender<ort::Result<()>> = Box::into_raw(Box::new(answer));
            // SAFETY: as above; and the pointers are good until the run has ended, since nothing returns before `on_answer` was called.
            let status = unsafe {
                (ort::api().RunAsync)(
                    session_pointer,
                    options.ptr(),
                    name_pointers.as_ptr(),
                    values.as_ptr(),
                    count,
                    &output.as_ptr(),
                    1,
                    &raw mut found,
                    Some(on_answer),
                    answer.cast(),
                )
            };
            // SAFETY: as above.
            if let Err(error) = unsafe { ort::Error::result_from_status(status) } {
                // SAFETY: it is from `Box::into_raw`, and nobody was called with it: the run has not begun.
                drop(unsafe { Box::from_raw(answer) });
                return Err(error);
            }
            answered.recv().map_err(ort::Error::wrap)??;
        }
    }
    let found = NonNull::new(found).ok_or_else(|| ort::Error::new("the run answered nothing"))?;
    // SAFETY: a run has made it for its caller, with the session's allocator.
    Ok(unsafe { DynValue::from_ptr(found, Some(session.allocator())) })
}

/// Called once, at the end of a run that has begun on one of the session's threads.
#[expect(unsafe_code, reason = "the runtime's callback")]
unsafe extern "C" fn on_answer(answer: *mut c_void, _: *mut *mut OrtValue, _: usize, status: OrtStatusPtr) {
    // SAFETY: `run` has made it for this call.
    let answer = unsafe { Box::from_raw(answer.cast::<SyncSender<ort::Result<()>>>()) };
    // SAFETY: it is this call's, and looked at once. There is room for one answer, and who waits for it is there.
    let _ = answer.send(unsafe { ort::Error::result_from_status(status) });
}
