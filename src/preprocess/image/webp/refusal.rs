//! What there is against a lossless stream, in the client's terms.

use super::{container::FORMAT, lossless::Failure};
use crate::preprocess::{image::error::ImageError, memory::OutOfMemory};

/// What there is against a lossless stream in the client's terms.
pub(super) fn refuse_lossless(failure: Failure) -> ImageError {
    match failure {
        Failure::Truncated => ImageError::Truncated { format: FORMAT },
        Failure::Damaged(detail) => ImageError::Corrupt { format: FORMAT, detail: detail.into() },
        Failure::TooManyCodes => ImageError::TooMuchMemory { format: FORMAT },
        Failure::OutOfMemory => OutOfMemory.into(),
    }
}
