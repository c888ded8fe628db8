//! JPEG inside TIFF (compression 7), as libtiff drives libjpeg: each strip or tile is a JPEG of its own, the tables of which may be in
//! the directory.
//!
//! Owns the way from such a JPEG to one that stands for itself: tables first, no marker but ours that tells colours apart, rows only as
//! far as they are seen. `jpeg::turbo` decodes it.
//!
//! Invariants: what a JPEG's header says is held against the strip's size before anything is decoded. Besides `out` a strip takes its
//! own bytes and those of the tables once more, some 40 rows where it is too high, and twice its samples where it has several scans.

use std::ops::Range;

use memchr::memmem;

use crate::preprocess::{
    image::{
        error::{ImageError, ImageFormatName},
        jpeg::{
            count_scans,
            turbo::{Jpeg, Samples, Upsampling, Verdict},
        },
        reduction::Reduction,
    },
    memory::{self, OutOfMemory},
};

const FORMAT: ImageFormatName = ImageFormatName::Tiff;

/// Rows, at most, that the last row of a picture takes colours from: the rest of the units that it lies in, and one unit more.
const ROWS_BELOW: usize = 2 * 32;

/// What the samples of a strip mean, and become.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Colour {
    /// They stay what they are.
    Plain,
    /// YCbCr becomes RGB. The brightness has so many samples for one of the colours, across and down.
    YcbcrToRgb { sampling: (u8, u8) },
    /// YCbCr stays what it is, the samples of the colours being repeated.
    Ycbcr { sampling: (u8, u8) },
}

/// What the directory says of a strip or tile.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    /// Columns.
    pub(super) width: usize,
    /// Rows.
    pub(super) rows: usize,
    /// Samples of a pixel: 1, 3 or 4.
    pub(super) samples: usize,
    /// What they mean.
    pub(super) colour: Colour,
    /// Whether rows of the JPEG may be left over: libtiff takes that from the last strip of a picture.
    pub(super) may_be_higher: bool,
}

/// The tables of the directory (JPEGTables).
#[derive(Default)]
pub(super) struct Tables<'a>(Vec<&'a [u8]>);

impl<'a> Tables<'a> {
    /// Reads them from a JPEG without a picture.
    pub(super) fn read(bytes: &'a [u8]) -> Result<Self, ImageError> {
        let mut tables = Vec::new();
        let mut segments = Segments::of(bytes)?;
        for segment in &mut segments {
            match segment.marker {
                QUANTISATION | HUFFMAN => {
                    tables.try_reserve(1).map_err(OutOfMemory::from)?;
                    tables.push(&bytes[segment.whole]);
                }
                // What libjpeg passes over, or keeps for a picture that does not come.
                0xcc | 0xdc | 0xdd | 0xe0..=0xef | 0xfe => {}
                _ => return Err(corrupt("more than tables among the JPEG tables")),
            }
        }
        if segments.are_broken { Err(corrupt("JPEG tables that are damaged")) } else { Ok(Self(tables)) }
    }
}

/// How many samples of brightness a JPEG has for one of colour, if TIFF has a way to say so.
pub(super) fn sampling(data: &[u8]) -> Option<(u8, u8)> {
    let frame = Segments::of(data).ok()?.find_map(|segment| Frame::of(&segment, data))?;
    match frame.sampling[..frame.samples] {
        [(across @ (1 | 2 | 4), down @ (1 | 2 | 4)), (1, 1), (1, 1)] => Some((across, down)),
        _ => None,
    }
}

/// Decodes one strip or tile into `out`, rows of `width * samples` bytes.
pub(super) fn decode(tables: &Tables<'_>, data: &[u8], layout: &Layout, out: &mut [u8]) -> Result<(), ImageError> {
    let whole = Whole::assemble(tables, data, layout)?;
    let max_scans = count_scans(&whole.bytes)?;
    let jpeg = Jpeg::open(&whole.bytes, FORMAT)?;
    let samples = match layout.samples {
        1 => Samples::Grey,
        3 => Samples::Rgb,
        _ => Samples::Cmyk,
    };
    let upsampling = match layout.colour {
        Colour::Ycbcr { .. } => Upsampling::Repeated,
        Colour::Plain | Colour::YcbcrToRgb { .. } => Upsampling::Smooth,
    };
    let (width, height) = (jpeg.width, jpeg.height);
    let pitch = layout.width * layout.samples;
    let verdict = if height > layout.rows {
        let mut rows = memory::zeroed(Vec::new(), pitch * height)?;
        let verdict = jpeg.decode_into(samples, max_scans, Reduction::Whole, upsampling, pitch, &mut rows)?;
        out.copy_from_slice(&rows[..out.len()]);
        verdict
    } else {
        if (width, height) != (layout.width, layout.rows) {
            out.fill(0);
        }
        jpeg.decode_into(samples, max_scans, Reduction::Whole, upsampling, pitch, out)?
    };
    // Many end without their end marker, and whole all the same: then nothing was found amiss.
    if verdict == Verdict::Damaged && !whole.ended {
        return Err(ImageError::Truncated { format: FORMAT });
    }
    Ok(())
}

fn corrupt(detail: &str) -> ImageError {
    ImageError::Corrupt { format: FORMAT, detail: detail.into() }
}

const QUANTISATION: u8 = 0xdb;
const HUFFMAN: u8 = 0xc4;
const START_OF_SCAN: u8 = 0xda;
const END: [u8; 2] = [0xff, 0xd9];

/// A JPEG that stands for itself.
struct Whole {
    bytes: Vec<u8>,
    /// Whether its end marker was in the file.
    ended: bool,
}

