//! The accept loop on real sockets. Clocks are set to some tens of milliseconds where one is to run out, and to an hour where
//! it is not; what is asserted is the order of events, never how long they took.

use std::{
    collections::VecDeque,
    sync::Mutex,
    task::{Context, Poll},
};

use axum::{
    Extension, Router,
    extract::State,
    routing::{get, post},
};
use bytes::Bytes;
use http::StatusCode;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::{Notify, mpsc},
    task::JoinHandle,
    time::timeout,
};

use super::*;

mod crowded;

use crate::{
    budget::ByteBudget,
    http::connection::{
        body::{BodyError, BodyLimits, read_body},
        held::Held,
    },
    telemetry::Metrics,
};

const SOON: Duration = Duration::from_millis(50);
const NEVER: Duration = Duration::from_secs(3600);
/// No test comes near it; one that hangs ends here instead.
const HANG: Duration = Duration::from_secs(20);

fn options() -> AcceptOptions {
    AcceptOptions {
        max_connections: 64,
        header_timeout: NEVER,
        keep_alive_timeout: NEVER,
        write_timeout: NEVER,
        drain_timeout: NEVER,
    }
}

fn peers() -> Peers {
    Peers::new(Arc::default(), NEVER)
}

/// What the test's handlers share with the test.
#[derive(Clone)]
struct Probe {
    /// One message when `/slow` begins, and one ("dropped") if it is dropped before its end.
    events: mpsc::UnboundedSender<&'static str>,
    /// Lets one `/slow` go on.
    go_on: Arc<Notify>,
    limits: BodyLimits,
}

struct Server {
    address: SocketAddr,
    connections: IntGauge,
    peers: Peers,
    metrics: Arc<Metrics>,
    trigger: Option<ShutdownTrigger>,
    outcome: JoinHandle<DrainOutcome>,
    events: mpsc::UnboundedReceiver<&'static str>,
    go_on: Arc<Notify>,
}

impl Server {
    async fn start(options: AcceptOptions) -> Self {
        Self::with_limits(options, BodyLimits { max_bytes: 1 << 20, idle_timeout: NEVER, timeout: NEVER }).await
    }

    async fn with_limits(options: AcceptOptions, limits: BodyLimits) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = IntGauge::new("connections", "open").unwrap();
        let (trigger, shutdown) = Shutdown::new();
        #[expect(clippy::disallowed_methods, reason = "a test's events, as many as it makes")]
        let (sender, events) = mpsc::unbounded_channel();
        let go_on = Arc::new(Notify::new());
        let router = Router::new()
            .route("/hello", get(|| async { "hello" }))
            .route("/big", get(|| async { vec![b'x'; 64 << 20] }))
            .route("/slow", get(slow))
            .route("/held", get(held))
            .route("/length", post(length))
            .route("/refuse", post(|| async { StatusCode::TOO_MANY_REQUESTS }))
            .with_state(Probe { events: sender, go_on: Arc::clone(&go_on), limits });
        let metrics = Arc::new(Metrics::new());
        let peers = Peers::new(Arc::clone(&metrics), NEVER);
        let outcome =
            tokio::spawn(serve(listener, router, options, peers.clone(), connections.clone(), None, shutdown));
        Self { address, connections, peers, metrics, trigger: Some(trigger), outcome, events, go_on }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Connections that were ended for that reason.
    fn ended(&self, reason: &str) -> u64 {
        let series = format!("clipserve_connections_ended_total{{reason=\"{reason}\"}} ");
        let (text, _) = self.metrics.render();
        text.lines().find_map(|line| line.strip_prefix(&series)).unwrap().parse().unwrap()
    }

    fn drain(&mut self) {
        self.trigger.take().unwrap().begin();
    }

    async fn outcome(self) -> DrainOutcome {
        timeout(HANG, self.outcome).await.expect("serve returns").unwrap()
    }

    async fn event(&mut self) -> &'static str {
        timeout(HANG, self.events.recv()).await.expect("an event").unwrap()
    }
}

struct SayDropped(mpsc::UnboundedSender<&'static str>);

impl Drop for SayDropped {
    fn drop(&mut self) {
        let _ = self.0.send("dropped");
    }
}

async fn slow(State(probe): State<Probe>) -> &'static str {
    let dropped = SayDropped(probe.events.clone());
    probe.events.send("begun").unwrap();
    probe.go_on.notified().await;
    std::mem::forget(dropped);
    "slow"
}

/// Holds something that says when it is dropped.
async fn held(State(probe): State<Probe>, Extension(held): Extension<Held>) -> Vec<u8> {
    held.keep(SayDropped(probe.events.clone()));
    probe.events.send("held").unwrap();
    vec![b'x'; 64 << 20]
}

