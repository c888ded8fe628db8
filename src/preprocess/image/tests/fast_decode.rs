//! `preprocess.fast_decode`: within its bound of the reference's crops, and with the reference's refusals.

use super::*;
use crate::preprocess::image::reduction::{MAX_DIFFERENCE, MAX_MEAN_DIFFERENCE, MAX_MEAN_DIFFERENCE_DITHERED};

/// A processor for crops of that size.
fn edge(edge: u32, fast_decode: bool) -> ImageProcessor {
    let options = ImageOptions { exif_orientation: true, fast_decode, max_pixels: 50_000_000 };
    let json = format!(r#"{{"size": {edge}, "crop_size": {edge}}}"#);
    ImageProcessor::new(&PicturePreparation::Transformers(PreprocessorConfig::from_json(&json).unwrap()), options)
        .unwrap()
}

/// The JPEGs among the fixtures, and their other pictures as JPEGs, also one row and column smaller.
fn jpegs() -> Vec<(String, Vec<u8>)> {
    let names = fs::read_dir(fixtures().join("images")).unwrap().map(|entry| entry.unwrap().file_name());
    let mut jpegs = Vec::new();
    for name in names.map(|name| name.into_string().unwrap()) {
        let bytes = picture(&name);
        if name.ends_with(".jpg") {
            jpegs.push((name, bytes));
        } else if let Ok(image) = clip().decode(&bytes) {
            for (less, subsampling) in [(0, turbojpeg::Subsamp::Sub2x2), (1, turbojpeg::Subsamp::None)] {
                let (width, height) = (image.width() as usize - less, image.height() as usize - less);
                if width == 0 || height == 0 {
                    continue;
                }
                let pixels = image.as_bytes();
                let pitch = image.width() as usize * 3;
                let image = turbojpeg::Image { pixels, width, pitch, height, format: turbojpeg::PixelFormat::RGB };
                jpegs.push((
                    format!("{name} less {less}"),
                    turbojpeg::compress(image, 90, subsampling).unwrap().to_vec(),
                ));
            }
        }
    }
    jpegs
}

#[test]
fn every_crop_is_within_the_stated_bound_and_only_those_of_large_pictures_differ() {
    let (mut reduced, mut worst, mut worst_mean) = ([0; 9], 0, 0.0f64);
    for (name, bytes) in jpegs() {
        for size in [24, 32, 48, 64, 96, 128, 224] {
            let (mut whole, mut fast) = (edge(size, false), edge(size, true));
            let image = fast.decode(&bytes).unwrap();
            let denominator = image.reduction.denominator();
            reduced[denominator as usize] += 1;
            let (full_size, width) = (image.full_size(), image.width());
            let expected = whole.decode(&bytes).unwrap();
            assert_eq!(full_size, (expected.width(), expected.height()), "{name} {size}");
            assert_eq!(width, expected.width().div_ceil(denominator), "{name} {size}");
            let (expected, crop) = (whole.crop(expected).unwrap(), fast.crop(image).unwrap());
            let differences = expected.as_bytes().iter().zip(crop.as_bytes()).map(|(a, b)| a.abs_diff(*b));
            let most = differences.clone().max().unwrap();
            let mean = differences.map(f64::from).sum::<f64>() / crop.as_bytes().len() as f64;
            let dithered = name.starts_with("cat_bilevel");
            let allowed = if dithered { MAX_MEAN_DIFFERENCE_DITHERED } else { MAX_MEAN_DIFFERENCE };
            assert!(most <= MAX_DIFFERENCE && mean <= allowed, "{name} {size}: {most}, {mean} on average");
            if denominator == 1 {
                assert_eq!(most, 0, "{name} {size}");
            }
            if !dithered {
                (worst, worst_mean) = (worst.max(most), worst_mean.max(mean));
            }
        }
    }
    assert!([1, 2, 4, 8].iter().all(|&denominator| reduced[denominator] >= 20), "{reduced:?}");
    // A bound far from what is seen would hold nothing.
    assert!(worst >= MAX_DIFFERENCE / 2 && worst_mean >= MAX_MEAN_DIFFERENCE / 2.0, "{worst}, {worst_mean} on average");
}

#[test]
fn the_way_up_counts_where_both_sides_are_given() {
    // Stored 451 x 300, upright 300 x 451: half of that is twice 75 x 112, and not twice 112 x 75.
    let json = |height, width| format!(r#"{{"size": [{height}, {width}], "do_center_crop": false}}"#);
    let options = ImageOptions { exif_orientation: true, fast_decode: true, max_pixels: 50_000_000 };
    let reduction = |name: &str, json: String| {
        let mut processor = ImageProcessor::new(
            &PicturePreparation::Transformers(PreprocessorConfig::from_json(&json).unwrap()),
            options,
        )
        .unwrap();
        processor.decode(&picture(name)).unwrap().reduction
    };
    assert_eq!(reduction("cat_exif_6.jpg", json(112, 75)), Reduction::Half);
    assert_eq!(reduction("cat_exif_6.jpg", json(75, 112)), Reduction::Whole);
    assert_eq!(reduction("cat_exif_1.jpg", json(75, 112)), Reduction::Half);
}

#[test]
fn nearest_and_no_resize_at_all_need_the_whole_picture() {
    let options = ImageOptions { exif_orientation: true, fast_decode: true, max_pixels: 50_000_000 };
    for json in [r#"{"resample": 0}"#, r#"{"do_resize": false}"#] {
        let mut processor = ImageProcessor::new(
            &PicturePreparation::Transformers(PreprocessorConfig::from_json(json).unwrap()),
            options,
        )
        .unwrap();
        assert_eq!(processor.decode(&picture("coffee_large.jpg")).unwrap().reduction, Reduction::Whole, "{json}");
    }
}

#[test]
fn what_is_refused_whole_is_refused_reduced() {
    let bytes = picture("coffee_large.jpg");
    let options = ImageOptions { exif_orientation: true, fast_decode: true, max_pixels: 1920 * 1280 - 1 };
    let mut small =
        ImageProcessor::new(&PicturePreparation::Transformers(PreprocessorConfig::from_json("{}").unwrap()), options)
            .unwrap();
    assert_eq!(small.decode(&bytes).unwrap_err().reason(), "too_many_pixels", "the limit is on what was sent");
    for name in ["coffee_large.jpg", "coffee_cmyk.jpg", "coffee_progressive.jpg"] {
        let bytes = picture(name);
        for percent in [10, 50, 90] {
            let cut = &bytes[..bytes.len() * percent / 100];
            assert_eq!(
                edge(32, true).decode(cut).unwrap_err(),
                ImageError::Truncated { format: ImageFormatName::Jpeg }
            );
        }
        assert_ne!(edge(32, true).decode(&bytes).unwrap().reduction, Reduction::Whole, "{name}");
    }
}

#[test]
fn a_lossless_jpeg_is_decoded_whole() {
    let (width, height) = (64, 48);
    let pixels: Vec<u8> = (0..width * height * 3).map(|i| (i % 251) as u8).collect();
    let mut compressor = turbojpeg::Compressor::new().unwrap();
    compressor.set_lossless(true).unwrap();
    let image =
        turbojpeg::Image { pixels: &pixels[..], width, pitch: width * 3, height, format: turbojpeg::PixelFormat::RGB };
    let bytes = compressor.compress_to_vec(image).unwrap();
    let decoded = edge(8, true).decode(&bytes).unwrap();
    assert_eq!((decoded.reduction, decoded.as_bytes()), (Reduction::Whole, pixels.as_slice()));
}
