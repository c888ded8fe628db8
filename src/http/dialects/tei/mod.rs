//! Hugging Face's text-embeddings-inference: `POST /embed`, also `/`, and its own body of `/similarity`.
//!
//! Owns its inputs, its two answers and its errors; in `tokens` its `/tokenize` and `/decode`, in `info` its part of `GET /info`. Does not
//! own what `/similarity` is of our own (`native`): a body with `inputs` in it is this service's, all others are handed on.
//!
//! | `inputs` | answer |
//! |---|---|
//! | a text, or a list of texts | a list of embeddings, for one text too |
//! | `{"source_sentence", "sentences"}` | the cosine of each sentence with the first: what `huggingface_hub` posts to `/` as well |
//!
//! Options stand beside `inputs` where embeddings are asked for, and in `parameters` where sentences are compared, as the service itself
//! has them. It passes over what stands at the other place; here that is refused, since nobody would notice that a text was cut or a prompt
//! left out. On `/similarity` itself there is the comparison alone: a text or a list of texts is refused, with the route that takes it.
//!
//! Token ids are refused, as everywhere: see `openai`.

pub(in crate::http) mod info;
pub(in crate::http) mod tokens;

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    response::Response,
};
use http::StatusCode;
use ndarray::ArrayView2;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer, de::IgnoredAny};

use super::{Answered, Asked, Dialect, Reader, answer, inputs::Inputs};
use crate::{
    embedder::Modality,
    http::{
        ApiError, AppState, Code,
        embedding::{EmbeddingForm, Embeddings},
        error::{ErrorShape, Shaped},
        native::similarity::{self, Comparison},
        operation::{GATED, JSON, Operation, Schemas},
        reply::Written,
        request::{
            json::{Items, JsonRequest, Unread, fault},
            limit::Limit,
            payload::{Accepts, Encoding, Payload},
        },
        schema,
    },
};

/// `{"error": "..", "error_type": ".."}`.
pub(in crate::http) const ERRORS: ErrorShape = ErrorShape::of::<Envelope<'static>>(error);

/// The same for a request with nothing in it, the one that has a status of its own.
const EMPTY: ErrorShape = ErrorShape::of::<Envelope<'static>>(empty);

/// What its routes stand under in the OpenAPI document.
const TAG: &str = "text-embeddings-inference";

/// The routes of its embeddings, and `/similarity`, which is ours too.
pub(in crate::http) fn operations(schemas: &mut Schemas) -> Vec<Operation> {
    let summary = "Embeddings of texts, or the cosines of sentences with the first";
    let of = |path| Operation::post(TAG, path, summary);
    let ours = similarity::operation(schemas);
    let with_theirs = |operation: Operation| {
        operation
            .takes(JSON, schemas.request::<Body<'_>>())
            .answers(JSON, schemas.answer::<Answer>())
            .refuses(schemas, GATED, &[ERRORS])
            .refuses(schemas, &[Code::InvalidRequest], &[EMPTY])
    };
    [of("/embed"), of("/"), ours].into_iter().map(with_theirs).collect()
}

// As `Embed` writes it.
/// An embedding of each text, or the cosine of each sentence with the first.
#[derive(JsonSchema)]
#[schemars(untagged, rename = "TeiResponse")]
#[expect(dead_code, reason = "read by the macro that derives its schema")]
enum Answer {
    Embeddings(schema::Matrix),
    Scores(Vec<f32>),
}

/// What is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::http) enum Embed {
    /// The embeddings.
    Embeddings,
    /// The cosines of the first one with all others.
    Scores,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(rename = "TeiRequest")]
struct Body<'a> {
    #[serde(borrow)]
    #[schemars(with = "TextsOrSentences<'static>")]
    inputs: Items<'a>,
    normalize: Option<bool>,
    dimensions: Option<usize>,
    truncate: Option<bool>,
    truncation_direction: Option<String>,
    /// There are no prompts, so null.
    #[schemars(with = "Option<serde_json::Value>")]
    prompt_name: Option<IgnoredAny>,
    /// Those of a comparison.
    parameters: Option<Parameters>,
}

