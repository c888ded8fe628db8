//! Sizes that a client chooses, by the real server with small budgets: each is refused before it is taken, with a short answer.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use reqwest::multipart::{Form, Part};
use serde_json::json;

use crate::support::{TestServer, error, json, pause, picture};

const JSON: &str = "application/json";

/// Posts `body`, which must be refused so, and returns the message.
async fn refused(server: &TestServer, path: &str, content_type: &str, body: String, status: u16, code: &str) -> String {
    let request = server.post(path).header("content-type", content_type).body(body);
    let message = error(request.send().await.expect("an answer"), status, code).await;
    assert!(message.len() <= 1024 && !message.contains(['\n', '\u{202e}']), "{message}");
    message
}

#[tokio::test(flavor = "multi_thread")]
async fn a_json_body_is_counted_and_measured_before_it_is_read() {
    let server = TestServer::start(&["limits.max_texts=16", "limits.max_images=4"]).await;
    let many = |before: &str, item: &str, after: &str| format!("{before}{}{after}", item.repeat(100_000));
    for (path, body, status, code, expected) in [
        (
            "/embed/text",
            many(r#"{"texts": ["#, r#""","#, r#"""]}"#),
            413,
            "payload_too_large",
            "100001 texts, the limit is 16",
        ),
        (
            "/embed/image",
            many(r#"{"images": ["#, r#""","#, r#"""]}"#),
            413,
            "payload_too_large",
            "100001 images, the limit is 4",
        ),
        (
            "/similarity",
            many(r#"{"texts": "a", "image_embeds": ["#, "[],", "[]]}"),
            413,
            "payload_too_large",
            "100001 image_embeds, the limit is 4",
        ),
        (
            "/similarity",
            many(r#"{"images": "QUJD", "text_embeds": ["#, "[],", "[]]}"),
            413,
            "payload_too_large",
            "100001 text_embeds, the limit is 16",
        ),
        (
            "/similarity",
            many(r#"{"texts": "a", "image_embeds": [["#, "1,", "1]]}"),
            400,
            "invalid_request",
            "more than 48 values",
        ),
        (
            "/classify",
            many(r#"{"images": "QUJD", "labels": ["#, r#""","#, r#"""]}"#),
            413,
            "payload_too_large",
            "100001 labels, the limit is 16",
        ),
        (
            "/classify",
            many(r#"{"images": "QUJD", "labels": "a", "templates": ["#, r#""{}","#, r#""{}"]}"#),
            413,
            "payload_too_large",
            "100001 templates, the limit is 16",
        ),
        ("/embed/text", many("{\"", "k", "\": 1}"), 400, "invalid_request", "kkk…`, expected one of `texts`"),
        ("/embed/text", many("{\"", "\\u202e", "\": 1}"), 400, "invalid_request", "unknown field"),
        ("/embed/text", "{\"\u{202e}\\n\": 1}".to_owned(), 400, "invalid_request", "unknown field `\\u{202e}\\n`"),
        ("/embed/text", many("{", "\"a\":1,", "\"a\":1}"), 400, "invalid_request", "more than 64 members"),
        (
            "/embed/text",
            many(r#"{"texts": "a", "outputs": ["#, r#""attentions","#, r#""attentions"]}"#),
            400,
            "invalid_request",
            "`outputs` takes 1300014 bytes, an option has at most 1024",
        ),
        (
            "/embed/text",
            format!(r#"{{"texts": "a", "padding": "{}"}}"#, "p".repeat(900)),
            400,
            "invalid_request",
            "padding: unknown variant `ppp",
        ),
        ("/embed/text", many("{\"texts\": ", "[", ""), 400, "invalid_request", "more than 128 lists"),
        ("/embed/text", many("\"", "s", "\""), 400, "invalid_request", "it is a string, expected an object"),
    ] {
        let message = refused(&server, path, JSON, body, status, code).await;
        assert!(message.contains(expected), "{path}: {message}");
        for library in ["serde", "multer", "axum", "RawValue"] {
            assert!(!message.contains(library), "{message}");
        }
    }
    let query = format!("/embed/text?{}", "outputs=attentions&".repeat(500));
    let message = refused(&server, &query, "text/plain", "a".to_owned(), 400, "invalid_request").await;
    assert!(message.contains("the query has 9500 bytes, the limit is 4096"), "{message}");
    let query = format!("/embed/text?encoding_format=%0A{}", "x".repeat(1000));
    let message = refused(&server, &query, "text/plain", "a".to_owned(), 400, "invalid_request").await;
    assert!(message.contains("unknown variant `\\nxxx"), "{message}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn prompts_are_measured_before_they_are_filled() {
    let server = TestServer::start(&[
        "limits.max_text_bytes=4KiB",
        "limits.max_body_bytes=64KiB",
        "limits.max_inflight_body_bytes=128KiB",
    ])
    .await;
    let label = "l".repeat(2000);
    let one = json!({"images": "QUJD", "labels": ["a", label], "templates": ["a {}", "{}".repeat(1000)]});
    let answer = json(server.post_json("/classify", &one).await, 422).await;
    assert_eq!((&answer["error"]["code"], &answer["error"]["index"]), (&json!("invalid_text"), &json!(1)));
    let message = answer["error"]["message"].as_str().expect("a message");
    assert!(message.contains("label 1 in template 1 makes a text of 2000000 bytes, the limit is 4096"), "{message}");
    // Each within the limit, and together more than there is.
    let all = json!({"images": "QUJD", "labels": vec!["l".repeat(2000); 8], "templates": vec!["{}{}"; 8]});
    let message = error(server.post_json("/classify", &all).await, 413, "payload_too_large").await;
    assert!(message.contains("limits.max_inflight_body_bytes"), "{message}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_read_from_a_body_is_counted_with_it() {
    let server = TestServer::start(&["limits.max_body_bytes=64KiB", "limits.max_inflight_body_bytes=96KiB"]).await;
    // 60 KiB of base64 are 45 KiB of a picture; the fields of a form are copied. A part of it is taken as it is, and so is a body.
    let file = vec![0; 45 << 10];
    let message = error(
        server.post_json("/embed/image", &json!({"images": BASE64_STANDARD.encode(&file)})).await,
        413,
        "payload_too_large",
    )
    .await;
    assert!(message.contains("the limit is 98304 (limits.max_inflight_body_bytes)"), "{message}");
    let part = Part::bytes(vec![0; 60 << 10]).file_name("f");
    let sent = server.post("/embed/image").multipart(Form::new().part("f", part)).send().await.expect("an answer");
    error(sent, 415, "unsupported_media_type").await;
    let form = Form::new().text("text", "a".repeat(60 << 10)).part("f", Part::bytes(&b"f"[..]).file_name("f"));
    let sent = server.post("/similarity").multipart(form).send().await.expect("an answer");
    error(sent, 413, "payload_too_large").await;
    error(server.post_picture("/embed/image", vec![0; 60 << 10]).await, 415, "unsupported_media_type").await;
    // Within the budget each of them is what it was, again and again: nothing is left behind.
    for _ in 0..8 {
        let whole = picture("cat_422.jpg");
        let broken = BASE64_STANDARD.encode(&whole[..20_000]);
        let form = Form::new().part("f", Part::bytes(whole).file_name("f"));
        json(server.post("/embed/image").multipart(form).send().await.expect("an answer"), 200).await;
        error(server.post_json("/embed/image", &json!({"images": broken})).await, 422, "invalid_image").await;
    }
    let head = format!("--x\r\na: {}\r\n\r\nb\r\n--x--", "h".repeat(20_000));
    let message =
        refused(&server, "/embed/image", "multipart/form-data; boundary=x", head, 400, "invalid_request").await;
    assert!(message.contains("a head of more than 8192 bytes"), "{message}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_could_never_have_room_is_413_and_says_how_it_could() {
    let server = TestServer::start(&["limits.max_inflight_answer_bytes=16KiB"]).await;
    let texts = json!({"texts": vec!["a cat"; 16]});
    let message = error(server.post_json("/embed/text", &texts).await, 413, "payload_too_large").await;
    assert!(message.contains("the limit is 16384 (limits.max_inflight_answer_bytes)"), "{message}");
    let shorter = json!({"texts": vec!["a cat"; 16], "encoding_format": "base64"});
    json(server.post_json("/embed/text", &shorter).await, 200).await;
    let npy = server.post("/embed/text").header("accept", "application/x-npy").json(&texts).send().await;
    assert_eq!(npy.expect("an answer").status(), 200);

    let row = vec![1.0; 48];
    let pairs = |n: usize, m: usize| json!({"image_embeds": vec![&row; n], "text_embeds": vec![&row; m]});
    json(server.post_json("/similarity", &pairs(4, 4)).await, 200).await;
    error(server.post_json("/similarity", &pairs(30, 30)).await, 413, "payload_too_large").await;
    let mut with_embeds = pairs(9, 9);
    json(server.post_json("/similarity", &with_embeds).await, 200).await;
    with_embeds["return_embeds"] = json!(true);
    error(server.post_json("/similarity", &with_embeds).await, 413, "payload_too_large").await;

    let picture = BASE64_STANDARD.encode(picture("exact_224.png"));
    let mut labels = json!({"images": picture, "labels": ["\u{1}".repeat(2500), "cat"], "top_k": 1});
    json(server.post_json("/classify", &labels).await, 413).await;
    labels["labels"] = json!(["\u{1}".repeat(250), "cat"]);
    json(server.post_json("/classify", &labels).await, 200).await;
    // What was answered is given back.
    for _ in 0..8 {
        json(server.post_json("/embed/text", &shorter).await, 200).await;
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_memory_of_answers_is_bounded_over_all_requests_and_given_back() {
    // The answer of a gated encoder takes less than the one KiB that is counted at least, so one request fills the budget.
    let (server, gate) = TestServer::start_gated(&["limits.max_inflight_answer_bytes=1KiB", "cache.max_bytes=0"]).await;
    let body = json!({"texts": "a"});
    let held = tokio::spawn(server.post("/embed/text").json(&body).send());
    server.until_metric(r#"clipserve_batch_size_count{modality="text"}"#, |batches| batches == 1.0).await;
    let answer = server.post_json("/embed/text", &body).await;
    assert!(answer.headers().contains_key("retry-after"));
    error(answer, 429, "overloaded").await;
    assert_eq!(server.metric(r#"clipserve_rejected_total{reason="answer_bytes"}"#), 1.0);
    drop(gate);
    json(held.await.expect("sent").expect("an answer"), 200).await;
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
