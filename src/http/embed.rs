//! `POST /embed/image` and `POST /embed/text`: one embedding for each item, in order, and the other outputs where they are
//! asked for.

use std::{borrow::Cow, sync::Arc};

use axum::{
    extract::{Request, State},
    response::Response,
};

use super::{
    ApiError, AppState,
    door::knock,
    extract::{Accepts, AnswerForm, Encoding, Payload, check_count, check_dimensions, json_images},
    outputs::{answer_outputs, check_wanted},
    reply::{Npz, Written},
    wire::{EmbedImageQuery, EmbedImageRequest, EmbedResponse, EmbedTextQuery, EmbedTextRequest, EncodingFormat, Rows},
};
use crate::{
    embedder::{Embedded, Embedder, Modality, PadTo, Padding},
    encoder::OutputSet,
};

/// How the embeddings are to be answered.
pub(super) struct Format {
    pub(super) normalize: bool,
    pub(super) dimensions: Option<usize>,
    pub(super) encoding: EncodingFormat,
    pub(super) form: AnswerForm,
}

/// One picture as the body, pictures as file parts, or JSON `{"images": [..]}`.
pub(super) async fn embed_image(State(state): State<Arc<AppState>>, request: Request) -> Result<Response, ApiError> {
    let embedder = state.embedder()?;
    embedder.supports(Modality::Image)?;
    knock(&state, &request, Modality::Image)?;
    let payload = Payload::receive(&state, request, &[Accepts::Image, Accepts::Multipart, Accepts::Json]).await?;
    let limit = state.config.limits.max_images;
    let form = payload.form_of_answer();
    let (images, outputs, format) = if let Encoding::Json = payload.encoding {
        let request: EmbedImageRequest<'_> = payload.json()?;
        check_count("images", request.images.0.len(), limit)?;
        let EmbedImageRequest { images, normalize, dimensions, encoding_format: encoding, outputs } = request;
        (json_images(&images)?, outputs, Format { normalize, dimensions, encoding, form })
    } else {
        let EmbedImageQuery { normalize, dimensions, encoding_format: encoding, outputs } = payload.query()?;
        let images = match &payload.encoding {
            // One part more than the limit, so that too many pictures are counted and named as pictures.
            Encoding::Multipart(boundary) => payload.form(boundary, &[], limit + 1).await?.files,
            _ => vec![payload.bytes().clone()],
        };
        check_count("images", images.len(), limit)?;
        (images, outputs, Format { normalize, dimensions, encoding, form })
    };
    let outputs: OutputSet = outputs.into_iter().collect();
    if outputs.is_empty() {
        check_dimensions(format.dimensions, embedder.dim(Modality::Image)?)?;
        let embedded = embedder.embed_images(images, payload.terms).await?;
        return format.answer(embedder, embedded);
    }
    check_wanted(embedder, Modality::Image, outputs, &format)?;
    let answered = embedder.image_outputs(images, outputs, payload.terms).await?;
    answer_outputs(embedder, answered, format).await
}

/// JSON `{"texts": [..]}`, or one text as the body.
pub(super) async fn embed_text(State(state): State<Arc<AppState>>, request: Request) -> Result<Response, ApiError> {
    let embedder = state.embedder()?;
    embedder.supports(Modality::Text)?;
    knock(&state, &request, Modality::Text)?;
    let payload = Payload::receive(&state, request, &[Accepts::Json, Accepts::Text]).await?;
    let form = payload.form_of_answer();
    let (texts, truncate, outputs, padding, format) = if let Encoding::Json = payload.encoding {
        let request: EmbedTextRequest<'_> = payload.json()?;
        check_count("texts", request.texts.0.len(), state.config.limits.max_texts)?;
        let EmbedTextRequest { texts, normalize, dimensions, encoding_format: encoding, truncate, outputs, .. } =
            request;
        let padding = (request.padding, request.attention_mask);
        (texts.0, truncate, outputs, padding, Format { normalize, dimensions, encoding, form })
    } else {
        let query: EmbedTextQuery = payload.query()?;
        let EmbedTextQuery { normalize, dimensions, encoding_format: encoding, truncate, outputs, .. } = query;
        let padding = (query.padding, query.attention_mask);
        let text = Cow::Borrowed(payload.text()?);
        (vec![text], truncate, outputs, padding, Format { normalize, dimensions, encoding, form })
    };
    let outputs: OutputSet = outputs.into_iter().collect();
    if outputs.is_empty() {
        if padding != (None, None) {
            return Err(ApiError::invalid("padding and attention_mask go with outputs: they change no embedding"));
        }
        check_dimensions(format.dimensions, embedder.dim(Modality::Text)?)?;
        let embedded = embedder.embed_texts(&texts, truncate, payload.terms).await?;
        return format.answer(embedder, embedded);
    }
    check_wanted(embedder, Modality::Text, outputs, &format)?;
    let padding = Padding { to: padding.0.unwrap_or(PadTo::Longest), attended: padding.1 == Some(false) };
    let answered = embedder.text_outputs(&texts, truncate, padding, outputs, payload.terms).await?;
    answer_outputs(embedder, answered, format).await
}

impl Format {
    fn answer(self, embedder: &Embedder, embedded: Embedded) -> Result<Response, ApiError> {
        let timings = embedded.timings;
        let embeddings = embedded.finish(self.dimensions, self.normalize);
        let written = match self.form {
            AnswerForm::Npy => Written::npy(&embeddings),
            AnswerForm::Npz => {
                let mut npz = Npz::new();
                npz.add("embeddings", &embeddings)?;
                npz.finish()
            }
            AnswerForm::Json => Written::json(&EmbedResponse {
                model: &embedder.info().name,
                dim: embeddings.ncols(),
                embeddings: Rows { rows: embeddings.view(), format: self.encoding },
            }),
        };
        Ok(written?.answer(timings))
    }
}
