//! The requests that have work in one lane, how much of it is left, and how long another one would wait beside them.
//!
//! Owns the forecast, which is how much later a request is answered than it would be alone. Requests take turns (`turn`), so what a
//! request waits for is not all that is there: of every other request of its class, as much as it has itself at most ([`ahead`]).
//! An encoder takes that in runs, and the last item is answered with the whole run that it is in, which others fill: that run is
//! taken to be like those of late ([`wait`]). The second class is held up by what comes of the first, too, which nobody knows: it waits for as
//! long at least as none of it has been answered while some of it waits. Two stages (decoding and encoding) work at the same time, so the
//! slower one decides.
//! Both formulas are pure, each with a table of tests. Does not own the measurements (`speed`) or what is done about a long wait
//! (`admission`).
//!
//! Invariants: what a request has left goes down as its items are decoded, taken into a run, or dropped, and is gone with its last
//! permit; a run that goes on counts for what is left of it.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use super::{Class, Speed};

/// The work in one item, in the units of the stages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// To decode it, where that is needed.
    pub decode: u64,
    /// To encode it: 1 for an image, its tokens for a text.
    pub encode: u64,
}

/// One request in one lane.
#[derive(Debug)]
pub(super) struct Flow {
    pub(super) id: u64,
    pub(super) class: Class,
    /// More work than a few items of the lane have.
    pub(super) is_large: bool,
    /// When it came.
    since: Instant,
    decode: AtomicU64,
    encode: AtomicU64,
}

impl Flow {
    fn new(id: u64, class: Class, is_large: bool, since: Instant, Work { decode, encode }: Work) -> Self {
        Self { id, class, is_large, since, decode: AtomicU64::new(decode), encode: AtomicU64::new(encode) }
    }
}

/// One item's part of its request's work; given back as it is done, or when the item is gone.
#[derive(Debug)]
pub(super) struct Share {
    pub(super) flow: Arc<Flow>,
    work: Work,
    left: Work,
}

impl Share {
    pub(super) fn new(flow: Arc<Flow>, work: Work) -> Self {
        Self { flow, work, left: work }
    }

    /// The item has been decoded.
    pub(super) fn decoded(&mut self) {
        self.flow.decode.fetch_sub(std::mem::take(&mut self.left.decode), Ordering::Relaxed);
    }

    /// The item is in a run, which counts for itself.
    pub(super) fn running(&mut self) {
        self.decoded();
        self.flow.encode.fetch_sub(std::mem::take(&mut self.left.encode), Ordering::Relaxed);
    }

    /// The run was ended before it had an answer.
    pub(super) fn waits_again(&mut self) {
        self.running();
        self.left.encode = self.work.encode;
        self.flow.encode.fetch_add(self.work.encode, Ordering::Relaxed);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.running();
    }
}

/// What another request has left of one stage.
#[derive(Clone, Copy, Debug)]
struct Left {
    /// Its class.
    pub class: Class,
    /// In the units of the stage.
    pub work: f64,
}

/// How much of the work of `others` is done before a request of `class` with `own` work is: as much of each as it has itself, since they
/// take turns; for a bulk request all that interactive ones have, and for an interactive one nothing that bulk ones have.
fn ahead(class: Class, own: f64, others: impl IntoIterator<Item = Left>) -> f64 {
    let of = |other: Left| match (class, other.class) {
        (Class::Interactive, Class::Bulk) => 0.0,
        (Class::Bulk, Class::Interactive) => other.work,
        _ => other.work.min(own),
    };
    others.into_iter().map(of).sum()
}

/// An encoder as a request finds it. Work in its units, times in seconds.
#[derive(Clone, Copy, Debug)]
struct Found {
    /// Work of others that comes first.
    pub ahead: f64,
    /// Until a session is free.
    pub running: f64,
    /// Work and time of a run of late.
    pub run: (f64, f64),
    /// Of a unit of work, over all sessions.
    pub per_unit: f64,
}

