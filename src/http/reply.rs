//! Successful answers: JSON, `.npy` or `.npz`, with the stage times in `server-timing`.

use std::{io::Cursor, time::Duration};

use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, header};
use ndarray::{Array, Dimension};
use ndarray_npy::{NpzWriter, WritableElement, WriteNpyExt};
use serde::Serialize;

use super::ApiError;
use crate::embedder::Timings;

/// The media type of a NumPy array file.
pub(super) const NPY: &str = "application/x-npy";
/// The media type of an archive of NumPy array files.
pub(super) const NPZ: &str = "application/x-npz";

const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// An answer's body, written.
pub(super) struct Written {
    content_type: &'static str,
    bytes: Vec<u8>,
}

impl Written {
    /// As JSON.
    ///
    /// # Errors
    /// 500 when `body` cannot be written, which no shape of ours is.
    pub(super) fn json<T: Serialize>(body: &T) -> Result<Self, ApiError> {
        let bytes = serde_json::to_vec(body).map_err(|error| ApiError::internal(error.to_string()))?;
        Ok(Self { content_type: "application/json", bytes })
    }

    /// As `.npy`: one array of little-endian f32.
    ///
    /// # Errors
    /// 500 when the array cannot be written, which does not happen in memory.
    pub(super) fn npy<D: Dimension>(array: &Array<f32, D>) -> Result<Self, ApiError> {
        let mut bytes = Vec::new();
        array.write_npy(&mut bytes).map_err(|error| ApiError::internal(error.to_string()))?;
        Ok(Self { content_type: NPY, bytes })
    }

    /// The answer.
    pub(super) fn answer(self, timings: Timings) -> Response {
        respond(self.content_type, self.bytes.into(), Some(timings))
    }

    /// The answer, whose bytes keep `guard` until they are gone.
    pub(super) fn answer_holding<G: Send + 'static>(self, timings: Timings, guard: G) -> Response {
        struct Held<G> {
            bytes: Vec<u8>,
            // Held for its Drop.
            _guard: G,
        }

        impl<G> AsRef<[u8]> for Held<G> {
            fn as_ref(&self) -> &[u8] {
                &self.bytes
            }
        }

        respond(self.content_type, Bytes::from_owner(Held { bytes: self.bytes, _guard: guard }), Some(timings))
    }
}

/// A `.npz` body in the making: arrays by name, stored as they are.
pub(super) struct Npz(NpzWriter<Cursor<Vec<u8>>>);

impl Npz {
    /// Without any array yet.
    pub(super) fn new() -> Self {
        Self(NpzWriter::new(Cursor::new(Vec::new())))
    }

    /// Adds an array.
    ///
    /// # Errors
    /// 500 when it cannot be written, which does not happen in memory.
    pub(super) fn add<T: WritableElement, D: Dimension>(
        &mut self,
        name: &str,
        array: &Array<T, D>,
    ) -> Result<(), ApiError> {
        self.0.add_array(name, array).map_err(|error| ApiError::internal(error.to_string()))
    }

    /// All of them.
    ///
    /// # Errors
    /// As [`Npz::add`].
    pub(super) fn finish(self) -> Result<Written, ApiError> {
        let bytes = self.0.finish().map_err(|error| ApiError::internal(error.to_string()))?;
        Ok(Written { content_type: NPZ, bytes: bytes.into_inner() })
    }
}

/// A JSON answer.
///
/// # Errors
/// As [`Written::json`].
pub(super) fn json<T: Serialize>(body: &T, timings: Option<Timings>) -> Result<Response, ApiError> {
    let Written { content_type, bytes } = Written::json(body)?;
    Ok(respond(content_type, bytes.into(), timings))
}

fn respond(content_type: &'static str, bytes: Bytes, timings: Option<Timings>) -> Response {
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
