//! Which waiting items make the next batch: a pure function of the time and the queue.
//!
//! Owns the decision. Owns no clock, no thread, no queue; a table of tests covers it.
//!
//! Work-conserving: with `max_queue_delay` zero, a free session takes what is there at once, and load alone makes batches
//! bigger. The one exception is bounded by the work itself: who was answered together comes back together, and a session that took
//! the first of them alone would pay a run for one; it waits for as many as it has just answered, for [`RETURN_SHARE`] of that
//! run at most. The queue is in the order of turns (`turn`), and its first item is always in the batch, so nothing starves. Items are
//! of a *cost* (1 for an image, the token count for a text); a batch costs `longest x count`, because shorter texts are padded to
//! the longest. The items that join the first do so in their turn, as long as padding (where it is computed) stays a small part of the
//! work, of its class, and of which the same outputs are wanted: one run computes the same for all.
//!
//! A run of the first class is not ended for others, so what is in it is what the next client waits for. Beside clients who ask for little
//! ([`BatchPolicy::large_cost`] is set) the items of large requests join a run only while it stays short.

use std::time::{Duration, Instant};

use super::Class;
use crate::encoder::OutputSet;

/// Of the padded cost of a batch, how much may be padding, where padding is computed. A quarter: a run's time is then nearly linear in
/// its padded tokens, and below that splitting a batch costs more in per-run overhead than the padding it saves.
const MAX_PADDING: f64 = 0.25;

/// Of the time of a run, how long the session waits for those it answered: the most that waiting in vain can cost.
/// A thirtieth of a run of 30 texts is about a run of one, and enough for their clients to ask again (`docs/performance.md`).
const RETURN_SHARE: f64 = 1.0 / 30.0;

/// The run that a session has just done.
#[derive(Clone, Copy, Debug)]
pub struct LastRun {
    /// How many items it answered.
    pub items: usize,
    /// When it ended.
    pub ended: Instant,
    /// How long it took.
    pub took: Duration,
    /// Whose items they were.
    pub class: Class,
}

impl LastRun {
    /// Until when others may come back beside the first; `None` where no others are awaited.
    fn returning(&self, waiting: usize) -> Option<Instant> {
        (self.items > waiting.max(1)).then(|| self.ended + self.took.mul_f64(RETURN_SHARE))
    }
}

/// The limits of one batch.
#[derive(Clone, Copy, Debug)]
pub struct BatchPolicy {
    /// Items in one run at most; at least 1.
    pub max_batch_size: usize,
    /// `longest x count` at most; a single item may exceed it.
    pub max_batch_cost: usize,
    /// How long the oldest item may wait for the batch to fill.
    pub max_queue_delay: Duration,
    /// Whether padding costs as much as what is padded ([`crate::encoder::Encoder::pads`]).
    pub pads: bool,
    /// The cost of a run up to which items of large requests may join it; `None`: they are like all others. The first in turn is
    /// always taken.
    pub large_cost: Option<usize>,
}

/// What the policy sees of one waiting item.
#[derive(Clone, Copy, Debug)]
pub struct Waiting {
    /// 1 for an image, the token count for a text.
    pub cost: usize,
    /// Since when it waits.
    pub since: Instant,
    /// Who goes first.
    pub class: Class,
    /// Whether its request has more work than a few items have.
    pub is_of_large: bool,
    /// What is wanted of it besides the embedding.
    pub outputs: OutputSet,
}

/// What a free session should do now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Nothing waits.
    Idle,
    /// The batch may still fill up; look again then, or when an item comes.
    WaitUntil(Instant),
    /// Run these items (indices into the queue, ascending).
    Take(Vec<usize>),
}

impl BatchPolicy {
    /// One item at a time, in order of turns.
    pub fn single() -> Self {
        Self {
            max_batch_size: 1,
            max_batch_cost: usize::MAX,
            max_queue_delay: Duration::ZERO,
            pads: true,
            large_cost: None,
        }
    }

