//! clipserve in each arithmetic beside infinity and plain loops around `transformers` and OpenVINO: one run, one machine, one checkpoint
//! of each size.
//!
//! Owns the order of the measurements. What is measured is in `contender`, what is written in `page`: `benchmarks.md` (machine, versions,
//! one table, the bars, what a picture costs) and `benchmarks.svg`. All services of one size are started once and paused except the one
//! that is measured; within a round each measurement goes through all of them before the next one begins, so that a busy machine hits all
//! alike. Before the first round every service embeds the same picture and the same text, and services that claim the same arithmetic must
//! agree. The large model's rounds follow the other's, whose services are gone by then: not every machine holds both.
//!
//! An arithmetic that this machine does not have is left out, and the page says so with the reason.

mod contender;
mod page;

use std::{fs, path::PathBuf, time::Duration};

use clap::Parser;

use self::contender::{Contender, Input, Inputs};
use crate::{
    Result,
    arithmetic::Arithmetic,
    chart,
    checkpoint::Size,
    costs::{Cost, Work},
    figures::{cosine, figure, milliseconds},
    limit,
    load::{self, Load, Pace, request::Template, summary::Summary},
    process::Service,
    report::{Column, Kind, Measure},
    services::Places,
};

/// The least cosine between two services' embeddings of one input, where both compute in f32.
const SAME: f64 = 0.9999;

/// The same where one computes in fewer bits: far above what another picture or a wrong crop would give.
const SIMILAR: f64 = 0.95;

/// The part of the answers that may have failed: the page tells each such measurement.
const FAILED: f64 = 0.02;

/// Width and height of a phone's picture.
const PHONE: (usize, usize) = (4000, 3000);

/// Connections of those pictures, and of the large model: more would only wait.
const PHONES: usize = 16;
const LARGE: usize = 8;

#[derive(Parser)]
pub(crate) struct Options {
    /// Rounds.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Seconds of each throughput measurement, after a warm-up; latencies take half of them.
    #[arg(long, default_value_t = 6.0)]
    seconds: f64,
    /// clipserve's arithmetics.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "f32,bf16,int8,int8-openvino")]
    arithmetics: Vec<Arithmetic>,
    /// A key of clipserve's configuration, for all of its measurements; may be given several times.
    #[arg(long, value_name = "SECTION.KEY=VALUE")]
    set: Vec<String>,
    /// Where benchmarks.md and benchmarks.svg are written.
    #[arg(long, default_value = "docs")]
    out: PathBuf,
}

/// What is told of the whole run.
struct Told {
    /// The least and the most CPU that the generator took, in CPUs.
    generator_cpu: (f64, f64),
    refused: u64,
    /// What else failed, too little to end the run.
    failed: Vec<String>,
    /// What could not be measured, and why.
    missing: Vec<String>,
    /// What runs inside the services.
    engines: Vec<String>,
    phone_bytes: usize,
}

/// The comparison of one size while it runs.
struct Comparison<'a> {
    options: &'a Options,
    size: Size,
    contenders: Vec<Contender>,
    told: &'a mut Told,
}

pub(crate) fn run(places: &Places, options: &Options) -> Result<()> {
    let inputs = Inputs::new(places)?;
    let mut told = Told {
        generator_cpu: (f64::INFINITY, 0.0),
        refused: 0,
        failed: Vec::new(),
        missing: Vec::new(),
        engines: Vec::new(),
        phone_bytes: inputs.phone_bytes(),
    };
    let mut columns = measured(places, options, Size::VitB32, &options.arithmetics, &inputs, &mut told)?;
    let is_there = |arithmetic: &Arithmetic| {
        columns.iter().any(|column| column.name.ends_with(&format!(" {}", arithmetic.name())))
    };
    let there: Vec<_> = options.arithmetics.iter().copied().filter(is_there).collect();
    for large in measured(places, options, Size::VitL14, &there, &inputs, &mut told)? {
        if let Some(column) = columns.iter_mut().find(|column| column.name == large.name) {
            column.merge(large);
        }
    }
    let page = page::page(places, options, &told, &columns)?;
    println!("{page}");
    let out = places.root.join(&options.out);
    fs::create_dir_all(&out)?;
    fs::write(out.join("benchmarks.md"), page)?;
    fs::write(out.join("benchmarks.svg"), chart::svg(&columns))?;
    eprintln!("written to {}", out.join("benchmarks.md").display());
    Ok(())
}

/// All rounds with models of one size.
fn measured(
    places: &Places,
    options: &Options,
    size: Size,
    arithmetics: &[Arithmetic],
    inputs: &Inputs,
    told: &mut Told,
) -> Result<Vec<Column>> {
    let (contenders, missing) = contender::start(places, options, size, arithmetics, inputs)?;
    let large = if size == Size::VitB32 { "" } else { "ViT-L/14, " };
    told.missing.extend(missing.into_iter().map(|missing| format!("{large}{missing}")));
    let mut comparison = Comparison { options, size, contenders, told };
    comparison.check_numbers()?;
    for round in 1..=options.rounds {
        eprintln!("{large}round {round} of {}", options.rounds);
        if size == Size::VitB32 { comparison.round()? } else { comparison.large_round()? }
    }
    comparison.memory()?;
    if size == Size::VitB32 {
        let engines = comparison.contenders.iter().filter_map(|contender| contender.engine().transpose());
        comparison.told.engines = engines.collect::<Result<_>>()?;
    }
    Ok(comparison.contenders.into_iter().map(|contender| contender.column).collect())
}

