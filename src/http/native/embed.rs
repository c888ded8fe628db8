//! `POST /embed/image` and `POST /embed/text`: one embedding for each item, in order, and the other outputs where they are
//! asked for.

use std::{borrow::Cow, sync::Arc};

use axum::{
    extract::{Request, State},
    response::Response,
};

use super::{
    format::Format,
    outputs::{answer_outputs, check_wanted, room_for_outputs},
    wire::{
        EmbedImageQuery, EmbedImageRequest, EmbedResponse, EmbedTextQuery, EmbedTextRequest, OutputsResponse,
        PartialResponse, TAG,
    },
};
use crate::{
    budget::Reservation,
    embedder::{BadItem, Embedded, Modality, PadTo, Padding, Partly},
    encoder::{Output, OutputSet},
    http::{
        ApiError, AppState,
        door::{knock, with_priority},
        embedding::EmbeddingForm,
        error::NATIVE,
        operation::{FORM, GATED, JSON, Operation, Schemas, bytes, text},
        reply::{NPY, NPZ},
        request::{
            each::{Each, Missing, OnError},
            form::{self, Form, Pictures},
            json::check_count,
            limit::Limit,
            payload::{Accepts, Encoding, Payload, picture},
            picture::Picture,
        },
    },
};

/// Both routes.
pub(in crate::http) fn operations(schemas: &mut Schemas) -> Vec<Operation> {
    let image = Operation::post(TAG, "/embed/image", "An embedding for each picture")
        .asks::<EmbedImageQuery>(schemas)
        .takes(JSON, schemas.request::<EmbedImageRequest<'_>>())
        .takes(FORM, form::schema(&[], &[]))
        .takes("image/*", bytes())
        .takes("application/octet-stream", bytes());
    let text = Operation::post(TAG, "/embed/text", "An embedding for each text")
        .asks::<EmbedTextQuery>(schemas)
        .takes(JSON, schemas.request::<EmbedTextRequest<'_>>())
        .takes("text/plain", text());
    let answered = |operation: Operation| {
        operation
            .answers(JSON, schemas.answer::<EmbedResponse<'_>>())
            .answers(JSON, schemas.answer::<OutputsResponse<'_>>())
            .answers(JSON, schemas.answer::<PartialResponse<'_>>())
            .answers(NPY, bytes())
            .answers(NPZ, bytes())
            .refuses(schemas, GATED, &[NATIVE])
    };
    [image, text].into_iter().map(answered).collect()
}

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
        format.check(embedder.dim(Modality::Image)?)?;
        let room = format.size(embedder, images.len(), Modality::Image)?.reserve(&state).await?;
        let mut images = images.bring(&state, terms).await?;
        let embedded = match format.on_error {
            OnError::Fail => (embedder.embed_images(images.take(), terms).await?, None),
            OnError::Partial => missing(embedder.embed_images_partly(images.take(), terms).await?, images),
        };
        return format.answer(embedder, embedded, room, &held).await;
    }
    check_wanted(embedder, Modality::Image, outputs, &format)?;
    let room = room_for_outputs(&state, embedder, Modality::Image, images.len(), outputs, &format).await?;
    let images = images.bring(&state, terms).await?.take();
    let answered = embedder.image_outputs(images, outputs, terms).await?;
    answer_outputs(embedder, answered, format, room, held).await
}

/// What was had of a request some of whose items may have failed, beside what was not.
fn missing<T>(partly: Partly, read: Each<T>) -> (Embedded, Option<Missing>) {
    let Partly { embedded, failed } = partly;
    let failed = failed.into_iter().map(|BadItem { index, error }| (index, error.into()));
    (embedded, Some(read.missing(failed)))
}

/// The pictures, what is asked of them, how they are to be answered, and their `priority`.
type ImagesRead = (Each<Picture>, OutputSet, Format, Option<i64>);

/// Reads the pictures. The body is gone with this, but for a picture that is the body.
fn read_images(state: &AppState, payload: Payload) -> Result<ImagesRead, ApiError> {
    let limits = &state.config.limits;
    let form = payload.form_of_answer();
    let mut claim = payload.claim(state);
    if let Encoding::Json = payload.encoding {
        let request: EmbedImageRequest<'_> = payload.json()?;
        let EmbedImageRequest { normalize, dimensions, on_error, outputs, priority, .. } = request;
        let embedding = EmbeddingForm { kind: request.embedding_type, format: request.encoding_format };
        let images = request.images.each_picture("images", Limit::images(limits), &mut claim, on_error)?;
        let format = Format { normalize, dimensions, embedding, on_error, form };
        return Ok((images, outputs.into_iter().collect(), format, priority));
    }
    let query: EmbedImageQuery = payload.query()?;
    let EmbedImageQuery { normalize, dimensions, on_error, outputs, priority, .. } = query;
    let embedding = EmbeddingForm { kind: query.embedding_type, format: query.encoding_format };
    let images = match payload.encoding {
        // One part more than the limit, so that too many pictures are counted and named as pictures.
        Encoding::Multipart(boundary) => {
            Form::read(payload.body, &boundary, &[], Pictures::Files, limits.max_images + 1, &mut claim)?.files
        }
        _ => vec![picture(payload.body)],
    };
    check_count("images", images.len(), Limit::images(limits))?;
    let images = images.into_iter().map(Picture::Here).collect();
    let format = Format { normalize, dimensions, embedding, on_error, form };
    Ok((Each::all(images, on_error), outputs.into_iter().collect(), format, priority))
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
    let TextsRead { mut texts, room: _room, truncate, outputs, padding, format, priority } = read;
    let terms = with_priority(payload.terms, priority);
    let outputs: OutputSet = outputs.into_iter().collect();
    if outputs.is_empty() {
        if padding != (None, None) {
            return Err(ApiError::invalid("padding and attention_mask go with outputs: they change no embedding"));
        }
        format.check(embedder.dim(Modality::Text)?)?;
        let room = format.size(embedder, texts.len(), Modality::Text)?.reserve(&state).await?;
        let items = texts.take();
        let embedded = match format.on_error {
            OnError::Fail => (embedder.embed_texts(&items, truncate, terms).await?, None),
            OnError::Partial => missing(embedder.embed_texts_partly(&items, truncate, terms).await?, texts),
        };
        return format.answer(embedder, embedded, room, &payload.held).await;
    }
    check_wanted(embedder, Modality::Text, outputs, &format)?;
    let room = room_for_outputs(&state, embedder, Modality::Text, texts.len(), outputs, &format).await?;
    let padding = Padding { to: padding.0.unwrap_or(PadTo::Longest), attended: padding.1 == Some(false) };
    let answered = embedder.text_outputs(&texts.take(), truncate, padding, outputs, terms).await?;
    answer_outputs(embedder, answered, format, room, payload.held).await
}

/// The texts of a request, what is asked of them, and how they are to be answered.
struct TextsRead<'a> {
    texts: Each<Cow<'a, str>>,
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
            let EmbedTextRequest { normalize, dimensions, on_error, truncate, outputs, .. } = request;
            let embedding = EmbeddingForm { kind: request.embedding_type, format: request.encoding_format };
            let limit = Limit::texts(&state.config.limits);
            let (texts, room) = request.texts.each_string("texts", limit, &mut claim, on_error)?;
            let (padding, priority) = ((request.padding, request.attention_mask), request.priority);
            let format = Format { normalize, dimensions, embedding, on_error, form };
            return Ok(Self { texts, room, truncate, outputs, padding, format, priority });
        }
        let query: EmbedTextQuery = payload.query()?;
        let EmbedTextQuery { normalize, dimensions, on_error, truncate, outputs, .. } = query;
        let embedding = EmbeddingForm { kind: query.embedding_type, format: query.encoding_format };
        let (padding, priority) = ((query.padding, query.attention_mask), query.priority);
        let (texts, room) = (Each::all(vec![Cow::Borrowed(payload.text()?)], on_error), claim.reserve(0)?);
        let format = Format { normalize, dimensions, embedding, on_error, form };
        Ok(Self { texts, room, truncate, outputs, padding, format, priority })
    }
}
