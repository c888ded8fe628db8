//! The facade that the HTTP handlers call: images and texts in, embeddings out. One [`Embedder`] is one loaded model.
//!
//! Owns the lanes (admission, queues, threads) and the waiting for their answers. Does not own HTTP, nor what the lanes are
//! made of: `start` assembles them. A model without a tower has no lane for it, and says so to whoever asks.
//!
//! Invariants: a model has one lane at least; all items of a request are admitted or none; the first failing item, in the order of the request, decides the
//! request's error; a request that is dropped cancels its items.

mod load;
mod start;

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use ndarray::Array2;

pub use start::{Parts, Sessions, StartError, TextParts, VisionParts, start};

pub use crate::batch::Timings;
use crate::{
    batch::{Admission, Job, JobError, JobQueue, Permit, Refused, Ticket, Worker},
    encoder::{InputError, PixelBuf, Tokens},
    model::LogitScale,
    preprocess::{pool::PreprocessPool, text::TextTokenizer},
    similarity,
    telemetry::{Metrics, Outcome, Reject},
};

/// What runs: the answer of `GET /info` that does not come from the configuration.
#[derive(Clone, Debug)]
pub struct ModelInfo {
    /// The name that answers carry.
    pub name: String,
    /// Two models with the same fingerprint give the same embeddings.
    pub fingerprint: String,
    /// Length of an embedding.
    pub dim: usize,
    /// Height and width of the crop that the vision encoder sees, where there is one.
    pub image_size: Option<(u32, u32)>,
    /// Longest sequence of token ids, where there is a text encoder.
    pub context_length: Option<usize>,
    /// `exp(logit_scale)`, and where it came from, where there are both.
    pub logit_scale: Option<LogitScale>,
    /// The execution provider in use.
    pub provider: String,
    /// The precision in use.
    pub precision: String,
    /// ONNX Runtime's version.
    pub onnxruntime: String,
}

/// The embeddings of one request.
#[derive(Debug)]
pub struct Embedded {
    /// `n x dim`, as the projections give them.
    pub embeddings: Array2<f32>,
    /// The longest time of each stage over the items.
    pub timings: Timings,
}

impl Embedded {
    /// What the client asked for: the first `dimensions` values, scaled to length 1 when `normalize`.
    ///
    /// # Panics
    /// When `dimensions` is more than the model's.
    pub fn finish(self, dimensions: Option<usize>, normalize: bool) -> Array2<f32> {
        let mut embeddings = match dimensions {
            Some(dimensions) => similarity::truncate_dimensions(&self.embeddings, dimensions),
            None => self.embeddings,
        };
        if normalize {
            similarity::normalize(&mut embeddings);
        }
        embeddings
    }
}

/// What an encoder takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Modality {
    /// Pictures.
    Image,
    /// Texts.
    Text,
}

impl fmt::Display for Modality {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Image => "image",
            Self::Text => "text",
        })
    }
}

/// Why a request has no embeddings.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum EmbedError {
    /// No room in the queue now.
    #[error("the queue is full")]
    Overloaded {
        /// Which gate refused.
        reject: Reject,
        /// When room is likely.
        retry_after: Duration,
    },
    /// The model has no such encoder.
    #[error("the model has no {0} encoder")]
    NotSupported(Modality),
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
    /// A fault of ours; the text is for the log.
    #[error("{0}")]
    Internal(String),
}

/// The gate and the first queue of one modality.
#[derive(Debug)]
struct Lane<T> {
    admission: Arc<Admission>,
    queue: Arc<JobQueue<T>>,
    reject: Reject,
}

impl<T> Lane<T> {
    fn admit(&self, n: usize, metrics: &Metrics) -> Result<Vec<Permit>, EmbedError> {
        self.admission.try_admit(n).map_err(|refused| match refused {
            Refused::Full { retry_after } => {
                metrics.reject(self.reject);
                EmbedError::Overloaded { reject: self.reject, retry_after }
            }
            Refused::Closed => {
                metrics.reject(Reject::ShuttingDown);
                EmbedError::ShuttingDown
            }
        })
    }

    /// Refuses from now on; what is queued is finished.
    fn close(&self) {
        self.admission.close();
        self.queue.close();
    }

