//! clipserve in each arithmetic beside infinity and a plain loop around `transformers`: one run, one machine, one checkpoint.
//!
//! Owns the order of the measurements and what is written: `benchmarks.md` (machine, versions, one table, the bars) and
//! `benchmarks.svg`. All services are started once and paused except the one that is measured; within a round each measurement
//! goes through all of them before the next one begins, so that a busy machine hits all alike. Before the first round every
//! service embeds the same picture and the same text, and services that claim the same arithmetic must agree.
//!
//! An arithmetic that this machine does not have is left out, and the page says so with the reason.

use std::{fs, path::PathBuf, time::Duration};

use clap::Parser;
use serde_json::Value;
use tokio::task::LocalSet;

use crate::{
    ENDLESS, PICTURE, Result,
    arithmetic::Arithmetic,
    bare::Bare,
    chart, checkpoint,
    figures::{cosine, figure, milliseconds},
    limit,
    load::{
        self, Load, Pace,
        connection::Connection,
        request::{Ask, Template, Wire},
        summary::Summary,
    },
    machine,
    process::Service,
    report::{self, Column, Kind, Measure},
    services::{self, Places},
};

/// The least cosine between two services' embeddings of one input, where both compute in f32.
const SAME: f64 = 0.9999;

/// The same where ours computes in fewer bits: far above what another picture or a wrong crop would give.
const SIMILAR: f64 = 0.95;

/// The part of the answers that may have failed: the page tells each such measurement.
const FAILED: f64 = 0.02;

/// Texts of the cached measurement: all of them are asked for in its warm-up.
const CACHED: u64 = 64;

#[derive(Parser)]
pub(crate) struct Options {
    /// Rounds.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Seconds of each throughput measurement, after a warm-up; latencies take half of them.
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// clipserve's arithmetics.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "f32,bf16,int8-openvino")]
    arithmetics: Vec<Arithmetic>,
    /// A key of clipserve's configuration, for all of its measurements; may be given several times.
    #[arg(long, value_name = "SECTION.KEY=VALUE")]
    set: Vec<String>,
    /// Where benchmarks.md and benchmarks.svg are written.
    #[arg(long, default_value = "docs")]
    out: PathBuf,
}

/// One service and its numbers.
struct Contender {
    column: Column,
    service: Service,
    wire: Wire,
    images: Template,
    texts: Template,
    bare: Option<Bare>,
    /// Of one of ours.
    arithmetic: Option<Arithmetic>,
    /// A second process with the embedding cache on.
    cached: Option<(Service, Template)>,
}

impl Contender {
    /// What runs inside one of ours, by its own account.
    fn engine(&self) -> Result<Option<String>> {
        if !matches!(self.column.kind, Kind::Ours { .. }) {
            return Ok(None);
        }
        let info: Value =
            serde_json::from_slice(&self.with_connection(async |mut connection| connection.get("/info").await)?)?;
        let text = |value: &Value| value.as_str().unwrap_or("unknown").to_owned();
        let (provider, version) = (text(&info["provider"]), text(&info["versions"]["onnxruntime"]));
        Ok(Some(format!("{} by the provider {provider} of ONNX Runtime {version}", self.column.name)))
    }

    /// A connection while the service is not paused.
    fn with_connection<T>(&self, ask: impl AsyncFnOnce(Connection) -> Result<T>) -> Result<T> {
        self.service.resume()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let answer =
            LocalSet::new().block_on(&runtime, async { ask(Connection::open(self.service.address()).await?).await });
        self.service.pause()?;
        answer.map_err(|error| format!("{}: {error}", self.column.name).into())
    }
}

/// The comparison while it runs.
struct Comparison<'a> {
    options: &'a Options,
    contenders: Vec<Contender>,
    /// The least and the most CPU that the generator took, in CPUs.
    generator_cpu: (f64, f64),
    refused: u64,
    /// What else failed, too little to end the run.
    failed: Vec<String>,
}

