//! `clipserve tune`: which threads, sessions and batches are best for this model on this machine.
//!
//! Owns the order: start the model once as configured, say how long it will take, search, report. It stands where `server`
//! stands, above an `Embedder`, and drives one without HTTP.
//!
//! Invariants: precision, provider and model stay those of the configuration, so what is answered does not change; a value of
//! the configuration is replaced only by one that is clearly better.

mod knobs;
mod measure;
mod report;
mod search;

use std::{
    fmt::Write,
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::runtime::Runtime;

pub use knobs::{Knob, Knobs};

use measure::Trials;
use search::{MARGIN, Runs, Space};

use crate::{
    config::{Config, ConfigErrors},
    embedder::{EmbedError, Embedder, Modality, StartError},
    encoder::{InputError, OneByOne},
};

/// The picture that is embedded where none is given: a photograph of 640x480, 85 KB of JPEG.
static PICTURE: &[u8] = include_bytes!("../../tests/fixtures/images/photo_640x480.jpg");

/// What is a GPU; other providers run on the CPUs, and its threads are theirs.
const GPU_PROVIDERS: [&str; 2] = ["cuda", "tensorrt"];

/// How `tune` measures.
#[derive(Clone, Debug)]
pub struct TuneOptions {
    /// Of one trial, besides the start of the model.
    pub seconds: Duration,
    /// How often each combination is tried.
    pub rounds: usize,
    /// The file of a picture, to be embedded in place of the one that is built in.
    pub picture: Option<Vec<u8>>,
}

/// Why there is nothing to report, in one line for the operator.
#[derive(Debug, thiserror::Error)]
pub enum TuneError {
    /// The model does not start, as configured or with other knobs.
    #[error(transparent)]
    Start(#[from] StartError),
    /// It has no embeddings, which is what is measured.
    #[error("the model has no embeddings to measure: it has no projection")]
    NoEmbeddings,
    /// The operator's picture.
    #[error("--image: {0}")]
    Picture(InputError),
    /// It stopped answering.
    #[error("a trial failed: {0}")]
    Embed(#[from] EmbedError),
    /// The defaults that the report compares with.
    #[error(transparent)]
    Defaults(#[from] ConfigErrors),
}

/// Tries combinations for `config` and returns the report, Markdown; `progress` is told a line at a time how far it is. Clients
/// run on `runtime`, as handlers do.
///
/// # Errors
/// See [`TuneError`].
pub fn tune(
    config: &Config,
    options: TuneOptions,
    runtime: &Runtime,
    progress: &mut dyn FnMut(&str),
) -> Result<String, TuneError> {
    let picture = options.picture.map_or(Bytes::from_static(PICTURE), Bytes::from);
    let started = Instant::now();
    let embedder = measure::start(config)?;
    let start = started.elapsed();
    let first = first_answers(&embedder, runtime, &picture);
    let model = Model::of(&embedder);
    let automatic = embedder.info().automatic_batch_sizes;
    let (defaults, given) = (Knobs::defaults(automatic)?, Knobs::of(config, automatic));
    embedder.shut_down();
    first?;

    let memory = measure::available_memory().zip(measure::resident_memory());
    let space = Space {
        cpus: defaults[Knob::IntraThreads],
        gpu: GPU_PROVIDERS.contains(&&*model.provider),
        // Both encoders' weights are in what is resident, so there is room for more than this.
        max_sessions: memory
            .and_then(|(available, resident)| usize::try_from(available / resident.max(1)).ok())
            .unwrap_or(usize::MAX)
            .clamp(1, MAX_SESSIONS),
        images: model.images,
        texts: model.texts,
        rounds: options.rounds,
    };
    if space.images.is_none() && space.texts.is_none() {
        return Err(TuneError::NoEmbeddings);
    }
    let trials = search::trials(given, &space);
    let total = (start + options.seconds).mul_f64(trials as f64);
    progress(&format!("{}: about {trials} trials, about {} s", model.describe(space.cpus), total.as_secs().max(1)));

    let trial = Trials::new(config, runtime, picture, options.seconds);
    let mut count = 0;
    let findings = search::search(given, &space, |modality, knobs| {
        let sample = trial.measure(modality, knobs)?;
        count += 1;
        progress(&format!("{count}/{trials} {modality}s, {}: {:.1}/s", describe(modality, knobs), sample.rate));
        Ok::<_, TuneError>(sample)
    })?;

    let mut text = format!("# clipserve tune: {}\n\n", model.describe(space.cpus));
    let _ = writeln!(
        text,
        "Rounds: {}, interleaved, {:?} of each combination. A rate is the median of the rounds, with clients enough to keep all\n\
         sessions busy; p50 and p99 are those of one client, of all rounds; MiB is the resident memory of the process, the most\n\
         that was seen. The first row of a table is what held before it; another one takes its place when it is more than {:.0} %\n\
         better in the median and better in four rounds of five; of fewer than {} rounds none does.\n",
        space.rounds,
        options.seconds,
        MARGIN * 100.0,
        search::LEAST_ROUNDS
    );
    Ok(text + &report::render(&findings, &given, &defaults))
}

/// What `engine.vision.sessions` takes at most.
const MAX_SESSIONS: usize = 64;

/// One item of each kind: what cannot be measured is known before anything is.
fn first_answers(embedder: &Embedder, runtime: &Runtime, picture: &Bytes) -> Result<(), TuneError> {
    for modality in [Modality::Image, Modality::Text] {
        if embedder.dim(modality).is_err() {
            continue;
        }
        runtime.block_on(measure::ask(embedder, modality, picture, "a text")).map_err(|error| match error {
            EmbedError::Item { error, .. } if modality == Modality::Image => TuneError::Picture(error),
            error => TuneError::Embed(error),
        })?;
    }
    Ok(())
}

/// What is tuned, after its first start.
struct Model {
    name: String,
    provider: String,
    precision: String,
    onnxruntime: String,
    images: Option<Runs>,
    texts: Option<Runs>,
}

impl Model {
    fn of(embedder: &Embedder) -> Self {
        let info = embedder.info();
        let runs = |modality, one_by_one: Option<OneByOne>| {
            let runs = if one_by_one.is_some() { Runs::OneByOne } else { Runs::Together };
            embedder.dim(modality).is_ok().then_some(runs)
        };
        Self {
            name: info.name.clone(),
            provider: info.provider.clone(),
            precision: info.precision.clone(),
            onnxruntime: info.onnxruntime.clone(),
            images: runs(Modality::Image, info.one_by_one.vision),
            texts: runs(Modality::Text, info.one_by_one.text),
        }
    }

    fn describe(&self, cpus: usize) -> String {
        let Self { name, provider, precision, onnxruntime, .. } = self;
        let cpus = if cpus == 1 { "1 CPU".to_owned() } else { format!("{cpus} CPUs") };
        format!("{name}, {provider}, {precision}, {cpus}, ONNX Runtime {onnxruntime}")
    }
}

/// The knobs that matter to `modality`, for a line of progress.
fn describe(modality: Modality, knobs: &Knobs) -> String {
    let matter: &[Knob] = match modality {
        Modality::Image => &[Knob::VisionSessions, Knob::IntraThreads, Knob::VisionBatch, Knob::PreprocessThreads],
        Modality::Text => &[Knob::TextSessions, Knob::IntraThreads, Knob::TextBatch],
    };
    let name = |knob: &Knob| {
        let key = knob.key();
        // `batch.vision.max_batch_size` is plain from its name, `preprocess.threads` is not.
        let name = if *knob == Knob::PreprocessThreads { key } else { key.rsplit('.').next().unwrap_or(key) };
        format!("{name} {}", knobs[*knob])
    };
    matter.iter().map(name).collect::<Vec<_>>().join(", ")
}
