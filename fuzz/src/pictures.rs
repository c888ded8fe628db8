//! The headers of pictures, and each format from its first byte to its pixels.

use std::cell::RefCell;

use clipserve::{
    model::{pictures::PicturePreparation, preprocessor::PreprocessorConfig},
    preprocess::image::{ImageOptions, ImageProcessor, decode_work, is_picture, picture_header},
};

/// Pixels of a picture: what is larger is refused by its header, so that the parsers are what takes the time.
const MAX_PIXELS: u64 = 1 << 14;

/// A grey JPEG of 8 x 8 pixels.
const JPEG: &[u8] = include_bytes!("../corpus/jpeg/grey.jpg");

thread_local! {
    static PROCESSOR: RefCell<ImageProcessor> = RefCell::new(processor());
}

fn processor() -> ImageProcessor {
    let preparation = PicturePreparation::Transformers(PreprocessorConfig::from_json("{}").expect("all has a default"));
    let options = ImageOptions { exif_orientation: true, fast_decode: false, max_pixels: MAX_PIXELS };
    ImageProcessor::new(&preparation, options).expect("it is CLIP's own")
}

/// What is told of a picture before it is decoded.
pub(super) fn headers(bytes: &[u8]) {
    let header = picture_header(bytes);
    assert!(header.is_none() || is_picture(bytes), "what has a header is a picture");
    assert!(decode_work(bytes) > 0, "everything is some work");
}

/// The picture, when it begins like one of the format.
fn decode(begins: impl Fn(&[u8]) -> bool, bytes: &[u8]) {
    if !begins(bytes) {
        return;
    }
    headers(bytes);
    let decoded = PROCESSOR.with_borrow_mut(|processor| processor.decode(bytes));
    if let Ok(picture) = decoded {
        let pixels = u64::from(picture.width()) * u64::from(picture.height());
        assert!((1..=MAX_PIXELS).contains(&pixels), "{pixels} pixels");
        assert_eq!(picture.as_bytes().len() as u64, 3 * pixels);
    }
}

pub(super) fn avif(bytes: &[u8]) {
    decode(|bytes| bytes.get(4..8) == Some(b"ftyp"), bytes);
}

pub(super) fn bmp(bytes: &[u8]) {
    decode(|bytes| bytes.starts_with(b"BM"), bytes);
}

pub(super) fn gif(bytes: &[u8]) {
    decode(|bytes| bytes.starts_with(b"GIF8"), bytes);
}

pub(super) fn jpeg(bytes: &[u8]) {
    decode(|bytes| bytes.starts_with(&[0xff, 0xd8, 0xff]), bytes);
}

pub(super) fn png(bytes: &[u8]) {
    decode(|bytes| bytes.starts_with(b"\x89PNG"), bytes);
}

pub(super) fn tiff(bytes: &[u8]) {
    decode(|bytes| bytes.starts_with(b"II") || bytes.starts_with(b"MM"), bytes);
}

pub(super) fn webp(bytes: &[u8]) {
    decode(|bytes| bytes.starts_with(b"RIFF"), bytes);
}

/// A block of EXIF, in a JPEG.
pub(super) fn exif(bytes: &[u8]) {
    let Ok(length) = u16::try_from(bytes.len() + 8) else { return };
    let segment = [&[0xff, 0xe1], &length.to_be_bytes()[..], b"Exif\0\0", bytes].concat();
    jpeg(&[&JPEG[..2], &segment, &JPEG[2..]].concat());
}
