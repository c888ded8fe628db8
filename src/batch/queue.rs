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

use super::{BatchPolicy, Decision, Job, JobError, LastRun, Waiting};
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
    /// Threads that wait for any job at all, and would take it at once.
    idle: usize,
}

impl<T> JobQueue<T> {
    /// An open, empty queue. `cost` is what [`BatchPolicy`] counts of an input; `observed` are this
    /// stage's depth and wait, `metrics` those of the lane that counts how items end.
    pub fn new(cost: fn(&T) -> usize, observed: QueueMetrics, metrics: LaneMetrics) -> Self {
        let state = Mutex::new(State { jobs: VecDeque::new(), closed: false, idle: 0 });
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

    /// Waits until `policy` finds a batch after the caller's `last` run; `None` once the queue is closed and empty.
    ///
    /// Nobody is awaited for a fuller batch after `last` where another thread is idle: two runs side by side are done sooner.
    /// Jobs that died while they waited are answered (or dropped, when nobody waits) and never returned.
    pub fn take_batch(&self, policy: &BatchPolicy, last: Option<LastRun>) -> Option<Vec<Job<T>>> {
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
            let last = last.filter(|_| state.idle == 0);
            match policy.decide(now, &waiting, last, state.closed) {
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

    /// Waits for the oldest live job; `None` once the queue is closed and empty.
    pub fn take(&self) -> Option<Job<T>> {
        self.take_batch(&BatchPolicy::single(), None)?.pop()
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

#[cfg(test)]
mod unit {
    use std::{sync::mpsc, time::Duration};

    use super::*;
    use crate::{batch::Admission, telemetry::Metrics};

    /// How many jobs a session takes that has just answered two, when one of them comes back before it looks, and one after.
    fn taken(idle: usize) -> usize {
        let lane = Metrics::new().vision.clone();
        let cost = |looked: &mpsc::Sender<()>| {
            let _ = looked.send(());
            1
        };
        let queue = JobQueue::new(cost, lane.queue.clone(), lane);
        queue.lock().idle = idle;
        let admission = Admission::new(2);
        let long = Duration::from_secs(3600);
        let job = |looked| {
            let permit = admission.try_admit(1).expect("room").pop().expect("one");
            Job::new(looked, permit, Instant::now() + long)
        };
        let (looked, looks) = mpsc::channel();
        let ((first, _first), (second, _second)) = (job(looked.clone()), job(looked));
        queue.push(first);
        std::thread::scope(|scope| {
            let queue = &queue;
            scope.spawn(move || {
                looks.recv().expect("the session looks");
                queue.push(second);
            });
            let policy = BatchPolicy { max_batch_size: 8, ..BatchPolicy::single() };
            let last = LastRun { items: 2, ended: Instant::now(), took: long };
            queue.take_batch(&policy, Some(last)).expect("open").len()
        })
    }

    #[test]
    fn a_session_takes_those_that_it_answered_together_again() {
        assert_eq!(taken(0), 2);
    }

    #[test]
    fn nobody_is_awaited_beside_an_idle_session() {
        assert_eq!(taken(1), 1);
    }
}
