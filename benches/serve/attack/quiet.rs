//! Thousands of connections that do next to nothing, beside a client that works.
//!
//! Owns that attack. Held to: the client keeps its rate, probes on new connections are quick, memory stays within its formula.
//! Rounds with and without the crowd alternate.

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
const ROUNDS: u64 = 3;

/// Seconds of each measurement.
const SECONDS: f64 = 3.0;

/// Connections of the client that works.
const CLIENT: usize = 4;

/// The least part of its rate that it must keep.
const KEEPS: f64 = 0.95;

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
    let guests = guests(unread::cached(&target)?);
    let template = attack.template(Ask::Text)?;
    let (mut ratios, mut probed) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let first = 2 * round * APART;
        let alone = rate(attack, "alone", &target, &template, first)?;
        let crowd = Crowd::gather(target.address(), guests.clone())?;
        let prober = Prober::start(target.address(), &["/livez", "/readyz", "/metrics"]);
        hold(Duration::from_millis(500));
        let with = rate(attack, "beside them", &target, &template, first + APART).unwrap_or_else(|error| {
            attack.say(format!("  beside them: {error}"));
            0.0
        });
        let probes = prober.stop()?;
        attack.say(format!("  {}; {}", crowd.describe(), probes.describe()));
        probed.push(probes.p99());
        ratios.push(with / alone);
        drop(crowd);
        target.settle(Duration::from_secs(5));
    }
    let connections = guests.iter().map(|(count, _)| count).sum();
    probed.sort();
    let finding = Finding::new(name).at_least("a client's rate, of that alone", "", median(&ratios), KEEPS).within(
        "probes on new connections p99",
        probed[probed.len() / 2],
        PROBE,
    );
    attack.found(target.memory_finding(finding, connections)?);
    attack.found(target.unharmed(name, Duration::from_secs(5)));
    Ok(())
}

fn rate(attack: &Attack<'_>, what: &str, target: &Target, template: &Template, first: u64) -> Result<f64> {
    let template = template.clone().starting_at(first);
    Ok(attack.measure(what, target, &template, Client::Closed(CLIENT), SECONDS)?.rate)
}
