//! JPEG XL: the first frame, by the `jxl` crate: bare or in a container, turned as its own header says.
//!
//! Owns the order of things around the decoder: the size is checked from the header before a frame is decoded, on this thread, so that a
//! panic is the caller's. Colours come as the decoder gives them by default: sRGB where they are stored by perception, else those of the
//! file's own space.
//!
//! Not bounded: how many frames come before the one that is shown. The decoder tells of none of them, decodes each whole, and bounds the
//! size of each alone.

use jxl::api::{
    Event, JxlBasicInfo, JxlColorType, JxlDataFormat, JxlDecoder, JxlDecoderOptions, JxlOutputBuffer, JxlPixelFormat,
    ProfileLevel,
};

use super::{
    Decoded, Limits, RgbImage, convert,
    error::{ImageError, ImageFormatName},
    mode::{self, Mode},
    orientation::Orientation,
};
use crate::preprocess::memory;

const FORMAT: ImageFormatName = ImageFormatName::JpegXl;

/// Channels of a pixel, of those that are shown and those that are not, at most.
const MAX_CHANNELS: u64 = 8;

/// What the decoder holds for each pixel: three channels of 32 bits, twice.
const PIXEL_BYTES: u64 = 24;

/// Decodes a JPEG XL.
pub(super) fn decode(bytes: &[u8], limits: &Limits, buffer: Vec<u8>) -> Result<Decoded, ImageError> {
    let mut input = bytes;
    let (mut decoder, info) = open(&mut input, limits.max_pixels)?;
    let (width, height) = limits.check(FORMAT, info.size.0 as u64, info.size.1 as u64)?;
    let pixels = u64::from(width) * u64::from(height);
    memory::ask(pixels.saturating_mul(PIXEL_BYTES))?;
    let is_grey = decoder
        .current_pixel_format()
        .is_some_and(|format| matches!(format.color_type, JxlColorType::Grayscale | JxlColorType::GrayscaleAlpha));
    let has_alpha = decoder.current_pixel_format().is_some_and(|format| format.color_type.has_alpha());
    let (color_type, channels) = match (is_grey, has_alpha && limits.kept_modes.is_some()) {
        (true, false) => (JxlColorType::Grayscale, 1),
        (true, true) => (JxlColorType::GrayscaleAlpha, 2),
        (false, false) => (JxlColorType::Rgb, 3),
        (false, true) => (JxlColorType::Rgba, 4),
    };
    let format = JxlPixelFormat {
        color_type,
        color_data_format: Some(JxlDataFormat::U8 { bit_depth: 8 }),
        extra_channel_format: vec![None; info.extra_channels.len()],
    };
    decoder.set_pixel_format(format).map_err(refuse)?;
    let row_bytes = width as usize * channels;
    let mut data = memory::zeroed(buffer, row_bytes * height as usize)?;
    loop {
        let mut output = [JxlOutputBuffer::new(&mut data, height as usize, row_bytes)];
        match decoder.process(&mut input, Some(&mut output), None).map_err(refuse)? {
            Event::FrameComplete { .. } => break,
            Event::NeedMoreInput { .. } => return Err(ImageError::Truncated { format: FORMAT }),
            Event::Complete => return Err(ImageError::Corrupt { format: FORMAT, detail: "no frame".into() }),
            Event::BasicInfo | Event::FrameHeader => {}
        }
    }
    let (data, mode) = match channels {
        1 => (convert::grey(&data)?, Mode::Plain),
        2 => mode::of_grey_alpha(&data)?,
        3 => (data, Mode::Plain),
        _ => mode::of_rgba(data)?,
    };
    Ok(Decoded { image: RgbImage::new(width, height, data).in_mode(mode), orientation: Orientation::Upright })
}

/// Reads the header.
fn open(input: &mut &[u8], max_pixels: u64) -> Result<(JxlDecoder, JxlBasicInfo), ImageError> {
    let mut options = JxlDecoderOptions::default();
    options.sample_limit = usize::try_from(max_pixels.saturating_mul(MAX_CHANNELS)).ok();
    options.max_profile_level = ProfileLevel::Main10;
    let mut decoder = JxlDecoder::new(options);
    match decoder.process(input, None, None).map_err(refuse)? {
        Event::BasicInfo => {}
        _ => return Err(ImageError::Truncated { format: FORMAT }),
    }
    let info = decoder.basic_info().cloned();
    Ok((decoder, info.ok_or_else(|| ImageError::Corrupt { format: FORMAT, detail: "no header".into() })?))
}

/// Width and height, upright, and bits of a pixel; `None` for what will be refused.
pub(super) fn announced(mut bytes: &[u8]) -> Option<(u64, u64, u32)> {
    let (decoder, info) = open(&mut bytes, u64::MAX).ok()?;
    let channels = decoder.current_pixel_format()?.color_type.samples_per_pixel() as u32;
    let bits = info.bit_depth.bits_per_sample() * channels;
    Some((info.size.0 as u64, info.size.1 as u64, bits))
}

fn refuse(error: jxl::error::Error) -> ImageError {
    match error {
        jxl::error::Error::OutOfBounds(_) => ImageError::Truncated { format: FORMAT },
        jxl::error::Error::ImageSizeTooLarge(..) => ImageError::TooMuchMemory { format: FORMAT },
        other => ImageError::Corrupt { format: FORMAT, detail: other.to_string() },
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    const LIMITS: Limits = Limits { max_pixels: 1_000_000, kept_modes: None };

    fn fixture(name: &str) -> Vec<u8> {
        fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/pictures/jxl").join(name)).unwrap()
    }

    /// The red of a pixel tells its column, the green its row.
    #[test]
    fn pictures_without_loss_are_what_was_encoded_and_others_near() {
        for (name, allowed) in [("lossless.jxl", 0), ("lossy.jxl", 16), ("container.jxl", 16)] {
            let Decoded { image, .. } = decode(&fixture(name), &LIMITS, Vec::new()).unwrap();
            assert_eq!((image.width(), image.height()), (64, 48), "{name}");
            for (at, pixel) in image.as_bytes().as_chunks::<3>().0.iter().enumerate() {
                let expected = [at % 64 * 4, at / 64 * 5, 128];
                let near =
                    pixel.iter().zip(expected).all(|(&got, wanted)| usize::from(got).abs_diff(wanted) <= allowed);
                assert!(near, "{name} at {at}: {pixel:?}, not {expected:?}");
            }
        }
    }

    #[test]
    fn what_is_too_large_or_cut_is_refused() {
        let bytes = fixture("lossy.jxl");
        let small = Limits { max_pixels: 3000, kept_modes: None };
        assert_eq!(decode(&bytes, &small, Vec::new()).map(|_| ()).unwrap_err().reason(), "too_many_pixels");
        for end in 0..bytes.len() - 1 {
            assert!(decode(&bytes[..end], &LIMITS, Vec::new()).is_err(), "{end} bytes");
        }
    }
}
