//! Successful answers: JSON, `.npy` or `.npz`, with the stage times in `server-timing`.
//!
//! Owns the writing, into buffers that [`Room`] has given. Does not own how large they may become (`answer`).

use std::{io::Cursor, time::Duration};

use axum::response::{IntoResponse, Response};
use http::{HeaderName, HeaderValue, header};
use ndarray::{Array, Dimension};
use ndarray_npy::{NpzWriter, WritableElement, WriteNpyExt};
use serde::Serialize;

use super::{ApiError, answer::Room, connection::held::Held};
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
    /// As JSON, into `buffer`.
    ///
    /// # Errors
    /// 500 when `body` cannot be written, which no shape of ours is.
    pub(super) fn json<T: Serialize>(mut buffer: Vec<u8>, body: &T) -> Result<Self, ApiError> {
        serde_json::to_writer(&mut buffer, body).map_err(|error| ApiError::internal(error.to_string()))?;
        Ok(Self { content_type: "application/json", bytes: buffer })
    }

    /// As `.npy`, into `buffer`: one array.
    ///
    /// # Errors
    /// 500 when the array cannot be written, which does not happen in memory.
    pub(super) fn npy<T: WritableElement, D: Dimension>(
        mut buffer: Vec<u8>,
        array: &Array<T, D>,
    ) -> Result<Self, ApiError> {
        array.write_npy(&mut buffer).map_err(|error| ApiError::internal(error.to_string()))?;
        Ok(Self { content_type: NPY, bytes: buffer })
    }

    /// As bytes that only its own clients can read, which are in `buffer`.
    pub(super) fn bytes(buffer: Vec<u8>) -> Self {
        Self { content_type: "application/octet-stream", bytes: buffer }
    }

    /// The bytes.
    #[cfg(test)]
    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Bytes.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The answer, which keeps of `room` what it takes until its client has it. The arrays that it was written from must be gone.
    pub(super) fn answer(self, room: Room, held: &Held, timings: Timings) -> Response {
        respond(self.content_type, room.settle(self.bytes, held), Some(timings))
    }
}

/// A `.npz` body in the making: arrays by name, stored as they are.
pub(super) struct Npz(NpzWriter<Cursor<Vec<u8>>>);

impl Npz {
    /// Without any array yet, into `buffer`.
    pub(super) fn new(buffer: Vec<u8>) -> Self {
        Self(NpzWriter::new(Cursor::new(buffer)))
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

/// A small JSON answer, of a size that no client chooses.
///
/// # Errors
/// As [`Written::json`].
pub(super) fn json<T: Serialize>(body: &T) -> Result<Response, ApiError> {
    let Written { content_type, bytes } = Written::json(Vec::new(), body)?;
    Ok(respond(content_type, bytes, None))
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
