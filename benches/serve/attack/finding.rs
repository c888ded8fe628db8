//! What an attack found: what was tried, what was measured, the bar, met or missed. And percentiles of few samples.
//!
//! Pure: takes numbers, gives text. Invariant: a finding is met when each of its checks is; one that was not measured is missed.

use std::time::Duration;

use super::figures::{figure, milliseconds};

/// What came of one attack.
#[derive(Clone, Debug)]
pub(crate) struct Finding {
    name: String,
    checks: Vec<Check>,
}

/// One number of a finding beside its bar.
#[derive(Clone, Debug)]
struct Check {
    measured: String,
    bar: String,
    met: bool,
}

impl Finding {
    /// Without checks yet, which does not count as met.
    pub(crate) fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), checks: Vec::new() }
    }

    /// What could not be measured.
    pub(crate) fn not_measured(name: impl Into<String>, why: impl Into<String>) -> Self {
        Self::new(name).check(why, "measured", false)
    }

    /// One more check, in words.
    pub(crate) fn check(mut self, measured: impl Into<String>, bar: impl Into<String>, met: bool) -> Self {
        self.checks.push(Check { measured: measured.into(), bar: bar.into(), met });
        self
    }

    /// `what` must be `most` at most.
    pub(crate) fn at_most(self, what: &str, unit: &str, value: f64, most: f64) -> Self {
        self.check(format!("{what} {}{unit}", figure(value)), format!("≤ {}{unit}", figure(most)), value <= most)
    }

    /// `what` must be `least` at least.
    pub(crate) fn at_least(self, what: &str, unit: &str, value: f64, least: f64) -> Self {
        self.check(format!("{what} {}{unit}", figure(value)), format!("≥ {}{unit}", figure(least)), value >= least)
    }

    /// `what` must take `most` at most.
    pub(crate) fn within(self, what: &str, time: Duration, most: Duration) -> Self {
        self.at_most(what, " ms", milliseconds(time), milliseconds(most))
    }

    /// `count` of `of` must be all of them.
    pub(crate) fn all(self, what: &str, count: usize, of: usize) -> Self {
        self.check(format!("{what} {count} of {of}"), "all", count == of && of > 0)
    }

    /// Whether every check is met.
    pub(crate) fn met(&self) -> bool {
        !self.checks.is_empty() && self.checks.iter().all(|check| check.met)
    }

    fn row(&self) -> String {
        let cell = |text: &dyn Fn(&Check) -> &str| {
            let parts = self.checks.iter().map(|check| {
                let text = text(check).replace('|', "\\|").replace(['\n', '\r'], " ");
                if check.met { text } else { format!("**{text}**") }
            });
            parts.collect::<Vec<_>>().join("; ")
        };
        let verdict = if self.met() { "met" } else { "**missed**" };
        format!("| {} | {} | {} | {verdict} |", self.name, cell(&|check| &check.measured), cell(&|check| &check.bar))
    }

    /// In one line, for the progress.
    pub(crate) fn line(&self) -> String {
        self.row().trim_matches(['|', ' ']).replace(" | ", "  |  ")
    }
}

/// All of them as Markdown.
pub(crate) fn table(findings: &[Finding]) -> String {
    let rows: String = findings.iter().map(|finding| finding.row() + "\n").collect();
    format!("| tried | measured | bar | |\n|---|---|---|---|\n{rows}")
}

/// The time that this part (0 to 1) of the samples did not exceed; zero of none.
pub(crate) fn percentile(samples: &[Duration], part: f64) -> Duration {
    let mut sorted = samples.to_vec();
    sorted.sort();
    let rank = (part * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.clamp(1, sorted.len().max(1)) - 1).copied().unwrap_or_default()
}
