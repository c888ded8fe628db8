//! The chunks of a PNG, as Pillow goes through them.
//!
//! Owns which of them are looked at, their order, their checksums, and what they say but for pixels.
//!
//! As in Pillow: every chunk before the pixels has to be sound, whatever its kind, and none of those behind them, but all that begin
//! have to be there. The data of pixels is not summed here: its stream has a sum of its own.

use super::{
    metadata::Metadata,
    refusal::{damaged, truncated},
};
use crate::preprocess::image::ImageError;

/// What Pillow reads of a chunk at a time.
const READ_BYTES: usize = 1 << 16;

/// Depth and colour type of the pictures that PNG has.
pub(super) type Kind = (u8, u8);

const KINDS: [Kind; 15] = [
    (1, 0),
    (2, 0),
    (4, 0),
    (8, 0),
    (16, 0),
    (8, 2),
    (16, 2),
    (1, 3),
    (2, 3),
    (4, 3),
    (8, 3),
    (8, 4),
    (16, 4),
    (8, 6),
    (16, 6),
];

/// A part of the picture.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Area {
    pub(super) left: u32,
    pub(super) top: u32,
    pub(super) width: u32,
    pub(super) height: u32,
}

/// What the chunks have said so far.
#[derive(Clone, Default)]
pub(super) struct Header<'a> {
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) kind: Option<Kind>,
    pub(super) interlaced: bool,
    /// Three bytes a colour.
    pub(super) palette: Option<&'a [u8]>,
    /// What the pixels fill, where that was said.
    pub(super) area: Option<Area>,
    /// Of an animation, as far as it is one.
    frames: Option<u32>,
    sequence: Option<u32>,
}

impl Header<'_> {
    fn is_indexed(&self) -> bool {
        self.kind.is_some_and(|(_, colour)| colour == 3)
    }

    /// Counts a chunk of an animation.
    fn count(&mut self, sequence: u32) -> Result<(), ImageError> {
        if sequence != self.sequence.map_or(0, |last| last.wrapping_add(1)) {
            return Err(damaged("chunks of an animation are out of order"));
        }
        self.sequence = Some(sequence);
        Ok(())
    }
}

/// The chunks of a file.
#[derive(Clone)]
pub(super) struct Chunks<'a> {
    rest: &'a [u8],
    /// Of the data of the chunk that is read.
    left: usize,
    pub(super) header: Header<'a>,
    pub(super) metadata: Metadata<'a>,
}

