//! Where one connection stands: what it may still wait for, and until when.
//!
//! Owns the state that the socket side ([`GuardedIo`](super::guarded_io::GuardedIo)) and the request side (the service that
//! [`accept`](super::accept) gives to hyper) share, by the wrapper of the request body (`request_body`) among others. Does not own a timer: it
//! only says when the current wait ends; nor who is ended for whom ([`peers`](super::peers)), to which it tells what it does.
//!
//! ```text
//!           first byte           head parsed            last byte of the answer written, or dropped
//! Silent ---------------> Head ---------------> Busy -+- request body read --> Idle ---- first byte ----> Head
//!                                                     |                          '-- pipelined head --> Busy
//!                                                     '- not read to its end --> Discarding (read to its end: Idle;
//!                                                                                else the connection will close)
//! ```
//!
//! Silent and Head end at `header_timeout` (from the accept, from the first byte), Idle at `keep_alive_timeout`. Busy and
//! Discarding have no clock here: a request in work has its own deadlines (body, request, write), and a connection that is
//! being given up has the linger limit of the socket side.
//!
//! A client that ends its side while its request is worked on has gone, as far as anybody can tell, and its work is dropped. But that
//! is not told while nothing is waited for: who half-closes behind a probe, or behind what is answered at once, gets its answer.
//!
//! Invariants: Busy lasts exactly as long as an [`Exchange`] lives. A client that pipelines the start of a head behind a request
//! and stops there is bounded by `keep_alive_timeout`: those bytes were read while Busy, as bytes of who knows what.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    task::Waker,
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use super::{
    framing::HeadScan,
    peers::{Awaited, Peer, Peers, Spot},
    progress::{Progress, WINDOW},
    seat::Seat,
};

/// The state of one connection, shared by its socket side and its request side.
#[derive(Debug)]
pub(super) struct ConnState {
    header_timeout: Duration,
    keep_alive_timeout: Duration,
    peers: Peers,
    seat: Arc<Seat>,
    number: u64,
    /// Held for a few instructions at a time, never across an await.
    inner: Mutex<Inner>,
    ended: Notify,
}

#[derive(Debug)]
struct Inner {
    phase: Phase,
    /// Among those that wait for their client.
    spot: Option<Spot>,
    /// The request body that somebody reads.
    upload: Option<Upload>,
    /// Of an answer that the client does not take as fast as it could be written.
    reading: Option<Progress>,
    /// The socket side, which keeps the end of the client's side to itself.
    holding: Option<Waker>,
    /// Of the head that is coming, or of the last one.
    head: HeadScan,
}

/// A request body that is coming.
#[derive(Debug)]
struct Upload {
    progress: Progress,
    /// Its length where that is declared.
    declared: Option<u64>,
    /// Told when it is to be given up. Its own: an upload that was done just then must not leave the news to the next one.
    ended: Arc<Notify>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Accepted, nothing received.
    Silent { until: Instant },
    /// Some bytes of a head.
    Head { until: Instant },
    /// The service has the request, or hyper its answer. Of more than one where a client pipelines.
    Busy { body_unread: bool, drains: bool, waits: bool, exchanges: usize },
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

/// Whether the client has gone, when it has ended its side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TellsEnd {
    /// It has, or it does not matter.
    Now,
    /// Not as long as nothing is waited for.
    Later,
    /// It has if its body is not all there: the service has not taken the end of it so far, which may only be a matter of its turn.
    UnlessRead,
}

