//! A request's body on its way from hyper to whoever reads it.
//!
//! Owns what becomes of a body that nobody reads. Does not own its limits and clocks (`body`), nor the state of its connection
//! (`exchange`), which it tells when it has been read.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::{runtime::Handle, time::timeout};

use super::exchange::ConnState;

/// So much of a body that nobody wants is read and dropped, so that its connection can go on and its client never finds it closed
/// while it still sends. More than an ordinary picture; what is larger ends the connection.
const MOST_DRAINED: u64 = 1 << 20;

/// How long that may take.
const DRAIN_TIME: Duration = Duration::from_secs(5);

/// A request body that tells its connection when it has been read to the end. One that is dropped untouched, because its request was
/// refused, is read to its end behind the answer, where that is little.
pub(super) struct RequestBody {
    /// `None` only while it is dropped.
    inner: Option<Incoming>,
    state: Arc<ConnState>,
    may_drain: bool,
}

impl RequestBody {
    /// `may_drain` is false for a client that waits for leave to send its body (`Expect`): leave must not follow an answer.
    pub(super) fn new(inner: Incoming, state: Arc<ConnState>, may_drain: bool) -> Self {
        Self { inner: Some(inner), state, may_drain }
    }
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        // Whoever has begun to read it and stops knows why: it is too large, too slow or broken.
        self.may_drain = false;
        let Some(inner) = &mut self.inner else { return Poll::Ready(None) };
        let frame = ready!(Pin::new(&mut *inner).poll_frame(cx));
        // A failed body stays unread: what is wrong with it may still be arriving.
        if frame.is_none() || inner.is_end_stream() {
            self.state.body_read();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map(HttpBody::size_hint).unwrap_or_default()
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        // A chunked body says nothing of its length, and may be little.
        let little = self.size_hint().upper().is_none_or(|left| left <= MOST_DRAINED);
        if self.is_end_stream() || !self.may_drain || !little {
            return;
        }
        let (Some(inner), Ok(runtime)) = (self.inner.take(), Handle::try_current()) else { return };
        if !self.state.drains() {
            return;
        }
        let state = Arc::clone(&self.state);
        runtime.spawn(async move {
            let mut inner = inner;
            let drain = async {
                let mut drained = 0;
                while let Some(frame) = poll_fn(|cx| Pin::new(&mut inner).poll_frame(cx)).await {
                    drained += frame.map_or(MOST_DRAINED + 1, |frame| frame.data_ref().map_or(0, Bytes::len) as u64);
                    if drained > MOST_DRAINED {
                        return;
                    }
                }
                state.body_read();
            };
            // What is late is dropped with the body, and hyper then ends the connection.
            let _ = timeout(DRAIN_TIME, drain).await;
        });
    }
}
