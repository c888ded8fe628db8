//! AVIF: stills, and of a sequence the first picture, as libavif gives them to Pillow.
//!
//! Owns the order of things: `file` finds the picture in the file, limits are checked by what it announces, `frame` decodes the
//! AV1 data, `colour` makes RGB. Transformations of the container are an orientation, as in Pillow; a clean aperture is not cut out.
//!
//! Invariants: one thread decodes at a time, while the caller waits (`apart`: a panic of the decoder is contained); no more pixels are
//! decoded than the container announces, but for layers of 16 million in all, and tiles cover no more than the limit allows either.
//!
//! Differences from the reference, deliberate: a picture whose AV1 data have another size than the container says is refused, where
//! libavif scales it.

mod apart;
mod boxes;
mod colour;
mod container;
mod file;
mod frame;
mod items;
mod matrix;
mod obu;
mod refusal;
mod track;
mod upsample;

use self::{
    colour::Converter,
    container::{Coded, Container, Tile},
    frame::{Frame, Layers},
    refusal::{FORMAT, damaged},
};
use super::{Decoded, Limits, RgbImage, error::ImageError, mode::Mode};
use crate::preprocess::memory;

/// How much more AV1 data the tiles of a picture may have in all than the file has bytes, since they may share some.
const MAX_SHARING: usize = 8;

/// Decodes an AVIF.
pub(super) fn decode(bytes: &[u8], limits: &Limits, buffer: Vec<u8>) -> Result<Decoded, ImageError> {
    let container = Container::read(bytes)?;
    let (width, height) = check(&container.colour, bytes, limits)?;
    let mut layers = Layers::new();
    let alpha = match &container.alpha {
        Some(coded) => {
            check(coded, bytes, limits)?;
            Some(Frame::decode(coded, &mut layers)?)
        }
        None => None,
    };
    let colour = Frame::decode(&container.colour, &mut layers)?;
    if let Some(alpha) = &alpha
        && (alpha.width, alpha.height, alpha.depth) != (colour.width, colour.height, colour.depth)
    {
        return Err(damaged("alpha of another size or depth than the colours"));
    }
    let cicp = container.cicp.unwrap_or(colour.cicp);
    let converter = Converter::new(&colour, alpha.as_ref(), container.premultiplied, cicp)?;
    let mut rgb = memory::any(buffer, width as usize * height as usize * 3)?;
    let mut alphas = Vec::new();
    if alpha.is_some() && limits.kept_modes.is_some() {
        alphas = memory::any(Vec::new(), rgb.len())?;
    }
    converter.convert(&mut rgb, &mut alphas)?;
    let is_opaque = alphas.iter().all(|&alpha| alpha == 255);
    let mode = if is_opaque { Mode::Plain } else { Mode::Alpha(alphas) };
    Ok(Decoded { image: RgbImage::new(width, height, rgb).in_mode(mode), orientation: container.orientation })
}

/// Checks what will be decoded: the picture, what its tiles cover, and how much data they have.
fn check(coded: &Coded, bytes: &[u8], limits: &Limits) -> Result<(u32, u32), ImageError> {
    let size = limits.check(FORMAT, coded.width.into(), coded.height.into())?;
    let mut area = 0u64;
    let mut length = 0usize;
    for tile in &coded.tiles {
        limits.check(FORMAT, tile.width.into(), tile.height.into())?;
        area = area.saturating_add(tile.area());
        length = length.saturating_add(tile.len());
    }
    limits.check(FORMAT, area, 1)?;
    if length > bytes.len().saturating_mul(MAX_SHARING) {
        return Err(ImageError::Wasteful { format: FORMAT });
    }
    Ok(size)
}

/// What a file announces, for those who ask before it is decoded.
pub(super) struct Announced {
    pub(super) width: u32,
    pub(super) height: u32,
    /// Bits of a pixel, alpha included.
    pub(super) bits: u32,
    /// How many times its own pixels are decoded: for alpha, and where tiles stick out.
    pub(super) times: u64,
}

/// What the file announces; `None` for one that will be refused.
pub(super) fn announced(bytes: &[u8]) -> Option<Announced> {
    let Container { colour, alpha, .. } = Container::read(bytes).ok()?;
    let (width, height) = (colour.width, colour.height);
    let tiles = || std::iter::once(&colour).chain(&alpha);
    let area: u64 = tiles().flat_map(|coded| &coded.tiles).map(Tile::area).fold(0, u64::saturating_add);
    let bits = tiles().filter_map(|coded| coded.tiles.first()).map(|tile| tile.bits).sum();
    let times = area.div_ceil((u64::from(width) * u64::from(height)).max(1));
    Some(Announced { width, height, bits, times })
}
#[cfg(test)]
mod tests;
