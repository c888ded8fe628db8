//! What the samples of a TIFF are: the kinds that Pillow opens (`OPEN_INFO` in its `TiffImagePlugin`), and no others.
//!
//! Owns telling the kind from the fields. Does not own where the samples lie, nor what becomes of them.

use super::{
    refusal::{corrupt, unsupported},
    tags::{
        BITS, COMPRESSION, EXTRA_SAMPLES, FILL_ORDER, Numbers, OLD_JPEG, PHOTOMETRIC, PLANAR, SAMPLE_FORMAT, SAMPLES,
        Tags,
    },
};
use crate::preprocess::image::error::ImageError;

/// Samples of a pixel at most, by Pillow.
const MAX_SAMPLES: u64 = 6;

/// What a pixel's first samples mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Colour {
    Grey {
        inverted: bool,
    },
    GreyAlpha,
    Palette,
    /// A palette's, with an alpha that does not show.
    PaletteAlpha,
    Rgb,
    Rgba,
    /// Colours times alpha.
    Premultiplied,
    Cmyk,
    YCbCr,
    Lab,
}

impl Colour {
    /// Samples that count.
    pub(super) fn channels(self) -> usize {
        match self {
            Self::Grey { .. } | Self::Palette => 1,
            Self::GreyAlpha | Self::PaletteAlpha => 2,
            Self::Rgb | Self::YCbCr | Self::Lab => 3,
            Self::Rgba | Self::Premultiplied | Self::Cmyk => 4,
        }
    }
}

/// How a sample is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Depth {
    /// Unsigned, of 1, 2, 4 or 8 bits.
    Bits(u8),
    Twelve,
    Sixteen,
    Signed16,
    Signed32,
    Float,
}

impl Depth {
    pub(super) fn bits(self) -> usize {
        match self {
            Self::Bits(bits) => bits.into(),
            Self::Twelve => 12,
            Self::Sixteen | Self::Signed16 => 16,
            Self::Signed32 | Self::Float => 32,
        }
    }
}

/// The kind of a picture's samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Samples {
    pub(super) colour: Colour,
    pub(super) depth: Depth,
    /// Of a pixel, with those that do not count.
    pub(super) count: usize,
    /// Whether there are extra samples that the kind does not name: libtiff takes the first for premultiplied alpha.
    pub(super) names_no_extra: bool,
    /// Whether each channel lies apart.
    pub(super) planar: bool,
    /// Whether the first pixel of a byte is in its lowest bits.
    pub(super) reversed: bool,
    pub(super) big_endian: bool,
    /// What Pillow divides the length of planar rows by.
    pub(super) nominal_count: usize,
}

