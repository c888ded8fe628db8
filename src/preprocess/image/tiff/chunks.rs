//! How a picture is cut into strips and tiles, and where those lie in the file.
//!
//! Owns the order and the size of chunks, and the two ways to find one's bytes: Pillow's own for what is not compressed, and libtiff's for
//! what is, since they forgive different things. Does not own what is in the bytes.
//!
//! Invariants: chunks cover the picture, each pixel of a plane once; those beyond the picture take less than as many pixels more and a
//! constant, whatever the file says; no list is made, so that millions of chunks take no memory. What is decompressed may lie anywhere, and
//! in the same place as other chunks, as blank tiles do that a writer has stored once: [`Allowance`] bounds the bytes of all together.

use super::{
    refusal::{FORMAT, corrupt, unsupported},
    samples::Samples,
    tags::{
        Numbers, PLANAR, ROWS_PER_STRIP, SAMPLES, STRIP_BYTES, STRIP_OFFSETS, TILE_BYTES, TILE_HEIGHT, TILE_OFFSETS,
        TILE_WIDTH, Tags,
    },
};
use crate::preprocess::image::{directory::Directory, error::ImageError};

/// Pixels that the tiles of a picture may have beyond it, besides as many as it has itself.
const MAX_BEYOND: u64 = 1 << 22;

/// Chunks of all planes together that each may be small, since every one takes time to set its decoder up; and there may be one more for
/// each so many pixels.
#[derive(Clone, Copy, Debug)]
pub(super) struct MostChunks {
    small: usize,
    pixels_of_more: usize,
}

impl MostChunks {
    /// Of a decoder that takes a microsecond or two to set up.
    pub(super) const CHEAP: Self = Self { small: 1 << 15, pixels_of_more: 256 };

    /// Of one that takes some twenty: those of JPEG, LZMA and Zstandard. libtiff makes strips of 8 KiB where rows are shorter than
    /// that, and tiles of 64 x 64 are the smallest in use.
    pub(super) const DEAR: Self = Self { small: 1 << 14, pixels_of_more: 2048 };

    /// Of a compression.
    pub(super) fn of(compression: u64) -> Self {
        match compression {
            7 | 34925 | 50000 => Self::DEAR,
            _ => Self::CHEAP,
        }
    }
}

/// What may be decompressed of a picture: the bytes of its file and those that come of them, twice, and a little for each chunk. Without
/// it thousands of chunks could each be the same long one.
#[derive(Debug)]
pub(super) struct Allowance(u64);

impl Allowance {
    /// What a chunk may have, however little comes of it.
    const OF_CHUNK: u64 = 1024;

    /// For so many chunks of `size` bytes each.
    pub(super) fn new(file: &[u8], chunks: usize, size: usize) -> Self {
        let decoded = (chunks as u64).saturating_mul(size as u64);
        let twice = decoded.saturating_add(file.len() as u64).saturating_mul(2);
        Self(twice.saturating_add(chunks as u64 * Self::OF_CHUNK))
    }

    /// Bytes that a chunk needs at most which becomes `size` bytes: those of the worst picture, by the worst encoder. Beyond them there
    /// is nothing but what a decoder passes over.
    pub(super) fn of_codec(size: usize) -> u64 {
        2 * size as u64 + Self::OF_CHUNK
    }

    /// The same, as libtiff has it: of faxes, whose shortest runs take 9 bits for two pixels, besides ends of lines.
    pub(super) fn of_fax(size: usize) -> u64 {
        10 * size as u64 + 4096
    }

    /// The same of JPEG, which codes whole units of rows, and may have metadata in each chunk.
    pub(super) fn of_jpeg(size: usize) -> u64 {
        Self::of_fax(size).max(1 << 20)
    }

    /// Takes those of a chunk.
    pub(super) fn spend(&mut self, bytes: &[u8]) -> Result<(), ImageError> {
        self.0 = self.0.checked_sub(bytes.len() as u64).ok_or(ImageError::Wasteful { format: FORMAT })?;
        Ok(())
    }
}

/// How a plane is cut.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cut {
    /// Of the picture.
    pub(super) size: (usize, usize),
    /// Of a chunk; a strip is as wide as the picture.
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) is_tiled: bool,
}

/// One chunk of one plane.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chunk {
    pub(super) plane: usize,
    /// Its number in its plane.
    pub(super) index: usize,
    pub(super) left: usize,
    pub(super) top: usize,
    /// Of what is in the picture.
    pub(super) width: usize,
    pub(super) height: usize,
}

impl Cut {
    fn strips(size: (usize, usize), rows: u64) -> Result<Self, ImageError> {
        if rows == 0 {
            return Err(corrupt("strips without rows"));
        }
        let height = usize::try_from(rows).map_or(size.1, |rows| rows.min(size.1));
        Ok(Self { size, width: size.0, height, is_tiled: false })
    }

