//! What surrounds every handler: request id, log line, metrics, span, error bodies; and for the API routes the key and the gate.
//!
//! Owns the order of these: [`observe`] is outermost and sees every answer, also those of the router itself (404, 405) and of
//! a panic; [`authenticate`] comes before [`admit`], so that a stranger cannot take a place.
//!
//! Invariants: a request is counted, and its span ends, exactly once, when the last byte of its answer is written or dropped, or when
//! its handler is dropped (status 499: the client went away); the in-flight gauge and the permit are held as long, on every path.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    body::Body,
    extract::{MatchedPath, Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use tracing::{Instrument, Span, field};
use uuid::Uuid;

use super::{
    ApiError, AppState, Code, Peers,
    access::{Asker, Caller, Key, Place},
    connection::{
        accept::{AmbiguousBody, PeerAddr},
        held::Held,
        seat::Seat,
    },
    door::{self, Begun},
    error::Shaped,
    owners::{Route, Routes},
    trace::{self, TRACERESPONSE},
};
use crate::{
    embedder::Terms,
    health::Readiness,
    telemetry::{Metrics, Reject, RequestSpan},
};

/// The header of the request id.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The header of the fingerprint of the model that answers: two with the same give the same embeddings.
const FINGERPRINT: HeaderName = HeaderName::from_static("x-model-fingerprint");

/// The longest request id that is echoed.
const MAX_REQUEST_ID: usize = 128;

/// What a listener's requests are observed by.
#[derive(Clone)]
pub(super) struct Observer {
    pub(super) state: Arc<AppState>,
    /// By one of these each request is counted.
    pub(super) routes: &'static Routes,
    /// `http`, or `https` where TLS ends here.
    pub(super) scheme: &'static str,
}

/// Outermost: gives the request its id and span, writes error bodies, logs and counts.
pub(super) async fn observe(
    State(Observer { state, routes, scheme }): State<Observer>,
    mut request: Request,
    next: Next,
) -> Response {
    let started = Instant::now();
    let request_id = request_id(request.headers());
    // The route template, never the path: metric labels must come from a closed set.
    let template = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    let Route { template: route, errors, is_probe } = routes.of(template, request.uri().path());
    let method = method_label(request.method());
    let id = request_id.to_str().unwrap_or_default();
    let trace = if is_probe { None } else { trace::begin(&state.metrics.spans, &request, scheme, route, id) };
    let span = tracing::info_span!(
        "request",
        request_id = id,
        method,
        route,
        key = field::Empty,
        trace_id = trace.as_ref().map(|trace| tracing::field::display(trace.trace_id())),
        span_id = trace.as_ref().map(|trace| tracing::field::display(trace.span_id())),
    );
    let traceresponse = trace.as_ref().and_then(|trace| HeaderValue::try_from(trace.traceresponse()).ok());
    request.extensions_mut().insert(Begun { at: started, trace: trace.as_ref().and_then(RequestSpan::trace) });
    let caller = Caller::default();
    request.extensions_mut().insert(caller.clone());
    state.metrics.in_flight.inc();
    // The connection's, so that all that is held goes with the bytes; a request that came by none has one of its own.
    let held = request.extensions_mut().get_or_insert_default::<Held>().clone();
    let metrics = Arc::clone(&state.metrics);
    let mut guard = RequestGuard { metrics, route, method, status: 499, error: None, started, trace, caller };

    let mut response = if request.extensions().get::<AmbiguousBody>().is_some() {
        ApiError::invalid("the request has both Content-Length and Transfer-Encoding; send one of them").into_response()
    } else {
        next.run(request).instrument(span.clone()).await
    };

    if let Some(error) = response.extensions_mut().remove::<ApiError>() {
        let _entered = span.enter();
        log_error(&error, &state);
        guard.error = Some(error.code.as_str());
        let Shaped { status, body } = error.wire(errors, id);
        *response.status_mut() = status;
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
        *response.body_mut() = Body::from(body);
        guard.status = response.status().as_u16();
    } else {
        guard.status = response.status().as_u16();
        span.in_scope(|| tracing::debug!(status = guard.status, elapsed = ?started.elapsed(), "answered"));
    }
    if let Some(traceresponse) = traceresponse {
        response.headers_mut().insert(TRACERESPONSE, traceresponse);
    }
    response.headers_mut().insert(REQUEST_ID, request_id);
    if let Some(fingerprint) = state.fingerprint() {
        response.headers_mut().insert(FINGERPRINT, fingerprint);
    }
    if state.health.readiness() == Readiness::Draining {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    held.keep(guard);
    response
}

/// Wants `Authorization: Bearer <key>`, where there are keys and the path is not open to who asks.
pub(super) async fn authenticate(State(state): State<Arc<AppState>>, request: Request, next: Next) -> Response {
    let extensions = request.extensions();
    // Of two, a proxy in front may have looked at the other one.
    let mut given = request.headers().get_all(header::AUTHORIZATION).iter();
    let (first, is_doubled) = (given.next(), given.next().is_some());
    let token = first.filter(|_| !is_doubled).and_then(|value| bearer_token(value.as_bytes()));
    let template = extensions.get::<MatchedPath>().map(MatchedPath::as_str);
    let address = extensions.get::<PeerAddr>().map(|peer| peer.0.ip());
    match state.access.of(token, template, address) {
        Some(Asker::Key(key)) => {
            Span::current().record("key", key.name());
            if let Some(caller) = extensions.get::<Caller>() {
                caller.set(key);
            }
            next.run(request).await
        }
        Some(Asker::Anybody) => next.run(request).await,
        None => {
            let message = if is_doubled {
                "the request has more than one Authorization header; send one, Authorization: Bearer <api key>"
            } else if token.is_some() {
                "the API key of the Authorization header is none of this server's"
            } else {
                "this server wants the header Authorization: Bearer <api key>"
            };
            ApiError::new(Code::Unauthorized, message).into_response()
        }
    }
}

/// The token of an `Authorization` header; the scheme's case does not count (RFC 9110, section 11.1).
fn bearer_token(value: &[u8]) -> Option<&[u8]> {
    const SCHEME: &[u8] = b"bearer";
    let (scheme, token) = value.split_at_checked(SCHEME.len())?;
    let separated = scheme.eq_ignore_ascii_case(SCHEME) && token.first() == Some(&b' ');
    separated.then(|| token.trim_ascii())
}

/// The first gate, before a byte of the body is read: is there a model, a place for the connection, and one for the request.
pub(super) async fn admit(State(state): State<Arc<AppState>>, mut request: Request, next: Next) -> Response {
    let begun = request.extensions().get::<Begun>().copied();
    let begun = begun.unwrap_or_else(|| Begun { at: Instant::now(), trace: None });
    let seat = request.extensions().get::<Arc<Seat>>().cloned();
    let terms = door::terms(request.headers(), begun, &state);
    let key = request.extensions().get::<Caller>().and_then(Caller::key).cloned();
    let look = async {
        state.embedder()?;
        if let Some(seat) = seat
            && !seat.is_placed_soon().await
        {
            state.metrics.reject(Reject::Connections);
            let message = "the server has as many connections as it may, all of them at work; come back after the time in the \
                           Retry-After header, or use one connection for many requests";
            return Err(ApiError::new(Code::Overloaded, message).retry_after(Duration::ZERO));
        }
        let terms = terms?;
        let place = match &key {
            Some(key) => Some(place_of(key, &state).await?),
            None => None,
        };
        state.gate.look(&state.peers).await?;
        Ok((Terms { quota: key.and_then(|key| key.quota()), ..terms }, place))
    };
    match look.await {
        Ok((terms, place)) => {
            request.extensions_mut().insert(terms);
            if let (Some(held), Some(place)) = (request.extensions().get::<Held>(), place) {
                held.keep(place);
            }
            next.run(request).await
        }
        Err(error) => error.into_response(),
    }
}

/// A place among the requests of `key`, held from here to the last byte of the answer.
///
/// # Errors
/// 429.
async fn place_of(key: &Key, state: &AppState) -> Result<Place, ApiError> {
    // Nobody is ended for it: those in the way are its own.
    let place = state.peers.make_room(|_: &Peers| false, || key.enter()).await;
    place.ok_or_else(|| {
        state.metrics.reject(Reject::KeyRequests);
        let limit = key.limit().unwrap_or_default();
        let requests = if limit == 1 { "request" } else { "requests" };
        let message = format!(
            "the API key {} has {limit} {requests} in flight, which is its limit (the key's max_inflight_requests); come back after the time in the \
             Retry-After header",
            key.name()
        );
        ApiError::new(Code::Overloaded, message).retry_after(Duration::ZERO)
    })
}

/// Faults of ours always have their line. How often there is another error is for clients to choose, so it has one within its limit.
fn log_error(error: &ApiError, state: &AppState) {
    let (code, index, cause) = (error.code.as_str(), error.index, error.cause.as_deref());
    match error.code.status().as_u16() {
        500 => tracing::error!(code, index, cause, "{}", error.message),
        501.. => {
            state.unanswered.write(|left_out| tracing::warn!(code, index, cause, left_out, "{}", error.message));
        }
        _ => state.refusals.write(|left_out| tracing::info!(code, index, cause, left_out, "{}", error.message)),
    }
}

/// The client's own id if it is short and printable, else a new one.
fn request_id(headers: &HeaderMap) -> HeaderValue {
    let usable = |value: &&HeaderValue| {
        (1..=MAX_REQUEST_ID).contains(&value.len()) && value.as_bytes().iter().all(u8::is_ascii_graphic)
    };
    headers.get(REQUEST_ID).filter(usable).cloned().unwrap_or_else(|| {
        let id = Uuid::now_v7().simple().to_string();
        HeaderValue::from_str(&id).unwrap_or_else(|_| HeaderValue::from_static("unknown"))
    })
}

fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::HEAD => "HEAD",
        Method::OPTIONS => "OPTIONS",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        _ => "other",
    }
}

