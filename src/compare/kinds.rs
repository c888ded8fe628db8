//! What other services are asked, and what they answer: one shape of requests and answers for each [`Kind`].
//!
//! Owns paths, bodies and the reading of answers. Does not own sending them (`peer`).
//!
//! Invariant: what [`Kind::read`] returns has as many embeddings as were asked for, in the order of the items, all of one length,
//! finite, and none of zeros; anything else of an answer is refused in words that repeat nothing of it.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use clap::ValueEnum;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::embedder::picture_header;

/// Whose routes the other service speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// `POST /v1/embeddings`; pictures as strings of data URLs.
    Openai,
    /// vLLM's `POST /v1/embeddings`: pictures as `messages`; as strings it would take them for texts.
    Vllm,
    /// infinity's `POST /embeddings`, with `modality`.
    Infinity,
    /// The container of Weaviate's multi2vec-clip: `POST /vectorize`.
    Weaviate,
    /// Immich's machine learning: `POST /predict`.
    Immich,
    /// `POST /embed` of text-embeddings-inference, which has texts alone.
    Tei,
    /// `POST /v2/embed`.
    Cohere,
    /// `POST /v1/multimodalembeddings`.
    Voyage,
    /// `POST /v1/embeddings` with objects.
    Jina,
    /// Another clipserve, by its own routes.
    Clipserve,
}

/// What is to be embedded by one request; never nothing.
#[derive(Clone, Copy, Debug)]
pub(super) enum Items<'a> {
    /// The bytes of files.
    Pictures(&'a [Bytes]),
    /// Texts.
    Texts(&'a [String]),
}

impl Items<'_> {
    /// How many.
    pub(super) fn len(self) -> usize {
        match self {
            Self::Pictures(pictures) => pictures.len(),
            Self::Texts(texts) => texts.len(),
        }
    }
}

/// The body of a request.
#[derive(Debug)]
pub(super) struct Body {
    pub(super) content_type: String,
    pub(super) bytes: Vec<u8>,
}

impl Kind {
    /// As `--kind` has it.
    pub(super) fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// Whether it embeds pictures.
    pub(super) fn has_pictures(self) -> bool {
        self != Self::Tei
    }

    /// How many pictures one request brings: few enough for all of them. A conversation has one embedding, and Cohere's embed-v3
    /// takes one picture.
    pub(super) fn pictures_at_once(self) -> usize {
        if matches!(self, Self::Immich | Self::Cohere | Self::Vllm) { 1 } else { 8 }
    }

    /// How many texts one request brings: 32 is what infinity and TEI take.
    pub(super) fn texts_at_once(self) -> usize {
        if self == Self::Immich { 1 } else { 32 }
    }

