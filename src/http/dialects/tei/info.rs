//! `GET /info`: what runs, in the words of text-embeddings-inference beside our own.
//!
//! Owns its fields, which its clients size their requests by. No field of one side has a name of the other's.

use std::sync::Arc;

use axum::{extract::State, response::Response};
use schemars::JsonSchema;
use serde::Serialize;

use crate::http::{
    ApiError, AppState,
    error::NATIVE,
    native::{info::Info, wire::TAG},
    operation::{JSON, OF_THE_KEYED, Operation, Schemas},
    reply,
};

/// The route, which is ours.
pub(in crate::http) fn operations(schemas: &mut Schemas) -> Vec<Operation> {
    let operation = Operation::get(TAG, "/info", "What runs: model, provider, precision, limits, versions");
    vec![operation.answers(JSON, schemas.answer::<Both<'_>>()).refuses(schemas, OF_THE_KEYED, &[NATIVE])]
}

/// What runs, in our own words and in those of text-embeddings-inference.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Info")]
struct Both<'a> {
    #[serde(flatten)]
    ours: Info<'a>,
    #[serde(flatten)]
    theirs: Theirs<'a>,
}

#[derive(Serialize, JsonSchema)]
struct Theirs<'a> {
    model_id: &'a str,
    model_sha: Option<&'a str>,
    model_dtype: &'a str,
    served_model_name: &'a str,
    model_type: ModelType,
    max_concurrent_requests: usize,
    /// Tokens of a text.
    max_input_length: usize,
    max_batch_tokens: usize,
    max_batch_requests: usize,
    /// Texts of a request.
    max_client_batch_size: usize,
    auto_truncate: bool,
    tokenization_workers: usize,
    version: &'static str,
    sha: Option<&'a str>,
    docker_label: Option<&'a str>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(inline)]
struct ModelType {
    embedding: Embedding,
}

#[derive(Serialize, JsonSchema)]
#[schemars(inline)]
struct Embedding {
    pooling: &'static str,
}

/// Ours and theirs.
pub(in crate::http) async fn info(State(state): State<Arc<AppState>>) -> Result<Response, ApiError> {
    let embedder = state.embedder()?;
    let (info, config) = (embedder.info(), &state.config);
    let length = info.context_length.unwrap_or(0);
    let theirs = Theirs {
        model_id: &info.name,
        model_sha: None,
        model_dtype: match info.precision.as_str() {
            "f32" => "float32",
            "f16" | "fp16" => "float16",
            "bf16" => "bfloat16",
            other => other,
        },
        served_model_name: &info.name,
        // CLIP takes a text's embedding from its end token.
        model_type: ModelType { embedding: Embedding { pooling: "last-token" } },
        max_concurrent_requests: config.limits.max_inflight_requests,
        max_input_length: length,
        max_batch_tokens: info.batch_sizes.texts.saturating_mul(length),
        max_batch_requests: info.batch_sizes.texts,
        max_client_batch_size: config.limits.max_texts,
        auto_truncate: true,
        tokenization_workers: config.preprocess.threads,
        version: env!("CARGO_PKG_VERSION"),
        sha: None,
        docker_label: None,
    };
    reply::json(&Both { ours: Info::of(config, embedder), theirs })
}
