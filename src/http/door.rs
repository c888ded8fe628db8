//! The door: until when a request's client waits, which class it is of, and whether it is let in before its body is read.
//!
//! Owns the headers that say so. Does not own the places of requests (`gate`), nor the forecast (`batch`), nor the refusal of what
//! turns out to be too much when the body has been read: the lanes refuse that, on the terms that are made here.

use std::{
    str::FromStr,
    time::{Duration, Instant},
};

use axum::extract::Request;
use http::{HeaderMap, HeaderName, header};

use super::{ApiError, AppState};
use crate::{
    embedder::{Class, Modality, Terms},
    telemetry::Trace,
};

/// How long the client waits, in seconds; asked for, so what cannot be read is refused.
const REQUEST_TIMEOUT: HeaderName = HeaderName::from_static("x-request-timeout");
/// The same as OpenAI's clients say it by themselves.
const STAINLESS_TIMEOUT: HeaderName = HeaderName::from_static("x-stainless-read-timeout");
/// The same as Envoy says it by itself, in milliseconds.
const ENVOY_TIMEOUT: HeaderName = HeaderName::from_static("x-envoy-expected-rq-timeout-ms");
/// `priority` as a header, for whom the body is read too late.
const PRIORITY: HeaderName = HeaderName::from_static("x-priority");

/// A body of no more bytes is read before its request is refused for the wait: what it asks may be in the cache.
const SMALL_BODY: u64 = 16 << 10;

/// When the head of a request was there, and its span where it is traced.
#[derive(Clone, Copy, Debug)]
pub(super) struct Begun {
    pub(super) at: Instant,
    pub(super) trace: Option<Trace>,
}

/// The terms of a request: its class, its deadline, its patience.
///
/// # Errors
/// 400 for an `x-request-timeout` or `x-priority` that cannot be read.
pub(super) fn terms(headers: &HeaderMap, begun: Begun, state: &AppState) -> Result<Terms, ApiError> {
    let longest = state.config.server.request_timeout;
    let seconds = |value: f64| Duration::try_from_secs_f64(value).ok().filter(|timeout| !timeout.is_zero());
    let asked = match headers.get(REQUEST_TIMEOUT) {
        None => None,
        Some(value) => {
            let timeout = parse::<f64>(value).and_then(seconds);
            let refused = "the header x-request-timeout is not a number of seconds above 0, such as 2.5";
            Some(timeout.ok_or_else(|| ApiError::invalid(refused))?)
        }
    };
    let stainless = headers.get(STAINLESS_TIMEOUT).and_then(parse).and_then(seconds);
    let envoy = headers.get(ENVOY_TIMEOUT).and_then(parse::<f64>).and_then(|ms| seconds(ms / 1e3));
    let timeout = [asked, stainless, envoy].into_iter().flatten().fold(longest, Duration::min);
    let class = match headers.get(PRIORITY) {
        None => Class::Interactive,
        Some(value) => {
            let refused = "the header x-priority is not an integer; 0 is for requests that somebody waits for, 1 and more for bulk";
            class_of(parse(value).ok_or_else(|| ApiError::invalid(refused))?)
        }
    };
    let patience = Some(timeout.min(state.config.limits.max_queue_wait));
    Ok(Terms { class, deadline: begun.at + timeout, patience, trace: begun.trace, quota: None })
}

/// The class of a `priority`, as vLLM and Cohere count it: lower is sooner, 0 is what nobody has said.
fn class_of(priority: i64) -> Class {
    if priority > 0 { Class::Bulk } else { Class::Interactive }
}

/// `terms` with the class of a `priority` in the body or the query, which says more than a header that a proxy may have set.
pub(super) fn with_priority(terms: Terms, priority: Option<i64>) -> Terms {
    Terms { class: priority.map_or(terms.class, class_of), ..terms }
}

fn parse<T: FromStr>(value: &header::HeaderValue) -> Option<T> {
    value.to_str().ok()?.trim().parse().ok()
}

/// Whether the body of a request for `modality` is to be read: where the wait alone decides, it is refused here.
///
/// # Errors
/// 429.
pub(super) fn knock(state: &AppState, request: &Request, modality: Modality) -> Result<(), ApiError> {
    let declared = request.headers().get(header::CONTENT_LENGTH).and_then(parse::<u64>);
    let may_be_known = state.config.cache.max_bytes > 0 && declared.is_some_and(|bytes| bytes <= SMALL_BODY);
    let Some(terms) = request.extensions().get::<Terms>().filter(|_| !may_be_known) else { return Ok(()) };
    Ok(state.embedder()?.would_admit(modality, terms)?)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn state() -> AppState {
        AppState::of_a_test(&["limits.max_queue_wait=500ms"])
    }

    fn of(headers: &[(&'static str, &'static str)]) -> Result<(Class, u128, u128), String> {
        let pairs =
            headers.iter().map(|&(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        let begun = Begun { at: Instant::now(), trace: None };
        let terms = terms(&pairs.collect(), begun, &state()).map_err(|error| error.message.into_owned())?;
        let patience = terms.patience.expect("a door has patience").as_millis();
        Ok((terms.class, (terms.deadline - begun.at).as_millis(), patience))
    }

    #[test]
    fn the_shortest_of_the_clients_and_the_servers_timeouts_counts() {
        use Class::{Bulk, Interactive};
        for (headers, expected) in [
            (&[][..], (Interactive, 30_000, 500)),
            (&[("x-request-timeout", "2.5")], (Interactive, 2_500, 500)),
            (&[("x-request-timeout", "0.2")], (Interactive, 200, 200)),
            (&[("x-request-timeout", "600")], (Interactive, 30_000, 500)),
            (
                &[("x-stainless-read-timeout", "4"), ("x-envoy-expected-rq-timeout-ms", "3000")],
                (Interactive, 3_000, 500),
            ),
            (&[("x-stainless-read-timeout", "NOT_GIVEN")], (Interactive, 30_000, 500)),
            (&[("x-priority", "1")], (Bulk, 30_000, 500)),
            (&[("x-priority", "0")], (Interactive, 30_000, 500)),
            (&[("x-priority", "-3")], (Interactive, 30_000, 500)),
        ] {
            assert_eq!(of(headers), Ok(expected), "{headers:?}");
        }
    }

    #[test]
    fn what_was_asked_for_and_cannot_be_read_is_refused() {
        for (name, value) in [
            ("x-request-timeout", "soon"),
            ("x-request-timeout", "0"),
            ("x-request-timeout", "-1"),
            ("x-request-timeout", "inf"),
            ("x-request-timeout", "NaN"),
            ("x-priority", "low"),
        ] {
            let error = of(&[(name, value)]).expect_err(value);
            assert!(error.contains(name), "{error}");
        }
    }
}
