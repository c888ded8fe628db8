//! Pictures of every kind beside what Pillow shows, and files made to hurt.

use super::*;
use crate::preprocess::image::{
    RgbImage,
    mode::{Mode, Space},
};

/// Each a TIFF, and the same as Pillow's `convert("RGB")`.
macro_rules! fixtures {
    ($($name:literal),* $(,)?) => {
        [$((
            $name,
            include_bytes!(concat!("../../../../tests/fixtures/pictures/tiff/", $name, ".tif")).as_slice(),
            include_bytes!(concat!("../../../../tests/fixtures/pictures/tiff/", $name, ".ppm")).as_slice(),
        )),*]
    };
}

const FIXTURES: [(&str, &[u8], &[u8]); 16] = fixtures![
    "bilevel_group4",
    "cmyk_extra_ink_lzma",
    "float_predictor",
    "grey2_inverted_reversed",
    "lab_planes",
    "palette4",
    "palette_alpha",
    "rgb_deflate_planes_big_endian_turned",
    "rgb_lzw_predictor_tiles",
    "rgb_premultiplied_planes_lzw",
    "rgba16_premultiplied_zstd",
    "signed16_packbits",
    "ycbcr",
    "ycbcr_4x2_deflate",
    "ycbcr_lzw",
    "ycbcr_tiles_predictor",
];

fn decoded(bytes: &[u8], max_pixels: u64, kept_modes: Option<u8>) -> Result<RgbImage, ImageError> {
    let limits = Limits { max_pixels, kept_modes };
    decode(bytes, &limits, Vec::new(), &mut Vec::new()).map(|decoded| {
        assert_eq!(decoded.orientation, Orientation::Upright);
        decoded.image
    })
}

fn refused(bytes: &[u8]) -> &'static str {
    decoded(bytes, 1 << 20, None).expect_err("no picture").reason()
}

/// A little-endian file of these fields, the values of each being of 32 bits, and of what follows its header.
fn file(data: &[u8], fields: &[(u16, &[u32])]) -> Vec<u8> {
    let mut bytes = [b"II*\0\0\0\0\0", data].concat();
    let mut entries = (fields.len() as u16).to_le_bytes().to_vec();
    for &(tag, values) in fields {
        let stored: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        entries.extend([tag, 4].map(u16::to_le_bytes).concat());
        entries.extend((values.len() as u32).to_le_bytes());
        if let [value] = values {
            entries.extend(value.to_le_bytes());
        } else {
            entries.extend((bytes.len() as u32).to_le_bytes());
            bytes.extend(stored);
        }
    }
    let directory = bytes.len() as u32;
    bytes[4..8].copy_from_slice(&directory.to_le_bytes());
    [bytes, entries, vec![0; 4]].concat()
}

/// A grey file of 8 bits, by those fields and more.
fn grey(data: &[u8], width: u32, height: u32, compression: u32, more: &[(u16, &[u32])]) -> Vec<u8> {
    let sides = [[width], [height], [compression], [data.len() as u32]];
    let mut fields: Vec<(u16, &[u32])> = vec![
        (WIDTH, &sides[0]),
        (HEIGHT, &sides[1]),
        (tags::BITS, &[8]),
        (COMPRESSION, &sides[2]),
        (tags::PHOTOMETRIC, &[1]),
        (tags::STRIP_OFFSETS, &[8]),
        (tags::STRIP_BYTES, &sides[3]),
    ];
    fields.retain(|(tag, _)| more.iter().all(|(other, _)| other != tag));
    fields.extend(more.iter().filter(|(_, values)| !values.is_empty()));
    file(data, &fields)
}

#[test]
fn every_kind_is_what_pillow_shows() {
    for (name, bytes, expected) in FIXTURES {
        let image = decoded(bytes, 1 << 20, None).expect(name);
        let header = format!("P6\n{} {}\n255\n", image.width(), image.height());
        let pixels = expected.strip_prefix(header.as_bytes()).expect(name);
        // LittleCMS rounds otherwise.
        let tolerance = if name.starts_with("lab") { 1 } else { 0 };
        let worst = image.as_bytes().iter().zip(pixels).map(|(a, b)| a.abs_diff(*b)).max();
        assert!(image.as_bytes().len() == pixels.len() && worst <= Some(tolerance), "{name}: {worst:?}");
    }
}

