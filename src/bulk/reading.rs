//! The thread that reads: from sources to samples that wait to be embedded.
//!
//! Owns its thread and how much may wait. Invariants: samples come out in the order of their sources; what waits, and what is being
//! embedded, has no more bytes than the budget, or is one sample.

use std::{io, sync::Arc, thread};

use tokio::{
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
};

use super::{
    sample::{Chain, Sample, Sink, Stop, Ticket},
    sources::{Limits, Sources},
    turn::Turn,
};

/// A sample on its way.
#[derive(Debug)]
pub(super) struct Parcel {
    pub(super) sample: Sample,
    /// Of all samples up to it.
    pub(super) chain: Chain,
    /// Its bytes, until they are no longer needed.
    pub(super) room: OwnedSemaphorePermit,
}

/// The thread, which ends when all is read or nobody takes any more.
#[derive(Debug)]
pub(super) struct Reading(thread::JoinHandle<Result<(), Stop>>);

impl Reading {
    /// Reads `sources` from now on: those samples whose turn it is, at most `ahead` of them and `bytes` bytes ahead of who takes them.
    ///
    /// # Errors
    /// When the system has no thread to give.
    pub(super) fn start(
        sources: Sources,
        turn: Turn,
        limits: Limits,
        ahead: usize,
        bytes: usize,
        runtime: &Handle,
    ) -> io::Result<(Self, mpsc::Receiver<Parcel>)> {
        let (sender, receiver) = mpsc::channel(ahead);
        // In KiB, as a semaphore counts to less than a large memory has bytes.
        let kib = u32::try_from(bytes / 1024).unwrap_or(u32::MAX).max(1);
        let room = Arc::new(Semaphore::new(kib as usize));
        let mut belt = Belt { turn, sender, room, kib, runtime: runtime.clone() };
        let read = move || {
            sources.send(&mut belt, limits)?;
            belt.turn.end()
        };
        Ok((Self(thread::Builder::new().name("read".to_owned()).spawn(read)?), receiver))
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// What it stopped for; `Err(None)` when it panicked.
    pub(super) fn join(self) -> Result<(), Option<Stop>> {
        self.0.join().map_err(|_| None)?.map_err(Some)
    }
}

struct Belt {
    turn: Turn,
    sender: mpsc::Sender<Parcel>,
    room: Arc<Semaphore>,
    kib: u32,
    runtime: Handle,
}

impl Sink for Belt {
    fn ticket(&mut self, origin: &str) -> Result<Option<Ticket>, Stop> {
        if self.sender.is_closed() {
            return Err(Stop::Closed);
        }
        self.turn.next(origin)
    }

    fn send(&mut self, Ticket(chain): Ticket, sample: Sample) -> Result<(), Stop> {
        let kib = u32::try_from(sample.bytes().div_ceil(1024)).unwrap_or(u32::MAX).min(self.kib);
        let waiting = Arc::clone(&self.room).acquire_many_owned(kib);
        let room = self.runtime.block_on(waiting).map_err(|_| Stop::Closed)?;
        self.sender.blocking_send(Parcel { sample, chain, room }).map_err(|_| Stop::Closed)
    }
}