async fn length(State(probe): State<Probe>, Extension(link): Extension<Link>, body: Body) -> (StatusCode, String) {
    match read_body(body, &probe.limits, &ByteBudget::new(1 << 20), &peers(), Some(&link)).await {
        Ok(body) => (StatusCode::OK, body.bytes().len().to_string()),
        Err(error) => {
            let status = match error {
                BodyError::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
                BodyError::TimedOut { .. } | BodyError::Ended => StatusCode::REQUEST_TIMEOUT,
                _ => StatusCode::BAD_REQUEST,
            };
            (status, String::new())
        }
    }
}

/// Everything until the server ends its side.
async fn until_closed(client: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    // A reset after the answer is an end too.
    let _ = timeout(HANG, client.read_to_end(&mut bytes)).await.expect("the server closes");
    String::from_utf8(bytes).unwrap()
}

/// One answer with a Content-Length: its head and its body.
async fn answer(client: &mut TcpStream) -> (String, String) {
    let read = async {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(client.read_u8().await.expect("an answer"));
        }
        let head = String::from_utf8(head).unwrap().to_lowercase();
        let length = head.split_once("content-length: ").unwrap().1.split_once("\r\n").unwrap().0.parse().unwrap();
        let mut body = vec![0; length];
        client.read_exact(&mut body).await.unwrap();
        (head, String::from_utf8(body).unwrap())
    };
    timeout(HANG, read).await.expect("an answer in time")
}

async fn ask(client: &mut TcpStream, path: &str) -> (String, String) {
    client.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await.unwrap();
    answer(client).await
}

#[tokio::test]
async fn one_connection_carries_many_requests_and_the_gauge_counts_one() {
    let mut server = Server::start(options()).await;
    let mut client = server.connect().await;
    for _ in 0..200 {
        assert_eq!(ask(&mut client, "/hello").await.1, "hello");
    }
    assert_eq!(server.connections.get(), 1);
    server.drain();
    let connections = server.connections.clone();
    assert_eq!(server.outcome().await, DrainOutcome { cut: 0 });
    assert_eq!(connections.get(), 0);
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let mut server = Server::start(options()).await;
    let mut client = server.connect().await;
    let mut requests = String::new();
    let mut expected = VecDeque::new();
    for i in 0..1000 {
        let body = "x".repeat(i % 50);
        requests += &format!("POST /length HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        expected.push_back(body.len().to_string());
    }
    let (mut reader, mut writer) = client.split();
    let write = async { writer.write_all(requests.as_bytes()).await.unwrap() };
    let read = async {
        let mut text = String::new();
        while !expected.is_empty() {
            let mut chunk = [0; 4096];
            let count = reader.read(&mut chunk).await.unwrap();
            assert_ne!(count, 0, "closed with {} answers to come", expected.len());
            text.push_str(std::str::from_utf8(&chunk[..count]).unwrap());
            while let Some((head, rest)) = text.split_once("\r\n\r\n") {
                let head = head.to_lowercase();
                let length = head.split_once("content-length: ").unwrap().1.lines().next().unwrap().parse().unwrap();
                if rest.len() < length {
                    break;
                }
                assert_eq!(rest[..length], expected.pop_front().unwrap());
                text = rest[length..].to_owned();
            }
        }
    };
    timeout(HANG, async { tokio::join!(write, read) }).await.expect("all answers");
    server.drain();
}

#[tokio::test]
async fn requests_carry_the_address_of_their_peer() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = Router::new().fallback(|request: Request<Body>| async move {
        request.extensions().get::<PeerAddr>().map(|peer| peer.0.to_string()).unwrap_or_default()
    });
    let (_trigger, shutdown) = Shutdown::new();
    let gauge = IntGauge::new("connections", "open").unwrap();
    tokio::spawn(serve(listener, router, options(), peers(), gauge, None, shutdown));
    let mut client = TcpStream::connect(address).await.unwrap();
    assert_eq!(ask(&mut client, "/").await.1, client.local_addr().unwrap().to_string());
}

#[tokio::test]
async fn a_slow_head_and_a_silent_connection_are_closed_and_an_idle_one_is_not() {
    let server = Server::start(AcceptOptions { header_timeout: SOON, ..options() }).await;
    let mut idle = server.connect().await;
    ask(&mut idle, "/hello").await;
    let mut silent = server.connect().await;
    let mut slow = server.connect().await;
    slow.write_all(b"GET /hello HTTP/1.1\r\nx-slow: ").await.unwrap();
    assert_eq!(until_closed(&mut silent).await, "");
    assert_eq!(until_closed(&mut slow).await, "");
    assert_eq!(ask(&mut idle, "/hello").await.1, "hello", "idle for longer than a head may take");
}

