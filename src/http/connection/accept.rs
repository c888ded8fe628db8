//! The accept loop: HTTP/1.1 connections from a listener to a service, bounded in number and in time, and drained at the end.
//!
//! Owns connections: how many there are, their clocks (through `GuardedIo`), how they end. Does not own the listener's
//! address, routes, or anything about a request but the peer's address.
//!
//! * **Bounded.** At `max_connections` a new connection gets the place of one that does nothing with it (`peers`). Until it has that,
//!   or when all are at work, it is one of a small reserve, in which probes and metrics are answered and everything else is
//!   refused; connections past the reserve wait in the kernel's backlog.
//! * **Inside TLS**, where that is asked for: until its handshake is done a connection is one that has sent nothing, and has no more time.
//! * **HTTP/1.1 only**, by hyper's own builder. An HTTP/2 preface is refused at once. hyper's own header timer stays off: ours
//!   tells a slow head from an idle connection, which hyper's does not.
//! * **Cancelled.** `half_close(false)`: a client that goes while its request is worked on drops the handler's future.
//! * **Drained.** Once the shutdown has begun every answer says `Connection: close`; requests in flight finish; for a moment
//!   (`DRAIN_GRACE`) requests that were already on their way are still taken, then the listener and idle connections are
//!   closed. What is open after `drain_timeout` is cut and, where a request was in work, counted.
//!
//! Invariants: never more than `max_connections` connections and [`RESERVE`]; no connection outlives [`serve`]; a finished connection leaves
//! nothing behind.

use std::{
    convert::Infallible,
    future::{Future, poll_fn},
    io,
    net::SocketAddr,
    pin::pin,
    sync::Arc,
    time::Duration,
};

use axum::body::Body;
use http::{
    HeaderValue, Request, Response,
    header::{CONNECTION, EXPECT},
};
use http_body::Body as _;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use prometheus::IntGauge;
use socket2::SockRef;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::{JoinError, JoinSet},
    time::{Instant, sleep, timeout_at},
};
use tower::{Service, ServiceExt};

use super::{
    exchange::{ConnState, Exchange, ReadLimit},
    guarded_io::GuardedIo,
    held::Held,
    peers::Peers,
    request_body::RequestBody,
    seat::Seat,
    transport::Transport,
};
use crate::tls::Tls;

/// A request's line and headers, bytes at most; a longer head is answered 431.
pub const MAX_HEAD_BYTES: usize = 32 * 1024;

/// Connections beyond `max_connections`, for probes and until a place is free.
pub const RESERVE: usize = 32;

/// Bytes that the kernel keeps of an answer whose client does not read; it takes twice as much, and without a bound up to 8 MB for
/// each connection, which a container's limit of memory counts.
const SEND_BUFFER: usize = 128 << 10;

/// How often it is said that there are as many connections as there may be.
const WARN_EVERY: Duration = Duration::from_secs(10);

/// The pause after an accept error that will not go away by itself, such as no file descriptor left.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// How long, once shutdown has begun, a connection in the kernel's queue is still taken and an idle one still read: for requests
/// that were sent before their client could know.
const DRAIN_GRACE: Duration = Duration::from_millis(100);

