//! Bodies that nobody meant: valid requests for every route, broken in seeded ways, sent through the router without a socket.
//!
//! No body makes a 500, and what is refused is refused in the shape of the path's clients. Alone they take some
//! twenty seconds: `make test ARGS="--test it mutations"`.
//!
//! A new route is a line in [`seeds`], and its errors a line in [`shape_of`]; the route table is read, so that none is left out. What
//! fails names its number, by which it is made again.

use std::{sync::Arc, time::Duration};

use axum::{Router, body::Body};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use clipserve::{
    embedder,
    health::Health,
    http::{AppState, router},
    telemetry::Metrics,
};
use fastrand::Rng;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinSet;
use tower::ServiceExt;

use crate::support::{configuration, picture};

/// The model in the box: small, and a checkpoint, which has all that can be asked for.
const MODEL: &str = concat!("model.path=", env!("CARGO_MANIFEST_DIR"), "/onnx/emoji-clip");

/// The smallest picture, so that what is valid costs little.
const PICTURE: &str = "one_pixel.png";

const JSON: &str = "application/json";
const BOUNDARY: &str = "seed-boundary";

/// So many bodies.
const NUMBERS: u64 = 20_000;

/// So many are in the router at once.
const AT_ONCE: u64 = 8;

/// A valid request.
struct Seed {
    method: &'static str,
    /// Where the route's template has a parameter, it has a value.
    path: &'static str,
    /// None where it is empty.
    content_type: String,
    body: Vec<u8>,
}

impl Seed {
    fn get(path: &'static str) -> Self {
        Self { method: "GET", path, content_type: String::new(), body: Vec::new() }
    }

    fn post(path: &'static str, content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        Self { method: "POST", path, content_type: content_type.to_owned(), body: body.into() }
    }

    /// As Immich's server asks, with a text or else a picture.
    fn immichs(entries: &str, text: Option<&str>) -> Self {
        let field = |name: &str, value: &[u8]| {
            let head = format!("--{BOUNDARY}\r\ncontent-disposition: form-data; name=\"{name}\"\r\n\r\n");
            [head.as_bytes(), value, b"\r\n"].concat()
        };
        let asked = text.map_or_else(|| field("image", &picture(PICTURE)), |text| field("text", text.as_bytes()));
        let body = [field("entries", entries.as_bytes()), asked, format!("--{BOUNDARY}--\r\n").into_bytes()].concat();
        Self::post("/predict", &format!("multipart/form-data; boundary={BOUNDARY}"), body)
    }

    fn form(path: &'static str, fields: &[&str]) -> Self {
        Self::post(path, &format!("multipart/form-data; boundary={BOUNDARY}"), multipart(fields))
    }
}