#[tokio::test]
async fn an_idle_connection_is_closed_after_the_keep_alive_timeout() {
    let server = Server::start(AcceptOptions { keep_alive_timeout: SOON, ..options() }).await;
    let mut client = server.connect().await;
    assert_eq!(ask(&mut client, "/hello").await.1, "hello");
    assert_eq!(until_closed(&mut client).await, "");
}

#[tokio::test]
async fn a_client_that_never_reads_is_cut_while_another_is_served() {
    let server = Server::start(AcceptOptions { write_timeout: SOON, ..options() }).await;
    let mut deaf = server.connect().await;
    deaf.write_all(b"GET /big HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut other = server.connect().await;
    let gone = async {
        // Served again and again until the other connection is no more.
        while server.connections.get() == 2 {
            assert_eq!(ask(&mut other, "/hello").await.1, "hello");
        }
        while server.connections.get() == 0 || server.connections.get() > 1 {
            tokio::task::yield_now().await;
        }
    };
    ask(&mut server.connect().await, "/hello").await;
    timeout(HANG, gone).await.expect("the deaf client's connection ends");
    let mut got = Vec::new();
    let _ = deaf.read_to_end(&mut got).await;
    assert!(got.len() < 64 << 20, "cut before the end of the answer");
}

#[tokio::test]
async fn a_slow_body_is_answered_408_on_a_connection_that_closes() {
    let limits = BodyLimits { max_bytes: 1 << 20, idle_timeout: SOON, timeout: NEVER };
    let server = Server::with_limits(options(), limits).await;
    let mut client = server.connect().await;
    client.write_all(b"POST /length HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n123").await.unwrap();
    let (head, _) = answer(&mut client).await;
    assert!(head.starts_with("http/1.1 408") && head.contains("connection: close"), "{head}");
    client.shutdown().await.unwrap();
    assert_eq!(until_closed(&mut client).await, "");
}

#[tokio::test]
async fn a_refused_upload_gets_its_answer_and_not_a_reset() {
    let server = Server::start(options()).await;
    for path in ["/refuse", "/length"] {
        let mut client = server.connect().await;
        let head = format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 8000000\r\n\r\n");
        client.write_all(head.as_bytes()).await.unwrap();
        // A client that, as most do, sends all of its body before it looks for an answer.
        client.write_all(&vec![0; 8_000_000]).await.expect("no reset while sending");
        let (head, _) = answer(&mut client).await;
        assert!(head.starts_with("http/1.1 4") && head.contains("connection: close"), "{head}");
        drop(client);
    }
}

#[tokio::test]
async fn a_thousand_chunks_of_one_byte_are_one_body_and_a_bad_chunk_is_a_400() {
    let server = Server::start(options()).await;
    let mut client = server.connect().await;
    let chunks = "1\r\nx\r\n".repeat(1000) + "0\r\n\r\n";
    let head = "POST /length HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n";
    client.write_all(format!("{head}{chunks}").as_bytes()).await.unwrap();
    assert_eq!(answer(&mut client).await.1, "1000");
    client.write_all(format!("{head}1\r\nx\r\nnonsense\r\n").as_bytes()).await.unwrap();
    assert!(answer(&mut client).await.0.starts_with("http/1.1 400"));
}

#[tokio::test]
async fn what_is_not_a_plain_http_1_request_is_refused_or_closed() {
    let server = Server::start(options()).await;
    let long = format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(64 * 1024));
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "x: y\r\n".repeat(101));
    let cases: [(&[u8], &str); 7] = [
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", ""),
        (long.as_bytes(), "HTTP/1.1 431"),
        (many.as_bytes(), "HTTP/1.1 431"),
        (b"GET / HTTP/1.1\r\nx: a\0b\r\n\r\n", "HTTP/1.1 400"),
        (b"GET /\x01 HTTP/1.1\r\n\r\n", "HTTP/1.1 400"),
        (b"POST /length HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nx", "HTTP/1.1 400"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", "HTTP/1.1 400"),
    ];
    for (sent, expected) in cases {
        let mut client = server.connect().await;
        client.write_all(sent).await.unwrap();
        client.shutdown().await.unwrap();
        let got = until_closed(&mut client).await;
        assert!(got.starts_with(expected) && got.is_empty() == expected.is_empty(), "{got:?}, expected {expected:?}");
    }
    assert_eq!(ask(&mut server.connect().await, "/hello").await.1, "hello");
}

