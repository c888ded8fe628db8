//! The doors of model containers that others' services call: Weaviate's, Immich's, and text-embeddings-inference's.
//!
//! Requests of the first two are replayed as their clients sent them, byte for byte. Values must be those of our own routes, and no error
//! on these paths looks like ours.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use reqwest::{
    StatusCode,
    multipart::{Form, Part},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{TestServer, configuration, fixture, json, matrix, picture};

const ALIAS: &str = "model.aliases=ViT-B-32__openai";

/// What came back for a recorded request.
struct Replayed {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Replayed {
    fn json(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}\n{}", self.head, String::from_utf8_lossy(&self.body));
        assert!(self.head.to_ascii_lowercase().contains("content-type: application/json"), "{}", self.head);
        serde_json::from_slice(&self.body).expect("JSON")
    }
}

fn recorded(name: &str) -> Vec<u8> {
    std::fs::read(fixture("requests").join(name)).expect("a recorded request")
}

/// Its body.
fn body_of(request: &[u8]) -> &[u8] {
    let end = request.windows(4).position(|bytes| bytes == b"\r\n\r\n").expect("the end of the head");
    &request[end + 4..]
}

/// Sends the recorded request as it is, but for the address in it.
async fn replay(server: &TestServer, name: &str) -> Replayed {
    let request = recorded(name);
    let (head, body) = request.split_at(request.len() - body_of(&request).len());
    let head = std::str::from_utf8(head).expect("text").replace("HOST:PORT", server.address());
    let mut socket = TcpStream::connect(server.address()).await.expect("a connection");
    socket.write_all(&[head.as_bytes(), body].concat()).await.expect("sent");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(socket.read_u8().await.expect("a head"));
    }
    let head = String::from_utf8(head).expect("text");
    let field =
        |name: &str| head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix(name).map(str::to_owned));
    let length = field("content-length: ").map_or(0, |length| length.parse().expect("a number"));
    let mut body = vec![0; length];
    socket.read_exact(&mut body).await.expect("the body");
    Replayed { status: head[9..12].parse().expect("a status"), head, body }
}

/// The embeddings of our own routes.
async fn native(server: &TestServer, route: &str, body: Value) -> Vec<Vec<f32>> {
    matrix(&json(server.post_json(route, &body).await, 200).await["embeddings"])
}

/// The picture of a recorded form.
fn picture_of(form: &[u8]) -> &[u8] {
    let start = b"application/octet-stream\r\n\r\n";
    let start = form.windows(start.len()).position(|bytes| bytes == start).expect("a picture") + start.len();
    let length = form[start..].windows(6).position(|bytes| bytes == b"\r\n----").expect("its end");
    &form[start..start + length]
}

