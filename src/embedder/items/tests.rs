//! One lane of token ids, by hand: a worker runs only when a test starts it, so what is in flight stays there until then.

use std::{
    pin::Pin,
    sync::{Mutex, OnceLock, PoisonError},
    time::Duration,
};

use futures_util::FutureExt;

use super::*;
use crate::{
    batch::{Admission, BatchPolicy, Class, Cost, Job, JobQueue, Pace, Takes, Worker, WorkerContext},
    encoder::{Embeddings, EncodeError, Encoder, InputError, InputErrorKind, Runner, Tokens},
    health::Health,
    telemetry::{Outcome, Reject},
};

/// The embedding of `[id]` is `[id, 1]`.
const DIM: usize = 2;

/// Records what it is given; the first `failures` runs fail, and `dim` values are answered for each.
struct Fake {
    seen: Arc<Mutex<Vec<u32>>>,
    failures: usize,
    dim: usize,
}

impl Encoder for Fake {
    type Input = Tokens;

    fn encode(&mut self, inputs: &[Tokens]) -> Result<Embeddings, EncodeError> {
        let ids = inputs.iter().map(|input| input.ids()[0]);
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).extend(ids.clone());
        if self.failures > 0 {
            self.failures -= 1;
            return Err(EncodeError::Runtime("a fault".to_owned()));
        }
        let ids: Vec<u32> = ids.collect();
        Ok(Embeddings::from_shape_fn((ids.len(), self.dim), |(row, i)| if i == 0 { ids[row] as f32 } else { 1.0 }))
    }
}

struct Fixture {
    lane: Lane<Tokens>,
    metrics: Metrics,
    health: Health,
    seen: Arc<Mutex<Vec<u32>>>,
    worker: OnceLock<Worker>,
}

impl Fixture {
    fn new(max_bytes: usize, places: usize) -> Self {
        let metrics = Metrics::new();
        let lane = Lane {
            admission: Arc::new(Admission::of(places)),
            queue: Arc::new(JobQueue::new(
                |_: &Tokens| Cost::of(1),
                metrics.text.queue.clone(),
                metrics.text.clone(),
                Pace::default(),
            )),
            reject: Reject::TextQueue,
            cache: Cache::new(max_bytes, &metrics),
            key: |tokens: &Tokens| Key::Text(tokens.clone()),
            work: |_: &Tokens| Work { decode: 0, encode: 1 },
            metrics: metrics.text.clone(),
        };
        let health = Health::new(Duration::from_secs(60));
        Self { lane, metrics, health, seen: Arc::default(), worker: OnceLock::new() }
    }

    /// Runs what waits and what comes.
    fn start(&self, failures: usize, dim: usize) {
        let context = WorkerContext {
            queue: Arc::clone(&self.lane.queue),
            policy: BatchPolicy {
                max_batch_size: 8,
                max_batch_cost: usize::MAX,
                max_queue_delay: Duration::ZERO,
                pads: true,
                large_cost: None,
            },
            admission: Arc::clone(&self.lane.admission),
            metrics: self.metrics.text.clone(),
            heartbeat: self.health.register("fake".to_owned()),
        };
        let fake = Fake { seen: Arc::clone(&self.seen), failures, dim };
        let worker = Worker::spawn("fake".to_owned(), context, Runner::new(fake, || Err("not rebuilt".to_owned())));
        self.worker.set(worker.expect("a thread")).expect("started once");
    }

