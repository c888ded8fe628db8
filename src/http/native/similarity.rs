//! `POST /similarity`: `logits_per_image` and what follows from it, as `CLIPModel.forward` answers.
//!
//! Owns what a comparison is and its answer. The handler is beside that of another service's requests on the same path
//! (`dialects::tei`), which looks whose a body is.

use axum::response::Response;
use bytes::Bytes;
use ndarray::Array2;

use super::wire::{SimilarityQuery, SimilarityRequest, SimilarityResponse, TAG};
use crate::{
    budget::Reservation,
    embedder::{EmbedError, Embedder, Modality, Terms, Timings},
    http::{
        ApiError, AppState,
        answer::{Shape, Size},
        connection::held::Held,
        door::with_priority,
        embedding::Embeddings,
        error::NATIVE,
        operation::{FORM, GATED, JSON, Operation, Schemas},
        reply::Written,
        request::{
            form::{self, Form, Pictures},
            json::{Unread, check_count},
            limit::Limit,
            payload::{Accepts, Encoding, Payload},
            picture::{Picture, bring_all},
            room::Claim,
        },
    },
    similarity,
};

/// The route as it is ours.
pub(in crate::http) fn operation(schemas: &mut Schemas) -> Operation {
    Operation::post(TAG, "/similarity", "logits_per_image of pictures and texts, as CLIPModel computes it")
        .asks::<SimilarityQuery>(schemas)
        .takes(JSON, schemas.request::<SimilarityRequest<'_>>())
        .takes(FORM, form::schema(&["text"], &[]))
        .answers(JSON, schemas.answer::<SimilarityResponse<'_>>())
        .refuses(schemas, GATED, &[NATIVE])
}

/// One side of the comparison.
enum Side<T> {
    /// To be embedded.
    Inputs(Vec<T>),
    /// Embeddings of an earlier answer, L2-normalised.
    Embeds(Array2<f32>),
}

/// What a request may be: JSON, or multipart with file parts as images and `text` fields as texts.
pub(in crate::http) const ACCEPTS: &[Accepts] = &[Accepts::Json, Accepts::Multipart];

/// The members that no other service's request on the same path has.
pub(in crate::http) const OWN_MEMBERS: [&str; 6] =
    ["images", "texts", "image_embeds", "text_embeds", "return_embeds", "return_loss"];

/// A request, from either encoding.
pub(in crate::http) struct Comparison {
    logit_scale: f32,
    images: Side<Picture>,
    texts: Side<String>,
    options: SimilarityQuery,
    /// The room of texts and embeddings; pictures have their own.
    room: Reservation,
}

/// Of `n` images with `m` texts.
fn size(embedder: &Embedder, n: usize, m: usize, with_embeds: bool) -> Result<Size, EmbedError> {
    let dim = embedder.dim(Modality::Text)?;
    let pairs = n.saturating_mul(m);
    let size = Size::new(&embedder.info().name)
        .holding(n.saturating_add(m).saturating_mul(dim))
        .holding(pairs.saturating_mul(2))
        .writing_array(&[n, m], Shape::Numbers)
        .writing_array(&[m, n], Shape::Numbers)
        .writing_array(&[n, m], Shape::Numbers);
    if !with_embeds {
        return Ok(size);
    }
    Ok(size.writing_array(&[n, dim], Shape::Numbers).writing_array(&[m, dim], Shape::Numbers))
}

impl Comparison {
    /// Of a multipart body, which is gone with this.
    ///
    /// # Errors
    /// 501 when the model has not both towers; 400 for what cannot be understood, 413 and 429 for what has no room.
    pub(in crate::http) fn of_form(state: &AppState, embedder: &Embedder, payload: Payload) -> Result<Self, ApiError> {
        let (logit_scale, limits) = (embedder.logit_scale()?, &state.config.limits);
        let (options, mut claim) = (payload.query()?, payload.claim(state));
        let Encoding::Multipart(boundary) = &payload.encoding else {
            return Err(ApiError::internal("a form that is none"));
        };
        let max_parts = limits.max_images + limits.max_texts + 1;
        let mut form = Form::read(payload.body, boundary, &["text"], Pictures::Files, max_parts, &mut claim)?;
        let texts = form.take("text");
        let Form { files, room, .. } = form;
        check_count("images", files.len(), Limit::images(limits))?;
        check_count("texts", texts.len(), Limit::texts(limits))?;
        let files = files.into_iter().map(Picture::Here).collect();
        Ok(Self { logit_scale, images: Side::Inputs(files), texts: Side::Inputs(texts), options, room })
    }

    /// Of the members of a JSON body.
    ///
    /// # Errors
    /// As [`Self::of_form`].
    pub(in crate::http) fn of_members(
        state: &AppState,
        embedder: &Embedder,
        members: &Unread<'_>,
        mut claim: Claim<'_>,
    ) -> Result<Self, ApiError> {
        let (logit_scale, limits) = (embedder.logit_scale()?, &state.config.limits);
        let dim = embedder.dim(Modality::Text)?;
        let request: SimilarityRequest<'_> = members.read()?;
        let (texts, mut room) = match (request.texts, request.text_embeds) {
            (Some(texts), None) => {
                let (texts, room) = texts.owned_strings("texts", Limit::texts(limits), &mut claim)?;
                (Side::Inputs(texts), room)
            }
            (None, Some(embeds)) => {
                let (embeds, room) = embeds.embeddings("text_embeds", Limit::texts(limits), dim, &mut claim)?;
                (Side::Embeds(embeds), room)
            }
            _ => return Err(ApiError::invalid("give either texts or text_embeds")),
        };
        let images = match (request.images, request.image_embeds) {
            (Some(images), None) => Side::Inputs(images.pictures("images", Limit::images(limits), &mut claim)?),
            (None, Some(embeds)) => {
                let (embeds, more) = embeds.embeddings("image_embeds", Limit::images(limits), dim, &mut claim)?;
                room.merge(more);
                Side::Embeds(embeds)
            }
            _ => return Err(ApiError::invalid("give either images or image_embeds")),
        };
        let SimilarityRequest { truncate, return_embeds, return_loss, priority, .. } = request;
        let options = SimilarityQuery { truncate, return_embeds, return_loss, priority };
        Ok(Self { logit_scale, images, texts, options, room })
    }

    /// The answer.
    ///
    /// # Errors
    /// 400 for a loss of as many images as there are not texts, 413 and 429 for an answer that has no room, and the embedder's.
    pub(in crate::http) async fn answer(
        self,
        state: &AppState,
        embedder: &Embedder,
        terms: Terms,
        held: Held,
    ) -> Result<Response, ApiError> {
        let Self { logit_scale, images, texts, options, room: _room } = self;
        let terms = with_priority(terms, options.priority);
        if options.return_loss && images.len() != texts.len() {
            return Err(ApiError::invalid(format!(
                "return_loss pairs image i with text i, so it needs as many texts as images; there are {} images and {} texts",
                images.len(),
                texts.len()
            )));
        }
        let room = size(embedder, images.len(), texts.len(), options.return_embeds)?.reserve(state).await?;
        let images = match images {
            Side::Inputs(images) => Side::Inputs(bring_all(state, images, terms).await?),
            Side::Embeds(embeds) => Side::Embeds(embeds),
        };
        let (images, texts) = tokio::try_join!(
            embed_images(embedder, images, terms),
            embed_texts(embedder, texts, options.truncate, terms)
        )?;
        let takes = room.writing();
        let write = || {
            let ((image_embeds, image_timings), (text_embeds, text_timings)) = (images, texts);
            let logits = similarity::logits_per_image(image_embeds.view(), text_embeds.view(), logit_scale);
            let probs = similarity::softmax_rows(logits.view());
            let response = SimilarityResponse {
                model: &embedder.info().name,
                logit_scale,
                logits_per_image: Embeddings::floats(logits.view()),
                logits_per_text: Embeddings::floats(logits.t()),
                probs: Embeddings::floats(probs.view()),
                image_embeds: options.return_embeds.then(|| Embeddings::floats(image_embeds.view())),
                text_embeds: options.return_embeds.then(|| Embeddings::floats(text_embeds.view())),
                loss: options.return_loss.then(|| similarity::contrastive_loss(logits.t())),
            };
            let written = Written::json(room.buffer(), &response)?;
            drop((image_embeds, text_embeds, logits, probs));
            Ok(written.answer(room, &held, image_timings.max(text_timings)))
        };
        embedder.heavy().run(takes, write).await
    }
}

impl<T> Side<T> {
    fn len(&self) -> usize {
        match self {
            Self::Inputs(inputs) => inputs.len(),
            Self::Embeds(embeds) => embeds.nrows(),
        }
    }
}

async fn embed_images(
    embedder: &Embedder,
    images: Side<Bytes>,
    terms: Terms,
) -> Result<(Array2<f32>, Timings), EmbedError> {
    match images {
        Side::Embeds(embeds) => Ok((embeds, Timings::default())),
        Side::Inputs(images) => {
            let embedded = embedder.embed_images(images, terms).await?;
            let timings = embedded.timings;
            Ok((embedded.finish(None, true), timings))
        }
    }
}

async fn embed_texts(
    embedder: &Embedder,
    texts: Side<String>,
    truncate: bool,
    terms: Terms,
) -> Result<(Array2<f32>, Timings), EmbedError> {
    match texts {
        Side::Embeds(embeds) => Ok((embeds, Timings::default())),
        Side::Inputs(texts) => {
            let embedded = embedder.embed_texts(&texts, truncate, terms).await?;
            let timings = embedded.timings;
            Ok((embedded.finish(None, true), timings))
        }
    }
}
