//! Pictures of every kind against what Pillow 13 makes of them, and files made to hurt.

use std::{fs, path::PathBuf};

use super::*;
use crate::preprocess::image::orientation::Orientation;

const LIMITS: Limits = Limits { max_pixels: 1_000_000, kept_modes: None };

fn folder() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/pictures/avif"))
}

fn fixture(name: &str) -> Vec<u8> {
    fs::read(folder().join(name)).unwrap()
}

/// The samples of a PNG, and how many a pixel has.
fn png(name: &str) -> (Vec<u8>, usize) {
    let mut reader = ::png::Decoder::new(std::io::Cursor::new(fixture(name))).read_info().unwrap();
    let mut samples = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut samples).unwrap();
    samples.truncate(info.buffer_size());
    (samples, info.color_type.samples())
}

/// The picture upright, three bytes a pixel, and its alpha.
fn upright(bytes: &[u8], kept_modes: Option<u8>) -> (Vec<u8>, Option<Vec<u8>>) {
    let Decoded { mut image, orientation } = decode(bytes, &Limits { kept_modes, ..LIMITS }, vec![99; 7]).unwrap();
    let alpha = image.mode.fourth().map(|alphas| alphas.iter().step_by(3).copied().collect());
    orientation.apply(&mut image, &mut Vec::new()).unwrap();
    (image.as_bytes().to_vec(), alpha)
}

fn refusal(bytes: &[u8]) -> ImageError {
    match decode(bytes, &LIMITS, Vec::new()) {
        Ok(_) => panic!("decoded"),
        Err(error) => error,
    }
}

#[test]
fn every_kind_is_to_the_byte_what_pillow_shows() {
    let mut kinds = 0;
    for entry in fs::read_dir(folder()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if !name.ends_with(".avif") {
            continue;
        }
        kinds += 1;
        let (expected, channels) = png(&format!("{name}.expected.png"));
        let pixels = expected.chunks_exact(channels);
        let colours: Vec<u8> = pixels.clone().flat_map(|pixel| &pixel[..3]).copied().collect();
        let (rgb, alpha) = upright(&fixture(&name), None);
        assert!(rgb == colours && alpha.is_none(), "{name}");
        let (rgb, alpha) = upright(&fixture(&name), Some(0));
        let alphas = (channels == 4).then(|| pixels.map(|pixel| pixel[3]).collect());
        assert!(rgb == colours && alpha == alphas, "{name} with its mode kept");
    }
    assert_eq!(kinds, 15, "the fixtures are whole");
}

#[test]
fn a_file_that_ends_too_early_is_refused_wherever_it_is_cut() {
    for name in ["rgba.avif", "sequence.avif", "lossless.avif"] {
        let whole = fixture(name);
        // Of a sequence all samples have to be there, though one is shown.
        for end in 0..whole.len() {
            assert!(decode(&whole[..end], &LIMITS, Vec::new()).is_err(), "{name} of {end} bytes");
        }
    }
}

#[test]
fn no_byte_that_is_changed_makes_it_panic() {
    for name in ["rgba.avif", "sequence.avif", "yuv420_12_bits_alpha.avif"] {
        let whole = fixture(name);
        for at in (0..whole.len().min(700)).step_by(5) {
            for value in [0, 0x7f, 0xff, whole[at] ^ 1] {
                let mut bytes = whole.clone();
                bytes[at] = value;
                let _ = decode(&bytes, &LIMITS, Vec::new());
                let _ = announced(&bytes);
            }
        }
    }
}

fn replace(bytes: &mut [u8], after: &[u8], skip: usize, value: &[u8]) {
    let at = bytes.windows(after.len()).position(|window| window == after).unwrap() + after.len() + skip;
    bytes[at..][..value.len()].copy_from_slice(value);
}

