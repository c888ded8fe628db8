//! One request for a picture: what is asked, and what of the answer is taken.
//!
//! Owns the request, the reading of the answer, and the limits on both. Does not own which thread it runs on, how many run, or until when
//! anybody waits for it (`super`).
//!
//! Invariants: nothing of a client's request is sent; every connection is new, and dialled to addresses that have been checked for it; a
//! redirect is an answer and not followed here; of the body nothing but the bytes of a whole picture leaves this file, and of no more than
//! `web.max_bytes`; a length that is declared is looked at, and not trusted.

use std::{io, sync::Arc};

use ureq::{
    Agent, Error,
    http::{HeaderMap, Response, StatusCode, header},
    unversioned::transport::DefaultConnector,
};

use super::{
    address::Address,
    dial::{Checked, Forbidden, Names},
    network::Networks,
    room::{NoRoom, Room},
};
use crate::{
    budget::Reservation,
    config::{HubConfig, WebConfig},
    model::hub::{HubError, network},
    telemetry::Fetch,
};

/// Bytes of an answer's head.
const MAX_HEAD: usize = 16 << 10;

/// Bytes that are read, and for which room is taken, at a time.
const STEP: usize = 64 << 10;

/// What an answer is.
#[derive(Debug)]
pub(super) enum Got {
    /// The bytes of its body, with their room.
    Bytes(Vec<u8>, Reservation),
    /// What it names as the place of the picture.
    Elsewhere(String),
}

/// Why there is none.
#[derive(Debug)]
pub(super) enum Stop {
    /// It failed.
    Failed(Fetch),
    /// There is no room for its bytes.
    Room(NoRoom),
    /// Nobody waits for it any more.
    Gone,
}

/// What asks.
#[derive(Debug)]
pub(super) struct Client {
    agent: Agent,
    max_bytes: usize,
}

impl Client {
    /// With the operator's certificates, and without the operator's proxy: that would dial in our place.
    ///
    /// # Errors
    /// When the certificates cannot be read.
    pub(super) fn new(web: &WebConfig, hub: &HubConfig, names: Arc<dyn Names>) -> Result<Self, HubError> {
        let config = network(&HubConfig { proxy: None, ..hub.clone() })?
            .proxy(None)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .max_response_header_size(MAX_HEAD)
            // A pooled connection would be one to an address that was checked for somebody else, and count for no host.
            .max_idle_connections(0)
            .max_idle_connections_per_host(0)
            .timeout_connect(Some(web.connect_timeout))
            .timeout_global(Some(web.timeout))
            .build();
        let resolver = Checked { names, networks: Networks::new(web.allow_networks.clone()) };
        Ok(Self { agent: Agent::with_parts(config, DefaultConnector::default(), resolver), max_bytes: web.max_bytes })
    }

    /// Asks for `address`, until nobody waits any more. Blocks.
    ///
    /// # Errors
    /// [`Stop`].
    pub(super) fn get(&self, address: &Address, room: &Room, gone: impl Fn() -> bool) -> Result<Got, Stop> {
        let response = self.agent.get(address.as_str()).call().map_err(|error| Stop::Failed(fault(&error)))?;
        let headers = response.headers();
        match response.status() {
            StatusCode::OK => {}
            StatusCode::MOVED_PERMANENTLY
            | StatusCode::FOUND
            | StatusCode::SEE_OTHER
            | StatusCode::TEMPORARY_REDIRECT
            | StatusCode::PERMANENT_REDIRECT => {
                let location = text(headers, header::LOCATION).ok_or(Stop::Failed(Fetch::Redirect))?;
                return Ok(Got::Elsewhere(location.to_owned()));
            }
            _ => return Err(Stop::Failed(Fetch::Status)),
        }
        if is_encoded(headers) {
            return Err(Stop::Failed(Fetch::Encoding));
        }
        self.read(response, room, gone)
    }

    fn read(&self, response: Response<ureq::Body>, room: &Room, gone: impl Fn() -> bool) -> Result<Got, Stop> {
        let is_framed = response.headers().contains_key(header::TRANSFER_ENCODING);
        let declared = text(response.headers(), header::CONTENT_LENGTH).filter(|_| !is_framed);
        let declared = declared.and_then(|length| length.trim().parse::<u64>().ok());
        if declared.is_some_and(|length| length > self.max_bytes as u64) {
            return Err(Stop::Failed(Fetch::TooLarge));
        }
        let mut reader = response.into_body().into_reader();
        let mut reserved = room.reserve(0).map_err(Stop::Room)?;
        let (mut bytes, mut piece) = (Vec::new(), vec![0; STEP]);
        loop {
            if gone() {
                return Err(Stop::Gone);
            }
            let read = match io::Read::read(&mut reader, &mut piece) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(Stop::Failed(fault_of_body(error))),
            };
            let len = bytes.len() + read;
            if len > self.max_bytes {
                return Err(Stop::Failed(Fetch::TooLarge));
            }
            if len > reserved.bytes() {
                let more = len.next_multiple_of(STEP).min(self.max_bytes).max(len) - reserved.bytes();
                reserved.merge(room.reserve(more).map_err(Stop::Room)?);
            }
            if bytes.capacity() < len {
                // What is not declared grows by doubling. Pages are taken as they are written.
                let declared = declared.and_then(|length| usize::try_from(length).ok()).unwrap_or(0);
                let capacity = declared.max(len).max(bytes.capacity().saturating_mul(2).min(self.max_bytes));
                bytes.reserve_exact(capacity - bytes.len());
            }
            bytes.extend_from_slice(&piece[..read]);
        }
        if declared.is_some_and(|length| length != bytes.len() as u64) {
            return Err(Stop::Failed(Fetch::Broken));
        }
        bytes.shrink_to_fit();
        reserved.shrink_to(bytes.len());
        Ok(Got::Bytes(bytes, reserved))
    }
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

/// Whether the body is not the picture as it is.
fn is_encoded(headers: &HeaderMap) -> bool {
    let other_than = |name, plain: &str| {
        headers.get_all(name).iter().any(|value| !value.as_bytes().trim_ascii().eq_ignore_ascii_case(plain.as_bytes()))
    };
    other_than(header::CONTENT_ENCODING, "identity") || other_than(header::TRANSFER_ENCODING, "chunked")
}

/// What stopped a request before its answer's head was there.
fn fault(error: &Error) -> Fetch {
    match error {
        Error::HostNotFound => Fetch::Name,
        Error::Timeout(_) => Fetch::Timeout,
        Error::Io(error) if error.get_ref().is_some_and(|inner| inner.is::<Forbidden>()) => Fetch::Address,
        Error::Io(error) => match error.kind() {
            io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => Fetch::Timeout,
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Fetch::Broken,
            _ => Fetch::Connect,
        },
        Error::ConnectionFailed | Error::Tls(_) | Error::Rustls(_) | Error::TlsRequired => Fetch::Connect,
        _ => Fetch::Broken,
    }
}

/// What stopped a body. The client hands its own errors on inside those of the system.
fn fault_of_body(error: io::Error) -> Fetch {
    match Error::from(error) {
        Error::Timeout(_) => Fetch::Timeout,
        Error::Io(error) if matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock) => {
            Fetch::Timeout
        }
        _ => Fetch::Broken,
    }
}
