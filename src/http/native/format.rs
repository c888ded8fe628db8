//! How embeddings are answered: normalised, cut, in their type, as numbers, base64 or NumPy, and what of them there is.
//!
//! Owns what a request may say of that, how large it becomes, and writing it. Does not own the other outputs, which are answered by it
//! too (`outputs`).

use axum::response::Response;
use ndarray::Array2;

use super::wire::{EmbedResponse, ItemErrors, OrNull, PartialResponse};
use crate::{
    embedder::{Embedded, Embedder, Modality},
    http::{
        ApiError,
        answer::{Room, Shape, Size},
        connection::held::Held,
        embedding::{EmbeddingForm, EmbeddingType, Embeddings, EncodingFormat, ScaledForm},
        numpy,
        reply::{Npz, Written},
        request::{
            each::{Missing, OnError},
            payload::{AnswerForm, check_dimensions},
        },
    },
};

/// How the embeddings are to be answered.
pub(super) struct Format {
    pub(super) normalize: bool,
    pub(super) dimensions: Option<usize>,
    pub(super) embedding: EmbeddingForm,
    pub(super) on_error: OnError,
    pub(super) form: AnswerForm,
}

impl Format {
    /// Whether embeddings of length `dim` can be answered so.
    ///
    /// # Errors
    /// 400 for `dimensions` out of range, for a type that they cannot have, and for gaps where there is no `null`.
    pub(super) fn check(&self, dim: usize) -> Result<(), ApiError> {
        check_dimensions(self.dimensions, dim)?;
        self.embedding.kind.check(self.dimensions.unwrap_or(dim), self.normalize)?;
        if self.on_error == OnError::Partial && self.form != AnswerForm::Json {
            return Err(ApiError::invalid(
                "on_error \"partial\" answers null for a bad item, which NumPy's files do not have; accept application/json, or leave \
                 out on_error",
            ));
        }
        Ok(())
    }

    /// Whether anything is said that only embeddings can be.
    pub(super) fn is_of_embeddings(&self) -> bool {
        self.dimensions.is_some() || self.embedding.kind != EmbeddingType::Float
    }

    /// What an answer of `n` embeddings takes, and nothing else.
    ///
    /// # Errors
    /// 501 when the model has none.
    pub(super) fn size(&self, embedder: &Embedder, n: usize, modality: Modality) -> Result<Size, ApiError> {
        let size = self.with_embeddings(Size::new(&embedder.info().name), n, embedder.dim(modality)?);
        Ok(match self.on_error {
            OnError::Fail => size,
            OnError::Partial => size.writing(Missing::written(n)),
        })
    }

    /// `size` with `n` embeddings of length `dim`.
    pub(super) fn with_embeddings(&self, size: Size, n: usize, dim: usize) -> Size {
        let columns = self.dimensions.unwrap_or(dim);
        // To cut them makes a second matrix.
        let cut = self.dimensions.map_or(0, |columns| n.saturating_mul(columns));
        let size = size.holding(n.saturating_mul(dim).saturating_add(cut));
        match self.form {
            AnswerForm::Json => self.embedding.add_to(size, n, columns),
            AnswerForm::Npy | AnswerForm::Npz => numpy::add_to(size, self.embedding.kind, n, columns),
        }
    }

    /// How arrays of other outputs are written.
    pub(super) fn shape(&self) -> Shape {
        match (self.form, self.embedding.format) {
            (AnswerForm::Npy | AnswerForm::Npz, _) => Shape::Npy,
            (AnswerForm::Json, EncodingFormat::Float) => Shape::Numbers,
            (AnswerForm::Json, EncodingFormat::Base64) => Shape::Base64,
        }
    }

    /// The form of embeddings of `columns` values of this model.
    pub(super) fn scaled(&self, embedder: &Embedder, columns: usize) -> ScaledForm {
        self.embedding.scaled(embedder.info().int8_scale(columns))
    }

    /// The answer with the embeddings alone, which are those of all items, or those that are not `missing`.
    ///
    /// # Errors
    /// 500 when it cannot be written.
    pub(super) async fn answer(
        self,
        embedder: &Embedder,
        (embedded, missing): (Embedded, Option<Missing>),
        room: Room,
        held: &Held,
    ) -> Result<Response, ApiError> {
        let takes = room.writing();
        let write = || {
            let timings = embedded.timings;
            let rows = embedded.finish(self.dimensions, self.normalize);
            let written = self.write(embedder, &rows, missing.as_ref(), room.buffer());
            drop((rows, missing));
            Ok(written?.answer(room, held, timings))
        };
        embedder.heavy().run(takes, write).await
    }

    fn write(
        &self,
        embedder: &Embedder,
        rows: &Array2<f32>,
        missing: Option<&Missing>,
        buffer: Vec<u8>,
    ) -> Result<Written, ApiError> {
        let (model, dim, form) = (&*embedder.info().name, rows.ncols(), self.scaled(embedder, rows.ncols()));
        match (self.form, missing) {
            (AnswerForm::Npy, _) => numpy::npy(buffer, rows, form),
            (AnswerForm::Npz, _) => {
                let mut npz = Npz::new(buffer);
                numpy::add(&mut npz, "embeddings", rows, form)?;
                npz.finish()
            }
            (AnswerForm::Json, None) => {
                let embeddings = Embeddings { rows: rows.view(), form };
                Written::json(buffer, &EmbedResponse { model, dim, embeddings })
            }
            (AnswerForm::Json, Some(missing)) => {
                let embeddings = OrNull { rows: rows.view(), form, missing };
                let errors = ItemErrors(&missing.errors);
                Written::json(buffer, &PartialResponse { model, dim, embeddings, errors })
            }
        }
    }
}
