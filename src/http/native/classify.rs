//! `POST /classify`: zero-shot labelling, as `transformers`' `ZeroShotImageClassificationPipeline` does it, with any number of
//! templates.
//!
//! A label's embedding is the mean of its L2-normalised embeddings in each template, normalised again (prompt ensembling, as
//! in the CLIP paper, section 3.1.4); the scores of an image are the softmax over the labels of `logits_per_image`.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    response::Response,
};
use memchr::memmem;
use ndarray::{Array2, Axis};

use super::wire::{ClassifyQuery, ClassifyRequest, ClassifyResponse, Score, Scores, TAG};
use crate::{
    budget::Reservation,
    config::LimitsConfig,
    embedder::{EmbedError, Embedder, Modality},
    http::{
        ApiError, AppState, Code,
        answer::{Size, escaped_len},
        door::with_priority,
        error::NATIVE,
        operation::{FORM, GATED, JSON, Operation, Schemas},
        reply::Written,
        request::{
            form::{self, Form, Pictures},
            json::check_count,
            limit::Limit,
            payload::{Accepts, Encoding, Payload},
            picture::{Picture, bring_all},
            room::Claim,
        },
    },
    similarity,
};

/// The route.
pub(in crate::http) fn operations(schemas: &mut Schemas) -> Vec<Operation> {
    let operation = Operation::post(TAG, "/classify", "The labels of each picture, best first")
        .asks::<ClassifyQuery>(schemas)
        .takes(JSON, schemas.request::<ClassifyRequest<'_>>())
        .takes(FORM, form::schema(&["label"], &["template"]))
        .answers(JSON, schemas.answer::<ClassifyResponse<'_>>());
    vec![operation.refuses(schemas, GATED, &[NATIVE])]
}

/// The `hypothesis_template` of the pipeline in `transformers`.
const DEFAULT_TEMPLATE: &str = "This is a photo of {}.";

/// Where a template has the label.
const PLACEHOLDER: &str = "{}";

/// A request, from either encoding.
struct Classification {
    images: Vec<Picture>,
    labels: Vec<String>,
    /// All labels in the first template, then all in the second, and so on.
    prompts: Vec<String>,
    top_k: Option<usize>,
    priority: Option<i64>,
    /// The room of labels and prompts; pictures have their own.
    room: Reservation,
}

/// JSON, or multipart with file parts as images and the fields `label` and `template`.
pub(in crate::http) async fn classify(
    State(state): State<Arc<AppState>>,
    request: Request,
) -> Result<Response, ApiError> {
    let embedder = state.embedder()?;
    let logit_scale = embedder.logit_scale()?;
    let payload = Payload::receive(&state, request, &[Accepts::Json, Accepts::Multipart]).await?;
    let (terms, held) = (payload.terms, payload.held.clone());
    let read = embedder.heavy().run(payload.reading(), || Classification::read(&state, payload)).await?;
    let Classification { images, labels, prompts, top_k, priority, room: _room } = read;
    let terms = with_priority(terms, priority);
    let room = size(embedder, images.len(), &labels, prompts.len(), top_k)?.reserve(&state).await?;
    let images = bring_all(&state, images, terms).await?;
    let (images, texts) =
        tokio::try_join!(embedder.embed_images(images, terms), embedder.embed_texts(&prompts, true, terms))?;
    let takes = room.writing();
    let write = || {
        let timings = images.timings.max(texts.timings);
        let image_embeds = images.finish(None, true);
        let label_embeds = ensemble(&texts.finish(None, true), labels.len());
        let logits = similarity::logits_per_image(image_embeds.view(), label_embeds.view(), logit_scale);
        let probs = similarity::softmax_rows(logits.view());
        let results = Scores { labels: &labels, probs: probs.view(), top_k };
        let written = Written::json(room.buffer(), &ClassifyResponse { model: &embedder.info().name, results })?;
        drop((image_embeds, label_embeds, logits, probs));
        Ok(written.answer(room, &held, timings))
    };
    embedder.heavy().run(takes, write).await
}

/// Of `n` images, each with the `top_k` best of `labels`, whose embeddings come from so many `prompts`.
fn size(
    embedder: &Embedder,
    n: usize,
    labels: &[String],
    prompts: usize,
    top_k: Option<usize>,
) -> Result<Size, EmbedError> {
    let dim = embedder.dim(Modality::Text)?;
    let embeds = n.saturating_add(prompts).saturating_add(labels.len()).saturating_mul(dim);
    // Which labels are the best is not known yet, so the longest ones are taken for them.
    let mut lens: Vec<usize> = labels.iter().map(|label| escaped_len(label)).collect();
    lens.sort_unstable_by(|a, b| b.cmp(a));
    let per_image = lens
        .iter()
        .take(top_k.unwrap_or(usize::MAX))
        .fold(AROUND_SCORES, |sum: usize, len| sum.saturating_add(*len).saturating_add(AROUND_SCORE));
    Ok(Size::new(&embedder.info().name)
        .holding(embeds)
        .holding(n.saturating_mul(labels.len()).saturating_mul(2))
        // The scores of one image at a time, and as much to sort them.
        .holding(labels.len().saturating_mul(2 * size_of::<Score<'_>>() / size_of::<f32>()))
        .writing(n.saturating_mul(per_image)))
}

/// The brackets around the scores of one image, and a comma.
const AROUND_SCORES: usize = 3;

/// `{"label":"","score":},` and the number.
const AROUND_SCORE: usize = 22 + 16;

impl Classification {
    /// The body is gone with this.
    fn read(state: &AppState, payload: Payload) -> Result<Self, ApiError> {
        let limits = &state.config.limits;
        let mut claim = payload.claim(state);
        let (images, labels, templates, (top_k, priority), mut room) = if let Encoding::Multipart(boundary) =
            &payload.encoding
        {
            let ClassifyQuery { top_k, priority } = payload.query()?;
            let max_parts = limits.max_images + limits.max_texts + 1;
            let mut form =
                Form::read(payload.body, boundary, &["label", "template"], Pictures::Files, max_parts, &mut claim)?;
            let (labels, templates) = (form.take("label"), form.take("template"));
            let Form { files, room, .. } = form;
            check_count("images", files.len(), Limit::images(limits))?;
            check_count("labels", labels.len(), Limit::texts(limits))?;
            let templates = Some(templates).filter(|templates| !templates.is_empty());
            let images = files.into_iter().map(Picture::Here).collect();
            (images, labels, templates, (top_k, priority), room)
        } else {
            let ClassifyRequest { images, labels, templates, top_k, priority } = payload.json()?;
            let (labels, mut room) = labels.owned_strings("labels", Limit::texts(limits), &mut claim)?;
            let templates = match templates.filter(|templates| !templates.is_empty_list()) {
                Some(templates) => {
                    let (templates, more) = templates.owned_strings("templates", Limit::texts(limits), &mut claim)?;
                    room.merge(more);
                    Some(templates)
                }
                None => None,
            };
            let images = images.pictures("images", Limit::images(limits), &mut claim)?;
            (images, labels, templates, (top_k, priority), room)
        };
        if top_k == Some(0) {
            return Err(ApiError::invalid("top_k is 0, expected at least 1"));
        }
        let templates = templates.unwrap_or_else(|| vec![DEFAULT_TEMPLATE.to_owned()]);
        let (prompts, more) = prompts(&labels, &templates, limits, &mut claim)?;
        room.merge(more);
        Ok(Self { images, labels, prompts, top_k, priority, room })
    }
}

/// Every label in every template: all labels in the first template, then all in the second, and so on. With the room that they take.
///
/// # Errors
/// 413 for too many; 400 for a template without a place for the label; 422 for a prompt over `limits.max_text_bytes`; 413 and 429 as
/// [`Claim::reserve`]. All of it before one is filled.
fn prompts(
    labels: &[String],
    templates: &[String],
    limits: &LimitsConfig,
    claim: &mut Claim<'_>,
) -> Result<(Vec<String>, Reservation), ApiError> {
    let count = labels.len().saturating_mul(templates.len());
    if count > limits.max_texts {
        let message = format!(
            "{} labels in {} templates make {count} texts, the limit is {}",
            labels.len(),
            templates.len(),
            Limit::texts(limits)
        );
        return Err(ApiError::new(Code::PayloadTooLarge, message));
    }
    let mut lens = Vec::with_capacity(count);
    for (at, template) in templates.iter().enumerate() {
        let places = memmem::find_iter(template.as_bytes(), PLACEHOLDER).count();
        if places == 0 {
            let message = format!("a template must have {PLACEHOLDER} where the label goes");
            return Err(ApiError::invalid(message).at(at));
        }
        let around = template.len() - places * PLACEHOLDER.len();
        for (index, label) in labels.iter().enumerate() {
            let len = label.len().saturating_mul(places).saturating_add(around);
            if len > limits.max_text_bytes {
                let message = format!(
                    "label {index} in template {at} makes a text of {len} bytes, the limit is {} (limits.max_text_bytes); shorten either",
                    limits.max_text_bytes
                );
                return Err(ApiError::new(Code::InvalidText, message).at(index));
            }
            lens.push(len);
        }
    }
    let room = claim.reserve(lens.iter().fold(0, |sum: usize, len| sum.saturating_add(*len)))?;
    let pairs = templates.iter().flat_map(|template| labels.iter().map(move |label| (template, label)));
    let fill = |((template, label), len): ((&String, &String), usize)| {
        let mut prompt = String::with_capacity(len);
        for (piece, text) in template.split(PLACEHOLDER).enumerate() {
            prompt.push_str(if piece == 0 { "" } else { label });
            prompt.push_str(text);
        }
        prompt
    };
    Ok((pairs.zip(lens).map(fill).collect(), room))
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
    use crate::{
        config::{self, Overrides},
        http::request::room::tests::with_claim,
    };

    fn filled(labels: &[&str], templates: &[&str], set: &[&str]) -> Result<(Vec<String>, usize), ApiError> {
        let set = [&["model.path=m"], set].concat().into_iter().map(str::to_owned).collect();
        let config = config::load(&Overrides { set, ..Overrides::default() }, []).expect("valid").config;
        let owned = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect::<Vec<_>>();
        with_claim(64 << 10, |claim| {
            let (prompts, room) = prompts(&owned(labels), &owned(templates), &config.limits, claim)?;
            Ok((prompts, room.bytes()))
        })
    }

    #[test]
    fn prompts_and_ensemble_agree_on_the_order() {
        let (prompts, _) = filled(&["cat", "dog"], &["a {}", "the {}, a {}"], &[]).expect("valid");
        assert_eq!(prompts, ["a cat", "a dog", "the cat, a cat", "the dog, a dog"]);
        let embeds = array![[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [0.0, 1.0]];
        let half = std::f32::consts::FRAC_1_SQRT_2;
        assert_eq!(ensemble(&embeds, 2), array![[half, half], [0.0, 1.0]]);
    }

    #[test]
    fn a_prompt_has_a_limit_and_all_of_them_room_before_one_is_filled() {
        let limit = &["limits.max_text_bytes=1KiB"];
        let label = "l".repeat(100);
        let ten = "{}".repeat(10);
        let (prompts, room) = filled(&[&label, ""], &[&format!("{ten}{}", "t".repeat(24)), &ten], limit).expect("just");
        let lens: Vec<_> = prompts.iter().map(|prompt| (prompt.len(), prompt.capacity())).collect();
        assert_eq!((lens, room), (vec![(1024, 1024), (24, 24), (1000, 1000), (0, 0)], 2 << 10));

        let error = filled(&["a", &label], &["{}", &format!("{ten}{}", "t".repeat(25))], limit).expect_err("one more");
        assert_eq!((error.code, error.index), (Code::InvalidText, Some(1)));
        assert!(
            error.message.contains("label 1 in template 1 makes a text of 1025 bytes, the limit is 1024"),
            "{}",
            error.message
        );

        let many = vec!["{}"; 40];
        let error = filled(&[&"l".repeat(2000)], &many, &["limits.max_text_bytes=1MiB"]).expect_err("80 kB");
        assert!(error.code == Code::PayloadTooLarge && error.message.contains("80000 bytes, the limit is 65536"));
        let error = filled(&["a", "b"], &["{}", "{}"], &["limits.max_texts=3"]).expect_err("too many");
        assert_eq!(error.message, "2 labels in 2 templates make 4 texts, the limit is 3 (limits.max_texts)");
        assert_eq!(filled(&["a"], &["{}", "a"], &[]).expect_err("no place").index, Some(1));
    }
}
