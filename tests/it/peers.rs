//! Cohere's, Voyage's, Jina's, infinity's and NIM's routes, asked as their clients ask and read as those read.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use reqwest::{Response, StatusCode};
use serde_json::{Value, json};

use crate::support::{TestServer, configuration, error, json, matrix, picture};

/// A picture as a data URL.
fn data_url(name: &str, mime: &str) -> String {
    format!("data:{mime};base64,{}", BASE64_STANDARD.encode(picture(name)))
}

/// The embeddings of our own route in base64, as they are written.
async fn native(server: &TestServer, path: &str, body: Value) -> Vec<String> {
    let mut body = body;
    body["encoding_format"] = json!("base64");
    let answer = json(server.post_json(path, &body).await, 200).await;
    let rows = answer["embeddings"].as_array().expect("rows").iter();
    rows.map(|row| row.as_str().expect("base64").to_owned()).collect()
}

/// A row of numbers as the base64 of its f32.
fn packed(row: &Value) -> String {
    let floats = row.as_array().expect("a row").iter().map(|value| value.as_f64().expect("a number") as f32);
    BASE64_STANDARD.encode(floats.flat_map(f32::to_le_bytes).collect::<Vec<_>>())
}

fn numbers(row: &Value) -> Vec<i64> {
    row.as_array().expect("a row").iter().map(|value| value.as_i64().expect("an integer")).collect()
}