#[tokio::test(flavor = "multi_thread")]
async fn weaviates_recorded_requests_are_answered() {
    let server = TestServer::start(&[ALIAS]).await;
    for probe in ["weaviate_live.http", "weaviate_ready.http"] {
        let answer = replay(&server, probe).await;
        assert_eq!((answer.status, answer.body.len()), (204, 0), "{}", answer.head);
    }
    let meta = replay(&server, "weaviate_meta.http").await.json(200);
    assert!(meta.is_object() && meta["projection_dim"] == 48 && meta["model_type"] == "clip", "{meta}");

    let sent: Value = serde_json::from_slice(body_of(&recorded("weaviate_vectorize.http"))).expect("JSON");
    let vectors = replay(&server, "weaviate_vectorize.http").await.json(200);
    let texts = native(&server, "/embed/text", json!({"texts": sent["texts"]})).await;
    let images = native(&server, "/embed/image", json!({"images": sent["images"]})).await;
    assert_eq!((texts.len(), images.len()), (2, sent["images"].as_array().expect("a list").len()));
    assert_eq!(matrix(&vectors["textVectors"]), texts);
    assert_eq!(matrix(&vectors["imageVectors"]), images);

    let query = replay(&server, "weaviate_vectorize_query.http").await.json(200);
    assert_eq!(matrix(&query["textVectors"]), native(&server, "/embed/text", json!({"texts": "a cat"})).await);
    assert_eq!(query["imageVectors"], json!([]));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn weaviates_lists_may_be_missing_null_or_empty() {
    let server = TestServer::start(&[]).await;
    for empty in [
        json!({}),
        json!({"texts": null, "images": null}),
        json!({"texts": [], "images": []}),
        json!({"texts": [], "unknown": {"a": 1}}),
    ] {
        let vectors =
            json(server.post("/vectorize").body(empty.to_string()).send().await.expect("an answer"), 200).await;
        assert_eq!(vectors, json!({"textVectors": [], "imageVectors": []}), "{empty}");
    }
    let image = BASE64_STANDARD.encode(picture("cat_420.jpg"));
    let vectors = json(server.post_json("/vectorize", &json!({"images": [image, image]})).await, 200).await;
    let vectors = (&vectors["textVectors"], matrix(&vectors["imageVectors"]));
    assert_eq!((vectors.0, vectors.1.len()), (&json!([]), 2));
    assert_eq!(vectors.1[0], vectors.1[1]);
    // A text that is too long is cut.
    json(server.post_json("/vectorize", &json!({"texts": ["word ".repeat(500)]})).await, 200).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_refusal_is_json_that_weaviates_client_reads() {
    let server = TestServer::start(&["limits.max_texts=2", "limits.max_body_bytes=64KiB"]).await;
    let good = BASE64_STANDARD.encode(picture("cat_420.jpg"));
    for (body, status, expected) in [
        ("{".to_owned(), 400, "JSON"),
        ("[]".to_owned(), 400, "expected an object"),
        (json!({"texts": "a cat"}).to_string(), 400, "texts is a string"),
        (json!({"images": {"a": 1}}).to_string(), 400, "images is an object"),
        (json!({"texts": [1]}).to_string(), 400, "texts has a number at 0"),
        (json!({"texts": ["a", "b", "c"]}).to_string(), 413, "the limit is 2 (limits.max_texts)"),
        (json!({"texts": ["a"], "images": ["!"]}).to_string(), 400, "input (texts first, then images) 1: "),
        (json!({"texts": ["a"], "images": [good, "QUJD"]}).to_string(), 415, "input (texts first, then images) 2: "),
        (" ".repeat(70 << 10), 413, "larger than 65536 bytes (limits.max_body_bytes)"),
        (r#"{"text": ["a"], "image": []}"#.to_owned(), 400, "has `text` and neither texts nor images"),
        (json!({"a\u{202e}": 1}).to_string(), 400, "has `a\\u{202e}` and neither"),
    ] {
        let error = json(server.post("/vectorize").body(body).send().await.expect("an answer"), status).await;
        let message = error["error"].as_str().unwrap_or_else(|| panic!("{error}"));
        assert!(message.contains(expected), "{expected}: {message}");
    }
    let error = json(server.get("/vectorize").await, 405).await;
    assert!(error["error"].is_string(), "{error}");
    let form = Form::new().text("texts", "a");
    let error = json(server.post("/vectorize").multipart(form).send().await.expect("an answer"), 415).await;
    assert!(error["error"].is_string(), "{error}");
    server.stop().await;
}

/// A form with these entries, and what else is put into it.
fn form(entries: &Value) -> Form {
    Form::new().text("entries", entries.to_string())
}

fn visual() -> Value {
    json!({"clip": {"visual": {"modelName": "ViT-B-32__openai"}}})
}

fn textual() -> Value {
    json!({"clip": {"textual": {"modelName": "ViT-B-32__openai", "options": {"language": "en-null", "other": [1]}}}})
}

async fn predict(server: &TestServer, form: Form) -> reqwest::Response {
    server.post("/predict").multipart(form).send().await.expect("an answer")
}

/// The array in the string.
fn clip(answer: &Value) -> Vec<f32> {
    let text = answer["clip"].as_str().unwrap_or_else(|| panic!("no string: {answer}"));
    serde_json::from_str(text).expect("an array")
}

#[tokio::test(flavor = "multi_thread")]
async fn immichs_recorded_requests_are_answered() {
    let server = TestServer::start(&[ALIAS]).await;
    let pong = replay(&server, "immich_ping.http").await;
    assert_eq!((pong.status, &*pong.body), (200, &b"pong"[..]));
    assert!(pong.head.contains("content-type: text/plain"), "{}", pong.head);

    let text = replay(&server, "immich_text.http").await.json(200);
    let expected = native(&server, "/embed/text", json!({"texts": "a photo of a cat"})).await;
    assert_eq!((clip(&text), text.as_object().expect("an object").len()), (expected[0].clone(), 1));

    let image = replay(&server, "immich_image.http").await.json(200);
    let sent = BASE64_STANDARD.encode(picture_of(&recorded("immich_image.http")));
    let expected = native(&server, "/embed/image", json!({"images": sent})).await;
    assert_eq!(clip(&image), expected[0]);
    assert_eq!((&image["imageHeight"], &image["imageWidth"]), (&json!(300), &json!(451)));

    let faces = replay(&server, "immich_faces.http").await.json(400);
    let message = faces["detail"].as_str().expect("a string");
    assert!(message.contains("facial-recognition") && message.contains("turn those jobs off"), "{message}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn immichs_picture_is_the_part_of_its_name_whatever_its_head_says() {
    let server = TestServer::start(&[ALIAS]).await;
    let bytes = picture("cat_420.jpg");
    let expected = native(&server, "/embed/image", json!({"images": BASE64_STANDARD.encode(&bytes)})).await;
    for part in [
        Part::bytes(bytes.clone()),
        Part::bytes(bytes.clone()).file_name("blob"),
        Part::bytes(bytes.clone()).mime_str("application/octet-stream").expect("a type"),
        Part::bytes(bytes.clone()).mime_str("text/plain").expect("a type"),
    ] {
        // What it does not know is passed over.
        let form = form(&visual()).text("other", "x").part("image", part);
        assert_eq!(clip(&json(predict(&server, form).await, 200).await), expected[0]);
    }
    let text = json(predict(&server, form(&textual()).text("text", "Katze")).await, 200).await;
    assert_eq!(clip(&text), native(&server, "/embed/text", json!({"texts": "Katze"})).await[0]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_immichs_service_would_refuse_is_refused_in_its_shape() {
    let server = TestServer::start(&[ALIAS]).await;
    let image = || Part::bytes(picture("cat_420.jpg"));
    let other_model = json!({"clip": {"visual": {"modelName": "ViT-L-14__openai"}}});
    let both = json!({"clip": {"visual": {"modelName": "m"}, "textual": {"modelName": "m"}}});
    let ocr = json!({"ocr": {"detection": {"modelName": "m"}, "recognition": {"modelName": "m"}}});
    let unreadable = "Invalid request format";
    for (form, status, expected) in [
        (Form::new().text("entries", "{").part("image", image()), 422, unreadable),
        (Form::new().text("entries", "a".repeat(5000)).part("image", image()), 422, unreadable),
        (form(&json!({})).part("image", image()), 422, unreadable),
        (form(&json!({"clip": {"visual": {}}})).part("image", image()), 422, unreadable),
        (form(&both).part("image", image()), 422, unreadable),
        (form(&ocr).part("image", image()), 400, "the task ocr is not served"),
        (form(&visual()), 400, "neither a part `image` nor a field `text`"),
        (form(&visual()).text("text", "a cat"), 400, "clip.visual goes with one part `image`"),
        (form(&textual()).part("image", image()), 400, "clip.textual with one field `text`"),
        (form(&visual()).part("image", image()).part("image", image()), 400, "one part `image`"),
        (form(&other_model).part("image", image()), 404, "`ViT-L-14__openai` is not served"),
        (form(&visual()).part("image", Part::bytes(&b"no picture"[..])), 415, "format"),
        (form(&visual()).part("image", Part::bytes(&b"\xff\xd8\xff\xd9"[..])), 422, ""),
        ((0..20).fold(form(&visual()), |form, _| form.text("x", "y")), 413, "more than 16 parts"),
    ] {
        let error = json(predict(&server, form).await, status).await;
        let detail = error["detail"].as_str().unwrap_or_else(|| panic!("{error}"));
        assert!(detail.contains(expected), "{expected}: {detail}");
    }
    let error = json(predict(&server, Form::new().part("image", image())).await, 422).await;
    assert_eq!(
        (&error["detail"][0]["type"], &error["detail"][0]["loc"]),
        (&json!("missing"), &json!(["body", "entries"]))
    );
    let error = json(server.post_json("/predict", &json!({})).await, 415).await;
    assert!(error["detail"].is_string(), "{error}");
    let greeting = server.client().get(server.url("/")).header("accept", "application/json").send().await;
    assert_eq!(json(greeting.expect("an answer"), 200).await, json!({"message": "Immich ML"}));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_of_both_need_no_key_and_are_503_until_there_is_a_model() {
    let (load, wait) = std::sync::mpsc::channel::<()>();
    let config = configuration(&["server.api_key=s3cret"]);
    let server = TestServer::bind(config.clone(), move |context: clipserve::server::LoadContext| {
        let _ = wait.recv();
        clipserve::embedder::start(&config, context.metrics, &context.health)
    })
    .await;
    let live = server.get("/.well-known/live").await;
    assert_eq!(live.status(), StatusCode::NO_CONTENT);
    for (path, field) in [("/.well-known/ready", "error"), ("/ping", "detail")] {
        let error = json(server.get(path).await, 503).await;
        assert!(error[field].as_str().expect("a string").contains("still loading"), "{error}");
    }
    load.send(()).expect("it waits");
    server.ready().await;
    assert_eq!(server.get("/.well-known/ready").await.status(), StatusCode::NO_CONTENT);
    assert_eq!(server.get("/ping").await.text().await.expect("text"), "pong");
    assert_eq!(server.get("/").await.status(), StatusCode::OK);
    // All others want it.
    for (path, field) in [("/vectorize", "error"), ("/predict", "detail"), ("/embed", "error"), ("/", "error")] {
        let error = json(server.post_json(path, &json!({})).await, 401).await;
        assert!(error.get("error_type").is_none_or(|kind| kind == "Unauthorized"), "{error}");
        assert!(error[field].as_str().expect("a string").contains("Bearer"), "{error}");
    }
    assert!(json(server.get("/meta").await, 401).await["error"].is_string());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tei_embeds_as_our_own_route_does() {
    let server = TestServer::start(&[]).await;
    let texts = ["a photo of a cat", "zwei Hunde", ""];
    let expected = native(&server, "/embed/text", json!({"texts": texts})).await;
    for path in ["/embed", "/"] {
        let nulls = json!({"inputs": texts, "truncate": null, "prompt_name": null, "normalize": null, "dimensions": null,
                           "truncation_direction": "Right", "unknown": 1});
        for body in [json!({"inputs": texts}), nulls] {
            assert_eq!(matrix(&json(server.post_json(path, &body).await, 200).await), expected, "{body}");
        }
        let lone = json(server.post_json(path, &json!({"inputs": "zwei Hunde"})).await, 200).await;
        assert_eq!(matrix(&lone), [expected[1].clone()], "nested for one too");
    }
    let options = json!({"inputs": texts, "normalize": false, "dimensions": 16, "truncate": true});
    let raw = native(&server, "/embed/text", json!({"texts": texts, "normalize": false, "dimensions": 16})).await;
    assert_eq!(matrix(&json(server.post_json("/embed", &options).await, 200).await), raw);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn teis_similarity_is_told_from_ours_by_its_inputs() {
    let server = TestServer::start(&[]).await;
    let texts = ["a cat", "a dog", "a photo of a cat"];
    let rows = native(&server, "/embed/text", json!({"texts": texts})).await;
    let dot = |row: &[f32]| row.iter().zip(&rows[0]).map(|(a, b)| a * b).sum::<f32>();
    let body = json!({
        "inputs": {"source_sentence": "a cat", "sentences": ["a dog", "a photo of a cat", "a cat"]},
        "parameters": {"truncate": null, "truncation_direction": "Right", "prompt_name": null},
    });
    for path in ["/similarity", "/", "/embed"] {
        let scores = json(server.post_json(path, &body).await, 200).await;
        let scores: Vec<f32> = serde_json::from_value(scores).expect("a list of numbers");
        let expected = [dot(&rows[1]), dot(&rows[2]), 1.0];
        assert_eq!(scores.len(), 3);
        assert!(scores.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-5), "{scores:?} {expected:?}");
    }
    // Ours is still there, and its errors too.
    let image = BASE64_STANDARD.encode(picture("cat_420.jpg"));
    let ours = json(server.post_json("/similarity", &json!({"texts": texts, "images": image})).await, 200).await;
    assert_eq!(matrix(&ours["probs"])[0].len(), 3);
    let error = json(server.post_json("/similarity", &json!({"text": "a"})).await, 400).await;
    assert_eq!(error["error"]["code"], "invalid_request");
    for (body, status, kind, expected) in [
        (json!({"inputs": {"sentences": ["a"]}}), 422, "Validation", "source_sentence"),
        (json!({"inputs": {"source_sentence": "a", "sentences": []}}), 400, "Empty", "`sentences` is an empty list"),
        (json!({"inputs": {"source_sentence": "a", "sentences": ["b", 1]}}), 422, "Validation", "input 2: "),
        (
            json!({"inputs": {"source_sentence": "a", "sentences": ["b"]}, "parameters": {"truncation_direction": "Left"}}),
            422,
            "Validation",
            "truncation_direction",
        ),
        (json!({"inputs": null}), 422, "Validation", "inputs"),
        // TEI's own route compares and nothing else, and a body is of one service.
        (json!({"inputs": ["a", "b"]}), 422, "Validation", "texts go to /embed"),
        (json!({"inputs": "a"}), 422, "Validation", "texts go to /embed"),
        (
            json!({"inputs": ["a"], "texts": ["a"], "images": [image]}),
            422,
            "Validation",
            "both `inputs`, which compares sentences, and `images`",
        ),
        (
            json!({"inputs": {"source_sentence": "a", "sentences": ["b"]}, "return_loss": true}),
            422,
            "Validation",
            "and `return_loss`",
        ),
    ] {
        assert_tei_error(server.post_json("/similarity", &body).await, status, kind, expected).await;
    }
    server.stop().await;
}

async fn assert_tei_error(answer: reqwest::Response, status: u16, kind: &str, expected: &str) {
    let error = json(answer, status).await;
    assert_eq!(error["error_type"], kind, "{error}");
    let message = error["error"].as_str().unwrap_or_else(|| panic!("{error}"));
    assert!(message.contains(expected), "{expected}: {message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_tei_would_refuse_is_refused_in_its_shape() {
    let server = TestServer::start(&["limits.max_texts=3", "limits.max_text_bytes=3KiB"]).await;
    let long = "word ".repeat(500);
    let sentences = json!({"source_sentence": "a", "sentences": ["b"]});
    for path in ["/embed", "/"] {
        for (body, status, kind, expected) in [
            (json!({}), 422, "Validation", "inputs"),
            (json!({"inputs": []}), 400, "Empty", "empty"),
            (json!({"inputs": [101, 2]}), 422, "Validation", "send the text itself"),
            (json!({"inputs": [[101, 2], [3]]}), 422, "Validation", "send the text itself"),
            (json!({"inputs": 7}), 422, "Validation", "send the text itself"),
            (json!({"inputs": ["a", 7]}), 422, "Validation", "input 1: "),
            (json!({"inputs": ["a", "b", "c", "d"]}), 413, "Validation", "the limit is 3 (limits.max_texts)"),
            (
                json!({"inputs": "a", "parameters": {"truncate": false}}),
                422,
                "Validation",
                "`truncate` stands in `parameters`",
            ),
            (json!({"inputs": "a", "parameters": {"normalize": 1}}), 422, "Validation", "put it beside `inputs`"),
            (json!({"inputs": sentences, "truncate": false}), 422, "Validation", "`truncate` stands beside `inputs`"),
            (json!({"inputs": sentences, "dimensions": 8}), 422, "Validation", "has no `dimensions`"),
            (json!({"inputs": sentences, "parameters": {"normalize": false}}), 422, "Validation", "has no `normalize`"),
            (json!({"inputs": ["a", long], "truncate": false}), 422, "Validation", "input 1: the text has 502 tokens"),
            (json!({"inputs": "a", "truncation_direction": "Left"}), 422, "Validation", "truncation_direction"),
            (json!({"inputs": "a", "prompt_name": "query"}), 422, "Validation", "no prompts"),
            (json!({"inputs": "a", "dimensions": 0}), 422, "Validation", "dimensions is 0"),
            (json!({"inputs": "a", "dimensions": 49}), 422, "Validation", "1 to 48"),
            (json!({"inputs": "a", "truncate": "yes"}), 422, "Validation", "truncate"),
        ] {
            assert_tei_error(server.post_json(path, &body).await, status, kind, expected).await;
        }
        // Nothing at the wrong place, as huggingface_hub sends it.
        for body in [
            json!({"inputs": "a", "parameters": {}}),
            json!({"inputs": "a", "parameters": {"truncate": null, "unknown": 1}}),
            json!({"inputs": sentences, "truncate": null, "parameters": {"truncate": false}}),
        ] {
            json(server.post_json(path, &body).await, 200).await;
        }
        let cut = server.post_json(path, &json!({"inputs": long})).await;
        assert_eq!(cut.status(), StatusCode::OK, "cut as TEI does by itself");
    }
    for (path, body, expected) in [
        ("/tokenize", json!({"inputs": [1]}), "send the text itself"),
        ("/tokenize", json!({"inputs": ["a", "b".repeat(4000)]}), "input 1: the text has 4000 bytes"),
        ("/tokenize", json!({"inputs": "a", "prompt_name": "query"}), "no prompts"),
        ("/decode", json!({}), "ids"),
        ("/decode", json!({"ids": "a"}), "a list of ids"),
        ("/decode", json!({"ids": [1, -1]}), "integers from 0"),
        ("/decode", json!({"ids": [[1], ["a"]]}), "input 1: "),
        ("/decode", json!({"ids": [[1], [1, 49408]]}), "input 1: no token has the id 49408"),
        ("/decode", json!({"ids": vec![1; 3075]}), "the limit is 3074"),
        ("/decode", json!({"ids": [[1], vec![-1; 3075]]}), "input 1: a list has 3075 ids, the limit is 3074"),
        ("/decode", json!({"ids": [1, 1.5]}), "integers from 0"),
    ] {
        assert_tei_error(server.post_json(path, &body).await, 422, "Validation", expected).await;
    }
    assert_tei_error(
        server.post_json("/decode", &json!({"ids": [[1], [1], [1], [1]]})).await,
        413,
        "Validation",
        "limit is 3",
    )
    .await;
    for path in ["/embed", "/tokenize", "/decode"] {
        let wrong = server.get(path).await;
        assert_eq!(wrong.headers()["allow"], "POST");
        assert_tei_error(wrong, 405, "MethodNotAllowed", "takes POST").await;
        assert_tei_error(server.post(path).body("{").send().await.expect("an answer"), 422, "Validation", "JSON").await;
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_is_its_tokens_and_its_tokens_are_it() {
    let server = TestServer::start(&[]).await;
    let texts = ["A photo  of Ümläut 🐈\u{200d}!", "", "<|endoftext|> \"\\"];
    let lists = json(server.post_json("/tokenize", &json!({"inputs": texts})).await, 200).await;
    let lists = lists.as_array().expect("a list");
    assert_eq!(lists.len(), 3);
    for (text, tokens) in texts.iter().zip(lists) {
        let tokens = tokens.as_array().expect("a list");
        let frame = |id: u32, name: &str| json!({"id": id, "text": name, "special": true, "start": null, "stop": null});
        assert_eq!(tokens[0], frame(49406, "<|startoftext|>"));
        assert_eq!(tokens[tokens.len() - 1], frame(49407, "<|endoftext|>"));
        for token in &tokens[1..tokens.len() - 1] {
            let place = |name: &str| token[name].as_u64().expect("a number") as usize;
            assert_eq!(token["text"], text[place("start")..place("stop")], "{token}");
            assert_eq!(token["special"], false);
        }
    }
    let words: Vec<&str> =
        lists[0].as_array().expect("a list").iter().map(|t| t["text"].as_str().expect("text")).collect();
    assert_eq!(words[1..4], ["A", "photo", "of"]);
    let bare =
        json(server.post_json("/tokenize", &json!({"inputs": "a cat", "add_special_tokens": false})).await, 200).await;
    assert_eq!(
        bare,
        json!([[{"id": 320, "text": "a", "special": false, "start": 0, "stop": 1},
                             {"id": 2368, "text": "cat", "special": false, "start": 2, "stop": 5}]])
    );

    let ids: Vec<Vec<u64>> = lists
        .iter()
        .map(|list| list.as_array().expect("a list").iter().map(|token| token["id"].as_u64().expect("an id")).collect())
        .collect();
    let decoded = json(server.post_json("/decode", &json!({"ids": ids})).await, 200).await;
    // As transformers has it: a blank behind each word, and the end token within a text is special too.
    assert_eq!(decoded, json!(["a photo of ümläut 🐈\u{200d}!", "", "\"\\"]));
    let lone = json(server.post_json("/decode", &json!({"ids": [49406, 320, 2368, 49407]})).await, 200).await;
    assert_eq!(lone, json!(["a cat"]));
    let all = json!({"ids": [[49406, 320, 2368, 49407], []], "skip_special_tokens": false});
    let all = json(server.post_json("/decode", &all).await, 200).await;
    assert_eq!(all, json!(["<|startoftext|>a cat <|endoftext|>", ""]));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_and_ids_are_not_worked_on_for_a_client_that_waits_no_longer() {
    let server = TestServer::start(&[]).await;
    // Far more than a millisecond's work.
    let (ids, text) = (vec![vec![320; 16_000]; 20], "word ".repeat(3_000));
    for (path, body) in [("/decode", json!({"ids": ids})), ("/tokenize", json!({"inputs": vec![text; 20]}))] {
        json(server.post_json(path, &body).await, 200).await;
        let late = server.post(path).header("x-request-timeout", "0.001").json(&body).send().await;
        assert_tei_error(late.expect("an answer"), 504, "Backend", "took longer than its timeout").await;
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn info_has_the_fields_of_both() {
    let server = TestServer::start(&["limits.max_texts=7"]).await;
    let info = json(server.get("/info").await, 200).await;
    assert_eq!((&info["model"]["dim"], &info["limits"]["max_texts"]), (&json!(48), &json!(7)));
    for (field, expected) in [
        ("model_id", info["model"]["name"].clone()),
        ("served_model_name", info["model"]["name"].clone()),
        ("model_dtype", json!("float32")),
        ("model_type", json!({"embedding": {"pooling": "last-token"}})),
        ("max_input_length", json!(77)),
        ("max_client_batch_size", json!(7)),
        ("auto_truncate", json!(true)),
        ("version", json!(env!("CARGO_PKG_VERSION"))),
    ] {
        assert_eq!(info[field], expected, "{field}");
    }
    for field in ["max_concurrent_requests", "max_batch_tokens", "max_batch_requests", "tokenization_workers"] {
        assert!(info[field].as_u64().is_some_and(|number| number > 0), "{field}: {}", info[field]);
    }
    server.stop().await;
}
