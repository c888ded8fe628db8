//! The queue by itself: order, what is held back, and who wakes whom.

use std::sync::atomic::{AtomicUsize, Ordering};

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

/// Of a session whose runs cannot be ended.
fn taker(role: Role) -> Taker {
    Taker { role, interrupt: None }
}

fn costs(batch: Option<Batch<u32>>) -> Vec<u32> {
    batch.expect("open").jobs.iter().map(|job| job.input).collect()
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
        let taken = queue.take_batch(&policy, &taker(Role::Own), Some(last)).expect("open").jobs.len();
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
    let order: Vec<u32> = (0..6).filter_map(|_| queue.take(Takes::All).map(|job| job.input)).collect();
    assert_eq!(order, [1, 2, 1, 1, 1, 7]);
}

#[test]
fn a_thread_that_is_kept_for_small_items_takes_no_large_one_and_wakes_who_does() {
    let (queue, admission) = (queue(Pace::default()), Admission::of(99));
    let _large = push(&queue, &admission, Class::Interactive, &[101]);
    let _small = push(&queue, &admission, Class::Interactive, &[1]);
    assert_eq!(queue.take(Takes::Small).expect("open").input, 1);
    assert_eq!(queue.take(Takes::All).expect("open").input, 101);
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let drain = |takes| std::iter::from_fn(|| queue.take(takes).map(|job| job.input)).collect::<Vec<_>>();
    std::thread::scope(|scope| {
        let kept = scope.spawn(|| drain(Takes::Small));
        let other = scope.spawn(|| drain(Takes::All));
        // One at a time, so that each push finds both asleep or nearly, whichever it wakes.
        for large in 200..300 {
            let mut tickets = push(&queue, &admission, Class::Interactive, &[large]);
            let ticket = tickets.pop().expect("one");
            runtime.block_on(ticket).expect_err("dropped unanswered");
        }
        while !queue.lock().kept_idle {
            std::thread::yield_now();
        }
        let _small = push(&queue, &admission, Class::Interactive, &[2]);
        queue.close();
        assert_eq!(kept.join().expect("no panic"), [2], "which waited for it");
        assert_eq!(other.join().expect("no panic"), (200..300).collect::<Vec<_>>());
    });
}

#[test]
fn a_large_request_leaves_the_kept_thread_alone_while_small_ones_come_to_any_lane() {
    let activity = Arc::new(Activity::new());
    let lane = || queue(Pace { activity: Arc::clone(&activity), ..Pace::default() });
    let (pictures, texts, admission) = (lane(), lane(), Admission::of(99));
    let _large = push(&pictures, &admission, Class::Interactive, &[1; 16]);
    assert_eq!(pictures.take(Takes::Small).expect("open").input, 1, "nobody else is there");
    let _small = push(&texts, &admission, Class::Interactive, &[1]);
    let drain = |takes| std::iter::from_fn(|| pictures.take(takes)).count();
    std::thread::scope(|scope| {
        let kept = scope.spawn(|| drain(Takes::Small));
        let other = scope.spawn(|| drain(Takes::All));
        pictures.close();
        assert_eq!(kept.join().expect("no panic"), 0, "the rest is for threads of a lower priority");
        assert_eq!(other.join().expect("no panic"), 15);
    });
}

