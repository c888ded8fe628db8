//! What the headers of a BMP say.

use super::refusal::{FORMAT, unsupported};
use crate::preprocess::image::ImageError;

/// Bytes before the information header.
const FILE_HEADER: usize = 14;

/// How pixels are coded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Compression {
    None,
    /// Run lengths, of pixels of 4 bits or of 8.
    Runs {
        nibbles: bool,
    },
    /// None, with masks of red, green, blue and alpha.
    Masks([u32; 4]),
}

/// The information header.
#[derive(Debug)]
pub(in crate::preprocess::image) struct Header {
    /// Columns.
    pub(in crate::preprocess::image) width: u32,
    /// Rows.
    pub(in crate::preprocess::image) height: u32,
    /// Of a pixel.
    pub(in crate::preprocess::image) bits: u16,
    pub(super) top_down: bool,
    pub(super) compression: Compression,
    /// In the palette.
    pub(super) colours: u64,
    /// Of a colour of the palette.
    pub(super) colour_bytes: usize,
    /// Where the header, with its masks, ends.
    pub(super) end: usize,
    /// Where pixels begin, as the file says.
    offset: u32,
}

impl Header {
    /// Reads it.
    pub(in crate::preprocess::image) fn parse(bytes: &[u8]) -> Result<Self, ImageError> {
        let truncated = || ImageError::Truncated { format: FORMAT };
        let u16_at = |at: usize| {
            bytes.get(at..).and_then(<[u8]>::first_chunk).copied().map(u16::from_le_bytes).ok_or_else(truncated)
        };
        let u32_at = |at: usize| {
            bytes.get(at..).and_then(<[u8]>::first_chunk).copied().map(u32::from_le_bytes).ok_or_else(truncated)
        };
        let offset = u32_at(10)?;
        let length = u32_at(FILE_HEADER)?;
        let end = FILE_HEADER + length as usize;
        if !matches!(length, 12 | 40 | 52 | 56 | 64 | 108 | 124) {
            return Err(unsupported("a header of length", length));
        }
        bytes.get(..end).ok_or_else(truncated)?;
        let colours_of = |bits: u16| 1u64.checked_shl(bits.into()).unwrap_or(0);
        if length == 12 {
            let bits = u16_at(24)?;
            return Ok(Self {
                width: u16_at(18)?.into(),
                height: u16_at(20)?.into(),
                bits,
                top_down: false,
                compression: Compression::None,
                colours: colours_of(bits),
                colour_bytes: 3,
                end,
                offset,
            });
        }
        let height = u32_at(22)?;
        // Negative, that is; of a number that is less than that Pillow makes a height no picture has.
        let top_down = height >> 24 == 0xff;
        let bits = u16_at(28)?;
        let mut masks_end = end;
        let compression = match u32_at(30)? {
            0 => Compression::None,
            1 => Compression::Runs { nibbles: false },
            2 => Compression::Runs { nibbles: true },
            3 => {
                // Behind a header that has no room for them they follow; only the larger ones have a mask of alpha.
                masks_end = end.max(FILE_HEADER + 52);
                let alpha = if length >= 56 { u32_at(66)? } else { 0 };
                Compression::Masks([u32_at(54)?, u32_at(58)?, u32_at(62)?, alpha])
            }
            other => return Err(unsupported("compression", other)),
        };
        let colours = match u32_at(46)? {
            0 => colours_of(bits),
            colours => colours.into(),
        };
        Ok(Self {
            width: u32_at(18)?,
            height: if top_down { height.wrapping_neg() } else { height },
            bits,
            top_down,
            compression,
            colours,
            colour_bytes: 4,
            end: masks_end,
            offset,
        })
    }

    pub(super) fn palette_bytes(&self) -> u64 {
        self.colours.saturating_mul(self.colour_bytes as u64)
    }

    /// Where pixels begin: behind what was read where the file says nowhere, and where it says that a palette follows the header but
    /// that pixels do.
    pub(super) fn data_offset(&self, bytes: &[u8]) -> usize {
        let has_palette = self.bits <= 8;
        let behind = self.end as u64 + if has_palette { self.palette_bytes() } else { 0 };
        let offset = match self.offset as usize {
            0 => behind.min(bytes.len() as u64),
            offset if has_palette && offset == self.end => behind,
            offset => offset as u64,
        };
        usize::try_from(offset).unwrap_or(usize::MAX)
    }
}
