//! OpenAI's `/v1/embeddings` and `/embeddings`, every image dialect that is told from its body, and errors in OpenAI's shape.

use std::time::Duration;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use clipserve::{model::texts::Tokenization, preprocess::text::TextTokenizer};
use reqwest::Response;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{TestServer, configuration, fixture, json, picture};

const CAT: &str = "cat_420.jpg";
const EXACT: &str = "exact_224.png";

/// An input, as the native routes are asked for it.
#[derive(Clone, Copy)]
enum Input {
    Text(&'static str),
    Picture(&'static str),
}

use Input::{Picture, Text};

fn base64(name: &str) -> String {
    BASE64_STANDARD.encode(picture(name))
}

fn data_url(name: &str) -> String {
    format!("data:image/jpeg;base64,{}", base64(name))
}

/// The bytes of an embedding that is written in base64.
fn bytes(embedding: &Value) -> Vec<u8> {
    BASE64_STANDARD.decode(embedding.as_str().unwrap_or_else(|| panic!("no string: {embedding}"))).expect("base64")
}

/// The same, written as numbers.
fn bytes_of_numbers(embedding: &Value) -> Vec<u8> {
    let numbers = embedding.as_array().unwrap_or_else(|| panic!("no list: {embedding}"));
    numbers.iter().flat_map(|number| (number.as_f64().expect("a number") as f32).to_le_bytes()).collect()
}

/// The bytes of the embeddings of the native routes.
async fn native(server: &TestServer, inputs: &[Input]) -> Vec<Vec<u8>> {
    let mut rows = Vec::new();
    for input in inputs {
        let (path, mut body) = match input {
            Text(text) => ("/embed/text", json!({"texts": text})),
            Picture(name) => ("/embed/image", json!({"images": base64(name)})),
        };
        body["encoding_format"] = json!("base64");
        rows.push(bytes(&json(server.post_json(path, &body).await, 200).await["embeddings"][0]));
    }
    rows
}

/// The answer to `body`, with the fields that every answer has and the inputs' order checked, and its embeddings' bytes.
async fn ask(server: &TestServer, path: &str, body: &Value) -> (Value, Vec<Vec<u8>>) {
    let answer = json(server.post_json(path, body).await, 200).await;
    assert_eq!((&answer["object"], &answer["model"]), (&json!("list"), &json!("tiny-clip")), "{body}");
    assert!(answer["id"].as_str().is_some_and(|id| id.starts_with("embd-")) && answer["created"].is_u64());
    let data = answer["data"].as_array().expect("a list");
    let mut rows = Vec::new();
    for (index, entry) in data.iter().enumerate() {
        assert_eq!((&entry["object"], &entry["index"]), (&json!("embedding"), &json!(index)), "{body}");
        let as_text = body["encoding_format"] == "base64";
        rows.push(if as_text { bytes(&entry["embedding"]) } else { bytes_of_numbers(&entry["embedding"]) });
    }
    (answer, rows)
}

/// The message and the item of an error, which is OpenAI's: of this status, this `code` and `type`, and of nothing else.
async fn openai_error(response: Response, status: u16, code: &str, kind: &str) -> (String, Value) {
    assert!(response.headers().contains_key("x-request-id"));
    assert_eq!(response.headers()["content-type"], "application/json");
    let body = json(response, status).await;
    let error = &body["error"];
    assert_eq!((&error["code"], &error["type"]), (&json!(code), &json!(kind)), "{body}");
    let fields: Vec<&String> = error.as_object().expect("an object").keys().collect();
    assert_eq!(fields, ["code", "message", "param", "type"], "{body}");
    (error["message"].as_str().expect("a message").to_owned(), error["param"].clone())
}

/// Each form of each dialect, and what it asks to be embedded.
fn forms() -> Vec<(&'static str, Value, Vec<Input>)> {
    let (cat, exact) = (data_url(CAT), data_url(EXACT));
    let part = |url: &str| json!({"type": "image_url", "image_url": {"url": url}});
    let text = json!({"type": "text", "text": "a cat"});
    let message = |content: Value| json!({"role": "user", "content": content});
    let mixed = vec![Text("a cat"), Picture(CAT), Text("a dog"), Picture(EXACT)];
    vec![
        ("OpenAI: a text", json!({"input": "a cat"}), vec![Text("a cat")]),
        ("OpenAI: texts", json!({"input": ["a cat", "a dog"]}), vec![Text("a cat"), Text("a dog")]),
        ("data URL", json!({"input": cat}), vec![Picture(CAT)]),
        ("data URLs among texts", json!({"input": ["a cat", cat, "a dog", exact]}), mixed.clone()),
        (
            "data URL in capitals",
            json!({"input": [cat.replacen("data:image/jpeg", "DATA:IMAGE/JPEG", 1)]}),
            vec![Picture(CAT)],
        ),
        ("data URL behind blanks", json!({"input": [format!(" \n{cat}"), format!("  {exact}")]}), mixed_pictures()),
        ("modality: pictures", json!({"modality": "image", "input": [cat, base64(EXACT)]}), mixed_pictures()),
        ("modality: one picture", json!({"modality": "image", "input": base64(CAT)}), vec![Picture(CAT)]),
        (
            "modality: of each",
            json!({"modality": ["text", "image", "text", "image"], "input": ["a cat", base64(CAT), "a dog", exact]}),
            mixed.clone(),
        ),
        (
            "modality: a text like a picture",
            json!({"modality": "text", "input": "data:image/"}),
            vec![Text("data:image/")],
        ),
        (
            "Jina: objects",
            json!({"input": [{"text": "a cat"}, {"image": base64(CAT)}, {"text": "a dog"}, {"image": exact}]}),
            mixed.clone(),
        ),
        ("Jina: url and bytes", json!({"input": [{"url": cat}, {"bytes": base64(EXACT)}]}), mixed_pictures()),
        (
            "Jina: objects among strings",
            json!({"input": ["a cat", {"image": cat}, {"text": "a dog"}, exact]}),
            mixed.clone(),
        ),
        ("vLLM: messages", json!({"messages": [message(json!([part(&cat)]))]}), vec![Picture(CAT)]),
        ("vLLM: a text part", json!({"messages": [message(json!([text]))]}), vec![Text("a cat")]),
        ("vLLM: a plain content", json!({"messages": [message(json!("a cat"))]}), vec![Text("a cat")]),
        (
            "vLLM: conversations",
            json!({"messages": [
                [message(json!("a cat"))], [message(json!([part(&cat)]))], [message(json!("a dog"))], [message(json!([part(&exact)]))],
            ]}),
            mixed.clone(),
        ),
        ("vLLM: messages as input", json!({"input": [message(json!([part(&cat)]))]}), vec![Picture(CAT)]),
        (
            "vLLM: conversations as input",
            json!({"input": [[message(json!([part(&cat)]))], [message(json!([part(&exact)]))]]}),
            mixed_pictures(),
        ),
        (
            "OpenRouter: contents",
            json!({"input": [
                {"content": [text]}, {"content": [part(&cat)]}, {"content": "a dog"}, {"content": [part(&exact)]},
            ]}),
            mixed.clone(),
        ),
        (
            "Voyage's parts in contents",
            json!({"input": [
                {"content": [{"type": "image_url", "image_url": cat}]},
                {"content": [{"type": "image_base64", "image_base64": exact}]},
            ]}),
            mixed_pictures(),
        ),
        (
            "llama.cpp: parts",
            json!({"input": [text, part(&cat), {"type": "text", "text": "a dog"}, part(&exact)]}),
            mixed,
        ),
    ]
}

fn mixed_pictures() -> Vec<Input> {
    vec![Picture(CAT), Picture(EXACT)]
}

#[tokio::test(flavor = "multi_thread")]
async fn every_image_dialect_is_told_by_its_body_and_equals_the_native_routes_to_the_bit() {
    let server = TestServer::start(&[]).await;
    for (name, mut body, inputs) in forms() {
        let expected = native(&server, &inputs).await;
        for (path, format) in [("/v1/embeddings", "base64"), ("/v1/embeddings", "float"), ("/embeddings", "base64")] {
            body["encoding_format"] = json!(format);
            let (_, rows) = ask(&server, path, &body).await;
            assert_eq!(rows, expected, "{name}, {path}, {format}");
        }
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn intels_object_has_intels_answer_and_intels_errors() {
    let server = TestServer::start(&["model.aliases=clip"]).await;
    let numbers = async |input: Value| {
        let body = json!({"model": "clip", "input": input, "encoding_format": "float"});
        let answer = json(server.post_json("/embeddings", &body).await, 200).await;
        assert_eq!(answer.as_object().map(serde_json::Map::len), Some(1), "{answer}");
        answer["embedding"].clone()
    };
    let cat = native(&server, &[Picture(CAT)]).await;
    for input in [
        json!({"type": "image_base64", "image_base64": base64(CAT)}),
        json!({"type": "image_url", "image_url": data_url(CAT)}),
    ] {
        assert_eq!([bytes_of_numbers(&numbers(input).await)], *cat);
    }
    let text = native(&server, &[Text("a cat")]).await;
    assert_eq!([bytes_of_numbers(&numbers(json!({"type": "text", "text": "a cat"})).await)], *text);
    let each = async |input: Value| -> Vec<Vec<u8>> {
        numbers(input).await.as_array().expect("a list").iter().map(bytes_of_numbers).collect()
    };
    assert_eq!(each(json!({"type": "text", "text": ["a cat"]})).await, text);
    let frames = json!({"type": "video_frames", "video_frames": [
        {"type": "image_base64", "image_base64": base64(CAT)},
        {"type": "image_url", "image_url": data_url(EXACT)},
    ]});
    assert_eq!(each(frames).await, native(&server, &mixed_pictures()).await);

    for (body, status, expected) in [
        (json!({"input": {"type": "video_url", "video_url": "http://x/"}}), 400, "send their frames"),
        (json!({"input": {"type": "text"}}), 400, "input 0: the input's type is text, and it has no text"),
        (json!({"input": {"type": "text", "text": "a", "image_url": "b"}}), 400, "has both text and image_url"),
        (json!({"input": {"type": "text", "image_base64": "a"}}), 400, "is text, and it has image_base64"),
        (json!({"input": {"type": "image_url", "image_base64": "a"}}), 400, "is image_url, and it has image_base64"),
        (json!({"input": {"type": "video_frames", "text": "a"}}), 400, "is video_frames, and it has text"),
        (json!({"input": {"type": "image_base64", "image_base64": "!"}}), 400, "input 0: "),
        (json!({"input": {"type": "image_base64", "image_base64": "QUJD"}}), 415, "input 0: "),
        (json!({"input": {"type": "text", "text": "a"}, "model": "other"}), 404, "`other` is not served"),
        (json!({"input": {"type": "text", "text": "a"}, "dimensions": 49}), 400, "1 to 48"),
        (json!({"input": {"type": "text", "text": "a"}, "truncate": "START"}), 400, "START"),
        (
            json!({"input": {"type": "text", "text": "a"}, "truncate_prompt_tokens": 5}),
            400,
            "truncate_prompt_tokens is 5",
        ),
    ] {
        let answer = json(server.post_json("/embeddings", &body).await, status).await;
        assert_eq!(answer.as_object().map(serde_json::Map::len), Some(1), "{answer}");
        let detail = answer["detail"].as_str().unwrap_or_else(|| panic!("{body}: {answer}"));
        assert!(detail.contains(expected), "{body}: {detail}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_is_called_by_its_name_an_alias_or_not_at_all() {
    let server = TestServer::start(&["model.aliases=clip, ViT-B-32__openai"]).await;
    for name in
        [json!("tiny-clip"), json!("clip"), json!("ViT-B-32__openai"), json!("default/not-specified"), Value::Null]
    {
        ask(&server, "/v1/embeddings", &json!({"input": "a", "model": name})).await;
    }
    let body = json!({"input": "a", "model": "text-embedding-3-small\n"});
    let answer = server.post_json("/v1/embeddings", &body).await;
    let (message, param) = openai_error(answer, 404, "model_not_found", "invalid_request_error").await;
    assert!(message.contains(r"`text-embedding-3-small\n`") && message.contains("`tiny-clip`"), "{message}");
    assert_eq!(param, Value::Null);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn options_are_honoured_and_unknown_fields_passed_over() {
    let server = TestServer::start(&[]).await;
    let whole = native(&server, &[Text("a cat")]).await;
    for option in [
        json!({"dimensions": 0}),
        json!({"dimensions": 48}),
        json!({"dimensions": null, "encoding_format": null, "user": null}),
        json!({"user": "somebody", "nobody": {"knows": ["this"]}}),
        json!({"truncate_prompt_tokens": -1, "truncate": "END", "priority": -1}),
        json!({"embedding_type": ["float"], "normalize": true}),
    ] {
        let mut body = option.clone();
        body["input"] = json!(["a cat"]);
        assert_eq!(ask(&server, "/v1/embeddings", &body).await.1, whole, "{option}");
    }
    let cut = json!({"texts": "a cat", "dimensions": 5, "encoding_format": "base64"});
    let cut = bytes(&json(server.post_json("/embed/text", &cut).await, 200).await["embeddings"][0]);
    let asked = json!({"input": "a cat", "dimensions": 5, "encoding_format": "base64"});
    assert_eq!(ask(&server, "/v1/embeddings", &asked).await.1, [cut]);
    let raw = json!({"texts": "a cat", "normalize": false, "encoding_format": "base64"});
    let raw = bytes(&json(server.post_json("/embed/text", &raw).await, 200).await["embeddings"][0]);
    let asked = json!({"input": "a cat", "normalized": false, "encoding_format": "base64"});
    assert_eq!(ask(&server, "/v1/embeddings", &asked).await.1, [raw]);
    // Types of a byte: how each is made is a matter of units; here, that it arrives, and in base64 where that is asked for.
    let body = json!({"input": "a cat", "embedding_type": "int8"});
    let numbers = json(server.post_json("/v1/embeddings", &body).await, 200).await["data"][0]["embedding"].clone();
    assert_eq!(numbers.as_array().map(Vec::len), Some(48));
    let body = json!({"input": "a cat", "embedding_type": "int8", "encoding_format": "base64"});
    let packed = json(server.post_json("/v1/embeddings", &body).await, 200).await["data"][0]["embedding"].clone();
    let numbers: Vec<i64> = numbers.as_array().expect("a list").iter().filter_map(Value::as_i64).collect();
    let packed: Vec<i64> = bytes(&packed).into_iter().map(|byte| i64::from(byte.cast_signed())).collect();
    assert_eq!(packed, numbers);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_counts_real_tokens() {
    let server = TestServer::start(&[]).await;
    let tokenizer =
        TextTokenizer::open(&Tokenization::Transformers(fixture("tiny-clip/tokenizer.json")), 77, 1 << 20, None)
            .expect("the fixture");
    let long = "a cat and a dog ".repeat(40);
    let count = |text: &str| tokenizer.tokenize(text, true).expect("a text").tokens.ids().len();
    assert_eq!(count(&long), 77, "cut");
    let texts = ["a cat", "", "ein Übungssatz", &long];
    let expected: usize = texts.iter().map(|text| count(text)).sum();
    // From the cache they count the same.
    for _ in 0..2 {
        let (answer, _) = ask(&server, "/v1/embeddings", &json!({"input": texts})).await;
        assert_eq!(answer["usage"], json!({"prompt_tokens": expected, "total_tokens": expected}));
    }
    let (answer, _) = ask(&server, "/v1/embeddings", &json!({"input": ["a cat", data_url(CAT)]})).await;
    assert_eq!(answer["usage"]["total_tokens"], count("a cat"));
    let (answer, _) = ask(&server, "/v1/embeddings", &json!({"input": data_url(CAT)})).await;
    assert_eq!(answer["usage"]["total_tokens"], 0);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_request_is_said_in_openais_shape_with_the_item() {
    let server = TestServer::start(&["limits.max_images=2", "limits.max_texts=3", "limits.max_text_bytes=1KiB"]).await;
    let none = Value::Null;
    let item = |index: usize| json!(format!("input[{index}]"));
    let cut = format!("data:image/jpeg;base64,{}", BASE64_STANDARD.encode(&picture(CAT)[..9000]));
    let long = "a".repeat(1025);
    let part = json!({"type": "text", "text": "a"});
    let message = json!({"role": "user", "content": "a"});
    for (body, status, code, param, expected) in [
        (json!({}), 400, "invalid_request", &none, "no input"),
        (json!({"input": null}), 400, "invalid_request", &none, "no input"),
        (json!({"input": 5}), 400, "invalid_request", &none, "input is a number"),
        (json!({"input": true}), 400, "invalid_request", &none, "input is a boolean"),
        (json!({"input": []}), 400, "invalid_request", &none, "no inputs"),
        (json!({"input": "a", "messages": [message]}), 400, "invalid_request", &none, "both input and messages"),
        (json!({"input": [320, 1125]}), 400, "invalid_request", &item(0), "check_embedding_ctx_length=False"),
        (json!({"input": [[320, 1125], [539]]}), 400, "invalid_request", &item(0), "token ids"),
        (json!({"input": ["a", [320]]}), 400, "invalid_request", &item(1), "token ids"),
        (json!({"input": ["a", ["b"]]}), 400, "invalid_request", &item(1), "has a list at 1"),
        (json!({"input": ["a", null]}), 400, "invalid_request", &item(1), "has null at 1"),
        (json!({"input": ["a", {"pixels": 1}]}), 400, "invalid_request", &item(1), "without a text or a picture"),
        (json!({"input": ["a", {"video": "x"}]}), 400, "invalid_request", &item(1), "videos are not embedded"),
        (json!({"input": ["a", {"text": "a", "image": "QUJD"}]}), 400, "invalid_request", &item(1), "of its own"),
        (json!({"input": ["a", {"content": [part, part]}]}), 400, "invalid_request", &item(1), "of its own"),
        (
            json!({"input": ["a", {"text": "a", "image_url": {"url": "data:"}}]}),
            400,
            "invalid_request",
            &item(1),
            "has both text and image_url",
        ),
        (
            json!({"input": ["a", {"type": "image_url", "text": "a"}]}),
            400,
            "invalid_request",
            &item(1),
            "the type of an input is image_url, and it has text",
        ),
        (
            json!({"input": ["a", {"type": "text", "text": "a", "image_url": "data:"}]}),
            400,
            "invalid_request",
            &item(1),
            "has both text and image_url",
        ),
        (json!({"input": ["a", {"type": "audio", "text": "a"}]}), 400, "invalid_request", &item(1), "input is audio"),
        (json!({"input": ["a", {"type": 7, "text": "a"}]}), 400, "invalid_request", &item(1), "is a number"),
        (json!({"input": ["a", {"type": "video_url"}]}), 400, "invalid_request", &item(1), "videos are not embedded"),
        (json!({"input": ["a", {"type": "text", "content": "b"}]}), 400, "invalid_request", &item(1), "it has content"),
        (json!({"input": ["a", {"content": "a", "text": "b"}]}), 400, "invalid_request", &item(1), "content and text"),
        (
            json!({"messages": [[message], [{"role": "user", "content": "a", "image": "b"}]]}),
            400,
            "invalid_request",
            &item(1),
            "content and image",
        ),
        (json!({"input": [{"text": "a", "text ": 1, "type": {}}]}), 400, "invalid_request", &item(0), "is an object"),
        (
            json!({"input": ["a", {"text": []}]}),
            400,
            "invalid_request",
            &item(1),
            "the input is a list, expected a string",
        ),
        (json!({"input": ["a", {"image": ["b"]}]}), 400, "invalid_request", &item(1), "the input is a list"),
        (json!({"input": "a", "modality": ["text", "image"]}), 400, "invalid_request", &none, "2 entries for 1 inputs"),
        (
            json!({"input": ["a", {"text": "b"}], "modality": "text"}),
            400,
            "invalid_request",
            &item(1),
            "and the input is an object",
        ),
        (
            json!({"input": [message], "modality": "text"}),
            400,
            "invalid_request",
            &item(0),
            "and the input is an object",
        ),
        (json!({"input": ["a", {"type": "image_url", "image_url": {}}]}), 400, "invalid_request", &item(1), "no url"),
        (
            json!({"input": ["a", {"image": "https://example.com/cat.jpg"}]}),
            400,
            "invalid_request",
            &item(1),
            "not fetched",
        ),
        (json!({"input": ["a", "data:image/png;base64,!"]}), 400, "invalid_request", &item(1), "base64"),
        (json!({"input": ["a", "data:image/png;base64,QUJD"]}), 415, "unsupported_media_type", &item(1), "JPEG"),
        (json!({"input": ["a", cut]}), 422, "invalid_image", &item(1), ""),
        (json!({"input": ["a", long]}), 422, "invalid_text", &item(1), "1025 bytes"),
        (
            json!({"input": ["a", "b", "c", "d"]}),
            413,
            "payload_too_large",
            &none,
            "4 inputs, the limit is 3 (the larger of limits.max_texts and limits.max_images)",
        ),
        (json!({"input": vec!["data:image/png;base64,QUJD"; 3]}), 413, "payload_too_large", &none, "limits.max_images"),
        (json!({"messages": [message, message]}), 400, "invalid_request", &item(0), "a conversation of 2 messages"),
        (json!({"messages": [[message], [{"role": "user"}]]}), 400, "invalid_request", &item(1), "no content"),
        (json!({"messages": "a"}), 400, "invalid_request", &none, "messages is no list"),
        (json!({"input": "a", "dimensions": 49}), 400, "invalid_request", &none, "1 to 48"),
        (json!({"input": "a", "dimensions": -1}), 400, "invalid_request", &none, "dimensions"),
        (json!({"input": "a", "encoding_format": "hex"}), 400, "invalid_request", &none, "`float` or `base64`"),
        (json!({"input": "a", "embedding_type": "int4"}), 400, "invalid_request", &none, "unknown variant `int4`"),
        (json!({"input": "a", "embedding_type": 8}), 400, "invalid_request", &none, "a name or a list of names"),
        (json!({"input": "a", "embedding_type": ["int8", "float"]}), 400, "invalid_request", &none, "/v2/embed"),
        (json!({"input": "a", "truncate": "START"}), 400, "invalid_request", &none, "END or NONE"),
        (json!({"input": "a", "truncate": 1}), 400, "invalid_request", &none, "a boolean, NONE or END"),
        (json!({"input": "a", "truncate_prompt_tokens": 5}), 400, "invalid_request", &none, "send -1"),
        (json!({"input": "a", "modality": "text_image"}), 400, "invalid_request", &none, "text_image"),
        (json!({"input": "a", "modality": "audio"}), 400, "invalid_request", &none, "modality is audio"),
        (
            json!({"input": ["a", "b"], "modality": ["text", 1]}),
            400,
            "invalid_request",
            &item(1),
            "modality is a number",
        ),
        (
            json!({"input": ["a", "b", "c"], "modality": ["text", "text"]}),
            400,
            "invalid_request",
            &none,
            "2 entries for 3",
        ),
    ] {
        let answer = server.post_json("/v1/embeddings", &body).await;
        let (message, at) = openai_error(answer, status, code, "invalid_request_error").await;
        assert!(message.contains(expected), "{body}: {message}");
        assert_eq!(&at, param, "{body}: {message}");
    }
    let twice = server.post("/v1/embeddings").body(r#"{"input": [{"text": "a", "text": "b"}]}"#).send().await;
    let (message, at) = openai_error(twice.expect("an answer"), 400, "invalid_request", "invalid_request_error").await;
    assert!(message.contains("duplicate field `text`") && at == item(0), "{message} {at}");
    for (body, expected) in
        [("{\"input\": \"a\"", "the JSON body"), ("", "the JSON body"), ("[]", "expected an object")]
    {
        let answer = server.post("/v1/embeddings").body(body).send().await.expect("an answer");
        let (message, _) = openai_error(answer, 400, "invalid_request", "invalid_request_error").await;
        assert!(message.contains(expected), "{body}: {message}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_before_it_is_read_has_the_shape_of_the_paths_owner() {
    let settings = ["server.api_key=s3cret", "limits.max_body_bytes=64KiB", "server.body_idle_timeout=50ms"];
    let server = TestServer::start(&settings).await;
    const INVALID: &str = "invalid_request_error";
    for path in ["/v1/embeddings", "/embeddings"] {
        let ask = || server.post(path).bearer_auth("s3cret");
        let answer = server.post_json(path, &json!({"input": "a"})).await;
        assert_eq!(answer.headers()["www-authenticate"], "Bearer");
        openai_error(answer, 401, "invalid_api_key", "authentication_error").await;
        let wrong = server.get(path).await;
        assert_eq!(wrong.headers()["allow"], "POST");
        assert!(openai_error(wrong, 405, "method_not_allowed", INVALID).await.0.contains("takes POST"));
        let declared = ask().body(vec![b' '; 65 * 1024]).send().await.expect("an answer");
        openai_error(declared, 413, "payload_too_large", INVALID).await;
        let zipped = ask().header("content-encoding", "compress").body("x").send().await.expect("an answer");
        openai_error(zipped, 415, "unsupported_media_type", INVALID).await;
        let untyped = ask().body(r#"{"input": "a"}"#).send().await.expect("an answer");
        json(untyped, 200).await;
        let timeout = ask().header("x-request-timeout", "soon").json(&json!({"input": "a"}));
        openai_error(timeout.send().await.expect("an answer"), 400, "invalid_request", INVALID).await;
        let mut socket = tokio::net::TcpStream::connect(server.address()).await.expect("a connection");
        let head =
            format!("POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer s3cret\r\ncontent-length: 100\r\n\r\nx");
        socket.write_all(head.as_bytes()).await.expect("sent");
        let mut late = String::new();
        socket.read_to_string(&mut late).await.expect("an answer, then the end");
        assert!(late.starts_with("HTTP/1.1 408 ") && late.contains(r#""type":"invalid_request_error""#), "{late}");
    }
    openai_error(server.get("/v1/nowhere").await, 404, "not_found", INVALID).await;
    openai_error(server.get("/v1/embeddings/").await, 404, "not_found", INVALID).await;
    crate::support::error(server.get("/nowhere").await, 404, "not_found").await;
    server.stop().await;

    let (load, wait) = std::sync::mpsc::channel::<()>();
    let server = TestServer::bind(configuration(&[]), move |_| {
        let _ = wait.recv();
        Err(clipserve::embedder::StartError::Canary("the test is over".to_owned()))
    })
    .await;
    let answer = server.post_json("/v1/embeddings", &json!({"input": "a"})).await;
    assert_comes_back(&answer);
    openai_error(answer, 503, "not_ready", "server_error").await;
    server.begin_stop().abort();
    drop(load);
}

/// The three headers by which clients repeat a request.
fn assert_comes_back(answer: &Response) {
    let number = |name: &str| answer.headers()[name].to_str().expect("text").parse::<u64>().expect("a whole number");
    let (seconds, milliseconds) = (number("retry-after"), number("retry-after-ms"));
    assert!((1..=60).contains(&seconds) && (1000..=60_000).contains(&milliseconds), "{seconds} s, {milliseconds} ms");
    assert!((seconds * 1000).abs_diff(milliseconds) <= 500, "{seconds} s, {milliseconds} ms");
    assert_eq!(answer.headers()["x-should-retry"], "true");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_says_on_every_route_when_to_come_back() {
    let (server, gate) = TestServer::start_gated(&["limits.max_inflight_requests=1"]).await;
    let held = tokio::spawn(server.post("/v1/embeddings").json(&json!({"input": "held"})).send());
    server.until_metric(r#"clipserve_batch_size_count{modality="text"}"#, |batches| batches == 1.0).await;
    for path in ["/v1/embeddings", "/embeddings"] {
        let answer = server.post_json(path, &json!({"input": "b"})).await;
        assert_comes_back(&answer);
        openai_error(answer, 429, "rate_limit_exceeded", "rate_limit_error").await;
    }
    for path in ["/embed/text", "/embed/image", "/similarity", "/classify"] {
        let answer = server.post_json(path, &json!({})).await;
        assert_comes_back(&answer);
        crate::support::error(answer, 429, "overloaded").await;
    }
    gate.open();
    json(held.await.expect("sent").expect("an answer"), 200).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_takes_too_long_is_504_and_what_waits_too_long_429() {
    let (server, gate) = TestServer::start_gated(&[]).await;
    let late = server.post("/v1/embeddings").header("x-request-timeout", "0.05").json(&json!({"input": "a"}));
    let answer = late.send().await.expect("an answer");
    openai_error(answer, 504, "deadline_exceeded", "server_error").await;
    drop(gate);
    server.stop().await;

    let (server, gate) = TestServer::start_gated_after(&[], &[(1, Duration::from_secs(10))]).await;
    let held = tokio::spawn(server.post("/v1/embeddings").json(&json!({"input": "held", "priority": 1})).send());
    server.until_metric(r#"clipserve_batch_size_count{modality="text"}"#, |batches| batches == 1.0).await;
    let answer = server.post_json("/v1/embeddings", &json!({"input": "b", "priority": 1})).await;
    assert_comes_back(&answer);
    openai_error(answer, 429, "rate_limit_exceeded", "rate_limit_error").await;
    drop(gate);
    json(held.await.expect("sent").expect("an answer"), 200).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_carries_the_models_fingerprint() {
    let server = TestServer::start(&[]).await;
    let fingerprint = json(server.get("/info").await, 200).await["model"]["fingerprint"].clone();
    let fingerprint = fingerprint.as_str().expect("a string");
    let assert_carried = |answer: Response, status: u16, what: &str| {
        assert_eq!(answer.status().as_u16(), status, "{what}");
        assert_eq!(answer.headers()["x-model-fingerprint"], fingerprint, "{what}");
    };
    for (path, status) in
        [("/info", 200), ("/livez", 200), ("/readyz", 200), ("/metrics", 200), ("/v1/x", 404), ("/x", 404)]
    {
        assert_carried(server.get(path).await, status, path);
    }
    for (path, body, status) in [
        ("/embed/text", json!({"texts": "a"}), 200),
        ("/embed/text", json!({}), 400),
        ("/v1/embeddings", json!({"input": "a"}), 200),
        ("/v1/embeddings", json!({}), 400),
        ("/embeddings", json!({"input": {"type": "text", "text": "a"}}), 200),
    ] {
        assert_carried(server.post_json(path, &body).await, status, path);
    }
    server.stop().await;
}
