//! Who may ask: several keys from a file that is read again, what each may have at a time, and what is open by path and network.

use std::{fs, os::unix::fs::symlink, path::Path};

use clipserve::server::Server;
use reqwest::{Response, StatusCode};
use serde_json::{Value, json};

use crate::{
    lifecycle::{Running, command},
    support::{TestServer, configuration, error, fixture, json as json_of},
};

/// Two keys, the second one by its digest: that of `two-second`.
const TWO: &str = "[[keys]]\nname = \"one\"\nkey = \"one-first\"\n\n[[keys]]\nname = \"two\"\n\
                   sha256 = \"dd09fbc7f777bb6afbde2397d8b043e58b3f13352563f87b57ed56e9d54b49d8\"\n";

/// A folder with a file of keys, and the setting that names it.
fn file_of(keys: &str) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("keys.toml");
    fs::write(&path, keys).expect("written");
    let setting = format!("server.api_keys_file={}", path.display());
    (folder, setting)
}

async fn embed(server: &TestServer, key: Option<&str>, texts: Value) -> Response {
    let request = server.post("/embed/text").json(&json!({"texts": texts}));
    let request = match key {
        Some(key) => request.bearer_auth(key),
        None => request,
    };
    request.send().await.expect("an answer")
}

async fn status(server: &TestServer, key: Option<&str>) -> u16 {
    embed(server, key, json!("a")).await.status().as_u16()
}

fn of_key(name: &str, status: &str) -> String {
    format!("clipserve_key_requests_total{{key=\"{name}\",status=\"{status}\"}}")
}