pub(crate) fn run(places: &Places, options: &Options) -> Result<()> {
    checkpoint::make(places)?;
    let (contenders, missing) = start(places, options)?;
    let mut comparison =
        Comparison { options, contenders, generator_cpu: (f64::INFINITY, 0.0), refused: 0, failed: Vec::new() };
    comparison.check_numbers()?;
    for round in 1..=options.rounds {
        eprintln!("round {round} of {}", options.rounds);
        comparison.round()?;
    }
    comparison.memory()?;
    let columns: Vec<Column> = comparison.contenders.iter().map(|contender| contender.column.clone()).collect();
    let page = page(places, &comparison, &columns, &missing)?;
    println!("{page}");
    let out = places.root.join(&options.out);
    fs::create_dir_all(&out)?;
    fs::write(out.join("benchmarks.md"), page)?;
    fs::write(out.join("benchmarks.svg"), chart::svg(&columns))?;
    eprintln!("written to {}", out.join("benchmarks.md").display());
    Ok(())
}

/// Starts every service and pauses it. Also what could not be started of ours, and why.
fn start(places: &Places, options: &Options) -> Result<(Vec<Contender>, Vec<String>)> {
    let picture = fs::read(places.root.join(PICTURE))?;
    let contender = |name: &str, kind, wire, service: Service| -> Result<Contender> {
        let texts = Template::new(Ask::Text, wire, &picture, ENDLESS)?;
        let images = Template::new(Ask::Image, wire, &picture, ENDLESS)?;
        service.pause()?;
        let column = Column::new(name.to_owned(), kind);
        Ok(Contender { column, service, wire, images, texts, bare: None, arithmetic: None, cached: None })
    };
    let (mut contenders, mut missing) = (Vec::new(), Vec::new());
    for &arithmetic in &options.arithmetics {
        let name = arithmetic.name();
        eprintln!("starting clipserve, {name}");
        let started = Bare::open(places, arithmetic)
            .and_then(|bare| Ok((bare, services::clipserve(places, &places.checkpoint(), arithmetic, &options.set)?)));
        match started {
            Ok((bare, service)) => {
                let kind = Kind::Ours { bare_bar: arithmetic.bare_bar() };
                let mut ours = contender(&format!("clipserve {name}"), kind, Wire::Native, service)?;
                ours.bare = Some(bare);
                ours.arithmetic = Some(arithmetic);
                if arithmetic == Arithmetic::F32 {
                    let set = [&options.set[..], &["cache.max_bytes=64MiB".to_owned()]].concat();
                    let cached = services::clipserve(places, &places.checkpoint(), arithmetic, &set)?;
                    cached.pause()?;
                    ours.cached = Some((cached, Template::new(Ask::Text, Wire::Native, &picture, CACHED)?));
                }
                contenders.push(ours);
            }
            // Every build and machine has it: without it something else is wrong.
            Err(error) if arithmetic == Arithmetic::F32 => return Err(error),
            Err(error) => missing.push(format!("{name}: {}", error.to_string().trim())),
        }
    }
    eprintln!("starting infinity");
    contenders.push(contender("infinity", Kind::Infinity, Wire::Infinity, services::infinity(places)?)?);
    eprintln!("starting the transformers loop");
    let plain = services::transformers(places)?;
    contenders.push(contender("transformers + FastAPI", Kind::Transformers, Wire::Native, plain)?);
    Ok((contenders, missing))
}

