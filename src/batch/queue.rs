//! A lane's waiting room: many handlers push, a few threads take.
//!
//! Owns closing, the weeding of dead jobs, and what is held back: large items from the last free thread, bulk runs beside interactive
//! ones. Does not decide what makes a batch ([`BatchPolicy`] does) or whose turn it is (`turn`), and does not bound itself: a job
//! cannot exist without a permit, so the permits are the bound.
//!
//! Invariants: a taken job was alive when taken; after close nothing gets in and everything inside still comes out; the lock
//! is held for memory moves only, never across an encode, a decode or an await.

use std::{
    collections::BTreeMap,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::{
    Activity, BatchPolicy, Class, Decision, Job, JobError, LastRun, Speed, Waiting,
    turn::{Turn, Turns},
};
use crate::telemetry::{LaneMetrics, QueueMetrics};

/// How much longer than a run of one small item a run may take that items of large requests join, while small requests come. A
/// client that asks for one thing at a time then waits for one such run, and for its own: within four times of what it takes alone.
const STRETCH: f64 = 1.5;

/// A run that short disturbs nobody, whatever it is a multiple of: about what a request takes besides it.
const SHORT_RUN: Duration = Duration::from_millis(5);

/// Beside interactive work, a bulk run is followed by a rest of so many times what it took: one of sixteen arrivals then meets
/// one at most, so that the first class hardly notices the second (`docs/reliability.md`).
const REST: f64 = 15.0;

/// What the queue knows of an item besides what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    /// What [`BatchPolicy`] and the turns count.
    pub cost: usize,
    /// Whether a thread is kept for smaller ones.
    pub is_large: bool,
}

impl Cost {
    /// Of an item that is like others.
    pub fn of(cost: usize) -> Self {
        Self { cost, is_large: false }
    }
}

/// The waiting room of one stage.
#[derive(Debug)]
pub struct JobQueue<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
    cost: fn(&T) -> Cost,
    observed: QueueMetrics,
    metrics: LaneMetrics,
    /// How fast its items are worked on, and whether anybody waits for them.
    pace: Pace,
}

/// What a queue shares with the lane it is of.
#[derive(Clone, Debug, Default)]
pub struct Pace {
    /// Of the runs.
    pub speed: Arc<Speed>,
    /// Of the model.
    pub activity: Arc<Activity>,
    /// How long a run may take, if it has more than one item: what comes while it goes on waits for its end, and then for another.
    pub max_run: Option<Duration>,
}

#[derive(Debug)]
struct State<T> {
    jobs: BTreeMap<Turn, Entry<T>>,
    turns: Turns,
    closed: bool,
    /// Threads that wait for any job at all, and would take it at once.
    idle: usize,
    /// Large items that are being worked on.
    large: usize,
    /// When an item of a small request was last seen, and what it costs.
    small: Option<(Instant, usize)>,
    /// Until when no bulk run begins.
    rest: Option<Instant>,
}

#[derive(Debug)]
struct Entry<T> {
    job: Job<T>,
    cost: Cost,
}

/// For how long small requests count as coming after the last of them.
const SMALL_COME: Duration = Duration::from_secs(10);

impl<T> JobQueue<T> {
    /// An open, empty queue. `cost` is asked once of each input; `observed` are this stage's depth and wait, `metrics` those of the
    /// lane that counts how items end.
    pub fn new(cost: fn(&T) -> Cost, observed: QueueMetrics, metrics: LaneMetrics, pace: Pace) -> Self {
        let state = Mutex::new(State {
            jobs: BTreeMap::new(),
            turns: Turns::default(),
            closed: false,
            idle: 0,
            large: 0,
            small: None,
            rest: None,
        });
        Self { state, changed: Condvar::new(), cost, observed, metrics, pace }
    }

