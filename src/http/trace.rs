//! What the span of a request is told of its head.
//!
//! Owns the names of W3C's headers. Does not own which routes have none (`owners`), nor what becomes of it (`telemetry`).
//!
//! Invariant: where there are no spans, no header is looked at.

use axum::extract::Request;
use http::{HeaderName, HeaderValue, Method};

use crate::telemetry::{RequestHead, RequestSpan, Spans};

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Tells a client by which ids its request is found.
pub(super) const TRACERESPONSE: HeaderName = HeaderName::from_static("traceresponse");

/// The span of a request for `route`, which came by `scheme` and is known by `id`; `None` where there are none.
pub(super) fn begin(
    spans: &Spans,
    request: &Request,
    scheme: &'static str,
    route: &'static str,
    id: &str,
) -> Option<RequestSpan> {
    if !spans.are_on() {
        return None;
    }
    let headers = request.headers();
    // Of two, nobody knows which one is meant.
    let mut traceparents = headers.get_all(TRACEPARENT).iter();
    let traceparent = traceparents.next().filter(|_| traceparents.next().is_none());
    spans.request(RequestHead {
        method: method(request.method()),
        scheme,
        // The label of what is no route is one for all of that.
        route: route.starts_with('/').then_some(route),
        path: request.uri().path(),
        id,
        traceparent: traceparent.and_then(|value| value.to_str().ok()),
        tracestate: headers.get_all(TRACESTATE).iter().filter_map(|value: &HeaderValue| value.to_str().ok()),
    })
}

/// A method that HTTP defines.
fn method(method: &Method) -> Option<&'static str> {
    let known = ["GET", "POST", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH", "CONNECT", "TRACE"];
    known.into_iter().find(|known| *known == method.as_str())
}
