//! How fast the service is, in one run on the machine at hand.
//!
//! ```text
//! make bench                                    floor, then sweep: clipserve alone, no Python
//! make bench ARGS="floor --rounds 5"            served against bare ONNX Runtime; the CPU time that is the service's own
//! make bench ARGS="latency"                     what a request takes beyond decoding, resizing and a bare run
//! make bench ARGS="sweep --arithmetic bf16"     connections and rates, for images, texts and similarity
//! make bench ARGS="start --beside OTHER/clipserve"   from the start of the process to readiness, beside another build
//! make bench ARGS="graphs f32 bf16 int8=DIR"     arithmetics and exports in bare ONNX Runtime: milliseconds and cosines
//! make bench ARGS="tracing"                      images per second and CPU time with spans that go to a collector, beside without
//! make bench ARGS="dialects"                     CPU time of a request in OpenAI's shape beside the native route's
//! make bench ARGS="builds OTHER/clipserve"       connections and rates, beside another build
//! make bench ARGS="bulk"                         files to files, against its parts and beside clip-retrieval and sentence-transformers
//! make bench ARGS="load --url http://127.0.0.1:8080 --ask text --rate 200"
//! make attack ARGS="overload quiet"              what the service withstands, beside a bar for each attack
//! make corpora ARGS=FOLDER                       every file of a folder by every door that takes pictures
//! make mutants ARGS="pictures bodies"            broken pictures, bodies, checkpoints, graphs, tokenizers and configurations
//! make attack ARGS="soak --minutes 60"            an hour of ordinary traffic: does anything grow (all by name: `--help`)
//! make bench-peers                              beside infinity and loops around transformers and OpenVINO; writes docs/benchmarks.md
//! ```
//!
//! One program, because all of them share the load generator (`load`), the services as processes (`process`, `services`), bare
//! sessions (`bare`) and the checkpoint (`checkpoint`), which is made here with random weights. The comparison is part of it
//! and not a script beside the peers: it needs bare ONNX Runtime and the same load for all, and the peers are only processes.
//!
//! Rules: these are programs that people run, never tests. Rounds of what is compared alternate, so that a busy machine hits
//! all of them; figures are medians over the rounds, and what is to be believed are the ratios of one run.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program that people run: it prints, and stops where it cannot go on"
)]

mod arithmetic;
mod asker;
mod attack;
mod bare;
mod builds;
mod bulk;
mod chart;
mod checkpoint;
mod compare;
mod corpora;
mod costs;
mod dialects;
mod doors;
mod figures;
mod floor;
mod graphs;
mod inputs;
mod latency;
mod limit;
mod load;
mod machine;
mod mutants;
mod process;
mod report;
mod services;
mod spans;
mod stages;
mod start;
mod sweep;

use std::{fs, net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand};

use crate::{
    arithmetic::Arithmetic,
    load::{
        Load, Pace,
        request::{Ask, Template, Wire},
        schedule::{Arrivals, Schedule},
    },
    services::Places,
};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// The picture of all measurements: 640x480, 85 KB.
const PICTURE: &str = "tests/fixtures/images/photo_640x480.jpg";

/// So many different requests that none comes twice.
const ENDLESS: u64 = u64::MAX;

