//! Weaviate's multi2vec-clip container: `POST /vectorize`, `GET /meta`, `GET /.well-known/{live,ready}`.
//!
//! Owns its two lists of vectors, its probes, and its errors. Its client says no content type, and parses every answer of `/vectorize` as
//! JSON before it looks at the status.
//!
//! Vectors have length 1, because Weaviate adds those of texts and of pictures up by weights.

use std::{sync::Arc, time::Instant};

use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use http::StatusCode;
use ndarray::{Axis, Slice};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Answered, Asked, Dialect, Reader};
use crate::http::{
    ApiError, AppState, Code,
    embedding::{EmbeddingForm, Embeddings},
    error::{ErrorShape, Shaped},
    operation::{GATED, JSON, OF_A_PROBE, OF_THE_KEYED, Operation, Schemas},
    reply::{self, Written},
    request::{
        json::{Items, JsonRequest, fault},
        limit::Limit,
        payload::Accepts,
    },
    schema,
};

/// `{"error": ".."}`.
pub(in crate::http) const ERRORS: ErrorShape = ErrorShape::of::<Envelope<'static>>(error);

/// All its routes.
pub(in crate::http) fn operations(schemas: &mut Schemas) -> Vec<Operation> {
    const TAG: &str = "Weaviate";
    let vectorize = Operation::post(TAG, "/vectorize", "Vectors of texts and of pictures")
        .takes(JSON, schemas.request::<Body<'_>>())
        .answers(JSON, schemas.answer::<Vectors<'_>>())
        .refuses(schemas, GATED, &[ERRORS]);
    let meta = Operation::get(TAG, "/meta", "The model, in the words of its config.json")
        .answers(JSON, schemas.answer::<Meta<'_>>())
        .refuses(schemas, OF_THE_KEYED, &[ERRORS]);
    let mut probe =
        |path, summary| Operation::get(TAG, path, summary).answers_nothing().refuses(schemas, OF_A_PROBE, &[ERRORS]);
    let live = probe("/.well-known/live", "Whether the process should go on");
    vec![vectorize, meta, live, probe("/.well-known/ready", "Whether requests are served")]
}

/// `POST /vectorize`.
#[derive(Debug)]
pub(in crate::http) struct Vectorize;

/// Either list may be missing, null or empty, both too.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(rename = "WeaviateRequest")]
struct Body<'a> {
    #[serde(borrow)]
    #[schemars(with = "Option<Vec<String>>")]
    texts: Option<Items<'a>>,
    /// In bare base64.
    #[serde(borrow)]
    #[schemars(with = "Option<Vec<schema::Picture>>")]
    images: Option<Items<'a>>,
}

impl<'a> JsonRequest<'a> for Body<'a> {
    const ITEMS: &'static [&'static str] = &["texts", "images"];
}

impl Dialect for Vectorize {
    const ACCEPTS: &'static [Accepts] = &[Accepts::AnyJson];

    fn read(reader: Reader<'_>) -> Result<(Asked, Self), ApiError> {
        let members = reader.payload.unread()?;
        check_members(members.names())?;
        let Body { texts, images } = members.read()?;
        let limits = &reader.state.config.limits;
        let mut inputs = reader.inputs();
        if let Some(texts) = some_of("texts", texts)? {
            let (texts, room) = texts.owned_strings("texts", Limit::texts(limits), inputs.claim())?;
            inputs.read_texts(texts, room)?;
        }
        if let Some(images) = some_of("images", images)? {
            let images = images.elements("images", Limit::images(limits))?.unwrap_or_default();
            images.into_iter().try_for_each(|image| inputs.picture(Items::of(image)))?;
        }
        let asked = Asked {
            model: None,
            wanted: inputs.finish_or_empty(),
            truncate: true,
            normalize: true,
            dimensions: None,
            forms: vec![EmbeddingForm::FLOATS],
            priority: None,
        };
        Ok((asked, Self))
    }

    fn around(&self, _asked: &Asked) -> usize {
        r#"{"textVectors":[],"imageVectors":[]}"#.len()
    }

