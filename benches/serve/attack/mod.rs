//! `make attack`: one command that attacks a release build and prints what it withstood. Some scenarios run by their names only: they
//! take longer, or need more of the machine.
//!
//! Owns the order of the scenarios, the time that they may take, and the table. Each scenario owns its kind of attack and its
//! bars; what they share is here too: the service under attack (`target`), one request by hand and probes (`raw`), many bad
//! connections (`crowd`), bodies (`bodies`), findings (`finding`), and the load generator of the benchmarks (`load`).
//!
//! Rules: only 127.0.0.1; every loop is bounded in count and time; a service dies with this program, however that ends. What
//! is compared is measured in the same run. Every scenario ends with a look at what it attacked: the same process, ready,
//! nothing in flight, no file left open. What could not be measured is missed.

pub(crate) mod album;
mod bodies;
mod crowd;
mod descriptors;
mod disk;
pub(crate) mod finding;
#[path = "../../../tests/it/hub_stand_in.rs"]
#[allow(dead_code, reason = "the tests use the rest")]
mod hub_stand_in;
mod kills;
pub(crate) mod leaking;
mod log;
mod neighbours;
mod one_request;
mod overload;
mod priority;
mod quiet;
mod raw;
mod resets;
mod restarts;
mod slope;
mod soak;
mod still;
pub(crate) mod target;
mod traffic;
mod unread;
mod worst_mix;

use std::{
    fmt::Display,
    fs,
    process::Command,
    time::{Duration, Instant},
};

use clap::{Parser, ValueEnum};

use self::{finding::Finding, target::Target};
pub(crate) use self::{leaking::Leak, priority::second_class, slope::theil_sen};
use crate::{
    ENDLESS, PICTURE, Result, checkpoint, figures,
    figures::{figure, milliseconds},
    load::{
        self, Load, Pace,
        request::{self, Ask, Template, Wire},
        schedule::{Arrivals, Schedule},
        summary::Summary,
    },
    machine,
    services::Places,
};

/// All that runs without being named may take so long; what has not begun by then is missed.
const LIMIT: Duration = Duration::from_secs(600);

/// Files that this program and what it attacks may have open.
const FILES: &str = "--nofile=16384:";

/// Answers within this time are in time.
const SLO: Duration = Duration::from_secs(1);

/// How long a measured client waits for an answer.
const PATIENCE: Duration = Duration::from_secs(4);

/// After the last arrival of an open loop: what has no answer by then is not in time anyway.
const DRAIN: Duration = Duration::from_millis(1500);

/// Connections that an open loop may use at once: more than all of the service's places together.
const OPEN_CONNECTIONS: usize = 900;

#[derive(Parser)]
pub(crate) struct Options {
    /// Those of ten minutes when none is named.
    #[arg(value_enum)]
    scenarios: Vec<Scenario>,
    /// How long the soak goes on.
    #[arg(long, default_value_t = 60.0)]
    minutes: f64,
    /// The soak's service leaks, and the soak is held to see it.
    #[arg(long, value_enum)]
    leak: Option<Leak>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Scenario {
    /// One request that asks for more than it may have.
    OneRequest,
    /// A log that nobody takes.
    Log,
    /// Answers that nobody reads.
    Unread,
    /// Thousands of connections that do next to nothing.
    Quiet,
    /// One client beside greedy ones.
    Neighbours,
    /// Two to ten times of what can be done.
    Overload,
    /// Connections that are cut or half closed.
    Resets,
    /// By name: 40 times SIGTERM under load.
    Restarts,
    /// By name: 125 times `kill -9` at any time.
    Kills,
    /// By name, and as root: disks that are full.
    Disk,
    /// By name: no file left that may be opened.
    Descriptors,
    /// By name, and as root: everything that takes memory at once, in a control group of exactly the sum that is documented.
    WorstMix,
    /// By name: an hour of ordinary traffic.
    Soak,
}

/// What runs when nothing is named.
const UNNAMED: [Scenario; 7] = [
    Scenario::OneRequest,
    Scenario::Log,
    Scenario::Unread,
    Scenario::Quiet,
    Scenario::Neighbours,
    Scenario::Overload,
    Scenario::Resets,
];

/// One run.
struct Attack<'a> {
    places: &'a Places,
    picture: Vec<u8>,
    findings: Vec<Finding>,
    started: Instant,
    limit: Duration,
}

pub(crate) fn run(places: &Places, options: &Options) -> Result<()> {
    let started = Instant::now();
    checkpoint::make(places)?;
    let status = Command::new("prlimit").args(["--pid", &std::process::id().to_string(), FILES]).status()?;
    if !status.success() {
        return Err(format!("prlimit {FILES}: {status}").into());
    }
    let picture = fs::read(places.root.join(PICTURE))?;
    let scenarios = if options.scenarios.is_empty() { &UNNAMED } else { &options.scenarios[..] };
    let limited = scenarios.iter().all(|scenario| UNNAMED.contains(scenario));
    let limit = if limited { LIMIT } else { Duration::MAX };
    let mut attack = Attack { places, picture, findings: Vec::new(), started, limit };
    for scenario in scenarios {
        let name = scenario.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
        attack.say(&name);
        let outcome = attack.time_left().and_then(|()| match scenario {
            Scenario::OneRequest => one_request::run(&mut attack),
            Scenario::Log => log::run(&mut attack),
            Scenario::Unread => unread::run(&mut attack),
            Scenario::Quiet => quiet::run(&mut attack),
            Scenario::Neighbours => neighbours::run(&mut attack),
            Scenario::Overload => overload::run(&mut attack),
            Scenario::Resets => resets::run(&mut attack),
            Scenario::Restarts => restarts::run(&mut attack),
            Scenario::Kills => kills::run(&mut attack),
            Scenario::Disk => disk::run(&mut attack),
            Scenario::Descriptors => descriptors::run(&mut attack),
            Scenario::WorstMix => worst_mix::run(&mut attack),
            Scenario::Soak => soak::run(&mut attack, options.minutes, options.leak),
        });
        if let Err(error) = outcome {
            attack.found(Finding::not_measured(format!("{name}: the rest"), error.to_string()));
        }
    }
    if limited {
        let seconds = attack.started.elapsed();
        let all = Finding::new("the whole run").at_most("took", " s", seconds.as_secs_f64(), LIMIT.as_secs_f64());
        attack.found(all);
    }
    conclude(&attack.findings)
}

