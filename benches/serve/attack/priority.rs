//! A second class of requests that takes all it can get, beside the first class.
//!
//! Owns how a request says that it is of the second class. Held to: the first class loses next to nothing.

use http::{HeaderName, HeaderValue};

use super::{
    Attack, Client, describe,
    figures::median,
    finding::Finding,
    overload::{both, capacity},
    p99,
    target::{Model, Target},
};
use crate::{Result, arithmetic::Arithmetic, figures::milliseconds, load::request::Ask};

/// What a request of the second class carries.
const SECOND_CLASS: (HeaderName, HeaderValue) = (HeaderName::from_static("x-priority"), HeaderValue::from_static("1"));

/// Connections of the second class.
const GREEDY: usize = 8;

/// Rounds, and seconds of each measurement.
const ROUNDS: u64 = 2;
const SECONDS: f64 = 4.0;

/// The p99 of the first class beside the second, of that alone.
const COSTS: f64 = 1.1;

/// Two loads at once do not ask for the same.
const APART: u64 = 1 << 32;

pub(crate) fn run(attack: &mut Attack<'_>) -> Result<()> {
    let model = Model::Large(Arithmetic::F32);
    let mut target = Target::start(attack.places, model, &[])?;
    for (ask, kind) in [(Ask::Image, "images"), (Ask::Text, "texts")] {
        let name = format!("{}, {kind}: the first class beside the second", model.name());
        let first = attack.template(ask)?;
        let second = first.clone().starting_at(APART).with_header(&SECOND_CLASS.0, &SECOND_CLASS.1);
        let half = Client::Open(capacity(attack, &name, &target, &first)? / 2.0);
        let mut ratios = Vec::new();
        let mut times = Vec::new();
        for _ in 0..ROUNDS {
            let alone = attack.measure("the first class alone", &target, &first, half, SECONDS)?;
            let (beside, greedy) = both(&target, (&first, half), (&second, Client::Closed(GREEDY)), SECONDS)?;
            attack.say(format!("  beside the second: {}", describe(&beside)));
            attack.say(format!("  the second class: {}", describe(&greedy)));
            ratios.push(p99(&beside).as_secs_f64() / p99(&alone).as_secs_f64());
            times.push([milliseconds(p99(&alone)), milliseconds(p99(&beside))]);
        }
        let times = [0, 1].map(|side| median(&times.iter().map(|times| times[side]).collect::<Vec<_>>()));
        let what = format!("p99 {:.0} → {:.0} ms,", times[0], times[1]);
        attack.found(Finding::new(name).at_most(&what, "x", median(&ratios), COSTS));
    }
    attack.found(target.unharmed("two classes", std::time::Duration::from_secs(5)));
    Ok(())
}