#[test]
fn no_part_of_a_file_panics_and_none_that_lacks_pixels_is_a_picture() {
    for (name, bytes, _) in FIXTURES {
        for end in 0..bytes.len() {
            let cut = decoded(&bytes[..end], 1 << 20, None);
            // Those of this writer end with their pixels; few bytes more may be lost where the code has ended before.
            if name == "rgb_lzw_predictor_tiles" && end + 4 < bytes.len() {
                assert!(cut.is_err(), "{name}, {end} bytes");
            }
        }
        for at in 0..bytes.len() {
            let mut damaged = bytes.to_vec();
            damaged[at] ^= 1 << (at % 8);
            let _ = decoded(&damaged, 1 << 16, Some(0));
        }
    }
}

#[test]
fn a_picture_keeps_its_mode_where_that_is_asked_for() {
    let image = |name| {
        let bytes = FIXTURES.iter().find(|fixture| fixture.0 == name).expect(name).1;
        decoded(bytes, 1 << 20, Some(255)).expect(name)
    };
    assert_eq!(image("bilevel_group4").mode, Mode::Stepped { fill: [255; 3] });
    assert!(matches!(image("palette4").mode, Mode::Stepped { .. }));
    assert!(matches!(image("rgb_premultiplied_planes_lzw").mode, Mode::Alpha(plane) if plane.len() == 19 * 11 * 3));
    assert!(matches!(image("cmyk_extra_ink_lzma").mode, Mode::Cmyk(plane) if plane.len() == 19 * 11 * 3));
    assert_eq!(image("ycbcr").mode, Mode::Unconverted(Space::YCbCr));
    assert_eq!(image("lab_planes").mode, Mode::Unconverted(Space::Lab));
    assert!(matches!(image("palette_alpha").mode, Mode::Stepped { .. }));
    // libtiff makes RGB of these itself.
    assert_eq!(image("ycbcr_lzw").mode, Mode::Plain);
    assert_eq!(image("ycbcr_4x2_deflate").mode, Mode::Plain);
}

#[test]
fn alpha_is_turned_with_the_colours() {
    let alpha = |orientation: u32| {
        let sides = [orientation];
        let more: [(u16, &[u32]); 4] =
            [(tags::SAMPLES, &[2]), (tags::EXTRA_SAMPLES, &[2]), (274, &sides), (tags::ROWS_PER_STRIP, &[1])];
        let image = decoded(&grey(&[1, 10, 2, 20], 2, 1, 1, &more), 9, Some(0)).expect("a picture");
        let plane = image.mode.fourth().expect("alpha").to_vec();
        ((image.width(), image.height()), [image.as_bytes()[0], image.as_bytes()[3]], [plane[0], plane[3]])
    };
    assert_eq!(alpha(1), ((2, 1), [1, 2], [10, 20]));
    assert_eq!(alpha(2), ((2, 1), [2, 1], [20, 10]));
    assert_eq!(alpha(8), ((1, 2), [2, 1], [20, 10]));
}

#[test]
fn what_is_stored_is_found_by_its_offsets_alone() {
    let expected: Vec<u8> = [1, 2, 3, 4].iter().flat_map(|&level| [level; 3]).collect();
    let picture = |bytes: &[u8]| decoded(bytes, 1 << 20, None).map(|image| image.as_bytes().to_vec());
    let data = [1, 2, 3, 4];
    assert_eq!(picture(&grey(&data, 2, 2, 1, &[])), Ok(expected.clone()));
    assert_eq!(picture(&grey(&data, 2, 2, 1, &[(tags::STRIP_BYTES, &[])])), Ok(expected.clone()));
    assert_eq!(picture(&grey(&data, 2, 2, 1, &[(tags::STRIP_BYTES, &[99])])), Ok(expected.clone()));
    // Of two that each are the whole picture, the last.
    let twice = (tags::STRIP_OFFSETS, [9, 8].as_slice());
    assert_eq!(picture(&grey(&data, 2, 2, 1, &[twice])), Ok(expected.clone()));
    let rows: [(u16, &[u32]); 2] = [(tags::STRIP_OFFSETS, &[10, 8]), (tags::ROWS_PER_STRIP, &[1])];
    assert_eq!(picture(&grey(&[3, 4, 1, 2], 2, 2, 1, &rows)), Ok(expected));
    assert_eq!(refused(&grey(&data, 2, 2, 1, &[(tags::ROWS_PER_STRIP, &[1])])), "corrupt");
    assert_eq!(refused(&grey(&data, 2, 2, 1, &[(tags::STRIP_OFFSETS, &[1000])])), "truncated");
    assert_eq!(refused(&grey(&data, 2, 2, 1, &[(tags::ROWS_PER_STRIP, &[0])])), "corrupt");
}

