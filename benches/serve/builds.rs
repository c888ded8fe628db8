//! Two builds side by side under the same loads: closed loops from one connection to many, and open loops up to more than they can do.
//!
//! Owns the loads and the table. Both builds have been started before the first measurement, and rest while the other one is asked. Rounds
//! alternate, and who is first in one is second in the next; what is to be believed are the medians of the ratios of the rounds. With
//! `--beside`, a second class takes what the open loops, which are the first, leave.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use clap::Parser;

use crate::{
    ENDLESS, PICTURE, Result,
    arithmetic::Arithmetic,
    attack::second_class,
    checkpoint,
    figures::{figure, median, milliseconds},
    load::{
        self, Load, Pace,
        request::{Ask, Template, Wire},
        schedule::{Arrivals, Schedule},
        summary::Summary,
    },
    machine,
    process::{Reader, Service},
    services::{self, Places},
};

/// Connections that the capacity is measured with, and those that an open loop may use at once.
const CAPACITY_CONNECTIONS: usize = 32;
const OPEN_CONNECTIONS: usize = 512;

#[derive(Parser)]
pub(crate) struct Options {
    /// The binary of the other build; it has to be called `clipserve` and lie below the checkout, where it finds its library.
    other: PathBuf,
    /// Arithmetics of the encoders.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "f32,int8")]
    arithmetics: Vec<Arithmetic>,
    /// What is asked.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "image,text")]
    ask: Vec<Ask>,
    /// Connections of the closed loops.
    #[arg(long, value_delimiter = ',', default_value = "1,2,4,8,32")]
    connections: Vec<usize>,
    /// Rates of the open loops, as parts of what the other build answers to 32 connections.
    #[arg(long, value_delimiter = ',', default_value = "0.5,2,10")]
    rates: Vec<f64>,
    /// Connections of the second class that ask the same beside the open loops.
    #[arg(long, default_value_t = 0)]
    beside: usize,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Rounds.
    #[arg(long, default_value_t = 4)]
    rounds: usize,
    /// A key of both builds' configuration; may be given several times.
    #[arg(long, value_name = "SECTION.KEY=VALUE")]
    set: Vec<String>,
}

/// How a load is paced.
#[derive(Clone, Copy)]
enum Kind {
    Closed(usize),
    /// Requests per second, and what part of the capacity that is.
    Open(f64, f64),
}

pub(crate) fn run(places: &Places, options: &Options) -> Result<()> {
    println!("machine: {}\n", machine::describe()?);
    checkpoint::make(places)?;
    let picture = fs::read(places.root.join(PICTURE))?;
    let (titles, rule) = if options.beside > 0 {
        (" second class: other's answers/s, this one's | of the other's |", "---|---:|")
    } else {
        ("", "")
    };
    println!("| ViT-B/32 | other: answers/s in 1 s, p50, p99 | this | answers/s, of the other's | p50 | p99 |{titles}");
    println!("|---|---|---|---:|---:|---:|{rule}");
    for &arithmetic in &options.arithmetics {
        let start = |binary: &Path| -> Result<Service> {
            let any = SocketAddr::from(([127, 0, 0, 1], 0));
            let model = places.checkpoint();
            let command = services::command_of(binary, places, &model, arithmetic, &options.set, any);
            services::logging_clipserve(command, Reader::Stays)
        };
        let builds = [start(&options.other)?, start(Path::new(env!("CARGO_BIN_EXE_clipserve")))?];
        for &ask in &options.ask {
            let template = Template::new(ask, Wire::Native, &picture, ENDLESS)?;
            let measure = |build: usize, kind: Kind| both(&builds[build], &template, kind, options);
            let mut kinds: Vec<Kind> = options.connections.iter().copied().map(Kind::Closed).collect();
            if !options.rates.is_empty() {
                let capacity = measure(0, Kind::Closed(CAPACITY_CONNECTIONS))?.0.rate;
                kinds.extend(options.rates.iter().map(|part| Kind::Open(part * capacity, *part)));
            }
            for kind in kinds {
                let (mut seen, mut second) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
                for round in 0..options.rounds {
                    for build in [round % 2, 1 - round % 2] {
                        let (summary, beside) = measure(build, kind)?;
                        seen[build].push(summary);
                        second[build].extend(beside);
                    }
                }
                let what = match kind {
                    Kind::Closed(connections) => format!("{connections} connections"),
                    Kind::Open(_, part) => format!("{part}x of the capacity"),
                };
                println!("| {}, {}, {what} | {} |{}", arithmetic.name(), template.name(), row(&seen), answers(&second));
            }
        }
    }
    println!("\nMedians of {} rounds in turn; ratios are those of the rounds.", options.rounds);
    Ok(())
}

/// A measurement, and that of the second class beside it where there is one.
fn both(service: &Service, template: &Template, kind: Kind, options: &Options) -> Result<(Summary, Option<Summary>)> {
    let first = || measure(service, template, kind, options.seconds);
    if options.beside == 0 || matches!(kind, Kind::Closed(_)) {
        return Ok((first()?, None));
    }
    let second = second_class(template);
    thread::scope(|scope| {
        let second = scope.spawn(|| measure(service, &second, Kind::Closed(options.beside), options.seconds));
        let first = first()?;
        Ok((first, Some(second.join().map_err(|_| "the second class failed")??)))
    })
}

fn measure(service: &Service, template: &Template, kind: Kind, seconds: f64) -> Result<Summary> {
    let (connections, pace) = match kind {
        Kind::Closed(connections) => (connections, Pace::Closed),
        Kind::Open(rate, _) => (OPEN_CONNECTIONS, Pace::Open(Schedule::new(Arrivals::Poisson, rate, 1))),
    };
    load::run(&Load {
        address: service.address(),
        template,
        connections,
        pace,
        warm_up: Duration::from_secs_f64(0.5),
        window: Duration::from_secs_f64(seconds),
        drain: Duration::from_secs(5),
        patience: load::PATIENCE,
        slo: Duration::from_secs(1),
    })
}

/// The cells of both builds, and the ratios.
fn row([other, this]: &[Vec<Summary>; 2]) -> String {
    let times = |summary: &Summary, quantile| milliseconds(summary.latency(quantile));
    let cell = |seen: &[Summary]| {
        let of = |value: &dyn Fn(&Summary) -> f64| figure(median(&seen.iter().map(value).collect::<Vec<_>>()));
        let (rate, half, most) = (of(&|one| one.goodput), of(&|one| times(one, 0.5)), of(&|one| times(one, 0.99)));
        format!("{rate}, {half} ms, {most} ms")
    };
    let ratio = |value: &dyn Fn(&Summary) -> f64| {
        let ratios = other.iter().zip(this).map(|(other, this)| value(this) / value(other)).collect::<Vec<_>>();
        format!("{:.2}", median(&ratios))
    };
    format!(
        "{} | {} | {} | {} | {}",
        cell(other),
        cell(this),
        ratio(&|one| one.goodput),
        ratio(&|one| times(one, 0.5)),
        ratio(&|one| times(one, 0.99)),
    )
}

/// The cells of the second class, where there was one.
fn answers(second: &[Vec<Summary>; 2]) -> String {
    if second.iter().any(Vec::is_empty) {
        return String::new();
    }
    let [other, this] = second.each_ref().map(|seen| seen.iter().map(|one| one.rate).collect::<Vec<_>>());
    let ratios: Vec<_> = other.iter().zip(&this).map(|(other, this)| this / other).collect();
    format!(" {}, {} | {:.2} |", figure(median(&other)), figure(median(&this)), median(&ratios))
}
