//! Bodies that nobody meant: valid requests for every route, broken in seeded ways, sent through the router without a socket.
//!
//! No body makes a 500, and what is refused is refused in the shape of the path's clients. Alone they take some
//! twenty seconds: `make test ARGS="--test it mutations"`.
//!
//! A new route is a line in [`seeds`](bodies::seeds), and its errors a line in [`shape_of`]; the route table is read, so that none is left
//! out. What fails names its number, by which it is made again.

use std::{sync::Arc, time::Duration};

use axum::{Router, body::Body};
use clipserve::{
    embedder,
    health::Health,
    http::{AppState, router},
    telemetry::Metrics,
};
use http_body_util::BodyExt;
use serde_json::Value;
use tempfile::TempDir;
use tokio::task::JoinSet;
use tower::ServiceExt;

#[path = "../../benches/serve/mutants/bodies.rs"]
mod bodies;
#[path = "../../benches/serve/mutants/values.rs"]
mod values;

use crate::support::configuration;
use bodies::{JSON, request, seeds};

/// The model in the box: small, and a checkpoint, which has all that can be asked for.
const MODEL: &str = concat!("model.path=", env!("CARGO_MANIFEST_DIR"), "/onnx/emoji-clip");

/// So many bodies.
const NUMBERS: u64 = 20_000;

/// So many are in the router at once.
const AT_ONCE: u64 = 8;

/// Whether a body is an error as the clients of a path know it.
fn shape_of(path: &str) -> fn(&Value) -> bool {
    match path {
        "/v1/embeddings" | "/embeddings" => |body| is_openais(body) || is_detail(body),
        "/models" | "/v1/models" | "/v1/models/clip" | "/health" | "/v1/health/live" | "/v1/health/ready" => is_openais,
        "/v1/embed" | "/v2/embed" => |body| has_only(body, &["message"]) && body["message"].is_string(),
        "/v1/multimodalembeddings" | "/v1/classify" => is_detail,
        "/predict" | "/ping" => |body| is_detail(body) || (has_only(body, &["detail"]) && body["detail"].is_array()),
        "/embed" | "/" | "/tokenize" | "/decode" => is_teis,
        "/similarity" => |body| is_native(body) || is_teis(body),
        "/vectorize" | "/meta" | "/.well-known/live" | "/.well-known/ready" => is_bare,
        path if path.starts_with("/v2") => is_bare,
        _ => is_native,
    }
}

fn has_only(body: &Value, fields: &[&str]) -> bool {
    body.as_object().is_some_and(|object| object.keys().all(|key| fields.contains(&key.as_str())))
}

fn is_native(body: &Value) -> bool {
    let error = &body["error"];
    has_only(error, &["code", "message", "index", "request_id"])
        && error["request_id"].is_string()
        && error["code"].is_string()
}

fn is_openais(body: &Value) -> bool {
    let error = &body["error"];
    has_only(error, &["message", "type", "param", "code"]) && error["message"].is_string() && error["type"].is_string()
}

fn is_teis(body: &Value) -> bool {
    has_only(body, &["error", "error_type"]) && body["error"].is_string() && body["error_type"].is_string()
}

fn is_bare(body: &Value) -> bool {
    has_only(body, &["error"]) && body["error"].is_string()
}

fn is_detail(body: &Value) -> bool {
    has_only(body, &["detail"]) && body["detail"].is_string()
}

/// The service without its sockets, what counts its panics, and the folder of its graphs, of which some are opened when they are asked for.
fn service() -> (Router, Arc<Metrics>, TempDir) {
    let cache = tempfile::tempdir().expect("a folder");
    let cache_dir = format!("model.cache_dir={}", cache.path().display());
    let config = configuration(&[MODEL, &cache_dir, "model.aliases=clip"]);
    let (metrics, health) = (Arc::new(Metrics::new()), Arc::new(Health::new(Duration::from_secs(60))));
    let embedder = embedder::start(&config, Arc::clone(&metrics), &health).expect("the fixture");
    let state = Arc::new(AppState::new(config.into(), Arc::clone(&metrics), health));
    state.set_embedder(embedder);
    (router(state), metrics, cache)
}

