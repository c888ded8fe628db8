//! Every error of the table, by the real server: status, code, the item, the limit.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use clipserve::http::Code;
use reqwest::multipart::{Form, Part};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{TestServer, configuration, error, json, pause, picture};

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_understood_is_400_and_says_where() {
    let server = TestServer::start(&[]).await;
    let cases = [
        ("/embed/text", json!({"texts": []}), "no texts"),
        ("/embed/text", json!({"text": "a"}), "unknown field `text`"),
        ("/embed/text", json!({"texts": [1]}), "expected a string"),
        ("/embed/text", json!({"texts": "a", "dimensions": 49}), "1 to 48"),
        ("/embed/text", json!({"texts": "a", "dimensions": 0}), "1 to 48"),
        ("/embed/text", json!({"texts": "a", "encoding_format": "hex"}), "`float` or `base64`"),
        ("/embed/image", json!({"images": ["!!!!"]}), "base64"),
        ("/embed/image", json!({"images": ["https://example.com/cat.jpg"]}), "not fetched"),
        ("/similarity", json!({"texts": ["a"]}), "either images or image_embeds"),
        ("/similarity", json!({"images": ["QUJD"], "image_embeds": [[1.0]], "texts": "a"}), "either images"),
        ("/similarity", json!({"image_embeds": [[1.0, 2.0]], "texts": "a"}), "has 2 values"),
        ("/similarity", json!({"image_embeds": [vec![0.0; 48]], "texts": "a"}), "not all zero"),
        ("/similarity", json!({"image_embeds": [vec![1e300; 48]], "texts": "a"}), "finite"),
        (
            "/similarity",
            json!({"image_embeds": [vec![1.0; 48]], "texts": ["a", "b"], "return_loss": true}),
            "1 images and 2 texts",
        ),
        ("/classify", json!({"images": ["QUJD"], "labels": []}), "no labels"),
        ("/classify", json!({"images": ["QUJD"], "labels": ["a"], "templates": ["a"]}), "{}"),
        ("/classify", json!({"images": ["QUJD"], "labels": ["a"], "top_k": 0}), "top_k is 0"),
    ];
    for (path, body, expected) in cases {
        let message = error(server.post_json(path, &body).await, 400, "invalid_request").await;
        assert!(message.contains(expected), "{path} {body}: {message}");
    }
    for (path, content_type, body, expected) in [
        ("/embed/text", "application/json", &b"{\"texts\": [\"a\""[..], "the JSON body"),
        ("/embed/text", "application/json", b"{\"texts\": \"\xff\"}", "the JSON body"),
        ("/embed/text", "application/json", b"{\"texts\": \"\\ud800\"}", "the JSON body"),
        ("/embed/text", "text/plain", b"\xff", "not UTF-8"),
        ("/embed/text?truncat=false", "text/plain", b"a", "unknown field `truncat`"),
        ("/embed/text?normalize=false", "application/json", b"{\"texts\": \"a\"}", "into the body"),
        ("/embed/image", "multipart/form-data", b"", "no boundary"),
        ("/embed/image", "multipart/form-data; boundary=x", b"--y", "multipart body"),
    ] {
        let request = server.post(path).header("content-type", content_type).body(body.to_vec());
        let message = error(request.send().await.expect("an answer"), 400, "invalid_request").await;
        assert!(message.contains(expected), "{path}: {message}");
    }
    let form = Form::new().text("caption", "a cat");
    let message =
        error(server.post("/embed/image").multipart(form).send().await.expect("an answer"), 400, "invalid_request")
            .await;
    assert!(message.contains("\"caption\""), "{message}");
    let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
    let request = server.post("/embed/text").header("content-type", "application/json").body(deep);
    error(request.send().await.expect("an answer"), 400, "invalid_request").await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_picture_is_422_or_415_names_its_index_and_harms_no_other_request() {
    let server = TestServer::start(&["limits.max_pixels=150000"]).await;
    let good = BASE64_STANDARD.encode(picture("exact_224.png"));
    let truncated = BASE64_STANDARD.encode(&picture("cat_420.jpg")[..9000]);
    let large = BASE64_STANDARD.encode(picture("photo_640x480.jpg"));
    let psd = BASE64_STANDARD.encode(b"8BPS\0\x01\0\0\0\0\0\0");
    let text = BASE64_STANDARD.encode("<svg xmlns='http://www.w3.org/2000/svg'/>");
    for (bad, status, code, expected) in [
        (&truncated, 422, "invalid_image", ""),
        (&large, 422, "invalid_image", "150000"),
        (&psd, 415, "unsupported_media_type", "PSD"),
        (&text, 415, "unsupported_media_type", "JPEG"),
    ] {
        let request = json!({"images": [good, bad, good]});
        let answer = json(server.post_json("/embed/image", &request).await, status).await;
        assert_eq!(answer["error"]["code"], code, "{answer}");
        assert_eq!(answer["error"]["index"], 1, "{answer}");
        let message = answer["error"]["message"].as_str().expect("a message");
        assert!(message.replace([',', '_'], "").contains(expected), "{message}");
        for secret in ["turbojpeg", "image::", "panicked", "Error {", "/"] {
            assert!(!message.contains(secret), "{message}");
        }
    }
    json(server.post_json("/embed/image", &json!({"images": [good]})).await, 200).await;
    assert_eq!(server.metric(r#"clipserve_items_total{modality="image",outcome="invalid"}"#), 4.0);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_over_a_limit_is_422_and_at_the_limit_it_is_not() {
    let server = TestServer::start(&["limits.max_text_bytes=1KiB"]).await;
    json(server.post_json("/embed/text", &json!({"texts": "a".repeat(1024)})).await, 200).await;
    let long = json(server.post_json("/embed/text", &json!({"texts": ["a", "a".repeat(1025)]})).await, 422).await;
    assert_eq!((&long["error"]["code"], &long["error"]["index"]), (&json!("invalid_text"), &json!(1)));
    assert!(long["error"]["message"].as_str().expect("a message").contains("1025 bytes, the limit is 1024"));
    // 75 words and the two special tokens are just the context length.
    for (words, status) in [(75, 200), (76, 422)] {
        let request = json!({"texts": vec!["word"; words].join(" "), "truncate": false});
        let answer = json(server.post_json("/embed/text", &request).await, status).await;
        if status == 422 {
            let message = answer["error"]["message"].as_str().expect("a message");
            assert!(message.contains("78 tokens") && message.contains("77"), "{message}");
        }
    }
    json(server.post_json("/embed/text", &json!({"texts": vec!["word"; 76].join(" ")})).await, 200).await;
    assert_eq!(server.metric("clipserve_text_truncated_total"), 2.0, "the long word and the 76 words");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn too_much_is_413_with_the_limit() {
    let server = TestServer::start(&["limits.max_body_bytes=64KiB", "limits.max_images=2", "limits.max_texts=3"]).await;
    let declared = server.post_picture("/embed/image", vec![0; 65 * 1024]).await;
    assert_eq!(declared.headers()["connection"], "close");
    assert!(error(declared, 413, "payload_too_large").await.contains("65536 bytes (limits.max_body_bytes)"));
    let pieces = (0..70).map(|_| Ok::<_, std::io::Error>(vec![0u8; 1024]));
    let streamed = server.post("/embed/image").header("content-type", "image/png");
    let streamed = streamed.body(reqwest::Body::wrap_stream(futures_util::stream::iter(pieces)));
    // The server may close the connection while the client still writes; what it then sees is a broken pipe.
    if let Ok(answer) = streamed.send().await {
        assert!(error(answer, 413, "payload_too_large").await.contains("65536 bytes"));
    }
    let message =
        error(server.post_json("/embed/image", &json!({"images": vec!["QUJD"; 3]})).await, 413, "payload_too_large")
            .await;
    assert!(message.contains("3 images, the limit is 2 (limits.max_images)"), "{message}");
    let message =
        error(server.post_json("/embed/text", &json!({"texts": vec!["a"; 4]})).await, 413, "payload_too_large").await;
    assert!(message.contains("4 texts, the limit is 3 (limits.max_texts)"), "{message}");
    let request = json!({"images": ["QUJD"], "labels": ["a", "b"], "templates": ["a {}", "b {}"]});
    let message = error(server.post_json("/classify", &request).await, 413, "payload_too_large").await;
    assert!(message.contains("make 4 texts, the limit is 3 (limits.max_texts)"), "{message}");
    let form = (0..3).fold(Form::new(), |form, _| form.part("f", Part::bytes(vec![1]).file_name("f")));
    let message =
        error(server.post("/embed/image").multipart(form).send().await.expect("an answer"), 413, "payload_too_large")
            .await;
    assert!(message.contains("3 images, the limit is 2 (limits.max_images)"), "{message}");
    let form = (0..9).fold(Form::new(), |form, _| form.part("f", Part::bytes(vec![1]).file_name("f")));
    let message =
        error(server.post("/embed/image").multipart(form).send().await.expect("an answer"), 413, "payload_too_large")
            .await;
    assert!(message.contains("more than 3 parts"), "{message}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_media_type_that_is_not_served_is_415_and_names_those_that_are() {
    let server = TestServer::start(&[]).await;
    for (path, content_type, expected) in [
        ("/embed/image", "application/x-www-form-urlencoded", "image/*"),
        ("/embed/text", "image/png", "application/json, text/plain"),
        ("/similarity", "text/plain", "multipart/form-data"),
        ("/classify", "", "no content type"),
    ] {
        let mut request = server.post(path).body("x");
        if !content_type.is_empty() {
            request = request.header("content-type", content_type);
        }
        let message = error(request.send().await.expect("an answer"), 415, "unsupported_media_type").await;
        assert!(message.contains(expected), "{message}");
    }
    let zipped = server
        .post("/embed/text")
        .header("content-type", "text/plain")
        .header("content-encoding", "compress")
        .body("x");
    let message = error(zipped.send().await.expect("an answer"), 415, "unsupported_media_type").await;
    assert!(message.contains("Content-Encoding"), "{message}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_routes_and_methods_are_404_and_405() {
    let server = TestServer::start(&[]).await;
    assert!(error(server.get("/nowhere").await, 404, "not_found").await.contains("/docs"));
    let answer = server.get("/embed/text").await;
    assert_eq!(answer.headers()["allow"], "POST");
    assert!(error(answer, 405, "method_not_allowed").await.contains("takes POST"));
    let answer = server.client().put(server.url("/embed/text")).send().await.expect("an answer");
    assert_eq!(answer.headers()["allow"], "POST");
    assert!(error(answer, 405, "method_not_allowed").await.contains("does not take this method"));
    let answer = server.post_json("/info", &json!({})).await;
    assert_eq!(answer.headers()["allow"], "GET,HEAD");
    assert!(error(answer, 405, "method_not_allowed").await.contains("takes GET"));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_an_api_key_all_but_probes_and_metrics_want_it() {
    let server = TestServer::start(&["server.api_key=s3cret"]).await;
    for path in ["/livez", "/readyz", "/metrics"] {
        assert_eq!(server.get(path).await.status(), 200, "{path}");
    }
    let answer = server.get("/info").await;
    assert_eq!(answer.headers()["www-authenticate"], "Bearer");
    error(answer, 401, "unauthorized").await;
    let ask = |key: &str| server.post("/embed/text").json(&json!({"texts": "a"})).header("authorization", key).send();
    for wrong in ["Bearer s3cre", "Bearer s3crets", "Basic s3cret", "s3cret", "Bearer "] {
        error(ask(wrong).await.expect("an answer"), 401, "unauthorized").await;
    }
    json(ask("Bearer s3cret").await.expect("an answer"), 200).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_does_not_come_is_408() {
    let server = TestServer::start(&["server.body_idle_timeout=50ms"]).await;
    let mut socket = tokio::net::TcpStream::connect(server.address()).await.expect("a connection");
    let head =
        "POST /embed/image HTTP/1.1\r\nhost: x\r\ncontent-type: image/png\r\ncontent-length: 100\r\n\r\nonly this";
    socket.write_all(head.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.expect("an answer, then the end");
    assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains(r#""request_timeout""#), "{answer}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_model_loads_requests_are_503_not_ready_and_then_shutting_down() {
    let (load, wait) = std::sync::mpsc::channel::<()>();
    let config = configuration(&["server.shutdown_delay=1h"]);
    let server = TestServer::bind(config, move |_| {
        let _ = wait.recv();
        Err(clipserve::embedder::StartError::Canary("the test is over".to_owned()))
    })
    .await;
    assert_eq!(server.get("/livez").await.status(), 200);
    assert_eq!(server.get("/readyz").await.status(), 503);
    let answer = server.post_json("/embed/text", &json!({"texts": "a"})).await;
    assert!(["1", "2"].iter().any(|seconds| answer.headers()["retry-after"] == *seconds));
    error(answer, 503, "not_ready").await;
    let (address, client) = (server.url("/embed/text"), server.client().clone());
    let readyz = server.url("/readyz");
    let running = server.begin_stop();
    // Draining has begun when the probe says so.
    while client.get(&readyz).send().await.expect("an answer").text().await.expect("text") != "draining\n" {
        pause().await;
    }
    let answer = client.post(&address).json(&json!({"texts": "a"})).send().await.expect("an answer");
    error(answer, 503, "shutting_down").await;
    running.abort();
    drop(load);
}

/// Each code of the table is produced by one of the tests here, in `memory`, in `openai`, in `overload`, in `partial` or in `web_pictures`.
#[test]
fn every_code_has_a_test() {
    let tests = [
        include_str!("errors.rs"),
        include_str!("memory.rs"),
        include_str!("openai.rs"),
        include_str!("overload.rs"),
        include_str!("partial.rs"),
        include_str!("web_pictures.rs"),
    ]
    .concat();
    let missing: Vec<&str> =
        Code::ALL.iter().map(|code| code.as_str()).filter(|code| !tests.contains(&format!("\"{code}\""))).collect();
    assert!(missing.is_empty(), "{missing:?}");
}