    fn write(&self, answered: &Answered<'_>, buffer: Vec<u8>) -> Result<Written, ApiError> {
        // Texts were taken in before pictures.
        let texts = answered.rows.nrows() - answered.pictures.len();
        let rows = |slice| Embeddings { rows: answered.rows.slice_axis(Axis(0), slice), form: answered.form() };
        let (texts, images) = (Slice::from(..texts), Slice::from(texts..));
        Written::json(buffer, &Vectors { text_vectors: rows(texts), image_vectors: rows(images) })
    }
}

/// Refuses a request that has something, and neither list: its client sends both, always, so other names are misspelt, and an answer of
/// nothing would hide it.
fn check_members<'n>(mut names: impl Iterator<Item = &'n str>) -> Result<(), ApiError> {
    let Some(first) = names.next() else { return Ok(()) };
    if Body::ITEMS.contains(&first) || names.any(|name| Body::ITEMS.contains(&name)) {
        return Ok(());
    }
    Err(ApiError::invalid(format!(
        "the request has `{first}` and neither texts nor images; expected {{\"texts\": [..], \"images\": [..]}}"
    )))
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "WeaviateResponse")]
#[serde(rename_all = "camelCase")]
struct Vectors<'a> {
    #[schemars(with = "schema::Matrix")]
    text_vectors: Embeddings<'a>,
    #[schemars(with = "schema::Matrix")]
    image_vectors: Embeddings<'a>,
}

/// A list that has any elements.
fn some_of<'a>(name: &str, list: Option<Items<'a>>) -> Result<Option<Items<'a>>, ApiError> {
    let Some(list) = list.filter(|list| !list.is_empty_list()) else { return Ok(None) };
    if !list.value().is_list() {
        let kind = list.value().kind();
        return Err(fault(format_args!("{name} is {kind}, expected a list of strings, or null")));
    }
    Ok(Some(list))
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "WeaviateMeta")]
struct Meta<'a> {
    _name_or_path: &'a str,
    model_type: &'static str,
    fingerprint: &'a str,
    projection_dim: Option<usize>,
    vision_config: Option<VisionConfig>,
    text_config: Option<TextConfig>,
    provider: &'a str,
    precision: &'a str,
    clipserve_version: &'static str,
}

#[derive(Serialize, JsonSchema)]
#[schemars(inline)]
struct VisionConfig {
    image_size: u32,
}

#[derive(Serialize, JsonSchema)]
#[schemars(inline)]
struct TextConfig {
    max_position_embeddings: usize,
}

/// `GET /meta`: an object about the model, in the words of a `config.json` of `transformers` where it has one.
pub(in crate::http) async fn meta(State(state): State<Arc<AppState>>) -> Result<Response, ApiError> {
    let info = state.embedder()?.info();
    reply::json(&Meta {
        _name_or_path: &info.name,
        model_type: "clip",
        fingerprint: &info.fingerprint,
        projection_dim: info.dim,
        vision_config: info.image_size.map(|(image_size, _)| VisionConfig { image_size }),
        text_config: info.context_length.map(|length| TextConfig { max_position_embeddings: length }),
        provider: &info.provider,
        precision: &info.precision,
        clipserve_version: env!("CARGO_PKG_VERSION"),
    })
}

/// `GET /.well-known/live`: 204 as `/livez` is 200.
pub(in crate::http) async fn live(State(state): State<Arc<AppState>>) -> Result<Response, ApiError> {
    match &state.health.sick_workers(Instant::now())[..] {
        [] => Ok(StatusCode::NO_CONTENT.into_response()),
        sick => Err(ApiError::new(Code::NotReady, format!("stalled or broken: {}", sick.join(", ")))),
    }
}

/// `GET /.well-known/ready`: 204 as `/readyz` is 200.
pub(in crate::http) async fn ready(State(state): State<Arc<AppState>>) -> Result<Response, ApiError> {
    state.check_ready()?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "WeaviateError")]
struct Envelope<'a> {
    error: &'a str,
}

fn error(error: &ApiError, _request_id: &str) -> Shaped {
    Shaped::json(
        error.code.status(),
        &Envelope { error: &error.message_with_index("input (texts first, then images)") },
    )
}
