//! Rows of samples to the answer: RGB, or what Pillow's mode keeps besides.
//!
//! Owns what a sample's bits and what a pixel's samples become. Invariants: as Pillow's unpackers and its `convert("RGB")`, but that grey
//! of 12 and 16 bits is scaled and not clipped, and that planes of 16 bits are read as such; nothing is taken but the answer's memory,
//! and a fourth channel where planes come one after the other.

use std::ops::Range;

use super::{
    refusal::corrupt,
    samples::{Colour, Depth, Samples},
    tags::{COLOURS, Tags},
    ycbcr::Tables,
};
use crate::preprocess::{
    image::{
        RgbImage, convert,
        error::ImageError,
        mode::{self, Mode, Space},
    },
    memory,
};

/// A picture while its chunks come.
pub(super) struct Picture {
    pub(super) size: (usize, usize),
    samples: Samples,
    /// Three channels; CMYK that is kept has its first three there.
    pub(super) data: Vec<u8>,
    /// The fourth channel, three times; empty where nobody asks.
    fourth: Vec<u8>,
    /// Of one channel of up to 8 bits the colour of each number.
    colours: [[u8; 3]; 256],
    kept_modes: Option<u8>,
}

impl Picture {
    pub(super) fn new(
        tags: &Tags<'_>,
        samples: Samples,
        size: (usize, usize),
        kept_modes: Option<u8>,
        buffer: Vec<u8>,
    ) -> Result<Self, ImageError> {
        let length = size.0 * size.1 * 3;
        let data = memory::zeroed(buffer, length)?;
        let has_fourth = match samples.colour {
            Colour::Rgba | Colour::Premultiplied | Colour::Cmyk => samples.planar || kept_modes.is_some(),
            Colour::GreyAlpha => kept_modes.is_some(),
            _ => false,
        };
        let fourth = memory::zeroed(Vec::new(), if has_fourth { length } else { 0 })?;
        Ok(Self { size, samples, data, fourth, colours: colours(tags, &samples)?, kept_modes })
    }

    /// Puts a row of a plane, `width` pixels from `left` on.
    pub(super) fn put(&mut self, plane: usize, (left, top): (usize, usize), width: usize, row: &[u8]) {
        let Self { samples, colours, .. } = self;
        let place = (top * self.size.0 + left) * 3..(top * self.size.0 + left + width) * 3;
        let out = self.data[place.clone()].as_chunks_mut::<3>().0;
        let fourth = if self.fourth.is_empty() { &mut [] } else { self.fourth[place.clone()].as_chunks_mut::<3>().0 };
        let stride = if samples.planar { 1 } else { samples.count };
        match (samples.colour, samples.depth) {
            (Colour::GreyAlpha | Colour::PaletteAlpha, _) if plane == 1 => triple(fourth, row.iter().copied()),
            // As below, faster.
            (Colour::Grey { inverted: false }, Depth::Bits(8)) if stride == 1 && !samples.reversed => {
                triple(out, row.iter().copied());
            }
            (Colour::Grey { .. } | Colour::GreyAlpha | Colour::Palette | Colour::PaletteAlpha, Depth::Bits(bits)) => {
                if bits == 8 {
                    let numbers = row.iter().step_by(stride);
                    for (out, &number) in out.iter_mut().zip(numbers) {
                        let number = if samples.reversed { number.reverse_bits() } else { number };
                        *out = colours[usize::from(number)];
                    }
                    if !samples.planar {
                        triple(fourth, row.iter().skip(1).step_by(stride).copied());
                    }
                } else {
                    narrow(out, row, bits.into(), samples.reversed, colours);
                }
            }
            (Colour::Grey { .. }, depth) => deep(out, row, depth, samples),
            (_, Depth::Sixteen) => {
                // The high byte of each sample.
                let high = usize::from(!samples.big_endian);
                if samples.planar {
                    channel(out, fourth, plane, row.iter().skip(high).step_by(2).copied());
                } else {
                    self.pixels(place, row.chunks_exact(2 * stride), move |pixel, at| pixel[2 * at + high]);
                }
            }
            (Colour::Rgb, _) if stride == 3 && !samples.reversed => {
                out.as_flattened_mut().copy_from_slice(&row[..width * 3])
            }
            (Colour::Rgb, _) if stride == 3 => {
                for (out, &sample) in out.as_flattened_mut().iter_mut().zip(row) {
                    *out = sample.reverse_bits();
                }
            }
            _ if samples.planar => channel(out, fourth, plane, row.iter().copied()),
            _ => self.pixels(place, row.chunks_exact(stride), |pixel, at| pixel[at]),
        }
    }

