//! The accept loop: HTTP/1.1 connections from a listener to a service, bounded in number and in time, and drained at the end.
//!
//! Owns connections: how many there are, their clocks (through `GuardedIo`), how they end. Does not own the listener's
//! address, routes, or anything about a request but the peer's address.
//!
//! * **Bounded.** A permit is taken before `accept`, so that connections past `max_connections` wait in the kernel's backlog.
//! * **HTTP/1.1 only**, by hyper's own builder. An HTTP/2 preface is refused at once. hyper's own header timer stays off: ours
//!   tells a slow head from an idle connection, which hyper's does not.
//! * **Cancelled.** `half_close(false)`: a client that goes while its request is worked on drops the handler's future.
//! * **Drained.** Once the shutdown has begun every answer says `Connection: close`; requests in flight finish; for a moment
//!   (`DRAIN_GRACE`) requests that were already on their way are still taken, then the listener and idle connections are
//!   closed. What is open after `drain_timeout` is cut and, where a request was in work, counted.
//!
//! Invariants: never more than `max_connections` connections; no connection outlives [`serve`]; a finished connection leaves
//! nothing behind.

use std::{convert::Infallible, io, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use axum::body::Body;
use http::{HeaderValue, Request, Response, header::CONNECTION};
use http_body::Body as _;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use prometheus::IntGauge;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::{JoinError, JoinSet},
    time::{Instant, sleep, timeout_at},
};
use tower::{Service, ServiceExt};

use super::{
    exchange::{ConnState, RequestBody, ResponseBody},
    guarded_io::GuardedIo,
};

/// A request's line and headers, bytes at most; a longer head is answered 431.
pub const MAX_HEAD_BYTES: usize = 32 * 1024;

/// The pause after an accept error that will not go away by itself, such as no file descriptor left.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// How long, once shutdown has begun, a connection in the kernel's queue is still taken and an idle one still read: for requests
/// that were sent before their client could know.
const DRAIN_GRACE: Duration = Duration::from_millis(100);

/// What bounds the connections of one listener.
#[derive(Clone, Copy, Debug)]
pub struct AcceptOptions {
    /// Open connections; further ones wait in the kernel's backlog.
    pub max_connections: usize,
    /// From the first byte of a request head (or from the accept, while nothing comes) to its end.
    pub header_timeout: Duration,
    /// How long a connection may stay idle between requests.
    pub keep_alive_timeout: Duration,
    /// How long a client may take no byte of an answer.
    pub write_timeout: Duration,
    /// How long requests in flight may take to finish once shutdown has begun.
    pub drain_timeout: Duration,
}

/// The peer's address, in the extensions of every request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerAddr(pub SocketAddr);

/// How [`serve`] ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DrainOutcome {
    /// Connections cut off while a request was in work; 0 when the drain was clean.
    pub cut: usize,
}

/// Begins a shutdown, for every [`Shutdown`] made with it. To drop it begins the shutdown too.
#[derive(Debug)]
pub struct ShutdownTrigger(watch::Sender<bool>);

impl ShutdownTrigger {
    /// Begins the shutdown; there is no way back.
    pub fn begin(&self) {
        self.0.send_replace(true);
    }
}

/// The receiving side of a [`ShutdownTrigger`].
#[derive(Clone, Debug)]
pub struct Shutdown(watch::Receiver<bool>);

impl Shutdown {
    /// A signal that has not been given, and what gives it.
    pub fn new() -> (ShutdownTrigger, Self) {
        let (sender, receiver) = watch::channel(false);
        (ShutdownTrigger(sender), Self(receiver))
    }

    /// Whether the shutdown has begun.
    pub fn has_begun(&self) -> bool {
        // As in `begun`, a trigger that is gone counts as given.
        *self.0.borrow() || self.0.has_changed().is_err()
    }

    /// Waits for the shutdown to begin; at once when it has begun. Cancel safe.
    pub async fn begun(&mut self) {
        // The error says that the trigger is gone, so that nobody else could ever begin it.
        let _ = self.0.wait_for(|begun| *begun).await;
    }
}

/// Serves the connections of `listener` until `shutdown` begins and the drain is over. `connections` is the number of open
/// ones at any time. To drop the future cuts every connection at once.
pub async fn serve<S>(
    listener: TcpListener,
    service: S,
    options: AcceptOptions,
    connections: IntGauge,
    mut shutdown: Shutdown,
) -> DrainOutcome
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    let (cut_trigger, cut) = Shutdown::new();
    let mut tasks = JoinSet::new();
    let mut acceptor = Acceptor::new(&listener, options.max_connections);
    let spawn = {
        let shutdown = shutdown.clone();
        move |tasks: &mut JoinSet<End>, (stream, peer, permit): Accepted| {
            let open = OpenConnection::new(permit, connections.clone());
            let connection = serve_connection(stream, peer, service.clone(), options, shutdown.clone(), cut.clone());
            tasks.spawn(async move {
                let _open = open;
                connection.await
            });
        }
    };

    loop {
        tokio::select! {
            biased;
            () = shutdown.begun() => break,
            Some(ended) = tasks.join_next() => { report(ended); }
            accepted = acceptor.next() => spawn(&mut tasks, accepted),
        }
    }

    let now = Instant::now();
    let drain_end = now + options.drain_timeout;
    // Whoever is in the kernel's queue has been told "connected", and may have sent a request.
    let last_call = drain_end.min(now + DRAIN_GRACE);
    while Instant::now() < last_call
        && let Ok(accepted) = timeout_at(last_call, acceptor.next()).await
    {
        spawn(&mut tasks, accepted);
    }
    drop(listener);

    let drained = timeout_at(drain_end, async {
        while let Some(ended) = tasks.join_next().await {
            report(ended);
        }
    });
    let mut cut = 0;
    if drained.await.is_err() {
        cut_trigger.begin();
        while let Some(ended) = tasks.join_next().await {
            cut += usize::from(report(ended) == End::CutInRequest);
        }
    }
    DrainOutcome { cut }
}

