//! What headers say, of the fixtures and of what was made to deceive.

use std::{fs, path::Path};

use proptest::prelude::*;

use super::*;
use crate::{
    model::{pictures::PicturePreparation, preprocessor::PreprocessorConfig},
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
    let config = PicturePreparation::Transformers(PreprocessorConfig::from_json("{}").expect("valid"));
    let mut processor = ImageProcessor::new(&config, options).expect("supported");
    let pictures = pictures();
    assert!(pictures.len() >= 36, "the fixtures are whole");
    for (name, bytes) in pictures {
        let image = processor.decode(&bytes).expect("a picture");
        assert_eq!(sides(&bytes), (image.width().into(), image.height().into()), "{name}");
    }
}

#[test]
fn a_header_says_what_pillow_says_of_the_picture() {
    use ImageFormatName::*;
    for (name, format, width, height, bit_depth) in [
        ("cat_420.jpg", Jpeg, 451, 300, 24),
        ("cat_gray.jpg", Jpeg, 451, 300, 8),
        ("coffee_cmyk.jpg", Jpeg, 600, 400, 32),
        ("cat_exif_6.jpg", Jpeg, 451, 300, 24),
        ("cat_bilevel.png", Png, 451, 300, 1),
        ("cat_palette.png", Png, 451, 300, 8),
        ("cat_gray_alpha.png", Png, 451, 300, 16),
        ("logo_rgba.png", Png, 500, 500, 32),
        ("cat_lossy.webp", WebP, 451, 300, 24),
        ("cat_lossless.webp", WebP, 451, 300, 24),
        ("cat.bmp", Bmp, 451, 300, 24),
        ("astronaut_lzw.tiff", Tiff, 512, 512, 24),
    ] {
        let expected = PictureHeader { format, width, height, bit_depth };
        assert_eq!(picture_header(&picture(name)), Some(expected), "{name}");
    }
    let gif = picture_header(&picture("animated.gif")).expect("a header");
    assert!((gif.width, gif.height) == (14, 25) && gif.bit_depth <= 8, "{gif:?}");
    assert_eq!(picture_header(b"hello"), None);
}

#[test]
fn a_pixel_of_each_kind_has_its_cost() {
    for (name, cost) in [
        ("cat_420.jpg", 1),
        ("coffee_progressive.jpg", 3),
        ("coffee_cmyk.jpg", 3),
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
fn few_pixels_in_many_bytes_are_no_little_work() {
    let small = picture("camera_gray.png");
    let (width, height) = sides(&small);
    let long = [small.as_slice(), &vec![0; 40 << 20]].concat();
    assert!(decode_work(&long) > 16 << 20, "it is large");
    assert_eq!(decode_work(&small), width * height);
}

#[test]
fn arithmetic_coding_takes_longer() {
    let mut jpeg = picture("cat_420.jpg");
    let usual = decode_work(&jpeg);
    let frame = jpeg.windows(4).position(|bytes| bytes == [0xff, 0xc0, 0, 17]).expect("a frame");
    jpeg[frame + 1] = 0xc9;
    assert_eq!(decode_work(&jpeg), usual * ARITHMETIC_JPEG);
}

#[test]
fn what_is_no_picture_or_ends_within_its_header_is_the_least_work() {
    for bytes in [b"".as_slice(), b"hello", b"\xff\xd8\xff", b"GIF89a", b"%PDF-1.7", b"MM\0*\xff\xff\xff\xff"] {
        assert_eq!(decode_work(bytes), 1, "{bytes:?}");
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
    let frame = b"\x21\xfe\x03abc\0,\x05\0\x06\0\x0a\0\x14\0\0\x02";
    let gif = [b"GIF89a\x01\0\x01\0\x80\0\0\0\0\0\xff\xff\xff".as_slice(), frame].concat();
    assert_eq!(sides(&gif), (15, 26));
    let comments = [b"\x21\xfe".as_slice(), &b"\x01a".repeat(2000), b"\0"].concat();
    assert_eq!(decode_work(&[&gif[..19], &comments, frame].concat()), u64::MAX);

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
