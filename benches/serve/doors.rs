//! Every door by which one picture comes in, and what each answers for it: the native routes with each carrier, and other services' shapes.
//!
//! Owns how the request of each looks and where its answer has the embedding. Does not send anything. The shapes are those of
//! `docs/api.md`, `docs/clients.md` and `docs/open-inference-protocol.md`.

use std::io::Write;

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use http::{HeaderValue, Request, header};
use serde_json::{Value, json};

use crate::{Result, asker::post};

const JSON: &str = "application/json";
const BOUNDARY: &str = "a-boundary-of-the-doors";

/// The name of the model in the box.
const MODEL: &str = "emoji-clip";

/// One picture and what is made of it once for all doors.
pub(crate) struct Carried {
    bytes: Bytes,
    base64: String,
    url: String,
}

impl Carried {
    pub(crate) fn new(bytes: Vec<u8>) -> Self {
        let base64 = STANDARD.encode(&bytes);
        let url = format!("data:image/png;base64,{base64}");
        Self { bytes: bytes.into(), base64, url }
    }
}

/// What a door answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gives {
    /// The picture's embedding, at that place of the answer.
    Embedding(&'static str),
    /// Something that is made of it.
    Something,
}

/// One door.
pub(crate) struct Door {
    pub(crate) name: &'static str,
    pub(crate) gives: Gives,
    /// What is 413 or 415 elsewhere is 400 there: its client would take these for faults of the service.
    pub(crate) knows_few_statuses: bool,
    request: fn(&Carried) -> Result<Request<Bytes>>,
}

impl Door {
    /// The request for that picture.
    pub(crate) fn request(&self, carried: &Carried) -> Result<Request<Bytes>> {
        (self.request)(carried)
    }

    /// The embedding in an answer, of length one.
    ///
    /// # Errors
    /// When it is not where it should be.
    pub(crate) fn embedding(at: &str, answer: &[u8]) -> Result<Vec<f64>> {
        let answer: Value = serde_json::from_slice(answer)?;
        let found = answer.pointer(at).ok_or_else(|| format!("there is no {at}"))?;
        // Immich has it as JSON in a string.
        let inner = found.as_str().map(serde_json::from_str::<Value>).transpose()?;
        let row = inner.as_ref().unwrap_or(found).as_array().ok_or_else(|| format!("{at} is no list"))?;
        let row = row.iter().map(|value| value.as_f64().ok_or_else(|| format!("{value} is no number")));
        let row = row.collect::<std::result::Result<Vec<f64>, _>>()?;
        let length = row.iter().map(|value| value * value).sum::<f64>().sqrt();
        Ok(row.iter().map(|value| value / length).collect())
    }
}

