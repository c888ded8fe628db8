//! What other layers refuse, as errors of the table.
//!
//! Owns the words for it. Does not own codes and statuses.

use std::time::Duration;

use super::{ApiError, Code};
use crate::{
    embedder::{EmbedError, Lack},
    encoder::{InputError, InputErrorKind, Output},
    http::connection::body::BodyError,
    telemetry::Reject,
};

impl From<EmbedError> for ApiError {
    fn from(error: EmbedError) -> Self {
        match error {
            EmbedError::Overloaded { reject: Reject::Wait, wait } => {
                let message = "the request would wait too long for others (limits.max_queue_wait, or its own timeout); come back after \
                               the time in the Retry-After header";
                Self::new(Code::Overloaded, message).retry_after(wait)
            }
            EmbedError::Overloaded { reject: Reject::KeyShare, wait } => {
                let message = "with this request the API key would have more items in the queue than its share (the key's queue_share); come \
                               back after the time in the Retry-After header";
                Self::new(Code::Overloaded, message).retry_after(wait)
            }
            EmbedError::MoreThanShare { most } => Self::new(
                Code::PayloadTooLarge,
                format!(
                    "the request has more items to compute than the API key's share of the queue, {most} (the key's queue_share); send \
                     fewer in one request"
                ),
            ),
            EmbedError::Overloaded { wait, .. } => {
                let message = "the queue is full; come back after the time in the Retry-After header";
                Self::new(Code::Overloaded, message).retry_after(wait)
            }
            EmbedError::NotSupported(lack) => Self::new(Code::NotSupported, not_supported(lack)),
            EmbedError::OutputsTooLarge { bytes, limit } => Self::new(
                Code::PayloadTooLarge,
                format!(
                    "the outputs would take {bytes} bytes, the limit is {limit} (limits.max_output_bytes); ask for fewer outputs, \
                     or for those of fewer items at a time"
                ),
            ),
            EmbedError::ShuttingDown => Self::shutting_down(),
            EmbedError::DeadlineExceeded => {
                let message = "the request took longer than its timeout, which is server.request_timeout or what its own headers say if that is \
                               shorter (x-request-timeout and its like); send fewer items, or less often";
                Self::new(Code::DeadlineExceeded, message)
            }
            EmbedError::Item { index, error } => Self::from(error).at(index),
            EmbedError::OutOfMemory { index } => {
                let message = "the server is short of memory for this picture; come back after the time in the Retry-After header, \
                               or send a smaller one";
                Self::new(Code::OutOfMemory, message).at(index).retry_after(Duration::from_secs(1))
            }
            EmbedError::Internal(cause) => Self::internal(cause),
        }
    }
}

fn not_supported(lack: Lack) -> String {
    match lack {
        Lack::Encoder(modality) => {
            format!("the model that is served has no {modality} encoder; GET /info says what it has")
        }
        Lack::Projection(modality) => format!(
            "the {modality} encoder that is served has no projection, so it has no embeddings; ask for its `outputs` ({}); GET /info says \
             what it has",
            Output::ALL.map(Output::name).join(", ")
        ),
        Lack::PixelValues => "the vision graph that is served takes no pixel_values: it computes with bytes (engine.precision = \"int8\"), or \
                              normalises inside; send the pictures themselves as images"
            .to_owned(),
        Lack::Outputs(modality) => format!(
            "the {modality} encoder that is served answers embeddings only; `outputs` takes a checkpoint of transformers or \
             clipserve's own export of one, and GET /info says whether they are there"
        ),
    }
}

impl From<BodyError> for ApiError {
    fn from(error: BodyError) -> Self {
        let message = error.to_string();
        match error {
            BodyError::TooLarge { .. } => Self::new(Code::PayloadTooLarge, message),
            BodyError::BudgetExhausted => Self::new(Code::Overloaded, message).retry_after(Duration::from_secs(1)),
            BodyError::TimedOut { .. } | BodyError::Ended => Self::new(Code::RequestTimeout, message),
            BodyError::UnsupportedEncoding => Self::new(Code::UnsupportedMediaType, message),
            BodyError::Disconnected | BodyError::Malformed | BodyError::BadEncoding => Self::invalid(message),
        }
    }
}

impl From<InputError> for ApiError {
    fn from(error: InputError) -> Self {
        let code = match error.kind {
            InputErrorKind::UnsupportedImage => Code::UnsupportedMediaType,
            InputErrorKind::InvalidImage => Code::InvalidImage,
            InputErrorKind::InvalidText => Code::InvalidText,
        };
        Self::new(code, error.message)
    }
}
