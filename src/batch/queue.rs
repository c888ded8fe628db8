//! A lane's waiting room: many handlers push, a few threads take.
//!
//! Owns closing, the weeding of dead jobs, and what is held back: large items from the last free thread, bulk runs beside interactive
//! ones. Does not decide what makes a batch ([`BatchPolicy`] does), whose turn it is (`turn`), or which runs there is room for (`floor`), and
//! does not bound itself: a job cannot exist without a permit, so the permits are the bound.
//!
//! Invariants: a taken job was alive when taken; after close nothing gets in, except what was taken before and comes back, and everything
//! inside still comes out; the lock is held for memory moves only, never across an encode, a decode or an await.

use std::{
    collections::BTreeMap,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::{
    Activity, BatchPolicy, Class, Decision, Job, JobError, LastRun, Speed, Waiting,
    class::SMALL_COME,
    floor::{Floor, Going, Room, Wake},
    second::SecondClass,
    turn::{Turn, Turns},
};
use crate::{
    encoder::{Interrupt, Role},
    telemetry::{LaneMetrics, QueueMetrics},
};

/// How much longer than a run of one small item a run may take that items of large requests join, while small requests come. A
/// client that asks for one thing at a time then waits for one such run, and for its own: within four times of what it takes alone.
const STRETCH: f64 = 1.5;

/// A run that short disturbs nobody, whatever it is a multiple of: about what a request takes besides it.
const SHORT_RUN: Duration = Duration::from_millis(2);

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

/// Which items a thread takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    /// All of them.
    All,
    /// Those that are not large: the one thread that is kept for them. There must be another one for the rest.
    Small,
}

/// Who takes a batch.
pub struct Taker {
    /// Whose session it has.
    pub role: Role,
    /// What ends its next run soon; `None` where nothing does.
    pub interrupt: Option<Interrupt>,
}

/// What was taken for one run.
#[derive(Debug)]
pub struct Batch<T> {
    /// At least one.
    pub jobs: Vec<Job<T>>,
    /// The turns of the jobs, by which they are put back.
    pub(super) turns: Vec<Turn>,
    /// The run's place among those of its model.
    pub(super) going: Going,
}

/// The waiting room of one stage.
#[derive(Debug)]
pub struct JobQueue<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
    /// For those who take only what is more than a run's work ([`Role::Beside`]).
    more: Condvar,
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
    /// Of the model.
    pub floor: Arc<Floor>,
    /// What a run takes of it; none where the stage is not one of runs.
    pub room: Room,
}

#[derive(Debug)]
struct State<T> {
    jobs: BTreeMap<Turn, Entry<T>>,
    turns: Turns,
    closed: bool,
    /// Threads that wait for any job at all, and would take it at once.
    idle: usize,
    /// Threads that wait for a run beside another one.
    idle_beside: usize,
    /// Whether what waits was left to one of those.
    is_left: bool,
    /// Whether a thread that takes small items alone waits for one.
    kept_idle: bool,
    /// When an item of a small request was last seen, and what it costs.
    small: Option<(Instant, usize)>,
    second: SecondClass,
}

/// The second class beside the first.
#[derive(Clone, Copy, Debug)]
struct Held {
    /// Where it begins among those that wait.
    first: usize,
    /// From when on a run of it is held up no longer.
    due: Instant,
}

#[derive(Debug)]
struct Entry<T> {
    job: Job<T>,
    cost: Cost,
}