impl<'a> JsonRequest<'a> for Body<'a> {
    const ITEMS: &'static [&'static str] = &["inputs"];
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[schemars(inline)]
struct Parameters {
    truncate: Option<bool>,
    truncation_direction: Option<String>,
    #[schemars(with = "Option<serde_json::Value>")]
    prompt_name: Option<IgnoredAny>,
    /// Of embeddings, so null.
    #[schemars(with = "()")]
    normalize: Option<IgnoredAny>,
    #[schemars(with = "()")]
    dimensions: Option<IgnoredAny>,
}

/// Texts, or sentences.
#[derive(JsonSchema)]
#[schemars(untagged, inline)]
#[expect(dead_code, reason = "read by the macro that derives its schema")]
enum TextsOrSentences<'a> {
    Texts(schema::Texts),
    Sentences(Sentences<'a>),
}

/// A text, and those that are compared with it.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(inline)]
struct Sentences<'a> {
    #[serde(borrow)]
    #[schemars(with = "String")]
    source_sentence: Items<'a>,
    #[serde(borrow)]
    #[schemars(with = "schema::Texts")]
    sentences: Items<'a>,
}

impl Dialect for Embed {
    const ACCEPTS: &'static [Accepts] = &[Accepts::AnyJson];

    fn read(reader: Reader<'_>) -> Result<(Asked, Self), ApiError> {
        Self::read_members(reader.state, reader.inputs(), &reader.payload.unread()?)
    }

    fn errors(&self) -> Option<ErrorShape> {
        Some(ERRORS)
    }

    fn around(&self, asked: &Asked) -> usize {
        match self {
            Self::Embeddings => 2,
            // A score is written as an embedding of one value is.
            Self::Scores => asked.wanted.len().saturating_mul(SCORE),
        }
    }

    fn write(&self, answered: &Answered<'_>, buffer: Vec<u8>) -> Result<Written, ApiError> {
        let rows = answered.rows.view();
        match self {
            Self::Embeddings => Written::json(buffer, &Embeddings { rows, form: answered.form() }),
            Self::Scores => Written::json(buffer, &Scores(rows)),
        }
    }
}

/// Bytes of a score with the comma behind it, at most.
const SCORE: usize = 17;

impl Embed {
    /// What a request with these members asks.
    fn read_members(state: &AppState, mut inputs: Inputs<'_>, members: &Unread<'_>) -> Result<(Asked, Self), ApiError> {
        let body: Body<'_> = members.read()?;
        let limit = Limit::texts(&state.config.limits);
        check_level(&body)?;
        if !is_comparison(body.inputs) {
            let truncate = truncates(body.truncate, body.truncation_direction.as_deref(), body.prompt_name)?;
            check_texts("inputs", body.inputs)?;
            let (texts, room) = body.inputs.owned_strings("inputs", limit, inputs.claim())?;
            inputs.read_texts(texts, room)?;
            let asked = Asked {
                model: None,
                wanted: inputs.finish()?,
                truncate,
                normalize: body.normalize.unwrap_or(true),
                dimensions: body.dimensions,
                forms: vec![EmbeddingForm::FLOATS],
                priority: None,
            };
            return Ok((asked, Self::Embeddings));
        }
        let Parameters { truncate, truncation_direction, prompt_name, .. } = body.parameters.unwrap_or_default();
        let truncate = truncates(truncate, truncation_direction.as_deref(), prompt_name)?;
        let Sentences { source_sentence, sentences } = Sentences::read(body.inputs)?;
        check_texts("sentences", sentences)?;
        inputs.text(source_sentence)?;
        let (sentences, room) =
            sentences.owned_strings("sentences", limit, inputs.claim()).map_err(behind_the_source)?;
        inputs.read_texts(sentences, room)?;
        let asked = Asked {
            model: None,
            wanted: inputs.finish()?,
            truncate,
            normalize: true,
            dimensions: None,
            forms: Vec::new(),
            priority: None,
        };
        Ok((asked, Self::Scores))
    }
}

