//! The other service: one request at a time, and what becomes of it.
//!
//! Owns the connection: its limits of size and time, waiting when it is told to, what is shown of its words. Does not own what is
//! said (`kinds`).
//!
//! Invariants: nothing of an answer is trusted: it is bounded in size and time, its words are cut and escaped, no redirect is
//! followed, and every wait has an end. The key is sent to the host of the URL alone and shown nowhere, not even when it comes back.

use std::{fmt, str::FromStr, sync::mpsc, time::Duration};

use ureq::{
    Agent, Body,
    http::{HeaderMap, Response, Uri},
};

use super::{
    error::CompareError,
    kinds::{Items, Kind},
};
use crate::{
    config::{HubConfig, Secret, without_passwords},
    model::hub,
};

/// The variable of the environment with the other service's key.
pub const KEY_VARIABLE: &str = "CLIPSERVE_COMPARE_API_KEY";

/// One answer: 32 texts with 4,096 values of 22 characters each are 3 MiB.
const MAX_ANSWER_BYTES: u64 = 8 << 20;
/// One request and its answer; a service may load its model first.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(180);
/// How often one request is made while the answer is to wait.
const ATTEMPTS: u32 = 8;
/// The longest wait that is waited.
const MAX_WAIT: Duration = Duration::from_secs(60);
/// The wait where the answer names none.
const DEFAULT_WAIT: Duration = Duration::from_secs(1);
/// Characters that are shown of the other service's words.
const SHOWN_CHARS: usize = 200;

/// A base URL: `http` or `https` and a host; no user name, no query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerUrl(String);

impl FromStr for PeerUrl {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // The message must not hold the text: whoever writes a password there shall not see it in a log.
        let wrong =
            "must be http://HOST:PORT or https://HOST, with a path where there is one, without a user name or query";
        let uri: Uri = text.parse().map_err(|_| wrong)?;
        let authority = uri.authority().ok_or(wrong)?;
        let plain = match authority.port_u16() {
            Some(port) => authority.as_str() == format!("{}:{port}", authority.host()),
            None => authority.as_str() == authority.host(),
        };
        let known = matches!(uri.scheme_str(), Some("http" | "https"));
        if known && plain && !authority.host().is_empty() && uri.query().is_none() {
            Ok(Self(text.trim_end_matches('/').to_owned()))
        } else {
            Err(wrong)
        }
    }
}

impl fmt::Display for PeerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl PeerUrl {
    /// The address of `path`. What the URL's end and the path's start have in common is there once: whoever gives
    /// `http://host/v1` or the whole address means the same as with `http://host`.
    fn join(&self, path: &str) -> String {
        let own = self.0.splitn(4, '/').nth(3).map_or(String::new(), |own| format!("/{own}"));
        let cuts = path.match_indices('/').map(|(at, _)| at).chain([path.len()]).rev();
        let common = cuts.map(|at| path.split_at(at)).find(|(start, _)| own.ends_with(start));
        format!("{}{}", self.0, common.map_or(path, |(_, rest)| rest))
    }

    fn is_encrypted(&self) -> bool {
        self.0.starts_with("https:")
    }
}

/// The other service.
pub(super) struct Peer {
    agent: Agent,
    url: PeerUrl,
    kind: Kind,
    model: Option<String>,
    key: Option<Secret>,
}

/// Why it has no embeddings of some items.
#[derive(Debug)]
pub(super) enum PeerError {
    /// It refused them with a status that may be due to one of them.
    Items {
        /// What was asked.
        url: String,
        /// Its status and its words.
        reason: String,
    },
    /// It will not answer others either.
    Service(CompareError),
}

