//! Bytes that many requests share: taken before they are needed, given back when they are gone.
//!
//! Owns the counting. Does not own what the bytes are: request bodies have one budget, outputs another, answers a third.
//!
//! Invariants: never waits; a share is taken whole or not at all.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The bytes that all requests together may hold, in KiB steps. Clones share one budget.
#[derive(Clone, Debug)]
pub struct ByteBudget {
    kib: Arc<Semaphore>,
    capacity: usize,
}

impl ByteBudget {
    /// A budget of `bytes`, rounded up to whole KiB.
    pub fn new(bytes: usize) -> Self {
        let kib = bytes.div_ceil(1024).min(Semaphore::MAX_PERMITS);
        Self { kib: Arc::new(Semaphore::new(kib)), capacity: kib.saturating_mul(1024) }
    }

    /// Bytes that there are when nobody holds any.
    pub fn capacity(&self) -> usize {
        self.capacity
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

    /// Gives back what is beyond `bytes`, rounded up to whole KiB.
    pub fn shrink_to(&mut self, bytes: usize) {
        let spare = self.0.num_permits().saturating_sub(bytes.div_ceil(1024));
        drop(self.0.split(spare));
    }

    /// Takes over what `other` has reserved of the same budget.
    ///
    /// # Panics
    /// When it is of another budget.
    pub fn merge(&mut self, other: Self) {
        self.0.merge(other.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_shrinks_to_what_is_needed_and_never_grows() {
        let budget = ByteBudget::new(10 << 10);
        let mut share = budget.reserve(8 << 10).expect("room");
        share.shrink_to(1025);
        assert_eq!((share.bytes(), budget.left(), budget.capacity()), (2 << 10, 8 << 10, 10 << 10));
        share.shrink_to(5 << 10);
        assert_eq!((share.bytes(), budget.left()), (2 << 10, 8 << 10));
        share.shrink_to(0);
        assert_eq!((share.bytes(), budget.left()), (0, 10 << 10));
    }
}
