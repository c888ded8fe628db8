//! The facade that the HTTP handlers call: images and texts in, embeddings out. One [`Embedder`] is one loaded model.
//!
//! Owns the lanes (admission, queues, threads). Does not own HTTP, nor what the lanes are made of (`start` assembles them), nor
//! what of a request must be computed at all: `tokenize` and `items` decide that by the `cache`. A model without a tower has no lane for it, and says so to whoever asks.
//!
//! Invariants: a model has one lane at least; all items of a request that must be computed are admitted or none; the first
//! failing item, in the order of the request, decides the request's error, unless it was asked to go on without such (`failing`); a request that is dropped cancels those of its items
//! that no other waits for.

mod cache;
mod error;
mod failing;
mod info;
mod items;
mod lanes;
mod load;
mod modality;
mod outputs;
mod parts;
mod start;
mod tensors;
mod tokenize;
mod warm_up;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use cache::{Cache, Key};
use failing::Failing;
use items::Request;
use ndarray::Array2;

pub use error::StartError;
pub use failing::BadItem;
pub use info::{ModelInfo, Towers};
pub use modality::{Lack, Modality};
pub use outputs::{Outputs, PadTo, Padding};
pub use parts::{Abilities, Parts, Sessions, TextParts, VisionParts};
pub use start::{start, start_for};

use crate::{
    batch::{Admission, Answer, Encoded, Job, JobError, JobQueue, Permit, Refused, Ticket, Work, Worker},
    budget::ByteBudget,
    encoder::{InputError, OutputSet, OutputShape, PixelBuf, PixelValues, Tokens},
    heavy::Heavy,
    preprocess::{pool::PreprocessPool, text::TextTokenizer},
    similarity,
    telemetry::{LaneMetrics, Metrics, Reject},
};
pub use crate::{
    batch::{Class, Quota, Terms, Timings},
    preprocess::image::{PictureHeader, SUFFIXES, format_of, is_picture, picture_header, thumbnail},
    preprocess::text::Piece,
};

/// The embeddings of one request.
#[derive(Debug)]
pub struct Embedded {
    /// `n x dim`, as the projections give them.
    pub embeddings: Array2<f32>,
    /// The longest time of each stage over the items.
    pub timings: Timings,
    /// Ids of all texts, with those that frame them and without padding.
    pub tokens: usize,
}

impl Embedded {
    /// What the client asked for: see [`finish`].
    ///
    /// # Panics
    /// When `dimensions` is more than the model's.
    pub fn finish(self, dimensions: Option<usize>, normalize: bool) -> Array2<f32> {
        finish(self.embeddings, dimensions, normalize)
    }
}

/// The first `dimensions` values of each row, scaled to length 1 when `normalize`.
///
/// # Panics
/// When `dimensions` is more than a row has.
pub fn finish(embeddings: Array2<f32>, dimensions: Option<usize>, normalize: bool) -> Array2<f32> {
    let mut embeddings = match dimensions {
        Some(dimensions) => similarity::truncate_dimensions(&embeddings, dimensions),
        None => embeddings,
    };
    if normalize {
        similarity::normalize(&mut embeddings);
    }
    embeddings
}

/// What can be had of a request.
#[derive(Debug)]
pub struct Partly {
    /// A row for each item; zeros for those that failed.
    pub embedded: Embedded,
    /// Those that can never be encoded, each once.
    pub failed: Vec<BadItem>,
}

/// Why a request has no embeddings.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum EmbedError {
    /// No room in the queue now.
    #[error("the queue is full")]
    Overloaded {
        /// Which gate refused.
        reject: Reject,
        /// Until it is likely to let the request in.
        wait: Duration,
    },
    /// More items must be computed than its client may have in the queue.
    #[error("more than {most} items")]
    MoreThanShare {
        /// Items that it may have.
        most: usize,
    },
    /// The model cannot do it.
    #[error("{0}")]
    NotSupported(Lack),
    /// What was asked for is larger than `limits.max_output_bytes`.
    #[error("outputs of {bytes} bytes")]
    OutputsTooLarge {
        /// What they would take.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The server is draining.
    #[error("the server is shutting down")]
    ShuttingDown,
    /// The request's deadline passed first.
    #[error("the deadline passed")]
    DeadlineExceeded,
    /// One of its items can never be encoded.
    #[error("item {index}: {error}")]
    Item {
        /// Its place in the request.
        index: usize,
        /// What is wrong with it.
        error: InputError,
    },
    /// There was no memory for one of its items now.
    #[error("item {index}: no memory")]
    OutOfMemory {
        /// Its place in the request.
        index: usize,
    },
    /// A fault of ours; the text is for the log.
    #[error("{0}")]
    Internal(String),
}

