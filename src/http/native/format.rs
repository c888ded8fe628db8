//! How embeddings are answered: normalised, cut, as numbers, base64 or NumPy.
//!
//! Owns what a request may say of that, how large it becomes, and writing it. Does not own the other outputs, which are answered by it
//! too (`outputs`).

use axum::response::Response;

use super::wire::EmbedResponse;
use crate::{
    embedder::{Embedded, Embedder, Modality},
    http::{
        ApiError,
        answer::{Room, Shape, Size},
        connection::held::Held,
        embedding::{EmbeddingForm, Embeddings, EncodingFormat},
        reply::{Npz, Written},
        request::payload::AnswerForm,
    },
};

/// How the embeddings are to be answered.
pub(super) struct Format {
    pub(super) normalize: bool,
    pub(super) dimensions: Option<usize>,
    pub(super) encoding: EncodingFormat,
    pub(super) form: AnswerForm,
}

impl Format {
    /// What an answer of `n` embeddings takes, and nothing else.
    ///
    /// # Errors
    /// 501 when the model has none.
    pub(super) fn size(&self, embedder: &Embedder, n: usize, modality: Modality) -> Result<Size, ApiError> {
        Ok(self.with_embeddings(Size::new(&embedder.info().name), n, embedder.dim(modality)?))
    }

    /// `size` with `n` embeddings of length `dim`.
    pub(super) fn with_embeddings(&self, size: Size, n: usize, dim: usize) -> Size {
        let columns = self.dimensions.unwrap_or(dim);
        // To cut them makes a second matrix.
        let cut = self.dimensions.map_or(0, |columns| n.saturating_mul(columns));
        size.holding(n.saturating_mul(dim).saturating_add(cut)).writing_array(&[n, columns], self.shape())
    }

    /// How arrays are written.
    pub(super) fn shape(&self) -> Shape {
        match (self.form, self.encoding) {
            (AnswerForm::Npy | AnswerForm::Npz, _) => Shape::Npy,
            (AnswerForm::Json, EncodingFormat::Float) => Shape::Numbers,
            (AnswerForm::Json, EncodingFormat::Base64) => Shape::Base64,
        }
    }

    /// The answer with the embeddings alone.
    ///
    /// # Errors
    /// 500 when it cannot be written.
    pub(super) async fn answer(
        self,
        embedder: &Embedder,
        embedded: Embedded,
        room: Room,
        held: &Held,
    ) -> Result<Response, ApiError> {
        let takes = room.writing();
        embedder.heavy().run(takes, || self.write(&embedder.info().name, embedded, room, held)).await
    }

    fn write(&self, model: &str, embedded: Embedded, room: Room, held: &Held) -> Result<Response, ApiError> {
        let timings = embedded.timings;
        let embeddings = embedded.finish(self.dimensions, self.normalize);
        let written = match self.form {
            AnswerForm::Npy => Written::npy(room.buffer(), &embeddings),
            AnswerForm::Npz => {
                let mut npz = Npz::new(room.buffer());
                npz.add("embeddings", &embeddings)?;
                npz.finish()
            }
            AnswerForm::Json => {
                let rows = Embeddings { rows: embeddings.view(), form: EmbeddingForm::of_floats(self.encoding) };
                Written::json(room.buffer(), &EmbedResponse { model, dim: embeddings.ncols(), embeddings: rows })
            }
        };
        drop(embeddings);
        Ok(written?.answer(room, held, timings))
    }
}
