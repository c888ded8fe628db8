//! Samples as decoders give them to interleaved 8-bit RGB, as Pillow's `convert("RGB")` does it: grey is replicated, alpha is
//! dropped and never composited, 16 bits keep the high byte.
//!
//! One deliberate difference: Pillow clips 16-bit grey (`I;16`) at 255 instead of scaling it, which turns nearly every such
//! picture white; here it is scaled like every other 16-bit picture.

use crate::preprocess::memory::{self, OutOfMemory};

/// Replicates each grey sample.
pub(super) fn grey(samples: &[u8]) -> Result<Vec<u8>, OutOfMemory> {
    let mut rgb = memory::room(samples.len() * 3)?;
    rgb.extend(samples.iter().flat_map(|&value| [value; 3]));
    Ok(rgb)
}

/// Replicates each grey sample and drops its alpha.
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

/// Keeps the high byte of native-endian 16-bit samples, in place.
pub(super) fn high_bytes(mut samples: Vec<u8>) -> Vec<u8> {
    let count = samples.len() / 2;
    for i in 0..count {
        samples[i] = (u16::from_ne_bytes([samples[i * 2], samples[i * 2 + 1]]) >> 8) as u8;
    }
    samples.truncate(count);
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

/// `a * b / 255`, rounded, as Pillow's `MULDIV255`.
pub(super) fn multiply(a: u8, b: u8) -> u8 {
    let t = u32::from(a) * u32::from(b) + 128;
    (((t >> 8) + t) >> 8) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alpha_is_dropped_and_never_composited() {
        assert_eq!(rgba(vec![1, 2, 3, 0, 4, 5, 6, 255]), [1, 2, 3, 4, 5, 6]);
        assert_eq!(grey_alpha(&[7, 0, 8, 255]).unwrap(), [7, 7, 7, 8, 8, 8]);
        assert_eq!(grey(&[7, 8]).unwrap(), [7, 7, 7, 8, 8, 8]);
    }

    #[test]
    fn sixteen_bits_keep_the_high_byte() {
        let samples = [0x00ffu16, 0x0100, 0xffff].into_iter().flat_map(u16::to_ne_bytes).collect();
        assert_eq!(high_bytes(samples), [0, 1, 255]);
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
