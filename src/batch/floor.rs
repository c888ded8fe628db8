//! Which runs of a model go on, and which of them give way to others.
//!
//! The lanes of a model share the machine: each has sessions for all of it. A run takes the [`Room`] of one of them, so as many go on side by
//! side as there is room for. Owns that count, and who ends: when something of the first class comes and there is no room for its run, runs of the
//! second class are ended, the youngest first, since least is lost by them. Does not own when that is in order (`queue` keeps the second class
//! from starving), nor what a run that was ended leaves (`worker` puts its items back).
//!
//! Invariants: a run of the first class always begins; none but those that said how are ended, and each once; who was refused room is woken
//! when there is more; nobody is woken under the floor's lock.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use crate::encoder::Interrupt;

/// Somebody who waits for room.
pub trait Wake: Send + Sync {
    /// There may be room now.
    fn wake(&self);
}

/// The part of the machine that a run of one lane takes; none of it by default.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Room(f64);

impl Room {
    /// Of a lane with so many sessions.
    pub fn of(sessions: usize) -> Self {
        Self(1.0 / sessions.max(1) as f64)
    }
}

/// More than rounding makes of as many parts as there can be.
const ROUNDING: f64 = 1e-6;

/// The runs of one model.
#[derive(Default)]
pub struct Floor {
    state: Mutex<State>,
    waiting: Mutex<Vec<Weak<dyn Wake>>>,
}

#[derive(Default)]
struct State {
    /// The oldest first.
    runs: Vec<Run>,
    next: u64,
    /// Whether somebody was refused room since it was last more.
    is_refused: bool,
}

struct Run {
    id: u64,
    room: Room,
    /// How it is ended for others.
    interrupt: Option<Interrupt>,
    is_ended: bool,
}

impl State {
    /// Whether there is room for another run beside those that go on.
    fn has_room(&self, room: Room) -> bool {
        let taken: f64 = self.runs.iter().filter(|run| !run.is_ended).map(|run| run.room.0).sum();
        room == Room::default() || taken + room.0 <= 1.0 + ROUNDING
    }

    /// Ends runs until there is room for another one, or none is left that can be ended.
    fn make_room(&mut self, room: Room) {
        while !self.has_room(room) {
            let youngest = self.runs.iter_mut().rev().find(|run| run.interrupt.is_some() && !run.is_ended);
            let Some(run) = youngest else { return };
            run.is_ended = true;
            if let Some(interrupt) = &run.interrupt {
                interrupt();
            }
        }
    }

    fn begin(&mut self, room: Room, interrupt: Option<Interrupt>) -> u64 {
        self.next += 1;
        self.runs.push(Run { id: self.next, room, interrupt, is_ended: false });
        self.next
    }
}

impl Floor {
    /// From now on `who` is woken when there is more room, for as long as it is there.
    pub fn wakes(&self, who: Weak<dyn Wake>) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).push(who);
    }

    /// Something of the first class waits for a run.
    pub(super) fn first_class_comes(&self, room: Room) {
        self.lock().make_room(room);
    }

    /// A run of the first class begins.
    pub(super) fn begin_first(self: &Arc<Self>, room: Room) -> Going {
        let mut state = self.lock();
        state.make_room(room);
        let id = state.begin(room, None);
        drop(state);
        Going { floor: Arc::clone(self), id, gives_way: false }
    }

    /// A run of the second class begins, which `interrupt`, if there is one, ends when something of the first comes. `None` where it needs
    /// room and there is none.
    pub(super) fn begin_second(
        self: &Arc<Self>,
        room: Room,
        interrupt: Option<Interrupt>,
        needs_room: bool,
    ) -> Option<Going> {
        let mut state = self.lock();
        if needs_room && !state.has_room(room) {
            state.is_refused = true;
            return None;
        }
        let gives_way = interrupt.is_some();
        let id = state.begin(room, interrupt);
        drop(state);
        Some(Going { floor: Arc::clone(self), id, gives_way })
    }

    fn end(&self, id: u64) {
        let mut state = self.lock();
        state.runs.retain(|run| run.id != id);
        let is_refused = std::mem::take(&mut state.is_refused);
        drop(state);
        if !is_refused {
            return;
        }
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.retain(|who| who.strong_count() > 0);
        let waiting = waiting.clone();
        waiting.iter().filter_map(Weak::upgrade).for_each(|who| who.wake());
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Floor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Floor").field("runs", &self.lock().runs.len()).finish_non_exhaustive()
    }
}

