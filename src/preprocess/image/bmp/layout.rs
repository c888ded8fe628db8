//! How the rows of a BMP are stored, where there are no run lengths.

use super::{
    header::Header,
    palette::Palette,
    refusal::{FORMAT, unsupported},
};
use crate::preprocess::image::{ImageError, convert};

/// How the pixels of a row are stored.
pub(super) enum Layout {
    Bits(Palette),
    Nibbles(Palette),
    Indices(Palette),
    /// 5 bits each.
    Rgb555,
    /// 6 bits of green.
    Rgb565,
    /// A byte for each channel, of which one may be alpha.
    Bytes {
        bytes: u64,
        unpack: fn(&[u8], &mut [u8]),
        alpha: Option<usize>,
    },
}

impl Layout {
    pub(super) const BGR: Self = Self::Bytes { bytes: 3, unpack: convert::channels::<3, 2, 1, 0>, alpha: None };
    pub(super) const BGRX: Self = Self::quads(convert::channels::<4, 2, 1, 0>, None);
    pub(super) const BGRA: Self = Self::quads(convert::channels::<4, 2, 1, 0>, Some(3));

    const fn quads(unpack: fn(&[u8], &mut [u8]), alpha: Option<usize>) -> Self {
        Self::Bytes { bytes: 4, unpack, alpha }
    }

    pub(super) fn of_masks(bits: u16, masks: [u32; 4]) -> Result<Self, ImageError> {
        Ok(match (bits, masks) {
            (16, [0x7c00, 0x3e0, 0x1f, _]) => Self::Rgb555,
            (16, [0xf800, 0x7e0, 0x1f, _]) => Self::Rgb565,
            (24, [0xff_0000, 0xff00, 0xff, _]) => Self::BGR,
            (32, [0xff_0000, 0xff00, 0xff, 0]) => Self::BGRX,
            (32, [0xff_0000, 0xff00, 0xff, 0xff00_0000] | [0, 0, 0, 0]) => Self::BGRA,
            (32, [0xff00_0000, 0xff_0000, 0xff00, 0]) => Self::quads(convert::channels::<4, 3, 2, 1>, None),
            (32, [0xff00_0000, 0xff_0000, 0xff00, 0xff]) => Self::quads(convert::channels::<4, 3, 2, 1>, Some(0)),
            (32, [0xff00_0000, 0xff00, 0xff, 0]) => Self::quads(convert::channels::<4, 3, 1, 0>, None),
            (32, [0xff00_0000, 0xff00, 0xff, 0xff_0000]) => Self::quads(convert::channels::<4, 3, 1, 0>, Some(2)),
            (32, [0xff, 0xff00, 0xff_0000, 0xff00_0000]) => Self::quads(convert::channels::<4, 0, 1, 2>, Some(3)),
            _ => return Err(unsupported(&format!("masks of {bits} bits:"), format_args!("{masks:x?}"))),
        })
    }

    /// Of a pixel.
    pub(super) fn bits(&self) -> u64 {
        match self {
            Self::Bits(_) => 1,
            Self::Nibbles(_) => 4,
            Self::Indices(_) => 8,
            Self::Rgb555 | Self::Rgb565 => 16,
            Self::Bytes { bytes, .. } => bytes * 8,
        }
    }

    pub(super) fn unpack(&self, row: &[u8], line: &mut [u8]) {
        match self {
            Self::Bits(palette) => palette.unpack::<1>(row, line),
            Self::Nibbles(palette) => palette.unpack::<4>(row, line),
            Self::Indices(palette) => palette.unpack::<8>(row, line),
            Self::Rgb555 => {
                widen(row, line, |pixel| [widened(pixel >> 10, 5), widened(pixel >> 5, 5), widened(pixel, 5)])
            }
            Self::Rgb565 => {
                widen(row, line, |pixel| [widened(pixel >> 11, 5), widened(pixel >> 5, 6), widened(pixel, 5)])
            }
            Self::Bytes { unpack, .. } => unpack(row, line),
        }
    }
}

fn widen(row: &[u8], line: &mut [u8], colours: impl Fn(u16) -> [u8; 3]) {
    for (out, &pixel) in line.as_chunks_mut().0.iter_mut().zip(row.as_chunks().0) {
        *out = colours(u16::from_le_bytes(pixel));
    }
}

/// The lowest `bits` of `value` as 8, rounded down.
fn widened(value: u16, bits: u16) -> u8 {
    let most = (1 << bits) - 1;
    ((value & most) * 255 / most) as u8
}

/// Where the rows of a picture lie, all of them, in the order of the file.
pub(super) struct Rows<'a> {
    data: &'a [u8],
    stride: usize,
    row_bytes: usize,
}

impl<'a> Rows<'a> {
    /// Of pixels of `bits` each in rows as long as the header says, which are fewer where its palette is one of greys.
    pub(super) fn of(header: &Header, bits: u64, data: &'a [u8]) -> Result<Self, ImageError> {
        let (width, height) = (u64::from(header.width), u64::from(header.height));
        let stride = (width * u64::from(header.bits)).div_ceil(32) * 4;
        let row_bytes = (width * bits).div_ceil(8);
        if row_bytes > stride {
            return Err(unsupported("a palette of greys for bits of a pixel:", header.bits));
        }
        let needed = stride.checked_mul(height - 1).and_then(|before| before.checked_add(row_bytes));
        if needed.is_none_or(|needed| (data.len() as u64) < needed) {
            return Err(ImageError::Truncated { format: FORMAT });
        }
        Ok(Self { data, stride: stride as usize, row_bytes: row_bytes as usize })
    }

    /// By its place in the file.
    pub(super) fn row(&self, number: usize) -> &'a [u8] {
        &self.data[number * self.stride..][..self.row_bytes]
    }
}