impl ConnState {
    /// A connection accepted now, with its header and keep-alive timeouts.
    pub(super) fn new(
        (header_timeout, keep_alive_timeout): (Duration, Duration),
        peers: &Peers,
        seat: Arc<Seat>,
    ) -> Arc<Self> {
        Arc::new_cyclic(|state: &Weak<Self>| {
            let number = peers.add(state.clone());
            let phase = Phase::Silent { until: Instant::now() + header_timeout };
            let spot = Some(peers.waits(number, Awaited::Any, None));
            let inner = Inner { phase, spot, upload: None, reading: None, holding: None, head: HeadScan::default() };
            Self {
                header_timeout,
                keep_alive_timeout,
                peers: peers.clone(),
                seat,
                number,
                inner: Mutex::new(inner),
                ended: Notify::new(),
            }
        })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Fields are replaced as a whole, so a panic elsewhere cannot leave half of one.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves on, and takes or leaves a place among those that wait for their client.
    fn enter(&self, inner: &mut Inner, phase: Phase) {
        let awaited = match phase {
            Phase::Silent { .. } | Phase::Idle { .. } | Phase::Discarding => Some(Awaited::Any),
            Phase::Head { .. } => Some(Awaited::Head),
            Phase::Busy { .. } => None,
        };
        match awaited {
            Some(awaited) => inner.spot = Some(self.peers.waits(self.number, awaited, inner.spot)),
            None => {
                if let Some(spot) = inner.spot.take() {
                    self.peers.works(spot);
                }
            }
        }
        inner.phase = phase;
        if let Some(waker) = inner.holding.take() {
            waker.wake();
        }
    }

    /// The socket gave bytes: where a head is awaited, its clock starts with the first of them.
    pub(super) fn bytes_arrived(&self, bytes: &[u8]) {
        let mut inner = self.lock();
        match inner.phase {
            Phase::Silent { .. } | Phase::Idle { .. } => {
                let until = Instant::now() + self.header_timeout;
                inner.head = HeadScan::default();
                inner.head.feed(bytes);
                self.enter(&mut inner, Phase::Head { until });
            }
            Phase::Head { .. } => inner.head.feed(bytes),
            Phase::Busy { body_unread: true, .. } => {
                if let Some(upload) = &mut inner.upload {
                    upload.progress.moved(bytes.len(), Instant::now());
                }
            }
            _ => {}
        }
    }

    /// The client took bytes of an answer; `blocked` says that it would not take more at once.
    pub(super) fn bytes_taken(&self, bytes: usize, blocked: bool) {
        let mut inner = self.lock();
        if let Some(progress) = &mut inner.reading {
            progress.moved(bytes, Instant::now());
        } else if blocked {
            inner.reading = Some(Progress::begin(Instant::now()));
        }
    }

    /// How long a read may stay pending; `None`: not for this module to say.
    pub(super) fn read_limit(&self) -> Option<ReadLimit> {
        match self.lock().phase {
            Phase::Silent { until } | Phase::Head { until } => Some(ReadLimit::Head(until)),
            Phase::Idle { until } => Some(ReadLimit::Idle(until)),
            Phase::Busy { .. } | Phase::Discarding => None,
        }
    }

    /// Whether the end of the client's side is for hyper to know; `waker` is woken when that may have changed.
    pub(super) fn tells_end(&self, waker: &Waker) -> TellsEnd {
        let mut inner = self.lock();
        let tells = match inner.phase {
            Phase::Busy { body_unread: false, waits: false, .. } => TellsEnd::Later,
            Phase::Busy { body_unread: true, drains: false, .. } => TellsEnd::UnlessRead,
            _ => TellsEnd::Now,
        };
        if tells != TellsEnd::Now {
            inner.holding = Some(waker.clone());
        }
        tells
    }

    /// The request that is worked on has to wait for somebody.
    pub(super) fn waits(&self) {
        let mut inner = self.lock();
        if let Phase::Busy { body_unread: false, waits, .. } = &mut inner.phase {
            *waits = true;
            if let Some(waker) = inner.holding.take() {
                waker.wake();
            }
        }
    }

    /// Whether a request is being worked on or answered.
    pub(super) fn in_request(&self) -> bool {
        matches!(self.lock().phase, Phase::Busy { .. })
    }

    /// Whether the client may still be sending what nobody will read: the rest of a body, or of a head that was refused.
    pub(super) fn has_unread_input(&self) -> bool {
        matches!(self.lock().phase, Phase::Head { .. } | Phase::Discarding | Phase::Busy { body_unread: true, .. })
    }

    /// A head is complete and the service gets the request; `body` is its length where it has one that is declared.
    pub(super) fn begin(self: &Arc<Self>, has_body: bool, body: Option<u64>) -> Exchange {
        let mut inner = self.lock();
        let before = match inner.phase {
            Phase::Busy { exchanges, .. } => exchanges,
            _ => 0,
        };
        inner.upload = has_body.then(|| Upload {
            progress: Progress::begin(Instant::now()),
            declared: body,
            ended: Arc::default(),
        });
        self.enter(
            &mut inner,
            Phase::Busy { body_unread: has_body, drains: false, waits: false, exchanges: before + 1 },
        );
        let is_ambiguous = std::mem::take(&mut inner.head).is_ambiguous();
        Exchange { state: Arc::clone(self), is_ambiguous }
    }

    /// What is left of the body is read behind the answer, by nobody who could give it up; false when the answer is on its way already.
    pub(super) fn drains(&self) -> bool {
        let mut inner = self.lock();
        let Phase::Busy { drains, .. } = &mut inner.phase else { return false };
        *drains = true;
        inner.upload = None;
        true
    }

    /// The body has been read to its end.
    pub(super) fn body_read(&self) {
        let mut inner = self.lock();
        inner.upload = None;
        match &mut inner.phase {
            Phase::Busy { body_unread, .. } => {
                *body_unread = false;
                if let Some(waker) = inner.holding.take() {
                    waker.wake();
                }
            }
            // A refused body that was read to its end after all: the connection can go on.
            Phase::Discarding => {
                let until = Instant::now() + self.keep_alive_timeout;
                self.enter(&mut inner, Phase::Idle { until });
            }
            _ => {}
        }
    }

    /// Waits for [`Peer::end`].
    pub(super) async fn ended(&self) {
        self.ended.notified().await;
    }

    /// Whether it can be given up at once: nothing of it is worked on, or its client does not take the answer.
    pub(super) fn is_lost(&self) -> bool {
        let inner = self.lock();
        !matches!(inner.phase, Phase::Busy { .. } | Phase::Idle { .. }) || inner.reading.is_some()
    }

    /// What tells that the present upload is to be given up.
    pub(super) fn upload_ended(&self) -> Option<Arc<Notify>> {
        self.lock().upload.as_ref().map(|upload| Arc::clone(&upload.ended))
    }
}

impl Peer for ConnState {
    fn is_reserved(&self) -> bool {
        self.seat.is_reserved()
    }

