//! What the file around the AV1 data says of its picture: size, colours, and which way up it is.
//!
//! Owns the types of that, and the rules by which libavif, as Pillow drives it, takes or refuses what the boxes of items and of samples
//! have in common. `file` chooses between them. Does not decode.
//!
//! Invariant: what a file makes this hold is bounded by [`MAX_ENTRIES`], and all data handed over lies within the file.

use super::{
    boxes::{Kind, Reader, find},
    refusal::damaged,
};
use crate::preprocess::image::{
    error::ImageError,
    orientation::{self, Orientation},
};

/// Items, references, extents and associations of one file, all together: many times those of a picture of any size.
pub(super) const MAX_ENTRIES: usize = 1 << 17;

/// The first picture of a file.
pub(super) struct Container<'a> {
    /// Its colours.
    pub(super) colour: Coded<'a>,
    /// Its alpha, a picture of one channel.
    pub(super) alpha: Option<Coded<'a>>,
    /// Whether the colours have been multiplied by alpha.
    pub(super) premultiplied: bool,
    /// What the container says of the colours, before what the AV1 data say.
    pub(super) cicp: Option<Cicp>,
    pub(super) orientation: Orientation,
}

/// One picture, coded whole or in tiles.
pub(super) struct Coded<'a> {
    pub(super) width: u32,
    pub(super) height: u32,
    /// Tiles in a row.
    pub(super) columns: u32,
    /// Tiles, row by row; one where it is coded whole.
    pub(super) tiles: Vec<Tile<'a>>,
    /// Whether it is a grid, even of one tile.
    pub(super) is_grid: bool,
}

/// AV1 data of one picture.
pub(super) struct Tile<'a> {
    pub(super) width: u32,
    pub(super) height: u32,
    /// Pieces that follow each other.
    pub(super) data: Vec<&'a [u8]>,
    /// Bits of a pixel, all channels together.
    pub(super) bits: u32,
    pub(super) operating_point: u8,
    /// Of several spatial layers the one that is shown; otherwise the last.
    pub(super) layer: Option<u8>,
}

impl Tile<'_> {
    pub(super) fn area(&self) -> u64 {
        u64::from(self.width) * u64::from(self.height)
    }

    /// Bytes of its data.
    pub(super) fn len(&self) -> usize {
        self.data.iter().map(|piece| piece.len()).sum()
    }
}

/// What the samples mean, by the numbers of ITU-T H.273.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cicp {
    pub(super) primaries: u16,
    pub(super) matrix: u16,
    pub(super) full_range: bool,
}

impl Cicp {
    /// What the first `colr` box of that kind says.
    pub(super) fn find<'a>(properties: impl Iterator<Item = (Kind, &'a [u8])>) -> Result<Option<Self>, ImageError> {
        for (kind, body) in properties {
            if let (b"colr", Some(numbers)) = (&kind, body.strip_prefix(b"nclx")) {
                let mut numbers = Reader(numbers);
                let (primaries, _transfer, matrix) = (numbers.u16()?, numbers.u16()?, numbers.u16()?);
                let range = numbers.u8()?;
                if range & 0x7f != 0 {
                    return Err(damaged("a colour box with more than it has"));
                }
                return Ok(Some(Self { primaries, matrix, full_range: range != 0 }));
            }
        }
        Ok(None)
    }
}

/// Whether the body of an `auxC` or `auxi` box says that what it is about is alpha.
pub(super) fn is_alpha(body: &[u8]) -> bool {
    const URNS: [&[u8]; 2] = [b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha\0", b"urn:mpeg:hevc:2015:auxid:1\0"];
    body.get(4..).is_some_and(|urn| URNS.iter().any(|alpha| urn.starts_with(alpha)))
}

/// Which way up the picture is: as Pillow, by the container, which overrules EXIF; where both say nothing, by XMP.
pub(super) fn orientation<'a>(
    properties: impl Iterator<Item = (Kind, &'a [u8])>,
    exif: Option<&[u8]>,
    xmp: Option<&[u8]>,
) -> Result<Orientation, ImageError> {
    // Of two of a kind the first counts, as in libavif.
    let (mut turns, mut mirror) = (None, None);
    for (kind, body) in properties {
        match (&kind, body.first()) {
            (b"irot", Some(angle)) => turns = turns.or(Some(angle & 3)),
            (b"imir", Some(axis)) => mirror = mirror.or(Some(axis & 1 == 1)),
            (b"irot" | b"imir", None) => return Err(damaged("an empty transformation")),
            _ => {}
        }
    }
    use Orientation::*;
    // Turned against the clock first, then mirrored: left and right where that is true, else top and bottom.
    Ok(match (turns.unwrap_or(0), mirror) {
        (0, None) if exif.is_some_and(orientation::is_in_exif) => Upright,
        (0, None) => Orientation::find(None, xmp),
        (0, Some(true)) | (2, Some(false)) => FlipLeftRight,
        (0, Some(false)) | (2, Some(true)) => FlipTopBottom,
        (1, None) => Rotate270Clockwise,
        (1, Some(true)) | (3, Some(false)) => Transverse,
        (1, Some(false)) | (3, Some(true)) => Transpose,
        (2, None) => Rotate180,
        (_, None) => Rotate90Clockwise,
        (_, Some(_)) => Upright,
    })
}

/// The TIFF structure within an EXIF item, which states where in it that begins.
pub(super) fn exif_block(item: &[u8]) -> Result<&[u8], ImageError> {
    let mut reader = Reader(item);
    let stated = reader.u32()? as usize;
    let found = reader.0.windows(4).position(|window| window == b"II*\0" || window == b"MM\0*");
    match found {
        Some(found) if found == stated => Ok(&reader.0[found..]),
        _ => Err(damaged("EXIF data that is not where it should be")),
    }
}

/// Bits of a pixel, by the boxes that describe it: `av1C` has to be there, and `pixi` to agree.
pub(super) fn pixel_bits<'a>(properties: impl Iterator<Item = (Kind, &'a [u8])>) -> Result<u32, ImageError> {
    let (mut bits, mut stated) = (None, None);
    for (kind, body) in properties {
        let mut reader = Reader(body);
        match &kind {
            b"av1C" if bits.is_none() => {
                let [marker, _, flags] = [reader.u8()?, reader.u8()?, reader.u8()?];
                let depth = match flags >> 5 & 3 {
                    0 | 1 => 8,
                    2 => 10,
                    _ => 12,
                };
                if marker != 0x81 {
                    return Err(damaged("an AV1 configuration of an unknown version"));
                }
                bits = Some((depth, if flags & 0x10 == 0 { 3 * depth } else { depth }));
            }
            b"pixi" if stated.is_none() => {
                let (version, _) = reader.version()?;
                let count = reader.u8()?;
                let depths = reader.take(count.into())?;
                if version != 0 || depths.is_empty() {
                    return Err(damaged("a number of bits of an unknown version"));
                }
                stated = Some(depths);
            }
            _ => {}
        }
    }
    let (depth, bits) = bits.ok_or_else(|| damaged("an AV1 picture without its configuration"))?;
    if stated.is_some_and(|depths| depths.iter().any(|&stated| u32::from(stated) != depth)) {
        return Err(damaged("other bits than the AV1 configuration says"));
    }
    Ok(bits)
}

/// The box of that kind, without which nothing goes on.
pub(super) fn required<'a>(bytes: &'a [u8], kind: &Kind) -> Result<&'a [u8], ImageError> {
    find(bytes, kind)?.ok_or_else(|| damaged("a box that has to be there is missing"))
}