/// How many seconds later a request with `own` work is answered than alone, which takes `alone`.
fn wait(found: Found, own: f64, alone: f64) -> f64 {
    let (work, seconds) = found.run;
    let runs_before = (found.ahead + own - work).max(0.0) * found.per_unit;
    (found.running + runs_before + seconds - alone).max(0.0)
}

/// A run that goes on.
#[derive(Debug)]
struct Run {
    id: u64,
    /// When it began, by the [`Clock`].
    since: f64,
    /// What it takes alone, as far as is known.
    seconds: f64,
    /// Whether it is ended when something of the first class comes.
    gives_way: bool,
}

impl Run {
    /// Whether a request of `class` waits for its end.
    fn holds(&self, class: Class) -> bool {
        class == Class::Bulk || !self.gives_way
    }
}

/// The time of a run that has its session's threads to itself. Where more runs go on than sessions have threads for, each has a part of
/// them, and the clock goes slower by as much: so what a run took by it says what it takes alone, whatever was beside it.
#[derive(Debug, Default)]
struct Clock {
    seconds: f64,
    read: Option<Instant>,
}

impl Clock {
    /// What it shows at `now`, when since the last reading a run has taken `stretch` times as long as alone.
    fn read(&mut self, now: Instant, stretch: f64) -> f64 {
        let passed = self.read.map_or(0.0, |read| now.saturating_duration_since(read).as_secs_f64());
        self.seconds += passed / stretch;
        self.read = self.read.max(Some(now));
        self.seconds
    }
}

/// All requests of one lane.
#[derive(Debug)]
pub(super) struct Flows {
    state: Mutex<State>,
    /// Threads that decode; at least 1.
    decoders: usize,
    /// Sessions with threads of their own; at least 1.
    encoders: usize,
    /// The most work that a request which is not large has.
    few: u64,
}

#[derive(Debug, Default)]
struct State {
    flows: Vec<Arc<Flow>>,
    runs: Vec<Run>,
    clock: Clock,
    next: u64,
    /// When a run of the second class was last answered.
    second: Option<Instant>,
}

impl State {
    /// How many times as long as alone a run takes now.
    fn stretch(&self, encoders: usize) -> f64 {
        (self.runs.len() as f64 / encoders as f64).max(1.0)
    }

    /// For how long nothing of the second class has been answered while some of it waits.
    fn held(&self, now: Instant) -> Duration {
        let waits = |flow: &&Arc<Flow>| flow.class == Class::Bulk && flow.encode.load(Ordering::Relaxed) > 0;
        let since = self.flows.iter().filter(waits).map(|flow| flow.since).min();
        since.map_or(Duration::ZERO, |since| {
            now.saturating_duration_since(self.second.map_or(since, |at| at.max(since)))
        })
    }

    /// What the clock shows.
    fn clock(&mut self, encoders: usize, now: Instant) -> f64 {
        let stretch = self.stretch(encoders);
        self.clock.read(now, stretch)
    }
}

/// How fast the two stages of a lane are.
#[derive(Clone, Debug, Default)]
pub struct Speeds {
    /// Decoding, in units of decode work on one thread.
    pub decode: Arc<Speed>,
    /// The runs of one session, each alone in it, in units of encode work.
    pub encode: Arc<Speed>,
}

/// A run's place among those that go on.
#[derive(Debug)]
pub struct RunGuard<'a> {
    flows: &'a Flows,
    id: u64,
}

impl RunGuard<'_> {
    /// How long the run would have taken until `now` if no other had had threads of its session.
    pub(super) fn alone(&self, now: Instant) -> Duration {
        let mut state = self.flows.lock();
        let clock = state.clock(self.flows.encoders, now);
        let since = state.runs.iter().find(|run| run.id == self.id).map_or(clock, |run| run.since);
        Duration::from_secs_f64((clock - since).max(0.0))
    }
}

impl Drop for RunGuard<'_> {
    fn drop(&mut self) {
        let mut state = self.flows.lock();
        state.clock(self.flows.encoders, Instant::now());
        state.runs.retain(|run| run.id != self.id);
    }
}

