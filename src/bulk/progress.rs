//! What an operator sees of a run: a bar on a terminal, else a line now and then; and what it came to.
//!
//! Owns nothing but that. Rates are of this process, not of what an earlier one has done.

use std::{
    fmt,
    io::{self, IsTerminal as _},
    path::PathBuf,
    time::{Duration, Instant},
};

use indicatif::{HumanCount, HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{error::counted, options::Modalities, row::Row};
use crate::embedder::Timings;

/// How often there is a line.
const PERIOD: Duration = Duration::from_secs(10);

/// How far a run is.
pub(super) struct Progress<'a> {
    bar: Option<ProgressBar>,
    print: &'a mut dyn FnMut(&str),
    started: Instant,
    /// When there was a line; `None` before the first embedding.
    printed: Option<Instant>,
    /// Of all rows of this process.
    timings: Timings,
    /// Rows of earlier processes.
    before: u64,
    rows: u64,
    errors: u64,
    total: Option<u64>,
}

impl<'a> Progress<'a> {
    /// Before the first row, `before` of which are there already with so many errors; lines go to `print`.
    pub(super) fn new(before: u64, errors: u64, total: Option<u64>, print: &'a mut dyn FnMut(&str)) -> Self {
        let bar = io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr());
            let template = if total.is_some() { "[{bar:30}] {msg}" } else { "{spinner} {msg}" };
            bar.set_position(before);
            match ProgressStyle::with_template(template) {
                Ok(style) => bar.with_style(style),
                Err(_) => bar,
            }
        });
        let (started, timings) = (Instant::now(), Timings::default());
        Self { bar, print, started, printed: None, timings, before, rows: 0, errors, total }
    }

    /// One more row is there.
    pub(super) fn row(&mut self, row: &Row) {
        self.rows += 1;
        self.errors += u64::from(row.error.is_some());
        self.timings.preprocess += row.timings.preprocess;
        self.timings.queue += row.timings.queue;
        self.timings.inference += row.timings.inference;
        if let Some(bar) = &self.bar {
            bar.set_message(self.line());
            bar.set_position(self.before + self.rows);
            return;
        }
        // Before an embedding is there, neither a rate nor where the time goes can be said.
        let is_due = match self.printed {
            None => row.error.is_none() || self.started.elapsed() >= PERIOD,
            Some(printed) => printed.elapsed() >= PERIOD,
        };
        if is_due {
            self.printed = Some(Instant::now());
            let line = self.line();
            (self.print)(&line);
        }
    }

    fn line(&self) -> String {
        let done = self.before + self.rows;
        let of = self.total.map_or(String::new(), |total| format!(" of {}", HumanCount(total)));
        let rate = self.rate();
        let items = if self.total.unwrap_or(done) == 1 { "item" } else { "items" };
        let mut line = format!("{}{of} {items}, {rate:.1}/s, {}", HumanCount(done), Shares(self.timings));
        if self.errors > 0 {
            line += &format!(", {} error{}", HumanCount(self.errors), if self.errors == 1 { "" } else { "s" });
        }
        if let Some(left) = self.total.and_then(|total| total.checked_sub(done)).filter(|_| rate > 0.0) {
            let left = Duration::try_from_secs_f64(left as f64 / rate).unwrap_or(Duration::MAX);
            line += &format!(", {} left", HumanDuration(left));
        }
        line
    }

    fn rate(&self) -> f64 {
        self.rows as f64 / self.started.elapsed().as_secs_f64().max(1e-3)
    }

    /// How many rows there will be, where that is known.
    pub(super) fn total(&self) -> Option<u64> {
        self.total
    }

    /// After the last row; `errors_file` has the errors.
    ///
    /// What was embedded is named, so that a list that was taken for texts is seen.
    pub(super) fn finish(self, modality: Modalities, parts: u64, errors_file: PathBuf) -> Summary {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        Summary {
            modality,
            items: self.before + self.rows,
            errors: self.errors,
            parts,
            errors_file,
            embedded_now: self.rows,
            took: self.started.elapsed(),
            shares: Shares(self.timings),
        }
    }
}

