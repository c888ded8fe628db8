//! What tracing costs: the service with a collector beside the same without.
//!
//! Two figures. Images per second with a ViT-B/32-sized model and 640x480 JPEGs, which is what anybody notices; and CPU time of a request
//! for a text whose embedding is in the cache, which is nearly all that tracing can be compared with. Every request is traced. Rounds of the
//! two alternate, and who is first in one is second in the next; the figures are medians, and the ratio is the median of those of the rounds.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use clap::Parser;
use tokio::task::LocalSet;

use crate::{
    ENDLESS, PICTURE, Result, Served, checkpoint,
    dialects::{ask, cpu},
    figures::{figure, median},
    load::{
        self, Load, Pace,
        connection::Connection,
        request::{Ask, Template, Wire},
    },
    machine,
    process::Service,
    services::{self, Places},
};

/// Requests of each of the two in each round of the second figure.
const REQUESTS: u64 = 2000;

#[derive(Parser)]
pub(crate) struct Options {
    #[command(flatten)]
    served: Served,
    /// Rounds, each with and without spans.
    #[arg(long, default_value_t = 9)]
    rounds: usize,
    /// Seconds of each of the two in each round.
    #[arg(long, default_value_t = 8.0)]
    seconds: f64,
    /// Connections.
    #[arg(long, default_value_t = 32)]
    connections: usize,
}

pub(crate) fn run(places: &Places, options: &Options) -> Result<()> {
    println!("machine: {}\n", machine::describe()?);
    checkpoint::make(places)?;
    let collector = Collector::start()?;
    println!("| what, median of {} rounds | without spans | with | ratio |\n|---|---:|---:|---:|", options.rounds);
    images(places, options, &collector)?;
    requests(places, options, &collector)?;
    println!("\nthe collector took {:.1} MB", collector.bytes.load(Ordering::Relaxed) as f64 / 1e6);
    Ok(())
}

fn images(places: &Places, options: &Options, collector: &Collector) -> Result<()> {
    let picture = std::fs::read(places.root.join(PICTURE))?;
    let template = Template::new(Ask::Image, Wire::Native, &picture, ENDLESS)?;
    let start = |set: &[String]| -> Result<Service> {
        let set = [&options.served.set[..], set].concat();
        let service = services::clipserve(places, &places.checkpoint(), options.served.arithmetic, &set)?;
        service.pause()?;
        Ok(service)
    };
    let services = [start(&[])?, start(&[collector.setting()])?];
    compare("images/s, ViT-B/32", options.rounds, |side| {
        services[side].resume()?;
        let summary = load::run(&Load {
            address: services[side].address(),
            template: &template,
            connections: options.connections,
            pace: Pace::Closed,
            warm_up: Duration::from_secs(1),
            window: Duration::from_secs_f64(options.seconds),
            drain: Duration::from_secs(5),
            patience: load::PATIENCE,
            slo: Duration::from_secs(1),
        })?;
        services[side].pause()?;
        summary.first_failure.map_or(Ok(summary.rate), |failure| Err(failure.into()))
    })
}

fn requests(places: &Places, options: &Options, collector: &Collector) -> Result<()> {
    let cached = "cache.max_bytes=64MiB".to_owned();
    let start = |set: &[String]| {
        services::clipserve(
            places,
            &places.fixture(),
            options.served.arithmetic,
            &[&[cached.clone()][..], set].concat(),
        )
    };
    let services = [start(&[])?, start(&[collector.setting()])?];
    let template = Template::fixed("/embed/text", "application/json", r#"{"texts": ["a photo of a cat"]}"#.to_owned())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // The connections live in it.
    let local = LocalSet::new();
    let mut connections = local.block_on(&runtime, async {
        let mut connections = Vec::new();
        for service in &services {
            let mut connection = Connection::open(service.address()).await?;
            ask(&mut connection, &template, REQUESTS / 10).await?;
            connections.push(connection);
        }
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(connections)
    })?;
    compare("CPU of a request that is in the cache, µs", options.rounds, |side| {
        let before = cpu(&services[side])?;
        local.block_on(&runtime, ask(&mut connections[side], &template, REQUESTS))?;
        Ok((cpu(&services[side])? - before) / REQUESTS as f64 * 1e6)
    })
}

/// Measures both sides in each round, and prints a row.
fn compare(name: &str, rounds: usize, mut measure: impl FnMut(usize) -> Result<f64>) -> Result<()> {
    let (mut samples, mut ratios) = ([Vec::new(), Vec::new()], Vec::new());
    for round in 0..rounds {
        let mut measured = [0.0; 2];
        for side in [round % 2, 1 - round % 2] {
            measured[side] = measure(side)?;
            samples[side].push(measured[side]);
        }
        ratios.push(measured[1] / measured[0]);
    }
    let [without, with] = samples.map(|samples| figure(median(&samples)));
    println!("| {name} | {without} | {with} | {:.3} |", median(&ratios));
    Ok(())
}

/// Takes whatever is posted to it.
struct Collector {
    address: SocketAddr,
    bytes: Arc<AtomicU64>,
}

impl Collector {
    fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let (address, bytes) = (listener.local_addr()?, Arc::<AtomicU64>::default());
        let taken = Arc::clone(&bytes);
        thread::spawn(move || {
            for connection in listener.incoming().map_while(std::io::Result::ok) {
                let taken = Arc::clone(&taken);
                // A connection that breaks is the service's to open anew.
                thread::spawn(move || take(connection, &taken).ok());
            }
        });
        Ok(Self { address, bytes })
    }

    fn setting(&self) -> String {
        format!("telemetry.otlp_endpoint=http://{}", self.address)
    }
}

fn take(mut connection: TcpStream, taken: &AtomicU64) -> Result<()> {
    let mut reader = BufReader::new(connection.try_clone()?);
    loop {
        let mut length = 0;
        let mut line = String::new();
        while reader.read_line(&mut line)? > 2 {
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse()?;
            }
            line.clear();
        }
        if line.is_empty() {
            return Ok(());
        }
        std::io::copy(&mut reader.by_ref().take(length), &mut std::io::sink())?;
        taken.fetch_add(length, Ordering::Relaxed);
        connection.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")?;
    }
}
