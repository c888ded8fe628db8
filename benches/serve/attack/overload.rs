//! Two to ten times of what the service can do.
//!
//! Owns the rates and what they are held to: what can be done is still done in time, the rest is refused at once and told when
//! to come back, nothing fails. The capacity is measured in a closed loop before each of them: other tenants move that of a machine by a
//! fifth within a minute.

use std::{thread, time::Duration};

use super::{
    Attack, Client, PATIENCE, SLO, describe,
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

/// Seconds of the capacity, and of each rate: of runs that take 0.3 s, one more or less is to be little.
const CAPACITY_SECONDS: f64 = 4.0;
const SECONDS: f64 = 5.0;

/// Arrivals, of the capacity.
const TIMES: [f64; 3] = [2.0, 5.0, 10.0];

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
            let mut capacities = Vec::new();
            let mut shares = Vec::new();
            for times in TIMES {
                let capacity = capacity(attack, &name, &target, &template)?;
                let (name, client) = (format!("{name}, {times}x of the capacity"), Client::Open(times * capacity));
                let summary = attack.measure(&name, &target, &template, client, SECONDS)?;
                capacities.push(capacity);
                shares.push(summary.rate / capacity);
                attack.found(judge(name, &summary, capacity));
                target.settle(Duration::from_secs(3));
            }
            let steady = shares[shares.len() - 1] / shares[0];
            let finding = Finding::new(format!("{name}: from 2x to 10x"));
            attack.found(finding.at_least("answers/s of the capacity, of those at 2x,", "", steady, STEADY));
            let capacity = capacities.iter().sum::<f64>() / capacities.len() as f64;
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

/// Answers in a second, as a closed loop finds them.
fn capacity(attack: &Attack<'_>, name: &str, target: &Target, template: &Template) -> Result<f64> {
    let what = format!("{name}, capacity");
    let capacity = attack.measure(&what, target, template, Client::Closed(CAPACITY), CAPACITY_SECONDS)?.rate;
    if capacity > 0.0 { Ok(capacity) } else { Err(format!("{what}: no answers").into()) }
}

fn judge(name: String, summary: &Summary, capacity: f64) -> Finding {
    let failed = summary.failed - summary.unanswered;
    let failure = if failed == 0 { None } else { summary.first_failure.as_ref() };
    let failure = failure.map(|failure| format!(" ({failure})")).unwrap_or_default();
    let told = |seconds: &Option<u64>| seconds.is_some_and(|seconds| RETRY.contains(&seconds));
    let seconds: Vec<_> = summary.retry_after.keys().copied().collect();
    let retry: Vec<_> =
        seconds.iter().map(|seconds| seconds.map_or("none".to_owned(), |seconds| seconds.to_string())).collect();
    let retry = if retry.is_empty() { "none, as none is refused".to_owned() } else { retry.join(", ") };
    let retry_is_well = seconds.iter().all(told) && (seconds.len() > 1 || summary.refused < 2);
    let in_time = format!("answers within {} ms, of the capacity,", SLO.as_millis());
    Finding::new(name)
        .at_least(&in_time, "", summary.goodput / capacity, IN_TIME)
        .within("429 p99", summary.refusal(0.99), REFUSAL)
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
    let (half, one) = both(target, (&busy, Client::Open(capacity / 2.0)), (template, Client::Closed(1)), SECONDS)?;
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
