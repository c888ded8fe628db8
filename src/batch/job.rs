//! One item on its way: what is to be done, who waits for it, until when, and the permit it holds.
//!
//! Owns [`Job`], its [`JobHead`], and the [`Ticket`] by which the request waits. Does not own queues or threads.
//!
//! Invariants: a head is answered by value, so at most once; dropped unanswered, its ticket yields [`JobError::Lost`];
//! the permit leaves with the head.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use tokio::sync::oneshot;
use tracing::Span;

use super::{Class, Permit};
use crate::{
    encoder::{InputError, OutputSet, TowerOutputs},
    telemetry::{LaneMetrics, Outcome, RunItem},
};

/// What an item's request gets.
#[derive(Debug)]
pub struct Answer {
    /// What the encoder made of it.
    pub encoded: Encoded,
    /// Where the time went.
    pub timings: Timings,
}

/// What an encoder made of one item.
#[derive(Debug)]
pub enum Encoded {
    /// `dim` values, as the projection gives them (not normalised).
    Embedding(Vec<f32>),
    /// What [`Job::asking`] asked for.
    Outputs(TowerOutputs),
}

/// Where an item's time went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timings {
    /// Decode, resize and crop (images), tokenize (texts).
    pub preprocess: Duration,
    /// Waiting, for a preprocess thread and for a session.
    pub queue: Duration,
    /// The run of the batch it was in.
    pub inference: Duration,
}

impl Timings {
    /// The longer of each stage: what a request with several items reports.
    pub fn max(self, other: Self) -> Self {
        Self {
            preprocess: self.preprocess.max(other.preprocess),
            queue: self.queue.max(other.queue),
            inference: self.inference.max(other.inference),
        }
    }
}

/// Why an item has no embedding.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JobError {
    /// The input itself cannot be encoded; the text is for the client.
    #[error(transparent)]
    Input(#[from] InputError),
    /// Its deadline passed before its turn came.
    #[error("the deadline passed while the item waited")]
    Expired,
    /// The lane was closed before the item got in.
    #[error("the lane is closed")]
    Closed,
    /// The batch it was in failed; the text is for the log.
    #[error("{0}")]
    Encoder(String),
    /// The model answered NaN or infinity for this item.
    #[error("the model's output for this item is not finite")]
    OutputInvalid,
    /// There was no memory to prepare it with: a later try, or a smaller input, may succeed.
    #[error("there was no memory for the item")]
    OutOfMemory,
    /// The job was dropped unanswered: a fault of ours.
    #[error("the job was lost")]
    Lost,
}

/// An input and everything that travels with it.
#[derive(Debug)]
pub struct Job<T> {
    /// What is to be encoded (or decoded first).
    pub input: T,
    /// Who waits, until when, with which permit.
    pub head: JobHead,
}

impl<T> Job<T> {
    /// A job and the ticket for its answer.
    pub fn new(input: T, permit: Permit, deadline: Instant) -> (Self, Ticket) {
        let (reply, answer) = oneshot::channel();
        let head = JobHead {
            reply,
            deadline,
            span: Span::current(),
            outputs: OutputSet::EMPTY,
            timings: Timings::default(),
            waiting_since: Instant::now(),
            waited_before: Duration::ZERO,
            permit,
        };
        (Self { input, head }, Ticket(answer))
    }

    /// Asks for `outputs` besides the embedding.
    pub fn asking(mut self, outputs: OutputSet) -> Self {
        self.head.outputs = outputs;
        self
    }
}

/// A [`Job`] without its input.
#[derive(Debug)]
pub struct JobHead {
    reply: oneshot::Sender<Result<Answer, JobError>>,
    deadline: Instant,
    span: Span,
    outputs: OutputSet,
    timings: Timings,
    waiting_since: Instant,
    /// Elsewhere, before it waited where it waits now.
    waited_before: Duration,
    permit: Permit,
}

