//! For tests: what the log would say.

use std::{
    io,
    sync::{Arc, Mutex},
};

use tracing_subscriber::EnvFilter;

use super::subscriber;
use crate::config::LogFormat;

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("no panic").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What is written for the events of `log`, from informational ones on.
pub(crate) fn logged(format: LogFormat, ansi: bool, log: impl FnOnce()) -> String {
    let (lines, filter) = (Lines::default(), EnvFilter::new("info"));
    let writer = lines.clone();
    tracing::subscriber::with_default(subscriber(filter, format, ansi, move || writer.clone()), log);
    let bytes = lines.0.lock().expect("no panic").clone();
    String::from_utf8(bytes).expect("text")
}
