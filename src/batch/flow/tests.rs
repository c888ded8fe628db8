//! The forecast by itself: its two formulas, and what requests and runs leave of it.

use super::*;

#[test]
fn the_table_of_what_comes_first() {
    use Class::{Bulk, Interactive};
    type Others = &'static [(Class, f64)];
    let cases: &[(&str, Class, f64, Others, f64)] = &[
        ("nobody is there", Interactive, 1.0, &[], 0.0),
        ("one item behind single items: each of them", Interactive, 1.0, &[(Interactive, 1.0); 5], 5.0),
        ("one item beside a large request: its turn comes after one", Interactive, 1.0, &[(Interactive, 64.0)], 1.0),
        ("a large request behind a small one", Interactive, 64.0, &[(Interactive, 1.0)], 1.0),
        ("two large ones share", Interactive, 64.0, &[(Interactive, 60.0)], 60.0),
        ("bulk work does not count for interactive", Interactive, 1.0, &[(Bulk, 64.0)], 0.0),
        ("all interactive work counts for bulk", Bulk, 1.0, &[(Interactive, 64.0), (Bulk, 64.0)], 65.0),
    ];
    for (name, class, own, others, expected) in cases {
        let others = others.iter().map(|&(class, work)| Left { class, work });
        assert!((ahead(*class, *own, others) - expected).abs() < 1e-9, "{name}");
    }
}

#[test]
fn the_table_of_waits() {
    // Runs of eight that take 0.5 s, one alone 0.1.
    let found = |ahead, running| Found { ahead, running, run: (8.0, 0.5), per_unit: 0.0625 };
    let alone_of_late = Found { ahead: 0.0, running: 0.05, run: (1.0, 0.1), per_unit: 0.1 };
    for (name, found, own, alone, expected) in [
        ("in the next run, with seven others", found(0.0, 0.3), 1.0, 0.1, 0.3 + 0.4),
        ("the same, behind five", found(5.0, 0.3), 1.0, 0.1, 0.3 + 0.4),
        ("in the run after it, behind ten", found(10.0, 0.3), 1.0, 0.1, 0.3 + 3.0 * 0.0625 + 0.4),
        ("nobody else of late", alone_of_late, 1.0, 0.1, 0.05),
        ("a large one behind a run waits for the rest of it", found(0.0, 0.3), 64.0, 4.0, 0.3),
        ("never sooner than alone", found(0.0, 0.0), 1.0, 0.9, 0.0),
    ] {
        let seconds = wait(found, own, alone);
        assert!((seconds - expected).abs() < 1e-9, "{name}: {seconds}, expected {expected}");
    }
}

fn images(n: usize) -> Vec<Work> {
    vec![Work { decode: 10, encode: 1 }; n]
}

fn speeds(decode_ms: u64, encode_ms: u64) -> Speeds {
    let speeds = Speeds::default();
    speeds.decode.observe(10, Duration::from_millis(decode_ms));
    speeds.encode.observe(1, Duration::from_millis(encode_ms));
    speeds
}

#[test]
fn what_is_left_goes_down_with_the_items_and_a_run_counts_for_what_is_left_of_it() {
    let (flows, speeds, now) = (Flows::new(1, 1, 2), speeds(1, 100), Instant::now());
    let ask = |n: usize, now| flows.wait(Class::Interactive, &images(n), &speeds, now).map(|wait| wait.as_millis());
    assert_eq!(ask(1, now), None, "idle");
    let flow = flows.enter(Class::Interactive, &images(4), &speeds, now, |wait| wait.is_none()).expect("idle");
    assert!(flow.is_large);
    let mut shares: Vec<Share> = images(4).into_iter().map(|work| Share::new(Arc::clone(&flow), work)).collect();
    drop(flow);
    assert_eq!((ask(1, now), ask(2, now), ask(9, now)), (Some(100), Some(200), Some(400)));
    shares[0].running();
    shares[1].running();
    let run = flows.run(2, false, &speeds, now);
    assert_eq!(ask(9, now), Some(400), "two run, two wait");
    assert_eq!(ask(9, now + Duration::from_millis(150)), Some(250));
    assert_eq!(ask(9, now + Duration::from_secs(9)), Some(200), "longer than expected: any moment now");
    drop(run);
    drop(shares);
    assert_eq!(ask(9, now), None, "idle again");
}