impl<'a> Sentences<'a> {
    fn read(inputs: Items<'a>) -> Result<Self, ApiError> {
        serde_json::from_str(inputs.value().get()).map_err(|error| {
            // It names our own members alone.
            let text = error.to_string();
            fault(format_args!("inputs: {}", text.split(" at line").next().unwrap_or_default()))
        })
    }
}

/// Options of an embedding; the last three are those of a comparison too.
const OPTIONS: [&str; 5] = ["normalize", "dimensions", "truncate", "truncation_direction", "prompt_name"];

/// Refuses options at the place where the service itself would not look for them.
fn check_level(body: &Body<'_>) -> Result<(), ApiError> {
    let first = |is_there: [bool; 5]| OPTIONS.into_iter().zip(is_there).find_map(|(name, there)| there.then_some(name));
    let beside = first([
        body.normalize.is_some(),
        body.dimensions.is_some(),
        body.truncate.is_some(),
        body.truncation_direction.is_some(),
        body.prompt_name.is_some(),
    ]);
    let within = body.parameters.as_ref().and_then(|parameters| {
        first([
            parameters.normalize.is_some(),
            parameters.dimensions.is_some(),
            parameters.truncate.is_some(),
            parameters.truncation_direction.is_some(),
            parameters.prompt_name.is_some(),
        ])
    });
    let message = match (is_comparison(body.inputs), beside, within) {
        (false, _, Some(name)) => {
            format!("`{name}` stands in `parameters`, which only a comparison of sentences has; put it beside `inputs`")
        }
        (true, Some(name @ ("normalize" | "dimensions")), _) | (true, _, Some(name @ ("normalize" | "dimensions"))) => {
            format!("a comparison of sentences has no `{name}`; leave it out")
        }
        (true, Some(name), _) => {
            format!("`{name}` stands beside `inputs`; a comparison of sentences has its options in `parameters`")
        }
        _ => return Ok(()),
    };
    Err(ApiError::invalid(message))
}

/// Whether sentences are compared, rather than texts embedded.
fn is_comparison(inputs: Items<'_>) -> bool {
    inputs.value().is_object()
}

/// The error of a sentence by its place among all texts, the first of which is the source.
fn behind_the_source(error: ApiError) -> ApiError {
    match error.index {
        Some(index) => error.at(index + 1),
        None => error,
    }
}

/// Refuses what is none of texts: nothing, and token ids.
fn check_texts(name: &str, texts: Items<'_>) -> Result<(), ApiError> {
    if texts.is_empty_list() {
        return Err(
            ApiError::invalid(format!("`{name}` is an empty list; send one text at least")).shaped_if_not(Some(EMPTY))
        );
    }
    let first = texts.value().get().trim_start_matches(|c: char| c == '[' || c.is_ascii_whitespace());
    if first.starts_with(|c: char| c == '-' || c.is_ascii_digit()) {
        return Err(ApiError::invalid(format!(
            "`{name}` is token ids, which only the tokenizer that made them knows the meaning of; send the text itself"
        )));
    }
    Ok(())
}

/// Whether texts that are too long are cut: at their end, without a prompt in front of them.
fn truncates(
    truncate: Option<bool>,
    direction: Option<&str>,
    prompt_name: Option<IgnoredAny>,
) -> Result<bool, ApiError> {
    if prompt_name.is_some() {
        let message = "the model has no prompts, so `prompt_name` must be null; write the prompt into the text";
        return Err(ApiError::invalid(message));
    }
    match direction {
        None | Some("Right" | "right") => Ok(truncate.unwrap_or(true)),
        Some(_) => Err(ApiError::invalid(
            "`truncation_direction` is not Right; CLIP's tokenizer cuts the end of a text, so send Right or leave it out",
        )),
    }
}

