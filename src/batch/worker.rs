//! The thread that owns one encoder: take a batch, run it, answer each job.
//!
//! Owns the loop, the containment of panics, and the check that what came out is finite. Does not own the policy, the queue, when a run is
//! ended for others (`floor`), or the encoder's inside.
//!
//! Invariants: every job that was taken is answered, whatever the encoder does, or put back, where its run was ended for others; after a
//! panic, and after [`FAILURES`] failed runs in a row, the encoder is thrown away and a new one made before the next batch; the worker says
//! that it is broken while it can make none, or none that answers; the thread ends only when its queue is closed and empty.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use ndarray::ArrayView1;

use super::{
    Admission, Batch, BatchPolicy, Class, Encoded, Job, JobError, JobHead, JobQueue, LastRun, Taker, turn::Turn,
};
use crate::{
    encoder::{EncodeError, Encoder, OutputSet, Role, Runner},
    health::Heartbeat,
    telemetry::{LaneMetrics, Outcome, panic_text},
};

/// So many failed runs in a row are the session's fault, not their inputs': a device that has lost its context fails every run,
/// and would go on to, unseen by the platform.
const FAILURES: u32 = 3;

/// What a worker shares with the rest of its lane.
#[derive(Debug)]
pub struct WorkerContext<T> {
    /// Where the jobs come from.
    pub queue: Arc<JobQueue<T>>,
    /// How batches are made.
    pub policy: BatchPolicy,
    /// Told how fast it goes.
    pub admission: Arc<Admission>,
    /// The lane's metrics.
    pub metrics: LaneMetrics,
    /// Says that the worker is alive.
    pub heartbeat: Arc<Heartbeat>,
}

/// A running worker thread.
#[derive(Debug)]
pub struct Worker(JoinHandle<()>);

impl Worker {
    /// Starts a thread that drives the encoder of `runner`.
    ///
    /// # Errors
    /// When the operating system has no thread to give.
    pub fn spawn<E: Encoder>(
        name: String,
        context: WorkerContext<E::Input>,
        runner: Runner<E>,
    ) -> std::io::Result<Self> {
        let body = move || run(context, runner);
        thread::Builder::new().name(name).spawn(body).map(Self)
    }

    /// Waits for the thread, which ends when its queue is closed and empty.
    pub fn join(self) {
        // The loop contains panics; one that escapes has already been logged by the panic hook.
        let _ = self.0.join();
    }
}

