//! Pictures that are resized while they are decoded, against the same decoded whole: crops, refusals, and what is kept.

use std::cell::Cell;

use turbojpeg::{Compressor, Image, PixelFormat, Subsamp};

use super::*;
use crate::model::{immich::ImmichTransform, open_clip::ImageTransform};

fn of(preparation: &PicturePreparation, fast_decode: bool) -> ImageProcessor {
    let options = ImageOptions { exif_orientation: true, fast_decode, max_pixels: 50_000_000 };
    ImageProcessor::new(preparation, options).unwrap()
}

/// Each way to place a crop, growing and shrinking, filters of small and of large support; the sides of a picture decide the order of
/// the passes.
fn preparations() -> Vec<PicturePreparation> {
    let transformers = [
        r#"{"size": 40, "crop_size": 40}"#,
        r#"{"size": 24, "crop_size": {"height": 30, "width": 20}, "resample": 1}"#,
        r#"{"size": {"height": 50, "width": 21}, "do_center_crop": false, "resample": 2}"#,
        r#"{"size": {"height": 9, "width": 300}, "crop_size": 64, "resample": 4}"#,
    ]
    .map(|json| PicturePreparation::Transformers(PreprocessorConfig::from_json(json).unwrap()));
    let open_clip = |json| PicturePreparation::OpenClip(ImageTransform::from_json(json).unwrap());
    let within = open_clip(r#"{"size": [40, 30], "resize_mode": "longest", "fill_color": 7}"#);
    let (mean, std) = ([0.5; 3], [0.5; 3]);
    let immich = ImmichTransform { size: 33, squash: false, resample: Resample::Bicubic, mean, std };
    transformers.into_iter().chain([within, PicturePreparation::Immich(immich)]).collect()
}

/// Edges, slopes and noise: what up-sampling and rounding show.
fn pixels(width: usize, height: usize, channels: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed((width * height) as u64);
    let level = move |at: usize| {
        let (x, y, channel) = (at / channels % width, at / channels / width, at % channels);
        let slope = (x * (3 + channel) + y * 2) as u8;
        if x / 7 % 2 == y / 5 % 2 { slope } else { random.u8(..) / 4 + slope / 2 }
    };
    (0..width * height * channels).map(level).collect()
}

fn jpeg(width: usize, height: usize, subsampling: Subsamp, set: impl Fn(&mut Compressor)) -> Vec<u8> {
    let pixels = pixels(width, height, 3);
    let mut compressor = Compressor::new().unwrap();
    compressor.set_quality(90).unwrap();
    compressor.set_subsamp(subsampling).unwrap();
    set(&mut compressor);
    let image = Image { pixels: &pixels[..], width, pitch: width * 3, height, format: PixelFormat::RGB };
    compressor.compress_to_vec(image).unwrap()
}

/// The same with an EXIF block.
fn oriented(jpeg: &[u8], orientation: u8) -> Vec<u8> {
    let exif = [b"\xff\xe1\0\x22", &exif(orientation)[..]].concat();
    [&jpeg[..2], &exif, &jpeg[2..]].concat()
}

fn exif(orientation: u8) -> Vec<u8> {
    let entry = [0x12, 1, 3, 0, 1, 0, 0, 0, orientation, 0, 0, 0];
    [&b"Exif\0\0II*\0\x08\0\0\0\x01\0"[..], &entry, &[0; 4]].concat()
}

/// As a whole picture.
fn whole(processor: &mut ImageProcessor, bytes: &[u8]) -> Result<PixelBuf, ImageError> {
    let image = processor.decode(bytes)?;
    processor.crop(image)
}

/// Compares both ways with every preparation; tells whether none of them ever had a whole picture.
#[track_caller]
fn compare(what: &str, bytes: &[u8]) -> bool {
    let mut by_row = true;
    for preparation in preparations() {
        for fast_decode in [false, true] {
            let mut processor = of(&preparation, fast_decode);
            let crop = processor.process(bytes);
            by_row &= processor.scratch.pixels.capacity() == 0;
            let expected = whole(&mut processor, bytes);
            assert!(crop == expected, "{what}, fast: {fast_decode}, {preparation:?}: {:?}", crop.err());
        }
    }
    by_row
}

const SIZES: [(usize, usize); 5] = [(131, 97), (67, 230), (200, 31), (17, 9), (1, 3)];

#[test]
fn jpegs_of_every_kind_and_size_have_the_crops_of_the_whole() {
    use Subsamp::{Gray, Sub1x2, Sub2x1, Sub2x2, Sub4x1};
    for (width, height) in SIZES {
        for subsampling in [Subsamp::None, Sub2x1, Sub2x2, Sub1x2, Sub4x1, Gray] {
            let bytes = jpeg(width, height, subsampling, |_| ());
            assert!(compare(&format!("{width}x{height} {subsampling:?}"), &bytes));
        }
        let progressive = jpeg(width, height, Sub2x2, |compressor| compressor.set_progressive(true).unwrap());
        assert!(compare(&format!("{width}x{height}, progressive"), &progressive));
        let arithmetic = jpeg(width, height, Sub2x1, |compressor| compressor.set_arithmetic(true).unwrap());
        assert!(compare(&format!("{width}x{height}, arithmetic"), &arithmetic));
    }
    let lossless = jpeg(131, 97, Subsamp::None, |compressor| compressor.set_lossless(true).unwrap());
    assert!(!compare("lossless", &lossless));
    assert!(!compare("CMYK", &picture("coffee_cmyk.jpg")));
}

#[test]
fn pictures_are_turned_as_the_whole_is() {
    for orientation in 1..=8 {
        for (width, height) in [(131, 97), (67, 230), (230, 44)] {
            let bytes = oriented(&jpeg(width, height, Subsamp::Sub2x2, |_| ()), orientation);
            assert!(compare(&format!("{orientation} of {width}x{height}"), &bytes));
        }
    }
}

#[test]
fn the_fixtures_have_the_crops_of_the_whole() {
    let mut by_row = Vec::new();
    for entry in fs::read_dir(fixtures().join("images")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let mut processor = clip();
        let (bytes, mut fresh) = (picture(&name), clip());
        assert_eq!(processor.process(&bytes), whole(&mut fresh, &bytes), "{name}");
        if processor.scratch.pixels.capacity() == 0 {
            by_row.push(name);
        }
    }
    // All but what is CMYK, which of these pictures alone is none for `rows`, and what nothing resizes.
    for (end, count) in [(".jpg", 17), (".png", 13)] {
        assert_eq!(by_row.iter().filter(|name| name.ends_with(end)).count(), count, "{by_row:?}");
    }
}

fn png(size: (u32, u32), colour: ::png::ColorType, depth: ::png::BitDepth, filter: ::png::Filter) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = ::png::Encoder::new(&mut bytes, size.0, size.1);
    encoder.set_color(colour);
    encoder.set_depth(depth);
    encoder.set_filter(filter);
    if colour == ::png::ColorType::Indexed {
        encoder.set_palette(pixels(1 << depth as u8, 1, 3));
    }
    let row = (size.0 as usize * colour.samples() * depth as usize).div_ceil(8);
    let mut writer = encoder.write_header().unwrap();
    writer.write_image_data(&pixels(row, size.1 as usize, 1)).unwrap();
    drop(writer);
    bytes
}

