//! Where a connection is counted: at a place of its own, or in the reserve until there is one.
//!
//! Owns the moving up. Does not own how many places there are (`accept`), nor what a connection in the reserve may ask (`layers`).
//!
//! Invariant: a connection holds a place or a part of the reserve, never none.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{OnceCell, OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

/// How long a request in the reserve waits for a place: longer than an ended connection takes to go.
const MOVE_UP: Duration = Duration::from_millis(100);

/// The seat of one connection; in the extensions of its requests.
#[derive(Debug)]
pub(in crate::http) struct Seat {
    place: OnceCell<OwnedSemaphorePermit>,
    reserve: Mutex<Option<OwnedSemaphorePermit>>,
    places: Arc<Semaphore>,
}

impl Seat {
    pub(super) fn new(
        place: Option<OwnedSemaphorePermit>,
        reserve: Option<OwnedSemaphorePermit>,
        places: &Arc<Semaphore>,
    ) -> Arc<Self> {
        let (place, reserve) = (OnceCell::new_with(place), Mutex::new(reserve));
        Arc::new(Self { place, reserve, places: Arc::clone(places) })
    }

    /// Whether it has no place so far.
    pub(super) fn is_reserved(&self) -> bool {
        !self.place.initialized()
    }

    /// Waits for a place, and gives the reserve its part back.
    pub(super) async fn place(&self) {
        let places = || async {
            match Arc::clone(&self.places).acquire_owned().await {
                Ok(place) => place,
                // Nobody closes it.
                Err(_) => std::future::pending().await,
            }
        };
        self.place.get_or_init(places).await;
        self.reserve.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Whether there is a place for a request that needs one, at once or in a moment.
    pub(in crate::http) async fn is_placed_soon(&self) -> bool {
        !self.is_reserved() || timeout(MOVE_UP, self.place()).await.is_ok()
    }
}

#[cfg(test)]
impl Seat {
    /// A seat with a place.
    pub(super) fn of_a_test() -> Arc<Self> {
        let places = Arc::new(Semaphore::new(1));
        Self::new(Arc::clone(&places).try_acquire_owned().ok(), None, &places)
    }
}