    /// Decides for `queue`, in the order of turns, after `last`. `flush` (the queue is closed) means that nothing more will come: don't wait.
    pub fn decide(&self, now: Instant, queue: &[Waiting], last: Option<LastRun>, flush: bool) -> Decision {
        let Some(first) = queue.first() else { return Decision::Idle };
        let (chosen, full) = self.batch(queue, first);
        let oldest = queue.iter().map(|item| item.since).min().unwrap_or(first.since);
        let filled = oldest + self.max_queue_delay;
        let until = last.and_then(|last| last.returning(queue.len())).map_or(filled, |returned| filled.max(returned));
        if full || flush || until <= now { Decision::Take(chosen) } else { Decision::WaitUntil(until) }
    }

    /// Decides for a run that would take threads from another one that goes on: of what came since, only what makes a run of its own is
    /// worth that, and all that was left to it ([`BatchPolicy::part`]) is.
    pub fn decide_beside(&self, queue: &[Waiting], is_left: bool) -> Decision {
        let Some(first) = queue.first() else { return Decision::Idle };
        let (chosen, full) = self.batch(queue, first);
        if full || is_left { Decision::Take(chosen) } else { Decision::Idle }
    }

    /// Whether what begins with `first` may be run with threads that are taken from another run: not what is in the way of somebody who asks
    /// for little, nor outputs, whose graph has one session.
    pub fn can_be_beside(&self, first: &Waiting) -> bool {
        let is_in_the_way = self.large_cost.is_some() && (first.is_of_large || first.class == Class::Bulk);
        first.outputs.is_empty() && !is_in_the_way
    }

    /// What of `chosen` is run by one of several who could take what is there at the same time, `others` besides it: as much as leaves them
    /// the same. Runs of a thread each are done sooner than one run of all threads, whose operators wait for the last of them.
    pub fn part(&self, queue: &[Waiting], mut chosen: Vec<usize>, others: usize) -> Vec<usize> {
        let class = chosen.first().map(|&first| queue[first].class);
        let all: usize = queue.iter().filter(|item| Some(item.class) == class).map(|item| item.cost).sum();
        let (mine, mut cost) = (all.div_ceil(others + 1), 0);
        let is_last = |&at: &usize| {
            cost += queue[at].cost;
            cost >= mine
        };
        if let Some(last) = chosen.iter().position(is_last) {
            chosen.truncate(last + 1);
        }
        chosen
    }

    /// The batch around `first`, and whether it can grow no further.
    fn batch(&self, queue: &[Waiting], first: &Waiting) -> (Vec<usize>, bool) {
        let eligible = self.eligible(queue, first);
        if eligible.len() == queue.len() {
            return self.choose(queue);
        }
        let waiting: Vec<Waiting> = eligible.iter().map(|&i| queue[i]).collect();
        // What is left out makes runs of its own, so nobody is awaited for this one.
        (self.choose(&waiting).0.into_iter().map(|i| eligible[i]).collect(), true)
    }

    /// Those that may be in one run with the first.
    fn eligible(&self, queue: &[Waiting], first: &Waiting) -> Vec<usize> {
        let mut cost = 0;
        let mut joins = |(i, item): (usize, &Waiting)| {
            let short = self.large_cost.is_none_or(|most| !item.is_of_large || cost + item.cost <= most);
            let joins = i == 0 || (item.class == first.class && short);
            cost += if joins { item.cost } else { 0 };
            joins.then_some(i)
        };
        queue.iter().enumerate().filter_map(&mut joins).collect()
    }

