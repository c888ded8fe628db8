//! A second class of requests that takes all it can get, beside the first class.
//!
//! Owns how a request says that it is of the second class. Held to: the first class loses next to nothing. Part of the overload.

use std::time::Duration;

use http::{HeaderName, HeaderValue};

use super::{Attack, Client, PATIENCE, describe, finding::Finding, milliseconds, overload::both, target::Target};
use crate::{
    Result,
    load::{request::Template, summary::Summary},
};

/// What a request of the second class carries.
const SECOND_CLASS: (HeaderName, HeaderValue) = (HeaderName::from_static("x-priority"), HeaderValue::from_static("1"));

/// Connections of the second class.
const GREEDY: usize = 8;

/// Rounds, and seconds of each measurement. The p99 is that of all rounds together: of one it is the slowest of some 80 images, and differs
/// by a half from the next one's.
const ROUNDS: usize = 3;
const SECONDS: f64 = 4.0;

/// The p99 of the first class beside the second, of that alone.
const COSTS: f64 = 1.1;

/// Two loads at once do not ask for the same.
const APART: u64 = 1 << 33;

/// The same requests, of the second class, and none that the first one has.
pub(crate) fn second_class(first: &Template) -> Template {
    first.clone().starting_at(APART).with_header(&SECOND_CLASS.0, &SECOND_CLASS.1)
}

/// The first class at half of the `capacity`, alone and beside the second.
pub(crate) fn beside(
    attack: &Attack<'_>,
    name: &str,
    target: &Target,
    first: &Template,
    capacity: f64,
) -> Result<Finding> {
    let second = second_class(first);
    let half = Client::Open(capacity / 2.0);
    let (mut alone, mut beside) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        alone.push(attack.measure("the first class alone", target, first, half, SECONDS)?);
        let (summary, greedy) = both(target, (first, half), (&second, Client::Closed(GREEDY)), SECONDS)?;
        attack.say(format!("  beside the second: {}", describe(&summary)));
        attack.say(format!("  the second class: {}", describe(&greedy)));
        beside.push(summary);
    }
    let (alone, beside) = (p99(&alone), p99(&beside));
    let what = format!("p99 {:.0} → {:.0} ms,", milliseconds(alone), milliseconds(beside));
    let finding = Finding::new(format!("{name}: the first class at half of the capacity, beside the second"));
    Ok(finding.at_most(&what, "x", beside.as_secs_f64() / alone.as_secs_f64(), COSTS))
}

/// Of all rounds together; a request that failed took as long as its client would wait.
fn p99(rounds: &[Summary]) -> Duration {
    if rounds.iter().any(|round| round.failed > 0) { PATIENCE } else { Summary::latency_of_all(rounds, 0.99) }
}
