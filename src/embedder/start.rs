//! From a configuration to a running [`Embedder`]: read the model, start the engine, warm up, check, spawn.
//!
//! Owns the order of these steps and the canary that stands between a loaded model and readiness. Does not own any part.
//!
//! Invariants: nothing is spawned before everything that can be refused has been; an embedder that exists has answered a
//! batch of every kind with finite embeddings of one length.

use std::{io, path::PathBuf, sync::Arc};

use super::{Embedder, Images, Lane, Modality, ModelInfo, Texts, load::load};
use crate::{
    batch::{Admission, BatchPolicy, JobQueue, Worker, WorkerContext},
    config::{Config, LaneConfig},
    encoder::{Embeddings, Encoder, PixelBuf, Tokens},
    engine::{Engine, EngineError, Normalization, TextEncoder, VisionEncoder},
    export::ExportError,
    health::Health,
    model::{
        ModelError, TextModel, VisionModel,
        hub::{self, HubError},
        preprocessor::PreprocessorConfig,
    },
    preprocess::{
        image::{ImageOptions, ImageProcessor, UnsupportedPreprocessing},
        pool::PreprocessPool,
        text::{TextTokenizer, TokenizerError},
    },
    similarity,
    telemetry::{BuildInfo, LaneMetrics, Metrics, Reject},
};

