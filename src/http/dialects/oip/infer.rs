//! `POST /v2/models/{model}[/versions/1]/infer`: tensors in, tensors out.
//!
//! Owns the order: read, refuse what cannot be had, take room, compute, write. Does not own how a request is read (`request`), nor how its
//! answer is written (`answer`).

use std::{pin::pin, sync::Arc, time::Instant};

use axum::{
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use http::{HeaderValue, header};
use ndarray::{Array2, ArrayD};

use super::{
    answer::{Answer, Tensor, Values},
    output::{Counts, Name, states},
    request::{Body, HEADER_LENGTH, Images, Inference, OutputAsked, Texts},
    route::{ERRORS, TAG, Target, Verb},
};
use crate::{
    budget::Reservation,
    embedder::{EmbedError, Embedded, Embedder, Modality, Outputs, PadTo, Padding, Terms, Timings, finish},
    encoder::{Output, OutputSet},
    http::{
        ApiError, AppState, Code,
        answer::{Size, escaped_len},
        operation::{JSON, OF_A_MODEL, Operation, Schemas, bytes},
        path::PathRest,
        request::payload::{Accepts, Payload},
    },
    similarity,
};

/// The route, with the version and without.
pub(in crate::http) fn operations(schemas: &mut Schemas) -> Vec<Operation> {
    const BINARY: &str = "application/octet-stream";
    let operation = |path| {
        Operation::post(TAG, path, "Tensors in, tensors out")
            .may_have_header(HEADER_LENGTH.as_str(), "Bytes of the JSON, where others stand behind it")
            .takes(JSON, schemas.request::<Body<'_>>())
            .takes(BINARY, bytes())
            .answers(JSON, schemas.answer::<Answer<'_, '_>>())
            .answers(BINARY, bytes())
            .refuses(schemas, OF_A_MODEL, &[ERRORS])
    };
    let paths = ["/v2/models/{model}/infer", "/v2/models/{model}/versions/{version}/infer"];
    paths.into_iter().map(operation).collect()
}

/// The handler.
pub(in crate::http) async fn infer(
    State(state): State<Arc<AppState>>,
    PathRest(path): PathRest,
    request: Request,
) -> Result<Response, ApiError> {
    let target = Target::read(&path)?;
    if target.verb != Verb::Infer {
        let error = ApiError::new(Code::MethodNotAllowed, "tensors are posted to the model's /infer; this is a GET");
        return Ok(([(header::ALLOW, HeaderValue::from_static("GET"))], error).into_response());
    }
    let embedder = state.resolve(Some(target.model))?;
    let payload = Payload::receive(&state, request, &[Accepts::AnyJson]).await?;
    let (terms, held) = (payload.terms, payload.held.clone());
    let reading = payload.reading();
    let read = embedder.heavy().run(reading, || Inference::read(&state, embedder, payload)).await?;
    let Inference { id, images, texts, outputs, timeout, room: _room } = read;
    let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    let terms = deadline.map_or(terms, |deadline| sooner(terms, deadline));
    let counts = Counts { images: images.as_ref().map(Images::len), texts: texts.as_ref().map(Texts::len) };
    let mut size = Size::new(&embedder.info().name).writing(id.as_deref().map_or(0, escaped_len));
    let longest = embedder.info().context_length.unwrap_or(0);
    // What no output follows from is not computed.
    let is_asked = |side| outputs.iter().any(|asked| asked.output.sides().contains(&side));
    for side in [Modality::Image, Modality::Text].into_iter().filter(|&side| is_asked(side)) {
        // Embeddings come with whatever is asked of a side: as they are computed, and as they are finished.
        let values = counts.of(side).unwrap_or(0).saturating_mul(embedder.dim(side).unwrap_or(0));
        size = size.holding(values.saturating_mul(2));
    }
    if outputs.iter().any(|asked| matches!(asked.output, Name::LogitsPer(_))) {
        size = size.holding(counts.images.unwrap_or(0).saturating_mul(counts.texts.unwrap_or(0)));
    }
    for &OutputAsked { output, binary, .. } in &outputs {
        size = output.add_to(size, &output.shape(embedder, counts, longest)?, binary);
    }
    let room = size.reserve(&state).await?;
    let names = || outputs.iter().map(|asked| asked.output);
    let compute_images = async {
        let Some(images) = images.filter(|_| is_asked(Modality::Image)) else { return Ok(None) };
        let name = images.name();
        let images = images.bring(&state, terms).await.map_err(|error| named(error, name))?;
        let side = Side::of_images(embedder, images, states(names(), Modality::Image), terms).await;
        side.map(Some).map_err(|error| named(error.into(), name))
    };
    let compute_texts = async {
        let Some(texts) = texts.filter(|_| is_asked(Modality::Text)) else { return Ok(None) };
        let name = texts.name();
        let side = Side::of_texts(embedder, texts, states(names(), Modality::Text), terms).await;
        side.map(Some).map_err(|error| named(error.into(), name))
    };
    // Each stays where it is while they are joined, being kilobytes.
    let (images, texts) = (pin!(compute_images), pin!(compute_texts));
    let (images, texts) = tokio::try_join!(images, texts)?;
    let takes = room.writing();
    let write = || {
        let timings = [&images, &texts].into_iter().flatten().map(|side| side.timings).reduce(Timings::max);
        let logits = logits(embedder, &outputs, images.as_ref(), texts.as_ref())?;
        let values = |output| values(output, images.as_ref(), texts.as_ref(), logits.as_ref());
        let tensors = outputs.iter().map(|OutputAsked { output, name, binary }| {
            Ok(Tensor { output: *output, name, values: values(*output)?, binary: *binary })
        });
        let tensors: Vec<Tensor<'_>> = tensors.collect::<Result<_, ApiError>>()?;
        let written = Answer::new(&embedder.info().name, id.as_deref(), &tensors).write(room.buffer());
        drop(tensors);
        drop((images, texts, logits));
        Ok(written?.answer(room, &held, timings.unwrap_or_default()))
    };
    embedder.heavy().run(takes, write).await
}

/// `terms` of a client that waits until `deadline` at most.
fn sooner(terms: Terms, deadline: Instant) -> Terms {
    let deadline = terms.deadline.min(deadline);
    let patience = terms.patience.map(|patience| patience.min(deadline.saturating_duration_since(Instant::now())));
    Terms { deadline, patience, ..terms }
}

/// An error of one side, whose tensor is called `name`.
fn named(error: ApiError, name: &str) -> ApiError {
    if error.index.is_some() { error.naming(name) } else { error }
}

/// What was computed of one side.
struct Side {
    /// L2-normalised.
    embeds: Option<Array2<f32>>,
    arrays: Vec<(Output, ArrayD<f32>)>,
    attention_mask: Option<ArrayD<i64>>,
    timings: Timings,
    /// Of the arrays.
    _room: Option<Reservation>,
}

impl Side {
    async fn of_images(
        embedder: &Embedder,
        images: Images<Bytes>,
        outputs: OutputSet,
        terms: Terms,
    ) -> Result<Self, EmbedError> {
        Ok(match images {
            Images::Files(files) if outputs.is_empty() => embedder.embed_images(files, terms).await?.into(),
            Images::Files(files) => embedder.image_outputs(files, outputs, terms).await?.into(),
            Images::Pixels(pictures) if outputs.is_empty() => embedder.embed_pixels(&pictures, terms).await?.into(),
            Images::Pixels(pictures) => embedder.pixel_outputs(pictures, outputs, terms).await?.into(),
        })
    }

    async fn of_texts(embedder: &Embedder, texts: Texts, outputs: OutputSet, terms: Terms) -> Result<Self, EmbedError> {
        let padding = Padding { to: PadTo::Longest, attended: false };
        Ok(match texts {
            Texts::Strings(texts) if outputs.is_empty() => embedder.embed_texts(&texts, true, terms).await?.into(),
            Texts::Strings(texts) => embedder.text_outputs(&texts, true, padding, outputs, terms).await?.into(),
            Texts::Ids(ids) if outputs.is_empty() => embedder.embed_tokens(&ids, terms).await?.into(),
            Texts::Ids(ids) => embedder.token_outputs(ids, outputs, terms).await?.into(),
        })
    }
}

impl From<Embedded> for Side {
    fn from(embedded: Embedded) -> Self {
        let timings = embedded.timings;
        let embeds = Some(embedded.finish(None, true));
        Self { embeds, arrays: Vec::new(), attention_mask: None, timings, _room: None }
    }
}

impl From<Outputs> for Side {
    fn from(outputs: Outputs) -> Self {
        let Outputs { embeddings, arrays, attention_mask, timings, reservation } = outputs;
        let embeds = embeddings.map(|rows| finish(rows, None, true));
        let attention_mask = attention_mask.map(Array2::into_dyn);
        Self { embeds, arrays, attention_mask, timings, _room: Some(reservation) }
    }
}

/// `logits_per_image`, if anything of it is asked for.
fn logits(
    embedder: &Embedder,
    outputs: &[OutputAsked],
    images: Option<&Side>,
    texts: Option<&Side>,
) -> Result<Option<Array2<f32>>, ApiError> {
    if !outputs.iter().any(|asked| matches!(asked.output, Name::LogitsPer(_))) {
        return Ok(None);
    }
    let embeds = [images, texts].map(|side| side.and_then(|side| side.embeds.as_ref()));
    let [Some(images), Some(texts)] = embeds else { return Err(missing(Name::LogitsPer(Modality::Image))) };
    Ok(Some(similarity::logits_per_image(images.view(), texts.view(), embedder.logit_scale()?)))
}

fn values<'a>(
    output: Name,
    images: Option<&'a Side>,
    texts: Option<&'a Side>,
    logits: Option<&'a Array2<f32>>,
) -> Result<Values<'a>, ApiError> {
    let side = |modality| match modality {
        Modality::Image => images,
        Modality::Text => texts,
    };
    let found = match output {
        Name::Embeds(modality) => {
            let embeds = side(modality).and_then(|side| side.embeds.as_ref());
            embeds.map(|rows| Values::Floats(rows.view().into_dyn()))
        }
        Name::LogitsPer(Modality::Image) => logits.map(|logits| Values::Floats(logits.view().into_dyn())),
        Name::LogitsPer(Modality::Text) => logits.map(|logits| Values::Floats(logits.t().into_dyn())),
        Name::State(modality, output) => {
            let array = side(modality).and_then(|side| side.arrays.iter().find(|(other, _)| *other == output));
            array.map(|(_, array)| Values::Floats(array.view()))
        }
        Name::AttentionMask => {
            let mask = texts.and_then(|side| side.attention_mask.as_ref());
            mask.map(|mask| Values::Integers(mask.view()))
        }
    };
    found.ok_or_else(|| missing(output))
}

fn missing(output: Name) -> ApiError {
    ApiError::internal(format!("{output} was not computed"))
}