    fn slow_upload(&self, now: Instant, least: f64, whole: Duration) -> Option<f64> {
        let inner = self.lock();
        let Upload { progress, declared, .. } = inner.upload.as_ref()?;
        let rate = progress.rate(now)?;
        let left = whole.saturating_sub(now.saturating_duration_since(progress.began())).as_secs_f64();
        let to_come = declared.map_or(0, |declared| declared.saturating_sub(progress.bytes()));
        (rate < least || rate * left < to_come as f64).then_some(rate)
    }

    fn slow_reader(&self, now: Instant, least: f64) -> Option<f64> {
        let progress = self.lock().reading?;
        let rate = progress.rate(now).filter(|_| now.saturating_duration_since(progress.began()) >= WINDOW)?;
        (rate < least).then_some(rate)
    }

    fn end(&self) {
        self.ended.notify_one();
    }

    fn end_upload(&self) {
        if let Some(upload) = self.lock().upload.take() {
            upload.ended.notify_one();
        }
    }
}

impl Drop for ConnState {
    fn drop(&mut self) {
        let spot = self.lock().spot.take();
        self.peers.remove(self.number, spot);
    }
}

/// A request in work: lives from the call of the service until the last byte of its answer is written or dropped.
#[derive(Debug)]
pub(super) struct Exchange {
    state: Arc<ConnState>,
    is_ambiguous: bool,
}

impl Exchange {
    /// Whether its head says in two ways how long its body is.
    pub(super) fn is_ambiguous(&self) -> bool {
        self.is_ambiguous
    }