impl Flows {
    pub(super) fn new(decoders: usize, encoders: usize, few: u64) -> Self {
        Self { state: Mutex::default(), decoders: decoders.max(1), encoders: encoders.max(1), few }
    }

    /// How long a request of `class` with items of `works` would wait for others; `None` when there are none.
    pub(super) fn wait(&self, class: Class, works: &[Work], speeds: &Speeds, now: Instant) -> Option<Duration> {
        Self::wait_in(&mut self.lock(), self, class, works, speeds, now)
    }

    /// The same, and lets it in when `fits` says so of that.
    pub(super) fn enter(
        &self,
        class: Class,
        works: &[Work],
        speeds: &Speeds,
        now: Instant,
        fits: impl FnOnce(Option<Duration>) -> bool,
    ) -> Result<Arc<Flow>, Duration> {
        // Under one lock, so that of many that come at once each sees those before it.
        let mut state = self.lock();
        let wait = Self::wait_in(&mut state, self, class, works, speeds, now);
        if !fits(wait) {
            return Err(wait.unwrap_or_default());
        }
        state.next += 1;
        let work = total(works);
        let flow = Arc::new(Flow::new(state.next, class, work.encode > self.few, now, work));
        state.flows.push(Arc::clone(&flow));
        Ok(flow)
    }

    /// A run of `work` begins; it goes on until the guard is dropped, or something of the first class comes and it `gives_way`.
    pub(super) fn run(&self, work: u64, gives_way: bool, speeds: &Speeds, now: Instant) -> RunGuard<'_> {
        let seconds = speeds.encode.seconds(work);
        let mut state = self.lock();
        state.next += 1;
        let id = state.next;
        let since = state.clock(self.encoders, now);
        state.runs.push(Run { id, since, seconds, gives_way });
        RunGuard { flows: self, id }
    }

    /// A run of `class` was answered.
    pub(super) fn finished(&self, class: Class, now: Instant) {
        if class == Class::Bulk {
            self.lock().second = Some(now);
        }
    }

    fn wait_in(
        state: &mut State,
        lane: &Self,
        class: Class,
        works: &[Work],
        speeds: &Speeds,
        now: Instant,
    ) -> Option<Duration> {
        // Those whose last permit is gone.
        state.flows.retain(|flow| Arc::strong_count(flow) > 1);
        if state.flows.is_empty() && state.runs.is_empty() {
            return None;
        }
        let (stretch, clock) = (state.stretch(lane.encoders), state.clock(lane.encoders, now));
        let own = total(works);
        let ahead = |own: u64, left: fn(&Flow) -> &AtomicU64| {
            let left = |flow: &Arc<Flow>| Left { class: flow.class, work: left(flow).load(Ordering::Relaxed) as f64 };
            ahead(class, own as f64, state.flows.iter().map(left))
        };
        let (decoders, encoders) = (lane.decoders as f64, lane.encoders as f64);
        let decode = ahead(own.decode, |flow| &flow.decode) * speeds.decode.seconds_per_unit() / decoders;
        let left_of = |run: &Run| (run.seconds - (clock - run.since)).max(0.0) * stretch;
        // The session that is free first.
        let held = || state.runs.iter().filter(|run| run.holds(class));
        let running =
            if held().count() < lane.encoders { 0.0 } else { held().map(left_of).fold(f64::INFINITY, f64::min) };
        let (work, seconds) = speeds.encode.run_of_late();
        let found = Found {
            ahead: ahead(own.encode, |flow| &flow.encode),
            running,
            run: (work, seconds * stretch),
            per_unit: speeds.encode.seconds_per_unit() / encoders,
        };
        let encode = wait(found, own.encode as f64, speeds.encode.seconds(own.encode));
        let held = if class == Class::Bulk { state.held(now) } else { Duration::ZERO };
        Some(Duration::from_secs_f64(decode.max(encode).min(1e6)).max(held))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn total(works: &[Work]) -> Work {
    works.iter().fold(Work::default(), |sum, work| Work {
        decode: sum.decode.saturating_add(work.decode),
        encode: sum.encode.saturating_add(work.encode),
    })
}

#[cfg(test)]
mod tests;
