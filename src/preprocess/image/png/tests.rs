//! Files that are whole, cut, damaged and odd, made here; what is expected is what Pillow says of them.

use std::io::Write;

use flate2::{Compression, write::ZlibEncoder};

use super::{refusal::truncated, *};
use crate::preprocess::image::orientation::Orientation;

const LIMITS: Limits = Limits { max_pixels: 10_000, kept_modes: None };

fn chunk(name: &[u8; 4], body: &[u8]) -> Vec<u8> {
    let mut sum = flate2::Crc::new();
    sum.update(name);
    sum.update(body);
    [&(body.len() as u32).to_be_bytes()[..], name, body, &sum.sum().to_be_bytes()].concat()
}

fn deflated(rows: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(rows).expect("memory");
    encoder.finish().expect("memory")
}

/// A file of `width` x `height` with what is between its header and its pixels, their data, and what follows it.
struct File {
    size: (u32, u32),
    kind: Kind,
    interlaced: bool,
    before: Vec<u8>,
    data: Vec<Vec<u8>>,
    behind: Vec<u8>,
}

impl File {
    /// Of rows with their filters.
    fn new(size: (u32, u32), kind: Kind, rows: &[u8]) -> Self {
        let (data, behind) = (vec![deflated(rows)], chunk(b"IEND", b""));
        Self { size, kind, interlaced: false, before: Vec::new(), data, behind }
    }

    /// Two rows of one pixel of RGB.
    fn rgb() -> Self {
        Self::new((1, 2), (8, 2), &[0, 1, 2, 3, 0, 4, 5, 6])
    }

    fn bytes(&self) -> Vec<u8> {
        let (width, height) = (self.size.0.to_be_bytes(), self.size.1.to_be_bytes());
        let header = [&width[..], &height, &[self.kind.0, self.kind.1, 0, 0, self.interlaced.into()]].concat();
        let data: Vec<u8> = self.data.iter().flat_map(|data| chunk(b"IDAT", data)).collect();
        [b"\x89PNG\r\n\x1a\n", &chunk(b"IHDR", &header)[..], &self.before, &data, &self.behind].concat()
    }

    fn pixels(&self) -> Result<Vec<u8>, ImageError> {
        pixels(&self.bytes())
    }

    fn mode(&self, fill: u8) -> Mode {
        let limits = Limits { kept_modes: Some(fill), ..LIMITS };
        decode(&self.bytes(), &limits, Vec::new()).expect("a picture").image.mode
    }

    fn reason(&self) -> &'static str {
        self.pixels().map_or_else(|error| error.reason(), |_| "none")
    }
}

fn pixels(bytes: &[u8]) -> Result<Vec<u8>, ImageError> {
    decode(bytes, &LIMITS, Vec::new()).map(|decoded| decoded.image.as_bytes().to_vec())
}

const RGB: [u8; 6] = [1, 2, 3, 4, 5, 6];

#[test]
fn every_kind_becomes_rgb() {
    for (kind, row, expected) in [
        ((1, 0), &[0b1000_0000][..], [255, 255, 255, 0, 0, 0]),
        ((2, 0), &[0b0110_0000], [85, 85, 85, 170, 170, 170]),
        ((4, 0), &[0x1f], [17, 17, 17, 255, 255, 255]),
        ((8, 0), &[1, 2], [1, 1, 1, 2, 2, 2]),
        ((16, 0), &[1, 99, 2, 99], [1, 1, 1, 2, 2, 2]),
        ((8, 2), &[1, 2, 3, 4, 5, 6], RGB),
        ((16, 2), &[1, 9, 2, 9, 3, 9, 4, 9, 5, 9, 6, 9], RGB),
        ((8, 4), &[1, 0, 2, 255], [1, 1, 1, 2, 2, 2]),
        ((16, 4), &[1, 9, 0, 9, 2, 9, 255, 9], [1, 1, 1, 2, 2, 2]),
        ((8, 6), &[1, 2, 3, 0, 4, 5, 6, 255], RGB),
        ((16, 6), &[1, 9, 2, 9, 3, 9, 0, 9, 4, 9, 5, 9, 6, 9, 255, 9], RGB),
    ] {
        let file = File::new((2, 1), kind, &[&[0], row].concat());
        assert_eq!(file.pixels(), Ok(expected.to_vec()), "{kind:?}");
        let mode = match kind {
            (1, _) => Mode::bilevel(7),
            (_, 4 | 6) => Mode::Alpha(vec![0, 0, 0, 255, 255, 255]),
            _ => Mode::Plain,
        };
        assert_eq!(file.mode(7), mode, "{kind:?}");
    }
    assert_eq!(File::new((2, 1), (4, 2), &[0; 9]).reason(), "corrupt");
    assert_eq!(File::new((1, 1), (8, 6), &[0, 1, 2, 3, 255]).mode(0), Mode::Plain);
}