impl Peer {
    pub(super) fn new(
        hub: &HubConfig,
        url: &PeerUrl,
        kind: Kind,
        model: Option<String>,
        key: Option<Secret>,
    ) -> Result<Self, CompareError> {
        let network = hub::network(hub)?
            .max_redirects(0)
            // Our own model works between two requests, for longer than some services keep a connection open.
            .max_idle_connections(0)
            .timeout_global(Some(REQUEST_TIMEOUT));
        // The proxy is that of HTTPS_PROXY; whoever stands in the same network is reached without.
        let network = if url.is_encrypted() { network } else { network.proxy(None) };
        Ok(Self { agent: network.build().into(), url: url.clone(), kind, model, key })
    }

    /// The embeddings of `items`, checked.
    ///
    /// # Errors
    /// [`PeerError::Items`] where others may have embeddings.
    pub(super) fn embed(&self, items: Items<'_>) -> Result<Vec<Vec<f32>>, PeerError> {
        let url = self.url.join(self.kind.path(items));
        let failed = |reason: String| PeerError::Service(CompareError::Peer { url: url.clone(), reason });
        let body = self.kind.body(self.model.as_deref(), items);
        let mut attempt = 1;
        loop {
            let mut request = self.agent.post(&url).header("content-type", &body.content_type);
            request = request.header("accept", "application/json");
            if let Some(key) = &self.key {
                request = request.header("authorization", format!("Bearer {}", key.expose()));
            }
            let mut response = request.send(&body.bytes).map_err(|error| failed(self.shown(&error.to_string())))?;
            let status = response.status().as_u16();
            match (status, wait(response.headers())) {
                (200..=299, _) => {
                    let answer = read(&mut response).map_err(|reason| failed(self.shown(&reason)))?;
                    return self.kind.read(items, &answer).map_err(failed);
                }
                (300..=399, _) => {
                    let location = header(response.headers(), "location").unwrap_or("nowhere");
                    return Err(failed(format!("it redirects to {}: give that as --url", self.shown(location))));
                }
                (429, wait) => self.pause(wait.unwrap_or(DEFAULT_WAIT), &mut attempt, status).map_err(failed)?,
                (503, Some(wait)) => self.pause(wait, &mut attempt, status).map_err(failed)?,
                (400 | 413 | 415 | 422 | 500, _) => {
                    return Err(PeerError::Items { reason: self.refusal(&mut response), url });
                }
                _ => return Err(failed(self.refusal(&mut response))),
            }
        }
    }

    /// Waits as it was told to.
    ///
    /// # Errors
    /// Where that is too long, or was too often.
    fn pause(&self, wait: Duration, attempt: &mut u32, status: u16) -> Result<(), String> {
        if wait > MAX_WAIT {
            return Err(format!("it answers {status} and asks to wait for {} s", wait.as_secs()));
        }
        if *attempt == ATTEMPTS {
            return Err(format!("it answers {status}, {ATTEMPTS} times in a row"));
        }
        *attempt += 1;
        // There is no event to wait for: a channel on which nothing comes.
        let (_open, nothing) = mpsc::channel::<()>();
        let _ = nothing.recv_timeout(wait);
        Ok(())
    }

    /// The status of an answer, and the beginning of what it says.
    fn refusal(&self, response: &mut Response<Body>) -> String {
        let status = response.status().as_u16();
        let hint = match status {
            401 | 403 if self.key.is_none() => format!("; its key goes into {KEY_VARIABLE}"),
            404 | 405 => "; are --url, --kind and --model-name right?".to_owned(),
            _ => String::new(),
        };
        let said = read(response).unwrap_or_default();
        match self.shown(&String::from_utf8_lossy(&said)).as_str() {
            "" => format!("it answers {status}{hint}"),
            said => format!("it answers {status}{hint}: {said}"),
        }
    }

    /// Words of others: without the key and passwords, on one line, escaped, cut.
    fn shown(&self, words: &str) -> String {
        let words = words.split_whitespace().collect::<Vec<_>>().join(" ");
        let words = match &self.key {
            Some(key) => words.replace(key.expose(), "[redacted]"),
            None => words,
        };
        shown(&without_passwords(&words), SHOWN_CHARS)
    }
}

