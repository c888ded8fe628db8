//! The threads and queues around a model's encoders.
//!
//! Owns what a lane is made of, and what of its work counts as little or much. Does not own the encoders (`start` opens them) or how a
//! lane is used (`items`, `outputs`).

use std::{io, sync::Arc, time::Duration};

use bytes::Bytes;

use super::{
    Images, Lane, Pixels, Texts,
    cache::{Cache, Key},
    parts::{Sessions, TextParts, VisionParts},
};
use crate::{
    batch::{
        Activity, Admission, BatchPolicy, Capacity, Cost, Floor, JobQueue, Pace, Room, Speed, Speeds, Wake, Work,
        Worker, WorkerContext,
    },
    config::{Config, LaneConfig},
    encoder::{Encoder, PixelBuf, PixelValues, Tokens},
    health::Health,
    preprocess::{
        image,
        pool::{PreprocessPool, Stage},
    },
    telemetry::{LaneMetrics, Metrics, Reject},
};

/// What the lanes of one model have in common.
pub(super) struct Shared<'a> {
    pub(super) config: &'a Config,
    pub(super) cache: Option<Arc<Cache>>,
    pub(super) activity: Arc<Activity>,
    pub(super) floor: Arc<Floor>,
    pub(super) metrics: &'a Arc<Metrics>,
    pub(super) health: &'a Health,
}

/// Decode work, in pixels of a baseline JPEG, from which on a picture is large: some 60 ms. Of the threads that decode, one is
/// kept for smaller ones.
const LARGE_PICTURE: u64 = 16 << 20;

/// Decode work that no picture within the limits has: a header may claim any size, and is refused for it.
const MOST_DECODE_WORK: u64 = 1 << 40;

/// Images of a request that is not large. More of them are a batch.
const FEW_IMAGES: u64 = 2;

/// Texts as long as the model takes them, of a request that is not large.
const FEW_TEXTS: u64 = 2;

/// Until one has been decoded: a baseline JPEG's pixel takes some 4 ns.
const FIRST_DECODE: (u64, Duration) = (1 << 18, Duration::from_millis(1));

/// Of the wait that a request may have, how much a run may take: it waits for the end of one and for that of its own.
const RUN_SHARE: f64 = 0.4;

impl Shared<'_> {
    /// How long runs of this speed may take, of which so many share the threads of one session: each takes so many times as long as it
    /// would alone while all of them go on.
    fn pace(&self, speed: &Arc<Speed>, beside: usize) -> Pace {
        let max_run = Some(self.config.limits.max_queue_wait.mul_f64(RUN_SHARE).div_f64(beside as f64));
        let (speed, activity, floor) = (Arc::clone(speed), Arc::clone(&self.activity), Arc::clone(&self.floor));
        Pace { speed, activity, max_run, floor, room: Room::default() }
    }

    /// The queue before `sessions`, whose runs have this speed. `cost` is that of an item.
    fn queue<T: Send + 'static, E>(
        &self,
        cost: fn(&T) -> Cost,
        lane: &LaneMetrics,
        speed: &Arc<Speed>,
        sessions: &Sessions<E>,
    ) -> Arc<JobQueue<T>> {
        let pace = Pace { room: Room::of(sessions.independent()), ..self.pace(speed, sessions.beside()) };
        let queue = Arc::new(JobQueue::new(cost, lane.queue.clone(), lane.clone(), pace));
        let wake: Arc<dyn Wake> = Arc::<JobQueue<T>>::clone(&queue);
        self.floor.wakes(Arc::downgrade(&wake));
        queue
    }

    /// The speeds of a lane whose sessions have done `runs` so far.
    fn speeds(&self, runs: &[(u64, Duration)]) -> Speeds {
        let speeds = Speeds::default();
        speeds.decode.observe(FIRST_DECODE.0, FIRST_DECODE.1);
        runs.iter().for_each(|&(work, took)| speeds.encode.observe(work, took));
        speeds
    }
}

fn decode_work(file: &Bytes) -> u64 {
    image::decode_work(file).min(MOST_DECODE_WORK)
}