fn run<E: Encoder>(context: WorkerContext<E::Input>, runner: Runner<E>) {
    let Runner { encoder, role, mut rebuild } = runner;
    let mut encoder = Some(encoder);
    let (mut failures, mut last) = (0, None);
    let (mut is_broken, mut is_last_of_all) = (false, false);
    loop {
        let next = encoder.as_mut().map(|live| (live.interrupt(), live.ends_soon()));
        let taker = Taker {
            // Of one that is broken nobody knows that it is well again before it has run: it takes whatever comes, as if it had a session of
            // its own. So does one whose jobs nobody else may be left to take.
            role: if is_broken || is_last_of_all { Role::Own } else { role },
            interrupt: next.as_ref().filter(|(_, ends_soon)| *ends_soon).map(|(interrupt, _)| Arc::clone(interrupt)),
        };
        let Some(batch) = context.queue.take_batch(&context.policy, &taker, last.take()) else { return };
        let Batch { jobs, turns, going } = batch;
        let (inputs, mut heads): (Vec<_>, Vec<_>) = jobs.into_iter().map(|Job { input, head }| (input, head)).unzip();
        // The policy batches only jobs that want the same.
        let outputs = heads.first().map_or(OutputSet::EMPTY, JobHead::outputs);
        let mut interrupt = next.map(|(interrupt, _)| interrupt);
        if encoder.is_none() {
            match rebuild() {
                Ok(mut fresh) => {
                    interrupt = Some(fresh.interrupt());
                    encoder = Some(fresh);
                }
                Err(error) => {
                    tracing::error!(%error, "the session could not be rebuilt; it is tried again with the next batch");
                    context.heartbeat.broken();
                    is_broken = true;
                }
            }
        }
        let (Some(live), Some(interrupt)) = (encoder.as_mut(), interrupt) else {
            fail_all(heads, &context.metrics, "the session is broken");
            continue;
        };
        context.metrics.batch_size.observe(inputs.len() as f64);
        let class = heads.first().map_or_else(Class::default, JobHead::class);
        let work = context.queue.work(&inputs);
        heads.iter_mut().for_each(JobHead::running);
        let goes_on = context.admission.run(work, going.gives_way());
        let span = context.metrics.begin_run(heads.iter().map(JobHead::in_run));
        let started = Instant::now();
        let result = {
            let _busy = context.heartbeat.busy(interrupt);
            // The encoder is dropped after a panic, so no broken invariant of it can be seen.
            catch_unwind(AssertUnwindSafe(|| encode(live, &inputs, outputs)))
        };
        let took = started.elapsed();
        let alone = goes_on.alone(started + took);
        drop(goes_on);
        if matches!(result, Ok(Err(_))) && going.was_ended() {
            context.metrics.interrupted.inc();
            if let Some(span) = span {
                span.interrupted();
            }
            is_last_of_all = put_back(&context.queue, turns, inputs, heads);
            continue;
        }
        drop(going);
        context.metrics.inference.observe(took.as_secs_f64());
        let failure = match result {
            Ok(Ok(encoded)) if encoded.len() == heads.len() => {
                // Before an answer can be there, so that the run is within its requests.
                drop(span);
                failures = 0;
                context.heartbeat.well();
                is_broken = false;
                context.admission.observe_run(class, work, alone);
                last = Some(LastRun { items: heads.len(), ended: started + took, took, class });
                answer_all(heads, encoded, took, &context.metrics);
                continue;
            }
            Ok(Ok(encoded)) => format!("the encoder answered {} rows for {} inputs", encoded.len(), heads.len()),
            Ok(Err(error)) => error.to_string(),
            Err(panic) => {
                context.metrics.panics.inc();
                encoder = None;
                format!("the encoder panicked: {}", panic_text(panic.as_ref()))
            }
        };
        if let Some(span) = span {
            span.fail(&failure);
        }
        failures += 1;
        if failures % FAILURES == 0 {
            tracing::error!(failures, error = failure, "runs fail one after the other; the session is made anew");
            encoder = None;
        }
        if failures > FAILURES {
            context.heartbeat.broken();
            is_broken = true;
        }
        fail_all(heads, &context.metrics, &failure);
    }
}

/// Puts back what a run had that was ended for others: whether the queue is closed.
fn put_back<T>(queue: &JobQueue<T>, turns: Vec<Turn>, inputs: Vec<T>, heads: Vec<JobHead>) -> bool {
    let jobs = inputs.into_iter().zip(heads).map(|(input, head)| Job { input, head });
    queue.put_back(turns.into_iter().zip(jobs))
}

/// One answer for each input; `None` where it is not finite.
fn encode<E: Encoder>(
    encoder: &mut E,
    inputs: &[E::Input],
    outputs: OutputSet,
) -> Result<Vec<Option<Encoded>>, EncodeError> {
    if outputs.is_empty() {
        let embeddings = encoder.encode(inputs)?;
        let finite = |row: ArrayView1<'_, f32>| row.iter().all(|value| value.is_finite());
        let answer = |row: ArrayView1<'_, f32>| finite(row).then(|| Encoded::Embedding(row.to_vec()));
        return Ok(embeddings.rows().into_iter().map(answer).collect());
    }
    let answers = encoder.encode_outputs(inputs, outputs)?;
    Ok(answers.into_iter().map(|answer| answer.is_finite().then(|| Encoded::Outputs(answer))).collect())
}

fn answer_all(heads: Vec<JobHead>, encoded: Vec<Option<Encoded>>, took: Duration, metrics: &LaneMetrics) {
    for (head, encoded) in heads.into_iter().zip(encoded) {
        if let Some(encoded) = encoded {
            metrics.items(Outcome::Ok).inc();
            head.complete(encoded, took);
        } else {
            metrics.items(Outcome::Failed).inc();
            head.fail(JobError::OutputInvalid);
        }
    }
}

fn fail_all(heads: Vec<JobHead>, metrics: &LaneMetrics, text: &str) {
    for head in heads {
        metrics.items(Outcome::Failed).inc();
        head.fail(JobError::Encoder(text.to_owned()));
    }
}
