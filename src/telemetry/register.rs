//! Metrics are made and registered in one step.
//!
//! Owns the prefix of every name. Does not own names, labels and help texts (`metrics`).
//!
//! Invariant: a name is registered once; names and labels are constants.

use prometheus::{
    HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, core::Collector,
};

/// Builds and registers metrics in one step.
pub(super) struct Register<'a>(pub(super) &'a Registry);

#[expect(clippy::expect_used, reason = "metric names are constants, checked by every test that starts a server")]
impl Register<'_> {
    pub(super) fn add<C: Collector + Clone + 'static>(&self, collector: C) -> C {
        self.0.register(Box::new(collector.clone())).expect("each name is registered once");
        collector
    }

    pub(super) fn opts(name: &str, help: &str) -> Opts {
        Opts::new(name, help).namespace("clipserve")
    }

    pub(super) fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.add(IntCounter::with_opts(Self::opts(name, help)).expect("a constant name"))
    }

    pub(super) fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.add(IntCounterVec::new(Self::opts(name, help), labels).expect("constant names"))
    }

    pub(super) fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.add(IntGauge::with_opts(Self::opts(name, help)).expect("a constant name"))
    }

    pub(super) fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        self.add(IntGaugeVec::new(Self::opts(name, help), labels).expect("constant names"))
    }

    pub(super) fn histograms(&self, name: &str, help: &str, labels: &[&str], buckets: &[f64]) -> HistogramVec {
        let opts = HistogramOpts { common_opts: Self::opts(name, help), buckets: buckets.to_vec() };
        self.add(HistogramVec::new(opts, labels).expect("constant names"))
    }
}
