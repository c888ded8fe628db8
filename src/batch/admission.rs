//! The item gate: who may put work into a lane, and what a refused client is told.
//!
//! Owns the permits of one lane, which bound its memory; the refusal of what is more than a client's part of it ([`Terms::quota`]); and
//! the refusal of what would wait too long, for those who say how long they would ([`Terms::patience`]): the door of the service does, bulk
//! work and tuning on the same lane do not. Does not own the forecast (`flow`), how a client's items are counted (`quota`), nor the request
//! gate (`http`).
//!
//! Invariants: never waits; a request gets all its permits or none; a permit is free again only when its job is gone; a request
//! that finds nobody else is never refused for its wait.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError};

use super::{
    Class, RunGuard, Speeds, Work,
    flow::{Flow, Flows, Share},
    quota::{Clients, Counted, Quota},
};
use crate::telemetry::Trace;

/// The right of one item to be in a lane, from admission until its job is answered or dropped.
#[derive(Debug)]
pub struct Permit {
    share: Share,
    trace: Option<Trace>,
    _place: OwnedSemaphorePermit,
    /// Of a client that may have a part of the lane only.
    _counted: Option<Counted>,
}

impl Permit {
    pub(super) fn flow(&self) -> &Flow {
        &self.share.flow
    }

    pub(super) fn trace(&self) -> Option<Trace> {
        self.trace
    }

    /// The item has been decoded.
    pub(super) fn decoded(&mut self) {
        self.share.decoded();
    }

    /// The item is in a run.
    pub(super) fn running(&mut self) {
        self.share.running();
    }

    /// Its run was ended before it had an answer.
    pub(super) fn waits_again(&mut self) {
        self.share.waits_again();
    }
}

/// What a request is admitted on.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// Who goes first.
    pub class: Class,
    /// When the answer must be there. Work that is queued by then is dropped.
    pub deadline: Instant,
    /// How long the request may be expected to wait for others; beyond that it is refused at once. `None`: however long.
    pub patience: Option<Duration>,
    /// The request's span, where it is traced.
    pub trace: Option<Trace>,
    /// Whose the request is, where its client may have a part of each lane only.
    pub quota: Option<Quota>,
}

impl Terms {
    /// Of whoever waits as long as it takes, until `deadline`.
    pub fn patient(deadline: Instant) -> Self {
        Self { class: Class::Interactive, deadline, patience: None, trace: None, quota: None }
    }

    /// Whether a request that would wait so long for others is let in.
    fn allow(&self, wait: Option<Duration>) -> bool {
        match (self.patience, wait) {
            (Some(patience), Some(wait)) => wait <= patience,
            _ => true,
        }
    }
}

/// Why a request was not admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The lane has no room for all of the request's items now.
    Full {
        /// Until room is likely.
        wait: Duration,
    },
    /// The client has its part of the lane, or would have more with this request.
    Share {
        /// Until room is likely.
        wait: Duration,
    },
    /// The request alone is more than its client's part of the lane.
    MoreThanShare {
        /// Items that it may have.
        most: usize,
    },
    /// The request would wait longer than its patience.
    Late {
        /// How much longer.
        wait: Duration,
    },
    /// The lane takes no more work: the server is draining.
    Closed,
}

/// What a lane is made for.
#[derive(Clone, Copy, Debug)]
pub struct Capacity {
    /// Items in it at most.
    pub items: usize,
    /// Threads that decode; 0 and 1 are alike.
    pub decoders: usize,
    /// Sessions.
    pub encoders: usize,
    /// The most encode work of a request that is not large: see `BatchPolicy`.
    pub few: u64,
}

/// The gate of one lane.
#[derive(Debug)]
pub struct Admission {
    permits: Arc<Semaphore>,
    capacity: usize,
    flows: Flows,
    clients: Clients,
    speeds: Speeds,
}

impl Admission {
    /// A gate that nobody has passed.
    pub fn new(capacity: Capacity, speeds: Speeds) -> Self {
        let Capacity { items, decoders, encoders, few } = capacity;
        let permits = Arc::new(Semaphore::new(items.min(Semaphore::MAX_PERMITS)));
        Self {
            permits,
            capacity: items,
            flows: Flows::new(decoders, encoders, few),
            clients: Clients::default(),
            speeds,
        }
    }

