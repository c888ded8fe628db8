//! HEIC: the primary picture, by `heifer`.
//!
//! Owns the order of things around the decoder: the size is checked from the container, memory is asked for, and only then is anything
//! decoded, on this thread. The decoder turns, mirrors and crops as the container says, whatever the rules of the model say of EXIF.
//! Colours stay those of the file's own space, as everywhere.

use heifer::{
    Error, Options,
    heifer_isobmff::{self, HeifFile},
};

use super::{
    Decoded, Limits, RgbImage, convert,
    error::{ImageError, ImageFormatName},
    mode::{self, Mode},
    orientation::Orientation,
};
use crate::preprocess::memory;

const FORMAT: ImageFormatName = ImageFormatName::Heic;

/// What the decoder holds for each pixel: RGBA twice, when it turns a picture, and the frames of 16-bit samples that it is made from.
const PIXEL_BYTES: u64 = 20;

/// Decodes a HEIC.
pub(super) fn decode(bytes: &[u8], limits: &Limits) -> Result<Decoded, ImageError> {
    let (width, height) = size(bytes)?;
    limits.check(FORMAT, width.into(), height.into())?;
    memory::ask((u64::from(width) * u64::from(height)).saturating_mul(PIXEL_BYTES))?;
    let options = Options { max_threads: 1, max_pixels: limits.max_pixels.max(1) };
    let image = heifer::decode_rgba8(bytes, &options).map_err(refuse)?;
    let (width, height) = limits.check(FORMAT, image.width.into(), image.height.into())?;
    let (data, mode) = match limits.kept_modes {
        Some(_) if image.has_alpha => mode::of_rgba(image.data)?,
        _ => (convert::rgba(image.data), Mode::Plain),
    };
    Ok(Decoded { image: RgbImage::new(width, height, data).in_mode(mode), orientation: Orientation::Upright })
}

/// The size that the container announces, before any turning.
pub(super) fn size(bytes: &[u8]) -> Result<(u32, u32), ImageError> {
    let damaged = |error: heifer_isobmff::Error| refuse(error.into());
    let file = HeifFile::parse(bytes).map_err(damaged)?;
    let size = file.image_size(file.primary_id).map_err(damaged)?;
    size.ok_or_else(|| ImageError::Corrupt { format: FORMAT, detail: "a picture that does not state its size".into() })
}

fn refuse(error: Error) -> ImageError {
    match error {
        Error::Unsupported(detail) => ImageError::UnsupportedVariant { format: FORMAT, detail },
        other => ImageError::Corrupt { format: FORMAT, detail: other.to_string() },
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    const LIMITS: Limits = Limits { max_pixels: 1_000_000, kept_modes: None };

    fn fixture(name: &str) -> Vec<u8> {
        fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/pictures/heic").join(name)).unwrap()
    }

    /// Its pixels are where they belong, each within a few levels of what was encoded: the red of a pixel tells its column, the green
    /// its row.
    #[test]
    fn a_picture_and_a_turned_one_are_decoded_upright() {
        for (name, turned) in [("ramp.heic", false), ("ramp_10_bits.heic", false), ("ramp_rotated.heic", true)] {
            let Decoded { image, orientation } = decode(&fixture(name), &LIMITS).unwrap();
            assert_eq!(orientation, Orientation::Upright);
            let sides = if turned { (48, 64) } else { (64, 48) };
            assert_eq!((image.width(), image.height()), sides, "{name}");
            for (at, pixel) in image.as_bytes().as_chunks::<3>().0.iter().enumerate() {
                let (x, y) = (at % sides.0 as usize, at / sides.0 as usize);
                // Turned clockwise: rows were columns, from the bottom up.
                let (x, y) = if turned { (y, 47 - x) } else { (x, y) };
                let expected = [x * 4, y * 5, 128];
                let near = pixel.iter().zip(expected).all(|(&got, wanted)| usize::from(got).abs_diff(wanted) <= 12);
                assert!(near, "{name} at {x}, {y}: {pixel:?}, not {expected:?}");
            }
        }
    }

    #[test]
    fn what_is_too_large_or_cut_is_refused() {
        let bytes = fixture("ramp.heic");
        let small = Limits { max_pixels: 3000, kept_modes: None };
        assert_eq!(decode(&bytes, &small).map(|_| ()).unwrap_err().reason(), "too_many_pixels");
        for end in (0..bytes.len()).step_by(7) {
            assert!(decode(&bytes[..end], &LIMITS).is_err(), "{end} bytes");
        }
    }
}
