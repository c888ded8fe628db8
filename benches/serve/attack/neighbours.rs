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
    load::{
        request::{Ask, Template},
        summary::Summary,
    },
};

/// Seconds of each measurement.
const ALONE: f64 = 1.5;
const BESIDE: f64 = 2.5;

/// How often each neighbour comes to a client of texts of the small model: its p99 is some milliseconds, which others' work on the machine
/// moves.
const ROUNDS: usize = 3;

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
            let rounds = if matches!((model, ask), (Model::Box, Ask::Text)) { ROUNDS } else { 1 };
            for neighbour in &neighbours {
                let round = |_| beside(attack, &target, &template, neighbour);
                let rounds = (0..rounds).map(round).collect::<Result<Vec<_>>>()?;
                let name = format!("{}: a client of {kind} beside {}", model.name(), neighbour.name);
                attack.found(judge(Finding::new(name), &rounds));
            }
        }
        attack.found(target.unharmed(&format!("{}: neighbours", model.name()), Duration::from_secs(5)));
    }
    Ok(())
}

/// Who is greedy.
struct Neighbour {
    name: &'static str,
    connections: usize,
    asks: Template,
}

/// A client alone, right before its neighbour came, and beside it.
struct Round {
    alone: Summary,
    /// Why there is nothing, where nothing was answered.
    beside: std::result::Result<Summary, String>,
    /// Probes, p99.
    probes: Duration,
}

impl Round {
    /// The p99 beside the neighbour, of that alone.
    fn ratio(&self) -> Option<f64> {
        let beside = self.beside.as_ref().ok()?;
        Some(p99(beside).as_secs_f64() / p99(&self.alone).as_secs_f64())
    }
}

fn beside(attack: &Attack<'_>, target: &Target, template: &Template, neighbour: &Neighbour) -> Result<Round> {
    let Neighbour { name, connections, asks } = neighbour;
    let alone = attack.measure("alone", target, template, Client::Closed(1), ALONE)?;
    let crowd = Crowd::gather(target.address(), vec![(*connections, Guest::Asks(asks.clone()))])?;
    hold(SETTLE);
    let prober = Prober::start(target.address(), &["/livez", "/readyz"]);
    let beside = attack.measure(&format!("beside {name}"), target, template, Client::Closed(1), BESIDE);
    let probes = prober.stop()?;
    attack.say(format!("  {}; {}", crowd.describe(), probes.describe()));
    drop(crowd);
    target.settle(Duration::from_secs(5));
    Ok(Round { alone, beside: beside.map_err(|error| error.to_string()), probes: probes.p99() })
}

/// Of all rounds: the one with the median of the ratios, and the worst of all else.
fn judge(finding: Finding, rounds: &[Round]) -> Finding {
    let mut by_ratio: Vec<_> = rounds.iter().filter_map(|round| Some((round.ratio()?, round))).collect();
    by_ratio.sort_by(|one, other| one.0.total_cmp(&other.0));
    let unanswered = rounds.iter().find_map(|round| round.beside.as_ref().err());
    let finding = match (unanswered, by_ratio.get(by_ratio.len() / 2)) {
        (None, Some((ratio, Round { alone, beside: Ok(beside), .. }))) => {
            let times = [alone, beside].map(|summary| figure(milliseconds(p99(summary))));
            finding.at_most(&format!("p99 {} → {} ms,", times[0], times[1]), "x", *ratio, SLOWER)
        }
        (error, _) => finding.check(error.map_or("no answers", String::as_str).to_owned(), "answered", false),
    };
    let refused = rounds.iter().filter_map(|round| round.beside.as_ref().ok()).map(refused).fold(0.0, f64::max);
    let probes = rounds.iter().map(|round| round.probes).max().unwrap_or_default();
    finding.at_most("refused", " %", refused * 100.0, REFUSED * 100.0).within("probes p99", probes, PROBE)
}

/// One of each kind.
fn neighbours(picture: &[u8]) -> Result<Vec<Neighbour>> {
    let texts = Template::fixed("/embed/text", bodies::JSON, bodies::texts(1024, 16_000))?;
    let bombs: Vec<_> = (0..64).map(|colour| bodies::webp(SIDE, colour)).collect();
    let (content_type, bombs) = bodies::pictures(&bombs);
    let bombs = Template::fixed("/embed/image", &content_type, bombs)?;
    let (content_type, pictures) = bodies::pictures(&bodies::jpegs(picture, 64));
    let pictures = Template::fixed("/embed/image", &content_type, pictures)?;
    Ok(vec![
        Neighbour { name: "two clients of 1,024 texts of 16 kB", connections: 2, asks: texts },
        Neighbour { name: "one of 64 one-colour WebPs of 50 megapixels", connections: 1, asks: bombs },
        Neighbour { name: "one of 64 JPEGs", connections: 1, asks: pictures },
    ])
}
