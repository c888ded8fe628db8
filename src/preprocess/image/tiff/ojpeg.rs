//! Old JPEG inside TIFF (compression 6) with three samples in one plane, as libtiff reads it: one JPEG of the whole picture, in pieces.
//!
//! Owns putting it together. Its stream is what JPEGInterchangeFormat points to, if anything, and then the strips. Where that begins with
//! markers they are the header; else the tables are where the directory's tags say, and all of it is pixels. `jpeg` decodes what comes of
//! it.
//!
//! One difference from libtiff, which shows every other strip of several, and then the last ones again: here all are shown.
//!
//! Invariant: what is put together is no longer than twice the file and a header.

use super::jpeg::{self, Colour, Layout, Tables};
use crate::preprocess::{
    image::error::{ImageError, ImageFormatName},
    memory,
};

const FORMAT: ImageFormatName = ImageFormatName::Tiff;

/// What the directory says. Places and lengths are those of the file, checked by nobody yet.
pub(super) struct OldJpeg<'a> {
    /// The whole file.
    pub(super) file: &'a [u8],
    /// Columns.
    pub(super) width: usize,
    /// Rows.
    pub(super) height: usize,
    /// Rows of a strip.
    pub(super) rows_per_strip: usize,
    /// How many samples of brightness there are for one of colour, across and down, should there be no header to say so.
    pub(super) sampling: (u8, u8),
    /// JPEGInterchangeFormat and its length.
    pub(super) interchange: Option<(u64, u64)>,
    /// JPEGRestartInterval, or 0.
    pub(super) restart_interval: u16,
    /// JPEGQTables.
    pub(super) quantisation: &'a [u64],
    /// JPEGDCTables.
    pub(super) dc: &'a [u64],
    /// JPEGACTables.
    pub(super) ac: &'a [u64],
    /// Places and lengths of the strips.
    pub(super) strips: &'a [(u64, u64)],
}

/// Decodes the picture into `out`: YCbCr, three bytes a pixel, the samples of colour being repeated.
pub(super) fn decode(old: &OldJpeg<'_>, out: &mut [u8]) -> Result<(), ImageError> {
    let (bytes, sampling) = old.assemble()?;
    let layout = Layout {
        width: old.width,
        rows: old.height,
        samples: 3,
        colour: Colour::Ycbcr { sampling },
        may_be_higher: true,
    };
    jpeg::decode(&Tables::default(), &bytes, &layout, out)
}

fn corrupt(detail: &str) -> ImageError {
    ImageError::Corrupt { format: FORMAT, detail: detail.into() }
}

impl<'a> OldJpeg<'a> {
    /// One JPEG, and its sampling.
    fn assemble(&self) -> Result<(Vec<u8>, (u8, u8)), ImageError> {
        let interchange = self.interchange.and_then(|(at, length)| self.piece(at, length));
        let mut pieces: Vec<&[u8]> = memory::room(self.strips.len() + 1)?;
        pieces.extend(interchange);
        pieces.extend(self.strips.iter().filter_map(|&(at, length)| self.piece(at, length)));
        let total = pieces.iter().fold(0usize, |total, piece| total.saturating_add(piece.len()));
        if total > 2 * self.file.len() {
            return Err(ImageError::TooMuchMemory { format: FORMAT });
        }
        // Headers lie in the first piece.
        let Some(first) = pieces.first_mut() else { return Err(ImageError::Truncated { format: FORMAT }) };
        let header = Header::read(first)?;
        *first = &first[header.length..];
        let sampling = header.sampling.unwrap_or(self.sampling);
        if self.width < sampling.0.into() || self.height < sampling.1.into() {
            return Err(corrupt("a picture smaller than one sample of its colours"));
        }
        let mut jpeg = memory::room(total + 4096 + 2 * pieces.len())?;
        jpeg.extend([0xff, 0xd8]);
        match header.frame {
            Some((frame, scan)) => {
                header.tables.iter().for_each(|table| jpeg.extend_from_slice(table));
                let interval = header.restart_interval.map_or_else(|| self.interval(sampling), Ok)?;
                restart_interval(&mut jpeg, interval);
                jpeg.extend_from_slice(frame);
                jpeg.extend_from_slice(scan);
            }
            None => self.invent_header(sampling, &mut jpeg)?,
        }
        let last = pieces.len() - 1;
        for (number, piece) in pieces.iter().enumerate() {
            jpeg.extend_from_slice(piece);
            let is_strip = interchange.is_none() || number > 0;
            if number < last && is_strip {
                let strip = number - usize::from(interchange.is_some());
                jpeg.extend([0xff, 0xd0 + (strip % 8) as u8]);
            }
        }
        Ok((jpeg, sampling))
    }

