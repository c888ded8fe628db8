//! What a picture is and how much work is in it, told from its header before anything is decoded.
//!
//! Owns a walk over each format's header that takes a few microseconds (tens, of a TIFF with thousands of fields), whatever the
//! file, and no memory; and what a pixel of each kind costs. It judges no picture: one that is damaged or over a limit is refused by the
//! decoders, which read the header again.
//!
//! Invariant: a picture that is decoded is never taken for a smaller one. Of two sizes that a file states the larger counts, and one
//! that hides its size behind more metadata than any encoder writes is taken for the largest there is.

use super::{
    avif, bmp,
    directory::Directory,
    error::ImageFormatName,
    gif::{Frame, NoFrame},
    jpeg::is_arithmetic,
    sniff::sniff,
    webp::frame_size,
};

/// Segments or chunks that are looked at, at most, for the size of a picture: many times what cameras and editors write.
const MAX_STEPS: usize = 256;

/// Fields of a TIFF that are looked at, at most: each takes some nanoseconds. libtiff reads no directory of more.
const MAX_FIELDS: u64 = 4096;

/// Blocks of a GIF, which hold 255 bytes at most, that are passed over on the way to the first frame.
const MAX_BLOCKS: usize = 1024;

/// Bytes between two segments of a JPEG that are passed over. There should be none; some cameras leave a few.
const MAX_STRAY_BYTES: usize = 4096;

// What a pixel costs to decode, in pixels of a baseline JPEG. Each is the ratio of the times that a picture takes in two formats, of
// the fixtures and of what is made of them, one thread on a Xeon. A baseline JPEG takes 3 to 4 ns a pixel at 4:2:0 and twice that
// without subsampling, so no factor is finer than that.

/// 9 to 11 ns; each scan goes over coefficients again. The scans, which lie between the pixels, may be twice as many as encoders make.
const PROGRESSIVE_JPEG: u64 = 3;

/// What arithmetic coding is to Huffman's.
const ARITHMETIC_JPEG: u64 = 4;

/// What four components are to three: none is subsampled, and inks become colours.
const CMYK_JPEG: u64 = 3;

/// 28 ns lossy, 14 to 24 ns lossless.
const WEBP: u64 = 7;

/// 8 to 9 ns.
const GIF: u64 = 3;

/// 3 ns.
const BMP: u64 = 1;

/// Below 1 ns: a copy.
const UNCOMPRESSED_TIFF: u64 = 1;

/// 26 ns for the three samples of RGB.
const LZW_TIFF: u64 = 7;

/// Some 125 ns.
const LZMA_TIFF: u64 = 35;

/// 17 ns.
const ZSTD_TIFF: u64 = 5;

/// What the colours of CIELab cost besides: 30 ns.
const LAB: u64 = 8;

/// As PNG, which inflates as much.
const OTHER_TIFF: u64 = 3;

/// 8 to 10 ns of little data, whatever the picture shows.
const AVIF: u64 = 3;

/// And some 80 ns for each byte of data: 15 ns a pixel at the usual qualities, 50 to 90 at the highest, 150 without loss.
const AVIF_BYTE: u64 = 26;

/// 58 ns.
#[cfg(feature = "heic")]
const HEIC: u64 = 20;

/// 20 ns lossy, more without loss.
#[cfg(feature = "jxl")]
const JPEG_XL: u64 = 10;

/// The work of decoding the picture in `bytes`, in pixels of a baseline JPEG, from 1 (also for what is no picture, which is refused
/// as fast) to `u64::MAX`: a header may claim any size, so whoever sums or compares bounds it by the limit that it knows.
pub fn decode_work(bytes: &[u8]) -> u64 {
    header(bytes)
        .map_or(1, |Header { width, height, cost, .. }| width.saturating_mul(height).saturating_mul(cost).max(1))
}

/// What a picture's header says of it, for those who are told about their pictures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PictureHeader {
    /// Its format.
    pub format: ImageFormatName,
    /// Columns, as stored: before any turning by EXIF.
    pub width: u32,
    /// Rows, as stored.
    pub height: u32,
    /// Bits of a pixel as stored, all channels together; of a palette those of an index.
    pub bit_depth: u32,
}

/// The header of the picture in `bytes`; `None` for what is no picture, and for one whose header is hidden or makes no sense. It may be
/// damaged behind it.
pub fn picture_header(bytes: &[u8]) -> Option<PictureHeader> {
    let format = sniff(bytes).ok()?;
    let Header { width, height, bits, .. } = header(bytes)?;
    let [width, height, bit_depth] = [width, height, bits].map(|number| u32::try_from(number).ok());
    Some(PictureHeader { format, width: width?, height: height?, bit_depth: bit_depth? })
}

