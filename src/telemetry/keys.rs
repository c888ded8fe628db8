//! What is counted by API key.
//!
//! Owns the closed set of outcomes. Does not own which keys there are: whoever reads them makes and retires their series.

use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec};

/// How a key's requests ended, by status.
const STATUSES: [&str; 5] = ["2xx", "3xx", "4xx", "429", "5xx"];

/// The metrics of one API key, with its label already applied.
#[derive(Clone, Debug)]
pub struct KeyMetrics {
    requests: [IntCounter; 5],
    /// Requests that hold a place of the key's.
    pub in_flight: IntGauge,
}

impl KeyMetrics {
    /// Counts one finished request.
    pub fn observe_request(&self, status: u16) {
        let place = match status {
            ..300 => 0,
            300..400 => 1,
            429 => 3,
            400..500 => 2,
            500.. => 4,
        };
        if let Some(counter) = self.requests.get(place) {
            counter.inc();
        }
    }
}

/// The metrics of all keys.
#[derive(Debug)]
pub(super) struct ByKey {
    pub(super) requests: IntCounterVec,
    pub(super) in_flight: IntGaugeVec,
}

impl ByKey {
    pub(super) fn of(&self, name: &str) -> KeyMetrics {
        let requests = STATUSES.map(|status| self.requests.with_label_values(&[name, status]));
        KeyMetrics { requests, in_flight: self.in_flight.with_label_values(&[name]) }
    }

    pub(super) fn retire(&self, name: &str) {
        // None is left to be removed where it never was.
        let _ = self.in_flight.remove_label_values(&[name]);
        for status in STATUSES {
            let _ = self.requests.remove_label_values(&[name, status]);
        }
    }
}