#[derive(Parser)]
#[command(name = "bench", bin_name = "make bench ARGS=", disable_help_subcommand = true)]
struct CommandLine {
    #[command(subcommand)]
    command: Option<Command>,
    /// Given by `cargo bench`.
    #[arg(long, hide = true, global = true)]
    bench: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Images per second against bare `Session::run`, and CPU time per request that is the service's own.
    Floor(floor::Options),
    /// What a request for one image takes beyond decoding, resizing and bare `Session::run`, at one connection.
    Latency(latency::Options),
    /// From the start of the process to readiness, its memory meanwhile, and the first answers.
    Start(start::Options),
    /// Connections and rates, for images, texts and similarity.
    Sweep(sweep::Options),
    /// `clipserve embed` against its parts, clip-retrieval and sentence-transformers; its first row and its memory.
    Bulk(bulk::Options),
    /// Another build beside this one, under closed and open loops.
    Builds(builds::Options),
    /// CPU time of a request in other services' shapes beside the native route's.
    Dialects(dialects::Options),
    /// Images per second and CPU time of a request with spans that go to a collector, beside without.
    Tracing(spans::Options),
    /// The load generator against a service that runs already.
    Load(LoadOptions),
    /// clipserve in each precision beside infinity and plain loops around transformers and OpenVINO.
    Compare(compare::Options),
    /// Arithmetics and exports beside each other in bare ONNX Runtime: milliseconds, and the cosine of the embeddings.
    Graphs(graphs::Options),
    /// Attacks the service: what it withstands, as a table.
    Attack(attack::Options),
    /// Sends every file of a folder by every door that takes pictures, and compares what comes back.
    Corpora(corpora::Options),
    /// Sends and loads what is broken in seeded ways.
    Mutants(mutants::Options),
    /// Loads broken models, one after the other, for `mutants`, which watches it.
    #[command(hide = true)]
    Loader(mutants::loader::Options),
    /// A server that leaks, for the soak.
    #[command(hide = true)]
    Leaking {
        /// What it leaks.
        #[arg(value_enum)]
        leak: attack::Leak,
        /// clipserve's own.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// One bare session, for the others.
    #[command(hide = true)]
    Bare {
        /// Its arithmetic.
        arithmetic: Arithmetic,
        /// Its graph.
        graph: PathBuf,
        /// Another activation group than the graph's.
        activation_group: Option<usize>,
    },
}

/// clipserve under test.
#[derive(Args, Clone)]
struct Served {
    /// Arithmetic of the encoders.
    #[arg(long, value_enum, default_value = "f32")]
    arithmetic: Arithmetic,
    /// A key of the service's configuration; may be given several times.
    #[arg(long, value_name = "SECTION.KEY=VALUE")]
    set: Vec<String>,
}

#[derive(Args)]
struct LoadOptions {
    /// Where the service is: http://IP:PORT.
    #[arg(long)]
    url: String,
    /// What is asked.
    #[arg(long, value_enum, default_value = "image")]
    ask: Ask,
    /// Whose routes and shapes.
    #[arg(long, value_enum, default_value = "native")]
    wire: Wire,
    /// Connections; with --rate, as many as may be in use at once.
    #[arg(long, default_value_t = 32)]
    connections: usize,
    /// Requests per second (open loop); without it, each connection asks again when it is answered (closed loop).
    #[arg(long)]
    rate: Option<f64>,
    /// How the arrivals of an open loop are spread.
    #[arg(long, value_enum, default_value = "poisson")]
    arrivals: Arrivals,
    /// Of the arrivals.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Seconds that count.
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Seconds before them.
    #[arg(long, default_value_t = 1.0)]
    warm_up: f64,
    /// Answers within so many milliseconds are the goodput.
    #[arg(long, default_value_t = 1000)]
    slo: u64,
    /// So many different requests; without it, none comes twice.
    #[arg(long)]
    distinct: Option<u64>,
    /// A header of every request.
    #[arg(long, value_name = "NAME: VALUE")]
    header: Option<String>,
    /// A JPEG; without it, a photograph of 640x480.
    #[arg(long)]
    picture: Option<PathBuf>,
}

fn main() -> Result<()> {
    let places = Places::new();
    match CommandLine::parse().command {
        None => {
            floor::run(&places, &floor::Options::parse_from(["floor"]))?;
            sweep::run(&places, &sweep::Options::parse_from(["sweep"]))
        }
        Some(Command::Floor(options)) => floor::run(&places, &options),
        Some(Command::Latency(options)) => latency::run(&places, &options),
        Some(Command::Start(options)) => start::run(&places, &options),
        Some(Command::Sweep(options)) => sweep::run(&places, &options),
        Some(Command::Bulk(options)) => bulk::run(&places, &options),
        Some(Command::Builds(options)) => builds::run(&places, &options),
        Some(Command::Dialects(options)) => dialects::run(&places, &options),
        Some(Command::Tracing(options)) => spans::run(&places, &options),
        Some(Command::Load(options)) => load(&places, &options),
        Some(Command::Compare(options)) => compare::run(&places, &options),
        Some(Command::Graphs(options)) => graphs::run(&places, &options),
        Some(Command::Attack(options)) => attack::run(&places, &options),
        Some(Command::Corpora(options)) => corpora::run(&places, &options),
        Some(Command::Mutants(options)) => mutants::run(&places, &options),
        Some(Command::Loader(options)) => mutants::loader::run(&places, &options),
        Some(Command::Leaking { leak, arguments }) => attack::leaking::serve(leak, &arguments),
        Some(Command::Bare { arithmetic, graph, activation_group }) => {
            bare::serve(&places, arithmetic, &graph, activation_group)
        }
    }
}

fn load(places: &Places, options: &LoadOptions) -> Result<()> {
    let address: SocketAddr = options
        .url
        .strip_prefix("http://")
        .and_then(|url| url.trim_end_matches('/').parse().ok())
        .ok_or_else(|| format!("--url {}: must be http://IP:PORT", options.url))?;
    let picture = fs::read(options.picture.clone().unwrap_or_else(|| places.root.join(PICTURE)))?;
    let mut template = Template::new(options.ask, options.wire, &picture, options.distinct.unwrap_or(ENDLESS))?;
    if let Some(header) = &options.header {
        let (name, value) = header.split_once(':').ok_or_else(|| format!("--header {header}: must be NAME: VALUE"))?;
        template = template.with_header(&name.trim().parse()?, &value.trim().parse()?);
    }
    let pace = match options.rate {
        None => Pace::Closed,
        Some(rate) if rate > 0.0 => Pace::Open(Schedule::new(options.arrivals, rate, options.seed)),
        Some(rate) => return Err(format!("--rate {rate}: must be above 0").into()),
    };
    let summary = load::run(&Load {
        address,
        template: &template,
        connections: options.connections,
        pace,
        warm_up: Duration::from_secs_f64(options.warm_up),
        window: Duration::from_secs_f64(options.seconds),
        drain: Duration::from_secs(10),
        patience: load::PATIENCE,
        slo: Duration::from_millis(options.slo),
    })?;
    println!("{}", load::table::header(options.slo));
    println!("{}", load::table::row(&template.name(), options.connections, &summary));
    Ok(())
}
