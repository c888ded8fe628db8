//! Assembly and life of one server: bind, load, serve, drain.
//!
//! Owns the order of things. Listeners are bound before the model is loaded, so that a taken port is known at once and probes
//! are answered during a long load. The drain goes: `/readyz` 503 -> `shutdown_delay` -> listener closed -> requests in flight
//! finish within `drain_timeout` -> the model's threads end.
//!
//! Invariants: the caller owns the stop signal and decides how the model is loaded, so tests run it on port 0 with encoders of
//! their own; nothing that [`Server::run`] started outlives it, except threads inside a run that will not end, and inside a
//! fetch that its timeout will.

mod error;
mod files;
mod memory;

use std::{
    future::Future,
    io,
    net::SocketAddr,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

pub use error::ServeError;
use memory::Memory;
use socket2::{Domain, Socket, Type};
use tokio::{net::TcpListener, sync::oneshot, time};

pub use crate::http::access::UnknownPath;
use crate::{
    config::{Config, ServerConfig},
    embedder::{Embedder, StartError, is_picture},
    health::Health,
    http::{
        self, AppState, Peers,
        access::Access,
        connection::accept::{self, AcceptOptions, Shutdown, ShutdownTrigger},
    },
    model::hub,
    telemetry::{Metrics, Spans},
    tls::Tls,
    watched::{Watched, Watcher},
    web::{Names, SystemNames, Web},
};

/// How often the watchdog looks for a run that does not end.
const WATCHDOG_PERIOD: Duration = Duration::from_secs(1);

/// How long the model's threads may take to end once no request is left; a run that is still going was cut off already.
const JOIN_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a collector that does not answer may hold up the end.
const SPANS_TIMEOUT: Duration = Duration::from_secs(2);

/// Connections that the kernel completes before they are accepted, where its own limit (Linux: `net.core.somaxconn`, 4096 by default) is
/// not below. std and tokio ask for 128: while the cores compute, a burst of more has its first packets dropped and comes again after a
/// second or three, and behind SYN cookies some of it is reset.
const BACKLOG: i32 = 4096;

/// What a loader is given, besides the configuration it was made with.
#[derive(Clone, Debug)]
pub struct LoadContext {
    /// Where the model's threads count.
    pub metrics: Arc<Metrics>,
    /// Where they register their heartbeats.
    pub health: Arc<Health>,
}

/// A server whose listeners are bound.
#[derive(Debug)]
pub struct Server {
    config: Arc<Config>,
    listener: TcpListener,
    address: SocketAddr,
    admin: Option<(std::net::TcpListener, SocketAddr)>,
    context: LoadContext,
    web: Option<Web>,
    access: Access,
    tls: Option<Tls>,
    watched: Vec<Watched>,
}

/// Checks what only the routes can tell of a configuration, before anything starts.
///
/// # Errors
/// [`UnknownPath`].
pub fn check(config: &Config) -> Result<(), UnknownPath> {
    http::check(&config.server)
}

impl Server {
    /// Binds the listeners. No model is loaded yet.
    ///
    /// # Errors
    /// When an address cannot be bound, the system allows too few open files, a file of keys or of TLS cannot be used, or pictures are to
    /// be fetched and cannot be.
    pub async fn bind(config: Config) -> Result<Self, ServeError> {
        Self::bind_resolving(config, Arc::new(SystemNames)).await
    }

    /// As [`Self::bind`]; the hosts that pictures are fetched from are where `names` says.
    ///
    /// # Errors
    /// As [`Self::bind`].
    pub async fn bind_resolving(mut config: Config, names: Arc<dyn Names>) -> Result<Self, ServeError> {
        config.server.max_connections = files::connections(&config)?;
        let bind_error = |key, address| move |error| ServeError::Bind { key, address, error };
        let (key, address) = ("server.listen", config.server.listen);
        let (listener, address) = listen(address).map_err(bind_error(key, address))?;
        let listener = TcpListener::from_std(listener).map_err(bind_error(key, address))?;
        let admin = match config.server.admin_listen {
            Some(address) => Some(listen(address).map_err(bind_error("server.admin_listen", address))?),
            None => None,
        };
        let health = Arc::new(Health::new(config.engine.stall_timeout));
        let context = LoadContext { metrics: Arc::new(metrics(&config)?), health };
        let (access, keys) = http::start_access(&config.server, &context.metrics)?;
        let mut watched: Vec<Watched> = keys.into_iter().collect();
        let tls = match &config.server.tls {
            Some(files) => {
                let (tls, files) = Tls::start(files, Arc::clone(&context.metrics))?;
                watched.push(files);
                Some(tls)
            }
            None => None,
        };
        let web = Web::start(&config, names, Arc::clone(&context.metrics), is_picture)?;
        Ok(Self { config: Arc::new(config), listener, address, admin, context, web, access, tls, watched })
    }

    /// The address of the main listener, with the port that was really taken.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// The address of the admin listener, where there is one.
    pub fn admin_addr(&self) -> Option<SocketAddr> {
        self.admin.as_ref().map(|(_, address)| *address)
    }

    /// Metrics and health of this server.
    pub fn context(&self) -> &LoadContext {
        &self.context
    }

    /// Loads the model with `load` on a thread of its own, serves until `shutdown` resolves, then drains.
    ///
    /// # Errors
    /// When the model cannot be loaded, or requests had to be cut off.
    pub async fn run(
        self,
        load: impl FnOnce(LoadContext) -> Result<Embedder, StartError> + Send + 'static,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), ServeError> {
        let Self { config, listener, address, admin, context, web, access, tls, watched } = self;
        let state = AppState::new(Arc::clone(&config), Arc::clone(&context.metrics), Arc::clone(&context.health));
        let state = Arc::new(state.with_web(web).with_access(access));
        let _watcher = Watcher::start(watched, Arc::clone(&context.metrics)).map_err(ServeError::Thread)?;
        let (drain, draining) = Shutdown::new();
        let (end_admin, admin_ending) = Shutdown::new();
        let admin = match admin {
            Some((listener, _)) => Some(serve_admin(listener, Arc::clone(&state), admin_ending)?),
            None => None,
        };
        let loaded = load_on_thread(load, context.clone())?;
        let watchdog = tokio::spawn(watch(Arc::clone(&context.health)));
        let _memory = Memory::start().map_err(ServeError::Thread)?;
        let serve = accept::serve(
            listener,
            http::router(Arc::clone(&state)),
            accept_options(&config.server),
            state.peers.clone(),
            context.metrics.connections.clone(),
            tls,
            draining,
        );
        tracing::info!(%address, "listening");

        let conduct = async {
            let mut shutdown = std::pin::pin!(shutdown);
            tokio::select! {
                loaded = loaded => {
                    state.set_embedder(loaded.map_err(|_| ServeError::LoadPanicked)??);
                    tracing::info!("ready");
                    shutdown.await;
                }
                () = &mut shutdown => {}
            }
            // In this order: who reads the log line may rely on what it says.
            state.start_draining();
            tracing::info!(delay = ?config.server.shutdown_delay, "draining: /readyz says so, requests are still served");
            time::sleep(config.server.shutdown_delay).await;
            tracing::info!(timeout = ?config.server.drain_timeout, "the listener closes, requests in flight finish");
            drain.begin();
            Ok::<Instant, ServeError>(Instant::now())
        };
        let (closed, outcome) = {
            let mut serve = std::pin::pin!(serve);
            tokio::select! {
                conducted = conduct => {
                    // When the model cannot be loaded there is nothing to drain: `serve` is dropped.
                    let closed = conducted?;
                    (closed, serve.await)
                }
                outcome = &mut serve => (Instant::now(), outcome),
            }
        };
        watchdog.abort();
        end_admin.begin();
        if let Some(ended) = admin {
            // The sender is dropped with the thread's runtime, so an answer or its absence both say that it is over.
            let _ = ended.await;
        }
        end_model(state).await;
        // The last runs have ended.
        end_spans(context.metrics.spans.clone(), config.server.drain_timeout.saturating_sub(closed.elapsed())).await;
        if outcome.cut > 0 {
            return Err(ServeError::Cut(outcome.cut));
        }
        tracing::info!("drained");
        Ok(())
    }
}

/// Probes and metrics of a program that serves nothing else. They end with it.
#[derive(Debug)]
pub struct Probes {
    address: SocketAddr,
    _end: ShutdownTrigger,
}

impl Probes {
    /// Answers on `server.admin_listen` from now on, where it is set.
    ///
    /// # Errors
    /// When the address cannot be bound, or the system has no thread to give.
    pub fn start(config: &Arc<Config>, context: &LoadContext) -> Result<Option<Self>, ServeError> {
        let Some(address) = config.server.admin_listen else { return Ok(None) };
        let bound = listen(address);
        let (listener, address) =
            bound.map_err(|error| ServeError::Bind { key: "server.admin_listen", address, error })?;
        let LoadContext { metrics, health } = context.clone();
        let (end, ending) = Shutdown::new();
        // Its end is nothing to wait for: who asks now is answered, or the process is gone.
        drop(serve_admin(listener, Arc::new(AppState::new(Arc::clone(config), metrics, health)), ending)?);
        Ok(Some(Self { address, _end: end }))
    }

    /// The address, with the port that was really taken.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }
}

/// With spans, where they are configured. The collector is dialled as the hub is; the operator's proxy is one for https.
fn metrics(config: &Config) -> Result<Metrics, ServeError> {
    let Some(otlp) = &config.telemetry.otlp else { return Ok(Metrics::new()) };
    let mut hub = config.model.hub.clone();
    hub.proxy = hub.proxy.filter(|_| otlp.endpoint.starts_with("https:"));
    let network = hub::network(&hub).map_err(|error| ServeError::Spans(error.to_string()))?;
    Metrics::with_spans(|dropped| Spans::start(otlp, network, dropped)).map_err(ServeError::Spans)
}

/// Binds; with the address that was really taken.
fn listen(address: SocketAddr) -> io::Result<(std::net::TcpListener, SocketAddr)> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    // As std's and tokio's own `bind`, so that a service that is started again gets its port; on Windows it means another thing.
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    let listener = std::net::TcpListener::from(socket);
    let address = listener.local_addr()?;
    Ok((listener, address))
}

