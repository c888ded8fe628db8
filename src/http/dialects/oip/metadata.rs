//! What the protocol says of the server and of a model: metadata and health, and Triton of its configuration.
//!
//! Owns these answers. `GET /v2/health/*` are probes, behind no gate and no key; all else names the model.

use std::{borrow::Cow, sync::Arc};

use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, StatusCode, header};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use super::{
    output::{Counts, Name},
    request,
    route::{ERRORS, TAG, Target, VERSION, Verb},
};
use crate::{
    embedder::Embedder,
    http::{
        ApiError, AppState, Code,
        operation::{JSON, OF_THE_KEYED, Operation, Schemas},
        path::PathRest,
        reply,
    },
};

/// All but inference.
pub(in crate::http) fn operations(schemas: &mut Schemas) -> Vec<Operation> {
    let either = |operation: Operation, health: Value| {
        operation.answers(JSON, health.clone()).answers_with(503, "Not now", JSON, health)
    };
    let get = |path, summary| Operation::get(TAG, path, summary);
    let live = either(get("/v2/health/live", "Whether the process should go on"), schemas.answer::<Live>());
    let ready = either(get("/v2/health/ready", "Whether requests are served"), schemas.answer::<Ready>());
    let server = get("/v2", "The server").answers(JSON, schemas.answer::<Server>());
    let mut operations = vec![live, ready, server.refuses(schemas, &[Code::Unauthorized], &[ERRORS])];
    // A name that ends in /infer is posted to.
    let codes = [OF_THE_KEYED, &[Code::ModelNotFound, Code::MethodNotAllowed]].concat();
    for path in ["/v2/models/{model}", "/v2/models/{model}/versions/{version}"] {
        let operation = get(path, "The tensors of the model").answers(JSON, schemas.answer::<Model<'_>>());
        operations.push(operation.refuses(schemas, &codes, &[ERRORS]));
    }
    for path in ["/v2/models/{model}/config", "/v2/models/{model}/versions/{version}/config"] {
        let operation = get(path, "The model's configuration, as Triton writes it");
        operations.push(operation.answers(JSON, schemas.answer::<Configuration<'_>>()).refuses(
            schemas,
            &codes,
            &[ERRORS],
        ));
    }
    let index = Operation::post(TAG, "/v2/repository/index", "The models that are served");
    operations.push(index.answers(JSON, schemas.answer::<Vec<Entry<'_>>>()).refuses(schemas, OF_THE_KEYED, &[ERRORS]));
    for path in ["/v2/models/{model}/ready", "/v2/models/{model}/versions/{version}/ready"] {
        let operation = either(get(path, "Whether the model is ready"), schemas.answer::<ModelReady<'_>>());
        operations.push(operation.refuses(schemas, &codes, &[ERRORS]));
    }
    operations
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "OipServer")]
struct Server {
    name: &'static str,
    version: &'static str,
    extensions: [&'static str; 2],
}

#[derive(Serialize, JsonSchema)]
#[schemars(inline)]
struct Live {
    live: bool,
}

#[derive(Serialize, JsonSchema)]
#[schemars(inline)]
struct Ready {
    ready: bool,
}

#[derive(Serialize, JsonSchema)]
#[schemars(inline)]
struct ModelReady<'a> {
    name: &'a str,
    ready: bool,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "OipModel")]
struct Model<'a> {
    name: &'a str,
    versions: [&'static str; 1],
    platform: &'static str,
    inputs: Vec<Tensor>,
    outputs: Vec<Tensor>,
}

/// Of its shape -1 is any size.
#[derive(Serialize, JsonSchema)]
#[schemars(inline)]
struct Tensor {
    name: String,
    datatype: &'static str,
    shape: Vec<i64>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "TritonConfiguration")]
struct Configuration<'a> {
    name: &'a str,
    platform: &'static str,
    backend: &'static str,
    max_batch_size: usize,
    input: Vec<Configured>,
    output: Vec<Configured>,
}

/// Of its dims -1 is any size.
#[derive(Serialize, JsonSchema)]
#[schemars(inline)]
struct Configured {
    name: Cow<'static, str>,
    data_type: String,
    dims: Vec<i64>,
    /// Of inputs, any of which may be left out.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    optional: bool,
}

/// A model in the repository.
#[derive(Serialize, JsonSchema)]
#[schemars(inline)]
struct Entry<'a> {
    name: &'a str,
    version: &'static str,
    state: &'static str,
}