    fn tiles(size: (usize, usize), tags: &Tags<'_>) -> Result<Self, ImageError> {
        let side = |tag| tags.number(tag)?.filter(|&side| side > 0).ok_or_else(|| corrupt("tiles without a size"));
        let (width, height) = (side(TILE_WIDTH)?, side(TILE_HEIGHT)?);
        let pixels = size.0 as u64 * size.1 as u64;
        let padded = |side: usize, tile: u64| (side as u64).div_ceil(tile).saturating_mul(tile);
        let padded = padded(size.0, width).saturating_mul(padded(size.1, height));
        if padded > 2 * pixels + MAX_BEYOND {
            return Err(ImageError::Wasteful { format: FORMAT });
        }
        // Both are now less than what is bounded.
        Ok(Self { size, width: width as usize, height: height as usize, is_tiled: true })
    }

    /// Chunks side by side, and one above the other.
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.size.0.div_ceil(self.width), self.size.1.div_ceil(self.height))
    }

    /// Chunks of a plane.
    pub(super) fn per_plane(&self) -> usize {
        let (across, down) = self.counts();
        across * down
    }

    /// The chunks of a picture of that many planes.
    pub(super) fn chunks(self, planes: usize) -> impl Iterator<Item = Chunk> {
        let across = self.counts().0;
        (0..planes).flat_map(move |plane| {
            (0..self.per_plane()).map(move |index| {
                let (left, top) = (index % across * self.width, index / across * self.height);
                let (width, height) = (self.width.min(self.size.0 - left), self.height.min(self.size.1 - top));
                Chunk { plane, index, left, top, width, height }
            })
        })
    }
}

/// What is not compressed, by Pillow's rules: what counts are the offsets, and each row follows the one above.
pub(super) struct Stored<'a> {
    pub(super) cut: Cut,
    file: &'a [u8],
    offsets: Numbers<'a>,
    samples: Samples,
    /// Whether one strip or tile is the whole picture: then the last offset counts.
    is_whole: bool,
}

impl<'a> Stored<'a> {
    pub(super) fn find(tags: &Tags<'a>, size: (usize, usize), samples: Samples) -> Result<Self, ImageError> {
        let (cut, offsets) = match tags.bytes_or_numbers(STRIP_OFFSETS)? {
            Some(offsets) => (Cut::strips(size, tags.number_or(ROWS_PER_STRIP, size.1 as u64)?)?, offsets),
            None => {
                let offsets = tags.bytes_or_numbers(TILE_OFFSETS)?.ok_or_else(|| corrupt("no strips and no tiles"))?;
                (Cut::tiles(size, tags)?, offsets)
            }
        };
        let planes = samples.planes();
        let is_whole = (cut.width, cut.height) == size && !samples.planar;
        // Pillow shows black where strips are missing, and has no name for the planes of more.
        let needed = cut.per_plane() * planes;
        if offsets.count() < needed || samples.planar && offsets.count() > cut.per_plane() * samples.count {
            return Err(corrupt(format!("{} strips or tiles of {needed}", offsets.count())));
        }
        Ok(Self { cut, file: tags.file, offsets, samples, is_whole })
    }

    /// The bytes of a chunk, and those from one row to the next.
    pub(super) fn rows(&self, chunk: &Chunk) -> Result<(&'a [u8], usize), ImageError> {
        let bits = self.samples.pixel_bits();
        let row = (chunk.width * bits).div_ceil(8);
        let mut stride = row;
        if chunk.width < self.cut.width {
            // As Pillow counts them: rounded down, and over what the photometric kind has.
            let all = self.cut.width * self.samples.depth.bits() * self.samples.count;
            let planes = if self.samples.planar { self.samples.nominal_count } else { 1 };
            stride = all / 8 / planes;
            if stride < row {
                return Err(corrupt("rows that are longer than those of their tile"));
            }
        }
        let start = usize::try_from(self.offset(chunk)?).ok();
        let length = (chunk.height - 1) * stride + row;
        let end = start.and_then(|start| start.checked_add(length));
        let bytes = start.zip(end).and_then(|(start, end)| self.file.get(start..end));
        Ok((bytes.ok_or(ImageError::Truncated { format: FORMAT })?, stride))
    }

    /// Pillow draws one chunk over the other where there are several, in the order of the file.
    fn offset(&self, chunk: &Chunk) -> Result<u64, ImageError> {
        let count = self.offsets.count();
        if self.is_whole {
            return self.offsets.get(count - 1);
        }
        let per_plane = self.cut.per_plane();
        let index = chunk.plane * per_plane + chunk.index;
        if self.samples.planar {
            return self.offsets.get(index);
        }
        let mut last = self.offsets.get(index)?;
        for index in (index..count).step_by(per_plane).skip(1) {
            last = last.max(self.offsets.get(index)?);
        }
        Ok(last)
    }
}