type Accepted = (TcpStream, SocketAddr, OwnedSemaphorePermit);

/// Takes connections from the listener, no more than there are permits for.
struct Acceptor<'a> {
    listener: &'a TcpListener,
    permits: Arc<Semaphore>,
    /// Whether the last accept failed in a way that lasts, so that a burst of failures is logged once.
    failing: bool,
}

impl<'a> Acceptor<'a> {
    fn new(listener: &'a TcpListener, max_connections: usize) -> Self {
        let permits = Arc::new(Semaphore::new(max_connections.min(Semaphore::MAX_PERMITS)));
        Self { listener, permits, failing: false }
    }

    /// The next connection. Cancel safe; a cancelled pause after a failure means that a connection ended, so that what was
    /// lacking may be there.
    async fn next(&mut self) -> Accepted {
        loop {
            let Ok(permit) = Arc::clone(&self.permits).acquire_owned().await else {
                // Nobody closes the semaphore.
                return std::future::pending().await;
            };
            match self.listener.accept().await {
                Ok((stream, peer)) => {
                    self.failing = false;
                    return (stream, peer, permit);
                }
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    if !std::mem::replace(&mut self.failing, true) {
                        tracing::error!(%error, "cannot accept connections; trying again until it works");
                    }
                    drop(permit);
                    sleep(ACCEPT_BACKOFF).await;
                }
            }
        }
    }
}

/// Errors that concern the one connection that was to be accepted: the next may be fine, there is nothing to wait for.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

/// A connection's place: its permit and its count.
struct OpenConnection {
    _permit: OwnedSemaphorePermit,
    connections: IntGauge,
}

impl OpenConnection {
    fn new(permit: OwnedSemaphorePermit, connections: IntGauge) -> Self {
        connections.inc();
        Self { _permit: permit, connections }
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.connections.dec();
    }
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// By itself, well or not.
    Closed,
    /// By us, at the end of the drain, with no request in work.
    Cut,
    /// By us, at the end of the drain, with a request in work.
    CutInRequest,
}

fn report(ended: Result<End, JoinError>) -> End {
    ended.unwrap_or_else(|error| {
        tracing::error!(%error, "a connection's task failed");
        End::Closed
    })
}

async fn serve_connection<S>(
    stream: TcpStream,
    peer: SocketAddr,
    service: S,
    options: AcceptOptions,
    mut shutdown: Shutdown,
    mut cut: Shutdown,
) -> End
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone,
{
    // Fails only when the peer has gone already, which the first read will say.
    let _ = stream.set_nodelay(true);
    let state = ConnState::new(options.header_timeout, options.keep_alive_timeout);
    let io = TokioIo::new(GuardedIo::new(stream, Arc::clone(&state), options.write_timeout));

    let requests = Arc::clone(&state);
    let draining = shutdown.clone();
    let answer = service_fn(move |request: Request<Incoming>| {
        let exchange = requests.begin(!request.body().is_end_stream());
        let mut request = request.map(|body| Body::new(RequestBody::new(body, Arc::clone(&requests))));
        request.extensions_mut().insert(PeerAddr(peer));
        let response = service.clone().oneshot(request);
        let draining = draining.clone();
        async move {
            let mut response = response.await?;
            if exchange.body_unread() || draining.has_begun() {
                // The connection will close: say so, or the client sends its next request into a closed one.
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(response.map(|body| ResponseBody::new(body, exchange)))
        }
    });
    let mut connection = pin!(
        http1::Builder::new()
            .half_close(false)
            .header_read_timeout(None)
            .max_buf_size(MAX_HEAD_BYTES)
            .serve_connection(io, answer)
    );

    let drain = async {
        shutdown.begun().await;
        sleep(DRAIN_GRACE).await;
    };
    let result = tokio::select! {
        biased;
        result = connection.as_mut() => Some(result),
        () = drain => None,
    };
    let result = match result {
        Some(result) => result,
        None => {
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                biased;
                result = connection => result,
                () = cut.begun() => return if state.in_request() { End::CutInRequest } else { End::Cut },
            }
        }
    };
    if let Err(error) = result {
        tracing::debug!(%peer, %error, "a connection ended early");
    }
    End::Closed
}

#[cfg(test)]
mod tests;
