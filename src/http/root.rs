//! `GET /`: Immich's service greets there.
//!
//! Owns who is answered what, by what the request accepts.

use axum::response::Response;

use super::{ApiError, dialects::immich};

/// Immich's client, and whoever does not ask for HTML.
pub(super) async fn root() -> Result<Response, ApiError> {
    immich::greeting()
}