/// The same with an EXIF block before the pixels, or behind them.
fn oriented_png(png: &[u8], orientation: u8, behind: bool) -> Vec<u8> {
    let at = if behind { png.len() - 12 } else { 33 };
    let body = &exif(orientation)[6..];
    let mut sum = flate2::Crc::new();
    sum.update(b"eXIf");
    sum.update(body);
    let chunk = [&(body.len() as u32).to_be_bytes()[..], b"eXIf", body, &sum.sum().to_be_bytes()].concat();
    [&png[..at], &chunk, &png[at..]].concat()
}

#[test]
fn pngs_of_every_kind_and_size_have_the_crops_of_the_whole() {
    use ::png::{BitDepth::*, ColorType::*, Filter};
    let kinds = [
        (Grayscale, One),
        (Grayscale, Two),
        (Grayscale, Four),
        (Grayscale, Eight),
        (Grayscale, Sixteen),
        (Indexed, One),
        (Indexed, Four),
        (Indexed, Eight),
        (Rgb, Eight),
        (Rgb, Sixteen),
        (GrayscaleAlpha, Eight),
        (Rgba, Eight),
        (Rgba, Sixteen),
    ];
    for (colour, depth) in kinds {
        for (width, height) in SIZES {
            let filter = if width > 100 { Filter::Paeth } else { Filter::Up };
            let bytes = png((width as u32, height as u32), colour, depth, filter);
            let by_row = compare(&format!("{width}x{height} {colour:?} {depth:?}"), &bytes);
            // open_clip resizes what has alpha, or pixels that cannot be mixed, as that.
            let is_kept = matches!((colour, depth), (Indexed | GrayscaleAlpha | Rgba, _) | (Grayscale, One));
            assert_eq!(by_row, !is_kept, "{width}x{height} {colour:?} {depth:?}");
        }
    }
    for orientation in 1..=8 {
        let bytes = png((131, 97), Rgb, Eight, Filter::Avg);
        for behind in [false, true] {
            assert!(compare(&format!("{orientation}"), &oriented_png(&bytes, orientation, behind)));
        }
    }
}