#[test]
fn what_is_compressed_needs_its_lengths_unless_it_is_one_strip() {
    let packed = [3, 1, 2, 3, 4];
    assert!(decoded(&grey(&packed, 2, 2, 32773, &[]), 9, None).is_ok());
    assert!(decoded(&grey(&packed, 2, 2, 32773, &[(tags::STRIP_BYTES, &[])]), 9, None).is_ok());
    assert!(decoded(&grey(&packed, 2, 2, 32773, &[(tags::STRIP_BYTES, &[0])]), 9, None).is_ok());
    assert_eq!(refused(&grey(&packed, 2, 2, 32773, &[(tags::STRIP_BYTES, &[4])])), "truncated");
    assert_eq!(refused(&grey(&packed, 2, 2, 32773, &[(tags::STRIP_BYTES, &[9999])])), "truncated");
    let rows: [(u16, &[u32]); 3] =
        [(tags::ROWS_PER_STRIP, &[1]), (tags::STRIP_OFFSETS, &[8, 8]), (tags::STRIP_BYTES, &[])];
    assert_eq!(refused(&grey(&packed, 2, 2, 32773, &rows)), "corrupt");
    assert_eq!(refused(&grey(&packed, 2, 2, 32773, &[(PLANAR, &[3])])), "corrupt");
}

#[test]
fn without_lengths_the_rest_of_the_file_counts() {
    let packed = [3, 1, 2, 3, 4];
    let reason = |fields: &[(u16, &[u32])], kind: u16, count: u32| {
        let unknown: (u16, &[u32]) = (40_000, &[8]);
        let fields = [fields, &[unknown]].concat();
        let mut bytes = grey(&packed, 2, 2, 32773, &fields);
        let entry = bytes.windows(2).rposition(|tag| tag == 40_000u16.to_le_bytes()).expect("a field");
        bytes[entry + 2..entry + 4].copy_from_slice(&kind.to_le_bytes());
        bytes[entry + 4..entry + 8].copy_from_slice(&count.to_le_bytes());
        decoded(&bytes, 9, None).map_or_else(|error| error.reason(), |_| "none")
    };
    let without = (tags::STRIP_BYTES, [].as_slice());
    for kind in [0, 1, 13, 16, 17, 18] {
        assert_eq!(reason(&[without], kind, 0), "none", "{kind}");
    }
    // A type that nobody knows, of a length that nobody needs, and where it is needed.
    assert_eq!(reason(&[], 99, 1), "none");
    assert_eq!(reason(&[without], 99, 1), "corrupt");
    assert_eq!(reason(&[(tags::STRIP_BYTES, &[0])], 99, 1), "corrupt");
    // Values that lie where the pixels are, and those that the file has no room for.
    assert_eq!(reason(&[without], 1, 5), "corrupt");
    assert_eq!(reason(&[without], 1, 1000), "none");
    // More than four of the one and fewer of the other.
    assert_eq!(reason(&[(tags::STRIP_BYTES, &[5; 4])], 1, 1), "none");
    assert_eq!(reason(&[(tags::STRIP_BYTES, &[5; 5])], 1, 1), "corrupt");
    assert_eq!(reason(&[(tags::STRIP_BYTES, &[5; 5]), (tags::STRIP_OFFSETS, &[8; 5])], 1, 1), "none");
}

