//! `clipserve embed`: pictures and texts from files, their embeddings into files, as many as there are.
//!
//! Owns the order: look at the sources, start our model as configured, take the output's folder, then read, embed and write at the same
//! time. It stands where `server` stands, above an `Embedder`, and asks that without HTTP: its numbers are those that `serve` with the
//! same configuration answers.
//!
//! ```text
//! sources (thread "read") --samples--> embedding (tasks, the embedder's threads) --rows--> output, journal (the caller's thread)
//!             ^ turn: whose samples, and which are done
//! ```
//!
//! Between the stages are bounded queues: what is slowest sets the pace, and memory does not grow with the number of items but for the
//! names in a folder.
//!
//! Invariants: every sample is one row, in the order of the sources, whatever becomes of it; the same command gives the same rows however
//! often it was interrupted, in files of the same bytes where the provider's numbers are; a part is there whole or not at all.

mod embedding;
mod error;
mod glimpse;
mod journal;
mod json;
mod options;
mod output;
mod progress;
mod reading;
mod reason;
mod report;
mod row;
mod sample;
mod shards;
mod sources;
mod suffix;
mod turn;

use std::{
    future, io,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::{Map, Value, json};
use tokio::{runtime::Runtime, sync::mpsc, task::JoinHandle, time};

pub use error::BulkError;
pub use options::{BulkOptions, Columns, Dtype, Format, Modalities, Shard, ShardArg, SourceArgs};
pub use progress::Summary;

use embedding::Means;
use glimpse::Lookout;
use journal::Journal;
use output::{Output, Part, Values};
use progress::Progress;
use reading::Reading;
use report::Report;
use row::Row;
use sample::Stop;
use sources::{Limits, Own, Sources};
use turn::Turn;

use crate::{
    config::{Config, LimitsConfig},
    embedder::{self, Embedder, Modality},
    health::{Health, Readiness},
    telemetry::Metrics,
};

/// Of the files that are written: a later program that writes other ones does not go on with them.
const LAYOUT: u64 = 3;

/// How often somebody looks for a run of an encoder that does not end.
const WATCHDOG_PERIOD: Duration = Duration::from_secs(1);

/// Rows that wait to be written.
const ROWS_AHEAD: usize = 256;

/// So many items one after the other that fail by no fault of theirs: then it is the model's.
const GIVE_UP: usize = 64;

/// Embeds what `options` name by `config`'s model; tasks run on `runtime`, `metrics` and `health` are of it, and `progress` is told a line at
/// a time how far it is. `stop` answers the signal that ends the run, and is listened to from when embedding begins: until then nothing is
/// lost.
///
/// # Errors
/// See [`BulkError`]. An item that cannot be embedded is none: the summary counts them.
pub fn embed(
    config: &Config,
    options: &BulkOptions,
    runtime: &Runtime,
    metrics: Arc<Metrics>,
    health: &Arc<Health>,
    stop: impl Future<Output = io::Result<i32>> + Send + 'static,
    progress: &mut dyn FnMut(&str),
) -> Result<Summary, BulkError> {
    let own = Own::new(&options.out);
    let report = options.report.as_ref().map(|path| Report::begin(path, options.shard, &own)).transpose()?;
    shards::must_be_of(&options.out, options.shard, journal::RUN)?;
    let sources = Sources::open(options, own).map_err(BulkError::Usage)?;
    let config = embedding::configured(config);
    let modality = sources.modality();
    let wanted = |wanted: Modality| match wanted {
        Modality::Image => modality.has_images(),
        Modality::Text => modality.has_texts(),
    };
    let embedder = Arc::new(embedder::start_for(&config, wanted, Arc::clone(&metrics), health)?);
    health.advance(Readiness::Ready);
    metrics.ready.set(1);
    let watchdog = runtime.spawn(watch(Arc::clone(health)));
    let stop = runtime.spawn(async {
        match stop.await {
            Ok(signal) => signal,
            Err(error) => {
                tracing::warn!(%error, "signals end the process without a last line");
                future::pending().await
            }
        }
    });
    let run = Run { config: &config, options, runtime, embedder: &embedder };
    let summary = run.all(sources, stop, report, progress);
    watchdog.abort();
    if let Some(embedder) = Arc::into_inner(embedder) {
        embedder.shut_down();
    }
    summary
}

/// Ends runs of the encoders that do not end by themselves.
async fn watch(health: Arc<Health>) {
    let mut ticks = time::interval(WATCHDOG_PERIOD);
    loop {
        ticks.tick().await;
        health.interrupt_stalled(Instant::now());
    }
}

/// What a run has.
struct Run<'a> {
    config: &'a Config,
    options: &'a BulkOptions,
    runtime: &'a Runtime,
    embedder: &'a Arc<Embedder>,
}

