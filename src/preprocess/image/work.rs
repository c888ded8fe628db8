//! How much work is in a picture, told from its header before anything is decoded.
//!
//! Owns a walk over each format's header that takes a few microseconds, whatever the file, and no memory; and what a pixel of each
//! kind costs. It judges no picture: one that is damaged or over a limit is refused by the decoders, which read the header again.
//!
//! Invariant: a picture that is decoded is never taken for a smaller one. Of two sizes that a file states the larger counts, and one
//! that hides its size behind more metadata than any encoder writes is taken for the largest there is.

use super::{error::ImageFormatName, sniff::sniff, webp::frame_size};

/// Segments, chunks or tags that are looked at, at most, for the size of a picture: many times what cameras and editors write.
const MAX_STEPS: usize = 256;

/// Sub-blocks of a GIF, which hold 255 bytes at most, that are passed over on the way to the first frame.
const MAX_SUB_BLOCKS: usize = 1024;

/// Bytes between two segments of a JPEG that are passed over. There should be none; some cameras leave a few.
const MAX_STRAY_BYTES: usize = 4096;

// What a pixel costs to decode, in pixels of a baseline JPEG. Each is the ratio of the times that a picture takes in two formats, of
// the fixtures and of what is made of them, one thread on a Xeon. A baseline JPEG takes 3 to 4 ns a pixel at 4:2:0 and twice that
// without subsampling, so no factor is finer than that.

/// 9 to 11 ns; each scan goes over all coefficients.
const PROGRESSIVE_JPEG: u64 = 3;

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

/// As PNG, which inflates as much.
const OTHER_TIFF: u64 = 3;

/// The work of decoding the picture in `bytes`, in pixels of a baseline JPEG, from 1 (also for what is no picture, which is refused
/// as fast) to `u64::MAX`: a header may claim any size, so whoever sums or compares bounds it by the limit that it knows.
pub fn decode_work(bytes: &[u8]) -> u64 {
    header(bytes).map_or(1, |Header { width, height, cost }| width.saturating_mul(height).saturating_mul(cost).max(1))
}

/// Columns and rows of the picture in `bytes` as they are stored, told from its header; `None` where that does not say.
pub fn stored_size(bytes: &[u8]) -> Option<(u32, u32)> {
    let Header { width, height, .. } = header(bytes)?;
    let side = |pixels: u64| u32::try_from(pixels).ok().filter(|&pixels| pixels > 0);
    Some((side(width)?, side(height)?))
}

/// What a header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Header {
    /// Columns.
    width: u64,
    /// Rows.
    height: u64,
    /// Of a pixel, in pixels of a baseline JPEG.
    cost: u64,
}

impl Header {
    /// Of a picture that hides it.
    const HIDDEN: Self = Self { width: u64::MAX, height: 1, cost: 1 };

