//! What a BMP is refused as.

use std::fmt::Display;

use crate::preprocess::image::{ImageError, ImageFormatName};

pub(super) const FORMAT: ImageFormatName = ImageFormatName::Bmp;

/// A kind that Pillow does not read: what of it is odd, and how.
pub(super) fn unsupported(what: &str, value: impl Display) -> ImageError {
    ImageError::UnsupportedVariant { format: FORMAT, detail: format!("{what} {value}") }
}
