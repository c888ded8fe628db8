//! WebP: stills, and of an animation the first frame as libwebp's animation decoder shows it.
//!
//! Owns the walk over the RIFF chunks: whether all of the file is there, EXIF and XMP, and the first frame. That frame is decoded
//! as a still of its own: Pillow drops alpha without compositing, so the colours under transparent pixels count, and a decoder
//! that blends the frame onto a canvas loses them.

use std::io::Cursor;

use image::{ColorType, ImageDecoder, codecs::webp::WebPDecoder};

use super::{
    Decoded, Limits, RgbImage,
    error::{ImageError, ImageFormatName},
    mode::Mode,
    orientation::Orientation,
    raster,
};
use crate::preprocess::memory::{self, OutOfMemory};

const FORMAT: ImageFormatName = ImageFormatName::WebP;

/// Decodes a WebP; of an animation the first frame.
pub(super) fn decode(bytes: &[u8], limits: &Limits, buffer: Vec<u8>) -> Result<Decoded, ImageError> {
    // The decoder reads as far as it needs; Pillow wants all that the container announces.
    let announced = bytes.get(4..).and_then(<[u8]>::first_chunk).map_or(u32::MAX, |length| u32::from_le_bytes(*length));
    if (bytes.len() as u64) < u64::from(announced) + 8 {
        return Err(ImageError::Truncated { format: FORMAT });
    }
    let chunks = bytes.get(12..).unwrap_or_default();
    let orientation = Orientation::find(chunk(chunks, b"EXIF"), chunk(chunks, b"XMP "));
    let decoder = open(bytes)?;
    if !decoder.has_animation() {
        return still(decoder, chunks, limits, orientation, buffer);
    }
    let (width, height) = decoder.dimensions();
    limits.check(FORMAT, width.into(), height.into())?;
    let damaged = || ImageError::Corrupt { format: FORMAT, detail: "no whole first frame on the canvas".into() };
    let frame = Frame::first(chunks).ok_or_else(damaged)?;
    let file = frame.file()?;
    let Decoded { image: picture, .. } = still(open(&file)?, &file[12..], limits, orientation, buffer)?;
    let (right, bottom) = (frame.left + u64::from(picture.width()), frame.top + u64::from(picture.height()));
    let fits = right <= width.into() && bottom <= height.into();
    if !fits {
        return Err(damaged());
    }
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
    if limits.kept_modes.is_some() && decoder.color_type() == ColorType::Rgba8 {
        // Where the frame is not, there is nothing to be seen.
        let mut alphas = memory::zeroed(Vec::new(), data.len())?;
        let opaque = vec![255; frame_bytes];
        match picture.mode.fourth() {
            Some(plane) => put(&mut alphas, plane),
            None => {
                for row in alphas.chunks_exact_mut(row_bytes).skip(frame.top as usize).take(picture.height() as usize) {
                    row[frame.left as usize * 3..][..frame_bytes].copy_from_slice(&opaque);
                }
            }
        }
        mode = Mode::Alpha(alphas);
    }
    Ok(Decoded { image: RgbImage::new(width, height, data).in_mode(mode), orientation })
}

fn open(bytes: &[u8]) -> Result<WebPDecoder<Cursor<&[u8]>>, ImageError> {
    WebPDecoder::new(Cursor::new(bytes)).map_err(|error| raster::refuse(FORMAT, error))
}

/// Decodes a still of those chunks.
fn still(
    decoder: WebPDecoder<Cursor<&[u8]>>,
    chunks: &[u8],
    limits: &Limits,
    orientation: Orientation,
    buffer: Vec<u8>,
) -> Result<Decoded, ImageError> {
    let lossless = chunk(chunks, b"VP8L");
    let frame = lossless.or_else(|| chunk(chunks, b"VP8 ")).unwrap_or_default();
    // The decoder finds that a frame is not of the size that the file announces when it has decoded it.
    let headless = || ImageError::Corrupt { format: FORMAT, detail: "a frame without a header".into() };
    let (width, height) = frame_size(lossless.is_some(), frame).ok_or_else(headless)?;
    limits.check(FORMAT, width.into(), height.into())?;
    // What the decoder takes of its own, by its source: lossless, the pixels with alpha where the answer has none, and transforms;
    // lossy, the planes, in whole blocks, and alpha as a lossless picture of one channel. Not in it: the code tables of a lossless
    // picture, which are small unless it is made to have many.
    let pixel_bytes = match (lossless.is_some(), decoder.color_type()) {
        (true, ColorType::Rgb8) => 5,
        (true, _) => 1,
        (false, ColorType::Rgb8) => 2,
        (false, _) => 7,
    };
    let blocks = u64::from(width.next_multiple_of(16)) * u64::from(height.next_multiple_of(16));
    let besides = blocks * pixel_bytes + frame.len() as u64;
    raster::read(FORMAT, decoder, besides, limits, orientation, buffer)
}