    /// A permit for each of `works` at once, the items of one request, or a refusal at once.
    ///
    /// # Errors
    /// [`Refused`] when the request would wait too long for others, there is no room for all of it, or it is more than its client may have,
    /// and after [`Admission::close`].
    pub fn try_admit(&self, works: &[Work], terms: &Terms) -> Result<Vec<Permit>, Refused> {
        let want = u32::try_from(works.len()).unwrap_or(u32::MAX);
        let mut places = match Arc::clone(&self.permits).try_acquire_many_owned(want) {
            Ok(places) => places,
            Err(TryAcquireError::NoPermits) => return Err(Refused::Full { wait: self.wait(terms.class, works) }),
            Err(TryAcquireError::Closed) => return Err(Refused::Closed),
        };
        let mut counted = self.count(works, terms)?;
        let flow = self
            .flows
            .enter(terms.class, works, &self.speeds, Instant::now(), |wait| terms.allow(wait))
            .map_err(|wait| Refused::Late { wait: wait.saturating_sub(terms.patience.unwrap_or_default()) })?;
        let permit = |work: &Work| {
            let place = places.split(1)?;
            Some(Permit {
                share: Share::new(Arc::clone(&flow), *work),
                trace: terms.trace,
                _place: place,
                _counted: counted.pop(),
            })
        };
        Ok(works.iter().map_while(permit).collect())
    }

    /// Counts the items of `works` with those of their client; nothing where there is no part to keep to.
    fn count(&self, works: &[Work], terms: &Terms) -> Result<Vec<Counted>, Refused> {
        let Some(quota) = terms.quota else { return Ok(Vec::new()) };
        let most = quota.of(self.capacity);
        if works.len() > most {
            return Err(Refused::MoreThanShare { most });
        }
        let full = || Refused::Share { wait: self.wait(terms.class, works) };
        self.clients.enter(quota.client, works.len(), most).ok_or_else(full)
    }

    /// How long a request with items of `works` would wait for others; zero when there are none.
    pub fn wait(&self, class: Class, works: &[Work]) -> Duration {
        self.flows.wait(class, works, &self.speeds, Instant::now()).unwrap_or_default()
    }

    /// Whether a request with items of `works` would be refused for its wait, and by how much it is too long, or for its client's part.
    ///
    /// # Errors
    /// [`Refused::Late`], [`Refused::Share`].
    pub fn would_admit(&self, works: &[Work], terms: &Terms) -> Result<(), Refused> {
        if let Some(quota) = terms.quota
            && self.clients.items(quota.client) >= quota.of(self.capacity)
        {
            return Err(Refused::Share { wait: self.wait(terms.class, works) });
        }
        match self.flows.wait(terms.class, works, &self.speeds, Instant::now()) {
            wait if terms.allow(wait) => Ok(()),
            wait => {
                Err(Refused::Late { wait: wait.unwrap_or_default().saturating_sub(terms.patience.unwrap_or_default()) })
            }
        }
    }

    /// Refuses everything from now on.
    pub fn close(&self) {
        self.permits.close();
    }

    /// Items admitted and not yet gone.
    pub fn live(&self) -> usize {
        self.capacity - self.permits.available_permits()
    }

    /// A run of `work` begins; it goes on until the guard is dropped, or something of the first class comes and it `gives_way`.
    pub(super) fn run(&self, work: u64, gives_way: bool) -> RunGuard<'_> {
        self.flows.run(work, gives_way, &self.speeds, Instant::now())
    }

    /// Told by the worker after each run.
    pub(super) fn observe_run(&self, class: Class, work: u64, took: Duration) {
        self.speeds.encode.observe(work, took);
        self.flows.finished(class, Instant::now());
    }
}

#[cfg(test)]
impl Admission {
    /// A gate of `items`, with one thread and one session behind it.
    pub(crate) fn of(items: usize) -> Self {
        Self::new(Capacity { items, decoders: 1, encoders: 1, few: 2 }, Speeds::default())
    }