impl<'a> Chunks<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        const SIGNATURE: usize = 8;
        let rest = bytes.get(SIGNATURE..).unwrap_or_default();
        Self { rest, left: 0, header: Header::default(), metadata: Metadata::default() }
    }

    /// Reads up to the first data of pixels.
    pub(super) fn open(&mut self) -> Result<(), ImageError> {
        let mut is_first = true;
        loop {
            let (name, length) = self.next().ok_or_else(truncated)?;
            // Pillow lets the header come later and again; whoever looks for the size alone would then find another.
            if (&name == b"IHDR") != is_first {
                return Err(damaged("the first chunk, and no other, is the header"));
            }
            is_first = false;
            match &name {
                b"IDAT" => {
                    self.left = length;
                    return Ok(());
                }
                b"fdAT" => {
                    self.left = self.begin_frame_data(length)?;
                    return Ok(());
                }
                b"IEND" => return Err(damaged("there is no data of pixels")),
                _ => {
                    let body = self.take(length)?;
                    self.look_at(&name, body)?;
                    let mut sum = flate2::Crc::new();
                    sum.update(&name);
                    sum.update(body);
                    if self.take(4)? != sum.sum().to_be_bytes() {
                        return Err(damaged("a checksum is wrong"));
                    }
                }
            }
        }
    }

    /// The next piece of the data of pixels, as large as Pillow takes it; none where the file ends, or its data.
    pub(super) fn data(&mut self) -> Option<&'a [u8]> {
        while self.left == 0 {
            self.skip(4);
            let (name, length) = self.next()?;
            self.left = match &name {
                b"IDAT" | b"DDAT" => length,
                b"fdAT" => self.begin_frame_data(length).ok()?,
                _ => return None,
            };
        }
        let piece = &self.rest[..self.rest.len().min(self.left).min(READ_BYTES)];
        self.skip(piece.len());
        self.left -= piece.len();
        (!piece.is_empty()).then_some(piece)
    }

    /// Whether the chunk whose data is read is longer than the file.
    pub(super) fn is_cut(&self) -> bool {
        self.left > self.rest.len()
    }

    /// Reads what follows the pixels.
    pub(super) fn finish(&mut self) -> Result<(), ImageError> {
        let animated = self.header.frames.is_some_and(|frames| frames > 1 || self.header.area.is_none());
        self.skip(self.left);
        loop {
            self.skip(4);
            let Some((name, length)) = self.next() else { return Ok(()) };
            match &name {
                b"IEND" => return Ok(()),
                // Another frame.
                b"fcTL" if animated => return Ok(()),
                b"IDAT" => {
                    self.take(length)?;
                }
                b"fdAT" => {
                    let length = self.begin_frame_data(length)?;
                    self.take(length)?;
                }
                _ => {
                    let body = self.take(length)?;
                    self.look_at(&name, body)?;
                }
            }
        }
    }

    /// Name and length of the next chunk; none where the file ends, and where there is no name.
    fn next(&mut self) -> Option<([u8; 4], usize)> {
        let (&[l0, l1, l2, l3, n0, n1, n2, n3], rest) = self.rest.split_first_chunk()?;
        let name = [n0, n1, n2, n3];
        self.rest = rest;
        let is_name = name.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
        is_name.then_some((name, u32::from_be_bytes([l0, l1, l2, l3]) as usize))
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], ImageError> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or_else(truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    fn skip(&mut self, length: usize) {
        self.rest = self.rest.get(length..).unwrap_or_default();
    }

    /// Passes over the number of data of a frame. Returns how much is left.
    fn begin_frame_data(&mut self, length: usize) -> Result<usize, ImageError> {
        let left = length.checked_sub(4).ok_or_else(|| damaged("data of a frame is too short"))?;
        let sequence = number(self.take(4)?, 0)?;
        if self.header.sequence.is_none() {
            return Err(damaged("data of a frame precedes it"));
        }
        self.header.count(sequence)?;
        Ok(left)
    }

    /// Keeps what a chunk says. Those that Pillow wants to be longer are refused.
    fn look_at(&mut self, name: &[u8; 4], body: &'a [u8]) -> Result<(), ImageError> {
        let header = &mut self.header;
        match name {
            b"IHDR" => {
                (header.width, header.height) = (number(body, 0)?, number(body, 4)?);
                let &[depth, colour, _, filter, interlaced] = at(body, 8)?;
                header.kind = KINDS.into_iter().find(|&kind| kind == (depth, colour)).or(header.kind);
                header.interlaced |= interlaced != 0;
                if filter != 0 {
                    return Err(damaged("an unknown filter method"));
                }
            }
            b"PLTE" if header.is_indexed() => header.palette = Some(body),
            b"tRNS" => match header.kind {
                Some((_, 0)) => at::<2>(body, 0).map(|_| ())?,
                Some((_, 2)) => at::<6>(body, 0).map(|_| ())?,
                _ => {}
            },
            b"gAMA" => at::<4>(body, 0).map(|_| ())?,
            b"cHRM" => at::<32>(body, 0).map(|_| ())?,
            b"sRGB" => at::<1>(body, 0).map(|_| ())?,
            b"pHYs" => at::<9>(body, 0).map(|_| ())?,
            b"acTL" => {
                let &[f0, f1, f2, f3, _, _, _, _] = at(body, 0)?;
                let frames = u32::from_be_bytes([f0, f1, f2, f3]);
                if header.frames.is_some() {
                    header.frames = None;
                } else if (1..=1 << 31).contains(&frames) {
                    header.frames = Some(frames);
                }
            }
            b"fcTL" => {
                at::<26>(body, 0)?;
                header.count(number(body, 0)?)?;
                let area = Area {
                    width: number(body, 4)?,
                    height: number(body, 8)?,
                    left: number(body, 12)?,
                    top: number(body, 16)?,
                };
                let fits = |skip: u32, side: u32, all: u32| skip.checked_add(side).is_some_and(|end| end <= all);
                if !fits(area.left, area.width, header.width) || !fits(area.top, area.height, header.height) {
                    return Err(damaged("a frame sticks out"));
                }
                header.area = Some(area);
            }
            _ => self.metadata.look_at(name, body)?,
        }
        Ok(())
    }
}

/// `N` bytes of a chunk's body.
fn at<const N: usize>(body: &[u8], at: usize) -> Result<&[u8; N], ImageError> {
    body.get(at..).and_then(<[u8]>::first_chunk).ok_or_else(|| damaged("a chunk is too short"))
}

fn number(body: &[u8], place: usize) -> Result<u32, ImageError> {
    at(body, place).map(|&bytes| u32::from_be_bytes(bytes))
}
