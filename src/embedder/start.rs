//! From a configuration to a running [`Embedder`]: read the model, start the engine, open the towers side by side, check, spawn.
//!
//! Owns the order of these steps. Does not own any part, nor the canary that stands between an opened tower and readiness
//! (`warm_up`).
//!
//! Invariants: nothing is spawned before everything that can be refused has been; an embedder that exists has answered inputs
//! of every kind with finite embeddings of one length, and its weights are those that were exported.

use std::{io, panic, path::Path, sync::Arc, thread};

use super::{
    Embedder, Images, Modality, ModelInfo, Texts, Towers,
    cache::Cache,
    error::StartError,
    lanes::Shared,
    load::load,
    parts::{Abilities, Parts, Sessions, TextParts, VisionParts},
    warm_up,
};
use crate::{
    budget::ByteBudget,
    config::Config,
    encoder::{BatchSizes, Encoder, OneByOne, PixelBuf, Runner, Tokens},
    engine::{Engine, EngineError, Normalization, PixelInput, TextEncoder, TokenInput, VisionEncoder},
    health::Health,
    heavy::Heavy,
    model::{Digests, Model, TextModel, VisionModel, hub, pictures::PicturePreparation, rules::Rules},
    preprocess::{
        image::{ImageOptions, ImageProcessor},
        text::TextTokenizer,
    },
    telemetry::{BuildInfo, Metrics},
};

/// A tower that has passed its canary.
struct Ready<P> {
    parts: P,
    /// Items that a run takes at most.
    max_batch_size: usize,
    /// Why it takes one at a time; `None` where it need not.
    one_by_one: Option<OneByOne>,
    /// The length of its embeddings, where it has any.
    dim: Option<usize>,
}

/// Loads the model of `config` and brings it to the point where it can take requests.
///
/// # Errors
/// Everything that can be wrong with a model, a library or a provider, as one line.
pub fn start(config: &Config, metrics: Arc<Metrics>, health: &Health) -> Result<Embedder, StartError> {
    start_for(config, |_| true, metrics, health)
}

/// [`start`] with the encoders of those modalities alone that are `wanted`, where the model has one of them. What the model is, its
/// fingerprint among it, does not change by that.
///
/// # Errors
/// As [`start`].
pub fn start_for(
    config: &Config,
    wanted: impl Fn(Modality) -> bool,
    metrics: Arc<Metrics>,
    health: &Health,
) -> Result<Embedder, StartError> {
    let engine = Arc::new(Engine::start(&config.engine)?);
    let graphs = config.engine.graphs();
    let source = hub::local(&config.model, graphs)?;
    let cache = config.model.cache_dir.as_deref();
    // The weights are read once: by the runtime, and beside it by who looks whether they are whole.
    let digests = Digests::deferring(cache);
    let model = load(&source, graphs, &digests)?;
    let (whole, opened) = side_by_side("check", || digests.check_deferred(), || open(&engine, model, &wanted, config))?;
    let parts = match whole {
        Ok(()) => opened?,
        Err(damage) => {
            tracing::debug!(%damage, "what was opened is closed again");
            drop(opened);
            // Says what is wrong with it; in the cache it is made anew.
            open(&engine, load(&source, graphs, &Digests::new(cache))?, &wanted, config)?
        }
    };
    for (there, modality) in [(parts.vision.is_some(), Modality::Image), (parts.text.is_some(), Modality::Text)] {
        if !there && wanted(modality) {
            tracing::warn!("the model has no {modality} encoder: what needs one is answered not_supported");
        }
    }
    let embeds = [
        (parts.vision.as_ref().map(|vision| vision.abilities), Modality::Image),
        (parts.text.as_ref().map(|text| text.abilities), Modality::Text),
    ];
    for (_, modality) in
        embeds.into_iter().filter(|(abilities, _)| abilities.is_some_and(|abilities| !abilities.embeds))
    {
        tracing::warn!("the {modality} encoder has no projection: it answers `outputs`, and no embeddings");
    }
    tracing::info!(
        model = parts.info.name,
        dim = parts.info.dim,
        fingerprint = parts.info.fingerprint,
        pictures_by = parts.info.rules.vision.map(Rules::name),
        texts_by = parts.info.rules.text.map(Rules::name),
        "the model is loaded and has passed its canary"
    );
    Embedder::assemble(parts, config, metrics, health)
}