#[test]
fn without_lengths_all_planes_have_as_much_of_the_file_whether_they_are_read_or_not() {
    let reason = |bytes| {
        let mut data = vec![3, 1, 2, 3, 4];
        data.resize(bytes, 0);
        let fields: [(u16, &[u32]); 7] = [
            (tags::BITS, &[8; 4]),
            (tags::PHOTOMETRIC, &[2]),
            (tags::SAMPLES, &[4]),
            (tags::EXTRA_SAMPLES, &[0]),
            (PLANAR, &[2]),
            (tags::STRIP_OFFSETS, &[8; 4]),
            (tags::STRIP_BYTES, &[]),
        ];
        decoded(&grey(&data, 2, 2, 32773, &fields), 9, None).map_or_else(|error| error.reason(), |_| "none")
    };
    assert_eq!(reason(4 * 5), "none");
    assert_eq!(reason(4 * 5 - 1), "truncated");
}

#[test]
fn what_libtiff_finds_in_its_fields_is_refused() {
    let packed = [3, 1, 2, 3, 4];
    let refused = |fields: &[(u16, &[u32])]| refused(&grey(&packed, 2, 2, 32773, fields));
    let palette = (tags::COLOURS, [0; 768].as_slice());
    let of_palette = (tags::PHOTOMETRIC, [3].as_slice());
    assert!(decoded(&grey(&packed, 2, 2, 32773, &[of_palette, palette]), 9, None).is_ok());
    let bilevel = (tags::COLOURS, [0; 6].as_slice());
    assert_eq!(refused(&[of_palette, bilevel, (tags::BITS, &[])]), "corrupt");
    // Pillow leaves out what has no name, and takes the one sample of YCbCr for grey.
    let planes = |bits| {
        let fields: [(u16, &[u32]); 7] = [
            (tags::BITS, bits),
            (tags::PHOTOMETRIC, &[2]),
            (tags::SAMPLES, &[4]),
            (tags::EXTRA_SAMPLES, &[0]),
            (PLANAR, &[2]),
            (tags::STRIP_OFFSETS, &[8; 4]),
            (tags::STRIP_BYTES, &[5; 4]),
        ];
        decoded(&grey(&packed, 2, 2, 32773, &fields), 9, None).map_or_else(|error| error.reason(), |_| "none")
    };
    assert_eq!(planes(&[8, 8, 8, 8]), "none");
    assert_eq!(planes(&[8, 8, 8, 9]), "corrupt");
    assert_eq!(refused(&[(tags::PHOTOMETRIC, &[6]), (tags::BITS, &[8; 3])]), "corrupt");
}

#[test]
fn sizes_are_refused_before_memory_is_taken() {
    assert_eq!(refused(&grey(&[0], u32::MAX, u32::MAX, 1, &[])), "too_many_pixels");
    assert_eq!(refused(&grey(&[0], 0, 5, 1, &[])), "no_pixels");
    for side in [u32::MAX, 1 << 20] {
        let sides = [side];
        let tiles: [(u16, &[u32]); 4] = [
            (tags::STRIP_OFFSETS, &[]),
            (tags::TILE_WIDTH, &sides),
            (tags::TILE_HEIGHT, &sides),
            (tags::TILE_OFFSETS, &[8]),
        ];
        assert_eq!(refused(&grey(&[0], 1, 1, 1, &tiles)), "wasteful");
        assert_eq!(refused(&grey(&[0], 1, 1, 5, &tiles)), "wasteful");
    }
    assert_eq!(refused(&grey(&[0; 9], 1, 1, 1, &[(tags::SAMPLES, &[7])])), "corrupt");
    assert_eq!(refused(&grey(&[0; 9], 1, 1, 1, &[(tags::SAMPLES, &[2])])), "unsupported_variant");
    assert_eq!(refused(&grey(&[0; 9], 1, 1, 50001, &[])), "unsupported_variant");
    let lines: [(u16, &[u32]); 1] = [(tags::ROWS_PER_STRIP, &[1])];
    assert_eq!(refused(&grey(&[0; 9], 1, 200_000, 5, &lines)), "unsupported_variant");
}

#[test]
fn codes_stop_at_the_bytes_that_are_needed() {
    for (codec, data) in [
        // Runs of 128 that would go on.
        (Codec::PackBits, [0x81, 7].repeat(1000)),
        (Codec::Lzw, vec![0x80, 0x01, 0xc0, 0xe0, 0x70, 0x38, 0, 0]),
    ] {
        let mut decoder = Decoder::new(codec, Blocks::of(1, 0)).expect("memory");
        let mut out = [0; 4];
        decoder.decode(&data, &mut out).expect("enough data");
        assert_eq!(out, [7; 4], "{codec:?}");
        assert_eq!(decoder.decode(&data[..1], &mut out).expect_err("too few").reason(), "truncated");
    }
}