fn accept_options(server: &ServerConfig) -> AcceptOptions {
    AcceptOptions {
        max_connections: server.max_connections,
        header_timeout: server.header_timeout,
        keep_alive_timeout: server.keep_alive_timeout,
        write_timeout: server.write_timeout,
        drain_timeout: server.drain_timeout,
    }
}

/// Probes and metrics on a thread with a runtime of its own: they answer also when the main one is saturated.
fn serve_admin(
    listener: std::net::TcpListener,
    state: Arc<AppState>,
    shutdown: Shutdown,
) -> Result<oneshot::Receiver<()>, ServeError> {
    let (ended, end) = oneshot::channel();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(ServeError::Thread)?;
    // A probe is answered in microseconds: nothing of it is worth waiting for at the end.
    let options = AcceptOptions {
        max_connections: files::ADMIN_CONNECTIONS,
        drain_timeout: Duration::from_millis(100),
        ..accept_options(&state.config.server)
    };
    let body = move || {
        runtime.block_on(async move {
            match TcpListener::from_std(listener) {
                Ok(listener) => {
                    // Not in `clipserve_connections`, which is the main listener's.
                    let connections = prometheus::IntGauge::new("admin_connections", "unexported");
                    let Ok(connections) = connections else { return };
                    let peers = Peers::new(Arc::clone(&state.metrics), state.config.server.body_timeout);
                    accept::serve(listener, http::admin_router(state), options, peers, connections, None, shutdown)
                        .await;
                }
                Err(error) => tracing::error!(%error, "the admin listener cannot be served"),
            }
        });
        let _ = ended.send(());
    };
    thread::Builder::new().name("admin".to_owned()).spawn(body).map_err(ServeError::Thread)?;
    Ok(end)
}