/// The towers of `model` that are `wanted`, or else the one that it has, opened side by side, each of which has passed its canary.
fn open(
    engine: &Arc<Engine>,
    mut model: Model,
    wanted: &impl Fn(Modality) -> bool,
    config: &Config,
) -> Result<Parts<VisionEncoder, TextEncoder>, StartError> {
    let automatic = engine.batch_sizes(model.vision.as_ref().and_then(|vision| vision.positions));
    let rules = Towers {
        vision: model.vision.as_ref().map(|vision| vision.preparation.rules()),
        text: model.text.as_ref().map(|text| text.tokenization.rules()),
    };
    let weights = Towers {
        vision: model.vision.as_ref().and_then(|vision| vision.weights.clone()),
        text: model.text.as_ref().and_then(|text| text.weights.clone()),
    };
    if model.vision.is_some() && !wanted(Modality::Text) {
        model.text = None;
    } else if model.text.is_some() && !wanted(Modality::Image) {
        model.vision = None;
    }
    let [vision_graph, text_graph] = [
        model.vision.as_ref().map(|vision| vision.graphs.first().to_owned()),
        model.text.as_ref().map(|text| text.graphs.first().to_owned()),
    ];
    // A session is made by one thread, most of the time.
    let (vision, text) = side_by_side(
        "start",
        || model.vision.map(|vision| open_vision(engine, vision, text_graph.as_deref(), automatic, config)).transpose(),
        || model.text.map(|text| open_text(engine, text, vision_graph.as_deref(), automatic, config)).transpose(),
    )?;
    let (vision, text) = (vision?, text?);
    if vision.is_none() && text.is_none() {
        return Err(StartError::NoEncoder);
    }
    // What both have a part of, too: no session is opened any more.
    [vision_graph, text_graph].iter().flatten().for_each(|graph| engine.release_weights(graph));
    let dim = same_length(vision.as_ref().and_then(|vision| vision.dim), text.as_ref().and_then(|text| text.dim))?;
    let fingerprint = match rules.vision {
        Some(rules) => model.fingerprint.with_pictures_by(&config.preprocess, rules),
        None => model.fingerprint,
    };
    let one_by_one = Towers {
        vision: vision.as_ref().and_then(|vision| vision.one_by_one),
        text: text.as_ref().and_then(|text| text.one_by_one),
    };
    let batch_sizes = BatchSizes {
        images: vision.as_ref().map_or(automatic.images, |vision| vision.max_batch_size),
        texts: text.as_ref().map_or(automatic.texts, |text| text.max_batch_size),
    };
    let (vision, text) = (vision.map(|vision| vision.parts), text.map(|text| text.parts));
    let precision = engine.precision_name(config.engine.graphs());
    Ok(Parts {
        info: ModelInfo {
            name: model.name,
            fingerprint: fingerprint.to_string(),
            rules,
            weights,
            dim,
            image_size: vision.as_ref().map(|vision| vision.processor.crop_size()),
            context_length: text.as_ref().map(|text| text.tokenizer.context_length()),
            logit_scale: model.logit_scale,
            int8_scale: model.int8_scale,
            provider: engine.provider_name().to_owned(),
            precision: config.model.variant.clone().unwrap_or_else(|| precision.to_owned()),
            onnxruntime: engine.onnxruntime_version().to_owned(),
            batch_sizes,
            automatic_batch_sizes: automatic,
            one_by_one,
        },
        vision,
        text,
    })
}

/// What both give, `first` on a thread of its own that is called `name`.
///
/// # Errors
/// When the operating system has no thread to give.
fn side_by_side<A: Send, B>(
    name: &str,
    first: impl FnOnce() -> A + Send,
    second: impl FnOnce() -> B,
) -> io::Result<(A, B)> {
    thread::scope(|scope| {
        let first = thread::Builder::new().name(name.to_owned()).spawn_scoped(scope, first)?;
        let second = second();
        Ok((first.join().unwrap_or_else(|panic| panic::resume_unwind(panic)), second))
    })
}

/// The length of the embeddings of both towers.
fn same_length(vision: Option<usize>, text: Option<usize>) -> Result<Option<usize>, StartError> {
    match (vision, text) {
        (Some(image), Some(text)) if image != text => Err(StartError::Canary(format!(
            "the vision encoder answers {image} values, the text encoder {text}: they are not of one model"
        ))),
        _ => Ok(vision.or(text)),
    }
}

/// Inputs that must run one by one do, whatever the configuration says.
fn fit_batch(encoder: &str, one_by_one: Option<OneByOne>, max_batch_size: usize) -> usize {
    let Some(reason) = one_by_one else { return max_batch_size };
    tracing::info!(encoder, %reason, "the inputs of this graph run one by one");
    1
}

