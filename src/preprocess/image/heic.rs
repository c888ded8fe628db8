//! HEIC: the primary picture, by `heifer`.
//!
//! Owns the order of things around the decoder: the size is checked from the container, memory is asked for, and only then is anything
//! decoded, on this thread, so that a panic is the caller's. The decoder turns, mirrors and crops as the container says, whatever the
//! rules of the model say of EXIF. Colours stay those of the file's own space, as everywhere.
//!
//! Invariant: what a picture is put together from is no larger than twice what it may be, by the container. What the coded data say instead
//! is bounded for each tile alone, by the decoder.

use heifer::{
    Error, Options,
    heifer_isobmff::{self, HeifFile, ItemId},
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

/// Items that a picture is put together from, at most, each as often as it is asked for: many times those of any camera.
const MAX_ITEMS: u32 = 1 << 12;

/// How often items may be put together from others, as the decoder has it.
const MAX_DEPTH: u32 = 4;

/// Decodes a HEIC.
pub(super) fn decode(bytes: &[u8], limits: &Limits) -> Result<Decoded, ImageError> {
    let Announced { width, height, coded } = announced(bytes)?;
    limits.check(FORMAT, width.into(), height.into())?;
    if coded > limits.max_pixels.saturating_mul(2) {
        return Err(ImageError::Wasteful { format: FORMAT });
    }
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

/// What the container says of a picture.
#[derive(Debug)]
pub(super) struct Announced {
    /// Before any turning.
    pub(super) width: u32,
    pub(super) height: u32,
    /// Pixels of all that is decoded for it, without alpha.
    pub(super) coded: u64,
}

/// What the container announces.
pub(super) fn announced(bytes: &[u8]) -> Result<Announced, ImageError> {
    let file = HeifFile::parse(bytes).map_err(damaged)?;
    let no_size = || ImageError::Corrupt { format: FORMAT, detail: "a picture that does not state its size".into() };
    let (width, height) = file.image_size(file.primary_id).map_err(damaged)?.ok_or_else(no_size)?;
    let mut left = MAX_ITEMS;
    let coded = coded(&file, file.primary_id, &mut left, 0)?;
    Ok(Announced { width, height, coded })
}

/// Pixels of the items that item `id` is put together from, or its own. Of an item without a size the decoder alone knows.
fn coded(file: &HeifFile<'_>, id: ItemId, left: &mut u32, depth: u32) -> Result<u64, ImageError> {
    *left = left.checked_sub(1).ok_or(ImageError::Wasteful { format: FORMAT })?;
    let parts = file.referenced_items(id, b"dimg");
    if parts.is_empty() || depth == MAX_DEPTH {
        let (width, height) = file.image_size(id).map_err(damaged)?.unwrap_or((0, 0));
        return Ok(u64::from(width) * u64::from(height));
    }
    parts.iter().try_fold(0u64, |all, &part| Ok(all.saturating_add(coded(file, part, left, depth + 1)?)))
}

fn damaged(error: heifer_isobmff::Error) -> ImageError {
    refuse(error.into())
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

    /// A picture of 64 x 64 that is put together from one of `side` x `side`, so many times.
    fn grid(count: u16, side: u32) -> Vec<u8> {
        let a_box = |kind: &[u8; 4], body: &[u8]| [&(body.len() as u32 + 8).to_be_bytes(), &kind[..], body].concat();
        let info = |id, kind: &[u8; 4]| a_box(b"infe", &[&[2, 0, 0, 0, 0, id, 0, 0], &kind[..], &[0]].concat());
        let size = |side: u32| a_box(b"ispe", &[[0; 4], side.to_be_bytes(), side.to_be_bytes()].concat());
        let iinf = a_box(b"iinf", &[&[0, 0, 0, 0, 0, 2], &info(1, b"grid")[..], &info(2, b"hvc1")].concat());
        let ipco = a_box(b"ipco", &[size(64), size(side)].concat());
        let ipma = a_box(b"ipma", &[0, 0, 0, 0, 0, 0, 0, 2, 0, 1, 1, 1, 0, 2, 1, 2]);
        let parts = [&[0, 1], &count.to_be_bytes()[..], &[0, 2].repeat(count.into())].concat();
        let iref = a_box(b"iref", &[&[0; 4], &a_box(b"dimg", &parts)[..]].concat());
        let hdlr = a_box(b"hdlr", &[&[0; 8], &b"pict"[..], &[0; 13]].concat());
        let pitm = a_box(b"pitm", &[0, 0, 0, 0, 0, 1]);
        let meta = [&[0; 4], &hdlr[..], &pitm, &iinf, &a_box(b"iprp", &[ipco, ipma].concat()), &iref].concat();
        [a_box(b"ftyp", b"heic\0\0\0\0mif1heic"), a_box(b"meta", &meta)].concat()
    }

    #[test]
    fn what_a_picture_is_put_together_from_is_bounded() {
        let announced_of = |count, side| announced(&grid(count, side)).map(|announced| announced.coded);
        // Its only tile is that large.
        assert_eq!(announced(&fixture("ramp.heic")).unwrap().coded, 64 * 64);
        assert_eq!(announced_of(9, 512), Ok(9 * 512 * 512));
        assert_eq!(announced_of(4096, 64), Err(ImageError::Wasteful { format: FORMAT }));
        let refused = |count, side| decode(&grid(count, side), &LIMITS).map(|_| ()).unwrap_err().reason();
        assert_eq!(refused(9, 512), "wasteful");
        // Of what is no larger there are no data.
        assert_ne!(refused(7, 512), "wasteful");
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