    fn submit(&self, inputs: impl IntoIterator<Item = T>, permits: Vec<Permit>, deadline: Instant) -> Vec<Ticket> {
        let submit = |(input, permit)| {
            let (job, ticket) = Job::new(input, permit, deadline);
            self.queue.push(job);
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
}

/// Everything between the bytes of pictures and their embeddings.
#[derive(Debug)]
struct Images {
    lane: Lane<Bytes>,
    preprocess: PreprocessPool,
    crops: Arc<JobQueue<PixelBuf>>,
    workers: Vec<Worker>,
}

/// Everything between texts and their embeddings.
#[derive(Debug)]
struct Texts {
    tokenizer: TextTokenizer,
    lane: Lane<Tokens>,
    workers: Vec<Worker>,
}

impl Embedder {
    /// What runs.
    pub fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn images(&self) -> Result<&Images, EmbedError> {
        self.images.as_ref().ok_or(EmbedError::NotSupported(Modality::Image))
    }

    fn texts(&self) -> Result<&Texts, EmbedError> {
        self.texts.as_ref().ok_or(EmbedError::NotSupported(Modality::Text))
    }

    /// Whether the model embeds `modality`: what a handler asks before it reads a body.
    ///
    /// # Errors
    /// [`EmbedError::NotSupported`].
    pub fn supports(&self, modality: Modality) -> Result<(), EmbedError> {
        match modality {
            Modality::Image => self.images().map(|_| ()),
            Modality::Text => self.texts().map(|_| ()),
        }
    }

    /// What cosines are multiplied by, which takes both towers.
    ///
    /// # Errors
    /// [`EmbedError::NotSupported`] names the one that is missing.
    pub fn logit_scale(&self) -> Result<f32, EmbedError> {
        self.images()?;
        self.texts()?;
        let scale = self.info.logit_scale;
        scale
            .map(|scale| scale.value)
            .ok_or_else(|| EmbedError::Internal("two towers without a logit_scale".to_owned()))
    }

    /// Embeds pictures, given as the bytes of their files.
    ///
    /// # Errors
    /// [`EmbedError`]; a picture that cannot be decoded is named by its index.
    pub async fn embed_images(&self, images: Vec<Bytes>, deadline: Instant) -> Result<Embedded, EmbedError> {
        let lane = &self.images()?.lane;
        let permits = lane.admit(images.len(), &self.metrics)?;
        let tickets = lane.submit(images, permits, deadline);
        self.join(tickets, deadline).await
    }

    /// Embeds texts; one that is longer than the context length is cut when `truncate`, else refused.
    ///
    /// # Errors
    /// [`EmbedError`]; a text that is over a limit is named by its index.
    pub async fn embed_texts<S: AsRef<str>>(
        &self,
        texts: &[S],
        truncate: bool,
        deadline: Instant,
    ) -> Result<Embedded, EmbedError> {
        let Texts { tokenizer, lane, .. } = self.texts()?;
        let permits = lane.admit(texts.len(), &self.metrics)?;
        let started = Instant::now();
        let mut tokenized = Vec::with_capacity(texts.len());
        for (index, text) in texts.iter().enumerate() {
            let text = tokenizer.tokenize(text.as_ref(), truncate).map_err(|error| {
                self.metrics.text.items(Outcome::Invalid).inc();
                EmbedError::Item { index, error }
            })?;
            if text.truncated {
                self.metrics.text_truncated.inc();
            }
            tokenized.push(text.tokens);
            // Tokenizing runs on the I/O threads, which saves a crossing; one text is bounded by `max_text_bytes` (some 30 ms
            // at worst), so other connections are served at least that often.
            tokio::task::consume_budget().await;
        }
        let preprocess = started.elapsed();
        self.metrics.tokenize.observe(preprocess.as_secs_f64());
        let tickets = lane.submit(tokenized, permits, deadline);
        let mut embedded = self.join(tickets, deadline).await?;
        embedded.timings.preprocess = preprocess;
        Ok(embedded)
    }

    /// Finishes what is queued and ends the threads. Blocks until they are done.
    pub fn shut_down(self) {
        let Self { images, texts, .. } = self;
        if let Some(texts) = &texts {
            texts.lane.close();
        }
        if let Some(Images { lane, preprocess, crops, workers }) = images {
            // In the order of the data: a stage is closed when the one before it can send nothing more.
            lane.close();
            preprocess.join();
            crops.close();
            workers.into_iter().for_each(Worker::join);
        }
        texts.into_iter().flat_map(|texts| texts.workers).for_each(Worker::join);
    }

    /// Waits for every ticket in the order of the request, so that the error of a request does not depend on timing.
    async fn join(&self, tickets: Vec<Ticket>, deadline: Instant) -> Result<Embedded, EmbedError> {
        let mut embeddings = Array2::zeros((tickets.len(), self.info.dim));
        let mut timings = Timings::default();
        let all = async {
            for (index, ticket) in tickets.into_iter().enumerate() {
                let answer = ticket.await.map_err(|error| job_error(index, error))?;
                let mut row = embeddings.row_mut(index);
                let values = ndarray::ArrayView1::from(&answer.embedding);
                if values.len() != row.len() {
                    return Err(EmbedError::Internal(format!(
                        "the encoder answered {} values, the model has {}",
                        values.len(),
                        row.len()
                    )));
                }
                row.assign(&values);
                timings = timings.max(answer.timings);
            }
            Ok(())
        };
        match tokio::time::timeout_at(deadline.into(), all).await {
            Ok(Ok(())) => Ok(Embedded { embeddings, timings }),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(EmbedError::DeadlineExceeded),
        }
    }
}

fn job_error(index: usize, error: JobError) -> EmbedError {
    match error {
        JobError::Input(error) => EmbedError::Item { index, error },
        JobError::Expired => EmbedError::DeadlineExceeded,
        JobError::Closed => EmbedError::ShuttingDown,
        fault @ (JobError::Encoder(_) | JobError::OutputInvalid | JobError::Lost) => {
            EmbedError::Internal(format!("item {index}: {fault}"))
        }
    }
}