#[tokio::test]
async fn a_client_that_goes_drops_its_handler() {
    let mut server = Server::start(options()).await;
    let mut client = server.connect().await;
    client.write_all(b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    assert_eq!(server.event().await, "begun");
    drop(client);
    assert_eq!(server.event().await, "dropped");
}

#[tokio::test]
async fn a_drain_finishes_what_is_in_flight_and_closes_what_is_idle() {
    let mut server = Server::start(options()).await;
    let mut idle = server.connect().await;
    ask(&mut idle, "/hello").await;
    let mut busy = server.connect().await;
    busy.write_all(b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    assert_eq!(server.event().await, "begun");
    server.drain();
    assert_eq!(until_closed(&mut idle).await, "", "closed while the other still works");
    assert!(TcpStream::connect(server.address).await.is_err(), "the listener is closed");
    server.go_on.notify_one();
    let (head, body) = answer(&mut busy).await;
    assert!(head.contains("connection: close"), "{head}");
    assert_eq!(body, "slow");
    assert_eq!(server.outcome().await, DrainOutcome { cut: 0 });
}

#[tokio::test]
async fn requests_sent_before_the_drain_are_answered_even_from_the_backlog() {
    let mut server = Server::start(options()).await;
    let mut clients = Vec::new();
    for _ in 0..20 {
        // On this one thread the accept loop runs no turn between these lines and the drain.
        let client = std::net::TcpStream::connect(server.address).unwrap();
        io::Write::write_all(&mut &client, b"GET /hello HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
        client.set_nonblocking(true).unwrap();
        clients.push(TcpStream::from_std(client).unwrap());
    }
    server.drain();
    for client in &mut clients {
        let (head, body) = answer(client).await;
        assert_eq!(body, "hello");
        assert!(head.contains("connection: close"), "{head}");
    }
    assert_eq!(server.outcome().await, DrainOutcome { cut: 0 });
}

#[tokio::test]
async fn a_drain_past_its_timeout_cuts_and_counts_the_requests_left() {
    let mut server = Server::start(AcceptOptions { drain_timeout: SOON, ..options() }).await;
    let mut clients = Vec::new();
    for _ in 0..3 {
        let mut client = server.connect().await;
        client.write_all(b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        assert_eq!(server.event().await, "begun");
        clients.push(client);
    }
    // Half a head is no request: cut, not counted.
    let mut half = server.connect().await;
    half.write_all(b"GET /hello HT").await.unwrap();
    while server.connections.get() < 4 {
        tokio::task::yield_now().await;
    }
    server.drain();
    for client in &mut clients {
        assert_eq!(until_closed(client).await, "");
    }
    let connections = server.connections.clone();
    assert_eq!(server.outcome().await, DrainOutcome { cut: 3 });
    assert_eq!(connections.get(), 0, "no connection outlives serve");
}

#[tokio::test]
async fn a_panicking_service_costs_its_own_connection_only() {
    #[derive(Clone)]
    struct PanicsOnce(Arc<Mutex<bool>>);
    impl Service<Request<Body>> for PanicsOnce {
        type Response = Response<Body>;
        type Error = Infallible;
        type Future = std::future::Ready<Result<Response<Body>, Infallible>>;
        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }
        fn call(&mut self, _: Request<Body>) -> Self::Future {
            let first = std::mem::replace(&mut *self.0.lock().unwrap(), false);
            assert!(!first, "the first request panics");
            std::future::ready(Ok(Response::new(Body::from(Bytes::from_static(b"fine")))))
        }
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (trigger, shutdown) = Shutdown::new();
    let gauge = IntGauge::new("connections", "open").unwrap();
    let service = PanicsOnce(Arc::new(Mutex::new(true)));
    let served = tokio::spawn(serve(listener, service, options(), peers(), gauge.clone(), None, shutdown));
    let mut first = TcpStream::connect(address).await.unwrap();
    first.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    assert_eq!(until_closed(&mut first).await, "");
    assert_eq!(ask(&mut TcpStream::connect(address).await.unwrap(), "/").await.1, "fine");
    trigger.begin();
    assert_eq!(served.await.unwrap(), DrainOutcome { cut: 0 });
    assert_eq!(gauge.get(), 0);
}

#[test]
fn only_errors_of_one_connection_are_tried_again_at_once() {
    for (errno, at_once) in
        [(libc::ECONNABORTED, true), (libc::EINTR, true), (libc::EMFILE, false), (libc::ENFILE, false)]
    {
        assert_eq!(is_of_one_connection(&io::Error::from_raw_os_error(errno)), at_once, "errno {errno}");
    }
}
