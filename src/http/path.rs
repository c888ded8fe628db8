//! What of a path its route leaves open.
//!
//! Owns taking it, percent-decoded. Axum's own extractor would refuse what is no text in words and a shape that no client of ours knows,
//! so no handler uses that.

use axum::extract::{FromRequestParts, Path};
use http::request::Parts;

use super::ApiError;

/// The part of the path that the route's one parameter stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PathRest(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for PathRest {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Path(rest) = Path::from_request_parts(parts, state).await.map_err(|_| {
            ApiError::invalid("the path is not UTF-8 once its %XX are decoded; percent-encode the UTF-8 of the name")
        })?;
        Ok(Self(rest))
    }
}