#[test]
fn a_closed_queue_lets_every_thread_go_though_large_items_were_held_back() {
    let (queue, admission) = (queue(Pace::default()), Admission::of(99));
    let _large = push(&queue, &admission, Class::Interactive, &[101, 102, 103]);
    let drain = |takes| std::iter::from_fn(|| queue.take(takes)).count();
    std::thread::scope(|scope| {
        let kept = scope.spawn(|| drain(Takes::Small));
        let others: Vec<_> = (0..2).map(|_| scope.spawn(|| drain(Takes::All))).collect();
        queue.close();
        assert_eq!(others.into_iter().map(|thread| thread.join().expect("no panic")).sum::<usize>(), 3);
        assert_eq!(kept.join().expect("no panic"), 0);
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
        let batch = queue.take_batch(&EIGHT, &taker(Role::Own), None).expect("open");
        batch.jobs.iter().map(|job| job.head.is_of_large()).collect::<Vec<_>>()
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
    assert_eq!(costs(queue.take_batch(&EIGHT, &taker(Role::Own), None)), [1; 4], "eight would take 400 ms");
    let _alone = push(&queue, &admission, Class::Interactive, &[99]);
    assert_eq!(costs(queue.take_batch(&EIGHT, &taker(Role::Own), None)), [99], "one item is always run");
}

#[test]
fn bulk_runs_rest_beside_interactive_work_and_at_no_other_time() {
    let (queue, admission) = (queue(pace()), Admission::of(99));
    let _bulk = push(&queue, &admission, Class::Bulk, &[1; 16]);
    let bulk_run = LastRun { items: 8, ended: Instant::now(), took: LONG, class: Class::Bulk };
    assert_eq!(costs(queue.take_batch(&EIGHT, &taker(Role::Own), None)), [1; 8]);
    assert_eq!(costs(queue.take_batch(&EIGHT, &taker(Role::Own), Some(bulk_run))), [1; 8], "nobody else has been seen");
    let _bulk = push(&queue, &admission, Class::Bulk, &[1; 3]);
    let _interactive = push(&queue, &admission, Class::Interactive, &[5]);
    assert_eq!(costs(queue.take_batch(&EIGHT, &taker(Role::Own), Some(bulk_run))), [5], "it does not rest");
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| queue.take_batch(&EIGHT, &taker(Role::Own), None));
        queue.close();
        assert_eq!(costs(waits.join().expect("no panic")), [1], "a closed queue does not rest, and the run is short");
    });
}

/// A session whose runs tell of their end.
fn ends_soon(told: &Arc<AtomicUsize>) -> Taker {
    let told = Arc::clone(told);
    let interrupt: Interrupt = Arc::new(move || {
        told.fetch_add(1, Ordering::SeqCst);
    });
    Taker { role: Role::Own, interrupt: Some(interrupt) }
}

/// Puts back what was taken for a run that was ended.
fn put_back(queue: &JobQueue<u32>, batch: Batch<u32>) -> bool {
    let Batch { jobs, turns, going } = batch;
    assert!(going.was_ended());
    queue.put_back(turns.into_iter().zip(jobs))
}

#[test]
fn a_bulk_run_ends_when_something_of_the_first_class_comes_and_what_it_had_keeps_its_turn() {
    let (queue, admission) = (queue(Pace { room: Room::of(1), ..pace() }), Admission::of(99));
    let (told, mut bulk) = (Arc::default(), push(&queue, &admission, Class::Bulk, &[1, 2, 3]));
    let one = BatchPolicy { max_batch_size: 1, ..EIGHT };
    let run = queue.take_batch(&one, &ends_soon(&told), None).expect("open");
    assert_eq!((run.jobs[0].input, run.going.gives_way(), told.load(Ordering::SeqCst)), (1, true, 0));
    bulk.extend(push(&queue, &admission, Class::Bulk, &[4]));
    assert_eq!(told.load(Ordering::SeqCst), 0, "what is of its own class waits");
    let _first = push(&queue, &admission, Class::Interactive, &[9, 9]);
    assert_eq!(told.load(Ordering::SeqCst), 1, "once");
    assert!(!put_back(&queue, run), "it is open");
    let order: Vec<u32> = (0..6).flat_map(|_| costs(queue.take_batch(&one, &ends_soon(&told), None))).collect();
    assert_eq!(order[..3], [9, 9, 1]);
    assert_eq!(order.iter().sum::<u32>(), 9 + 9 + 1 + 2 + 3 + 4);
}

