//! Bitmaps of every kind, made here; what is expected is what Pillow shows.

use super::*;

const LIMITS: Limits = Limits { max_pixels: 10_000, kept_modes: None };

/// A file of a header of 40 bytes (a longer one has zeros), with what follows the header and where pixels begin.
struct File {
    header: u32,
    size: (i32, i32),
    bits: u16,
    compression: u32,
    colours: u32,
    offset: u32,
    rest: Vec<u8>,
}

impl Default for File {
    fn default() -> Self {
        Self { header: 40, size: (2, 1), bits: 24, compression: 0, colours: 0, offset: 0, rest: Vec::new() }
    }
}

impl File {
    fn bytes(&self) -> Vec<u8> {
        let mut bytes =
            [b"BM\0\0\0\0\0\0\0\0".as_slice(), &self.offset.to_le_bytes(), &self.header.to_le_bytes()].concat();
        for side in [self.size.0, self.size.1] {
            bytes.extend(side.to_le_bytes());
        }
        // Any number of planes.
        bytes.extend([7, 0]);
        bytes.extend(self.bits.to_le_bytes());
        for number in [self.compression, 0, 0, 0, self.colours, 0] {
            bytes.extend(number.to_le_bytes());
        }
        bytes.resize(FILE_HEADER + self.header as usize, 0);
        bytes.extend(&self.rest);
        bytes
    }

    fn decode(&self) -> Result<Vec<u8>, ImageError> {
        decode(&self.bytes(), &LIMITS, Vec::new()).map(|decoded| decoded.image.as_bytes().to_vec())
    }

    fn mode(&self, fill: u8) -> Mode {
        let limits = Limits { kept_modes: Some(fill), ..LIMITS };
        decode(&self.bytes(), &limits, Vec::new()).expect("a picture").image.mode
    }
}

const FILE_HEADER: usize = 14;

/// Blue, green, red and nothing, of 2, 1 and 9.
const PALETTE: [u8; 12] = [1, 2, 3, 0, 4, 5, 6, 0, 7, 8, 9, 0];

#[test]
fn pixels_begin_where_the_file_says_and_else_behind_the_headers() {
    let rest = vec![1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];
    let file = |offset| File { offset, rest: rest.clone(), ..File::default() };
    assert_eq!(file(0).decode(), Ok(vec![3, 2, 1, 6, 5, 4]));
    assert_eq!(file(54).decode(), Ok(vec![3, 2, 1, 6, 5, 4]));
    assert_eq!(file(56).decode(), Ok(vec![5, 4, 3, 8, 7, 6]));
    // In the header: the bits, and no compression.
    assert_eq!(file(28).decode(), Ok(vec![0, 0, 24, 0, 0, 0]));
    assert_eq!(file(61).decode(), Err(ImageError::Truncated { format: FORMAT }));
    assert_eq!(file(u32::MAX).decode(), Err(ImageError::Truncated { format: FORMAT }));
    // Where the palette is, no pixels are.
    let rest = [&PALETTE[..], &[1, 0, 0, 0]].concat();
    let file = |offset| File { bits: 8, colours: 3, offset, rest: rest.clone(), ..File::default() };
    for offset in [0, 54, 66] {
        assert_eq!(file(offset).decode(), Ok(vec![6, 5, 4, 3, 2, 1]), "{offset}");
    }
    assert_eq!(file(62).decode(), Ok(vec![0, 0, 0, 0, 0, 0]));
}

#[test]
fn rows_are_stored_from_the_bottom_and_the_last_needs_no_padding() {
    let rest = vec![1, 2, 3, 0, 4, 5, 6];
    let file = |height| File { size: (1, height), rest: rest.clone(), ..File::default() };
    assert_eq!(file(2).decode(), Ok(vec![6, 5, 4, 3, 2, 1]));
    assert_eq!(file(-2).decode(), Ok(vec![3, 2, 1, 6, 5, 4]));
    assert_eq!(file(3).decode(), Err(ImageError::Truncated { format: FORMAT }));
    assert_eq!(file(0).decode(), Err(ImageError::NoPixels { format: FORMAT }));
}