/// The status and the message of an error whose body is `{key: ".."}` and nothing else.
async fn flat(answer: Response, key: &str) -> (u16, String) {
    let status = answer.status().as_u16();
    let body: Value = answer.json().await.expect("JSON");
    let object = body.as_object().expect("an object");
    assert_eq!(object.keys().collect::<Vec<_>>(), [key], "{body}");
    (status, object[key].as_str().expect("a message").to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn cohere_has_every_type_at_once_each_as_the_native_route() {
    let server = TestServer::start(&[]).await;
    let texts = ["a cat", "say \"hi\"\n"];
    let expected = native(&server, "/embed/text", json!({"texts": texts})).await;
    let types = ["float", "base64", "int8", "uint8", "binary", "ubinary", "float"];
    let request = json!({
        "model": "tiny-clip", "input_type": "search_document", "texts": texts, "images": null, "embedding_types": types,
        "truncate": "END", "priority": 1,
    });
    let body = json(server.post_json("/v2/embed", &request).await, 200).await;
    let embeddings = body["embeddings"].as_object().expect("types");
    assert_eq!(embeddings.len(), 6, "one twice is one");
    for (row, expected) in expected.iter().enumerate() {
        let of = |kind: &str| &embeddings[kind][row];
        assert_eq!(&packed(of("float")), expected);
        assert_eq!(of("base64"), expected);
        let signed: Vec<i64> = numbers(of("int8"));
        assert_eq!(signed.len(), 48);
        assert_eq!(numbers(of("uint8")), signed.iter().map(|value| value + 128).collect::<Vec<_>>());
        let bits: Vec<i64> = numbers(of("ubinary"));
        assert_eq!(numbers(of("binary")), bits.iter().map(|value| value - 128).collect::<Vec<_>>());
        let floats = matrix(&json!([of("float")])).concat();
        let expected: Vec<i64> = floats
            .chunks(8)
            .map(|eight| eight.iter().fold(0, |byte, value| byte << 1 | i64::from(*value >= 0.0)))
            .collect();
        assert_eq!(bits, expected, "the first value is the highest bit");
    }
    assert_eq!((&body["response_type"], &body["texts"]), (&json!("embeddings_by_type"), &json!(texts)));
    assert!(body["id"].as_str().is_some_and(|id| !id.is_empty()) && body["images"] == json!([]), "{body}");
    assert_eq!(body["meta"]["api_version"]["version"], "2");
    let tokens = body["meta"]["billed_units"]["input_tokens"].as_u64().expect("tokens");
    assert!(tokens >= 8 && body["meta"]["billed_units"].get("images").is_none(), "{body}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cohere_is_told_of_its_pictures_and_takes_contents() {
    let server = TestServer::start(&[]).await;
    let names = [
        ("cat_exif_6.jpg", "image/jpeg", "jpeg", 451, 300, 24),
        ("logo_rgba.png", "image/png", "png", 500, 500, 32),
        ("cat_lossless.webp", "image/webp", "webp", 451, 300, 24),
    ];
    let urls: Vec<String> = names.iter().map(|(name, mime, ..)| data_url(name, mime)).collect();
    let expected = native(&server, "/embed/image", json!({"images": urls})).await;
    let request = json!({"model": "tiny-clip", "input_type": "image", "images": urls});
    let body = json(server.post_json("/v2/embed", &request).await, 200).await;
    for (row, (_, _, format, width, height, bit_depth)) in names.iter().enumerate() {
        let described = json!({"width": width, "height": height, "format": format, "bit_depth": bit_depth});
        assert_eq!(body["images"][row], described);
        assert_eq!(packed(&body["embeddings"]["float"][row]), expected[row]);
    }
    assert_eq!((&body["texts"], &body["meta"]["billed_units"]), (&json!([]), &json!({"images": 3})));

    let text = native(&server, "/embed/text", json!({"texts": "a cat", "dimensions": 16})).await;
    let cut = native(&server, "/embed/image", json!({"images": urls[1], "dimensions": 16})).await;
    let request = json!({"model": "tiny-clip", "output_dimension": 16, "embedding_types": ["base64"], "inputs": [
        {"content": [{"type": "image_url", "image_url": {"url": urls[1]}}]},
        {"content": [{"type": "text", "text": "a cat"}]},
    ]});
    let body = json(server.post_json("/v2/embed", &request).await, 200).await;
    assert_eq!(body["embeddings"]["base64"], json!([cut[0], text[0]]), "in the order of the request");
    assert_eq!((&body["texts"], &body["images"][0]["width"]), (&json!(["a cat"]), &json!(500)));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cohere_first_version_answers_a_list_or_types() {
    let server = TestServer::start(&[]).await;
    let expected = native(&server, "/embed/text", json!({"texts": ["a", "b"]})).await;
    let body = json(server.post_json("/v1/embed", &json!({"texts": ["a", "b"]})).await, 200).await;
    assert_eq!(
        (&body["response_type"], &body["meta"]["api_version"]["version"]),
        (&json!("embeddings_floats"), &json!("1"))
    );
    assert_eq!([packed(&body["embeddings"][0]), packed(&body["embeddings"][1])], expected[..]);
    let request = json!({"texts": ["a", "b"], "embedding_types": ["base64"]});
    let body = json(server.post_json("/v1/embed", &request).await, 200).await;
    assert_eq!(body["response_type"], "embeddings_by_type");
    assert_eq!(body["embeddings"], json!({"base64": expected}));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cohere_refuses_in_its_own_shape_and_names_the_input() {
    let server = TestServer::start(&["limits.max_images=2"]).await;
    let url = data_url("exact_224.png", "image/png");
    let long = "word ".repeat(100);
    for (body, status, expected) in [
        (json!({}), 400, "exactly one of texts, images and inputs"),
        (json!({"texts": []}), 400, "exactly one"),
        (json!({"texts": ["a"], "images": [url]}), 400, "exactly one"),
        (json!({"texts": ["a"], "truncate": "START"}), 400, "END or NONE"),
        (json!({"texts": ["a", long], "truncate": "NONE"}), 422, "input 1: "),
        (json!({"texts": ["a"], "max_tokens": 5}), 400, "max_tokens is 5"),
        (json!({"texts": ["a"], "embedding_types": ["int4"]}), 400, "embedding_types"),
        (json!({"texts": ["a"], "embedding_types": ["ubinary"], "output_dimension": 12}), 400, "multiple of 8"),
        (json!({"texts": ["a"], "output_dimension": 49}), 400, "1 to 48"),
        (json!({"texts": ["a", 1]}), 400, "input 1: "),
        (json!({"images": [url, "!"]}), 400, "input 1: "),
        (json!({"images": [url, "data:image/png;base64,QUJD"]}), 415, "input 1: "),
        (json!({"images": [url, url, url]}), 413, "more than 2 images (limits.max_images)"),
        (json!({"inputs": "a"}), 400, "inputs is no list"),
        (json!({"inputs": [{"text": "a"}]}), 400, "no content"),
        (
            json!({"inputs": [{"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]}),
            400,
            "several things in one",
        ),
        (json!({"texts": ["a"], "model": "embed-v4.0"}), 404, "`embed-v4.0` is not served"),
    ] {
        for path in ["/v1/embed", "/v2/embed"] {
            let (actual, message) = flat(server.post_json(path, &body).await, "message").await;
            assert!(actual == status && message.contains(expected), "{path} {body}: {actual} {message}");
        }
    }
    server.stop().await;
}

/// The bytes of the only embedding of an answer of Voyage's.
fn bytes_of(body: &Value) -> Vec<u8> {
    BASE64_STANDARD.decode(body["data"][0]["embedding"].as_str().expect("base64")).expect("base64")
}

#[tokio::test(flavor = "multi_thread")]
async fn voyage_takes_contents_with_explicit_nulls_and_answers_each_type_in_bytes() {
    let server = TestServer::start(&[]).await;
    let (webp, png) = (data_url("cat_lossless.webp", "image/webp"), data_url("exact_224.png", "image/png"));
    let pictures = native(&server, "/embed/image", json!({"images": [webp, png]})).await;
    let text = native(&server, "/embed/text", json!({"texts": "a cat"})).await;
    let request = json!({
        "model": "tiny-clip", "input_type": null, "truncation": true, "output_dtype": null, "output_dimension": null,
        "encoding_format": "base64",
        "inputs": [
            {"content": [{"type": "image_base64", "image_base64": webp}]},
            {"content": [{"type": "text", "text": "a cat"}]},
            {"content": [{"type": "image_url", "image_url": png}]},
        ],
    });
    let body = json(server.post_json("/v1/multimodalembeddings", &request).await, 200).await;
    let rows: Vec<_> = body["data"].as_array().expect("rows").iter().map(|row| row["embedding"].clone()).collect();
    assert_eq!(rows, [pictures[0].as_str(), &text[0], &pictures[1]]);
    let usage = &body["usage"];
    assert_eq!(usage["image_pixels"], 451 * 300 + 224 * 224);
    assert_eq!((&usage["video_pixels"], &usage["text_tokens"]), (&json!(0), &usage["total_tokens"]));
    assert!(usage["text_tokens"].as_u64().is_some_and(|tokens| tokens >= 4), "{usage}");

    let cohere = json!({"texts": ["a cat"], "embedding_types": ["int8", "uint8", "binary", "ubinary"]});
    let cohere = json(server.post_json("/v2/embed", &cohere).await, 200).await;
    for (path, content) in [
        ("/v1/multimodalembeddings", json!({"inputs": [{"content": [{"type": "text", "text": "a cat"}]}]})),
        ("/v1/embeddings", json!({"input": ["a cat"], "truncation": true})),
    ] {
        for dtype in ["int8", "uint8", "binary", "ubinary"] {
            let mut request = content.clone();
            request["output_dtype"] = json!(dtype);
            request["encoding_format"] = json!("base64");
            let bytes = bytes_of(&json(server.post_json(path, &request).await, 200).await);
            let signed = !dtype.starts_with('u');
            let read = |byte: u8| if signed { i64::from(i8::from_ne_bytes([byte])) } else { i64::from(byte) };
            let values: Vec<i64> = bytes.into_iter().map(read).collect();
            assert_eq!(values, numbers(&cohere["embeddings"][dtype][0]), "{path} {dtype}");
            request["encoding_format"] = json!(null);
            let body = json(server.post_json(path, &request).await, 200).await;
            assert_eq!(numbers(&body["data"][0]["embedding"]), values, "{path} {dtype} as numbers");
        }
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn voyage_refuses_in_its_own_shape_on_both_of_its_paths() {
    let server = TestServer::start(&[]).await;
    let text = |text: &str| json!([{"content": [{"type": "text", "text": text}]}]);
    let long = "word ".repeat(100);
    for (body, status, expected) in [
        (json!({}), 400, "no inputs"),
        (json!({"inputs": []}), 400, "no inputs"),
        (json!({"inputs": text("a"), "output_dtype": "int4"}), 400, "output_dtype"),
        (json!({"inputs": text("a"), "output_dimension": 0}), 400, "1 to 48"),
        (json!({"inputs": text(&long), "truncation": false}), 422, "input 0: "),
        (json!({"inputs": text("a"), "model": "voyage-multimodal-3"}), 400, "`voyage-multimodal-3` is not served"),
        (json!({"inputs": [{"content": [{"type": "video_url", "video_url": "x"}]}]}), 400, "input 0: "),
        (
            json!({"inputs": [{"content": [{"type": "image_url", "image_url": "https://x.y/z.png"}]}]}),
            400,
            "not fetched",
        ),
        (json!({"inputs": [{"content": [{"type": "image_base64", "image_base64": "QUJD"}]}]}), 400, "input 0: "),
    ] {
        let (actual, message) = flat(server.post_json("/v1/multimodalembeddings", &body).await, "detail").await;
        assert!(actual == status && message.contains(expected), "{body}: {actual} {message}");
    }
    for (body, status, expected) in [
        (json!({"input": ["a", long], "truncation": false}), 422, "input 1: "),
        (json!({"input": [[1, 2]], "truncation": true}), 400, "token ids"),
        (json!({"input": ["a"], "truncation": true, "model": "voyage-3"}), 400, "`voyage-3` is not served"),
        (json!({"input": ["a"], "output_dimension": 49}), 400, "1 to 48"),
    ] {
        let (actual, message) = flat(server.post_json("/v1/embeddings", &body).await, "detail").await;
        assert!(actual == status && message.contains(expected), "{body}: {actual} {message}");
    }
    // Without anything of Voyage's the path is OpenAI's.
    let body = json(server.post_json("/v1/embeddings", &json!({"input": ["a"], "model": "voyage-3"})).await, 404).await;
    assert_eq!(body["error"]["code"], "model_not_found");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn jina_scores_are_the_softmax_of_the_models_logits() {
    let server = TestServer::start(&[]).await;
    let (cat, rocket) = (data_url("cat_420.jpg", "image/jpeg"), data_url("rocket.jpg", "image/jpeg"));
    let labels = ["cat", "rocket", "cup of coffee", "cat"];
    let similarity =
        json(server.post_json("/similarity", &json!({"images": [cat, rocket], "texts": labels})).await, 200).await;
    let probs = matrix(&similarity["probs"]);
    let bare = cat.split(',').nth(1).expect("base64");
    let request =
        json!({"model": "tiny-clip", "input": [{"image": bare}, rocket, {"text": "a cat"}, "cat"], "labels": labels});
    let body = json(server.post_json("/v1/classify", &request).await, 200).await;
    let entries = body["data"].as_array().expect("entries");
    assert_eq!(entries.len(), 4);
    for (index, entry) in entries.iter().enumerate() {
        assert_eq!((&entry["object"], &entry["index"]), (&json!("classification"), &json!(index)));
        let predictions = entry["predictions"].as_array().expect("all labels");
        let names: Vec<_> = predictions.iter().map(|score| score["label"].as_str().expect("a label")).collect();
        assert_eq!(names, labels, "in the order of the request");
        let scores: Vec<f64> = predictions.iter().map(|score| score["score"].as_f64().expect("a score")).collect();
        assert!((scores.iter().sum::<f64>() - 1.0).abs() < 1e-5);
        if let Some(probs) = probs.get(index) {
            assert!(scores.iter().zip(probs).all(|(a, b)| (a - f64::from(*b)).abs() < 1e-5), "{scores:?} {probs:?}");
        }
        let best = (0..4).rev().max_by(|&a, &b| scores[a].total_cmp(&scores[b])).expect("four");
        assert_eq!((&entry["prediction"], entry["score"].as_f64()), (&json!(labels[best]), Some(scores[best])));
    }
    assert_eq!(entries[3]["prediction"], "cat", "a text is most like itself");
    assert!(body["usage"]["total_tokens"].as_u64().is_some_and(|tokens| tokens >= 18), "{body}");

    let groups = json!({"animal": ["cat", "dog"], "thing": ["rocket", "cup of coffee", "cat"]});
    let request = json!({"input": {"image": bare}, "labels": groups});
    let body = json(server.post_json("/v1/classify", &request).await, 200).await;
    let entry = &body["data"][0];
    for (name, labels) in groups.as_object().expect("groups") {
        let alone = json!({"input": [{"image": bare}], "labels": labels});
        let alone = json(server.post_json("/v1/classify", &alone).await, 200).await;
        for what in ["prediction", "predictions", "score"] {
            assert_eq!(entry[what][name], alone["data"][0][what], "{what} of {name}: a softmax for each group");
        }
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn jina_refuses_in_its_own_shape_and_tells_labels_from_inputs() {
    let server = TestServer::start(&["limits.max_text_bytes=1KiB"]).await;
    let many = |count: usize| vec!["a"; count];
    let long = "x".repeat(2000);
    for (body, status, expected) in [
        (json!({"labels": ["a"]}), 400, "no input"),
        (json!({"input": "a"}), 400, "no labels"),
        (json!({"input": [], "labels": ["a"]}), 400, "no inputs"),
        (json!({"input": ["a"], "labels": []}), 400, "no labels"),
        (json!({"input": ["a"], "labels": "a"}), 400, "labels are no list"),
        (json!({"input": ["a"], "labels": {}}), 400, "no group"),
        (json!({"input": ["a"], "labels": {"g": "a"}}), 400, "labels are no list"),
        (json!({"input": ["a"], "labels": {"g": ["a"], (long.clone()): ["a"]}}), 400, "more than 1024 bytes"),
        (json!({"input": ["a"], "labels": ["a", 1]}), 400, "label 1: "),
        (json!({"input": ["a", 1], "labels": ["a"]}), 400, "input 1: "),
        (json!({"input": ["a"], "labels": ["a", "b", long]}), 422, "label 2: "),
        (json!({"input": ["a", long], "labels": ["a"]}), 422, "input 1: "),
        (json!({"input": many(1025), "labels": ["a"]}), 413, "1025 inputs, the limit is 1024"),
        (json!({"input": ["a"], "labels": many(257)}), 413, "257 labels, the limit is 256"),
        (json!({"input": ["a"], "labels": {"g": many(200), "h": many(57)}}), 413, "more than 256 labels"),
        (json!({"input": ["a"], "classifier_id": "x"}), 400, "none is trained here"),
        (json!({"input": ["a"], "labels": ["a"], "model": "jina-clip-v2"}), 404, "`jina-clip-v2` is not served"),
    ] {
        let (actual, message) = flat(server.post_json("/v1/classify", &body).await, "detail").await;
        assert!(actual == status && message.contains(expected), "{body}: {actual} {message}");
    }
    let twice = server.post("/v1/classify").body(r#"{"input": "a", "labels": {"g": ["a"], "g": ["b"]}}"#);
    let (status, message) = flat(twice.send().await.expect("an answer"), "detail").await;
    assert!(status == 400 && message.contains("same name"), "{message}");
    json(server.post_json("/v1/classify", &json!({"input": many(700), "labels": many(256)})).await, 200).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn jina_objects_are_embedded_in_the_type_that_is_asked_for() {
    let server = TestServer::start(&[]).await;
    let bare = BASE64_STANDARD.encode(picture("exact_224.png"));
    let text = native(&server, "/embed/text", json!({"texts": "a cat"})).await;
    let raw = native(&server, "/embed/text", json!({"texts": "a cat", "normalize": false})).await;
    let image = native(&server, "/embed/image", json!({"images": bare})).await;
    let request =
        json!({"input": [{"text": "a cat"}, {"image": bare}, "a cat", {"bytes": bare}], "embedding_type": "base64"});
    let body = json(server.post_json("/v1/embeddings", &request).await, 200).await;
    let rows: Vec<_> = body["data"].as_array().expect("rows").iter().map(|row| row["embedding"].clone()).collect();
    assert_eq!(rows, [text[0].as_str(), &image[0], &text[0], &image[0]]);
    let request = json!({"input": [{"text": "a cat"}], "embedding_type": ["float"], "normalized": false});
    let body = json(server.post_json("/v1/embeddings", &request).await, 200).await;
    assert_eq!(packed(&body["data"][0]["embedding"]), raw[0]);
    let request = json!({"input": [{"text": "a cat"}], "embedding_type": "ubinary"});
    let body = json(server.post_json("/v1/embeddings", &request).await, 200).await;
    assert_eq!(numbers(&body["data"][0]["embedding"]).len(), 6);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn models_have_every_name_and_what_waits() {
    let (server, gate) = TestServer::start_gated(&[
        "model.aliases=clip,ViT-B-32__openai",
        "batch.text.max_batch_size=1",
        "batch.text.max_queue_size=1024",
        "batch.vision.max_queue_size=1024",
    ])
    .await;
    let held = tokio::spawn(server.post("/embed/text").json(&json!({"texts": ["a", "b", "c"]})).send());
    server.until_metric(r#"clipserve_queue_depth{queue="text"}"#, |waiting| waiting == 2.0).await;
    // infinity's clients take no other owner.
    for (path, owner) in [("/models", "infinity"), ("/v1/models", "clipserve")] {
        let body = json(server.get(path).await, 200).await;
        assert_eq!(body["object"], "list");
        let models = body["data"].as_array().expect("models");
        let names: Vec<_> = models.iter().map(|model| model["id"].as_str().expect("a name")).collect();
        assert_eq!(names, ["gated", "clip", "ViT-B-32__openai"]);
        for model in models {
            assert_eq!((&model["object"], &model["owned_by"]), (&json!("model"), &json!(owner)));
            assert!(model["created"].as_u64().is_some_and(|created| created > 1_700_000_000));
            assert_eq!(model["capabilities"], json!(["embed", "image_embed"]));
            let mut stats = model["stats"].clone();
            // Besides the one that is held, requests before this one may not have been counted out yet.
            assert!(stats["results_pending"].take().as_i64().is_some_and(|pending| pending >= 1), "{model}");
            let queues = (&stats["queue_fraction"], &stats["queue_absolute"], &stats["batch_size"]);
            assert_eq!(queues, (&json!(2.0 / 2048.0), &json!(2), &json!(8)));
        }
    }
    drop(gate);
    json(held.await.expect("sent").expect("an answer"), 200).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_is_retrieved_by_every_name_that_it_answers_to() {
    let server = TestServer::start(&["model.aliases=clip,openai/clip-vit"]).await;
    for (path, id) in [
        ("tiny-clip", "tiny-clip"),
        ("clip", "clip"),
        ("openai/clip-vit", "openai/clip-vit"),
        ("openai%2Fclip-vit", "openai/clip-vit"),
    ] {
        let model = json(server.get(&format!("/v1/models/{path}")).await, 200).await;
        assert_eq!((&model["id"], &model["object"]), (&json!(id), &json!("model")), "{path}");
        assert_eq!(model["owned_by"], "clipserve");
        assert!(model["created"].is_u64(), "{model}");
    }
    for (path, status, code) in
        [("gpt", 404, "model_not_found"), ("tiny-clip/more", 404, "model_not_found"), ("%ff", 400, "invalid_request")]
    {
        let error = json(server.get(&format!("/v1/models/{path}")).await, status).await;
        assert_eq!((&error["error"]["code"], &error["error"]["type"]), (&json!(code), &json!("invalid_request_error")));
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_of_others_need_no_key_and_no_place_and_follow_our_own() {
    let (loaded, load) = std::sync::mpsc::channel::<()>();
    let config = configuration(&["server.api_key=secret", "limits.max_inflight_requests=1"]);
    let inner = config.clone();
    let server = TestServer::bind(config, move |context| {
        let _ = load.recv();
        clipserve::embedder::start(&inner, context.metrics, &context.health)
    })
    .await;
    for path in ["/health", "/v1/health/ready"] {
        let answer = server.get(path).await;
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE, "{path} while the model loads");
        let body: Value = answer.json().await.expect("JSON");
        assert!(body["error"]["code"] == "not_ready" || body["ready"] == false, "{body}");
    }
    let live = json!({"object": "health.response", "message": "live", "live": true});
    assert_eq!(json(server.get("/v1/health/live").await, 200).await, live);
    loaded.send(()).expect("it waits");
    server.ready().await;
    let ready = json!({"object": "health.response", "message": "ready", "ready": true});
    assert_eq!(json(server.get("/v1/health/ready").await, 200).await, ready);
    let health = json(server.get("/health").await, 200).await;
    assert!(health["unix"].as_f64().is_some_and(|unix| unix > 1.7e9), "{health}");
    for path in ["/models", "/v1/models"] {
        let body = json(server.get(path).await, 401).await;
        assert_eq!(body["error"]["code"], "invalid_api_key", "{path}");
    }
    server.stop().await;
}

/// The routes that are asked by POST, and where each has its message.
const POSTED: [(&str, &str); 4] = [
    ("/v1/embed", "message"),
    ("/v2/embed", "message"),
    ("/v1/multimodalembeddings", "detail"),
    ("/v1/classify", "detail"),
];

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_has_read_is_refused_in_the_shape_of_the_paths_first_owner() {
    let (server, gate) = TestServer::start_gated(&[
        "limits.max_inflight_requests=1",
        "limits.max_body_bytes=64KiB",
        "limits.max_inflight_body_bytes=1MiB",
    ])
    .await;
    let too_large = "x".repeat(100_000);
    for (path, key) in POSTED {
        let (status, message) = flat(server.get(path).await, key).await;
        assert!(status == 405 && message.contains("takes POST"), "{path}: {message}");
        let answer = server.post(path).body(too_large.clone()).send().await.expect("an answer");
        let (status, message) = flat(answer, key).await;
        let expected = if path.ends_with("multimodalembeddings") { 400 } else { 413 };
        assert!(status == expected && message.contains("65536"), "{path}: {status} {message}");
        let answer = server.post(path).header("content-type", "multipart/form-data; boundary=x").body("").send().await;
        let (status, message) = flat(answer.expect("an answer"), key).await;
        let expected = if path.ends_with("multimodalembeddings") { 400 } else { 415 };
        assert!(status == expected && message.contains("application/json"), "{path}: {status} {message}");
        let (status, message) = flat(server.post(path).body("[").send().await.expect("an answer"), key).await;
        assert!(status == 400 && message.contains("the JSON body"), "{path}: {message}");
    }
    let held = tokio::spawn(server.post("/embed/text").json(&json!({"texts": "a"})).send());
    server.until_metric(r#"clipserve_batch_size_count{modality="text"}"#, |batches| batches == 1.0).await;
    for (path, key) in POSTED {
        let answer = server.post(path).body("{}").send().await.expect("an answer");
        for header in ["retry-after", "retry-after-ms", "x-should-retry"] {
            assert!(answer.headers().contains_key(header), "{path}: {header}");
        }
        assert_eq!(flat(answer, key).await.0, 429, "{path}");
    }
    // OpenAI's path, where Voyage's client looks for a reason to come back too.
    let body = json(server.post("/v1/embeddings").body("{}").send().await.expect("an answer"), 429).await;
    assert_eq!((&body["error"]["code"], &body["detail"]), (&json!("rate_limit_exceeded"), &body["error"]["message"]));
    drop(gate);
    json(held.await.expect("sent").expect("an answer"), 200).await;
    let body = json(server.post("/v1/embeddings").body("{}").send().await.expect("an answer"), 400).await;
    assert!(
        body["error"]["code"] == "invalid_request" && body.get("detail").is_none(),
        "what is read is OpenAI's: {body}"
    );
    error(server.get("/v2/embeddings").await, 404, "not_found").await;
    server.stop().await;

    let server = TestServer::start(&["server.api_key=secret"]).await;
    for (path, key) in POSTED {
        let (status, message) = flat(server.post(path).body("{}").send().await.expect("an answer"), key).await;
        assert!(status == 401 && message.contains("Bearer"), "{path}: {message}");
        let asked = server.post(path).bearer_auth("secret").body("{}").send().await.expect("an answer");
        assert_eq!(flat(asked, key).await.0, 400, "{path}: with the key it is read");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pictures_that_claim_any_size_are_refused_and_add_up_to_no_panic() {
    let server = TestServer::start(&[]).await;
    let head = [b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR\x7f\xff\xff\xff\x7f\xff\xff\xff\x08\x02\0\0\0".as_slice(), &[0; 32]]
        .concat();
    let url = format!("data:image/png;base64,{}", BASE64_STANDARD.encode(head));
    let input = json!({"content": [{"type": "image_base64", "image_base64": url}]});
    let body = json!({"inputs": vec![input; 6], "model": "default/not-specified"});
    let answer = server.post_json("/v1/multimodalembeddings", &body).await;
    assert!(answer.status().is_client_error(), "{}", answer.status());
    server.assert_metric(r#"clipserve_panics_total{where="http"}"#, 0.0).await;
    server.stop().await;
}
