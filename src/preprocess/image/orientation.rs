//! Which way up a picture is, by its EXIF or XMP, and turning it: `PIL.ImageOps.exif_transpose`.
//!
//! Owns reading one tag and moving pixels. Does not own finding the metadata in a file: each format's decoder hands it over.

use super::{
    RgbImage,
    directory::{Directory, Layout},
};
use crate::preprocess::{
    memory::{self, OutOfMemory},
    resample::{Axis, Turn},
};

/// One of the eight ways of EXIF tag 274, as its number says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Orientation {
    Upright = 1,
    FlipLeftRight,
    Rotate180,
    FlipTopBottom,
    Transpose,
    Rotate90Clockwise,
    Transverse,
    Rotate270Clockwise,
}

impl Orientation {
    /// As Pillow decides: EXIF's word if it has the tag at all, else XMP's; a number out of range means upright.
    pub(super) fn find(exif: Option<&[u8]>, xmp: Option<&[u8]>) -> Self {
        Self::by(exif.and_then(exif_orientation), xmp)
    }

    /// The same of a TIFF file, whose first directory may be one of BigTIFF, as that of an EXIF block is not.
    pub(super) fn of_directory(directory: Directory, xmp: Option<&[u8]>) -> Self {
        Self::by(orientation_tag(directory), xmp)
    }

    fn by(tag: Option<u32>, xmp: Option<&[u8]>) -> Self {
        match tag.or_else(|| xmp.and_then(xmp_orientation)) {
            Some(2) => Self::FlipLeftRight,
            Some(3) => Self::Rotate180,
            Some(4) => Self::FlipTopBottom,
            Some(5) => Self::Transpose,
            Some(6) => Self::Rotate90Clockwise,
            Some(7) => Self::Transverse,
            Some(8) => Self::Rotate270Clockwise,
            _ => Self::Upright,
        }
    }

    /// Whether upright rows are stored as columns.
    pub(super) fn is_sideways(self) -> bool {
        matches!(self, Self::Transpose | Self::Rotate90Clockwise | Self::Transverse | Self::Rotate270Clockwise)
    }

    /// How a picture with it is stored.
    pub(super) fn turn(self) -> Turn {
        let (mirrored_columns, mirrored_rows) = match self {
            Self::Upright | Self::Transpose => (false, false),
            Self::FlipLeftRight | Self::Rotate90Clockwise => (true, false),
            Self::Rotate180 | Self::Transverse => (true, true),
            Self::FlipTopBottom | Self::Rotate270Clockwise => (false, true),
        };
        Turn { sideways: self.is_sideways(), mirrored_columns, mirrored_rows }
    }

    /// The sides of a picture, upright, that is stored with these.
    pub(super) fn upright(self, columns: Axis, rows: Axis) -> [Axis; 2] {
        let Turn { sideways, mirrored_columns, mirrored_rows } = self.turn();
        let (columns, rows) = if sideways { (rows, columns) } else { (columns, rows) };
        let seen = |axis: Axis, mirrored| if mirrored { axis.mirrored() } else { axis };
        [seen(columns, mirrored_columns), seen(rows, mirrored_rows)]
    }

    /// Turns `image` upright. Where that takes a second buffer, it is `spare`, which then holds the first.
    pub(super) fn apply(self, image: &mut RgbImage, spare: &mut Vec<u8>) -> Result<(), OutOfMemory> {
        let (width, height) = (image.columns.samples(), image.rows.samples());
        let (columns, rows) = (image.columns, image.rows);
        let pixels = image.data.as_chunks_mut::<3>().0;
        match self {
            Self::Upright => {}
            Self::FlipLeftRight => pixels.chunks_exact_mut(width).for_each(<[_]>::reverse),
            Self::Rotate180 => pixels.reverse(),
            Self::FlipTopBottom => {
                let (top, bottom) = pixels.split_at_mut(height / 2 * width);
                for (a, b) in top.chunks_exact_mut(width).zip(bottom.chunks_exact_mut(width).rev()) {
                    a.swap_with_slice(b);
                }
            }
            Self::Transpose => turn(image, spare, |x, y| (y, x))?,
            Self::Rotate90Clockwise => turn(image, spare, |x, y| (y, height - 1 - x))?,
            Self::Transverse => turn(image, spare, |x, y| (width - 1 - y, height - 1 - x))?,
            Self::Rotate270Clockwise => turn(image, spare, |x, y| (width - 1 - y, x))?,
        }
        [image.columns, image.rows] = self.upright(columns, rows);
        Ok(())
    }
}

