//! From a request to its images, texts and options, whichever way they were sent.
//!
//! Owns content types, the query, and what an answer is to look like. Does not own the three ways of a body with items in it: `json` and
//! `items`, `form`.
//!
//! Invariants: the body is read once, within its limits (`body`); its reservation in the byte budget lives as long as its bytes.

use std::time::Duration;

use axum::extract::{Query, Request};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Uri, header};
use serde::de::DeserializeOwned;

use super::{
    json::{JsonRequest, Unread, encoding_fault, in_words},
    multipart::boundary,
    room::Claim,
};
use crate::{
    embedder::Terms,
    http::{
        ApiError, AppState, Code,
        connection::{
            accept::Link,
            body::{BodyBytes, BodyError, BodyLimits, read_body},
            coding::Coding,
            held::{Held, owning},
        },
        quoted::{Quoted, requote},
        reply,
    },
    telemetry::Reject,
};

/// Bytes of a query, as it is written. All options together take a tenth of it.
const MAX_QUERY_BYTES: usize = 4096;

/// To look at a byte of a body, to decode it and to copy it.
const NANOSECONDS_PER_BYTE: u64 = 3;

/// How the body is encoded.
#[derive(Debug)]
pub(in crate::http) enum Encoding {
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
pub(in crate::http) struct Payload {
    /// How the body is encoded.
    pub encoding: Encoding,
    /// What it is admitted on.
    pub terms: Terms,
    /// What is kept until the answer has been written.
    pub held: Held,
    /// The body.
    pub body: BodyBytes,
    headers: HeaderMap,
    uri: Uri,
}

impl Payload {
    /// Reads the body of `request`, which may be encoded in one of the `accepted` ways.
    ///
    /// # Errors
    /// 415 for another content type or coding, 400 for a damaged coding, 413 and 429 for the body limits, 408 for a body that comes too slowly.
    pub(in crate::http) async fn receive(
        state: &AppState,
        request: Request,
        accepted: &[Accepts],
    ) -> Result<Self, ApiError> {
        let (parts, body) = request.into_parts();
        let encoding = encoding(&parts.headers, accepted)?;
        let limits = BodyLimits {
            max_bytes: state.config.limits.max_body_bytes,
            idle_timeout: state.config.server.body_idle_timeout,
            timeout: state.config.server.body_timeout,
        };
        let refuse = |error| {
            if matches!(error, BodyError::BudgetExhausted) {
                state.metrics.reject(Reject::BodyBytes);
            }
            ApiError::from(error)
        };
        let coding = Coding::of(&parts.headers).map_err(refuse)?;
        let link = parts.extensions.get::<Link>();
        let body = read_body(body, &limits, &state.bodies, &state.peers, link).await.map_err(refuse)?;
        let place = state.gate.enter(&state.peers).await?;
        let held = parts.extensions.get::<Held>().cloned().unwrap_or_default();
        held.keep(place);
        let body = match coding {
            None => body,
            Some(coding) => {
                let takes = Coding::takes(&body, &limits);
                let decode = || coding.decode(body, &limits, &state.bodies);
                state.embedder()?.heavy().run(takes, decode).await.map_err(refuse)?
            }
        };
        let no_terms = || ApiError::internal("a request that did not come through the door");
        let terms = *parts.extensions.get::<Terms>().ok_or_else(no_terms)?;
        Ok(Self { encoding, terms, held, headers: parts.headers, uri: parts.uri, body })
    }

    /// How long it takes to read what is in the body, at most: its depth, its members, base64 or parts, a copy of each.
    pub(in crate::http) fn reading(&self) -> Duration {
        Duration::from_nanos((self.body.bytes().len() as u64).saturating_mul(NANOSECONDS_PER_BYTE))
    }

    /// A header.
    pub(in crate::http) fn header(&self, name: &HeaderName) -> Option<&HeaderValue> {
        self.headers.get(name)
    }