#[test]
fn the_size_counts_before_anything_is_decoded() {
    let mut bytes = fixture("yuv444.avif");
    replace(&mut bytes, b"ispe", 4, &[0, 0, 0xff, 0xff, 0, 0, 0xff, 0xff]);
    assert_eq!(refusal(&bytes).reason(), "too_many_pixels");
    replace(&mut bytes, b"ispe", 4, &[0; 8]);
    assert_eq!(refusal(&bytes).reason(), "no_pixels");
    // The data are of 33 x 21.
    replace(&mut bytes, b"ispe", 4, &[0, 0, 0, 8, 0, 0, 0, 8]);
    assert_eq!(refusal(&bytes).reason(), "corrupt");
    replace(&mut bytes, b"ispe", 4, &[0, 0, 0, 34, 0, 0, 0, 21]);
    assert_eq!(refusal(&bytes).reason(), "unsupported_variant");
}

#[test]
fn of_a_sequence_what_is_not_shown_is_sound_too() {
    let sequence = fixture("sequence.avif");
    let changed = |after: &[u8], skip, value: &[u8]| {
        let mut bytes = sequence.clone();
        replace(&mut bytes, after, skip, value);
        refusal(&bytes).reason()
    };
    // The handler of its items, a track without a number, the size of its second sample, chunks of no samples, runs that do not begin
    // with the first chunk; two edits, one that lasts no time.
    assert_eq!(changed(b"hdlr", 8, b"none"), "corrupt");
    assert_eq!(changed(b"tkhd\x01", 3 + 16, &[0; 4]), "corrupt");
    assert_eq!(changed(b"stsz", 12 + 4, &[0x7f; 4]), "truncated");
    assert_eq!(changed(b"stsc", 8 + 4, &[0; 4]), "corrupt");
    assert_eq!(changed(b"stsc", 8, &[0, 0, 0, 2]), "corrupt");
    assert_eq!(changed(b"elst", 4, &[0, 0, 0, 2]), "corrupt");
    assert_eq!(changed(b"elst", 8, &[0; 8]), "corrupt");
}

#[test]
fn properties_are_sound_wherever_they_belong() {
    let still = fixture("rgba.avif");
    for (after, skip, value) in [
        (b"pixi", 0, [1].as_slice()),
        (b"pixi", 4, &[9]),
        (b"ispe", 0, &[1]),
        (b"av1C", 0, &[0x80]),
        // More items than are described.
        (b"iinf", 4, &[0, 99]),
    ] {
        let mut bytes = still.clone();
        replace(&mut bytes, after, skip, value);
        assert_eq!(refusal(&bytes).reason(), "corrupt", "{}", String::from_utf8_lossy(after));
    }
    let mut endless = still;
    replace(&mut endless, b"auxiliary:alpha", 0, &[1]);
    assert_eq!(refusal(&endless).reason(), "corrupt");
    let turned = grid(&fixture("tile_64.avif"), (1, 1), (64, 64), 3);
    assert!(decode(&turned, &LIMITS, Vec::new()).is_ok());
    assert_eq!(refusal(&grid(&fixture("tile_64.avif"), (1, 1), (64, 64), 4)).reason(), "corrupt");
}

fn a_box(kind: &[u8; 4], body: &[u8]) -> Vec<u8> {
    [&(body.len() as u32 + 8).to_be_bytes(), &kind[..], body].concat()
}

