//! Intel's multimodal embedding service: `POST /embeddings` with an object as `input`.
//!
//! Owns its inputs, its answer and its errors; the route is OpenAI's (`openai`).

use schemars::JsonSchema;
use serde::{Serialize, Serializer};

use super::{
    Answered,
    inputs::Inputs,
    parts::{Object, Part},
};
use crate::http::{
    ApiError,
    embedding::{Embedding, Embeddings},
    error::{ErrorShape, Shaped},
    request::{json::Items, limit::Limit},
    schema,
};

/// Errors as FastAPI writes them.
pub(super) const ERRORS: ErrorShape = ErrorShape::of::<Detail<'static>>(detail);

// As `push` reads it.
/// What is to be embedded, by its `type`.
#[derive(JsonSchema)]
#[schemars(tag = "type", rename_all = "snake_case", rename = "IntelInput")]
#[expect(dead_code, reason = "read by the macro that derives its schema")]
pub(super) enum Input {
    Text { text: schema::Texts },
    ImageUrl(Part),
    ImageBase64(Part),
    VideoFrames { video_frames: Vec<Part> },
}

// As `Answer` writes it.
/// An embedding, or a list of them for a list of texts and for frames.
#[derive(JsonSchema)]
#[schemars(rename = "IntelResponse")]
#[expect(dead_code, reason = "read by the macro that derives its schema")]
pub(super) struct Response {
    embedding: OneOrEach,
}

/// One, or a list of them.
#[derive(JsonSchema)]
#[schemars(untagged, inline)]
#[expect(dead_code, reason = "read by the macro that derives its schema")]
enum OneOrEach {
    One(schema::Values),
    Each(schema::Rows),
}

/// The shape of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::http) enum Shape {
    /// One embedding.
    One,
    /// A list of them, one for each text or frame.
    Each,
}

/// Adds what `input`, an object, has.
///
/// # Errors
/// 400 for a type that is not served.
pub(super) fn push(input: Items<'_>, inputs: &mut Inputs<'_>, most: Limit) -> Result<Shape, ApiError> {
    let place = inputs.len();
    let object = Object::read(input.value()).map_err(|error| error.at(place))?;
    let kind = object.kind.and_then(|kind| kind.value().string().ok());
    // What the type is of, and nothing besides.
    let only = |what: &str| {
        let member = object.member().map_err(|error| error.at(place))?;
        let missing = || ApiError::invalid(format!("the input's type is {what}, and it has no {what}")).at(place);
        member.map(|(_, value)| value).ok_or_else(missing)
    };
    match kind.as_deref() {
        Some("text") => {
            let texts = only("text")?;
            let Some(elements) = texts.elements("texts", most)? else {
                inputs.text(texts)?;
                return Ok(Shape::One);
            };
            elements.into_iter().try_for_each(|text| inputs.text(Items::of(text)))?;
            Ok(Shape::Each)
        }
        Some("image_url" | "image_base64") => object.push(inputs).map(|()| Shape::One),
        Some("video_frames") => {
            let no_list = || ApiError::invalid("video_frames is no list; expected a list of pictures").at(place);
            let frames = only("video_frames")?.elements("frames", most)?.ok_or_else(no_list)?;
            for frame in frames {
                let place = inputs.len();
                Object::read(frame).map_err(|error| error.at(place))?.push(inputs)?;
            }
            Ok(Shape::Each)
        }
        _ => Err(ApiError::invalid(
            "the input's type is not among text, image_url, image_base64 and video_frames; videos are not decoded here, so send their \
             frames",
        )),
    }
}

impl Shape {
    /// The answer.
    pub(super) fn answer<'a>(self, answered: &'a Answered<'a>) -> Answer<'a> {
        Answer { shape: self, answered }
    }
}

/// An answer, to be written.
pub(super) struct Answer<'a> {
    shape: Shape,
    answered: &'a Answered<'a>,
}

impl Serialize for Answer<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Envelope<T> {
            embedding: T,
        }
        let Answered { rows, .. } = self.answered;
        let form = self.answered.form();
        match self.shape {
            Shape::One => Envelope { embedding: Embedding { row: rows.row(0), form } }.serialize(serializer),
            Shape::Each => Envelope { embedding: Embeddings { rows: rows.view(), form } }.serialize(serializer),
        }
    }
}

/// An error as FastAPI's own services have it.
#[derive(Serialize, JsonSchema)]
pub(super) struct Detail<'a> {
    pub(super) detail: &'a str,
}

/// `{"detail": ".."}`.
pub(super) fn detail(error: &ApiError, _request_id: &str) -> Shaped {
    Shaped::json(error.code.status(), &Detail { detail: &error.message_with_index("input") })
}
