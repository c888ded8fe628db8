//! `GET /`: a page for a browser; Immich's service greets everybody else there.
//!
//! Owns who is answered what, by what the request accepts.

use std::sync::Arc;

use axum::{extract::State, response::Response};
use http::{HeaderMap, HeaderValue, header};

use super::{ApiError, AppState, dialects::immich, page};

/// The page for whoever asks for HTML, and else what Immich's own service says, by which its server knows it.
pub(super) async fn root(State(state): State<Arc<AppState>>, headers: HeaderMap) -> Result<Response, ApiError> {
    let page = page::for_browser(&state, &headers);
    let mut response = page.map_or_else(immich::greeting, Ok)?;
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("accept"));
    Ok(response)
}
