//! Bytes that many requests share: taken before they are needed, given back when they are gone.
//!
//! Owns the counting. Does not own what the bytes are: request bodies have one budget, outputs have another.
//!
//! Invariants: never waits; a share is taken whole or not at all.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The bytes that all requests together may hold, in KiB steps. Clones share one budget.
#[derive(Clone, Debug)]
pub struct ByteBudget {
    kib: Arc<Semaphore>,
}

impl ByteBudget {
    /// A budget of `bytes`, rounded up to whole KiB.
    pub fn new(bytes: usize) -> Self {
        Self { kib: Arc::new(Semaphore::new(bytes.div_ceil(1024).min(Semaphore::MAX_PERMITS))) }
    }

    /// Takes room for `bytes`, rounded up to whole KiB, or `None` when there is not as much left.
    pub fn reserve(&self, bytes: usize) -> Option<Reservation> {
        let kib = u32::try_from(bytes.div_ceil(1024)).ok()?;
        Arc::clone(&self.kib).try_acquire_many_owned(kib).ok().map(Reservation)
    }

    /// Bytes that are left.
    pub fn left(&self) -> usize {
        self.kib.available_permits() * 1024
    }
}

/// A share of a [`ByteBudget`], given back when dropped.
#[derive(Debug)]
pub struct Reservation(OwnedSemaphorePermit);

impl Reservation {
    /// Bytes reserved.
    pub fn bytes(&self) -> usize {
        self.0.num_permits() * 1024
    }

    /// Takes over what `other` has reserved of the same budget.
    ///
    /// # Panics
    /// When it is of another budget.
    pub fn merge(&mut self, other: Self) {
        self.0.merge(other.0);
    }
}