/// Valid requests for every route, in every content type and every form that it takes.
fn seeds() -> Vec<Seed> {
    let base64 = BASE64_STANDARD.encode(picture(PICTURE));
    let url = format!("data:image/png;base64,{base64}");
    let embedding = vec![0.5; 192];
    let part = json!({"type": "image_url", "image_url": {"url": url}});
    let message = json!({"role": "user", "content": [part]});
    let options = json!({"model": "clip", "encoding_format": "base64", "dimensions": 8, "user": "u", "priority": 1});
    let with_options = |mut body: Value| {
        body.as_object_mut().expect("an object").extend(options.as_object().cloned().expect("an object"));
        body
    };
    let json_seeds = [
        ("/embed/image", json!({"images": [base64, url], "dimensions": 8, "outputs": []})),
        ("/embed/image", json!({"images": base64, "outputs": ["pooler_output"], "encoding_format": "base64"})),
        ("/embed/text", json!({"texts": ["a cat", "\u{fc}\n"], "truncate": false, "normalize": false, "priority": 1})),
        ("/embed/text", json!({"texts": "a cat", "outputs": ["attentions"], "padding": "max_length"})),
        ("/similarity", json!({"images": [base64], "texts": ["a", "b"], "return_loss": false, "return_embeds": true})),
        ("/similarity", json!({"image_embeds": [embedding, embedding], "text_embeds": [embedding]})),
        ("/classify", json!({"images": [base64], "labels": ["a", "b"], "templates": ["a {}"], "top_k": 1})),
        ("/v1/embeddings", with_options(json!({"input": ["a cat", url, "b"]}))),
        ("/v1/embeddings", json!({"input": url, "embedding_type": "ubinary", "truncate": "END"})),
        ("/v1/embeddings", json!({"input": [[320, 1125], [539]]})),
        ("/v1/embeddings", with_options(json!({"input": [base64, "a"], "modality": ["image", "text"]}))),
        ("/v1/embeddings", json!({"input": [{"text": "a"}, {"image": base64}, {"url": url}, {"bytes": base64}]})),
        ("/v1/embeddings", with_options(json!({"messages": [message], "truncate_prompt_tokens": -1}))),
        ("/v1/embeddings", json!({"messages": [[message], [{"role": "user", "content": "a"}]]})),
        ("/v1/embeddings", json!({"input": [{"content": [part]}, {"content": "a"}, part]})),
        ("/embeddings", with_options(json!({"input": {"type": "image_base64", "image_base64": base64}}))),
        (
            "/embeddings",
            json!({"input": {"type": "video_frames", "video_frames": [{"type": "image_url", "image_url": url}]}}),
        ),
        ("/embeddings", json!({"input": {"type": "text", "text": ["a", "b"]}})),
        ("/embeddings", with_options(json!({"input": ["a"], "modality": "text"}))),
        ("/v1/embeddings", json!({"input": ["a"], "truncation": true, "output_dtype": "int8", "output_dimension": 8})),
        ("/v2/embed", json!({"texts": ["a", "b"], "embedding_types": ["float", "int8", "ubinary"], "truncate": "END"})),
        ("/v2/embed", json!({"images": [url], "input_type": "image", "output_dimension": 8})),
        ("/v2/embed", json!({"inputs": [{"content": [part]}, {"content": [{"type": "text", "text": "a"}]}]})),
        ("/v1/embed", json!({"texts": ["a"], "model": "clip"})),
        (
            "/v1/multimodalembeddings",
            json!({"inputs": [{"content": [{"type": "image_base64", "image_base64": url}]}], "encoding_format": "base64", "output_dtype": null}),
        ),
        ("/v1/classify", json!({"input": [{"text": "a"}, {"image": base64}], "labels": ["a", "b"]})),
        ("/v1/classify", json!({"input": ["a"], "labels": {"colour": ["a", "b"], "size": ["c", "d"]}})),
        ("/vectorize", json!({"texts": ["a"], "images": [base64]})),
        ("/embed", json!({"inputs": ["a", "b"], "truncate": true, "normalize": false, "dimensions": 8})),
        ("/", json!({"inputs": "a"})),
        ("/tokenize", json!({"inputs": ["a cat"], "add_special_tokens": true})),
        ("/decode", json!({"ids": [[320, 539]], "skip_special_tokens": true})),
        ("/similarity", json!({"inputs": {"source_sentence": "a", "sentences": ["b", "c"]}})),
        (
            "/v2/models/clip/infer",
            json!({"inputs": [{"name": "texts", "datatype": "BYTES", "shape": [2], "data": ["a", "b"]}], "outputs": [{"name": "text_embeds"}]}),
        ),
        (
            "/v2/models/clip/infer",
            json!({"inputs": [
                {"name": "images", "datatype": "BYTES", "shape": [1, 1], "data": [base64]},
                {"name": "input_ids", "datatype": "INT64", "shape": [1, 3], "data": [3070, 320, 3071]},
                {"name": "attention_mask", "datatype": "INT64", "shape": [1, 3], "data": [1, 1, 1]},
            ]}),
        ),
    ];
    let json_seeds = json_seeds.map(|(path, body)| Seed::post(path, JSON, body.to_string()));
    let rest = [
        Seed::form("/embed/image", &[]),
        Seed::form("/similarity", &["text", "text"]),
        Seed::form("/classify", &["label", "template"]),
        Seed::post("/embed/image", "image/png", picture(PICTURE)),
        Seed::post("/embed/text", "text/plain", "a cat"),
        Seed::immichs(r#"{"clip":{"visual":{"modelName":"clip"}}}"#, None),
        Seed::immichs(r#"{"clip":{"textual":{"modelName":"clip","options":{"language":"en"}}}}"#, Some("a cat")),
        Seed::get("/"),
        Seed::get("/page/style.css"),
        Seed::get("/openapi.json"),
        Seed::get("/docs"),
        Seed::get("/ping"),
        Seed::get("/health"),
        Seed::get("/meta"),
        Seed::get("/models"),
        Seed::get("/v1/models"),
        Seed::get("/v1/models/clip"),
        Seed::get("/v1/health/live"),
        Seed::get("/v1/health/ready"),
        Seed::get("/.well-known/live"),
        Seed::get("/.well-known/ready"),
        Seed::get("/v2"),
        Seed::get("/v2/health/live"),
        Seed::get("/v2/health/ready"),
        Seed::get("/v2/models/clip"),
        Seed::get("/v2/models/clip/config"),
        Seed::post("/v2/repository/index", JSON, "{}"),
        Seed::get("/info"),
        Seed::get("/livez"),
        Seed::get("/readyz"),
        Seed::get("/metrics"),
    ];
    json_seeds.into_iter().chain(rest).collect()
}

/// A form with a text in each of the `fields`, and a picture.
fn multipart(fields: &[&str]) -> Vec<u8> {
    let mut body = Vec::new();
    for name in fields {
        let head = format!("--{BOUNDARY}\r\ncontent-disposition: form-data; name=\"{name}\"\r\n\r\na {{}}\r\n");
        body.extend_from_slice(head.as_bytes());
    }
    let head = "content-disposition: form-data; name=\"images\"; filename=\"a.png\"\r\ncontent-type: image/png\r\n\r\n";
    body.extend_from_slice(format!("--{BOUNDARY}\r\n{head}").as_bytes());
    body.extend_from_slice(&picture(PICTURE));
    body.extend_from_slice(format!("\r\n--{BOUNDARY}--\r\n").as_bytes());
    body
}

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

/// Values that stand where others were meant.
fn odd_value(rng: &mut Rng) -> Value {
    let deep = |depth: usize| (0..depth).fold(json!(1), |inner, _| json!([inner]));
    let values = [
        Value::Null,
        json!(true),
        json!(-1),
        json!(0),
        json!(1e308),
        json!(u64::MAX),
        json!(i64::MIN),
        json!(0.5),
        json!(""),
        json!("\u{0}"),
        json!("data:image/png;base64,"),
        json!("data:image/png;base64,QUJD"),
        json!("data:image/"),
        json!("https://example.com/a.png"),
        json!("QUJD"),
        json!("x".repeat(3000)),
        json!([]),
        json!({}),
        json!([[]]),
        json!([{}]),
        json!([null]),
        json!([1, "a", null, {"type": "text"}]),
        json!({"type": "text", "text": "a"}),
        json!({"type": "image_url", "image_url": {"url": {}}}),
        json!({"role": "user", "content": []}),
        deep(100),
        deep(140),
    ];
    values[rng.usize(..values.len())].clone()
}

/// What stands nowhere in JSON, or nowhere in a form.
const ODD_TEXTS: [&[u8]; 14] = [
    b"1e400",
    b"99999999999999999999999",
    b"\"\\ud800\"",
    b"\xff\xfe",
    b"\0",
    b",,",
    b"[[[[[[[[",
    b"}}",
    b"\\",
    b"\r\n\r\n",
    b"--seed-boundary--\r\n",
    b"--seed-boundary\r\n",
    b"\"; name=\"",
    b"\xef\xbb\xbf",
];

const ODD_TYPES: [&str; 10] = [
    "",
    JSON,
    "text/plain",
    "image/png",
    "multipart/form-data",
    "multipart/form-data; boundary=",
    "multipart/form-data; boundary=x",
    "application/octet-stream",
    "application/x-www-form-urlencoded",
    "application/json; charset=utf-16",
];

/// The names that the seeds have, of which one may stand where another was.
const NAMES: [&str; 24] = [
    "input",
    "messages",
    "texts",
    "images",
    "image_embeds",
    "text_embeds",
    "labels",
    "templates",
    "model",
    "dimensions",
    "outputs",
    "encoding_format",
    "embedding_type",
    "modality",
    "truncate",
    "normalize",
    "priority",
    "type",
    "text",
    "image",
    "image_url",
    "url",
    "content",
    "role",
];

/// One value somewhere in `value`, each node as likely as another.
fn any_node<'v>(value: &'v mut Value, rng: &mut Rng) -> &'v mut Value {
    fn count(value: &Value) -> usize {
        1 + match value {
            Value::Array(values) => values.iter().map(count).sum(),
            Value::Object(members) => members.values().map(count).sum(),
            _ => 0,
        }
    }
    fn nth(value: &mut Value, mut at: usize) -> &mut Value {
        if at == 0 {
            return value;
        }
        at -= 1;
        let children: Vec<&mut Value> = match value {
            Value::Array(values) => values.iter_mut().collect(),
            Value::Object(members) => members.values_mut().collect(),
            _ => Vec::new(),
        };
        for child in children {
            let nodes = count(child);
            if at < nodes {
                return nth(child, at);
            }
            at -= nodes;
        }
        unreachable!("the node was counted")
    }
    let nodes = count(value);
    nth(value, rng.usize(..nodes))
}

