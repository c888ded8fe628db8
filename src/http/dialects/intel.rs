//! Intel's multimodal embedding service: `POST /embeddings` with an object as `input`.
//!
//! Owns its inputs, its answer and its errors; the route is OpenAI's (`openai`).

use serde::{Serialize, Serializer};

use super::{Answered, inputs::Inputs, parts::Object};
use crate::http::{
    ApiError,
    embedding::{Embedding, Embeddings},
    error::{ErrorShape, Shaped},
    request::{
        json::{Items, string},
        limit::Limit,
    },
};

/// Errors as FastAPI writes them.
pub(super) const ERRORS: ErrorShape = ErrorShape(detail);

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
    let kind = object.kind.and_then(|kind| string(kind.value()).ok());
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

/// `{"detail": ".."}`, as FastAPI's own services have it.
pub(super) fn detail(error: &ApiError, _request_id: &str) -> Shaped {
    #[derive(Serialize)]
    struct Envelope<'a> {
        detail: &'a str,
    }
    Shaped::json(error.code.status(), &Envelope { detail: &error.message_with_index("input") })
}
