//! Reading a request body whole, within its limits, its clocks and the memory that all bodies share.
//!
//! Owns the byte limit of one body, the two clocks of its arrival and the budget over all of them. Does not own what the bytes
//! mean, nor the status an error becomes.
//!
//! What can be refused is refused before a byte is read: a declared length over the limit, a length the budget has no room for. A body holds bytes of the budget as they come, so that one which is only announced takes them from nobody. Where
//! the budget has no room, the slowest upload is ended for it ([`Peers`]).
//!
//! Invariants: bytes that have come for bodies <= the budget's capacity; nothing here waits for budget unless somebody has just been
//! ended for it; a body that came in one piece is not copied, any other is copied once into a buffer of its declared length, whose
//! pages are taken as they are written.

use std::{
    fmt,
    future::{pending, poll_fn},
    io,
    pin::pin,
    time::Duration,
};

use axum::BoxError;
use bytes::Bytes;
use tokio::time::{Instant, sleep_until};

use super::{accept::Link, peers::Peers};
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
    #[error(
        "the request body is larger than {limit} bytes (limits.max_body_bytes); send fewer or smaller items in one request"
    )]
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
    /// Came so slowly that it was ended for others.
    #[error(
        "the request body came slower than others could wait, and the server has no room for all; send faster, or later"
    )]
    Ended,
    /// Compressed otherwise, or more than once.
    #[error(
        "the request body has a Content-Encoding that is not read; send one of gzip, deflate, br and zstd, or none"
    )]
    UnsupportedEncoding,
    /// Not compressed as it says.
    #[error("the request body is not whole in the coding that Content-Encoding names; send it again, or without one")]
    BadEncoding,
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

    /// Bytes, and what they take of the budget.
    pub(super) fn new(bytes: Bytes, reservation: Reservation) -> Self {
        Self { bytes, reservation }
    }

    /// The bytes, and the reservation to hold for as long as they, or slices of them, are held.
    pub fn into_parts(self) -> (Bytes, Reservation) {
        (self.bytes, self.reservation)
    }
}

/// Reads `body` to its end.
///
/// The declared length is what `body` says of itself, which for hyper's is the Content-Length that frames it. To drop the future gives its
/// reservation back.
///
/// # Errors
/// See [`BodyError`]; the rest of the body is then unread, and the connection of a hyper body closes after the answer.
pub async fn read_body<B>(
    body: B,
    limits: &BodyLimits,
    budget: &ByteBudget,
    peers: &Peers,
    link: Option<&Link>,
) -> Result<BodyBytes, BodyError>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    let size = body.size_hint();
    if size.lower() > limits.max_bytes as u64 {
        return Err(BodyError::TooLarge { limit: limits.max_bytes });
    }
    let declared = size.exact().and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(0);
    let mut collected = Collected::new(declared, limits.max_bytes, budget, peers)?;
    collected.look().await?;
    let ended = async {
        match link {
            Some(link) => link.upload_ended().await,
            None => pending().await,
        }
    };
    let mut ended = pin!(ended);

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
                        collected.push(data).await?;
                    }
                }
            },
            () = ended.as_mut() => return Err(BodyError::Ended),
            () = timer.as_mut() => {
                // The timer is not moved with every piece, only when it fires early.
                clock.check()?;
                timer.as_mut().reset(clock.ends().0);
            }
        }
    }
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

/// Bytes of the budget that a body takes at a time.
const STEP: usize = 64 << 10;

/// What has come so far. `buffer` is used from the second piece on.
struct Collected<'a> {
    declared: usize,
    max_bytes: usize,
    budget: &'a ByteBudget,
    peers: &'a Peers,
    reservation: Reservation,
    only_piece: Bytes,
    buffer: Vec<u8>,
}

impl<'a> Collected<'a> {
    fn new(declared: usize, max_bytes: usize, budget: &'a ByteBudget, peers: &'a Peers) -> Result<Self, BodyError> {
        let reservation = budget.reserve(0).ok_or(BodyError::BudgetExhausted)?;
        Ok(Self { declared, max_bytes, budget, peers, reservation, only_piece: Bytes::new(), buffer: Vec::new() })
    }

    /// Whether the budget has room for what is declared, before any of it comes.
    async fn look(&self) -> Result<(), BodyError> {
        let room = || (self.budget.left() >= self.declared).then_some(());
        self.peers.make_room(Peers::end_slowest_upload, room).await.ok_or(BodyError::BudgetExhausted)
    }

    async fn push(&mut self, piece: Bytes) -> Result<(), BodyError> {
        let held = self.only_piece.len() + self.buffer.len();
        if piece.len() > self.max_bytes - held {
            return Err(BodyError::TooLarge { limit: self.max_bytes });
        }
        let bytes = held + piece.len();
        self.cover(bytes).await?;
        if held == 0 {
            self.only_piece = piece;
            return Ok(());
        }
        if self.buffer.capacity() < bytes {
            // What is not declared grows by doubling, and what was doubled too far is given back at the end.
            let room = self.declared.max(bytes).max(self.buffer.capacity().saturating_mul(2).min(self.max_bytes));
            self.buffer.reserve_exact(room - self.buffer.len());
        }
        self.buffer.extend_from_slice(&std::mem::take(&mut self.only_piece));
        self.buffer.extend_from_slice(&piece);
        Ok(())
    }

    /// Makes the reservation cover `bytes`: in whole steps where the body and the budget have as many, else just as much.
    async fn cover(&mut self, bytes: usize) -> Result<(), BodyError> {
        let reserved = self.reservation.bytes();
        if bytes <= reserved {
            return Ok(());
        }
        let end = if self.declared > 0 { self.declared } else { self.max_bytes };
        let generous = bytes.next_multiple_of(STEP).min(end).max(bytes);
        let take = || self.budget.reserve(generous - reserved).or_else(|| self.budget.reserve(bytes - reserved));
        let more = self.peers.make_room(Peers::end_slowest_upload, take).await;
        self.reservation.merge(more.ok_or(BodyError::BudgetExhausted)?);
        Ok(())
    }

    fn finish(self) -> BodyBytes {
        let Self { only_piece, mut buffer, reservation, .. } = self;
        if buffer.is_empty() {
            return BodyBytes { bytes: only_piece, reservation };
        }
        buffer.shrink_to_fit();
        BodyBytes { bytes: Bytes::from(buffer), reservation }
    }
}

#[cfg(test)]
mod tests;
