//! What Pillow calls the mode of a picture, as far as a resize before the conversion to RGB shows it.
//!
//! Owns what modes change: palettes and bilevel pictures are resized by nearest neighbour, alpha weighs the colours, and what is not RGB is
//! mixed as what it is.
//! Three channels go through the resizer at a time, so a fourth one goes through it as a picture of its own, three times the same.
//!
//! Invariant: what is done here is what `PIL.Image.Image.resize` and `convert("RGB")` do, to the byte.

use super::{
    convert::{self, multiply},
    lab,
};
use crate::preprocess::memory::{self, OutOfMemory};

/// A picture's mode, besides its three channels.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) enum Mode {
    /// L, RGB: resized before the conversion or after it, they are the same.
    #[default]
    Plain,
    /// 1, P: pixels cannot be mixed. Also PA, whose palette Pillow loses while it resizes, which leaves black.
    Stepped {
        /// The colour whose number was asked for.
        fill: [u8; 3],
    },
    /// Three channels that are no RGB.
    Unconverted(Space),
    /// LA, RGBA: of each pixel alpha, three times.
    Alpha(Vec<u8>),
    /// CMYK, 0 is no ink: the three channels are C, M and Y, and this is K, three times.
    Cmyk(Vec<u8>),
}

/// What three channels mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Space {
    YCbCr,
    /// With a and b raised by 128.
    Lab,
}

impl Space {
    /// Converts pixels in place.
    pub(super) fn to_rgb(self, samples: &mut [u8]) {
        match self {
            Self::YCbCr => {
                let pixels = samples.as_chunks_mut::<3>().0.iter_mut();
                pixels.for_each(|pixel| *pixel = convert::ycbcr_pixel(*pixel));
            }
            Self::Lab => lab::to_rgb(samples),
        }
    }
}

impl Mode {
    /// That of two colours, black and white.
    pub(super) fn bilevel(fill: u8) -> Self {
        Self::Stepped { fill: [if fill == 0 { 0 } else { 255 }; 3] }
    }

    /// The fourth channel.
    pub(super) fn fourth(&self) -> Option<&[u8]> {
        match self {
            Self::Alpha(plane) | Self::Cmyk(plane) => Some(plane),
            Self::Plain | Self::Stepped { .. } | Self::Unconverted(_) => None,
        }
    }

    /// What surrounds a picture of this mode, padded with `fill` in each of its channels, in RGB.
    pub(super) fn around(&self, fill: u8) -> [u8; 3] {
        match self {
            Self::Plain | Self::Alpha(_) => [fill; 3],
            Self::Stepped { fill } => *fill,
            Self::Unconverted(space) => {
                let mut pixel = [fill; 3];
                space.to_rgb(&mut pixel);
                pixel
            }
            Self::Cmyk(_) => convert::cmyk_pixel([fill; 4]),
        }
    }
}

/// The colour of that number in a palette of three bytes each; black where it has fewer.
pub(super) fn entry(palette: Option<&[u8]>, number: u8) -> [u8; 3] {
    let colours = palette.unwrap_or_default().as_chunks().0;
    colours.get(usize::from(number)).copied().unwrap_or_default()
}

/// Whether colours of `stride` bytes, of which three count, are the greys of their numbers: Pillow opens such a palette as L.
pub(super) fn is_grey_ramp(colours: &[u8], stride: usize) -> bool {
    colours.chunks_exact(stride).zip(0..=255u8).all(|(colour, grey)| colour[..3] == [grey; 3])
}

/// The colours of RGBA, and its alpha as the mode.
#[cfg(any(feature = "heic", feature = "jxl", test))]
pub(super) fn of_rgba(samples: Vec<u8>) -> Result<(Vec<u8>, Mode), OutOfMemory> {
    let alpha = fourth(&samples)?;
    Ok((convert::rgba(samples), of_alpha(alpha)))
}

/// That of alpha, of each pixel three times.
pub(super) fn of_alpha(alpha: Vec<u8>) -> Mode {
    // Nothing is weighed where all is opaque.
    if alpha.iter().all(|&alpha| alpha == 255) { Mode::Plain } else { Mode::Alpha(alpha) }
}