#[test]
fn a_colour_that_the_palette_lacks_is_black() {
    let file = |palette: Option<&[u8]>| {
        let before = palette.map(|palette| chunk(b"PLTE", palette)).unwrap_or_default();
        File { before, ..File::new((2, 1), (8, 3), &[0, 0, 1]) }
    };
    assert_eq!(file(Some(&RGB)).pixels(), Ok(RGB.to_vec()));
    assert_eq!(file(Some(&RGB[..5])).pixels(), Ok(vec![1, 2, 3, 0, 0, 0]));
    assert_eq!(file(None).pixels(), Ok(vec![0; 6]));
    assert_eq!(file(Some(&RGB)).mode(1), Mode::Stepped { fill: [4, 5, 6] });
    assert_eq!(file(Some(&[1; 256 * 3])).pixels(), Ok(vec![1; 6]));
    assert_eq!(file(Some(&[1; 257 * 3])).reason(), "corrupt");
    let mut late = file(None);
    late.behind = chunk(b"PLTE", &RGB);
    assert_eq!(late.pixels(), Ok(vec![0; 6]));
}

#[test]
fn interlaced_pixels_come_to_their_places() {
    // Of 3 x 3 the passes hold (0, 0); (2, 0); (0, 2), (2, 2); (1, 0), (1, 2); and the second row.
    let rows = [0, 10, 0, 12, 0, 30, 32, 0, 11, 0, 31, 0, 20, 21, 22];
    let file = File { interlaced: true, ..File::new((3, 3), (8, 0), &rows) };
    let expected = [10u8, 11, 12, 20, 21, 22, 30, 31, 32].into_iter().flat_map(|grey| [grey; 3]);
    assert_eq!(file.pixels(), Ok(expected.collect()));
    // A filter does not look up into the pass before.
    let rows = [0, 10, 2, 12, 0, 30, 32, 2, 11, 2, 20, 0, 20, 21, 22];
    let file = File { interlaced: true, ..File::new((3, 3), (8, 0), &rows) };
    let expected = [10u8, 11, 12, 20, 21, 22, 30, 31, 32].into_iter().flat_map(|grey| [grey; 3]);
    assert_eq!(file.pixels(), Ok(expected.collect()));
}

#[test]
fn pixels_are_whole_with_their_last_row() {
    let bytes = File::rgb().bytes();
    let data = bytes.len() - 12 - 4;
    // Without the end, and without sums.
    for end in [bytes.len() - 12, data, data - 4] {
        assert_eq!(pixels(&bytes[..end]), Ok(RGB.to_vec()), "{end}");
    }
    for end in 8..data - 6 {
        assert_eq!(pixels(&bytes[..end]), Err(truncated()), "{end}");
    }
    let mut longer = File::new((1, 2), (8, 2), &[0, 1, 2, 3, 0, 4, 5, 6, 0, 7, 8, 9]);
    longer.behind = b"what is no chunk ends the file".to_vec();
    assert_eq!(longer.pixels(), Ok(RGB.to_vec()));
    // What is announced has to be there.
    longer.behind = b"\0\0\0\x09tEXt1234".to_vec();
    assert_eq!(longer.pixels(), Err(truncated()));
}

#[test]
fn a_stream_that_ends_with_a_row_leaves_the_others_zero() {
    let mut file = File { size: (1, 3), ..File::rgb() };
    assert_eq!(file.pixels(), Ok([&RGB[..], &[0; 3]].concat()));
    // Pillow knows the end only where its sum is at hand.
    let end = file.data[0].len();
    let sum = file.data[0].split_off(end - 4);
    file.data.push(sum);
    assert_eq!(file.pixels(), Err(truncated()));
    assert_eq!(File::new((1, 3), (8, 2), &[0, 1, 2, 3, 0, 4, 5]).pixels(), Err(truncated()));
    assert_eq!(File::new((1, 3), (8, 2), &[]).pixels(), Err(truncated()));
}