/// All of them. The first is what the others are compared with.
pub(crate) const DOORS: [Door; 22] = [
    Door {
        name: "/embed/image, raw",
        gives: Gives::Embedding("/embeddings/0"),
        knows_few_statuses: false,
        request: |it| post("/embed/image", "application/octet-stream", it.bytes.clone()),
    },
    Door {
        name: "/embed/image, raw in gzip",
        gives: Gives::Embedding("/embeddings/0"),
        knows_few_statuses: false,
        request: |it| {
            let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
            gzip.write_all(&it.bytes)?;
            let mut request = post("/embed/image", "image/png", gzip.finish()?)?;
            request.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            Ok(request)
        },
    },
    Door {
        name: "/embed/image, multipart",
        gives: Gives::Embedding("/embeddings/0"),
        knows_few_statuses: false,
        request: |it| form("/embed/image", &[("image", &it.bytes)]),
    },
    Door {
        name: "/embed/image, base64",
        gives: Gives::Embedding("/embeddings/0"),
        knows_few_statuses: false,
        request: |it| sent("/embed/image", &json!({"images": it.base64})),
    },
    Door {
        name: "/embed/image, data URL",
        gives: Gives::Embedding("/embeddings/0"),
        knows_few_statuses: false,
        request: |it| sent("/embed/image", &json!({"images": [it.url]})),
    },
    Door {
        name: "/similarity, multipart",
        gives: Gives::Something,
        knows_few_statuses: false,
        request: |it| form("/similarity", &[("text", b"a cat"), ("image", &it.bytes)]),
    },
    Door {
        name: "/similarity, base64",
        gives: Gives::Embedding("/image_embeds/0"),
        knows_few_statuses: false,
        request: |it| sent("/similarity", &json!({"images": [it.base64], "texts": ["a cat"], "return_embeds": true})),
    },
    Door {
        name: "/classify, base64",
        gives: Gives::Something,
        knows_few_statuses: false,
        request: |it| sent("/classify", &json!({"images": [it.base64], "labels": ["a cat", "a dog"]})),
    },
    Door {
        name: "OpenAI, data URL",
        gives: Gives::Embedding("/data/0/embedding"),
        knows_few_statuses: false,
        request: |it| sent("/v1/embeddings", &json!({"model": MODEL, "input": [it.url]})),
    },
    Door {
        name: "infinity, base64 with a modality",
        gives: Gives::Embedding("/data/0/embedding"),
        knows_few_statuses: false,
        request: |it| sent("/v1/embeddings", &json!({"model": MODEL, "input": [it.base64], "modality": "image"})),
    },
    Door {
        name: "vLLM, a conversation",
        gives: Gives::Embedding("/data/0/embedding"),
        knows_few_statuses: false,
        request: |it| {
            let content = [json!({"type": "image_url", "image_url": {"url": it.url}})];
            sent("/v1/embeddings", &json!({"model": MODEL, "messages": [{"role": "user", "content": content}]}))
        },
    },
    Door {
        name: "Jina, base64",
        gives: Gives::Embedding("/data/0/embedding"),
        knows_few_statuses: false,
        request: |it| sent("/v1/embeddings", &json!({"model": MODEL, "input": [{"image": it.base64}]})),
    },
    Door {
        name: "Jina, /v1/classify",
        gives: Gives::Something,
        knows_few_statuses: false,
        request: |it| {
            sent(
                "/v1/classify",
                &json!({"model": MODEL, "input": [{"image": it.base64}], "labels": ["a cat", "a dog"]}),
            )
        },
    },
    Door {
        name: "Cohere, first version",
        gives: Gives::Embedding("/embeddings/0"),
        knows_few_statuses: false,
        request: |it| sent("/v1/embed", &json!({"model": MODEL, "images": [it.url], "input_type": "image"})),
    },
    Door {
        name: "Cohere, images",
        gives: Gives::Embedding("/embeddings/float/0"),
        knows_few_statuses: false,
        request: |it| {
            let body = json!({"model": MODEL, "images": [it.url], "input_type": "image", "embedding_types": ["float"]});
            sent("/v2/embed", &body)
        },
    },
    Door {
        name: "Cohere, inputs",
        gives: Gives::Embedding("/embeddings/float/0"),
        knows_few_statuses: false,
        request: |it| {
            let content = [json!({"type": "image_url", "image_url": {"url": it.url}})];
            sent("/v2/embed", &json!({"model": MODEL, "inputs": [{"content": content}], "embedding_types": ["float"]}))
        },
    },
    Door {
        name: "Voyage, data URL",
        gives: Gives::Embedding("/data/0/embedding"),
        knows_few_statuses: true,
        request: |it| {
            let content = [json!({"type": "image_base64", "image_base64": it.url})];
            sent("/v1/multimodalembeddings", &json!({"model": MODEL, "inputs": [{"content": content}]}))
        },
    },
    Door {
        name: "Intel, base64",
        gives: Gives::Embedding("/embedding"),
        knows_few_statuses: false,
        request: |it| {
            let input = json!({"type": "image_base64", "image_base64": it.base64});
            sent("/embeddings", &json!({"model": MODEL, "input": input, "encoding_format": "float"}))
        },
    },
    Door {
        name: "Weaviate, base64",
        gives: Gives::Embedding("/imageVectors/0"),
        knows_few_statuses: false,
        request: |it| sent("/vectorize", &json!({"texts": [], "images": [it.base64]})),
    },
    Door {
        name: "Open Inference Protocol, base64",
        gives: Gives::Embedding("/outputs/0/data"),
        knows_few_statuses: false,
        request: |it| {
            let input = json!({"name": "images", "datatype": "BYTES", "shape": [1], "data": [it.base64]});
            sent(INFER, &json!({"inputs": [input], "outputs": [OUTPUT.parse::<Value>()?]}))
        },
    },
    Door {
        name: "Open Inference Protocol, binary tensor",
        gives: Gives::Embedding("/outputs/0/data"),
        knows_few_statuses: false,
        request: |it| {
            let parameters = json!({"binary_data_size": it.bytes.len() + 4});
            let input = json!({"name": "images", "datatype": "BYTES", "shape": [1], "parameters": parameters});
            let head = json!({"inputs": [input], "outputs": [OUTPUT.parse::<Value>()?]}).to_string();
            let length = u32::try_from(it.bytes.len())?.to_le_bytes();
            let body = [head.as_bytes(), &length, &it.bytes].concat();
            let mut request = post(INFER, "application/octet-stream", body)?;
            request.headers_mut().insert("inference-header-content-length", HeaderValue::from(head.len()));
            Ok(request)
        },
    },
    Door {
        name: "Immich, multipart",
        gives: Gives::Embedding("/clip"),
        knows_few_statuses: false,
        request: |it| {
            let entries = json!({"clip": {"visual": {"modelName": MODEL}}}).to_string();
            form("/predict", &[("entries", entries.as_bytes()), ("image", &it.bytes)])
        },
    },
];

const INFER: &str = "/v2/models/emoji-clip/infer";
const OUTPUT: &str = r#"{"name": "image_embeds", "parameters": {"binary_data": false}}"#;

fn sent(path: &str, body: &Value) -> Result<Request<Bytes>> {
    post(path, JSON, body.to_string())
}

/// A form of these fields, of which `image` is a file.
fn form(path: &str, fields: &[(&str, &[u8])]) -> Result<Request<Bytes>> {
    let mut body = Vec::new();
    for (name, value) in fields {
        let file = if *name == "image" { "; filename=\"a\"" } else { "" };
        let head = format!("--{BOUNDARY}\r\ncontent-disposition: form-data; name=\"{name}\"{file}\r\n\r\n");
        body.extend([head.as_bytes(), value, b"\r\n"].concat());
    }
    body.extend(format!("--{BOUNDARY}--\r\n").into_bytes());
    post(path, &format!("multipart/form-data; boundary={BOUNDARY}"), body)
}
