//! What `preprocess.fast_decode` saves and what it costs, single thread: `cargo bench --bench decode`; how long each of some files takes
//! to decode, of any format: `cargo bench --bench decode -- FILE...`; and our own decoders beside those of the crate `image`, which served
//! before them: `cargo bench --bench decode -- others [FILE...]`. Two builds are compared by running both in turn.
//!
//! Beside `image` a fixture of 1920 x 1280 is written by the encoders of `image` and `tiff` in each format that both read. Both make RGB of it.
//!
//! Decodes JPEGs of three sizes and makes their crops of 224, whole and reduced in turn, so that both see the same state of the
//! machine. Times are medians over the rounds; the differences are those of the two crops, in levels of 255. The large picture is
//! the middle one repeated, at the same quality, so that a byte of each costs the same.
#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a program that people run: it prints, and stops where it cannot go on"
)]

use std::{
    fs,
    hint::black_box,
    io::Cursor,
    path::Path,
    time::{Duration, Instant},
};

use clipserve::{
    model::{pictures::PicturePreparation, preprocessor::PreprocessorConfig},
    preprocess::image::{ImageOptions, ImageProcessor},
};

use image::{DynamicImage, ImageFormat, RgbImage};
use tiff::encoder::{Compression, DeflateLevel, TiffEncoder, colortype::RGB8};

const ROUNDS: usize = 11;

fn main() {
    // Cargo adds an option of its own.
    let files: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    match files.split_first() {
        None => reductions(),
        Some((word, files)) if word == "others" => others(files),
        Some(_) => files.iter().for_each(|file| whole(file)),
    }
}

/// Ours and those of `image` in turn, of files or of what is made here.
fn others(files: &[String]) {
    let read = files.iter().map(|file| (file.clone(), fs::read(file).unwrap()));
    let pictures = if files.is_empty() { made() } else { read.collect() };
    println!("{:>10} {:>10} {:>6}  picture", "ours", "image", "ratio");
    let mut processor = processor(false);
    for (name, bytes) in pictures {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..2 * ROUNDS {
            let started = Instant::now();
            let image = processor.decode(&bytes).unwrap();
            ours.push(started.elapsed());
            black_box(processor.crop(image).unwrap());
            let started = Instant::now();
            let rgb = image::load_from_memory(&bytes).unwrap().into_rgb8();
            theirs.push(started.elapsed());
            black_box(rgb);
        }
        let (ours, theirs) = (median(ours), median(theirs));
        let ratio = theirs.as_secs_f64() / ours.as_secs_f64();
        println!("{:>10} {:>10} {ratio:>6.2}  {name}", milliseconds(ours), milliseconds(theirs));
    }
}

/// One picture in each format.
fn made() -> Vec<(String, Vec<u8>)> {
    let images = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/images");
    let jpeg = fs::read(images.join("coffee_large.jpg")).unwrap();
    let decoded = turbojpeg::decompress(&jpeg, turbojpeg::PixelFormat::RGB).unwrap();
    let (width, height) = (decoded.width as u32, decoded.height as u32);
    let rgb = DynamicImage::from(RgbImage::from_raw(width, height, decoded.pixels).unwrap());
    let mut alpha = rgb.to_rgba8();
    // As a logo has it: nothing, a rim, everything.
    alpha.enumerate_pixels_mut().for_each(|(x, y, pixel)| pixel[3] = (x.min(y) * 2).min(255) as u8);
    let mut deep = rgb.to_rgb16();
    // Samples that are more than one byte twice.
    deep.pixels_mut().flat_map(|pixel| pixel.0.iter_mut()).enumerate().for_each(|(i, level)| *level ^= i as u16 % 251);
    let (grey, alpha, deep) = (DynamicImage::from(rgb.to_luma8()), DynamicImage::from(alpha), DynamicImage::from(deep));
    let write = |image: &DynamicImage, format| {
        let mut bytes = Cursor::new(Vec::new());
        image.write_to(&mut bytes, format).unwrap();
        bytes.into_inner()
    };
    let tiff = |compression| {
        let mut bytes = Cursor::new(Vec::new());
        let mut encoder = TiffEncoder::new(&mut bytes).unwrap().with_compression(compression);
        encoder.write_image::<RGB8>(width, height, rgb.as_bytes()).unwrap();
        bytes.into_inner()
    };
    [
        ("PNG, RGB", write(&rgb, ImageFormat::Png)),
        ("PNG, grey", write(&grey, ImageFormat::Png)),
        ("PNG, RGBA", write(&alpha, ImageFormat::Png)),
        ("PNG, RGB of 16 bits", write(&deep, ImageFormat::Png)),
        ("WebP without loss, RGB", write(&rgb, ImageFormat::WebP)),
        ("WebP without loss, RGBA", write(&alpha, ImageFormat::WebP)),
        ("GIF", write(&rgb, ImageFormat::Gif)),
        ("BMP, RGB", write(&rgb, ImageFormat::Bmp)),
        ("BMP, RGBA", write(&alpha, ImageFormat::Bmp)),
        ("TIFF, uncompressed", tiff(Compression::Uncompressed)),
        ("TIFF, LZW", tiff(Compression::Lzw)),
        ("TIFF, Deflate", tiff(Compression::Deflate(DeflateLevel::Balanced))),
        ("TIFF, PackBits", tiff(Compression::Packbits)),
    ]
    .map(|(name, bytes)| (name.to_owned(), bytes))
    .into()
}

