//! The speed floor: what the service does with the hardware, against what ONNX Runtime alone does with it.
//!
//! Three measurements:
//!
//! 1. Requests per second of the load generator itself, against the cheapest route: what it could not measure beyond.
//! 2. Images per second with a ViT-B/32-sized model and 640x480 JPEGs at 32 connections (closed loop), as a ratio to bare
//!    `Session::run` at its best batch size. Rounds of the two alternate; medians.
//! 3. CPU time per request outside decode, resize and `run`, with the small fixture model at one connection: the threads' own CPU
//!    time less the time that those three take by the clock, of which a busy machine takes part away. So it is a lower bound.

use std::{fs, time::Duration};

use clap::Parser;
use tokio::task::LocalSet;

use crate::{
    ENDLESS, PICTURE, Result, Served,
    arithmetic::Arithmetic,
    bare::Bare,
    checkpoint::{self, Size},
    figures::median,
    limit,
    load::{
        self, Load, Pace,
        connection::Connection,
        request::{Ask, Template, Wire},
    },
    machine,
    process::Service,
    services::{self, Places},
    stages::{group, stages},
};

#[derive(Parser)]
pub(crate) struct Options {
    #[command(flatten)]
    served: Served,
    /// Seconds of each measurement of each round.
    #[arg(long, default_value_t = 8.0)]
    seconds: f64,
    /// Rounds, each with bare sessions and the service.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Connections to the service.
    #[arg(long, default_value_t = 32)]
    connections: usize,
}

pub(crate) fn run(places: &Places, options: &Options) -> Result<()> {
    println!("machine: {}\n", machine::describe()?);
    checkpoint::make(places)?;
    generator(places, options)?;
    throughput(places, options)?;
    overhead(places)
}

fn generator(places: &Places, options: &Options) -> Result<()> {
    let service = services::clipserve(places, &places.fixture(), Arithmetic::F32, &[])?;
    let template = Template::new(Ask::Livez, Wire::Native, &fs::read(places.root.join(PICTURE))?, ENDLESS)?;
    let summary = load::run(&closed(&service, &template, options.connections, 3.0))?;
    println!("the load generator alone, GET /livez:\n\n{}", load::table::header(1000));
    println!("{}\n", load::table::row("/livez", options.connections, &summary));
    Ok(())
}

fn throughput(places: &Places, options: &Options) -> Result<()> {
    let arithmetic = options.served.arithmetic;
    let name = arithmetic.name();
    let template = Template::new(Ask::Image, Wire::Native, &fs::read(places.root.join(PICTURE))?, ENDLESS)?;
    let mut bare = Bare::open(places, arithmetic)?;
    let service = services::clipserve(places, &places.checkpoint(), arithmetic, &options.served.set)?;
    let mut served = Vec::new();
    for round in 1..=options.rounds {
        service.pause()?;
        let summary = bare.around(options.seconds, || {
            service.resume()?;
            let summary = load::run(&closed(&service, &template, options.connections, options.seconds))?;
            service.pause()?;
            Ok(summary)
        })?;
        if let Some(failure) = summary.first_failure {
            return Err(failure.into());
        }
        println!("round {round}: served {:.1} images/s", summary.rate);
        served.push(summary.rate);
    }
    println!("\n| what | images/s (median of {}) |\n|---|---|", options.rounds);
    for (batch, rate) in bare.rates() {
        println!("| bare Session::run, {name}, batch {batch} | {rate:.1} |");
    }
    if let Some(limit) = limit::images(arithmetic, Size::VitB32) {
        println!("| the cores' arithmetic at its limit, {name} | {limit:.1} |");
    }
    let (batch, best) = bare.best();
    let rate = median(&served);
    println!("| served, {name}, {} connections, 640x480 JPEG | {rate:.1} |", options.connections);
    let ratios: Vec<f64> = served.iter().zip(bare.samples(batch)).map(|(served, bare)| served / bare).collect();
    println!(
        "\nserved / bare at its best batch ({batch}, {best:.1} images/s), median of the rounds: {:.3}\n",
        median(&ratios)
    );
    Ok(())
}

/// A closed loop with what all measurements here share.
fn closed<'a>(service: &Service, template: &'a Template, connections: usize, seconds: f64) -> Load<'a> {
    Load {
        address: service.address(),
        template,
        connections,
        pace: Pace::Closed,
        warm_up: Duration::from_secs(1),
        window: Duration::from_secs_f64(seconds),
        drain: Duration::from_secs(5),
        patience: load::PATIENCE,
        slo: Duration::from_secs(1),
    }
}

/// CPU per request outside decode, resize and `run`: what the I/O threads take, and what the preprocess and session threads
/// take beyond the stage times that the service itself measures.
fn overhead(places: &Places) -> Result<()> {
    const REQUESTS: u64 = 2000;
    let set = ["engine.intra_threads=1", "preprocess.threads=1"].map(str::to_owned);
    let service = services::clipserve(places, &places.fixture(), Arithmetic::F32, &set)?;
    let template = Template::new(Ask::Image, Wire::Native, &fs::read(places.root.join(PICTURE))?, ENDLESS)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        let mut connection = Connection::open(service.address()).await?;
        for number in 0..200 {
            connection.fetch(template.request(number)).await?;
        }
        let (cpu, stages) = (service.cpu_by_thread(group)?, stages(&mut connection).await?);
        for number in 0..REQUESTS {
            connection.fetch(template.request(number)).await?;
        }
        let (cpu_after, stages_after) = (service.cpu_by_thread(group)?, self::stages(&mut connection).await?);
        let per_request = |seconds: f64| seconds / REQUESTS as f64 * 1e3;
        let of = |group: &str| per_request(cpu_after.get(group).unwrap_or(&0.0) - cpu.get(group).unwrap_or(&0.0));
        let stage = |name: &str| per_request(stages_after[name] - stages[name]);
        let (decode, resize, run) = (stage("decode"), stage("resize"), stage("image_inference"));
        let (io, preprocess, session) = (of("io"), of("preprocess"), of("session"));
        let own = io + preprocess - decode - resize + session - run;
        println!("| CPU per request, 640x480 JPEG, one connection | ms |\n|---|---|");
        println!("| decode | {decode:.3} |\n| resize and crop | {resize:.3} |\n| run (fixture model) | {run:.3} |");
        println!("| I/O threads | {io:.3} |");
        println!("| preprocess thread beyond decode and resize | {:.3} |", preprocess - decode - resize);
        println!("| session thread beyond run | {:.3} |", session - run);
        println!("\nown overhead: {own:.3} ms of CPU per request at least (bar: 0.3)\n");
        Ok(())
    })
}
