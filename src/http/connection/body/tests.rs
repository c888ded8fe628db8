//! Bodies of every shape and speed, and budgets that run out.

use std::{convert::Infallible, sync::Arc};

use futures_util::{StreamExt, stream};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{Empty, Full, StreamBody};
use proptest::prelude::*;

use super::*;

const LIMITS: BodyLimits =
    BodyLimits { max_bytes: 10_000, idle_timeout: Duration::from_secs(10), timeout: Duration::from_secs(30) };

/// A body of unknown length, as hyper gives it for chunked ones.
fn chunked(pieces: Vec<Bytes>) -> impl Body<Data = Bytes, Error = Infallible> {
    StreamBody::new(stream::iter(pieces).map(|piece| Ok(Frame::data(piece))))
}

/// `pieces` with their length declared, as hyper gives it for Content-Length.
struct Sized<B>(B, u64);

impl<B: Body + Unpin> Body for Sized<B> {
    type Data = B::Data;
    type Error = B::Error;
    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        std::pin::Pin::new(&mut self.0).poll_frame(cx)
    }
    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.1)
    }
}

/// `piece` again and again, `every` apart.
fn dripping(piece: &'static [u8], every: Duration) -> impl Body<Data = Bytes, Error = Infallible> {
    StreamBody::new(stream::unfold((), move |()| async move {
        tokio::time::sleep(every).await;
        Some((Ok(Frame::data(Bytes::from_static(piece))), ()))
    }))
}

async fn read<B>(body: B, budget: &ByteBudget) -> Result<BodyBytes, BodyError>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    read_body(body, &LIMITS, budget, &peers(), None).await
}

/// Nobody who could be ended.
fn peers() -> Peers {
    Peers::new(Arc::default(), LIMITS.timeout)
}

fn left(budget: &ByteBudget) -> usize {
    budget.left() / 1024
}

#[tokio::test]
async fn a_thousand_chunks_of_one_byte_become_one_body() {
    let sent: Vec<u8> = (0..1000_u32).map(|i| i as u8).collect();
    let budget = ByteBudget::new(1 << 20);
    let body = read(chunked(sent.iter().map(|&byte| Bytes::from(vec![byte])).collect()), &budget).await.unwrap();
    assert_eq!(body.bytes(), &sent);
    assert_eq!(left(&budget), 1024 - 10, "a step, which is all that a body may have here");
}

#[tokio::test]
async fn a_single_piece_is_not_copied() {
    let sent = Bytes::from(vec![7; 5000]);
    let body = read(Full::new(sent.clone()), &ByteBudget::new(1 << 20)).await.unwrap();
    assert_eq!(body.bytes().as_ptr(), sent.as_ptr());
}

#[tokio::test]
async fn a_declared_body_is_collected_in_a_buffer_of_its_length() {
    let pieces = vec![Bytes::from(vec![1; 3000]), Bytes::from(vec![2; 3000]), Bytes::from(vec![3; 2192])];
    let budget = ByteBudget::new(1 << 20);
    let body = read(Sized(chunked(pieces), 8192), &budget).await.unwrap();
    let (bytes, reservation) = body.into_parts();
    assert_eq!((bytes.len(), bytes[2999], bytes[3000], bytes[8191]), (8192, 1, 2, 3));
    assert_eq!(reservation.bytes(), 8192);
    assert_eq!(Vec::from(bytes).capacity(), 8192);
}

#[tokio::test]
async fn no_body_is_an_empty_one_and_costs_no_budget() {
    let budget = ByteBudget::new(0);
    assert!(read(Empty::new(), &budget).await.unwrap().bytes().is_empty());
}

#[tokio::test]
async fn a_declared_length_over_the_limit_is_refused_before_a_byte_is_read() {
    let never = StreamBody::new(stream::pending::<Result<Frame<Bytes>, Infallible>>());
    let refused = read(Sized(never, 10_001), &ByteBudget::new(1 << 20)).await;
    assert_eq!(refused.unwrap_err(), BodyError::TooLarge { limit: 10_000 });
}