impl<T> JobQueue<T> {
    /// An open, empty queue. `cost` is asked once of each input; `observed` are this stage's depth and wait, `metrics` those of the
    /// lane that counts how items end.
    pub fn new(cost: fn(&T) -> Cost, observed: QueueMetrics, metrics: LaneMetrics, pace: Pace) -> Self {
        let state = Mutex::new(State {
            jobs: BTreeMap::new(),
            turns: Turns::default(),
            closed: false,
            idle: 0,
            idle_beside: 0,
            is_left: false,
            kept_idle: false,
            small: None,
            second: SecondClass::default(),
        });
        Self { state, changed: Condvar::new(), more: Condvar::new(), cost, observed, metrics, pace }
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
            self.pace.floor.first_class_comes(self.pace.room);
            let now = Instant::now();
            self.pace.activity.seen(now);
            if !job.head.is_of_large() {
                self.pace.activity.seen_small(now);
                state.small = Some((now, cost.cost));
            }
        }
        let turn = state.turns.next(job.head.request(), class, cost.cost as u64);
        state.jobs.insert(turn, Entry { job, cost });
        self.observed.depth.set(state.jobs.len() as i64);
        let is_taken = state.idle > 0;
        drop(state);
        self.changed.notify_one();
        if !is_taken {
            self.more.notify_one();
        }
    }

    /// The work in a run of `inputs`: what is padded comes on top, and is in the measured time.
    pub(super) fn work(&self, inputs: &[T]) -> u64 {
        inputs.iter().map(|input| (self.cost)(input).cost as u64).sum()
    }

    /// Lets nothing more in; what is inside still comes out.
    pub fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
        self.more.notify_all();
    }

    /// Waits until `policy` finds a batch for `taker` after its `last` run; `None` once the queue is closed and empty, and for
    /// [`Role::Beside`] once it is closed and has no more than a run's work.
    ///
    /// Nobody is awaited for a fuller batch after `last` where another thread is idle: two runs side by side are done sooner.
    /// Jobs that died while they waited are answered (or dropped, when nobody waits) and never returned.
    pub fn take_batch(&self, policy: &BatchPolicy, taker: &Taker, last: Option<LastRun>) -> Option<Batch<T>> {
        let mut state = self.lock();
        if let Some(last) = last.filter(|last| last.class == Class::Bulk) {
            state.second.finished(last.ended, last.took, taker.interrupt.is_some());
        }
        loop {
            let now = Instant::now();
            self.weed(&mut state, now);
            let all: Vec<Waiting> = state.jobs.values().map(Entry::waiting).collect();
            let held = self.held(&state, &all, taker, now);
            // What is due goes first.
            let is_due = held.is_some_and(|held| held.due <= now);
            let first = held.filter(|_| is_due).map_or(0, |held| held.first);
            let waiting = &all[first..];
            let last = last.filter(|_| state.idle == 0);
            // The second class where the first is there, too.
            let is_second = waiting.first().is_some_and(|first| first.class == Class::Bulk)
                && !state.closed
                && self.pace.activity.is_interactive(now);
            let policy = self.adapt(*policy, &state, waiting.first(), taker, now);
            let can_be_beside = waiting.first().is_some_and(|first| policy.can_be_beside(first));
            let rest = state.second.rests(now).filter(|_| is_second && !is_due);
            let decision = match (taker.role, rest) {
                (Role::Beside, _) if state.idle > 0 || !can_be_beside => Decision::Idle,
                (Role::Beside, _) => policy.decide_beside(waiting, state.is_left),
                (_, Some(until)) => Decision::WaitUntil(until),
                _ => policy.decide(now, waiting, last, state.closed),
            };
            match decision {
                Decision::Take(indices) => {
                    let others = if can_be_beside { state.idle_beside } else { 0 };
                    let mine = policy.part(waiting, indices, others);
                    let due = held.filter(|_| is_second).map(|held| held.due);
                    let Some(going) = self.begin(taker, waiting[mine[0]].class, due, now) else {
                        state = self.wait_until(state, due.unwrap_or(now), now);
                        continue;
                    };
                    let mine: Vec<_> = mine.into_iter().map(|at| first + at).collect();
                    let (turns, jobs) = self.remove(&mut state, &mine, now);
                    let more = !state.jobs.is_empty();
                    state.is_left = more && others > 0;
                    drop(state);
                    if more {
                        // One push wakes one thread; what this one left behind may be another one's batch.
                        self.changed.notify_one();
                        self.more.notify_one();
                    }
                    return Some(Batch { jobs, turns, going });
                }
                Decision::Idle if state.closed => return None,
                Decision::Idle if taker.role == Role::Beside => {
                    state.idle_beside += 1;
                    state = self.more.wait(state).unwrap_or_else(PoisonError::into_inner);
                    state.idle_beside -= 1;
                }
                Decision::Idle => {
                    state.idle += 1;
                    state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                    state.idle -= 1;
                }
                Decision::WaitUntil(until) => {
                    let due = held.map(|held| held.due).filter(|due| *due > now);
                    let until = due.map_or(until, |due| due.min(until));
                    state = self.wait_until(state, until, now);
                }
            }
        }
    }

    fn wait_until<'a>(
        &'a self,
        state: MutexGuard<'a, State<T>>,
        until: Instant,
        now: Instant,
    ) -> MutexGuard<'a, State<T>> {
        let timeout = until.saturating_duration_since(now);
        self.changed.wait_timeout(state, timeout).unwrap_or_else(PoisonError::into_inner).0
    }

    /// What of the second class waits while the first is there, too; `None` for a taker whose runs cannot be ended, or that has no session of
    /// its own.
    fn held(&self, state: &State<T>, all: &[Waiting], taker: &Taker, now: Instant) -> Option<Held> {
        let can_be_held = taker.interrupt.is_some() && taker.role != Role::Beside && !state.closed;
        if !can_be_held || !self.pace.activity.is_interactive(now) {
            return None;
        }
        // They are behind all others.
        let first = all.iter().position(|item| item.class == Class::Bulk)?;
        let since = all[first..].iter().map(|item| item.since).min()?;
        let seconds = self.pace.speed.seconds(all[first].cost as u64);
        Some(Held { first, due: state.second.due(since, seconds) })
    }

    /// A run of `class` begins; `None` for one of the second that has no room and is not due.
    fn begin(&self, taker: &Taker, class: Class, due: Option<Instant>, now: Instant) -> Option<Going> {
        let Pace { floor, room, .. } = &self.pace;
        if class == Class::Interactive {
            return Some(floor.begin_first(*room));
        }
        let is_due = due.is_some_and(|due| due <= now);
        let interrupt = taker.interrupt.clone().filter(|_| !is_due);
        floor.begin_second(*room, interrupt, due.is_some() && !is_due)
    }

    /// Puts back, where their turns were, what was taken for a run that was ended for others. Whether the queue is closed,
    /// in which case the caller has to see to it that they are taken again.
    pub(super) fn put_back(&self, jobs: impl IntoIterator<Item = (Turn, Job<T>)>) -> bool {
        let mut state = self.lock();
        let mut work = 0;
        for (turn, mut job) in jobs {
            job.head.waits_again();
            state.turns.back(job.head.request());
            let cost = (self.cost)(&job.input);
            work += cost.cost as u64;
            state.jobs.insert(turn, Entry { job, cost });
        }
        state.second.ended(Instant::now(), self.pace.speed.seconds(work));
        self.observed.depth.set(state.jobs.len() as i64);
        state.closed
    }

    /// `policy` with runs as long as they may be, also beside those who ask for little.
    fn adapt(
        &self,
        policy: BatchPolicy,
        state: &State<T>,
        first: Option<&Waiting>,
        taker: &Taker,
        now: Instant,
    ) -> BatchPolicy {
        let Some(first) = first else { return policy };
        let speed = &self.pace.speed;
        let within = |seconds| usize::try_from(speed.work_within(seconds)).unwrap_or(usize::MAX).max(1);
        let short = self.pace.max_run.map_or(usize::MAX, |most| within(most.as_secs_f64()));
        let policy = BatchPolicy { max_batch_cost: policy.max_batch_cost.min(short), ..policy };
        let beside_interactive = first.class == Class::Bulk && self.pace.activity.is_interactive(now);
        let small = state.small.filter(|(seen, _)| now.saturating_duration_since(*seen) < SMALL_COME);
        let unit = match small {
            Some((_, cost)) => cost,
            None if beside_interactive => 1,
            None => return policy,
        };
        let shortest = (speed.seconds(unit as u64) * STRETCH).max(SHORT_RUN.as_secs_f64());
        if !beside_interactive {
            return BatchPolicy { large_cost: Some(within(shortest)), ..policy };
        }
        // Of a bulk run everything is large.
        let longest = if taker.interrupt.is_some() { state.second.longest(shortest) } else { shortest };
        let large_cost = within(longest);
        let max_batch_cost = policy.max_batch_cost.min(large_cost);
        BatchPolicy { max_batch_cost, large_cost: Some(large_cost), ..policy }
    }

    /// Waits for the live job whose turn it is and that the thread [`Takes`]; `None` once the queue is closed and empty. While small
    /// requests come, all of a large one are large.
    pub fn take(&self, takes: Takes) -> Option<Job<T>> {
        let mut state = self.lock();
        loop {
            let now = Instant::now();
            self.weed(&mut state, now);
            // Beside small requests, of texts too, what large ones have leaves a thread, and its core, free as large items do.
            let small_come = self.pace.activity.small_come(now);
            let is_large = |entry: &Entry<T>| entry.cost.is_large || (small_come && entry.job.head.is_of_large());
            // The kept thread has the higher priority, so what it could take at once is left to it.
            let mine = |entry: &Entry<T>| match takes {
                Takes::All => is_large(entry) || !state.kept_idle,
                Takes::Small => !is_large(entry),
            };
            let next = state.jobs.values().position(mine);
            if let Some(index) = next {
                let job = self.remove(&mut state, &[index], now).1.pop();
                let (more, closed) = (!state.jobs.is_empty(), state.closed);
                drop(state);
                if closed {
                    // Those for whom this was the last.
                    self.changed.notify_all();
                } else if more {
                    self.changed.notify_one();
                }
                return job;
            }
            if state.closed && state.jobs.is_empty() {
                return None;
            }
            if !state.jobs.is_empty() {
                // One push wakes one thread; what is there is for another one.
                self.changed.notify_one();
            }
            state.kept_idle |= takes == Takes::Small;
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.kept_idle &= takes != Takes::Small;
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
        state.is_left &= !state.jobs.is_empty();
        self.observed.depth.set(state.jobs.len() as i64);
    }

    /// Takes the jobs at these places out, in the order of turns.
    fn remove(&self, state: &mut State<T>, ascending: &[usize], now: Instant) -> (Vec<Turn>, Vec<Job<T>>) {
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
        (chosen, batch)
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        // No code that can panic runs under the lock, and a poisoned queue would hang every client.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Send> Wake for JobQueue<T> {
    fn wake(&self) {
        // Who has looked and not begun to wait yet has the lock.
        drop(self.lock());
        self.changed.notify_all();
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

#[cfg(test)]
mod tests;
