//! Frames on their screens.

use super::*;

const LIMITS: Limits = Limits { max_pixels: 10_000, kept_modes: None };

/// A screen of 4 x 2 with `blocks`, and a frame of two pixels, numbers 0 and 1, at (1, 1).
fn file(palette: &[u8], blocks: &[u8]) -> Vec<u8> {
    let flags = if palette.is_empty() { 0 } else { 0x80 };
    let screen = [b"GIF89a\x04\0\x02\0".as_slice(), &[flags, 0, 0], palette].concat();
    // Codes of three bits: clear, 0, 1, end.
    [&screen, blocks, b",\x01\0\x01\0\x02\0\x01\0\0\x02\x02\x44\x0a\0;"].concat()
}

fn pixels(bytes: &[u8]) -> Vec<u8> {
    let decoded = decode(bytes, &LIMITS, Vec::new()).expect("a picture");
    assert_eq!((decoded.image.width(), decoded.image.height()), (4, 2));
    decoded.image.as_bytes().to_vec()
}

#[test]
fn the_screen_around_a_frame_has_the_transparent_colour_or_the_first() {
    let palette = [9, 8, 7, 1, 2, 3];
    let (first, second) = ([9, 8, 7], [1, 2, 3]);
    let expected = [first, first, first, first, first, first, second, first].concat();
    assert_eq!(pixels(&file(&palette, b"")), expected);
    let control = b"!\xf9\x04\x01\0\0\x01\0";
    let expected = [second, second, second, second, second, first, second, second].concat();
    assert_eq!(pixels(&file(&palette, control)), expected);
    // A colour that the palette lacks is black.
    let control = b"!\xf9\x04\x01\0\0\x07\0";
    assert_eq!(pixels(&file(&palette, control))[..3], [0; 3]);
}

#[test]
fn without_a_palette_numbers_are_greys() {
    assert_eq!(pixels(&file(&[], b""))[12..], [0, 0, 0, 0, 0, 0, 1, 1, 1, 0, 0, 0]);
    assert_eq!(pixels(&file(&[0, 0, 0, 1, 1, 1], b"\0\0"))[12..], [0, 0, 0, 0, 0, 0, 1, 1, 1, 0, 0, 0]);
}

#[test]
fn interlaced_lines_come_in_four_passes() {
    let order: Vec<_> = rows(11, true).collect();
    assert_eq!(order, [0, 8, 4, 2, 6, 10, 1, 3, 5, 7, 9]);
    assert_eq!(rows(1, true).collect::<Vec<_>>(), [0]);
    assert_eq!(rows(3, false).collect::<Vec<_>>(), [0, 1, 2]);
}

#[test]
fn a_frame_of_no_pixels_and_one_that_is_cut_are_refused() {
    let whole = file(&[], b"");
    let mut flat = whole.clone();
    flat[18] = 0;
    assert_eq!(decode(&flat, &LIMITS, Vec::new()).err(), Some(ImageError::NoPixels { format: FORMAT }));
    for end in 6..whole.len() - 2 {
        let error = decode(&whole[..end], &LIMITS, Vec::new()).err();
        assert_eq!(error, Some(ImageError::Truncated { format: FORMAT }), "{end}");
    }
}
