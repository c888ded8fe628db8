//! What an operator sees of a download: a bar on a terminal, else a line in the log now and then.
//!
//! Owns nothing but that.

use std::{
    io::{self, IsTerminal},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How often the log has a line.
const LOG_PERIOD: Duration = Duration::from_secs(10);

/// The progress of all files of a model together, in bytes.
pub(super) struct Progress {
    bar: Option<ProgressBar>,
    done: u64,
    total: u64,
    logged: Instant,
}

impl Progress {
    pub(super) fn new(total: u64) -> Self {
        let template = "{msg:30!} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} {eta}";
        let bar = io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
            match ProgressStyle::with_template(template) {
                Ok(style) => bar.with_style(style),
                Err(_) => bar,
            }
        });
        Self { bar, done: 0, total, logged: Instant::now() }
    }

    /// What comes next belongs to `file`.
    pub(super) fn file(&self, file: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(file.to_owned());
        }
    }

    /// `bytes` more are there.
    pub(super) fn advance(&mut self, bytes: u64) {
        self.set(self.done + bytes);
    }

    /// `bytes` were for nothing.
    pub(super) fn take_back(&mut self, bytes: u64) {
        self.set(self.done.saturating_sub(bytes));
    }

    fn set(&mut self, done: u64) {
        self.done = done;
        match &self.bar {
            Some(bar) => bar.set_position(done),
            None if self.logged.elapsed() >= LOG_PERIOD => {
                self.logged = Instant::now();
                tracing::info!(bytes = done, of = self.total, "downloading");
            }
            None => {}
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
