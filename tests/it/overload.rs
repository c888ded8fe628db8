//! More than fits: gates, deadlines, clients that leave, with encoders that the test holds back.

use std::time::Duration;

use clipserve::{
    embedder::Embedder,
    encoder::{Embeddings, EncodeError, Encoder},
    server::LoadContext,
};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{TestServer, configuration, error, json, parts, pause, picture};

const TEXT_WAITING: &str = r#"clipserve_queue_depth{queue="text"}"#;
const CANCELLED_TEXTS: &str = r#"clipserve_items_total{modality="text",outcome="cancelled"}"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_is_429_with_retry_after_and_what_was_admitted_is_answered() {
    let (server, gate) =
        TestServer::start_gated(&["batch.text.max_batch_size=1", "batch.text.max_queue_size=3", "limits.max_texts=3"])
            .await;
    let admitted = tokio::spawn(server.post("/embed/text").json(&json!({"texts": ["a", "b"]})).send());
    server.until_metric(TEXT_WAITING, |waiting| waiting == 1.0).await;
    // Two of three places are taken: a request of two is refused whole, a request of one still fits.
    let answer = server.post_json("/embed/text", &json!({"texts": ["c", "d"]})).await;
    let seconds: u32 = answer.headers()["retry-after"].to_str().expect("text").parse().expect("whole seconds");
    assert!((1..=10).contains(&seconds));
    error(answer, 429, "overloaded").await;
    let last = tokio::spawn(server.post("/embed/text").json(&json!({"texts": "e"})).send());
    server.until_metric(TEXT_WAITING, |waiting| waiting == 2.0).await;
    assert_eq!(server.metric(r#"clipserve_rejected_total{reason="text_queue"}"#), 1.0);
    assert_eq!(server.metric(r#"clipserve_rejected_total{reason="image_queue"}"#), 0.0);
    drop(gate);
    assert_eq!(
        json(admitted.await.expect("sent").expect("an answer"), 200).await["embeddings"].as_array().map(Vec::len),
        Some(2)
    );
    json(last.await.expect("sent").expect("an answer"), 200).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn full_text_queues_do_not_refuse_images() {
    let (server, gate) =
        TestServer::start_gated(&["batch.text.max_queue_size=1", "limits.max_texts=1", "batch.text.max_batch_size=1"])
            .await;
    let held = tokio::spawn(server.post("/embed/text").json(&json!({"texts": "a"})).send());
    server.until_metric(r#"clipserve_batch_size_count{modality="text"}"#, |batches| batches == 1.0).await;
    error(server.post_json("/embed/text", &json!({"texts": "b"})).await, 429, "overloaded").await;
    let image = tokio::spawn(
        server.post("/embed/image").header("content-type", "image/png").body(picture("exact_224.png")).send(),
    );
    drop(gate);
    json(image.await.expect("sent").expect("an answer"), 200).await;
    json(held.await.expect("sent").expect("an answer"), 200).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_memory_of_outputs_is_bounded_over_all_requests_and_given_back() {
    // The outputs of a gated encoder take less than the one KiB that is counted at least, so one request fills the budget.
    let (server, gate) =
        TestServer::start_gated(&["limits.max_output_bytes=1KiB", "limits.max_inflight_output_bytes=1KiB"]).await;
    let body = json!({"texts": "a", "outputs": ["pooler_output"]});
    let held = tokio::spawn(server.post("/embed/text").json(&body).send());
    server.until_metric(r#"clipserve_batch_size_count{modality="text"}"#, |batches| batches == 1.0).await;
    error(server.post_json("/embed/text", &body).await, 429, "overloaded").await;
    assert_eq!(server.metric(r#"clipserve_rejected_total{reason="output_bytes"}"#), 1.0);
    drop(gate);
    assert_eq!(
        json(held.await.expect("sent").expect("an answer"), 200).await["outputs"]["pooler_output"],
        json!([[1.0, 1.0, 1.0, 1.0]])
    );
    // The server lets go of an answer's bytes when they are written, which the client may know first.
    loop {
        let again = server.post_json("/embed/text", &body).await;
        if again.status() == 200 {
            break;
        }
        error(again, 429, "overloaded").await;
        pause().await;
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_request_gate_refuses_before_the_body_and_leaves_the_probes_alone() {
    let (server, gate) = TestServer::start_gated(&["limits.max_inflight_requests=1"]).await;
    let held = tokio::spawn(server.post("/embed/text").json(&json!({"texts": "a"})).send());
    server.until_metric(r#"clipserve_batch_size_count{modality="text"}"#, |batches| batches == 1.0).await;
    let message = error(server.post_json("/embed/text", &json!({"texts": "b"})).await, 429, "overloaded").await;
    assert!(message.contains("1 requests are in flight"), "{message}");
    for path in ["/livez", "/readyz", "/metrics", "/info"] {
        assert_eq!(server.get(path).await.status(), 200, "{path}");
    }
    assert_eq!(server.metric(r#"clipserve_rejected_total{reason="requests"}"#), 1.0);
    drop(gate);
    json(held.await.expect("sent").expect("an answer"), 200).await;
    json(server.post_json("/embed/text", &json!({"texts": "b"})).await, 200).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_body_gate_bounds_the_bytes_of_all_requests_together() {
    let (server, gate) = TestServer::start_gated(&[
        "limits.max_body_bytes=64KiB",
        "limits.max_inflight_body_bytes=96KiB",
        // Cut to the context length the texts are all the same.
        "cache.max_bytes=0",
    ])
    .await;
    let held = tokio::spawn(server.post("/embed/text").json(&json!({"texts": "a ".repeat(8000).trim()})).send());
    server.until_metric(r#"clipserve_batch_size_count{modality="text"}"#, |batches| batches == 1.0).await;
    let second = tokio::spawn(server.post("/embed/text").json(&json!({"texts": vec!["a ".repeat(7000); 4]})).send());
    server.until_metric(TEXT_WAITING, |waiting| waiting == 4.0).await;
    let third = server.post_json("/embed/text", &json!({"texts": vec!["a ".repeat(7000); 4]})).await;
    error(third, 429, "overloaded").await;
    assert_eq!(server.metric(r#"clipserve_rejected_total{reason="body_bytes"}"#), 1.0);
    drop(gate);
    json(held.await.expect("sent").expect("an answer"), 200).await;
    json(second.await.expect("sent").expect("an answer"), 200).await;
    json(server.post_json("/embed/text", &json!({"texts": vec!["a ".repeat(7000); 4]})).await, 200).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_past_its_deadline_is_504_and_what_waited_is_never_run() {
    let (server, gate) =
        TestServer::start_gated(&["server.request_timeout=100ms", "batch.text.max_batch_size=1"]).await;
    let answer = server.post_json("/embed/text", &json!({"texts": ["a", "b"]})).await;
    let message = error(answer, 504, "deadline_exceeded").await;
    assert!(message.contains("server.request_timeout"), "{message}");
    gate.open();
    server.until_metric(TEXT_WAITING, |waiting| waiting == 0.0).await;
    assert_eq!(gate.texts(), 1, "the second text expired in the queue");
    drop(gate);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_cancels_what_waits_and_frees_its_places() {
    let (server, gate) = TestServer::start_gated(&["batch.text.max_batch_size=1"]).await;
    let held = tokio::spawn(server.post("/embed/text").json(&json!({"texts": "a"})).send());
    server.until_metric(r#"clipserve_batch_size_count{modality="text"}"#, |batches| batches == 1.0).await;
    let body = json!({"texts": ["b", "c", "d"]}).to_string();
    let mut socket = tokio::net::TcpStream::connect(server.address()).await.expect("a connection");
    let head = format!(
        "POST /embed/text HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    socket.write_all(format!("{head}{body}").as_bytes()).await.expect("sent");
    server.until_metric(TEXT_WAITING, |waiting| waiting == 3.0).await;
    drop(socket);
    let gone = r#"clipserve_http_requests_total{method="POST",route="/embed/text",status="499"}"#;
    server.until_metric(gone, |gone| gone == 1.0).await;
    gate.open();
    json(held.await.expect("sent").expect("an answer"), 200).await;
    server.until_metric(CANCELLED_TEXTS, |cancelled| cancelled == 3.0).await;
    assert_eq!(gate.texts(), 1, "nothing of the gone client was run");
    drop(gate);
    server.stop().await;
}

/// A lane on which one unit of work has taken ten seconds.
const SLOW: (u64, Duration) = (1, Duration::from_secs(10));

/// A request that is being worked on.
async fn held(server: &TestServer, priority: &str) -> tokio::task::JoinHandle<reqwest::Result<reqwest::Response>> {
    let request = server.post("/embed/text").header("x-priority", priority).json(&json!({"texts": "a"}));
    let held = tokio::spawn(request.send());
    server.until_metric(r#"clipserve_batch_size_count{modality="text"}"#, |batches| batches == 1.0).await;
    held
}

#[tokio::test(flavor = "multi_thread")]
async fn what_would_wait_too_long_is_429_at_once_and_whoever_finds_nobody_is_let_in() {
    let (server, gate) = TestServer::start_gated_after(&[], &[SLOW]).await;
    let first = held(&server, "0").await;
    let answer = server.post_json("/embed/text", &json!({"texts": "b"})).await;
    let seconds: u32 = answer.headers()["retry-after"].to_str().expect("text").parse().expect("whole seconds");
    assert!((1..=10).contains(&seconds));
    let message = error(answer, 429, "overloaded").await;
    assert!(message.contains("limits.max_queue_wait"), "{message}");
    assert_eq!(server.metric(r#"clipserve_rejected_total{reason="wait"}"#), 1.0);
    // A picture finds nobody in its lane, however slow that is.
    let image = tokio::spawn(
        server.post("/embed/image").header("content-type", "image/png").body(picture("exact_224.png")).send(),
    );
    drop(gate);
    json(image.await.expect("sent").expect("an answer"), 200).await;
    json(first.await.expect("sent").expect("an answer"), 200).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_picture_that_would_wait_too_long_is_refused_before_it_is_sent() {
    let (server, gate) = TestServer::start_gated_after(&[], &[SLOW]).await;
    let ask = || server.post("/embed/image").header("content-type", "image/png").body(picture("exact_224.png"));
    let first = tokio::spawn(ask().send());
    server.until_metric(r#"clipserve_batch_size_count{modality="image"}"#, |batches| batches == 1.0).await;
    let mut socket = tokio::net::TcpStream::connect(server.address()).await.expect("a connection");
    let head = "POST /embed/image HTTP/1.1\r\nhost: x\r\ncontent-type: image/png\r\ncontent-length: 100000\r\n\r\n";
    socket.write_all(head.as_bytes()).await.expect("sent");
    let mut answer = [0; 12];
    socket.read_exact(&mut answer).await.expect("an answer before the body");
    assert_eq!(&answer, b"HTTP/1.1 429");
    drop(gate);
    json(first.await.expect("sent").expect("an answer"), 200).await;
    drop(socket);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bulk_waits_behind_interactive_and_never_before_it() {
    let (server, gate) = TestServer::start_gated_after(&[], &[SLOW]).await;
    let first = held(&server, "1").await;
    error(server.post_json("/embed/text", &json!({"texts": "b", "priority": 5})).await, 429, "overloaded").await;
    error(server.post_json("/embed/text", &json!({"texts": "b", "priority": "low"})).await, 400, "invalid_request")
        .await;
    gate.open();
    json(first.await.expect("sent").expect("an answer"), 200).await;
    drop(gate);
    json(server.post_json("/embed/text", &json!({"texts": "b", "priority": 5})).await, 200).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clients_own_timeout_counts_when_it_is_shorter() {
    let (server, gate) = TestServer::start_gated(&["batch.text.max_batch_size=1"]).await;
    for (header, value) in
        [("x-request-timeout", "0.05"), ("x-stainless-read-timeout", "0.05"), ("x-envoy-expected-rq-timeout-ms", "50")]
    {
        let request = server.post("/embed/text").header(header, value).json(&json!({"texts": header}));
        error(request.send().await.expect("an answer"), 504, "deadline_exceeded").await;
    }
    let request = server.post("/embed/text").header("x-request-timeout", "soon").json(&json!({"texts": "a"}));
    let message = error(request.send().await.expect("an answer"), 400, "invalid_request").await;
    assert!(message.contains("x-request-timeout"), "{message}");
    drop(gate);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_is_still_coming_holds_no_place() {
    let (server, gate) = TestServer::start_gated(&["limits.max_inflight_requests=1"]).await;
    drop(gate);
    let mut slow = tokio::net::TcpStream::connect(server.address()).await.expect("a connection");
    let head = "POST /embed/image HTTP/1.1\r\nhost: x\r\ncontent-type: image/png\r\ncontent-length: 100000\r\n\r\n123";
    slow.write_all(head.as_bytes()).await.expect("sent");
    server.until_metric("clipserve_http_requests_in_flight", |requests| requests == 1.0).await;
    json(server.post_json("/embed/text", &json!({"texts": "b"})).await, 200).await;
    drop(slow);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn load_makes_batches() {
    // The first run takes as long as the gate is held, and those that follow are as long as may be by that.
    let set = ["batch.vision.max_batch_size=8", "cache.max_bytes=0", "limits.max_queue_wait=1h"];
    let (server, gate) = TestServer::start_gated(&set).await;
    let ask = || {
        tokio::spawn(
            server.post("/embed/image").header("content-type", "image/png").body(picture("exact_224.png")).send(),
        )
    };
    let mut asked = vec![ask()];
    server.until_metric(r#"clipserve_batch_size_count{modality="image"}"#, |batches| batches == 1.0).await;
    asked.extend((0..12).map(|_| ask()));
    server.until_metric(r#"clipserve_queue_depth{queue="image"}"#, |waiting| waiting == 12.0).await;
    drop(gate);
    for asked in asked {
        json(asked.await.expect("sent").expect("an answer"), 200).await;
    }
    let batches = server.metric(r#"clipserve_batch_size_count{modality="image"}"#);
    assert_eq!(batches, 3.0, "1, then 8, then the 4 that were left");
    server.stop().await;
}

/// Answers NaN for the first image of each batch, and panics on a batch of texts.
struct Faulty<I>(std::marker::PhantomData<fn(I)>);

impl<I: Send + 'static> Encoder for Faulty<I> {
    type Input = I;

    fn encode(&mut self, inputs: &[I]) -> Result<Embeddings, EncodeError> {
        assert!(inputs.len() < 2, "a batch of texts");
        Ok(Embeddings::from_elem((inputs.len(), crate::support::GATED_DIM), f32::NAN))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_of_ours_is_500_without_its_reason_and_the_process_lives() {
    let config = configuration(&[]);
    let faulty = parts(&config, Faulty(std::marker::PhantomData), Faulty(std::marker::PhantomData));
    let server = TestServer::bind(config.clone(), move |context: LoadContext| {
        Embedder::assemble(faulty, &config, context.metrics, &context.health)
    })
    .await;
    server.ready().await;
    let answer = server.post("/embed/image").header("content-type", "image/png").body(picture("exact_224.png"));
    let message = error(answer.send().await.expect("an answer"), 500, "internal").await;
    assert!(!message.contains("finite") && message.contains("request id"), "{message}");
    // Two texts are one batch when both wait: the worker is kept busy by nothing, so they may also come one by one.
    let answer = server.post_json("/embed/text", &json!({"texts": ["a", "b"]})).await;
    let message = error(answer, 500, "internal").await;
    assert!(!message.contains("panicked"), "{message}");
    assert_eq!(server.get("/readyz").await.status(), 200);
    server.stop().await;
}