/// What a header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Header {
    /// Columns.
    width: u64,
    /// Rows.
    height: u64,
    /// Of a pixel, all channels together.
    bits: u64,
    /// Of a pixel, in pixels of a baseline JPEG.
    cost: u64,
}

impl Header {
    /// Of a picture that hides it.
    const HIDDEN: Self = Self { width: u64::MAX, height: 1, bits: 0, cost: 1 };

    /// Of a picture whose data may take longer than its pixels: half a pixel a byte.
    fn of_data(self, bytes: &[u8]) -> Self {
        let pixels = self.width.saturating_mul(self.height).max(1);
        Self { cost: self.cost.max(bytes.len() as u64 / 2 / pixels), ..self }
    }

    fn new(width: impl Into<u64>, height: impl Into<u64>, bits: impl Into<u64>, cost: u64) -> Self {
        Self { width: width.into(), height: height.into(), bits: bits.into(), cost }
    }
}

/// The header of a picture; `None` where there is none, or none that a decoder would get past.
fn header(bytes: &[u8]) -> Option<Header> {
    match sniff(bytes).ok()? {
        ImageFormatName::Jpeg => jpeg(bytes),
        ImageFormatName::Png => png(bytes),
        ImageFormatName::WebP => webp(bytes),
        ImageFormatName::Gif => gif(bytes),
        ImageFormatName::Bmp => bmp(bytes),
        ImageFormatName::Tiff => tiff(bytes),
        ImageFormatName::Avif => avif(bytes),
        #[cfg(feature = "heic")]
        ImageFormatName::Heic => {
            let super::heic::Announced { width, height, coded } = super::heic::announced(bytes).ok()?;
            let times = coded.div_ceil((u64::from(width) * u64::from(height)).max(1)).max(1);
            Some(Header::new(width, height, 24u32, HEIC.saturating_mul(times)))
        }
        #[cfg(feature = "jxl")]
        ImageFormatName::JpegXl => {
            let (width, height, bits) = super::jxl::announced(bytes)?;
            Some(Header::new(width, height, bits, JPEG_XL))
        }
    }
}

/// `N` bytes from `at` on.
fn bytes_at<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

/// The first frame header. Pixels come after it, so that only segments have to be passed.
fn jpeg(bytes: &[u8]) -> Option<Header> {
    let mut rest = bytes.get(2..)?;
    for _ in 0..MAX_STEPS {
        let near = &rest[..rest.len().min(MAX_STRAY_BYTES)];
        let Some(at) = memchr::memchr(0xff, near) else {
            return (near.len() < rest.len()).then_some(Header::HIDDEN);
        };
        let fill = near[at..].iter().position(|&byte| byte != 0xff);
        let Some(fill) = fill else { return (near.len() < rest.len()).then_some(Header::HIDDEN) };
        let (marker, after) = (near[at + fill], &rest[at + fill + 1..]);
        match marker {
            0x00 | 0x01 | 0xd0..=0xd8 => rest = after,
            // The end, or pixels without a frame.
            0xd9 | 0xda => return None,
            // Frames of every coding; between them lie tables and what is reserved.
            0xc0..=0xcf if !matches!(marker, 0xc4 | 0xc8 | 0xcc) => {
                let coding = if matches!(marker, 0xc0 | 0xc1 | 0xc9) { 1 } else { PROGRESSIVE_JPEG };
                let coding = if is_arithmetic(marker) { coding * ARITHMETIC_JPEG } else { coding };
                let components = bytes_at(after, 7).map_or(0, |[components]: [u8; 1]| components);
                let cost = if components > 3 { coding * CMYK_JPEG } else { coding };
                let [height, width] = [3, 5].map(|at| bytes_at(after, at).map(u16::from_be_bytes));
                let bits = bytes_at(after, 2).map_or(0, |[bits]| u64::from(bits) * u64::from(components));
                return Some(Header::new(width?, height?, bits, cost));
            }
            _ => rest = after.get(usize::from(u16::from_be_bytes(bytes_at(after, 0)?)).max(2)..)?,
        }
    }
    Some(Header::HIDDEN)
}

/// The first chunk is the header. Rows are inflated and unfiltered by the byte: a grey pixel takes 3 to 4 ns, RGB 7 to 9, RGBA of
/// 16 bits 14 to 17.
fn png(bytes: &[u8]) -> Option<Header> {
    let [width, height] = [16, 20].map(|at| bytes_at(bytes, at).map(u32::from_be_bytes));
    let [depth, colour] = bytes_at(bytes, 24)?;
    let channels = match colour {
        2 => 3,
        4 => 2,
        6 => 4,
        _ => 1,
    };
    let pixel_bytes = channels * u64::from(depth).div_ceil(8);
    Some(Header::new(width?, height?, channels * u64::from(depth), pixel_bytes.div_ceil(2)).of_data(bytes))
}

