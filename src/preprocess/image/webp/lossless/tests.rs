//! Streams made by hand for what encoders do not write; expected are the pixels that Pillow shows.

use proptest::prelude::*;

use super::*;

/// Writes bits, from the lowest on.
#[derive(Default)]
struct Writer {
    bits: Vec<bool>,
}

impl Writer {
    /// A stream of a picture of that size, up to its transforms.
    fn new(width: u32, height: u32) -> Self {
        Self::default().put(8, 0x2f).put(14, width - 1).put(14, height - 1).put(4, 0)
    }

    fn put(mut self, count: u32, number: u32) -> Self {
        self.bits.extend((0..count).map(|bit| number >> bit & 1 == 1));
        self
    }

    fn one(self, symbol: u32) -> Self {
        self.put(3, 0b101).put(8, symbol)
    }

    fn two(self, first: u32, second: u32) -> Self {
        self.put(3, 0b111).put(8, first).put(8, second)
    }

    /// Codes of red, blue and alpha that are zero, and of distances.
    fn zeros(self) -> Self {
        self.one(0).one(0).one(0).one(0)
    }

    fn bytes(&self) -> Vec<u8> {
        let byte = |bits: &[bool]| bits.iter().rev().fold(0, |byte, &bit| byte << 1 | u8::from(bit));
        self.bits.chunks(8).map(byte).collect()
    }

    fn decode(&self, width: u32, height: u32) -> Result<Vec<u32>, Failure> {
        let mut pixels = Vec::new();
        let picture = Picture::decode(&self.bytes(), (width, height))?;
        picture.for_each_row(|row| pixels.extend_from_slice(row))?;
        Ok(pixels)
    }
}

#[test]
fn of_two_symbols_the_smaller_has_the_smaller_code_and_equal_ones_are_one() {
    let picture = Writer::new(2, 1).put(3, 0).two(200, 9).one(1).one(2).one(255).one(0).put(2, 0b10);
    assert_eq!(picture.decode(2, 1), Ok(vec![0xff01_0902, 0xff01_c802]));
    let picture = Writer::new(3, 1).put(3, 0).two(7, 7).zeros();
    assert_eq!(picture.decode(3, 1), Ok(vec![0x0700; 3]));
}

#[test]
fn a_symbol_beyond_the_alphabet_is_not_there() {
    let start = || Writer::new(3, 1).put(3, 0).one(7).one(0).one(0).one(0);
    assert!(matches!(start().one(200).decode(3, 1), Err(Failure::Damaged(_))));
    assert_eq!(start().two(9, 200).decode(3, 1), Ok(vec![0x0700; 3]));
}

#[test]
fn a_predictor_is_told_by_four_bits_and_the_last_two_are_black() {
    for (mode, second_row) in [(0x1b, [10, 15, 20]), (14, [10, 5, 5]), (15, [10, 5, 5]), (0, [10, 5, 5])] {
        // A transform of one block, none after it.
        let transform = Writer::new(3, 2).put(3, 0b001).put(3, 0).put(1, 0).one(mode).zeros();
        let pixels = transform.put(3, 0).one(5).zeros().decode(3, 2);
        let expected = [5, 10, 15].into_iter().chain(second_row).map(|green| 0xff00_0000 | green << 8);
        assert_eq!(pixels, Ok(expected.collect()), "{mode}");
    }
}

#[test]
fn groups_that_no_block_names_are_passed_over_and_have_to_be_codes() {
    // Two blocks, of groups 0 and 200.
    let start = || Writer::new(8, 4).put(3, 0b100).put(3, 0).put(1, 0).two(0, 200).zeros().put(2, 0b10);
    let whole = (0..201).fold(start(), |stream, group| stream.one(group).zeros());
    let row = [0, 0, 0, 0, 200, 200, 200, 200].map(|green| green << 8);
    assert_eq!(whole.decode(8, 4), Ok(row.repeat(4)));
    // A code of lengths without one.
    let broken = (1..201).fold(start().one(0).zeros().put(5, 0).put(12, 0), |stream, group| stream.one(group).zeros());
    assert!(matches!(broken.decode(8, 4), Err(Failure::Damaged(_))));
}

#[test]
fn a_stream_that_ends_early_is_refused_and_what_follows_is_not_read() {
    let picture = (0..40).fold(Writer::new(20, 2).put(3, 0).two(3, 4).zeros(), |stream, bit| stream.put(1, bit % 2));
    let expected = [0x300, 0x400].repeat(20);
    assert_eq!(picture.decode(20, 2), Ok(expected.clone()));
    let bytes = picture.bytes();
    for end in 0..bytes.len() {
        assert!(Picture::decode(&bytes[..end], (20, 2)).is_err(), "{end}");
    }
    assert!(Picture::decode(&[&bytes[..], b"more"].concat(), (20, 2)).is_ok());
}

#[test]
fn copies_that_overlap_repeat_what_was_copied() {
    for (distance, length) in [(1, 9), (2, 9), (3, 10), (4, 4), (5, 3)] {
        let mut pixels: Vec<u32> = (0..20).collect();
        copy(&mut pixels, 7, distance, length);
        for at in 7..7 + length {
            assert_eq!(pixels[at], pixels[at - distance], "{distance} {length}");
        }
        assert_eq!(pixels[7 + length], 7 + length as u32);
    }
}

proptest! {
    #[test]
    fn no_stream_panics(rest in proptest::collection::vec(any::<u8>(), 0..300), width in 1u32..40, height in 1u32..40) {
        let start = Writer::new(width, height).put(4, 0).bytes();
        for stream in [[&start[..], &rest].concat(), [&start[..4], &[start[4]], &rest].concat()] {
            if let Ok(picture) = Picture::decode(&stream, (width, height)) {
                let mut rows = 0;
                prop_assert!(picture.for_each_row(|_| rows += 1).is_ok());
                prop_assert_eq!(rows, height);
            }
        }
    }
}
