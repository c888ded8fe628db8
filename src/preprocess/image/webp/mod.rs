//! WebP: stills, and of an animation the first frame as libwebp's animation decoder shows it.
//!
//! Owns decoding one frame and putting it in its place; `container` finds it. A frame is decoded as a still of its own: Pillow drops
//! alpha without compositing, so the colours under transparent pixels count, and a decoder that blends the frame onto a canvas loses
//! them. `lossless` decodes lossless streams, `alpha` the chunk beside a lossy frame. The decoder of lossy frames is given no more
//! than the frame, since it refuses files for chunks that are missing or not announced.

mod alpha;
mod container;
mod lossless;
mod refusal;

use std::io::{Cursor, ErrorKind};

pub(super) use container::frame_size;
use container::{Container, FORMAT, Frame};
use image_webp::{DecodingError, WebPDecoder};
use lossless::Picture;
use refusal::refuse_lossless;

use super::{
    Decoded, Limits, RgbImage,
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
    let keeps_alpha = limits.kept_modes.is_some();
    let (data, alpha) = if frame.lossless {
        lossless(frame, keeps_alpha, buffer)?
    } else {
        let data = lossy(frame, buffer)?;
        let plane = frame.alpha.map(|chunk| alpha::decode(chunk, (width, height), keeps_alpha)).transpose()?;
        (data, plane.filter(|_| keeps_alpha).map(|plane| thrice(&plane)).transpose()?)
    };
    Ok(RgbImage::new(width, height, data).in_mode(alpha.map_or(Mode::Plain, mode::of_alpha)))
}

/// Each value three times.
fn thrice(plane: &[u8]) -> Result<Vec<u8>, OutOfMemory> {
    let mut values = memory::room(plane.len() * 3)?;
    values.extend(plane.iter().flat_map(|&value| [value; 3]));
    Ok(values)
}

/// The colours of a lossless frame, and its alpha, three times each, where that is kept.
fn lossless(frame: &Frame, keeps_alpha: bool, buffer: Vec<u8>) -> Result<(Vec<u8>, Option<Vec<u8>>), ImageError> {
    let picture = Picture::decode(frame.image, (frame.width, frame.height)).map_err(refuse_lossless)?;
    let row_bytes = frame.width as usize * 3;
    let length = row_bytes * frame.height as usize;
    let mut alphas = if keeps_alpha { Some(memory::room(length)?) } else { None };
    let mut data = memory::any(buffer, length)?;
    let mut rows = data.chunks_exact_mut(row_bytes);
    let put = |pixels: &[u32]| {
        let Some(row) = rows.next() else { return };
        for (place, &pixel) in row.as_chunks_mut().0.iter_mut().zip(pixels) {
            let [_, colours @ ..] = pixel.to_be_bytes();
            *place = colours;
        }
        if let Some(alphas) = &mut alphas {
            alphas.extend(pixels.iter().flat_map(|pixel| [(pixel >> 24) as u8; 3]));
        }
    };
    picture.for_each_row(put).map_err(refuse_lossless)?;
    Ok((data, alphas))
}

/// The colours of a lossy frame.
fn lossy(frame: &Frame, buffer: Vec<u8>) -> Result<Vec<u8>, ImageError> {
    let file = file(frame.image)?;
    let mut decoder = WebPDecoder::new(Cursor::new(&file[..])).map_err(refuse)?;
    // What the decoder takes of its own, by its source: the planes, in whole blocks.
    let blocks = u64::from(frame.width.next_multiple_of(16)) * u64::from(frame.height.next_multiple_of(16));
    let besides = blocks * 2 + frame.image.len() as u64;
    // Of the size that has been checked, or it is not decoded.
    let length = decoder.output_buffer_size().filter(|_| decoder.dimensions() == (frame.width, frame.height));
    let other_size = || ImageError::Corrupt { format: FORMAT, detail: "a frame of another size".into() };
    let mut data = memory::zeroed(buffer, length.ok_or_else(other_size)?)?;
    memory::ask(besides)?;
    decoder.set_memory_limit(besides as usize + MAX_OVERHEAD);
    decoder.read_image(&mut data).map_err(refuse)?;
    Ok(data)
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

/// A lossy frame as a file of its own.
fn file(image: &[u8]) -> Result<Vec<u8>, OutOfMemory> {
    let padding = &[0][..image.len() % 2];
    let number = |length: usize| (length as u32).to_le_bytes();
    let length = image.len() + padding.len();
    let mut file = memory::room(20 + length)?;
    for part in [b"RIFF", &number(12 + length), b"WEBP", b"VP8 ", &number(image.len())] {
        file.extend_from_slice(part);
    }
    file.extend_from_slice(image);
    file.extend_from_slice(padding);
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