    /// Puts `job` where its turn is; a closed queue answers it [`JobError::Closed`] instead.
    pub fn push(&self, job: Job<T>) {
        let cost = (self.cost)(&job.input);
        let mut state = self.lock();
        if state.closed {
            drop(state);
            job.head.fail(JobError::Closed);
            return;
        }
        let class = job.head.class();
        if class == Class::Interactive {
            let now = Instant::now();
            self.pace.activity.seen(now);
            if !job.head.is_of_large() {
                state.small = Some((now, cost.cost));
            }
        }
        let turn = state.turns.next(job.head.request(), class, cost.cost as u64);
        state.jobs.insert(turn, Entry { job, cost });
        self.observed.depth.set(state.jobs.len() as i64);
        drop(state);
        self.changed.notify_one();
    }

    /// The work in a run of `inputs`: what is padded comes on top, and is in the measured time.
    pub(super) fn work(&self, inputs: &[T]) -> u64 {
        inputs.iter().map(|input| (self.cost)(input).cost as u64).sum()
    }

    /// Lets nothing more in; what is inside still comes out.
    pub fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    /// Waits until `policy` finds a batch after the caller's `last` run; `None` once the queue is closed and empty.
    ///
    /// Nobody is awaited for a fuller batch after `last` where another thread is idle: two runs side by side are done sooner.
    /// Jobs that died while they waited are answered (or dropped, when nobody waits) and never returned.
    pub fn take_batch(&self, policy: &BatchPolicy, last: Option<LastRun>) -> Option<Vec<Job<T>>> {
        let mut state = self.lock();
        if let Some(last) = last.filter(|last| last.class == Class::Bulk) {
            state.rest = Some(last.ended + last.took.mul_f64(REST));
        }
        loop {
            let now = Instant::now();
            self.weed(&mut state, now);
            let waiting: Vec<Waiting> = state.jobs.values().map(Entry::waiting).collect();
            let last = last.filter(|_| state.idle == 0);
            let (policy, rest) = self.adapt(*policy, &state, waiting.first(), now);
            let decision = match rest {
                Some(until) if !state.closed => Decision::WaitUntil(until),
                _ => policy.decide(now, &waiting, last, state.closed),
            };
            match decision {
                Decision::Take(indices) => {
                    let batch = self.remove(&mut state, &indices, now);
                    let more = !state.jobs.is_empty();
                    drop(state);
                    if more {
                        // One push wakes one thread; what this one left behind may be another one's batch.
                        self.changed.notify_one();
                    }
                    return Some(batch);
                }
                Decision::Idle if state.closed => return None,
                Decision::Idle => {
                    state.idle += 1;
                    state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                    state.idle -= 1;
                }
                Decision::WaitUntil(until) => {
                    let timeout = until.saturating_duration_since(now);
                    state = self.changed.wait_timeout(state, timeout).unwrap_or_else(PoisonError::into_inner).0;
                }
            }
        }
    }

    /// `policy` with runs as long as they may be, also beside those who ask for little, and until when the `first` in turn has to rest.
    fn adapt(
        &self,
        policy: BatchPolicy,
        state: &State<T>,
        first: Option<&Waiting>,
        now: Instant,
    ) -> (BatchPolicy, Option<Instant>) {
        let Some(first) = first else { return (policy, None) };
        let speed = &self.pace.speed;
        let within = |seconds| usize::try_from(speed.work_within(seconds)).unwrap_or(usize::MAX).max(1);
        let short = self.pace.max_run.map_or(usize::MAX, |most| within(most.as_secs_f64()));
        let policy = BatchPolicy { max_batch_cost: policy.max_batch_cost.min(short), ..policy };
        let beside_interactive = first.class == Class::Bulk && self.pace.activity.is_interactive(now);
        let small = state.small.filter(|(seen, _)| now.saturating_duration_since(*seen) < SMALL_COME);
        let unit = match small {
            Some((_, cost)) => cost,
            None if beside_interactive => 1,
            None => return (policy, None),
        };
        let large_cost = within((speed.seconds(unit as u64) * STRETCH).max(SHORT_RUN.as_secs_f64()));
        let policy = BatchPolicy { large_cost: Some(large_cost), ..policy };
        if !beside_interactive {
            return (policy, None);
        }
        // Of a bulk run everything is large.
        let max_batch_cost = policy.max_batch_cost.min(large_cost);
        (BatchPolicy { max_batch_cost, ..policy }, state.rest.filter(|until| *until > now))
    }

