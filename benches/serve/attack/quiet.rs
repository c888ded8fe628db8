//! Thousands of connections that do next to nothing, beside a client that works.
//!
//! Owns that attack. Held to: the client keeps its rate, probes on new connections are quick, memory stays within its formula.
//!
//! The crowd, the probes and the kernel's part in both take CPU from a client on the same two cores, whatever the service does. So the
//! client is compared with itself beside the same crowd at another service; rounds of the two alternate.

use std::time::Duration;

use super::{
    Attack, Client,
    crowd::{Crowd, Guest},
    figures::median,
    finding::Finding,
    raw::Prober,
    target::{Model, Target, hold},
    unread,
};
use crate::{
    Result,
    load::request::{Ask, Template},
};

/// Rounds of each crowd.
const ROUNDS: u64 = 5;

/// Seconds of each measurement.
const SECONDS: f64 = 3.0;

/// What the crowd asks for at first, answers of megabytes that nobody reads, has been written or refused by then.
const SETTLES: Duration = Duration::from_secs(3);

/// Connections of the client that works.
const CLIENT: usize = 4;

/// The least part of its rate that it must keep.
const KEEPS: f64 = 0.95;

/// What is probed.
const PROBES: &[&str] = &["/livez", "/readyz", "/metrics"];

/// Probes on new connections, p99.
const PROBE: Duration = Duration::from_millis(50);

/// What rounds of one measurement may use up of the numbers of texts.
const APART: u64 = 1 << 20;

pub(crate) fn run(attack: &mut Attack<'_>) -> Result<()> {
    let crowd = |deaf: Vec<u8>| {
        vec![
            (2000, Guest::Idle),
            (600, Guest::Drips { length: 100_000, piece: 1, every: Duration::from_secs(4) }),
            (600, Guest::Deaf(deaf.into())),
        ]
    };
    beside(attack, "2,000 idle, 600 dripping, 600 deaf", crowd)?;
    let phones = Guest::Drips { length: 5_000_000, piece: 10_000, every: Duration::from_millis(100) };
    beside(attack, "512 uploads of 5 MB at 100 kB/s", |_| vec![(512, phones)])
}

fn beside(attack: &mut Attack<'_>, name: &str, guests: impl FnOnce(Vec<u8>) -> Vec<(usize, Guest)>) -> Result<()> {
    let mut target = Target::start(attack.places, Model::Box, &["cache.max_bytes=64MiB"])?;
    let other = Target::start(attack.places, Model::Box, &["cache.max_bytes=64MiB"])?;
    let guests = guests(unread::cached(&target)?);
    unread::cached(&other)?;
    let template = attack.template(Ask::Text)?;
    let (mut ratios, mut probed) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let mut rates = Vec::new();
        for (what, crowded) in [("they are elsewhere", other.address()), ("beside them", target.address())] {
            let crowd = Crowd::gather(crowded, guests.clone())?;
            let prober = Prober::start(crowded, PROBES);
            hold(SETTLES);
            let first = (2 * round + rates.len() as u64) * APART;
            rates.push(rate(attack, what, &target, &template, first).unwrap_or_else(|error| {
                attack.say(format!("  {what}: {error}"));
                0.0
            }));
            let probes = prober.stop()?;
            attack.say(format!("  {}; {}", crowd.describe(), probes.describe()));
            if crowded == target.address() {
                probed.push(probes.p99());
            }
        }
        ratios.push(rates[1] / rates[0]);
        target.settle(Duration::from_secs(5));
    }
    drop(other);
    let connections = guests.iter().map(|(count, _)| count).sum();
    probed.sort();
    let finding = Finding::new(name)
        .at_least("a client's rate, of that with them elsewhere", "", median(&ratios), KEEPS)
        .within("probes on new connections p99", probed[probed.len() / 2], PROBE);
    attack.found(target.memory_finding(finding, connections)?);
    attack.found(target.unharmed(name, Duration::from_secs(5)));
    Ok(())
}

fn rate(attack: &Attack<'_>, what: &str, target: &Target, template: &Template, first: u64) -> Result<f64> {
    let template = template.clone().starting_at(first);
    Ok(attack.measure(what, target, &template, Client::Closed(CLIENT), SECONDS)?.rate)
}