fn nulls(value: &mut Value) {
    match value {
        Value::Array(values) => values.iter_mut().for_each(nulls),
        Value::Object(members) => members.values_mut().for_each(nulls),
        leaf => *leaf = Value::Null,
    }
}

/// Breaks a body that is JSON where its meaning is.
fn mutate_json(value: &mut Value, rng: &mut Rng) {
    let node = any_node(value, rng);
    match rng.u8(..8) {
        0 => nulls(node),
        1 => *node = json!([node.take()]),
        2 => *node = json!({"type": "text", "text": node.take()}),
        3 => *node = Value::Array(vec![node.take(); rng.usize(..200)]),
        4 => {
            if let Value::Object(members) = node
                && let Some(key) = members.keys().nth(rng.usize(..members.len().max(1))).cloned()
                && let Some(value) = members.remove(&key)
                && rng.bool()
            {
                members.insert(NAMES[rng.usize(..NAMES.len())].to_owned(), value);
            }
        }
        5 => {
            if let Value::Object(members) = node {
                members.insert(NAMES[rng.usize(..NAMES.len())].to_owned(), odd_value(rng));
            }
        }
        _ => *node = odd_value(rng),
    }
}

/// Breaks a body as bytes.
fn mutate_bytes(body: &mut Vec<u8>, rng: &mut Rng) {
    let at = rng.usize(..=body.len());
    let end = at + rng.usize(..=(body.len() - at).min(64));
    match rng.u8(..8) {
        0 => body.truncate(at),
        1 => drop(body.drain(at..end)),
        2 => {
            let twice = body[at..end].to_vec();
            body.splice(at..at, twice);
        }
        3 => drop(body.splice(at..end, ODD_TEXTS[rng.usize(..ODD_TEXTS.len())].iter().copied())),
        4 => {
            let deep = rng.usize(..100_000);
            body.splice(at..at, std::iter::repeat_n(if rng.bool() { b'[' } else { b'{' }, deep));
        }
        5 => {
            // The first member twice, as the parser sees the second one.
            if let (Some(b'{'), Some(comma)) = (body.first(), body.iter().position(|&byte| byte == b',')) {
                let member = body[1..=comma].to_vec();
                body.splice(1..1, member);
            }
        }
        6 => {
            // A head of a form, or any other word, with something else in it.
            let words: [&[u8]; 6] = [b"form-data", b"name=", b"content-disposition", b"filename", b"\r\n\r\n", b"\""];
            let word = words[rng.usize(..words.len())];
            if let Some(found) = body.windows(word.len()).position(|window| window == word) {
                let odd = ODD_TEXTS[rng.usize(..ODD_TEXTS.len())];
                body.splice(found..found + word.len(), odd.iter().copied());
            }
        }
        _ => {
            for _ in 0..rng.usize(1..=8) {
                let at = rng.usize(..body.len().max(1));
                if let Some(byte) = body.get_mut(at) {
                    *byte ^= rng.u8(1..);
                }
            }
        }
    }
}

