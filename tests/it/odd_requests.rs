//! Requests that are valid and rarely written so: each is answered as the plain one is; and those that nearly are: each is told how.

use std::io::Write as _;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use flate2::{
    Compression,
    write::{DeflateEncoder, GzEncoder, ZlibEncoder},
};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{TestServer, error, json, matrix, picture};

async fn embeddings(answer: reqwest::Response) -> Vec<Vec<f32>> {
    matrix(&json(answer, 200).await["embeddings"])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_picture_within_a_string_is_read_as_browsers_and_encoders_write_it() {
    let server = TestServer::start(&[]).await;
    let bytes = picture("cat_420.jpg");
    let base64 = BASE64_STANDARD.encode(&bytes);
    let lines = |end: &str| {
        base64.as_bytes().chunks(76).map(|line| str::from_utf8(line).expect("ASCII")).collect::<Vec<_>>().join(end)
    };
    let escaped = utf8_percent_encode(&base64, NON_ALPHANUMERIC).to_string();
    let raw: String = percent_encoding::percent_encode(&bytes, NON_ALPHANUMERIC).to_string();
    let expected = embeddings(server.post_picture("/embed/image", bytes).await).await;
    for written in [
        lines("\n"),
        lines("\r\n"),
        base64.trim_end_matches('=').to_owned(),
        format!("data:image/jpeg;base64,{}", lines("\n")),
        format!("data:image/jpeg;base64,{escaped}"),
        format!(" data:image/jpeg;name=a%20b.jpg; base64 ,{}\n", base64.trim_end_matches('=')),
        format!("data:image/jpeg,{raw}"),
    ] {
        let answer = server.post_json("/embed/image", &json!({"images": [written]})).await;
        assert_eq!(embeddings(answer).await, expected, "{}", &written[..40]);
        let openai = server.post_json("/v1/embeddings", &json!({"input": [{"image": written}]})).await;
        assert_eq!(openai.status(), 200, "{}", &written[..40]);
    }
    for (written, expected) in [
        ("file:///cat.jpg", "files of this server are not read"),
        ("s3://bucket/cat.jpg", "addresses of this kind are not fetched"),
        ("_-__", "the alphabet for URLs"),
    ] {
        let answer = server.post_json("/embed/image", &json!({"images": [written]})).await;
        assert!(error(answer, 400, "invalid_request").await.contains(expected), "{written}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_are_pictures_whatever_their_names_are_written_in() {
    let server = TestServer::start(&[]).await;
    let bytes = picture("exact_224.png");
    let expected = embeddings(server.post_picture("/embed/image", bytes.clone()).await).await;
    let send = |head: &[u8]| {
        let body = [b"--b\r\n", head, b"\r\n\r\n", &bytes, b"\r\n--b--\r\n"].concat();
        server.post("/embed/image").header("content-type", "multipart/form-data; boundary=b").body(body).send()
    };
    for head in [
        &b"Content-Disposition: form-data; name=\"image\"; filename*=utf-8''%E6%9D%B1%E4%BA%AC.png"[..],
        "Content-Disposition: form-data; name=\"image\"; filename=\"\u{6771}\u{4eac}.png\"".as_bytes(),
        b"Content-Disposition: form-data; name=\"image\"; filename=\"caf\xe9.png\"",
        b"content-disposition: form-data; name=image\r\ncontent-type: binary/octet-stream",
    ] {
        assert_eq!(embeddings(send(head).await.expect("an answer")).await, expected, "{}", head.escape_ascii());
    }
    let option = send(b"content-disposition: form-data; name=normalize").await.expect("an answer");
    assert!(error(option, 400, "invalid_request").await.contains("options go into the query, as in ?name=value"));
    let stored = server.post("/embed/image").header("content-type", "binary/octet-stream").body(bytes.clone());
    assert_eq!(embeddings(stored.send().await.expect("an answer")).await, expected);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_option_that_is_null_has_its_default() {
    let server = TestServer::start(&[]).await;
    let image = BASE64_STANDARD.encode(picture("exact_224.png"));
    for (path, items, options) in [
        (
            "/embed/text",
            json!({"texts": "a"}),
            &[
                "normalize",
                "encoding_format",
                "embedding_type",
                "on_error",
                "dimensions",
                "truncate",
                "outputs",
                "padding",
                "priority",
            ][..],
        ),
        (
            "/embed/image",
            json!({"images": image}),
            &["normalize", "encoding_format", "embedding_type", "on_error", "dimensions", "outputs", "priority"],
        ),
        (
            "/similarity",
            json!({"images": image, "texts": "a"}),
            &["truncate", "return_embeds", "return_loss", "image_embeds"],
        ),
        ("/classify", json!({"images": image, "labels": ["a", "b"]}), &["templates", "top_k", "priority"]),
        ("/v1/embeddings", json!({"input": "a"}), &["model", "encoding_format", "dimensions", "user"]),
        ("/embed", json!({"inputs": "a"}), &["normalize", "truncate", "truncation_direction", "prompt_name"]),
    ] {
        let plain = json(server.post_json(path, &items).await, 200).await;
        for option in options {
            let mut request = items.clone();
            request[*option] = Value::Null;
            let answer = json(server.post_json(path, &request).await, 200).await;
            // What else is in an answer may name the request or the time.
            let vectors =
                |answer: &Value| answer.get("data").map_or_else(|| answer.clone(), |data| data[0]["embedding"].clone());
            assert_eq!(vectors(&answer), vectors(&plain), "{path} {option}");
        }
        let mut typo = items;
        typo["normalise"] = Value::Null;
        let answer = server.post_json(path, &typo).await;
        // OpenAI's and TEI's clients send what they like; ours are told.
        assert_eq!(answer.status() == 200, ["/v1/embeddings", "/embed"].contains(&path), "{path}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_form_liked_best_is_answered_and_the_scheme_of_a_key_has_any_case() {
    let server = TestServer::start(&["server.api_key=s3cret"]).await;
    for (accept, key, expected) in [
        ("application/x-npy;q=0.2, application/json", "bearer s3cret", "application/json"),
        ("application/x-npy, */*;q=0.1", "BEARER s3cret", "application/x-npy"),
        ("text/html, application/x-npz;q=0.5", "Bearer  s3cret", "application/x-npz"),
    ] {
        let request = server.post("/embed/text").json(&json!({"texts": "a"}));
        let answer = request.header("accept", accept).header("authorization", key).send().await.expect("an answer");
        assert_eq!(
            (answer.status().as_u16(), &answer.headers()["content-type"]),
            (200, &expected.parse().expect("a header"))
        );
    }
    for key in ["Bearers3cret", "Bearer s3cre", "Basic s3cret"] {
        let request = server.post("/embed/text").json(&json!({"texts": "a"})).header("authorization", key);
        error(request.send().await.expect("an answer"), 401, "unauthorized").await;
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_whose_length_is_said_in_two_ways_is_refused_and_its_connection_closed() {
    let server = TestServer::start(&[]).await;
    for head in
        ["content-length: 19\r\ntransfer-encoding: chunked\r\n", "Transfer-Encoding: chunked\r\nContent-Length: 19\r\n"]
    {
        let mut socket = tokio::net::TcpStream::connect(server.address()).await.expect("a connection");
        let body = "13\r\n{\"texts\": [\"a dog\"]}\r\n0\r\n\r\n";
        let request =
            format!("POST /embed/text HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n{head}\r\n{body}");
        socket.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.expect("an answer, then the end");
        assert!(
            answer.starts_with("HTTP/1.1 400 ") && answer.contains("both Content-Length and Transfer-Encoding"),
            "{answer}"
        );
    }
    server.stop().await;
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).expect("memory");
    encoder.finish().expect("memory")
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_may_be_compressed() {
    let server = TestServer::start(&["limits.max_body_bytes=1MiB", "limits.max_inflight_body_bytes=2MiB"]).await;
    let request = serde_json::to_vec(&json!({"texts": ["a photo of a cat", "a dog"]})).expect("JSON");
    let mut zlib = ZlibEncoder::new(Vec::new(), Compression::fast());
    zlib.write_all(&request).expect("memory");
    let mut deflate = DeflateEncoder::new(Vec::new(), Compression::fast());
    deflate.write_all(&request).expect("memory");
    let zstd = ruzstd::encoding::compress_to_vec(&request[..], ruzstd::encoding::CompressionLevel::Fastest);
    let send = |path: &str, content_type: &str, coding: &str, body: Vec<u8>| {
        server.post(path).header("content-type", content_type).header("content-encoding", coding).body(body).send()
    };
    let plain =
        embeddings(server.post_json("/embed/text", &serde_json::from_slice(&request).expect("JSON")).await).await;
    for (coding, body) in [
        ("identity", request.clone()),
        ("gzip", gzip(&request)),
        ("X-GZip", gzip(&request)),
        ("deflate", zlib.finish().expect("memory")),
        ("deflate", deflate.finish().expect("memory")),
        ("zstd", zstd),
    ] {
        let answer = send("/embed/text", "application/json", coding, body).await.expect("an answer");
        assert_eq!(embeddings(answer).await, plain, "{coding}");
    }
    let bmp = picture("cat.bmp");
    let whole = embeddings(server.post_picture("/embed/image", bmp.clone()).await).await;
    let zipped = send("/embed/image", "image/bmp", "gzip", gzip(&bmp)).await.expect("an answer");
    assert_eq!(embeddings(zipped).await, whole);

    let bomb = gzip(&vec![b' '; 8 << 20]);
    assert!(bomb.len() < 10_000);
    let refused = send("/embed/text", "application/json", "gzip", bomb).await.expect("an answer");
    assert!(error(refused, 413, "payload_too_large").await.contains("larger than 1048576 bytes"));
    let cut = gzip(&request)[..20].to_vec();
    let refused = send("/embed/text", "application/json", "gzip", cut).await.expect("an answer");
    assert!(error(refused, 400, "invalid_request").await.contains("not whole in the coding"));
    for coding in ["compress", "gzip, gzip"] {
        let refused = send("/embed/text", "application/json", coding, request.clone()).await.expect("an answer");
        assert!(error(refused, 415, "unsupported_media_type").await.contains("gzip, deflate, br and zstd"));
    }
    let undeclared = server.post("/embed/text").header("content-type", "application/json").body(gzip(&request));
    let message = error(undeclared.send().await.expect("an answer"), 400, "invalid_request").await;
    assert!(message.contains("say so in the header Content-Encoding: gzip"), "{message}");
    server.stop().await;
}
