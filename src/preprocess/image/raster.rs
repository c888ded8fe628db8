//! BMP and TIFF, by the `image` crate's decoders, and what `webp` shares with them.
//!
//! Owns the order of things around them: the size is checked from the header, the answer's and the decoder's memory are bounded,
//! and only then are pixels decoded.

use std::io::{Cursor, ErrorKind};

use image::{
    ColorType, ImageDecoder,
    codecs::{bmp::BmpDecoder, tiff::TiffDecoder},
    error::{ImageError as Cause, LimitErrorKind},
};

use super::{
    Decoded, Limits, RgbImage, convert,
    error::{ImageError, ImageFormatName},
    orientation::Orientation,
};
use crate::preprocess::memory;

/// Memory that a decoder may take besides the pixels it answers: another copy of 8 bytes a pixel, and this.
const MAX_OVERHEAD: u64 = 16 << 20;

/// Decodes a BMP.
pub(super) fn bmp(bytes: &[u8], limits: &Limits, buffer: Vec<u8>) -> Result<Decoded, ImageError> {
    let format = ImageFormatName::Bmp;
    let decoder = BmpDecoder::new(Cursor::new(bytes)).map_err(|error| refuse(format, error))?;
    // It holds single rows besides.
    read(format, decoder, 0, limits, Orientation::Upright, buffer)
}

/// Decodes the first page of a TIFF.
pub(super) fn tiff(bytes: &[u8], limits: &Limits, buffer: Vec<u8>) -> Result<Decoded, ImageError> {
    let format = ImageFormatName::Tiff;
    let decoder = TiffDecoder::new(Cursor::new(bytes)).map_err(|error| refuse(format, error))?;
    // The decoder makes a picture of its own first, in which CMYK still has its fourth channel.
    let besides = decoder.total_bytes().saturating_add(decoder.total_bytes() / 3);
    // An EXIF block is a TIFF file: the file's own first directory has the tag.
    read(format, decoder, besides, limits, Orientation::find(Some(bytes), None), buffer)
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
    // At most 16 bytes a pixel, and the pixels are within the limit.
    let mut data = memory::zeroed(buffer, decoder.total_bytes() as usize)?;
    memory::ask(besides)?;
    decoder.read_image(&mut data).map_err(|error| refuse(format, error))?;
    let data = match colour {
        ColorType::L8 => convert::grey(&data)?,
        ColorType::La8 => convert::grey_alpha(&data)?,
        ColorType::Rgb8 => data,
        ColorType::Rgba8 => convert::rgba(data),
        ColorType::L16 => convert::grey(&convert::high_bytes(data))?,
        ColorType::La16 => convert::grey_alpha(&convert::high_bytes(data))?,
        ColorType::Rgb16 => convert::high_bytes(data),
        ColorType::Rgba16 => convert::rgba(convert::high_bytes(data)),
        other => return Err(ImageError::UnsupportedVariant { format, detail: format!("colour type {other:?}") }),
    };
    Ok(Decoded { image: RgbImage::new(width, height, data), orientation })
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