/// Counts the request and ends its span when it is over, however it ends.
#[derive(Debug)]
struct RequestGuard {
    metrics: Arc<Metrics>,
    route: &'static str,
    method: &'static str,
    status: u16,
    error: Option<&'static str>,
    started: Instant,
    trace: Option<RequestSpan>,
    caller: Caller,
}

impl Drop for RequestGuard {
    fn drop(&mut self) {
        self.metrics.in_flight.dec();
        self.metrics.observe_request(self.route, self.method, self.status, self.started.elapsed());
        if let Some(key) = self.caller.key() {
            key.observe_request(self.status);
        }
        if let Some(trace) = self.trace.take() {
            trace.end(self.status, self.error);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::LogFormat, telemetry::logged};

    #[test]
    fn an_error_beyond_its_limit_has_no_line_and_a_fault_of_ours_has() {
        let state = AppState::of_a_test(&[]);
        let log = |errors: &[ApiError]| {
            logged(LogFormat::Text, false, || errors.iter().for_each(|error| log_error(error, &state)))
        };
        let [refused, failed] = [ApiError::invalid("refused"), ApiError::internal("cause")];
        let late = ApiError::new(Code::DeadlineExceeded, "late");
        assert!(log(std::slice::from_ref(&refused)).ends_with("INFO refused code=\"invalid_request\"\n"));
        // In an hour, before which no other window begins.
        let later = Instant::now() + Duration::from_secs(3600);
        while state.refusals.admit(later).is_some() {}
        let lines = log(&[refused.clone(), failed.clone(), late.clone()]);
        assert!(lines.lines().count() == 2 && lines.contains("ERROR") && lines.contains("WARN late"), "{lines}");
        while state.unanswered.admit(later).is_some() {}
        let lines = log(&[refused, failed, late]);
        assert!(lines.lines().count() == 1 && lines.contains("ERROR"), "{lines}");
    }

    #[test]
    fn a_request_id_is_echoed_only_when_short_and_printable() {
        let id = |value: &[u8]| {
            let mut headers = HeaderMap::new();
            headers.insert(REQUEST_ID, HeaderValue::from_bytes(value).expect("a header"));
            request_id(&headers)
        };
        assert_eq!(id(b"abc-123"), "abc-123");
        let long = [b'a'; MAX_REQUEST_ID + 1];
        for bad in [&b"two words"[..], &b""[..], &long, "\u{e9}".as_bytes()] {
            assert_eq!(id(bad).len(), 32, "a new one instead of {bad:?}");
        }
        assert_ne!(request_id(&HeaderMap::new()), request_id(&HeaderMap::new()));
    }
}
