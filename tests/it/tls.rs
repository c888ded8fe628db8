//! TLS in our own accept loop: what is served, what is refused, what a client is known to have done, and certificates that are replaced.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use clipserve::server::Server;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{
    collector_stand_in::{CollectorStandIn, Manner, attribute},
    lifecycle::command,
    support::{TestServer, configuration, fixture},
};

const LIVEZ: &str = "GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n";

fn of(name: &str) -> PathBuf {
    fixture(Path::new("tls").join(name))
}

/// The settings of a server with this certificate.
fn with(certificate: &Path, key: &Path) -> [String; 2] {
    [format!("server.tls_certificate={}", certificate.display()), format!("server.tls_key={}", key.display())]
}

fn settings<'a>(tls: &'a [String; 2], more: &[&'a str]) -> Vec<&'a str> {
    tls.iter().map(String::as_str).chain(more.iter().copied()).collect()
}

async fn start(more: &[&str]) -> TestServer {
    let tls = with(&of("server-one.pem"), &of("server-one.key"));
    TestServer::start(&settings(&tls, more)).await
}

/// A client that trusts `ca`, speaks `protocols` inside, and has a certificate or not.
fn client(ca: &str, protocols: &[&str], own: Option<&str>) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(of(&format!("ca-{ca}.pem"))).expect("a certificate")).expect("a root");
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().expect("versions").with_root_certificates(roots);
    let mut config = match own {
        None => builder.with_no_client_auth(),
        Some(name) => {
            let chain = vec![CertificateDer::from_pem_file(of(&format!("{name}.pem"))).expect("a certificate")];
            let key = PrivateKeyDer::from_pem_file(of(&format!("{name}.key"))).expect("a key");
            builder.with_client_auth_cert(chain, key).expect("a pair")
        }
    };
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    TlsConnector::from(Arc::new(config))
}

async fn connect(server: &TestServer, connector: &TlsConnector) -> io::Result<TlsStream<TcpStream>> {
    let socket = TcpStream::connect(server.address()).await?;
    connector.connect(ServerName::try_from("localhost").expect("a name"), socket).await
}

/// One answer of a connection that goes on: its head and as much of its body as it declares.
async fn ask(stream: &mut TlsStream<TcpStream>, request: &str) -> io::Result<String> {
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(stream.read_u8().await?);
    }
    let head = String::from_utf8(answer).expect("text").to_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).expect("a length");
    let mut body = vec![0; length.parse().expect("a number")];
    stream.read_exact(&mut body).await?;
    Ok(head + &String::from_utf8_lossy(&body))
}

fn post(path: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    )
}

