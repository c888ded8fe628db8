//! Reading a request body whole, within its limits, its clocks and the memory that all bodies share.
//!
//! Owns the byte limit of one body, the two clocks of its arrival and the budget over all of them. Does not own what the bytes
//! mean, nor the status an error becomes.
//!
//! What can be refused is refused before a byte is read: a declared length over the limit, an encoding, a length the budget has
//! no room for. A body of unknown length (chunked) reserves as it grows, doubling, so that the budget always covers the buffer.
//!
//! Invariants: bytes held for bodies <= the budget's capacity; nothing here ever waits for budget; a body that came in one
//! piece is not copied, any other is copied once into a buffer of its declared length.

use std::{fmt, future::poll_fn, io, pin::pin, time::Duration};

use axum::BoxError;
use bytes::Bytes;
use http::{HeaderMap, header::CONTENT_ENCODING};
use tokio::time::{Instant, sleep_until};

use crate::budget::{ByteBudget, Reservation};

/// What one body may take.
#[derive(Clone, Copy, Debug)]
pub struct BodyLimits {
    /// Bytes.
    pub max_bytes: usize,
    /// The longest gap between two pieces, and before the first.
    pub idle_timeout: Duration,
    /// From the call to the last byte.
    pub timeout: Duration,
}

/// Why a body was not read. The texts are for the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// Declared or streamed more than allowed.
    #[error("the request body is larger than {limit} bytes; send fewer or smaller items in one request")]
    TooLarge {
        /// Bytes allowed.
        limit: usize,
    },
    /// All bodies together would be more than the server holds at a time.
    #[error("the server holds as many request bodies as it may; send the request again in a moment")]
    BudgetExhausted,
    /// Came too slowly.
    #[error("{what} did not arrive within {} s; send faster, or fewer items in one request", limit.as_secs_f64())]
    TimedOut {
        /// Which of the two clocks ran out.
        what: BodyWait,
        /// What it was set to.
        limit: Duration,
    },
    /// Compressed.
    #[error("Content-Encoding is not supported; send the request body as it is")]
    UnsupportedEncoding,
    /// The client, or its network, went away.
    #[error("the connection ended before the request body did")]
    Disconnected,
    /// The framing is wrong, such as a bad chunk size.
    #[error("the request body is not framed as HTTP/1.1 asks; check Transfer-Encoding and the chunk sizes")]
    Malformed,
}

/// What a [`BodyError::TimedOut`] waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyWait {
    /// The next piece.
    Piece,
    /// The end.
    Whole,
}

impl fmt::Display for BodyWait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Piece => "the next piece of the request body",
            Self::Whole => "the whole request body",
        })
    }
}

/// A whole request body and its share of the budget.
#[derive(Debug)]
pub struct BodyBytes {
    bytes: Bytes,
    reservation: Reservation,
}

impl BodyBytes {
    /// The bytes.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The bytes, and the reservation to hold for as long as they, or slices of them, are held.
    pub fn into_parts(self) -> (Bytes, Reservation) {
        (self.bytes, self.reservation)
    }
}

/// Reads `body` to its end.
///
/// `headers` are those of the request, for Content-Encoding; the declared length is what `body` says of itself, which for
/// hyper's is the Content-Length that frames it. To drop the future gives its reservation back.
///
/// # Errors
/// See [`BodyError`]; the rest of the body is then unread, and the connection of a hyper body closes after the answer.
pub async fn read_body<B>(
    headers: &HeaderMap,
    body: B,
    limits: &BodyLimits,
    budget: &ByteBudget,
) -> Result<BodyBytes, BodyError>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    if !is_identity(headers) {
        return Err(BodyError::UnsupportedEncoding);
    }
    let size = body.size_hint();
    if size.lower() > limits.max_bytes as u64 {
        return Err(BodyError::TooLarge { limit: limits.max_bytes });
    }
    let declared = size.exact().and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(0);
    let mut collected = Collected::new(declared, limits.max_bytes, budget)?;

    let mut body = pin!(body);
    let mut clock = Clock::start(limits);
    let mut timer = pin!(sleep_until(clock.ends().0));
    loop {
        tokio::select! {
            biased;
            frame = poll_fn(|cx| body.as_mut().poll_frame(cx)) => match frame {
                None => return Ok(collected.finish()),
                Some(Err(error)) => return Err(classify(&*error.into())),
                Some(Ok(frame)) => {
                    clock.check()?;
                    clock.piece_arrived();
                    // Trailers say nothing that we read.
                    if let Ok(data) = frame.into_data() {
                        collected.push(data)?;
                    }
                }
            },
            () = timer.as_mut() => {
                // The timer is not moved with every piece, only when it fires early.
                clock.check()?;
                timer.as_mut().reset(clock.ends().0);
            }
        }
    }
}