impl Run<'_> {
    fn all(
        &self,
        sources: Sources,
        stop: JoinHandle<i32>,
        mut report: Option<Report>,
        print: &mut dyn FnMut(&str),
    ) -> Result<Summary, BulkError> {
        let (options, modality) = (self.options, sources.modality());
        let values = self.values(modality)?;
        let record = self.record(modality, &values);
        let root = self.root();
        let mut journal = Journal::open(&root, &record)?;
        let output = Output::new(&root, options.format, modality, values, &notes(&record));
        let done = journal.done();
        if !done.ended {
            output.forget(done.parts)?;
        }
        let mut progress = Progress::new(done.rows, done.errors, sources.total(), print);
        let seen = Seen { progress: &mut progress, report: report.as_mut(), stop };
        let ended = self.to_the_end(sources, &output, &mut journal, seen);
        let summary = progress.finish(modality, journal.done().parts, journal.errors_file());
        if let Some(report) = report {
            if let Some(page) = report.to_keep(&summary) {
                print(&format!("--report {}: nothing was made, and the page that is there stays", page.display()));
                return ended.map(|()| summary);
            }
            let written = report.write(&record, &journal, &summary, ended.as_ref().err());
            // Why the run ended early is more.
            return ended.and(written).map(|()| summary);
        }
        ended.map(|()| summary)
    }

    /// Embeds what is missing. Also where an earlier run has come to its end: its samples are compared, and it may have been killed in
    /// front of what follows that.
    fn to_the_end(
        &self,
        sources: Sources,
        output: &Output,
        journal: &mut Journal,
        seen: Seen<'_, '_>,
    ) -> Result<(), BulkError> {
        self.embed(sources, output, journal, seen)?;
        journal.end()?;
        let (root, parts) = (self.root(), journal.done().parts);
        for file in journal.files() {
            file.must_be_whole(&output.settle(&root.join(file.path()), parts)?)?;
        }
        Ok(())
    }

    /// Embeds what no complete part has.
    fn embed(
        &self,
        sources: Sources,
        output: &Output,
        journal: &mut Journal,
        seen: Seen<'_, '_>,
    ) -> Result<(), BulkError> {
        let (modality, done) = (sources.modality(), journal.done());
        let limits = Limits { picture: self.config.limits.max_body_bytes, text: self.config.limits.max_text_bytes };
        let turn = Turn::new(sources.samples_of(), done.rows, done.chain, done.ended);
        let window = embedding::window(self.config, modality, self.embedder);
        let budget = self.config.limits.max_inflight_body_bytes;
        let started = Reading::start(sources, turn, limits, window, budget, self.runtime.handle());
        let (reading, parcels) = started.map_err(|error| BulkError::Thread(error.to_string()))?;
        let (sender, receiver) = mpsc::channel(ROWS_AHEAD);
        let lookout = seen.report.as_ref().map(|_| Arc::new(Lookout::new(self.config.limits.max_pixels)));
        let means = Means { embedder: Arc::clone(self.embedder), modality, lookout };
        let embedding = self.runtime.spawn(embedding::embed(means, window, parcels, sender));
        let writing = Writing { options: self.options, output, journal, seen, rows: receiver };
        // Whatever ends one of the three ends the others: each has the other end of a queue of the next.
        let last = writing.parts(self.runtime);
        let embedded = self.runtime.block_on(embedding);
        // Where rows are no longer taken, reading is not waited for: it may wait for a line of standard input.
        let last = last?;
        let read = reading.join();
        embedded.map_err(|error| BulkError::Thread(format!("embedding ended early: {error}")))?;
        match read {
            Ok(()) => last.map_or(Ok(()), |last| last.complete(journal)),
            Err(Some(Stop::Changed(reason))) => Err(BulkError::Changed(reason)),
            Err(Some(Stop::Closed)) => Err(BulkError::Thread("embedding ended early; the log says why".to_owned())),
            Err(None) => Err(BulkError::Thread("reading ended early; the log says why".to_owned())),
        }
    }

    /// Where this process writes: a shard has a folder of its own.
    fn root(&self) -> PathBuf {
        match self.options.shard {
            Some(shard) => self.options.out.join(shard.name()),
            None => self.options.out.clone(),
        }
    }

    /// What embeddings are written as, if the model has those that are asked for.
    fn values(&self, modality: Modalities) -> Result<Values, BulkError> {
        let mut dim = 0;
        for (asked, what) in [(modality.has_images(), Modality::Image), (modality.has_texts(), Modality::Text)] {
            if asked {
                dim = self.embedder.dim(what).map_err(BulkError::Model)?;
            }
        }
        Ok(Values { dtype: self.options.dtype, scale: self.embedder.info().int8_scale(dim), dim })
    }

    /// What the output depends on, by the names that an operator knows it by.
    fn record(&self, modality: Modalities, values: &Values) -> Map<String, Value> {
        let (info, options) = (self.embedder.info(), self.options);
        // Of the limits those that say which items have an embedding. All are named, so that a new one is decided on here.
        let &LimitsConfig {
            max_body_bytes,
            max_pixels,
            max_text_bytes,
            max_inflight_requests: _,
            max_queue_wait: _,
            max_inflight_body_bytes: _,
            max_images: _,
            max_texts: _,
            max_output_bytes: _,
            max_inflight_output_bytes: _,
            max_inflight_answer_bytes: _,
        } = &self.config.limits;
        let sources = match &options.sources {
            SourceArgs::Places(names) => json!(names),
            SourceArgs::List(path) => json!({"--from-file": path}),
        };
        let mut record = Map::new();
        for (key, value) in [
            (journal::LAYOUT, json!(LAYOUT)),
            ("model", json!(info.name)),
            ("fingerprint", json!(info.fingerprint)),
            ("precision", json!(info.precision)),
            ("provider", json!(info.provider)),
            ("dim", json!(values.dim)),
            ("int8_scale", if options.dtype == Dtype::Int8 { json!(values.scale) } else { Value::Null }),
            ("sources", sources),
            ("columns", json!(options.columns)),
            ("limits.max_body_bytes", json!(max_body_bytes)),
            ("limits.max_pixels", json!(max_pixels)),
            ("limits.max_text_bytes", json!(max_text_bytes)),
            ("--modality", json!(modality)),
            ("--format", json!(options.format)),
            ("--dtype", json!(options.dtype)),
            ("--part-rows", json!(options.part_rows)),
            ("--shard", json!(options.shard.map(|shard| shard.to_string()))),
        ] {
            record.insert(key.to_owned(), value);
        }
        record
    }
}

