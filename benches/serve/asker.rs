//! Many requests, one after the other on a few connections, whatever becomes of these, and how each was answered.
//!
//! Owns the connections, the time that an answer may take, and who asks what next. Does not own the judgement of an answer. Unlike the load
//! generator (`load`) it measures no rate, and looks at every answer.

use std::{
    cell::Cell,
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::{Buf, Bytes};
use futures_util::future::join_all;
use http::{HeaderMap, HeaderValue, Method, Request, header};
use http_body_util::Full;
use tokio::task::LocalSet;

use crate::{
    Result,
    load::{connection::Connection, request::Body},
};

/// An answer may take so long: what is later counts as none.
pub(crate) const LIMIT: Duration = Duration::from_secs(3);

/// Asks, on a connection of its own.
pub(crate) struct Asker {
    address: SocketAddr,
    connection: Option<Connection>,
}

/// What came back.
pub(crate) struct Reply {
    /// Its status, or why there is none.
    pub(crate) status: std::result::Result<u16, String>,
    /// Its body.
    pub(crate) body: Bytes,
    /// From the start of the request to the end of the answer.
    pub(crate) took: Duration,
}

impl Asker {
    /// Sends `request` and waits for the whole answer, for [`LIMIT`] at most.
    pub(crate) async fn ask(&mut self, request: Request<Bytes>) -> Reply {
        let started = Instant::now();
        let answered = tokio::time::timeout(LIMIT, self.exchange(request)).await;
        let answered = answered.unwrap_or_else(|_| Err(format!("no answer within {LIMIT:?}").into()));
        let took = started.elapsed();
        match answered {
            Ok((status, body)) => Reply { status: Ok(status), body, took },
            Err(error) => {
                self.connection = None;
                Reply { status: Err(error.to_string()), body: Bytes::new(), took }
            }
        }
    }

    async fn exchange(&mut self, request: Request<Bytes>) -> Result<(u16, Bytes)> {
        loop {
            // An answer to a request that was not read ends its connection.
            let kept = self.connection.take().filter(|connection| !connection.is_closed());
            let is_new = kept.is_none();
            let mut connection = match kept {
                Some(connection) => connection,
                None => Connection::open(self.address).await?,
            };
            match connection.whole(sendable(&request)).await {
                Ok((status, body)) => {
                    self.connection = Some(connection);
                    return Ok((status.as_u16(), body));
                }
                // It was being closed meanwhile; a new one is not.
                Err(_) if !is_new => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// `POST path` with that content type, or none where it is empty.
pub(crate) fn post(path: &str, content_type: &str, body: impl Into<Bytes>) -> Result<Request<Bytes>> {
    let mut request = Request::new(body.into());
    *request.method_mut() = Method::POST;
    *request.uri_mut() = path.parse()?;
    if !content_type.is_empty() {
        request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::try_from(content_type)?);
    }
    Ok(request)
}

fn sendable(request: &Request<Bytes>) -> Request<Body> {
    let mut sendable = Request::new(Full::new(request.body().clone().chain(Bytes::new())));
    *sendable.method_mut() = request.method().clone();
    *sendable.uri_mut() = request.uri().clone();
    *sendable.headers_mut() = HeaderMap::clone(request.headers());
    sendable.headers_mut().insert(header::HOST, HeaderValue::from_static("localhost"));
    sendable
}

/// Does `work` for each number below `count`, `at_once` of them at a time.
///
/// # Errors
/// When there is no runtime to be had.
pub(crate) fn each(address: SocketAddr, at_once: usize, count: u64, work: impl AsyncFn(&mut Asker, u64)) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let next = Cell::new(0);
    let one = async || {
        let mut asker = Asker { address, connection: None };
        while next.get() < count {
            let number = next.replace(next.get() + 1);
            work(&mut asker, number).await;
        }
    };
    LocalSet::new().block_on(&runtime, join_all((0..at_once).map(|_| one())));
    Ok(())
}
