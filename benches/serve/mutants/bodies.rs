//! Bodies that nobody meant: valid requests for every route, broken in seeded ways.
//!
//! Owns the valid requests and how they are broken; sends nothing. `make mutants` sends them over sockets, a test through the router
//! (`tests/it/mutations.rs`), which also sees that every route has a valid request here. A new route is a line in [`seeds`].

use base64::{Engine as _, prelude::BASE64_STANDARD};
use fastrand::Rng;
use serde_json::{Value, json};

use super::values;

/// The smallest picture, so that what is valid costs little.
const PICTURE: &[u8] = include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/images/one_pixel.png"));

pub(crate) const JSON: &str = "application/json";
const BOUNDARY: &str = "seed-boundary";

/// A valid request.
pub(crate) struct Seed {
    pub(crate) method: &'static str,
    /// Where the route's template has a parameter, it has a value.
    pub(crate) path: &'static str,
    /// None where it is empty.
    pub(crate) content_type: String,
    pub(crate) body: Vec<u8>,
}

impl Seed {
    fn get(path: &'static str) -> Self {
        Self { method: "GET", path, content_type: String::new(), body: Vec::new() }
    }

    fn post(path: &'static str, content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        Self { method: "POST", path, content_type: content_type.to_owned(), body: body.into() }
    }

    /// As Immich's server asks, with a text or else a picture.
    fn immichs(entries: &str, text: Option<&str>) -> Self {
        let field = |name: &str, value: &[u8]| {
            let head = format!("--{BOUNDARY}\r\ncontent-disposition: form-data; name=\"{name}\"\r\n\r\n");
            [head.as_bytes(), value, b"\r\n"].concat()
        };
        let asked = text.map_or_else(|| field("image", PICTURE), |text| field("text", text.as_bytes()));
        let body = [field("entries", entries.as_bytes()), asked, format!("--{BOUNDARY}--\r\n").into_bytes()].concat();
        Self::post("/predict", &format!("multipart/form-data; boundary={BOUNDARY}"), body)
    }

    fn form(path: &'static str, fields: &[&str]) -> Self {
        Self::post(path, &format!("multipart/form-data; boundary={BOUNDARY}"), multipart(fields))
    }
}

