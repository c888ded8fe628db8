//! `make mutants`: 100,000 broken pictures, bodies, checkpoints, graphs, tokenizers and configurations, each made again by its number.
//!
//! Owns how many there are of each kind and what they are held to: no answer that is a fault of ours, no process that ends, none that takes
//! longer than three seconds. Pictures and bodies are sent to a release build that serves the model in the box (`pictures`, `bodies`,
//! `coded`); the others are loaded by the library in processes of this program, which are started again when one dies (`models`,
//! `loader`, `loading`). How files are broken is in `bytes`, how JSON is in `values`.

mod bodies;
mod bytes;
mod coded;
pub(crate) mod loader;
mod loading;
mod models;
mod pictures;
mod values;

use std::{cell::RefCell, collections::BTreeMap, fs, time::Duration};

use ::bytes::Bytes;
use clap::{Parser, ValueEnum};
use fastrand::Rng;
use http::{HeaderValue, Request, header};

use self::{
    loading::Loads,
    models::{Models, Part},
    pictures::Pictures,
};
use crate::{
    Result,
    asker::{self, LIMIT, post},
    attack::{
        self,
        finding::Finding,
        target::{MIB, Model, Target},
    },
    figures::{figure, milliseconds},
    services::Places,
};

/// So many ask at once: as many as keep a machine of few cores busy.
const AT_ONCE: usize = 3;

/// So many troubles of each kind are shown.
const SHOWN: usize = 20;

/// What a process that loads models may hold: the largest of them takes a hundredth of it.
const LOADER: f64 = 1024.0;

#[derive(Parser)]
pub(crate) struct Options {
    /// All of them when none is named.
    #[arg(value_enum)]
    kinds: Vec<Kind>,
    /// This one of them alone; it is kept as target/bench/mutant.
    #[arg(long)]
    number: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    Pictures,
    Bodies,
    Checkpoints,
    Graphs,
    Tokenizers,
    Configurations,
}

impl Kind {
    /// 100,000 in all; of pictures 10,000 in each format.
    fn count(self) -> u64 {
        match self {
            Self::Pictures => 70_000,
            Self::Bodies => 15_000,
            Self::Checkpoints => 6_000,
            Self::Graphs | Self::Configurations => 2_500,
            Self::Tokenizers => 4_000,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Pictures => "pictures",
            Self::Bodies => "bodies",
            Self::Checkpoints => "checkpoints",
            Self::Graphs => "graphs",
            Self::Tokenizers => "tokenizers",
            Self::Configurations => "configurations",
        }
    }
}

pub(crate) fn run(places: &Places, options: &Options) -> Result<()> {
    let kinds = if options.kinds.is_empty() { Kind::value_variants() } else { &options.kinds };
    let mut findings = Vec::new();
    for &kind in kinds {
        eprintln!("{}", kind.name());
        let numbers = options.number.map_or(0..kind.count(), |number| number..number + 1);
        let (first, end) = (numbers.start, numbers.end);
        let keep = |bytes: &[u8]| -> Result<()> {
            fs::create_dir_all(places.made())?;
            if options.number.is_some() { Ok(fs::write(places.made().join("mutant"), bytes)?) } else { Ok(()) }
        };
        let mut load = |part| -> Result<()> {
            if options.number.is_some() {
                keep(&fs::read(Models::new(places, part)?.make(first)?.0)?)?;
            }
            findings.push(loaded(kind.name(), end - first, loading::load(part, first, end)?));
            Ok(())
        };
        match kind {
            Kind::Pictures => {
                let pictures = Pictures::read(places)?;
                keep(&pictures.mutant(first))?;
                let make = |number| post("/embed/image", "application/octet-stream", pictures.mutant(first + number));
                findings.extend(asked(places, kind, end - first, make)?);
            }
            Kind::Bodies => {
                let seeds = bodies::seeds();
                let make = |number| body(&seeds, first + number);
                keep(make(0)?.body())?;
                findings.extend(asked(places, kind, end - first, make)?);
            }
            Kind::Checkpoints => load(Part::Checkpoint)?,
            Kind::Graphs => load(Part::Graph)?,
            Kind::Tokenizers => load(Part::Tokenizer)?,
            Kind::Configurations => load(Part::Configuration)?,
        }
    }
    attack::conclude(&findings)
}