#[test]
fn beside_the_first_class_a_bulk_run_waits_for_room_in_all_lanes_of_the_model() {
    let floor = Arc::new(Floor::default());
    let lane = || {
        let lane = Arc::new(queue(Pace { room: Room::of(1), floor: Arc::clone(&floor), ..pace() }));
        let wake: Arc<dyn Wake> = Arc::<JobQueue<u32>>::clone(&lane);
        floor.wakes(Arc::downgrade(&wake));
        lane
    };
    let (pictures, texts, admission, told) = (lane(), lane(), Admission::of(99), Arc::default());
    let _picture = push(&pictures, &admission, Class::Interactive, &[1]);
    let run = pictures.take_batch(&EIGHT, &taker(Role::Own), None).expect("open");
    let _bulk = push(&texts, &admission, Class::Bulk, &[1; 8]);
    texts.pace.activity.seen(Instant::now());
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| texts.take_batch(&EIGHT, &ends_soon(&told), None));
        // It has been refused room, or will be.
        drop(run);
        let run = waits.join().expect("no panic");
        assert!(run.as_ref().is_some_and(|run| run.going.gives_way()), "it was woken, not due");
        assert_eq!(costs(run), [1], "the run is short");
    });
    let due = queue(Pace { room: Room::of(1), floor, ..Pace::default() });
    let _run = pictures.pace.floor.begin_first(Room::of(1));
    let _bulk = push(&due, &admission, Class::Bulk, &[1]);
    due.pace.activity.seen(Instant::now());
    let run = due.take_batch(&EIGHT, &ends_soon(&told), None).expect("open");
    assert!(!run.going.gives_way(), "where nobody knows how long a run takes it is due at once");
}

#[test]
fn a_bulk_run_that_has_no_room_does_not_begin_and_who_gives_room_wakes_who_waits_for_it() {
    let floor = Arc::new(Floor::default());
    let queue = queue(Pace { room: Room::of(1), floor: Arc::clone(&floor), ..pace() });
    let (admission, told) = (Admission::of(99), Arc::default());
    let _bulk = push(&queue, &admission, Class::Bulk, &[1]);
    let now = Instant::now();
    let later = Some(now + LONG);
    let run = floor.begin_first(Room::of(1));
    assert!(queue.begin(&ends_soon(&told), Class::Bulk, later, now).is_none());
    assert!(
        queue.begin(&ends_soon(&told), Class::Bulk, Some(now), now).is_some_and(|run| !run.gives_way()),
        "it is due"
    );
    assert!(
        queue.begin(&ends_soon(&told), Class::Bulk, None, now).is_some_and(|run| run.gives_way()),
        "no first class"
    );
    drop(run);
    assert!(queue.begin(&ends_soon(&told), Class::Bulk, later, now).is_some_and(|run| run.gives_way()));
}

#[test]
fn what_is_due_goes_before_the_first_class_once() {
    // Where a run takes no time that anybody knows of, what waits is due at once.
    let queue = queue(Pace { room: Room::of(1), ..Pace::default() });
    let (admission, told) = (Admission::of(99), Arc::default());
    let _first = push(&queue, &admission, Class::Interactive, &[9, 9]);
    let _bulk = push(&queue, &admission, Class::Bulk, &[1]);
    assert_eq!(
        costs(queue.take_batch(&EIGHT, &taker(Role::Own), None)),
        [9, 9],
        "a run that cannot be ended rests instead"
    );
    let _first = push(&queue, &admission, Class::Interactive, &[9, 9]);
    let run = queue.take_batch(&EIGHT, &ends_soon(&told), None);
    assert!(run.as_ref().is_some_and(|run| !run.going.gives_way()));
    assert_eq!(costs(run), [1]);
    queue.pace.speed.observe(1, LONG);
    let _bulk = push(&queue, &admission, Class::Bulk, &[1]);
    assert_eq!(costs(queue.take_batch(&EIGHT, &ends_soon(&told), None)), [9, 9]);
}

#[test]
fn a_closed_queue_takes_back_what_was_taken_and_says_so() {
    let (queue, admission) = (queue(Pace { room: Room::of(1), ..pace() }), Admission::of(99));
    let told = Arc::default();
    let mut tickets = push(&queue, &admission, Class::Bulk, &[1]);
    let run = queue.take_batch(&EIGHT, &ends_soon(&told), None).expect("open");
    tickets.extend(push(&queue, &admission, Class::Interactive, &[9]));
    queue.close();
    assert!(put_back(&queue, run));
    let left = || queue.take_batch(&EIGHT, &ends_soon(&told), None);
    assert_eq!((costs(left()), costs(left())), (vec![9], vec![1]));
    assert!(left().is_none());
}

