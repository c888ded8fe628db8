//! The types of embeddings over HTTP, in every form of an answer; and `on_error`: what is had of a request with bad items.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use half::f16;
use ndarray::Array2;
use ndarray_npy::{NpzReader, ReadNpyExt, ReadableElement};
use reqwest::{
    Response,
    multipart::{Form, Part},
};
use serde_json::{Value, json};

use crate::{
    checkpoint::{checkpoint, start},
    support::{TestServer, json, picture},
};

const TYPES: [&str; 6] = ["float", "float16", "int8", "uint8", "binary", "ubinary"];

/// What the types are by their definition, from the floats of the same embedding: numbers, and bytes.
fn expected(kind: &str, floats: &[f32], scale: f32) -> (Vec<f64>, Vec<u8>) {
    let int8 = || floats.iter().map(|value| (value * scale).round().clamp(-127.0, 127.0) as i16);
    let bits =
        || floats.chunks(8).map(|eight| eight.iter().fold(0u8, |byte, &value| byte << 1 | u8::from(value >= 0.0)));
    let numbers: Vec<f64> = match kind {
        "float" => floats.iter().map(|&value| value.into()).collect(),
        "float16" => floats.iter().map(|&value| f16::from_f32(value).into()).collect(),
        "int8" => int8().map(f64::from).collect(),
        "uint8" => int8().map(|value| f64::from(value + 128)).collect(),
        "binary" => bits().map(|byte| f64::from(byte) - 128.0).collect(),
        _ => bits().map(f64::from).collect(),
    };
    let bytes = match kind {
        "float" => floats.iter().flat_map(|value| value.to_le_bytes()).collect(),
        "float16" => floats.iter().flat_map(|&value| f16::from_f32(value).to_le_bytes()).collect(),
        // As i8 or as u8: the lowest byte of the number.
        _ => numbers.iter().map(|&value| (value as i16).to_le_bytes()[0]).collect(),
    };
    (numbers, bytes)
}

/// The error of a refused request.
async fn error(response: Response, status: u16) -> Value {
    json(response, status).await["error"].take()
}

/// An embedding, none of whose values is more than an f32.
fn numbers(row: &Value) -> Vec<f64> {
    let number = |value: &Value| f64::from(value.as_f64().expect("a number") as f32);
    row.as_array().expect("a list").iter().map(number).collect()
}

fn floats(answer: &Value) -> Vec<Vec<f32>> {
    let rows = answer["embeddings"].as_array().expect("rows");
    rows.iter().map(|row| numbers(row).into_iter().map(|value| value as f32).collect()).collect()
}

async fn scale(server: &TestServer) -> f32 {
    let info = json(server.get("/info").await, 200).await;
    info["model"]["int8_scale"].as_f64().expect("a scale") as f32
}