impl Comparison<'_> {
    /// Everything once.
    fn round(&mut self) -> Result<()> {
        let seconds = self.options.seconds;
        for at in 0..self.contenders.len() {
            self.limit(at, Measure::Limit);
            let mut bare = self.contenders[at].bare.take();
            let rate = match &mut bare {
                Some(bare) => bare.around(seconds, || self.work(at, Work::Photograph, 32))?,
                None => self.work(at, Work::Photograph, 32)?,
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
                    let rate = self.load(at, Input::Photograph, connections, seconds)?.rate;
                    self.contenders[at].column.push(measure, rate);
                }
            }
        }
        for at in 0..self.contenders.len() {
            let rate = self.work(at, Work::Phone, PHONES)?;
            self.contenders[at].column.push(Measure::Phone, rate);
        }
        for at in 0..self.contenders.len() {
            let rate = self.load(at, Input::Text, 32, seconds)?.rate;
            self.contenders[at].column.push(Measure::Texts, rate);
        }
        self.latencies(Input::Photograph, Measure::ImageP50, Some(Measure::ImageP90))?;
        self.latencies(Input::Text, Measure::TextP50, Some(Measure::TextP90))?;
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

    /// The same of the large model.
    fn large_round(&mut self) -> Result<()> {
        for at in 0..self.contenders.len() {
            self.limit(at, Measure::LargeLimit);
            let rate = self.work(at, Work::LargeModel, LARGE)?;
            self.contenders[at].column.push(Measure::LargeImages, rate);
        }
        self.latencies(Input::Photograph, Measure::LargeP50, None)
    }

    /// What the arithmetic of one of ours allows.
    fn limit(&mut self, at: usize, measure: Measure) {
        let limit = self.contenders[at].arithmetic.and_then(|arithmetic| limit::images(arithmetic, self.size));
        if let Some(limit) = limit {
            self.contenders[at].column.push(measure, limit);
        }
    }

    /// Pictures per second, and what each of them cost.
    fn work(&mut self, at: usize, work: Work, connections: usize) -> Result<f64> {
        let input = if work == Work::Phone { Input::Phone } else { Input::Photograph };
        let before = self.contenders[at].account()?;
        let summary = self.load(at, input, connections, self.options.seconds)?;
        let after = self.contenders[at].account()?;
        let cost = Cost::between(&before, &after, summary.all);
        self.contenders[at].column.costs.entry(work).or_default().push(cost);
        Ok(summary.rate)
    }

    /// Of every service at one connection.
    fn latencies(&mut self, input: Input, p50: Measure, p90: Option<Measure>) -> Result<()> {
        for at in 0..self.contenders.len() {
            let summary = self.load(at, input, 1, self.options.seconds / 2.0)?;
            for (measure, part) in [(Some(p50), 0.5), (p90, 0.9)] {
                if let Some(measure) = measure {
                    self.contenders[at].column.push(measure, milliseconds(summary.latency(part)));
                }
            }
        }
        Ok(())
    }

    /// A closed loop against one service; more than a few failures end the run.
    fn load(&mut self, at: usize, input: Input, connections: usize, seconds: f64) -> Result<Summary> {
        let contender = &mut self.contenders[at];
        contender.service.resume()?;
        let measured = measure(&contender.service, contender.template(input), connections, seconds);
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
            self.told.failed.push(failed);
        }
        if summary.answered == 0 {
            return Err(format!("{name}, {connections} connections: no answer in a minute").into());
        }
        eprintln!(
            "  {name}, {input:?}, {connections} connections: {} /s, p50 {} ms, {} refused",
            figure(summary.rate),
            figure(milliseconds(summary.latency(0.5))),
            summary.refused
        );
        self.note(&summary);
        Ok(summary)
    }

    fn note(&mut self, summary: &Summary) {
        let (least, most) = self.told.generator_cpu;
        self.told.generator_cpu = (least.min(summary.generator_cpu), most.max(summary.generator_cpu));
        self.told.refused += summary.refused;
    }

    /// The same input gives the same embedding everywhere: else the services do not do the same work.
    fn check_numbers(&mut self) -> Result<()> {
        for (input, measure) in [
            (Input::Photograph, Some(Measure::ImageCosine)),
            (Input::Phone, None),
            (Input::Text, Some(Measure::TextCosine)),
        ] {
            let embeddings =
                self.contenders.iter().map(|contender| contender.embedding(input)).collect::<Result<Vec<_>>>()?;
            let infinity = self.contenders.iter().position(|contender| contender.column.kind == Kind::Infinity);
            let reference = embeddings[infinity.ok_or("infinity is always there")?].clone();
            for (contender, embedding) in self.contenders.iter_mut().zip(embeddings) {
                let cosine = cosine(&embedding, &reference);
                let name = &contender.column.name;
                // OpenVINO alone takes the precision that it likes.
                let is_exact = contender.arithmetic.is_none_or(|arithmetic| arithmetic == Arithmetic::F32);
                let least = if is_exact && !name.starts_with("OpenVINO") { SAME } else { SIMILAR };
                if embedding.len() != reference.len() || cosine < least {
                    let what = format!("{name} and infinity disagree on the same {input:?}");
                    return Err(format!("{what}: cosine {cosine:.6}").into());
                }
                if let Some(measure) = measure.filter(|_| self.size == Size::VitB32) {
                    contender.column.push(measure, cosine);
                }
            }
        }
        Ok(())
    }

    fn memory(&mut self) -> Result<()> {
        for contender in &mut self.contenders {
            let memory = contender.service.memory()?;
            if self.size != Size::VitB32 {
                contender.column.push(Measure::LargeResident, memory.resident / 1e6);
                continue;
            }
            contender.column.push(Measure::Resident, memory.resident / 1e6);
            contender.column.push(Measure::Peak, memory.peak / 1e6);
            if let Some(bare) = &contender.bare {
                bare.samples(bare.best().0).iter().for_each(|rate| contender.column.push(Measure::Bare, *rate));
            }
        }
        Ok(())
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