#[test]
fn blocks_of_nothing_are_few() {
    // Stored blocks, and then one of four bytes with the checksum; raw blocks in a frame with a window of 1 KiB; blocks of xz that end at once.
    let deflate = |count| {
        [&[0x78, 1], &*[0, 0, 0, 0xff, 0xff].repeat(count), b"\x01\x04\0\xfb\xff\x07\x07\x07\x07\0\x4a\0\x1d"].concat()
    };
    let zstd = |count| [b"\x28\xb5\x2f\xfd\0\0", &*[0, 0, 0].repeat(count), b"\x21\0\0\x07\x07\x07\x07"].concat();
    let sum = |bytes: &[u8]| {
        let mut sum = flate2::Crc::new();
        sum.update(bytes);
        sum.sum().to_le_bytes()
    };
    let summed = |bytes: &[u8]| [bytes, &sum(bytes)].concat();
    let header = summed(&[2, 0, 0x21, 1, 0, 0, 0, 0]);
    let nothing = [&header[..], &[0; 4], &sum(&[])].concat();
    let last = [&header[..], b"\x01\0\x03\x07\x07\x07\x07\0", &sum(&[7; 4])].concat();
    let xz = |count| [b"\xfd7zXZ\0", &*summed(&[0, 1]), &nothing.repeat(count), &last].concat();
    for (codec, few, many) in [
        (Codec::Deflate, deflate(8000), deflate(8500)),
        (Codec::Zstd, zstd(8000), zstd(8500)),
        (Codec::Lzma, xz(4000), xz(16_000)),
    ] {
        let decode = |data: &[u8]| {
            let mut out = [0; 4];
            Decoder::new(codec, Blocks::of(1, 0)).expect("memory").decode(data, &mut out).map(|()| out)
        };
        assert_eq!(decode(&few), Ok([7; 4]), "{codec:?}");
        assert_eq!(decode(&many).expect_err("too many").reason(), "wasteful", "{codec:?}");
    }
}

/// Codes of so many bits, the first in the highest or in the lowest.
fn codes(codes: &[(u32, u32)], high_first: bool) -> Vec<u8> {
    let bits: Vec<u8> = codes
        .iter()
        .flat_map(|&(code, size)| {
            (0..size).map(move |bit| (code >> if high_first { size - 1 - bit } else { bit } & 1) as u8)
        })
        .collect();
    let byte = |bits: &[u8]| {
        let places = bits.iter().enumerate();
        places.map(|(place, bit)| bit << if high_first { 7 - place } else { place }).sum()
    };
    bits.chunks(8).map(byte).collect()
}

#[test]
fn codes_grow_with_the_table_and_start_over_with_it() {
    // Each is a string of its own, so that the table has one more with every code but the first.
    for (high_first, longer) in [(true, 511), (false, 512)] {
        let sizes = (0..700u32).map(|number| if 257 + number < longer { 9 } else { 10 });
        let strings = (0..700).zip(sizes).map(|(number, size)| (number % 251, size));
        let stream: Vec<_> =
            [(256, 9)].into_iter().chain(strings).chain([(256, 10), (5, 9), (258, 9), (257, 9)]).collect();
        let expected: Vec<u8> = (0..700u32).map(|number| (number % 251) as u8).chain([5; 3]).collect();
        let mut out = vec![0; expected.len()];
        let mut decoder = Decoder::new(Codec::Lzw, Blocks::of(1, 0)).expect("memory");
        decoder.decode(&codes(&stream, high_first), &mut out).expect("enough data");
        assert_eq!(out, expected, "{high_first}");
        let mut longer = vec![0; expected.len() + 1];
        let error = decoder.decode(&codes(&stream, high_first), &mut longer).expect_err("it has ended");
        assert_eq!(error.reason(), "truncated");
        let unknown = codes(&[(256, 9), (5, 9), (300, 9)], high_first);
        assert_eq!(decoder.decode(&unknown, &mut [0; 9]).expect_err("no code").reason(), "corrupt");
    }
}