/// Valid requests for every route, in every content type and every form that it takes.
pub(crate) fn seeds() -> Vec<Seed> {
    let base64 = BASE64_STANDARD.encode(PICTURE);
    let url = format!("data:image/png;base64,{base64}");
    let embedding = vec![0.5; 192];
    let part = json!({"type": "image_url", "image_url": {"url": url}});
    let message = json!({"role": "user", "content": [part]});
    let options = json!({"model": "clip", "encoding_format": "base64", "dimensions": 8, "user": "u", "priority": 1});
    let with_options = |mut body: Value| {
        body.as_object_mut().expect("an object").extend(options.as_object().cloned().expect("an object"));
        body
    };
    let json_seeds = [
        ("/embed/image", json!({"images": [base64, url], "dimensions": 8, "outputs": []})),
        ("/embed/image", json!({"images": base64, "outputs": ["pooler_output"], "encoding_format": "base64"})),
        ("/embed/text", json!({"texts": ["a cat", "\u{fc}\n"], "truncate": false, "normalize": false, "priority": 1})),
        ("/embed/text", json!({"texts": "a cat", "outputs": ["attentions"], "padding": "max_length"})),
        ("/similarity", json!({"images": [base64], "texts": ["a", "b"], "return_loss": false, "return_embeds": true})),
        ("/similarity", json!({"image_embeds": [embedding, embedding], "text_embeds": [embedding]})),
        ("/classify", json!({"images": [base64], "labels": ["a", "b"], "templates": ["a {}"], "top_k": 1})),
        ("/v1/embeddings", with_options(json!({"input": ["a cat", url, "b"]}))),
        ("/v1/embeddings", json!({"input": url, "embedding_type": "ubinary", "truncate": "END"})),
        ("/v1/embeddings", json!({"input": [[320, 1125], [539]]})),
        ("/v1/embeddings", with_options(json!({"input": [base64, "a"], "modality": ["image", "text"]}))),
        ("/v1/embeddings", json!({"input": [{"text": "a"}, {"image": base64}, {"url": url}, {"bytes": base64}]})),
        ("/v1/embeddings", with_options(json!({"messages": [message], "truncate_prompt_tokens": -1}))),
        ("/v1/embeddings", json!({"messages": [[message], [{"role": "user", "content": "a"}]]})),
        ("/v1/embeddings", json!({"input": [{"content": [part]}, {"content": "a"}, part]})),
        ("/embeddings", with_options(json!({"input": {"type": "image_base64", "image_base64": base64}}))),
        (
            "/embeddings",
            json!({"input": {"type": "video_frames", "video_frames": [{"type": "image_url", "image_url": url}]}}),
        ),
        ("/embeddings", json!({"input": {"type": "text", "text": ["a", "b"]}})),
        ("/embeddings", with_options(json!({"input": ["a"], "modality": "text"}))),
        ("/v1/embeddings", json!({"input": ["a"], "truncation": true, "output_dtype": "int8", "output_dimension": 8})),
        ("/v2/embed", json!({"texts": ["a", "b"], "embedding_types": ["float", "int8", "ubinary"], "truncate": "END"})),
        ("/v2/embed", json!({"images": [url], "input_type": "image", "output_dimension": 8})),
        ("/v2/embed", json!({"inputs": [{"content": [part]}, {"content": [{"type": "text", "text": "a"}]}]})),
        ("/v1/embed", json!({"texts": ["a"], "model": "clip"})),
        (
            "/v1/multimodalembeddings",
            json!({"inputs": [{"content": [{"type": "image_base64", "image_base64": url}]}], "encoding_format": "base64", "output_dtype": null}),
        ),
        ("/v1/classify", json!({"input": [{"text": "a"}, {"image": base64}], "labels": ["a", "b"]})),
        ("/v1/classify", json!({"input": ["a"], "labels": {"colour": ["a", "b"], "size": ["c", "d"]}})),
        ("/vectorize", json!({"texts": ["a"], "images": [base64]})),
        ("/embed", json!({"inputs": ["a", "b"], "truncate": true, "normalize": false, "dimensions": 8})),
        ("/", json!({"inputs": "a"})),
        ("/tokenize", json!({"inputs": ["a cat"], "add_special_tokens": true})),
        ("/decode", json!({"ids": [[320, 539]], "skip_special_tokens": true})),
        ("/similarity", json!({"inputs": {"source_sentence": "a", "sentences": ["b", "c"]}})),
        (
            "/v2/models/clip/infer",
            json!({"inputs": [{"name": "texts", "datatype": "BYTES", "shape": [2], "data": ["a", "b"]}], "outputs": [{"name": "text_embeds"}]}),
        ),
        (
            "/v2/models/clip/infer",
            json!({"inputs": [
                {"name": "images", "datatype": "BYTES", "shape": [1, 1], "data": [base64]},
                {"name": "input_ids", "datatype": "INT64", "shape": [1, 3], "data": [3070, 320, 3071]},
                {"name": "attention_mask", "datatype": "INT64", "shape": [1, 3], "data": [1, 1, 1]},
            ]}),
        ),
    ];
    let json_seeds = json_seeds.map(|(path, body)| Seed::post(path, JSON, body.to_string()));
    let rest = [
        Seed::form("/embed/image", &[]),
        Seed::form("/similarity", &["text", "text"]),
        Seed::form("/classify", &["label", "template"]),
        Seed::post("/embed/image", "image/png", PICTURE),
        Seed::post("/embed/text", "text/plain", "a cat"),
        Seed::immichs(r#"{"clip":{"visual":{"modelName":"clip"}}}"#, None),
        Seed::immichs(r#"{"clip":{"textual":{"modelName":"clip","options":{"language":"en"}}}}"#, Some("a cat")),
        Seed::get("/"),
        Seed::get("/page/style.css"),
        Seed::get("/openapi.json"),
        Seed::get("/docs"),
        Seed::get("/ping"),
        Seed::get("/health"),
        Seed::get("/meta"),
        Seed::get("/models"),
        Seed::get("/v1/models"),
        Seed::get("/v1/models/clip"),
        Seed::get("/v1/health/live"),
        Seed::get("/v1/health/ready"),
        Seed::get("/.well-known/live"),
        Seed::get("/.well-known/ready"),
        Seed::get("/v2"),
        Seed::get("/v2/health/live"),
        Seed::get("/v2/health/ready"),
        Seed::get("/v2/models/clip"),
        Seed::get("/v2/models/clip/config"),
        Seed::post("/v2/repository/index", JSON, "{}"),
        Seed::get("/info"),
        Seed::get("/livez"),
        Seed::get("/readyz"),
        Seed::get("/metrics"),
    ];
    json_seeds.into_iter().chain(rest).collect()
}

/// A form with a text in each of the `fields`, and a picture.
fn multipart(fields: &[&str]) -> Vec<u8> {
    let mut body = Vec::new();
    for name in fields {
        let head = format!("--{BOUNDARY}\r\ncontent-disposition: form-data; name=\"{name}\"\r\n\r\na {{}}\r\n");
        body.extend_from_slice(head.as_bytes());
    }
    let head = "content-disposition: form-data; name=\"images\"; filename=\"a.png\"\r\ncontent-type: image/png\r\n\r\n";
    body.extend_from_slice(format!("--{BOUNDARY}\r\n{head}").as_bytes());
    body.extend_from_slice(PICTURE);
    body.extend_from_slice(format!("\r\n--{BOUNDARY}--\r\n").as_bytes());
    body
}

/// What stands nowhere in JSON, or nowhere in a form.
const ODD_TEXTS: [&[u8]; 14] = [
    b"1e400",
    b"99999999999999999999999",
    b"\"\\ud800\"",
    b"\xff\xfe",
    b"\0",
    b",,",
    b"[[[[[[[[",
    b"}}",
    b"\\",
    b"\r\n\r\n",
    b"--seed-boundary--\r\n",
    b"--seed-boundary\r\n",
    b"\"; name=\"",
    b"\xef\xbb\xbf",
];

const ODD_TYPES: [&str; 10] = [
    "",
    JSON,
    "text/plain",
    "image/png",
    "multipart/form-data",
    "multipart/form-data; boundary=",
    "multipart/form-data; boundary=x",
    "application/octet-stream",
    "application/x-www-form-urlencoded",
    "application/json; charset=utf-16",
];

/// The names that the seeds have, of which one may stand where another was.
const NAMES: [&str; 24] = [
    "input",
    "messages",
    "texts",
    "images",
    "image_embeds",
    "text_embeds",
    "labels",
    "templates",
    "model",
    "dimensions",
    "outputs",
    "encoding_format",
    "embedding_type",
    "modality",
    "truncate",
    "normalize",
    "priority",
    "type",
    "text",
    "image",
    "image_url",
    "url",
    "content",
    "role",
];

/// Breaks a body as bytes.
fn mutate_bytes(body: &mut Vec<u8>, rng: &mut Rng) {
    let at = rng.usize(..=body.len());
    let end = at + rng.usize(..=(body.len() - at).min(64));
    match rng.u8(..8) {
        0 => body.truncate(at),
        1 => drop(body.drain(at..end)),
        2 => {
            let twice = body[at..end].to_vec();
            body.splice(at..at, twice);
        }
        3 => drop(body.splice(at..end, ODD_TEXTS[rng.usize(..ODD_TEXTS.len())].iter().copied())),
        4 => {
            let deep = rng.usize(..100_000);
            body.splice(at..at, std::iter::repeat_n(if rng.bool() { b'[' } else { b'{' }, deep));
        }
        5 => {
            // The first member twice, as the parser sees the second one.
            if let (Some(b'{'), Some(comma)) = (body.first(), body.iter().position(|&byte| byte == b',')) {
                let member = body[1..=comma].to_vec();
                body.splice(1..1, member);
            }
        }
        6 => {
            // A head of a form, or any other word, with something else in it.
            let words: [&[u8]; 6] = [b"form-data", b"name=", b"content-disposition", b"filename", b"\r\n\r\n", b"\""];
            let word = words[rng.usize(..words.len())];
            if let Some(found) = body.windows(word.len()).position(|window| window == word) {
                let odd = ODD_TEXTS[rng.usize(..ODD_TEXTS.len())];
                body.splice(found..found + word.len(), odd.iter().copied());
            }
        }
        _ => {
            for _ in 0..rng.usize(1..=8) {
                let at = rng.usize(..body.len().max(1));
                if let Some(byte) = body.get_mut(at) {
                    *byte ^= rng.u8(1..);
                }
            }
        }
    }
}

/// The request of that number: a seed, broken once to three times.
pub(crate) fn request(seeds: &[Seed], number: u64) -> (&'static str, http::Request<Vec<u8>>) {
    let mut rng = Rng::with_seed(number);
    let seed = &seeds[rng.usize(..seeds.len())];
    let mut body = seed.body.clone();
    if let Ok(mut value) = serde_json::from_slice::<Value>(&body)
        && rng.u8(..4) > 0
    {
        (0..rng.usize(1..=2)).for_each(|_| values::mutate(&mut value, &NAMES, &mut rng));
        body = value.to_string().into_bytes();
    }
    if rng.bool() || body == seed.body {
        mutate_bytes(&mut body, &mut rng);
    }
    let content_type = if rng.u8(..8) == 0 { ODD_TYPES[rng.usize(..ODD_TYPES.len())] } else { &seed.content_type };
    let query = if rng.u8(..16) == 0 { "?normalize=perhaps&outputs=,&dimensions=%ff" } else { "" };
    let method = if rng.u8(..32) == 0 { "GET" } else { seed.method };
    let mut request = http::Request::new(body);
    *request.method_mut() = method.parse().expect("a method");
    *request.uri_mut() = format!("{}{query}", seed.path).parse().expect("an address");
    if !content_type.is_empty() {
        request.headers_mut().insert("content-type", content_type.parse().expect("a header"));
    }
    (seed.path, request)
}
