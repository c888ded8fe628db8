//! From a request to its images, texts and options, whichever way they were sent.
//!
//! Owns content types, multipart, base64 and data URLs, and the limits on how many items a request may bring. Does not decode
//! a picture or look at a text: that is for the lanes.
//!
//! Invariants: the body is read once, within its limits (`body`); its reservation in the byte budget lives as long as the
//! [`Payload`]; an error names the item by its index.

use axum::extract::{Query, Request};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use http::{HeaderMap, Uri, header};
use serde::de::DeserializeOwned;

use super::{
    ApiError, AppState, Code,
    accept::Link,
    body::{BodyBytes, BodyError, BodyLimits, read_body},
    door::enter,
    held::Held,
};
use crate::{embedder::Terms, telemetry::Reject};

/// How the body is encoded.
#[derive(Debug)]
pub(super) enum Encoding {
    /// `application/json`.
    Json,
    /// `multipart/form-data` with this boundary.
    Multipart(String),
    /// One picture.
    Image,
    /// `text/plain`: one text.
    Text,
}

/// A request whose body has been read.
#[derive(Debug)]
pub(super) struct Payload {
    /// How the body is encoded.
    pub encoding: Encoding,
    /// What it is admitted on.
    pub terms: Terms,
    headers: HeaderMap,
    uri: Uri,
    body: BodyBytes,
}

impl Payload {
    /// Reads the body of `request`, which may be encoded in one of the `accepted` ways.
    ///
    /// # Errors
    /// 415 for another content type, 413 and 429 for the body limits, 408 for a body that comes too slowly.
    pub(super) async fn receive(state: &AppState, request: Request, accepted: &[Accepts]) -> Result<Self, ApiError> {
        let (parts, body) = request.into_parts();
        let encoding = encoding(&parts.headers, accepted)?;
        let limits = BodyLimits {
            max_bytes: state.config.limits.max_body_bytes,
            idle_timeout: state.config.server.body_idle_timeout,
            timeout: state.config.server.body_timeout,
        };
        let link = parts.extensions.get::<Link>();
        let body =
            read_body(&parts.headers, body, &limits, &state.bodies, &state.peers, link).await.map_err(|error| {
                if matches!(error, BodyError::BudgetExhausted) {
                    state.metrics.reject(Reject::BodyBytes);
                }
                ApiError::from(error)
            })?;
        let place = enter(state).await?;
        if let Some(held) = parts.extensions.get::<Held>() {
            held.keep(place);
        }
        let no_terms = || ApiError::internal("a request that did not come through the door");
        let terms = *parts.extensions.get::<Terms>().ok_or_else(no_terms)?;
        Ok(Self { encoding, terms, headers: parts.headers, uri: parts.uri, body })
    }

    /// The body as JSON, strings borrowed from it.
    ///
    /// # Errors
    /// 400 with the place of the fault; also when options were sent as query parameters, where they would be ignored.
    pub(super) fn json<'a, T: serde::Deserialize<'a>>(&'a self) -> Result<T, ApiError> {
        if self.uri.query().is_some_and(|query| !query.is_empty()) {
            return Err(ApiError::invalid("with a JSON body the options go into the body, not into the query"));
        }
        serde_json::from_slice(self.body.bytes()).map_err(|error| ApiError::invalid(format!("the JSON body: {error}")))
    }

    /// The options in the query.
    ///
    /// # Errors
    /// 400 that names the parameter.
    pub(super) fn query<T: DeserializeOwned>(&self) -> Result<T, ApiError> {
        Query::try_from_uri(&self.uri).map(|Query(query)| query).map_err(|error| {
            let text = error.to_string();
            let reason = text.strip_prefix("Failed to deserialize query string: ").unwrap_or(&text).to_owned();
            ApiError::invalid(format!("the query: {reason}"))
        })
    }

    /// The body as it came.
    pub(super) fn bytes(&self) -> &Bytes {
        self.body.bytes()
    }

    /// The body as one text.
    ///
    /// # Errors
    /// 400 when it is not UTF-8.
    pub(super) fn text(&self) -> Result<&str, ApiError> {
        std::str::from_utf8(self.body.bytes()).map_err(|_| ApiError::invalid("the body is not UTF-8"))
    }