/// Why a model cannot be served, in one line for the operator.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its download.
    #[error(transparent)]
    Hub(#[from] HubError),
    /// Its directory.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// It is a checkpoint that cannot be exported.
    #[error("checkpoint {checkpoint}: {error}", checkpoint = .checkpoint.display())]
    Export {
        /// Its directory.
        checkpoint: PathBuf,
        /// What is wrong with it, or with the cache.
        error: ExportError,
    },
    /// It is a checkpoint, and there is nowhere to keep its graphs.
    #[error(
        "the model is a checkpoint, and there is no folder for its graphs: give --cache-dir DIR (model.cache_dir), or set HOME"
    )]
    NoCacheDir,
    /// It has no embedding at all.
    #[error(
        "the model has no projection (visual_projection, text_projection) behind any of its towers: it embeds nothing"
    )]
    NoEncoder,
    /// Its preprocessing.
    #[error("preprocessor_config.json: {0}")]
    Preprocessing(#[from] UnsupportedPreprocessing),
    /// Its tokenizer.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// ONNX Runtime, the provider, or a graph.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// It loads, but what it answers cannot be right.
    #[error("the model failed its canary: {0}")]
    Canary(String),
    /// No threads.
    #[error("a worker thread could not be started: {0}")]
    Threads(#[from] io::Error),
}

/// The sessions of one encoder, and how to make another one after a panic.
pub struct Sessions<E> {
    /// One worker thread for each; at least one.
    pub encoders: Vec<E>,
    /// Makes another.
    pub rebuild: Arc<dyn Fn() -> Result<E, String> + Send + Sync>,
}

/// What an [`Embedder`] is assembled from; at least one of the two encoders.
pub struct Parts<V, T> {
    /// What runs.
    pub info: ModelInfo,
    /// For images.
    pub vision: Option<VisionParts<V>>,
    /// For texts.
    pub text: Option<TextParts<T>>,
}

/// What embeds images.
pub struct VisionParts<V> {
    /// From bytes to crops.
    pub processor: ImageProcessor,
    /// Crops to `image_embeds`.
    pub sessions: Sessions<V>,
}

/// What embeds texts.
pub struct TextParts<T> {
    /// From text to ids.
    pub tokenizer: TextTokenizer,
    /// Ids to `text_embeds`.
    pub sessions: Sessions<T>,
}

/// Loads the model of `config` and brings it to the point where it can take requests.
///
/// # Errors
/// Everything that can be wrong with a model, a library or a provider, as one line.
pub fn start(config: &Config, metrics: Arc<Metrics>, health: &Health) -> Result<Embedder, StartError> {
    let engine = Arc::new(Engine::start(&config.engine)?);
    let source = hub::local(&config.model, config.engine.precision)?;
    let model = load(&source, config.engine.precision)?;
    let vision = model.vision.map(|vision| open_vision(&engine, vision, config)).transpose()?;
    let text = model.text.map(|text| open_text(&engine, text, config)).transpose()?;
    if vision.is_none() && text.is_none() {
        return Err(StartError::NoEncoder);
    }
    let fingerprint = match vision {
        Some(_) => model.fingerprint.with_pictures_by(&config.preprocess),
        None => model.fingerprint,
    };
    let mut config = config.clone();
    let vision_batch = vision.as_ref().and_then(|vision| vision.sessions.encoders.first()?.batch());
    fit_batches("vision", vision_batch, &mut config.batch.vision)?;
    let text_batch = text.as_ref().and_then(|text| text.sessions.encoders.first()?.batch());
    fit_batches("text", text_batch, &mut config.batch.text)?;
    let mut parts = Parts {
        info: ModelInfo {
            name: model.name,
            fingerprint: fingerprint.to_string(),
            dim: 0,
            image_size: vision.as_ref().map(|vision| vision.processor.crop_size()),
            context_length: text.as_ref().map(|text| text.tokenizer.context_length()),
            logit_scale: model.logit_scale,
            provider: engine.provider_name().to_owned(),
            precision: config.model.variant.clone().unwrap_or_else(|| config.engine.precision.name().to_owned()),
            onnxruntime: engine.onnxruntime_version().to_owned(),
        },
        vision,
        text,
    };
    parts.info.dim = warm_up(&mut parts, &config)?;
    for (there, modality) in [(parts.vision.is_some(), Modality::Image), (parts.text.is_some(), Modality::Text)] {
        if !there {
            tracing::warn!("the model has no {modality} encoder: what needs one is answered not_supported");
        }
    }
    tracing::info!(
        model = parts.info.name,
        dim = parts.info.dim,
        fingerprint = parts.info.fingerprint,
        "the model is loaded and has passed its canary"
    );
    Embedder::assemble(parts, &config, metrics, health)
}

/// A graph exported for single inputs is given one at a time, whatever the configuration says.
fn fit_batches(encoder: &str, fixed: Option<usize>, lane: &mut LaneConfig) -> Result<(), StartError> {
    match fixed {
        None => {}
        Some(1) => {
            tracing::info!(encoder, "the graph is fixed to batches of 1: its inputs run one by one");
            lane.max_batch_size = 1;
        }
        Some(batch) => {
            let reason =
                format!("the {encoder} graph is fixed to batches of {batch}; export it with any number, or with 1");
            return Err(StartError::Canary(reason));
        }
    }
    Ok(())
}

fn open_vision(
    engine: &Arc<Engine>,
    model: VisionModel,
    config: &Config,
) -> Result<VisionParts<VisionEncoder>, StartError> {
    let options = ImageOptions {
        exif_orientation: config.preprocess.exif_orientation,
        fast_decode: config.preprocess.fast_decode,
        max_pixels: config.limits.max_pixels,
    };
    let processor = ImageProcessor::new(&model.preprocessor, options)?;
    let (engine, normalization) = (Arc::clone(engine), normalization(&model.preprocessor));
    let sessions = sessions(config.engine.vision_sessions, move || engine.vision(&model.graph, &normalization))?;
    let image_size = processor.crop_size();
    if let Some((height, width)) = sessions.encoders.first().and_then(VisionEncoder::image_size)
        && (height, width) != (image_size.0 as usize, image_size.1 as usize)
    {
        return Err(StartError::Canary(format!(
            "preprocessor_config.json makes crops of {}x{} (height x width), the vision graph takes {height}x{width}",
            image_size.0, image_size.1
        )));
    }
    Ok(VisionParts { processor, sessions })
}

fn open_text(engine: &Arc<Engine>, model: TextModel, config: &Config) -> Result<TextParts<TextEncoder>, StartError> {
    let TextModel { files, context_length } = model;
    let tokenizer = TextTokenizer::open(&files.tokenizer, context_length, config.limits.max_text_bytes)?;
    let engine = Arc::clone(engine);
    let sessions = sessions(config.engine.text_sessions, move || engine.text(&files.graph))?;
    if let Some(sequence) = sessions.encoders.first().and_then(TextEncoder::sequence)
        && sequence != context_length
    {
        return Err(StartError::Canary(format!(
            "config.json says {context_length} positions, the text graph is fixed to {sequence}"
        )));
    }
    Ok(TextParts { tokenizer, sessions })
}

fn sessions<E>(
    count: usize,
    open: impl Fn() -> Result<E, EngineError> + Send + Sync + 'static,
) -> Result<Sessions<E>, EngineError> {
    let encoders = (0..count).map(|_| open()).collect::<Result<_, _>>()?;
    Ok(Sessions { encoders, rebuild: Arc::new(move || open().map_err(|error| error.to_string())) })
}

fn normalization(config: &PreprocessorConfig) -> Normalization {
    Normalization {
        rescale_factor: config.do_rescale.then_some(config.rescale_factor),
        mean_std: config.do_normalize.then_some((config.image_mean, config.image_std)),
    }
}

/// Runs every session at its largest batch and at one item, and returns the length of the embeddings.
fn warm_up<V, T>(parts: &mut Parts<V, T>, config: &Config) -> Result<usize, StartError>
where
    V: Encoder<Input = PixelBuf>,
    T: Encoder<Input = Tokens>,
{
    let image_dim = match &mut parts.vision {
        Some(vision) => Some(warm_up_vision(vision, config.batch.vision.max_batch_size)?),
        None => None,
    };
    let text_dim = match &mut parts.text {
        Some(text) => Some(warm_up_text(text, &config.batch.text)?),
        None => None,
    };
    match (image_dim, text_dim) {
        (Some(image), Some(text)) if image != text => Err(StartError::Canary(format!(
            "the vision encoder answers {image} values, the text encoder {text}: they are not of one model"
        ))),
        _ => image_dim.or(text_dim).ok_or(StartError::NoEncoder),
    }
}

fn warm_up_vision<V: Encoder<Input = PixelBuf>>(
    vision: &mut VisionParts<V>,
    max_batch_size: usize,
) -> Result<usize, StartError> {
    let (height, width) = vision.processor.crop_size();
    // Grey ramps of different steepness: cheap, all different, no flat picture among them.
    let picture = |i: usize| {
        let bytes = (0..height as usize * width as usize * 3).map(|at| (at * (i + 1) / 97 % 256) as u8).collect();
        PixelBuf::new(width, height, bytes)
    };
    let pictures: Vec<PixelBuf> = (0..max_batch_size).map(picture).collect();
    canary("vision", &mut vision.sessions.encoders, &pictures)
}

fn warm_up_text<T: Encoder<Input = Tokens>>(text: &mut TextParts<T>, lane: &LaneConfig) -> Result<usize, StartError> {
    let TextParts { tokenizer, sessions } = text;
    let tokens = |i: usize| {
        let words = format!("a photo of {}", "word ".repeat(i % tokenizer.context_length()));
        tokenizer.tokenize(&words, true).map(|text| text.tokens)
    };
    let texts: Vec<Tokens> = (0..lane.max_batch_size)
        .map(tokens)
        .collect::<Result<_, _>>()
        .map_err(|error| StartError::Canary(error.to_string()))?;
    let fits = (lane.max_batch_tokens / tokenizer.context_length()).max(1);
    let texts = &texts[texts.len().saturating_sub(fits)..];
    canary("text", &mut sessions.encoders, texts)
}

/// The embeddings must be finite, not zero, and those of an item alone must point where those of the item in a batch point
/// (cosine 0.99: dynamic int8 quantisation is allowed its batch-dependent error, a mixed-up batch is not).
fn canary<E: Encoder>(name: &str, encoders: &mut [E], inputs: &[E::Input]) -> Result<usize, StartError> {
    let mut dim = 0;
    for encoder in encoders {
        let mut run = |inputs: &[E::Input]| -> Result<Embeddings, StartError> {
            let embeddings = encoder.encode(inputs).map_err(|error| StartError::Canary(format!("{name}: {error}")))?;
            let sane = embeddings.rows().into_iter().all(|row| {
                let norm = similarity::norm(row);
                norm.is_finite() && norm > 0.0
            });
            if sane {
                Ok(embeddings)
            } else {
                Err(StartError::Canary(format!("{name}: embeddings are not finite or zero")))
            }
        };
        let mut batch = run(inputs)?;
        let last = inputs.len().saturating_sub(1);
        let mut alone = run(&inputs[last..])?;
        similarity::normalize(&mut batch);
        similarity::normalize(&mut alone);
        let cosine = batch.row(last).dot(&alone.row(0));
        if cosine < 0.99 {
            return Err(StartError::Canary(format!(
                "{name}: an input alone and in a batch of {} have cosine {cosine}",
                inputs.len()
            )));
        }
        dim = batch.ncols();
    }
    Ok(dim)
}

impl Embedder {
    /// Spawns the threads around encoders that are ready. [`start`] calls it with ONNX Runtime's, tests with fakes.
    ///
    /// # Errors
    /// When the operating system has no thread to give.
    pub fn assemble<V, T>(
        parts: Parts<V, T>,
        config: &Config,
        metrics: Arc<Metrics>,
        health: &Health,
    ) -> Result<Self, StartError>
    where
        V: Encoder<Input = PixelBuf>,
        T: Encoder<Input = Tokens>,
    {
        let Parts { info, vision, text } = parts;
        metrics.set_build_info(&BuildInfo {
            provider: info.provider.clone(),
            precision: info.precision.clone(),
            onnxruntime: info.onnxruntime.clone(),
            model: info.name.clone(),
        });
        let images = vision.map(|vision| Images::spawn(vision, config, &metrics, health)).transpose()?;
        let texts = text.map(|text| Texts::spawn(text, config, &metrics, health)).transpose()?;
        Ok(Self { info, metrics, images, texts })
    }
}

impl Images {
    fn spawn<V: Encoder<Input = PixelBuf>>(
        parts: VisionParts<V>,
        config: &Config,
        metrics: &Arc<Metrics>,
        health: &Health,
    ) -> io::Result<Self> {
        let queue = Arc::new(JobQueue::new(|_| 1, metrics.preprocess_queue.clone(), metrics.vision.clone()));
        let crops = Arc::new(JobQueue::new(|_| 1, metrics.vision.queue.clone(), metrics.vision.clone()));
        let admission = Arc::new(Admission::new(config.batch.vision.max_queue_size));
        let wiring = Wiring { name: "vision", queue: &crops, admission: &admission, metrics: &metrics.vision };
        let workers = wiring.spawn(parts.sessions, &config.batch.vision, health)?;
        let preprocess = PreprocessPool::start(
            config.preprocess.threads,
            parts.processor,
            Arc::clone(&queue),
            Arc::clone(&crops),
            Arc::clone(metrics),
        )?;
        Ok(Self { lane: Lane { admission, queue, reject: Reject::ImageQueue }, preprocess, crops, workers })
    }
}

impl Texts {
    fn spawn<T: Encoder<Input = Tokens>>(
        parts: TextParts<T>,
        config: &Config,
        metrics: &Arc<Metrics>,
        health: &Health,
    ) -> io::Result<Self> {
        let length = |tokens: &Tokens| tokens.ids().len();
        let queue = Arc::new(JobQueue::new(length, metrics.text.queue.clone(), metrics.text.clone()));
        let admission = Arc::new(Admission::new(config.batch.text.max_queue_size));
        let wiring = Wiring { name: "text", queue: &queue, admission: &admission, metrics: &metrics.text };
        let workers = wiring.spawn(parts.sessions, &config.batch.text, health)?;
        let lane = Lane { admission, queue, reject: Reject::TextQueue };
        Ok(Self { tokenizer: parts.tokenizer, lane, workers })
    }
}

/// What the workers of one lane have in common.
struct Wiring<'a, T> {
    name: &'static str,
    queue: &'a Arc<JobQueue<T>>,
    admission: &'a Arc<Admission>,
    metrics: &'a LaneMetrics,
}

impl<T: Send + 'static> Wiring<'_, T> {
    fn spawn<E: Encoder<Input = T>>(
        &self,
        sessions: Sessions<E>,
        lane: &LaneConfig,
        health: &Health,
    ) -> io::Result<Vec<Worker>> {
        let mut workers = Vec::new();
        for (i, encoder) in sessions.encoders.into_iter().enumerate() {
            let name = format!("{}-{i}", self.name);
            let context = WorkerContext {
                queue: Arc::clone(self.queue),
                policy: BatchPolicy {
                    max_batch_size: lane.max_batch_size,
                    max_batch_cost: lane.max_batch_tokens,
                    max_queue_delay: lane.max_queue_delay,
                },
                admission: Arc::clone(self.admission),
                metrics: self.metrics.clone(),
                heartbeat: health.register(name.clone()),
            };
            let rebuild = Arc::clone(&sessions.rebuild);
            workers.push(Worker::spawn(name, context, encoder, move || rebuild())?);
        }
        Ok(workers)
    }
}