/// Makes the samples those of a picture of `height x width`: pixel `(x, y)` of the result is pixel `source(x, y)` of what `image`
/// was. Goes block by block, so that neither side's rows leave the cache between two uses.
fn turn(
    image: &mut RgbImage,
    spare: &mut Vec<u8>,
    source: impl Fn(usize, usize) -> (usize, usize),
) -> Result<(), OutOfMemory> {
    const BLOCK: usize = 32;
    let (width, height) = (image.rows.samples(), image.columns.samples());
    *spare = memory::any(std::mem::take(spare), image.data.len())?;
    let from = image.data.as_chunks::<3>().0;
    let to = spare.as_chunks_mut::<3>().0;
    for top in (0..height).step_by(BLOCK) {
        for left in (0..width).step_by(BLOCK) {
            for y in top..height.min(top + BLOCK) {
                for x in left..width.min(left + BLOCK) {
                    let (from_x, from_y) = source(x, y);
                    to[y * width + x] = from[from_y * height + from_x];
                }
            }
        }
    }
    std::mem::swap(&mut image.data, spare);
    Ok(())
}

/// Tag 274 of an EXIF block; `Some(0)` for a block that is no TIFF structure, after which Pillow asks nobody else.
fn exif_orientation(block: &[u8]) -> Option<u32> {
    const PREFIX: &[u8] = b"Exif\0\0";
    let block = block.strip_prefix(PREFIX).unwrap_or(block);
    let block = block.strip_prefix(PREFIX).unwrap_or(block);
    if block.is_empty() {
        return None;
    }
    let Some(layout) = Layout::of_exif(block) else { return Some(0) };
    orientation_tag(Directory::with_layout(block, layout)?)
}

/// Tag 274, its first value; `Some(0)` for a value that is no number or no whole one.
fn orientation_tag(directory: Directory) -> Option<u32> {
    const ORIENTATION: u16 = 274;
    let number = directory.find(ORIENTATION)?.number(0);
    Some(number.filter(|number| number.fract() == 0.0).map_or(0, |number| number as u32))
}

/// Whether that directory has the tag at all, of whatever value.
pub(super) fn is_in_exif(block: &[u8]) -> bool {
    exif_orientation(block).is_some()
}