/// What bounds the connections of one listener.
#[derive(Clone, Copy, Debug)]
pub struct AcceptOptions {
    /// Open connections, besides the reserve.
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

/// In the extensions of a request whose head says in two ways how long its body is. It is to be refused; the connection closes behind it.
#[derive(Clone, Copy, Debug)]
pub struct AmbiguousBody;

/// The connection of a request, for whoever reads its body.
#[derive(Clone, Debug)]
pub struct Link(Arc<ConnState>);

impl Link {
    /// Waits until the upload is to be given up for others.
    pub(super) async fn upload_ended(&self) {
        match self.0.upload_ended() {
            Some(ended) => ended.notified().await,
            None => std::future::pending().await,
        }
    }
}

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
/// ones at any time; with `tls` all of them begin with a handshake. To drop the future cuts every connection at once.
pub async fn serve<S>(
    listener: TcpListener,
    service: S,
    options: AcceptOptions,
    peers: Peers,
    connections: IntGauge,
    tls: Option<Tls>,
    mut shutdown: Shutdown,
) -> DrainOutcome
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    let (cut_trigger, cut) = Shutdown::new();
    let mut tasks = JoinSet::new();
    let mut acceptor = Acceptor::new(&listener, options.max_connections, peers.clone());
    let spawn = {
        let shutdown = shutdown.clone();
        move |tasks: &mut JoinSet<End>, (stream, peer, seat): Accepted| {
            let counted = Counted::new(connections.clone());
            let timeouts = (options.header_timeout, options.keep_alive_timeout);
            let state = ConnState::new(timeouts, &peers, Arc::clone(&seat));
            let connection = Connection { stream, peer, tls: tls.clone(), seat, state, options };
            let served = connection.serve(service.clone(), shutdown.clone(), cut.clone());
            tasks.spawn(async move {
                let _counted = counted;
                served.await
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

type Accepted = (TcpStream, SocketAddr, Arc<Seat>);

/// Takes connections from the listener, no more than there are places for.
struct Acceptor<'a> {
    listener: &'a TcpListener,
    places: Arc<Semaphore>,
    reserve: Arc<Semaphore>,
    peers: Peers,
    max_connections: usize,
    /// Whether the last accept failed in a way that lasts, so that a burst of failures is logged once.
    failing: bool,
    /// When it was last said that there are as many connections as there may be.
    warned: Option<Instant>,
}

impl<'a> Acceptor<'a> {
    fn new(listener: &'a TcpListener, max_connections: usize, peers: Peers) -> Self {
        let places = Arc::new(Semaphore::new(max_connections.min(Semaphore::MAX_PERMITS)));
        let reserve = Arc::new(Semaphore::new(RESERVE));
        Self { listener, places, reserve, peers, max_connections, failing: false, warned: None }
    }

    /// The next connection. Cancel safe; a cancelled pause after a failure means that a connection ended, so that what was
    /// lacking may be there.
    async fn next(&mut self) -> Accepted {
        loop {
            let reserve = match Arc::clone(&self.reserve).try_acquire_owned() {
                Ok(reserve) => reserve,
                Err(_) => {
                    self.peers.end_for_reserve();
                    // Nobody closes a semaphore.
                    let Ok(reserve) = Arc::clone(&self.reserve).acquire_owned().await else {
                        return std::future::pending().await;
                    };
                    reserve
                }
            };
            match self.listener.accept().await {
                Ok((stream, peer)) => {
                    self.failing = false;
                    return (stream, peer, self.seat(reserve));
                }
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    if !std::mem::replace(&mut self.failing, true) {
                        tracing::error!(%error, "cannot accept connections; trying again until it works");
                    }
                    drop(reserve);
                    // It may be descriptors that are lacking, and somebody may hold one for nothing.
                    self.peers.end_for_place();
                    sleep(ACCEPT_BACKOFF).await;
                }
            }
        }
    }

    /// A seat for a new connection; in the reserve until a place is free, for which somebody is ended where that is possible.
    fn seat(&mut self, reserve: OwnedSemaphorePermit) -> Arc<Seat> {
        if let Ok(place) = Arc::clone(&self.places).try_acquire_owned() {
            return Seat::new(Some(place), None, &self.places);
        }
        let made = self.peers.end_for_place();
        if self.warned.is_none_or(|at| at.elapsed() >= WARN_EVERY) {
            self.warned = Some(Instant::now());
            let limit = self.max_connections;
            if made {
                tracing::warn!(
                    limit,
                    "as many connections as there may be: those that do nothing are closed for new ones"
                );
            } else {
                tracing::warn!(
                    limit,
                    "as many connections as there may be, all of them at work: new ones get probes only"
                );
            }
        }
        Seat::new(None, Some(reserve), &self.places)
    }
}

/// Errors that concern the one connection that was to be accepted: the next may be fine, there is nothing to wait for.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

/// A connection in the gauge.
struct Counted(IntGauge);

impl Counted {
    fn new(connections: IntGauge) -> Self {
        connections.inc();
        Self(connections)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
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

/// One connection.
struct Connection {
    stream: TcpStream,
    peer: SocketAddr,
    tls: Option<Tls>,
    seat: Arc<Seat>,
    state: Arc<ConnState>,
    options: AcceptOptions,
}

impl Connection {
    async fn serve<S>(self, service: S, shutdown: Shutdown, mut cut: Shutdown) -> End
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone,
    {
        let Self { stream, peer, tls, seat, state, options } = self;
        // Both fail only when the peer has gone already, which the first read will say.
        let _ = stream.set_nodelay(true);
        let _ = SockRef::from(&stream).set_send_buffer_size(SEND_BUFFER);
        // Moves up from the reserve as soon as there is a place, and waits on behalf of nobody after that.
        let mut move_up = pin!(async {
            seat.place().await;
            std::future::pending::<()>().await;
        });
        let drain = |mut shutdown: Shutdown| async move {
            shutdown.begun().await;
            sleep(DRAIN_GRACE).await;
        };
        let transport = tokio::select! {
            biased;
            transport = transport(stream, peer, tls, &state) => transport,
            () = drain(shutdown.clone()) => None,
            () = state.ended() => None,
            () = move_up.as_mut() => None,
        };
        let Some(transport) = transport else { return End::Closed };
        let io = TokioIo::new(GuardedIo::new(transport, Arc::clone(&state), options.write_timeout));

        let (own, seated, draining) = (Arc::clone(&state), Arc::clone(&seat), shutdown.clone());
        let answer = service_fn(move |request: Request<Incoming>| {
            // Begun before the future is polled, since hyper may look for the end of the client's side first.
            let begun = own.begin(!request.body().is_end_stream(), request.body().size_hint().exact());
            let (service, state, seat, draining) =
                (service.clone(), Arc::clone(&own), Arc::clone(&seated), draining.clone());
            async move { Ok::<_, Infallible>(carry_out(request, begun, service, &state, peer, &seat, &draining).await) }
        });
        let mut connection = pin!(
            http1::Builder::new()
                .half_close(false)
                .header_read_timeout(None)
                .max_buf_size(MAX_HEAD_BYTES)
                .serve_connection(io, answer)
        );

        let result = tokio::select! {
            biased;
            result = connection.as_mut() => Some(result),
            () = drain(shutdown) => None,
            () = state.ended() => {
                if state.is_lost() {
                    return End::Closed;
                }
                None
            }
            () = move_up => None,
        };
        let result = match result {
            Some(result) => result,
            None => {
                connection.as_mut().graceful_shutdown();
                tokio::select! {
                    biased;
                    result = connection => result,
                    () = state.ended() => return End::Closed,
                    () = cut.begun() => return if state.in_request() { End::CutInRequest } else { End::Cut },
                }
            }
        };
        if let Err(error) = result {
            tracing::debug!(%peer, %error, "a connection ended early");
        }
        End::Closed
    }
}

/// What a connection's requests come by: `stream` itself, or the inside of TLS after a handshake, which has no more time than a head.
/// `None` where that failed.
async fn transport(
    stream: TcpStream,
    peer: SocketAddr,
    tls: Option<Tls>,
    state: &ConnState,
) -> Option<Transport<TcpStream>> {
    let Some(tls) = tls else { return Some(Transport::Plain(stream)) };
    let Some(ReadLimit::Head(limit)) = state.read_limit() else { unreachable!("nothing has been read so far") };
    tls.accept(stream, peer, limit).await.map(Transport::sealed)
}

/// One request and its answer.
async fn carry_out<S>(
    request: Request<Incoming>,
    exchange: Exchange,
    service: S,
    state: &Arc<ConnState>,
    peer: SocketAddr,
    seat: &Arc<Seat>,
    draining: &Shutdown,
) -> Response<Body>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
{
    let held = Held::default();
    let may_drain = !request.headers().contains_key(EXPECT) && !exchange.is_ambiguous();
    let mut request = request.map(|body| Body::new(RequestBody::new(body, Arc::clone(state), may_drain)));
    request.extensions_mut().insert(PeerAddr(peer));
    request.extensions_mut().insert(Link(Arc::clone(state)));
    request.extensions_mut().insert(held.clone());
    request.extensions_mut().insert(Arc::clone(seat));
    if exchange.is_ambiguous() {
        request.extensions_mut().insert(AmbiguousBody);
    }
    let mut response = {
        let mut response = pin!(service.oneshot(request));
        poll_fn(|cx| {
            let polled = response.as_mut().poll(cx);
            if polled.is_pending() {
                state.waits();
            }
            polled
        })
        .await
        .unwrap_or_else(|never| match never {})
    };
    if exchange.body_lost() || draining.has_begun() || seat.is_reserved() {
        // The connection will close: say so, or the client sends its next request into a closed one.
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    held.keep(exchange);
    response.map(|body| held.until_written(body))
}

#[cfg(test)]
mod tests;