fn open_vision(
    engine: &Arc<Engine>,
    model: VisionModel,
    beside: Option<&Path>,
    automatic: BatchSizes,
    config: &Config,
) -> Result<Ready<VisionParts<VisionEncoder>>, StartError> {
    let options = ImageOptions {
        exif_orientation: config.preprocess.exif_orientation,
        fast_decode: config.preprocess.fast_decode,
        max_pixels: config.limits.max_pixels,
    };
    let processor = ImageProcessor::new(&model.preparation, options)?;
    let (engine, normalization) = (Arc::clone(engine), normalization(&model.preparation));
    let graph = model.graphs.first().to_owned();
    let abilities = Abilities::of(&model.graphs, model.outputs);
    let crops = Sessions::new(engine.vision(&model.graphs, &normalization, config.engine.vision_sessions)?);
    let image_size = processor.crop_size();
    if let Some((height, width)) = crops.first().and_then(|encoder| encoder.input()?.image_size())
        && (height, width) != (image_size.0 as usize, image_size.1 as usize)
    {
        return Err(StartError::Canary(format!(
            "the model's preprocessing makes crops of {}x{} (height x width), the vision graph takes {height}x{width}",
            image_size.0, image_size.1
        )));
    }
    let takes_floats = crops.first().and_then(VisionEncoder::input).is_some_and(PixelInput::takes_floats);
    // One session: it is opened when it is first asked for, which few do.
    let pixels = {
        let engine = Arc::clone(&engine);
        let open = move || engine.pixels(&model.graphs, &normalization);
        takes_floats.then(|| one_session(open)).transpose()?
    };
    let one_by_one = crops.first().and_then(VisionEncoder::one_by_one);
    let max_batch_size = config.batch.vision.max_batch_size.unwrap_or(automatic.images);
    let max_batch_size = fit_batch("vision", one_by_one, max_batch_size);
    let mut parts = VisionParts { abilities, processor, sessions: crops, pixels };
    let warm_up = || warm_up::vision(&mut parts, max_batch_size, engine.warms_each_batch_size());
    let dim = engine.release_weights_during(&graph, beside, warm_up)?;
    Ok(Ready { parts, max_batch_size, one_by_one, dim })
}

fn open_text(
    engine: &Arc<Engine>,
    model: TextModel,
    beside: Option<&Path>,
    automatic: BatchSizes,
    config: &Config,
) -> Result<Ready<TextParts<TextEncoder>>, StartError> {
    let TextModel { graphs, tokenization, context_length, outputs, .. } = model;
    let abilities = Abilities::of(&graphs, outputs);
    let graph = graphs.first().to_owned();
    let sessions = Sessions::new(engine.text(&graphs, config.engine.text_sessions)?);
    let input = sessions.first().and_then(TextEncoder::input);
    if let Some(sequence) = input.and_then(TokenInput::sequence)
        && sequence != context_length
    {
        return Err(StartError::Canary(format!(
            "config.json says {context_length} positions, the text graph is fixed to {sequence}"
        )));
    }
    let vocab_size = input.and_then(TokenInput::vocab_size);
    let tokenizer = TextTokenizer::open(&tokenization, context_length, config.limits.max_text_bytes, vocab_size)?;
    let one_by_one = sessions.first().and_then(TextEncoder::one_by_one);
    let max_batch_size = config.batch.text.max_batch_size.unwrap_or(automatic.texts);
    let max_batch_size = fit_batch("text", one_by_one, max_batch_size);
    let mut parts = TextParts { abilities, tokenizer, sessions };
    let max_batch_tokens = config.batch.text.max_batch_tokens;
    let warm_up = || warm_up::text(&mut parts, max_batch_size, max_batch_tokens, engine.warms_each_batch_size());
    let dim = engine.release_weights_during(&graph, beside, warm_up)?;
    Ok(Ready { parts, max_batch_size, one_by_one, dim })
}

fn one_session<E>(open: impl Fn() -> Result<E, EngineError> + Send + 'static) -> Result<Sessions<E>, EngineError> {
    let encoder = open()?;
    Ok(Sessions::new(vec![Runner::new(encoder, move || open().map_err(|error| error.to_string()))]))
}

fn normalization(preparation: &PicturePreparation) -> Normalization {
    let usual = |mean, std| Normalization { rescale_factor: Some(1.0 / 255.0), mean_std: Some((mean, std)) };
    match preparation {
        PicturePreparation::Transformers(config) => Normalization {
            rescale_factor: config.do_rescale.then_some(config.rescale_factor),
            mean_std: config.do_normalize.then_some((config.image_mean, config.image_std)),
        },
        PicturePreparation::OpenClip(transform) | PicturePreparation::OpenAi(transform) => {
            usual(transform.mean, transform.std)
        }
        PicturePreparation::Immich(transform) => usual(transform.mean, transform.std),
    }
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
            fingerprint: info.fingerprint.clone(),
        });
        let cache = Cache::new(config.cache.max_bytes, &metrics);
        let BatchSizes { images, texts } = info.batch_sizes;
        let shared =
            Shared { config, cache, activity: Arc::default(), floor: Arc::default(), metrics: &metrics, health };
        let images = vision.map(|vision| Images::spawn(vision, images, &shared)).transpose()?;
        let texts = text.map(|text| Texts::spawn(text, texts, &shared)).transpose()?;
        let max_output_bytes = config.limits.max_output_bytes;
        let output_budget = ByteBudget::new(config.limits.max_inflight_output_bytes);
        let heavy = Heavy::new(config.preprocess.threads);
        Ok(Self { info, metrics, images, texts, max_output_bytes, output_budget, heavy })
    }
}