    fn new(width: impl Into<u64>, height: impl Into<u64>, cost: u64) -> Self {
        Self { width: width.into(), height: height.into(), cost }
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
                let cost = if matches!(marker, 0xc0 | 0xc1) { 1 } else { PROGRESSIVE_JPEG };
                let [height, width] = [3, 5].map(|at| bytes_at(after, at).map(u16::from_be_bytes));
                return Some(Header::new(width?, height?, cost));
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
    Some(Header::new(width?, height?, pixel_bytes.div_ceil(2)))
}

/// The canvas, or the first frame where that is larger: it is decoded before it is found not to fit.
fn webp(bytes: &[u8]) -> Option<Header> {
    let mut rest = bytes.get(12..)?;
    let mut canvas = Header::new(0u32, 0u32, WEBP);
    for _ in 0..MAX_STEPS {
        let Some((name, body)) = rest.split_first_chunk::<4>() else { return Some(canvas) };
        let Some(length) = bytes_at(body, 0).map(u32::from_le_bytes) else { return Some(canvas) };
        let body = &body[4..];
        match name {
            b"VP8X" => {
                let [width, height] = [4, 7].map(|at| bytes_at(body, at));
                let side = |[a, b, c]: [u8; 3]| u32::from_le_bytes([a, b, c, 0]) + 1;
                canvas = Header::new(side(width?), side(height?), WEBP);
            }
            // A frame's own chunks follow its 16 bytes.
            b"ANMF" => {
                rest = body.get(16..)?;
                continue;
            }
            b"VP8 " | b"VP8L" => {
                let (width, height) = frame_size(name == b"VP8L", body)?;
                let frame = Header::new(width, height, WEBP);
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
    let u16_at = |at| bytes_at(bytes, at).map(u16::from_le_bytes).map(usize::from);
    let (width, height) = (u16_at(6)?, u16_at(8)?);
    let [flags] = bytes_at(bytes, 10)?;
    let palette = if flags & 0x80 == 0 { 0 } else { 3 << ((flags & 7) + 1) };
    let mut at = 13 + palette;
    let mut sub_blocks = 0;
    loop {
        at = match bytes.get(at)? {
            0x2c => {
                let right = u16_at(at + 1)? + u16_at(at + 5)?;
                let bottom = u16_at(at + 3)? + u16_at(at + 7)?;
                return Some(Header::new(width.max(right) as u64, height.max(bottom) as u64, GIF));
            }
            0x3b => return None,
            // An extension and its label, or something that the decoder passes over likewise.
            0x21 => at + 2,
            _ => at + 1,
        };
        loop {
            sub_blocks += 1;
            if sub_blocks > MAX_SUB_BLOCKS {
                return Some(Header::HIDDEN);
            }
            let length = usize::from(*bytes.get(at)?);
            at += 1 + length;
            if length == 0 {
                break;
            }
        }
    }
}

/// The information header; rows stored from the top down have a negative height.
fn bmp(bytes: &[u8]) -> Option<Header> {
    const CORE: u32 = 12;
    if bytes_at(bytes, 14).map(u32::from_le_bytes)? == CORE {
        let [width, height] = [18, 20].map(|at| bytes_at(bytes, at).map(u16::from_le_bytes));
        return Some(Header::new(width?, height?, BMP));
    }
    let [width, height] = [18, 22].map(|at| bytes_at(bytes, at).map(i32::from_le_bytes));
    Some(Header::new(width?.max(0).unsigned_abs(), height?.unsigned_abs(), BMP))
}

/// The first directory.
fn tiff(bytes: &[u8]) -> Option<Header> {
    const WIDTH: u64 = 256;
    const HEIGHT: u64 = 257;
    const COMPRESSION: u64 = 259;
    let number = |at: usize, length: usize| {
        let number = bytes.get(at..at.checked_add(length)?)?;
        let add = |number: u64, &byte: &u8| number << 8 | u64::from(byte);
        Some(if bytes[0] == b'M' { number.iter().fold(0, add) } else { number.iter().rev().fold(0, add) })
    };
    // Of both kinds of file: how long the number of entries, an entry, and an offset are, and where the first directory's is.
    let (count_bytes, entry_bytes, offset_bytes, first) =
        if number(2, 2)? == 43 { (8, 20, 8, 8) } else { (2, 12, 4, 4) };
    let directory = usize::try_from(number(first, offset_bytes)?).ok()?;
    let entries = usize::try_from(number(directory, count_bytes)?).ok()?;
    let (mut width, mut height, mut cost) = (0, 0, UNCOMPRESSED_TIFF);
    let mut at = directory.checked_add(count_bytes)?;
    for _ in 0..entries.min(MAX_STEPS) {
        let (Some(tag), Some(kind)) = (number(at, 2), number(at.saturating_add(2), 2)) else { break };
        let length = match kind {
            // BYTE, SHORT, LONG and IFD, LONG8 and IFD8
            1 => 1,
            3 => 2,
            4 | 13 => 4,
            16 | 18 => 8,
            _ => 0,
        };
        // What is longer than its field lies elsewhere.
        let field = at.saturating_add(entry_bytes - offset_bytes);
        let place = if length > offset_bytes { number(field, offset_bytes)? as usize } else { field };
        let value = number(place, length).unwrap_or(0);
        match tag {
            WIDTH => width = value.max(width),
            HEIGHT => height = value.max(height),
            COMPRESSION => {
                cost = match value {
                    1 => UNCOMPRESSED_TIFF,
                    5 => LZW_TIFF,
                    _ => OTHER_TIFF,
                }
            }
            _ => {}
        }
        at = at.saturating_add(entry_bytes);
    }
    let unseen = entries > MAX_STEPS && (width == 0 || height == 0);
    Some(if unseen { Header::HIDDEN } else { Header::new(width, height, cost) })
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use proptest::prelude::*;

    use super::*;
    use crate::{
        model::preprocessor::PreprocessorConfig,
        preprocess::image::{ImageOptions, ImageProcessor},
    };

    /// Every fixture picture.
    fn pictures() -> Vec<(String, Vec<u8>)> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/images");
        let read = |entry: std::io::Result<fs::DirEntry>| {
            let entry = entry.expect("a fixture");
            (entry.file_name().into_string().expect("UTF-8"), fs::read(entry.path()).expect("a fixture"))
        };
        fs::read_dir(folder).expect("the fixtures").map(read).collect()
    }

    fn picture(name: &str) -> Vec<u8> {
        pictures().into_iter().find(|(other, _)| other == name).expect("a fixture").1
    }

    fn sides(bytes: &[u8]) -> (u64, u64) {
        header(bytes).map_or((0, 0), |header| (header.width, header.height))
    }

    #[test]
    fn the_sides_of_every_fixture_are_those_that_are_decoded() {
        let options = ImageOptions { exif_orientation: false, fast_decode: false, max_pixels: 50_000_000 };
        let config = PreprocessorConfig::from_json("{}").expect("valid");
        let mut processor = ImageProcessor::new(&config, options).expect("supported");
        let pictures = pictures();
        assert!(pictures.len() >= 36, "the fixtures are whole");
        for (name, bytes) in pictures {
            let image = processor.decode(&bytes).expect("a picture");
            assert_eq!(sides(&bytes), (image.width().into(), image.height().into()), "{name}");
            assert_eq!(stored_size(&bytes), Some((image.width(), image.height())), "{name}");
        }
    }

    #[test]
    fn a_pixel_of_each_kind_has_its_cost() {
        for (name, cost) in [
            ("cat_420.jpg", 1),
            ("coffee_progressive.jpg", 3),
            ("camera_gray.png", 1),
            ("cat_palette.png", 1),
            ("astronaut.png", 2),
            ("logo_rgba.png", 2),
            ("cat_lossy.webp", 7),
            ("cat_lossless.webp", 7),
            ("animated.gif", 3),
            ("cat.bmp", 1),
            ("astronaut_lzw.tiff", 7),
        ] {
            let bytes = picture(name);
            let (width, height) = sides(&bytes);
            assert_eq!(decode_work(&bytes), width * height * cost, "{name}");
        }
    }

    #[test]
    fn what_is_no_picture_or_ends_within_its_header_is_the_least_work() {
        for bytes in [b"".as_slice(), b"hello", b"\xff\xd8\xff", b"GIF89a", b"%PDF-1.7", b"MM\0*\xff\xff\xff\xff"] {
            assert_eq!((decode_work(bytes), stored_size(bytes)), (1, None), "{bytes:?}");
        }
        for name in ["cat_420.jpg", "astronaut.png", "cat.bmp", "animated.gif", "cat_lossy.webp"] {
            assert_eq!(decode_work(&picture(name)[..15]), 1, "{name}");
        }
    }

    #[test]
    fn a_header_that_claims_the_most_is_the_most_work() {
        let png = [b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR".as_slice(), &[0xff; 8], &[16, 6]].concat();
        assert_eq!(decode_work(&png), u64::MAX);
        let big_entry = |tag: u8| [&[0, tag, 0, 16, 0, 0, 0, 0, 0, 0, 0, 1][..], &[0xff; 8]].concat();
        let entries = [vec![0, 0, 0, 0, 0, 0, 0, 2], big_entry(0), big_entry(1)].concat();
        let mut tiff = [b"MM\0+\0\x08\0\0\0\0\0\0\0\0\0\x10".as_slice(), &entries].concat();
        // Tags 256 and 257.
        (tiff[24], tiff[44]) = (1, 1);
        assert_eq!(decode_work(&tiff), u64::MAX);
    }

    #[test]
    fn tiffs_of_both_byte_orders_and_both_sizes_are_read() {
        let entries = |order: fn(u64, usize) -> Vec<u8>, big: bool| {
            let (count, offset) = if big { (8, 8) } else { (2, 4) };
            let entry = |tag, kind, length, value| {
                let mut entry = [order(tag, 2), order(kind, 2), order(1, offset), order(value, length)].concat();
                entry.resize(4 + 2 * offset, 0);
                entry
            };
            // SHORT and LONG, among others.
            let all = [entry(254, 4, 4, 9), entry(256, 3, 2, 640), entry(257, 4, 4, 480), entry(259, 3, 2, 5)];
            [order(4, count), all.concat()].concat()
        };
        let little: fn(u64, usize) -> Vec<u8> = |value, length| value.to_le_bytes()[..length].to_vec();
        let large: fn(u64, usize) -> Vec<u8> = |value, length| value.to_be_bytes()[8 - length..].to_vec();
        for (magic, order) in [(b"II", little), (b"MM", large)] {
            let classic = [&magic[..], &order(42, 2), &order(8, 4), &entries(order, false)].concat();
            assert_eq!(decode_work(&classic), 640 * 480 * LZW_TIFF);
            let version = [order(43, 2), order(8, 2), order(0, 2), order(16, 8)].concat();
            let big = [&magic[..], &version, &entries(order, true)].concat();
            assert_eq!(decode_work(&big), 640 * 480 * LZW_TIFF);
        }
    }

    #[test]
    fn metadata_before_the_frame_header_of_a_jpeg_is_passed_and_a_heap_of_it_hides_the_size() {
        let whole = picture("cat_420.jpg");
        // Behind the first segment: a JPEG is known by the marker of that.
        let first = 4 + usize::from(whole[5]);
        let with = |between: Vec<u8>| decode_work(&[&whole[..first], &between, &whole[first..]].concat());
        let usual = decode_work(&whole);
        let profile = [&[0xff, 0xe2, 0xff, 0xff][..], &[0xff; 65_533]].concat();
        assert_eq!(with(profile.repeat(20)), usual);
        assert_eq!(with(vec![7; 100]), usual);
        assert_eq!(with(vec![7; 100_000]), u64::MAX);
        assert_eq!(with(vec![0xff; 100_000]), u64::MAX);
        assert_eq!(with([0xff, 0xfe, 0, 2].repeat(100_000)), u64::MAX);
    }

    #[test]
    fn the_first_frame_counts_where_it_is_larger_than_what_the_file_announces() {
        let frame = b"\x21\xfe\x03abc\0,\x05\0\x06\0\x0a\0\x14\0\0";
        let gif = [b"GIF89a\x01\0\x01\0\x80\0\0\0\0\0\xff\xff\xff".as_slice(), frame].concat();
        assert_eq!(sides(&gif), (15, 26));
        let comments = [b"\x21\xfe".as_slice(), &b"\x01a".repeat(2000), b"\0"].concat();
        let hidden = [&gif[..19], &comments, frame].concat();
        assert_eq!((decode_work(&hidden), stored_size(&hidden)), (u64::MAX, None));

        let still = picture("cat_lossy.webp");
        let (width, height) = sides(&still);
        let animated = |canvas: [u8; 3]| {
            let canvas = [b"VP8X\x0a\0\0\0\x02\0\0\0".as_slice(), &canvas, &canvas].concat();
            let frame = [b"ANMF\0\0\x01\0".as_slice(), &[0; 16], &still[12..]].concat();
            [&still[..12], &canvas, b"ANIM\x06\0\0\0\0\0\0\0\0\0", &frame].concat()
        };
        assert_eq!(sides(&animated([0, 0, 0])), (width, height));
        assert_eq!(sides(&animated([0xff, 0x0f, 0])), (4096, 4096));
        let chunks = b"abcd\x01\0\0\0xy".repeat(1000);
        assert_eq!(decode_work(&[&still[..12], &chunks, &still[12..]].concat()), u64::MAX);
    }

    #[test]
    fn no_fixture_panics_wherever_it_is_cut() {
        for (_, bytes) in pictures() {
            for end in 0..bytes.len().min(2000) {
                assert!(decode_work(&bytes[..end]) >= 1);
            }
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_behind_any_magic_never_panic(magic in 0usize..10, rest in proptest::collection::vec(any::<u8>(), 0..400)) {
            const MAGICS: [&[u8]; 10] = [
                b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\0\0\0\0WEBP", b"RIFF\0\0\0\0WEBPVP8X\x0a\0\0\0", b"GIF89a",
                b"BM\0\0\0\0\0\0\0\0\0\0\0\0\x28\0\0\0", b"II*\0\x08\0\0\0", b"MM\0*\0\0\0\x08", b"MM\0+\0\x08\0\0\0\0\0\0\0\0\0\x10",
            ];
            prop_assert!(decode_work(&[MAGICS[magic], &rest].concat()) >= 1);
        }

        #[test]
        fn a_fixture_with_any_bytes_changed_never_panics(picture in 0usize..36, changes in proptest::collection::vec((0usize..300, any::<u8>()), 1..8)) {
            let mut bytes = pictures().swap_remove(picture).1;
            for (at, value) in changes {
                let at = at.min(bytes.len() - 1);
                bytes[at] = value;
            }
            prop_assert!(decode_work(&bytes) >= 1);
        }
    }
}
