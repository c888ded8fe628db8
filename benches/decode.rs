//! What `preprocess.fast_decode` saves and what it costs, single thread: `cargo bench --bench decode`; how long each of some files takes
//! to decode, of any format: `cargo bench --bench decode -- FILE...`; and our own decoders beside those of the crate `image`, which served
//! before them: `cargo bench --bench decode -- others [FILE...]`; and large pictures resized while they are decoded, as the service does it,
//! beside the same decoded whole: `cargo bench --bench decode -- large`. Two builds are compared by running both in turn.
//!
//! Of a large picture the time is that of decode, resize and crop, and the memory the most that the process held meanwhile beyond what it
//! held before, some of it free (Linux alone tells it).
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
        Some((word, _)) if word == "large" => large(),
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

/// Large pictures, by the row and whole in turn.
fn large() {
    let middle =
        fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/images/coffee_large.jpg")).unwrap();
    println!("{:>25} | {:^23} | {:^23} | {:>6}", "", "whole", "by the row", "");
    println!("{:>25} | {:>11} {:>11} | {:>11} {:>11} | {:>6}", "picture", "time", "memory", "time", "memory", "ratio");
    for (width, height) in [(4000, 3000), (8160, 6120)] {
        let jpeg = repeated(&middle, width, height);
        let side = sideways(&jpeg);
        let size = format!("{width}x{height}");
        for (name, bytes, fast) in [
            ("JPEG", &jpeg, false),
            ("JPEG on its side", &side, false),
            ("JPEG, fast_decode", &jpeg, true),
            ("PNG", &png(&jpeg), false),
        ] {
            let mut processor = processor(fast);
            let mut whole = || {
                let image = processor.decode(bytes).unwrap();
                processor.crop(image).unwrap()
            };
            let mut other = self::processor(fast);
            let mut rows = || other.process(bytes).unwrap();
            assert_eq!(whole(), rows(), "{size} {name}");
            let (mut of_whole, mut of_rows) = (Vec::new(), Vec::new());
            for _ in 0..ROUNDS {
                of_whole.push(timed(&mut whole));
                of_rows.push(timed(&mut rows));
            }
            let (of_whole, of_rows) = (median(of_whole), median(of_rows));
            let ratio = of_whole.as_secs_f64() / of_rows.as_secs_f64();
            let (more, less) = (memory(&mut whole), memory(&mut rows));
            let column = |time, bytes: Option<u64>| {
                let bytes = bytes.map_or("unknown".to_owned(), |bytes| format!("{:.1} MB", bytes as f64 / 1e6));
                format!("{:>11} {bytes:>11}", milliseconds(time))
            };
            let (whole, rows) = (column(of_whole, more), column(of_rows, less));
            println!("{:>25} | {whole} | {rows} | {ratio:>5.2}x", format!("{size} {name}"));
        }
    }
}

fn timed<T>(work: &mut impl FnMut() -> T) -> Duration {
    let started = Instant::now();
    black_box(work());
    started.elapsed()
}

/// The most memory that the process holds during `work`, beyond what it held before.
fn memory<T>(work: &mut impl FnMut() -> T) -> Option<u64> {
    let field = |name: &str| {
        let status = fs::read_to_string("/proc/self/status").ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix(name).map(str::to_owned))?;
        Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
    };
    // Sets the peak back.
    fs::write("/proc/self/clear_refs", "5").ok()?;
    let before = field("VmRSS:")?;
    black_box(work());
    Some(field("VmHWM:")?.saturating_sub(before))
}

/// The same JPEG with the orientation of a phone held upright.
fn sideways(jpeg: &[u8]) -> Vec<u8> {
    let exif = b"\xff\xe1\0\x22Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0";
    [&jpeg[..2], exif, &jpeg[2..]].concat()
}

/// The same as PNG.
fn png(jpeg: &[u8]) -> Vec<u8> {
    let decoded = turbojpeg::decompress(jpeg, turbojpeg::PixelFormat::RGB).unwrap();
    let rgb = RgbImage::from_raw(decoded.width as u32, decoded.height as u32, decoded.pixels).unwrap();
    let mut bytes = Cursor::new(Vec::new());
    rgb.write_to(&mut bytes, ImageFormat::Png).unwrap();
    bytes.into_inner()
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
