//! Pictures of any size, made of one photograph or of nothing: ordinary ones, and of each format one that takes the most memory.
//!
//! Owns their bytes. Does not send them.

use std::io::Write as _;

use flate2::{Compression, write::ZlibEncoder};

use super::bodies;
use crate::Result;

/// The side of the largest square that `limits.max_pixels` lets in by default, 50 megapixels.
const SIDE: usize = 7071;

/// A JPEG of `width x height` pixels, filled with copies of the one in `photograph`.
pub(crate) fn jpeg(photograph: &[u8], width: usize, height: usize) -> Result<Vec<u8>> {
    compress(photograph, width, height, turbojpeg::Subsamp::Sub2x2, false)
}

/// Pictures of 50 megapixels whose decoders need the most, by format, each in a file far below the limit of a body.
pub(crate) fn worst(photograph: &[u8]) -> Result<Vec<(&'static str, &'static str, Vec<u8>)>> {
    Ok(vec![
        ("JPEG", "image/jpeg", compress(photograph, SIDE, SIDE, turbojpeg::Subsamp::None, false)?),
        ("progressive JPEG", "image/jpeg", compress(photograph, SIDE, SIDE, turbojpeg::Subsamp::None, true)?),
        ("PNG of 16 bits", "image/png", png()?),
        ("lossless WebP", "image/webp", bodies::webp(SIDE as u32, 7)),
        ("GIF", "image/gif", gif()?),
        ("TIFF of 16 bits", "image/tiff", tiff()?),
    ])
}

fn compress(
    photograph: &[u8],
    width: usize,
    height: usize,
    subsampling: turbojpeg::Subsamp,
    progressive: bool,
) -> Result<Vec<u8>> {
    let format = turbojpeg::PixelFormat::RGB;
    let tile = turbojpeg::decompress(photograph, format)?;
    let row =
        |y: usize| tile.pixels[y % tile.height * tile.pitch..].iter().take(tile.width * 3).cycle().take(width * 3);
    let mut pixels: Vec<u8> = Vec::with_capacity(width * height * 3);
    (0..height).for_each(|y| pixels.extend(row(y)));
    let mut compressor = turbojpeg::Compressor::new()?;
    // Of 50 megapixels, a file below the limit of a body.
    compressor.set_quality(if width * height > 20_000_000 { 30 } else { 90 })?;
    compressor.set_subsamp(subsampling)?;
    compressor.set_progressive(progressive)?;
    Ok(compressor.compress_to_vec(turbojpeg::Image { pixels: &pixels[..], width, pitch: width * 3, height, format })?)
}

/// Of 8 bytes a pixel.
fn png() -> Result<Vec<u8>> {
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, SIDE as u32, SIDE as u32);
    encoder.set_color(png::ColorType::Rgba);
    encoder.set_depth(png::BitDepth::Sixteen);
    encoder.set_compression(png::Compression::Fast);
    let mut writer = encoder.write_header()?;
    let mut stream = writer.stream_writer()?;
    let row = vec![0x40; SIDE * 8];
    for _ in 0..SIDE {
        stream.write_all(&row)?;
    }
    stream.finish()?;
    drop(writer);
    Ok(file)
}

fn gif() -> Result<Vec<u8>> {
    let mut file = Vec::new();
    let palette = [10, 20, 30, 200, 210, 220];
    let mut encoder = gif::Encoder::new(&mut file, SIDE as u16, SIDE as u16, &palette)?;
    let pixels: Vec<u8> = (0..SIDE * SIDE).map(|at| (at / 64 % 2) as u8).collect();
    encoder.write_frame(&gif::Frame::from_indexed_pixels(SIDE as u16, SIDE as u16, pixels, None))?;
    drop(encoder);
    Ok(file)
}

/// Of 8 bytes a pixel, in one deflated strip.
fn tiff() -> Result<Vec<u8>> {
    let mut strip = ZlibEncoder::new(Vec::new(), Compression::fast());
    let row = vec![0x40; SIDE * 8];
    for _ in 0..SIDE {
        strip.write_all(&row)?;
    }
    let strip = strip.finish()?;
    let (short, long, side) = (3_u16, 4_u16, SIDE as u32);
    let bits_at = 8 + strip.len() as u32;
    let directory_at = bits_at + 8;
    let entries = [
        (256, long, 1, side),
        (257, long, 1, side),
        (258, short, 4, bits_at),
        // Deflate, RGB.
        (259, short, 1, 8),
        (262, short, 1, 2),
        (273, long, 1, 8),
        (277, short, 1, 4),
        (278, long, 1, side),
        (279, long, 1, strip.len() as u32),
        // Alpha that the colours are not multiplied by.
        (338, short, 1, 2),
    ];
    let mut file = [&b"II*\0"[..], &directory_at.to_le_bytes(), &strip, &[16, 0, 16, 0, 16, 0, 16, 0]].concat();
    file.extend_from_slice(&(entries.len() as u16).to_le_bytes());
    for (tag, kind, count, value) in entries {
        let (tag, count): (u16, u32) = (tag, count);
        file.extend_from_slice(&tag.to_le_bytes());
        file.extend_from_slice(&kind.to_le_bytes());
        file.extend_from_slice(&count.to_le_bytes());
        file.extend_from_slice(&value.to_le_bytes());
    }
    file.extend_from_slice(&[0; 4]);
    Ok(file)
}