#[tokio::test]
async fn a_streamed_body_is_read_up_to_the_limit_and_not_past_it() {
    let budget = ByteBudget::new(1 << 20);
    let of = |bytes: usize| chunked(vec![Bytes::from(vec![0; 9_999]), Bytes::from(vec![0; bytes - 9_999])]);
    assert_eq!(read(of(10_000), &budget).await.unwrap().bytes().len(), 10_000);
    assert_eq!(read(of(10_001), &budget).await.unwrap_err(), BodyError::TooLarge { limit: 10_000 });
    assert_eq!(left(&budget), 1024);
}

#[tokio::test]
async fn an_exhausted_budget_refuses_at_once_and_serves_again_when_given_back() {
    let budget = ByteBudget::new(8 * 1024);
    let first = read(Full::new(Bytes::from(vec![0; 5000])), &budget).await.unwrap();
    let never = StreamBody::new(stream::pending::<Result<Frame<Bytes>, Infallible>>());
    assert_eq!(read(Sized(never, 5000), &budget).await.unwrap_err(), BodyError::BudgetExhausted);
    let streamed = || chunked(vec![Bytes::from(vec![0; 2000]), Bytes::from(vec![0; 2000])]);
    assert_eq!(read(streamed(), &budget).await.unwrap_err(), BodyError::BudgetExhausted);
    assert_eq!(left(&budget), 3, "a refused body gives back what it had");
    let (bytes, reservation) = first.into_parts();
    drop(bytes);
    assert_eq!(left(&budget), 3, "the reservation outlives the struct");
    drop(reservation);
    assert_eq!(read(streamed(), &budget).await.unwrap().bytes().len(), 4000);
    assert_eq!(left(&budget), 8);
}

#[tokio::test]
async fn a_growing_body_takes_the_last_bytes_of_the_budget_when_it_cannot_double() {
    let budget = ByteBudget::new(5 * 1024);
    let pieces = vec![Bytes::from(vec![0; 4096]), Bytes::from(vec![0; 1024])];
    assert_eq!(read(chunked(pieces), &budget).await.unwrap().bytes().len(), 5120);
}

#[tokio::test(start_paused = true)]
async fn a_gap_longer_than_the_idle_timeout_ends_the_wait() {
    let start = Instant::now();
    let body = read(dripping(b"x", Duration::from_secs(11)), &ByteBudget::new(1 << 20)).await;
    assert_eq!(body.unwrap_err(), BodyError::TimedOut { what: BodyWait::Piece, limit: LIMITS.idle_timeout });
    assert_eq!(start.elapsed().as_secs(), 10);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_drips_ends_at_the_total_timeout() {
    let start = Instant::now();
    let body = read(dripping(b"x", Duration::from_secs(9)), &ByteBudget::new(1 << 20)).await;
    assert_eq!(body.unwrap_err(), BodyError::TimedOut { what: BodyWait::Whole, limit: LIMITS.timeout });
    assert_eq!(start.elapsed().as_secs(), 30);
}

#[tokio::test]
async fn bad_framing_and_a_lost_client_are_told_apart() {
    let budget = ByteBudget::new(1 << 20);
    let cases = [
        (io::ErrorKind::InvalidInput, BodyError::Malformed),
        (io::ErrorKind::InvalidData, BodyError::Malformed),
        (io::ErrorKind::UnexpectedEof, BodyError::Disconnected),
        (io::ErrorKind::ConnectionReset, BodyError::Disconnected),
    ];
    for (kind, expected) in cases {
        let body = StreamBody::new(stream::iter([Err(axum::Error::new(io::Error::from(kind)))]));
        assert_eq!(read(body, &budget).await.unwrap_err(), expected);
    }
}

proptest! {
    #[test]
    fn any_split_gives_the_same_bytes_within_the_budget(
        pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..900), 0..10),
        declared: bool,
    ) {
        let sent = pieces.concat();
        let budget = ByteBudget::new(LIMITS.max_bytes);
        let body = chunked(pieces.into_iter().map(Bytes::from).collect());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let read = runtime.block_on(async {
            if declared { read(Sized(body, sent.len() as u64), &budget).await } else { read(body, &budget).await }
        });
        let (bytes, reservation) = read.unwrap().into_parts();
        prop_assert_eq!(&bytes, &sent);
        prop_assert!(reservation.bytes() >= bytes.len());
        drop(reservation);
        prop_assert_eq!(left(&budget), LIMITS.max_bytes.div_ceil(1024));
    }
}