/// Loading takes seconds of CPU and blocks: it gets a thread, and the runtime goes on answering probes.
fn load_on_thread(
    load: impl FnOnce(LoadContext) -> Result<Embedder, StartError> + Send + 'static,
    context: LoadContext,
) -> Result<oneshot::Receiver<Result<Embedder, StartError>>, ServeError> {
    let (done, loaded) = oneshot::channel();
    let body = move || {
        // The receiver is gone when the server was stopped while it loaded.
        let _ = done.send(load(context));
    };
    thread::Builder::new().name("load".to_owned()).spawn(body).map_err(ServeError::Thread)?;
    Ok(loaded)
}

async fn watch(health: Arc<Health>) {
    let mut ticks = time::interval(WATCHDOG_PERIOD);
    loop {
        ticks.tick().await;
        health.interrupt_stalled(Instant::now());
    }
}

/// Sends the spans that wait, for so long at most, but for [`SPANS_TIMEOUT`].
async fn end_spans(spans: Spans, left: Duration) {
    if !spans.are_on() {
        return;
    }
    let (ended, end) = oneshot::channel::<()>();
    let ending = thread::Builder::new().name("spans".to_owned()).spawn(move || {
        spans.shut_down(left.min(SPANS_TIMEOUT));
        drop(ended);
    });
    if ending.is_ok() {
        // The collector's fault is in the log already.
        let _ = end.await;
    }
}

/// Ends the model's threads. Every handler is gone by now, so this is the last owner of the state.
async fn end_model(state: Arc<AppState>) {
    let Some(embedder) = Arc::into_inner(state).and_then(AppState::into_embedder) else { return };
    let (ended, end) = oneshot::channel::<()>();
    let ending = thread::Builder::new().name("shutdown".to_owned()).spawn(move || {
        embedder.shut_down();
        drop(ended);
    });
    if ending.is_err() || time::timeout(JOIN_TIMEOUT, end).await.is_err() {
        tracing::warn!("a run is still going and is left to the end of the process");
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    #[test]
    fn a_burst_of_connections_is_taken_while_nobody_accepts() {
        let (_listener, address) = listen(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        // What the kernel drops is sent again after a second.
        let connect = |_| TcpStream::connect_timeout(&address, Duration::from_millis(900)).ok();
        assert_eq!((0..200).map_while(connect).collect::<Vec<_>>().len(), 200);
    }
}
