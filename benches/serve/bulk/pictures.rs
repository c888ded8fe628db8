//! Pictures per second: of each arithmetic beside its bare session and the decoding that it needs, and beside clip-retrieval.
//!
//! What the cores allow is one after the other: an image takes `1 / bare` of all cores in the session at its best batch, and
//! `1 / decoded` of all cores to be decoded, resized and cropped, a thread on each. Nothing is faster without doing less.

use std::{
    fs,
    hint::black_box,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use clipserve::{
    model::{pictures::PicturePreparation, preprocessor::PreprocessorConfig},
    preprocess::image::{ImageOptions, ImageProcessor},
};

use super::{Embed, Options, Peers, last_line};
use crate::{
    PICTURE, Result,
    arithmetic::Arithmetic,
    bare::Bare,
    figures::{figure, median},
    load::request::jpeg_start,
    services::Places,
};

/// Of what the parts allow.
const ALLOWED: f64 = 0.95;
/// Of clip-retrieval, in f32.
const PEER_F32: f64 = 1.3;
/// In the fastest arithmetic.
const PEER: f64 = 3.5;
/// Where the cores have AMX.
const PEER_AMX: f64 = 5.0;

/// One arithmetic and what was seen of it, a value for each round.
struct Ours {
    arithmetic: Arithmetic,
    bare: Bare,
    rates: Vec<f64>,
    decoded: Vec<f64>,
}

/// A folder of so many JPEGs of 640x480, each a file of its own with the same pixels.
pub(super) fn folder(places: &Places, count: u64) -> Result<PathBuf> {
    let folder = super::folder(places)?.join(format!("pictures-{count}"));
    if folder.is_dir() {
        return Ok(folder);
    }
    let partial = folder.with_extension("partial");
    fs::create_dir_all(&partial)?;
    let picture = fs::read(places.root.join(PICTURE))?;
    let rest = picture.strip_prefix(&[0xff, 0xd8]).ok_or("the picture is not a JPEG")?;
    for number in 0..count {
        fs::write(partial.join(format!("{number:06}.jpg")), [&jpeg_start(number), rest].concat())?;
    }
    fs::rename(&partial, &folder)?;
    Ok(folder)
}

pub(super) fn run(places: &Places, options: &Options, mut peers: Option<&mut Peers>) -> Result<()> {
    let folder = folder(places, options.pictures)?;
    let mut all = Vec::new();
    for &arithmetic in &options.arithmetics {
        match Bare::open(places, arithmetic) {
            Ok(bare) => all.push(Ours { arithmetic, bare, rates: Vec::new(), decoded: Vec::new() }),
            Err(error) if arithmetic == Arithmetic::F32 => return Err(error),
            Err(error) => println!("not measured: {}: {}\n", arithmetic.name(), last_line(&*error)),
        }
    }
    let mut theirs = Vec::new();
    for round in 1..=options.rounds {
        for ours in &mut all {
            let embed = Embed { places, model: &places.checkpoint(), arithmetic: ours.arithmetic, set: &options.set };
            let before = decoded(places, options.seconds / 2.0)?;
            let rate = ours.bare.around(options.seconds, || embed.rate(&folder))?;
            ours.decoded.push((before + decoded(places, options.seconds / 2.0)?) / 2.0);
            ours.rates.push(rate);
            eprintln!("round {round}: {} {} pictures/s", ours.arithmetic.name(), figure(rate));
        }
        if let Some(peers) = peers.as_mut() {
            let rate = peers.pictures(&folder)?;
            eprintln!("round {round}: clip-retrieval {} pictures/s", figure(rate));
            theirs.push(rate);
        }
    }
    print(options, &all, &theirs)
}

fn print(options: &Options, all: &[Ours], theirs: &[f64]) -> Result<()> {
    println!("{} JPEGs of 640x480, ViT-B/32, {} rounds\n", options.pictures, options.rounds);
    println!(
        "| pictures/s | embed | bare, best batch | decode and resize | allowed | of allowed (bar: {ALLOWED}) | of clip-retrieval |"
    );
    println!("|---|---:|---:|---:|---:|---:|---:|");
    let fastest = all.iter().map(|ours| median(&ours.rates)).fold(0.0, f64::max);
    let peer_bar = if fs::read_to_string("/proc/cpuinfo")?.contains("amx_") { PEER_AMX } else { PEER };
    for ours in all {
        let (batch, bare) = ours.bare.best();
        let allowed: Vec<f64> =
            ours.bare.samples(batch).iter().zip(&ours.decoded).map(|(a, b)| 1.0 / (1.0 / a + 1.0 / b)).collect();
        let ratios: Vec<f64> = ours.rates.iter().zip(&allowed).map(|(rate, allowed)| rate / allowed).collect();
        let rate = median(&ours.rates);
        let of_theirs: Vec<f64> = ours.rates.iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect();
        let bar = match ours.arithmetic {
            Arithmetic::F32 => format!(" (bar: {PEER_F32})"),
            _ if rate == fastest => format!(" (bar: {peer_bar})"),
            _ => String::new(),
        };
        let of_theirs = if theirs.is_empty() { "-".to_owned() } else { format!("{:.2}{bar}", median(&of_theirs)) };
        println!(
            "| {} | {} | {} ({batch}) | {} | {} | {:.3} | {of_theirs} |",
            ours.arithmetic.name(),
            figure(rate),
            figure(bare),
            figure(median(&ours.decoded)),
            figure(median(&allowed)),
            median(&ratios)
        );
    }
    if !theirs.is_empty() {
        println!("| clip-retrieval | {} | | | | | |", figure(median(theirs)));
    }
    println!();
    Ok(())
}

/// Pictures per second that all cores decode, resize and crop.
fn decoded(places: &Places, seconds: f64) -> Result<f64> {
    let picture = fs::read(places.root.join(PICTURE))?;
    let processor = processor(&places.checkpoint())?;
    let threads = thread::available_parallelism()?.get();
    let work = || -> Result<f64> {
        let mut processor = processor.clone();
        let (started, mut count) = (Instant::now(), 0);
        while started.elapsed() < Duration::from_secs_f64(seconds) {
            black_box(processor.process(&picture)?);
            count += 1;
        }
        Ok(f64::from(count) / started.elapsed().as_secs_f64())
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        threads.into_iter().map(|thread| thread.join().map_err(|_| "a decoder panicked")?).sum()
    })
}

fn processor(checkpoint: &Path) -> Result<ImageProcessor> {
    let config = fs::read_to_string(checkpoint.join("preprocessor_config.json"))?;
    let options = ImageOptions { exif_orientation: true, fast_decode: false, max_pixels: 50_000_000 };
    Ok(ImageProcessor::new(&PicturePreparation::Transformers(PreprocessorConfig::from_json(&config)?), options)?)
}