#[test]
fn sums_count_where_pillow_looks_at_them() {
    let mut file = File::rgb();
    let at = file.data[0].len() - 1;
    file.data[0][at] ^= 1;
    assert_eq!(file.reason(), "corrupt");
    let sum = file.data[0].split_off(at - 3);
    file.data.push(sum);
    assert_eq!(file.pixels(), Ok(RGB.to_vec()));
    // Of chunks only before the pixels.
    let mut wrong = chunk(b"tEXt", b"a\0b");
    *wrong.last_mut().unwrap() ^= 1;
    assert_eq!(File { before: wrong.clone(), ..File::rgb() }.reason(), "corrupt");
    assert_eq!(File { behind: wrong, ..File::rgb() }.pixels(), Ok(RGB.to_vec()));
    let mut bytes = File::rgb().bytes();
    let data_sum = bytes.len() - 13;
    bytes[data_sum] ^= 1;
    assert_eq!(pixels(&bytes), Ok(RGB.to_vec()));
}

#[test]
fn data_in_many_chunks_is_one_stream_and_nothing_lies_between() {
    let mut file = File::rgb();
    let whole = file.data.remove(0);
    file.data = whole.chunks(1).map(<[u8]>::to_vec).collect();
    file.data.insert(3, Vec::new());
    assert_eq!(file.pixels(), Ok(RGB.to_vec()));
    file.data.truncate(5);
    file.behind = [chunk(b"tEXt", b"a\0b"), chunk(b"IDAT", &whole[4..])].concat();
    assert_eq!(file.pixels(), Err(truncated()));
}

#[test]
fn large_pictures_are_inflated_by_the_piece() {
    let row: Vec<u8> = (0..3000u32).map(|i| ((i * i) >> 4) as u8).collect();
    let rows: Vec<u8> = (0..300).flat_map(|y| [&[2, y as u8], &row[1..]].concat()).collect();
    let mut file = File::new((1000, 300), (8, 2), &rows);
    let limits = Limits { max_pixels: 300_000, kept_modes: None };
    let mut expected: Vec<u8> = Vec::new();
    let mut above = vec![0u8; 3000];
    for line in rows.chunks(3001) {
        above = above.iter().zip(&line[1..]).map(|(above, value)| above.wrapping_add(*value)).collect();
        expected.extend(&above);
    }
    let decoded = decode(&file.bytes(), &limits, Vec::new()).unwrap();
    assert!(decoded.image.as_bytes() == expected);
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::none());
    encoder.write_all(&rows).unwrap();
    file.data = encoder.finish().unwrap().chunks(70_000).map(<[u8]>::to_vec).collect();
    assert!(decode(&file.bytes(), &limits, vec![9; 1_000_000]).unwrap().image.as_bytes() == expected);
}

#[test]
fn the_header_comes_first_and_once() {
    let header = chunk(b"IHDR", &[0, 0, 0, 1, 0, 0, 0, 2, 8, 2, 0, 0, 0]);
    assert_eq!(File { before: header.clone(), ..File::rgb() }.reason(), "corrupt");
    let mut bytes = File::rgb().bytes();
    let text = chunk(b"tEXt", b"a\0b");
    bytes.splice(8..8, text);
    assert_eq!(pixels(&bytes).unwrap_err().reason(), "corrupt");
    assert_eq!(File { behind: header, ..File::rgb() }.pixels(), Ok(RGB.to_vec()));
}

