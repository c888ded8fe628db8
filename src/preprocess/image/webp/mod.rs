//! WebP: stills, and of an animation the first frame as libwebp's animation decoder shows it.
//!
//! Owns decoding one frame and putting it in its place; `container` finds it. A frame is decoded as a still of its own: Pillow drops
//! alpha without compositing, so the colours under transparent pixels count, and a decoder that blends the frame onto a canvas loses
//! them. The decoder is given no more than the frame either, since it refuses files for chunks that are missing or not announced.

mod container;

use std::io::{Cursor, ErrorKind};

pub(super) use container::frame_size;
use container::{Container, FORMAT, Frame};
use image_webp::{DecodingError, WebPDecoder};

use super::{
    Decoded, Limits, RgbImage, convert,
    error::ImageError,
    mode::{self, Mode},
    orientation::Orientation,
};
use crate::preprocess::memory::{self, OutOfMemory};

/// Memory that the decoder may take besides what its pixels need.
const MAX_OVERHEAD: usize = 16 << 20;

/// Decodes a WebP; of an animation the first frame.
pub(super) fn decode(bytes: &[u8], limits: &Limits, buffer: Vec<u8>) -> Result<Decoded, ImageError> {
    let Container { canvas, has_alpha, exif, xmp, frame } = Container::read(bytes)?;
    let orientation = Orientation::find(exif, xmp);
    let (width, height) = limits.check(FORMAT, canvas.0.into(), canvas.1.into())?;
    // Where the file does not announce alpha, that of its frame is none.
    let limits = &Limits { kept_modes: limits.kept_modes.filter(|_| has_alpha), ..*limits };
    let picture = still(&frame, limits, buffer)?;
    if (picture.width(), picture.height()) == (width, height) {
        return Ok(Decoded { image: picture, orientation });
    }
    let row_bytes = width as usize * 3;
    let frame_bytes = picture.width() as usize * 3;
    let mut data = memory::zeroed(Vec::new(), row_bytes * height as usize)?;
    let put = |canvas: &mut [u8], frame_data: &[u8]| {
        let rows = canvas.chunks_exact_mut(row_bytes).skip(frame.top as usize);
        for (row, line) in rows.zip(frame_data.chunks_exact(frame_bytes)) {
            row[frame.left as usize * 3..][..frame_bytes].copy_from_slice(line);
        }
    };
    put(&mut data, picture.as_bytes());
    let mut mode = Mode::Plain;
    if limits.kept_modes.is_some() {
        // Where the frame is not, there is nothing to be seen.
        let mut alphas = memory::zeroed(Vec::new(), data.len())?;
        match picture.mode.fourth() {
            Some(plane) => put(&mut alphas, plane),
            None => {
                for row in alphas.chunks_exact_mut(row_bytes).skip(frame.top as usize).take(picture.height() as usize) {
                    row[frame.left as usize * 3..][..frame_bytes].fill(255);
                }
            }
        }
        mode = Mode::Alpha(alphas);
    }
    Ok(Decoded { image: RgbImage::new(width, height, data).in_mode(mode), orientation })
}

/// Decodes a frame.
fn still(frame: &Frame, limits: &Limits, buffer: Vec<u8>) -> Result<RgbImage, ImageError> {
    let (width, height) = limits.check(FORMAT, frame.width.into(), frame.height.into())?;
    let file = file(frame)?;
    let mut decoder = WebPDecoder::new(Cursor::new(&file[..])).map_err(refuse)?;
    // What the decoder takes of its own, by its source: lossless, the pixels with alpha where the answer has none, and transforms;
    // lossy, the planes, in whole blocks, and alpha as a lossless picture of one channel. Not in it: the code tables of a lossless
    // picture, which are small unless it is made to have many.
    let has_alpha = decoder.has_alpha();
    let pixel_bytes = match (frame.lossless, has_alpha) {
        (true, false) => 5,
        (true, true) => 1,
        (false, false) => 2,
        (false, true) => 7,
    };
    let blocks = u64::from(frame.width.next_multiple_of(16)) * u64::from(frame.height.next_multiple_of(16));
    let besides = blocks * pixel_bytes + frame.image.len() as u64;
    // Of the size that has been checked, or it is not decoded.
    let length = decoder.output_buffer_size().filter(|_| decoder.dimensions() == (width, height));
    let other_size = || ImageError::Corrupt { format: FORMAT, detail: "a frame of another size".into() };
    let mut data = memory::zeroed(buffer, length.ok_or_else(other_size)?)?;
    memory::ask(besides)?;
    decoder.set_memory_limit(besides as usize + MAX_OVERHEAD);
    decoder.read_image(&mut data).map_err(refuse)?;
    let (data, mode) = match (has_alpha, limits.kept_modes) {
        (true, Some(_)) => mode::of_rgba(data)?,
        (true, None) => (convert::rgba(data), Mode::Plain),
        (false, _) => (data, Mode::Plain),
    };
    Ok(RgbImage::new(width, height, data).in_mode(mode))
}

