//! `POST /embed/image` and `POST /embed/text`: one embedding for each item, in order.

use std::{borrow::Cow, sync::Arc};

use axum::{
    extract::{Request, State},
    response::Response,
};

use super::{
    ApiError, AppState,
    extract::{Accepts, Encoding, Payload, check_count, check_dimensions, json_images},
    reply,
    wire::{EmbedImageQuery, EmbedImageRequest, EmbedResponse, EmbedTextQuery, EmbedTextRequest, EncodingFormat, Rows},
};
use crate::embedder::{Embedded, Embedder, Modality};

/// How the embeddings are to be answered.
struct Output {
    normalize: bool,
    dimensions: Option<usize>,
    encoding_format: EncodingFormat,
    npy: bool,
}

/// One picture as the body, pictures as file parts, or JSON `{"images": [..]}`.
pub(super) async fn embed_image(State(state): State<Arc<AppState>>, request: Request) -> Result<Response, ApiError> {
    let embedder = state.embedder()?;
    embedder.supports(Modality::Image)?;
    let payload = Payload::receive(&state, request, &[Accepts::Image, Accepts::Multipart, Accepts::Json]).await?;
    let limit = state.config.limits.max_images;
    let (images, output) = if let Encoding::Json = payload.encoding {
        let request: EmbedImageRequest<'_> = payload.json()?;
        check_count("images", request.images.0.len(), limit)?;
        let EmbedImageRequest { normalize, dimensions, encoding_format, .. } = request;
        (json_images(&request.images)?, Output { normalize, dimensions, encoding_format, npy: payload.wants_npy() })
    } else {
        let EmbedImageQuery { normalize, dimensions, encoding_format } = payload.query()?;
        let images = match &payload.encoding {
            // One part more than the limit, so that too many pictures are counted and named as pictures.
            Encoding::Multipart(boundary) => payload.form(boundary, &[], limit + 1).await?.files,
            _ => vec![payload.bytes().clone()],
        };
        check_count("images", images.len(), limit)?;
        (images, Output { normalize, dimensions, encoding_format, npy: payload.wants_npy() })
    };
    check_dimensions(output.dimensions, embedder.info().dim)?;
    let embedded = embedder.embed_images(images, payload.deadline).await?;
    output.answer(embedder, embedded)
}

/// JSON `{"texts": [..]}`, or one text as the body.
pub(super) async fn embed_text(State(state): State<Arc<AppState>>, request: Request) -> Result<Response, ApiError> {
    let embedder = state.embedder()?;
    embedder.supports(Modality::Text)?;
    let payload = Payload::receive(&state, request, &[Accepts::Json, Accepts::Text]).await?;
    let (texts, truncate, output) = if let Encoding::Json = payload.encoding {
        let EmbedTextRequest { texts, normalize, dimensions, encoding_format, truncate } = payload.json()?;
        check_count("texts", texts.0.len(), state.config.limits.max_texts)?;
        (texts.0, truncate, Output { normalize, dimensions, encoding_format, npy: payload.wants_npy() })
    } else {
        let EmbedTextQuery { normalize, dimensions, encoding_format, truncate } = payload.query()?;
        let output = Output { normalize, dimensions, encoding_format, npy: payload.wants_npy() };
        (vec![Cow::Borrowed(payload.text()?)], truncate, output)
    };
    check_dimensions(output.dimensions, embedder.info().dim)?;
    let embedded = embedder.embed_texts(&texts, truncate, payload.deadline).await?;
    output.answer(embedder, embedded)
}

impl Output {
    fn answer(self, embedder: &Embedder, embedded: Embedded) -> Result<Response, ApiError> {
        let timings = Some(embedded.timings);
        let embeddings = embedded.finish(self.dimensions, self.normalize);
        if self.npy {
            return reply::npy(&embeddings, timings);
        }
        let response = EmbedResponse {
            model: &embedder.info().name,
            dim: embeddings.ncols(),
            embeddings: Rows { rows: embeddings.view(), format: self.encoding_format },
        };
        reply::json(&response, timings)
    }
}