#[test]
fn chunks_that_pillow_wants_longer_or_in_order_are_refused() {
    let frame = |sequence: u8, width: u8, height: u8, top: u8| {
        let sides = [[0, 0, 0, width], [0, 0, 0, height], [0; 4], [0, 0, 0, top]].concat();
        chunk(b"fcTL", &[&[0, 0, 0, sequence][..], &sides, &[0; 6]].concat())
    };
    for (before, reason) in [
        (chunk(b"gAMA", &[0; 4]), "none"),
        (chunk(b"gAMA", &[0; 3]), "corrupt"),
        (chunk(b"tRNS", &[0; 6]), "none"),
        (chunk(b"tRNS", &[0; 5]), "corrupt"),
        (chunk(b"zTXt", b"a\0\x01b"), "corrupt"),
        (chunk(b"iCCP", b"a\0\0b"), "none"),
        (chunk(b"iCCP", b"a\0\x01b"), "corrupt"),
        (chunk(b"ABCD", b"unknown"), "none"),
        (chunk(b"a-cd", b"no name"), "truncated"),
        (chunk(b"IEND", b""), "corrupt"),
        (frame(0, 1, 2, 0), "none"),
        (frame(1, 1, 2, 0), "corrupt"),
        (frame(0, 1, 2, 1), "corrupt"),
        (frame(0, 0, 1, 0), "corrupt"),
    ] {
        let file = File { before, ..File::rgb() };
        assert_eq!(file.reason(), reason, "{:?}", file.before);
    }
    // A frame that is smaller than the picture is all there is of it.
    let file = File { size: (1, 3), before: frame(0, 1, 2, 1), ..File::rgb() };
    assert_eq!(file.pixels(), Ok([&[0; 3], &RGB[..]].concat()));
}

#[test]
fn the_orientation_is_found_in_every_chunk_that_may_tell_it() {
    let exif = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";
    let hexadecimal: String = exif.iter().map(|byte| format!("{byte:02x}")).collect();
    let profile = format!("\nexif\n      26\n{hexadecimal}\n");
    let xmp = b"<x tiff:Orientation=\"6\"/>";
    let keyed = |keyword: &[u8], rest: &[u8], text: &[u8]| [keyword, rest, text].concat();
    const RAW: &[u8] = b"Raw profile type exif";
    const XMP: &[u8] = b"XML:com.adobe.xmp";
    for chunk in [
        chunk(b"eXIf", exif),
        chunk(b"tEXt", &keyed(b"exif", b"\0", exif)),
        chunk(b"tEXt", &keyed(RAW, b"\0", profile.as_bytes())),
        chunk(b"zTXt", &keyed(RAW, b"\0\0", &deflated(profile.as_bytes()))),
        chunk(b"iTXt", &keyed(XMP, b"\0\0\0\0\0", xmp)),
        chunk(b"iTXt", &keyed(XMP, b"\0\x01\0en\0\0", &deflated(xmp))),
    ] {
        for file in [
            File { before: chunk.clone(), ..File::rgb() },
            File { behind: [&chunk[..], &File::rgb().behind].concat(), ..File::rgb() },
        ] {
            let decoded = decode(&file.bytes(), &LIMITS, Vec::new()).expect("a picture");
            assert_eq!(decoded.orientation, Orientation::Rotate90Clockwise, "{:?}", String::from_utf8_lossy(&chunk));
        }
    }
    let bomb = chunk(b"zTXt", &keyed(RAW, b"\0\0", &deflated(&vec![b'0'; 3 << 20])));
    assert_eq!(File { before: bomb, ..File::rgb() }.reason(), "too_much_memory");
    let damaged = chunk(b"zTXt", &keyed(RAW, b"\0\0", b"damaged"));
    assert_eq!(File { before: damaged, ..File::rgb() }.pixels(), Ok(RGB.to_vec()));
}

#[test]
fn blocks_that_hold_nothing_are_read_as_far_as_their_bytes_may_go() {
    let file = |blocks: usize| {
        // Stored blocks of no bytes, then a stored one of the rows.
        let rows = [0, 1, 2, 3, 0, 4, 5, 6];
        let mut stream =
            [&[0x78, 1][..], &[0, 0, 0, 0xff, 0xff].repeat(blocks), &[1, 8, 0, 0xf7, 0xff], &rows].concat();
        let (low, high) =
            rows.iter().fold((1u32, 0u32), |(low, high), &byte| (low + u32::from(byte), high + low + u32::from(byte)));
        stream.extend((high << 16 | low).to_be_bytes());
        File { data: vec![stream], ..File::rgb() }
    };
    assert_eq!(file(200_000).pixels(), Ok(RGB.to_vec()));
    assert_eq!(file(220_000).reason(), "wasteful");
    // What follows the last row is not read.
    let mut longer = File::rgb();
    longer.data.push(vec![0; 3 << 20]);
    assert_eq!(longer.pixels(), Ok(RGB.to_vec()));
}

