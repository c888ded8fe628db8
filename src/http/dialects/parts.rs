//! Content parts, as several dialects have them: objects that say of themselves what they are.
//!
//! Owns the object with its many spellings, and what of it is one input. CLIP embeds a text or a picture, never both in one, so a content
//! has one part.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    super::{
        ApiError,
        quoted::Quoted,
        request::{
            json::{Items, fault, kind_of, string},
            limit::Limit,
        },
    },
    inputs::Inputs,
};

/// An object of an input, each of its members unread.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub(super) struct Object<'a> {
    #[serde(borrow, rename = "type")]
    pub(super) kind: Option<Items<'a>>,
    /// Of a message.
    #[serde(borrow)]
    pub(super) role: Option<Items<'a>>,
    #[serde(borrow)]
    pub(super) content: Option<Items<'a>>,
    #[serde(borrow)]
    pub(super) text: Option<Items<'a>>,
    #[serde(borrow)]
    pub(super) image: Option<Items<'a>>,
    #[serde(borrow)]
    pub(super) url: Option<Items<'a>>,
    #[serde(borrow)]
    pub(super) bytes: Option<Items<'a>>,
    #[serde(borrow)]
    pub(super) image_url: Option<Items<'a>>,
    #[serde(borrow)]
    pub(super) image_base64: Option<Items<'a>>,
    #[serde(borrow)]
    pub(super) video: Option<Items<'a>>,
    /// Intel's.
    #[serde(borrow)]
    pub(super) video_frames: Option<Items<'a>>,
}

impl<'a> Object<'a> {
    /// Of an object; other values are refused.
    ///
    /// # Errors
    /// 400.
    pub(super) fn read(value: &'a RawValue) -> Result<Self, ApiError> {
        if !value.get().starts_with('{') {
            return Err(fault(format_args!("an input is {}, expected an object", kind_of(value))));
        }
        serde_json::from_str(value.get()).map_err(|error| {
            // The only word of the client's in it would be a key, and of those it names ours alone.
            let text = error.to_string();
            fault(format_args!("an input: {}", text.split(" at line").next().unwrap_or_default()))
        })
    }

    /// Adds what the object is: a content part, or one of Jina's objects.
    ///
    /// # Errors
    /// 400 for none of them, and as [`Inputs::text`] and [`Inputs::picture`].
    pub(super) fn push(self, inputs: &mut Inputs<'_>) -> Result<(), ApiError> {
        let known = [self.text, self.image, self.url, self.bytes, self.image_url, self.image_base64, self.video];
        if known.into_iter().flatten().count() > 1 {
            return Err(ApiError::invalid(ONE_AT_A_TIME).at(inputs.len()));
        }
        if let Some(text) = self.text {
            return inputs.text(text);
        }
        if let Some(picture) = self.image.or(self.url).or(self.bytes).or(self.image_base64) {
            return inputs.picture(picture);
        }
        if let Some(url) = self.image_url {
            // OpenAI's is an object with the address in it, Voyage's is the address.
            if !url.value().get().starts_with('{') {
                return inputs.picture(url);
            }
            let nested = Object::read(url.value()).map_err(|error| error.at(inputs.len()))?;
            let missing = || ApiError::invalid("the image_url of an input has no url").at(inputs.len());
            return inputs.picture(nested.url.ok_or_else(missing)?);
        }
        let what = if self.video.is_some() {
            "videos are not embedded; send single frames as pictures"
        } else {
            "an input is an object without a text or a picture; expected {\"type\": \"text\", \"text\": ..}, {\"type\": \"image_url\", \
             \"image_url\": {\"url\": \"data:image/..\"}}, {\"text\": ..} or {\"image\": ..}"
        };
        Err(ApiError::invalid(what).at(inputs.len()))
    }
}

const ONE_AT_A_TIME: &str =
    "CLIP embeds a text or a picture, not several things in one: send each as an input of its own";

/// Adds a content: a text, or a list of exactly one part.
///
/// # Errors
/// 400 for more parts, and as [`Object::push`].
pub(super) fn push_content(content: Items<'_>, inputs: &mut Inputs<'_>) -> Result<(), ApiError> {
    let place = inputs.len();
    let parts = match content.elements("parts in the content of an input", MOST_PARTS) {
        Ok(None) => return inputs.text(content),
        Ok(Some(parts)) => parts,
        Err(error) => return Err(error.at(place)),
    };
    match parts[..] {
        [part] => Object::read(part).map_err(|error| error.at(place))?.push(inputs),
        _ => Err(ApiError::invalid(ONE_AT_A_TIME).at(place)),
    }
}

/// Adds a list of objects with a `content` each, as Cohere and Voyage call their inputs.
///
/// # Errors
/// 400 for what is no such list, and as [`push_content`].
pub(super) fn push_contents(contents: Items<'_>, inputs: &mut Inputs<'_>, most: Limit) -> Result<(), ApiError> {
    let expected = || ApiError::invalid("inputs is no list; expected [{\"content\": [..]}]");
    let elements = contents.elements("inputs", most)?.ok_or_else(expected)?;
    elements.into_iter().try_for_each(|element| {
        let place = inputs.len();
        let object = Object::read(element).map_err(|error| error.at(place))?;
        let missing = || ApiError::invalid("an input has no content; expected {\"content\": [..]}").at(place);
        push_content(object.content.ok_or_else(missing)?, inputs)
    })
}

/// So many parts are counted before they are refused.
const MOST_PARTS: usize = 1024;

/// Adds the one content of a conversation: a list of messages, of which one alone may have any.
///
/// # Errors
/// 400 for none or several, and as [`push_content`].
pub(super) fn push_conversation(messages: &[&RawValue], inputs: &mut Inputs<'_>) -> Result<(), ApiError> {
    let place = inputs.len();
    let [message] = messages else {
        let what = format!(
            "a conversation of {} messages; CLIP embeds one text or one picture, so send one message for each embedding",
            messages.len()
        );
        return Err(ApiError::invalid(what).at(place));
    };
    let message = Object::read(message).map_err(|error| error.at(place))?;
    let missing = || ApiError::invalid("a message has no content").at(place);
    push_content(message.content.ok_or_else(missing)?, inputs)
}
