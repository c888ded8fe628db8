//! Texts per second, beside `sentence-transformers`' `encode` of the same checkpoint.

use std::fs;

use super::{Embed, Options, Peers, last_line};
use crate::{
    Result,
    arithmetic::Arithmetic,
    figures::{figure, median},
    load::request::text,
    services::Places,
};

/// Of what sentence-transformers does, in the fastest arithmetic.
const PEER: f64 = 3.0;

pub(super) fn run(places: &Places, options: &Options, mut peers: Option<&mut Peers>) -> Result<()> {
    let file = super::folder(places)?.join("texts.txt");
    // Each round has texts of its own, so that nobody knows one already.
    let write = |round: usize| {
        let first = round as u64 * options.texts;
        let lines: String = (first..first + options.texts).map(|number| text(number) + "\n").collect();
        fs::write(&file, lines)
    };
    let mut all: Vec<_> = options.arithmetics.iter().map(|&arithmetic| (arithmetic, Vec::new())).collect();
    let mut theirs = Vec::new();
    for round in 1..=options.rounds {
        write(round)?;
        let mut failed = Vec::new();
        for (arithmetic, rates) in &mut all {
            let embed = Embed { places, model: &places.checkpoint(), arithmetic: *arithmetic, set: &options.set };
            match embed.rate(&file) {
                Ok(rate) => {
                    eprintln!("round {round}: {} {} texts/s", arithmetic.name(), figure(rate));
                    rates.push(rate);
                }
                Err(error) if *arithmetic == Arithmetic::F32 => return Err(error),
                Err(error) => {
                    println!("not measured: {}: {}\n", arithmetic.name(), last_line(&*error));
                    failed.push(*arithmetic);
                }
            }
        }
        all.retain(|(arithmetic, _)| !failed.contains(arithmetic));
        if let Some(peers) = peers.as_mut() {
            let rate = peers.texts(&file)?;
            eprintln!("round {round}: sentence-transformers {} texts/s", figure(rate));
            theirs.push(rate);
        }
    }
    println!("{} texts of 8 to 16 words, ViT-B/32, {} rounds\n", options.texts, options.rounds);
    println!("| texts/s | | of sentence-transformers (bar for the fastest: {PEER}) |\n|---|---:|---:|");
    for (arithmetic, rates) in &all {
        let ratios: Vec<f64> = rates.iter().zip(&theirs).map(|(ours, theirs)| ours / theirs).collect();
        let ratio = if theirs.is_empty() { "-".to_owned() } else { format!("{:.2}", median(&ratios)) };
        println!("| {} | {} | {ratio} |", arithmetic.name(), figure(median(rates)));
    }
    if !theirs.is_empty() {
        println!("| sentence-transformers | {} | |", figure(median(&theirs)));
    }
    println!();
    Ok(())
}