/// The canvas, or the first frame where that is larger: it is decoded before it is found not to fit.
fn webp(bytes: &[u8]) -> Option<Header> {
    let mut rest = bytes.get(12..)?;
    let bits = |alpha| if alpha { 32u32 } else { 24 };
    let mut canvas = Header::new(0u32, 0u32, bits(false), WEBP);
    for _ in 0..MAX_STEPS {
        let Some((name, body)) = rest.split_first_chunk::<4>() else { return Some(canvas) };
        let Some(length) = bytes_at(body, 0).map(u32::from_le_bytes) else { return Some(canvas) };
        let body = &body[4..];
        match name {
            b"VP8X" => {
                let [width, height] = [4, 7].map(|at| bytes_at(body, at));
                let side = |[a, b, c]: [u8; 3]| u32::from_le_bytes([a, b, c, 0]) + 1;
                let [flags] = bytes_at(body, 0)?;
                canvas = Header::new(side(width?), side(height?), bits(flags & 0x10 != 0), WEBP);
            }
            // A frame's own chunks follow its 16 bytes.
            b"ANMF" => {
                rest = body.get(16..)?;
                continue;
            }
            b"VP8 " | b"VP8L" => {
                let (width, height) = frame_size(name == b"VP8L", body)?;
                // A lossless frame says itself whether it has alpha; beside a lossy one that is a chunk of its own.
                let alpha = canvas.bits == 32 || name == b"VP8L" && body.get(4).is_some_and(|flags| flags & 0x10 != 0);
                let frame = Header::new(width, height, bits(alpha), WEBP);
                let larger = frame.width * frame.height > canvas.width * canvas.height;
                return Some(if larger { frame } else { canvas });
            }
            _ => {}
        }
        let length = length as usize;
        let Some(next) = length.checked_add(length % 2).and_then(|length| body.get(length..)) else {
            return Some(canvas);
        };
        rest = next;
    }
    Some(Header::HIDDEN)
}

/// The logical screen, which the first frame enlarges where it sticks out.
fn gif(bytes: &[u8]) -> Option<Header> {
    match Frame::first(bytes, MAX_BLOCKS) {
        Ok(frame) => {
            let (width, height) = frame.canvas();
            Some(Header::new(width, height, frame.bits, GIF))
        }
        Err(NoFrame::TooFar) => Some(Header::HIDDEN),
        Err(NoFrame::Ended | NoFrame::Damaged) => None,
    }
}

/// The information header.
fn bmp(bytes: &[u8]) -> Option<Header> {
    let bmp::Header { width, height, bits, .. } = bmp::Header::parse(bytes).ok()?;
    Some(Header::new(width, height, bits, BMP))
}

/// The first directory, as the decoder reads it.
fn tiff(bytes: &[u8]) -> Option<Header> {
    const WIDTH: u16 = 256;
    const HEIGHT: u16 = 257;
    const BITS: u16 = 258;
    const COMPRESSION: u16 = 259;
    const PHOTOMETRIC: u16 = 262;
    const SAMPLES: u16 = 277;
    let directory = Directory::first(bytes)?;
    if directory.count() > MAX_FIELDS {
        return Some(Header::HIDDEN);
    }
    let (mut width, mut height, mut cost) = (0, 0, UNCOMPRESSED_TIFF);
    let (mut bits, mut samples, mut lab) = (1, 1u64, 0);
    for field in directory.fields() {
        // Of several values the first counts.
        let Some(value) = field.integer(0) else { continue };
        match field.tag {
            WIDTH => width = value,
            HEIGHT => height = value,
            BITS => bits = value,
            SAMPLES => samples = value,
            PHOTOMETRIC if value == 8 => lab = LAB,
            COMPRESSION => {
                cost = match value {
                    1 => UNCOMPRESSED_TIFF,
                    5 => LZW_TIFF,
                    34925 => LZMA_TIFF,
                    50000 => ZSTD_TIFF,
                    _ => OTHER_TIFF,
                }
            }
            _ => {}
        }
    }
    let bits = bits.saturating_mul(samples);
    // What is said above is of three bytes.
    let cost = cost.saturating_mul(bits.div_ceil(24).max(1)).saturating_add(lab);
    Some(Header::new(width, height, bits, cost).of_data(bytes))
}

/// The boxes say it all, but for what a pixel costs.
fn avif(bytes: &[u8]) -> Option<Header> {
    let avif::Announced { width, height, bits, times } = avif::announced(bytes)?;
    let pixels = u64::from(width).saturating_mul(height.into()).max(1);
    let of_data = (bytes.len() as u64).saturating_mul(AVIF_BYTE).div_ceil(pixels);
    Some(Header::new(width, height, bits, AVIF.saturating_mul(times).saturating_add(of_data)))
}

#[cfg(test)]
mod tests;