#[test]
fn masks_that_programs_write_are_read_and_no_other() {
    let file = |bits, masks: [u32; 4], pixel: [u8; 4]| {
        let masks = masks.into_iter().flat_map(u32::to_le_bytes).collect::<Vec<_>>();
        let mut bytes =
            File { header: 56, size: (1, 1), bits, compression: 3, rest: pixel.to_vec(), ..File::default() }.bytes();
        bytes[54..70].copy_from_slice(&masks);
        decode(&bytes, &LIMITS, Vec::new()).map(|decoded| decoded.image.as_bytes().to_vec()).ok()
    };
    let pixel = [1, 2, 3, 4];
    for (masks, expected) in [
        ([0xff_0000, 0xff00, 0xff, 0], [3, 2, 1]),
        ([0xff_0000, 0xff00, 0xff, 0xff00_0000], [3, 2, 1]),
        ([0, 0, 0, 0], [3, 2, 1]),
        ([0xff00_0000, 0xff_0000, 0xff00, 0], [4, 3, 2]),
        ([0xff00_0000, 0xff_0000, 0xff00, 0xff], [4, 3, 2]),
        ([0xff00_0000, 0xff00, 0xff, 0], [4, 2, 1]),
        ([0xff00_0000, 0xff00, 0xff, 0xff_0000], [4, 2, 1]),
        ([0xff, 0xff00, 0xff_0000, 0xff00_0000], [1, 2, 3]),
    ] {
        assert_eq!(file(32, masks, pixel), Some(expected.to_vec()), "{masks:x?}");
    }
    assert_eq!(file(32, [0xff, 0xff00, 0xff_0000, 0], pixel), None);
    assert_eq!(file(24, [0xff_0000, 0xff00, 0xff, 5], pixel), Some(vec![3, 2, 1]));
    assert_eq!(file(24, [0xff, 0xff00, 0xff_0000, 0], pixel), None);
    let pixel = 0x4c33u16.to_le_bytes();
    let pixel = [pixel[0], pixel[1], 0, 0];
    assert_eq!(file(16, [0xf800, 0x7e0, 0x1f, 0], pixel), Some(vec![74, 133, 156]));
    assert_eq!(file(16, [0x7c00, 0x3e0, 0x1f, 0], pixel), Some(vec![156, 8, 156]));
    assert_eq!(file(16, [0xf00, 0xf0, 0xf, 0xf000], pixel), None);
}

#[test]
fn masks_may_follow_a_header_that_has_none() {
    let masks = [0xf800u32, 0x7e0, 0x1f].into_iter().flat_map(u32::to_le_bytes);
    let rest = masks.chain([0x1f, 0xf8, 0xe0, 0x07]).collect();
    let file = File { bits: 16, compression: 3, rest, ..File::default() };
    assert_eq!(file.decode(), Ok(vec![255, 0, 255, 0, 255, 0]));
}

#[test]
fn alpha_is_kept_where_masks_name_it() {
    let masks = [0xff_0000, 0xff00, 0xff, 0xff00_0000u32].into_iter().flat_map(u32::to_le_bytes).collect::<Vec<_>>();
    let mut file =
        File { header: 108, bits: 32, compression: 3, rest: vec![1, 2, 3, 4, 5, 6, 7, 8], ..File::default() };
    let limits = Limits { kept_modes: Some(0), ..LIMITS };
    let mode = |file: &File| {
        let mut bytes = file.bytes();
        bytes[54..70].copy_from_slice(&masks);
        decode(&bytes, &limits, Vec::new()).expect("a picture").image.mode
    };
    assert_eq!(mode(&file), Mode::Alpha(vec![4, 4, 4, 8, 8, 8]));
    file.rest = vec![1, 2, 3, 255, 5, 6, 7, 255];
    assert_eq!(mode(&file), Mode::Plain);
}