#[test]
fn runs_that_share_a_session_are_taken_for_what_they_are_alone_and_hold_others_for_what_they_are() {
    let (flows, speeds, now) = (Flows::new(1, 1, 2), speeds(1, 100), Instant::now());
    let (ms, at) = (Duration::from_millis, |ms| now + Duration::from_millis(ms));
    let ask = |now| flows.wait(Class::Interactive, &images(1), &speeds, now).map(|wait| wait.as_millis());
    let first = flows.run(2, false, &speeds, now);
    assert_eq!(ask(at(50)), Some(150));
    let second = flows.run(2, false, &speeds, at(100));
    assert_eq!(
        ask(at(150)),
        Some(250),
        "the first has 75 ms left, twice, and a run of one takes 100 ms more than alone"
    );
    assert_eq!((first.alone(at(200)), second.alone(at(200))), (ms(150), ms(50)));
    drop(first);
    assert_eq!(second.alone(at(300)), ms(150), "it has all threads again");
    let independent = Flows::new(1, 2, 2);
    let first = independent.run(2, false, &speeds, now);
    let second = independent.run(2, false, &speeds, now);
    assert_eq!((first.alone(at(100)), second.alone(at(100))), (ms(100), ms(100)), "each has its own threads");
}

#[test]
fn a_run_that_gives_way_holds_nobody_of_the_first_class_and_what_it_had_waits_again() {
    let (flows, speeds, now) = (Flows::new(1, 1, 2), speeds(1, 100), Instant::now());
    let ask = |class| flows.wait(class, &images(9), &speeds, now).map(|wait| wait.as_millis());
    let bulk = flows.enter(Class::Bulk, &images(2), &speeds, now, |_| true).expect("idle");
    let mut shares: Vec<Share> = images(2).into_iter().map(|work| Share::new(Arc::clone(&bulk), work)).collect();
    drop(bulk);
    shares.iter_mut().for_each(Share::running);
    let run = flows.run(2, true, &speeds, now);
    assert_eq!((ask(Class::Interactive), ask(Class::Bulk)), (Some(0), Some(200)));
    drop(run);
    assert_eq!(ask(Class::Bulk), Some(0), "it is in no run, and does not wait");
    shares.iter_mut().for_each(Share::waits_again);
    assert_eq!((ask(Class::Interactive), ask(Class::Bulk)), (Some(0), Some(200)));
    let held = flows.run(2, false, &speeds, now);
    assert_eq!(ask(Class::Interactive), Some(200), "not every one gives way");
    drop((held, shares));
    assert_eq!(ask(Class::Bulk), None);
}

#[test]
fn the_second_class_waits_as_long_as_none_of_it_has_been_answered() {
    let (flows, speeds, now) = (Flows::new(1, 1, 2), speeds(1, 100), Instant::now());
    let at = |seconds| now + Duration::from_secs(seconds);
    let ask = |class, now| flows.wait(class, &images(1), &speeds, now).map(|wait| wait.as_millis());
    let bulk = flows.enter(Class::Bulk, &images(2), &speeds, now, |_| true).expect("idle");
    let mut shares: Vec<Share> = images(2).into_iter().map(|work| Share::new(Arc::clone(&bulk), work)).collect();
    drop(bulk);
    assert_eq!((ask(Class::Bulk, at(7)), ask(Class::Interactive, at(7))), (Some(7000), Some(0)));
    shares.pop().expect("two").running();
    flows.finished(Class::Interactive, at(8));
    assert_eq!(ask(Class::Bulk, at(9)), Some(9000));
    flows.finished(Class::Bulk, at(8));
    assert_eq!(ask(Class::Bulk, at(9)), Some(1000));
    shares[0].running();
    assert_eq!(ask(Class::Bulk, at(9)), Some(0), "none of it waits");
}

#[test]
fn the_slower_of_the_two_stages_decides() {
    let (flows, now) = (Flows::new(2, 1, 2), Instant::now());
    let slow_decoder = speeds(500, 100);
    let flow = flows.enter(Class::Interactive, &images(1), &slow_decoder, now, |_| true).expect("let in");
    let mut share = Share::new(flow, images(1)[0]);
    let ask = || flows.wait(Class::Interactive, &images(1), &slow_decoder, now).map(|wait| wait.as_millis());
    assert_eq!(ask(), Some(250), "half a second on two threads");
    share.decoded();
    assert_eq!(ask(), Some(100));
}

#[test]
fn of_many_that_come_at_once_each_sees_those_before_it() {
    let (flows, speeds, now) = (Flows::new(1, 1, 2), speeds(1, 100), Instant::now());
    let most = Duration::from_millis(350);
    let enter =
        || flows.enter(Class::Interactive, &images(1), &speeds, now, |wait| wait.is_none_or(|wait| wait <= most)).ok();
    let inside: Vec<Share> = std::iter::from_fn(enter).map(|flow| Share::new(flow, images(1)[0])).collect();
    assert_eq!(inside.len(), 4, "behind 0, 100, 200 and 300 ms");
}
