//! The hub's protocol: the list of a repository's files, what one file is, and its bytes from some point on.
//!
//! Owns requests, the reading of answers and refusals, and retries. Does not own files on disk.
//!
//! Invariants: the token goes to the endpoint's own host only, whatever is redirected where; no answer is trusted for a path or
//! a length; a transfer that brings nothing for a while ends and counts as failed.

use std::{
    collections::BTreeSet,
    fs,
    io::{self, Read},
    sync::mpsc,
    time::Duration,
};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use ureq::{
    Agent, Body, Proxy, RequestBuilder,
    config::ConfigBuilder,
    http::{HeaderMap, Response, StatusCode},
    tls::{PemItem, RootCerts, TlsConfig, parse_pem},
    typestate::{AgentScope, WithoutBody},
};

use super::{HubError, RepoId, cache::is_commit, etag::Etag};
use crate::config::{Address, HubConfig, Secret, without_passwords};

/// Attempts at one request, or at a transfer without any progress: with the first pause at half a second, 15 s of pauses.
const ATTEMPTS: u32 = 6;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest wait for a head, and between two pieces of a body.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
const MAX_REDIRECTS: u32 = 10;
/// A list of files is some kilobytes; the largest repositories' are a few megabytes.
const MAX_LIST_BYTES: u64 = 64 << 20;

const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
const PATH: &AsciiSet = &UNRESERVED.remove(b'/');

/// One repository on a hub.
pub(super) struct Client {
    agent: Agent,
    endpoint: Address,
    token: Option<Secret>,
    retry_delay: Duration,
    repo: RepoId,
    revision: String,
}

/// A repository at one commit.
pub(super) struct Listing {
    pub(super) commit: String,
    pub(super) files: BTreeSet<String>,
}

/// A file as the hub describes it.
#[derive(Clone, Debug)]
pub(super) struct RemoteFile {
    pub(super) name: String,
    pub(super) size: u64,
    pub(super) etag: Etag,
}

/// The part of `GET /api/models/{id}/revision/{revision}` that is read.
#[derive(Deserialize)]
struct RepoInfo {
    sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
}

impl Client {
    pub(super) fn new(hub: &HubConfig, repo: &RepoId, revision: &str) -> Result<Self, HubError> {
        let config = network(hub)?
            .max_redirects(MAX_REDIRECTS)
            .timeout_recv_response(Some(IDLE_TIMEOUT))
            .timeout_per_read(Some(IDLE_TIMEOUT))
            .timeout_per_write(Some(IDLE_TIMEOUT))
            .build();
        Ok(Self {
            agent: config.into(),
            endpoint: hub.endpoint.clone(),
            token: token(hub)?,
            retry_delay: hub.retry_delay,
            repo: repo.clone(),
            revision: revision.to_owned(),
        })
    }

    /// The commit that the revision is, and the files in it.
    pub(super) fn list(&self) -> Result<Listing, HubError> {
        let revision = utf8_percent_encode(&self.revision, UNRESERVED);
        let url = self.endpoint.join(&format!("/api/models/{}/revision/{revision}", self.repo));
        self.retrying(|| {
            let (url, mut response) = self.ask(&url, |url| self.agent.get(url), |_| false)?;
            if response.status() != StatusCode::OK {
                return Err(self.refusal(&url, &response));
            }
            let body = response.body_mut().with_config().limit(MAX_LIST_BYTES).read_to_vec();
            let body = body.map_err(|error| broken(&url, error))?;
            let wrong = |reason: String| HubError::Answer { url: url.to_string(), reason };
            let info: RepoInfo = serde_json::from_slice(&body).map_err(|error| wrong(error.to_string()))?;
            if !is_commit(&info.sha) {
                return Err(wrong("its sha is not a commit".to_owned()));
            }
            let files = info.siblings.into_iter().map(|sibling| sibling.rfilename).collect();
            Ok(Listing { commit: info.sha, files })
        })
    }

