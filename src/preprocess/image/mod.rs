//! A picture's bytes to the `u8` crop that the vision encoder takes, equal to Pillow and `CLIPImageProcessor` to the byte.
//!
//! Owns the order of the steps (sniff, limits, decode, orientation, RGB, resize, centre crop) and the two limits that guard
//! them. `sniff` tells the format; `jpeg`, `png`, `webp`, `gif`, `raster` decode, `orientation` turns, `convert` makes RGB, `preprocess::resample`
//! resizes. Does not catch panics of the decoders: whoever calls does, once for all steps.
//!
//! Invariants: the size of a picture is checked from its header before memory for a pixel is taken; a truncated file is refused,
//! never half shown; alpha is dropped, never composited; the crop has the size that [`ImageProcessor::crop_size`] says.
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
mod sniff;
mod webp;

pub use self::error::{ImageError, ImageFormatName};
use self::orientation::Orientation;
use super::resample::{self, Source, Window};
use crate::{
    encoder::PixelBuf,
    model::preprocessor::{PreprocessorConfig, Resample, ResizeTo, Size},
};

/// What the operator chose.
#[derive(Clone, Copy, Debug)]
pub struct ImageOptions {
    /// Whether a picture is turned as its EXIF (or XMP) orientation says.
    pub exif_orientation: bool,
    /// Width x height at most, checked before decoding. One picture takes at most 8 bytes a pixel while it is decoded (4:4:4
    /// progressive JPEG: 9, in CMYK 12), and some 16 MiB.
    pub max_pixels: u64,
}

/// A decoded picture: upright, RGB, 8 bits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RgbImage {
    width: u32,
    height: u32,
    data: Vec<u8>,
}

impl RgbImage {
    /// Pixels per row.
    pub fn width(&self) -> u32 {
        self.width
    }

    /// Rows.
    pub fn height(&self) -> u32 {
        self.height
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

/// Makes crops, as one checkpoint's `preprocessor_config.json` says. Holds no state between pictures.
#[derive(Clone, Debug)]
pub struct ImageProcessor {
    resize: Option<(ResizeTo, Resample)>,
    crop: Size,
    options: ImageOptions,
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
        Ok(Self { resize, crop, options })
    }

    /// Height and width of every crop, in pixels.
    pub fn crop_size(&self) -> (u32, u32) {
        (self.crop.height, self.crop.width)
    }

    /// Decodes a picture: the first frame, upright, RGB.
    ///
    /// # Errors
    /// When the bytes are no picture that is served, whole and within the limits.
    ///
    /// # Panics
    /// A decoder may, on hostile data; nothing is left behind.
    pub fn decode(&self, bytes: &[u8]) -> Result<RgbImage, ImageError> {
        let limits = Limits { max_pixels: self.options.max_pixels };
        let decoded = match sniff::sniff(bytes)? {
            ImageFormatName::Jpeg => jpeg::decode(bytes, &limits),
            ImageFormatName::Png => png::decode(bytes, &limits),
            ImageFormatName::WebP => webp::decode(bytes, &limits),
            ImageFormatName::Gif => gif::decode(bytes, &limits),
            ImageFormatName::Bmp => raster::bmp(bytes, &limits),
            ImageFormatName::Tiff => raster::tiff(bytes, &limits),
        }?;
        let Decoded { width, height, data, orientation } = decoded;
        let image = RgbImage { width, height, data };
        Ok(if self.options.exif_orientation { orientation.apply(image) } else { image })
    }

    /// Resizes and cuts out the middle, as `CLIPImageProcessor`'s `resize` and `center_crop`; where the picture is then smaller
    /// than the crop, black surrounds it.
    pub fn crop(&self, image: &RgbImage) -> PixelBuf {
        let source = Source::new(image.width, image.height, &image.data);
        let (width, height) = (image.width as usize, image.height as usize);
        let (size, resample) = match self.resize {
            // No filter: the same size is a copy.
            None => ((width, height), Resample::Nearest),
            Some((ResizeTo::Exact(size), resample)) => ((size.width as usize, size.height as usize), resample),
            Some((ResizeTo::ShortestEdge(edge), resample)) => (shortest_edge(width, height, edge as usize), resample),
        };
        let (crop_width, crop_height) = (self.crop.width as usize, self.crop.height as usize);
        let (columns, rows) = (Centre::of(size.0, crop_width), Centre::of(size.1, crop_height));
        let window = Window { left: columns.skip, top: rows.skip, width: columns.take, height: rows.take };
        let mut data = resample::resize(source, size, &window, resample);
        if (columns.take, rows.take) != (crop_width, crop_height) {
            let mut padded = vec![0; crop_width * crop_height * 3];
            let lines = padded.chunks_exact_mut(crop_width * 3).skip(rows.pad);
            for (line, out) in data.chunks_exact(columns.take * 3).zip(lines) {
                out[columns.pad * 3..][..line.len()].copy_from_slice(line);
            }
            data = padded;
        }
        PixelBuf::new(self.crop.width, self.crop.height, data)
    }

    /// [`decode`](Self::decode), then [`crop`](Self::crop).
    ///
    /// # Errors
    /// As `decode`.
    pub fn process(&self, bytes: &[u8]) -> Result<PixelBuf, ImageError> {
        Ok(self.crop(&self.decode(bytes)?))
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
    width: u32,
    height: u32,
    data: Vec<u8>,
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
