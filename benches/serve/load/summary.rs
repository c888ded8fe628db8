//! What came of the requests of one window: counts, rates, latency percentiles.
//!
//! Owns which request belongs to the window and what its rate is. Pure: times come from the caller.
//!
//! A closed loop's window holds the answers that end in it, and its rate runs from the last answer before the window to the
//! last one inside: answers that come in bursts of a batch would otherwise be cut at the edges, by up to a burst. Refusals and
//! failures count from the start of the load. An open loop's window holds the arrivals in it, whenever they are answered; its
//! rate is that of the answers that end in the window, whenever they were asked for, so that what a service works off after the
//! window does not count as its speed.

use std::{
    collections::BTreeMap,
    ops::Range,
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;

/// The longest latency that is told apart from longer ones, microseconds.
const HOUR: u64 = 3_600_000_000;

/// How a request ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// 200, and a plausible body.
    Answered,
    /// 429, and its `Retry-After`.
    Refused(Option<Duration>),
    /// Anything else, and what it was.
    Failed(String),
}

/// Takes down the requests of one measurement.
#[derive(Debug)]
pub(crate) struct Recorder {
    window: Range<Instant>,
    slo: Duration,
    arrived: u64,
    answered: u64,
    within: u64,
    /// Answers of an open loop that ended in the window.
    ended: u64,
    /// Answers of a closed loop, whenever.
    all: u64,
    refused: u64,
    failed: u64,
    first_failure: Option<String>,
    /// Microseconds, three digits.
    latency: Histogram<u64>,
    /// The same of the refusals.
    refusal: Histogram<u64>,
    retry_after: BTreeMap<Option<u64>, u64>,
    /// The last answer before the window, else the start of the load.
    before: Instant,
    /// The last answer in the window.
    last: Option<Instant>,
}

/// The numbers of one measurement.
#[derive(Clone, Debug)]
pub(crate) struct Summary {
    /// Arrivals per second; `None` in a closed loop.
    pub(crate) offered: Option<f64>,
    /// Answers per second.
    pub(crate) rate: f64,
    /// Answers per second that came within the SLO; of an open loop, to the window's arrivals.
    pub(crate) goodput: f64,
    /// Answers.
    pub(crate) answered: u64,
    /// Answers of a closed loop before, in and after the window: all that the service has worked for.
    pub(crate) all: u64,
    /// Requests refused with 429.
    pub(crate) refused: u64,
    /// Requests that failed in any other way, those without an answer at the end of an open loop's drain among them.
    pub(crate) failed: u64,
    /// Those of them without an answer at the end of the drain.
    pub(crate) unanswered: u64,
    /// What was wrong with the first of them.
    pub(crate) first_failure: Option<String>,
    /// The generator's own CPU time, in CPUs.
    pub(crate) generator_cpu: f64,
    /// How many refusals said to come back after so many seconds; `None` is those that did not say it in whole seconds.
    pub(crate) retry_after: BTreeMap<Option<u64>, u64>,
    latency: Histogram<u64>,
    refusal: Histogram<u64>,
}

impl Recorder {
    /// For a load that started at `started`.
    pub(crate) fn new(started: Instant, window: Range<Instant>, slo: Duration) -> Self {
        let latency = Histogram::new_with_max(HOUR, 3).expect("a range and digits that are allowed");
        Self {
            window,
            slo,
            arrived: 0,
            answered: 0,
            within: 0,
            ended: 0,
            all: 0,
            refused: 0,
            failed: 0,
            first_failure: None,
            refusal: latency.clone(),
            latency,
            retry_after: BTreeMap::new(),
            before: started,
            last: None,
        }
    }

    /// Answers in the window so far.
    pub(crate) fn answered(&self) -> u64 {
        self.answered
    }

    /// Moves the window's end, before what it then holds has been taken down.
    pub(crate) fn prolong(&mut self, end: Instant) {
        self.window.end = end;
    }

