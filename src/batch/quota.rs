//! How much of a lane one client has, where a client may have a part of it only.
//!
//! Owns the counting, by the number that the client is known by. Does not own who has which number or which part (`http`).
//!
//! Invariants: a client's items in a lane never outnumber its part; a client without items takes no memory.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

/// Whose a request is, and the part of each lane that its client may have.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quota {
    /// The client's number.
    pub client: u64,
    /// Above 0, at most 1.
    pub share: f64,
}

impl Quota {
    /// Of so many places, how many are the client's: one at least.
    pub(super) fn of(&self, places: usize) -> usize {
        ((places as f64 * self.share) as usize).clamp(1, places.max(1))
    }
}

/// The items of each client in one lane.
#[derive(Debug, Default)]
pub(super) struct Clients(Arc<Mutex<HashMap<u64, usize>>>);

/// One item of a client, until it is dropped.
#[derive(Debug)]
pub(super) struct Counted {
    clients: Clients,
    client: u64,
}

impl Clients {
    /// The items of `client`.
    pub(super) fn items(&self, client: u64) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&client).copied().unwrap_or(0)
    }

    /// Counts `items` more of `client`, or none where these would be more than `most`.
    pub(super) fn enter(&self, client: u64, items: usize, most: usize) -> Option<Vec<Counted>> {
        let mut clients = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = clients.entry(client).or_default();
        let fits = count.saturating_add(items) <= most;
        if fits {
            *count += items;
        }
        if *count == 0 {
            clients.remove(&client);
        }
        let counted = || Counted { clients: Self(Arc::clone(&self.0)), client };
        fits.then(|| (0..items).map(|_| counted()).collect())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut clients = self.clients.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = clients.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                clients.remove(&self.client);
            }
        }
    }
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn a_part_is_rounded_down_and_one_at_least() {
        let part = |share, places| Quota { client: 1, share }.of(places);
        assert_eq!((part(0.5, 256), part(1.0, 256), part(0.1, 256)), (128, 256, 25));
        assert_eq!((part(0.001, 256), part(1e-9, 1)), (1, 1));
    }

    #[test]
    fn all_items_are_counted_or_none_and_each_client_alone() {
        let clients = Clients::default();
        let mut one = clients.enter(1, 3, 4).expect("room");
        assert!(clients.enter(1, 2, 4).is_none());
        assert_eq!(clients.items(1), 3, "the refused ones are not counted");
        assert!(clients.enter(2, 4, 4).is_some(), "another client, whose items are gone at once");
        one.pop();
        assert!(clients.enter(1, 2, 4).is_some());
        drop(one);
        assert!(clients.enter(3, 9, 4).is_none());
        assert!(clients.0.lock().expect("sound").is_empty());
    }
}
