//! Thousands of connections that do next to nothing, beside a client that works.
//!
//! Owns that attack. Held to: the client keeps its rate, probes on new connections are quick, memory stays within its formula.
//! Rounds with and without the crowd alternate.
//!
//! A crowd that does nothing takes no CPU once it is there, so the client asks as fast as it is answered. One that sends megabytes a
//! second takes CPU for it, here twice, since generator and service share the cores: beside it the client asks at half the rate that
//! it reaches alone.

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
    beside(attack, "2,000 idle, 600 dripping, 600 deaf", Pace::Fast, crowd)?;
    let phones = Guest::Drips { length: 5_000_000, piece: 10_000, every: Duration::from_millis(100) };
    beside(attack, "512 uploads of 5 MB at 100 kB/s, a client at half its rate", Pace::Half, |_| vec![(512, phones)])
}

/// How the client asks.
#[derive(Clone, Copy)]
enum Pace {
    /// As fast as it is answered.
    Fast,
    /// At half of that.
    Half,
}

fn beside(
    attack: &mut Attack<'_>,
    name: &str,
    pace: Pace,
    guests: impl FnOnce(Vec<u8>) -> Vec<(usize, Guest)>,
) -> Result<()> {
    let mut target = Target::start(attack.places, Model::Box, &["cache.max_bytes=64MiB"])?;
    let guests = guests(unread::cached(&target)?);
    let template = attack.template(Ask::Text)?;
    let (mut ratios, mut probed) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let first = 2 * round * APART;
        // Probed alone as well: a probe on a new connection takes its CPU from the client.
        let prober = Prober::start(target.address(), PROBES);
        let fast = rate(attack, "alone", &target, &template, Client::Closed(CLIENT), first)?;
        prober.stop()?;
        let (client, alone) = match pace {
            Pace::Fast => (Client::Closed(CLIENT), fast),
            Pace::Half => (Client::Open(fast / 2.0), fast / 2.0),
        };
        let crowd = Crowd::gather(target.address(), guests.clone())?;
        let prober = Prober::start(target.address(), PROBES);
        hold(SETTLES);
        let with = rate(attack, "beside them", &target, &template, client, first + APART).unwrap_or_else(|error| {
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

fn rate(
    attack: &Attack<'_>,
    what: &str,
    target: &Target,
    template: &Template,
    client: Client,
    first: u64,
) -> Result<f64> {
    let template = template.clone().starting_at(first);
    Ok(attack.measure(what, target, &template, client, SECONDS)?.rate)
}
