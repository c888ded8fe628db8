//! The answer of `/embed/*` where `outputs` were asked for: what may be asked, and how it is written.
//!
//! Owns the checks before anything runs, and writing arrays that can be tens of megabytes: off the I/O threads where that takes as
//! long as many requests. Does not own computing them (`embedder`).

use axum::response::Response;

use super::{
    ApiError,
    embed::Format,
    extract::{AnswerForm, check_dimensions},
    reply::{Npz, Written},
    wire::{Arrays, Nested, OutputsResponse, Rows},
};
use crate::{
    embedder::{Embedder, Modality, Outputs, finish},
    encoder::OutputSet,
};

/// Whether `outputs` can be answered so.
///
/// # Errors
/// 501 when the model does not have them; 400 for `dimensions` out of range, and for several arrays in one `.npy`.
pub(super) fn check_wanted(
    embedder: &Embedder,
    modality: Modality,
    outputs: OutputSet,
    format: &Format,
) -> Result<(), ApiError> {
    embedder.output_shape(modality)?;
    if format.dimensions.is_some() {
        check_dimensions(format.dimensions, embedder.dim(modality)?)?;
    }
    let count = outputs.iter().count();
    if format.form == AnswerForm::Npy && count > 1 {
        return Err(ApiError::invalid(format!(
            "a .npy file holds one array, and {count} outputs are asked for; accept application/x-npz, or ask for one"
        )));
    }
    Ok(())
}

/// Up to so many bytes of outputs are written where the request is handled: a millisecond or two, as the embeddings of a large
/// request take.
const INLINE_BYTES: usize = 256 << 10;

/// The answer with everything that was asked for.
///
/// # Errors
/// 500 when it cannot be written.
#[expect(
    clippy::disallowed_methods,
    reason = "the outputs' budget bounds how many large answers there are, and none is on the way of embeddings"
)]
pub(super) async fn answer_outputs(
    embedder: &Embedder,
    answered: Outputs,
    format: Format,
) -> Result<Response, ApiError> {
    let model = embedder.info().name.clone();
    let large = answered.reservation.bytes() > INLINE_BYTES;
    let write = move || write(&model, answered, &format);
    if !large {
        return write();
    }
    tokio::task::spawn_blocking(write).await.map_err(|error| ApiError::internal(error.to_string()))?
}

fn write(model: &str, answered: Outputs, format: &Format) -> Result<Response, ApiError> {
    let Outputs { embeddings, arrays, attention_mask, timings, reservation } = answered;
    let embeddings = embeddings.map(|rows| finish(rows, format.dimensions, format.normalize));
    let written = match (format.form, arrays.as_slice()) {
        (AnswerForm::Npy, [(_, alone)]) => Written::npy(alone),
        (AnswerForm::Json, _) => Written::json(&OutputsResponse {
            model,
            dim: embeddings.as_ref().map(|rows| rows.ncols()),
            embeddings: embeddings.as_ref().map(|rows| Rows { rows: rows.view(), format: format.encoding }),
            outputs: Arrays { arrays: &arrays, format: format.encoding },
            attention_mask: attention_mask.as_ref().map(|mask| Nested(mask.view().into_dyn())),
        }),
        (AnswerForm::Npy | AnswerForm::Npz, _) => {
            let mut npz = Npz::new();
            if let Some(embeddings) = &embeddings {
                npz.add("embeddings", embeddings)?;
            }
            for (output, array) in &arrays {
                npz.add(output.name(), array)?;
            }
            if let Some(mask) = &attention_mask {
                npz.add("attention_mask", mask)?;
            }
            npz.finish()
        }
    };
    Ok(written?.answer_holding(timings, reservation))
}
