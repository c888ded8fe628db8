//! GIF: the first frame on its logical screen, as Pillow composes it.

use std::{borrow::Cow, io::Cursor, num::NonZeroU64};

use gif::{ColorOutput, DecodeOptions, DecodingError, MemoryLimit};

use super::{
    Decoded, Limits, RgbImage,
    error::{ImageError, ImageFormatName},
    mode::{self, Mode},
    orientation::Orientation,
};
use crate::preprocess::memory;

const FORMAT: ImageFormatName = ImageFormatName::Gif;

/// Bytes of metadata and of one pass over the data that the decoder may hold, besides the frame.
const MAX_METADATA: u64 = 16 << 20;

/// Decodes the first frame of a GIF.
///
/// As in Pillow: what the frame does not cover shows the transparent colour, or colour 0; a frame that sticks out of the screen
/// enlarges it; a colour that the palette lacks is the grey of its number.
pub(super) fn decode(bytes: &[u8], limits: &Limits) -> Result<Decoded, ImageError> {
    let mut options = DecodeOptions::new();
    options.set_color_output(ColorOutput::Indexed);
    options.allow_unknown_blocks(true);
    options.set_memory_limit(MemoryLimit::Bytes(
        NonZeroU64::new(limits.max_pixels.saturating_add(MAX_METADATA)).unwrap_or(NonZeroU64::MAX),
    ));
    let mut decoder = options.read_info(Cursor::new(bytes)).map_err(refuse)?;
    let Some(frame) = decoder.next_frame_info().map_err(refuse)? else {
        return Err(ImageError::Truncated { format: FORMAT });
    };
    let (left, top) = (usize::from(frame.left), usize::from(frame.top));
    let (frame_width, frame_height) = (usize::from(frame.width), usize::from(frame.height));
    let background = frame.transparent.unwrap_or(0);
    let screen = (usize::from(decoder.width()), usize::from(decoder.height()));
    let (width, height) = (screen.0.max(left + frame_width), screen.1.max(top + frame_height));
    let size = limits.check(FORMAT, width as u64, height as u64)?;

    let mut palette: [[u8; 3]; 256] = std::array::from_fn(|i| [i as u8; 3]);
    let colours = decoder.palette().map(Cow::Borrowed).unwrap_or_default();
    for (entry, colour) in palette.iter_mut().zip(colours.as_chunks::<3>().0) {
        *entry = *colour;
    }
    let mode = match limits.kept_modes {
        Some(fill) if !mode::is_grey_ramp(&colours, 3) => Mode::Stepped { fill: mode::entry(Some(&colours), fill) },
        _ => Mode::Plain,
    };
    let mut indices = memory::zeroed(Vec::new(), frame_width * frame_height)?;
    if !indices.is_empty() {
        decoder.read_into_buffer(&mut indices).map_err(refuse)?;
    }
    let mut data = memory::zeroed(Vec::new(), width * height * 3)?;
    if palette[usize::from(background)] != [0; 3] {
        data.as_chunks_mut().0.fill(palette[usize::from(background)]);
    }
    for (row, line) in indices.chunks_exact(frame_width.max(1)).enumerate() {
        let out = &mut data[((top + row) * width + left) * 3..][..frame_width * 3];
        for (pixel, &index) in out.as_chunks_mut::<3>().0.iter_mut().zip(line) {
            *pixel = palette[usize::from(index)];
        }
    }
    let image = RgbImage::new(size.0, size.1, data).in_mode(mode);
    Ok(Decoded { image, orientation: Orientation::Upright })
}

fn refuse(error: DecodingError) -> ImageError {
    match error {
        DecodingError::Io(_) => ImageError::Truncated { format: FORMAT },
        DecodingError::MemoryLimit => ImageError::TooMuchMemory { format: FORMAT },
        DecodingError::OutOfMemory => ImageError::OutOfMemory,
        other => ImageError::Corrupt { format: FORMAT, detail: other.to_string() },
    }
}