fn handshakes(outcome: &str) -> String {
    format!("clipserve_tls_handshakes_total{{outcome=\"{outcome}\"}}")
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_answered_inside_tls_and_nothing_is_outside_it() {
    let server = start(&[]).await;
    let mut stream = connect(&server, &client("one", &["h2", "http/1.1"], None)).await.expect("a connection");
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    let texts: Vec<String> = (0..64).map(|n| format!("text {n}")).collect();
    let embed = post("/embed/text", &json!({"texts": texts}).to_string());
    for _ in 0..3 {
        let answer = ask(&mut stream, &embed).await.expect("an answer");
        assert!(answer.starts_with("http/1.1 200 ") && answer.contains("embeddings"), "{answer}");
    }
    let mut unnamed = connect(&server, &client("one", &[], None)).await.expect("no protocol is named");
    assert!(ask(&mut unnamed, LIVEZ).await.expect("an answer").starts_with("http/1.1 200 "));
    server.assert_metric(&handshakes("ok"), 2.0).await;

    connect(&server, &client("one", &["h2"], None)).await.expect_err("we speak HTTP/1.1");
    connect(&server, &client("two", &[], None)).await.expect_err("another authority's");
    let mut plain = TcpStream::connect(server.address()).await.expect("a connection");
    plain.write_all(LIVEZ.as_bytes()).await.expect("sent");
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP/"), "{answer:?}");
    server.assert_metric(&handshakes("failed"), 3.0).await;
    drop(TcpStream::connect(server.address()).await.expect("a connection"));
    server.assert_metric(&handshakes("left"), 1.0).await;
    drop((stream, unnamed));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_span_of_a_request_inside_tls_says_https() {
    let collector = CollectorStandIn::start(Manner::Takes);
    let server = start(&[&collector.setting()]).await;
    let mut stream = connect(&server, &client("one", &[], None)).await.expect("a connection");
    // Not the embedding of a text, which would be two spans.
    let answer = ask(&mut stream, &post("/embed/text", "{}")).await.expect("an answer");
    assert!(answer.starts_with("http/1.1 400 "), "{answer}");
    server.stop().await;
    let [span] = &collector.next().spans[..] else { panic!("one request is one span") };
    assert_eq!(attribute(&span.attributes, "url.scheme").as_deref(), Some("https"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_that_does_not_come_ends_with_the_time_of_a_head() {
    let server = start(&["server.header_timeout=2s"]).await;
    let mut silent = TcpStream::connect(server.address()).await.expect("a connection");
    let mut begun = TcpStream::connect(server.address()).await.expect("a connection");
    // The start of a handshake's record, and no more.
    begun.write_all(&[22, 3, 1, 2, 0, 1]).await.expect("sent");
    server.assert_metric(&handshakes("timed_out"), 2.0).await;
    for socket in [&mut silent, &mut begun] {
        let mut answer = Vec::new();
        let _ = socket.read_to_end(&mut answer).await;
        assert!(answer.is_empty(), "{answer:?}");
    }
    // Nor does a handshake buy more time for a head.
    let mut stream = connect(&server, &client("one", &[], None)).await.expect("a connection");
    server.assert_metric("clipserve_connections", 0.0).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert!(answer.is_empty(), "{answer:?}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_is_noticed_with_a_word_and_without() {
    let tls = with(&of("server-one.pem"), &of("server-one.key"));
    let (server, gate) = TestServer::start_gated(&settings(&tls, &["cache.max_bytes=0"])).await;
    let connector = client("one", &[], None);
    let gone = "clipserve_http_requests_total{method=\"POST\",route=\"/embed/text\",status=\"499\"}";
    for (number, with_word) in [(1.0, true), (2.0, false)] {
        let mut stream = connect(&server, &connector).await.expect("a connection");
        stream.write_all(post("/embed/text", r#"{"texts": "a"}"#).as_bytes()).await.expect("sent");
        server.until_metric("clipserve_http_requests_in_flight", |requests| requests == 1.0).await;
        if with_word {
            stream.shutdown().await.expect("said");
        } else {
            stream.get_mut().0.shutdown().await.expect("half closed");
        }
        server.assert_metric(gone, number).await;
    }
    // Who waits for nobody is answered when it has half closed.
    let mut stream = connect(&server, &connector).await.expect("a connection");
    stream.write_all(LIVEZ.as_bytes()).await.expect("sent");
    stream.shutdown().await.expect("said");
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert!(answer.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&answer));
    drop(gate);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_takes_nothing_of_an_answer_is_ended() {
    let more = ["server.write_timeout=100ms", "limits.max_texts=2048", "limits.max_queue_wait=1h"];
    let server = start(&more).await;
    let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4096).expect("a size");
    let socket = socket.connect(server.address().parse().expect("an address")).await.expect("a connection");
    let name = ServerName::try_from("localhost").expect("a name");
    let mut stream = client("one", &[], None).connect(name, socket).await.expect("a connection");
    let texts: Vec<String> = (0..2048).map(|n| n.to_string()).collect();
    stream.write_all(post("/embed/text", &json!({"texts": texts}).to_string()).as_bytes()).await.expect("sent");
    let answered = "clipserve_http_requests_total{method=\"POST\",route=\"/embed/text\",status=\"200\"}";
    server.until_metric(answered, |answers| answers == 1.0).await;
    server.assert_metric("clipserve_connections", 0.0).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert!(!answer.ends_with(b"}"), "{} bytes, cut", answer.len());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_read_again_and_connections_go_on() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    let put = |pair: &str| {
        fs::copy(of(&format!("{pair}.pem")), at("tls.crt")).expect("copied");
        fs::copy(of(&format!("{pair}.key")), at("tls.key")).expect("copied");
    };
    put("server-one");
    let tls = with(&at("tls.crt"), &at("tls.key"));
    let server = TestServer::start(&settings(&tls, &[])).await;
    let (one, two) = (client("one", &[], None), client("two", &[], None));
    let mut stream = connect(&server, &one).await.expect("a connection");
    assert!(ask(&mut stream, LIVEZ).await.expect("an answer").starts_with("http/1.1 200 "));

    put("server-two");
    server.until_metric("clipserve_file_reloads_total{file=\"tls\",outcome=\"ok\"}", |read| read == 1.0).await;
    connect(&server, &one).await.expect_err("the old one is gone");
    let mut newer = connect(&server, &two).await.expect("the new one");
    for stream in [&mut stream, &mut newer] {
        assert!(ask(stream, LIVEZ).await.expect("an answer").starts_with("http/1.1 200 "));
    }

    // A certificate and the key of another.
    fs::copy(of("server-one.pem"), at("tls.crt")).expect("copied");
    server.until_metric("clipserve_file_refused{file=\"tls\"}", |refused| refused == 1.0).await;
    // A file that is written to its half is no better.
    fs::write(at("tls.crt"), &fs::read(of("server-one.pem")).expect("readable")[..300]).expect("written");
    let refused = "clipserve_file_reloads_total{file=\"tls\",outcome=\"refused\"}";
    server.until_metric(refused, |refused| refused == 2.0).await;
    drop((stream, newer));
    let mut still = connect(&server, &two).await.expect("what was read before stays");
    assert!(ask(&mut still, LIVEZ).await.expect("an answer").starts_with("http/1.1 200 "));
    drop(still);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_client_certificates_who_has_none_is_no_client() {
    let ca = format!("server.tls_client_ca={}", of("ca-two.pem").display());
    let server = start(&[&ca, "server.admin_listen=127.0.0.1:0"]).await;
    let mut stream = connect(&server, &client("one", &[], Some("client-two"))).await.expect("a connection");
    assert!(ask(&mut stream, LIVEZ).await.expect("an answer").starts_with("http/1.1 200 "));
    for own in [None, Some("server-one")] {
        // In TLS 1.3 a client learns of it with what it reads.
        let refused = async { ask(&mut connect(&server, &client("one", &[], own)).await?, LIVEZ).await };
        refused.await.expect_err("no certificate of that authority");
    }
    server.assert_metric(&handshakes("failed"), 2.0).await;
    let probe = server.client().get(server.admin_url("/readyz")).send().await.expect("an answer");
    assert_eq!(probe.status(), 200, "the admin listener stays as it is");
    drop(stream);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_health_check_asks_inside_tls() {
    let server = start(&[]).await;
    let tls = with(&of("server-one.pem"), &of("server-one.key"));
    let address = server.address().to_owned();
    let check = move |args: Vec<String>| {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        command(&args).output().expect("the binary runs")
    };
    let [certificate, key] = tls;
    let by_configuration =
        ["healthcheck", "--listen", &*address, "--set", &*certificate, "--set", &*key].map(str::to_owned);
    let by_url = ["healthcheck".to_owned(), "--url".to_owned(), format!("https://{address}/readyz")];
    let outside = ["healthcheck".to_owned(), "--url".to_owned(), format!("http://{address}/readyz")];
    let asked = std::thread::spawn(move || [by_configuration.to_vec(), by_url.to_vec(), outside.to_vec()].map(check));
    let [configured, url, outside] = asked.join().expect("no panic");
    for well in [configured, url] {
        assert!(well.status.success(), "{}", String::from_utf8_lossy(&well.stderr));
    }
    assert!(!outside.status.success());
    server.stop().await;
}

#[tokio::test]
async fn files_that_cannot_be_used_stop_the_start_with_one_line() {
    let (pem, key) = (of("server-one.pem"), of("server-one.key"));
    let folder = tempfile::tempdir().expect("a folder");
    let cut = folder.path().join("cut.pem");
    fs::write(&cut, &fs::read(&pem).expect("readable")[..300]).expect("written");
    for (certificate, own_key, ca, expected) in [
        (&pem, &of("server-two.key"), None, "does not go with server.tls_certificate"),
        (&key, &key, None, "no certificate in PEM"),
        (&pem, &pem, None, "no private key in PEM"),
        (&cut, &key, None, "it is cut"),
        (&pem, &cut, None, "it is cut"),
        (&of("nothing.pem"), &key, None, "server.tls_certificate "),
        (&pem, &key, Some(of("server-one.key")), "server.tls_client_ca "),
    ] {
        let tls = with(certificate, own_key);
        let ca = ca.map(|ca| format!("server.tls_client_ca={}", ca.display()));
        let more: Vec<&str> = ca.iter().map(String::as_str).collect();
        let error = Server::bind(configuration(&settings(&tls, &more))).await.expect_err(expected).to_string();
        assert!(error.contains(expected) && error.lines().count() == 1, "{error}");
    }
}
