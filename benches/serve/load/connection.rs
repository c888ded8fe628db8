//! One HTTP/1.1 connection that is kept alive: ask, take the whole answer, ask again.
//!
//! Owns the socket. Does not own the judgement of an answer. Invariant: an answer's body has been read to its end, so that the
//! next request may follow.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::request::Body;
use crate::Result;

/// An open connection.
pub(crate) struct Connection {
    sender: SendRequest<Body>,
}

/// A whole answer.
pub(crate) struct Answer {
    /// Its status.
    pub(crate) status: StatusCode,
    /// Bytes of the body.
    pub(crate) length: usize,
    /// The first piece of the body: all of an error, and where a log line takes its text from.
    pub(crate) start: Bytes,
    /// The header of that name, in seconds.
    pub(crate) retry_after: Option<Duration>,
}

impl Connection {
    /// Connects; a task of the current `LocalSet` drives the connection until it is dropped.
    pub(crate) async fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (sender, driver) = http1::handshake(TokioIo::new(stream)).await?;
        // How it ends, `ask` says.
        tokio::task::spawn_local(driver);
        Ok(Self { sender })
    }

    /// Whether the other side has closed it.
    pub(crate) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// One request and the length of its answer.
    pub(crate) async fn ask(&mut self, request: Request<Body>) -> Result<Answer> {
        self.sender.ready().await?;
        let (head, mut body) = self.sender.send_request(request).await?.into_parts();
        let (mut length, mut start) = (0, Bytes::new());
        while let Some(frame) = body.frame().await {
            if let Ok(data) = frame?.into_data() {
                length += data.len();
                if start.is_empty() {
                    start = data;
                }
            }
        }
        let retry_after = head.headers.get(header::RETRY_AFTER).and_then(seconds);
        Ok(Answer { status: head.status, length, start, retry_after })
    }

    /// `GET path` and all of its answer.
    pub(crate) async fn get(&mut self, path: &'static str) -> Result<Bytes> {
        let mut request = Request::new(Full::default());
        *request.uri_mut() = Uri::from_static(path);
        request.headers_mut().insert(header::HOST, HeaderValue::from_static("localhost"));
        self.fetch(request).await
    }

    /// One request and all of its answer, which must be a 200.
    pub(crate) async fn fetch(&mut self, request: Request<Body>) -> Result<Bytes> {
        let (status, body) = self.whole(request).await?;
        if status != StatusCode::OK {
            return Err(format!("{status}: {}", String::from_utf8_lossy(&body)).into());
        }
        Ok(body)
    }

    /// One request, and the status and all of its answer.
    pub(crate) async fn whole(&mut self, request: Request<Body>) -> Result<(StatusCode, Bytes)> {
        self.sender.ready().await?;
        let answer = self.sender.send_request(request).await?;
        let status = answer.status();
        Ok((status, answer.into_body().collect().await?.to_bytes()))
    }
}

fn seconds(value: &HeaderValue) -> Option<Duration> {
    Some(Duration::from_secs(value.to_str().ok()?.parse().ok()?))
}
