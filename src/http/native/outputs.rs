//! The answer of `/embed/*` where `outputs` were asked for: what may be asked, and how it is written.
//!
//! Owns the checks before anything runs, and writing arrays that can be tens of megabytes. Does not own computing them (`embedder`).

use axum::response::Response;

use super::{
    format::Format,
    wire::{Arrays, Nested, OutputsResponse},
};
use crate::{
    embedder::{Embedder, Modality, Outputs, finish},
    encoder::OutputSet,
    http::{
        ApiError, AppState,
        answer::{Room, Shape, Size},
        connection::held::Held,
        embedding::Embeddings,
        numpy,
        reply::{Npz, Written},
        request::{each::OnError, payload::AnswerForm},
    },
};

/// Whether `outputs` can be answered so.
///
/// # Errors
/// 501 when the model does not have them; 400 as [`Format::check`], for several arrays in one `.npy`, and for gaps.
pub(super) fn check_wanted(
    embedder: &Embedder,
    modality: Modality,
    outputs: OutputSet,
    format: &Format,
) -> Result<(), ApiError> {
    embedder.output_shape(modality)?;
    if format.is_of_embeddings() {
        format.check(embedder.dim(modality)?)?;
    }
    if format.on_error == OnError::Partial {
        return Err(ApiError::invalid(
            "on_error \"partial\" goes with embeddings alone: the arrays of outputs have no null; leave out one of both",
        ));
    }
    let count = outputs.iter().count();
    if format.form == AnswerForm::Npy && count > 1 {
        return Err(ApiError::invalid(format!(
            "a .npy file holds one array, and {count} outputs are asked for; accept application/x-npz, or ask for one"
        )));
    }
    Ok(())
}

/// Room for the answer with the `outputs` of `n` items; of texts, as if each had the context length, which is known only once they are
/// tokenized. The arrays themselves have a budget of their own.
///
/// # Errors
/// 501 when the model does not have them; 413 and 429 as [`Size::reserve`].
pub(super) async fn room_for_outputs(
    state: &AppState,
    embedder: &Embedder,
    modality: Modality,
    n: usize,
    outputs: OutputSet,
    format: &Format,
) -> Result<Room, ApiError> {
    let outputs_of_one = embedder.output_shape(modality)?;
    let positions = outputs_of_one.max_positions;
    let size = Size::new(&embedder.info().name);
    let size = embedder.dim(modality).map_or(size, |dim| format.with_embeddings(size, n, dim));
    let mask = match format.shape() {
        // Eight bytes for each.
        Shape::Npy => size.writing_array(&[n, 2, positions], Shape::Npy),
        Shape::Numbers | Shape::Base64 => size.writing_array(&[n, positions], Shape::Numbers),
    };
    let size = if modality == Modality::Text { mask } else { size };
    let with_output = |size: Size, output| {
        let axes = [&[n], &*outputs_of_one.of(output, positions)].concat();
        size.writing_array(&axes, format.shape())
    };
    outputs.iter().fold(size, with_output).reserve(state).await
}

/// The answer with everything that was asked for.
///
/// # Errors
/// 500 when it cannot be written.
pub(super) async fn answer_outputs(
    embedder: &Embedder,
    answered: Outputs,
    format: Format,
    room: Room,
    held: Held,
) -> Result<Response, ApiError> {
    let takes = room.writing();
    embedder.heavy().run(takes, || write(embedder, answered, &format, room, &held)).await
}

fn write(
    embedder: &Embedder,
    answered: Outputs,
    format: &Format,
    room: Room,
    held: &Held,
) -> Result<Response, ApiError> {
    let Outputs { embeddings, arrays, attention_mask, timings, reservation } = answered;
    let embeddings = embeddings.map(|rows| finish(rows, format.dimensions, format.normalize));
    let written = match (format.form, arrays.as_slice()) {
        (AnswerForm::Npy, [(_, alone)]) => Written::npy(room.buffer(), alone),
        (AnswerForm::Json, _) => {
            let response = OutputsResponse {
                model: &embedder.info().name,
                dim: embeddings.as_ref().map(|rows| rows.ncols()),
                embeddings: embeddings
                    .as_ref()
                    .map(|rows| Embeddings { rows: rows.view(), form: format.scaled(embedder, rows.ncols()) }),
                outputs: Arrays { arrays: &arrays, format: format.embedding.format },
                attention_mask: attention_mask.as_ref().map(|mask| Nested(mask.view().into_dyn())),
            };
            Written::json(room.buffer(), &response)
        }
        (AnswerForm::Npy | AnswerForm::Npz, _) => {
            let mut npz = Npz::new(room.buffer());
            if let Some(embeddings) = &embeddings {
                numpy::add(&mut npz, "embeddings", embeddings, format.scaled(embedder, embeddings.ncols()))?;
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
    drop((embeddings, arrays, attention_mask, reservation));
    Ok(written?.answer(room, held, timings))
}
