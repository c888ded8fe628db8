//! BMP and TIFF, by the `image` crate's decoders, and what `webp` shares with them.
//!
//! Owns the order of things around them: the size is checked from the header, the answer's and the decoder's memory are bounded,
//! and only then are pixels decoded.

use std::io::{Cursor, ErrorKind};

use image::{
    ColorType, ExtendedColorType, ImageDecoder,
    codecs::{bmp::BmpDecoder, tiff::TiffDecoder},
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

/// Decodes a BMP.
pub(super) fn bmp(bytes: &[u8], limits: &Limits, buffer: Vec<u8>) -> Result<Decoded, ImageError> {
    let format = ImageFormatName::Bmp;
    let decoder = BmpDecoder::new(Cursor::new(bytes)).map_err(|error| refuse(format, error))?;
    // It holds single rows besides.
    let mut decoded = read(format, decoder, 0, limits, Orientation::Upright, buffer)?;
    if let Some(mode) = limits.kept_modes.and_then(|fill| palette_mode(bytes, fill)) {
        decoded.image = decoded.image.in_mode(mode);
    }
    Ok(decoded)
}

/// The mode of a BMP with a palette, as Pillow finds it: one of greys is none.
fn palette_mode(bytes: &[u8], fill: u8) -> Option<Mode> {
    const FILE_HEADER: usize = 14;
    let number = |at: usize, length: usize| -> Option<usize> {
        let bytes = bytes.get(FILE_HEADER + at..)?.get(..length)?;
        Some(bytes.iter().rev().fold(0, |number, &byte| number << 8 | usize::from(byte)))
    };
    let header = number(0, 4)?;
    let core = header == 12;
    let bits = if core { number(10, 2)? } else { number(14, 2)? };
    if !matches!(bits, 1 | 4 | 8) {
        return None;
    }
    let colours = if core { 0 } else { number(32, 4)? };
    let colours = if colours == 0 { 1 << bits } else { colours.min(256) };
    let stride = if core { 3 } else { 4 };
    let palette = bytes.get(FILE_HEADER + header..)?;
    let palette = palette.get(..colours * stride).unwrap_or(palette);
    let is_black_and_white =
        colours == 2 && palette.get(..3) == Some(&[0; 3]) && palette.get(stride..stride + 3) == Some(&[255; 3]);
    if is_black_and_white || colours == 1 && mode::is_grey_ramp(palette, stride) {
        return Some(Mode::bilevel(fill));
    }
    if colours != 2 && mode::is_grey_ramp(palette, stride) {
        return None;
    }
    // Blue first.
    let entry =
        palette.chunks_exact(stride).nth(fill.into()).map_or([0; 3], |colour| [colour[2], colour[1], colour[0]]);
    Some(Mode::Stepped { fill: entry })
}

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
