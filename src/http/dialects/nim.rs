//! The probes of NVIDIA's NIM: `GET /v1/health/ready` and `/v1/health/live`. Its embeddings are among OpenAI's dialects (`openai`).
//!
//! Owns their answers. What they tell is what our own probes tell; like those they are never behind a gate or a key.

use std::{sync::Arc, time::Instant};

use axum::{extract::State, response::Response};
use http::StatusCode;
use schemars::JsonSchema;
use serde::Serialize;

use crate::{
    health::Readiness,
    http::{
        ApiError, AppState,
        operation::{JSON, Operation, Schemas},
        reply,
    },
};

/// Both routes.
pub(in crate::http) fn operations(schemas: &mut Schemas) -> Vec<Operation> {
    let health = schemas.answer::<Health>();
    let routes =
        [("/v1/health/ready", "Whether requests are served"), ("/v1/health/live", "Whether the process should go on")];
    let operation = |(path, summary)| {
        Operation::get("NVIDIA NIM", path, summary).answers(JSON, health.clone()).answers_with(
            503,
            "Not now",
            JSON,
            health.clone(),
        )
    };
    routes.into_iter().map(operation).collect()
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "NimHealth")]
struct Health {
    object: &'static str,
    message: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    ready: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    live: Option<bool>,
}

/// As `/readyz`.
pub(in crate::http) async fn ready(State(state): State<Arc<AppState>>) -> Result<Response, ApiError> {
    let (message, ready) = match state.health.readiness() {
        Readiness::Ready => ("ready", true),
        Readiness::Starting => ("starting", false),
        Readiness::Draining => ("draining", false),
    };
    answer(message, Some(ready), None)
}

/// As `/livez`.
pub(in crate::http) async fn live(State(state): State<Arc<AppState>>) -> Result<Response, ApiError> {
    let live = state.health.sick_workers(Instant::now()).is_empty();
    answer(if live { "live" } else { "a worker is stalled or broken" }, None, Some(live))
}

fn answer(message: &'static str, ready: Option<bool>, live: Option<bool>) -> Result<Response, ApiError> {
    let mut response = reply::json(&Health { object: "health.response", message, ready, live })?;
    if ready.or(live) == Some(false) {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    Ok(response)
}
