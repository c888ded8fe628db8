//! `POST /classify`: zero-shot labelling, as `transformers`' `ZeroShotImageClassificationPipeline` does it, with any number of
//! templates.
//!
//! A label's embedding is the mean of its L2-normalised embeddings in each template, normalised again (prompt ensembling, as
//! in the CLIP paper, section 3.1.4); the scores of an image are the softmax over the labels of `logits_per_image`.

use std::{borrow::Cow, sync::Arc};

use axum::{
    extract::{Request, State},
    response::Response,
};
use bytes::Bytes;
use ndarray::{Array2, Axis};

use super::{
    ApiError, AppState, Code,
    extract::{Accepts, Encoding, Payload, check_count, json_images},
    reply,
    wire::{ClassifyQuery, ClassifyRequest, ClassifyResponse, Score, Strings},
};
use crate::{config::LimitsConfig, similarity};

/// The `hypothesis_template` of the pipeline in `transformers`.
const DEFAULT_TEMPLATE: &str = "This is a photo of {}.";

/// Where a template has the label.
const PLACEHOLDER: &str = "{}";

/// A request, from either encoding.
struct Classification<'a> {
    images: Vec<Bytes>,
    labels: Vec<Cow<'a, str>>,
    templates: Vec<Cow<'a, str>>,
    top_k: Option<usize>,
}

/// JSON, or multipart with file parts as images and the fields `label` and `template`.
pub(super) async fn classify(State(state): State<Arc<AppState>>, request: Request) -> Result<Response, ApiError> {
    let embedder = state.embedder()?;
    let logit_scale = embedder.logit_scale()?;
    let payload = Payload::receive(&state, request, &[Accepts::Json, Accepts::Multipart]).await?;
    let limits = &state.config.limits;
    let form;
    let request = if let Encoding::Multipart(boundary) = &payload.encoding {
        form = payload.form(boundary, &["label", "template"], limits.max_images + limits.max_texts + 1).await?;
        let ClassifyQuery { top_k } = payload.query()?;
        let values = |name| form.values(name).into_iter().map(Cow::Borrowed).collect();
        Classification { images: form.files.clone(), labels: values("label"), templates: values("template"), top_k }
    } else {
        let ClassifyRequest { images, labels: Strings(labels), templates, top_k } = payload.json()?;
        check_count("images", images.0.len(), limits.max_images)?;
        Classification { images: json_images(&images)?, labels, templates: templates.unwrap_or_default().0, top_k }
    };
    let request = request.check(limits)?;
    let prompts = request.prompts();
    let (images, texts) = tokio::try_join!(
        embedder.embed_images(request.images, payload.terms),
        embedder.embed_texts(&prompts, true, payload.terms)
    )?;
    let timings = images.timings.max(texts.timings);
    let image_embeds = images.finish(None, true);
    let label_embeds = ensemble(&texts.finish(None, true), request.labels.len());
    let logits = similarity::logits_per_image(image_embeds.view(), label_embeds.view(), logit_scale);
    let probs = similarity::softmax_rows(logits.view());
    let best_first = |row: ndarray::ArrayView1<'_, f32>| {
        let mut scores: Vec<Score<'_>> =
            request.labels.iter().zip(row).map(|(label, &score)| Score { label, score }).collect();
        scores.sort_by(|a, b| b.score.total_cmp(&a.score));
        scores.truncate(request.top_k.unwrap_or(usize::MAX));
        scores
    };
    let results = probs.rows().into_iter().map(best_first).collect();
    reply::json(&ClassifyResponse { model: &embedder.info().name, results }, Some(timings))
}

impl Classification<'_> {
    fn check(mut self, limits: &LimitsConfig) -> Result<Self, ApiError> {
        check_count("images", self.images.len(), limits.max_images)?;
        if self.templates.is_empty() {
            self.templates.push(Cow::Borrowed(DEFAULT_TEMPLATE));
        }
        check_count("labels", self.labels.len(), limits.max_texts)?;
        let texts = self.labels.len().saturating_mul(self.templates.len());
        if texts > limits.max_texts {
            let message = format!(
                "{} labels in {} templates make {texts} texts, the limit is {}",
                self.labels.len(),
                self.templates.len(),
                limits.max_texts
            );
            return Err(ApiError::new(Code::PayloadTooLarge, message));
        }
        if let Some(index) = self.templates.iter().position(|template| !template.contains(PLACEHOLDER)) {
            let message = format!("a template must have {PLACEHOLDER} where the label goes");
            return Err(ApiError::invalid(message).at(index));
        }
        if self.top_k == Some(0) {
            return Err(ApiError::invalid("top_k is 0, expected at least 1"));
        }
        Ok(self)
    }

    /// All labels in the first template, then all in the second, and so on.
    fn prompts(&self) -> Vec<String> {
        let fill = |template: &Cow<'_, str>, label: &Cow<'_, str>| template.replace(PLACEHOLDER, label);
        self.templates.iter().flat_map(|template| self.labels.iter().map(move |label| fill(template, label))).collect()
    }
}

/// The mean over templates of each label's embeddings, L2-normalised.
fn ensemble(embeds: &Array2<f32>, labels: usize) -> Array2<f32> {
    let mut mean = Array2::zeros((labels, embeds.ncols()));
    for template in embeds.axis_chunks_iter(Axis(0), labels) {
        mean += &template;
    }
    similarity::normalize(&mut mean);
    mean
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;

    #[test]
    fn prompts_and_ensemble_agree_on_the_order() {
        let request = Classification {
            images: Vec::new(),
            labels: vec!["cat".into(), "dog".into()],
            templates: vec!["a {}".into(), "the {}, a {}".into()],
            top_k: None,
        };
        assert_eq!(request.prompts(), ["a cat", "a dog", "the cat, a cat", "the dog, a dog"]);
        let embeds = array![[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [0.0, 1.0]];
        let half = std::f32::consts::FRAC_1_SQRT_2;
        assert_eq!(ensemble(&embeds, 2), array![[half, half], [0.0, 1.0]]);
    }
}