/// Both ways refuse and accept the same, with the same words.
#[track_caller]
fn judge(what: &str, bytes: &[u8]) {
    let json = r#"{"size": 16, "crop_size": {"height": 6, "width": 12}}"#;
    let mut processor = processor(json);
    assert_eq!(processor.process(bytes), whole(&mut processor, bytes), "{what}");
}

#[test]
fn wherever_a_file_is_cut_and_whatever_follows_it_is_judged_as_the_whole_is() {
    use Subsamp::{Sub2x1, Sub2x2};
    let small = jpeg(37, 75, Sub2x2, |_| ());
    let progressive = jpeg(37, 45, Sub2x1, |compressor| compressor.set_progressive(true).unwrap());
    let file = png((41, 31), ::png::ColorType::Rgb, ::png::BitDepth::Eight, ::png::Filter::Paeth);
    let turned = oriented_png(&file, 6, true);
    for (name, bytes) in [("JPEG", &small), ("progressive", &progressive), ("PNG", &file), ("turned", &turned)] {
        judge(name, bytes);
        for end in 0..bytes.len() {
            judge(&format!("{name} of {end}"), &bytes[..end]);
        }
    }
    // Without its end marker, and with other data behind the pixels.
    for end in small.len() - 40..small.len() - 1 {
        for rest in [&[0; 64][..], &[0x55; 64], b"\xff\xdb\0\x43\0", b"\xff\xda", b"\xff\xd0", b"\xff\xd9"] {
            judge(&format!("{end} and {rest:?}"), &[&small[..end], rest].concat());
        }
    }
}

#[test]
fn damage_is_judged_as_in_the_whole() {
    let mut random = fastrand::Rng::with_seed(19);
    let files = [
        jpeg(67, 130, Subsamp::Sub2x2, |_| ()),
        jpeg(130, 67, Subsamp::None, |_| ()),
        jpeg(67, 90, Subsamp::Sub2x2, |compressor| compressor.set_progressive(true).unwrap()),
        png((67, 90), ::png::ColorType::Rgb, ::png::BitDepth::Eight, ::png::Filter::Avg),
        png((67, 90), ::png::ColorType::Indexed, ::png::BitDepth::Four, ::png::Filter::NoFilter),
    ];
    for (number, file) in files.iter().enumerate() {
        for round in 0..300 {
            let mut bytes = file.clone();
            for _ in 0..random.usize(1..4) {
                let at = random.usize(2..bytes.len());
                bytes[at] = if random.bool() { 0xff } else { random.u8(..) };
            }
            judge(&format!("{number} {round}"), &bytes);
        }
    }
}

#[test]
fn a_limit_counts_before_a_row_is_decoded() {
    for name in ["cat_420.jpg", "astronaut.png"] {
        let bytes = picture(name);
        let image = clip().decode(&bytes).unwrap();
        let pixels = u64::from(image.width()) * u64::from(image.height());
        assert!(with_limit(pixels).process(&bytes).is_ok(), "{name}");
        assert_eq!(with_limit(pixels - 1).process(&bytes).unwrap_err().reason(), "too_many_pixels", "{name}");
    }
}

#[test]
fn a_picture_that_nobody_waits_for_is_given_up_among_its_rows() {
    for (name, by_row) in [("coffee_large.jpg", true), ("astronaut.png", true), ("coffee_cmyk.jpg", false)] {
        let bytes = picture(name);
        let asked = Cell::new(0);
        let most = if by_row { 3 } else { 1 };
        let is_wanted = || {
            asked.set(asked.get() + 1);
            asked.get() < most
        };
        let mut progress = Progress::new(&is_wanted);
        assert_eq!(clip().process_while(&bytes, &mut progress), Ok(None), "{name}");
        assert_eq!(asked.get(), most, "{name}");
        let mut progress = Progress::new(&|| true);
        assert_eq!(clip().process_while(&bytes, &mut progress), clip().process(&bytes).map(Some), "{name}");
        assert!(!progress.resize().is_zero() && !progress.is_resizing(), "{name}");
    }
}