    /// Permits for `n` items of a request that waits as long as it takes.
    pub(crate) fn admit(&self, n: usize) -> Result<Vec<Permit>, Refused> {
        let works = vec![Work { decode: 0, encode: 1 }; n];
        self.try_admit(&works, &Terms::patient(Instant::now() + Duration::from_secs(3600)))
    }

    /// A permit for one item.
    pub(crate) fn admit_one(&self) -> Permit {
        self.admit(1).expect("room").pop().expect("one")
    }
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn a_request_gets_all_its_permits_or_none() {
        let gate = Admission::of(4);
        let held = gate.admit(3).expect("three of four");
        assert!(matches!(gate.admit(2), Err(Refused::Full { .. })));
        assert_eq!(gate.live(), 3, "the refused request took nothing");
        drop(held);
        assert_eq!(gate.admit(4).expect("all free again").len(), 4);
    }

    #[test]
    fn a_closed_gate_says_so() {
        let gate = Admission::of(4);
        gate.close();
        assert_eq!(gate.admit(1).unwrap_err(), Refused::Closed);
    }

    /// A gate whose items take 100 ms each.
    fn slow(items: usize) -> Admission {
        let gate = Admission::of(items);
        gate.observe_run(Class::Interactive, 1, Duration::from_millis(100));
        gate
    }

    fn one(gate: &Admission, class: Class, patience_ms: u64) -> Result<Permit, Refused> {
        let patience = Some(Duration::from_millis(patience_ms));
        let terms = Terms { class, patience, ..Terms::patient(Instant::now() + Duration::from_secs(60)) };
        gate.try_admit(&[Work { decode: 0, encode: 1 }], &terms).map(|mut permits| permits.pop().expect("one"))
    }

    #[test]
    fn an_idle_gate_admits_whatever_it_takes_and_a_busy_one_what_waits_no_longer_than_it_may() {
        let gate = slow(100);
        let first = one(&gate, Class::Interactive, 0).expect("nobody is there");
        let second = one(&gate, Class::Interactive, 150).expect("100 ms behind the first");
        let late = one(&gate, Class::Interactive, 150).expect_err("200 ms behind the two");
        assert_eq!(late, Refused::Late { wait: Duration::from_millis(50) });
        assert_eq!(gate.live(), 2, "the refused request took no place");
        assert!(gate.admit(64).is_ok(), "whoever names no patience waits");
        drop((first, second));
    }

    #[test]
    fn a_client_has_its_part_of_the_lane_and_no_more() {
        let gate = Admission::of(8);
        let ask = |client: Option<u64>, n: usize| {
            let quota = client.map(|client| Quota { client, share: 0.5 });
            let terms = Terms { quota, ..Terms::patient(Instant::now() + Duration::from_secs(60)) };
            let works = vec![Work { decode: 0, encode: 1 }; n];
            gate.would_admit(&works, &terms)?;
            gate.try_admit(&works, &terms)
        };
        assert_eq!(ask(Some(1), 5).unwrap_err(), Refused::MoreThanShare { most: 4 });
        let mut held = ask(Some(1), 3).expect("three of four");
        assert!(matches!(ask(Some(1), 2), Err(Refused::Share { .. })));
        assert_eq!(gate.live(), 3, "the refused request took nothing");
        let other = ask(Some(2), 4).expect("another client's part");
        held.extend(ask(Some(1), 1).expect("the fourth"));
        assert!(matches!(ask(Some(1), 1), Err(Refused::Share { .. })));
        assert!(matches!(ask(None, 1), Err(Refused::Full { .. })), "who has no part to keep to finds the lane full");
        held.pop();
        ask(Some(1), 1).expect("one is gone");
        drop((held, other));
        assert_eq!(ask(None, 8).expect("all").len(), 8);
    }

    #[test]
    fn bulk_is_refused_first() {
        let gate = slow(100);
        let _first = one(&gate, Class::Bulk, 150).expect("nobody is there");
        let _second = one(&gate, Class::Interactive, 150).expect("bulk is not in its way");
        assert!(matches!(one(&gate, Class::Bulk, 150), Err(Refused::Late { .. })));
        assert!(one(&gate, Class::Interactive, 150).is_ok());
    }
}
