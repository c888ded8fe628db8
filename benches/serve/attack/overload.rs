//! Two to ten times of what the service can do.
//!
//! Owns the rates and what they are held to: what can be done is still done in time, the rest is refused at once and told when
//! to come back, nothing fails.
//!
//! Other tenants move the capacity of a machine by a fifth within a minute. So there are several rounds, each of which begins with a closed
//! loop, whose answers are the capacity of that time, and the median is what counts. That loop lasts for a dozen runs: a shorter one ends
//! now before an answer of eight pictures, now behind it. A mix answers far more than its closed loop, which waits for the pictures: of that
//! one round tells enough.

use std::{collections::BTreeSet, thread, time::Duration};

use super::{
    Attack, Client, PATIENCE, SLO, describe,
    figures::median,
    finding::Finding,
    measure, priority, refused,
    target::{Model, Target},
};
use crate::{
    Result,
    arithmetic::Arithmetic,
    load::{
        request::{Ask, Template},
        summary::Summary,
    },
};

/// Connections that the capacity is measured with: enough for full batches.
const CAPACITY: usize = 32;

/// Seconds of a capacity, and of a rate: runs take up to 0.3 s.
const CAPACITY_SECONDS: f64 = 3.5;
const SECONDS: f64 = 2.5;

/// Seconds of what is measured once.
const LONGER: f64 = 4.0;

/// Arrivals, of the capacity.
const TIMES: [f64; 3] = [2.0, 5.0, 10.0];

/// How often each rate of images and of texts is measured.
const ROUNDS: usize = 3;

/// Answers in time, of the capacity; the time of a refusal; answers at the highest rate, of those at the lowest.
const IN_TIME: f64 = 0.9;
const REFUSAL: Duration = Duration::from_millis(50);
const STEADY: f64 = 0.95;

/// What may be refused of one request at a time, beside half of the capacity.
const REFUSED: f64 = 0.05;

/// Seconds that a refusal may say.
const RETRY: std::ops::RangeInclusive<u64> = 1..=10;

/// Two loads at once do not ask for the same.
const APART: u64 = 1 << 32;

pub(crate) fn run(attack: &mut Attack<'_>) -> Result<()> {
    for arithmetic in [Arithmetic::F32, Arithmetic::Int8] {
        let model = Model::Large(arithmetic);
        let mut target = Target::start(attack.places, model, &[])?;
        for (ask, kind) in [(Ask::Image, "images"), (Ask::Text, "texts"), (Ask::Mix, "images and texts")] {
            let (name, template) = (format!("{}, {kind}", model.name()), attack.template(ask)?);
            let rounds = if ask == Ask::Mix { 1 } else { ROUNDS };
            let rounds = (0..rounds).map(|_| round(attack, &name, &target, &template)).collect::<Result<Vec<_>>>()?;
            for (at, times) in TIMES.iter().enumerate() {
                let loads: Vec<_> = rounds.iter().map(|round| &round[at]).collect();
                attack.found(judge(format!("{name}, {times}x of the capacity"), &loads));
            }
            let steady = |at: usize| median(&rounds.iter().map(|round| round[at].answered()).collect::<Vec<_>>());
            let steady = steady(TIMES.len() - 1) / steady(0);
            let finding = Finding::new(format!("{name}: from 2x to 10x"));
            attack.found(finding.at_least("answers/s of the capacity, of those at 2x,", "", steady, STEADY));
            let capacity = median(&rounds.iter().flatten().map(|load| load.capacity).collect::<Vec<_>>());
            if arithmetic == Arithmetic::F32 && ask != Ask::Mix {
                let finding = one_at_a_time(attack, &name, &target, &template, capacity)?;
                attack.found(finding);
                let finding = priority::beside(attack, &name, &target, &template, capacity)?;
                attack.found(finding);
            }
        }
        attack.found(target.unharmed(&format!("{}: overload", model.name()), Duration::from_secs(5)));
    }
    Ok(())
}

/// What came of one rate, beside the capacity of that time.
struct Overload {
    summary: Summary,
    capacity: f64,
}

impl Overload {
    /// Answers, of the capacity.
    fn answered(&self) -> f64 {
        self.summary.rate / self.capacity
    }