    /// Puts pixels whose samples lie together.
    fn pixels<'a>(
        &mut self,
        place: Range<usize>,
        pixels: impl Iterator<Item = &'a [u8]>,
        sample: impl Fn(&[u8], usize) -> u8,
    ) {
        let finish = self.finish_of_four();
        let out = self.data[place.clone()].as_chunks_mut::<3>().0.iter_mut();
        if self.samples.colour.channels() == 3 {
            // What Pillow raises of Lab where the samples of a pixel lie together.
            let raise = if self.samples.colour == Colour::Lab { [0, 128, 128] } else { [0; 3] };
            for (out, pixel) in out.zip(pixels) {
                *out = [0, 1, 2].map(|at| sample(pixel, at) ^ raise[at]);
            }
            if let (Some(space), None) = (self.space(), self.kept_modes) {
                space.to_rgb(&mut self.data[place]);
            }
            return;
        }
        let four = pixels.map(|pixel| [0, 1, 2, 3].map(|at| sample(pixel, at)));
        if self.fourth.is_empty() {
            out.zip(four).for_each(|(out, pixel)| *out = finish(pixel));
            return;
        }
        let fourth = self.fourth[place].as_chunks_mut::<3>().0.iter_mut();
        for ((out, fourth), pixel) in out.zip(fourth).zip(four) {
            *out = finish(pixel);
            *fourth = [pixel[3]; 3];
        }
    }

    /// That of three channels which are not RGB yet.
    fn space(&self) -> Option<Space> {
        match self.samples.colour {
            Colour::YCbCr => Some(Space::YCbCr),
            Colour::Lab => Some(Space::Lab),
            _ => None,
        }
    }

    /// What becomes of four channels.
    fn finish_of_four(&self) -> fn([u8; 4]) -> [u8; 3] {
        match self.samples.colour {
            Colour::Premultiplied => straight,
            Colour::Cmyk if self.kept_modes.is_none() => convert::cmyk_pixel,
            _ => |[a, b, c, _]| [a, b, c],
        }
    }

    /// Makes RGB of planes, which are all there now. Of YCbCr by those tables.
    pub(super) fn join(&mut self, tables: Option<&Tables>) {
        match self.samples.colour {
            Colour::Premultiplied | Colour::Cmyk => {
                let finish = self.finish_of_four();
                let pixels = self.data.as_chunks_mut::<3>().0;
                for (pixel, &[fourth, ..]) in pixels.iter_mut().zip(self.fourth.as_chunks::<3>().0) {
                    let [a, b, c] = *pixel;
                    *pixel = finish([a, b, c, fourth]);
                }
            }
            Colour::Lab if self.kept_modes.is_none() => Space::Lab.to_rgb(&mut self.data),
            _ => {}
        }
        if let Some(tables) = tables {
            let pixels = self.data.as_chunks_mut::<3>().0.iter_mut();
            pixels.for_each(|pixel| *pixel = tables.rgb(*pixel));
        }
    }

    /// The answer.
    pub(super) fn finish(self) -> RgbImage {
        let space = self.space();
        let Self { size, samples, data, fourth, colours, kept_modes } = self;
        let mode = match (samples.colour, kept_modes) {
            (_, None) => Mode::Plain,
            (Colour::Grey { .. }, Some(fill)) if samples.depth == Depth::Bits(1) => Mode::bilevel(fill),
            (Colour::Palette | Colour::PaletteAlpha, Some(fill)) => Mode::Stepped { fill: colours[usize::from(fill)] },
            (Colour::Cmyk, Some(_)) => Mode::Cmyk(fourth),
            (Colour::GreyAlpha | Colour::Rgba | Colour::Premultiplied, Some(_)) => mode::of_alpha(fourth),
            _ => space.map_or(Mode::Plain, Mode::Unconverted),
        };
        RgbImage::new(size.0 as u32, size.1 as u32, data).in_mode(mode)
    }
}