    /// Where it is asked, below its base URL.
    pub(super) fn path(self, items: Items<'_>) -> &'static str {
        match (self, items) {
            (Self::Openai | Self::Vllm | Self::Jina, _) => "/v1/embeddings",
            (Self::Infinity, _) => "/embeddings",
            (Self::Weaviate, _) => "/vectorize",
            (Self::Immich, _) => "/predict",
            (Self::Tei, _) => "/embed",
            (Self::Cohere, _) => "/v2/embed",
            (Self::Voyage, _) => "/v1/multimodalembeddings",
            (Self::Clipserve, Items::Pictures(_)) => "/embed/image",
            (Self::Clipserve, Items::Texts(_)) => "/embed/text",
        }
    }

    /// What is sent for `items`.
    pub(super) fn body(self, model: Option<&str>, items: Items<'_>) -> Body {
        let mut body = match (self, items) {
            (Self::Openai, Items::Pictures(pictures)) => {
                json!({"input": data_urls(pictures), "encoding_format": "float"})
            }
            (Self::Vllm, Items::Pictures(pictures)) => {
                let part = |url: String| json!({"type": "image_url", "image_url": {"url": url}});
                let content: Vec<_> = data_urls(pictures).into_iter().map(part).collect();
                json!({"messages": [{"role": "user", "content": content}], "encoding_format": "float"})
            }
            (Self::Openai | Self::Vllm, Items::Texts(texts)) => json!({"input": texts, "encoding_format": "float"}),
            (Self::Infinity, Items::Pictures(pictures)) => {
                json!({"input": data_urls(pictures), "modality": "image", "encoding_format": "float"})
            }
            (Self::Infinity, Items::Texts(texts)) => {
                json!({"input": texts, "modality": "text", "encoding_format": "float"})
            }
            (Self::Weaviate, Items::Pictures(pictures)) => json!({"texts": [], "images": encoded(pictures)}),
            (Self::Weaviate, Items::Texts(texts)) => json!({"texts": texts, "images": []}),
            (Self::Tei, Items::Texts(texts)) => json!({"inputs": texts, "truncate": true}),
            // Nobody asks (`has_pictures`); as a text, a picture would have a meaningless embedding.
            (Self::Tei, Items::Pictures(_)) => json!({"inputs": []}),
            (Self::Cohere, Items::Pictures(pictures)) => {
                json!({"input_type": "image", "images": data_urls(pictures), "embedding_types": ["float"]})
            }
            (Self::Cohere, Items::Texts(texts)) => {
                json!({"input_type": "search_document", "texts": texts, "embedding_types": ["float"]})
            }
            (Self::Voyage, Items::Pictures(pictures)) => {
                let part = |url: String| json!({"content": [{"type": "image_base64", "image_base64": url}]});
                json!({"inputs": data_urls(pictures).into_iter().map(part).collect::<Vec<_>>()})
            }
            (Self::Voyage, Items::Texts(texts)) => {
                let part = |text: &String| json!({"content": [{"type": "text", "text": text}]});
                json!({"inputs": texts.iter().map(part).collect::<Vec<_>>()})
            }
            (Self::Jina, Items::Pictures(pictures)) => {
                let part = |image: String| json!({"image": image});
                json!({"input": encoded(pictures).into_iter().map(part).collect::<Vec<_>>()})
            }
            (Self::Jina, Items::Texts(texts)) => {
                json!({"input": texts.iter().map(|text| json!({"text": text})).collect::<Vec<_>>()})
            }
            (Self::Clipserve, Items::Pictures(pictures)) => json!({"images": encoded(pictures)}),
            (Self::Clipserve, Items::Texts(texts)) => json!({"texts": texts}),
            (Self::Immich, items) => return immich(model.unwrap_or_default(), items),
        };
        let model = match self {
            Self::Infinity => model.or(Some("default/not-specified")),
            Self::Weaviate | Self::Tei | Self::Clipserve => None,
            _ => model,
        };
        if let (Some(model), Value::Object(body)) = (model, &mut body) {
            body.insert("model".to_owned(), model.into());
        }
        Body { content_type: "application/json".to_owned(), bytes: body.to_string().into_bytes() }
    }

    /// The embeddings in the answer for `items`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn read(self, items: Items<'_>, answer: &[u8]) -> Result<Vec<Vec<f32>>, String> {
        let embeddings = match self {
            Self::Openai | Self::Vllm | Self::Infinity | Self::Voyage | Self::Jina => {
                in_order(parsed::<Data>(answer)?.data)?
            }
            Self::Weaviate => {
                let answer: Vectorized = parsed(answer)?;
                if matches!(items, Items::Pictures(_)) { answer.image_vectors } else { answer.text_vectors }
            }
            Self::Immich => vec![parsed(parsed::<Predicted>(answer)?.clip.as_bytes())?],
            Self::Tei => parsed(answer)?,
            Self::Cohere => parsed::<ByType<Floats>>(answer)?.embeddings.float,
            Self::Clipserve => parsed::<ByType<Vec<Vec<f32>>>>(answer)?.embeddings,
        };
        check(&embeddings, items.len())?;
        Ok(embeddings)
    }
}

fn check(embeddings: &[Vec<f32>], asked: usize) -> Result<(), String> {
    if embeddings.len() != asked {
        return Err(format!("it answers {} embeddings for {asked} items", embeddings.len()));
    }
    let dim = embeddings.first().map_or(0, Vec::len);
    if embeddings.iter().any(|embedding| embedding.len() != dim) {
        return Err("its embeddings differ in length".to_owned());
    }
    if embeddings.iter().flatten().any(|value| !value.is_finite()) {
        return Err("an embedding holds what is no finite f32".to_owned());
    }
    // An empty one is of zeros, too.
    if embeddings.iter().any(|embedding| embedding.iter().all(|&value| value == 0.0)) {
        return Err("an embedding is all zeros".to_owned());
    }
    Ok(())
}

/// The `data` of OpenAI's answer and of those after it.
#[derive(Deserialize)]
struct Data {
    data: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    index: Option<usize>,
    embedding: Values,
}