    /// Answers in time, of the capacity.
    fn in_time(&self) -> f64 {
        self.summary.goodput / self.capacity
    }
}

/// The capacity, and each rate once.
fn round(attack: &Attack<'_>, name: &str, target: &Target, template: &Template) -> Result<Vec<Overload>> {
    let capacity = capacity(attack, name, target, template)?;
    let load = |times: &f64| {
        let (name, client) = (format!("{name}, {times}x of the capacity"), Client::Open(times * capacity));
        let summary = attack.measure(&name, target, template, client, SECONDS)?;
        target.settle(Duration::from_secs(3));
        Ok(Overload { summary, capacity })
    };
    TIMES.iter().map(load).collect()
}

/// Answers in a second, as a closed loop finds them.
fn capacity(attack: &Attack<'_>, name: &str, target: &Target, template: &Template) -> Result<f64> {
    let what = format!("{name}, capacity");
    let capacity = attack.measure(&what, target, template, Client::Closed(CAPACITY), CAPACITY_SECONDS)?.rate;
    if capacity > 0.0 { Ok(capacity) } else { Err(format!("{what}: no answers").into()) }
}

/// Of all rounds of one rate: the median of the answers, and the worst of all else.
fn judge(name: String, loads: &[&Overload]) -> Finding {
    let summaries = || loads.iter().map(|load| &load.summary);
    let failed: u64 = summaries().map(|summary| summary.failed - summary.unanswered).sum();
    let failure = if failed == 0 { None } else { summaries().find_map(|summary| summary.first_failure.as_ref()) };
    let failure = failure.map(|failure| format!(" ({failure})")).unwrap_or_default();
    let refused: u64 = summaries().map(|summary| summary.refused).sum();
    let told = |seconds: &Option<u64>| seconds.is_some_and(|seconds| RETRY.contains(&seconds));
    let seconds: BTreeSet<_> = summaries().flat_map(|summary| summary.retry_after.keys().copied()).collect();
    let retry: Vec<_> =
        seconds.iter().map(|seconds| seconds.map_or("none".to_owned(), |seconds| seconds.to_string())).collect();
    let retry = if retry.is_empty() { "none, as none is refused".to_owned() } else { retry.join(", ") };
    let retry_is_well = seconds.iter().all(told) && (seconds.len() > 1 || refused < 2);
    let in_time = format!("answers within {} ms, of the capacity,", SLO.as_millis());
    let refusal = summaries().map(|summary| summary.refusal(0.99)).max().unwrap_or_default();
    let share = median(&loads.iter().map(|load| load.in_time()).collect::<Vec<_>>());
    Finding::new(name)
        .at_least(&in_time, "", share, IN_TIME)
        .within("429 p99", refusal, REFUSAL)
        .check(format!("{failed} failed{failure}"), "0", failed == 0)
        .check(format!("Retry-After {retry}"), "1 to 10, not all equal", retry_is_well)
}

/// A client with one request open at a time, beside half of the capacity.
fn one_at_a_time(
    attack: &Attack<'_>,
    name: &str,
    target: &Target,
    template: &Template,
    capacity: f64,
) -> Result<Finding> {
    let busy = template.clone().starting_at(APART);
    let (half, one) = both(target, (&busy, Client::Open(capacity / 2.0)), (template, Client::Closed(1)), LONGER)?;
    attack.say(format!("  {name}, half of the capacity: {}", describe(&half)));
    attack.say(format!("  {name}, one at a time beside it: {}", describe(&one)));
    let finding = Finding::new(format!("{name}: one request at a time beside half of the capacity"));
    Ok(finding.at_most("refused", " %", refused(&one) * 100.0, REFUSED * 100.0))
}

/// Two measurements at once.
pub(crate) fn both(
    target: &Target,
    first: (&Template, Client),
    second: (&Template, Client),
    seconds: f64,
) -> Result<(Summary, Summary)> {
    thread::scope(|scope| {
        let other = scope.spawn(|| measure(target, second.0, second.1, seconds, PATIENCE));
        let first = measure(target, first.0, first.1, seconds, PATIENCE)?;
        Ok((first, other.join().map_err(|_| "the second load failed")??))
    })
}
