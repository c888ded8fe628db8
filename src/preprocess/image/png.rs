//! PNG: every colour type and depth to RGB. Profiles are skipped, so that none can be a bomb.

use std::{borrow::Cow, io::Cursor};

use png::{BitDepth, ColorType, Decoder, DecodingError, Info, Transformations};

use super::{
    Decoded, Limits, RgbImage, convert,
    error::{ImageError, ImageFormatName},
    mode::{self, Mode},
    orientation::Orientation,
};
use crate::preprocess::memory;

const FORMAT: ImageFormatName = ImageFormatName::Png;

/// Bytes of text and other metadata that are held, besides the pixels.
const MAX_METADATA: usize = 16 << 20;

/// Bytes that one compressed text may inflate to: Pillow's own `MAX_TEXT_CHUNK`.
const MAX_TEXT: usize = 1 << 20;

/// Decodes a PNG; of an APNG the default picture, as Pillow's first frame.
pub(super) fn decode(bytes: &[u8], limits: &Limits, buffer: Vec<u8>) -> Result<Decoded, ImageError> {
    let mut decoder = Decoder::new_with_limits(Cursor::new(bytes), png::Limits { bytes: MAX_METADATA });
    decoder.set_ignore_iccp_chunk(true);
    decoder.set_transformations(Transformations::EXPAND | Transformations::STRIP_16);
    let header = decoder.read_header_info().map_err(refuse)?;
    let (colour, depth) = (header.color_type, header.bit_depth);
    let (width, height) = limits.check(FORMAT, header.width.into(), header.height.into())?;
    // What the decoder holds besides: metadata, and rows, of which it keeps the one before, and moves both when room runs out.
    let rows = header.raw_row_length() as u64 * 4;
    memory::ask(rows + bytes.len().min(MAX_METADATA) as u64)?;
    // A row and its predecessor are held too: at most 8 bytes a pixel each.
    decoder.set_limits(png::Limits { bytes: MAX_METADATA + width as usize * 16 });
    let mut reader = decoder.read_info().map_err(refuse)?;
    let Some(length) = reader.output_buffer_size() else { return Err(ImageError::TooMuchMemory { format: FORMAT }) };
    let mut data = memory::zeroed(buffer, length)?;
    let frame = reader.next_frame(&mut data).map_err(refuse)?;
    // Metadata may follow the pixels; if what follows is damaged, the picture stands.
    let _ = reader.finish();
    let info = reader.info();
    let orientation = Orientation::find(exif(info).as_deref(), xmp(info).as_deref());
    let (data, mode) = match (frame.color_type, limits.kept_modes) {
        // What is transparent by its colour has not become alpha by that, in Pillow.
        (ColorType::GrayscaleAlpha, Some(_)) if colour == ColorType::GrayscaleAlpha => mode::of_grey_alpha(&data)?,
        (ColorType::Rgba, Some(_)) if colour == ColorType::Rgba => mode::of_rgba(data)?,
        (ColorType::Grayscale, _) => (convert::grey(&data)?, Mode::Plain),
        (ColorType::GrayscaleAlpha, _) => (convert::grey_alpha(&data)?, Mode::Plain),
        (ColorType::Rgba, _) => (convert::rgba(data), Mode::Plain),
        // Palettes have been expanded.
        (ColorType::Rgb | ColorType::Indexed, _) => (data, Mode::Plain),
    };
    let mode = match (limits.kept_modes, colour, depth) {
        (Some(fill), ColorType::Indexed, _) => Mode::Stepped { fill: mode::entry(info.palette.as_deref(), fill) },
        (Some(fill), ColorType::Grayscale, BitDepth::One) => Mode::bilevel(fill),
        _ => mode,
    };
    Ok(Decoded { image: RgbImage::new(width, height, data).in_mode(mode), orientation })
}

fn refuse(error: DecodingError) -> ImageError {
    match error {
        DecodingError::IoError(_) => ImageError::Truncated { format: FORMAT },
        DecodingError::LimitsExceeded => ImageError::TooMuchMemory { format: FORMAT },
        DecodingError::Format(_) | DecodingError::Parameter(_) => {
            ImageError::Corrupt { format: FORMAT, detail: error.to_string() }
        }
    }
}

/// The `eXIf` chunk, or what ImageMagick wrote before that existed: a text of three header lines and hexadecimal digits.
fn exif<'a>(info: &'a Info) -> Option<Cow<'a, [u8]>> {
    if let Some(block) = &info.exif_metadata {
        return Some(Cow::Borrowed(block));
    }
    const KEYWORD: &str = "Raw profile type exif";
    let plain = info.uncompressed_latin1_text.iter().find(|text| text.keyword == KEYWORD).map(|text| text.text.clone());
    let text = plain.or_else(|| {
        let mut text = info.compressed_latin1_text.iter().find(|text| text.keyword == KEYWORD)?.clone();
        text.decompress_text_with_limit(MAX_TEXT).ok()?;
        text.get_text().ok()
    })?;
    let mut digits = text.split('\n').skip(3).flat_map(str::chars).filter_map(|c| c.to_digit(16));
    let mut block = Vec::new();
    while let (Some(high), Some(low)) = (digits.next(), digits.next()) {
        block.push((high << 4 | low) as u8);
    }
    Some(Cow::Owned(block))
}

fn xmp(info: &Info) -> Option<Vec<u8>> {
    let mut text = info.utf8_text.iter().find(|text| text.keyword == "XML:com.adobe.xmp")?.clone();
    text.decompress_text_with_limit(MAX_TEXT).ok()?;
    text.get_text().ok().map(String::into_bytes)
}
