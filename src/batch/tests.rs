//! The six invariants of `batch`, each driven by an encoder that does what the test tells it.
//!
//! No sleeps: a test waits for an event (a batch has arrived at the encoder, a ticket is answered), never for a duration.

mod ended;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

use ndarray::{Array2, ArrayD};
use proptest::prelude::*;

use super::*;
use crate::{
    encoder::{Embeddings, EncodeError, Encoder, Output, OutputSet, Role, Runner, TowerOutputs},
    health::Health,
    telemetry::{LaneMetrics, Metrics, Outcome},
};

const LONG: Duration = Duration::from_secs(3600);

/// An input whose embedding is `[id, id * 2]`, and what the encoder should do when it meets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Do {
    Encode(u32),
    FailBatch,
    Panic,
    AnswerNan,
    DropRow,
}

/// Reports each batch, then waits for leave to run it.
struct Scripted {
    batches: mpsc::Sender<Vec<Do>>,
    leave: mpsc::Receiver<()>,
}

impl Encoder for Scripted {
    type Input = Do;

    fn encode(&mut self, inputs: &[Do]) -> Result<Embeddings, EncodeError> {
        self.batches.send(inputs.to_vec()).expect("the test listens");
        self.leave.recv().expect("the test gives leave");
        encode(inputs)
    }
}

fn encode(inputs: &[Do]) -> Result<Embeddings, EncodeError> {
    let mut rows = Vec::new();
    for input in inputs {
        match *input {
            Do::Encode(id) => rows.extend([id as f32, id as f32 * 2.0]),
            Do::AnswerNan => rows.extend([f32::NAN, 0.0]),
            Do::FailBatch => return Err(EncodeError::Runtime("told to".into())),
            Do::Panic => panic!("told to"),
            Do::DropRow => {}
        }
    }
    Ok(Array2::from_shape_vec((rows.len() / 2, 2), rows).expect("two values a row"))
}

/// A lane with one worker, whose encoder is scripted by the test.
struct Lane {
    admission: Arc<Admission>,
    queue: Arc<JobQueue<Do>>,
    metrics: LaneMetrics,
    worker: Option<Worker>,
    batches: mpsc::Receiver<Vec<Do>>,
    leave: Option<mpsc::Sender<()>>,
    rebuilt: Arc<AtomicUsize>,
    health: Health,
}

impl Lane {
    fn start(capacity: usize, max_batch_size: usize) -> Self {
        let health = Health::new(LONG);
        let metrics = Metrics::new().vision.clone();
        let admission = Arc::new(Admission::of(capacity));
        let queue = Arc::new(JobQueue::new(|_| Cost::of(1), metrics.queue.clone(), metrics.clone(), Pace::default()));
        let (batch_tx, batches) = mpsc::channel();
        let (leave, leave_rx) = mpsc::channel();
        let rebuilt = Arc::new(AtomicUsize::new(0));
        let context = WorkerContext {
            queue: Arc::clone(&queue),
            policy: BatchPolicy {
                max_batch_size,
                max_batch_cost: usize::MAX,
                max_queue_delay: Duration::ZERO,
                pads: true,
                large_cost: None,
            },
            admission: Arc::clone(&admission),
            metrics: metrics.clone(),
            heartbeat: health.register("test"),
        };
        let count = Arc::clone(&rebuilt);
        // After a panic the encoder is gone with its channels: the rebuilt one encodes without reporting.
        let first = Either::Scripted(Scripted { batches: batch_tx, leave: leave_rx });
        let worker = Worker::spawn(
            "test".into(),
            context,
            Runner::new(first, move || {
                count.fetch_add(1, Ordering::SeqCst);
                Ok(Either::Free)
            }),
        )
        .expect("a thread");
        Self { admission, queue, metrics, worker: Some(worker), batches, leave: Some(leave), rebuilt, health }
    }

    fn submit(&self, input: Do) -> Ticket {
        self.submit_until(input, Instant::now() + LONG)
    }