impl Samples {
    /// That of the fields.
    pub(super) fn of(tags: &Tags<'_>) -> Result<Self, ImageError> {
        let compression = tags.number_or(COMPRESSION, 1)?;
        // Of several numbers Pillow takes none.
        let photometric = match tags.numbers(PHOTOMETRIC)? {
            // That is YCbCr, whatever the field says.
            _ if compression == OLD_JPEG => 6,
            Some(numbers) if numbers.count() == 1 => numbers.get(0)?,
            _ => 0,
        };
        let fill_order = tags.number_or(FILL_ORDER, 1)?;
        let planar = tags.number_or(PLANAR, 1)? == 2;
        let format = match tags.numbers(SAMPLE_FORMAT)? {
            Some(numbers) => uniform(&numbers, numbers.count())?,
            None => 1,
        };
        let default = if compression == OLD_JPEG { 3 } else { 1 };
        let mut count = tags.number_or(SAMPLES, default)?;
        let extra = tags.numbers(EXTRA_SAMPLES)?;
        let mut extra_count = extra.map_or(0, |extra| extra.count());
        let bits = tags.numbers(BITS)?;
        let mut bits_count = bits.map_or(1, |bits| bits.count());
        if planar && let Some(extra) = extra {
            let mut all_unspecified = true;
            for value in extra.iter() {
                all_unspecified &= value? == 0;
            }
            if all_unspecified {
                bits_count = bits_count.saturating_sub(extra_count);
                count = count.saturating_sub(extra_count as u64);
                extra_count = 0;
            }
        }
        if !(1..=MAX_SAMPLES).contains(&count) {
            return Err(corrupt(format!("{count} samples of a pixel")));
        }
        let count = count as usize;
        if bits_count < count && bits_count != 1 {
            return Err(corrupt(format!("bits of {bits_count} of {count} samples")));
        }
        let bits = match bits {
            Some(bits) => uniform(&bits, bits_count.min(count))?,
            None => 1,
        };
        // The longest list of a kind has three.
        let mut extras = [0; 3];
        for (index, value) in extras.iter_mut().enumerate().take(extra_count) {
            *value = extra.map_or(Ok(0), |extra| extra.get(index))?;
        }
        let extras = extras.get(..extra_count).unwrap_or(&[u64::MAX]);
        let order = if tags.big_endian { Order::Big } else { Order::Little };
        let found = kind(order, photometric, format, fill_order, bits, count, extras);
        let Some((colour, depth)) = found else {
            return Err(unsupported(format!(
                "photometric {photometric}, format {format}, fill order {fill_order}, {count} samples of {bits} bits, extra {extras:?}"
            )));
        };
        let nominal = match photometric {
            2 | 6 | 8 => 3,
            5 => 4,
            _ => 1,
        };
        Ok(Self {
            colour,
            depth,
            count,
            names_no_extra: extras.is_empty() && count > nominal,
            planar,
            reversed: fill_order == 2,
            big_endian: tags.big_endian,
            nominal_count: nominal + extras.len(),
        })
    }

    /// Bits of a pixel in one plane.
    pub(super) fn pixel_bits(&self) -> usize {
        self.depth.bits() * if self.planar { 1 } else { self.count }
    }

    /// The same as Pillow reads it where it is not compressed. It has no unpacker for some kinds, and names each plane by one letter of
    /// the kind, so that the order of bits and what is inverted is forgotten, and some planes have no name.
    pub(super) fn as_stored(self) -> Result<Self, ImageError> {
        let (colour, depth) = (self.colour, self.depth);
        if !self.planar {
            let has_unpacker = match (colour, depth) {
                (Colour::Grey { inverted }, Depth::Bits(8)) => !inverted,
                (Colour::Palette, depth) => depth == Depth::Bits(8),
                _ => true,
            };
            let lacks_unpacker = self.reversed && !has_unpacker;
            return if lacks_unpacker { Err(unsupported(format!("{colour:?} with bits reversed"))) } else { Ok(self) };
        }
        let colour = match (colour, depth) {
            (Colour::Grey { .. }, Depth::Bits(1 | 8)) => Colour::Grey { inverted: false },
            (Colour::Palette, Depth::Bits(8)) | (Colour::Rgb | Colour::Rgba | Colour::Cmyk | Colour::Lab, _) => colour,
            (Colour::Grey { .. }, Depth::Signed16 | Depth::Signed32 | Depth::Float) => colour,
            _ => return Err(unsupported(format!("planes of {colour:?}, {depth:?}"))),
        };
        Ok(Self { colour, reversed: false, ..self.with_named_planes()? })
    }

    /// The same as libtiff gives it to Pillow: in the usual order of bits. In planes, an extra sample that has no name is alpha times
    /// which the colours are.
    pub(super) fn as_decompressed(self, by_jpeg: bool) -> Result<Self, ImageError> {
        let colour = match self.colour {
            Colour::Rgba if self.planar && self.names_no_extra => Colour::Premultiplied,
            // Together they come as RGB.
            Colour::YCbCr if by_jpeg && !self.planar => Colour::Rgb,
            colour => colour,
        };
        Ok(Self { colour, reversed: false, ..self.with_named_planes()? })
    }

    /// Nor has Pillow a name for planes beyond those that count.
    fn with_named_planes(self) -> Result<Self, ImageError> {
        if self.planar && self.count > self.colour.channels() {
            return Err(unsupported(format!("{} planes of {:?}", self.count, self.colour)));
        }
        Ok(self)
    }

