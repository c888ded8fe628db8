//! The chunk of alpha beside a lossy frame, read as libwebp reads it.
//!
//! Owns the chunk's header and its filters; the plane itself is stored as it is, or as the green of a lossless picture. Damage in it
//! refuses the picture, whether or not alpha is kept: so does libwebp.

use super::{container::FORMAT, lossless::Picture, refusal::refuse_lossless};
use crate::preprocess::{image::error::ImageError, memory};

/// What was subtracted from each value.
#[derive(Clone, Copy)]
enum Filter {
    None,
    /// The value before.
    Horizontal,
    /// The value above.
    Vertical,
    /// Both less the one between them, clamped.
    Gradient,
}

/// Decodes the plane of that size; where it is not kept, it is nothing.
pub(super) fn decode(chunk: &[u8], size: (u32, u32), keep: bool) -> Result<Vec<u8>, ImageError> {
    let damaged = |detail: &str| ImageError::Corrupt { format: FORMAT, detail: detail.into() };
    // A plane of no bytes is none.
    let Some((&header, data)) = chunk.split_first().filter(|(_, data)| !data.is_empty()) else {
        return Err(damaged("no alpha in its chunk"));
    };
    let filter = [Filter::None, Filter::Horizontal, Filter::Vertical, Filter::Gradient][usize::from(header >> 2 & 3)];
    let (method, is_levelled, reserved) = (header & 3, header >> 4 & 3, header >> 6);
    if method > 1 || is_levelled > 1 || reserved > 1 {
        return Err(damaged("alpha of an unknown kind"));
    }
    let (width, length) = (size.0 as usize, size.0 as usize * size.1 as usize);
    let picture = match method {
        0 if data.len() < length => return Err(ImageError::Truncated { format: FORMAT }),
        0 => None,
        _ => Some(Picture::decode_alpha(data, size).map_err(refuse_lossless)?),
    };
    if !keep {
        return Ok(Vec::new());
    }
    let mut plane = memory::room(length)?;
    match picture {
        None => plane.extend_from_slice(&data[..length]),
        Some(picture) => picture
            .for_each_row(|row| plane.extend(row.iter().map(|pixel| (pixel >> 8) as u8)))
            .map_err(refuse_lossless)?,
    }
    unfilter(filter, &mut plane, width);
    Ok(plane)
}

fn unfilter(filter: Filter, plane: &mut [u8], width: usize) {
    if matches!(filter, Filter::None) {
        return;
    }
    for at in 0..plane.len() {
        let (x, first_row) = (at % width, at < width);
        let prediction = match (filter, x) {
            (Filter::None, _) | (_, 0) if at == 0 => 0,
            // The first column knows what is above only, the first row what is before.
            (_, 0) => plane[at - width],
            _ if first_row => plane[at - 1],
            (Filter::Vertical, _) => plane[at - width],
            (Filter::Gradient, _) => {
                let [before, above, between] = [at - 1, at - width, at - width - 1].map(|at| i32::from(plane[at]));
                (before + above - between).clamp(0, 255) as u8
            }
            _ => plane[at - 1],
        };
        plane[at] = plane[at].wrapping_add(prediction);
    }
}
