//! The places of requests: how many are served at a time.
//!
//! Owns the places, and the refusal where there is none. Does not own when one is taken: the layers look before the body is read, and
//! whoever has read it enters.
//!
//! A place is taken when the body is there, so that who sends slowly holds none; a request that finds no place then has been
//! read in vain, so there is a look before as well.

use std::{sync::Arc, time::Duration};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{ApiError, Code, Peers};
use crate::telemetry::{Metrics, Reject};

/// The request gate: `limits.max_inflight_requests`.
#[derive(Debug)]
pub struct Gate {
    places: Arc<Semaphore>,
    limit: usize,
    metrics: Arc<Metrics>,
}

impl Gate {
    /// With so many places; refusals are counted in `metrics`.
    pub fn new(limit: usize, metrics: Arc<Metrics>) -> Self {
        Self { places: Arc::new(Semaphore::new(limit.min(Semaphore::MAX_PERMITS))), limit, metrics }
    }

    /// A place, made by ending those who do not read their answers where there is none.
    ///
    /// # Errors
    /// 429.
    pub(super) async fn enter(&self, peers: &Peers) -> Result<OwnedSemaphorePermit, ApiError> {
        let take = || Arc::clone(&self.places).try_acquire_owned().ok();
        peers.make_room(Peers::end_slowest_reader, take).await.ok_or_else(|| self.full())
    }

    /// Whether there is a place, or might be one by the time that a body is read.
    ///
    /// # Errors
    /// 429.
    pub(super) async fn look(&self, peers: &Peers) -> Result<(), ApiError> {
        if self.places.available_permits() > 0 { Ok(()) } else { self.enter(peers).await.map(drop) }
    }

    fn full(&self) -> ApiError {
        self.metrics.reject(Reject::Requests);
        let message = format!(
            "{} requests are in flight, which is the limit; come back after the time in the Retry-After header",
            self.limit
        );
        ApiError::new(Code::Overloaded, message).retry_after(Duration::ZERO)
    }
}
