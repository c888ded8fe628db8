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

#[cfg(test)]
mod tests {
    use super::*;

    /// What a plane of 3 x 2 values stored as they are becomes.
    fn stored(filter: u8, values: [u8; 6]) -> Vec<u8> {
        decode(&[&[filter << 2], &values[..]].concat(), (3, 2), true).expect("whole")
    }

    /// By hand, from the container's specification: "Alpha" and its filtering methods.
    #[test]
    fn each_filter_adds_what_is_beside() {
        let values = [10, 250, 7, 1, 2, 255];
        assert_eq!(stored(0, values), values);
        // The row above begins the second row.
        assert_eq!(stored(1, values), [10, 4, 11, 11, 13, 12]);
        // The first row has nothing above it, and goes by what is before.
        assert_eq!(stored(2, values), [10, 4, 11, 11, 6, 10]);
        // 11 + 4 - 10 = 5 and 2; 7 + 11 - 4 = 14 and 255.
        assert_eq!(stored(3, values), [10, 4, 11, 11, 7, 13]);
        // Clamped: 200 + 100 - 0 and 1, 0 + 0 - 100 and 0.
        assert_eq!(stored(3, [0, 100, 156, 200, 1, 0])[4..], [0, 0]);
    }

    #[test]
    fn what_is_no_plane_is_refused_and_one_that_is_not_kept_is_read_too() {
        let refused = |chunk: &[u8], keep| decode(chunk, (3, 2), keep).expect_err("no plane");
        for keep in [true, false] {
            // No header, no values, too few, an unknown method, unknown levels, reserved bits.
            for chunk in [&[][..], &[0], &[0, 1, 2, 3, 4, 5], &[2; 7], &[0x20; 7], &[0x80; 7]] {
                refused(chunk, keep);
            }
            // A lossless stream that ends.
            refused(&[1, 0], keep);
        }
        assert!(decode(&[0; 7], (3, 2), false).expect("whole").is_empty());
        assert_eq!(decode(&[0; 8], (3, 2), true).expect("more than it needs"), [0; 6]);
    }
}
