//! The connections of one listener as those who take from each other: who is ended so that somebody else can be served.
//!
//! Owns the choice. While there is room for all, nobody is ended from here: the clocks of a connection do that. Where there is no
//! room, those go first who hold a place and do nothing with it:
//!
//! * for a new connection, of those with a place the one that has been idle longest (silent, idle between requests, or lingering), else
//!   the one that has been sending its head longest, else the slowest peer; for the reserve, the one in it that has been idle longest;
//! * for bytes of bodies, the slowest upload, which is answered 408;
//! * for a request's place and for bytes of answers, the slowest reader, whose connection is closed.
//!
//! Slow is below [`MIN_RATE`], as servers with a minimum data rate have it, or an upload that cannot be done before its time is over.
//! Does not own the state of a connection (`exchange`), of which it sees what a [`Peer`] tells.
//!
//! Invariants: a peer is not ended before it has been watched for [`WINDOW`], nor an idle connection in its first
//! [`FRESH`]; each end is counted.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Debug,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use tokio::time::Instant;

use crate::telemetry::{Ended, Metrics};

/// Bytes a second below which a peer is slow, while others are refused for it.
pub(super) const MIN_RATE: f64 = 32.0 * 1024.0;

/// A connection that has been idle for less may have its next request on the way.
const FRESH: Duration = Duration::from_millis(100);

/// How long somebody for whom another was ended waits for what that one held.
const ROOM: Duration = Duration::from_millis(100);

/// A connection, as what others can take from it: how slow it is, and its end.
pub(super) trait Peer: Debug + Send + Sync {
    /// Whether it has no place so far.
    fn is_reserved(&self) -> bool;

    /// Bytes a second of its upload, if that is slow: below `least`, or too slow to be done within `whole`.
    fn slow_upload(&self, now: Instant, least: f64, whole: Duration) -> Option<f64>;

    /// Bytes a second that its client takes of an answer, if it is written as fast as it takes them and that is below `least`.
    fn slow_reader(&self, now: Instant, least: f64) -> Option<f64>;

    /// It is to be closed for another; a request in work is not lost unless its client does not read.
    fn end(&self);

    /// Its upload is to be answered 408 for others.
    fn end_upload(&self);
}

/// The connections of one listener. Clones are of one listener.
#[derive(Clone, Debug)]
pub struct Peers(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    state: Mutex<State>,
    metrics: Arc<Metrics>,
    /// How long a whole body may take.
    body_timeout: Duration,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    all: HashMap<u64, Weak<dyn Peer>>,
    /// Those that wait for their client, in the order in which they are ended.
    waiting: BTreeMap<Spot, (u64, Instant)>,
    /// Until when nobody is looked for, of uploads and of readers: all of them were looked at, and none was slow.
    all_fast_until: [Option<Instant>; 2],
}

/// Who may be slow.
#[derive(Clone, Copy)]
enum Slow {
    Upload,
    Reader,
}

/// How long it is taken for granted that nobody is slow: to look at all connections for every refusal would make refusals dear.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// A place in the order of those that wait for their client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Spot(Awaited, u64);

/// What a connection waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Awaited {
    /// A first byte, or the end.
    Any,
    /// The rest of a head.
    Head,
}

impl Peers {
    /// None yet.
    pub fn new(metrics: Arc<Metrics>, body_timeout: Duration) -> Self {
        Self(Arc::new(Inner { state: Mutex::default(), metrics, body_timeout }))
    }

    /// A new connection: its number.
    pub(super) fn add(&self, connection: Weak<dyn Peer>) -> u64 {
        let mut state = self.lock();
        state.next += 1;
        let number = state.next;
        state.all.insert(number, connection);
        number
    }

    /// It is gone.
    pub(super) fn remove(&self, number: u64, spot: Option<Spot>) {
        let mut state = self.lock();
        state.all.remove(&number);
        if let Some(spot) = spot {
            state.waiting.remove(&spot);
        }
    }

    /// It begins to wait for its client, at its place behind all others that wait for the same.
    pub(super) fn waits(&self, number: u64, awaited: Awaited, before: Option<Spot>) -> Spot {
        let mut state = self.lock();
        if let Some(before) = before {
            state.waiting.remove(&before);
        }
        state.next += 1;
        let spot = Spot(awaited, state.next);
        state.waiting.insert(spot, (number, Instant::now()));
        spot
    }

