//! Immich's machine learning service, as far as CLIP goes: `POST /predict`, `GET /ping`.
//!
//! Owns its form and its entries, its answer and its errors. Immich sends each picture and each search of its own, and other tasks (faces,
//! text in pictures) in requests of their own, so that it can be told to have those done elsewhere.
//!
//! Its client hands `clip` to the database as it is: a string that holds an array.

use std::{fmt, sync::Arc};

use axum::{extract::State, response::Response};
use ndarray::ArrayView1;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize, de::IgnoredAny};

use serde_json::json;

use super::{Answered, Asked, Dialect, Reader, intel::Detail};
use crate::http::{
    ApiError, AppState, Code,
    embedding::EmbeddingForm,
    error::{ErrorShape, Shaped},
    operation::{FORM, JSON, OF_A_MODEL, OF_A_PROBE, Operation, Schemas, text},
    reply::{self, Written},
    request::{
        form::{Form, Pictures},
        payload::{Accepts, Encoding},
    },
};

/// `{"detail": ".."}`, as FastAPI has it.
pub(in crate::http) const ERRORS: ErrorShape = ErrorShape::of::<Detail<'static>>(detail);

/// The same for an entry that cannot be read: 422.
const UNREADABLE: ErrorShape = ErrorShape::of::<Detail<'static>>(unreadable);

/// The same for a field that is missing: 422 with a list, as FastAPI has it.
const MISSING: ErrorShape = ErrorShape::of::<Missing<'static>>(missing);

/// All its routes.
pub(in crate::http) fn operations(schemas: &mut Schemas) -> Vec<Operation> {
    const TAG: &str = "Immich";
    // Parts of other names are passed over.
    let form = json!({
        "type": "object",
        "required": ["entries"],
        "properties": {
            "entries": {"type": "string", "description": r#"{"clip": {"visual": {"modelName": ".."}}}, or textual"#},
            "image": {"type": "string", "format": "binary", "description": "The picture's file, with visual."},
            "text": {"type": "string", "description": "The text, with textual."},
        },
        "additionalProperties": true,
    });
    let predict = Operation::post(TAG, "/predict", "The embedding of a picture or of a text, as a string of JSON")
        .takes(FORM, form)
        .answers(JSON, schemas.answer::<Prediction<'_>>())
        .refuses(schemas, OF_A_MODEL, &[ERRORS])
        .refuses(schemas, &[Code::InvalidRequest], &[UNREADABLE, MISSING]);
    let ping = Operation::get(TAG, "/ping", "Whether requests are served").answers("text/plain", text()).refuses(
        schemas,
        OF_A_PROBE,
        &[ERRORS],
    );
    let root = Operation::get(TAG, "/", "A greeting; for a browser the page that tries the model")
        .answers(JSON, schemas.answer::<Greeting>())
        .answers("text/html", text());
    vec![predict, ping, root]
}

/// `POST /predict`. What of the request its answer repeats: the picture's width and height, where they are known.
#[derive(Debug)]
pub(in crate::http) struct Predict {
    size: Option<(u32, u32)>,
}

/// Parts of a form, known or not. Immich sends two.
const MAX_PARTS: usize = 16;

/// Bytes of `entries`. Those of Immich have a tenth of it.
const MAX_ENTRIES: usize = 4096;

/// The tasks of a request.
#[derive(Deserialize)]
struct Entries {
    clip: Option<Clip>,
    #[serde(rename = "facial-recognition")]
    faces: Option<IgnoredAny>,
    ocr: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Clip {
    visual: Option<Entry>,
    textual: Option<Entry>,
}

/// Besides it has `options`, with the language of a text: CLIP has one vocabulary for all.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    model_name: String,
}

impl Dialect for Predict {
    const ACCEPTS: &'static [Accepts] = &[Accepts::Multipart];

    fn read(reader: Reader<'_>) -> Result<(Asked, Self), ApiError> {
        let mut inputs = reader.inputs();
        let Encoding::Multipart(boundary) = &reader.payload.encoding else {
            return Err(ApiError::internal("a form that is none"));
        };
        let picture = Pictures::Named("image");
        let body = reader.payload.body;
        let mut form = Form::read(body, boundary, &["entries", "text"], picture, MAX_PARTS, inputs.claim())?;
        let [entries] = &form.take("entries")[..] else {
            let message = "the form has no field `entries`, or several; expected one with JSON in it";
            return Err(ApiError::invalid(message).shaped_if_not(Some(MISSING)));
        };
        let (entry, is_visual) = entry(entries)?;
        let (mut texts, Form { mut files, room, .. }) = (form.take("text"), form);
        let size = match (is_visual, &files[..], &texts[..]) {
            (_, [], []) => {
                let message = "the form has neither a part `image` nor a field `text`; either must be there";
                return Err(ApiError::invalid(message));
            }
            (true, [file], []) => crate::embedder::picture_header(file).map(|header| (header.width, header.height)),
            (false, [], [_]) => None,
            _ => {
                let message = "clip.visual goes with one part `image`, clip.textual with one field `text`; the form has other parts";
                return Err(ApiError::invalid(message));
            }
        };
        files.drain(..).try_for_each(|file| inputs.file(file))?;
        inputs.read_texts(std::mem::take(&mut texts), room)?;
        let asked = Asked {
            model: Some(entry.model_name),
            wanted: inputs.finish()?,
            truncate: true,
            normalize: true,
            dimensions: None,
            forms: vec![EmbeddingForm::FLOATS],
            priority: None,
        };
        Ok((asked, Self { size }))
    }

    fn around(&self, _asked: &Asked) -> usize {
        r#"{"clip":"","imageHeight":4294967295,"imageWidth":4294967295}"#.len()
    }

    fn write(&self, answered: &Answered<'_>, buffer: Vec<u8>) -> Result<Written, ApiError> {
        let (image_width, image_height) = self.size.unzip();
        Written::json(buffer, &Prediction { clip: Text(answered.rows.row(0)), image_height, image_width })
    }
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "ImmichResponse")]
#[serde(rename_all = "camelCase")]
struct Prediction<'a> {
    #[serde(serialize_with = "as_text")]
    #[schemars(with = "String")]
    clip: Text<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    image_height: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    image_width: Option<u32>,
}