    /// The size and the hash of a file. A large file's stand in the answer that redirects to where its contents are.
    pub(super) fn describe(&self, commit: &str, name: &str) -> Result<RemoteFile, HubError> {
        let url = self.file_url(commit, name);
        let linked =
            |headers: &HeaderMap| headers.contains_key("x-linked-etag") && headers.contains_key("x-linked-size");
        self.retrying(|| {
            let (url, response) = self.ask(&url, |url| self.agent.head(url), linked)?;
            let (status, headers) = (response.status(), response.headers());
            if !status.is_redirection() && !status.is_success() {
                return Err(self.refusal(&url, &response));
            }
            let wrong = |reason: &str| HubError::Answer { url: url.to_string(), reason: reason.to_owned() };
            let length = || header(headers, "content-length").filter(|_| status.is_success());
            let size = header(headers, "x-linked-size").or_else(length).and_then(|size| size.parse().ok());
            let etag = header(headers, "x-linked-etag").or_else(|| header(headers, "etag")).and_then(Etag::parse);
            Ok(RemoteFile {
                name: name.to_owned(),
                size: size.ok_or_else(|| wrong("it says no size"))?,
                etag: etag.ok_or_else(|| wrong("its etag is no SHA-256 and no git hash: nothing could be checked"))?,
            })
        })
    }

    /// Opens a file at byte `from`; answers where it begins, which is 0 when the server does not do ranges. Tried once.
    pub(super) fn open(&self, commit: &str, name: &str, from: u64) -> Result<(u64, impl Read + use<>), HubError> {
        let url = self.file_url(commit, name);
        let get = |url: &str| match from {
            0 => self.agent.get(url),
            from => self.agent.get(url).header("range", format!("bytes={from}-")),
        };
        let (url, mut response) = self.ask(&url, get, |_| false)?;
        if let Some(location) = redirection(&response) {
            // Contents are on another host: without the token, and wherever that one redirects to.
            response = get(location).call().map_err(|error| broken(&url, error))?;
        }
        let start = match response.status() {
            StatusCode::OK => 0,
            StatusCode::PARTIAL_CONTENT => {
                let range = header(response.headers(), "content-range").and_then(|range| range.strip_prefix("bytes "));
                let start = range.and_then(|range| range.split('-').next()?.parse().ok());
                if start != Some(from) {
                    let reason = "it answers another range than was asked for".to_owned();
                    return Err(HubError::Answer { url: url.to_string(), reason });
                }
                from
            }
            _ => return Err(self.refusal(&url, &response)),
        };
        Ok((start, response.into_body().into_reader()))
    }

    /// Tries until it works, the fault is not one that passes, or the attempts are used up.
    pub(super) fn retrying<T>(&self, mut attempt: impl FnMut() -> Result<T, HubError>) -> Result<T, HubError> {
        let mut retries = self.retries();
        loop {
            match attempt() {
                Ok(done) => return Ok(done),
                Err(error) => retries.after(error)?,
            }
        }
    }

    pub(super) fn retries(&self) -> Retries {
        Retries { failed: 0, delay: self.retry_delay }
    }

    fn file_url(&self, commit: &str, name: &str) -> Address {
        self.endpoint.join(&format!("/{}/resolve/{commit}/{}", self.repo, utf8_percent_encode(name, PATH)))
    }