    /// Waits for the live job whose turn it is; `None` once the queue is closed and empty. While `most_large` large ones are being
    /// worked on (until their guards are dropped) only others are taken; while small requests come, all of a large one are large.
    pub fn take(&self, most_large: usize) -> Option<(Job<T>, Option<LargeGuard<'_, T>>)> {
        let mut state = self.lock();
        loop {
            let now = Instant::now();
            self.weed(&mut state, now);
            let large_too = state.large < most_large;
            // Beside small requests, what large ones have leaves a thread, and its core, free as large items do.
            let small_come = state.small.is_some_and(|(seen, _)| now.saturating_duration_since(seen) < SMALL_COME);
            let is_large = |entry: &Entry<T>| entry.cost.is_large || (small_come && entry.job.head.is_of_large());
            let next = state.jobs.values().position(|entry| large_too || !is_large(entry));
            if let Some(index) = next {
                let is_large = state.jobs.values().nth(index).is_some_and(is_large);
                state.large += usize::from(is_large);
                let job = self.remove(&mut state, &[index], now).pop();
                let (more, closed) = (!state.jobs.is_empty(), state.closed);
                drop(state);
                if closed {
                    // Those who wait for a large one's end, and those for whom this was the last.
                    self.changed.notify_all();
                } else if more {
                    self.changed.notify_one();
                }
                return job.map(|job| (job, is_large.then(|| LargeGuard(self))));
            }
            if state.closed && state.jobs.is_empty() {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn weed(&self, state: &mut State<T>, now: Instant) {
        if state.jobs.values().all(|entry| entry.job.head.dead(now).is_none()) {
            return;
        }
        let State { jobs, turns, .. } = state;
        let dead: Vec<Turn> =
            jobs.iter().filter(|(_, entry)| entry.job.head.dead(now).is_some()).map(|(turn, _)| *turn).collect();
        for turn in dead {
            if let Some(Entry { job: Job { head, .. }, .. }) = jobs.remove(&turn) {
                turns.left(head.request());
                // It is dead, so there is nothing to go on with.
                let _ = head.if_alive(now, &self.metrics);
            }
        }
        self.observed.depth.set(state.jobs.len() as i64);
    }

    /// Takes the jobs at these places out, in the order of turns.
    fn remove(&self, state: &mut State<T>, ascending: &[usize], now: Instant) -> Vec<Job<T>> {
        let State { jobs, turns, .. } = state;
        let mut wanted = ascending.iter().copied().peekable();
        let chosen: Vec<Turn> = jobs
            .keys()
            .enumerate()
            .take(ascending.last().map_or(0, |last| last + 1))
            .filter_map(|(i, turn)| wanted.next_if_eq(&i).map(|_| *turn))
            .collect();
        if let Some(first) = chosen.first() {
            turns.reached(*first);
        }
        let mut batch: Vec<Job<T>> =
            chosen.iter().filter_map(|turn| jobs.remove(turn)).map(|entry| entry.job).collect();
        for job in &mut batch {
            turns.left(job.head.request());
            self.observed.wait.observe(job.head.leave_queue(now).as_secs_f64());
        }
        self.observed.depth.set(jobs.len() as i64);
        batch
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        // No code that can panic runs under the lock, and a poisoned queue would hang every client.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Entry<T> {
    fn waiting(&self) -> Waiting {
        let Self { job: Job { head, .. }, cost } = self;
        Waiting {
            cost: cost.cost,
            since: head.waiting_since(),
            class: head.class(),
            is_of_large: head.is_of_large(),
            outputs: head.outputs(),
        }
    }
}

/// A large item is being worked on, until this is dropped.
#[derive(Debug)]
pub struct LargeGuard<'a, T>(&'a JobQueue<T>);

impl<T> Drop for LargeGuard<'_, T> {
    fn drop(&mut self) {
        self.0.lock().large -= 1;
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod unit {
    use super::*;
    use crate::{
        batch::{Admission, Terms, Ticket, Work},
        telemetry::Metrics,
    };

    const LONG: Duration = Duration::from_secs(3600);

    fn queue(pace: Pace) -> JobQueue<u32> {
        let lane = Metrics::new().vision.clone();
        let cost = |&cost: &u32| Cost { cost: cost as usize, is_large: cost > 100 };
        JobQueue::new(cost, lane.queue.clone(), lane, pace)
    }

    /// Jobs of one request, and their tickets.
    fn request(admission: &Admission, class: Class, costs: &[u32]) -> Vec<(Job<u32>, Ticket)> {
        let works: Vec<Work> = costs.iter().map(|&cost| Work { decode: 0, encode: cost.into() }).collect();
        let terms = Terms { class, ..Terms::patient(Instant::now() + LONG) };
        let permits = admission.try_admit(&works, &terms).expect("room");
        costs.iter().zip(permits).map(|(&cost, permit)| Job::new(cost, permit, Instant::now() + LONG)).collect()
    }

    /// Pushes the jobs of a request; the tickets keep them alive.
    fn push(queue: &JobQueue<u32>, admission: &Admission, class: Class, costs: &[u32]) -> Vec<Ticket> {
        let push = |(job, ticket)| {
            queue.push(job);
            ticket
        };
        request(admission, class, costs).into_iter().map(push).collect()
    }

    fn costs(batch: Option<Vec<Job<u32>>>) -> Vec<u32> {
        batch.expect("open").iter().map(|job| job.input).collect()
    }

    /// How many jobs a session takes that has just answered two, when one of them is there; another comes if `returns`.
    fn taken(idle: usize, returns: bool) -> usize {
        let (queue, admission) = (queue(Pace::default()), Admission::of(2));
        queue.lock().idle = idle;
        let _first = push(&queue, &admission, Class::Interactive, &[1]);
        std::thread::scope(|scope| {
            let (queue, admission) = (&queue, &admission);
            let second = returns.then(|| scope.spawn(move || push(queue, admission, Class::Interactive, &[1])));
            let policy = BatchPolicy { max_batch_size: 8, ..BatchPolicy::single() };
            let last = LastRun { items: 2, ended: Instant::now(), took: LONG, class: Class::Interactive };
            let taken = queue.take_batch(&policy, Some(last)).expect("open").len();
            drop(second.map(|second| second.join()));
            taken
        })
    }

    #[test]
    fn a_session_takes_those_that_it_answered_together_again() {
        assert_eq!(taken(0, true), 2);
    }

    #[test]
    fn nobody_is_awaited_beside_an_idle_session() {
        assert_eq!(taken(1, false), 1);
    }

    #[test]
    fn a_lone_item_goes_before_the_rest_of_a_large_request_and_bulk_after_all() {
        let (queue, admission) = (queue(Pace::default()), Admission::of(99));
        let _bulk = push(&queue, &admission, Class::Bulk, &[7]);
        let _large = push(&queue, &admission, Class::Interactive, &[1; 4]);
        let _lone = push(&queue, &admission, Class::Interactive, &[2]);
        let order: Vec<u32> = (0..6).filter_map(|_| queue.take(1).map(|(job, _)| job.input)).collect();
        assert_eq!(order, [1, 2, 1, 1, 1, 7]);
    }

    #[test]
    fn a_thread_is_kept_for_smaller_items_while_large_ones_are_worked_on() {
        let (queue, admission) = (queue(Pace::default()), Admission::of(99));
        let _large = push(&queue, &admission, Class::Interactive, &[101, 102]);
        let _small = push(&queue, &admission, Class::Interactive, &[1]);
        let (first, large) = queue.take(1).expect("open");
        let (second, small) = queue.take(1).expect("open");
        assert_eq!((first.input, second.input), (101, 1), "not the other large one");
        assert!(small.is_none());
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| queue.take(1).map(|(job, _)| job.input));
            drop(large);
            assert_eq!(waits.join().expect("no panic"), Some(102));
        });
    }

    #[test]
    fn a_closed_queue_lets_every_thread_go_though_large_items_were_held_back() {
        let (queue, admission) = (queue(Pace::default()), Admission::of(99));
        let _large = push(&queue, &admission, Class::Interactive, &[101, 102, 103]);
        let drain = || std::iter::from_fn(|| queue.take(1).map(|(job, _large)| job.input)).count();
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..3).map(|_| scope.spawn(drain)).collect();
            queue.close();
            let taken: usize = threads.into_iter().map(|thread| thread.join().expect("no panic")).sum();
            assert_eq!(taken, 3);
        });
    }

    /// A lane on which one item takes 50 ms and eight take 400.
    fn pace() -> Pace {
        let pace = Pace::default();
        pace.speed.observe(8, Duration::from_millis(400));
        pace.speed.observe(1, Duration::from_millis(50));
        pace
    }

    const EIGHT: BatchPolicy = BatchPolicy {
        max_batch_size: 8,
        max_batch_cost: usize::MAX,
        max_queue_delay: Duration::ZERO,
        pads: true,
        large_cost: None,
    };

    #[test]
    fn runs_of_large_requests_are_short_while_small_ones_come() {
        let (queue, admission) = (queue(pace()), Admission::of(99));
        let large = || {
            let batch = queue.take_batch(&EIGHT, None).expect("open");
            batch.iter().map(|job| job.head.is_of_large()).collect::<Vec<_>>()
        };
        let _large = push(&queue, &admission, Class::Interactive, &[1; 16]);
        assert_eq!(large(), [true; 8], "nobody else is there");
        let _small = push(&queue, &admission, Class::Interactive, &[1]);
        assert_eq!(large(), [false], "its turn, and nothing that would make the run longer");
        assert_eq!(large(), [true], "another small one may come any moment");
    }

    #[test]
    fn a_run_takes_no_longer_than_it_may() {
        let short = Pace { max_run: Some(Duration::from_millis(210)), ..pace() };
        let (queue, admission) = (queue(short), Admission::of(99));
        let _large = push(&queue, &admission, Class::Interactive, &[1; 16]);
        assert_eq!(costs(queue.take_batch(&EIGHT, None)), [1; 4], "eight would take 400 ms");
        let _alone = push(&queue, &admission, Class::Interactive, &[99]);
        assert_eq!(costs(queue.take_batch(&EIGHT, None)), [99], "one item is always run");
    }

    #[test]
    fn bulk_runs_rest_beside_interactive_work_and_at_no_other_time() {
        let (queue, admission) = (queue(pace()), Admission::of(99));
        let _bulk = push(&queue, &admission, Class::Bulk, &[1; 16]);
        let bulk_run = LastRun { items: 8, ended: Instant::now(), took: LONG, class: Class::Bulk };
        assert_eq!(costs(queue.take_batch(&EIGHT, None)), [1; 8]);
        assert_eq!(costs(queue.take_batch(&EIGHT, Some(bulk_run))), [1; 8], "nobody else has been seen");
        let _bulk = push(&queue, &admission, Class::Bulk, &[1; 3]);
        let _interactive = push(&queue, &admission, Class::Interactive, &[5]);
        assert_eq!(costs(queue.take_batch(&EIGHT, Some(bulk_run))), [5], "it does not rest");
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| queue.take_batch(&EIGHT, None));
            queue.close();
            assert_eq!(
                costs(waits.join().expect("no panic")),
                [1],
                "a closed queue does not rest, and the run is short"
            );
        });
    }
}