    /// The batch of those that may be in one run with the first, and whether it can grow no further.
    fn choose(&self, queue: &[Waiting]) -> (Vec<usize>, bool) {
        let Some(first) = queue.first() else { return (Vec::new(), false) };
        let uniform = queue.iter().all(|item| (item.cost, item.outputs) == (first.cost, first.outputs));
        if uniform {
            let fits = (self.max_batch_cost / first.cost.max(1)).min(self.max_batch_size).max(1);
            return ((0..queue.len().min(fits)).collect(), queue.len() >= fits);
        }
        // In the order of turns, so that who came before is only passed over for the padding it would make: at first by those near to
        // each other in length, which fill the batch where many wait, then by whoever is near enough.
        // Outputs are those of padding as well.
        let pads = self.pads || !first.outputs.is_empty();
        let (mut chosen, mut longest, mut useful) = (vec![0], first.cost, first.cost);
        let mut left: Vec<usize> = (1..queue.len()).filter(|&i| queue[i].outputs == first.outputs).collect();
        for padding in [MAX_PADDING / 2.0, MAX_PADDING] {
            left.retain(|&i| {
                let cost = queue[i].cost;
                let padded = longest.max(cost).saturating_mul(chosen.len() + 1);
                let wasted = padded.saturating_sub(useful).saturating_sub(cost);
                let fits = chosen.len() < self.max_batch_size && padded <= self.max_batch_cost;
                let joins = fits && !(pads && wasted as f64 > padded as f64 * padding);
                if joins {
                    chosen.push(i);
                    (longest, useful) = (longest.max(cost), useful.saturating_add(cost));
                }
                !joins
            });
        }
        chosen.sort_unstable();
        // What is left makes a batch of its own, so this one is complete.
        let full = chosen.len() == self.max_batch_size || chosen.len() < queue.len();
        (chosen, full)
    }
}

#[cfg(test)]
mod unit {
    use proptest::prelude::*;

    use super::*;

    fn policy(max_batch_size: usize, max_batch_cost: usize, delay_ms: u64) -> BatchPolicy {
        BatchPolicy {
            max_batch_size,
            max_batch_cost,
            max_queue_delay: Duration::from_millis(delay_ms),
            pads: true,
            large_cost: None,
        }
    }

    /// A queue of such costs whose items came 1 ms apart, the last one now.
    fn queue(now: Instant, costs: &[usize]) -> Vec<Waiting> {
        let age = |i: usize| Duration::from_millis((costs.len() - 1 - i) as u64);
        let item = |(i, &cost)| Waiting {
            cost,
            since: now - age(i),
            class: Class::Interactive,
            is_of_large: false,
            outputs: OutputSet::EMPTY,
        };
        costs.iter().enumerate().map(item).collect()
    }

    #[test]
    fn the_table() {
        let now = Instant::now();
        let take = |indices: &[usize]| Decision::Take(indices.to_vec());
        let wait = |ms| Decision::WaitUntil(now + Duration::from_millis(ms));
        let cases: &[(&str, BatchPolicy, &[usize], bool, Decision)] = &[
            ("nothing waits", policy(8, 99, 0), &[], false, Decision::Idle),
            ("nothing waits, closed", policy(8, 99, 5), &[], true, Decision::Idle),
            ("one item, no delay: at once", policy(8, 99, 0), &[1], false, take(&[0])),
            ("all that is there", policy(8, 99, 0), &[1, 1, 1], false, take(&[0, 1, 2])),
            ("no more than max_batch_size, oldest first", policy(2, 99, 0), &[1, 1, 1], false, take(&[0, 1])),
            ("a delay waits for more", policy(8, 99, 5), &[1], false, wait(5)),
            ("measured from the oldest", policy(8, 99, 5), &[1, 1, 1], false, wait(3)),
            ("a full batch does not wait", policy(3, 99, 5), &[1, 1, 1], false, take(&[0, 1, 2])),
            ("the oldest has waited enough", policy(8, 99, 2), &[1, 1, 1], false, take(&[0, 1, 2])),
            ("a closed queue does not wait", policy(8, 99, 5), &[1], true, take(&[0])),
            ("cost bounds the batch", policy(8, 20, 0), &[10, 10, 10], false, take(&[0, 1])),
            ("one item may exceed the cost", policy(8, 5, 0), &[10, 10], false, take(&[0])),
            (
                "short texts do not wait for a long one's padding",
                policy(8, 999, 0),
                &[7, 77, 7, 7],
                false,
                take(&[0, 2, 3]),
            ),
            ("nor the long one for theirs", policy(8, 999, 0), &[77, 7, 7], false, take(&[0])),
            ("near lengths go together", policy(8, 999, 0), &[8, 9, 7, 10], false, take(&[0, 1, 2, 3])),
            ("the nearest in length first", policy(2, 999, 0), &[8, 12, 9], false, take(&[0, 2])),
            ("of those near in length the first in turn", policy(3, 999, 0), &[8, 9, 7, 8, 8], false, take(&[0, 1, 2])),
            (
                "a mixed queue is complete when only other lengths remain",
                policy(8, 999, 5),
                &[7, 77],
                false,
                take(&[0]),
            ),
        ];
        for (name, policy, costs, flush, expected) in cases {
            assert_eq!(&policy.decide(now, &queue(now, costs), None, *flush), expected, "{name}");
        }
    }

