//! Whose turn it is: the order of a queue, in which requests and not items come one after the other.
//!
//! Owns the order. Start-time fair queueing (Goyal, Vin, Cheng, 1996): the queue has a virtual time; an item starts at that time, or
//! where the item before it of the same request ends, whichever is later, and ends its cost after its start. Items are taken in the
//! order of their starts, so a request with one item waits for one item of each other request at most, however many they have, and
//! of two large requests each gets half. The class comes before all that. Does not own the items (`queue`).
//!
//! Invariants: the virtual time never goes back; items of one request keep their order; of requests that
//! have nothing in the queue a bounded number is remembered.

use std::collections::HashMap;

use super::Class;

/// An item's place in the order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Turn {
    pub(super) class: Class,
    start: u64,
    /// Of two with the same start, the one that came first.
    number: u64,
}

/// The order of one queue.
#[derive(Debug)]
pub(super) struct Turns {
    /// Of each class, since bulk items must not wait for a time that interactive ones have moved.
    now: [u64; 2],
    requests: HashMap<u64, Request>,
    /// So many requests are remembered before those that have nothing in the queue are forgotten.
    most: usize,
    numbers: u64,
}

#[derive(Debug)]
struct Request {
    /// Where its last item ends.
    end: u64,
    waiting: usize,
}

/// The least for [`Turns::most`].
const REMEMBERED: usize = 64;

impl Default for Turns {
    fn default() -> Self {
        Self { now: [0; 2], requests: HashMap::new(), most: REMEMBERED, numbers: 0 }
    }
}

impl Turns {
    /// The turn of the next item of `request`, which costs `cost`, and now waits.
    pub(super) fn next(&mut self, request: u64, class: Class, cost: u64) -> Turn {
        let now = self.now[class as usize];
        if self.requests.len() >= self.most {
            self.requests.retain(|_, request| request.waiting > 0);
            // Twice as many as wait, so that looking at all of them is rare.
            self.most = REMEMBERED.max(2 * self.requests.len());
        }
        let known = self.requests.entry(request).or_insert(Request { end: now, waiting: 0 });
        let start = known.end.max(now);
        *known = Request { end: start.saturating_add(cost.max(1)), waiting: known.waiting + 1 };
        self.numbers += 1;
        Turn { class, start, number: self.numbers }
    }

    /// The items from `turn` on are taken: what comes now starts no earlier.
    pub(super) fn reached(&mut self, turn: Turn) {
        let now = &mut self.now[turn.class as usize];
        *now = turn.start.max(*now);
    }

    /// An item of `request` that was taken waits again, where its turn was.
    pub(super) fn back(&mut self, request: u64) {
        if let Some(request) = self.requests.get_mut(&request) {
            request.waiting += 1;
        }
    }

    /// An item of `request` waits no longer.
    pub(super) fn left(&mut self, request: u64) {
        if let Some(request) = self.requests.get_mut(&request) {
            request.waiting = request.waiting.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod unit {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// Takes everything that came as `(request, class, cost)`, in turn: the requests in that order.
    fn order(items: &[(u64, Class, u64)]) -> Vec<u64> {
        let mut turns = Turns::default();
        let mut queue: BTreeMap<Turn, u64> =
            items.iter().map(|&(request, class, cost)| (turns.next(request, class, cost), request)).collect();
        std::iter::from_fn(|| {
            let (turn, request) = queue.pop_first()?;
            turns.reached(turn);
            turns.left(request);
            Some(request)
        })
        .collect()
    }

    use Class::{Bulk, Interactive};

    #[test]
    fn requests_take_turns_and_the_first_class_goes_first() {
        let of = |request| (request, Interactive, 1);
        assert_eq!(order(&[of(1), of(1), of(1), of(2), of(3)]), [1, 2, 3, 1, 1]);
        assert_eq!(order(&[of(1), of(2), of(1), of(2)]), [1, 2, 1, 2]);
        assert_eq!(order(&[(1, Bulk, 1), (1, Bulk, 1), of(2), of(2)]), [2, 2, 1, 1]);
        // What costs much counts as much: three of cost 1 for one of cost 3.
        let dear = (9, Interactive, 3);
        assert_eq!(order(&[dear, dear, of(1), of(1), of(1), of(1)]), [9, 1, 1, 1, 9, 1]);
    }

    #[test]
    fn who_comes_late_does_not_wait_for_what_large_requests_have_left() {
        let mut turns = Turns::default();
        let mut queue = BTreeMap::new();
        for _ in 0..64 {
            queue.insert(turns.next(1, Interactive, 1), 1);
        }
        for _ in 0..10 {
            let (turn, request) = queue.pop_first().expect("one of 64");
            turns.reached(turn);
            turns.left(request);
        }
        queue.insert(turns.next(2, Interactive, 1), 2);
        assert_eq!(queue.pop_first().map(|(_, request)| request), Some(2));
    }

    #[test]
    fn requests_that_are_over_are_forgotten() {
        let mut turns = Turns::default();
        for request in 0..10_000 {
            let turn = turns.next(request, Interactive, 1);
            turns.reached(turn);
            turns.left(request);
        }
        assert!(turns.requests.len() <= REMEMBERED, "{}", turns.requests.len());
    }

    proptest! {
        #[test]
        fn a_lone_item_waits_for_no_more_than_one_of_each_other_request(
            sizes in prop::collection::vec(1usize..30, 1..20),
        ) {
            let mut items: Vec<(u64, Class, u64)> = Vec::new();
            for (request, &size) in (1..).zip(&sizes) {
                items.extend(std::iter::repeat_n((request, Interactive, 1), size));
            }
            items.push((0, Interactive, 1));
            let at = order(&items).iter().position(|&request| request == 0).expect("taken");
            prop_assert!(at <= sizes.len());
        }
    }
}