/// A grid of `rows` x `columns` tiles, each the picture in `tile`, all of the same data.
fn grid(tile: &[u8], (rows, columns): (u8, u8), (width, height): (u16, u16), turns: u8) -> Vec<u8> {
    let container = Container::read(tile).unwrap();
    let tile_of = &container.colour.tiles[0];
    let data = tile_of.data[0];
    let count = u16::from(rows) * u16::from(columns);
    let b16 = |value: u16| value.to_be_bytes();
    let side = |value: u32| value.to_be_bytes();
    let info = |id: u16, kind: &[u8; 4]| a_box(b"infe", &[&[2, 0, 0, 0], &b16(id)[..], &[0, 0], kind, &[0]].concat());
    let ids = || 2..2 + count;
    let infos: Vec<u8> = ids().flat_map(|id| info(id, b"av01")).collect();
    let iinf = a_box(b"iinf", &[&[0; 4], &b16(count + 1)[..], &info(1, b"grid"), &infos].concat());
    let ispe = |width: u32, height: u32| a_box(b"ispe", &[&[0; 4], &side(width)[..], &side(height)].concat());
    let at = tile.windows(4).position(|window| window == b"av1C").unwrap();
    let properties = [
        ispe(width.into(), height.into()),
        ispe(tile_of.width, tile_of.height),
        a_box(b"av1C", &tile[at + 4..][..4]),
        a_box(b"irot", &[turns]),
    ];
    let associations: Vec<u8> = ids().flat_map(|id| [&b16(id)[..], &[2, 2, 0x83]].concat()).collect();
    let ipma = [&[0; 4], &u32::from(count + 1).to_be_bytes()[..], &[0, 1, 2, 1, 0x84], &associations].concat();
    let iprp = a_box(b"iprp", &[a_box(b"ipco", &properties.concat()), a_box(b"ipma", &ipma)].concat());
    let parts: Vec<u8> = ids().flat_map(b16).collect();
    let iref = a_box(b"iref", &[&[0; 4], &a_box(b"dimg", &[&b16(1)[..], &b16(count), &parts].concat())[..]].concat());
    let description = [&[0, 0, rows - 1, columns - 1], &b16(width)[..], &b16(height)].concat();
    let idat = a_box(b"idat", &[&description, data].concat());
    let place = |id: u16, offset: usize, length: usize| {
        [&b16(id)[..], &b16(1), &b16(0), &b16(1), &side(offset as u32), &side(length as u32)].concat()
    };
    let places: Vec<u8> = ids().flat_map(|id| place(id, 8, data.len())).collect();
    let iloc = a_box(b"iloc", &[&[1, 0, 0, 0, 0x44, 0], &b16(count + 1)[..], &place(1, 0, 8), &places].concat());
    let hdlr = a_box(b"hdlr", &[&[0; 8], &b"pict"[..], &[0; 13]].concat());
    let pitm = a_box(b"pitm", &[0, 0, 0, 0, 0, 1]);
    let meta = [&[0; 4], &hdlr[..], &pitm, &iloc, &iinf, &iprp, &iref, &idat].concat();
    [a_box(b"ftyp", b"avif\0\0\0\0avifmif1miaf"), a_box(b"meta", &meta)].concat()
}

#[test]
fn tiles_make_up_a_grid_and_what_sticks_out_is_cut() {
    let (tile, _) = upright(&fixture("tile_64.avif"), None);
    let bytes = grid(&fixture("tile_64.avif"), (2, 3), (150, 100), 0);
    let (rgb, _) = upright(&bytes, None);
    assert_eq!(rgb.len(), 150 * 100 * 3);
    for (at, pixel) in rgb.as_chunks::<3>().0.iter().enumerate() {
        let (x, y) = (at % 150 % 64, at / 150 % 64);
        assert_eq!(pixel, &tile[(y * 64 + x) * 3..][..3]);
    }
    let header = announced(&bytes).unwrap();
    assert_eq!((header.width, header.height, header.bits, header.times), (150, 100, 24, 2));
}

#[test]
fn tiles_that_do_not_make_up_a_grid_are_refused() {
    let tile = fixture("tile_64.avif");
    for (tiles, size) in [((1, 1), (65, 64)), ((1, 2), (64, 64)), ((2, 1), (64, 129))] {
        assert_eq!(refusal(&grid(&tile, tiles, size, 0)).reason(), "corrupt", "{tiles:?} {size:?}");
    }
    // Below the least side of a tile.
    assert_eq!(refusal(&grid(&fixture("yuv444.avif"), (1, 2), (60, 21), 0)).reason(), "corrupt");
    assert_eq!(refusal(&grid(&tile, (16, 16), (1000, 1000), 0)).reason(), "too_many_pixels");
}

