//! The requests that have work in one lane, how much of it is left, and how long another one would wait beside them.
//!
//! Owns the forecast, which is how much later a request is answered than it would be alone. Requests take turns (`turn`), so what a
//! request waits for is not all that is there: of every other request of its class, as much as it has itself at most ([`ahead`]).
//! An encoder takes that in runs, and the last item is answered with the whole run that it is in, which others fill: that run is
//! taken to be like those of late ([`wait`]). Two stages (decoding and encoding) work at the same time, so the slower one decides.
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
    decode: AtomicU64,
    encode: AtomicU64,
}

impl Flow {
    fn new(id: u64, class: Class, is_large: bool, decode: u64, encode: u64) -> Self {
        Self { id, class, is_large, decode: AtomicU64::new(decode), encode: AtomicU64::new(encode) }
    }
}

/// One item's part of its request's work; given back as it is done, or when the item is gone.
#[derive(Debug)]
pub(super) struct Share {
    pub(super) flow: Arc<Flow>,
    work: Work,
}

impl Share {
    pub(super) fn new(flow: Arc<Flow>, work: Work) -> Self {
        Self { flow, work }
    }

    /// The item has been decoded.
    pub(super) fn decoded(&mut self) {
        self.flow.decode.fetch_sub(std::mem::take(&mut self.work.decode), Ordering::Relaxed);
    }

    /// The item is in a run, which counts for itself.
    pub(super) fn running(&mut self) {
        self.decoded();
        self.flow.encode.fetch_sub(std::mem::take(&mut self.work.encode), Ordering::Relaxed);
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
}

impl State {
    /// How many times as long as alone a run takes now.
    fn stretch(&self, encoders: usize) -> f64 {
        (self.runs.len() as f64 / encoders as f64).max(1.0)
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
        let Work { decode, encode } = total(works);
        let flow = Arc::new(Flow::new(state.next, class, encode > self.few, decode, encode));
        state.flows.push(Arc::clone(&flow));
        Ok(flow)
    }

    /// A run of `work` begins; it goes on until the guard is dropped.
    pub(super) fn run(&self, work: u64, speeds: &Speeds, now: Instant) -> RunGuard<'_> {
        let seconds = speeds.encode.seconds(work);
        let mut state = self.lock();
        state.next += 1;
        let id = state.next;
        let since = state.clock(self.encoders, now);
        state.runs.push(Run { id, since, seconds });
        RunGuard { flows: self, id }
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
        let running = if state.runs.len() < lane.encoders {
            0.0
        } else {
            state.runs.iter().map(left_of).fold(f64::INFINITY, f64::min)
        };
        let (work, seconds) = speeds.encode.run_of_late();
        let found = Found {
            ahead: ahead(own.encode, |flow| &flow.encode),
            running,
            run: (work, seconds * stretch),
            per_unit: speeds.encode.seconds_per_unit() / encoders,
        };
        let encode = wait(found, own.encode as f64, speeds.encode.seconds(own.encode));
        Some(Duration::from_secs_f64(decode.max(encode).min(1e6)))
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
mod unit {
    use super::*;

    #[test]
    fn the_table_of_what_comes_first() {
        use Class::{Bulk, Interactive};
        type Others = &'static [(Class, f64)];
        let cases: &[(&str, Class, f64, Others, f64)] = &[
            ("nobody is there", Interactive, 1.0, &[], 0.0),
            ("one item behind single items: each of them", Interactive, 1.0, &[(Interactive, 1.0); 5], 5.0),
            (
                "one item beside a large request: its turn comes after one",
                Interactive,
                1.0,
                &[(Interactive, 64.0)],
                1.0,
            ),
            ("a large request behind a small one", Interactive, 64.0, &[(Interactive, 1.0)], 1.0),
            ("two large ones share", Interactive, 64.0, &[(Interactive, 60.0)], 60.0),
            ("bulk work does not count for interactive", Interactive, 1.0, &[(Bulk, 64.0)], 0.0),
            ("all interactive work counts for bulk", Bulk, 1.0, &[(Interactive, 64.0), (Bulk, 64.0)], 65.0),
        ];
        for (name, class, own, others, expected) in cases {
            let others = others.iter().map(|&(class, work)| Left { class, work });
            assert!((ahead(*class, *own, others) - expected).abs() < 1e-9, "{name}");
        }
    }

