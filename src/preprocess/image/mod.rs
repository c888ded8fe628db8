//! A picture's bytes to the `u8` crop that the vision encoder takes, equal to Pillow and `CLIPImageProcessor` to the byte.
//!
//! Owns the order of the steps (sniff, limits, decode, orientation, RGB, resize, centre crop) and the two limits that guard
//! them. `sniff` tells the format; `jpeg`, `png`, `webp`, `gif`, `raster` decode, `orientation` turns, `convert` makes RGB,
//! `reduction` says where `fast_decode` leaves the reference, `preprocess::memory` gives one picture's to the next,
//! `preprocess::resample` resizes; `work` tells beforehand how much all that is. Does not catch
//! panics of the decoders: whoever calls does, once for all steps.
//!
//! Invariants: the size of a picture is checked from its header before memory for a pixel is taken; a truncated file is refused,
//! never half shown; alpha is dropped, never composited; the crop has the size that [`ImageProcessor::crop_size`] says, and depends
//! on no picture before it.
//!
//! Differences from the reference, all deliberate: 16-bit grey is scaled (see `convert`); a 1x1 picture is accepted; lossy WebP
//! may differ by two levels, by the decoder.

mod convert;
mod error;
mod gif;
mod jpeg;
mod orientation;
mod png;
mod raster;
mod reduction;
mod sniff;
mod webp;
mod work;

pub use self::{
    error::{ImageError, ImageFormatName},
    work::{PictureHeader, decode_work, picture_header},
};
use self::{orientation::Orientation, reduction::Reduction};
use super::{
    memory,
    resample::{Axis, Resizer, Source, Window},
};
use crate::{
    encoder::PixelBuf,
    model::preprocessor::{PreprocessorConfig, Resample, ResizeTo, Size},
};

/// What the operator chose.
#[derive(Clone, Copy, Debug)]
pub struct ImageOptions {
    /// Whether a picture is turned as its EXIF (or XMP) orientation says.
    pub exif_orientation: bool,
    /// Whether a JPEG much larger than the resized picture is decoded at 1/2, 1/4 or 1/8 of its sides, which changes the crop a
    /// little (see `reduction`).
    pub fast_decode: bool,
    /// Width x height at most, checked before decoding. One picture takes at most 8 bytes a pixel while it is decoded (4:4:4
    /// progressive JPEG: 9, in CMYK 12), and some 16 MiB, besides what is kept from the one before.
    pub max_pixels: u64,
}

/// Bytes that an [`ImageProcessor`] keeps for the next picture, at most: enough for one of 2,300 x 2,300 pixels. What a larger one
/// took is given back with its crop; getting it again takes a small part of the time that its decoding takes.
const MAX_KEPT_BYTES: usize = 16 << 20;

/// A decoded picture: upright, RGB, 8 bits.
#[derive(Clone, Debug, PartialEq)]
pub struct RgbImage {
    columns: Axis,
    rows: Axis,
    reduction: Reduction,
    data: Vec<u8>,
}

impl RgbImage {
    /// A picture as it was sent.
    fn new(width: u32, height: u32, data: Vec<u8>) -> Self {
        Self::reduced(width, height, Reduction::Whole, data)
    }

    /// A picture of `width x height`, reduced: its last row and column may stand for less than the others.
    fn reduced(width: u32, height: u32, reduction: Reduction, data: Vec<u8>) -> Self {
        let denominator = reduction.denominator();
        let axis = |side: u32| Axis::first(f64::from(side) / f64::from(denominator), side.div_ceil(denominator));
        Self { columns: axis(width), rows: axis(height), reduction, data }
    }

    /// Pixels per row.
    pub fn width(&self) -> u32 {
        self.columns.samples() as u32
    }

    /// Rows.
    pub fn height(&self) -> u32 {
        self.rows.samples() as u32
    }

    /// Width and height before any reduction. Exact: the denominators are powers of two.
    fn full_size(&self) -> (u32, u32) {
        let side = |axis: Axis| (axis.length() * f64::from(self.reduction.denominator())) as u32;
        (side(self.columns), side(self.rows))
    }

    /// The samples: `height * width * 3` bytes, rows first, RGB interleaved.
    pub fn as_bytes(&self) -> &[u8] {
        &self.data
    }
}