#[test]
fn what_tiles_share_is_bounded() {
    let tile = fixture("lossless.avif");
    // Each of 255 tiles has nearly all of the file.
    assert_eq!(refusal(&grid(&tile, (1, 255), (33, 21), 0)).reason(), "wasteful");
}

#[test]
fn the_container_says_which_way_up_it_is() {
    use Orientation::*;
    let exif = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0";
    let xmp = b"tiff:Orientation=\"3\"".as_slice();
    let of = |turns: Option<u8>, axis: Option<u8>, exif, xmp| {
        let boxes = [turns.map(|turns| (*b"irot", vec![turns])), axis.map(|axis| (*b"imir", vec![axis]))];
        let boxes: Vec<_> = boxes.into_iter().flatten().collect();
        container::orientation(boxes.iter().map(|(kind, body)| (*kind, body.as_slice())), exif, xmp).unwrap()
    };
    for (turns, axis, expected) in [
        (None, None, Upright),
        (Some(0), None, Upright),
        (Some(1), None, Rotate270Clockwise),
        (Some(2), None, Rotate180),
        (Some(3), None, Rotate90Clockwise),
        (None, Some(0), FlipTopBottom),
        (None, Some(1), FlipLeftRight),
        (Some(1), Some(0), Transpose),
        (Some(1), Some(1), Transverse),
        (Some(2), Some(0), FlipLeftRight),
        (Some(2), Some(1), FlipTopBottom),
        (Some(3), Some(0), Transverse),
        (Some(3), Some(1), Transpose),
    ] {
        assert_eq!(of(turns, axis, None, None), expected, "{turns:?} {axis:?}");
    }
    let of_all = |boxes: &[(&[u8; 4], u8)]| {
        let boxes = boxes.iter().map(|(kind, body)| (**kind, std::slice::from_ref(body)));
        container::orientation(boxes, None, None).unwrap()
    };
    assert_eq!(of_all(&[(b"imir", 1), (b"imir", 0)]), FlipLeftRight);
    assert_eq!(of_all(&[(b"irot", 1), (b"irot", 3)]), Rotate270Clockwise);
    // Pillow overwrites what EXIF says, and then does not ask XMP.
    assert_eq!(of(None, None, Some(exif.as_slice()), None), Upright);
    assert_eq!(of(None, None, Some(exif.as_slice()), Some(xmp)), Upright);
    assert_eq!(of(None, None, None, Some(xmp)), Rotate180);
    assert_eq!(of(Some(1), None, Some(exif.as_slice()), Some(xmp)), Rotate270Clockwise);
}

#[test]
fn frames_that_are_never_shown_are_not_decoded() {
    let frame = [6 << 3 | 2, 1, 0x20];
    let few = frame.repeat(8);
    let many = frame.repeat(9);
    assert_eq!(obu::read(&few).unwrap_err().reason(), "corrupt");
    assert_eq!(obu::read(&many).unwrap_err().reason(), "unsupported_variant");
    assert_eq!(obu::read(Container::read(&fixture("yuv444.avif")).unwrap().colour.tiles[0].data[0]).unwrap().1, 1);
}

#[test]
fn layers_are_few_where_they_are_large() {
    let spent = |frames: &[(usize, u64)]| {
        let mut layers = Layers::new();
        frames.iter().try_for_each(|&(frames, area)| layers.spend(frames, area)).map_err(|error| error.reason())
    };
    // One frame each is no layer, whatever its size; eight of colours and of alpha are, in all.
    assert_eq!(spent(&[(1, 50_000_000); 2]), Ok(()));
    assert_eq!(spent(&[(4, 5_000_000)]), Ok(()));
    assert_eq!(spent(&[(8, 1_000_000); 2]), Ok(()));
    assert_eq!(spent(&[(8, 1_200_000); 2]), Err("wasteful"));
    assert_eq!(spent(&[(1, 50_000_000), (2, 50_000_000)]), Err("wasteful"));
}