/// A run that goes on, until it is dropped.
#[derive(Debug)]
pub(super) struct Going {
    floor: Arc<Floor>,
    id: u64,
    gives_way: bool,
}

impl Going {
    /// Whether it is ended when something of the first class comes.
    pub(super) fn gives_way(&self) -> bool {
        self.gives_way
    }

    /// Whether it was.
    pub(super) fn was_ended(&self) -> bool {
        self.gives_way && self.floor.lock().runs.iter().any(|run| run.id == self.id && run.is_ended)
    }
}

impl Drop for Going {
    fn drop(&mut self) {
        self.floor.end(self.id);
    }
}

#[cfg(test)]
mod unit {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[derive(Default)]
    struct Counted(AtomicUsize);

    impl Counted {
        fn interrupt(self: &Arc<Self>) -> Interrupt {
            let counted = Arc::clone(self);
            Arc::new(move || counted.wake())
        }

        fn get(&self) -> usize {
            self.0.load(Ordering::SeqCst)
        }
    }

    impl Wake for Counted {
        fn wake(&self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// A run of the second class that is counted when it is ended.
    fn second(floor: &Arc<Floor>, room: Room, ended: &Arc<Counted>, needs_room: bool) -> Option<Going> {
        floor.begin_second(room, Some(ended.interrupt()), needs_room)
    }

    #[test]
    fn runs_of_the_second_class_end_until_there_is_room_and_the_youngest_first() {
        let (floor, half) = (Arc::new(Floor::default()), Room::of(2));
        let ended = [(); 2].map(|()| Arc::<Counted>::default());
        let ends = || ended.each_ref().map(|run| run.get());
        let [old, young] = ended.each_ref().map(|run| second(&floor, half, run, true).expect("room"));
        assert!(second(&floor, half, &ended[0], true).is_none(), "two halves are all");
        floor.first_class_comes(half);
        floor.first_class_comes(half);
        assert_eq!(ends(), [0, 1], "there is room now, so no other one, and none twice");
        assert!(young.was_ended() && !old.was_ended());
        let first = floor.begin_first(half);
        drop(young);
        assert_eq!(ends(), [0, 1]);
        floor.first_class_comes(half);
        assert_eq!(ends(), [1, 1], "another one waits");
        assert!(!first.gives_way() && !first.was_ended());
        floor.first_class_comes(Room::of(1));
        assert_eq!(ends(), [1, 1], "nobody is left to be ended");
    }

    #[test]
    fn a_run_that_begins_makes_room_itself_and_one_that_needs_none_begins_whatever_goes_on() {
        let (floor, all) = (Arc::new(Floor::default()), Room::of(1));
        let ended: Arc<Counted> = Arc::default();
        let _first = floor.begin_first(all);
        let second = second(&floor, all, &ended, false).expect("it needs none");
        let stays = floor.begin_second(all, None, false).expect("it needs none");
        let _third = floor.begin_first(all);
        assert_eq!((second.was_ended(), ended.get(), stays.was_ended()), (true, 1, false));
    }

    #[test]
    fn what_takes_no_room_ends_nobody() {
        let (floor, all) = (Arc::new(Floor::default()), Room::of(1));
        let ended: Arc<Counted> = Arc::default();
        let _two = [(); 2].map(|()| second(&floor, all, &ended, false));
        floor.first_class_comes(Room::default());
        assert_eq!(ended.get(), 0);
    }

    #[test]
    fn who_was_refused_room_is_woken_once_when_there_is_more() {
        let (floor, all) = (Arc::new(Floor::default()), Room::of(1));
        let woken: Arc<Counted> = Arc::default();
        let who: Arc<dyn Wake> = woken.clone();
        floor.wakes(Arc::downgrade(&who));
        drop(floor.begin_first(all));
        assert_eq!(woken.get(), 0, "nobody was refused");
        let going = floor.begin_first(all);
        assert!(second(&floor, all, &woken, true).is_none());
        drop(going);
        assert_eq!(woken.get(), 1);
        drop(floor.begin_first(all));
        assert_eq!(woken.get(), 1);
    }

    #[test]
    fn many_small_parts_are_the_machine() {
        let (floor, ended) = (Arc::new(Floor::default()), Arc::default());
        let going: Vec<_> = (0..96).map(|_| second(&floor, Room::of(96), &ended, true)).collect();
        assert!(going.iter().all(Option::is_some));
        assert!(second(&floor, Room::of(96), &ended, true).is_none());
    }
}
