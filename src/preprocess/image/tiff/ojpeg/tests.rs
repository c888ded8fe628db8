//! Old JPEG put together, from each of the ways to store it.

use super::*;

const TABLES: &[u8] = include_bytes!("../../../../../tests/fixtures/pictures/tiff_jpeg/tables.jpg");
const STRIP: &[u8] = include_bytes!("../../../../../tests/fixtures/pictures/tiff_jpeg/strip.jpg");

fn decoded(old: &OldJpeg<'_>) -> Result<Vec<u8>, ImageError> {
    let mut out = vec![0x55; 20 * 16 * 3];
    decode(old, &mut out).map(|()| out)
}

/// The same by compression 7.
fn expected() -> Vec<u8> {
    let colour = Colour::Ycbcr { sampling: (2, 2) };
    let layout = Layout { width: 20, rows: 16, samples: 3, colour, may_be_higher: false };
    let mut out = vec![0; 20 * 16 * 3];
    jpeg::decode(&Tables::read(TABLES).unwrap(), STRIP, &layout, &mut out).unwrap();
    out
}

fn of(file: &[u8]) -> OldJpeg<'_> {
    OldJpeg {
        file,
        width: 20,
        height: 16,
        rows_per_strip: 16,
        sampling: (2, 2),
        interchange: None,
        restart_interval: 0,
        quantisation: &[],
        dc: &[],
        ac: &[],
        strips: &[],
    }
}

/// A JPEG behind some bytes, and where its pixels begin.
fn whole() -> (Vec<u8>, u64) {
    let jpeg = [b"II*\0", &TABLES[..TABLES.len() - 2], &STRIP[2..]].concat();
    let scan = jpeg.windows(2).position(|marker| marker == [0xff, 0xda]).unwrap();
    (jpeg, scan as u64 + 14)
}

#[test]
fn a_whole_jpeg_is_decoded_wherever_it_is_said_to_be() {
    let (file, _) = whole();
    let expected = expected();
    let length = file.len() as u64 - 4;
    assert_eq!(decoded(&OldJpeg { strips: &[(4, length)], ..of(&file) }).unwrap(), expected);
    assert_eq!(decoded(&OldJpeg { interchange: Some((4, 0)), ..of(&file) }).unwrap(), expected);
    let twice = OldJpeg { interchange: Some((4, length)), strips: &[(4, length)], ..of(&file) };
    assert_eq!(decoded(&twice).unwrap(), expected);
}

#[test]
fn a_header_and_its_pixels_may_lie_apart() {
    let (file, pixels) = whole();
    let apart = OldJpeg { interchange: Some((4, pixels - 4)), strips: &[(pixels, 0)], ..of(&file) };
    assert_eq!(decoded(&apart).unwrap(), expected());
}

#[test]
fn tables_are_where_the_directory_says() {
    let (file, pixels) = whole();
    let place = |marker: &[u8]| file.windows(marker.len()).position(|bytes| bytes == marker).unwrap() as u64;
    let (first, second) = (place(b"\xff\xdb\0\x43\0") + 5, place(b"\xff\xdb\0\x43\x01") + 5);
    let codes = [0x00, 0x01, 0x10, 0x11].map(|which| {
        let at = (0..file.len() - 5).find(|&at| file[at..at + 2] == [0xff, 0xc4] && file[at + 4] == which);
        at.unwrap() as u64 + 5
    });
    let quantisation = [first, second, second];
    let (dc, ac) = ([codes[0], codes[1], codes[1]], [codes[2], codes[3], codes[3]]);
    let strips = [(pixels, 0)];
    let old = OldJpeg { quantisation: &quantisation, dc: &dc, ac: &ac, strips: &strips, ..of(&file) };
    assert_eq!(decoded(&old).unwrap(), expected());
    assert_eq!(decoded(&OldJpeg { ac: &[], ..old }).unwrap_err().reason(), "corrupt");
}

#[test]
fn what_is_not_there_is_refused() {
    let (file, _) = whole();
    let reason = |old: &OldJpeg<'_>| decoded(old).unwrap_err().reason();
    assert_eq!(reason(&of(&file)), "truncated");
    assert_eq!(reason(&OldJpeg { strips: &[(u64::MAX, 1)], ..of(&file) }), "truncated");
    assert_eq!(reason(&OldJpeg { width: 1, strips: &[(4, 0)], ..of(&file) }), "corrupt");
    // Strips that lie in each other a thousand times.
    assert_eq!(reason(&OldJpeg { strips: &[(4, 0); 1000], ..of(&file) }), "too_much_memory");
    for length in 5..file.len() - 8 {
        assert!(decoded(&OldJpeg { strips: &[(4, 0)], ..of(&file[..length]) }).is_err(), "{length}");
    }
}