impl From<BadItem> for EmbedError {
    fn from(BadItem { index, error }: BadItem) -> Self {
        Self::Item { index, error }
    }
}

/// The gate and the first queue of one modality, and what it need not compute.
#[derive(Debug)]
struct Lane<T> {
    admission: Arc<Admission>,
    queue: Arc<JobQueue<T>>,
    reject: Reject,
    /// The one of all lanes, where there is one.
    cache: Option<Arc<Cache>>,
    /// What the cache knows an input by.
    key: fn(&T) -> Key,
    /// What an input takes.
    work: fn(&T) -> Work,
    metrics: LaneMetrics,
}

impl<T> Lane<T> {
    fn admit(&self, works: &[Work], terms: &Terms, metrics: &Metrics) -> Result<Vec<Permit>, EmbedError> {
        self.admission.try_admit(works, terms).map_err(|refused| self.refuse(refused, metrics))
    }

    fn would_admit(&self, works: &[Work], terms: &Terms, metrics: &Metrics) -> Result<(), EmbedError> {
        self.admission.would_admit(works, terms).map_err(|refused| self.refuse(refused, metrics))
    }

    fn refuse(&self, refused: Refused, metrics: &Metrics) -> EmbedError {
        let overloaded = |reject, wait| {
            metrics.reject(reject);
            EmbedError::Overloaded { reject, wait }
        };
        match refused {
            Refused::Full { wait } => overloaded(self.reject, wait),
            Refused::Share { wait } => overloaded(Reject::KeyShare, wait),
            Refused::MoreThanShare { most } => EmbedError::MoreThanShare { most },
            Refused::Late { wait } => overloaded(Reject::Wait, wait),
            Refused::Closed => {
                metrics.reject(Reject::ShuttingDown);
                EmbedError::ShuttingDown
            }
        }
    }

    /// Refuses from now on; what is queued is finished.
    fn close(&self) {
        self.admission.close();
        self.queue.close();
    }

    /// One job for each input, which asks for `outputs` besides the embedding.
    fn submit(
        &self,
        inputs: impl IntoIterator<Item = T>,
        outputs: OutputSet,
        permits: Vec<Permit>,
        deadline: Instant,
    ) -> Vec<Ticket> {
        let submit = |(input, permit)| {
            let (job, ticket) = Job::new(input, permit, deadline);
            self.queue.push(job.asking(outputs));
            ticket
        };
        inputs.into_iter().zip(permits).map(submit).collect()
    }
}

/// A loaded model, ready to embed.
#[derive(Debug)]
pub struct Embedder {
    info: ModelInfo,
    metrics: Arc<Metrics>,
    images: Option<Images>,
    texts: Option<Texts>,
    max_output_bytes: usize,
    output_budget: ByteBudget,
    heavy: Heavy,
}

/// Everything between the bytes of pictures and their embeddings.
#[derive(Debug)]
struct Images {
    abilities: Abilities,
    lane: Lane<Bytes>,
    preprocess: PreprocessPool,
    crops: Arc<JobQueue<PixelBuf>>,
    workers: Vec<Worker>,
    /// Of those that come as floats.
    pixels: Option<Pixels>,
}

/// Everything between `pixel_values` and their embeddings.
#[derive(Debug)]
struct Pixels {
    lane: Lane<PixelValues>,
    workers: Vec<Worker>,
}

/// Everything between texts and their embeddings.
#[derive(Debug)]
struct Texts {
    abilities: Abilities,
    tokenizer: TextTokenizer,

    lane: Lane<Tokens>,
    workers: Vec<Worker>,
}

impl Embedder {
    /// Runs of a tower at once; 0 where the model has none.
    pub fn runs(&self, modality: Modality) -> usize {
        match modality {
            Modality::Image => self.images.as_ref().map_or(0, |images| images.workers.len()),
            Modality::Text => self.texts.as_ref().map_or(0, |texts| texts.workers.len()),
        }
    }

    /// What runs.
    pub fn info(&self) -> &ModelInfo {
        &self.info
    }