/// Why a checkpoint's preprocessing cannot be served.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnsupportedPreprocessing {
    /// Pictures of different shapes would give crops of different shapes, and a batch needs one.
    #[error(
        "preprocessor_config.json gives crops of no fixed size: it needs do_center_crop, or do_resize with a size of height and width"
    )]
    NoFixedSize,
}

/// Makes crops, as one checkpoint's `preprocessor_config.json` says, one picture after the other. Keeps buffers and tables between
/// pictures, at most 16 MiB (and none of them in a clone), and nothing that shows: each thread has one of its own.
#[derive(Debug)]
pub struct ImageProcessor {
    resize: Option<(ResizeTo, Resample)>,
    crop: Size,
    options: ImageOptions,
    scratch: Scratch,
}

/// Memory for the next picture.
#[derive(Debug, Default)]
struct Scratch {
    /// For its pixels.
    pixels: Vec<u8>,
    /// For turning them.
    spare: Vec<u8>,
    resizer: Resizer,
}

impl Clone for ImageProcessor {
    fn clone(&self) -> Self {
        Self { resize: self.resize, crop: self.crop, options: self.options, scratch: Scratch::default() }
    }
}

impl ImageProcessor {
    /// The processor of a checkpoint.
    ///
    /// # Errors
    /// When crops would have no fixed size.
    pub fn new(config: &PreprocessorConfig, options: ImageOptions) -> Result<Self, UnsupportedPreprocessing> {
        let resize = config.do_resize.then_some((config.size, config.resample));
        let crop = match (config.do_center_crop, resize) {
            (true, _) => config.crop_size,
            (false, Some((ResizeTo::Exact(size), _))) => size,
            _ => return Err(UnsupportedPreprocessing::NoFixedSize),
        };
        Ok(Self { resize, crop, options, scratch: Scratch::default() })
    }

    /// Height and width of every crop, in pixels.
    pub fn crop_size(&self) -> (u32, u32) {
        (self.crop.height, self.crop.width)
    }

    /// Decodes a picture: the first frame, upright, RGB.
    ///
    /// # Errors
    /// When the bytes are no picture that is served, whole and within the limits, or there is no memory for it.
    ///
    /// # Panics
    /// A decoder may, on hostile data; nothing is left behind.
    pub fn decode(&mut self, bytes: &[u8]) -> Result<RgbImage, ImageError> {
        let limits = Limits { max_pixels: self.options.max_pixels };
        // The last picture may have been decoded and never cropped.
        self.scratch.trim();
        let buffer = std::mem::take(&mut self.scratch.pixels);
        let decoded = match sniff::sniff(bytes)? {
            ImageFormatName::Jpeg => {
                let jpeg = jpeg::open(bytes, &limits)?;
                let reduction = self.reduction(jpeg.size(), jpeg.orientation());
                jpeg.decode(reduction, buffer)
            }
            ImageFormatName::Png => png::decode(bytes, &limits, buffer),
            ImageFormatName::WebP => webp::decode(bytes, &limits, buffer),
            ImageFormatName::Gif => gif::decode(bytes, &limits),
            ImageFormatName::Bmp => raster::bmp(bytes, &limits, buffer),
            ImageFormatName::Tiff => raster::tiff(bytes, &limits, buffer),
        }?;
        let Decoded { mut image, orientation } = decoded;
        if self.options.exif_orientation {
            orientation.apply(&mut image, &mut self.scratch.spare)?;
        }
        Ok(image)
    }

    /// How far a JPEG of that size, as stored, is to be reduced. Nearest takes single pixels, which a reduced picture lacks.
    fn reduction(&self, (width, height): (u32, u32), orientation: Orientation) -> Reduction {
        let Some((to, resample)) = self.resize else { return Reduction::Whole };
        if !self.options.fast_decode || resample == Resample::Nearest {
            return Reduction::Whole;
        }
        let sideways = self.options.exif_orientation && orientation.is_sideways();
        let upright = if sideways { (height, width) } else { (width, height) };
        Reduction::between(upright, resized(upright, to))
    }