impl Images {
    pub(super) fn spawn<V: Encoder<Input = PixelBuf>>(
        parts: VisionParts<V>,
        max_batch_size: usize,
        shared: &Shared<'_>,
    ) -> io::Result<Self> {
        let Shared { config, metrics, .. } = shared;
        let speeds = shared.speeds(&parts.sessions.runs);
        let cost = |file: &Bytes| {
            let work = decode_work(file);
            Cost { cost: usize::try_from(work).unwrap_or(usize::MAX), is_large: work > LARGE_PICTURE }
        };
        let decoding = shared.pace(&speeds.decode, 1);
        let queue = Arc::new(JobQueue::new(cost, metrics.preprocess_queue.clone(), metrics.vision.clone(), decoding));
        let crops = shared.queue(|_| Cost::of(1), &metrics.vision, &speeds.encode, &parts.sessions);
        let capacity = Capacity {
            items: config.batch.vision.max_queue_size,
            decoders: config.preprocess.threads,
            encoders: parts.sessions.independent(),
            few: FEW_IMAGES,
        };
        let admission = Arc::new(Admission::new(capacity, speeds.clone()));
        let pixels = parts.pixels.map(|sessions| Pixels::spawn(sessions, &parts.sessions.runs, max_batch_size, shared));
        let pixels = pixels.transpose()?;
        let wiring = Wiring { name: "vision", queue: &crops, admission: &admission, metrics: &metrics.vision };
        let workers = wiring.spawn(parts.sessions, max_batch_size, &config.batch.vision, shared.health)?;
        let stage = Stage {
            processor: parts.processor,
            input: Arc::clone(&queue),
            output: Arc::clone(&crops),
            speed: speeds.decode,
            metrics: Arc::clone(metrics),
        };
        let preprocess = PreprocessPool::start(config.preprocess.threads, stage)?;
        let lane = Lane {
            admission,
            queue,
            reject: Reject::ImageQueue,
            cache: shared.cache.clone(),
            key: |file| Key::Image(blake3::hash(file)),
            work: |file| Work { decode: decode_work(file), encode: 1 },
            metrics: metrics.vision.clone(),
        };
        Ok(Self { abilities: parts.abilities, lane, preprocess, crops, workers, pixels })
    }
}

impl Pixels {
    /// `runs` are those of crops, which take as long.
    fn spawn<P: Encoder<Input = PixelValues>>(
        sessions: Sessions<P>,
        runs: &[(u64, Duration)],
        max_batch_size: usize,
        shared: &Shared<'_>,
    ) -> io::Result<Self> {
        let Shared { config, metrics, .. } = shared;
        let speeds = shared.speeds(runs);
        let lane = &metrics.pixels;
        let queue = shared.queue(|_| Cost::of(1), lane, &speeds.encode, &sessions);
        let capacity = Capacity {
            items: config.batch.vision.max_queue_size,
            decoders: 1,
            encoders: sessions.independent(),
            few: FEW_IMAGES,
        };
        let admission = Arc::new(Admission::new(capacity, speeds));
        let wiring = Wiring { name: "pixels", queue: &queue, admission: &admission, metrics: lane };
        let workers = wiring.spawn(sessions, max_batch_size, &config.batch.vision, shared.health)?;
        let lane = Lane {
            admission,
            queue,
            reject: Reject::ImageQueue,
            cache: shared.cache.clone(),
            key: |picture| Key::Pixels(picture.digest()),
            work: |_| Work { decode: 0, encode: 1 },
            metrics: lane.clone(),
        };
        Ok(Self { lane, workers })
    }
}

impl Texts {
    pub(super) fn spawn<T: Encoder<Input = Tokens>>(
        parts: TextParts<T>,
        max_batch_size: usize,
        shared: &Shared<'_>,
    ) -> io::Result<Self> {
        let Shared { config, metrics, .. } = shared;
        let speeds = shared.speeds(&parts.sessions.runs);
        let cost = |tokens: &Tokens| Cost::of(tokens.ids().len());
        let queue = shared.queue(cost, &metrics.text, &speeds.encode, &parts.sessions);
        let capacity = Capacity {
            items: config.batch.text.max_queue_size,
            decoders: 1,
            encoders: parts.sessions.independent(),
            few: FEW_TEXTS * parts.tokenizer.context_length() as u64,
        };
        let admission = Arc::new(Admission::new(capacity, speeds));
        let wiring = Wiring { name: "text", queue: &queue, admission: &admission, metrics: &metrics.text };
        let workers = wiring.spawn(parts.sessions, max_batch_size, &config.batch.text, shared.health)?;
        let lane = Lane {
            admission,
            queue,
            reject: Reject::TextQueue,
            cache: shared.cache.clone(),
            key: |tokens| Key::Text(tokens.clone()),
            work: |tokens| Work { decode: 0, encode: tokens.ids().len() as u64 },
            metrics: metrics.text.clone(),
        };
        Ok(Self { abilities: parts.abilities, tokenizer: parts.tokenizer, lane, workers })
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
        max_batch_size: usize,
        lane: &LaneConfig,
        health: &Health,
    ) -> io::Result<Vec<Worker>> {
        let mut workers = Vec::new();
        for (i, runner) in sessions.runners.into_iter().enumerate() {
            let name = format!("{}-{i}", self.name);
            let context = WorkerContext {
                queue: Arc::clone(self.queue),
                policy: BatchPolicy {
                    max_batch_size,
                    max_batch_cost: lane.max_batch_tokens,
                    max_queue_delay: lane.max_queue_delay,
                    pads: runner.encoder.pads(),
                    large_cost: None,
                },
                admission: Arc::clone(self.admission),
                metrics: self.metrics.clone(),
                heartbeat: health.register(name.clone()),
            };
            workers.push(Worker::spawn(name, context, runner)?);
        }
        Ok(workers)
    }
}
