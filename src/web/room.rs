//! Room for what is fetched, taken as it comes.
//!
//! Owns what one request may take for all its fetched pictures, which come on several threads at a time. Does not own the budget that all
//! bodies share.
//!
//! Invariants: nothing waits for room; bytes that have come have room before they are kept.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::budget::{ByteBudget, Reservation};

/// What one request takes of the budget of bodies.
#[derive(Debug)]
pub struct Room {
    budget: ByteBudget,
    /// Bytes so far.
    taken: AtomicUsize,
}

/// Why there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoRoom {
    /// The request would take more than all together may.
    Never {
        /// With what there was no room for, in bytes.
        takes: usize,
    },
    /// Others hold what it needs.
    Now,
}

impl Room {
    /// Of a request that holds so many bytes already.
    pub fn new(budget: ByteBudget, taken: usize) -> Self {
        Self { budget, taken: taken.into() }
    }

    /// Room for `bytes` more.
    ///
    /// # Errors
    /// [`NoRoom`].
    pub(super) fn reserve(&self, bytes: usize) -> Result<Reservation, NoRoom> {
        let takes = self.taken.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        let reserved = if takes > self.budget.capacity() {
            Err(NoRoom::Never { takes })
        } else {
            self.budget.reserve(bytes).ok_or(NoRoom::Now)
        };
        if reserved.is_err() {
            self.taken.fetch_sub(bytes, Ordering::Relaxed);
        }
        reserved
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_never_have_room_is_told_apart_from_what_has_none_now() {
        let budget = ByteBudget::new(4 << 10);
        let room = Room::new(budget.clone(), 1 << 10);
        assert_eq!(room.reserve(4 << 10).expect_err("with what it holds"), NoRoom::Never { takes: 5 << 10 });
        let other = budget.reserve(2 << 10).expect("room");
        assert_eq!(room.reserve(3 << 10).expect_err("held"), NoRoom::Now);
        drop(other);
        assert_eq!(room.reserve(3 << 10).expect("given back").bytes(), 3 << 10);
    }
}
