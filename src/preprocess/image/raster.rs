//! TIFF, by the `image` crate's decoders, and what `webp` shares with them.
//!
//! Owns the order of things around them: the size is checked from the header, the answer's and the decoder's memory are bounded,
//! and only then are pixels decoded.

use std::io::{Cursor, ErrorKind};

use image::{
    ColorType, ExtendedColorType, ImageDecoder,
    codecs::tiff::TiffDecoder,
    error::{ImageError as Cause, LimitErrorKind},
};

use super::{
    Decoded, Limits, RgbImage, convert,
    directory::Directory,
    error::{ImageError, ImageFormatName},
    mode::{self, Mode},
    orientation::Orientation,
};
use crate::preprocess::memory;

/// Memory that a decoder may take besides the pixels it answers: another copy of 8 bytes a pixel, and this.
const MAX_OVERHEAD: u64 = 16 << 20;

/// Decodes the first page of a TIFF.
pub(super) fn tiff(bytes: &[u8], limits: &Limits, buffer: Vec<u8>) -> Result<Decoded, ImageError> {
    let format = ImageFormatName::Tiff;
    let decoder = TiffDecoder::new(Cursor::new(bytes)).map_err(|error| refuse(format, error))?;
    // The decoder makes a picture of its own first, in which CMYK still has its fourth channel.
    let besides = decoder.total_bytes().saturating_add(decoder.total_bytes() / 3);
    let orientation = Directory::first(bytes).map_or(Orientation::Upright, Orientation::of_directory);
    read(format, decoder, besides, limits, orientation, buffer)
}

/// Decodes what `decoder` has read the header of, to RGB, into the memory of `buffer`. Of its own it takes `besides` bytes at most,
/// without a word should there be none.
pub(super) fn read(
    format: ImageFormatName,
    mut decoder: impl ImageDecoder,
    besides: u64,
    limits: &Limits,
    orientation: Orientation,
    buffer: Vec<u8>,
) -> Result<Decoded, ImageError> {
    let (width, height) = decoder.dimensions();
    let (width, height) = limits.check(format, width.into(), height.into())?;
    let mut allowed = image::Limits::no_limits();
    allowed.max_alloc = Some(decoder.total_bytes() + u64::from(width) * u64::from(height) * 8 + MAX_OVERHEAD);
    decoder.set_limits(allowed).map_err(|error| refuse(format, error))?;
    let colour = decoder.color_type();
    let bilevel = decoder.original_color_type() == ExtendedColorType::L1;
    // At most 16 bytes a pixel, and the pixels are within the limit.
    let mut data = memory::zeroed(buffer, decoder.total_bytes() as usize)?;
    memory::ask(besides)?;
    decoder.read_image(&mut data).map_err(|error| refuse(format, error))?;
    let sixteen_bits = matches!(colour, ColorType::L16 | ColorType::La16 | ColorType::Rgb16 | ColorType::Rgba16);
    let data = if sixteen_bits { convert::high_bytes(data) } else { data };
    let (data, mode) = match (colour, limits.kept_modes) {
        (ColorType::L8, Some(fill)) if bilevel => (convert::grey(&data)?, Mode::bilevel(fill)),
        (ColorType::La8 | ColorType::La16, Some(_)) => mode::of_grey_alpha(&data)?,
        (ColorType::Rgba8 | ColorType::Rgba16, Some(_)) => mode::of_rgba(data)?,
        (ColorType::L8 | ColorType::L16, _) => (convert::grey(&data)?, Mode::Plain),
        (ColorType::La8 | ColorType::La16, None) => (convert::grey_alpha(&data)?, Mode::Plain),
        (ColorType::Rgb8 | ColorType::Rgb16, _) => (data, Mode::Plain),
        (ColorType::Rgba8 | ColorType::Rgba16, None) => (convert::rgba(data), Mode::Plain),
        (other, _) => {
            return Err(ImageError::UnsupportedVariant { format, detail: format!("colour type {other:?}") });
        }
    };
    Ok(Decoded { image: RgbImage::new(width, height, data).in_mode(mode), orientation })
}

/// A decoder's error in the client's terms.
pub(super) fn refuse(format: ImageFormatName, error: Cause) -> ImageError {
    match error {
        Cause::IoError(error) if error.kind() == ErrorKind::UnexpectedEof => ImageError::Truncated { format },
        // Both that a limit is too small and that the system gave nothing; asking again tells which.
        Cause::Limits(limit) if limit.kind() == LimitErrorKind::InsufficientMemory => match memory::ask(MAX_OVERHEAD) {
            Ok(()) => ImageError::TooMuchMemory { format },
            Err(shortage) => shortage.into(),
        },
        Cause::Unsupported(error) => ImageError::UnsupportedVariant { format, detail: error.to_string() },
        other => ImageError::Corrupt { format, detail: other.to_string() },
    }
}
