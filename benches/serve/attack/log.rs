//! A log that nobody takes: its reader gone, its pipe full, its disk full.
//!
//! Owns those kinds of standard error. Held to: requests and probes are answered, and two signals end the process.

use std::time::{Duration, Instant};

use super::{
    Attack,
    bodies::{JSON, object},
    finding::Finding,
    raw,
    target::{Model, Target, hold, wait},
};
use crate::{Result, process::Reader};

/// Requests, and rounds of probes, of each kind; after so many failures in a row it gives up.
const REQUESTS: usize = 600;
const PROBES: usize = 20;
const ENOUGH: usize = 3;

/// How long each may take.
const PATIENCE: Duration = Duration::from_secs(1);

/// From the second signal to the end.
const END: Duration = Duration::from_secs(1);

pub(crate) fn run(attack: &mut Attack<'_>) -> Result<()> {
    for level in ["info", "trace"] {
        let set = [format!("telemetry.log_level={level}"), "telemetry.log_format=text".to_owned()];
        let set: Vec<_> = set.iter().map(String::as_str).collect();
        for (what, reader) in [
            ("reader gone", Some(Reader::Goes)),
            ("full pipe that nobody reads", Some(Reader::Sleeps)),
            ("full disk", None),
        ] {
            let name = format!("log: {what}, level {level}");
            let target = match reader {
                Some(reader) => Target::start_logging(attack.places, Model::Box, &set, reader).map(Some),
                None => Target::start_on_full_disk(attack.places, Model::Box, &set),
            };
            match target? {
                Some(mut target) => {
                    for finding in one(&mut target, &name) {
                        attack.found(finding);
                    }
                }
                None => attack.found(Finding::new(&name).check("ended before it was ready", "serves", false)),
            }
        }
    }
    Ok(())
}

fn one(target: &mut Target, name: &str) -> Vec<Finding> {
    // Half of them are errors, which are logged at every level; long enough to fill a pipe of 64 KiB.
    let requests = (0..REQUESTS).map(|number| {
        let key = if number % 2 == 0 { "texts".to_owned() } else { "k".repeat(500) };
        (
            raw::post("/embed/text", JSON, &object(&key, &format!("[\"text {number}\"]"))),
            if number % 2 == 0 { 200 } else { 400 },
        )
    });
    let answered = count(target, requests);
    let probes = (0..PROBES).flat_map(|_| ["/livez", "/readyz", "/metrics"]).map(|path| (raw::get(path), 200));
    let probed = count(target, probes);
    let finding = Finding::new(name).all("requests", answered, REQUESTS).all("probes", probed, 3 * PROBES);
    let afterwards = target.unharmed(name, Duration::from_secs(2));
    // A process that ended by itself did not end by the signals.
    let mut ended = target.service().runs();
    let mut took = END;
    if ended {
        ended &= target.service().signal("-TERM").is_ok();
        hold(Duration::from_millis(100));
        ended &= target.service().signal("-TERM").is_ok();
        let started = Instant::now();
        ended &= wait(END, || !target.service().runs());
        took = started.elapsed();
    }
    let measured = if ended { format!("ended in {} ms", took.as_millis()) } else { "not by them".to_owned() };
    let signals = Finding::new(format!("{name}: two SIGTERMs"));
    vec![finding, afterwards, signals.check(measured, format!("end it within {} ms", END.as_millis()), ended)]
}

/// How many are answered as they should be.
fn count(target: &Target, requests: impl Iterator<Item = (Vec<u8>, u16)>) -> usize {
    let (mut well, mut failed) = (0, 0);
    for (request, status) in requests {
        match raw::exchange(target.address(), &request, PATIENCE, false) {
            Ok(answer) if answer.status == status => (well, failed) = (well + 1, 0),
            _ => failed += 1,
        }
        if failed == ENOUGH {
            break;
        }
    }
    well
}