/// What a run takes that would have threads of another one, of what is there.
fn beside(queue: &JobQueue<u32>) -> Option<usize> {
    let state = queue.lock();
    let waiting: Vec<Waiting> = state.jobs.values().map(Entry::waiting).collect();
    let policy = queue.adapt(EIGHT, &state, waiting.first(), &taker(Role::Beside), Instant::now());
    if !policy.can_be_beside(&waiting[0]) {
        return None;
    }
    match policy.decide_beside(&waiting, state.is_left) {
        Decision::Take(batch) => Some(batch.len()),
        _ => None,
    }
}

#[test]
fn a_run_takes_threads_from_another_one_for_a_full_batch_alone() {
    let (queue, admission) = (queue(pace()), Admission::of(99));
    let one = || push(&queue, &admission, Class::Interactive, &[1]);
    let _some: Vec<_> = (0..7).map(|_| one()).collect();
    assert_eq!(beside(&queue), None, "the other run's session takes them next, with all its threads");
    let _one = one();
    assert_eq!(beside(&queue), Some(8));
}

#[test]
fn a_run_takes_no_threads_from_others_for_what_is_in_the_way_of_small_requests() {
    let (queue, admission) = (queue(pace()), Admission::of(99));
    let _large = push(&queue, &admission, Class::Interactive, &[1; 16]);
    assert_eq!(beside(&queue), Some(8), "nobody else is there");
    let _small = push(&queue, &admission, Class::Interactive, &[1]);
    assert_eq!(beside(&queue), None);
    let bulk = self::queue(pace());
    let _bulk = push(&bulk, &admission, Class::Bulk, &[1; 16]);
    assert_eq!(beside(&bulk), Some(8));
    bulk.pace.activity.seen(Instant::now());
    assert_eq!(beside(&bulk), None);
}

#[test]
fn those_who_are_free_take_a_part_each_of_what_is_there() {
    let taken = |idle_beside, count: usize| {
        let (queue, admission) = (queue(pace()), Admission::of(99));
        queue.lock().idle_beside = idle_beside;
        let _tickets = push(&queue, &admission, Class::Interactive, &vec![1; count]);
        let first = queue.take_batch(&EIGHT, &taker(Role::Own), None).expect("open").jobs.len();
        let mut parts = vec![first];
        for left in (0..idle_beside).rev() {
            queue.lock().idle_beside = left;
            if !queue.lock().is_left {
                break;
            }
            parts.push(queue.take_batch(&EIGHT, &taker(Role::Beside), None).expect("open").jobs.len());
        }
        assert_eq!(queue.lock().jobs.len(), count - parts.iter().sum::<usize>());
        parts
    };
    assert_eq!(taken(0, 6), [6]);
    assert_eq!(taken(1, 1), [1], "one has all threads");
    assert_eq!(taken(1, 6), [3, 3]);
    assert_eq!(taken(1, 7), [4, 3]);
    assert_eq!(taken(1, 99), [8, 8], "a full batch each");
    assert_eq!(taken(3, 6), [2, 2, 1, 1]);
}

#[test]
fn what_is_more_than_a_runs_work_wakes_who_takes_that_alone() {
    let (queue, admission) = (queue(pace()), Admission::of(99));
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| queue.take_batch(&EIGHT, &taker(Role::Beside), None));
        let _first = push(&queue, &admission, Class::Interactive, &[1; 16]);
        // Whoever of the two comes first leaves a batch for the other.
        assert_eq!(costs(queue.take_batch(&EIGHT, &taker(Role::Own), None)), [1; 8]);
        assert_eq!(costs(waits.join().expect("no panic")), [1; 8]);
    });
    std::thread::scope(|scope| {
        let _few = push(&queue, &admission, Class::Interactive, &[1; 3]);
        let waits = scope.spawn(|| queue.take_batch(&EIGHT, &taker(Role::Beside), None));
        queue.close();
        assert!(waits.join().expect("no panic").is_none(), "a closed queue's last batch is the session's own");
        assert_eq!(costs(queue.take_batch(&EIGHT, &taker(Role::Own), None)), [1; 3]);
    });
}
