//! `clipserve embed` in one run on the machine at hand: beside what its parts allow, and beside what others fill an index with.
//!
//! ```text
//! make bench ARGS="bulk"                     pictures, texts, the first embedding, memory
//! make bench ARGS="bulk pictures texts"      some of it
//! ```
//!
//! Owns the rounds and the tables. What is compared is measured in turn within each round and everything else rests, so that a busy
//! machine hits all alike; figures are medians over the rounds, ratios medians of each round's. The peers, which
//! `make bench-bulk` installs, are one Python process (`peers`); without them the rest is measured and the table says so.
//!
//! | bar | |
//! |---|---|
//! | pictures/s, of what bare sessions and decoding beside them allow | 0.95 |
//! | pictures/s, of `clip-retrieval inference` | 1.3 in f32; in the fastest arithmetic 3.5, and 5 with AMX |
//! | texts/s, of `sentence-transformers`' `encode` | 3 in the fastest arithmetic |
//! | seconds from the start to the first embedding | 1.5 |
//! | resident memory at 100,000 items, of that at 10,000 | 1.05 |

mod embed;
mod memory;
mod peers;
mod pictures;
mod texts;

use std::{fs, path::PathBuf};

use clap::{Parser, ValueEnum};

use crate::{
    Result,
    arithmetic::Arithmetic,
    checkpoint,
    figures::{figure, median},
    machine,
    services::Places,
};
use embed::Embed;
use peers::Peers;

/// Seconds from the start of the process to the first embedding.
const FIRST: f64 = 1.5;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum What {
    /// Pictures per second.
    Pictures,
    /// Texts per second.
    Texts,
    /// Seconds from the start to the first embedding.
    First,
    /// Memory by items.
    Memory,
}

#[derive(Parser)]
pub(crate) struct Options {
    /// What is measured; all of it, if nothing is named.
    #[arg(value_enum)]
    what: Vec<What>,
    /// Arithmetics of the encoders.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "f32,bf16,int8,int8-openvino")]
    arithmetics: Vec<Arithmetic>,
    /// Rounds.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Seconds of each look at a part, before and after what is compared with it.
    #[arg(long, default_value_t = 4.0)]
    seconds: f64,
    /// Pictures of a run.
    #[arg(long, default_value_t = 1000)]
    pictures: u64,
    /// Texts of a run.
    #[arg(long, default_value_t = 2000)]
    texts: u64,
    /// Items of the run whose memory is looked at.
    #[arg(long, default_value_t = 100_000)]
    items: u64,
    /// A key of clipserve's configuration; may be given several times.
    #[arg(long, value_name = "SECTION.KEY=VALUE")]
    set: Vec<String>,
}

pub(crate) fn run(places: &Places, options: &Options) -> Result<()> {
    println!("machine: {}\n", machine::describe()?);
    checkpoint::make(places)?;
    let asked = |what| options.what.is_empty() || options.what.contains(&what);
    let mut peers = None;
    if asked(What::Pictures) || asked(What::Texts) {
        peers = match Peers::start(places) {
            Ok(peers) => {
                println!("peers: {}\n", peers.versions());
                Some(peers)
            }
            Err(error) => {
                println!("without peers: {}\n", error.to_string().trim());
                None
            }
        };
    }
    if asked(What::Pictures) {
        pictures::run(places, options, peers.as_mut())?;
    }
    if asked(What::Texts) {
        texts::run(places, options, peers.as_mut())?;
    }
    drop(peers);
    if asked(What::First) {
        first(places, options)?;
    }
    if asked(What::Memory) {
        memory::run(places, options)?;
    }
    Ok(())
}

/// Where inputs and outputs of the runs are.
fn folder(places: &Places) -> Result<PathBuf> {
    let folder = places.made().join("bulk-runs");
    fs::create_dir_all(&folder)?;
    Ok(folder)
}

/// From the start of the process to the first row, with exported graphs and files that are in memory.
fn first(places: &Places, options: &Options) -> Result<()> {
    let folder = pictures::folder(places, options.pictures)?;
    println!("| first embedding after, s (bar: {FIRST}) | median | longest |\n|---|---:|---:|");
    for &arithmetic in &options.arithmetics {
        let embed = Embed { places, model: &places.checkpoint(), arithmetic, set: &options.set };
        let seen = (0..=options.rounds).map(|_| Ok(embed.first(&folder)?.as_secs_f64())).collect::<Result<Vec<_>>>();
        match seen {
            // The first of all may have exported the graphs.
            Ok(seen) => {
                let seen = &seen[1..];
                let longest = seen.iter().copied().fold(0.0, f64::max);
                println!("| {} | {} | {} |", arithmetic.name(), figure(median(seen)), figure(longest));
            }
            Err(error) if arithmetic == Arithmetic::F32 => return Err(error),
            Err(error) => println!("| {}: {} | | |", arithmetic.name(), last_line(&*error)),
        }
    }
    println!();
    Ok(())
}

fn last_line(error: &(dyn std::error::Error + Send + Sync + 'static)) -> String {
    error.to_string().trim().lines().last().unwrap_or_default().to_owned()
}