/// What is written into the files themselves, so that they can be read without their folder.
fn notes(record: &Map<String, Value>) -> Vec<(String, String)> {
    let keys = ["model", "fingerprint", "precision", "provider", "int8_scale"];
    let known = keys.into_iter().filter_map(|key| Some((key, record.get(key).filter(|value| !value.is_null())?)));
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    known.map(|(key, value)| (format!("clipserve.{key}"), text(value))).collect()
}

/// Who is told of every row.
struct Seen<'w, 'p> {
    progress: &'w mut Progress<'p>,
    report: Option<&'w mut Report>,
    /// Who says that the run is to stop.
    stop: JoinHandle<i32>,
}

/// The end of the line: rows become parts.
struct Writing<'o, 'w, 'p> {
    options: &'o BulkOptions,
    output: &'o Output,
    journal: &'w mut Journal,
    seen: Seen<'w, 'p>,
    rows: mpsc::Receiver<Row>,
}

/// The part that is being written.
struct Open<'a> {
    part: Part<'a>,
    rows: u64,
    errors: u64,
    chain: sample::Chain,
}

impl Open<'_> {
    fn complete(self, journal: &mut Journal) -> Result<(), BulkError> {
        let files = self.part.finish()?;
        journal.part(self.rows, self.errors, self.chain, &files)
    }
}

impl<'o> Writing<'o, '_, '_> {
    /// The next row, if there is one.
    ///
    /// # Errors
    /// [`BulkError::Stopped`]: what is in work is given up, and what is complete stays.
    async fn next(&mut self) -> Result<Option<Row>, BulkError> {
        tokio::select! {
            biased;
            Ok(signal) = &mut self.seen.stop => {
                let (rows, total) = (self.journal.done().rows, self.seen.progress.total());
                Err(BulkError::Stopped { signal, rows, total })
            }
            row = self.rows.recv() => Ok(row),
        }
    }

    /// Writes rows as they come. The last part, which may be short, is complete only when it is known that nothing is missed.
    fn parts(mut self, runtime: &Runtime) -> Result<Option<Open<'o>>, BulkError> {
        let mut open: Option<Open<'o>> = None;
        let (mut errors, mut faulty) = (self.journal.done().errors, 0);
        while let Some(mut row) = runtime.block_on(self.next())? {
            self.seen.progress.row(&row);
            if let Some(report) = &mut self.seen.report {
                report.row(&mut row);
            }
            let mut now = match open.take() {
                Some(open) => open,
                None => {
                    let part = self.output.begin(self.journal.done().parts)?;
                    Open { part, rows: 0, errors: 0, chain: row.chain }
                }
            };
            if let Some(reason) = &row.error {
                self.journal.error(self.journal.done().rows + now.rows, &row)?;
                now.errors += 1;
                errors += 1;
                faulty = if row.faulty { faulty + 1 } else { 0 };
                if faulty == GIVE_UP {
                    return Err(BulkError::Faulty(reason.clone()));
                }
                if let Some(limit) = self.options.max_errors
                    && errors > limit
                {
                    return Err(BulkError::TooManyErrors { errors, limit, file: self.journal.errors_file() });
                }
            } else {
                faulty = 0;
            }
            now.rows += 1;
            now.chain = row.chain;
            now.part.push(row)?;
            if now.rows == self.options.part_rows {
                now.complete(self.journal)?;
            } else {
                open = Some(now);
            }
        }
        Ok(open)
    }
}
