//! Content parts, as several dialects have them: objects that say of themselves what they are.
//!
//! Owns the object with its many spellings, and what of it is one input. CLIP embeds a text or a picture, never both in one, so a content
//! has one part.

use schemars::JsonSchema;

use super::{
    super::{
        ApiError,
        quoted::Quoted,
        request::{
            json::{Items, fault},
            limit::Limit,
            raw::Raw,
        },
        schema,
    },
    inputs::Inputs,
};

/// The types of objects, each with the members that hold what it is of. Those that begin with `input_` vLLM takes from OpenAI's `responses`.
const TYPES: [(&str, &[&str]); 8] = [
    ("message", &["content"]),
    ("text", &["text"]),
    ("image_url", &["image_url"]),
    ("input_text", &["text"]),
    ("input_image", &["image_url"]),
    ("image_base64", &["image_base64"]),
    ("image", &["image", "url", "bytes", "image_url", "image_base64"]),
    ("video_frames", &["video_frames"]),
];

/// An object of an input, each of its members unread.
#[derive(Clone, Copy, Debug)]
pub(super) struct Object<'a> {
    /// Its `type`.
    pub(super) kind: Option<Items<'a>>,
    /// Of a message.
    pub(super) role: Option<Items<'a>>,
    pub(super) content: Option<Items<'a>>,
    pub(super) text: Option<Items<'a>>,
    pub(super) image: Option<Items<'a>>,
    pub(super) url: Option<Items<'a>>,
    pub(super) bytes: Option<Items<'a>>,
    pub(super) image_url: Option<Items<'a>>,
    pub(super) image_base64: Option<Items<'a>>,
    pub(super) video: Option<Items<'a>>,
    /// Intel's.
    pub(super) video_frames: Option<Items<'a>>,
}

// As `Object::push` reads it.
/// A text or a picture: exactly one of these members, beside whatever else says what it is.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "read by the macro that derives its schema")]
pub(super) struct Part {
    text: Option<String>,
    image: Option<schema::Picture>,
    url: Option<schema::Picture>,
    bytes: Option<schema::Picture>,
    image_base64: Option<schema::Picture>,
    image_url: Option<ImageUrl>,
}

/// A data URL as Voyage has it, or an object with it as OpenAI does.
#[derive(JsonSchema)]
#[schemars(untagged)]
#[expect(dead_code, reason = "read by the macro that derives its schema")]
enum ImageUrl {
    Url(schema::Picture),
    Object { url: schema::Picture },
}

// As `push_content` reads it.
/// A text, or a list of exactly one part. A message has it too.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "read by the macro that derives its schema")]
pub(super) struct Content {
    content: TextOrParts,
}

#[derive(JsonSchema)]
#[schemars(untagged, inline)]
#[expect(dead_code, reason = "read by the macro that derives its schema")]
enum TextOrParts {
    Text(String),
    Parts(#[schemars(length(min = 1, max = 1))] Vec<Part>),
}

impl<'a> Object<'a> {
    /// Of an object; other values are refused.
    ///
    /// # Errors
    /// 400.
    pub(super) fn read(value: Raw<'a>) -> Result<Self, ApiError> {
        if !value.is_object() {
            return Err(fault(format_args!("an input is {}, expected an object", value.kind())));
        }
        let names = [
            "type",
            "role",
            "content",
            "text",
            "image",
            "url",
            "bytes",
            "image_url",
            "image_base64",
            "video",
            "video_frames",
        ];
        let members = value.members_named(names).map_err(|reason| fault(format_args!("an input: {reason}")))?;
        let [kind, role, content, text, image, url, bytes, image_url, image_base64, video, video_frames] =
            members.map(|member| member.map(Items::of));
        Ok(Self { kind, role, content, text, image, url, bytes, image_url, image_base64, video, video_frames })
    }