/// Of the time that items took, what went where.
#[derive(Clone, Copy, Debug)]
struct Shares(Timings);

impl fmt::Display for Shares {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [decode, queue, encoder] = self.percent().map(|(name, share)| format!("{name} {share:.0} %"));
        write!(f, "{decode}, {queue}, {encoder}")
    }
}

impl Shares {
    fn percent(self) -> [(&'static str, f64); 3] {
        let Timings { preprocess, queue, inference } = self.0;
        let all = (preprocess + queue + inference).as_secs_f64().max(1e-9);
        [("decode", preprocess), ("queue", queue), ("encoder", inference)]
            .map(|(name, time)| (name, 100.0 * time.as_secs_f64() / all))
    }
}

/// What a run came to.
#[derive(Clone, Debug)]
pub struct Summary {
    /// What of an item is embedded.
    modality: Modalities,
    /// Rows that are there now.
    pub items: u64,
    /// Of them, those without their embedding, or one of two.
    pub errors: u64,
    /// Complete parts.
    pub parts: u64,
    /// Where the errors are.
    errors_file: PathBuf,
    /// Rows that this process has made.
    pub embedded_now: u64,
    took: Duration,
    shares: Shares,
}

impl Summary {
    /// How long this process has embedded.
    pub(super) fn took(&self) -> Duration {
        self.took
    }

    /// Its rows per second.
    pub(super) fn rate(&self) -> f64 {
        self.embedded_now as f64 / self.took.as_secs_f64().max(1e-3)
    }

    /// What part of the time of its items went where, by name, in percent.
    pub(super) fn shares(&self) -> [(&'static str, f64); 3] {
        self.shares.percent()
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { modality, items, errors, parts, errors_file, embedded_now, took, shares } = self;
        let (seconds, rate) = (took.as_secs_f64(), self.rate());
        let (of, lack) = match modality {
            Modalities::Image => ("picture", "an embedding"),
            Modalities::Text => ("text", "an embedding"),
            Modalities::Both => ("item", "one of their embeddings or both"),
        };
        let (items_now, parts) = (counted(*items, of), counted(*parts, "part"));
        writeln!(f, "{items_now} in {parts}, {errors} of them without {lack}")?;
        if *errors > 0 {
            writeln!(f, "{} says why", errors_file.display())?;
        }
        if *embedded_now < *items {
            writeln!(f, "{} of them were there before", items - embedded_now)?;
        }
        writeln!(f, "{seconds:.1} s, {rate:.1} items/s, {shares}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_far_it_is_how_fast_where_time_goes_and_what_failed() {
        let mut print = |_: &str| {};
        let mut progress = Progress::new(1000, 2, Some(4000), &mut print);
        progress.rows = 500;
        let millis = Duration::from_millis;
        progress.timings = Timings { preprocess: millis(250), queue: millis(500), inference: millis(250) };
        let line = progress.line();
        assert!(
            line.starts_with("1,500 of 4,000 items, ") && line.contains("/s, decode 25 %, queue 50 %, encoder 25 %")
        );
        assert!(line.contains(", 2 errors, ") && line.ends_with(" left"), "{line}");
        let summary = progress.finish(Modalities::Both, 3, "out/errors.jsonl".into());
        assert_eq!((summary.items, summary.errors, summary.embedded_now), (1500, 2, 500));
        assert!(summary.to_string().contains("1000 of them were there before"), "{summary}");
        assert!(summary.to_string().contains("\nout/errors.jsonl says why\n"), "{summary}");
        assert!(summary.to_string().contains(" 2 of them without one of their embeddings or both\n"), "{summary}");
        let one = Summary { modality: Modalities::Text, items: 1, parts: 1, errors: 0, ..summary };
        assert!(one.to_string().starts_with("1 text in 1 part, 0 of them"), "{one}");
    }
}
