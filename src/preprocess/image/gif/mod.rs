//! GIF: the first frame on its logical screen, as Pillow composes it.
//!
//! Owns the colours and the place of the frame's lines. Does not own the way to the frame, which is `frame`, nor its codes, which are
//! `lzw`.
//!
//! As in Pillow: what the frame does not cover shows the transparent colour, or colour 0; a frame that sticks out of the screen
//! enlarges it; without a palette, or with one of greys, numbers are greys; a colour that a palette lacks is black.

mod frame;
mod lzw;

pub(super) use self::frame::{Frame, NoFrame};
use super::{
    Decoded, Limits, RgbImage,
    error::{ImageError, ImageFormatName},
    mode::{self, Mode},
    orientation::Orientation,
};
use crate::preprocess::memory;

const FORMAT: ImageFormatName = ImageFormatName::Gif;

/// Decodes the first frame of a GIF.
pub(super) fn decode(bytes: &[u8], limits: &Limits, buffer: Vec<u8>) -> Result<Decoded, ImageError> {
    let frame = Frame::first(bytes, usize::MAX).map_err(|no_frame| match no_frame {
        NoFrame::Ended | NoFrame::TooFar => ImageError::Truncated { format: FORMAT },
        NoFrame::Damaged => damaged("a graphic control is too short"),
    })?;
    let (frame_width, frame_height) = (usize::from(frame.width), usize::from(frame.height));
    let (width, height) = frame.canvas();
    let (width, height) = limits.check(FORMAT, width.into(), height.into())?;
    if frame_width * frame_height == 0 {
        return Err(ImageError::NoPixels { format: FORMAT });
    }
    let mut palette: [[u8; 3]; 256] = std::array::from_fn(|number| [number as u8; 3]);
    let mut mode = Mode::Plain;
    if let Some(colours) = frame.palette {
        palette = std::array::from_fn(|number| mode::entry(Some(colours), number as u8));
        if let Some(fill) = limits.kept_modes {
            mode = Mode::Stepped { fill: palette[usize::from(fill)] };
        }
    }
    let mut indices = memory::zeroed(Vec::new(), frame_width * frame_height)?;
    lzw::expand(frame.codes, frame.code_bits, &mut indices).map_err(|damage| match damage {
        lzw::Damage::Ended => ImageError::Truncated { format: FORMAT },
        lzw::Damage::TooLong => ImageError::TooMuchMemory { format: FORMAT },
        lzw::Damage::Broken => damaged("a code that nothing stands for"),
    })?;
    let width_bytes = width as usize * 3;
    let mut data = memory::zeroed(buffer, width_bytes * height as usize)?;
    let background = palette[usize::from(frame.transparent.unwrap_or(0))];
    let covered = (width, height) == (frame.width.into(), frame.height.into());
    if !covered && background != [0; 3] {
        data.as_chunks_mut().0.fill(background);
    }
    let (left, top) = (usize::from(frame.left), usize::from(frame.top));
    for (row, line) in rows(frame_height, frame.interlaced).zip(indices.chunks_exact(frame_width)) {
        let out = &mut data[(top + row) * width_bytes + left * 3..][..frame_width * 3];
        for (pixel, &index) in out.as_chunks_mut().0.iter_mut().zip(line) {
            *pixel = palette[usize::from(index)];
        }
    }
    Ok(Decoded { image: RgbImage::new(width, height, data).in_mode(mode), orientation: Orientation::Upright })
}

/// Where the lines of a frame belong, in the order that they are stored in.
fn rows(height: usize, interlaced: bool) -> impl Iterator<Item = usize> {
    const ONE_PASS: &[(usize, usize)] = &[(0, 1)];
    const FOUR_PASSES: &[(usize, usize)] = &[(0, 8), (4, 8), (2, 4), (1, 2)];
    let passes = if interlaced { FOUR_PASSES } else { ONE_PASS };
    passes.iter().flat_map(move |&(first, step)| (first..height).step_by(step))
}

fn damaged(detail: &str) -> ImageError {
    ImageError::Corrupt { format: FORMAT, detail: detail.into() }
}

#[cfg(test)]
mod tests;