/// The one task that is asked, and whether it is of a picture.
fn entry(entries: &str) -> Result<(Entry, bool), ApiError> {
    let unreadable = |message: &'static str| ApiError::invalid(message).shaped_if_not(Some(UNREADABLE));
    if entries.len() > MAX_ENTRIES {
        return Err(unreadable("the field `entries` has more than 4096 bytes, which is the limit"));
    }
    let expected = r#"the field `entries` is none of {"clip": {"visual": {"modelName": ".."}}} and {"clip": {"textual": {"modelName": ".."}}}"#;
    let Entries { clip, faces, ocr } = serde_json::from_str(entries).map_err(|_| unreadable(expected))?;
    if faces.is_some() || ocr.is_some() {
        let what = if faces.is_some() { "facial-recognition" } else { "ocr" };
        return Err(ApiError::invalid(format!(
            "the task {what} is not served, clip alone is; in Immich's settings for machine learning turn those jobs off, or add the URL of a \
             service that has them behind this one's"
        )));
    }
    match clip {
        Some(Clip { visual: Some(entry), textual: None }) => Ok((entry, true)),
        Some(Clip { visual: None, textual: Some(entry) }) => Ok((entry, false)),
        _ => Err(unreadable(expected)),
    }
}

/// An embedding as a JSON array.
struct Text<'a>(ArrayView1<'a, f32>);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (index, value) in self.0.iter().enumerate() {
            // As everywhere else: the shortest that parses to the same f32, of 16 bytes at most.
            let mut number = [0; 24];
            let mut rest = &mut number[..];
            serde_json::to_writer(&mut rest, value).map_err(|_| fmt::Error)?;
            let len = 24 - rest.len();
            f.write_str(if index == 0 { "" } else { "," })?;
            f.write_str(std::str::from_utf8(&number[..len]).map_err(|_| fmt::Error)?)?;
        }
        f.write_str("]")
    }
}

fn as_text<S: serde::Serializer>(text: &Text<'_>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(text)
}

/// `GET /ping`: `pong`, which Immich chooses by among several URLs; 503 where `/readyz` is.
pub(in crate::http) async fn ping(State(state): State<Arc<AppState>>) -> Result<&'static str, ApiError> {
    state.check_ready()?;
    Ok("pong")
}

#[derive(Serialize, JsonSchema)]
#[schemars(inline)]
struct Greeting {
    message: &'static str,
}

/// `GET /` as Immich's service answers it.
///
/// # Errors
/// As [`reply::json`].
pub(in crate::http) fn greeting() -> Result<Response, ApiError> {
    reply::json(&Greeting { message: "Immich ML" })
}

fn detail(error: &ApiError, _request_id: &str) -> Shaped {
    // A request has one input.
    Shaped::json(error.code.status(), &Detail { detail: &error.message })
}

fn unreadable(error: &ApiError, _request_id: &str) -> Shaped {
    let detail = format!("Invalid request format: {}", error.message);
    Shaped::json(http::StatusCode::UNPROCESSABLE_ENTITY, &Detail { detail: &detail })
}

/// What is missing, as FastAPI has it.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "ImmichMissing")]
struct Missing<'a> {
    detail: [Fault<'a>; 1],
}

#[derive(Serialize, JsonSchema)]
#[schemars(inline)]
struct Fault<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    loc: [&'static str; 2],
    msg: &'a str,
}

fn missing(error: &ApiError, _request_id: &str) -> Shaped {
    let fault = Fault { kind: "missing", loc: ["body", "entries"], msg: &error.message };
    Shaped::json(http::StatusCode::UNPROCESSABLE_ENTITY, &Missing { detail: [fault] })
}