impl Whole {
    fn assemble(tables: &Tables<'_>, data: &[u8], layout: &Layout) -> Result<Self, ImageError> {
        let tables = &tables.0;
        let mut bytes = memory::room(tables.iter().map(|table| table.len()).sum::<usize>() + data.len() + 32)?;
        bytes.extend([0xff, 0xd8]);
        tables.iter().for_each(|table| bytes.extend_from_slice(table));
        // Adobe's marker, which says what three components mean. Four are told apart by nothing: they stay as they are.
        if layout.samples == 3 {
            let transform = matches!(layout.colour, Colour::YcbcrToRgb { .. }).into();
            bytes.extend(b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00");
            bytes.push(transform);
        }
        let mut has_frame = false;
        for segment in Segments::of(data)? {
            match segment.marker {
                START_OF_SCAN if has_frame => {
                    let scans = &data[segment.whole.start..];
                    bytes.extend_from_slice(scans);
                    let ended = memmem::find(scans, &END).is_some();
                    if !ended {
                        bytes.extend(END);
                    }
                    return Ok(Self { bytes, ended });
                }
                // JFIF's and Adobe's.
                0xe0 | 0xee => {}
                _ => {
                    let at = bytes.len();
                    bytes.extend_from_slice(&data[segment.whole.clone()]);
                    if let Some(frame) = Frame::of(&segment, data) {
                        let rows = frame.check(layout)?;
                        bytes[at + Frame::HEIGHT..][..2].copy_from_slice(&rows.to_be_bytes());
                        has_frame = true;
                    }
                }
            }
        }
        Err(corrupt("a JPEG without a picture"))
    }
}

/// What a start of frame says.
struct Frame {
    precision: u8,
    width: usize,
    height: usize,
    samples: usize,
    /// Of the first four.
    sampling: [(u8, u8); 4],
}

impl Frame {
    /// Where its height is, counted from its marker.
    const HEIGHT: usize = 5;

    fn of(segment: &Segment, data: &[u8]) -> Option<Self> {
        if !matches!(segment.marker, 0xc0..=0xcf) || matches!(segment.marker, HUFFMAN | 0xc8 | 0xcc) {
            return None;
        }
        let whole = &data[segment.whole.clone()];
        let (&[_, _, _, _, precision, y0, y1, x0, x1, samples], components) = whole.split_first_chunk()?;
        let mut sampling = [(0, 0); 4];
        for (sampling, component) in sampling.iter_mut().zip(components.chunks_exact(3)) {
            *sampling = (component[1] >> 4, component[1] & 15);
        }
        let (width, height) = (u16::from_be_bytes([x0, x1]).into(), u16::from_be_bytes([y0, y1]).into());
        // More than four are refused, whatever they are.
        Some(Self { precision, width, height, samples: samples.into(), sampling })
    }

    /// Whether it fits the strip, and how many of its rows are to be decoded.
    fn check(&self, layout: &Layout) -> Result<u16, ImageError> {
        if self.precision != 8 {
            let detail = format!("JPEG of {} bits", self.precision);
            return Err(ImageError::UnsupportedVariant { format: FORMAT, detail });
        }
        if self.samples != layout.samples {
            return Err(corrupt("a JPEG of another number of components"));
        }
        if !matches!(self.samples, 1 | 3 | 4) {
            let detail = format!("JPEG of {} components", self.samples);
            return Err(ImageError::UnsupportedVariant { format: FORMAT, detail });
        }
        let first = match layout.colour {
            Colour::Plain => (1, 1),
            Colour::YcbcrToRgb { sampling } | Colour::Ycbcr { sampling } => sampling,
        };
        let sampling = &self.sampling[..self.samples];
        if sampling[0] != first || sampling[1..].iter().any(|&sampling| sampling != (1, 1)) {
            return Err(corrupt("a JPEG of another subsampling"));
        }
        let is_larger = self.width > layout.width || self.height > layout.rows;
        let may_be_higher = layout.may_be_higher && self.width == layout.width;
        if is_larger && !may_be_higher {
            return Err(corrupt("a JPEG larger than its strip"));
        }
        Ok(self.height.min(layout.rows + ROWS_BELOW) as u16)
    }
}

/// A marker of a JPEG.
struct Segment {
    marker: u8,
    /// Its place, marker and all.
    whole: Range<usize>,
}

/// The markers of a JPEG before its end, as libjpeg finds them: what is between them is left out.
struct Segments<'a> {
    data: &'a [u8],
    at: usize,
    /// Whether they have ended with one that cannot be.
    are_broken: bool,
}

impl<'a> Segments<'a> {
    fn of(data: &'a [u8]) -> Result<Self, ImageError> {
        if data.starts_with(&[0xff, 0xd8]) {
            Ok(Self { data, at: 2, are_broken: false })
        } else {
            Err(corrupt("no JPEG"))
        }
    }
}

impl Iterator for Segments<'_> {
    type Item = Segment;

    fn next(&mut self) -> Option<Segment> {
        loop {
            let rest = self.data.get(self.at..)?;
            let at = memchr::memchr(0xff, rest)?;
            let fill = rest[at..].iter().position(|&byte| byte != 0xff)?;
            let marker = rest[at + fill];
            // The last of the bytes before the marker is its own.
            let start = self.at + at + fill - 1;
            self.at = start + 2;
            match marker {
                0xd9 => return None,
                0x00 | 0x01 | 0xd0..=0xd7 => continue,
                _ => {}
            }
            self.are_broken = true;
            let length = self.data.get(self.at..)?.first_chunk::<2>()?;
            let end = self.at + usize::from(u16::from_be_bytes(*length));
            if marker == 0xd8 || end < self.at + 2 || end > self.data.len() {
                return None;
            }
            (self.at, self.are_broken) = (end, false);
            return Some(Segment { marker, whole: start..end });
        }
    }
}

#[cfg(test)]
mod tests;