impl Comparison<'_> {
    /// Everything once.
    fn round(&mut self) -> Result<()> {
        let seconds = self.options.seconds;
        for at in 0..self.contenders.len() {
            if let Some(limit) = self.contenders[at].arithmetic.and_then(limit::images) {
                self.contenders[at].column.push(Measure::Limit, limit);
            }
            let mut bare = self.contenders[at].bare.take();
            let rate = match &mut bare {
                Some(bare) => bare.around(seconds, || self.load(at, Ask::Image, 32, seconds))?.rate,
                None => self.load(at, Ask::Image, 32, seconds)?.rate,
            };
            self.contenders[at].bare = bare;
            self.contenders[at].column.push(Measure::Images, rate);
        }
        // 32 connections once more: only what is measured in a row can be told to be flat.
        for at in 0..self.contenders.len() {
            if matches!(self.contenders[at].column.kind, Kind::Ours { .. }) {
                for (measure, connections) in
                    [(Measure::Images32, 32), (Measure::Images128, 128), (Measure::Images512, 512)]
                {
                    let rate = self.load(at, Ask::Image, connections, seconds)?.rate;
                    self.contenders[at].column.push(measure, rate);
                }
            }
        }
        for at in 0..self.contenders.len() {
            let rate = self.load(at, Ask::Text, 32, seconds)?.rate;
            self.contenders[at].column.push(Measure::Texts, rate);
        }
        for (ask, p50, p90) in
            [(Ask::Image, Measure::ImageP50, Measure::ImageP90), (Ask::Text, Measure::TextP50, Measure::TextP90)]
        {
            for at in 0..self.contenders.len() {
                let summary = self.load(at, ask, 1, seconds / 2.0)?;
                let column = &mut self.contenders[at].column;
                column.push(p50, milliseconds(summary.latency(0.5)));
                column.push(p90, milliseconds(summary.latency(0.9)));
            }
        }
        for at in 0..self.contenders.len() {
            if let Some((service, template)) = &self.contenders[at].cached {
                service.resume()?;
                let summary = measure(service, template, 32, seconds)?;
                service.pause()?;
                self.note(&summary);
                self.contenders[at].column.push(Measure::CachedTexts, summary.rate);
            }
        }
        Ok(())
    }

    /// A closed loop against one service; more than a few failures end the run.
    fn load(&mut self, at: usize, ask: Ask, connections: usize, seconds: f64) -> Result<Summary> {
        let contender = &mut self.contenders[at];
        let template = if ask == Ask::Image { &contender.images } else { &contender.texts };
        contender.service.resume()?;
        let measured = measure(&contender.service, template, connections, seconds);
        let name = &contender.column.name;
        let summary = measured
            .map_err(|error| format!("{name}, {connections} connections: {error}; {}", contender.service.state()))?;
        contender.service.pause()?;
        let name = contender.column.name.clone();
        if let Some(failure) = &summary.first_failure {
            let failed = format!("{name}, {connections} connections: {} failed, first: {failure}", summary.failed);
            if summary.failed as f64 > FAILED * summary.answered as f64 {
                return Err(format!("{failed}; {}", contender.service.state()).into());
            }
            eprintln!("  {failed}");
            self.failed.push(failed);
        }
        if summary.answered == 0 {
            return Err(format!("{name}, {connections} connections: no answer in a minute").into());
        }
        eprintln!(
            "  {name}, {ask:?}, {connections} connections: {} /s, p50 {} ms, {} refused",
            figure(summary.rate),
            figure(milliseconds(summary.latency(0.5))),
            summary.refused
        );
        self.note(&summary);
        Ok(summary)
    }

    fn note(&mut self, summary: &Summary) {
        let (least, most) = self.generator_cpu;
        self.generator_cpu = (least.min(summary.generator_cpu), most.max(summary.generator_cpu));
        self.refused += summary.refused;
    }

    /// The same input gives the same embedding everywhere: else the services do not do the same work.
    fn check_numbers(&mut self) -> Result<()> {
        for (ask, measure) in [(Ask::Image, Measure::ImageCosine), (Ask::Text, Measure::TextCosine)] {
            let embeddings =
                self.contenders.iter().map(|contender| contender.embedding(ask)).collect::<Result<Vec<_>>>()?;
            let infinity = self.contenders.iter().position(|contender| contender.column.kind == Kind::Infinity);
            let reference = embeddings[infinity.ok_or("infinity is always there")?].clone();
            for (contender, embedding) in self.contenders.iter_mut().zip(embeddings) {
                let cosine = cosine(&embedding, &reference);
                let name = &contender.column.name;
                let is_exact = !matches!(contender.column.kind, Kind::Ours { .. }) || name.ends_with("f32");
                let least = if is_exact { SAME } else { SIMILAR };
                if embedding.len() != reference.len() || cosine < least {
                    return Err(format!("{name} and infinity disagree on the same {ask:?}: cosine {cosine:.6}").into());
                }
                contender.column.push(measure, cosine);
            }
        }
        Ok(())
    }

    fn memory(&mut self) -> Result<()> {
        for contender in &mut self.contenders {
            let memory = contender.service.memory()?;
            contender.column.push(Measure::Resident, memory.resident / 1e6);
            contender.column.push(Measure::Peak, memory.peak / 1e6);
            if let Some(bare) = &contender.bare {
                bare.samples(bare.best().0).iter().for_each(|rate| contender.column.push(Measure::Bare, *rate));
            }
        }
        Ok(())
    }
}