#[test]
fn lzw_is_as_strict_as_in_libtiff() {
    let inflate = |stream: &[(u32, u32)], high_first, length| {
        let mut decoder = Decoder::new(Codec::Lzw, Blocks::of(1, 0)).expect("memory");
        let done = decoder.decode(&codes(stream, high_first), &mut vec![0; length]);
        done.map_or_else(|error| error.reason(), |()| "none")
    };
    // The first code clears the table.
    assert_eq!(inflate(&[(7, 9); 4], true, 4), "corrupt");
    assert_eq!(inflate(&[(256, 9), (7, 9)], true, 1), "none");
    // And so does one before there are many more strings than codes.
    for (high_first, early) in [(true, 1), (false, 0)] {
        let literals = |count: u32| -> Vec<(u32, u32)> {
            let size = |number: u32| (257 + number + early).ilog2().clamp(8, 11) + 1;
            [(256, 9)].into_iter().chain((0..count).map(|number| (number % 7, size(number)))).collect()
        };
        assert_eq!(inflate(&literals(4862), high_first, 4862), "none", "{high_first}");
        assert_eq!(inflate(&literals(4863), high_first, 4863), "corrupt", "{high_first}");
    }
}

#[test]
fn a_frame_of_zstandard_has_the_size_that_it_says() {
    // One segment of four bytes, in a raw block that is the last.
    let frame = |size| [b"\x28\xb5\x2f\xfd\x20".as_slice(), &[size], b"\x21\0\0\x07\x07\x07\x07"].concat();
    let inflate = |size| {
        let mut decoder = Decoder::new(Codec::Zstd, Blocks::of(1, 0)).expect("memory");
        decoder.decode(&frame(size), &mut [0; 4]).map_err(|error| error.reason())
    };
    assert_eq!(inflate(4), Ok(()));
    assert_eq!(inflate(5), Err("corrupt"));
}

#[test]
fn no_more_is_believed_of_a_chunk_than_its_bytes_can_need() {
    // Four pixels behind more and more of what gives none.
    let cases: [(u32, &[u8]); 2] = [(32773, &[128]), (5, &[0x80, 0x40, 0x20, 0x10, 0x08, 0x04, 0x02, 0x01, 0x00])];
    for (compression, nothing) in cases {
        let pixels = match compression {
            5 => codes(&[(256, 9), (7, 9), (7, 9), (7, 9), (7, 9)], true),
            _ => vec![3, 7, 7, 7, 7],
        };
        let picture = |idle: usize| {
            let data = [nothing.repeat(idle / nothing.len()), pixels.clone()].concat();
            decoded(&grey(&data, 2, 2, compression, &[]), 9, None).map(|image| image.as_bytes().to_vec())
        };
        assert_eq!(picture(900), Ok(vec![7; 12]), "{compression}");
        assert_eq!(picture(1100), Err(ImageError::Truncated { format: FORMAT }), "{compression}");
    }
}

#[test]
fn chunks_may_share_their_bytes_as_long_as_these_are_few() {
    let strips = |count: u32, data: &[u8], compression, length| {
        let (offsets, lengths) = (vec![8; count as usize], vec![length; count as usize]);
        let rows: [(u16, &[u32]); 3] =
            [(tags::ROWS_PER_STRIP, &[1]), (tags::STRIP_OFFSETS, &offsets), (tags::STRIP_BYTES, &lengths)];
        decoded(&grey(data, 64, count, compression, &rows), 1 << 20, None)
    };
    // Blank ones, stored once.
    let blank = strips(1000, &[257u32.wrapping_sub(64) as u8, 9], 32773, 2).expect("a picture");
    assert!(blank.as_bytes().iter().all(|&level| level == 9));
    // Of lengths that are too large only as much counts as can be needed.
    let packed = [&[193, 9][..], &[0; 5000]].concat();
    assert!(strips(100, &packed, 32773, 5000).is_ok());
    let mut allowance = Allowance::new(&[0; 1000], 10, 64);
    let all = 2 * (1000 + 10 * 64) + 10 * 1024;
    assert_eq!(allowance.spend(&vec![0; all]), Ok(()));
    assert_eq!(allowance.spend(&[0]), Err(ImageError::Wasteful { format: FORMAT }));
    // Fax lines that begin with an end of line in a megabyte of zeros.
    let fill = [vec![0; 4000], codes(&[(1, 12), (0b10011, 5)], true)].concat();
    let rows: [(u16, &[u32]); 4] = [
        (tags::ROWS_PER_STRIP, &[1]),
        (tags::STRIP_OFFSETS, &[8; 900]),
        (tags::STRIP_BYTES, &[4003; 900]),
        (tags::BITS, &[1]),
    ];
    assert_eq!(refused(&grey(&fill, 64, 900, 3, &rows)), "wasteful");
}

