//! BMP: Windows' and OS/2's bitmaps to RGB, by the rules of Pillow's reader.
//!
//! Owns which of its kinds a file is and the order of its rows. `header` reads the headers, `palette` the palette, `layout` rows as
//! they are stored, `runs` run lengths.
//!
//! As in Pillow: pixels may begin anywhere, in the header too; a palette of greys is none; of the masks those are read that
//! programs write; the number of planes and the sizes that a header states are not looked at; the last row needs no padding.

mod header;
mod layout;
mod palette;
mod refusal;
mod runs;

pub(super) use self::header::Header;
use self::{
    header::Compression,
    layout::{Layout, Rows},
    palette::{Kind, Palette},
    refusal::{FORMAT, unsupported},
};
use super::{Decoded, Limits, RgbImage, error::ImageError, mode::Mode, orientation::Orientation};
use crate::preprocess::memory;

/// Decodes a BMP.
pub(super) fn decode(bytes: &[u8], limits: &Limits, buffer: Vec<u8>) -> Result<Decoded, ImageError> {
    let header = Header::parse(bytes)?;
    let (width, height) = limits.check(FORMAT, header.width.into(), header.height.into())?;
    let pixels = Pixels::of(&header, bytes)?;
    let data_offset = header.data_offset(bytes);
    let line_bytes = width as usize * 3;
    let length = line_bytes * height as usize;
    let lines = || (0..height as usize).map(|y| if header.top_down { y } else { height as usize - 1 - y });
    let mut mode = Mode::Plain;
    let mut data;
    match &pixels {
        Pixels::Runs(palette, nibbles) => {
            let indices = runs::expand(bytes, data_offset, width as usize, length / 3, *nibbles)?;
            let indices = indices.ok_or(ImageError::Truncated { format: FORMAT })?;
            data = memory::any(buffer, length)?;
            for (y, line) in lines().zip(data.chunks_exact_mut(line_bytes)) {
                palette.unpack::<8>(&indices[y * width as usize..][..width as usize], line);
            }
        }
        Pixels::Rows(layout) => {
            let rows = Rows::of(&header, layout.bits(), bytes.get(data_offset..).unwrap_or_default())?;
            data = memory::any(buffer, length)?;
            for (y, line) in lines().zip(data.chunks_exact_mut(line_bytes)) {
                layout.unpack(rows.row(y), line);
            }
            if let (Layout::Bytes { alpha: Some(alpha), .. }, Some(_)) = (layout, limits.kept_modes) {
                let mut alphas = memory::room(length)?;
                for y in lines() {
                    alphas.extend(rows.row(y).chunks_exact(4).flat_map(|pixel| [pixel[*alpha]; 3]));
                }
                // Nothing is weighed where all is opaque.
                if alphas.iter().any(|&alpha| alpha != 255) {
                    mode = Mode::Alpha(alphas);
                }
            }
        }
    }
    if let (Some(palette), Some(fill)) = (pixels.palette(), limits.kept_modes) {
        mode = palette.mode(fill);
    }
    Ok(Decoded { image: RgbImage::new(width, height, data).in_mode(mode), orientation: Orientation::Upright })
}

/// How pixels are stored.
enum Pixels {
    /// In run lengths, of 4 bits where that is said.
    Runs(Palette, bool),
    Rows(Layout),
}

impl Pixels {
    fn of(header: &Header, bytes: &[u8]) -> Result<Self, ImageError> {
        let bits = header.bits;
        match (header.compression, bits) {
            (Compression::None, 1 | 4 | 8) => {
                let palette = Palette::read(header, bytes)?;
                let layout = match (palette.kind, bits) {
                    (Kind::Bilevel, _) | (Kind::Colours, 1) => Layout::Bits(palette),
                    (Kind::Colours, 4) => Layout::Nibbles(palette),
                    (Kind::Grey | Kind::Colours, _) => Layout::Indices(palette),
                };
                Ok(Self::Rows(layout))
            }
            (Compression::Runs { nibbles }, 1 | 4 | 8) => Ok(Self::Runs(Palette::read(header, bytes)?, nibbles)),
            (Compression::None, 16) => Ok(Self::Rows(Layout::Rgb555)),
            (Compression::None, 24) => Ok(Self::Rows(Layout::BGR)),
            (Compression::None, 32) => Ok(Self::Rows(Layout::BGRX)),
            (Compression::Masks(masks), _) => Layout::of_masks(bits, masks).map(Self::Rows),
            _ => Err(unsupported("bits of a pixel:", bits)),
        }
    }

    fn palette(&self) -> Option<&Palette> {
        match self {
            Self::Runs(palette, _)
            | Self::Rows(Layout::Bits(palette) | Layout::Nibbles(palette) | Layout::Indices(palette)) => Some(palette),
            Self::Rows(Layout::Rgb555 | Layout::Rgb565 | Layout::Bytes { .. }) => None,
        }
    }
}

#[cfg(test)]
mod tests;