/// A stream of blocks without a byte, and a last one of [`RGB`]'s rows. Each of them has tables of its own: a code for the end alone, as few
/// make it, or one for a level besides.
fn blocks_of_nothing(count: usize, odd: bool) -> Vec<u8> {
    let mut bits = Vec::new();
    let mut put = |value: u32, count: u32| bits.extend((0..count).map(|bit| value >> bit & 1 == 1));
    for _ in 0..count {
        // Not the last; dynamic; 257 and 1 codes, lengths of 18 for their lengths.
        put(0, 1);
        put(2, 2);
        put(0, 5);
        put(0, 5);
        put(14, 4);
        // In the order 16, 17, 18, 0, ..., 1: 18 has one bit, 0 and 1 have two.
        for length in [0, 0, 1, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2] {
            put(length, 3);
        }
        // Zeros as 138 and the others, ones, a zero; codes begin with their highest bit.
        put(0, 1);
        put(127, 7);
        put(0, 1);
        put(if odd { 107 } else { 106 }, 7);
        if !odd {
            put(0b11, 2);
        }
        put(0b11, 2);
        put(0b01, 2);
        // The end.
        put(u32::from(!odd), 1);
    }
    // The last; stored.
    put(1, 3);
    let header: Vec<u8> =
        bits.chunks(8).map(|bits| bits.iter().enumerate().map(|(place, &bit)| u8::from(bit) << place).sum()).collect();
    let rows = [0, 1, 2, 3, 0, 4, 5, 6];
    let whole = deflated(&rows);
    let sum = &whole[whole.len() - 4..];
    [&[0x78, 1][..], &header, &[8, 0, 0xf7, 0xff], &rows, sum].concat()
}

#[test]
fn codes_that_zlib_knows_are_read() {
    assert_eq!(File { data: vec![blocks_of_nothing(1, true)], ..File::rgb() }.pixels(), Ok(RGB.to_vec()));
}

/// In [`RGB`]'s rows there are eight bytes.
#[test]
fn blocks_with_tables_are_read_however_many_there_are() {
    for odd in [false, true] {
        let file = File { data: vec![blocks_of_nothing(50_000, odd)], ..File::rgb() };
        assert_eq!(file.pixels(), Ok(RGB.to_vec()), "{odd}");
    }
    for blocks in [&PAIRS[..], &CODES] {
        let file = File { data: vec![tables(blocks, 500_000)], ..File::rgb() };
        assert_eq!(file.pixels(), Ok(RGB.to_vec()), "{blocks:?}");
    }
}

/// What zlib makes of 200 rows of three zeros and their filters: one zero, and copies of 258 bytes, 258, 258 and 25.
const FLAT: [u8; 16] = *b"\x78\xda\x63\x60\x18\x05\xa3\x60\x14\xe0\x02\x00\x03\x20\x00\x01";

#[test]
fn rows_that_the_last_copy_leaves_over_need_more_data() {
    for end in 0..=FLAT.len() {
        let file = File { data: vec![FLAT[..end].to_vec()], ..File::new((3, 200), (8, 0), &[]) };
        // With eleven bytes zlib has made all rows, but Pillow has no byte left to ask it with.
        let expected = if end < 12 { Err(truncated()) } else { Ok(vec![0; 1800]) };
        assert_eq!(file.pixels(), expected, "{end}");
        let split = File { data: vec![FLAT[..end].to_vec(), FLAT[end..].to_vec()], ..file };
        assert_eq!(split.pixels(), Ok(vec![0; 1800]), "{end}");
    }
}

#[test]
fn the_end_of_a_stream_counts_where_pillow_meets_it() {
    let stream = File::rgb().data.remove(0);
    let mut wrong = stream.clone();
    *wrong.last_mut().expect("a checksum") ^= 1;
    let split = |stream: &[u8], at| vec![stream[..at].to_vec(), stream[at..].to_vec()];
    // Of the sixteen bytes of the stream the last row needs eleven.
    for at in 0..=16 {
        let short = File { size: (1, 3), data: split(&stream, at), ..File::rgb() };
        let zeros = Ok([&RGB[..], &[0; 3]].concat());
        assert_eq!(short.pixels(), if (11..16).contains(&at) { Err(truncated()) } else { zeros }, "{at}");
        let wrong = File { data: split(&wrong, at), ..File::rgb() };
        assert_eq!(wrong.reason(), if (11..16).contains(&at) { "none" } else { "corrupt" }, "{at}");
    }
}