#[tokio::test(flavor = "multi_thread")]
async fn each_of_several_keys_opens_and_is_counted_by_its_name() {
    let (_folder, file) = file_of(TWO);
    let server = TestServer::start(&[&file, "server.api_key=s3cret"]).await;
    for key in ["one-first", "two-second", "s3cret"] {
        assert_eq!(status(&server, Some(key)).await, 200, "{key}");
    }
    for key in [None, Some("one"), Some("one-firs"), Some("one-first1"), Some("three"), Some(&*"x".repeat(2000))] {
        assert_eq!(status(&server, key).await, 401, "{key:?}");
    }
    for (key, expected) in [(None, "wants the header"), (Some("three"), "none of this server's")] {
        let message = error(embed(&server, key, json!("a")).await, 401, "unauthorized").await;
        assert!(message.contains(expected), "{message}");
    }
    assert_eq!(embed(&server, Some("one-first"), json!(5)).await.status(), 400);
    for (series, expected) in [
        (of_key("one", "2xx"), 1.0),
        (of_key("one", "4xx"), 1.0),
        (of_key("two", "2xx"), 1.0),
        (of_key("api_key", "2xx"), 1.0),
        ("clipserve_key_requests_in_flight{key=\"one\"}".to_owned(), 0.0),
    ] {
        server.assert_metric(&series, expected).await;
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_with_two_keys_has_none() {
    let (_folder, file) = file_of(TWO);
    let server = TestServer::start(&[&file]).await;
    for second in ["one-first", "two-second", "wrong"] {
        let request = server.post("/embed/text").json(&json!({"texts": "a"})).bearer_auth("one-first");
        let answer = request.bearer_auth(second).send().await.expect("an answer");
        let message = error(answer, 401, "unauthorized").await;
        assert!(message.contains("more than one Authorization header"), "{message}");
    }
    server.assert_metric(&of_key("one", "2xx"), 0.0).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_has_no_more_requests_at_a_time_than_it_may() {
    let (_folder, file) = file_of(
        "[[keys]]\nname = \"small\"\nkey = \"k1\"\nmax_inflight_requests = 1\n[[keys]]\nname = \"other\"\nkey = \"k2\"\n",
    );
    let (server, gate) = TestServer::start_gated(&[&file, "cache.max_bytes=0"]).await;
    let request = server.post("/embed/text").json(&json!({"texts": "a"})).bearer_auth("k1").send();
    let held = tokio::spawn(request);
    server.until_metric("clipserve_key_requests_in_flight{key=\"small\"}", |held| held == 1.0).await;
    let answer = embed(&server, Some("k1"), json!("b")).await;
    for header in ["retry-after", "retry-after-ms", "x-should-retry"] {
        assert!(answer.headers().contains_key(header), "{header}");
    }
    let message = error(answer, 429, "overloaded").await;
    assert!(
        message.contains("key small has 1 request in flight") && message.contains("max_inflight_requests"),
        "{message}"
    );
    // What is no work needs no place.
    let info = server.client().get(server.url("/info")).bearer_auth("k1").send().await.expect("an answer");
    assert_eq!(info.status(), 200);
    drop(gate);
    json_of(held.await.expect("sent").expect("an answer"), 200).await;
    json_of(embed(&server, Some("k2"), json!("b")).await, 200).await;
    // One after the other, each of which finds its place free again.
    for text in ["c", "d", "e"] {
        server.assert_metric("clipserve_key_requests_in_flight{key=\"small\"}", 0.0).await;
        json_of(embed(&server, Some("k1"), json!(text)).await, 200).await;
    }
    assert_eq!(server.metric("clipserve_rejected_total{reason=\"key_requests\"}"), 1.0);
    server.assert_metric(&of_key("small", "429"), 1.0).await;
    server.assert_metric("clipserve_key_requests_in_flight{key=\"small\"}", 0.0).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_has_no_more_of_a_queue_than_its_share() {
    let (_folder, file) = file_of(
        "[[keys]]\nname = \"half\"\nkey = \"k1\"\nqueue_share = 0.5\n[[keys]]\nname = \"other\"\nkey = \"k2\"\n",
    );
    let settings =
        [&*file, "cache.max_bytes=0", "batch.text.max_queue_size=8", "limits.max_texts=8", "limits.max_queue_wait=1h"];
    let (server, gate) = TestServer::start_gated(&settings).await;
    let message =
        error(embed(&server, Some("k1"), json!(["a", "b", "c", "d", "e"])).await, 413, "payload_too_large").await;
    assert!(message.contains('4') && message.contains("queue_share"), "{message}");
    let request =
        |key: &str, texts: Value| server.post("/embed/text").json(&json!({"texts": texts})).bearer_auth(key).send();
    let held = tokio::spawn(request("k1", json!(["a", "b", "c"])));
    server.until_metric("clipserve_batch_size_count{modality=\"text\"}", |runs| runs == 1.0).await;
    let answer = embed(&server, Some("k1"), json!(["d", "e"])).await;
    assert!(answer.headers().contains_key("retry-after"));
    let message = error(answer, 429, "overloaded").await;
    assert!(message.contains("queue_share"), "{message}");
    assert_eq!(server.metric("clipserve_rejected_total{reason=\"key_share\"}"), 1.0);
    let other = tokio::spawn(request("k2", json!(["f", "g", "h", "i"])));
    // Two of the three may wait, too: a session takes what is there. So four are the other's in part, which came in as a whole.
    server.until_metric("clipserve_queue_depth{queue=\"text\"}", |waiting| waiting >= 4.0).await;
    drop(gate);
    for answer in [held, other] {
        json_of(answer.await.expect("sent").expect("an answer"), 200).await;
    }
    json_of(embed(&server, Some("k1"), json!(["d", "e"])).await, 200).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_file_is_read_again_when_it_changes_and_kept_as_it_was_where_it_is_wrong() {
    // As Kubernetes mounts a secret: a change is a link that is turned.
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    let turn = |version: &str, keys: &str| {
        fs::create_dir(at(version)).expect("a folder");
        fs::write(at(version).join("keys.toml"), keys).expect("written");
        symlink(version, at("..new")).expect("a link");
        fs::rename(at("..new"), at("..data")).expect("turned");
    };
    turn("1", "[[keys]]\nname = \"one\"\nkey = \"old\"\n");
    symlink("..data/keys.toml", at("keys.toml")).expect("a link");
    let server = TestServer::start(&[&format!("server.api_keys_file={}", at("keys.toml").display())]).await;
    assert_eq!((status(&server, Some("old")).await, status(&server, Some("new")).await), (200, 401));

    turn("2", "[[keys]]\nname = \"one\"\nkey = \"new\"\n");
    server.until_metric("clipserve_file_reloads_total{file=\"api_keys\",outcome=\"ok\"}", |read| read == 1.0).await;
    assert_eq!((status(&server, Some("old")).await, status(&server, Some("new")).await), (401, 200));

    turn("3", "[[keys]]\nname = \"one\"\n");
    server.until_metric("clipserve_file_refused{file=\"api_keys\"}", |refused| refused == 1.0).await;
    assert_eq!((status(&server, Some("old")).await, status(&server, Some("new")).await), (401, 200));

    turn("4", "[[keys]]\nname = \"two\"\nkey = \"newer\"\n");
    server.until_metric("clipserve_file_refused{file=\"api_keys\"}", |refused| refused == 0.0).await;
    assert_eq!((status(&server, Some("new")).await, status(&server, Some("newer")).await), (401, 200));
    let metrics = server.get("/metrics").await.text().await.expect("text");
    assert!(!metrics.contains("key=\"one\"") && metrics.contains("key=\"two\""), "{metrics}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_open_is_said_by_path_and_network() {
    let open =
        ["server.api_key=s3cret", "server.open_paths=/embed/text,/v1/models/*", "server.open_networks=127.0.0.0/8"];
    let server = TestServer::start(&open).await;
    assert_eq!(status(&server, None).await, 200);
    assert_eq!(status(&server, Some("any")).await, 200, "what wants no key looks at none");
    assert_eq!(server.get("/v1/models/tiny-clip").await.status(), 200);
    for path in ["/info", "/v1/models", "/meta", "//v1/models/tiny-clip"] {
        assert!(!server.get(path).await.status().is_success(), "{path}");
    }
    error(server.get("/info").await, 401, "unauthorized").await;
    error(server.post_json("/similarity", &json!({})).await, 401, "unauthorized").await;
    server.stop().await;

    let elsewhere = ["server.api_key=s3cret", "server.open_paths=*", "server.open_networks=10.1.0.0/16"];
    let server = TestServer::start(&elsewhere).await;
    for header in ["x-forwarded-for", "forwarded", "x-real-ip"] {
        let request = server.client().get(server.url("/info")).header(header, "10.1.2.3");
        assert_eq!(request.send().await.expect("an answer").status(), 401, "{header} is not believed");
    }
    assert_eq!(server.get("/livez").await.status(), 200);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn immich_and_weaviate_can_be_let_in_without_a_key() {
    let open =
        ["server.api_key=s3cret", "server.open_paths=/predict,/vectorize,/meta", "server.open_networks=127.0.0.1/32"];
    let server = TestServer::start(&open).await;
    let answer = server.post_json("/vectorize", &json!({"texts": ["a"], "images": []})).await;
    assert_eq!(json_of(answer, 200).await["textVectors"].as_array().map(Vec::len), Some(1));
    assert_eq!(server.get("/meta").await.status(), StatusCode::OK);
    let entries = json!({"clip": {"textual": {"modelName": "tiny-clip"}}}).to_string();
    let form = reqwest::multipart::Form::new().text("entries", entries).text("text", "a");
    let answer = server.post("/predict").multipart(form).send().await.expect("an answer");
    assert!(json_of(answer, 200).await["clip"].is_string());
    server.stop().await;
}

#[tokio::test]
async fn a_file_or_a_path_that_is_wrong_stops_the_start_with_one_line() {
    let (_folder, file) = file_of("[[keys]]\nname = \"one\"\n");
    for (settings, expected) in [
        (&[&*file][..], "key 1: \"one\": it must have a key or its sha256"),
        (&["server.api_keys_file=/nowhere/keys.toml"], "server.api_keys_file /nowhere/keys.toml: "),
        (&["server.api_key=k", "server.open_paths=/predcit"], "\"/predcit\", which is no path"),
    ] {
        let error = Server::bind(configuration(settings)).await.expect_err(expected).to_string();
        assert!(error.contains(expected) && error.lines().count() == 1, "{error}");
    }
}

#[test]
fn the_log_has_the_name_of_the_key_and_never_the_key() {
    let (folder, file) = file_of(TWO);
    let model = fixture("tiny-clip");
    let mut arguments = command(&["serve", "--model", model.to_str().expect("UTF-8"), "--listen", "127.0.0.1:0"]);
    arguments.args(["--provider", "cpu", "--set", &file, "--set", "telemetry.log_level=debug"]);
    set_mode(&folder.path().join("keys.toml"), 0o644);
    let running = Running::spawn(arguments);
    let warning = running.until("every account of this machine can read");
    assert!(warning.contains("WARN") && warning.contains("chmod o-r"), "{warning}");
    let address = running.address();
    running.until("ready");
    let request = "GET /info HTTP/1.1\r\nhost: x\r\nauthorization: Bearer one-first\r\nconnection: close\r\n\r\n";
    let mut socket = std::net::TcpStream::connect(address).expect("a connection");
    std::io::Write::write_all(&mut socket, request.as_bytes()).expect("sent");
    let line = running.until("answered");
    assert!(line.contains("key=\"one\"") && !line.contains("one-first"), "{line}");
}

fn set_mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("the owner's");
}
