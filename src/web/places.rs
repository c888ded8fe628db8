//! Who may have a connection, or wait for one: so many at a time, and so many of them for one host, by its name, whatever the port.
//!
//! Owns the counting and the order, which is that of coming. Does not own how long anybody waits.
//!
//! Invariants: who waits for a busy host holds no place of all; a host that nobody waits for or talks to takes no memory.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The places of all hosts.
#[derive(Debug)]
pub(super) struct Places {
    all: Arc<Semaphore>,
    per_host: usize,
    hosts: Mutex<HashMap<String, Arc<Semaphore>>>,
}

/// Leave to have a connection or to wait for one, given back when dropped.
#[derive(Debug)]
pub(super) struct Place {
    _of_all: OwnedSemaphorePermit,
    _of_host: OwnedSemaphorePermit,
}

impl Places {
    pub(super) fn new(all: usize, per_host: usize) -> Self {
        Self { all: Arc::new(Semaphore::new(all)), per_host, hosts: Mutex::default() }
    }

    /// A place for a connection to `host`, waited for; `None` when there are none any more, which does not happen.
    pub(super) async fn take(&self, host: &str) -> Option<Place> {
        let of_host = self.of(host).acquire_owned().await.ok()?;
        let of_all = Arc::clone(&self.all).acquire_owned().await.ok()?;
        Some(Place { _of_all: of_all, _of_host: of_host })
    }

    /// A place at once, or none.
    pub(super) fn take_now(&self, host: &str) -> Option<Place> {
        let of_host = self.of(host).try_acquire_owned().ok()?;
        let of_all = Arc::clone(&self.all).try_acquire_owned().ok()?;
        Some(Place { _of_all: of_all, _of_host: of_host })
    }

    fn of(&self, host: &str) -> Arc<Semaphore> {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = hosts.get(host) {
            return Arc::clone(known);
        }
        // Whoever waits or has a place holds it, too.
        hosts.retain(|_, places| Arc::strong_count(places) > 1);
        let places = Arc::new(Semaphore::new(self.per_host));
        hosts.insert(host.to_owned(), Arc::clone(&places));
        places
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn a_busy_host_holds_up_no_other_and_is_forgotten_when_it_is_idle() {
        let places = Places::new(3, 2);
        let now = |host: &str| places.take(host).now_or_never().flatten();
        let (one, other) = (now("a").expect("free"), now("a").expect("free"));
        let mut third = Box::pin(places.take("a"));
        assert!((&mut third).now_or_never().is_none(), "two at a time");
        let elsewhere = now("b").expect("who waits for a holds no place of all");
        assert!(now("c").is_none(), "three in all");
        drop(one);
        let third = third.now_or_never().flatten().expect("first come");
        assert!(now("c").is_none());
        drop((other, third, elsewhere));
        drop(now("d").expect("free"));
        assert_eq!(places.hosts.lock().expect("no panic").len(), 1, "only the last one is known");
    }
}