/// The first `tiff:Orientation="n` or `tiff:Orientation>n`.
fn xmp_orientation(packet: &[u8]) -> Option<u32> {
    const NAME: &[u8] = b"tiff:Orientation";
    packet.windows(NAME.len()).enumerate().filter(|(_, window)| *window == NAME).find_map(|(at, _)| {
        let after = &packet[at + NAME.len()..];
        let value = after.strip_prefix(b"=\"").or_else(|| after.strip_prefix(b">"))?;
        value.first().filter(|digit| digit.is_ascii_digit()).map(|digit| u32::from(digit - b'0'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A one-entry EXIF block.
    fn exif(big_endian: bool, kind: u16, count: u32, value: [u8; 4]) -> Vec<u8> {
        let b16 = |value: u16| if big_endian { value.to_be_bytes() } else { value.to_le_bytes() };
        let b32 = |value: u32| if big_endian { value.to_be_bytes() } else { value.to_le_bytes() };
        let magic = if big_endian { b"MM\0*" } else { b"II*\0" };
        [b"Exif\0\0", &magic[..], &b32(8), &b16(1), &b16(274), &b16(kind), &b32(count), &value].concat()
    }

    #[test]
    fn both_byte_orders_and_both_integer_types_are_read() {
        assert_eq!(exif_orientation(&exif(true, 3, 1, [0, 6, 0, 0])), Some(6));
        assert_eq!(exif_orientation(&exif(false, 3, 1, [6, 0, 0, 0])), Some(6));
        assert_eq!(exif_orientation(&exif(false, 4, 1, [8, 0, 0, 0])), Some(8));
        assert_eq!(exif_orientation(&exif(true, 3, 2, [0, 6, 0, 6])), Some(6));
    }

    #[test]
    fn a_file_of_64_bits_is_turned_and_a_block_of_them_is_not() {
        let header = b"MM\0+\0\x08\0\0\0\0\0\0\0\0\0\x10";
        let entry = [[0, 0, 0, 0, 0, 0, 0, 1, 1, 18, 0, 3], [0, 0, 0, 0, 0, 0, 0, 1, 0, 6, 0, 0]].concat();
        let file = [&header[..], &entry, &[0; 12]].concat();
        let directory = Directory::first(&file).unwrap();
        assert_eq!(Orientation::of_directory(directory, None), Orientation::Rotate90Clockwise);
        assert_eq!(Orientation::find(Some(&file), None), Orientation::Upright);
    }

    #[test]
    fn a_damaged_block_has_no_orientation() {
        let whole = exif(true, 3, 1, [0, 6, 0, 0]);
        for end in 0..whole.len() - 2 {
            // Without a whole header nobody else is asked, but for a block of nothing.
            let expected = (end < 14 && end != 0 && end != 6).then_some(0);
            assert_eq!(exif_orientation(&whole[..end]), expected, "{end} bytes");
        }
        assert_eq!(exif_orientation(b"II*\0\xff\xff\xff\xff"), None);
    }

    #[test]
    fn a_block_is_read_as_pillow_reads_its_header() {
        let block = |big_endian, value| exif(big_endian, 3, 1, value).split_off(6);
        let plain = block(true, [0, 6, 0, 0]);
        let with = |magic: &[u8], rest: &[u8]| [magic, rest].concat();
        assert_eq!(exif_orientation(&with(b"MM*\0", &plain[4..])), Some(6));
        // Not taken for a BigTIFF.
        assert_eq!(exif_orientation(&with(b"MM\0+", &plain[4..])), Some(6));
        assert_eq!(exif_orientation(&with(b"II+\0", &block(false, [6, 0, 0, 0])[4..])), Some(0));
        assert_eq!(exif_orientation(&with(b"Exif\0\0", &plain)), Some(6));
        assert_eq!(exif_orientation(&with(b"Exif\0\0Exif\0\0", &plain)), Some(6));
        assert_eq!(exif_orientation(&with(b"Exif\0\0Exif\0\0Exif\0\0", &plain)), Some(0));
    }

    #[test]
    fn xmp_speaks_only_where_exif_is_silent() {
        let xmp = b"<rdf:Description tiff:Orientation=\"6\"/>".as_slice();
        assert_eq!(Orientation::find(None, Some(xmp)), Orientation::Rotate90Clockwise);
        assert_eq!(Orientation::find(Some(b"Exif\0\0"), Some(xmp)), Orientation::Rotate90Clockwise);
        assert_eq!(Orientation::find(Some(b"II*\0\xff\xff\xff\xff"), Some(xmp)), Orientation::Rotate90Clockwise);
        assert_eq!(Orientation::find(Some(b"II*\0"), Some(xmp)), Orientation::Upright);
        assert_eq!(Orientation::find(Some(b"nothing!"), Some(xmp)), Orientation::Upright);
        assert_eq!(Orientation::find(Some(&exif(true, 3, 1, [0, 3, 0, 0])), Some(xmp)), Orientation::Rotate180);
        assert_eq!(Orientation::find(Some(&exif(true, 3, 1, [0, 9, 0, 0])), Some(xmp)), Orientation::Upright);
        let element = b"tiff:Orientation tiff:Orientation>8</tiff:Orientation>".as_slice();
        assert_eq!(Orientation::find(None, Some(element)), Orientation::Rotate270Clockwise);
        assert_eq!(Orientation::find(None, None), Orientation::Upright);
    }

    #[test]
    fn each_orientation_moves_the_corners_where_exif_says() {
        // 0 1 2
        // 3 4 5
        let image = RgbImage::new(3, 2, (0..6).flat_map(|i| [i; 3]).collect());
        use Orientation::*;
        for (orientation, width, expected) in [
            (Upright, 3, [0, 1, 2, 3, 4, 5]),
            (FlipLeftRight, 3, [2, 1, 0, 5, 4, 3]),
            (Rotate180, 3, [5, 4, 3, 2, 1, 0]),
            (FlipTopBottom, 3, [3, 4, 5, 0, 1, 2]),
            (Transpose, 2, [0, 3, 1, 4, 2, 5]),
            (Rotate90Clockwise, 2, [3, 0, 4, 1, 5, 2]),
            (Transverse, 2, [5, 2, 4, 1, 3, 0]),
            (Rotate270Clockwise, 2, [2, 5, 1, 4, 0, 3]),
        ] {
            let mut turned = image.clone();
            orientation.apply(&mut turned, &mut vec![99; 100]).unwrap();
            let pixels: Vec<u8> = turned.data.iter().step_by(3).copied().collect();
            assert_eq!((turned.width(), pixels.as_slice()), (width, expected.as_slice()), "{orientation:?}");
            assert_eq!(orientation.is_sideways(), width == 2);
        }
    }
}
