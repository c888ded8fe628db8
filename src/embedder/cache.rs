//! What was computed before: embeddings by content and token ids by text, bounded by bytes; and what is being computed now, so
//! that it is computed once.
//!
//! Owns the two stores, how their entries are weighed, and the flights: computations that any number of requests wait for. Does
//! not own who computes (`Lane`), nor what a request does with the answers (`items`).
//!
//! An embedding is kept as the projection gives it, so requests that differ only in the form of their answer (`normalize`,
//! `dimensions`, `encoding_format`) share it. A cache lives inside one [`Embedder`](super::Embedder), which is one model with
//! one set of options from its start to its end: fingerprint and options need no place in the keys.
//!
//! Invariants: only finite embeddings of the model's length get in, no error ever; a flight lasts as long as somebody waits for
//! it, whoever began it, and its job is cancelled with the last of them; a flight is findable until its embedding is.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared, WeakShared},
};
use moka::sync::Cache as Store;

use crate::{
    batch::{Answer, Class, Encoded, JobError, Ticket, Timings},
    encoder::Tokens,
    preprocess::text::Tokenized,
    telemetry::{Metrics, StoreMetrics},
};

/// What an item is known by. Two inputs with one key have one embedding.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Key {
    /// The hash of a picture's file. A cryptographic one, so that nobody can make a file that gets, or spoils, the answer of
    /// another; it takes 20 us for 100 kB, where decoding takes a millisecond.
    Image(blake3::Hash),
    /// The hash of `pixel_values`.
    Pixels(blake3::Hash),
    /// The ids themselves.
    Text(Tokens),
}

/// One raw embedding.
pub(super) type Embedding = Arc<[f32]>;

/// An embedding and what it took, which for one that was known is nothing.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Computed {
    pub(super) embedding: Embedding,
    pub(super) timings: Timings,
}

type Computing = BoxFuture<'static, Result<Computed, JobError>>;

/// The future of one item's embedding, for all that wait for it.
pub(super) type Flight = Shared<Computing>;

/// What of the bytes is for token ids: an entry is about a tenth of an embedding's of 512 values.
const TOKENS_SHARE: u64 = 8;

/// What an entry takes besides its key and value: the stores' hash bucket, list nodes and counters, the allocator's rounding.
/// Measured as resident memory over 100 000 entries: 398 to 400 bytes of an embedding's, 373 of token ids.
const ENTRY_OVERHEAD: usize = 400;

/// The cache of one [`Embedder`](super::Embedder).
#[derive(Debug)]
pub(super) struct Cache {
    embeddings: Store<Key, Embedding>,
    /// By text. What is cut off is cut off the same way each time.
    tokens: Store<Box<str>, Tokenized>,
    embeddings_metrics: StoreMetrics,
    tokens_metrics: StoreMetrics,
    flights: Mutex<Flights>,
}

/// The flights that somebody waits for.
#[derive(Debug, Default)]
pub(super) struct Flights {
    by_key: HashMap<Key, Begun>,
    begun: u64,
}

/// A flight as others find it.
#[derive(Debug)]
struct Begun {
    /// A number of its own.
    id: u64,
    /// Of the request that began it.
    class: Class,
    flight: WeakShared<Computing>,
}

impl Cache {
    /// An empty cache of at most `max_bytes`; none at all for 0.
    pub(super) fn new(max_bytes: usize, metrics: &Metrics) -> Option<Arc<Self>> {
        let max_bytes = u64::try_from(max_bytes).ok().filter(|&bytes| bytes > 0)?;
        let tokens_bytes = max_bytes / TOKENS_SHARE;
        let (embeddings_metrics, tokens_metrics) = (metrics.cached_embeddings.clone(), metrics.cached_tokens.clone());
        Some(Arc::new(Self {
            embeddings: store(max_bytes - tokens_bytes, weigh_embedding, embeddings_metrics.clone()),
            tokens: store(tokens_bytes, weigh_tokens, tokens_metrics.clone()),
            embeddings_metrics,
            tokens_metrics,
            flights: Mutex::default(),
        }))
    }

