//! Successful answers: JSON or `.npy`, with the stage times in `server-timing`.

use std::time::Duration;

use axum::response::{IntoResponse, Response};
use http::{HeaderName, HeaderValue, header};
use ndarray::Array2;
use ndarray_npy::WriteNpyExt;
use serde::Serialize;

use super::ApiError;
use crate::embedder::Timings;

/// The media type of a NumPy array file.
pub(super) const NPY: &str = "application/x-npy";

const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// A JSON answer.
///
/// # Errors
/// 500 when `body` cannot be written, which no shape of ours is.
pub(super) fn json<T: Serialize>(body: &T, timings: Option<Timings>) -> Result<Response, ApiError> {
    let bytes = serde_json::to_vec(body).map_err(|error| ApiError::internal(error.to_string()))?;
    Ok(respond("application/json", bytes, timings))
}

/// A `.npy` answer: one array of little-endian f32.
///
/// # Errors
/// 500 when the array cannot be written, which does not happen in memory.
pub(super) fn npy(array: &Array2<f32>, timings: Option<Timings>) -> Result<Response, ApiError> {
    let mut bytes = Vec::new();
    array.write_npy(&mut bytes).map_err(|error| ApiError::internal(error.to_string()))?;
    Ok(respond(NPY, bytes, timings))
}

fn respond(content_type: &'static str, bytes: Vec<u8>, timings: Option<Timings>) -> Response {
    let mut response = ([(header::CONTENT_TYPE, content_type)], bytes).into_response();
    if let Some(value) = timings.and_then(|timings| HeaderValue::from_str(&server_timing(timings)).ok()) {
        response.headers_mut().insert(SERVER_TIMING, value);
    }
    response
}

/// Milliseconds by stage, as the `Server-Timing` header wants them.
fn server_timing(timings: Timings) -> String {
    let ms = |stage: Duration| stage.as_secs_f64() * 1e3;
    format!(
        "preprocess;dur={:.3}, queue;dur={:.3}, inference;dur={:.3}",
        ms(timings.preprocess),
        ms(timings.queue),
        ms(timings.inference)
    )
}
