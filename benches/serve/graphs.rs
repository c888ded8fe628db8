//! Graphs beside each other, with no service around them: milliseconds of `Session::run`, and how close the embeddings are.
//!
//! Owns what is compared and the tables. The sessions are those of `bare`. What to compare is named as `ARITHMETIC`, as
//! `ARITHMETIC/GROUP` with another activation group than the graph's, and with `=DIR` behind it for an export that is not of this
//! build: that is how a change of the exporter is measured.

use std::{
    path::{Path, PathBuf},
    str::FromStr,
};

use clap::{Parser, ValueEnum};
use clipserve::{
    export::{self, ExportedModel},
    model::Digests,
};

use crate::{
    Result,
    arithmetic::Arithmetic,
    bare::Bare,
    checkpoint,
    figures::{cosine, figure, median},
    services::Places,
};

/// What one run computes, as the two tables have it.
const BATCHES: [(&str, [usize; 3]); 2] = [("images", [1, 8, 16]), ("texts", [1, 8, 32])];

/// Inputs whose embeddings are compared: noise, blocks and gradients, or texts of 9 to 19 ids.
const EMBEDDED: usize = 16;

#[derive(Parser)]
pub(crate) struct Options {
    /// What is compared with the first of them: ARITHMETIC[/GROUP][=DIR].
    #[arg(required = true)]
    graphs: Vec<Spec>,
    /// Rounds.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Seconds of each measurement of each round.
    #[arg(long, default_value_t = 0.7)]
    seconds: f64,
}

/// One of what is compared.
#[derive(Clone)]
struct Spec {
    name: String,
    arithmetic: Arithmetic,
    group: Option<usize>,
    /// An export; without it, the benchmark's checkpoint, exported by this build.
    dir: Option<PathBuf>,
}

impl FromStr for Spec {
    type Err = String;

    fn from_str(name: &str) -> std::result::Result<Self, String> {
        let (what, dir) = match name.split_once('=') {
            Some((what, dir)) => (what, Some(PathBuf::from(dir))),
            None => (name, None),
        };
        let (arithmetic, group) = match what.split_once('/') {
            Some((arithmetic, group)) => {
                (arithmetic, Some(group.parse().map_err(|error| format!("group {group}: {error}"))?))
            }
            None => (what, None),
        };
        Ok(Self { name: name.to_owned(), arithmetic: Arithmetic::from_str(arithmetic, false)?, group, dir })
    }
}

impl Spec {
    fn open(&self, places: &Places) -> Result<[Bare; 2]> {
        let model = match &self.dir {
            Some(dir) => ExportedModel::at(dir),
            None => export::export_cached(
                &places.checkpoint(),
                &places.cache(),
                self.arithmetic.graphs(),
                &Digests::default(),
            )?,
        };
        let (Some(vision), Some(text)) = (model.vision, model.text) else {
            return Err(format!("{}: {} has not both towers", self.name, model.dir.display()).into());
        };
        let start = |graph: &Path| Bare::start(graph, self.arithmetic, self.group);
        Ok([start(&vision)?, start(&text)?])
    }
}

pub(crate) fn run(places: &Places, options: &Options) -> Result<()> {
    checkpoint::make(places)?;
    let mut all = options.graphs.iter().map(|spec| spec.open(places)).collect::<Result<Vec<_>>>()?;
    let names: Vec<&str> = options.graphs.iter().map(|spec| spec.name.as_str()).collect();
    for (tower, (kind, batches)) in BATCHES.into_iter().enumerate() {
        println!("| {kind} | {} |\n|---|{}", names.join(" | "), "---:|".repeat(names.len()));
        for batch in batches {
            let mut rates = vec![Vec::new(); all.len()];
            for _ in 0..options.rounds {
                for (sessions, rates) in all.iter_mut().zip(&mut rates) {
                    rates.push(sessions[tower].rate(batch, options.seconds)?);
                }
            }
            let cells = rates.iter().enumerate().map(|(at, own)| {
                let milliseconds = figure(batch as f64 / median(own) * 1e3);
                let faster: Vec<f64> = own.iter().zip(&rates[0]).map(|(own, first)| own / first).collect();
                if at == 0 { milliseconds } else { format!("{milliseconds} ({})", figure(median(&faster))) }
            });
            println!("| ms for {batch} | {} |", cells.collect::<Vec<_>>().join(" | "));
        }
        let embeddings =
            all.iter_mut().map(|sessions| sessions[tower].embeddings(EMBEDDED)).collect::<Result<Vec<_>>>()?;
        let cosines = embeddings.iter().map(|own| {
            let cosines = own.iter().zip(&embeddings[0]).map(|(own, first)| cosine(own, first));
            format!("{:.6}", cosines.fold(1.0, f64::min))
        });
        println!("| lowest cosine of {EMBEDDED} | {} |\n", cosines.collect::<Vec<_>>().join(" | "));
    }
    println!(
        "Medians of {} rounds in turn; in brackets: times as fast as the first, the median of the rounds.",
        options.rounds
    );
    Ok(())
}
