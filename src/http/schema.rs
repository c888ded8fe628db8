//! What the OpenAPI document says of values that serde alone does not know the shape of: lists that stay unread, and arrays.
//!
//! Owns those shapes, as types that are never made. Does not own the document (`openapi`).

#![expect(dead_code, reason = "these types are read by the macro that derives their schemas, and by nobody else")]

use std::collections::BTreeMap;

use schemars::JsonSchema;

/// One picture or several: each as standard base64 of its file, or as a data URL.
#[derive(JsonSchema)]
#[schemars(untagged)]
pub(in crate::http) enum Pictures {
    One(#[schemars(length(min = 1))] String),
    More(#[schemars(length(min = 1))] Vec<Picture>),
}

/// Standard base64 of a picture's file, or a data URL of it.
#[derive(JsonSchema)]
pub(in crate::http) struct Picture(#[schemars(length(min = 1))] String);

/// One text or several.
#[derive(JsonSchema)]
#[schemars(untagged)]
pub(in crate::http) enum Texts {
    One(String),
    More(#[schemars(length(min = 1))] Vec<String>),
}

/// Embeddings of an earlier answer, each as long as the model's.
#[derive(JsonSchema)]
pub(in crate::http) struct Embeds(#[schemars(length(min = 1))] Vec<Vec<f32>>);

/// A row of numbers for each item, or base64 of its bytes for each.
#[derive(JsonSchema)]
#[schemars(untagged)]
pub(in crate::http) enum Rows {
    Numbers(Vec<Vec<f32>>),
    Base64(Vec<String>),
}

/// As `Rows`, with null for an item that has none.
#[derive(JsonSchema)]
#[schemars(untagged)]
pub(in crate::http) enum RowsOrNull {
    Numbers(Vec<Option<Vec<f32>>>),
    Base64(Vec<Option<String>>),
}

/// Why an item has no embedding.
#[derive(JsonSchema)]
pub(in crate::http) struct ItemError {
    index: usize,
    code: String,
    message: String,
}

/// A row of numbers for each item.
#[derive(JsonSchema)]
pub(in crate::http) struct Matrix(Vec<Vec<f32>>);

/// Arrays by the names of outputs: nested lists, or their shape and base64 of little-endian f32 in C order.
#[derive(JsonSchema)]
pub(in crate::http) struct Arrays(BTreeMap<String, Array>);

/// Nested lists, or a packed array.
#[derive(JsonSchema)]
#[schemars(untagged)]
pub(in crate::http) enum Array {
    Nested(Vec<serde_json::Value>),
    Packed { shape: Vec<usize>, data: String },
}

/// A text, a data URL, an object with one of them, or a list of these.
#[derive(JsonSchema)]
#[schemars(untagged)]
pub(in crate::http) enum OpenAiInput {
    Text(String),
    Object(BTreeMap<String, serde_json::Value>),
    More(#[schemars(length(min = 1))] Vec<OpenAiItem>),
}

/// One of a list of inputs.
#[derive(JsonSchema)]
#[schemars(untagged)]
pub(in crate::http) enum OpenAiItem {
    Text(String),
    Object(BTreeMap<String, serde_json::Value>),
    Conversation(#[schemars(length(min = 1))] Vec<BTreeMap<String, serde_json::Value>>),
}

/// One embedding.
#[derive(JsonSchema)]
pub(in crate::http) struct OpenAiEmbedding {
    object: String,
    index: usize,
    embedding: OpenAiValues,
}

/// Numbers, or base64 of their bytes.
#[derive(JsonSchema)]
#[schemars(untagged)]
pub(in crate::http) enum OpenAiValues {
    Numbers(Vec<f32>),
    Base64(String),
}

/// Tokens of all texts.
#[derive(JsonSchema)]
pub(in crate::http) struct OpenAiUsage {
    prompt_tokens: usize,
    total_tokens: usize,
}
