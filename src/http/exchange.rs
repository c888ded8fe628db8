//! Where one connection stands: what it may still wait for, and until when.
//!
//! Owns the state that the socket side ([`GuardedIo`](super::guarded_io::GuardedIo)) and the request side (the service that
//! [`accept`](super::accept) gives to hyper) share, and the wrappers of the two bodies that move it. Does not own a timer: it
//! only says when the current wait ends.
//!
//! ```text
//!           first byte           head parsed            response body done or dropped
//! Silent ---------------> Head ---------------> Busy -+- request body read --> Idle ---- first byte ----> Head
//!                                                     |                          '-- pipelined head --> Busy
//!                                                     '- not read to its end --> Discarding (the connection will close)
//! ```
//!
//! Silent and Head end at `header_timeout` (from the accept, from the first byte), Idle at `keep_alive_timeout`. Busy and
//! Discarding have no clock here: a request in work has its own deadlines (body, request, write), and a connection that is
//! being given up has the linger limit of the socket side.
//!
//! Invariant: Busy lasts exactly as long as an [`Exchange`] lives. A client that pipelines the start of a head behind a request
//! and stops there is bounded by `keep_alive_timeout`: those bytes were read while Busy, as bytes of who knows what.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::body::Body;
use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Instant;

/// The state of one connection, shared by its socket side and its request side.
#[derive(Debug)]
pub(super) struct ConnState {
    header_timeout: Duration,
    keep_alive_timeout: Duration,
    /// Held for a few instructions at a time, never across an await.
    phase: Mutex<Phase>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Accepted, nothing received.
    Silent { until: Instant },
    /// Some bytes of a head.
    Head { until: Instant },
    /// The service has the request, or hyper its response body.
    Busy { body_unread: bool },
    /// Answered without reading the whole request body.
    Discarding,
    /// Answered; the next head may come.
    Idle { until: Instant },
}

/// What runs out when a read may wait no longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReadLimit {
    /// A head has to be complete by then.
    Head(Instant),
    /// An idle connection is closed then.
    Idle(Instant),
}

impl ConnState {
    /// A connection accepted now.
    pub(super) fn new(header_timeout: Duration, keep_alive_timeout: Duration) -> Arc<Self> {
        let phase = Mutex::new(Phase::Silent { until: Instant::now() + header_timeout });
        Arc::new(Self { header_timeout, keep_alive_timeout, phase })
    }

    fn phase(&self) -> MutexGuard<'_, Phase> {
        // A `Phase` is replaced as a whole, so a panic elsewhere cannot leave half of one.
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The socket gave bytes: where a head is awaited, its clock starts with the first of them.
    pub(super) fn bytes_arrived(&self) {
        let mut phase = self.phase();
        if matches!(*phase, Phase::Silent { .. } | Phase::Idle { .. }) {
            *phase = Phase::Head { until: Instant::now() + self.header_timeout };
        }
    }

    /// How long a read may stay pending; `None`: not for this module to say.
    pub(super) fn read_limit(&self) -> Option<ReadLimit> {
        match *self.phase() {
            Phase::Silent { until } | Phase::Head { until } => Some(ReadLimit::Head(until)),
            Phase::Idle { until } => Some(ReadLimit::Idle(until)),
            Phase::Busy { .. } | Phase::Discarding => None,
        }
    }

    /// Whether a request is being worked on or answered.
    pub(super) fn in_request(&self) -> bool {
        matches!(*self.phase(), Phase::Busy { .. })
    }

    /// Whether the client may still be sending what nobody will read: the rest of a body, or of a head that was refused.
    pub(super) fn has_unread_input(&self) -> bool {
        matches!(*self.phase(), Phase::Head { .. } | Phase::Discarding | Phase::Busy { body_unread: true })
    }

    /// A head is complete and the service gets the request.
    pub(super) fn begin(self: &Arc<Self>, has_body: bool) -> Exchange {
        *self.phase() = Phase::Busy { body_unread: has_body };
        Exchange { state: Arc::clone(self) }
    }

