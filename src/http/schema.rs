//! What the OpenAPI document says of values that serde alone does not know the shape of: lists that stay unread, and arrays.
//!
//! Owns those shapes, as types that are never made. Does not own the document (`openapi`).

#![expect(dead_code, reason = "these types are read by the macro that derives their schemas, and by nobody else")]

use std::collections::BTreeMap;

use schemars::JsonSchema;

/// One picture or several: each as standard base64 of its file, as a data URL, or, where web.allow_hosts has its host, as its address (http or
/// https).
#[derive(JsonSchema)]
#[schemars(untagged)]
pub(in crate::http) enum Pictures {
    One(#[schemars(length(min = 1))] String),
    More(#[schemars(length(min = 1))] Vec<Picture>),
}

/// Standard base64 of a picture's file, a data URL of it, or, where web.allow_hosts has its host, its address (http or https).
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

/// A row for each item, or by the names of types such rows.
#[derive(JsonSchema)]
#[schemars(untagged)]
pub(in crate::http) enum RowsByType {
    Plain(Vec<Vec<f32>>),
    Named(BTreeMap<String, Rows>),
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

/// One embedding in a list of them.
#[derive(JsonSchema)]
pub(in crate::http) struct Entry {
    object: String,
    index: usize,
    embedding: Values,
}

/// Numbers, or base64 of their bytes.
#[derive(JsonSchema)]
#[schemars(untagged)]
pub(in crate::http) enum Values {
    Numbers(Vec<f32>),
    Base64(String),
}
