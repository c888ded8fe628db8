//! The one table of errors: code, status, message, and what the client is told besides.
//!
//! Owns [`Code`] and [`ApiError`]. Policy: a message names the item, the limit and what to do, and never holds a path, a
//! `Debug` print or a library's name, and of the client's words only what `quoted` shows; what really happened goes into `cause`, which is logged once with the request id and
//! never sent. An error becomes a response without a body that carries the error as an extension; the outermost layer writes
//! the body, because only it knows the request id.

use std::{borrow::Cow, time::Duration};

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use http::{HeaderName, HeaderValue, StatusCode, header};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Serialize;

mod refusals;

/// What can go wrong, as the client sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// The request cannot be understood.
    InvalidRequest,
    /// The API key is missing or wrong.
    Unauthorized,
    /// No such route.
    NotFound,
    /// No model of that name is served.
    ModelNotFound,
    /// The route has other methods.
    MethodNotAllowed,
    /// The body came too slowly.
    RequestTimeout,
    /// The body, or the number of its items, is over a limit.
    PayloadTooLarge,
    /// The media type, or the picture's format, is not served.
    UnsupportedMediaType,
    /// A picture cannot be decoded or is over a limit.
    InvalidImage,
    /// A picture could not be fetched from its address.
    ImageNotFetched,
    /// A text is over a limit.
    InvalidText,
    /// No room now; come back after `Retry-After`.
    Overloaded,
    /// A fault of ours.
    Internal,
    /// The model has no encoder for it.
    NotSupported,
    /// The model is still loading.
    NotReady,
    /// The server is draining.
    ShuttingDown,
    /// There is no memory for a picture now.
    OutOfMemory,
    /// The request took longer than `server.request_timeout`.
    DeadlineExceeded,
}

impl Code {
    /// Every code: tests and documentation walk it.
    pub const ALL: [Self; 18] = [
        Self::InvalidRequest,
        Self::Unauthorized,
        Self::NotFound,
        Self::ModelNotFound,
        Self::MethodNotAllowed,
        Self::RequestTimeout,
        Self::PayloadTooLarge,
        Self::UnsupportedMediaType,
        Self::InvalidImage,
        Self::ImageNotFetched,
        Self::InvalidText,
        Self::Overloaded,
        Self::Internal,
        Self::NotSupported,
        Self::NotReady,
        Self::ShuttingDown,
        Self::OutOfMemory,
        Self::DeadlineExceeded,
    ];

    /// The wire form.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidRequest => "invalid_request",
            Self::Unauthorized => "unauthorized",
            Self::NotFound => "not_found",
            Self::ModelNotFound => "model_not_found",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::RequestTimeout => "request_timeout",
            Self::PayloadTooLarge => "payload_too_large",
            Self::UnsupportedMediaType => "unsupported_media_type",
            Self::InvalidImage => "invalid_image",
            Self::ImageNotFetched => "image_not_fetched",
            Self::InvalidText => "invalid_text",
            Self::Overloaded => "overloaded",
            Self::Internal => "internal",
            Self::NotSupported => "not_supported",
            Self::NotReady => "not_ready",
            Self::ShuttingDown => "shutting_down",
            Self::OutOfMemory => "out_of_memory",
            Self::DeadlineExceeded => "deadline_exceeded",
        }
    }

    /// The HTTP status of the answer.
    ///
    /// 429 is for "no room now" and 503 for "not able": load balancers eject a replica that answers 5xx, and ejecting one
    /// that merely sheds load would move its load onto the others.
    pub fn status(self) -> StatusCode {
        match self {
            Self::InvalidRequest => StatusCode::BAD_REQUEST,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::NotFound | Self::ModelNotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::RequestTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::PayloadTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::InvalidImage | Self::ImageNotFetched | Self::InvalidText => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Overloaded => StatusCode::TOO_MANY_REQUESTS,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            Self::NotSupported => StatusCode::NOT_IMPLEMENTED,
            Self::NotReady | Self::ShuttingDown | Self::OutOfMemory => StatusCode::SERVICE_UNAVAILABLE,
            Self::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        }
    }
}

/// `Retry-After` in milliseconds, as OpenAI's clients know it.
const RETRY_AFTER_MS: HeaderName = HeaderName::from_static("retry-after-ms");
/// Whether to repeat the request, whatever its status says.
const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

/// Bytes of a message.
pub(super) const MAX_MESSAGE: usize = 1024;

/// An error on its way to the client.
#[derive(Clone, Debug)]
pub struct ApiError {
    /// Which.
    pub code: Code,
    /// For the client.
    pub message: Cow<'static, str>,
    /// Which image or text of the request.
    pub index: Option<usize>,
    /// When to come back.
    pub retry_after: Option<Duration>,
    /// For the log.
    pub cause: Option<String>,
    /// How it looks, where that is not as the path's first owner has it.
    shape: Option<ErrorShape>,
}

