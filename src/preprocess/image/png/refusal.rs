//! What a PNG is refused as.

use crate::preprocess::image::{ImageError, ImageFormatName};

pub(super) const FORMAT: ImageFormatName = ImageFormatName::Png;

pub(super) fn truncated() -> ImageError {
    ImageError::Truncated { format: FORMAT }
}

pub(super) fn damaged(detail: &str) -> ImageError {
    ImageError::Corrupt { format: FORMAT, detail: detail.into() }
}
