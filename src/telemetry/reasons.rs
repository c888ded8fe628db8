//! Why something was refused, ended or not fetched, and which files are read again: the closed sets behind some counters.
//!
//! Owns the names. Does not own the counters (`metrics`), nor who counts.

use std::fmt;

/// Why a request was refused at the door: the values of `clipserve_rejected_total`'s label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reject {
    /// `server.max_connections` was reached, with all of them at work.
    Connections,
    /// `limits.max_inflight_requests` was reached.
    Requests,
    /// `limits.max_inflight_body_bytes` was reached.
    BodyBytes,
    /// `limits.max_inflight_output_bytes` was reached.
    OutputBytes,
    /// `limits.max_inflight_answer_bytes` was reached.
    AnswerBytes,
    /// `batch.vision.max_queue_size` was reached.
    ImageQueue,
    /// `batch.text.max_queue_size` was reached.
    TextQueue,
    /// It would have waited longer than `limits.max_queue_wait`, or than its client does.
    Wait,
    /// `web.max_connections` or `web.max_connections_per_host` was reached and stayed so, or too many requests waited for that already.
    Fetches,
    /// The key's own `max_inflight_requests` was reached.
    KeyRequests,
    /// The key's own `queue_share` was reached.
    KeyShare,
    /// The model is still loading.
    NotReady,
    /// The server is draining.
    ShuttingDown,
}

impl Reject {
    pub(super) const ALL: [Self; 13] = [
        Self::Connections,
        Self::Requests,
        Self::BodyBytes,
        Self::OutputBytes,
        Self::AnswerBytes,
        Self::ImageQueue,
        Self::TextQueue,
        Self::Wait,
        Self::Fetches,
        Self::KeyRequests,
        Self::KeyShare,
        Self::NotReady,
        Self::ShuttingDown,
    ];

    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::Requests => "requests",
            Self::BodyBytes => "body_bytes",
            Self::OutputBytes => "output_bytes",
            Self::AnswerBytes => "answer_bytes",
            Self::ImageQueue => "image_queue",
            Self::TextQueue => "text_queue",
            Self::Wait => "wait",
            Self::Fetches => "fetches",
            Self::KeyRequests => "key_requests",
            Self::KeyShare => "key_share",
            Self::NotReady => "not_ready",
            Self::ShuttingDown => "shutting_down",
        }
    }
}

/// Why a connection was ended for others: the values of `clipserve_connections_ended_total`'s label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It had been idle longest.
    Idle,
    /// It had been sending a head longest.
    SlowHead,
    /// It was the slowest upload: its request was answered 408.
    SlowUpload,
    /// It took its answer slowest, or not at all.
    SlowReader,
}

impl Ended {
    pub(super) const ALL: [Self; 4] = [Self::Idle, Self::SlowHead, Self::SlowUpload, Self::SlowReader];

    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::SlowHead => "slow_head",
            Self::SlowUpload => "slow_upload",
            Self::SlowReader => "slow_reader",
        }
    }
}

/// How a TLS handshake ended: the values of `clipserve_tls_handshakes_total`'s label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handshake {
    /// A request may come.
    Ok,
    /// What came is no TLS, or no TLS that both sides take: a version, a protocol inside, a certificate.
    Failed,
    /// The client went before its end.
    Left,
    /// It was not done within `server.header_timeout`.
    TimedOut,
}

impl Handshake {
    pub(super) const ALL: [Self; 4] = [Self::Ok, Self::Failed, Self::Left, Self::TimedOut];

    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Failed => "failed",
            Self::Left => "left",
            Self::TimedOut => "timed_out",
        }
    }
}

/// Files that are read again when they change: the values of the label `file`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// `server.api_keys_file`.
    ApiKeys,
    /// `server.tls_certificate` and those beside it.
    Tls,
}

impl FileKind {
    pub(super) const ALL: [Self; 2] = [Self::ApiKeys, Self::Tls];

    pub(super) fn label(self) -> &'static str {
        match self {
            Self::ApiKeys => "api_keys",
            Self::Tls => "tls",
        }
    }
}

/// As the log calls it.
impl fmt::Display for FileKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ApiKeys => "the file of API keys",
            Self::Tls => "a file of TLS",
        })
    }
}

/// What became of a picture that is elsewhere: the values of `clipserve_web_pictures_total`'s label. A client is told none of them but that
/// there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fetch {
    /// It is there.
    Fetched,
    /// An address of its host is one that is never dialled.
    Address,
    /// Its host has no address, or the name server did not say.
    Name,
    /// Nobody answers there, or without a certificate that is trusted.
    Connect,
    /// It took longer than `web.timeout` or `web.connect_timeout`.
    Timeout,
    /// It is elsewhere, and that is not followed.
    Redirect,
    /// The answer has another status than 200.
    Status,
    /// The answer is compressed, which nobody asked for.
    Encoding,
    /// It is over `web.max_bytes`.
    TooLarge,
    /// The answer is no HTTP, or ended before its end.
    Broken,
    /// What came is no picture by its first bytes.
    NotAPicture,
}

impl Fetch {
    /// Every one.
    pub const ALL: [Self; 11] = [
        Self::Fetched,
        Self::Address,
        Self::Name,
        Self::Connect,
        Self::Timeout,
        Self::Redirect,
        Self::Status,
        Self::Encoding,
        Self::TooLarge,
        Self::Broken,
        Self::NotAPicture,
    ];

    /// As it is counted and logged.
    pub fn label(self) -> &'static str {
        match self {
            Self::Fetched => "fetched",
            Self::Address => "address",
            Self::Name => "name",
            Self::Connect => "connect",
            Self::Timeout => "timeout",
            Self::Redirect => "redirect",
            Self::Status => "status",
            Self::Encoding => "encoding",
            Self::TooLarge => "too_large",
            Self::Broken => "broken",
            Self::NotAPicture => "not_a_picture",
        }
    }
}
