//! Samples as decoders give them to interleaved 8-bit RGB, as Pillow's `convert("RGB")` does it: grey is replicated, alpha is
//! dropped and never composited, 16 bits keep the high byte.
//!
//! One deliberate difference: Pillow clips 16-bit grey (`I;16`) at 255 instead of scaling it, which turns nearly every such
//! picture white; here it is scaled like every other 16-bit picture.

use crate::preprocess::memory::{self, OutOfMemory};

/// Takes red, green and blue from their places in pixels of `BYTES`.
pub(super) fn channels<const BYTES: usize, const RED: usize, const GREEN: usize, const BLUE: usize>(
    row: &[u8],
    line: &mut [u8],
) {
    for (out, pixel) in line.as_chunks_mut().0.iter_mut().zip(row.as_chunks::<BYTES>().0) {
        *out = [pixel[RED], pixel[GREEN], pixel[BLUE]];
    }
}

/// Looks up the colours of pixels of `BITS` each (1, 2, 4 or 8), the first in the highest.
pub(super) fn numbers<const BITS: usize>(row: &[u8], colours: &[[u8; 3]; 256], line: &mut [u8]) {
    let look_up = |pixels: &mut [[u8; 3]], byte: u8| {
        for (number, pixel) in pixels.iter_mut().enumerate() {
            *pixel = colours[usize::from(byte << (number * BITS) >> (8 - BITS))];
        }
    };
    let mut whole = line.as_chunks_mut().0.chunks_exact_mut(8 / BITS);
    let mut bytes = row.iter();
    for (pixels, &byte) in whole.by_ref().zip(bytes.by_ref()) {
        look_up(pixels, byte);
    }
    if let Some(&byte) = bytes.next() {
        look_up(whole.into_remainder(), byte);
    }
}

/// Replicates each grey sample.
pub(super) fn grey(samples: &[u8]) -> Result<Vec<u8>, OutOfMemory> {
    let mut rgb = memory::room(samples.len() * 3)?;
    rgb.extend(samples.iter().flat_map(|&value| [value; 3]));
    Ok(rgb)
}

/// Replicates each grey sample and drops its alpha.
#[cfg(feature = "jxl")]
pub(super) fn grey_alpha(samples: &[u8]) -> Result<Vec<u8>, OutOfMemory> {
    let pixels = samples.as_chunks::<2>().0;
    let mut rgb = memory::room(pixels.len() * 3)?;
    rgb.extend(pixels.iter().flat_map(|&[value, _]| [value; 3]));
    Ok(rgb)
}

/// Drops alpha, in place.
pub(super) fn rgba(mut samples: Vec<u8>) -> Vec<u8> {
    let pixels = samples.len() / 4;
    for pixel in 0..pixels {
        samples.copy_within(pixel * 4..pixel * 4 + 3, pixel * 3);
    }
    samples.truncate(pixels * 3);
    samples
}

/// Converts CMYK (0 is no ink) in place, by Pillow's integer formula.
pub(super) fn cmyk(mut samples: Vec<u8>) -> Vec<u8> {
    let pixels = samples.len() / 4;
    for pixel in 0..pixels {
        let inks = [0, 1, 2, 3].map(|channel| samples[pixel * 4 + channel]);
        samples[pixel * 3..][..3].copy_from_slice(&cmyk_pixel(inks));
    }
    samples.truncate(pixels * 3);
    samples
}

/// One pixel of it.
pub(super) fn cmyk_pixel([c, m, y, k]: [u8; 4]) -> [u8; 3] {
    let white = 255 - k;
    // The product never exceeds its second factor, so this never goes below zero.
    [c, m, y].map(|ink| white - multiply(ink, white))
}

/// One pixel of YCbCr, by Pillow's own rule of 6 bits behind the point.
pub(super) fn ycbcr_pixel([y, cb, cr]: [u8; 3]) -> [u8; 3] {
    let part = |level: u8, factor: i64| {
        // To whole 64ths, halves up and then towards zero, as Pillow's tables were made.
        let scaled = (i64::from(level) - 128) * factor * 64;
        ((scaled + 50_000) / 100_000) as i32
    };
    let red = part(cr, 140_200) >> 6;
    let green = (part(cb, -34_414) + part(cr, -71_414)) >> 6;
    let blue = part(cb, 177_200) >> 6;
    [red, green, blue].map(|colour| (i32::from(y) + colour).clamp(0, 255) as u8)
}

/// `a * b / 255`, rounded, as Pillow's `MULDIV255`.
pub(super) fn multiply(a: u8, b: u8) -> u8 {
    let t = u32::from(a) * u32::from(b) + 128;
    (((t >> 8) + t) >> 8) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_any_size_are_looked_up() {
        let colours = std::array::from_fn(|number| [number as u8, 0, 255]);
        let looked_up = |numbers: fn(&[u8], &[[u8; 3]; 256], &mut [u8]), pixels: usize| {
            let mut line = vec![9; pixels * 3];
            numbers(&[0b1101_0010, 0b0100_0001], &colours, &mut line);
            line.chunks(3).map(|pixel| pixel[0]).collect::<Vec<_>>()
        };
        assert_eq!(looked_up(numbers::<1>, 10), [1, 1, 0, 1, 0, 0, 1, 0, 0, 1]);
        assert_eq!(looked_up(numbers::<2>, 7), [3, 1, 0, 2, 1, 0, 0]);
        assert_eq!(looked_up(numbers::<4>, 3), [13, 2, 4]);
        assert_eq!(looked_up(numbers::<8>, 2), [210, 65]);
    }

    #[test]
    fn alpha_is_dropped_and_never_composited() {
        assert_eq!(rgba(vec![1, 2, 3, 0, 4, 5, 6, 255]), [1, 2, 3, 4, 5, 6]);
        #[cfg(feature = "jxl")]
        assert_eq!(grey_alpha(&[7, 0, 8, 255]).unwrap(), [7, 7, 7, 8, 8, 8]);
        assert_eq!(grey(&[7, 8]).unwrap(), [7, 7, 7, 8, 8, 8]);
    }

    #[test]
    fn cmyk_is_the_rounded_product_of_the_complements_for_every_ink_and_black() {
        for ink in 0..=255u8 {
            for black in 0..=255u8 {
                let white = 255 - u32::from(black);
                let expected = white - (u32::from(ink) * white + 127) / 255;
                assert_eq!(cmyk(vec![ink, 0, 0, black]), [expected as u8, white as u8, white as u8]);
            }
        }
    }
}
