//! Strips as encoders write them, of other sizes, and damaged ones.

use super::*;

/// A strip of 20x16 pixels, a sample of colour for four of brightness, its tables, and the RGB that Pillow makes of it.
const TABLES: &[u8] = include_bytes!("../../../../../tests/fixtures/pictures/tiff_jpeg/tables.jpg");
const STRIP: &[u8] = include_bytes!("../../../../../tests/fixtures/pictures/tiff_jpeg/strip.jpg");
const PIXELS: &[u8] = include_bytes!("../../../../../tests/fixtures/pictures/tiff_jpeg/strip.rgb");

const LAYOUT: Layout =
    Layout { width: 20, rows: 16, samples: 3, colour: Colour::YcbcrToRgb { sampling: (2, 2) }, may_be_higher: false };

fn decoded(data: &[u8], layout: &Layout) -> Result<Vec<u8>, ImageError> {
    let mut out = vec![0x55; layout.width * layout.rows * layout.samples];
    decode(&Tables::read(TABLES)?, data, layout, &mut out).map(|()| out)
}

fn reason(data: &[u8], layout: &Layout) -> &'static str {
    decoded(data, layout).unwrap_err().reason()
}

/// Where the frame of the strip begins.
fn frame() -> usize {
    memmem::find(STRIP, &[0xff, 0xc0]).unwrap()
}

#[test]
fn a_strip_is_decoded_with_the_tables_of_the_directory() {
    assert_eq!(decoded(STRIP, &LAYOUT).unwrap(), PIXELS);
    assert_eq!(sampling(STRIP), Some((2, 2)));
    // Of another subsampling than the directory says.
    assert_eq!(reason(STRIP, &Layout { colour: Colour::YcbcrToRgb { sampling: (2, 1) }, ..LAYOUT }), "corrupt");
    assert_eq!(reason(STRIP, &Layout { colour: Colour::Plain, ..LAYOUT }), "corrupt");
}

#[test]
fn markers_do_not_say_what_the_samples_are() {
    // JFIF says YCbCr, Adobe's marker RGB.
    let adobe = *b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00";
    let jfif = *b"\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00";
    for marker in [&adobe[..], &jfif] {
        let strip = [&STRIP[..2], marker, &STRIP[2..]].concat();
        assert_eq!(decoded(&strip, &LAYOUT).unwrap(), PIXELS);
        let colours = |data: &[u8]| decoded(data, &Layout { colour: Colour::Ycbcr { sampling: (2, 2) }, ..LAYOUT });
        let stored = colours(STRIP).unwrap();
        assert_ne!(stored, PIXELS);
        assert_eq!(colours(&strip).unwrap(), stored);
    }
}

#[test]
fn a_smaller_jpeg_leaves_the_rest_black() {
    let out = decoded(STRIP, &Layout { width: 24, rows: 20, ..LAYOUT }).unwrap();
    for (y, row) in out.chunks(24 * 3).enumerate() {
        let (left, right) = row.split_at(60);
        assert!(right.iter().all(|&sample| sample == 0));
        assert_eq!(left, PIXELS.chunks(60).nth(y).unwrap_or(&[0; 60]), "row {y}");
    }
}

#[test]
fn rows_are_left_over_in_the_last_strip_only() {
    let short = Layout { rows: 10, ..LAYOUT };
    assert_eq!(reason(STRIP, &short), "corrupt");
    let last = Layout { may_be_higher: true, ..short };
    assert_eq!(decoded(STRIP, &last).unwrap(), PIXELS[..10 * 60]);
    assert_eq!(reason(STRIP, &Layout { width: 19, may_be_higher: true, ..LAYOUT }), "corrupt");
    // However high it says it is, no more of it is decoded than is seen: what is cut off is the rest of a picture.
    let mut strip = STRIP.to_vec();
    strip[frame() + 5..][..2].copy_from_slice(&[0xff, 0xff]);
    let whole = Whole::assemble(&Tables::default(), &strip, &last).unwrap();
    assert_eq!(Jpeg::open(&whole.bytes, FORMAT).unwrap().height, 10 + ROWS_BELOW);
}

#[test]
fn the_end_marker_may_lack_but_not_what_is_before_it() {
    let bare = STRIP.strip_suffix(&END).unwrap();
    assert_eq!(decoded(bare, &LAYOUT).unwrap(), PIXELS);
    for length in 0..bare.len() - 3 {
        assert!(matches!(reason(&STRIP[..length], &LAYOUT), "truncated" | "corrupt"), "{length}");
    }
    assert_eq!(reason(&bare[..bare.len() - 5], &LAYOUT), "truncated");
}

#[test]
fn what_the_directory_does_not_say_is_refused() {
    assert_eq!(reason(STRIP, &Layout { samples: 1, colour: Colour::Plain, ..LAYOUT }), "corrupt");
    let mut strip = STRIP.to_vec();
    strip[frame() + 4] = 12;
    assert_eq!(reason(&strip, &LAYOUT), "unsupported_variant");
    assert_eq!(Tables::read(STRIP).err().unwrap().reason(), "corrupt");
    assert_eq!(Tables::read(b"tables").err().unwrap().reason(), "corrupt");
    // A marker of no length, one that begins a picture, one that nobody knows.
    for marker in [&[0xff, 0xc4, 0, 0][..], &[0xff, 0xc0, 0, 2], &[0xff, 0x02, 0, 2], &[0xff, 0xd8]] {
        let tables = [&TABLES[..TABLES.len() - 2], marker, &END].concat();
        assert_eq!(Tables::read(&tables).err().map(|error| error.reason()), Some("corrupt"), "{marker:x?}");
    }
    let comment = [&TABLES[..TABLES.len() - 2], &[0xff, 0xfe, 0, 2], &END].concat();
    assert!(Tables::read(&comment).is_ok() && Tables::read(&TABLES[..TABLES.len() - 2]).is_ok());
    // A JPEG of its own needs no tables.
    let own = [&TABLES[..TABLES.len() - 2], &STRIP[2..]].concat();
    let mut out = vec![0; PIXELS.len()];
    decode(&Tables::default(), &own, &LAYOUT, &mut out).unwrap();
    assert_eq!(out, PIXELS);
}

#[test]
fn damage_is_decoded_or_refused() {
    let mut random = fastrand::Rng::with_seed(3);
    for _ in 0..2000 {
        let mut strip = STRIP.to_vec();
        for _ in 0..random.usize(1..4) {
            let at = random.usize(..strip.len());
            strip[at] = random.u8(..);
        }
        strip.truncate(random.usize(strip.len() / 2..=strip.len()));
        if let Ok(out) = decoded(&strip, &LAYOUT) {
            assert_eq!(out.len(), PIXELS.len());
        }
    }
}