    /// A closed loop's request.
    pub(crate) fn closed(&mut self, asked: Instant, ended: Instant, outcome: Outcome) {
        self.all += u64::from(matches!(outcome, Outcome::Answered));
        if ended < self.window.start {
            match outcome {
                Outcome::Answered => self.before = ended,
                // Most refusals of a closed loop come as it starts; then its clients wait as they were told.
                Outcome::Refused(_) | Outcome::Failed(_) => self.count(ended - asked, outcome),
            }
        } else if ended < self.window.end {
            if matches!(outcome, Outcome::Answered) {
                self.last = Some(ended);
            }
            self.count(ended - asked, outcome);
        }
    }

    /// An open loop's request that came, before anything is known of its end.
    pub(crate) fn arrived(&mut self, arrival: Instant) {
        self.arrived += u64::from(self.window.contains(&arrival));
    }

    /// An open loop's request that ended.
    pub(crate) fn open(&mut self, arrival: Instant, ended: Instant, outcome: Outcome) {
        self.ended += u64::from(matches!(outcome, Outcome::Answered) && self.window.contains(&ended));
        if self.window.contains(&arrival) {
            self.count(ended - arrival, outcome);
        }
    }

    fn count(&mut self, latency: Duration, outcome: Outcome) {
        match outcome {
            Outcome::Answered => {
                self.answered += 1;
                self.within += u64::from(latency <= self.slo);
                self.latency.saturating_record(latency.as_micros() as u64);
            }
            Outcome::Refused(retry_after) => {
                self.refused += 1;
                self.refusal.saturating_record(latency.as_micros() as u64);
                *self.retry_after.entry(retry_after.map(|time| time.as_secs())).or_insert(0) += 1;
            }
            Outcome::Failed(failure) => {
                self.failed += 1;
                self.first_failure.get_or_insert(failure);
            }
        }
    }

    /// The numbers so far, of an open or a closed loop; `generator_cpu` as in [`Summary`].
    pub(crate) fn summary(&self, open: bool, generator_cpu: f64) -> Summary {
        let window = (self.window.end - self.window.start).as_secs_f64();
        let seconds = match self.last {
            Some(last) if !open => (last - self.before).as_secs_f64(),
            _ => window,
        };
        let unanswered = self.arrived.saturating_sub(self.answered + self.refused + self.failed);
        let no_answer = (unanswered > 0).then(|| "no answer by the end of the drain".to_owned());
        Summary {
            offered: open.then_some(self.arrived as f64 / window),
            rate: if open { self.ended } else { self.answered } as f64 / seconds,
            goodput: self.within as f64 / seconds,
            answered: self.answered,
            all: self.all,
            refused: self.refused,
            failed: self.failed + unanswered,
            unanswered,
            first_failure: self.first_failure.clone().or(no_answer),
            generator_cpu,
            retry_after: self.retry_after.clone(),
            latency: self.latency.clone(),
            refusal: self.refusal.clone(),
        }
    }
}

impl Summary {
    /// The latency that this part (0 to 1) of the answers did not exceed; 1 is the longest.
    pub(crate) fn latency(&self, part: f64) -> Duration {
        Duration::from_micros(self.latency.value_at_quantile(part))
    }

    /// The latency that this part of the answers of all of these did not exceed: that of a few seconds each is their slowest few answers.
    ///
    /// # Panics
    /// Never: all histograms have the same range.
    pub(crate) fn latency_of_all(all: &[Self], part: f64) -> Duration {
        let together = all.iter().map(|summary| &summary.latency).cloned().reduce(|mut together, one| {
            together.add(one).expect("the same range");
            together
        });
        Duration::from_micros(together.map_or(HOUR, |together| together.value_at_quantile(part)))
    }

    /// The same of the refusals.
    pub(crate) fn refusal(&self, part: f64) -> Duration {
        Duration::from_micros(self.refusal.value_at_quantile(part))
    }
}