    /// The one member that says what the object is of, with its name, if any does.
    ///
    /// # Errors
    /// 400 for several of them, and for one that is not of the object's type.
    pub(super) fn member(&self) -> Result<Option<(&'static str, Items<'a>)>, ApiError> {
        let known = [
            ("content", self.content),
            ("text", self.text),
            ("image", self.image),
            ("url", self.url),
            ("bytes", self.bytes),
            ("image_url", self.image_url),
            ("image_base64", self.image_base64),
            ("video", self.video),
            ("video_frames", self.video_frames),
        ];
        let mut there = known.into_iter().filter_map(|(name, value)| Some((name, value?)));
        let first = there.next();
        if let (Some((one, _)), Some((other, _))) = (first, there.next()) {
            return Err(ApiError::invalid(format!("an input has both {one} and {other}; {ONE_AT_A_TIME}")));
        }
        if let (Some((name, _)), Some(kind)) = (first, self.kind) {
            let kind = kind.value().string().map_err(|_| {
                fault(format_args!("the type of an input is {}, expected a string", kind.value().kind()))
            })?;
            let is_video = kind.starts_with("video") && name.starts_with("video");
            if !is_video && !TYPES.iter().any(|(known, members)| *known == kind && members.contains(&name)) {
                let message = format!("the type of an input is {}, and it has {name}; {FORMS}", Quoted(&kind));
                return Err(ApiError::invalid(message));
            }
        }
        Ok(first)
    }

    /// Adds what the object is: a content, a content part, or one of Jina's objects.
    ///
    /// # Errors
    /// 400 for none of them, and as [`Self::member`], [`push_content`], [`Inputs::text`] and [`Inputs::picture`].
    pub(super) fn push(self, inputs: &mut Inputs<'_>) -> Result<(), ApiError> {
        let place = inputs.len();
        match self.member().map_err(|error| error.at(place))? {
            Some(("content", content)) => push_content(content, inputs),
            Some(("text", text)) => inputs.text(text),
            // OpenAI's is an object with the address in it, Voyage's is the address.
            Some(("image_url", url)) if url.value().is_object() => {
                let nested = Object::read(url.value()).and_then(|nested| nested.member());
                match nested.map_err(|error| error.at(place))? {
                    Some(("url", url)) => inputs.picture(url),
                    _ => Err(ApiError::invalid("the image_url of an input has no url").at(place)),
                }
            }
            Some(("image" | "url" | "bytes" | "image_url" | "image_base64", picture)) => inputs.picture(picture),
            Some(_) => Err(ApiError::invalid(NO_VIDEOS).at(place)),
            None if self.kind.is_some_and(|kind| kind.value().get().starts_with("\"video")) => {
                Err(ApiError::invalid(NO_VIDEOS).at(place))
            }
            None => {
                Err(ApiError::invalid(format!("an input is an object without a text or a picture; {FORMS}")).at(place))
            }
        }
    }

    /// Adds the content of an object that must have one, which `missing` says otherwise.
    fn push_content_of(self, missing: &'static str, inputs: &mut Inputs<'_>) -> Result<(), ApiError> {
        let place = inputs.len();
        match self.member().map_err(|error| error.at(place))? {
            Some(("content", content)) => push_content(content, inputs),
            _ => Err(ApiError::invalid(missing).at(place)),
        }
    }
}

const FORMS: &str = "expected {\"type\": \"text\", \"text\": ..}, {\"type\": \"image_url\", \"image_url\": {\"url\": \"data:image/..\"}}, \
                     {\"text\": ..} or {\"image\": ..}";

const NO_VIDEOS: &str = "videos are not embedded; send single frames as pictures";

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
        [part] => {
            let part = Object::read(part).map_err(|error| error.at(place))?;
            if part.content.is_some() {
                return Err(ApiError::invalid("a part of a content has a content of its own").at(place));
            }
            part.push(inputs)
        }
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
        object.push_content_of("an input has no content; expected {\"content\": [..]}", inputs)
    })
}

/// So many parts are counted before they are refused.
const MOST_PARTS: usize = 1024;

/// Adds the one content of a conversation: a list of messages, of which one alone may have any.
///
/// # Errors
/// 400 for none or several, and as [`push_content`].
pub(super) fn push_conversation(messages: &[Raw<'_>], inputs: &mut Inputs<'_>) -> Result<(), ApiError> {
    let place = inputs.len();
    let &[message] = messages else {
        let what = format!(
            "a conversation of {} messages; CLIP embeds one text or one picture, so send one message for each embedding",
            messages.len()
        );
        return Err(ApiError::invalid(what).at(place));
    };
    let message = Object::read(message).map_err(|error| error.at(place))?;
    message.push_content_of("a message has no content", inputs)
}
