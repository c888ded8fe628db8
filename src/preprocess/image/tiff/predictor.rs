//! Samples out of the differences that predictors store, as libtiff makes them.
//!
//! Owns predictor 2, of 8, 16 and 32 bits, and predictor 3, of floats, row by row. Invariant: the samples are afterwards in the byte
//! order of the file, whatever the predictor.

use super::{
    refusal::{corrupt, unsupported},
    samples::{Depth, Samples},
    tags::{PREDICTOR, Tags},
};
use crate::preprocess::image::error::ImageError;

/// What differences are between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Predictor {
    None,
    /// Samples.
    Horizontal,
    /// Bytes of floats, the highest of a whole row first.
    Float,
}

impl Predictor {
    /// That of the fields, if it suits the samples.
    pub(super) fn of(tags: &Tags<'_>, samples: &Samples) -> Result<Self, ImageError> {
        // A field that libtiff cannot read is none.
        let number = tags.numbers(PREDICTOR)?.filter(|numbers| numbers.count() == 1);
        match (number.map_or(Ok(1), |numbers| numbers.get(0))?, samples.depth) {
            (1, _) => Ok(Self::None),
            (2, depth) if matches!(depth.bits(), 8 | 16 | 32) => Ok(Self::Horizontal),
            (3, Depth::Float) => Ok(Self::Float),
            (predictor, depth) => Err(unsupported(format!("predictor {predictor} of {depth:?}"))),
        }
    }

    /// Makes a chunk of rows of `row_bytes` what it stands for.
    pub(super) fn undo(self, samples: &Samples, row_bytes: usize, chunk: &mut [u8]) -> Result<(), ImageError> {
        if self == Self::None {
            return Ok(());
        }
        let stride = if samples.planar { 1 } else { samples.count };
        let sample_bytes = samples.depth.bits() / 8;
        if row_bytes == 0 || !chunk.len().is_multiple_of(row_bytes) || !row_bytes.is_multiple_of(stride * sample_bytes)
        {
            return Err(corrupt("rows that are no whole number of samples"));
        }
        let mut spare = vec![];
        if self == Self::Float {
            spare = crate::preprocess::memory::zeroed(spare, row_bytes)?;
        }
        for row in chunk.chunks_exact_mut(row_bytes) {
            match (self, sample_bytes) {
                (Self::None, _) => {}
                (Self::Float, _) => float(row, stride, samples.big_endian, &mut spare),
                (Self::Horizontal, 1) => match stride {
                    3 => bytes::<3>(row),
                    4 => bytes::<4>(row),
                    _ => {
                        for at in stride..row.len() {
                            row[at] = row[at].wrapping_add(row[at - stride]);
                        }
                    }
                },
                (Self::Horizontal, 2) => match (stride, samples.big_endian) {
                    (3, false) => pairs::<3>(row, u16::from_le_bytes, u16::to_le_bytes),
                    (3, true) => pairs::<3>(row, u16::from_be_bytes, u16::to_be_bytes),
                    (4, false) => pairs::<4>(row, u16::from_le_bytes, u16::to_le_bytes),
                    (4, true) => pairs::<4>(row, u16::from_be_bytes, u16::to_be_bytes),
                    (stride, big_endian) => wide(row, stride * 2, 2, big_endian),
                },
                (Self::Horizontal, bytes) => wide(row, stride * bytes, bytes, samples.big_endian),
            }
        }
        Ok(())
    }
}

/// Differences of pixels of `N` bytes.
fn bytes<const N: usize>(row: &mut [u8]) {
    let mut last = [0u8; N];
    for pixel in row.as_chunks_mut::<N>().0 {
        for (sample, last) in pixel.iter_mut().zip(&mut last) {
            *last = sample.wrapping_add(*last);
            *sample = *last;
        }
    }
}

/// Differences of pixels of `N` samples of two bytes.
fn pairs<const N: usize>(row: &mut [u8], read: fn([u8; 2]) -> u16, write: fn(u16) -> [u8; 2]) {
    let mut last = [0u16; N];
    for pixel in row.as_chunks_mut::<2>().0.chunks_exact_mut(N) {
        for (sample, last) in pixel.iter_mut().zip(&mut last) {
            *last = last.wrapping_add(read(*sample));
            *sample = write(*last);
        }
    }
}

/// Differences of samples of several bytes to those `distance` bytes before.
fn wide(row: &mut [u8], distance: usize, bytes: usize, big_endian: bool) {
    for at in (distance..row.len()).step_by(bytes) {
        let mut carry = 0;
        for byte in 0..bytes {
            let place = at + if big_endian { bytes - 1 - byte } else { byte };
            let sum = u16::from(row[place]) + u16::from(row[place - distance]) + carry;
            row[place] = sum as u8;
            carry = sum >> 8;
        }
    }
}

fn float(row: &mut [u8], stride: usize, big_endian: bool, spare: &mut [u8]) {
    for at in stride..row.len() {
        row[at] = row[at].wrapping_add(row[at - stride]);
    }
    spare.copy_from_slice(row);
    let count = row.len() / 4;
    for (index, sample) in row.as_chunks_mut::<4>().0.iter_mut().enumerate() {
        let highest_first = [0, 1, 2, 3].map(|byte| spare[byte * count + index]);
        *sample = highest_first;
        if !big_endian {
            sample.reverse();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn carries_go_from_byte_to_byte_in_either_order() {
        let mut little = [0xff, 0x00, 0x01, 0x00];
        wide(&mut little, 2, 2, false);
        assert_eq!(little, [0xff, 0x00, 0x00, 0x01]);
        let mut big = [0x00, 0xff, 0x00, 0x01];
        wide(&mut big, 2, 2, true);
        assert_eq!(big, [0x00, 0xff, 0x01, 0x00]);
    }

    #[test]
    fn floats_are_put_together_from_their_bytes_highest_first() {
        let mut row = [0x3f, 0x01, 0x40, 0, 0, 0, 0, 0];
        // Differences: 3f 40 80 80 80 ...
        float(&mut row, 1, true, &mut [0; 8]);
        assert_eq!(row, [0x3f, 0x80, 0x80, 0x80, 0x40, 0x80, 0x80, 0x80]);
    }
}