    /// The embedding of `key`, where it is known.
    pub(super) fn embedding(&self, key: &Key) -> Option<Embedding> {
        self.embeddings.get(key)
    }

    /// The ids of `text`, where they are known.
    pub(super) fn tokens(&self, text: &str) -> Option<Tokenized> {
        self.tokens.get(text)
    }

    /// Remembers the ids of `text`.
    pub(super) fn keep_tokens(&self, text: &str, tokenized: &Tokenized) {
        let (key, value) = (Box::<str>::from(text), tokenized.clone());
        self.tokens_metrics.add(weigh_tokens(&key, &value));
        self.tokens.insert(key, value);
        self.tokens.run_pending_tasks();
    }

    fn keep_embedding(&self, key: Key, embedding: Embedding) {
        self.embeddings_metrics.add(weigh_embedding(&key, &embedding));
        self.embeddings.insert(key, embedding);
        // The store is over its limit until it has settled. It would do so by and by; beside the run of an encoder that came
        // before, doing it now is nothing.
        self.embeddings.run_pending_tasks();
    }

    /// The flights, for as long as the guard is held: what is neither among them nor known may be begun. No [`Flight`] may be
    /// dropped meanwhile: the last one's drop waits for this lock.
    pub(super) fn flights(&self) -> MutexGuard<'_, Flights> {
        // Nothing under the lock can panic, and a flight that cannot be found would only be computed again.
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Flights {
    /// The flight of `key` for a request of `class`, if there is one: nobody waits for one that goes after him.
    pub(super) fn join(&self, key: &Key, class: Class) -> Option<Flight> {
        self.by_key.get(key).filter(|begun| begun.class <= class)?.flight.upgrade()
    }

    /// Makes a flight of `key` out of the job behind `ticket`; its embedding of `dim` values is kept in `cache`.
    pub(super) fn begin(&mut self, cache: &Arc<Cache>, key: Key, class: Class, ticket: Ticket, dim: usize) -> Flight {
        self.begun += 1;
        let entry = Entry { cache: Arc::clone(cache), key: key.clone(), id: self.begun };
        let flight = async move {
            let computed = compute(ticket, dim).await?;
            // Before the entry is dropped, so that there is no moment at which neither is found.
            entry.cache.keep_embedding(entry.key.clone(), Arc::clone(&computed.embedding));
            Ok(computed)
        };
        let flight = flight.boxed().shared();
        if let Some(weak) = flight.downgrade() {
            self.by_key.insert(key, Begun { id: self.begun, class, flight: weak });
        }
        flight
    }
}

/// A flight that nobody else can join, and whose embedding is not kept.
pub(super) fn alone(ticket: Ticket, dim: usize) -> Flight {
    compute(ticket, dim).boxed().shared()
}

async fn compute(ticket: Ticket, dim: usize) -> Result<Computed, JobError> {
    let Answer { encoded, timings } = ticket.await?;
    match encoded {
        Encoded::Embedding(values) if values.len() == dim => Ok(Computed { embedding: values.into(), timings }),
        Encoded::Embedding(values) => {
            Err(JobError::Encoder(format!("the encoder answered {} values, the model has {dim}", values.len())))
        }
        Encoded::Outputs(_) => Err(JobError::Encoder("outputs that nobody asked for".to_owned())),
    }
}

/// A flight's place among [`Flights`], from its begin until it has landed or nobody waits for it.
struct Entry {
    cache: Arc<Cache>,
    key: Key,
    id: u64,
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut flights = self.cache.flights();
        // Between the last waiter's leaving and this drop another flight may have taken the place.
        if flights.by_key.get(&self.key).is_some_and(|begun| begun.id == self.id) {
            flights.by_key.remove(&self.key);
        }
    }
}

fn store<K, V>(max_bytes: u64, weigh: fn(&K, &V) -> u32, metrics: StoreMetrics) -> Store<K, V>
where
    K: std::hash::Hash + Eq + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    Store::builder()
        .max_capacity(max_bytes)
        .weigher(weigh)
        // Also told of what was never let in, and of what was written over.
        .eviction_listener(move |key: Arc<K>, value, _| metrics.remove(weigh(&key, &value)))
        .build()
}