/// The array of a NumPy file of that type, as f64.
fn npy<T: ReadableElement + Into<f64> + Copy>(bytes: &[u8]) -> Array2<f64> {
    Array2::<T>::read_npy(bytes).expect("an array of the type").mapv(Into::into)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_type_is_made_of_the_floats_in_every_form() {
    let server = TestServer::start(&[]).await;
    let scale = scale(&server).await;
    let texts = ["a photo of a cat", "two dogs"];
    let plain = floats(&json(server.post_json("/embed/text", &json!({"texts": texts})).await, 200).await);
    for kind in TYPES {
        let body = json!({"texts": texts, "embedding_type": kind});
        let answer = json(server.post_json("/embed/text", &body).await, 200).await;
        assert!(answer.get("errors").is_none(), "{answer}");
        let mut packed = body.clone();
        packed["encoding_format"] = json!("base64");
        let packed = json(server.post_json("/embed/text", &packed).await, 200).await;
        let mut all = Vec::new();
        for (i, floats) in plain.iter().enumerate() {
            let (wanted, bytes) = expected(kind, floats, scale);
            assert_eq!(numbers(&answer["embeddings"][i]), wanted, "{kind}");
            let text = packed["embeddings"][i].as_str().expect("a string");
            assert_eq!(BASE64_STANDARD.decode(text).expect("base64"), bytes, "{kind}");
            all.extend(bytes);
        }
        let request = server.post("/embed/text").header("accept", "application/x-npy").json(&body);
        let file = request.send().await.expect("an answer").bytes().await.expect("a body");
        assert!(file.ends_with(&all), "{kind}");
        let first = match kind {
            "float" => npy::<f32>(&file),
            "int8" | "binary" => npy::<i8>(&file),
            "uint8" | "ubinary" => npy::<u8>(&file),
            _ => {
                assert!(String::from_utf8_lossy(&file[..128]).contains("'descr': '<f2'"));
                continue;
            }
        };
        assert_eq!(first.row(0).to_vec(), expected(kind, &plain[0], scale).0, "{kind}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pictures_have_types_by_json_query_and_multipart_and_beside_outputs() {
    let (model, cache) = (checkpoint(), tempfile::tempdir().expect("a folder"));
    let server = start(model.path(), cache.path(), &[]).await;
    let scale = scale(&server).await;
    let cat = picture("cat_420.jpg");
    let plain = json!({"images": [BASE64_STANDARD.encode(&cat)]});
    let plain = floats(&json(server.post_json("/embed/image", &plain).await, 200).await);
    let int8 = expected("int8", &plain[0], scale).0;
    let body = server.post("/embed/image?embedding_type=int8").header("content-type", "image/jpeg").body(cat.clone());
    let answer = json(body.send().await.expect("an answer"), 200).await;
    assert_eq!(numbers(&answer["embeddings"][0]), int8);
    let form = Form::new().part("image", Part::bytes(cat.clone()).file_name("a.jpg"));
    let answer = server.post("/embed/image?embedding_type=int8").multipart(form).send().await.expect("an answer");
    assert_eq!(numbers(&json(answer, 200).await["embeddings"][0]), int8);

    let body =
        json!({"images": [BASE64_STANDARD.encode(&cat)], "embedding_type": "int8", "outputs": ["pooler_output"]});
    let answer = json(server.post_json("/embed/image", &body).await, 200).await;
    assert_eq!(numbers(&answer["embeddings"][0]), int8);
    assert!(answer["outputs"]["pooler_output"][0][0].as_f64().is_some_and(|value| value.fract() != 0.0), "floats");
    let request = server.post("/embed/image").header("accept", "application/x-npz").json(&body);
    let archive = request.send().await.expect("an answer").bytes().await.expect("a body");
    let mut archive = NpzReader::new(std::io::Cursor::new(archive)).expect("an archive");
    let array: Array2<i8> = archive.by_name("embeddings").expect("int8");
    assert_eq!(array.row(0).mapv(f64::from).to_vec(), int8);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn types_that_cannot_be_had_are_refused() {
    let (model, cache) = (checkpoint(), tempfile::tempdir().expect("a folder"));
    let server = start(model.path(), cache.path(), &[]).await;
    for (options, expected) in [
        (json!({"embedding_type": "int4"}), "unknown variant `int4`"),
        (json!({"embedding_type": ["int8"]}), "one type as a string"),
        (json!({"embedding_type": "ubinary", "dimensions": 12}), "multiple of 8"),
        (json!({"embedding_type": "int8", "normalize": false}), "leave out normalize"),
        (json!({"embedding_type": "uint8", "normalize": false, "outputs": ["pooler_output"]}), "leave out normalize"),
        (json!({"on_error": "partial", "outputs": ["pooler_output"]}), "goes with embeddings alone"),
    ] {
        let mut body = json!({"texts": "a cat"});
        body.as_object_mut().expect("an object").append(&mut options.as_object().expect("an object").clone());
        let answer = error(server.post_json("/embed/text", &body).await, 400).await;
        assert!(answer["message"].as_str().expect("a message").contains(expected), "{options}: {answer}");
    }
    let request = server.post("/embed/text").header("accept", "application/x-npy");
    let request = request.json(&json!({"texts": "a cat", "on_error": "partial"})).send().await.expect("an answer");
    assert!(error(request, 400).await["message"].as_str().expect("a message").contains("accept application/json"));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_pictures_fail_alone_where_that_is_asked_for() {
    let server = TestServer::start(&[]).await;
    let good = BASE64_STANDARD.encode(picture("cat_420.jpg"));
    let broken = BASE64_STANDARD.encode(&picture("cat_420.jpg")[..500]);
    let images = json!([good, "no base64!", broken, good, "https://example.com/a.jpg", broken]);
    let whole = error(server.post_json("/embed/image", &json!({"images": images})).await, 400).await;
    assert_eq!(whole["index"], 1, "by default the request fails with the first: {whole}");

    let alone = json(server.post_json("/embed/image", &json!({"images": [good]})).await, 200).await;
    for encoding in ["float", "base64"] {
        let body = json!({"images": images, "on_error": "partial", "encoding_format": encoding});
        let answer = json(server.post_json("/embed/image", &body).await, 200).await;
        let rows = answer["embeddings"].as_array().expect("rows");
        let missing: Vec<usize> = (0..rows.len()).filter(|&i| rows[i].is_null()).collect();
        assert_eq!((rows.len(), missing), (6, vec![1, 2, 4, 5]));
        assert_eq!(rows[0], rows[3]);
        if encoding == "float" {
            assert_eq!(rows[0], alone["embeddings"][0], "as without the bad ones");
        }
        let errors = answer["errors"].as_array().expect("errors");
        let told: Vec<(u64, &str)> =
            errors.iter().map(|error| (error["index"].as_u64().unwrap(), error["code"].as_str().unwrap())).collect();
        let (request, image) = ("invalid_request", "invalid_image");
        assert_eq!(told, [(1, request), (2, image), (4, request), (5, image)]);
        assert!(errors[0]["message"].as_str().unwrap().contains("base64"), "{answer}");
    }

    let part = |bytes: Vec<u8>| Part::bytes(bytes).file_name("a.jpg");
    let form = || Form::new().part("a", part(b"GIF87a".to_vec())).part("b", part(picture("cat_420.jpg")));
    let answer = server.post("/embed/image?on_error=partial").multipart(form()).send().await.expect("an answer");
    let answer = json(answer, 200).await;
    assert_eq!(answer["embeddings"], json!([null, alone["embeddings"][0]]));
    assert_eq!(answer["errors"].as_array().map(Vec::len), Some(1));

    let none =
        json(server.post_json("/embed/image", &json!({"images": ["?"], "on_error": "partial"})).await, 200).await;
    assert_eq!(none["embeddings"], json!([null]));
    let all =
        json(server.post_json("/embed/image", &json!({"images": [good], "on_error": "partial"})).await, 200).await;
    assert_eq!((&all["embeddings"], &all["errors"]), (&alone["embeddings"], &json!([])));
    // What is no list of strings is no request.
    let body = json!({"images": [good, 1], "on_error": "partial"});
    error(server.post_json("/embed/image", &body).await, 400).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_texts_fail_alone_where_that_is_asked_for_with_a_cache_and_without() {
    for cache in ["cache.max_bytes=0", "cache.max_bytes=1MiB"] {
        let server = TestServer::start(&[cache]).await;
        let long = "word ".repeat(200);
        let texts = json!(["a cat", long, "a dog", long, "a cat"]);
        let whole = json!({"texts": texts, "truncate": false});
        let refused = error(server.post_json("/embed/text", &whole).await, 422).await;
        assert_eq!((&refused["index"], &refused["code"]), (&json!(1), &json!("invalid_text")));
        let alone = json(server.post_json("/embed/text", &json!({"texts": ["a cat", "a dog"]})).await, 200).await;
        let (cat, dog) = (&alone["embeddings"][0], &alone["embeddings"][1]);
        let body = json!({"texts": texts, "truncate": false, "on_error": "partial"});
        let answer = json(server.post_json("/embed/text", &body).await, 200).await;
        assert_eq!(answer["embeddings"], json!([cat, null, dog, null, cat]));
        let told: Vec<&Value> = answer["errors"].as_array().expect("errors").iter().map(|e| &e["index"]).collect();
        assert_eq!(told, [&json!(1), &json!(3)]);

        let body = r#"{"texts": ["a cat", "\ud800"], "on_error": "partial"}"#;
        let request = server.post("/embed/text").header("content-type", "application/json").body(body);
        let answer = json(request.send().await.expect("an answer"), 200).await;
        assert_eq!(answer["embeddings"], json!([cat, null]));
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_items_own_fails_a_request_whole() {
    let (server, gate) =
        TestServer::start_gated(&["batch.text.max_batch_size=1", "batch.text.max_queue_size=2", "limits.max_texts=2"])
            .await;
    let held = tokio::spawn(server.post("/embed/text").json(&json!({"texts": "a"})).send());
    server.until_metric(r#"clipserve_batch_size_count{modality="text"}"#, |batches| batches == 1.0).await;
    let body = json!({"texts": ["b", "c"], "on_error": "partial"});
    assert_eq!(error(server.post_json("/embed/text", &body).await, 429).await["code"], "overloaded");
    let late = server.post("/embed/text").header("x-request-timeout", "0.001");
    let late = late.json(&json!({"texts": "d", "on_error": "partial"})).send().await.expect("an answer");
    assert!([429, 504].contains(&late.status().as_u16()), "{}", late.status());
    drop(gate);
    json(held.await.expect("sent").expect("an answer"), 200).await;
    server.stop().await;
}
