//! Our side of `make pictures`: each line of stdin is the path of a file, and is answered on stdout by a line of JSON, and then by as
//! many bytes of RGB as that says: of the model's crop (`crop`), or of what was decoded (`picture`).
//!
//!     find DIR -type f | cargo bench --bench pictures -- crop 50000000
//!
//! The second argument is the limit of pixels. `reference.py` answers in the same form. A panic is an answer like others.
#![expect(clippy::unwrap_used, reason = "a program that people run: it stops where it cannot go on")]

use std::{
    any::Any,
    fs,
    io::{self, BufRead, Write},
    panic::{self, AssertUnwindSafe},
    time::Instant,
};

use clipserve::{
    model::{pictures::PicturePreparation, preprocessor::PreprocessorConfig},
    preprocess::image::{ImageError, ImageOptions, ImageProcessor, picture_header},
};
use serde::Serialize;

/// The line about a file.
#[derive(Serialize)]
struct Answer<'a> {
    /// `read`, `refused` or `died`.
    outcome: &'a str,
    /// Why not `read`.
    reason: &'a str,
    /// By the first bytes.
    format: Option<&'a str>,
    /// Of what follows, `width * height * 3` bytes.
    width: u32,
    height: u32,
    /// That decoding took.
    seconds: f64,
}

struct Pixels {
    width: u32,
    height: u32,
    rgb: Vec<u8>,
}

fn main() {
    // Cargo adds one of its own.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let [what, max_pixels] = <[String; 2]>::try_from(arguments).unwrap();
    let cuts = what == "crop";
    let max_pixels = max_pixels.parse().unwrap();
    // Its message is in the answer.
    panic::set_hook(Box::new(|_| ()));
    for path in io::stdin().lock().lines() {
        let bytes = fs::read(path.unwrap()).unwrap();
        let started = Instant::now();
        let pixels = panic::catch_unwind(AssertUnwindSafe(|| pixels(&bytes, cuts, max_pixels)));
        let seconds = started.elapsed().as_secs_f64();
        let (outcome, reason, Pixels { width, height, rgb }) = match pixels {
            Ok(Ok(pixels)) => ("read", String::new(), pixels),
            Ok(Err(error)) => ("refused", reason(&error), NONE),
            Err(panic) => ("died", message(&*panic), NONE),
        };
        let format = picture_header(&bytes).map(|header| header.format.as_str());
        let mut out = io::stdout().lock();
        serde_json::to_writer(&mut out, &Answer { outcome, reason: &reason, format, width, height, seconds }).unwrap();
        out.write_all(b"\n").unwrap();
        out.write_all(&rgb).unwrap();
        out.flush().unwrap();
    }
}

const NONE: Pixels = Pixels { width: 0, height: 0, rgb: Vec::new() };

fn pixels(bytes: &[u8], cuts: bool, max_pixels: u64) -> Result<Pixels, ImageError> {
    let preparation = PicturePreparation::Transformers(PreprocessorConfig::from_json("{}").unwrap());
    let options = ImageOptions { exif_orientation: true, fast_decode: false, max_pixels };
    let mut processor = ImageProcessor::new(&preparation, options).unwrap();
    let image = processor.decode(bytes)?;
    if !cuts {
        return Ok(Pixels { width: image.width(), height: image.height(), rgb: image.as_bytes().to_vec() });
    }
    let crop = processor.crop(image)?;
    Ok(Pixels { width: crop.width(), height: crop.height(), rgb: crop.as_bytes().to_vec() })
}

fn reason(error: &ImageError) -> String {
    match error.detail() {
        Some(detail) => format!("{}: {detail}", error.reason()),
        None => error.reason().to_owned(),
    }
}

fn message(panic: &(dyn Any + Send)) -> String {
    let literal = panic.downcast_ref::<&str>().map(|message| (*message).to_owned());
    literal.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic".to_owned())
}