    /// The parts of a multipart body: file parts and, by name, text fields. At most `max_parts`.
    ///
    /// # Errors
    /// 400 when it is malformed or has a field that is not among `fields`; 413 for too many parts.
    pub(super) async fn form(&self, boundary: &str, fields: &[&str], max_parts: usize) -> Result<Form, ApiError> {
        let malformed = |error: multer::Error| ApiError::invalid(format!("the multipart body: {error}"));
        let body = self.body.bytes().clone();
        let stream = futures_util::stream::once(async move { Ok::<_, std::convert::Infallible>(body) });
        let mut multipart = multer::Multipart::new(stream, boundary);
        let mut form = Form::default();
        while let Some(field) = multipart.next_field().await.map_err(malformed)? {
            if form.files.len() + form.fields.len() == max_parts {
                let message = format!("the multipart body has more than {max_parts} parts, which is the limit");
                return Err(ApiError::new(Code::PayloadTooLarge, message));
            }
            let name = field.name().unwrap_or_default().to_owned();
            let is_file = field.file_name().is_some()
                || field.content_type().is_some_and(|mime| mime.type_() == "image" || mime.subtype() == "octet-stream");
            if is_file {
                form.files.push(field.bytes().await.map_err(malformed)?);
            } else if fields.contains(&name.as_str()) {
                let bytes = field.bytes().await.map_err(malformed)?;
                let text = String::from_utf8(bytes.into())
                    .map_err(|_| ApiError::invalid(format!("the field {name:?} of the multipart body is not UTF-8")))?;
                form.fields.push((name, text));
            } else {
                let known = if fields.is_empty() { "file parts only".to_owned() } else { fields.join(", ") };
                return Err(ApiError::invalid(format!(
                    "the multipart body has a field {name:?} that is not a file; expected {known} (a picture needs a file name \
                     or an image content type)"
                )));
            }
        }
        Ok(form)
    }

    /// The shape in which the client wants the answer.
    pub(super) fn form_of_answer(&self) -> AnswerForm {
        let accepts = self.headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
        let mut kinds = accepts.flat_map(|accept| accept.split(',')).filter_map(|kind| kind.split(';').next());
        let known = |kind: &str| match kind.trim() {
            super::reply::NPY => Some(AnswerForm::Npy),
            super::reply::NPZ => Some(AnswerForm::Npz),
            _ => None,
        };
        kinds.find_map(known).unwrap_or(AnswerForm::Json)
    }
}

/// How an answer is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AnswerForm {
    /// JSON.
    Json,
    /// One NumPy array.
    Npy,
    /// NumPy arrays by name.
    Npz,
}

/// A multipart body.
#[derive(Debug, Default)]
pub(super) struct Form {
    /// The file parts in order.
    pub files: Vec<Bytes>,
    /// The other parts in order, by name.
    pub fields: Vec<(String, String)>,
}

impl Form {
    /// The values of the fields of that name, in order.
    pub(super) fn values(&self, name: &str) -> Vec<&str> {
        self.fields.iter().filter(|(field, _)| field == name).map(|(_, value)| value.as_str()).collect()
    }
}

/// What a route takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Accepts {
    /// JSON.
    Json,
    /// Multipart.
    Multipart,
    /// A picture as the body.
    Image,
    /// A text as the body.
    Text,
}

impl Accepts {
    fn describe(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Multipart => "multipart/form-data",
            Self::Image => "image/* or application/octet-stream",
            Self::Text => "text/plain",
        }
    }
}

/// Decides by the declared content type which decoder the body gets. What kind of picture it is, its first bytes decide.
fn encoding(headers: &HeaderMap, accepted: &[Accepts]) -> Result<Encoding, ApiError> {
    let declared = headers.get(header::CONTENT_TYPE).map(|value| value.to_str().unwrap_or_default());
    let mime = declared.unwrap_or_default().split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let has = |kind| accepted.contains(&kind);
    match mime.as_str() {
        "application/json" if has(Accepts::Json) => Ok(Encoding::Json),
        "multipart/form-data" if has(Accepts::Multipart) => multer::parse_boundary(declared.unwrap_or_default())
            .map(Encoding::Multipart)
            .map_err(|_| ApiError::invalid("the content type multipart/form-data has no boundary")),
        "text/plain" if has(Accepts::Text) => Ok(Encoding::Text),
        "application/octet-stream" if has(Accepts::Image) => Ok(Encoding::Image),
        image if has(Accepts::Image) && image.starts_with("image/") => Ok(Encoding::Image),
        _ => {
            let expected = accepted.iter().map(|kind| kind.describe()).collect::<Vec<_>>().join(", ");
            let sent = if mime.is_empty() { "no content type".to_owned() } else { format!("content type {mime:?}") };
            Err(ApiError::new(Code::UnsupportedMediaType, format!("the request has {sent}, expected {expected}")))
        }
    }
}

