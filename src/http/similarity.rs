//! `POST /similarity`: `logits_per_image` and what follows from it, as `CLIPModel.forward` answers.

use std::{borrow::Cow, sync::Arc};

use axum::{
    extract::{Request, State},
    response::Response,
};
use bytes::Bytes;
use ndarray::Array2;

use super::{
    ApiError, AppState,
    extract::{Accepts, Encoding, Payload, check_count, json_images},
    reply,
    wire::{Rows, SimilarityQuery, SimilarityRequest, SimilarityResponse, Strings},
};
use crate::{
    config::LimitsConfig,
    embedder::{EmbedError, Embedder, Modality, Terms, Timings},
    similarity,
};

/// One side of the comparison.
enum Side<T> {
    /// To be embedded.
    Inputs(Vec<T>),
    /// Embeddings of an earlier request, L2-normalised.
    Embeds(Array2<f32>),
}

/// A request, from either encoding.
struct Comparison<'a> {
    images: Side<Bytes>,
    texts: Side<Cow<'a, str>>,
    options: SimilarityQuery,
}

/// JSON, or multipart with file parts as images and `text` fields as texts.
pub(super) async fn similarity(State(state): State<Arc<AppState>>, request: Request) -> Result<Response, ApiError> {
    let embedder = state.embedder()?;
    let logit_scale = embedder.logit_scale()?;
    let payload = Payload::receive(&state, request, &[Accepts::Json, Accepts::Multipart]).await?;
    let limits = &state.config.limits;
    let form;
    let comparison = if let Encoding::Multipart(boundary) = &payload.encoding {
        form = payload.form(boundary, &["text"], limits.max_images + limits.max_texts + 1).await?;
        let texts = form.values("text").into_iter().map(Cow::Borrowed).collect();
        Comparison::new(Side::Inputs(form.files.clone()), Side::Inputs(texts), payload.query()?, limits)?
    } else {
        Comparison::from_json(payload.json()?, limits, embedder.dim(Modality::Text)?)?
    };
    let Comparison { images, texts, options } = comparison;
    if options.return_loss && images.len() != texts.len() {
        return Err(ApiError::invalid(format!(
            "return_loss pairs image i with text i, so it needs as many texts as images; there are {} images and {} texts",
            images.len(),
            texts.len()
        )));
    }
    let terms = payload.terms;
    let (images, texts) =
        tokio::try_join!(embed_images(embedder, images, terms), embed_texts(embedder, texts, options.truncate, terms))?;
    let ((image_embeds, image_timings), (text_embeds, text_timings)) = (images, texts);
    let logits = similarity::logits_per_image(image_embeds.view(), text_embeds.view(), logit_scale);
    let probs = similarity::softmax_rows(logits.view());
    let response = SimilarityResponse {
        model: &embedder.info().name,
        logit_scale,
        logits_per_image: Rows::floats(logits.view()),
        logits_per_text: Rows::floats(logits.t()),
        probs: Rows::floats(probs.view()),
        image_embeds: options.return_embeds.then(|| Rows::floats(image_embeds.view())),
        text_embeds: options.return_embeds.then(|| Rows::floats(text_embeds.view())),
        loss: options.return_loss.then(|| similarity::contrastive_loss(logits.t())),
    };
    reply::json(&response, Some(image_timings.max(text_timings)))
}

impl<'a> Comparison<'a> {
    fn new(
        images: Side<Bytes>,
        texts: Side<Cow<'a, str>>,
        options: SimilarityQuery,
        limits: &LimitsConfig,
    ) -> Result<Self, ApiError> {
        check_count("images", images.len(), limits.max_images)?;
        check_count("texts", texts.len(), limits.max_texts)?;
        Ok(Self { images, texts, options })
    }

    fn from_json(request: SimilarityRequest<'a>, limits: &LimitsConfig, dim: usize) -> Result<Self, ApiError> {
        let images = match (request.images, request.image_embeds) {
            (Some(images), None) => {
                check_count("images", images.0.len(), limits.max_images)?;
                Side::Inputs(json_images(&images)?)
            }
            (None, Some(embeds)) => Side::Embeds(matrix("image_embeds", &embeds, dim)?),
            _ => return Err(ApiError::invalid("give either images or image_embeds")),
        };
        let texts = match (request.texts, request.text_embeds) {
            (Some(Strings(texts)), None) => Side::Inputs(texts),
            (None, Some(embeds)) => Side::Embeds(matrix("text_embeds", &embeds, dim)?),
            _ => return Err(ApiError::invalid("give either texts or text_embeds")),
        };
        let SimilarityRequest { truncate, return_embeds, return_loss, .. } = request;
        Self::new(images, texts, SimilarityQuery { truncate, return_embeds, return_loss }, limits)
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

/// The client's embeddings, checked and L2-normalised: finite, not zero, as long as the model's.
fn matrix(name: &str, rows: &[Vec<f32>], dim: usize) -> Result<Array2<f32>, ApiError> {
    let mut matrix = Array2::zeros((rows.len(), dim));
    for (i, (row, mut target)) in rows.iter().zip(matrix.rows_mut()).enumerate() {
        if row.len() != dim {
            let message = format!("{name} has {} values, the model's embeddings have {dim}", row.len());
            return Err(ApiError::invalid(message).at(i));
        }
        target.assign(&ndarray::ArrayView1::from(row));
        let norm = similarity::norm(target.view());
        if !(norm.is_finite() && norm > 0.0) {
            return Err(ApiError::invalid(format!("{name} must be finite and not all zero")).at(i));
        }
        similarity::normalize_row(target);
    }
    Ok(matrix)
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
    texts: Side<Cow<'_, str>>,
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