    fn submit_until(&self, input: Do, deadline: Instant) -> Ticket {
        let permit = self.admission.admit_one();
        let (job, ticket) = Job::new(input, permit, deadline);
        self.queue.push(job);
        ticket
    }

    /// The next batch that reached the encoder, which now waits for leave.
    fn batch(&self) -> Vec<Do> {
        self.batches.recv().expect("a batch")
    }

    fn run(&self) {
        self.leave.as_ref().expect("running").send(()).expect("the encoder waits");
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.queue.close();
        self.leave = None;
        if let Some(worker) = self.worker.take() {
            worker.join();
        }
        assert_eq!(self.admission.live(), 0, "every permit is back");
    }
}

/// The scripted encoder, or (after a rebuild) one that runs freely.
enum Either {
    Scripted(Scripted),
    Free,
}

impl Encoder for Either {
    type Input = Do;

    fn encode(&mut self, inputs: &[Do]) -> Result<Embeddings, EncodeError> {
        match self {
            Self::Scripted(scripted) => scripted.encode(inputs),
            Self::Free => encode(inputs),
        }
    }
}

fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(future)
}

fn embedding(ticket: Ticket) -> Vec<f32> {
    embedding_of(wait(ticket))
}

fn embedding_of(answer: Result<Answer, JobError>) -> Vec<f32> {
    match answer.expect("an answer").encoded {
        Encoded::Embedding(embedding) => embedding,
        Encoded::Outputs(outputs) => panic!("{outputs:?} was not asked for"),
    }
}

#[test]
fn i1_live_jobs_never_outnumber_permits() {
    let lane = Lane::start(3, 1);
    let tickets: Vec<Ticket> = (0..3).map(|i| lane.submit(Do::Encode(i))).collect();
    assert_eq!(lane.batch(), [Do::Encode(0)], "one runs, two wait");
    assert!(lane.admission.admit(1).is_err(), "running and waiting jobs both hold their permit");
    drop(tickets);
    assert!(lane.admission.admit(1).is_err(), "a client that left frees nothing until its job is gone");
    lane.run();
    // The worker now weeds out the two dead jobs; the last sign of it is the permit.
    while lane.admission.live() > 0 {
        std::thread::yield_now();
    }
    assert_eq!(lane.admission.admit(3).expect("all back").len(), 3);
}

#[test]
fn i2_a_job_dropped_unanswered_answers_lost() {
    let admission = Admission::of(1);
    let permit = admission.admit_one();
    let (job, ticket) = Job::new((), permit, Instant::now() + LONG);
    drop(job);
    assert_eq!(wait(ticket).expect_err("no answer"), JobError::Lost);
    assert_eq!(admission.live(), 0);
}

#[test]
fn i2_an_encoder_that_answers_too_few_rows_fails_its_batch_and_loses_nobody() {
    let lane = Lane::start(8, 8);
    let first = lane.submit(Do::Encode(0));
    lane.batch();
    let (a, b) = (lane.submit(Do::Encode(1)), lane.submit(Do::DropRow));
    lane.run();
    lane.batch();
    lane.run();
    assert_eq!(embedding(first), [0.0, 0.0]);
    for ticket in [a, b] {
        assert!(matches!(wait(ticket), Err(JobError::Encoder(text)) if text.contains("1 rows for 2 inputs")));
    }
}

#[test]
fn i4_a_cancelled_job_never_reaches_the_encoder() {
    let lane = Lane::start(8, 8);
    let first = lane.submit(Do::Encode(0));
    lane.batch();
    let gone = lane.submit(Do::Encode(1));
    let stays = lane.submit(Do::Encode(2));
    drop(gone);
    lane.run();
    assert_eq!(lane.batch(), [Do::Encode(2)]);
    lane.run();
    embedding(first);
    embedding(stays);
    assert_eq!(lane.metrics.items(Outcome::Cancelled).get(), 1);
}

