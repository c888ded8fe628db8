//! What AV1 data say of themselves before they are decoded: what their samples mean, and how many frames there are.

use super::{
    container::Cicp,
    refusal::{FORMAT, damaged},
};
use crate::preprocess::image::error::ImageError;

/// Frames of one picture, at most: a still has one, one in layers has up to four. Each is decoded whole, however few bytes it takes.
const MAX_FRAMES: usize = 8;

const SEQUENCE_HEADER: u8 = 1;
const FRAME_HEADER: u8 = 3;
const FRAME: u8 = 6;

/// Of H.273: not said.
const UNSPECIFIED: u16 = 2;

/// Reads the first sequence header of `data` and counts the frames.
pub(super) fn read(data: &[u8]) -> Result<(Cicp, usize), ImageError> {
    let mut rest = data;
    let (mut header, mut frames) = (None, 0);
    while let Some((&first, after)) = rest.split_first() {
        let has_extension = first & 4 != 0;
        let has_size = first & 2 != 0;
        let body = after.get(usize::from(has_extension)..).ok_or_else(ends)?;
        let (length, body) = if has_size { leb128(body)? } else { (body.len(), body) };
        let (body, next) = body.split_at_checked(length).ok_or_else(ends)?;
        match first >> 3 & 15 {
            SEQUENCE_HEADER if header.is_none() => header = Some(sequence_header(&mut Bits(body, 0))?),
            FRAME_HEADER | FRAME => frames += 1,
            _ => {}
        }
        rest = next;
    }
    if frames > MAX_FRAMES {
        return Err(ImageError::UnsupportedVariant { format: FORMAT, detail: format!("{frames} frames") });
    }
    let header = header.ok_or_else(|| damaged("AV1 data without a sequence header"))?;
    Ok((header, frames))
}

fn ends() -> ImageError {
    damaged("AV1 data that end within a unit")
}

fn leb128(bytes: &[u8]) -> Result<(usize, &[u8]), ImageError> {
    let mut value = 0;
    for (i, &byte) in bytes.iter().take(8).enumerate() {
        value |= usize::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            return Ok((value, &bytes[i + 1..]));
        }
    }
    Err(ends())
}

/// Bits from the highest on; the number of those that have been read.
struct Bits<'a>(&'a [u8], usize);

impl Bits<'_> {
    fn take(&mut self, count: usize) -> Result<u32, ImageError> {
        let mut value = 0;
        for _ in 0..count {
            let byte = self.0.get(self.1 / 8).ok_or_else(ends)?;
            value = value << 1 | u32::from(byte >> (7 - self.1 % 8) & 1);
            self.1 += 1;
        }
        Ok(value)
    }

    fn flag(&mut self) -> Result<bool, ImageError> {
        Ok(self.take(1)? == 1)
    }

    /// Passes over a number that tells its length by the zeros before it.
    fn skip_uvlc(&mut self) -> Result<(), ImageError> {
        let mut zeros = 0;
        while zeros < 32 && !self.flag()? {
            zeros += 1;
        }
        if zeros < 32 {
            self.take(zeros)?;
        }
        Ok(())
    }
}

/// As far as the colours, which come last.
fn sequence_header(bits: &mut Bits) -> Result<Cicp, ImageError> {
    let profile = bits.take(3)?;
    let _still = bits.flag()?;
    let reduced = bits.flag()?;
    if reduced {
        bits.take(5)?;
    } else {
        operating_points(bits)?;
    }
    let (width_bits, height_bits) = (bits.take(4)? as usize + 1, bits.take(4)? as usize + 1);
    bits.take(width_bits)?;
    bits.take(height_bits)?;
    if !reduced && bits.flag()? {
        bits.take(7)?;
    }
    // The size of blocks, and two tools of prediction.
    bits.take(3)?;
    if !reduced {
        inter_tools(bits)?;
    }
    // Three filters.
    bits.take(3)?;
    colours(bits, profile)
}

fn operating_points(bits: &mut Bits) -> Result<(), ImageError> {
    let mut delay_bits = None;
    if bits.flag()? {
        bits.take(32)?;
        bits.take(32)?;
        if bits.flag()? {
            bits.skip_uvlc()?;
        }
        if bits.flag()? {
            delay_bits = Some(bits.take(5)? as usize + 1);
            bits.take(32)?;
            bits.take(10)?;
        }
    }
    let has_display_delay = bits.flag()?;
    for _ in 0..bits.take(5)? + 1 {
        bits.take(12)?;
        if bits.take(5)? > 7 {
            bits.take(1)?;
        }
        if let Some(delay_bits) = delay_bits
            && bits.flag()?
        {
            bits.take(delay_bits)?;
            bits.take(delay_bits)?;
            bits.take(1)?;
        }
        if has_display_delay && bits.flag()? {
            bits.take(4)?;
        }
    }
    Ok(())
}

fn inter_tools(bits: &mut Bits) -> Result<(), ImageError> {
    bits.take(4)?;
    let has_order = bits.flag()?;
    if has_order {
        bits.take(2)?;
    }
    let screen_content = if bits.flag()? { 2 } else { bits.take(1)? };
    if screen_content > 0 && !bits.flag()? {
        bits.take(1)?;
    }
    if has_order {
        bits.take(3)?;
    }
    Ok(())
}

fn colours(bits: &mut Bits, profile: u32) -> Result<Cicp, ImageError> {
    if bits.flag()? && profile == 2 {
        bits.take(1)?;
    }
    let is_grey = profile != 1 && bits.flag()?;
    let [primaries, transfer, matrix] = if bits.flag()? {
        [bits.take(8)? as u16, bits.take(8)? as u16, bits.take(8)? as u16]
    } else {
        [UNSPECIFIED; 3]
    };
    let is_srgb = !is_grey && (primaries, transfer, matrix) == (1, 13, 0);
    Ok(Cicp { primaries, matrix, full_range: is_srgb || bits.flag()? })
}