/// Numbers, or the base64 of little-endian f32, which is what some answer whatever they are asked for.
#[derive(Deserialize)]
#[serde(untagged)]
enum Values {
    List(Vec<f32>),
    Base64(String),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Vectorized {
    #[serde(default)]
    text_vectors: Vec<Vec<f32>>,
    #[serde(default)]
    image_vectors: Vec<Vec<f32>>,
}

#[derive(Deserialize)]
struct Predicted {
    /// JSON in a string.
    clip: String,
}

#[derive(Deserialize)]
struct ByType<T> {
    embeddings: T,
}

#[derive(Deserialize)]
struct Floats {
    float: Vec<Vec<f32>>,
}

fn parsed<T: DeserializeOwned>(json: &[u8]) -> Result<T, String> {
    // The parser's words may repeat what it read; where it was is enough.
    serde_json::from_slice(json).map_err(|error| {
        format!("it is not JSON of the kind's shape (line {}, column {})", error.line(), error.column())
    })
}

/// The embeddings by their `index`, where they have one.
fn in_order(entries: Vec<Entry>) -> Result<Vec<Vec<f32>>, String> {
    let mut ordered: Vec<Option<Vec<f32>>> = Vec::new();
    ordered.resize_with(entries.len(), || None);
    for (place, entry) in entries.into_iter().enumerate() {
        let values = match entry.embedding {
            Values::List(values) => values,
            Values::Base64(text) => from_base64(&text).ok_or("an embedding is no base64 of f32")?,
        };
        let slot = ordered.get_mut(entry.index.unwrap_or(place)).filter(|slot| slot.is_none());
        *slot.ok_or("an index is there twice, or too large")? = Some(values);
    }
    Ok(ordered.into_iter().flatten().collect())
}

fn from_base64(text: &str) -> Option<Vec<f32>> {
    let bytes = BASE64_STANDARD.decode(text).ok()?;
    let (values, rest) = bytes.as_chunks::<4>();
    rest.is_empty().then(|| values.iter().map(|&value| f32::from_le_bytes(value)).collect())
}

fn encoded(pictures: &[Bytes]) -> Vec<String> {
    pictures.iter().map(|picture| BASE64_STANDARD.encode(picture)).collect()
}

fn data_urls(pictures: &[Bytes]) -> Vec<String> {
    let url = |picture: &Bytes| {
        let kind = picture_header(picture).map_or("jpeg", |header| header.format.as_str());
        format!("data:image/{kind};base64,{}", BASE64_STANDARD.encode(picture))
    };
    pictures.iter().map(url).collect()
}

/// Immich's form: `entries`, and one item.
fn immich(model: &str, items: Items<'_>) -> Body {
    let boundary = format!("clipserve-{}", Uuid::now_v7().simple());
    let (entries, head, item): (_, _, &[u8]) = match items {
        Items::Pictures(pictures) => (
            json!({"clip": {"visual": {"modelName": model}}}),
            "name=\"image\"; filename=\"blob\"\r\nContent-Type: application/octet-stream",
            pictures.first().map_or(&[], |picture| picture),
        ),
        Items::Texts(texts) => (
            json!({"clip": {"textual": {"modelName": model, "options": {}}}}),
            "name=\"text\"",
            texts.first().map_or(&[], |text| text.as_bytes()),
        ),
    };
    let entries = format!(
        "--{boundary}\r\nContent-Disposition: form-data; name=\"entries\"\r\n\r\n{entries}\r\n\
         --{boundary}\r\nContent-Disposition: form-data; {head}\r\n\r\n"
    );
    let bytes = [entries.as_bytes(), item, format!("\r\n--{boundary}--\r\n").as_bytes()].concat();
    Body { content_type: format!("multipart/form-data; boundary={boundary}"), bytes }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(count: usize) -> Vec<String> {
        vec!["t".to_owned(); count]
    }

    fn read(kind: Kind, count: usize, answer: &str) -> Result<Vec<Vec<f32>>, String> {
        kind.read(Items::Texts(&texts(count)), answer.as_bytes())
    }

    #[test]
    fn each_kind_answers_in_its_own_shape() {
        let two = vec![vec![1.0, -0.5], vec![0.0, 2.0]];
        let data = r#"{"data":[{"index":1,"embedding":[0,2]},{"index":0,"embedding":[1,-0.5]}],"usage":{}}"#;
        for (kind, answer) in [
            (Kind::Openai, data),
            (Kind::Vllm, data),
            (Kind::Infinity, data),
            (Kind::Jina, data),
            (Kind::Voyage, r#"{"data":[{"embedding":"AACAPwAAAL8="},{"embedding":"AAAAAAAAAEA="}]}"#),
            (Kind::Weaviate, r#"{"textVectors":[[1.0,-0.5],[0,2]],"imageVectors":[]}"#),
            (Kind::Tei, "[[1,-0.5],[0,2]]"),
            (Kind::Cohere, r#"{"id":"x","embeddings":{"float":[[1,-0.5],[0,2]],"int8":null}}"#),
            (Kind::Clipserve, r#"{"embeddings":[[1,-0.5],[0,2]],"dim":2}"#),
        ] {
            assert_eq!(read(kind, 2, answer).unwrap(), two, "{kind:?}");
        }
        assert_eq!(read(Kind::Immich, 1, r#"{"clip":"[1,-0.5]"}"#).unwrap(), two[..1]);
        let pictures = [Bytes::new()];
        let answer = br#"{"textVectors":[],"imageVectors":[[1.0,-0.5]]}"#;
        assert_eq!(Kind::Weaviate.read(Items::Pictures(&pictures), answer).unwrap(), two[..1]);
    }

    #[test]
    fn what_is_no_answer_is_refused_and_not_repeated() {
        for (kind, count, answer, wants) in [
            (Kind::Tei, 1, "<html>secret", "not JSON"),
            (Kind::Tei, 1, r#"{"secret":1}"#, "not JSON of"),
            (Kind::Tei, 2, "[[1]]", "1 embeddings for 2 items"),
            (Kind::Tei, 2, "[[1],[1,2]]", "differ in length"),
            (Kind::Tei, 1, "[[1e39]]", "finite"),
            (Kind::Tei, 1, "[[1e999]]", "not JSON"),
            (Kind::Tei, 1, "[[null]]", "not JSON"),
            (Kind::Tei, 1, "[[0,0]]", "zeros"),
            (Kind::Tei, 1, "[[]]", "zeros"),
            (Kind::Openai, 1, r#"{"data":[{"embedding":"AADAfw=="}]}"#, "finite"),
            (Kind::Openai, 1, r#"{"data":[{"embedding":"AADA"}]}"#, "base64"),
            (Kind::Openai, 1, r#"{"data":[{"embedding":"?"}]}"#, "base64"),
            (Kind::Openai, 1, r#"{"data":[{"index":1,"embedding":[1]}]}"#, "index"),
            (Kind::Openai, 2, r#"{"data":[{"index":0,"embedding":[1]},{"index":0,"embedding":[1]}]}"#, "twice"),
            (Kind::Openai, 1, r#"{"data":[{"index":18446744073709551615,"embedding":[1]}]}"#, "too large"),
            (Kind::Immich, 1, r#"{"clip":[1]}"#, "not JSON of"),
            (Kind::Immich, 1, r#"{"clip":"secret"}"#, "not JSON"),
        ] {
            let error = read(kind, count, answer).unwrap_err();
            assert!(error.contains(wants) && !error.contains("secret"), "{answer}: {error}");
        }
    }

    #[test]
    fn the_name_of_the_model_goes_to_those_that_have_the_field() {
        let body = |kind: Kind, model| {
            let body = kind.body(model, Items::Texts(&texts(1)));
            serde_json::from_slice::<Value>(&body.bytes).unwrap()
        };
        for kind in [Kind::Openai, Kind::Vllm, Kind::Infinity, Kind::Cohere, Kind::Voyage, Kind::Jina] {
            assert_eq!(body(kind, Some("m"))["model"], "m", "{kind:?}");
        }
        assert_eq!(body(Kind::Infinity, None)["model"], "default/not-specified");
        for kind in [Kind::Openai, Kind::Vllm, Kind::Cohere, Kind::Voyage, Kind::Jina] {
            assert_eq!(body(kind, None).get("model"), None, "{kind:?}");
        }
        for kind in [Kind::Weaviate, Kind::Tei, Kind::Clipserve] {
            assert_eq!(body(kind, Some("m")).get("model"), None, "{kind:?}");
        }
    }

    #[test]
    fn a_data_url_says_what_the_picture_is() {
        for (bytes, start) in [
            (&include_bytes!("../../tests/fixtures/images/one_pixel.png")[..], "data:image/png;base64,"),
            (include_bytes!("../../tests/fixtures/images/cat_420.jpg"), "data:image/jpeg;base64,"),
            (include_bytes!("../../tests/fixtures/images/cat_lossy.webp"), "data:image/webp;base64,"),
        ] {
            assert!(data_urls(&[Bytes::from_static(bytes)])[0].starts_with(start), "{start}");
        }
    }
}