/// Why a job needs no more work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dead {
    /// Nobody waits for it.
    Cancelled,
    /// Its deadline has passed.
    Expired,
}

impl JobHead {
    /// The request's span, for logs about this job.
    pub fn span(&self) -> &Span {
        &self.span
    }

    /// What is wanted besides the embedding.
    pub fn outputs(&self) -> OutputSet {
        self.outputs
    }

    /// When the job began to wait where it waits now.
    pub fn waiting_since(&self) -> Instant {
        self.waiting_since
    }

    /// Of which request it is, for turns: a number of its own in the lane.
    pub(super) fn request(&self) -> u64 {
        self.permit.flow().id
    }

    /// Who goes first.
    pub(super) fn class(&self) -> Class {
        self.permit.flow().class
    }

    /// Whether its request has more work than a few items have.
    pub(super) fn is_of_large(&self) -> bool {
        self.permit.flow().is_large
    }

    /// What the span of its run is told.
    pub(super) fn in_run(&self) -> RunItem {
        RunItem { trace: self.permit.trace(), waited: self.timings.queue }
    }

    /// It is in a run.
    pub(super) fn running(&mut self) {
        self.permit.running();
    }

    /// The run that it was taken for was ended before it had an answer: it waits as if it had not been taken.
    pub(super) fn waits_again(&mut self) {
        self.permit.waits_again();
        self.timings.queue = self.waited_before;
    }

    pub(super) fn dead(&self, now: Instant) -> Option<Dead> {
        if self.reply.is_closed() {
            Some(Dead::Cancelled)
        } else if self.deadline <= now {
            Some(Dead::Expired)
        } else {
            None
        }
    }

    /// Whether somebody waits and there is time.
    pub fn is_alive(&self, now: Instant) -> bool {
        self.dead(now).is_none()
    }

    /// Gives the head back while somebody waits and there is time, else answers it and counts how it ended.
    pub fn if_alive(self, now: Instant, metrics: &LaneMetrics) -> Option<Self> {
        match self.dead(now) {
            None => return Some(self),
            Some(Dead::Cancelled) => metrics.items(Outcome::Cancelled).inc(),
            Some(Dead::Expired) => {
                metrics.items(Outcome::Expired).inc();
                self.answer(Err(JobError::Expired));
            }
        }
        None
    }

    /// The job leaves a queue: what it waited there counts as queue time, and is returned.
    pub(super) fn leave_queue(&mut self, now: Instant) -> Duration {
        let waited = now.saturating_duration_since(self.waiting_since);
        self.waited_before = self.timings.queue;
        self.timings.queue += waited;
        waited
    }

    /// The job was preprocessed for `took` and waits again from now on.
    pub fn preprocessed(&mut self, took: Duration) {
        self.permit.decoded();
        self.timings.preprocess += took;
        self.waiting_since = Instant::now();
    }

    /// Answers with what took `inference` to compute.
    pub(super) fn complete(mut self, encoded: Encoded, inference: Duration) {
        self.timings.inference = inference;
        let timings = self.timings;
        self.answer(Ok(Answer { encoded, timings }));
    }

    /// Answers with an error.
    pub fn fail(self, error: JobError) {
        self.answer(Err(error));
    }

    fn answer(self, result: Result<Answer, JobError>) {
        // The permit must be free before the client can know the answer, or a client that sends its next request at once
        // could be refused by its own previous one.
        let Self { reply, permit, .. } = self;
        drop(permit);
        // A failed send means that the client is gone: nobody is left to tell.
        let _ = reply.send(result);
    }
}

/// The future of one job's answer. Dropping it cancels the job.
#[derive(Debug)]
pub struct Ticket(oneshot::Receiver<Result<Answer, JobError>>);

impl Future for Ticket {
    type Output = Result<Answer, JobError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map(|answer| answer.unwrap_or(Err(JobError::Lost)))
    }
}