    /// A request that has been polled once: what it needs is in the queue, and it waits.
    fn waiting(&self, ids: &[u32]) -> Pin<Box<dyn Future<Output = Result<Embedded, EmbedError>> + '_>> {
        let mut request = self.request(ids);
        assert!(request.as_mut().now_or_never().is_none(), "{ids:?} is answered at once");
        request
    }

    fn request(&self, ids: &[u32]) -> Pin<Box<dyn Future<Output = Result<Embedded, EmbedError>> + '_>> {
        let inputs: Vec<Tokens> = ids.iter().map(|&id| Tokens::new(vec![id])).collect();
        let deadline = Instant::now() + Duration::from_secs(600);
        let request = Request { lane: &self.lane, metrics: &self.metrics, dim: DIM, terms: Terms::patient(deadline) };
        Box::pin(async move { request.embed(&inputs, Vec::new(), &mut Failing::Request).await })
    }

    fn seen(&self) -> Vec<u32> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
        seen.sort_unstable();
        seen
    }

    /// Hits, misses, joined.
    fn lookups(&self) -> [u64; 3] {
        [Lookup::Hit, Lookup::Miss, Lookup::Joined].map(|lookup| self.metrics.text.lookups(lookup).get())
    }

    fn in_flight(&self, id: u32) -> bool {
        let cache = self.lane.cache.as_ref().expect("a cache");
        let flight = cache.flights().join(&Key::Text(Tokens::new(vec![id])), Class::Interactive);
        flight.is_some()
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.lane.close();
        if let Some(worker) = self.worker.take() {
            worker.join();
        }
    }
}

/// The ids that the embeddings are of.
fn ids(embedded: Result<Embedded, EmbedError>) -> Vec<u32> {
    embedded.expect("embeddings").embeddings.column(0).iter().map(|&id| id as u32).collect()
}

#[tokio::test]
async fn only_what_is_new_is_computed_and_the_order_is_the_requests() {
    let fixture = Fixture::new(1 << 20, 8);
    fixture.start(0, DIM);
    assert_eq!(ids(fixture.request(&[1, 2]).await), [1, 2]);
    assert_eq!(ids(fixture.request(&[2, 3, 1, 3]).await), [2, 3, 1, 3]);
    assert_eq!(fixture.seen(), [1, 2, 3]);
    assert_eq!(fixture.lookups(), [2, 3, 1]);
    let known = fixture.request(&[3, 2]).now_or_never().expect("answered at once");
    assert_eq!(known.as_ref().expect("embeddings").timings, Timings::default());
    assert_eq!(ids(known), [3, 2]);
}

#[tokio::test]
async fn what_is_known_or_joined_takes_no_place_and_what_is_new_is_admitted_whole() {
    let fixture = Fixture::new(1 << 20, 2);
    let (leader, follower) = (fixture.waiting(&[1, 1]), fixture.waiting(&[1]));
    assert_eq!(fixture.lane.admission.live(), 1);
    let refused = fixture.request(&[1, 2, 3]).await;
    assert!(matches!(refused, Err(EmbedError::Overloaded { reject: Reject::TextQueue, .. })));
    assert_eq!(fixture.lane.admission.live(), 1, "the refused request took nothing");
    assert!(fixture.in_flight(1) && !fixture.in_flight(2), "and began nothing");
    fixture.start(0, DIM);
    assert_eq!((ids(leader.await), ids(follower.await)), (vec![1, 1], vec![1]));
    let places = fixture.lane.admission.admit(2).expect("all of them");
    assert_eq!(ids(fixture.request(&[1, 1]).await), [1, 1], "the lane is full, and this needs none of it");
    drop(places);
    assert_eq!(fixture.seen(), [1]);
}

#[tokio::test]
async fn places_that_the_request_has_already_are_used_and_the_rest_given_back() {
    let fixture = Fixture::new(1 << 20, 4);
    let first = fixture.waiting(&[1]);
    let held = fixture.lane.admission.admit(3).expect("the other three");
    let inputs: Vec<Tokens> = [1, 2, 3].map(|id| Tokens::new(vec![id])).into();
    let deadline = Instant::now() + Duration::from_secs(600);
    let request = Request { lane: &fixture.lane, metrics: &fixture.metrics, dim: DIM, terms: Terms::patient(deadline) };
    let mut failing = Failing::Request;
    let mut second = Box::pin(request.embed(&inputs, held, &mut failing));
    assert!(second.as_mut().now_or_never().is_none());
    assert_eq!(fixture.lane.admission.live(), 3, "the first one's, and two for what is new");
    drop((first, second));
}

