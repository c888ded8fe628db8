//! Runs of the second class that are ended for the first, by a worker and an encoder that ends when it is told to.

use super::*;
use crate::encoder::Interrupt;

/// Answers what it is given, unless it is told to end: then it has nothing.
struct Endable {
    began: mpsc::Sender<Vec<Do>>,
    goes_on: mpsc::Receiver<bool>,
    ends: mpsc::Sender<bool>,
}

impl Endable {
    fn new() -> (Self, mpsc::Receiver<Vec<Do>>, mpsc::Sender<bool>) {
        let ((began, seen), (ends, goes_on)) = (mpsc::channel(), mpsc::channel());
        (Self { began, goes_on, ends: ends.clone() }, seen, ends)
    }
}

impl Encoder for Endable {
    type Input = Do;

    fn encode(&mut self, inputs: &[Do]) -> Result<Embeddings, EncodeError> {
        self.began.send(inputs.to_vec()).expect("the test listens");
        if self.goes_on.recv().expect("the test says so") {
            return encode(inputs);
        }
        Err(EncodeError::Runtime("ended".into()))
    }

    fn interrupt(&mut self) -> Interrupt {
        let ends = self.ends.clone();
        Arc::new(move || ends.send(false).expect("the run waits"))
    }

    fn ends_soon(&self) -> bool {
        true
    }
}

#[test]
fn a_bulk_run_is_ended_for_the_first_class_and_nobody_is_lost() {
    let metrics = Metrics::new().vision.clone();
    let admission = Arc::new(Admission::of(99));
    let pace = Pace { room: Room::of(1), ..Pace::default() };
    // What a run is known to take, and a pause is as long at first: it is due after a hundred times of that, ten seconds.
    pace.speed.observe(1, Duration::from_millis(100));
    let queue = Arc::new(JobQueue::new(|_| Cost::of(1), metrics.queue.clone(), metrics.clone(), pace));
    let health = Health::new(LONG);
    let context = WorkerContext {
        queue: Arc::clone(&queue),
        policy: BatchPolicy { max_batch_size: 8, ..BatchPolicy::single() },
        admission: Arc::clone(&admission),
        metrics: metrics.clone(),
        heartbeat: health.register("test"),
    };
    let (encoder, began, goes_on) = Endable::new();
    let rebuild = || Err("it was well".into());
    let worker = Worker::spawn("test".into(), context, Runner::new(encoder, rebuild)).expect("a thread");
    let submit = |class, ids: &[u32]| -> Vec<Ticket> {
        let works = vec![Work { decode: 0, encode: 1 }; ids.len()];
        let permits = admission.try_admit(&works, &Terms { class, ..Terms::patient(Instant::now() + LONG) });
        let push = |(id, permit): (&u32, Permit)| {
            let (job, ticket) = Job::new(Do::Encode(*id), permit, Instant::now() + LONG);
            queue.push(job);
            ticket
        };
        ids.iter().zip(permits.expect("room")).map(push).collect()
    };
    let bulk = submit(Class::Bulk, &[1]);
    assert_eq!(began.recv().expect("a run"), [Do::Encode(1)]);
    let bulk: Vec<_> = bulk.into_iter().chain(submit(Class::Bulk, &[2])).collect();
    // More in a row than make a session one that fails.
    for first in 10..14 {
        let first_class = submit(Class::Interactive, &[first]);
        assert_eq!(began.recv().expect("a run"), [Do::Encode(first)], "the bulk run was ended for it");
        goes_on.send(true).expect("the run waits");
        for ticket in first_class {
            assert_eq!(embedding(ticket), [first as f32, first as f32 * 2.0]);
        }
        assert_eq!(began.recv().expect("a run")[0], Do::Encode(1), "it goes on with what it had");
    }
    assert_eq!(metrics.interrupted.get(), 4);
    assert_eq!((metrics.items(Outcome::Failed).get(), admission.live()), (0, 2));
    assert!(health.sick_workers(Instant::now()).is_empty());
    queue.close();
    goes_on.send(true).expect("the run waits");
    goes_on.send(true).expect("the run waits, or both were in one");
    for (ticket, id) in bulk.into_iter().zip([1.0, 2.0]) {
        assert_eq!(embedding(ticket), [id, id * 2.0]);
    }
    worker.join();
    assert_eq!((metrics.items(Outcome::Ok).get(), admission.live()), (6, 0));
}
