//! A small picture of a picture, for people to look at.
//!
//! Owns its size and its form: the middle square, upright, as JPEG. Invariant: it has no more than [`MAX_BYTES`].

use std::panic::{AssertUnwindSafe, catch_unwind};

use turbojpeg::{Image, PixelFormat, Subsamp};

use super::{ImageOptions, ImageProcessor};
use crate::model::{
    pictures::PicturePreparation,
    preprocessor::{PreprocessorConfig, Resample, ResizeTo, Size},
};

/// Pixels of a side.
const SIDE: u32 = 160;
/// Of 100; at twice that density, as most screens have, no loss is seen.
const QUALITY: i32 = 70;
/// Bytes at most. Noise of all colours takes less.
const MAX_BYTES: usize = 32 << 10;

/// The JPEG of 160x160 pixels that shows the middle of the picture in `bytes`; `None` where that cannot be decoded, or has more than
/// `max_pixels`. A large JPEG is decoded at a part of its size.
pub fn thumbnail(bytes: &[u8], max_pixels: u64) -> Option<Vec<u8>> {
    let preparation = PicturePreparation::Transformers(PreprocessorConfig {
        do_resize: true,
        size: ResizeTo::ShortestEdge(SIDE),
        resample: Resample::Bicubic,
        do_center_crop: true,
        crop_size: Size { height: SIDE, width: SIDE },
        do_rescale: false,
        rescale_factor: 1.0,
        do_normalize: false,
        image_mean: [0.0; 3],
        image_std: [1.0; 3],
        do_convert_rgb: true,
    });
    let options = ImageOptions { exif_orientation: true, fast_decode: true, max_pixels };
    let mut processor = ImageProcessor::new(&preparation, options).ok()?;
    // The processor goes with the panic of a decoder.
    let crop = catch_unwind(AssertUnwindSafe(|| processor.process(bytes))).ok()?.ok()?;
    let side = SIDE as usize;
    let image = Image { pixels: crop.as_bytes(), width: side, pitch: 3 * side, height: side, format: PixelFormat::RGB };
    let jpeg = turbojpeg::compress(image, QUALITY, Subsamp::Sub2x2).ok()?;
    (jpeg.len() <= MAX_BYTES).then(|| jpeg.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::preprocess::image::picture_header;

    fn jpeg(width: usize, height: usize, pixel: impl FnMut(usize) -> u8) -> Vec<u8> {
        let pixels: Vec<u8> = (0..width * height * 3).map(pixel).collect();
        let image = Image { pixels: &pixels[..], width, pitch: 3 * width, height, format: PixelFormat::RGB };
        turbojpeg::compress(image, 95, Subsamp::None).expect("a JPEG").to_vec()
    }

    #[test]
    fn every_picture_becomes_a_small_square_however_large_or_thin_it_is() {
        for (width, height) in [(1600, 900), (3, 2000), (1, 1)] {
            let small = thumbnail(&jpeg(width, height, |at| (at / 7) as u8), 10_000_000).expect("decoded");
            let header = picture_header(&small).expect("a picture");
            assert_eq!((header.width, header.height), (SIDE, SIDE), "{width}x{height}");
        }
    }

    #[test]
    fn noise_fits_and_what_is_broken_or_too_large_has_none() {
        let mut random = fastrand::Rng::with_seed(1);
        let noise = jpeg(160, 160, |_| random.u8(..));
        assert!(thumbnail(&noise, 160 * 160).expect("decoded").len() <= MAX_BYTES);
        assert_eq!(thumbnail(&noise, 160 * 160 - 1), None);
        assert_eq!(thumbnail(&noise[..noise.len() / 2], 160 * 160), None);
        assert_eq!(thumbnail(b"no picture", 160 * 160), None);
    }
}
