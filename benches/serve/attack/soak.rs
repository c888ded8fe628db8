//! Hours of ordinary traffic: whether anything grows, and whether the answers stay the same.
//!
//! Owns the samples of the process and what they are held to; the traffic is `traffic`'s, the arithmetic `slope`'s. Held to: memory
//! does not grow, no thread and no file is left, the same inputs have the same embeddings at the end to the bit, and every request
//! has one of the answers that it may have. With `--leak`, the service leaks on purpose (`leaking`), and what is held to is that this
//! is seen.

use std::time::{Duration, Instant};

use super::{
    Attack,
    figures::median,
    finding::Finding,
    leaking::Leak,
    raw,
    slope::{Slope, theil_sen},
    target::{DESCRIPTORS, MIB, Model, Target, hold},
    traffic::Traffic,
};
use crate::{Result, figures::figure};

/// Of the capacity.
const LOAD: f64 = 0.7;

/// Closed loop that finds the capacity, and brings the service to where it stays.
const CAPACITY: Duration = Duration::from_secs(15);

/// Memory is still finding its level for this part of the time, five minutes at most.
const WARM_UP: f64 = 0.25;
const LONGEST_WARM_UP: Duration = Duration::from_secs(300);

/// A sample every second; a point of the slope is the least of so many: what is leaked is never given back, and a picture of 50
/// megapixels or a queue that is full is.
const SAMPLE: Duration = Duration::from_secs(1);
const POINT: usize = 30;

/// MiB in a minute, and what the interval's upper end may be.
const SLOPE: f64 = 0.5;
const HIGHEST: f64 = 1.0;

/// The last sixth may be above the first one after the warm-up by so much, whichever is more.
const GROWTH: f64 = 0.03;
const GROWTH_MIB: f64 = 16.0;

/// Lines of progress, so many samples apart.
const SAY: usize = 60;

/// The embedding cache: so small that entries come and go all the time.
const CACHE: &str = "cache.max_bytes=1MiB";

const PATIENCE: Duration = Duration::from_secs(10);

/// tokio ends the threads of its pool after ten seconds without work for them.
const THREADS_LEAVE: Duration = Duration::from_secs(12);

/// What was seen of the process in one second.
struct Sample {
    /// MiB.
    resident: f64,
    files: usize,
    threads: usize,
}

pub(crate) fn run(attack: &mut Attack<'_>, minutes: f64, leak: Option<Leak>) -> Result<()> {
    let mut target = match leak {
        None => Target::start(attack.places, Model::Box, &[CACHE])?,
        Some(leak) => Target::start_leaking(attack.places, leak, &[CACHE])?,
    };
    let traffic = Traffic::new(attack.places, &attack.picture)?;
    let rate = traffic.capacity(target.address(), CAPACITY)? * LOAD;
    target.settle(PATIENCE);
    target.look_again()?;
    let (before, threads) = (embeddings(&target, &traffic)?, idle_threads(&mut target)?);
    attack.say(format!("  {} requests/s, {} of the capacity, for {minutes} minutes", figure(rate), LOAD));

    let time = Duration::from_secs_f64(minutes * 60.0);
    let running = traffic.start(target.address(), rate);
    let (started, mut samples) = (Instant::now(), Vec::new());
    let count = (time.as_secs_f64() / SAMPLE.as_secs_f64()) as usize;
    while samples.len() < count && target.service().runs() {
        let memory = target.memory()?;
        let (files, threads) = (target.service().descriptors()?, target.service().threads()?);
        samples.push(Sample { resident: memory.resident / MIB, files, threads });
        if samples.len() % SAY == 0 {
            let last: Vec<_> = samples.iter().rev().take(SAY).map(|sample| sample.resident).collect();
            let minute = started.elapsed().as_secs() / 60;
            let (resident, files, threads) = (median(&last), files, threads);
            attack.say(format!(
                "  minute {minute}: {resident:.1} MiB, {files} files, {threads} threads; {}",
                running.describe()
            ));
        }
        hold(SAMPLE);
    }
    let tally = running.stop()?;
    target.settle(PATIENCE);

    let name = format!("soak: {minutes} minutes, {} requests/s", figure(rate));
    attack.say(format!("  {}", tally.describe()));
    let warm_up = time.mul_f64(WARM_UP).min(LONGEST_WARM_UP).as_secs() as usize;
    let resident: Vec<_> = samples.iter().skip(warm_up).map(|sample| sample.resident).collect();
    let least = |samples: &[f64]| samples.iter().copied().fold(f64::INFINITY, f64::min);
    let points: Vec<_> = resident.chunks_exact(POINT).map(least).collect();
    let slope = theil_sen(&points).ok_or("too short for a slope")?.per_minute();
    let sixth = (points.len() / 6).max(1);
    let (first, last) = (median(&points[..sixth]), median(&points[points.len() - sixth..]));
    let memory = format!(
        "memory {first:.1} → {last:.1} MiB, {:.3} MiB a minute ({:.3} to {:.3})",
        slope.middle, slope.low, slope.high
    );
    let bound = format!("≤ +{GROWTH_MIB} MiB or 3 %; < {SLOPE}, at most {HIGHEST}");
    let flat = last - first <= GROWTH_MIB.max(GROWTH * first) && slope.middle < SLOPE && slope.high < HIGHEST;
    let most = |of: fn(&Sample) -> usize| samples.iter().map(of).max().unwrap_or_default();
    attack.say(format!("  most files {}, most threads {}", most(|it| it.files), most(|it| it.threads)));

    if let Some(leak) = leak {
        let finding = Finding::new(format!("{name}, leaking {}", leak.describe()));
        attack.found(match leak {
            Leak::Memory => finding.check(memory, format!("not {bound}: seen"), !flat),
            Leak::Files => {
                let (before, after) = (target.files_before(), target.service().descriptors()?);
                let seen = after > before + DESCRIPTORS;
                finding.check(format!("open files {before} → {after}"), format!("> +{DESCRIPTORS}: seen"), seen)
            }
        });
        return Ok(());
    }
    let after = embeddings(&target, &traffic)?;
    let left = idle_threads(&mut target)?;
    let equal = before.iter().zip(&after).filter(|(before, after)| before == after).count();
    let finding = Finding::new(&name)
        .check(tally.describe(), "0 failed", tally.failed() == 0 && tally.answered() > 0)
        .check(memory, bound, flat)
        .all("embeddings equal to the bit at the end", equal, before.len())
        .check(format!("threads {threads} → {left}"), "no more", left <= threads);
    attack.found(finding);
    attack.found(target.unharmed(&name, PATIENCE));
    Ok(())
}

impl Slope {
    /// Of points that are [`POINT`] samples apart.
    fn per_minute(self) -> Self {
        let points = 60.0 / (SAMPLE.as_secs_f64() * POINT as f64);
        Self { low: self.low * points, middle: self.middle * points, high: self.high * points }
    }
}

/// Threads of the service when it has had nothing to do for a while.
fn idle_threads(target: &mut Target) -> Result<usize> {
    hold(THREADS_LEAVE);
    target.service().threads()
}

/// The embeddings of some inputs, each asked alone of a service that does nothing else.
fn embeddings(target: &Target, traffic: &Traffic) -> Result<Vec<serde_json::Value>> {
    traffic.constant().iter().map(|request| raw::embeddings(target.address(), request)).collect()
}