/// The time that the picture in `file` takes, without its crop.
fn whole(file: &str) {
    let bytes = fs::read(file).unwrap();
    let mut processor = processor(false);
    let times = (0..ROUNDS).map(|_| {
        let started = Instant::now();
        let image = processor.decode(&bytes).unwrap();
        let decoded = started.elapsed();
        // Its memory goes on to the next one.
        black_box(processor.crop(image).unwrap());
        decoded
    });
    println!("{:>10}  {file}", milliseconds(median(times.collect())));
}

fn reductions() {
    let images = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/images");
    let middle = fs::read(images.join("coffee_large.jpg")).unwrap();
    let pictures = [
        ("640x480", fs::read(images.join("photo_640x480.jpg")).unwrap()),
        ("1920x1280", middle.clone()),
        ("4000x3000", repeated(&middle, 4000, 3000)),
    ];
    println!("{:>9} | {:^32} | {:^32} | {:>10}", "", "decode", "decode, resize and crop", "difference");
    println!(
        "{:>9} | {:>10} {:>10} {:>10} | {:>10} {:>10} {:>10} | {:>4} {:>5}",
        "picture", "whole", "reduced", "ratio", "whole", "reduced", "ratio", "max", "mean"
    );
    for (name, jpeg) in pictures {
        let (mut whole, mut fast) = (processor(false), processor(true));
        let (expected, crop) = (whole.process(&jpeg).unwrap(), fast.process(&jpeg).unwrap());
        let differences = expected.as_bytes().iter().zip(crop.as_bytes()).map(|(a, b)| a.abs_diff(*b));
        let most = differences.clone().max().unwrap();
        let mean = differences.map(f64::from).sum::<f64>() / crop.as_bytes().len() as f64;
        let mut times = [const { Vec::new() }; 4];
        for _ in 0..ROUNDS {
            for (processor, times) in [&mut whole, &mut fast].into_iter().zip(times.chunks_exact_mut(2)) {
                // The quickest of a few: what the machine can do, less what disturbed it.
                let calls = (0..3).map(|_| {
                    let started = Instant::now();
                    let image = processor.decode(&jpeg).unwrap();
                    let decoded = started.elapsed();
                    black_box(processor.crop(image).unwrap());
                    (decoded, started.elapsed())
                });
                let (decoded, processed): (Vec<_>, Vec<_>) = calls.unzip();
                times[0].extend(decoded.into_iter().min());
                times[1].extend(processed.into_iter().min());
            }
        }
        let [decode, process, fast_decode, fast_process] = times.map(median);
        let columns = |whole: Duration, reduced: Duration| {
            let ratio = format!("{:.1}x", whole.as_secs_f64() / reduced.as_secs_f64());
            format!("{:>10} {:>10} {ratio:>10}", milliseconds(whole), milliseconds(reduced))
        };
        println!(
            "{name:>9} | {} | {} | {most:>4} {mean:>5.2}",
            columns(decode, fast_decode),
            columns(process, fast_process)
        );
    }
}

fn processor(fast_decode: bool) -> ImageProcessor {
    let options = ImageOptions { exif_orientation: true, fast_decode, max_pixels: 50_000_000 };
    ImageProcessor::new(&PicturePreparation::Transformers(PreprocessorConfig::from_json("{}").unwrap()), options)
        .unwrap()
}

/// A JPEG of `width x height`, filled with the picture of `jpeg`.
fn repeated(jpeg: &[u8], width: usize, height: usize) -> Vec<u8> {
    let format = turbojpeg::PixelFormat::RGB;
    let tile = turbojpeg::decompress(jpeg, format).unwrap();
    let row =
        |y: usize| tile.pixels[y % tile.height * tile.pitch..].iter().take(tile.width * 3).cycle().take(width * 3);
    let pixels: Vec<u8> = (0..height).flat_map(row).copied().collect();
    let image = turbojpeg::Image { pixels: &pixels[..], width, pitch: width * 3, height, format };
    turbojpeg::compress(image, 90, turbojpeg::Subsamp::Sub2x2).unwrap().to_vec()
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn milliseconds(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1e3)
}
