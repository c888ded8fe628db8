//! What the protocol says of the server and of a model: metadata and health.
//!
//! Owns these answers. `GET /v2/health/*` are probes, behind no gate and no key; all else names the model.

use std::sync::Arc;

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
        extensions: [&'static str; 1],
    }
    reply::json(&Server {
        name: env!("CARGO_PKG_NAME"),
        version: env!("CARGO_PKG_VERSION"),
        extensions: ["binary_tensor_data"],
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

/// `GET /v2/models/{model}[/versions/1][/ready]`.
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
    let inputs = request::accepted(embedder);
    let inputs = inputs.into_iter().map(|(name, datatype, shape)| Tensor { name: name.into(), datatype, shape });
    let outputs = Name::all().filter_map(|output| {
        // Of no inputs at all, what is 0 long is what depends on their number or length.
        let shape = output.shape(embedder, Counts { images: None, texts: None }, 0).ok()?;
        let shape = shape.into_iter().map(|size| if size == 0 { -1 } else { size as i64 }).collect();
        Some(Tensor { name: output.to_string(), datatype: output.datatype(), shape })
    });
    reply::json(&Model {
        name,
        versions: [VERSION],
        // As Triton calls its own backend of the same runtime.
        platform: "onnxruntime_onnx",
        inputs: inputs.collect(),
        outputs: outputs.collect(),
    })
}
