//! The boxes that ISO files are made of, and the numbers in them.
//!
//! Invariant: nothing is read past the end of what it lies in, and nothing is allocated.

use super::refusal::{FORMAT, damaged};
use crate::preprocess::image::error::ImageError;

/// A box's kind.
pub(super) type Kind = [u8; 4];

/// Big-endian numbers, one after the other.
#[derive(Clone, Copy)]
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    /// The next `length` bytes.
    pub(super) fn take(&mut self, length: usize) -> Result<&'a [u8], ImageError> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or_else(|| damaged("a box ends within a field"))?;
        self.0 = rest;
        Ok(taken)
    }

    /// The next number of `length` bytes, 8 at most.
    pub(super) fn number(&mut self, length: usize) -> Result<u64, ImageError> {
        Ok(self.take(length)?.iter().fold(0, |number, &byte| number << 8 | u64::from(byte)))
    }

    pub(super) fn u8(&mut self) -> Result<u8, ImageError> {
        Ok(self.number(1)? as u8)
    }

    pub(super) fn u16(&mut self) -> Result<u16, ImageError> {
        Ok(self.number(2)? as u16)
    }

    pub(super) fn u32(&mut self) -> Result<u32, ImageError> {
        Ok(self.number(4)? as u32)
    }

    /// The version and the flags that many boxes begin with.
    pub(super) fn version(&mut self) -> Result<(u8, u32), ImageError> {
        let word = self.u32()?;
        Ok(((word >> 24) as u8, word & 0xff_ffff))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The boxes within `bytes`. At the top of a file one may reach to its end without saying how far that is.
pub(super) fn boxes(bytes: &[u8], top: bool) -> impl Iterator<Item = Result<(Kind, &[u8]), ImageError>> {
    let mut rest = Reader(bytes);
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let next = next_box(&mut rest, top);
        if next.is_err() {
            rest = Reader(&[]);
        }
        Some(next)
    })
}

fn next_box<'a>(rest: &mut Reader<'a>, top: bool) -> Result<(Kind, &'a [u8]), ImageError> {
    let short = rest.u32()?;
    let kind = *rest.take(4)?.first_chunk().ok_or_else(|| damaged("a box without a kind"))?;
    let length = match short {
        0 if top => rest.0.len() as u64,
        1 => rest.number(8)?.checked_sub(16).ok_or_else(|| damaged("a box shorter than its header"))?,
        _ => u64::from(short).checked_sub(8).ok_or_else(|| damaged("a box shorter than its header"))?,
    };
    if top && length > rest.0.len() as u64 {
        return Err(ImageError::Truncated { format: FORMAT });
    }
    Ok((kind, rest.take(length as usize)?))
}

/// The first box of that kind.
pub(super) fn find<'a>(bytes: &'a [u8], kind: &Kind) -> Result<Option<&'a [u8]>, ImageError> {
    for next in boxes(bytes, false) {
        let (found, body) = next?;
        if found == *kind {
            return Ok(Some(body));
        }
    }
    Ok(None)
}
