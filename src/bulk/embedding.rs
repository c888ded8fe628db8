//! From samples to rows, by the one embedder that the server has too.
//!
//! Owns how many are in flight and what is tried again. Each picture and each text is a request of its own, so that the embedder's
//! queues make the batches, decoding and encoding overlap, and a bad one fails alone.
//!
//! Invariants: rows come out in the order of samples; no more than the window are in flight; a row's embedding is finite and of
//! length 1.

use std::{
    collections::VecDeque,
    future,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::{
    sync::mpsc::{Receiver, Sender},
    task::{JoinError, JoinHandle},
    time,
};

use super::{glimpse::Lookout, options::Modalities, reading::Parcel, row::Row, sample::Sample};
use crate::{
    config::{Config, Threads},
    embedder::{Class, EmbedError, Embedded, Embedder, Modality, Terms, Timings},
};

/// Nobody waits for an answer but this program.
const NO_DEADLINE: Duration = Duration::from_secs(24 * 60 * 60);
/// How often an item is tried that fails by no fault of its own.
const ATTEMPTS: usize = 3;
/// Batches of every session that are in flight: one runs, one waits, and what follows is read, decoded, or done and waits for its turn.
const BATCHES: usize = 4;
/// Fewer items than this are no burden, and short texts are best batched out of many.
const MIN_WINDOW: usize = 256;
/// More of them are.
const MAX_WINDOW: usize = 16 << 10;

/// `config` as a run wants it: room for all that is in flight, no cache, since few items come twice, and a run on each CPU unless threads
/// or sessions were asked for: no client waits for a single one.
pub(super) fn configured(config: &Config) -> Config {
    let mut config = config.clone();
    config.cache.max_bytes = 0;
    if config.engine.threads == Threads::Latency {
        config.engine.threads = Threads::Throughput;
    }
    for lane in [&mut config.batch.vision, &mut config.batch.text] {
        lane.max_queue_size = lane.max_queue_size.max(MAX_WINDOW);
    }
    config
}

/// Samples that are in flight at most, so that sessions have full batches of what is embedded.
pub(super) fn window(config: &Config, modality: Modalities, embedder: &Embedder) -> usize {
    let sizes = embedder.info().batch_sizes;
    let images = if modality.has_images() { sizes.images * embedder.runs(Modality::Image) } else { 0 };
    let texts = if modality.has_texts() { sizes.texts * embedder.runs(Modality::Text) } else { 0 };
    let running = images.max(texts);
    (BATCHES * running + 2 * config.preprocess.threads).clamp(MIN_WINDOW, MAX_WINDOW)
}

/// What every sample is embedded by.
#[derive(Clone, Debug)]
pub(super) struct Means {
    pub(super) embedder: Arc<Embedder>,
    pub(super) modality: Modalities,
    /// Who looks at what a report shows, where there is one.
    pub(super) lookout: Option<Arc<Lookout>>,
}

/// Embeds what comes, until no more does or nobody takes rows. When this ends, nothing that it began goes on: who ends the run can end the
/// sessions, and no run of theirs is cut off by the end of the process.
pub(super) async fn embed(means: Means, window: usize, mut parcels: Receiver<Parcel>, rows: Sender<Row>) {
    let (mut flying, mut open) = (VecDeque::new(), true);
    while open || !flying.is_empty() {
        tokio::select! {
            // Also while no parcel comes.
            () = rows.closed() => break,
            parcel = parcels.recv(), if open && flying.len() < window => match parcel {
                // A task, so that texts are tokenized on all threads of the runtime.
                Some(parcel) => flying.push_back(tokio::spawn(row(means.clone(), parcel))),
                None => open = false,
            },
            row = first(&mut flying), if !flying.is_empty() => {
                flying.pop_front();
                // A panic has been logged, and ends the run: rows are missed.
                let Ok(row) = row else { break };
                if rows.send(row).await.is_err() {
                    break;
                }
            }
        }
    }
    flying.iter().for_each(JoinHandle::abort);
    for task in flying {
        // How it ended is all the same.
        let _ = task.await;
    }
}

/// The end of the first of `flying`, which has one.
async fn first(flying: &mut VecDeque<JoinHandle<Row>>) -> Result<Row, JoinError> {
    match flying.front_mut() {
        Some(task) => task.await,
        None => future::pending().await,
    }
}

async fn row(means: Means, parcel: Parcel) -> Row {
    let Parcel { sample, chain, room } = parcel;
    let Sample { id, path, caption, metadata, picture, no_picture, no_text, error } = sample;
    let mut row = Row {
        id,
        path,
        caption,
        metadata,
        image: None,
        text: None,
        error,
        faulty: false,
        chain,
        timings: Timings::default(),
        glimpse: None,
    };
    if row.error.is_none() {
        fill(&mut row, &means, picture.as_ref(), [no_picture, no_text]).await;
    }
    if let Some(lookout) = &means.lookout {
        let heavy = means.embedder.heavy();
        row.glimpse = match (&row.error, &picture) {
            (Some(reason), file) => {
                let names = row.path.as_deref().into_iter().chain([&*row.id]);
                lookout.failed(reason, names, file.as_ref(), heavy).await
            }
            (None, Some(file)) => lookout.slow(row.timings.preprocess, file, heavy).await,
            (None, None) => None,
        };
    }
    drop(room);
    row
}

/// Embeds what is asked for of a sample that could be read; why there is no picture or text in it, its source may have said.
async fn fill(row: &mut Row, means: &Means, picture: Option<&Bytes>, [no_picture, no_text]: [Option<String>; 2]) {
    let Means { embedder, modality, .. } = means;
    let image = async {
        let Some(picture) = picture.filter(|_| modality.has_images()) else {
            return lacking(*modality, Modality::Image, no_picture);
        };
        let embed = || embedder.embed_images(vec![picture.clone()], terms());
        Some(attempt(embed).await)
    };
    let text = async {
        let Some(caption) = row.caption.as_ref().filter(|_| modality.has_texts()) else {
            return lacking(*modality, Modality::Text, no_text);
        };
        // Cut where they are too long, as everywhere.
        let embed = || embedder.embed_texts(std::slice::from_ref(caption), true, terms());
        Some(attempt(embed).await)
    };
    let (image, text) = tokio::join!(image, text);
    row.image = image.and_then(|outcome| take(outcome, &mut row.error, &mut row.faulty, &mut row.timings));
    row.text = text.and_then(|outcome| take(outcome, &mut row.error, &mut row.faulty, &mut row.timings));
}

/// An embedding and its timings, or why there is none.
type Outcome = Result<(Vec<f32>, Timings), Failure>;

/// Why an item has no embedding.
struct Failure {
    reason: String,
    /// Whether that is no fault of the item.
    faulty: bool,
}

/// The outcome of a sample without `what`, for this reason if its source has given one, where that is asked for.
fn lacking(asked: Modalities, what: Modality, reason: Option<String>) -> Option<Outcome> {
    let is_asked = match what {
        Modality::Image => asked.has_images(),
        Modality::Text => asked.has_texts(),
    };
    let name = if what == Modality::Image { "picture" } else { "text" };
    let reason = reason.unwrap_or_else(|| format!("the sample has no {name}"));
    let failure = Failure { reason, faulty: false };
    is_asked.then_some(Err(failure))
}

fn take(outcome: Outcome, error: &mut Option<String>, faulty: &mut bool, timings: &mut Timings) -> Option<Vec<f32>> {
    match outcome {
        Ok((embedding, took)) => {
            *timings = timings.max(took);
            Some(embedding)
        }
        Err(failure) => {
            *faulty |= failure.faulty;
            match error {
                // The picture's; the text has one of its own.
                Some(error) => *error += &format!("; {}", failure.reason),
                None => *error = Some(failure.reason),
            }
            None
        }
    }
}

/// One item's embedding; tried again where others may be in its way.
async fn attempt<F: Future<Output = Result<Embedded, EmbedError>>>(embed: impl Fn() -> F) -> Outcome {
    let mut attempts = 1;
    loop {
        let (reason, faulty) = match embed().await {
            Ok(embedded) => return of_length_1(embedded),
            Err(EmbedError::Overloaded { wait, .. }) => {
                time::sleep(wait.clamp(Duration::from_millis(10), Duration::from_secs(1))).await;
                continue;
            }
            Err(EmbedError::Item { error, .. }) => (error.message, false),
            Err(EmbedError::OutOfMemory { .. }) => ("there was no memory for it".to_owned(), true),
            Err(error) => (error.to_string(), true),
        };
        if !faulty || attempts == ATTEMPTS {
            return Err(Failure { reason, faulty });
        }
        attempts += 1;
    }
}

fn of_length_1(embedded: Embedded) -> Outcome {
    let timings = embedded.timings;
    let embedding = embedded.finish(None, true).into_raw_vec_and_offset().0;
    // What a database would lose or misplace is no embedding.
    if embedding.iter().all(|value| *value == 0.0) || embedding.iter().any(|value| !value.is_finite()) {
        let reason = "the model's embedding of it has no direction".to_owned();
        return Err(Failure { reason, faulty: false });
    }
    Ok((embedding, timings))
}

fn terms() -> Terms {
    Terms { class: Class::Bulk, ..Terms::patient(Instant::now() + NO_DEADLINE) }
}

#[cfg(test)]
mod tests {
    use ndarray::Array2;

    use super::*;

    fn outcome(values: [f32; 2]) -> Result<Vec<f32>, (String, bool)> {
        let embeddings = Array2::from_shape_vec((1, 2), values.to_vec()).unwrap();
        let embedded = Embedded { embeddings, timings: Timings::default(), tokens: 0 };
        of_length_1(embedded).map(|(embedding, _)| embedding).map_err(|failure| (failure.reason, failure.faulty))
    }

    #[test]
    fn an_embedding_has_length_1_or_is_none() {
        assert_eq!(outcome([3.0, -4.0]), Ok(vec![0.6, -0.8]));
        for values in [[0.0, 0.0], [0.0, -0.0], [f32::NAN, 1.0], [f32::INFINITY, 1.0]] {
            let (reason, faulty) = outcome(values).unwrap_err();
            assert!(reason.contains("has no direction") && !faulty, "{values:?}: {reason}");
        }
    }
}