/// Prints the findings as a table.
///
/// # Errors
/// When a bar is missed.
pub(crate) fn conclude(findings: &[Finding]) -> Result<()> {
    println!("{}; {}\n", machine::describe()?, machine::today());
    println!("{}", finding::table(findings));
    let missed = findings.iter().filter(|finding| !finding.met()).count();
    if missed == 0 { Ok(()) } else { Err(format!("{missed} of {} bars missed", findings.len()).into()) }
}

impl Attack<'_> {
    /// A line of progress.
    fn say(&self, text: impl Display) {
        eprintln!("[{:>5.1} s] {text}", self.started.elapsed().as_secs_f64());
    }

    /// Takes down what was found.
    fn found(&mut self, finding: Finding) {
        self.say(finding.line());
        self.findings.push(finding);
    }

    fn time_left(&self) -> Result<()> {
        if self.started.elapsed() < self.limit { Ok(()) } else { Err("the time is over".into()) }
    }

    /// Requests of that kind, no two alike.
    fn template(&self, ask: Ask) -> Result<Template> {
        Ok(Template::new(ask, Wire::Native, &self.picture, ENDLESS)?)
    }

    /// One measurement, and a line about it.
    fn measure(
        &self,
        what: &str,
        target: &Target,
        template: &Template,
        client: Client,
        seconds: f64,
    ) -> Result<Summary> {
        self.time_left()?;
        let summary =
            measure(target, template, client, seconds, PATIENCE).map_err(|error| format!("{what}: {error}"))?;
        self.say(format!("  {what}: {}", describe(&summary)));
        Ok(summary)
    }
}

/// Who asks.
#[derive(Clone, Copy, Debug)]
enum Client {
    /// So many connections, each with one request open at a time.
    Closed(usize),
    /// Poisson arrivals, so many in a second.
    Open(f64),
}

fn measure(target: &Target, template: &Template, client: Client, seconds: f64, patience: Duration) -> Result<Summary> {
    let (warm_up, window) = (Duration::from_millis(500), Duration::from_secs_f64(seconds));
    let (connections, pace, patience) = match client {
        Client::Closed(connections) => (connections, Pace::Closed, patience),
        Client::Open(rate) => {
            let schedule = Schedule::new(Arrivals::Poisson, rate, 1);
            // Nobody gives up before the drain ends: who is late has not failed.
            (OPEN_CONNECTIONS, Pace::Open(schedule), patience.max(warm_up + window + DRAIN))
        }
    };
    load::run(&Load {
        address: target.address(),
        template,
        connections,
        pace,
        warm_up,
        window,
        drain: DRAIN,
        patience,
        slo: SLO,
    })
}

/// One line of a measurement.
fn describe(summary: &Summary) -> String {
    let offered = summary.offered.map(|rate| format!("{} arrivals/s, ", figure(rate))).unwrap_or_default();
    let time = |time| figure(milliseconds(time));
    let (p50, p99) = (time(summary.latency(0.5)), time(summary.latency(0.99)));
    let refusal = time(summary.refusal(0.99));
    let retry: Vec<_> = summary
        .retry_after
        .iter()
        .map(|(seconds, count)| {
            format!("{}: {count}", seconds.map_or("none".to_owned(), |seconds| format!("{seconds} s")))
        })
        .collect();
    let failure = summary.first_failure.as_ref().map(|failure| format!(", first: {failure}")).unwrap_or_default();
    format!(
        "{offered}{} answers/s, {} within {} ms, p50 {p50} ms, p99 {p99}; {} answered, {} refused (p99 {refusal} ms; Retry-After \
         {}), {} failed ({} of them without an answer at the end){failure}; generator {:.0} % of a CPU",
        figure(summary.rate),
        figure(summary.goodput),
        SLO.as_millis(),
        summary.answered,
        summary.refused,
        retry.join(", "),
        summary.failed,
        summary.unanswered,
        summary.generator_cpu * 100.0,
    )
}

/// The part of the requests that was refused.
fn refused(summary: &Summary) -> f64 {
    let all = summary.answered + summary.refused + summary.failed;
    if all == 0 { 1.0 } else { summary.refused as f64 / all as f64 }
}

/// The 99th percentile; a request that failed took as long as its client would wait.
fn p99(summary: &Summary) -> Duration {
    if summary.answered == 0 || summary.failed > 0 { PATIENCE } else { summary.latency(0.99) }
}