/// The broken body of that number: one of three in a coding.
fn body(seeds: &[bodies::Seed], number: u64) -> Result<Request<Bytes>> {
    let (_, mut request) = bodies::request(seeds, number);
    let mut rng = Rng::with_seed(number);
    if rng.u8(..3) == 0 {
        let (coding, coded) = coded::coded(request.body(), &mut rng)?;
        *request.body_mut() = coded;
        request.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static(coding));
    }
    Ok(request.map(Bytes::from))
}

/// Whether an answer is no fault of ours. 501 says that the model cannot.
fn is_well(status: u16) -> bool {
    status < 500 || status == 501
}

/// Sends the requests of all numbers below `count`.
fn asked(
    places: &Places,
    kind: Kind,
    count: u64,
    make: impl Fn(u64) -> Result<Request<Bytes>>,
) -> Result<Vec<Finding>> {
    let mut target = Target::start(places, Model::Box, &["model.aliases=clip"])?;
    let statuses: RefCell<BTreeMap<u16, usize>> = RefCell::default();
    let (troubles, slowest) = (RefCell::new(Vec::new()), RefCell::new(Duration::ZERO));
    asker::each(target.address(), AT_ONCE, count, async |asker, number| {
        let reply = match make(number) {
            Ok(request) => asker.ask(request).await,
            Err(error) => return troubles.borrow_mut().push((number, error.to_string())),
        };
        slowest.replace_with(|slowest| (*slowest).max(reply.took));
        match reply.status {
            Ok(status) => {
                *statuses.borrow_mut().entry(status).or_default() += 1;
                if !is_well(status) {
                    let text = String::from_utf8_lossy(&reply.body[..reply.body.len().min(200)]).into_owned();
                    troubles.borrow_mut().push((number, format!("{status}: {text}")));
                }
            }
            Err(error) => troubles.borrow_mut().push((number, error)),
        }
    })?;
    let (statuses, troubles) = (statuses.into_inner(), troubles.into_inner());
    show(&troubles);
    let answered: usize = statuses.values().sum();
    let statuses: Vec<_> = statuses.iter().map(|(status, count)| format!("{count} x {status}")).collect();
    let finding = Finding::new(format!("{} broken {}", count, kind.name()))
        .check(statuses.join(", "), "no 5xx but 501", troubles.is_empty())
        .all("answered", answered, usize::try_from(count)?)
        .within("slowest", slowest.into_inner(), LIMIT);
    let panics = target.panics();
    let finding = finding.check(
        panics.map_or("unknown".to_owned(), |panics| format!("{panics} panics")),
        "0",
        panics == Some(0.0),
    );
    let finding = target.memory_finding(finding, AT_ONCE)?;
    Ok(vec![finding, target.unharmed(kind.name(), Duration::from_secs(5))])
}

fn loaded(name: &str, count: u64, loads: Loads) -> Finding {
    show(&loads.troubles);
    Finding::new(format!("{count} broken {name}"))
        .check(
            format!("{} loaded, {} refused, {} otherwise", loads.loaded, loads.refused, loads.troubles.len()),
            "none otherwise",
            loads.troubles.is_empty() && loads.count() == count,
        )
        .check(
            format!("slowest {} ms", figure(milliseconds(loads.slowest))),
            format!("≤ {}", milliseconds(loading::LIMIT)),
            loads.slowest <= loading::LIMIT,
        )
        .at_most("the process held", " MiB", loads.peak as f64 / MIB, LOADER)
}

fn show(troubles: &[(u64, String)]) {
    for (number, trouble) in troubles.iter().take(SHOWN) {
        eprintln!("  number {number}: {trouble}");
    }
}