impl Contender {
    /// The first embedding of an answer.
    fn embedding(&self, ask: Ask) -> Result<Vec<f64>> {
        let template = if ask == Ask::Image { &self.images } else { &self.texts };
        let answer = self.with_connection(async |mut connection| connection.fetch(template.request(1)).await)?;
        let answer: Value = serde_json::from_slice(&answer)?;
        let embedding = match self.wire {
            Wire::Native => &answer["embeddings"][0],
            Wire::Infinity => &answer["data"][0]["embedding"],
        };
        let numbers =
            embedding.as_array().ok_or_else(|| format!("{}: an answer without an embedding", self.column.name))?;
        Ok(numbers.iter().filter_map(Value::as_f64).collect())
    }
}

fn measure(service: &Service, template: &Template, connections: usize, seconds: f64) -> Result<Summary> {
    load::run(&Load {
        address: service.address(),
        template,
        connections,
        pace: Pace::Closed,
        // Two batches of 32 on the slowest, so that its bursts are under way.
        warm_up: Duration::from_secs_f64(if connections == 1 { 0.5 } else { 2.0 }),
        window: Duration::from_secs_f64(seconds),
        drain: Duration::from_secs(if connections > 32 { 3 } else { 20 }),
        patience: load::PATIENCE,
        slo: Duration::from_secs(1),
    })
}

/// `benchmarks.md`.
fn page(places: &Places, comparison: &Comparison<'_>, columns: &[Column], missing: &[String]) -> Result<String> {
    let (rounds, seconds) = (comparison.options.rounds, comparison.options.seconds);
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let (least, most) = comparison.generator_cpu;
    let engines = comparison.contenders.iter().filter_map(|contender| contender.engine().transpose());
    let engines = engines.collect::<Result<Vec<_>>>()?;
    let left_out = missing.iter().map(|missing| format!("* Not measured: {missing}\n"));
    let failed = comparison.failed.iter().map(|failed| format!("* Failed requests: {failed}\n"));
    Ok(format!(
        "# How fast clipserve is, beside others\n\n\
         Written by `make bench-peers` (`cargo bench --bench serve -- {}`) on {}: one run, one machine, do not edit.\n\n\
         ![The table as bars](benchmarks.svg)\n\n\
         {}\n\
         In brackets: the ratio to infinity. Rounds: {rounds}, {seconds} s for each throughput and half of it for latencies. Figures \
         are medians over the rounds, ratios medians of the ratios of each round. What is measured is taken in turn within a round, everything else is paused.\n\n\
         ## What it is held to\n\n\
         {}\n\
         ## How\n\n\
         * Machine: {}.\n\
         * Versions: {}.\n\
         * Model: ViT-B/32's sizes, random weights, one checkpoint for all; clipserve serves the graphs that it makes of it.\n\
         * Images: a JPEG of 640x480, 85 KB; each request is another file with the same pixels. Raw body for clipserve and the \
         transformers loop, base64 in JSON for infinity, which takes nothing else. Texts: captions of 8 to 16 words, no two alike, \
         one a request. Answers: JSON with 512 floats.\n\
         * Load: closed loop on the same machine, whose generator takes {:.0} to {:.0} % of one CPU away from each service. At 512 \
         connections clipserve refuses what its queue does not hold (429); the client waits as long as `Retry-After` says \
         ({} refusals in this run), and only answers count.\n\
         * Services: {}; without the embedding cache, so that every request is computed (a full one would add 67 MB); nothing else \
         set{}. infinity: PyTorch engine on the CPU, nothing else said. transformers + FastAPI: \
         [`fastapi_transformers.py`](../benches/peers/fastapi_transformers.py).\n\
         * The cores' arithmetic at its limit: products per second out of registers, all cores at once, by {:.2} billion products for \
         an image ([`limit.rs`](../benches/serve/limit.rs)). No program is faster in that arithmetic on this machine, decoding left aside.\n\
         * Memory: of the process at the end of the run, mapped weights included.\n\
         {}",
        arguments.join(" "),
        machine::today(),
        report::table(columns),
        report::bar_table(&report::bars(columns)),
        machine::describe()?,
        machine::versions(places)?.join(", "),
        least * 100.0,
        most * 100.0,
        comparison.refused,
        engines.join(", "),
        comparison.options.set.iter().map(|pair| format!(" but {pair}")).collect::<String>(),
        limit::products_per_image() / 1e9,
        left_out.chain(failed).collect::<String>(),
    ))
}