/// The colour of each number of one channel.
fn colours(tags: &Tags<'_>, samples: &Samples) -> Result<[[u8; 3]; 256], ImageError> {
    let mut colours = [[0; 3]; 256];
    match (samples.colour, samples.depth) {
        (Colour::Grey { inverted }, Depth::Bits(bits)) => {
            let highest = u8::MAX >> (8 - bits);
            for (number, colour) in (0..=highest).zip(&mut colours) {
                let level = number * (255 / highest);
                *colour = [if inverted { 255 - level } else { level }; 3];
            }
        }
        (Colour::GreyAlpha, _) => (0..=255).zip(&mut colours).for_each(|(level, colour)| *colour = [level; 3]),
        (Colour::Palette | Colour::PaletteAlpha, _) => {
            let levels = tags.bytes_or_numbers(COLOURS)?.ok_or_else(|| corrupt("a palette that is missing"))?;
            // Pillow takes a third of them for each channel.
            let count = levels.count() / 3;
            if count > 256 {
                return Err(corrupt(format!("a palette of {count} colours")));
            }
            for (number, colour) in colours.iter_mut().enumerate().take(count) {
                for (channel, level) in colour.iter_mut().enumerate() {
                    let level_of_16_bits = levels.get(channel * count + number)?;
                    *level = u8::try_from(level_of_16_bits / 256).map_err(|_| corrupt("a palette beyond 16 bits"))?;
                }
            }
        }
        _ => {}
    }
    Ok(colours)
}

/// Colours divided by their alpha, rounded down.
fn straight([r, g, b, alpha]: [u8; 4]) -> [u8; 3] {
    match alpha {
        0 => [0; 3],
        255 => [r, g, b],
        _ => [r, g, b].map(|level| (u32::from(level) * 255 / u32::from(alpha)).min(255) as u8),
    }
}

/// One plane of several.
fn channel(out: &mut [[u8; 3]], fourth: &mut [[u8; 3]], plane: usize, samples: impl Iterator<Item = u8>) {
    if plane == 3 {
        triple(fourth, samples);
    } else {
        out.iter_mut().zip(samples).for_each(|(pixel, sample)| pixel[plane] = sample);
    }
}

fn triple(out: &mut [[u8; 3]], samples: impl Iterator<Item = u8>) {
    out.iter_mut().zip(samples).for_each(|(pixel, sample)| *pixel = [sample; 3]);
}

/// Numbers of less than a byte.
fn narrow(out: &mut [[u8; 3]], row: &[u8], bits: u32, reversed: bool, colours: &[[u8; 3]; 256]) {
    let mask = u8::MAX >> (8 - bits);
    for (pixels, &byte) in out.chunks_mut(8 / bits as usize).zip(row) {
        let mut byte = if reversed { byte.reverse_bits() } else { byte };
        for pixel in pixels {
            byte = byte.rotate_left(bits);
            *pixel = colours[usize::from(byte & mask)];
        }
    }
}

/// Grey of more than 8 bits. Unsigned it is scaled, for Pillow's clipping leaves white of most such pictures; else it is clipped.
fn deep(out: &mut [[u8; 3]], row: &[u8], depth: Depth, samples: &Samples) {
    let big_endian = samples.big_endian;
    let pairs = row.as_chunks::<2>().0.iter();
    let fours = row.as_chunks::<4>().0.iter();
    match depth {
        Depth::Bits(_) => {}
        Depth::Twelve => {
            for (pixels, bytes) in out.chunks_mut(2).zip(row.chunks(3)) {
                let high = bytes[0];
                let low = bytes.get(1).map_or(0, |byte| byte << 4) | bytes.get(2).map_or(0, |byte| byte >> 4);
                pixels.iter_mut().zip([high, low]).for_each(|(pixel, level)| *pixel = [level; 3]);
            }
        }
        Depth::Sixteen => {
            let high = usize::from(!big_endian);
            triple(out, pairs.map(|pair| if samples.reversed { pair[high].reverse_bits() } else { pair[high] }));
        }
        Depth::Signed16 => {
            let read = if big_endian { i16::from_be_bytes } else { i16::from_le_bytes };
            triple(out, pairs.map(|&pair| read(pair).clamp(0, 255) as u8));
        }
        Depth::Signed32 => {
            let read = if big_endian { i32::from_be_bytes } else { i32::from_le_bytes };
            triple(out, fours.map(|&four| read(four).clamp(0, 255) as u8));
        }
        Depth::Float => {
            let read = if big_endian { f32::from_be_bytes } else { f32::from_le_bytes };
            // The cast rounds down and clips; what is no number becomes 0.
            triple(out, fours.map(|&four| read(four) as u8));
        }
    }
}