/// The request of that number: a seed, broken once to three times.
fn request(seeds: &[Seed], number: u64) -> (&'static str, http::Request<Vec<u8>>) {
    let mut rng = Rng::with_seed(number);
    let seed = &seeds[rng.usize(..seeds.len())];
    let mut body = seed.body.clone();
    if let Ok(mut value) = serde_json::from_slice::<Value>(&body)
        && rng.u8(..4) > 0
    {
        (0..rng.usize(1..=2)).for_each(|_| mutate_json(&mut value, &mut rng));
        body = value.to_string().into_bytes();
    }
    if rng.bool() || body == seed.body {
        mutate_bytes(&mut body, &mut rng);
    }
    let content_type = if rng.u8(..8) == 0 { ODD_TYPES[rng.usize(..ODD_TYPES.len())] } else { &seed.content_type };
    let query = if rng.u8(..16) == 0 { "?normalize=perhaps&outputs=,&dimensions=%ff" } else { "" };
    let method = if rng.u8(..32) == 0 { "GET" } else { seed.method };
    let mut request = http::Request::new(body);
    *request.method_mut() = method.parse().expect("a method");
    *request.uri_mut() = format!("{}{query}", seed.path).parse().expect("an address");
    if !content_type.is_empty() {
        request.headers_mut().insert("content-type", content_type.parse().expect("a header"));
    }
    (seed.path, request)
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
    let table = table.split_once("templates: &[").and_then(|(_, rest)| rest.split_once("],")).expect("the table").0;
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