    /// What the request takes of the budget of bodies so far.
    pub(in crate::http) fn claim<'a>(&self, state: &'a AppState) -> Claim<'a> {
        Claim::new(state, self.body.bytes().len())
    }

    /// The body as JSON, its lists of items unread.
    ///
    /// # Errors
    /// 400 with the member, or the place, of the fault; also when options were sent as query parameters, where they would be ignored.
    pub(in crate::http) fn json<'a, T: JsonRequest<'a>>(&'a self) -> Result<T, ApiError> {
        self.unread()?.read()
    }

    /// The body as an object of JSON, its members unread.
    ///
    /// # Errors
    /// As [`Self::json`].
    pub(in crate::http) fn unread(&self) -> Result<Unread<'_>, ApiError> {
        if self.uri.query().is_some_and(|query| !query.is_empty()) {
            return Err(ApiError::invalid("with a JSON body the options go into the body, not into the query"));
        }
        Unread::of(self.body.bytes())
    }

    /// The options in the query.
    ///
    /// # Errors
    /// 400 that names the parameter.
    pub(in crate::http) fn query<T: DeserializeOwned>(&self) -> Result<T, ApiError> {
        query(&self.uri)
    }

    /// The body as one text.
    ///
    /// # Errors
    /// 400 when it is not UTF-8.
    pub(in crate::http) fn text(&self) -> Result<&str, ApiError> {
        std::str::from_utf8(self.body.bytes()).map_err(|_| {
            let way_out = encoding_fault(self.body.bytes()).unwrap_or("send UTF-8");
            ApiError::invalid(format!("the body is not UTF-8; {way_out}"))
        })
    }

    /// The shape in which the client wants the answer: of those that it accepts the one it likes best, of equals the first. It gets JSON
    /// where it names none of them: nobody has to ask for that.
    pub(in crate::http) fn form_of_answer(&self) -> AnswerForm {
        let accepted = self.headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
        form_of_answer(accepted)
    }
}

fn form_of_answer<'a>(accepted: impl Iterator<Item = &'a str>) -> AnswerForm {
    // What is named goes before what a wildcard stands for.
    let mut best = ((0.0, true), AnswerForm::Json);
    for range in accepted.flat_map(|list| list.split(',')) {
        let mut parts = range.split(';').map(str::trim);
        let mut named = true;
        let form = match parts.next().unwrap_or_default().to_ascii_lowercase().as_str() {
            reply::NPY => AnswerForm::Npy,
            reply::NPZ => AnswerForm::Npz,
            "application/json" => AnswerForm::Json,
            "application/*" | "*/*" => {
                named = false;
                AnswerForm::Json
            }
            _ => continue,
        };
        let quality = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
        let quality = quality.map_or(1.0, |quality| quality.trim().parse::<f32>().unwrap_or(0.0));
        if (quality, named) > best.0 {
            best = ((quality, named), form);
        }
    }
    best.1
}

/// How an answer is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::http) enum AnswerForm {
    /// JSON.
    Json,
    /// One NumPy array.
    Npy,
    /// NumPy arrays by name.
    Npz,
}

/// The body as one picture, which keeps its share of the budget for as long as its bytes are anywhere.
pub(in crate::http) fn picture(body: BodyBytes) -> Bytes {
    let (bytes, reservation) = body.into_parts();
    owning(bytes, reservation)
}

fn query<T: DeserializeOwned>(uri: &Uri) -> Result<T, ApiError> {
    let len = uri.query().unwrap_or_default().len();
    if len > MAX_QUERY_BYTES {
        let message = format!("the query has {len} bytes, the limit is {MAX_QUERY_BYTES}; items go into the body");
        return Err(ApiError::invalid(message));
    }
    Query::try_from_uri(uri).map(|Query(query)| query).map_err(|error| {
        let text = error.to_string();
        let reason = text.strip_prefix("Failed to deserialize query string: ").unwrap_or(&text).to_owned();
        let pairs = Query::<Vec<(String, String)>>::try_from_uri(uri).map(|Query(pairs)| pairs).unwrap_or_default();
        // One of a list is refused by its own name.
        let words =
            pairs.iter().flat_map(|(key, value)| [key.as_str(), value.as_str()].into_iter().chain(value.split(',')));
        ApiError::invalid(format!("the query: {}", requote(in_words(reason), words)))
    })
}

/// What a route takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::http) enum Accepts {
    /// JSON.
    Json,
    /// JSON, whatever it is called: many clients of other services say nothing of it.
    AnyJson,
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
            Self::Json | Self::AnyJson => "application/json",
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
        other if has(Accepts::AnyJson) && other != "multipart/form-data" => Ok(Encoding::Json),
        "multipart/form-data" if has(Accepts::Multipart) => boundary(declared.unwrap_or_default())
            .map(Encoding::Multipart)
            .ok_or_else(|| ApiError::invalid("the content type multipart/form-data has no boundary of 1 to 70 bytes")),
        "text/plain" if has(Accepts::Text) => Ok(Encoding::Text),
        // The second is what object stores call what nobody gave a type.
        "application/octet-stream" | "binary/octet-stream" if has(Accepts::Image) => Ok(Encoding::Image),
        image if has(Accepts::Image) && image.starts_with("image/") => Ok(Encoding::Image),
        _ => {
            let expected = accepted.iter().map(|kind| kind.describe()).collect::<Vec<_>>().join(", ");
            let sent = if mime.is_empty() {
                "no content type".to_owned()
            } else {
                format!("content type \"{}\"", Quoted(&mime))
            };
            Err(ApiError::new(Code::UnsupportedMediaType, format!("the request has {sent}, expected {expected}")))
        }
    }
}

