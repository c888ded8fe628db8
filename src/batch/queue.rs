//! A lane's waiting room: many handlers push, a few threads take.
//!
//! Owns order, closing, and the weeding of dead jobs. Does not decide what makes a batch ([`BatchPolicy`] does) and does not
//! bound itself: a job cannot exist without a permit, so the permits are the bound.
//!
//! Invariants: a taken job was alive when taken; after close nothing gets in and everything inside still comes out; the lock
//! is held for memory moves only, never across an encode, a decode or an await.

use std::{
    collections::VecDeque,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use super::{BatchPolicy, Decision, Job, JobError, Waiting};
use crate::telemetry::{LaneMetrics, QueueMetrics};

/// The waiting room of one stage.
#[derive(Debug)]
pub struct JobQueue<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
    cost: fn(&T) -> usize,
    observed: QueueMetrics,
    metrics: LaneMetrics,
}

#[derive(Debug)]
struct State<T> {
    jobs: VecDeque<Job<T>>,
    closed: bool,
}

impl<T> JobQueue<T> {
    /// An open, empty queue. `cost` is what [`BatchPolicy`] counts of an input; `observed` are this
    /// stage's depth and wait, `metrics` those of the lane that counts how items end.
    pub fn new(cost: fn(&T) -> usize, observed: QueueMetrics, metrics: LaneMetrics) -> Self {
        let state = Mutex::new(State { jobs: VecDeque::new(), closed: false });
        Self { state, changed: Condvar::new(), cost, observed, metrics }
    }

    /// Puts `job` last; a closed queue answers it [`JobError::Closed`] instead.
    pub fn push(&self, job: Job<T>) {
        let mut state = self.lock();
        if state.closed {
            drop(state);
            job.head.fail(JobError::Closed);
            return;
        }
        state.jobs.push_back(job);
        self.observed.depth.set(state.jobs.len() as i64);
        drop(state);
        self.changed.notify_one();
    }

    /// Lets nothing more in; what is inside still comes out.
    pub fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    /// Waits until `policy` finds a batch; `None` once the queue is closed and empty.
    ///
    /// Jobs that died while they waited are answered (or dropped, when nobody waits) and never returned.
    pub fn take_batch(&self, policy: &BatchPolicy) -> Option<Vec<Job<T>>> {
        let mut state = self.lock();
        loop {
            let now = Instant::now();
            self.weed(&mut state, now);
            let waiting: Vec<Waiting> = state
                .jobs
                .iter()
                .map(|Job { input, head }| Waiting {
                    cost: (self.cost)(input),
                    since: head.waiting_since(),
                    outputs: head.outputs(),
                })
                .collect();
            match policy.decide(now, &waiting, state.closed) {
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
                    state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
                Decision::WaitUntil(until) => {
                    let timeout = until.saturating_duration_since(now);
                    state = self.changed.wait_timeout(state, timeout).unwrap_or_else(PoisonError::into_inner).0;
                }
            }
        }
    }

    /// Waits for the oldest live job; `None` once the queue is closed and empty.
    pub fn take(&self) -> Option<Job<T>> {
        self.take_batch(&BatchPolicy::single())?.pop()
    }

    fn weed(&self, state: &mut State<T>, now: Instant) {
        if state.jobs.iter().all(|job| job.head.dead(now).is_none()) {
            return;
        }
        state.jobs = std::mem::take(&mut state.jobs)
            .into_iter()
            .filter_map(|Job { input, head }| Some(Job { input, head: head.if_alive(now, &self.metrics)? }))
            .collect();
        self.observed.depth.set(state.jobs.len() as i64);
    }

    fn remove(&self, state: &mut State<T>, ascending: &[usize], now: Instant) -> Vec<Job<T>> {
        let mut batch: Vec<Job<T>> = if ascending.last() == Some(&(ascending.len().wrapping_sub(1))) {
            state.jobs.drain(..ascending.len()).collect()
        } else {
            // In one pass: to close each gap by itself would move a long queue once for every item.
            let mut wanted = ascending.iter().copied().peekable();
            let jobs = std::mem::take(&mut state.jobs).into_iter().enumerate();
            let mut taken = Vec::with_capacity(ascending.len());
            for (i, job) in jobs {
                if wanted.next_if_eq(&i).is_some() {
                    taken.push(job);
                } else {
                    state.jobs.push_back(job);
                }
            }
            taken
        };
        for job in &mut batch {
            self.observed.wait.observe(job.head.leave_queue(now).as_secs_f64());
        }
        self.observed.depth.set(state.jobs.len() as i64);
        batch
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        // No code that can panic runs under the lock, and a poisoned queue would hang every client.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