#[test]
fn a_palette_of_greys_is_none() {
    let greys = |count: u8| (0..count).flat_map(|grey| [grey, grey, grey, 0]);
    let file = |bits, colours, palette: Vec<u8>| File {
        size: (2, 1),
        bits,
        colours,
        rest: [&palette[..], &[0b1000_0001, 2, 0, 0]].concat(),
        ..File::default()
    };
    let grey = file(8, 3, greys(3).collect());
    assert_eq!((grey.decode(), grey.mode(2)), (Ok(vec![129, 129, 129, 2, 2, 2]), Mode::Plain));
    let colours = file(8, 3, PALETTE.to_vec());
    assert_eq!((colours.decode(), colours.mode(2)), (Ok(vec![0, 0, 0, 9, 8, 7]), Mode::Stepped { fill: [9, 8, 7] }));
    let bilevel = file(1, 2, vec![0, 0, 0, 0, 255, 255, 255, 0]);
    assert_eq!((bilevel.decode(), bilevel.mode(9)), (Ok(vec![255, 255, 255, 0, 0, 0]), Mode::bilevel(9)));
    let bits = file(1, 2, PALETTE[..8].to_vec());
    assert_eq!(bits.decode(), Ok(vec![6, 5, 4, 3, 2, 1]));
    let nibbles = file(4, 16, [&PALETTE[..], &[0; 52]].concat());
    assert_eq!(nibbles.decode(), Ok(vec![0, 0, 0, 6, 5, 4]));
    // Its rows are then read by the byte, as far as they are long enough.
    assert_eq!(file(4, 16, greys(16).collect()).decode(), Ok(vec![129, 129, 129, 2, 2, 2]));
    let wide = File { size: (9, 1), rest: [greys(16).collect(), vec![0; 20]].concat(), ..file(4, 16, Vec::new()) };
    assert_eq!(wide.decode().unwrap_err().reason(), "unsupported_variant");
}

#[test]
fn headers_of_os_2_are_read_but_for_the_shortest() {
    let long = File { header: 64, rest: vec![1, 2, 3, 4, 5, 6, 0, 0], ..File::default() };
    assert_eq!(long.decode(), Ok(vec![3, 2, 1, 6, 5, 4]));
    let short =
        [b"BM\0\0\0\0\0\0\0\0\0\0\0\0\x0c\0\0\0\x02\0\x01\0\x01\0\x18\0".as_slice(), &[1, 2, 3, 4, 5, 6]].concat();
    let image = decode(&short, &LIMITS, Vec::new()).unwrap().image;
    assert_eq!(image.as_bytes(), [3, 2, 1, 6, 5, 4]);
    assert_eq!(File { header: 16, ..File::default() }.decode().unwrap_err().reason(), "unsupported_variant");
}

#[test]
fn run_lengths_go_with_any_palette() {
    let file = |compression, bits, rest: &[u8]| File {
        size: (4, 2),
        bits,
        compression,
        colours: 3,
        rest: [&PALETTE[..], rest].concat(),
        ..File::default()
    };
    let (a, b, c) = ([3, 2, 1], [6, 5, 4], [9, 8, 7]);
    let expected = [a, a, a, c, b, b, b, a].concat();
    assert_eq!(file(1, 8, &[3, 1, 0, 0, 0, 2, 3, 0, 1, 2]).decode(), Ok(expected));
    let expected = [a, b, a, b, b, c, b, a].concat();
    assert_eq!(file(2, 4, &[3, 0x12, 0, 0, 4, 0x01]).decode(), Ok(expected));
    assert_eq!(file(1, 8, &[3, 1, 0, 0, 0, 1]).decode(), Err(ImageError::Truncated { format: FORMAT }));
    assert_eq!(file(1, 24, &[]).decode().unwrap_err().reason(), "unsupported_variant");
}

#[test]
fn every_cut_file_is_refused() {
    let whole = File { bits: 8, colours: 3, rest: [&PALETTE[..], &[1, 0]].concat(), ..File::default() }.bytes();
    assert!(decode(&whole, &LIMITS, Vec::new()).is_ok());
    for end in 10..whole.len() {
        assert!(decode(&whole[..end], &LIMITS, Vec::new()).is_err(), "{end}");
    }
}