/// The same of grey with alpha.
#[cfg(feature = "jxl")]
pub(super) fn of_grey_alpha(samples: &[u8]) -> Result<(Vec<u8>, Mode), OutOfMemory> {
    let pixels = samples.as_chunks::<2>().0;
    if pixels.iter().all(|&[_, alpha]| alpha == 255) {
        return Ok((convert::grey_alpha(samples)?, Mode::Plain));
    }
    let mut alphas = memory::room(pixels.len() * 3)?;
    alphas.extend(pixels.iter().flat_map(|&[_, alpha]| [alpha; 3]));
    Ok((convert::grey_alpha(samples)?, Mode::Alpha(alphas)))
}

/// The inks of CMYK but black, and black as the mode.
pub(super) fn of_cmyk(samples: Vec<u8>) -> Result<(Vec<u8>, Mode), OutOfMemory> {
    let black = fourth(&samples)?;
    Ok((convert::rgba(samples), Mode::Cmyk(black)))
}

fn fourth(samples: &[u8]) -> Result<Vec<u8>, OutOfMemory> {
    let pixels = samples.as_chunks::<4>().0;
    let mut plane = memory::room(pixels.len() * 3)?;
    plane.extend(pixels.iter().flat_map(|&[_, _, _, fourth]| [fourth; 3]));
    Ok(plane)
}

/// RGBA to Pillow's RGBa: colours times alpha.
pub(super) fn premultiply(colours: &mut [u8], alphas: &[u8]) {
    for (colour, &alpha) in colours.iter_mut().zip(alphas) {
        *colour = multiply(*colour, alpha);
    }
}

/// And back, as far as that goes.
pub(super) fn straighten(colours: &mut [u8], alphas: &[u8]) {
    for (colour, &alpha) in colours.iter_mut().zip(alphas) {
        if !matches!(alpha, 0 | 255) {
            *colour = (255 * u32::from(*colour) / u32::from(alpha)).min(255) as u8;
        }
    }
}

/// C, M and Y with black to RGB.
pub(super) fn mix(inks: &mut [u8], blacks: &[u8]) {
    for (pixel, &[black, ..]) in inks.as_chunks_mut::<3>().0.iter_mut().zip(blacks.as_chunks::<3>().0) {
        let [c, m, y] = *pixel;
        *pixel = convert::cmyk_pixel([c, m, y, black]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opaque_pictures_are_plain() {
        let (data, mode) = of_rgba(vec![1, 2, 3, 255, 4, 5, 6, 255]).unwrap();
        assert_eq!((data, mode), (vec![1, 2, 3, 4, 5, 6], Mode::Plain));
        #[cfg(feature = "jxl")]
        assert_eq!(of_grey_alpha(&[7, 255]).unwrap(), (vec![7; 3], Mode::Plain));
        #[cfg(feature = "jxl")]
        assert_eq!(of_grey_alpha(&[7, 9]).unwrap(), (vec![7; 3], Mode::Alpha(vec![9; 3])));
    }

    /// `Image.new("RGBA", (1, 1), pixel).convert("RGBa")` and back, for each level and alpha, by Pillow's macros.
    #[test]
    fn premultiplied_colours_come_back_as_pillow_has_them() {
        for level in 0..=255u8 {
            for alpha in 0..=255u8 {
                let mut colour = [level; 3];
                premultiply(&mut colour, &[alpha; 3]);
                let expected = (u32::from(level) * u32::from(alpha) + 127) / 255;
                assert_eq!(u32::from(colour[0]), expected);
                straighten(&mut colour, &[alpha; 3]);
                let expected = if alpha == 0 { 0 } else { (expected * 255 / u32::from(alpha)).min(255) };
                assert_eq!(u32::from(colour[0]), expected);
            }
        }
    }

    #[test]
    fn black_is_mixed_into_the_other_inks_as_in_a_picture_of_four_channels() {
        let samples = vec![10, 200, 30, 40, 255, 0, 128, 77];
        let (mut data, mode) = of_cmyk(samples.clone()).unwrap();
        mix(&mut data, mode.fourth().unwrap());
        assert_eq!(data, convert::cmyk(samples));
        assert_eq!(mode.around(0), [255; 3]);
    }
}
