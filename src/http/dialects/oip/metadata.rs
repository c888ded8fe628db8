//! What the protocol says of the server and of a model: metadata and health, and Triton of its configuration.
//!
//! Owns these answers. `GET /v2/health/*` are probes, behind no gate and no key; all else names the model.

use std::{borrow::Cow, sync::Arc};

use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;

use super::{
    output::{Counts, Name},
    request,
    route::{Target, VERSION, Verb},
};
use crate::{
    embedder::Embedder,
    http::{ApiError, AppState, Code, path::PathRest, reply},
};

/// `GET /v2`.
pub(in crate::http) async fn server() -> Result<Response, ApiError> {
    #[derive(Serialize)]
    struct Server {
        name: &'static str,
        version: &'static str,
        extensions: [&'static str; 2],
    }
    reply::json(&Server {
        name: env!("CARGO_PKG_NAME"),
        version: env!("CARGO_PKG_VERSION"),
        extensions: ["binary_tensor_data", "model_configuration"],
    })
}

/// `GET /v2/health/live`: as `/livez`.
pub(in crate::http) async fn live(State(state): State<Arc<AppState>>) -> Result<Response, ApiError> {
    #[derive(Serialize)]
    struct Live {
        live: bool,
    }
    let live = state.health.sick_workers(std::time::Instant::now()).is_empty();
    health(live, &Live { live })
}

/// `GET /v2/health/ready`: as `/readyz`.
pub(in crate::http) async fn ready(State(state): State<Arc<AppState>>) -> Result<Response, ApiError> {
    #[derive(Serialize)]
    struct Ready {
        ready: bool,
    }
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
    #[derive(Serialize)]
    struct Entry<'a> {
        name: &'a str,
        version: &'static str,
        state: &'static str,
    }
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
        #[derive(Serialize)]
        struct Ready<'a> {
            name: &'a str,
            ready: bool,
        }
        let ready = is_ready(&state);
        return health(ready, &Ready { name, ready });
    }
    if target.verb == Verb::Configuration {
        return configuration(embedder);
    }
    #[derive(Serialize)]
    struct Model<'a> {
        name: &'a str,
        versions: [&'static str; 1],
        platform: &'static str,
        inputs: Vec<Tensor>,
        outputs: Vec<Tensor>,
    }
    #[derive(Serialize)]
    struct Tensor {
        name: String,
        datatype: &'static str,
        shape: Vec<i64>,
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
    #[derive(Serialize)]
    struct Configuration<'a> {
        name: &'a str,
        platform: &'static str,
        backend: &'static str,
        max_batch_size: usize,
        input: Vec<Tensor>,
        output: Vec<Tensor>,
    }
    #[derive(Serialize)]
    struct Tensor {
        name: Cow<'static, str>,
        data_type: String,
        dims: Vec<i64>,
        /// Of inputs, any of which may be left out.
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        optional: bool,
    }
    let tensor = |(name, datatype, dims): Known, optional| {
        // The one type that a configuration calls otherwise.
        let data_type = format!("TYPE_{}", if datatype == "BYTES" { "STRING" } else { datatype });
        Tensor { name, data_type, dims, optional }
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
