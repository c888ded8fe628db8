//! What infinity's clients ask besides embeddings: `GET /models`, which is OpenAI's `GET /v1/models` too, with its `GET
//! /v1/models/{id}`; and `GET /health`.
//!
//! Owns these answers. infinity's embeddings are among OpenAI's dialects (`openai`), and so are its errors.

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use axum::{extract::State, response::Response};
use schemars::JsonSchema;
use serde::Serialize;

use super::openai::ERRORS;
use crate::{
    embedder::{Embedder, Modality},
    health::Readiness,
    http::{
        ApiError, AppState, Code,
        operation::{JSON, OF_A_PROBE, OF_THE_KEYED, Operation, Schemas},
        path::PathRest,
        reply,
    },
};

/// The lists of models, one of them, and health.
pub(in crate::http) fn operations(schemas: &mut Schemas) -> Vec<Operation> {
    let models = |(tag, path)| {
        Operation::get(tag, path, "The model, by each of its names")
            .answers(JSON, schemas.answer::<Models<'_>>())
            .refuses(schemas, OF_THE_KEYED, &[ERRORS])
    };
    let [v1, plain] = [("OpenAI", "/v1/models"), ("infinity", "/models")].map(models);
    let health = Operation::get("infinity", "/health", "Whether requests are served")
        .answers(JSON, schemas.answer::<Health>())
        .refuses(schemas, OF_A_PROBE, &[ERRORS]);
    let one = Operation::get("OpenAI", "/v1/models/{id}", "The model, by one of its names")
        .answers(JSON, schemas.answer::<Model<'_>>())
        .refuses(schemas, &[OF_THE_KEYED, &[Code::ModelNotFound]].concat(), &[ERRORS]);
    vec![v1, one, plain, health]
}

#[derive(Serialize, JsonSchema)]
struct Models<'a> {
    object: &'static str,
    data: Vec<Model<'a>>,
}

/// One name by which the model can be asked.
#[derive(Serialize, JsonSchema)]
#[schemars(inline)]
struct Model<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    owned_by: &'static str,
    stats: Stats,
    backend: &'static str,
    capabilities: Vec<&'static str>,
}

#[derive(Clone, Copy, Serialize, JsonSchema)]
#[schemars(inline)]
struct Stats {
    /// Of all places in the queues, how many are taken.
    queue_fraction: f64,
    /// Items that wait for a thread or a session.
    queue_absolute: i64,
    /// Requests that are being answered, without this one.
    results_pending: i64,
    /// Items in one run, at most.
    batch_size: usize,
}

/// Who owns a model, to infinity's clients: they take no other answer.
const INFINITYS: &str = "infinity";

/// The same to OpenAI's, which take any.
const OURS: &str = env!("CARGO_PKG_NAME");

/// `GET /models`: the model by its name, and by every other name that it answers to.
///
/// # Errors
/// 503 while it loads.
pub(in crate::http) async fn models(State(state): State<Arc<AppState>>) -> Result<Response, ApiError> {
    list(&state, INFINITYS)
}

/// `GET /v1/models`: the same, as OpenAI's clients ask it.
///
/// # Errors
/// 503 while it loads.
pub(in crate::http) async fn openais_models(State(state): State<Arc<AppState>>) -> Result<Response, ApiError> {
    list(&state, OURS)
}

/// `GET /v1/models/{id}`: the model, by a name that it answers to.
///
/// # Errors
/// 404 for another name, and 503 while it loads.
pub(in crate::http) async fn openais_model(
    State(state): State<Arc<AppState>>,
    PathRest(id): PathRest,
) -> Result<Response, ApiError> {
    let embedder = state.resolve(Some(&id))?;
    reply::json(&described(&state, embedder, OURS)(&id))
}

fn list(state: &AppState, owner: &'static str) -> Result<Response, ApiError> {
    let embedder = state.embedder()?;
    let names = std::iter::once(&embedder.info().name).chain(&state.config.model.aliases);
    let model = described(state, embedder, owner);
    reply::json(&Models { object: "list", data: names.map(|id| model(id)).collect() })
}

/// What is said of the model under each of its names.
fn described<'n>(state: &AppState, embedder: &Embedder, owned_by: &'static str) -> impl Fn(&'n str) -> Model<'n> {
    let info = embedder.info();
    let stats = stats(state, info.batch_sizes.images.max(info.batch_sizes.texts));
    let towers = [("embed", Modality::Text), ("image_embed", Modality::Image)];
    let capabilities: Vec<_> =
        towers.into_iter().filter(|(_, modality)| embedder.dim(*modality).is_ok()).map(|(name, _)| name).collect();
    let created = now().as_secs();
    move |id| Model {
        id,
        object: "model",
        created,
        owned_by,
        stats,
        backend: "onnxruntime",
        capabilities: capabilities.clone(),
    }
}

fn stats(state: &AppState, batch_size: usize) -> Stats {
    let metrics = &state.metrics;
    let queues = [&metrics.preprocess_queue, &metrics.vision.queue, &metrics.text.queue];
    let waiting: i64 = queues.iter().map(|queue| queue.depth.get()).sum();
    let places = state.config.batch.vision.max_queue_size.saturating_add(state.config.batch.text.max_queue_size);
    Stats {
        queue_fraction: waiting as f64 / places as f64,
        queue_absolute: waiting,
        results_pending: (metrics.in_flight.get() - 1).max(0),
        batch_size,
    }
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "InfinityHealth")]
struct Health {
    /// Seconds since 1970.
    unix: f64,
}

/// 200 when requests are served, as `/readyz`; infinity's client asks before each call and wants an object, others look at the status.
///
/// # Errors
/// 503 while the model loads, and once the server drains.
pub(in crate::http) async fn health(State(state): State<Arc<AppState>>) -> Result<Response, ApiError> {
    match state.health.readiness() {
        Readiness::Ready => reply::json(&Health { unix: now().as_secs_f64() }),
        Readiness::Starting => Err(ApiError::not_ready()),
        Readiness::Draining => Err(ApiError::shutting_down()),
    }
}

fn now() -> std::time::Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