    /// Whether the request body has not been read to its end and is not going to be, so that the connection cannot carry another
    /// request.
    pub(super) fn body_lost(&self) -> bool {
        matches!(self.state.lock().phase, Phase::Busy { body_unread: true, drains: false, .. })
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let state = &self.state;
        let mut inner = state.lock();
        let phase = match inner.phase {
            Phase::Busy { exchanges, body_unread, drains, waits } if exchanges > 1 => {
                inner.phase = Phase::Busy { exchanges: exchanges - 1, body_unread, drains, waits };
                return;
            }
            Phase::Busy { body_unread: true, .. } => Phase::Discarding,
            _ => Phase::Idle { until: Instant::now() + state.keep_alive_timeout },
        };
        inner.reading = None;
        state.enter(&mut inner, phase);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: Duration = Duration::from_secs(10);
    const KEEP_ALIVE: Duration = Duration::from_secs(75);

    fn state() -> Arc<ConnState> {
        ConnState::new((HEAD, KEEP_ALIVE), &Peers::new(Arc::default(), KEEP_ALIVE), Seat::of_a_test())
    }

    #[tokio::test(start_paused = true)]
    async fn silence_counts_from_the_accept_and_a_head_from_its_first_byte() {
        let state = state();
        let accepted = Instant::now();
        assert_eq!(state.read_limit(), Some(ReadLimit::Head(accepted + HEAD)));
        tokio::time::advance(Duration::from_secs(9)).await;
        state.bytes_arrived(b"G");
        let first_byte = Instant::now();
        tokio::time::advance(Duration::from_secs(5)).await;
        state.bytes_arrived(b"G");
        assert_eq!(state.read_limit(), Some(ReadLimit::Head(first_byte + HEAD)), "later bytes move nothing");
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_in_work_has_no_read_limit_and_an_idle_connection_the_keep_alive_one() {
        let state = state();
        state.bytes_arrived(b"G");
        let exchange = state.begin(false, None);
        assert!(state.in_request());
        assert_eq!(state.read_limit(), None);
        state.bytes_arrived(b"G");
        assert_eq!(state.read_limit(), None, "pipelined bytes start no clock");
        tokio::time::advance(Duration::from_secs(20)).await;
        drop(exchange);
        assert!(!state.in_request());
        assert_eq!(state.read_limit(), Some(ReadLimit::Idle(Instant::now() + KEEP_ALIVE)));
        state.bytes_arrived(b"G");
        assert_eq!(state.read_limit(), Some(ReadLimit::Head(Instant::now() + HEAD)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_left_unread_is_remembered_and_its_bytes_start_no_head_clock() {
        let state = state();
        let exchange = state.begin(true, None);
        assert!(exchange.body_lost());
        drop(exchange);
        assert!(state.has_unread_input());
        state.bytes_arrived(b"G");
        assert_eq!(state.read_limit(), None);
        assert!(!state.in_request(), "answered: nothing is lost when it is cut");

        let exchange = state.begin(true, None);
        state.body_read();
        assert!(!exchange.body_lost());
        drop(exchange);
        assert!(!state.has_unread_input());
    }

    #[tokio::test]
    async fn an_upload_that_is_ended_when_it_is_done_ends_no_other() {
        let state = state();
        let first = state.begin(true, Some(10));
        let first_ended = state.upload_ended().expect("an upload");
        state.end_upload();
        drop(first);
        let _second = state.begin(true, Some(10));
        let second_ended = state.upload_ended().expect("another upload");
        assert!(futures_util::FutureExt::now_or_never(second_ended.notified()).is_none());
        tokio::time::timeout(HEAD, first_ended.notified()).await.expect("it is told, also if it listens late");
        assert!(state.drains() && state.upload_ended().is_none(), "nobody reads it, so nobody is told");
    }
}