/// How an error looks in the eyes of the clients of one dialect.
#[derive(Clone, Copy, Debug)]
pub(in crate::http) struct ErrorShape {
    write: fn(&ApiError, &str) -> Shaped,
    /// Of its body, for the OpenAPI document.
    pub(super) schema: fn(&mut SchemaGenerator) -> Schema,
}

impl ErrorShape {
    /// Written by `write` as a `T`. The request's id is given for those who repeat it.
    pub(super) const fn of<T: JsonSchema>(write: fn(&ApiError, &str) -> Shaped) -> Self {
        Self { write, schema: SchemaGenerator::subschema_for::<T> }
    }

    /// The status of what is refused with `code`.
    pub(super) fn status(self, code: Code) -> StatusCode {
        (self.write)(&ApiError::new(code, ""), "").status
    }
}

/// The wire form of an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::http) struct Shaped {
    /// The status, which some clients choose their exception by.
    pub(in crate::http) status: StatusCode,
    /// JSON.
    pub(in crate::http) body: Vec<u8>,
}

impl Shaped {
    /// With `body` as JSON.
    pub(super) fn json(status: StatusCode, body: &impl Serialize) -> Self {
        Self { status, body: serde_json::to_vec(body).unwrap_or_default() }
    }
}

/// Errors as our own routes have them.
pub(super) const NATIVE: ErrorShape = ErrorShape::of::<Envelope<'static>>(ApiError::native);

/// `{"error": {..}}`.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Error")]
struct Envelope<'a> {
    error: Wire<'a>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(inline)]
struct Wire<'a> {
    #[schemars(schema_with = "codes")]
    code: &'static str,
    message: &'a str,
    /// Which item stands in the way.
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<usize>,
    request_id: &'a str,
}

fn codes(_: &mut SchemaGenerator) -> Schema {
    schemars::json_schema!({"enum": Code::ALL.map(Code::as_str)})
}

impl ApiError {
    /// An error with a message for the client, whose words have been cut (`quoted`). What is longer than any of ours is cut as well.
    pub fn new(code: Code, message: impl Into<Cow<'static, str>>) -> Self {
        let mut message = message.into();
        if message.len() > MAX_MESSAGE {
            let mut end = MAX_MESSAGE - '…'.len_utf8();
            while !message.is_char_boundary(end) {
                end -= 1;
            }
            message = format!("{}…", &message[..end]).into();
        }
        Self { code, message, index: None, retry_after: None, cause: None, shape: None }
    }

    /// The request cannot be understood.
    pub fn invalid(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Code::InvalidRequest, message)
    }

    /// A fault of ours: the client learns that it is one, the log learns `cause`.
    pub fn internal(cause: impl Into<String>) -> Self {
        let message = "the server failed to answer this request; the request id finds the reason in its log";
        Self { cause: Some(cause.into()), ..Self::new(Code::Internal, message) }
    }

    /// With its item, where it names one, called by its place among all of them.
    pub(super) fn among(self, places: &[usize]) -> Self {
        let place = self.index.and_then(|index| places.get(index).copied());
        Self { index: place.or(self.index), ..self }
    }

    /// Whether it is the fault of one item, which says nothing of the others.
    pub(super) fn is_of_an_item(&self) -> bool {
        use Code::{ImageNotFetched, InvalidImage, InvalidRequest, InvalidText, UnsupportedMediaType};
        let own = [InvalidRequest, UnsupportedMediaType, InvalidImage, ImageNotFetched, InvalidText];
        own.contains(&self.code) && self.index.is_some()
    }

    /// Names the item.
    pub fn at(self, index: usize) -> Self {
        Self { index: Some(index), ..self }
    }

    /// Says when to come back.
    pub fn retry_after(self, after: Duration) -> Self {
        Self { retry_after: Some(after), ..self }
    }

    /// In `shape`, unless it has one already.
    pub(super) fn shaped_if_not(self, shape: Option<ErrorShape>) -> Self {
        Self { shape: self.shape.or(shape), ..self }
    }

    /// The status and the body, in its own shape or in that of the path's first owner.
    pub(super) fn wire(&self, owner: ErrorShape, request_id: &str) -> Shaped {
        (self.shape.unwrap_or(owner).write)(self, request_id)
    }

    /// The message with the item in front, for shapes that have no place of its own for it.
    pub(super) fn message_with_index(&self, item: &str) -> Cow<'_, str> {
        match self.index {
            Some(index) => format!("{item} {index}: {}", self.message).into(),
            None => Cow::Borrowed(&self.message),
        }
    }

    /// The message with the item's name in front, as in `images[3]: ..`, of one of a tensor or another list of that name.
    pub(super) fn naming(self, list: &str) -> Self {
        let message = match self.index {
            Some(index) => format!("{list}[{index}]: {}", self.message),
            None => format!("{list}: {}", self.message),
        };
        Self { message: Self::invalid(message).message, ..self }
    }

    fn native(&self, request_id: &str) -> Shaped {
        let error = Wire { code: self.code.as_str(), message: &self.message, index: self.index, request_id };
        Shaped::json(self.code.status(), &Envelope { error })
    }
}