/// The cosines of the first row with the others. All have length 1.
struct Scores<'a>(ArrayView2<'a, f32>);

impl Serialize for Scores<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut rows = self.0.rows().into_iter();
        let source = rows.next();
        serializer.collect_seq(rows.filter_map(|row| Some(source?.dot(&row))))
    }
}

/// `POST /similarity`: this service's where there is `inputs` in the body, else ours.
pub(in crate::http) async fn similarity(
    State(state): State<Arc<AppState>>,
    request: Request,
) -> Result<Response, ApiError> {
    enum Read {
        Native(Comparison),
        Tei(Asked, Embed),
    }
    let embedder = state.embedder()?;
    // Without a text encoder neither can be had, and ours says what else is missing.
    if embedder.supports(Modality::Text).is_err() {
        embedder.logit_scale()?;
    }
    let payload = Payload::receive(&state, request, similarity::ACCEPTS).await?;
    let (terms, held, reading) = (payload.terms, payload.held.clone(), payload.reading());
    let read = || {
        if let Encoding::Multipart(_) = payload.encoding {
            return Comparison::of_form(&state, embedder, payload).map(Read::Native);
        }
        let (members, claim) = (payload.unread()?, payload.claim(&state));
        if !members.has("inputs") {
            return Comparison::of_members(&state, embedder, &members, claim).map(Read::Native);
        }
        let read = || {
            if let Some(ours) = similarity::OWN_MEMBERS.iter().find(|name| members.has(name)) {
                return Err(ApiError::invalid(format!(
                    "the request has both `inputs`, which compares sentences, and `{ours}`, which compares pictures with texts; \
                     send one of them"
                )));
            }
            match Embed::read_members(&state, Inputs::new(&state, claim), &members)? {
                (_, Embed::Embeddings) => Err(ApiError::invalid(
                    "`inputs` has no sentences to compare; expected {\"source_sentence\": .., \"sentences\": [..]}, and texts go to /embed",
                )),
                compared => Ok(compared),
            }
        };
        let (asked, embed) = read().map_err(|error| error.shaped_if_not(Some(ERRORS)))?;
        Ok(Read::Tei(asked, embed))
    };
    match embedder.heavy().run(reading, read).await? {
        Read::Native(comparison) => comparison.answer(&state, embedder, terms, held).await,
        Read::Tei(asked, embed) => answer(&state, asked, embed, terms, &held).await,
    }
}

fn error(error: &ApiError, _request_id: &str) -> Shaped {
    let kind = match error.code {
        Code::Overloaded => "Overloaded",
        // The service itself answers these two without a body, so no client of its looks for another word.
        Code::Unauthorized => "Unauthorized",
        Code::MethodNotAllowed => "MethodNotAllowed",
        Code::NotReady | Code::ShuttingDown | Code::OutOfMemory => "Unhealthy",
        code if code.status().is_server_error() => "Backend",
        _ => "Validation",
    };
    // Its clients know 422 for what cannot be understood; 400 is for nothing at all.
    let status = match error.code {
        Code::InvalidRequest => StatusCode::UNPROCESSABLE_ENTITY,
        code => code.status(),
    };
    shaped(status, error, kind)
}

fn empty(error: &ApiError, _request_id: &str) -> Shaped {
    shaped(StatusCode::BAD_REQUEST, error, "Empty")
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "TeiError")]
struct Envelope<'a> {
    error: &'a str,
    error_type: &'a str,
}

fn shaped(status: StatusCode, error: &ApiError, kind: &str) -> Shaped {
    Shaped::json(status, &Envelope { error: &error.message_with_index("input"), error_type: kind })
}