/// Holds `dimensions` between 1 and the model's.
///
/// # Errors
/// 400 that names both.
pub(in crate::http) fn check_dimensions(dimensions: Option<usize>, dim: usize) -> Result<(), ApiError> {
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

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Options {
        #[serde(default)]
        truncate: bool,
        encoding_format: Option<crate::http::embedding::EncodingFormat>,
    }

    fn options(query: &str) -> Result<Options, ApiError> {
        super::query(&format!("/?{query}").parse().expect("a URI"))
    }

    #[test]
    fn a_number_of_the_query_is_refused_in_words() {
        let refused = |uri: &'static str| {
            let error = query::<std::collections::BTreeMap<String, i64>>(&Uri::from_static(uri)).unwrap_err();
            error.message.into_owned()
        };
        for (uri, expected) in [
            ("/?priority=low", "expected a whole number"),
            ("/?priority=", "expected a whole number, and it is empty"),
            ("/?priority=99999999999999999999", "the number is too large"),
        ] {
            let message = refused(uri);
            assert!(message.starts_with("the query: ") && message.ends_with(expected), "{message}");
        }
        assert_eq!(query::<std::collections::BTreeMap<String, i64>>(&Uri::from_static("/?a=-1")).unwrap()["a"], -1);
    }

    #[test]
    fn a_query_is_short_and_its_words_are_cut_and_escaped_after_they_are_decoded() {
        let read = options("truncate=true&encoding_format=base64").expect("valid");
        assert!(read.truncate && read.encoding_format.is_some());
        let long = "x".repeat(200);
        for (query, expected) in [
            ("truncat=1".to_owned(), "unknown field `truncat`"),
            (format!("{long}=1"), "xxx…`"),
            (format!("encoding_format={long}"), "xxx…`"),
            ("%E2%80%AE%0A=1".to_owned(), "`\\u{202e}\\n`"),
            ("encoding_format=%E2%80%AE%0A".to_owned(), "`\\u{202e}\\n`"),
            ("truncate=%0A".to_owned(), "not `true` or `false`"),
            (format!("a={}", "x".repeat(4095)), "the query has 4097 bytes, the limit is 4096"),
        ] {
            let error = options(&query).expect_err("refused");
            assert!(error.message.contains(expected), "{query}: {}", error.message);
            assert!(error.message.len() <= 1024 && !error.message.contains(&long[..64]), "{}", error.message);
            assert!(!error.message.contains(['\n', '\u{202e}']), "{}", error.message);
        }
    }

    #[test]
    fn of_the_accepted_forms_the_one_liked_best_is_written() {
        use AnswerForm::{Json, Npy, Npz};
        for (accepted, form) in [
            ("", Json),
            ("application/x-npy", Npy),
            ("Application/X-NPY", Npy),
            ("application/x-npz, application/x-npy", Npz),
            ("application/x-npz;q=0.5, application/x-npy", Npy),
            ("application/x-npy;q=0.5, application/json;q=0.9", Json),
            ("application/x-npy;q=0.5, */*;q=0.1", Npy),
            ("application/x-npy;q=0", Json),
            ("application/x-npy; Q=0.001", Npy),
            ("application/x-npy;q=much, text/html", Json),
            ("*/*, application/x-npy;q=0.9", Json),
            ("*/*, application/x-npy", Npy),
            ("application/json, application/x-npy", Json),
        ] {
            assert_eq!(form_of_answer(std::iter::once(accepted)), form, "{accepted}");
        }
        assert_eq!(form_of_answer(["text/html", "application/x-npz"].into_iter()), Npz);
    }

    #[test]
    fn a_content_type_is_cut() {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, "x".repeat(2000).parse().expect("a header"));
        let error = encoding(&headers, &[Accepts::Json]).expect_err("not served");
        assert!(error.message.contains("xxx…\"") && error.message.len() < 200, "{}", error.message);
    }

    #[test]
    fn dimensions_are_between_one_and_the_models() {
        for (dimensions, ok) in [(None, true), (Some(1), true), (Some(48), true), (Some(0), false), (Some(49), false)] {
            assert_eq!(check_dimensions(dimensions, 48).is_ok(), ok, "{dimensions:?}");
        }
    }
}