#[tokio::test]
async fn a_follower_gets_its_answer_when_the_first_request_is_gone() {
    let fixture = Fixture::new(1 << 20, 8);
    let (leader, follower) = (fixture.waiting(&[1, 2]), fixture.waiting(&[2]));
    drop(leader);
    assert!(!fixture.in_flight(1), "nobody waits for it");
    assert!(fixture.in_flight(2));
    fixture.start(0, DIM);
    assert_eq!(ids(follower.await), [2]);
    assert_eq!(fixture.seen(), [2]);
    assert_eq!(fixture.metrics.text.items(Outcome::Cancelled).get(), 1);
}

#[tokio::test]
async fn what_nobody_waits_for_any_more_is_never_run() {
    let fixture = Fixture::new(1 << 20, 8);
    let waiting = [fixture.waiting(&[1]), fixture.waiting(&[1, 2]), fixture.waiting(&[2])];
    drop(waiting);
    assert!(!fixture.in_flight(1) && !fixture.in_flight(2));
    fixture.start(0, DIM);
    assert_eq!(ids(fixture.request(&[3]).await), [3]);
    assert_eq!(fixture.seen(), [3]);
    assert_eq!(fixture.metrics.text.items(Outcome::Cancelled).get(), 2);
}

#[tokio::test]
async fn a_follower_outlives_the_deadline_of_the_first_request() {
    let fixture = Fixture::new(1 << 20, 8);
    let cache = fixture.lane.cache.as_ref().expect("a cache");
    let permit = fixture.lane.admission.admit(1).expect("room").remove(0);
    let (job, ticket) = Job::new(Tokens::new(vec![1]), permit, Instant::now());
    fixture.lane.queue.push(job);
    let expiring = cache.flights().begin(cache, Key::Text(Tokens::new(vec![1])), Class::Interactive, ticket, DIM);
    let follower = fixture.waiting(&[2, 1]);
    assert_eq!(fixture.lookups(), [0, 1, 1]);
    fixture.start(0, DIM);
    assert_eq!(ids(follower.await), [2, 1]);
    assert_eq!(expiring.await, Err(JobError::Expired));
    assert_eq!(fixture.lookups(), [0, 2, 1], "the follower began one of its own");
}

#[tokio::test]
async fn an_error_of_the_item_is_everybodys_and_is_not_kept() {
    let fixture = Fixture::new(1 << 20, 8);
    let error = InputError { kind: InputErrorKind::InvalidImage, message: "bad".to_owned() };
    let (leader, follower) = (fixture.waiting(&[1]), fixture.waiting(&[2, 1]));
    fixture.lane.queue.take(Takes::All).expect("the leader's").head.fail(JobError::Input(error.clone()));
    assert_eq!(leader.await.expect_err("bad"), EmbedError::Item { index: 0, error: error.clone() });
    fixture.start(0, DIM);
    assert_eq!(follower.await.expect_err("bad"), EmbedError::Item { index: 1, error });
    assert_eq!(ids(fixture.request(&[1]).await), [1]);
    assert_eq!(fixture.seen(), [1, 2]);
}

#[tokio::test]
async fn a_failed_batch_and_an_embedding_of_another_length_are_not_kept() {
    let fixture = Fixture::new(1 << 20, 8);
    fixture.start(1, DIM);
    assert!(matches!(fixture.request(&[1]).await, Err(EmbedError::Internal(text)) if text.contains("a fault")));
    assert_eq!(ids(fixture.request(&[1]).await), [1]);
    let fixture = Fixture::new(1 << 20, 8);
    fixture.start(0, DIM + 1);
    for _ in 0..2 {
        let answer = fixture.request(&[1]).await;
        assert!(matches!(answer, Err(EmbedError::Internal(text)) if text.contains("3 values, the model has 2")));
    }
    assert_eq!(fixture.seen(), [1, 1]);
}

#[tokio::test]
async fn without_a_cache_equal_items_are_computed_as_often_as_they_come() {
    let fixture = Fixture::new(0, 8);
    assert!(fixture.lane.cache.is_none());
    fixture.start(0, DIM);
    assert_eq!(ids(fixture.request(&[1, 2, 1]).await), [1, 2, 1]);
    assert_eq!(ids(fixture.request(&[1]).await), [1]);
    assert_eq!(fixture.seen(), [1, 1, 1, 2]);
    assert_eq!(fixture.lookups(), [0, 0, 0]);
}