    #[test]
    fn the_table_of_waits() {
        // Runs of eight that take 0.5 s, one alone 0.1.
        let found = |ahead, running| Found { ahead, running, run: (8.0, 0.5), per_unit: 0.0625 };
        let alone_of_late = Found { ahead: 0.0, running: 0.05, run: (1.0, 0.1), per_unit: 0.1 };
        for (name, found, own, alone, expected) in [
            ("in the next run, with seven others", found(0.0, 0.3), 1.0, 0.1, 0.3 + 0.4),
            ("the same, behind five", found(5.0, 0.3), 1.0, 0.1, 0.3 + 0.4),
            ("in the run after it, behind ten", found(10.0, 0.3), 1.0, 0.1, 0.3 + 3.0 * 0.0625 + 0.4),
            ("nobody else of late", alone_of_late, 1.0, 0.1, 0.05),
            ("a large one behind a run waits for the rest of it", found(0.0, 0.3), 64.0, 4.0, 0.3),
            ("never sooner than alone", found(0.0, 0.0), 1.0, 0.9, 0.0),
        ] {
            let seconds = wait(found, own, alone);
            assert!((seconds - expected).abs() < 1e-9, "{name}: {seconds}, expected {expected}");
        }
    }

    fn images(n: usize) -> Vec<Work> {
        vec![Work { decode: 10, encode: 1 }; n]
    }

    fn speeds(decode_ms: u64, encode_ms: u64) -> Speeds {
        let speeds = Speeds::default();
        speeds.decode.observe(10, Duration::from_millis(decode_ms));
        speeds.encode.observe(1, Duration::from_millis(encode_ms));
        speeds
    }

    #[test]
    fn what_is_left_goes_down_with_the_items_and_a_run_counts_for_what_is_left_of_it() {
        let (flows, speeds, now) = (Flows::new(1, 1, 2), speeds(1, 100), Instant::now());
        let ask = |n: usize, now| flows.wait(Class::Interactive, &images(n), &speeds, now).map(|wait| wait.as_millis());
        assert_eq!(ask(1, now), None, "idle");
        let flow = flows.enter(Class::Interactive, &images(4), &speeds, now, |wait| wait.is_none()).expect("idle");
        assert!(flow.is_large);
        let mut shares: Vec<Share> = images(4).into_iter().map(|work| Share::new(Arc::clone(&flow), work)).collect();
        drop(flow);
        assert_eq!((ask(1, now), ask(2, now), ask(9, now)), (Some(100), Some(200), Some(400)));
        shares[0].running();
        shares[1].running();
        let run = flows.run(2, &speeds, now);
        assert_eq!(ask(9, now), Some(400), "two run, two wait");
        assert_eq!(ask(9, now + Duration::from_millis(150)), Some(250));
        assert_eq!(ask(9, now + Duration::from_secs(9)), Some(200), "longer than expected: any moment now");
        drop(run);
        drop(shares);
        assert_eq!(ask(9, now), None, "idle again");
    }

    #[test]
    fn runs_that_share_a_session_are_taken_for_what_they_are_alone_and_hold_others_for_what_they_are() {
        let (flows, speeds, now) = (Flows::new(1, 1, 2), speeds(1, 100), Instant::now());
        let (ms, at) = (Duration::from_millis, |ms| now + Duration::from_millis(ms));
        let ask = |now| flows.wait(Class::Interactive, &images(1), &speeds, now).map(|wait| wait.as_millis());
        let first = flows.run(2, &speeds, now);
        assert_eq!(ask(at(50)), Some(150));
        let second = flows.run(2, &speeds, at(100));
        assert_eq!(
            ask(at(150)),
            Some(250),
            "the first has 75 ms left, twice, and a run of one takes 100 ms more than alone"
        );
        assert_eq!((first.alone(at(200)), second.alone(at(200))), (ms(150), ms(50)));
        drop(first);
        assert_eq!(second.alone(at(300)), ms(150), "it has all threads again");
        let independent = Flows::new(1, 2, 2);
        let first = independent.run(2, &speeds, now);
        let second = independent.run(2, &speeds, now);
        assert_eq!((first.alone(at(100)), second.alone(at(100))), (ms(100), ms(100)), "each has its own threads");
    }

    #[test]
    fn the_slower_of_the_two_stages_decides() {
        let (flows, now) = (Flows::new(2, 1, 2), Instant::now());
        let slow_decoder = speeds(500, 100);
        let flow = flows.enter(Class::Interactive, &images(1), &slow_decoder, now, |_| true).expect("let in");
        let mut share = Share::new(flow, images(1)[0]);
        let ask = || flows.wait(Class::Interactive, &images(1), &slow_decoder, now).map(|wait| wait.as_millis());
        assert_eq!(ask(), Some(250), "half a second on two threads");
        share.decoded();
        assert_eq!(ask(), Some(100));
    }

    #[test]
    fn of_many_that_come_at_once_each_sees_those_before_it() {
        let (flows, speeds, now) = (Flows::new(1, 1, 2), speeds(1, 100), Instant::now());
        let most = Duration::from_millis(350);
        let enter = || {
            flows.enter(Class::Interactive, &images(1), &speeds, now, |wait| wait.is_none_or(|wait| wait <= most)).ok()
        };
        let inside: Vec<Share> = std::iter::from_fn(enter).map(|flow| Share::new(flow, images(1)[0])).collect();
        assert_eq!(inside.len(), 4, "behind 0, 100, 200 and 300 ms");
    }
}