/// A decoder's error in the client's terms.
fn refuse(error: DecodingError) -> ImageError {
    match error {
        DecodingError::IoError(error) if error.kind() == ErrorKind::UnexpectedEof => {
            ImageError::Truncated { format: FORMAT }
        }
        // Both that the limit is too small and that the system gave nothing; asking again tells which.
        DecodingError::MemoryLimitExceeded => match memory::ask(MAX_OVERHEAD as u64) {
            Ok(()) => ImageError::TooMuchMemory { format: FORMAT },
            Err(shortage) => shortage.into(),
        },
        other => ImageError::Corrupt { format: FORMAT, detail: other.to_string() },
    }
}

/// The frame as a file of its own: with a header that announces alpha, where it has a chunk of that.
fn file(frame: &Frame) -> Result<Vec<u8>, OutOfMemory> {
    const ALPHA: u8 = 0x10;
    let [width, height] = [frame.width, frame.height].map(|side| (side - 1).to_le_bytes());
    let header = [&[ALPHA, 0, 0, 0], &width[..3], &height[..3]].concat();
    let alpha = frame.alpha.iter().flat_map(|&alpha| [(b"VP8X", &header[..]), (b"ALPH", alpha)]);
    let image = (if frame.lossless { b"VP8L" } else { b"VP8 " }, frame.image);
    let chunks = alpha.chain([image]);
    let length: usize = chunks.clone().map(|(_, body)| 8 + body.len().next_multiple_of(2)).sum();
    let mut file = memory::room(12 + length)?;
    let number = |length: usize| (length as u32).to_le_bytes();
    for part in [b"RIFF", &number(4 + length), b"WEBP"] {
        file.extend_from_slice(part);
    }
    for (name, body) in chunks {
        file.extend_from_slice(name);
        file.extend_from_slice(&number(body.len()));
        file.extend_from_slice(body);
        file.extend_from_slice(&[0][..body.len() % 2]);
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_counts_against_the_limit_before_it_is_decoded_and_has_the_size_of_its_canvas() {
        let chunk = |name: &[u8; 4], body: &[u8]| [&name[..], &(body.len() as u32).to_le_bytes(), body].concat();
        // A canvas of one pixel, and frames of 16,000 x 16,000.
        let canvas = chunk(b"VP8X", &[0; 10]);
        let lossy = chunk(b"VP8 ", b"\x10\0\0\x9d\x01\x2a\x80\x3e\x80\x3e\0\0");
        let lossless = chunk(b"VP8L", &[&b"\x2f"[..], &(15_999u32 | 15_999 << 14).to_le_bytes(), &[0; 5]].concat());
        for frame in [lossy, lossless] {
            for (canvas, reason) in [(canvas.as_slice(), "corrupt"), (&[], "too_many_pixels")] {
                let file = chunk(b"RIFF", &[b"WEBP".as_slice(), canvas, &frame].concat());
                let Err(error) = decode(&file, &Limits { max_pixels: 50_000_000, kept_modes: None }, Vec::new()) else {
                    panic!("decoded")
                };
                assert_eq!(error.reason(), reason, "{error}");
            }
        }
    }
}