#[test]
fn i4_an_expired_job_is_answered_and_never_reaches_the_encoder() {
    let lane = Lane::start(8, 8);
    let first = lane.submit(Do::Encode(0));
    lane.batch();
    let late = lane.submit_until(Do::Encode(1), Instant::now());
    let stays = lane.submit(Do::Encode(2));
    lane.run();
    assert_eq!(lane.batch(), [Do::Encode(2)]);
    lane.run();
    assert_eq!(wait(late).expect_err("too late"), JobError::Expired);
    embedding(first);
    embedding(stays);
    assert_eq!(lane.metrics.items(Outcome::Expired).get(), 1);
}

#[test]
fn i5_after_close_queued_jobs_finish_and_new_ones_are_refused() {
    let lane = Lane::start(8, 1);
    let running = lane.submit(Do::Encode(0));
    lane.batch();
    let queued = lane.submit(Do::Encode(1));
    lane.queue.close();
    let refused = lane.submit(Do::Encode(2));
    assert_eq!(wait(refused).expect_err("closed"), JobError::Closed);
    lane.run();
    lane.batch();
    lane.run();
    assert_eq!(embedding(running), [0.0, 0.0]);
    assert_eq!(embedding(queued), [1.0, 2.0]);
}

#[test]
fn i6_a_row_that_is_not_finite_fails_its_job_only() {
    let lane = Lane::start(8, 8);
    let first = lane.submit(Do::Encode(0));
    lane.batch();
    let (bad, good) = (lane.submit(Do::AnswerNan), lane.submit(Do::Encode(2)));
    lane.run();
    assert_eq!(lane.batch(), [Do::AnswerNan, Do::Encode(2)], "both in one batch");
    lane.run();
    embedding(first);
    assert_eq!(wait(bad).expect_err("NaN"), JobError::OutputInvalid);
    assert_eq!(embedding(good), [2.0, 4.0]);
}

#[test]
fn jobs_that_ask_for_outputs_get_them_in_a_batch_of_their_own() {
    struct Both;
    impl Encoder for Both {
        type Input = Do;
        fn encode(&mut self, inputs: &[Do]) -> Result<Embeddings, EncodeError> {
            encode(inputs)
        }
        fn encode_outputs(&mut self, inputs: &[Do], outputs: OutputSet) -> Result<Vec<TowerOutputs>, EncodeError> {
            let count = outputs.iter().count();
            let answer = |input: &Do| TowerOutputs {
                embedding: None,
                arrays: vec![ArrayD::from_elem(vec![count], if *input == Do::AnswerNan { f32::NAN } else { 1.0 })],
            };
            Ok(inputs.iter().map(answer).collect())
        }
    }
    let metrics = Metrics::new().vision.clone();
    let admission = Arc::new(Admission::of(8));
    let queue = Arc::new(JobQueue::new(|_| Cost::of(1), metrics.queue.clone(), metrics.clone(), Pace::default()));
    let context = WorkerContext {
        queue: Arc::clone(&queue),
        policy: BatchPolicy {
            max_batch_size: 8,
            max_batch_cost: usize::MAX,
            max_queue_delay: Duration::ZERO,
            pads: true,
            large_cost: None,
        },
        admission: Arc::clone(&admission),
        metrics: metrics.clone(),
        heartbeat: Health::new(LONG).register("test"),
    };
    let submit = |input, outputs: &[Output]| {
        let permit = admission.admit_one();
        let (job, ticket) = Job::new(input, permit, Instant::now() + LONG);
        queue.push(job.asking(outputs.iter().copied().collect()));
        ticket
    };
    let plain = submit(Do::Encode(1), &[]);
    let asking = submit(Do::Encode(2), &[Output::PoolerOutput, Output::Attentions]);
    let broken = submit(Do::AnswerNan, &[Output::PoolerOutput, Output::Attentions]);
    queue.close();
    Worker::spawn("test".into(), context, Runner::new(Both, || Ok(Both))).expect("a thread").join();
    assert_eq!(embedding(plain), [1.0, 2.0]);
    let answer = wait(asking).expect("outputs").encoded;
    assert!(matches!(answer, Encoded::Outputs(outputs) if outputs.arrays[0].len() == 2));
    assert_eq!(wait(broken).expect_err("NaN"), JobError::OutputInvalid);
    assert_eq!((metrics.batch_size.get_sample_count(), metrics.batch_size.get_sample_sum()), (2, 3.0));
}