    /// Where work of a request is done that is too much for an I/O thread.
    pub fn heavy(&self) -> &Heavy {
        &self.heavy
    }

    fn images(&self) -> Result<&Images, EmbedError> {
        self.images.as_ref().ok_or(EmbedError::NotSupported(Lack::Encoder(Modality::Image)))
    }

    fn texts(&self) -> Result<&Texts, EmbedError> {
        self.texts.as_ref().ok_or(EmbedError::NotSupported(Lack::Encoder(Modality::Text)))
    }

    fn abilities(&self, modality: Modality) -> Result<Abilities, EmbedError> {
        match modality {
            Modality::Image => self.images().map(|images| images.abilities),
            Modality::Text => self.texts().map(|texts| texts.abilities),
        }
    }

    /// Whether the model has a tower for `modality`: what a handler asks before it reads a body.
    ///
    /// # Errors
    /// [`EmbedError::NotSupported`].
    pub fn supports(&self, modality: Modality) -> Result<(), EmbedError> {
        self.abilities(modality).map(|_| ())
    }

    /// The length of the embeddings of `modality`.
    ///
    /// # Errors
    /// [`EmbedError::NotSupported`] when it has none.
    pub fn dim(&self, modality: Modality) -> Result<usize, EmbedError> {
        let embeds = self.abilities(modality)?.embeds;
        self.info.dim.filter(|_| embeds).ok_or(EmbedError::NotSupported(Lack::Projection(modality)))
    }

    /// The shapes of the other outputs of `modality`.
    ///
    /// # Errors
    /// [`EmbedError::NotSupported`] when the model has no graph of them.
    pub fn output_shape(&self, modality: Modality) -> Result<OutputShape, EmbedError> {
        self.abilities(modality)?.outputs.ok_or(EmbedError::NotSupported(Lack::Outputs(modality)))
    }

    /// What cosines are multiplied by, which takes both towers.
    ///
    /// # Errors
    /// [`EmbedError::NotSupported`] names the one that is missing or has no embedding.
    pub fn logit_scale(&self) -> Result<f32, EmbedError> {
        for modality in [Modality::Image, Modality::Text] {
            self.abilities(modality)?;
            self.dim(modality)?;
        }
        let scale = self.info.logit_scale;
        scale
            .map(|scale| scale.value)
            .ok_or_else(|| EmbedError::Internal("two towers without a logit_scale".to_owned()))
    }

    /// Embeds pictures, given as the bytes of their files.
    ///
    /// # Errors
    /// [`EmbedError`]; a picture that cannot be decoded is named by its index.
    pub async fn embed_images(&self, images: Vec<Bytes>, terms: Terms) -> Result<Embedded, EmbedError> {
        self.images_embedded(images, terms, &mut Failing::Request).await
    }

    /// As [`Self::embed_images`], but a picture that cannot be decoded fails alone.
    ///
    /// # Errors
    /// [`EmbedError`], but no [`EmbedError::Item`].
    pub async fn embed_images_partly(&self, images: Vec<Bytes>, terms: Terms) -> Result<Partly, EmbedError> {
        let mut failing = Failing::Items(Vec::new());
        let embedded = self.images_embedded(images, terms, &mut failing).await?;
        Ok(Partly { embedded, failed: failing.items() })
    }

    async fn images_embedded(
        &self,
        images: Vec<Bytes>,
        terms: Terms,
        failing: &mut Failing,
    ) -> Result<Embedded, EmbedError> {
        let (lane, dim) = (&self.images()?.lane, self.dim(Modality::Image)?);
        Request { lane, metrics: &self.metrics, dim, terms }.embed(&images, Vec::new(), failing).await
    }

    /// Embeds texts; one that is longer than the context length is cut when `truncate`, else refused.
    ///
    /// # Errors
    /// [`EmbedError`]; a text that is over a limit is named by its index.
    pub async fn embed_texts<S: AsRef<str>>(
        &self,
        texts: &[S],
        truncate: bool,
        terms: Terms,
    ) -> Result<Embedded, EmbedError> {
        self.texts_embedded(texts, truncate, terms, &mut Failing::Request).await
    }