    /// Resizes and cuts out the middle, as `CLIPImageProcessor`'s `resize` and `center_crop`; where the picture is then smaller
    /// than the crop, black surrounds it.
    ///
    /// # Errors
    /// [`ImageError::OutOfMemory`].
    pub fn crop(&mut self, image: RgbImage) -> Result<PixelBuf, ImageError> {
        let source = Source::of(image.columns, image.rows, &image.data);
        let (width, height) = image.full_size();
        let (size, resample) = match self.resize {
            // No filter: the same size is a copy.
            None => ((width as usize, height as usize), Resample::Nearest),
            Some((to, resample)) => (resized((width, height), to), resample),
        };
        let (crop_width, crop_height) = (self.crop.width as usize, self.crop.height as usize);
        let (columns, rows) = (Centre::of(size.0, crop_width), Centre::of(size.1, crop_height));
        let window = Window { left: columns.skip, top: rows.skip, width: columns.take, height: rows.take };
        let mut data = self.scratch.resizer.resize(source, size, &window, resample)?;
        if (columns.take, rows.take) != (crop_width, crop_height) {
            let mut padded = memory::zeroed(Vec::new(), crop_width * crop_height * 3)?;
            let lines = padded.chunks_exact_mut(crop_width * 3).skip(rows.pad);
            for (line, out) in data.chunks_exact(columns.take * 3).zip(lines) {
                out[columns.pad * 3..][..line.len()].copy_from_slice(line);
            }
            data = padded;
        }
        self.scratch.pixels = image.data;
        self.scratch.trim();
        Ok(PixelBuf::new(self.crop.width, self.crop.height, data))
    }

    /// [`decode`](Self::decode), then [`crop`](Self::crop).
    ///
    /// # Errors
    /// As `decode`.
    pub fn process(&mut self, bytes: &[u8]) -> Result<PixelBuf, ImageError> {
        let image = self.decode(bytes)?;
        self.crop(image)
    }
}

impl Scratch {
    fn bytes(&self) -> usize {
        self.pixels.capacity() + self.spare.capacity() + self.resizer.kept_bytes()
    }

    fn trim(&mut self) {
        if self.bytes() > MAX_KEPT_BYTES {
            *self = Self::default();
        }
    }
}

/// Width and height of the resized picture.
fn resized((width, height): (u32, u32), to: ResizeTo) -> (usize, usize) {
    match to {
        ResizeTo::Exact(size) => (size.width as usize, size.height as usize),
        ResizeTo::ShortestEdge(edge) => shortest_edge(width as usize, height as usize, edge as usize),
    }
}

/// `transformers`' `get_resize_output_image_size`. It divides in floating point; the quotient of integers this small, truncated,
/// is the integer quotient.
fn shortest_edge(width: usize, height: usize, edge: usize) -> (usize, usize) {
    if width <= height { (edge, edge * height / width) } else { (edge * width / height, edge) }
}

/// One axis of `transformers`' `center_crop`: where the crop lies in the picture, or the picture in the crop.
struct Centre {
    /// Samples before the crop.
    skip: usize,
    /// Samples of the picture that are in the crop.
    take: usize,
    /// Zeros before them; the odd one of an uneven rest goes here.
    pad: usize,
}

impl Centre {
    fn of(length: usize, crop: usize) -> Self {
        Self {
            skip: length.saturating_sub(crop) / 2,
            take: length.min(crop),
            pad: crop.saturating_sub(length).div_ceil(2),
        }
    }
}

/// What a decoder answers: RGB as stored, and which way up it is.
struct Decoded {
    image: RgbImage,
    orientation: Orientation,
}

/// What decoders check a header against.
struct Limits {
    max_pixels: u64,
}

impl Limits {
    /// The size of a picture, if it has pixels and not too many.
    fn check(&self, format: ImageFormatName, width: u64, height: u64) -> Result<(u32, u32), ImageError> {
        let saturated = |side| u32::try_from(side).unwrap_or(u32::MAX);
        if width == 0 || height == 0 {
            return Err(ImageError::NoPixels { format });
        }
        if width.saturating_mul(height) > self.max_pixels {
            let (width, height) = (saturated(width), saturated(height));
            return Err(ImageError::TooManyPixels { format, width, height, limit: self.max_pixels });
        }
        Ok((saturated(width), saturated(height)))
    }
}

#[cfg(test)]
mod tests;