    fn body_read(&self) {
        let mut phase = self.phase();
        if let Phase::Busy { body_unread } = &mut *phase {
            *body_unread = false;
        }
    }
}

/// A request in work: lives from the call of the service until the response body is done or dropped.
#[derive(Debug)]
pub(super) struct Exchange {
    state: Arc<ConnState>,
}

impl Exchange {
    /// Whether the request body has not been read to its end, so that the connection cannot carry another request.
    pub(super) fn body_unread(&self) -> bool {
        matches!(*self.state.phase(), Phase::Busy { body_unread: true })
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let mut phase = self.state.phase();
        *phase = match *phase {
            Phase::Busy { body_unread: true } => Phase::Discarding,
            _ => Phase::Idle { until: Instant::now() + self.state.keep_alive_timeout },
        };
    }
}

/// A request body that tells its connection when it has been read to the end.
pub(super) struct RequestBody {
    inner: Incoming,
    state: Arc<ConnState>,
}

impl RequestBody {
    pub(super) fn new(inner: Incoming, state: Arc<ConnState>) -> Self {
        Self { inner, state }
    }
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        // A failed body stays unread: what is wrong with it may still be arriving.
        if frame.is_none() || self.inner.is_end_stream() {
            self.state.body_read();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// A response body that keeps its [`Exchange`] open until hyper has taken all of it, or dropped it.
pub(super) struct ResponseBody {
    inner: Body,
    _exchange: Exchange,
}

impl ResponseBody {
    pub(super) fn new(inner: Body, exchange: Exchange) -> Self {
        Self { inner, _exchange: exchange }
    }
}

impl HttpBody for ResponseBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.inner).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: Duration = Duration::from_secs(10);
    const KEEP_ALIVE: Duration = Duration::from_secs(75);

    fn state() -> Arc<ConnState> {
        ConnState::new(HEAD, KEEP_ALIVE)
    }

    #[tokio::test(start_paused = true)]
    async fn silence_counts_from_the_accept_and_a_head_from_its_first_byte() {
        let state = state();
        let accepted = Instant::now();
        assert_eq!(state.read_limit(), Some(ReadLimit::Head(accepted + HEAD)));
        tokio::time::advance(Duration::from_secs(9)).await;
        state.bytes_arrived();
        let first_byte = Instant::now();
        tokio::time::advance(Duration::from_secs(5)).await;
        state.bytes_arrived();
        assert_eq!(state.read_limit(), Some(ReadLimit::Head(first_byte + HEAD)), "later bytes move nothing");
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_in_work_has_no_read_limit_and_an_idle_connection_the_keep_alive_one() {
        let state = state();
        state.bytes_arrived();
        let exchange = state.begin(false);
        assert!(state.in_request());
        assert_eq!(state.read_limit(), None);
        state.bytes_arrived();
        assert_eq!(state.read_limit(), None, "pipelined bytes start no clock");
        tokio::time::advance(Duration::from_secs(20)).await;
        drop(exchange);
        assert!(!state.in_request());
        assert_eq!(state.read_limit(), Some(ReadLimit::Idle(Instant::now() + KEEP_ALIVE)));
        state.bytes_arrived();
        assert_eq!(state.read_limit(), Some(ReadLimit::Head(Instant::now() + HEAD)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_left_unread_is_remembered_and_its_bytes_start_no_head_clock() {
        let state = state();
        let exchange = state.begin(true);
        assert!(exchange.body_unread());
        drop(exchange);
        assert!(state.has_unread_input());
        state.bytes_arrived();
        assert_eq!(state.read_limit(), None);
        assert!(!state.in_request(), "answered: nothing is lost when it is cut");

        let exchange = state.begin(true);
        state.body_read();
        assert!(!exchange.body_unread());
        drop(exchange);
        assert!(!state.has_unread_input());
    }
}
