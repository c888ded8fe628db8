//! What a request holds until the last byte of its answer has been written to its client, or is never going to be.
//!
//! Owns the keeping, by a request's answer or by any bytes ([`owning`]). Does not own what is kept: the place in the request gate,
//! shares of the byte budgets, the count of requests in flight.
//!
//! hyper lets go of a response body as soon as it has taken its bytes, and then holds those until the client reads. So what is
//! kept travels with the bytes themselves.
//!
//! Invariant: nothing that is kept is dropped before the request's future and every byte of its answer are gone.

use std::{
    any::Any,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use axum::body::Body;
use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};

/// A request's keepsakes; clones are of one request. In the extensions of every request.
#[derive(Clone, Debug, Default)]
pub(in crate::http) struct Held(Arc<Mutex<Vec<Box<dyn Any + Send>>>>);

impl Held {
    /// Keeps `guard` until the answer has been written.
    pub(in crate::http) fn keep(&self, guard: impl Send + 'static) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Box::new(guard));
    }

    /// `body`, whose bytes keep what is held, and whatever else is kept by then.
    pub(super) fn until_written(self, body: Body) -> Body {
        Body::new(Keeping { body, held: self })
    }
}

struct Keeping {
    body: Body,
    held: Held,
}

impl HttpBody for Keeping {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        let held = &self.held;
        let keep = |bytes| owning(bytes, held.clone());
        Poll::Ready(frame.map(|frame| frame.map(|frame| frame.map_data(keep))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// `bytes`, which keep `share` until they and every slice of them are gone.
pub(in crate::http) fn owning<B, S>(bytes: B, share: S) -> Bytes
where
    B: AsRef<[u8]> + Send + 'static,
    S: Send + 'static,
{
    struct Owning<B, S> {
        bytes: B,
        // Held for its Drop.
        _share: S,
    }

    impl<B: AsRef<[u8]>, S> AsRef<[u8]> for Owning<B, S> {
        fn as_ref(&self) -> &[u8] {
            self.bytes.as_ref()
        }
    }

    Bytes::from_owner(Owning { bytes, _share: share })
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn what_is_held_goes_with_the_last_byte_and_not_with_the_body() {
        let (held, guard) = (Held::default(), Arc::new(()));
        held.keep(Arc::clone(&guard));
        let mut body = held.until_written(Body::from("answer"));
        let data = body.frame().await.expect("a frame").expect("no error").into_data().expect("data");
        drop(body);
        assert_eq!(Arc::strong_count(&guard), 2, "the bytes are still to be written");
        let rest = data.slice(3..);
        drop(data);
        assert_eq!(Arc::strong_count(&guard), 2, "half of them");
        drop(rest);
        assert_eq!(Arc::strong_count(&guard), 1);
    }

    #[tokio::test]
    async fn an_answer_without_a_body_holds_nothing() {
        let (held, guard) = (Held::default(), Arc::new(()));
        held.keep(Arc::clone(&guard));
        drop(held.until_written(Body::empty()));
        assert_eq!(Arc::strong_count(&guard), 1);
    }

    #[test]
    fn bytes_keep_their_share_until_the_last_slice_is_gone() {
        let share = Arc::new(());
        let slice = owning(vec![1, 2, 3], Arc::clone(&share)).slice(1..);
        assert_eq!((Arc::strong_count(&share), &slice[..]), (2, &[2, 3][..]));
        drop(slice);
        assert_eq!(Arc::strong_count(&share), 1);
    }
}