/// What is compressed, by libtiff's rules: offsets and lengths count.
pub(super) struct Compressed<'a> {
    pub(super) cut: Cut,
    file: &'a [u8],
    offsets: Numbers<'a>,
    /// Without them, what the rest of the file leaves counts.
    lengths: Option<Numbers<'a>>,
    /// Those that are read.
    planes: usize,
    /// All that there are.
    stored_planes: u64,
}

impl<'a> Compressed<'a> {
    /// Of a picture of that many planes.
    pub(super) fn find(
        tags: &Tags<'a>,
        size: (usize, usize),
        planes: usize,
        most: MostChunks,
    ) -> Result<Self, ImageError> {
        let is_tiled = tags.field(TILE_WIDTH).is_some() || tags.field(TILE_HEIGHT).is_some();
        let either = |first, second| match tags.bytes_or_numbers(first) {
            Ok(None) => tags.bytes_or_numbers(second),
            found => found,
        };
        let (cut, offsets, lengths) = if is_tiled {
            let offsets = either(TILE_OFFSETS, STRIP_OFFSETS)?;
            (Cut::tiles(size, tags)?, offsets, either(TILE_BYTES, STRIP_BYTES)?)
        } else {
            let rows = tags.number_or(ROWS_PER_STRIP, u32::MAX.into())?;
            let offsets = either(STRIP_OFFSETS, TILE_OFFSETS)?;
            (Cut::strips(size, rows)?, offsets, either(STRIP_BYTES, TILE_BYTES)?)
        };
        let offsets = offsets.ok_or_else(|| corrupt("no strips and no tiles"))?;
        let chunks = cut.per_plane() * planes;
        if chunks > most.small + size.0 * size.1 / most.pixels_of_more {
            return Err(unsupported(format!("{chunks} strips or tiles, compressed one by one")));
        }
        if lengths.is_none() && cut.per_plane() > 1 {
            return Err(corrupt("strips or tiles without lengths"));
        }
        // libtiff looks a few up together with the directory, and more of them when they are wanted; it does not do both in one file.
        const FEW: usize = 4;
        if (offsets.count() > FEW) != lengths.is_some_and(|lengths| lengths.count() > FEW) {
            return Err(corrupt("offsets and lengths of different numbers"));
        }
        let stored_planes = if tags.number_or(PLANAR, 1)? == 2 { tags.number_or(SAMPLES, 1)?.max(1) } else { 1 };
        Ok(Self { cut, file: tags.file, offsets, lengths, planes, stored_planes })
    }

    /// Where a chunk begins, and its length: both as the file says.
    pub(super) fn place(&self, chunk: &Chunk) -> Result<(u64, u64), ImageError> {
        let index = chunk.plane * self.cut.per_plane() + chunk.index;
        let length = self.lengths.map_or(Ok(u64::MAX), |lengths| lengths.get(index))?;
        Ok((self.offsets.get(index)?, length))
    }

    /// The compressed bytes of a chunk, which becomes `size` bytes, and where they are in the file: of all that it is said to have, `most`,
    /// since lengths that are too large lie in files of real writers.
    pub(super) fn bytes(&self, chunk: &Chunk, size: usize, most: u64) -> Result<(&'a [u8], usize), ImageError> {
        let (bytes, offset) = self.all_bytes(chunk, size)?;
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        Ok((&bytes[..bytes.len().min(most)], offset))
    }

    /// Those that libtiff would read.
    fn all_bytes(&self, chunk: &Chunk, size: usize) -> Result<(&'a [u8], usize), ImageError> {
        let truncated = ImageError::Truncated { format: FORMAT };
        let index = chunk.plane * self.cut.per_plane() + chunk.index;
        let offset = self.offsets.get(index)?;
        let rest = usize::try_from(offset).ok().and_then(|offset| self.file.get(offset..)).ok_or(truncated.clone())?;
        let is_only = self.cut.per_plane() * self.planes == 1;
        let mut length = match self.lengths {
            None => self.estimate(index, rest)?,
            Some(lengths) => match lengths.get(index)? {
                0 if is_only && !self.cut.is_tiled && offset != 0 => self.estimate(index, rest)?,
                length => length,
            },
        };
        // libtiff believes no length much larger than what comes of it.
        let believed = size as u64 * 10 + 4096;
        if length > 1 << 20 && length > believed {
            length = believed;
        }
        let bytes = usize::try_from(length).ok().and_then(|length| rest.get(..length)).ok_or(truncated)?;
        if bytes.is_empty() {
            return Err(corrupt("an empty strip or tile"));
        }
        Ok((bytes, offset as usize))
    }

    /// The length of a chunk of which none is stated; `rest` is what follows its offset.
    fn estimate(&self, index: usize, rest: &[u8]) -> Result<u64, ImageError> {
        let all = Directory::first(self.file).and_then(|directory| directory.bytes_of_pixels());
        let all = all.ok_or_else(|| corrupt("strips without lengths beside a field of an unknown type"))?;
        let each = all / self.stored_planes;
        Ok(if index as u64 + 1 == self.stored_planes { each.min(rest.len() as u64) } else { each })
    }
}
