//! What was asked before, through a real server: known items, shared ones, and what goes past the cache.

use serde_json::{Value, json};

use crate::support::{TestServer, json, matrix, pause, picture};

fn lookups(modality: &str, result: &str) -> String {
    format!("clipserve_cache_lookups_total{{modality=\"{modality}\",result=\"{result}\"}}")
}

async fn ask(server: &TestServer, body: &Value) -> (Value, String) {
    let answer = server.post_json("/embed/text", body).await;
    let timing = answer.headers()["server-timing"].to_str().expect("text").to_owned();
    (json(answer, 200).await, timing)
}

/// The answers of one server, sent twice, and of one without a cache: all three equal to the bit.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_known_is_answered_with_the_same_bits_and_without_a_run() {
    let (server, uncached) = (TestServer::start(&[]).await, TestServer::start(&["cache.max_bytes=0"]).await);
    let text = json!({"texts": ["a photo of a cat", "a photo of a dog"], "normalize": false});
    let (first, _) = ask(&server, &text).await;
    assert_eq!(server.metric(&lookups("text", "miss")), 2.0);
    let (second, timing) = ask(&server, &text).await;
    assert_eq!(first, second);
    assert_eq!(timing, "preprocess;dur=0.000, queue;dur=0.000, inference;dur=0.000");
    assert_eq!(server.metric(&lookups("text", "hit")), 2.0);
    assert_eq!(server.metric(r#"clipserve_items_total{modality="text",outcome="ok"}"#), 2.0);
    assert_eq!(ask(&uncached, &text).await.0, first);
    assert_eq!(ask(&uncached, &text).await.0, first);
    assert_eq!(uncached.metric(r#"clipserve_items_total{modality="text",outcome="ok"}"#), 4.0);

    let image = |server: &TestServer| {
        let request = server.post("/embed/image").header("content-type", "image/png").body(picture("exact_224.png"));
        async { json(request.send().await.expect("an answer"), 200).await }
    };
    let first = image(&server).await;
    assert_eq!(image(&server).await, first);
    assert_eq!(image(&uncached).await, first);
    assert_eq!(server.metric(&lookups("image", "hit")), 1.0);
    assert_eq!(server.metric(r#"clipserve_queue_wait_seconds_count{queue="preprocess"}"#), 1.0);
    assert_eq!(server.metric(r#"clipserve_cache_entries{store="embeddings"}"#), 3.0);
    assert_eq!(uncached.metric(r#"clipserve_cache_entries{store="embeddings"}"#), 0.0);
    server.stop().await;
    uncached.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_differ_in_the_form_of_the_answer_share_what_is_known() {
    let server = TestServer::start(&[]).await;
    let whole = ask(&server, &json!({"texts": "Cat", "normalize": false})).await.0;
    let whole = matrix(&whole["embeddings"]).remove(0);
    // Another text with the same ids.
    let first_two = json!({"texts": "  cat", "normalize": false, "dimensions": 2});
    assert_eq!(matrix(&ask(&server, &first_two).await.0["embeddings"]), [&whole[..2]]);
    let unit = ask(&server, &json!({"texts": "Cat", "normalize": true})).await.0;
    let norm = whole.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
    for (unit, raw) in matrix(&unit["embeddings"])[0].iter().zip(&whole) {
        assert!((f64::from(*unit) - f64::from(*raw) / norm).abs() < 1e-6);
    }
    let packed = ask(&server, &json!({"texts": "Cat", "encoding_format": "base64"})).await.0;
    assert!(packed["embeddings"][0].is_string());
    let classified = json!({
        "images": [base64::Engine::encode(&base64::prelude::BASE64_STANDARD, picture("exact_224.png"))],
        "labels": ["cat"], "templates": ["{}"]
    });
    json(server.post_json("/classify", &classified).await, 200).await;
    assert_eq!(server.metric(&lookups("text", "miss")), 1.0);
    assert_eq!(server.metric(&lookups("text", "hit")), 4.0);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_that_is_known_cut_is_still_refused_where_cutting_is() {
    let server = TestServer::start(&[]).await;
    let long = "a ".repeat(100);
    for _ in 0..2 {
        ask(&server, &json!({"texts": long})).await;
        let refused =
            json(server.post_json("/embed/text", &json!({"texts": long, "truncate": false})).await, 422).await;
        assert!(
            refused["error"]["message"].as_str().is_some_and(|message| message.contains("102 tokens")),
            "{refused}"
        );
    }
    assert_eq!(server.metric("clipserve_text_truncated_total"), 2.0);
    assert_eq!(server.metric(&lookups("text", "hit")), 1.0);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_items_in_flight_are_computed_once_and_take_one_place() {
    let (server, gate) = TestServer::start_gated(&["batch.text.max_queue_size=2", "limits.max_texts=2"]).await;
    let send = |texts: Value| tokio::spawn(server.post("/embed/text").json(&json!({"texts": texts})).send());
    let leader = send(json!("a"));
    server.until_metric(r#"clipserve_batch_size_count{modality="text"}"#, |batches| batches == 1.0).await;
    // One after the other: a text that was never seen takes a place while it is tokenized, and there is only one left. The second
    // of these keeps it, the third needs none.
    let mut followers = Vec::new();
    for (texts, joined_by_then) in [(json!(["A", "a"]), 2.0), (json!(["a", "b"]), 3.0), (json!(["b", "a"]), 5.0)] {
        followers.push(send(texts));
        server.until_metric(&lookups("text", "joined"), |joined| joined == joined_by_then).await;
    }
    leader.abort();
    let gone = r#"clipserve_http_requests_total{method="POST",route="/embed/text",status="499"}"#;
    server.until_metric(gone, |gone| gone == 1.0).await;
    drop(gate_texts(gate, 2, &server).await);
    for follower in followers {
        let answer = json(follower.await.expect("sent").expect("an answer"), 200).await;
        assert_eq!(matrix(&answer["embeddings"]), [[1.0, 0.0, 0.0, 0.0]; 2]);
    }
    assert_eq!(server.metric(&lookups("text", "miss")), 2.0);
    assert_eq!(server.metric(r#"clipserve_items_total{modality="text",outcome="ok"}"#), 2.0);
    server.stop().await;
}

/// Lets runs through until the encoder has seen `texts`, and no more than that.
async fn gate_texts(gate: crate::support::Gate, texts: usize, server: &TestServer) -> crate::support::Gate {
    gate.open();
    server.until_metric(r#"clipserve_batch_size_sum{modality="text"}"#, |seen| seen == texts as f64).await;
    while gate.texts() < texts {
        pause().await;
    }
    assert_eq!(gate.texts(), texts);
    gate
}

#[tokio::test(flavor = "multi_thread")]
async fn outputs_go_past_the_cache() {
    let (server, gate) = TestServer::start_gated(&[]).await;
    drop(gate);
    for _ in 0..2 {
        let body = json!({"texts": "a", "outputs": ["pooler_output"]});
        json(server.post_json("/embed/text", &body).await, 200).await;
    }
    assert_eq!(server.metric(r#"clipserve_items_total{modality="text",outcome="ok"}"#), 2.0);
    for result in ["hit", "miss", "joined"] {
        assert_eq!(server.metric(&lookups("text", result)), 0.0);
    }
    server.stop().await;
}