/// `GET /v2`.
pub(in crate::http) async fn server() -> Result<Response, ApiError> {
    reply::json(&Server {
        name: env!("CARGO_PKG_NAME"),
        version: env!("CARGO_PKG_VERSION"),
        extensions: ["binary_tensor_data", "model_configuration"],
    })
}

/// `GET /v2/health/live`: as `/livez`.
pub(in crate::http) async fn live(State(state): State<Arc<AppState>>) -> Result<Response, ApiError> {
    let live = state.health.sick_workers(std::time::Instant::now()).is_empty();
    health(live, &Live { live })
}

/// `GET /v2/health/ready`: as `/readyz`.
pub(in crate::http) async fn ready(State(state): State<Arc<AppState>>) -> Result<Response, ApiError> {
    let ready = is_ready(&state);
    health(ready, &Ready { ready })
}

fn is_ready(state: &AppState) -> bool {
    state.health.readiness() == crate::health::Readiness::Ready
}

fn health(is: bool, body: &impl Serialize) -> Result<Response, ApiError> {
    let mut response = reply::json(body)?;
    if !is {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    Ok(response)
}

/// What Triton and its clients call the backend of the same runtime, and a model of it.
const BACKEND: &str = "onnxruntime";
const PLATFORM: &str = "onnxruntime_onnx";

/// `POST /v2/repository/index`: the models that are served. A filter for those that are ready changes nothing: until then this is a 503.
///
/// # Errors
/// 503 while the model loads, and once the server drains.
pub(in crate::http) async fn index(State(state): State<Arc<AppState>>) -> Result<Response, ApiError> {
    state.check_ready()?;
    let name = &state.embedder()?.info().name;
    reply::json(&[Entry { name, version: VERSION, state: "READY" }])
}

/// `GET /v2/models/{model}[/versions/1][/ready|/config]`.
pub(in crate::http) async fn model(
    State(state): State<Arc<AppState>>,
    PathRest(path): PathRest,
) -> Result<Response, ApiError> {
    let target = Target::read(&path)?;
    if target.verb == Verb::Infer {
        let error = ApiError::new(Code::MethodNotAllowed, "an inference is a POST with tensors");
        return Ok(([(header::ALLOW, HeaderValue::from_static("POST"))], error).into_response());
    }
    let embedder = state.resolve(Some(target.model))?;
    let name = &embedder.info().name;
    if target.verb == Verb::Ready {
        let ready = is_ready(&state);
        return health(ready, &ModelReady { name, ready });
    }
    if target.verb == Verb::Configuration {
        return configuration(embedder);
    }
    let tensor = |(name, datatype, shape): Known| Tensor { name: name.into_owned(), datatype, shape };
    reply::json(&Model {
        name,
        versions: [VERSION],
        platform: PLATFORM,
        inputs: request::accepted(embedder).into_iter().map(tensor).collect(),
        outputs: outputs(embedder).map(tensor).collect(),
    })
}

/// The name of a tensor, its type, and its shape, of which -1 is any size.
type Known = (Cow<'static, str>, &'static str, Vec<i64>);

/// The outputs of a model.
fn outputs(embedder: &Embedder) -> impl Iterator<Item = Known> {
    Name::all().filter_map(|output| {
        // Of no inputs at all, what is 0 long is what depends on their number or length.
        let shape = output.shape(embedder, Counts { images: None, texts: None }, 0).ok()?;
        let shape = shape.into_iter().map(|size| if size == 0 { -1 } else { size as i64 }).collect();
        Some((output.to_string().into(), output.datatype(), shape))
    })
}

/// The model's configuration. `max_batch_size` is 0, which to Triton's clients says that shapes are whole: not every output has its items
/// along the first axis. How many there may be is in `GET /info`.
fn configuration(embedder: &Embedder) -> Result<Response, ApiError> {
    let tensor = |(name, datatype, dims): Known, optional| {
        // The one type that a configuration calls otherwise.
        let data_type = format!("TYPE_{}", if datatype == "BYTES" { "STRING" } else { datatype });
        Configured { name, data_type, dims, optional }
    };
    reply::json(&Configuration {
        name: &embedder.info().name,
        platform: PLATFORM,
        backend: BACKEND,
        max_batch_size: 0,
        input: request::accepted(embedder).into_iter().map(|input| tensor(input, true)).collect(),
        output: outputs(embedder).map(|output| tensor(output, false)).collect(),
    })
}