    #[test]
    fn those_that_were_answered_together_are_awaited_for_a_small_part_of_their_run() {
        let now = Instant::now();
        let ms = Duration::from_millis;
        let take = |indices: &[usize]| Decision::Take(indices.to_vec());
        let wait = |ms| Decision::WaitUntil(now + Duration::from_millis(ms));
        // A run of 300 ms, so 10 ms to come back, that ended `ago`.
        let after = |items, ago| LastRun { items, ended: now - ms(ago), took: ms(300), class: Class::Interactive };
        let cases: &[(&str, BatchPolicy, usize, LastRun, bool, Decision)] = &[
            ("the first of four that come back", policy(8, 99, 0), 1, after(4, 3), false, wait(7)),
            ("the third", policy(8, 99, 0), 3, after(4, 3), false, wait(7)),
            ("all of them", policy(8, 99, 0), 4, after(4, 3), false, take(&[0, 1, 2, 3])),
            ("they do not come", policy(8, 99, 0), 1, after(4, 10), false, take(&[0])),
            ("one that comes much later", policy(8, 99, 0), 1, after(4, 5000), false, take(&[0])),
            ("one alone was answered", policy(8, 99, 0), 1, after(1, 0), false, take(&[0])),
            ("a full batch", policy(2, 99, 0), 2, after(4, 3), false, take(&[0, 1])),
            ("nothing more will come", policy(8, 99, 0), 1, after(4, 3), true, take(&[0])),
            ("a delay that is longer", policy(8, 99, 20), 1, after(4, 3), false, wait(20)),
            ("a delay that is shorter", policy(8, 99, 2), 1, after(4, 3), false, wait(7)),
            ("nobody comes back", policy(8, 99, 0), 0, after(4, 3), false, Decision::Idle),
        ];
        for (name, policy, waiting, last, flush, expected) in cases {
            let waiting = queue(now, &vec![1; *waiting]);
            assert_eq!(&policy.decide(now, &waiting, Some(*last), *flush), expected, "{name}");
        }
    }

    #[test]
    fn where_padding_costs_nothing_all_lengths_go_together_within_the_limits() {
        let now = Instant::now();
        let packed = |size, cost| BatchPolicy { pads: false, ..policy(size, cost, 0) };
        let mut mixed = queue(now, &[7, 77, 8, 30]);
        assert_eq!(packed(8, 999).decide(now, &mixed, None, false), Decision::Take(vec![0, 1, 2, 3]));
        assert_eq!(packed(2, 999).decide(now, &mixed, None, false), Decision::Take(vec![0, 1]));
        assert_eq!(packed(8, 200).decide(now, &mixed, None, false), Decision::Take(vec![0, 1]));
        for item in &mut mixed {
            item.outputs = [crate::encoder::Output::Attentions].into_iter().collect();
        }
        assert_eq!(packed(8, 999).decide(now, &mixed, None, false), Decision::Take(vec![0, 2]), "outputs have padding");
    }

