//! `POST /embed/image` and `POST /embed/text`: one embedding for each item, in order, and the other outputs where they are
//! asked for.

use std::{borrow::Cow, sync::Arc};

use axum::{
    extract::{Request, State},
    response::Response,
};
use bytes::Bytes;

use super::{
    format::Format,
    outputs::{answer_outputs, check_wanted, room_for_outputs},
    wire::{EmbedImageQuery, EmbedImageRequest, EmbedTextQuery, EmbedTextRequest},
};
use crate::{
    budget::Reservation,
    embedder::{Modality, PadTo, Padding},
    encoder::{Output, OutputSet},
    http::{
        ApiError, AppState,
        door::{knock, with_priority},
        request::{
            form::{Form, Pictures},
            json::check_count,
            payload::{Accepts, Encoding, Payload, check_dimensions, picture},
        },
    },
};

/// One picture as the body, pictures as file parts, or JSON `{"images": [..]}`.
pub(in crate::http) async fn embed_image(
    State(state): State<Arc<AppState>>,
    request: Request,
) -> Result<Response, ApiError> {
    let embedder = state.embedder()?;
    embedder.supports(Modality::Image)?;
    knock(&state, &request, Modality::Image)?;
    let payload = Payload::receive(&state, request, &[Accepts::Image, Accepts::Multipart, Accepts::Json]).await?;
    let (terms, held) = (payload.terms, payload.held.clone());
    let read = embedder.heavy().run(payload.reading(), || read_images(&state, payload)).await?;
    let (images, outputs, format, priority) = read;
    let terms = with_priority(terms, priority);
    if outputs.is_empty() {
        check_dimensions(format.dimensions, embedder.dim(Modality::Image)?)?;
        let room = format.size(embedder, images.len(), Modality::Image)?.reserve(&state).await?;
        let embedded = embedder.embed_images(images, terms).await?;
        return format.answer(embedder, embedded, room, &held).await;
    }
    check_wanted(embedder, Modality::Image, outputs, &format)?;
    let room = room_for_outputs(&state, embedder, Modality::Image, images.len(), outputs, &format).await?;
    let answered = embedder.image_outputs(images, outputs, terms).await?;
    answer_outputs(embedder, answered, format, room, held).await
}

/// The pictures, what is asked of them, how they are to be answered, and their `priority`.
type ImagesRead = (Vec<Bytes>, OutputSet, Format, Option<i64>);

/// Reads the pictures. The body is gone with this, but for a picture that is the body.
fn read_images(state: &AppState, payload: Payload) -> Result<ImagesRead, ApiError> {
    let limit = state.config.limits.max_images;
    let form = payload.form_of_answer();
    let mut claim = payload.claim(state);
    if let Encoding::Json = payload.encoding {
        let request: EmbedImageRequest<'_> = payload.json()?;
        let EmbedImageRequest { images, normalize, dimensions, encoding_format: encoding, outputs, priority } = request;
        let images = images.pictures("images", limit, &mut claim)?;
        return Ok((images, outputs.into_iter().collect(), Format { normalize, dimensions, encoding, form }, priority));
    }
    let EmbedImageQuery { normalize, dimensions, encoding_format: encoding, outputs, priority } = payload.query()?;
    let images = match payload.encoding {
        // One part more than the limit, so that too many pictures are counted and named as pictures.
        Encoding::Multipart(boundary) => {
            Form::read(payload.body, &boundary, &[], Pictures::Files, limit + 1, &mut claim)?.files
        }
        _ => vec![picture(payload.body)],
    };
    check_count("images", images.len(), limit)?;
    Ok((images, outputs.into_iter().collect(), Format { normalize, dimensions, encoding, form }, priority))
}

/// JSON `{"texts": [..]}`, or one text as the body.
pub(in crate::http) async fn embed_text(
    State(state): State<Arc<AppState>>,
    request: Request,
) -> Result<Response, ApiError> {
    let embedder = state.embedder()?;
    embedder.supports(Modality::Text)?;
    knock(&state, &request, Modality::Text)?;
    let payload = Payload::receive(&state, request, &[Accepts::Json, Accepts::Text]).await?;
    let read = embedder.heavy().run(payload.reading(), || TextsRead::read(&state, &payload)).await?;
    let TextsRead { texts, room: _room, truncate, outputs, padding, format, priority } = read;
    let terms = with_priority(payload.terms, priority);
    let outputs: OutputSet = outputs.into_iter().collect();
    if outputs.is_empty() {
        if padding != (None, None) {
            return Err(ApiError::invalid("padding and attention_mask go with outputs: they change no embedding"));
        }
        check_dimensions(format.dimensions, embedder.dim(Modality::Text)?)?;
        let room = format.size(embedder, texts.len(), Modality::Text)?.reserve(&state).await?;
        let embedded = embedder.embed_texts(&texts, truncate, terms).await?;
        return format.answer(embedder, embedded, room, &payload.held).await;
    }
    check_wanted(embedder, Modality::Text, outputs, &format)?;
    let room = room_for_outputs(&state, embedder, Modality::Text, texts.len(), outputs, &format).await?;
    let padding = Padding { to: padding.0.unwrap_or(PadTo::Longest), attended: padding.1 == Some(false) };
    let answered = embedder.text_outputs(&texts, truncate, padding, outputs, terms).await?;
    answer_outputs(embedder, answered, format, room, payload.held).await
}

/// The texts of a request, what is asked of them, and how they are to be answered.
struct TextsRead<'a> {
    texts: Vec<Cow<'a, str>>,
    /// Of those that are not borrowed from the body.
    room: Reservation,
    truncate: bool,
    outputs: Vec<Output>,
    padding: (Option<PadTo>, Option<bool>),
    format: Format,
    priority: Option<i64>,
}

impl<'a> TextsRead<'a> {
    fn read(state: &AppState, payload: &'a Payload) -> Result<Self, ApiError> {
        let form = payload.form_of_answer();
        let mut claim = payload.claim(state);
        if let Encoding::Json = payload.encoding {
            let request: EmbedTextRequest<'_> = payload.json()?;
            let EmbedTextRequest { normalize, dimensions, encoding_format: encoding, truncate, outputs, .. } = request;
            let (texts, room) = request.texts.strings("texts", state.config.limits.max_texts, &mut claim)?;
            let (padding, priority) = ((request.padding, request.attention_mask), request.priority);
            let format = Format { normalize, dimensions, encoding, form };
            return Ok(Self { texts, room, truncate, outputs, padding, format, priority });
        }
        let query: EmbedTextQuery = payload.query()?;
        let EmbedTextQuery { normalize, dimensions, encoding_format: encoding, truncate, outputs, .. } = query;
        let (padding, priority) = ((query.padding, query.attention_mask), query.priority);
        let (texts, room) = (vec![Cow::Borrowed(payload.text()?)], claim.reserve(0)?);
        let format = Format { normalize, dimensions, encoding, form };
        Ok(Self { texts, room, truncate, outputs, padding, format, priority })
    }
}