/// The beginning of somebody's words, printable.
pub(super) fn shown(words: &str, chars: usize) -> String {
    let mut shown: String = words.chars().take(chars).map(printable).collect();
    if words.chars().nth(chars).is_some() {
        shown.push('…');
    }
    shown
}

/// The character, or where `Debug` would escape it (control, invisible, turning the direction), a mark in its place.
fn printable(char: char) -> char {
    let plain = matches!(char, '"' | '\'' | '\\') || char.escape_debug().len() == 1;
    if plain { char } else { '\u{fffd}' }
}

fn read(response: &mut Response<Body>) -> Result<Vec<u8>, String> {
    let body = response.body_mut().with_config().limit(MAX_ANSWER_BYTES).read_to_vec();
    body.map_err(|error| match error {
        ureq::Error::BodyExceedsLimit(_) => format!("its answer is larger than {} MiB", MAX_ANSWER_BYTES >> 20),
        error => error.to_string(),
    })
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// What `Retry-After` says in seconds. As a date it counts as not there.
fn wait(headers: &HeaderMap) -> Option<Duration> {
    header(headers, "retry-after")?.trim().parse().ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_that_cannot_be_asked_are_refused_without_repeating_them() {
        for url in ["", "host", "host:80", "ftp://h/", "http://u:secret@h/", "http://h/?k=secret", "http://h:secret/"] {
            let error = url.parse::<PeerUrl>().unwrap_err();
            assert!(!error.contains("secret"), "{url}");
        }
        for (url, shown) in [("http://h/", "http://h"), ("https://[::1]:8/v1/", "https://[::1]:8/v1")] {
            assert_eq!(url.parse::<PeerUrl>().unwrap().to_string(), shown);
        }
    }

    #[test]
    fn what_the_url_has_of_the_path_is_there_once() {
        for (url, path, expected) in [
            ("http://h", "/v1/embeddings", "http://h/v1/embeddings"),
            ("http://h/v1/", "/v1/embeddings", "http://h/v1/embeddings"),
            ("http://h/v1/embeddings", "/v1/embeddings", "http://h/v1/embeddings"),
            ("http://h/clip/v1", "/v1/embeddings", "http://h/clip/v1/embeddings"),
            ("http://h/clip", "/embed", "http://h/clip/embed"),
            ("http://h/rev1", "/v1/embeddings", "http://h/rev1/v1/embeddings"),
            ("http://v1", "/v1/embeddings", "http://v1/v1/embeddings"),
            ("http://embed", "/embed", "http://embed/embed"),
        ] {
            assert_eq!(url.parse::<PeerUrl>().unwrap().join(path), expected, "{url}");
        }
    }

    #[test]
    fn words_of_others_are_cut_and_on_one_line() {
        let peer = Peer {
            agent: Agent::new_with_defaults(),
            url: PeerUrl("http://h".to_owned()),
            kind: Kind::Tei,
            model: None,
            key: Some(Secret::new("hunter2".to_owned())),
        };
        assert_eq!(
            peer.shown("no \"key\"\r\n hunter2 \x1b[31m\u{202e}é"),
            "no \"key\" [redacted] \u{fffd}[31m\u{fffd}é"
        );
        assert_eq!(peer.shown("at http://u:p@h/ now"), "at http://[redacted]@h/ now");
        let long = peer.shown(&"ab ".repeat(1000));
        assert!(long.chars().count() == SHOWN_CHARS + 1 && long.ends_with('…'), "{long}");
        assert_eq!(shown("abc", 3), "abc");
    }

    #[test]
    fn retry_after_is_seconds() {
        let of = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("retry-after", value.parse().unwrap());
            wait(&headers)
        };
        assert_eq!(of("7"), Some(Duration::from_secs(7)));
        assert_eq!((of("-1"), of("Wed, 21 Oct 2026 07:28:00 GMT"), wait(&HeaderMap::new())), (None, None, None));
    }
}