#[test]
fn i6_a_failed_batch_fails_that_batch_only() {
    let lane = Lane::start(8, 1);
    let bad = lane.submit(Do::FailBatch);
    let good = lane.submit(Do::Encode(1));
    lane.batch();
    lane.run();
    lane.batch();
    lane.run();
    assert!(matches!(wait(bad), Err(JobError::Encoder(_))));
    assert_eq!(embedding(good), [1.0, 2.0]);
    assert_eq!(lane.rebuilt.load(Ordering::SeqCst), 0, "an error is not a panic: the encoder stays");
}

#[test]
fn i6_a_panic_fails_its_batch_and_the_next_one_runs_on_a_rebuilt_encoder() {
    let lane = Lane::start(8, 1);
    let bad = lane.submit(Do::Panic);
    let good = lane.submit(Do::Encode(1));
    lane.batch();
    lane.run();
    assert!(matches!(wait(bad), Err(JobError::Encoder(text)) if text.contains("panicked")));
    assert_eq!(embedding(good), [1.0, 2.0]);
    assert_eq!(lane.rebuilt.load(Ordering::SeqCst), 1);
    assert_eq!(lane.metrics.panics.get(), 1);
}

#[test]
fn a_session_that_fails_run_after_run_is_made_anew_and_is_sick_when_that_does_not_help() {
    let lane = Lane::start(8, 1);
    // Leave for all of them: what is not made anew would wait for it otherwise.
    (0..8).for_each(|_| lane.run());
    let sick = || lane.health.sick_workers(Instant::now());
    let ask = |input| wait(lane.submit(input));
    let rebuilt = || lane.rebuilt.load(Ordering::SeqCst);
    for input in [Do::FailBatch, Do::FailBatch, Do::Encode(1), Do::FailBatch, Do::FailBatch, Do::FailBatch] {
        assert_eq!(ask(input).is_err(), input == Do::FailBatch);
        assert_eq!(rebuilt(), 0, "not three in a row so far, or not needed yet");
    }
    assert!(sick().is_empty(), "a new session may do better");
    assert!(ask(Do::FailBatch).is_err());
    assert_eq!((rebuilt(), sick()), (1, vec!["test".to_owned()]));
    assert_eq!(embedding_of(ask(Do::Encode(2))), [2.0, 4.0]);
    assert!(sick().is_empty(), "it answers again");
}

