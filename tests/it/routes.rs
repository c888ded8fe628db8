//! Every route and every way to ask: encodings, options, answers, headers.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use ndarray::Array2;
use ndarray_npy::ReadNpyExt;
use reqwest::multipart::{Form, Part};
use serde_json::{Value, json};

use crate::support::{TestServer, json, matrix, picture};

fn file(name: &'static str) -> Part {
    Part::bytes(picture(name)).file_name(name)
}

#[tokio::test(flavor = "multi_thread")]
async fn embeddings_are_answered_as_numbers_base64_and_npy() {
    let server = TestServer::start(&[]).await;
    let ask =
        |query: &str| server.post(&format!("/embed/image{query}")).header("content-type", "application/octet-stream");
    let floats = json(ask("").body(picture("rocket.jpg")).send().await.expect("an answer"), 200).await;
    let floats = matrix(&floats["embeddings"]).concat();
    assert!((floats.iter().map(|v| v * v).sum::<f32>() - 1.0).abs() < 1e-5, "normalised by default");

    let encoded = ask("?encoding_format=base64").body(picture("rocket.jpg")).send().await.expect("an answer");
    let encoded = json(encoded, 200).await;
    let bytes = BASE64_STANDARD.decode(encoded["embeddings"][0].as_str().expect("a string")).expect("base64");
    let decoded: Vec<f32> = bytes.chunks(4).map(|b| f32::from_le_bytes(b.try_into().expect("four"))).collect();
    assert_eq!(decoded, floats);

    let npy =
        ask("").header("accept", "application/x-npy").body(picture("rocket.jpg")).send().await.expect("an answer");
    assert_eq!(npy.headers()["content-type"], "application/x-npy");
    let array = Array2::<f32>::read_npy(&*npy.bytes().await.expect("a body")).expect("an array");
    assert_eq!(array.dim(), (1, 48));
    assert_eq!(array.into_raw_vec_and_offset().0, floats);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dimensions_cut_and_then_normalise() {
    let server = TestServer::start(&[]).await;
    let embed = async |body: Value| {
        matrix(&json(server.post_json("/embed/text", &body).await, 200).await["embeddings"]).concat()
    };
    let raw = embed(json!({"texts": "a cat", "normalize": false})).await;
    let cut = embed(json!({"texts": "a cat", "normalize": false, "dimensions": 5})).await;
    assert_eq!(cut, raw[..5]);
    let unit = embed(json!({"texts": "a cat", "dimensions": 5})).await;
    let norm = cut.iter().map(|v| v * v).sum::<f32>().sqrt();
    for (unit, cut) in unit.iter().zip(&cut) {
        assert!((unit - cut / norm).abs() < 1e-6);
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_is_a_list_a_lone_string_or_the_plain_body() {
    let server = TestServer::start(&[]).await;
    let list = json(server.post_json("/embed/text", &json!({"texts": ["ein Übungssatz"]})).await, 200).await;
    let lone = json(server.post_json("/embed/text", &json!({"texts": "ein Übungssatz"})).await, 200).await;
    let plain = server.post("/embed/text").header("content-type", "text/plain; charset=utf-8").body("ein Übungssatz");
    let plain = json(plain.send().await.expect("an answer"), 200).await;
    assert_eq!(list, lone);
    assert_eq!(list, plain);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn similarity_takes_multipart_and_embeddings_on_either_side() {
    let server = TestServer::start(&[]).await;
    let form = Form::new()
        .part("images", file("cat_420.jpg"))
        .text("text", "a cat")
        .part("images", file("rocket.jpg"))
        .text("text", "a rocket");
    let multipart = server.post("/similarity?return_embeds=true&return_loss=true").multipart(form);
    let multipart = json(multipart.send().await.expect("an answer"), 200).await;
    let images = ["cat_420.jpg", "rocket.jpg"].map(|name| BASE64_STANDARD.encode(picture(name)));
    let texts = ["a cat", "a rocket"];
    let logits = matrix(&multipart["logits_per_image"]).concat();
    assert!(multipart["loss"].is_number());
    for request in [
        json!({"images": images, "texts": texts}),
        json!({"image_embeds": multipart["image_embeds"], "texts": texts}),
        json!({"images": images, "text_embeds": multipart["text_embeds"]}),
    ] {
        let body = json(server.post_json("/similarity", &request).await, 200).await;
        for absent in ["image_embeds", "text_embeds", "loss"] {
            assert!(body.get(absent).is_none(), "{absent} only on request");
        }
        for (actual, expected) in matrix(&body["logits_per_image"]).concat().iter().zip(&logits) {
            assert!((actual - expected).abs() < 1e-3, "{request}");
        }
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn classify_scores_labels_best_first_and_agrees_with_similarity() {
    let server = TestServer::start(&[]).await;
    let labels = ["cat", "dog", "rocket", "cup of coffee"];
    let image = BASE64_STANDARD.encode(picture("coffee_progressive.jpg"));
    let classify = json(server.post_json("/classify", &json!({"images": [image], "labels": labels})).await, 200).await;
    let prompts = labels.map(|label| format!("This is a photo of {label}."));
    let similarity =
        json(server.post_json("/similarity", &json!({"images": [image], "texts": prompts})).await, 200).await;
    let probs = matrix(&similarity["probs"]).concat();
    let results = classify["results"][0].as_array().expect("scores");
    assert_eq!(results.len(), 4);
    let score = |result: &Value| result["score"].as_f64().expect("a number") as f32;
    assert!(results.windows(2).all(|pair| score(&pair[0]) >= score(&pair[1])), "{classify}");
    for result in results {
        let i = labels.iter().position(|label| result["label"] == *label).expect("a label of ours");
        assert!((score(result) - probs[i]).abs() < 1e-4, "{classify} {probs:?}");
    }

    let form = Form::new()
        .part("image", file("coffee_progressive.jpg"))
        .part("image", file("rocket.jpg"))
        .text("label", "cat")
        .text("label", "dog")
        .text("template", "a {}")
        .text("template", "the {} of a {}");
    let multipart = server.post("/classify?top_k=1").multipart(form).send().await.expect("an answer");
    let multipart = json(multipart, 200).await;
    let results = multipart["results"].as_array().expect("results");
    assert_eq!(results.len(), 2);
    assert!(results.iter().all(|scores| scores.as_array().expect("scores").len() == 1));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn info_says_what_runs() {
    let server = TestServer::start(&["limits.max_images=5", "batch.text.max_batch_size=3"]).await;
    let info = json(server.get("/info").await, 200).await;
    assert_eq!(info["model"]["name"], "tiny-clip");
    assert_eq!(info["model"]["dim"], 48);
    assert_eq!(info["model"]["image_size"], json!({"height": 224, "width": 224}));
    assert_eq!(info["model"]["context_length"], 77);
    assert_eq!(info["model"]["logit_scale_source"], "checkpoint");
    assert!(info["model"]["fingerprint"].as_str().expect("a string").starts_with("sha256:"));
    assert_eq!((&info["provider"], &info["precision"]), (&json!("cpu"), &json!("f32")));
    assert_eq!(info["limits"]["max_images"], 5);
    // The one is what the CPU provider takes best (300 rows of 50 a picture), the other what was set.
    let batches = [&info["limits"]["max_batch_size_image"], &info["limits"]["max_batch_size_text"]];
    assert_eq!(batches, [&json!(6), &json!(3)]);
    assert_eq!(info["versions"]["clipserve"], env!("CARGO_PKG_VERSION"));
    assert!(info["versions"]["onnxruntime"].as_str().expect("a string").starts_with("1."));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_carry_stage_times_and_the_request_id() {
    let server = TestServer::start(&[]).await;
    let request = server.post("/embed/text").json(&json!({"texts": "a"})).header("x-request-id", "mine-42");
    let answer = request.send().await.expect("an answer");
    assert_eq!(answer.headers()["x-request-id"], "mine-42");
    let timing = answer.headers()["server-timing"].to_str().expect("printable");
    for stage in ["preprocess;dur=", "queue;dur=", "inference;dur="] {
        assert!(timing.contains(stage), "{timing}");
    }
    let made = server.get("/livez").await.headers()["x-request-id"].clone();
    assert_eq!(made.len(), 32);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_count_requests_items_batches_and_stages() {
    let server = TestServer::start(&[]).await;
    json(server.post_picture("/embed/image", picture("rocket.jpg")).await, 200).await;
    json(server.post_json("/embed/text", &json!({"texts": ["a", "b", "c"]})).await, 200).await;
    server.get("/no/such/route").await;
    for (series, expected) in [
        (r#"clipserve_http_requests_total{method="POST",route="/embed/image",status="200"}"#, 1.0),
        (r#"clipserve_http_requests_total{method="POST",route="/embed/text",status="200"}"#, 1.0),
        (r#"clipserve_http_requests_total{method="GET",route="other",status="404"}"#, 1.0),
        (r#"clipserve_items_total{modality="image",outcome="ok"}"#, 1.0),
        (r#"clipserve_items_total{modality="text",outcome="ok"}"#, 3.0),
        (r#"clipserve_batch_size_sum{modality="text"}"#, 3.0),
        (r#"clipserve_queue_wait_seconds_count{queue="preprocess"}"#, 1.0),
        (r#"clipserve_queue_wait_seconds_count{queue="image"}"#, 1.0),
        (r#"clipserve_stage_duration_seconds_count{stage="decode"}"#, 1.0),
        (r#"clipserve_stage_duration_seconds_count{stage="resize"}"#, 1.0),
        (r#"clipserve_stage_duration_seconds_count{stage="tokenize"}"#, 1.0),
        (r#"clipserve_stage_duration_seconds_count{stage="image_inference"}"#, 1.0),
        ("clipserve_http_requests_in_flight", 0.0),
        ("clipserve_ready", 1.0),
    ] {
        server.assert_metric(series, expected).await;
    }
    let text = server.get("/metrics").await.text().await.expect("text");
    assert!(text.contains("\nclipserve_http_requests_in_flight 1\n"), "the scrape itself: {text}");
    let info = json(server.get("/info").await, 200).await;
    let fingerprint = &info["model"]["fingerprint"].as_str().expect("a string")[.."sha256:".len() + 12];
    let build_info = format!(r#"clipserve_build_info{{fingerprint="{fingerprint}",model="tiny-clip",onnxruntime="1."#);
    assert!(text.contains(&build_info), "{text}");
    assert!(text.contains(r#"provider="cpu",version=""#) && text.contains("process_resident_memory_bytes"), "{text}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_admin_listener_has_probes_and_metrics_alone() {
    let server = TestServer::start(&["server.admin_listen=127.0.0.1:0"]).await;
    for (path, status) in [("/livez", 200), ("/readyz", 200), ("/metrics", 200), ("/info", 404), ("/embed/text", 404)] {
        let answer = server.client().get(server.admin_url(path)).send().await.expect("an answer");
        assert_eq!(answer.status().as_u16(), status, "{path}");
        let answer = server.get(path).await;
        assert_ne!(answer.status().as_u16(), 404, "{path} is on the main listener");
    }
    server.stop().await;
}
