//! `GET /livez`, `/readyz`, `/metrics`: for the orchestrator, the load balancer and Prometheus. Never behind a gate or a key.

use std::{sync::Arc, time::Instant};

use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use http::{StatusCode, header};

use super::{
    AppState,
    operation::{Operation, Schemas, text},
};
use crate::health::Readiness;

/// All three.
pub(super) fn operations(_: &mut Schemas) -> Vec<Operation> {
    let probe = |path, summary| Operation::get("probes", path, summary).answers("text/plain", text());
    let not_now = |operation: Operation| operation.answers_with(503, "Not now", "text/plain", text());
    vec![
        not_now(probe("/livez", "Whether the process should go on: 503 when an encoder is stuck")),
        not_now(probe("/readyz", "Whether requests are served: 503 while loading and while draining")),
        probe("/metrics", "All metrics, in Prometheus' text format"),
    ]
}

/// 200 while no worker is stalled or broken; 503 names those that are. An orchestrator restarts on this.
pub(super) async fn livez(State(state): State<Arc<AppState>>) -> Response {
    let sick = state.health.sick_workers(Instant::now());
    if sick.is_empty() {
        (StatusCode::OK, "alive\n").into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, format!("stalled or broken: {}\n", sick.join(", "))).into_response()
    }
}

/// 200 when requests are served: loaded, warmed, canary passed, not draining. A load balancer routes by this.
pub(super) async fn readyz(State(state): State<Arc<AppState>>) -> Response {
    match state.health.readiness() {
        Readiness::Ready => (StatusCode::OK, "ready\n"),
        Readiness::Starting => (StatusCode::SERVICE_UNAVAILABLE, "starting\n"),
        Readiness::Draining => (StatusCode::SERVICE_UNAVAILABLE, "draining\n"),
    }
    .into_response()
}

/// All metrics in Prometheus' text format.
pub(super) async fn metrics(State(state): State<Arc<AppState>>) -> Response {
    let (text, content_type) = state.metrics.render();
    ([(header::CONTENT_TYPE, content_type)], text).into_response()
}