/// Sends the request of that number and looks at its answer.
async fn check(router: Router, path: &'static str, request: http::Request<Vec<u8>>, number: u64) -> u16 {
    let sent = String::from_utf8_lossy(&request.body()[..request.body().len().min(600)]).into_owned();
    let head =
        format!("number {number}: {} {} {:?}", request.method(), request.uri(), request.headers().get("content-type"));
    let answer = router.oneshot(request.map(Body::from)).await.unwrap_or_else(|error| match error {});
    let (status, headers) = (answer.status(), answer.headers().clone());
    let body = answer.into_body().collect().await.expect("a body in memory").to_bytes();
    let seen = || format!("{head}\n{sent}\n{status}: {}", String::from_utf8_lossy(&body[..body.len().min(600)]));
    assert_ne!(status.as_u16(), 500, "{}", seen());
    let is_json = headers.get("content-type").is_some_and(|value| value == JSON);
    let parsed: Option<Value> =
        is_json.then(|| serde_json::from_slice(&body).unwrap_or_else(|error| panic!("{error}: {}", seen())));
    if !status.is_success() {
        let shape = shape_of(path);
        assert!(parsed.as_ref().is_some_and(shape), "not a shape of {path}: {}", seen());
    }
    status.as_u16()
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_thousand_bodies_make_no_500_and_no_error_that_their_clients_do_not_know() {
    let (router, metrics, _cache) = service();
    let seeds = Arc::new(seeds());
    let mut running = JoinSet::new();
    for first in 0..AT_ONCE {
        let (router, seeds) = (router.clone(), Arc::clone(&seeds));
        running.spawn(async move {
            let mut statuses = Vec::new();
            for number in (first..NUMBERS).step_by(AT_ONCE as usize) {
                let (path, request) = request(&seeds, number);
                statuses.push(check(router.clone(), path, request, number).await);
            }
            statuses
        });
    }
    let statuses = running.join_all().await.concat();
    assert_eq!((statuses.len() as u64, metrics.http_panics.get()), (NUMBERS, 0));
    // Mutations that break everything, or nothing, would prove little.
    let good = statuses.iter().filter(|status| **status == 200).count();
    assert!((statuses.len() / 20..statuses.len() / 2).contains(&good), "{good} of {NUMBERS} were answered");
}

/// Whether `path` is of the route `template`.
fn is_of(path: &str, template: &str) -> bool {
    let (path, mut template): (Vec<&str>, Vec<&str>) = (path.split('/').collect(), template.split('/').collect());
    if template.last().is_some_and(|last| last.starts_with("{*")) && path.len() > template.len() {
        template.resize(path.len(), "{*}");
    }
    path.len() == template.len() && path.iter().zip(&template).all(|(part, name)| part == name || name.starts_with('{'))
}

/// Seeds are valid, and there is one at least for every route of the table.
#[tokio::test(flavor = "multi_thread")]
async fn every_route_has_a_valid_seed() {
    let table = include_str!("../../src/http/mod.rs");
    let table = table.split_once("routes: &[").and_then(|(_, rest)| rest.split_once("],")).expect("the table").0;
    let routes: Vec<&str> = table.split('"').skip(1).step_by(2).collect();
    let seeds = seeds();
    let missing: Vec<&&str> = routes.iter().filter(|route| !seeds.iter().any(|seed| is_of(seed.path, route))).collect();
    assert!(!routes.is_empty() && missing.is_empty(), "no seed for {missing:?}");
    let (router, _, _cache) = service();
    for seed in seeds {
        let mut request = http::Request::builder().method(seed.method).uri(seed.path);
        if !seed.content_type.is_empty() {
            request = request.header("content-type", seed.content_type);
        }
        let answer = router.clone().oneshot(request.body(Body::from(seed.body.clone())).expect("a request")).await;
        let answer = answer.unwrap_or_else(|error| match error {});
        let status = answer.status();
        let body = answer.into_body().collect().await.expect("a body in memory").to_bytes();
        let (sent, body) =
            (String::from_utf8_lossy(&seed.body).into_owned(), String::from_utf8_lossy(&body).into_owned());
        // The token ids are a seed too: a valid way to be refused.
        assert!(status.is_success() || body.contains("token ids"), "{} {sent}: {status} {body}", seed.path);
    }
}