    /// Planes that are read.
    pub(super) fn planes(&self) -> usize {
        if self.planar { self.colour.channels() } else { 1 }
    }
}

/// The value that the first numbers all have; one that no kind has where they differ.
fn uniform(numbers: &Numbers<'_>, count: usize) -> Result<u64, ImageError> {
    let first = numbers.get(0)?;
    for index in 1..count {
        if numbers.get(index)? != first {
            return Ok(u64::MAX);
        }
    }
    Ok(first)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    Big,
    Little,
}

fn kind(
    order: Order,
    photometric: u64,
    format: u64,
    fill_order: u64,
    bits: u64,
    count: usize,
    extras: &[u64],
) -> Option<(Colour, Depth)> {
    use Colour::*;
    use Depth::*;
    use Order::*;
    let grey = Grey { inverted: photometric == 0 };
    // Of deeper greys Pillow inverts none.
    let deep = Grey { inverted: false };
    Some(match (photometric, format, fill_order, bits, count, extras) {
        (0 | 1, 1, 1 | 2, 1 | 2 | 4 | 8, 1, []) => (grey, Bits(bits as u8)),
        (1, 2, 1, 8, 1, []) => (grey, Bits(8)),
        (1, 1, 1, 12, 1, []) if order == Little => (deep, Twelve),
        (0, 1, 1, 16, 1, []) | (1, 1, 2, 16, 1, []) if order == Little => (deep, Sixteen),
        (1, 1, 1, 16, 1, []) => (deep, Sixteen),
        (1, 2, 1, 16, 1, []) => (deep, Signed16),
        (1, 1, 1, 32, 1, []) if order == Little => (deep, Signed32),
        (1, 2, 1, 32, 1, []) => (deep, Signed32),
        (0 | 1, 3, 1, 32, 1, []) => (deep, Float),
        (1, 1, 1, 8, 2, [0]) => (grey, Bits(8)),
        (1, 1, 1, 8, 2, [2]) => (GreyAlpha, Bits(8)),
        (2, 1, 1 | 2, 8, 3, []) => (Rgb, Bits(8)),
        (2, 1, 1, 8, 4, [] | [2 | 999]) => (Rgba, Bits(8)),
        (2, 1, 1, 8, 4, [0]) | (2, 1, 1, 8, 5, [0, 0]) | (2, 1, 1, 8, 6, [0, 0, 0]) => (Rgb, Bits(8)),
        (2, 1, 1, 8, 4, [1]) | (2, 1, 1, 8, 5, [1, 0]) | (2, 1, 1, 8, 6, [1, 0, 0]) => (Premultiplied, Bits(8)),
        (2, 1, 1, 8, 5, [2, 0]) | (2, 1, 1, 8, 6, [2, 0, 0]) => (Rgba, Bits(8)),
        (2, 1, 1, 16, 3, []) | (2, 1, 1, 16, 4, [0]) => (Rgb, Sixteen),
        (2, 1, 1, 16, 4, [] | [2]) => (Rgba, Sixteen),
        (2, 1, 1, 16, 4, [1]) => (Premultiplied, Sixteen),
        (3, 1, 1 | 2, 1 | 2 | 4 | 8, 1, []) => (Palette, Bits(bits as u8)),
        (3, 1, 1, 8, 2, [0]) => (Palette, Bits(8)),
        (3, 1, 1, 8, 2, [2]) => (PaletteAlpha, Bits(8)),
        (5, 1, 1, 8, 4, []) | (5, 1, 1, 8, 5, [0]) | (5, 1, 1, 8, 6, [0, 0]) => (Cmyk, Bits(8)),
        (5, 1, 1, 16, 4, []) => (Cmyk, Sixteen),
        (6, 1, 1, 8, 1, []) => (Grey { inverted: false }, Bits(8)),
        (6, 1, 1, 8, 3, []) => (YCbCr, Bits(8)),
        (8, 1, 1, 8, 3, []) => (Lab, Bits(8)),
        _ => return None,
    })
}