    #[test]
    fn items_of_which_other_outputs_are_wanted_make_a_batch_of_their_own() {
        let now = Instant::now();
        let mut mixed = queue(now, &[1, 1, 1, 1]);
        for i in [1, 2] {
            mixed[i].outputs = [crate::encoder::Output::Attentions].into_iter().collect();
        }
        let patient = policy(8, 99, 50);
        assert_eq!(patient.decide(now, &mixed, None, false), Decision::Take(vec![0, 3]), "complete: it does not wait");
        mixed.remove(0);
        assert_eq!(patient.decide(now, &mixed, None, false), Decision::Take(vec![0, 1]));
        assert_eq!(policy(1, 99, 0).decide(now, &mixed, None, false), Decision::Take(vec![0]));
    }

    #[test]
    fn beside_small_requests_the_items_of_large_ones_join_a_run_only_while_it_stays_short() {
        let now = Instant::now();
        let short = |most| BatchPolicy { large_cost: Some(most), ..policy(8, 999, 50) };
        let take = |indices: &[usize]| Decision::Take(indices.to_vec());
        // Large, large, small, large, small.
        let mut mixed = queue(now, &[1; 5]);
        for i in [0, 1, 3] {
            mixed[i].is_of_large = true;
        }
        assert_eq!(
            short(1).decide(now, &mixed, None, false),
            take(&[0, 2, 4]),
            "the first in turn, and all small ones"
        );
        assert_eq!(short(2).decide(now, &mixed, None, false), take(&[0, 1, 2, 4]));
        assert_eq!(short(9).decide(now, &mixed, None, true), take(&[0, 1, 2, 3, 4]));
        mixed.swap(0, 2);
        assert_eq!(short(1).decide(now, &mixed, None, false), take(&[0, 4]), "no large one beside a small one");
        assert_eq!(policy(8, 999, 0).decide(now, &mixed, None, false), take(&[0, 1, 2, 3, 4]), "no small ones of late");
    }

    #[test]
    fn the_classes_are_not_mixed() {
        let now = Instant::now();
        let mut mixed = queue(now, &[1; 3]);
        mixed[1].class = Class::Bulk;
        assert_eq!(policy(8, 99, 50).decide(now, &mixed, None, false), Decision::Take(vec![0, 2]));
    }

    proptest! {
        #[test]
        fn a_batch_is_within_its_limits_and_has_the_oldest(
            costs in prop::collection::vec(1usize..78, 1..200),
            size in 1usize..70,
            cost in 1usize..4000,
        ) {
            let now = Instant::now();
            let Decision::Take(batch) = policy(size, cost, 0).decide(now, &queue(now, &costs), None, false) else {
                panic!("with no delay, a session that is free takes something");
            };
            prop_assert_eq!(batch[0], 0, "the oldest is in it");
            prop_assert!(batch.windows(2).all(|w| w[0] < w[1]), "ascending, none twice");
            prop_assert!(batch.len() <= size);
            let longest = batch.iter().map(|&i| costs[i]).max().unwrap_or(0);
            prop_assert!(batch.len() == 1 || longest * batch.len() <= cost);
            let useful: usize = batch.iter().map(|&i| costs[i]).sum();
            let padded = longest * batch.len();
            prop_assert!((padded - useful) as f64 <= padded as f64 * MAX_PADDING);
        }

        #[test]
        fn every_item_is_taken_in_the_end(costs in prop::collection::vec(1usize..78, 1..100), size in 1usize..20) {
            let now = Instant::now();
            let policy = policy(size, 512, 0);
            let mut waiting = queue(now, &costs);
            let mut rounds = 0;
            while let Decision::Take(batch) = policy.decide(now, &waiting, None, false) {
                for &i in batch.iter().rev() {
                    waiting.remove(i);
                }
                rounds += 1;
                prop_assert!(rounds <= costs.len());
            }
            prop_assert!(waiting.is_empty());
        }
    }
}