#[test]
fn a_worker_that_cannot_rebuild_answers_its_jobs_and_says_that_it_is_broken() {
    let health = Health::new(LONG);
    let metrics = Metrics::new().vision.clone();
    let admission = Arc::new(Admission::of(8));
    let queue = Arc::new(JobQueue::new(|_| Cost::of(1), metrics.queue.clone(), metrics.clone(), Pace::default()));
    let context = WorkerContext {
        queue: Arc::clone(&queue),
        policy: BatchPolicy::single(),
        admission: Arc::clone(&admission),
        metrics,
        heartbeat: health.register("vision-0"),
    };
    let mut attempts = 0;
    let worker = Worker::spawn(
        "test".into(),
        context,
        Runner::new(Either::Free, move || {
            attempts += 1;
            if attempts == 1 { Err("no memory".into()) } else { Ok(Either::Free) }
        }),
    )
    .expect("a thread");
    let submit = |input| {
        let permit = admission.admit_one();
        let (job, ticket) = Job::new(input, permit, Instant::now() + LONG);
        queue.push(job);
        wait(ticket)
    };
    assert!(submit(Do::Panic).is_err());
    assert!(submit(Do::Encode(1)).is_err(), "the rebuild failed");
    assert_eq!(health.sick_workers(Instant::now()), ["vision-0"]);
    assert_eq!(embedding_of(submit(Do::Encode(2))), [2.0, 4.0]);
    assert!(health.sick_workers(Instant::now()).is_empty());
    queue.close();
    worker.join();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// I2 and I3: whatever is submitted, in whatever mix of lengths, each ticket is answered once and with its own input.
    #[test]
    fn i3_an_answer_belongs_to_its_own_input(lengths in prop::collection::vec(1u32..78, 1..60), size in 1usize..9) {
        struct Lengths;
        impl Encoder for Lengths {
            type Input = (u32, u32);
            fn encode(&mut self, inputs: &[(u32, u32)]) -> Result<Embeddings, EncodeError> {
                let rows = inputs.iter().flat_map(|&(id, length)| [id as f32, length as f32]).collect();
                Ok(Array2::from_shape_vec((inputs.len(), 2), rows).expect("two values a row"))
            }
        }
        let metrics = Metrics::new().text.clone();
        let admission = Arc::new(Admission::of(100));
        let queue = Arc::new(JobQueue::new(|&(_, length): &(u32, u32)| Cost::of(length as usize), metrics.queue.clone(), metrics.clone(), Pace::default()));
        let context = WorkerContext {
            queue: Arc::clone(&queue),
            policy: BatchPolicy { max_batch_size: size, max_batch_cost: 200, max_queue_delay: Duration::ZERO, pads: true, large_cost: None },
            admission: Arc::clone(&admission),
            metrics: metrics.clone(),
            heartbeat: Health::new(LONG).register("test"),
        };
        // All jobs wait before the worker starts, so that batches do form.
        let tickets: Vec<Ticket> = lengths
            .iter()
            .enumerate()
            .map(|(id, &length)| {
                let permit = admission.admit_one();
                let (job, ticket) = Job::new((id as u32, length), permit, Instant::now() + LONG);
                queue.push(job);
                ticket
            })
            .collect();
        let worker = Worker::spawn("test".into(), context, Runner::new(Lengths, || Ok(Lengths))).expect("a thread");
        for (id, ticket) in tickets.into_iter().enumerate() {
            prop_assert_eq!(embedding(ticket), vec![id as f32, lengths[id] as f32]);
        }
        queue.close();
        worker.join();
        prop_assert_eq!(metrics.items(Outcome::Ok).get() as usize, lengths.len());
    }
}

#[test]
fn a_run_beside_another_that_is_broken_tries_what_comes_until_it_is_well() {
    let metrics = Metrics::new().vision.clone();
    let admission = Arc::new(Admission::of(99));
    let queue = Arc::new(JobQueue::new(|_| Cost::of(1), metrics.queue.clone(), metrics.clone(), Pace::default()));
    let health = Health::new(LONG);
    let context = WorkerContext {
        queue: Arc::clone(&queue),
        policy: BatchPolicy { max_batch_size: 2, ..BatchPolicy::single() },
        admission: Arc::clone(&admission),
        metrics: metrics.clone(),
        heartbeat: health.register("test"),
    };
    let runner = Runner { role: Role::Beside, ..Runner::new(Either::Free, || Ok(Either::Free)) };
    let worker = Worker::spawn("test".into(), context, runner).expect("a thread");
    let submit = |input| {
        let (job, ticket) = Job::new(input, admission.admit_one(), Instant::now() + LONG);
        queue.push(job);
        ticket
    };
    // Full batches, which all fail.
    for _ in 0..4 {
        let pair = [submit(Do::FailBatch), submit(Do::FailBatch)];
        pair.into_iter().for_each(|ticket| assert!(wait(ticket).is_err()));
    }
    assert_eq!(health.sick_workers(Instant::now()), ["test"], "four in a row");
    assert_eq!(embedding(submit(Do::Encode(7))), [7.0, 14.0], "one alone is taken");
    assert!(health.sick_workers(Instant::now()).is_empty());
    let left = submit(Do::Encode(8));
    queue.close();
    worker.join();
    let taker = Taker { role: Role::Own, interrupt: None };
    assert_eq!(queue.take_batch(&BatchPolicy::single(), &taker, None).expect("left to another").jobs.len(), 1);
    drop(left);
}
