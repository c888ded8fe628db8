//! One client with one request open at a time, beside greedy ones.
//!
//! Owns those neighbours. Held to: the client's p99 within four times of that alone, and it is hardly ever refused; probes stay
//! quick.

use std::time::Duration;

use super::{
    Attack, Client, bodies,
    crowd::{Crowd, Guest},
    figures::figure,
    finding::Finding,
    p99,
    raw::Prober,
    refused,
    target::{Model, Target, hold},
};
use crate::{
    Result,
    arithmetic::Arithmetic,
    figures::milliseconds,
    load::request::{Ask, Template},
};

/// Seconds of each measurement.
const ALONE: f64 = 3.0;
const BESIDE: f64 = 4.0;

/// How long neighbours work before the client is measured.
const SETTLE: Duration = Duration::from_millis(1000);

/// The p99 beside them, of that alone; the part that may be refused; probes, p99.
const SLOWER: f64 = 4.0;
const REFUSED: f64 = 0.05;
const PROBE: Duration = Duration::from_millis(50);

/// A square of just less than the 50 megapixels that a picture may have.
const SIDE: u32 = 7071;

pub(crate) fn run(attack: &mut Attack<'_>) -> Result<()> {
    let neighbours = neighbours(&attack.picture)?;
    for model in [Model::Box, Model::Large(Arithmetic::F32)] {
        let mut target = Target::start(attack.places, model, &[])?;
        for (ask, kind) in [(Ask::Image, "pictures"), (Ask::Text, "texts")] {
            let template = attack.template(ask)?;
            let alone = attack.measure("alone", &target, &template, Client::Closed(1), ALONE)?;
            for (name, connections, neighbour) in &neighbours {
                let crowd = Crowd::gather(target.address(), vec![(*connections, Guest::Asks(neighbour.clone()))])?;
                hold(SETTLE);
                let prober = Prober::start(target.address(), &["/livez", "/readyz"]);
                let beside = attack.measure(&format!("beside {name}"), &target, &template, Client::Closed(1), BESIDE);
                let probes = prober.stop()?;
                attack.say(format!("  {}; {}", crowd.describe(), probes.describe()));
                drop(crowd);
                let finding = Finding::new(format!("{}: a client of {kind} beside {name}", model.name()));
                let finding =
                    match beside {
                        Ok(beside) => {
                            let ratio = p99(&beside).as_secs_f64() / p99(&alone).as_secs_f64();
                            let times = [&alone, &beside].map(|summary| figure(milliseconds(p99(summary))));
                            finding
                                .at_most(&format!("p99 {} → {} ms,", times[0], times[1]), "x", ratio, SLOWER)
                                .at_most("refused", " %", refused(&beside) * 100.0, REFUSED * 100.0)
                        }
                        Err(error) => finding.check(error.to_string(), "answered", false),
                    };
                attack.found(finding.within("probes p99", probes.p99(), PROBE));
                target.settle(Duration::from_secs(5));
            }
        }
        attack.found(target.unharmed(&format!("{}: neighbours", model.name()), Duration::from_secs(5)));
    }
    Ok(())
}

/// Name, connections, requests.
fn neighbours(picture: &[u8]) -> Result<Vec<(&'static str, usize, Template)>> {
    let texts = Template::fixed("/embed/text", bodies::JSON, bodies::texts(1024, 16_000))?;
    let bombs: Vec<_> = (0..64).map(|colour| bodies::webp(SIDE, colour)).collect();
    let (content_type, bombs) = bodies::pictures(&bombs);
    let bombs = Template::fixed("/embed/image", &content_type, bombs)?;
    let (content_type, pictures) = bodies::pictures(&bodies::jpegs(picture, 64));
    let pictures = Template::fixed("/embed/image", &content_type, pictures)?;
    Ok(vec![
        ("two clients of 1,024 texts of 16 kB", 2, texts),
        ("one of 64 one-colour WebPs of 50 megapixels", 1, bombs),
        ("one of 64 JPEGs", 1, pictures),
    ])
}