    /// The answer to a request with the token, and its address: of redirects, those on the endpoint's own host are followed,
    /// until `enough` headers are there. Tried once.
    fn ask(
        &self,
        url: &Address,
        request: impl Fn(&str) -> RequestBuilder<WithoutBody>,
        enough: impl Fn(&HeaderMap) -> bool,
    ) -> Result<(Address, Response<Body>), HubError> {
        let mut url = url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let mut request = request(url.expose()).config().max_redirects(0).build();
            if let Some(token) = &self.token {
                request = request.header("authorization", format!("Bearer {}", token.expose()));
            }
            let response = request.call().map_err(|error| broken(&url, error))?;
            match redirection(&response).and_then(|location| url.on_same_host(location)) {
                Some(next) if !enough(response.headers()) => url = next,
                _ => return Ok((url, response)),
            }
        }
        Err(HubError::Answer { url: url.to_string(), reason: "it is redirected without end".to_owned() })
    }

    /// What an answer that is not the wanted one means.
    fn refusal(&self, url: &Address, response: &Response<Body>) -> HubError {
        let status = response.status();
        let (repo, endpoint) = (self.repo.clone(), self.endpoint.clone());
        match (status.as_u16(), header(response.headers(), "x-error-code")) {
            (408 | 429 | 500..=599, _) => {
                HubError::Unavailable { url: url.to_string(), reason: format!("it answers {status}") }
            }
            (_, Some("RevisionNotFound")) => HubError::NoRevision { repo, revision: self.revision.clone() },
            (_, Some("EntryNotFound")) => HubError::Answer { url: url.to_string(), reason: "no such file".to_owned() },
            (401 | 403, code) => {
                let why = match (code, self.token.is_some()) {
                    (Some("GatedRepo"), false) => {
                        "it is gated: accept its terms on its page and give a token in HF_TOKEN"
                    }
                    (Some("GatedRepo"), true) => {
                        "it is gated, and the token's owner has not been given access on its page"
                    }
                    (_, false) => "it does not exist or is private: check the name, or give a token in HF_TOKEN",
                    (_, true) => {
                        "it does not exist, or the token (HF_TOKEN or its file) is not valid or has no access to it"
                    }
                };
                HubError::Refused { repo, endpoint, status: status.as_u16(), why }
            }
            (404, code) => {
                let revision = if code.is_none() { Some(self.revision.clone()) } else { None };
                HubError::NotFound { repo, endpoint, revision }
            }
            _ => HubError::Answer { url: url.to_string(), reason: format!("it answers {status}") },
        }
    }
}

/// Counts failures in a row and makes the pauses between them.
pub(super) struct Retries {
    failed: u32,
    delay: Duration,
}

impl Retries {
    /// Something worked: the next failure is the first again.
    pub(super) fn reset(&mut self) {
        self.failed = 0;
    }

    /// Waits, for longer each time, or gives the error back when it will not pass or this was the last attempt.
    pub(super) fn after(&mut self, error: HubError) -> Result<(), HubError> {
        self.failed += 1;
        if !matches!(error, HubError::Unavailable { .. }) || self.failed >= ATTEMPTS {
            return Err(error);
        }
        let delay = self.delay * 2u32.pow(self.failed - 1);
        tracing::warn!(%error, retry_in = ?delay, attempt = self.failed, "the hub: trying again");
        // There is no event to wait for: a channel on which nothing comes.
        let (_open, nothing) = mpsc::channel::<()>();
        let _ = nothing.recv_timeout(delay);
        Ok(())
    }
}

/// What every client of this program has: its name, the operator's proxy and certificates, and every status as an answer.
///
/// # Errors
/// [`HubError::Setting`] where the operator's proxy or certificates are none.
pub fn network(hub: &HubConfig) -> Result<ConfigBuilder<AgentScope>, HubError> {
    Ok(Agent::config_builder()
        .user_agent(concat!("clipserve/", env!("CARGO_PKG_VERSION")))
        // Contents as they are: a range of a compressed answer would be of no use.
        .accept_encoding("identity")
        .http_status_as_error(false)
        .proxy(proxy(hub)?)
        .tls_config(TlsConfig::builder().root_certs(trusted(hub)?).build())
        .timeout_connect(Some(CONNECT_TIMEOUT)))
}

