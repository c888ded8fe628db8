//! What an AVIF is refused as.

use crate::preprocess::image::{ImageError, ImageFormatName};

pub(super) const FORMAT: ImageFormatName = ImageFormatName::Avif;

/// A file that breaks a rule.
pub(super) fn damaged(detail: &str) -> ImageError {
    ImageError::Corrupt { format: FORMAT, detail: detail.into() }
}
