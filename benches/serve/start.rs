//! From the start of the process to readiness: how long it takes and how much memory, from the page cache and an export that is there.
//!
//! Owns the rounds and the table. Builds and the peer start in turn in every round, none beside another. What a start cannot do without
//! is one run of a picture and one of a text in bare sessions that are open; it is measured in the same run and said beside it. The
//! first answers after readiness are measured against later ones: a start that leaves its work to the first request is none.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use clap::Parser;
use clipserve::{export, model::Digests};

use crate::{
    ENDLESS, PICTURE, Result,
    arithmetic::Arithmetic,
    bare::Bare,
    checkpoint,
    figures::{figure, median, milliseconds},
    load::{
        connection::Connection,
        request::{Ask, Template, Wire},
    },
    machine,
    process::{Reader, Service},
    services::{self, Places},
};

/// Requests after the first one: their median is what later ones take.
const LATER: u64 = 10;

#[derive(Parser)]
pub(crate) struct Options {
    /// Arithmetics of the encoders.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "f32,bf16,int8,int8-openvino")]
    arithmetics: Vec<Arithmetic>,
    /// A binary of another build, which starts in turn with this one.
    #[arg(long)]
    beside: Option<PathBuf>,
    /// A checkpoint; without it, one of ViT-B/32's size.
    #[arg(long)]
    model: Option<PathBuf>,
    /// Rounds.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Infinity, too, which `benches/peers/install.sh` installs.
    #[arg(long)]
    infinity: bool,
}

/// What was seen of one build or peer.
#[derive(Default)]
struct Seen {
    ready: Vec<f64>,
    peak: Vec<f64>,
    resident: Vec<f64>,
    /// The first answer after readiness, as a multiple of later ones.
    first: Vec<f64>,
}

pub(crate) fn run(places: &Places, options: &Options) -> Result<()> {
    println!("machine: {}\n", machine::describe()?);
    checkpoint::make(places)?;
    let model = options.model.clone().unwrap_or_else(|| places.checkpoint());
    println!(
        "| | ready, ms | times as long as a picture and a text | peak, MB | of what is held | first answer, of later ones |"
    );
    println!("|---|---:|---:|---:|---:|---:|");
    for &arithmetic in &options.arithmetics {
        let name = arithmetic.name();
        if let Err(error) = rows(places, options, &model, arithmetic) {
            println!("| {name}: {} | | | | | |", error.to_string().trim().replace('\n', " "));
        }
    }
    if options.infinity {
        let mut seen = Seen::default();
        for _ in 0..options.rounds {
            let started = Instant::now();
            let service = services::infinity(places)?;
            seen.look(&service, started.elapsed())?;
        }
        println!("{}", seen.row("infinity", f64::NAN));
    }
    println!("\nMedians of {} rounds in turn.", options.rounds);
    Ok(())
}

fn rows(places: &Places, options: &Options, model: &Path, arithmetic: Arithmetic) -> Result<()> {
    let exported =
        export::export_cached(model, &places.cache(), arithmetic.graphs(), &Digests::new(Some(&places.cache())))?;
    let (Some(vision), Some(text)) = (exported.vision, exported.text) else {
        return Err("the model has not both towers".into());
    };
    let (mut vision, mut text) = (Bare::start(&vision, arithmetic, None)?, Bare::start(&text, arithmetic, None)?);
    let mut builds = vec![(arithmetic.name().to_owned(), PathBuf::from(env!("CARGO_BIN_EXE_clipserve")))];
    builds
        .extend(options.beside.iter().map(|other| (format!("{}, the other build", arithmetic.name()), other.clone())));
    let (mut passes, mut all) = (Vec::new(), Vec::new());
    all.resize_with(builds.len(), Seen::default);
    let picture = fs::read(places.root.join(PICTURE))?;
    for _ in 0..options.rounds {
        passes.push(milliseconds(vision.run()? + text.run()?));
        for ((_, binary), seen) in builds.iter().zip(&mut all) {
            let any = SocketAddr::from(([127, 0, 0, 1], 0));
            let command = services::command_of(binary, places, model, arithmetic, &[], any);
            let started = Instant::now();
            let service = services::logging_clipserve(command, Reader::Stays)?;
            seen.look(&service, started.elapsed())?;
            seen.first.push(first(&service, &picture)?);
        }
    }
    for ((name, _), seen) in builds.iter().zip(&all) {
        println!("{}", seen.row(name, median(&passes)));
    }
    if let [this, other] = all.as_slice() {
        let faster: Vec<f64> = this.ready.iter().zip(&other.ready).map(|(this, other)| other / this).collect();
        println!("| {}: times as fast as the other build | {} | | | | |", arithmetic.name(), figure(median(&faster)));
    }
    Ok(())
}

/// The first answer's time, as a multiple of the median of later ones.
fn first(service: &Service, picture: &[u8]) -> Result<f64> {
    let template = Template::new(Ask::Image, Wire::Native, picture, ENDLESS)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let times = tokio::task::LocalSet::new().block_on(&runtime, async {
        let mut connection = Connection::open(service.address()).await?;
        let mut times = Vec::new();
        for number in 0..=LATER {
            let request = template.request(number);
            let started = Instant::now();
            connection.fetch(request).await?;
            times.push(milliseconds(started.elapsed()));
        }
        Result::Ok(times)
    })?;
    Ok(times[0] / median(&times[1..]))
}

impl Seen {
    fn look(&mut self, service: &Service, took: Duration) -> Result<()> {
        let memory = service.memory()?;
        self.ready.push(milliseconds(took));
        self.peak.push(memory.peak / 1e6);
        self.resident.push(memory.resident / 1e6);
        Ok(())
    }

    fn row(&self, name: &str, pass: f64) -> String {
        let (ready, peak) = (median(&self.ready), median(&self.peak));
        let first = if self.first.is_empty() { String::new() } else { figure(median(&self.first)) };
        let (passes, held) = (figure(ready / pass), figure(peak / median(&self.resident)));
        format!("| {name} | {} | {passes} | {} | {held} | {first} |", figure(ready), figure(peak))
    }
}