fn weigh_embedding(key: &Key, embedding: &Embedding) -> u32 {
    let key = match key {
        Key::Image(_) | Key::Pixels(_) => 0,
        Key::Text(tokens) => size_of_val(tokens.ids()),
    };
    weight(key + size_of_val::<[f32]>(embedding))
}

#[expect(clippy::borrowed_box, reason = "the signature of a weigher of these keys")]
fn weigh_tokens(text: &Box<str>, tokenized: &Tokenized) -> u32 {
    weight(text.len() + size_of_val(tokenized.tokens.ids()))
}

fn weight(bytes: usize) -> u32 {
    u32::try_from(bytes + ENTRY_OVERHEAD).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::batch::{Admission, Job};

    fn key(id: u32) -> Key {
        Key::Text(Tokens::new(vec![id]))
    }

    #[test]
    fn it_holds_no_more_bytes_than_it_may_and_says_how_many() {
        let metrics = Metrics::new();
        let cache = Cache::new(64 << 10, &metrics).expect("not 0");
        for id in 0..1000 {
            cache.keep_embedding(key(id), vec![0.0; 128].into());
            let tokens = Tokenized { tokens: Tokens::new(vec![id; 8]), truncated: false };
            cache.keep_tokens(&format!("text {id}"), &tokens);
        }
        let value = |series: &str| -> usize {
            let (text, _) = metrics.render();
            let value = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
            value.expect("exported").parse().expect("a number")
        };
        let bytes = |store| value(&format!("clipserve_cache_bytes{{store=\"{store}\"}}"));
        let entries = |store| value(&format!("clipserve_cache_entries{{store=\"{store}\"}}"));
        let weight = 4 + 4 * 128 + ENTRY_OVERHEAD;
        assert_eq!(bytes("embeddings"), entries("embeddings") * weight);
        assert_eq!(entries("embeddings"), (56 << 10) / weight, "full, and not over it");
        assert!((1..=8 << 10).contains(&bytes("tokens")));
        assert_eq!(cache.embeddings.weighted_size() as usize, bytes("embeddings"));
    }

    #[test]
    fn a_flight_that_is_over_leaves_nothing_behind_and_takes_no_other_with_it() {
        let cache = Cache::new(1 << 20, &Metrics::new()).expect("not 0");
        let admission = Admission::of(3);
        let begin = || {
            let permit = admission.admit_one();
            let (job, ticket) = Job::new(Tokens::new(vec![1]), permit, Instant::now());
            (job, cache.flights().begin(&cache, key(1), Class::Interactive, ticket, 2))
        };
        let (_, first) = begin();
        let (job, second) = begin();
        drop(first);
        assert!(cache.flights().join(&key(1), Class::Interactive).is_some(), "the second has taken the place");
        job.head.fail(JobError::Expired);
        assert_eq!(second.clone().now_or_never(), Some(Err(JobError::Expired)));
        assert!(cache.flights().by_key.is_empty(), "answered, though its answer is still held");
        let (_, abandoned) = begin();
        assert_eq!(cache.flights().by_key.len(), 1);
        drop(abandoned);
        assert!(cache.flights().by_key.is_empty());
    }

    #[test]
    fn what_is_larger_than_the_cache_is_not_kept() {
        let cache = Cache::new(1024, &Metrics::new()).expect("not 0");
        cache.keep_embedding(key(1), vec![0.0; 512].into());
        assert_eq!(cache.embedding(&key(1)), None);
        cache.keep_embedding(key(1), vec![0.0; 8].into());
        assert!(cache.embedding(&key(1)).is_some());
    }

    #[test]
    fn a_picture_is_known_by_its_bytes_and_a_text_by_its_ids() {
        let images = [&b"one"[..], b"two"].map(|file| Key::Image(blake3::hash(file)));
        assert_ne!(images[0], images[1]);
        assert_eq!(images[0], Key::Image(blake3::hash(b"one")));
        assert_eq!(key(1), key(1));
        assert_ne!(key(1), Key::Text(Tokens::new(vec![1]).padded(2, 0, true)));
    }
}
