//! What a TIFF is refused as.

use crate::preprocess::image::{ImageError, ImageFormatName};

pub(super) const FORMAT: ImageFormatName = ImageFormatName::Tiff;

/// A file that breaks a rule.
pub(super) fn corrupt(detail: impl Into<String>) -> ImageError {
    ImageError::Corrupt { format: FORMAT, detail: detail.into() }
}

/// A kind that is not read.
pub(super) fn unsupported(detail: impl Into<String>) -> ImageError {
    ImageError::UnsupportedVariant { format: FORMAT, detail: detail.into() }
}