#[test]
fn the_chunks_of_all_planes_count() {
    let picture = |height: u32, planes: u32, compression| {
        let count = (height * planes) as usize;
        let (offsets, lengths, samples) = (vec![8; count], vec![2; count], [planes]);
        let rows: [(u16, &[u32]); 7] = [
            (tags::ROWS_PER_STRIP, &[1]),
            (tags::STRIP_OFFSETS, &offsets),
            (tags::STRIP_BYTES, &lengths),
            (tags::SAMPLES, &samples),
            (tags::BITS, &[8; 3][..planes as usize]),
            (tags::PHOTOMETRIC, if planes == 3 { &[2] } else { &[1] }),
            (PLANAR, &[2]),
        ];
        decoded(&grey(&[0, 9], 1, height, compression, &rows), 1 << 20, None).map_err(|error| error.reason())
    };
    assert!(picture(32_000, 1, 32773).is_ok());
    assert!(picture(10_000, 3, 32773).is_ok());
    assert_eq!(picture(11_000, 3, 32773).err(), Some("unsupported_variant"));
    // The set-up of these takes longer: what is in the strips is not looked at.
    for compression in [7, 34925, 50000] {
        assert_eq!(picture(16_500, 1, compression).err(), Some("unsupported_variant"));
        assert_ne!(picture(16_000, 1, compression).err(), Some("unsupported_variant"));
    }
}

#[test]
fn deep_grey_is_scaled_where_it_has_no_sign() {
    let bytes: Vec<u8> = [0x00ff_u16, 0x1234, 0xffff].iter().flat_map(|level| level.to_le_bytes()).collect();
    let image = decoded(&grey(&bytes, 3, 1, 1, &[(tags::BITS, &[16])]), 9, None).expect("a picture");
    assert_eq!(image.as_bytes(), [0, 0, 0, 0x12, 0x12, 0x12, 255, 255, 255]);
    let image = decoded(&grey(&[0xab, 0xcd, 0xef], 2, 1, 1, &[(tags::BITS, &[12])]), 9, None).expect("a picture");
    assert_eq!(image.as_bytes(), [0xab, 0xab, 0xab, 0xde, 0xde, 0xde]);
    let signed: [(u16, &[u32]); 2] = [(tags::BITS, &[16]), (tags::SAMPLE_FORMAT, &[2])];
    let bytes: Vec<u8> = [-5i16, 200, 300].iter().flat_map(|level| level.to_le_bytes()).collect();
    let image = decoded(&grey(&bytes, 3, 1, 1, &signed), 9, None).expect("a picture");
    assert_eq!(image.as_bytes(), [0, 0, 0, 200, 200, 200, 255, 255, 255]);
}

#[test]
fn fields_that_are_not_in_the_file_hide_the_rest_from_pillow_and_not_from_libtiff() {
    // The values of tag 270 would lie behind the end.
    let gap = |compression| {
        let mut bytes = grey(&[3, 1, 2, 3, 4], 2, 2, compression, &[(270, &[1, 2]), (tags::ROWS_PER_STRIP, &[2])]);
        let directory = u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]) as usize;
        // It comes before the strips then.
        let entries = &mut bytes[directory + 2..];
        let (strips, description) = (5 * 12, 7 * 12);
        let entry: Vec<u8> = entries[description..description + 12].to_vec();
        entries.copy_within(strips..description, strips + 12);
        entries[strips..strips + 12].copy_from_slice(&entry);
        entries[strips + 8..strips + 12].copy_from_slice(&u32::MAX.to_le_bytes());
        bytes
    };
    assert_eq!(refused(&gap(1)), "corrupt");
    assert!(decoded(&gap(32773), 9, None).is_ok());
}
