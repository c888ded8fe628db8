//! Other people's web pages: which of them a browser lets call the service (`server.cors_origins`).
//!
//! Owns what is allowed and what may be read. Does not own the protocol, which is tower-http's, nor how an origin is spelt (the
//! configuration).
//!
//! A request from elsewhere is served as any other: it is the browser that keeps the answer from a page that may not have it. Invariant:
//! a browser's own credentials are never allowed. The key is a header that the page itself must know, so no page can use the one that
//! another was given.

use std::time::Duration;

use http::{HeaderName, HeaderValue, Method, header};
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};

use crate::config::CorsOrigins;

/// What a script may read of an answer's headers, besides those that it always may.
const EXPOSED: [HeaderName; 7] = [
    header::RETRY_AFTER,
    HeaderName::from_static("retry-after-ms"),
    HeaderName::from_static("server-timing"),
    HeaderName::from_static("traceresponse"),
    HeaderName::from_static("x-model-fingerprint"),
    HeaderName::from_static("x-request-id"),
    HeaderName::from_static("x-should-retry"),
];

/// How long a browser may go without asking again.
const MAX_AGE: Duration = Duration::from_secs(60 * 60);

/// Answers what browsers ask beforehand (`OPTIONS`, which brings no key and takes no place) and marks every answer; `None` where no
/// origin is allowed.
pub(super) fn layer(origins: &CorsOrigins) -> Option<CorsLayer> {
    let origins = match origins {
        CorsOrigins::Own => return None,
        CorsOrigins::Any => AllowOrigin::any(),
        CorsOrigins::Listed(origins) => {
            AllowOrigin::list(origins.iter().filter_map(|origin| HeaderValue::from_str(origin).ok()))
        }
    };
    let layer = CorsLayer::new()
        .allow_origin(origins)
        .allow_methods([Method::GET, Method::HEAD, Method::POST])
        // Those that are asked for, since "*" does not cover `authorization`.
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers(EXPOSED)
        .max_age(MAX_AGE);
    Some(layer)
}