    /// As [`Self::embed_texts`], but a text that is over a limit fails alone.
    ///
    /// # Errors
    /// [`EmbedError`], but no [`EmbedError::Item`].
    pub async fn embed_texts_partly<S: AsRef<str>>(
        &self,
        texts: &[S],
        truncate: bool,
        terms: Terms,
    ) -> Result<Partly, EmbedError> {
        let mut failing = Failing::Items(Vec::new());
        let embedded = self.texts_embedded(texts, truncate, terms, &mut failing).await?;
        Ok(Partly { embedded, failed: failing.items() })
    }

    async fn texts_embedded<S: AsRef<str>>(
        &self,
        texts: &[S],
        truncate: bool,
        terms: Terms,
        failing: &mut Failing,
    ) -> Result<Embedded, EmbedError> {
        let (lane, dim) = (&self.texts()?.lane, self.dim(Modality::Text)?);
        let (tokenized, held, preprocess) = self.recall_or_tokenize(lane, texts, truncate, &terms, failing).await?;
        let (places, tokens): (Vec<usize>, Vec<Tokens>) = tokenized.into_iter().unzip();
        // A text that has its ids cannot fail any more.
        let request = Request { lane, metrics: &self.metrics, dim, terms };
        let mut embedded = request.embed(&tokens, held, &mut Failing::Request).await?;
        embedded.timings.preprocess = preprocess;
        embedded.tokens = tokens.iter().map(|tokens| tokens.ids().len()).sum();
        if places.len() < texts.len() {
            let mut all = Array2::zeros((texts.len(), dim));
            places.into_iter().zip(embedded.embeddings.rows()).for_each(|(at, row)| all.row_mut(at).assign(&row));
            embedded.embeddings = all;
        }
        Ok(embedded)
    }

    /// Whether the least that can be asked of `modality` would be refused on these terms: what a door asks before it reads.
    ///
    /// # Errors
    /// [`EmbedError::Overloaded`], counted as a refusal; [`EmbedError::NotSupported`].
    pub fn would_admit(&self, modality: Modality, terms: &Terms) -> Result<(), EmbedError> {
        let least = Work { decode: 1, encode: 1 };
        match modality {
            Modality::Image => self.images()?.lane.would_admit(&[least], terms, &self.metrics),
            Modality::Text => self.texts()?.lane.would_admit(&[least], terms, &self.metrics),
        }
    }

    /// Finishes what is queued and ends the threads. Blocks until they are done.
    pub fn shut_down(self) {
        let Self { images, texts, .. } = self;
        if let Some(texts) = &texts {
            texts.lane.close();
        }
        if let Some(Images { lane, preprocess, crops, workers, pixels, .. }) = images {
            if let Some(Pixels { lane, .. }) = &pixels {
                lane.close();
            }
            // In the order of the data: a stage is closed when the one before it can send nothing more.
            lane.close();
            preprocess.join();
            crops.close();
            let pixels = pixels.into_iter().flat_map(|pixels| pixels.workers);
            workers.into_iter().chain(pixels).for_each(Worker::join);
        }
        texts.into_iter().flat_map(|texts| texts.workers).for_each(Worker::join);
    }
}

/// Waits for every ticket in the order of the request, so that the error of a request does not depend on timing, and hands
/// each answer to `take`, whose error is a fault of ours. Returns the longest time of each stage.
async fn join(
    tickets: Vec<Ticket>,
    deadline: Instant,
    mut take: impl FnMut(usize, Encoded) -> Result<(), String>,
) -> Result<Timings, EmbedError> {
    let all = async {
        let mut longest = Timings::default();
        for (index, ticket) in tickets.into_iter().enumerate() {
            let Answer { encoded, timings } = ticket.await.map_err(|error| job_error(index, error))?;
            take(index, encoded).map_err(EmbedError::Internal)?;
            longest = longest.max(timings);
        }
        Ok(longest)
    };
    tokio::time::timeout_at(deadline.into(), all).await.unwrap_or(Err(EmbedError::DeadlineExceeded))
}

fn job_error(index: usize, error: JobError) -> EmbedError {
    match error {
        JobError::Input(error) => EmbedError::Item { index, error },
        JobError::Expired => EmbedError::DeadlineExceeded,
        JobError::Closed => EmbedError::ShuttingDown,
        JobError::OutOfMemory => EmbedError::OutOfMemory { index },
        fault @ (JobError::Encoder(_) | JobError::OutputInvalid | JobError::Lost) => {
            EmbedError::Internal(format!("item {index}: {fault}"))
        }
    }
}