/// A JSON image: base64, or a `data:` URL with base64.
///
/// # Errors
/// 400; a web address is refused with a message of its own, because this service fetches nothing.
pub(super) fn decode_base64_image(text: &str) -> Result<Bytes, ApiError> {
    let encoded = match text.get(..5) {
        Some(scheme) if scheme.eq_ignore_ascii_case("data:") => {
            let (meta, data) =
                text.split_once(',').ok_or_else(|| ApiError::invalid("the data URL has no comma before its data"))?;
            if !meta.to_ascii_lowercase().ends_with(";base64") {
                return Err(ApiError::invalid("the data URL is not base64; send data:image/...;base64,..."));
            }
            data
        }
        _ if text.starts_with("http://") || text.starts_with("https://") => {
            return Err(ApiError::invalid("web addresses are not fetched; send the picture as base64 or a data URL"));
        }
        _ => text,
    };
    if encoded.is_empty() {
        return Err(ApiError::invalid("the picture is empty"));
    }
    BASE64_STANDARD
        .decode(encoded)
        .map(Bytes::from)
        .map_err(|error| ApiError::invalid(format!("the picture is not standard padded base64: {error}")))
}

/// The pictures of a JSON request.
///
/// # Errors
/// As [`decode_base64_image`], with the index.
pub(super) fn json_images(images: &super::wire::Strings<'_>) -> Result<Vec<Bytes>, ApiError> {
    images.0.iter().enumerate().map(|(i, text)| decode_base64_image(text).map_err(|error| error.at(i))).collect()
}

/// Holds the number of one kind of item between 1 and its limit.
///
/// # Errors
/// 400 for none, 413 for too many.
pub(super) fn check_count(kind: &str, count: usize, limit: usize) -> Result<(), ApiError> {
    if count == 0 {
        return Err(ApiError::invalid(format!("the request has no {kind}")));
    }
    if count > limit {
        let message = format!("the request has {count} {kind}, the limit is {limit}; split it");
        return Err(ApiError::new(Code::PayloadTooLarge, message));
    }
    Ok(())
}

/// Holds `dimensions` between 1 and the model's.
///
/// # Errors
/// 400 that names both.
pub(super) fn check_dimensions(dimensions: Option<usize>, dim: usize) -> Result<(), ApiError> {
    match dimensions {
        Some(dimensions) if dimensions == 0 || dimensions > dim => {
            Err(ApiError::invalid(format!("dimensions is {dimensions}, the model's embeddings have 1 to {dim}")))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_and_data_urls_are_pictures_and_nothing_else_is() {
        for good in ["QUJD", "data:image/png;base64,QUJD", "DATA:;BASE64,QUJD", "data:image/png;charset=x;base64,QUJD"]
        {
            assert_eq!(decode_base64_image(good).expect(good), "ABC");
        }
        for (bad, expected) in [
            ("QUJ", "not standard padded base64"),
            ("QU JD", "not standard padded base64"),
            ("Q_-D", "not standard padded base64"),
            ("QUJDR", "not standard padded base64"),
            ("QUI", "not standard padded base64"),
            ("", "empty"),
            ("data:image/png;base64,", "empty"),
            ("data:image/png,QUJD", "not base64"),
            ("data:image/png;base64", "no comma"),
            ("http://169.254.169.254/", "not fetched"),
        ] {
            let error = decode_base64_image(bad).expect_err(bad);
            assert!(error.message.contains(expected), "{bad}: {}", error.message);
            assert_eq!(error.code, Code::InvalidRequest);
        }
    }

    #[test]
    fn the_number_of_items_is_between_one_and_the_limit() {
        assert_eq!(check_count("images", 0, 2).expect_err("none").code, Code::InvalidRequest);
        assert!(check_count("images", 1, 2).is_ok() && check_count("images", 2, 2).is_ok());
        let error = check_count("images", 3, 2).expect_err("too many");
        assert_eq!(error.code, Code::PayloadTooLarge);
        assert_eq!(error.message, "the request has 3 images, the limit is 2; split it");
    }

    #[test]
    fn dimensions_are_between_one_and_the_models() {
        for (dimensions, ok) in [(None, true), (Some(1), true), (Some(48), true), (Some(0), false), (Some(49), false)] {
            assert_eq!(check_dimensions(dimensions, 48).is_ok(), ok, "{dimensions:?}");
        }
    }
}