/// Whether every coding named by the headers is "identity", which is to say none.
fn is_identity(headers: &HeaderMap) -> bool {
    headers.get_all(CONTENT_ENCODING).iter().all(|value| {
        value.to_str().is_ok_and(|codings| {
            codings.split(',').map(str::trim).all(|coding| coding.is_empty() || coding.eq_ignore_ascii_case("identity"))
        })
    })
}

/// hyper reports bad framing as an `io::Error` of invalid input or data somewhere in the chain; all else is a peer that went.
fn classify(error: &(dyn std::error::Error + 'static)) -> BodyError {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>()
            && matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData)
        {
            return BodyError::Malformed;
        }
        cause = error.source();
    }
    BodyError::Disconnected
}

/// The two clocks.
struct Clock<'a> {
    limits: &'a BodyLimits,
    started: Instant,
    last_piece: Instant,
}

impl<'a> Clock<'a> {
    fn start(limits: &'a BodyLimits) -> Self {
        let now = Instant::now();
        Self { limits, started: now, last_piece: now }
    }

    fn piece_arrived(&mut self) {
        self.last_piece = Instant::now();
    }

    /// When the wait ends, and with which error.
    fn ends(&self) -> (Instant, BodyError) {
        let piece = self.last_piece + self.limits.idle_timeout;
        let whole = self.started + self.limits.timeout;
        if whole <= piece {
            (whole, BodyError::TimedOut { what: BodyWait::Whole, limit: self.limits.timeout })
        } else {
            (piece, BodyError::TimedOut { what: BodyWait::Piece, limit: self.limits.idle_timeout })
        }
    }

    fn check(&self) -> Result<(), BodyError> {
        let (end, error) = self.ends();
        if Instant::now() < end { Ok(()) } else { Err(error) }
    }
}

/// What has come so far. `buffer` is used from the second piece on.
struct Collected<'a> {
    max_bytes: usize,
    budget: &'a ByteBudget,
    reservation: Reservation,
    only_piece: Bytes,
    buffer: Vec<u8>,
}

impl<'a> Collected<'a> {
    fn new(declared: usize, max_bytes: usize, budget: &'a ByteBudget) -> Result<Self, BodyError> {
        let reservation = budget.reserve(declared).ok_or(BodyError::BudgetExhausted)?;
        Ok(Self { max_bytes, budget, reservation, only_piece: Bytes::new(), buffer: Vec::new() })
    }

    fn push(&mut self, piece: Bytes) -> Result<(), BodyError> {
        let held = self.only_piece.len() + self.buffer.len();
        if piece.len() > self.max_bytes - held {
            return Err(BodyError::TooLarge { limit: self.max_bytes });
        }
        self.cover(held + piece.len())?;
        if held == 0 {
            self.only_piece = piece;
            return Ok(());
        }
        if self.buffer.capacity() < held + piece.len() {
            let room = self.reservation.bytes().min(self.max_bytes);
            self.buffer.reserve_exact(room - self.buffer.len());
        }
        self.buffer.extend_from_slice(&std::mem::take(&mut self.only_piece));
        self.buffer.extend_from_slice(&piece);
        Ok(())
    }

    /// Makes the reservation cover `bytes`: doubled where the budget has room for that, else just as much.
    fn cover(&mut self, bytes: usize) -> Result<(), BodyError> {
        let reserved = self.reservation.bytes();
        if bytes > reserved {
            let generous = bytes.max(reserved.saturating_mul(2).min(self.max_bytes));
            let more = self.budget.reserve(generous - reserved).or_else(|| self.budget.reserve(bytes - reserved));
            self.reservation.merge(more.ok_or(BodyError::BudgetExhausted)?);
        }
        Ok(())
    }

    fn finish(self) -> BodyBytes {
        let bytes = if self.buffer.is_empty() { self.only_piece } else { Bytes::from(self.buffer) };
        BodyBytes { bytes, reservation: self.reservation }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures_util::{StreamExt, stream};
    use http::HeaderValue;
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
        read_body(&HeaderMap::new(), body, &LIMITS, budget).await
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
        assert_eq!(left(&budget), 1023, "a thousand bytes are one KiB of budget");
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
    async fn any_content_encoding_but_identity_is_refused() {
        let budget = ByteBudget::new(1 << 20);
        let cases = [("gzip", false), ("identity", true), ("Identity", true), ("identity, br", false), ("", true)];
        for (coding, fine) in cases {
            let headers = HeaderMap::from_iter([(CONTENT_ENCODING, HeaderValue::from_static(coding))]);
            let body = read_body(&headers, Full::from("x"), &LIMITS, &budget).await;
            assert_eq!(body.err(), (!fine).then_some(BodyError::UnsupportedEncoding), "{coding:?}");
        }
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
}