/// Width and height of a frame, by its own header.
pub(super) fn frame_size(lossless: bool, frame: &[u8]) -> Option<(u16, u16)> {
    if lossless {
        let sides = u32::from_le_bytes(*frame.get(1..)?.first_chunk()?);
        return Some(((sides & 0x3fff) as u16 + 1, (sides >> 14 & 0x3fff) as u16 + 1));
    }
    let [a, b, c, d] = *frame.get(6..)?.first_chunk()?;
    Some((u16::from_le_bytes([a, b]) & 0x3fff, u16::from_le_bytes([c, d]) & 0x3fff))
}

/// One frame of an animation.
struct Frame<'a> {
    left: u64,
    top: u64,
    /// Its width and height less one, three bytes each, as both headers have them.
    sides: &'a [u8],
    /// Its own chunks.
    chunks: &'a [u8],
}

impl<'a> Frame<'a> {
    fn first(chunks: &'a [u8]) -> Option<Self> {
        let (header, chunks) = chunk(chunks, b"ANMF")?.split_at_checked(16)?;
        let (offsets, rest) = header.split_at(6);
        let [a, b, c, d, e, f] = *offsets.first_chunk()?;
        // Offsets are stored halved.
        let offset = |bytes: [u8; 3]| u64::from(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], 0])) * 2;
        Some(Self { left: offset([a, b, c]), top: offset([d, e, f]), sides: &rest[..6], chunks })
    }

    /// The frame as a file of its own: with a header that announces alpha, where it has a chunk of that.
    fn file(&self) -> Result<Vec<u8>, OutOfMemory> {
        const ALPHA: u8 = 0x10;
        let header = [b"VP8X\x0a\0\0\0".as_slice(), &[ALPHA, 0, 0, 0], self.sides].concat();
        let header = if self.chunks.starts_with(b"ALPH") { header } else { Vec::new() };
        let length = 4 + header.len() + self.chunks.len();
        let mut file = memory::room(8 + length)?;
        for part in [b"RIFF".as_slice(), &(length as u32).to_le_bytes(), b"WEBP", &header, self.chunks] {
            file.extend_from_slice(part);
        }
        Ok(file)
    }
}

/// The body of the first chunk of that name.
fn chunk<'a>(mut chunks: &'a [u8], name: &[u8; 4]) -> Option<&'a [u8]> {
    loop {
        let (head, body) = chunks.split_first_chunk::<8>()?;
        let [a, b, c, d, length @ ..] = *head;
        let length = u32::from_le_bytes(length) as usize;
        if [a, b, c, d] == *name {
            return body.get(..length);
        }
        // Chunks are padded to an even length.
        chunks = body.get(length.checked_add(length % 2)?..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_larger_than_its_canvas_counts_against_the_limit_before_it_is_decoded() {
        let chunk = |name: &[u8; 4], body: &[u8]| [&name[..], &(body.len() as u32).to_le_bytes(), body].concat();
        // A canvas of one pixel, and frames of 16,000 x 16,000.
        let canvas = chunk(b"VP8X", &[0; 10]);
        let lossy = chunk(b"VP8 ", b"\0\0\0\x9d\x01\x2a\x80\x3e\x80\x3e\0\0");
        let lossless = chunk(b"VP8L", &[&b"\x2f"[..], &(15_999u32 | 15_999 << 14).to_le_bytes(), &[0; 5]].concat());
        for frame in [lossy, lossless] {
            let file = chunk(b"RIFF", &[b"WEBP".as_slice(), &canvas, &frame].concat());
            let Err(error) = decode(&file, &Limits { max_pixels: 50_000_000, kept_modes: None }, Vec::new()) else {
                panic!("decoded")
            };
            assert_eq!(error.reason(), "too_many_pixels", "{error}");
        }
    }
}