    /// A piece of the file, to its end where it is too long or of no length.
    fn piece(&self, at: u64, length: u64) -> Option<&'a [u8]> {
        let rest = self.file.get(usize::try_from(at).ok().filter(|&at| at != 0)?..).filter(|rest| !rest.is_empty())?;
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        Some(if length == 0 { rest } else { &rest[..length.min(rest.len())] })
    }

    /// Units between two restarts: strips begin with one.
    fn interval(&self, (across, down): (u8, u8)) -> Result<u16, ImageError> {
        if self.rows_per_strip >= self.height {
            return Ok(self.restart_interval);
        }
        let (across, down) = (usize::from(across) * 8, usize::from(down) * 8);
        if !matches!(across, 8 | 16 | 32) || !matches!(down, 8 | 16 | 32) || !self.rows_per_strip.is_multiple_of(down) {
            return Err(corrupt("strips of old JPEG that end amid a unit"));
        }
        Ok((self.width.div_ceil(across) * (self.rows_per_strip / down)) as u16)
    }

    /// The header of a picture that has none.
    fn invent_header(&self, sampling: (u8, u8), jpeg: &mut Vec<u8>) -> Result<(), ImageError> {
        let side = |side: usize| u16::try_from(side).map_err(|_| corrupt("old JPEG of too many columns or rows"));
        let (width, height) = (side(self.width)?.to_be_bytes(), side(self.height)?.to_be_bytes());
        let mut codes = [0; 3];
        let mut quantisations = [0; 3];
        for (i, own) in own_tables(self.quantisation)?.into_iter().enumerate() {
            quantisations[i] = match own {
                None => quantisations[i - 1],
                Some(at) => {
                    let table = self.exactly(at, 64)?;
                    jpeg.extend([0xff, 0xdb, 0, 67, i as u8]);
                    jpeg.extend_from_slice(table);
                    i as u8
                }
            };
        }
        for (class, tables) in [self.dc, self.ac].into_iter().enumerate() {
            let shift = if class == 0 { 4 } else { 0 };
            for (i, own) in own_tables(tables)?.into_iter().enumerate() {
                let which = match own {
                    None => codes[i - 1] >> shift & 15,
                    Some(at) => {
                        let counts = self.exactly(at, 16)?;
                        let values: usize = counts.iter().map(|&count| usize::from(count)).sum();
                        let table = self.exactly(at, 16 + values)?;
                        let length = (19 + values) as u16;
                        jpeg.extend([0xff, 0xc4]);
                        jpeg.extend(length.to_be_bytes());
                        jpeg.push((class as u8) << 4 | i as u8);
                        jpeg.extend_from_slice(table);
                        i as u8
                    }
                };
                codes[i] |= which << shift;
            }
        }
        restart_interval(jpeg, self.interval(sampling)?);
        jpeg.extend([0xff, 0xc0, 0, 17, 8, height[0], height[1], width[0], width[1], 3]);
        for (i, quantisation) in quantisations.into_iter().enumerate() {
            let factors = if i == 0 { sampling.0 << 4 | sampling.1 & 15 } else { 0x11 };
            jpeg.extend([i as u8, factors, quantisation]);
        }
        jpeg.extend([0xff, 0xda, 0, 12, 3, 0, codes[0], 1, codes[1], 2, codes[2], 0, 63, 0]);
        Ok(())
    }

    fn exactly(&self, at: u64, length: usize) -> Result<&'a [u8], ImageError> {
        let at = usize::try_from(at).unwrap_or(usize::MAX);
        let piece = self.file.get(at..).and_then(|rest| rest.get(..length));
        piece.ok_or(ImageError::Truncated { format: FORMAT })
    }
}

/// Where the tables of the three components are; those without have the one before. The first has one.
fn own_tables(tables: &[u64]) -> Result<[Option<u64>; 3], ImageError> {
    let table = |i: usize| tables.get(i).copied().filter(|&at| at != 0);
    let first = table(0).ok_or_else(|| corrupt("no tables of an old JPEG"))?;
    let other = |i: usize| table(i).filter(|&at| at != tables[i - 1]);
    Ok([Some(first), other(1), other(2)])
}

fn restart_interval(jpeg: &mut Vec<u8>, interval: u16) {
    if interval != 0 {
        jpeg.extend([0xff, 0xdd, 0, 4]);
        jpeg.extend(interval.to_be_bytes());
    }
}

/// What the markers at the beginning say.
#[derive(Default)]
struct Header<'a> {
    tables: Vec<&'a [u8]>,
    restart_interval: Option<u16>,
    sampling: Option<(u8, u8)>,
    /// The segments of the frame and of the scan.
    frame: Option<(&'a [u8], &'a [u8])>,
    length: usize,
}

impl<'a> Header<'a> {
    fn read(piece: &'a [u8]) -> Result<Self, ImageError> {
        let truncated = || ImageError::Truncated { format: FORMAT };
        let mut header = Self::default();
        let mut frame = None;
        while piece.get(header.length) == Some(&0xff) {
            let fill = piece[header.length..].iter().position(|&byte| byte != 0xff).ok_or_else(truncated)?;
            let start = header.length + fill - 1;
            let marker = piece[start + 1];
            if marker == 0xd8 {
                header.length = start + 2;
                continue;
            }
            let length = piece.get(start + 2..).and_then(|rest| rest.first_chunk()).ok_or_else(truncated)?;
            let end = start + 2 + usize::from(u16::from_be_bytes(*length));
            let segment = piece.get(start..end).filter(|segment| segment.len() >= 4).ok_or_else(truncated)?;
            header.length = end;
            match (marker, frame) {
                (0xe0..=0xef | 0xfe, _) => {}
                (0xdd, _) => {
                    let interval = segment.get(4..).and_then(|rest| rest.first_chunk()).ok_or_else(truncated)?;
                    header.restart_interval = Some(u16::from_be_bytes(*interval));
                }
                (0xdb | 0xc4, _) => {
                    header.tables.try_reserve(1).map_err(memory::OutOfMemory::from)?;
                    header.tables.push(segment);
                }
                (0xc0 | 0xc1 | 0xc3, None) => {
                    header.sampling = segment.get(11).map(|factors| (factors >> 4, factors & 15));
                    frame = Some(segment);
                }
                (0xda, Some(frame)) => {
                    header.frame = Some((frame, segment));
                    return Ok(header);
                }
                _ => return Err(corrupt("an old JPEG with an unknown marker")),
            }
        }
        if frame.is_some() || !header.tables.is_empty() {
            return Err(corrupt("an old JPEG with half a header"));
        }
        Ok(header)
    }
}

#[cfg(test)]
mod tests;
