//! A process that loads one broken model after the other and says what came of each: what `loading` starts, watches, and starts again.
//!
//! Owns its lines on standard output, and telling a panic from a refusal. A line is a number, milliseconds, and `loaded`, `refused` or
//! `failed` with what is wrong; the last one is `end` with the most memory that it held, in kilobytes.

use std::{
    fs, panic,
    sync::atomic::{AtomicUsize, Ordering},
    time::Instant,
};

use clap::Parser;

use super::models::{Models, Part};
use crate::{Result, services::Places};

/// A refusal is a line of at most so many bytes.
const LONGEST: usize = 2000;

static PANICS: AtomicUsize = AtomicUsize::new(0);

#[derive(Parser)]
pub(crate) struct Options {
    part: Part,
    /// The number of the first one, of the one behind the last, and how far each is from the next.
    first: u64,
    end: u64,
    step: u64,
}

pub(crate) fn run(places: &Places, options: &Options) -> Result<()> {
    // Contained or not, a panic is found.
    panic::set_hook(Box::new(|info| {
        PANICS.fetch_add(1, Ordering::SeqCst);
        eprintln!("{info}");
    }));
    let mut models = Models::new(places, options.part)?;
    for number in (options.first..options.end).step_by(usize::try_from(options.step)?) {
        let (broken, precision) = models.make(number)?;
        let (started, panics) = (Instant::now(), PANICS.load(Ordering::SeqCst));
        let loaded = panic::catch_unwind(panic::AssertUnwindSafe(|| models.load(&broken, precision)));
        let took = started.elapsed().as_millis();
        let line = match loaded {
            _ if PANICS.load(Ordering::SeqCst) > panics => "failed: a panic".to_owned(),
            Err(_) => "failed: a panic".to_owned(),
            Ok(Ok(())) => "loaded".to_owned(),
            Ok(Err(error)) => {
                let text = error.to_string();
                if text.lines().count() != 1 || text.ends_with('\n') || text.len() > LONGEST {
                    let start: String = text.chars().take(200).collect();
                    format!("failed: refused with {} lines, {} bytes: {start:?}", text.lines().count(), text.len())
                } else {
                    format!("refused: {text}")
                }
            }
        };
        println!("{number} {took} {line}");
    }
    let status = fs::read_to_string("/proc/self/status")?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("no VmHWM")?;
    println!("end {}", peak.trim().trim_end_matches("kB").trim());
    Ok(())
}