/// The longest time after which a client is told to come back, in seconds: what is forecast further ahead is worth little.
const LONGEST_RETRY: f64 = 10.0;

/// When to come back: once to twice as long as it is expected to take, as `chance` (0 to 1) has it, 1 to 10 seconds. Who was refused
/// together must not come back together.
///
/// In milliseconds for `retry-after-ms`, which OpenAI's clients look at first, and in whole seconds for `Retry-After`, which all others
/// know. All clients honour 1 to 60 seconds alike; beyond, some give up, and at 0 some come back at once.
fn retry_after(after: Duration, chance: f64) -> (u64, u64) {
    let seconds = after.as_secs_f64().clamp(1.0, LONGEST_RETRY);
    let seconds = (seconds * (1.0 + chance)).clamp(1.0, LONGEST_RETRY);
    ((seconds * 1e3).round() as u64, seconds.round() as u64)
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = self.code.status();
        let headers = response.headers_mut();
        if let Some(after) = self.retry_after {
            let (milliseconds, seconds) = retry_after(after, fastrand::f64());
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
            headers.insert(RETRY_AFTER_MS, HeaderValue::from(milliseconds));
        }
        // What OpenAI's clients would do by the status alone is wrong for a 501, which no repetition mends.
        if self.retry_after.is_some() || self.code == Code::NotSupported {
            let should = if self.retry_after.is_some() { "true" } else { "false" };
            headers.insert(SHOULD_RETRY, HeaderValue::from_static(should));
        }
        if self.code == Code::Unauthorized {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        // What is left of a body that was refused must not be read as the next request's head, so the connection ends.
        if matches!(self.code, Code::RequestTimeout | Code::PayloadTooLarge | Code::ShuttingDown) {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response.extensions_mut().insert(self);
        response
    }
}

impl ApiError {
    /// The server is draining.
    pub fn shutting_down() -> Self {
        let message = "the server is shutting down; send the request to another replica";
        Self::new(Code::ShuttingDown, message).retry_after(Duration::from_secs(1))
    }

    /// The model is still loading.
    pub fn not_ready() -> Self {
        let message = "the model is still loading; /readyz tells when it is ready";
        Self::new(Code::NotReady, message).retry_after(Duration::from_secs(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_codes_and_statuses() {
        let table: Vec<(&str, u16)> = Code::ALL.iter().map(|code| (code.as_str(), code.status().as_u16())).collect();
        let expected = [
            ("invalid_request", 400),
            ("unauthorized", 401),
            ("not_found", 404),
            ("model_not_found", 404),
            ("method_not_allowed", 405),
            ("request_timeout", 408),
            ("payload_too_large", 413),
            ("unsupported_media_type", 415),
            ("invalid_image", 422),
            ("image_not_fetched", 422),
            ("invalid_text", 422),
            ("overloaded", 429),
            ("internal", 500),
            ("not_supported", 501),
            ("not_ready", 503),
            ("shutting_down", 503),
            ("out_of_memory", 503),
            ("deadline_exceeded", 504),
        ];
        assert_eq!(table, expected);
    }

    #[test]
    fn a_message_has_at_most_a_kibibyte() {
        let message = |text: String| ApiError::invalid(text).message.into_owned();
        assert_eq!(message("a".repeat(1024)).len(), 1024);
        let cut = message(format!("a{}", "ü".repeat(1000)));
        assert!(cut.len() <= 1024 && cut.len() > 1020 && cut.ends_with("ü…"), "{}", cut.len());
    }

    #[test]
    fn those_who_are_refused_together_come_back_at_different_times() {
        let after = |ms, chance| retry_after(Duration::from_millis(ms), chance).1;
        assert_eq!((after(0, 0.0), after(0, 0.99)), (1, 2));
        assert_eq!((after(3000, 0.0), after(3000, 0.5), after(3000, 0.99)), (3, 5, 6));
        assert_eq!((after(60_000, 0.0), after(60_000, 0.99)), (10, 10));
        assert_eq!(retry_after(Duration::from_millis(1200), 0.25), (1500, 2));
    }

    #[test]
    fn the_cause_is_never_in_the_body() {
        let body =
            String::from_utf8(ApiError::internal("a secret path").at(3).wire(NATIVE, "id-1").body).expect("UTF-8");
        assert!(!body.contains("secret"), "{body}");
        assert!(
            body.contains(r#""code":"internal""#) && body.contains(r#""index":3"#) && body.contains("id-1"),
            "{body}"
        );
    }
}