/// Whether the fast inflater is given time or not.
#[test]
fn an_answer_does_not_depend_on_time() {
    let at_once = |bytes: &[u8]| decode_with(bytes, &LIMITS, Vec::new(), Patience::NONE);
    let whole = |decoded: Result<Decoded, ImageError>| decoded.map(|decoded| (decoded.image.data, decoded.orientation));
    let rows: Vec<u8> = (0..40u32).flat_map(|y| [&[2, y as u8 / 3][..], &[((y * y) >> 5) as u8; 9]].concat()).collect();
    let made = File::new((10, 40), (8, 0), &rows);
    let mut pieces = File { data: made.data[0].chunks(7).map(<[u8]>::to_vec).collect(), ..File::rgb() };
    (pieces.size, pieces.kind) = (made.size, made.kind);
    let flat = File { data: vec![FLAT.to_vec()], ..File::new((3, 200), (8, 0), &[]) };
    let tables = File { data: vec![blocks_of_nothing(2, false)], ..File::rgb() };
    for file in [File::rgb(), made, pieces, flat, tables] {
        let bytes = file.bytes();
        assert!(at_once(&bytes).is_ok());
        for place in 8..bytes.len() {
            assert_eq!(whole(decode(&bytes[..place], &LIMITS, Vec::new())), whole(at_once(&bytes[..place])), "{place}");
            for bit in 0..8 {
                let mut bytes = bytes.clone();
                bytes[place] ^= 1 << bit;
                assert_eq!(whole(decode(&bytes, &LIMITS, Vec::new())), whole(at_once(&bytes)), "{place}, {bit}");
            }
        }
    }
}

/// A block of no bytes: 63 levels and the end have codes of six bits, so that the fast inflater makes 4,096 entries for two levels at once.
const PAIRS: [u8; 13] = *b"\x04\x80\x02\x0d\xc0\xfa\xc7\xba\x6d\xdb\xb6\x8d\xfd";

/// Two blocks of no bytes, with codes for all that there may be.
const CODES: [u8; 59] =
    *b"\xec\x1d\x03\x60\x18\x30\x6c\xb6\x6d\xdb\xb6\x6d\xdb\xb6\x6d\xdb\xb6\x6d\xdb\xb6\x6d\xdc\xb6\x6d\xdb\xac\x6d\
    \x23\x79\xc4\xde\x31\x00\x86\x01\xc3\x66\xdb\xb6\x6d\xdb\xb6\x6d\xdb\xb6\x6d\xdb\xb6\x6d\xdb\xc6\x6d\xdb\xb6\
    \xcd\xda\x36\x92\x47";

/// Blocks of no bytes, so many bytes of them, and a last one of [`RGB`]'s rows.
fn tables(blocks: &[u8], bytes: usize) -> Vec<u8> {
    let last = blocks_of_nothing(0, false);
    [&last[..2], &blocks.repeat(bytes / blocks.len()), &last[2..]].concat()
}

#[test]
#[ignore = "prints how long a byte of blocks takes that are tables alone"]
fn tables_alone() {
    const BYTES: usize = 1 << 20;
    for (name, blocks) in [("pairs", &PAIRS[..]), ("codes", &CODES)] {
        let stream = tables(blocks, BYTES);
        let file = File { data: vec![stream.clone()], ..File::rgb() }.bytes();
        let took = |work: &dyn Fn()| {
            let started = std::time::Instant::now();
            work();
            started.elapsed().as_nanos() as usize / BYTES
        };
        let zlib = took(&|| assert!(decode_with(&file, &LIMITS, Vec::new(), Patience::NONE).is_ok()));
        let fast = took(&|| assert!(fdeflate::decompress_to_vec(&stream).is_ok()));
        let both = took(&|| assert!(decode(&file, &LIMITS, Vec::new()).is_ok()));
        println!("{name}: {zlib} ns by zlib's inflater, {fast} by the fast one, {both} by both in turn");
    }
}
