//! WebP: stills, and of an animation the first frame as libwebp's animation decoder shows it.
//!
//! Owns the walk over the RIFF chunks: whether all of the file is there, EXIF and XMP, and the first frame. That frame is decoded
//! as a still of its own: Pillow drops alpha without compositing, so the colours under transparent pixels count, and a decoder
//! that blends the frame onto a canvas loses them.

use std::io::Cursor;

use image::codecs::webp::WebPDecoder;

use super::{
    Decoded, Limits, RgbImage,
    error::{ImageError, ImageFormatName},
    orientation::Orientation,
    raster,
};

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
        return raster::read(FORMAT, decoder, limits, orientation, buffer);
    }
    let (width, height) = image::ImageDecoder::dimensions(&decoder);
    limits.check(FORMAT, width.into(), height.into())?;
    let damaged = || ImageError::Corrupt { format: FORMAT, detail: "no whole first frame on the canvas".into() };
    let frame = Frame::first(chunks).ok_or_else(damaged)?;
    let still = frame.still();
    let Decoded { image: picture, .. } = raster::read(FORMAT, open(&still)?, limits, orientation, buffer)?;
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
    let mut data = vec![0; row_bytes * height as usize];
    let rows = data.chunks_exact_mut(row_bytes).skip(frame.top as usize);
    for (row, line) in rows.zip(picture.as_bytes().chunks_exact(frame_bytes)) {
        row[frame.left as usize * 3..][..frame_bytes].copy_from_slice(line);
    }
    Ok(Decoded { image: RgbImage::new(width, height, data), orientation })
}

fn open(bytes: &[u8]) -> Result<WebPDecoder<Cursor<&[u8]>>, ImageError> {
    WebPDecoder::new(Cursor::new(bytes)).map_err(|error| raster::refuse(FORMAT, error))
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
    fn still(&self) -> Vec<u8> {
        const ALPHA: u8 = 0x10;
        let header = [b"VP8X\x0a\0\0\0".as_slice(), &[ALPHA, 0, 0, 0], self.sides].concat();
        let header = if self.chunks.starts_with(b"ALPH") { header } else { Vec::new() };
        let length = (4 + header.len() + self.chunks.len()) as u32;
        [b"RIFF".as_slice(), &length.to_le_bytes(), b"WEBP", &header, self.chunks].concat()
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