    /// It waits no longer.
    pub(super) fn works(&self, spot: Spot) {
        self.lock().waiting.remove(&spot);
    }

    /// Makes a place for a new connection; false when nobody can be ended for it. Who is in the reserve has none to give.
    pub(super) fn end_for_place(&self) -> bool {
        self.end_longest_waiting(|connection| !connection.is_reserved())
            || self.end_slowest_reader()
            || self.end_slowest_upload()
    }

    /// Makes a part of the reserve free; false when nobody in it can be ended.
    pub(super) fn end_for_reserve(&self) -> bool {
        self.end_longest_waiting(|connection| connection.is_reserved())
    }

    /// Ends the connection that has waited longest for its client, of those that are `eligible`.
    fn end_longest_waiting(&self, eligible: impl Fn(&dyn Peer) -> bool) -> bool {
        // Let go of after the lock: the last hold on a connection takes it.
        let mut passed = Vec::new();
        let longest = {
            let mut state = self.lock();
            let State { waiting, all, .. } = &mut *state;
            let old_enough = waiting.iter().filter(|(_, (_, since))| since.elapsed() >= FRESH);
            let mut connections =
                old_enough.filter_map(|(spot, (number, _))| Some((*spot, all.get(number)?.upgrade()?)));
            let found = connections.find_map(|(spot, connection)| {
                if eligible(&*connection) {
                    return Some((spot, connection));
                }
                passed.push(connection);
                None
            });
            if let Some((spot, _)) = &found {
                waiting.remove(spot);
            }
            found
        };
        let Some((spot, connection)) = longest else { return false };
        self.0.metrics.connections_ended(match spot.0 {
            Awaited::Any => Ended::Idle,
            Awaited::Head => Ended::SlowHead,
        });
        connection.end();
        true
    }

    /// Ends the slowest upload, if one is slow: it is answered 408.
    pub(super) fn end_slowest_upload(&self) -> bool {
        let now = Instant::now();
        let slowest =
            self.slowest(Slow::Upload, |connection| connection.slow_upload(now, MIN_RATE, self.0.body_timeout));
        let Some(connection) = slowest else { return false };
        self.0.metrics.connections_ended(Ended::SlowUpload);
        connection.end_upload();
        true
    }

    /// Ends the slowest reader, if one is slow: its connection is closed.
    pub(in crate::http) fn end_slowest_reader(&self) -> bool {
        let now = Instant::now();
        let slowest = self.slowest(Slow::Reader, |connection| connection.slow_reader(now, MIN_RATE));
        let Some(connection) = slowest else { return false };
        self.0.metrics.connections_ended(Ended::SlowReader);
        connection.end();
        true
    }

    /// `take` again and again, as long as `end` finds somebody whose end may make room, and for [`ROOM`] at most. Once more in any
    /// case: who has just read an answer may ask again before what it held has been given back.
    ///
    /// # Errors
    /// `None` when there is no room.
    pub(in crate::http) async fn make_room<T>(
        &self,
        end: impl Fn(&Self) -> bool,
        mut take: impl FnMut() -> Option<T>,
    ) -> Option<T> {
        let limit = Instant::now() + ROOM;
        let mut looked_again = false;
        loop {
            if let Some(taken) = take() {
                return Some(taken);
            }
            if Instant::now() >= limit || (!end(self) && std::mem::replace(&mut looked_again, true)) {
                return None;
            }
            // The ended one's task has to run before what it held is free: looked for again soon, and another is ended then.
            tokio::time::sleep(ROOM / 50).await;
        }
    }

    fn slowest(&self, who: Slow, rate: impl Fn(&dyn Peer) -> Option<f64>) -> Option<Arc<dyn Peer>> {
        let now = Instant::now();
        let all: Vec<Arc<dyn Peer>> = {
            let state = self.lock();
            if state.all_fast_until[who as usize].is_some_and(|until| now < until) {
                return None;
            }
            state.all.values().filter_map(Weak::upgrade).collect()
        };
        let rated = all.into_iter().filter_map(|connection| Some((rate(&*connection)?, connection)));
        let slowest = rated.min_by(|(a, _), (b, _)| a.total_cmp(b)).map(|(_, connection)| connection);
        if slowest.is_none() {
            self.lock().all_fast_until[who as usize] = Some(now + LOOK_AGAIN);
        }
        slowest
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