/// A request or a transfer that broke. Everything but an address that is none may be different the next time.
fn broken(url: &Address, error: ureq::Error) -> HubError {
    // The client's own words may hold an address, that of a redirect among them.
    let (url, reason) = (url.to_string(), without_passwords(&error.to_string()));
    match error {
        ureq::Error::BadUri(_) | ureq::Error::Http(_) | ureq::Error::TooManyRedirects | ureq::Error::RedirectFailed => {
            HubError::Answer { url, reason }
        }
        _ => HubError::Unavailable { url, reason },
    }
}

/// Where an answer sends to.
fn redirection(response: &Response<Body>) -> Option<&str> {
    header(response.headers(), "location").filter(|_| response.status().is_redirection())
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// The token of the environment, else of its file.
fn token(hub: &HubConfig) -> Result<Option<Secret>, HubError> {
    let token = match (&hub.token, &hub.token_file) {
        (Some(token), _) => token.expose().to_owned(),
        (None, Some(path)) => match fs::read_to_string(path) {
            Ok(text) => text.trim().to_owned(),
            Err(error) if [io::ErrorKind::NotFound, io::ErrorKind::NotADirectory].contains(&error.kind()) => {
                return Ok(None);
            }
            Err(error) => {
                let reason = format!("{}: {error}", path.display());
                return Err(HubError::Setting { variable: "HF_TOKEN_PATH", reason });
            }
        },
        (None, None) => return Ok(None),
    };
    match token.as_str() {
        "" => Ok(None),
        text if text.bytes().all(|byte| byte.is_ascii_graphic()) => Ok(Some(Secret::new(token))),
        _ => Err(HubError::Setting {
            variable: "HF_TOKEN",
            reason: "the token is not printable ASCII without blanks".to_owned(),
        }),
    }
}

/// The certificates that a host's must lead to: those of the operator, else Mozilla's, which are compiled in.
fn trusted(hub: &HubConfig) -> Result<RootCerts, HubError> {
    let Some(path) = &hub.certificates else { return Ok(RootCerts::WebPki) };
    let wrong = |reason: String| HubError::Setting { variable: "SSL_CERT_FILE", reason };
    let text = fs::read(path).map_err(|error| wrong(format!("{}: {error}", path.display())))?;
    let items: Result<Vec<_>, _> = parse_pem(&text).collect();
    let items = items.map_err(|error| wrong(error.to_string()))?.into_iter();
    let certificates: Vec<_> = items
        .filter_map(|item| match item {
            PemItem::Certificate(certificate) => Some(certificate),
            _ => None,
        })
        .collect();
    if certificates.is_empty() {
        return Err(wrong(format!("there is no certificate in {}", path.display())));
    }
    Ok(certificates.into())
}

fn proxy(hub: &HubConfig) -> Result<Option<Proxy>, HubError> {
    let Some(url) = &hub.proxy else { return Ok(None) };
    let wrong =
        |error: ureq::Error| HubError::Setting { variable: "HTTPS_PROXY or ALL_PROXY", reason: error.to_string() };
    let parsed = Proxy::new(url.expose()).map_err(wrong)?;
    let mut builder = Proxy::builder(parsed.protocol()).host(parsed.host()).port(parsed.port());
    if let (Some(username), password) = (parsed.username(), parsed.password()) {
        builder = builder.username(username).password(password.unwrap_or_default());
    }
    for host in hub.no_proxy.split(',').map(str::trim).filter(|host| !host.is_empty()) {
        builder = builder.no_proxy(host);
    }
    builder.build().map(Some).map_err(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_that_will_not_pass_is_not_tried_again_and_one_that_may_is_for_some_attempts() {
        let unavailable = || HubError::Unavailable { url: "u".to_owned(), reason: "r".to_owned() };
        let mut retries = Retries { failed: 0, delay: Duration::ZERO };
        for _ in 1..ATTEMPTS {
            assert!(retries.after(unavailable()).is_ok());
        }
        assert!(retries.after(unavailable()).is_err());
        retries.reset();
        assert!(retries.after(unavailable()).is_ok());
        assert!(retries.after(HubError::NoCache).is_err());
    }
}
