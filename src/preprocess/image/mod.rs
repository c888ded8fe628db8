//! A picture's bytes to the `u8` crop that the vision encoder takes, equal to Pillow and the model's library to the byte.
//!
//! Owns the order of the steps (sniff, limits, decode, orientation, RGB, resize, centre crop) and the two limits that guard
//! them. `sniff` tells the format; `jpeg`, `png`, `webp`, `gif`, `bmp`, `tiff`, `avif` decode, `orientation` turns, `convert` makes RGB,
//! `placement` says where the crop lies, `rows` resizes while rows are decoded, `mode` what is resized before it is RGB,
//! `reduction` where `fast_decode` leaves the reference,
//! `preprocess::memory` gives one picture's to the next, `preprocess::resample` resizes; `work` tells beforehand how much all that is;
//! `thumbnail` goes all the way once more, for people.
//! Does not catch panics of the decoders: whoever calls does, once for all steps.
//!
//! By the rules of open_clip and OpenAI a picture is resized in the mode that Pillow opens it in, and becomes RGB afterwards; by these and
//! by Immich's it stays as it is stored.
//!
//! Invariants: the size of a picture is checked from its header before memory for a pixel is taken; a truncated file is refused,
//! never half shown; alpha is dropped, never composited (it may weigh colours); the crop has the size that [`ImageProcessor::crop_size`] says, and depends
//! on no picture before it.
//!
//! Differences from the reference, all deliberate: 16-bit grey is scaled (see `convert`); a 1x1 picture is accepted; lossy WebP
//! may differ by two levels, by the decoder; those of `tiff`.

mod avif;
mod blocks;
mod bmp;
mod convert;
mod directory;
mod error;
mod gif;
#[cfg(feature = "heic")]
mod heic;
mod jpeg;
#[cfg(feature = "jxl")]
mod jxl;
mod lab;
mod lzw;
mod mode;
mod orientation;
mod placement;
mod png;
mod reduction;
mod rows;
mod sniff;
mod suffixes;
mod thumbnail;
mod tiff;
mod webp;
mod work;

pub use self::{
    error::{ImageError, ImageFormatName},
    placement::UnsupportedPreprocessing,
    rows::Progress,
    sniff::{format_of, is_picture},
    suffixes::SUFFIXES,
    thumbnail::thumbnail,
    work::{PictureHeader, decode_work, picture_header},
};
use self::{
    mode::Mode,
    orientation::Orientation,
    placement::{Centre, Cutter, Placement},
    reduction::Reduction,
};
use super::{
    memory,
    resample::{Axis, Plan, Resizer, Source, Window},
};
use crate::{
    encoder::PixelBuf,
    model::{
        open_clip::{ImageTransform, ResizeMode},
        pictures::PicturePreparation,
        preprocessor::Resample,
    },
};

/// What the operator chose.
#[derive(Clone, Copy, Debug)]
pub struct ImageOptions {
    /// Whether a picture is turned as its EXIF (or XMP) orientation says, where the model's library does. A TIFF always is: Pillow turns
    /// it while it loads it, whoever asks.
    pub exif_orientation: bool,
    /// Whether a JPEG much larger than the resized picture is decoded at 1/2, 1/4 or 1/8 of its sides, which changes the crop a
    /// little (see `reduction`).
    pub fast_decode: bool,
    /// Width x height at most, checked before decoding. One picture takes at most 8 bytes a pixel while it is decoded (CMYK in a progressive
    /// JPEG: 12; AVIF with alpha 11, and up to 14 where samples have more than 8 bits), and some 16 MiB (the codes of a lossless WebP: 40),
    /// besides what is kept from the one before; the layers of an AVIF take up to 100 MiB more. What [`ImageProcessor::process`] resizes
    /// while it is decoded takes some MB, and in a JPEG of several scans their coefficients: 6 bytes a pixel at most.
    pub max_pixels: u64,
}

/// Bytes that an [`ImageProcessor`] keeps for the next picture, at most: enough for one of 2,300 x 2,300 pixels. What a larger one
/// took is given back with its crop; getting it again takes a small part of the time that its decoding takes.
const MAX_KEPT_BYTES: usize = 16 << 20;

/// A decoded picture: three channels of 8 bits, and what else its mode has; RGB where that is plain.
#[derive(Clone, Debug, PartialEq)]
pub struct RgbImage {
    columns: Axis,
    rows: Axis,
    reduction: Reduction,
    mode: Mode,
    data: Vec<u8>,
}

impl RgbImage {
    /// A picture as it was sent.
    fn new(width: u32, height: u32, data: Vec<u8>) -> Self {
        Self::reduced(width, height, Reduction::Whole, data)
    }

    /// A picture of `width x height`, reduced: its last row and column may stand for less than the others.
    fn reduced(width: u32, height: u32, reduction: Reduction, data: Vec<u8>) -> Self {
        let [columns, rows] = [width, height].map(|side| reduction.axis(side));
        Self { columns, rows, reduction, mode: Mode::Plain, data }
    }

    /// The same in another mode.
    fn in_mode(self, mode: Mode) -> Self {
        Self { mode, ..self }
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

    /// The samples: `height * width * 3` bytes, rows first, channels interleaved.
    pub fn as_bytes(&self) -> &[u8] {
        &self.data
    }
}

/// Makes crops, as one model's files say, one picture after the other. Keeps buffers and tables between pictures, at most 16 MiB (and none
/// of them in a clone), and nothing that shows: each thread has one of its own.
#[derive(Debug)]
pub struct ImageProcessor {
    cutter: Cutter,
    /// What surrounds a picture that is smaller than its crop, and the number of that colour in a palette; where modes are kept until
    /// the picture is resized.
    kept_modes: Option<u8>,
    turns: bool,
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
        let &Self { cutter, kept_modes, turns, options, scratch: _ } = self;
        Self { cutter, kept_modes, turns, options, scratch: Scratch::default() }
    }
}

impl ImageProcessor {
    /// The processor of a model.
    ///
    /// # Errors
    /// When crops would have no fixed size.
    pub fn new(preparation: &PicturePreparation, options: ImageOptions) -> Result<Self, UnsupportedPreprocessing> {
        let cutter = Cutter::of(preparation)?;
        let kept_modes = match preparation {
            PicturePreparation::OpenClip(transform) | PicturePreparation::OpenAi(transform) => Some(fill(transform)),
            PicturePreparation::Transformers(_) | PicturePreparation::Immich(_) => None,
        };
        let turns = options.exif_orientation && matches!(preparation, PicturePreparation::Transformers(_));
        Ok(Self { cutter, kept_modes, turns, options, scratch: Scratch::default() })
    }

    /// Height and width of every crop, in pixels.
    pub fn crop_size(&self) -> (u32, u32) {
        let crop = self.cutter.crop();
        (crop.height, crop.width)
    }

    /// Decodes a picture: the first frame, RGB and upright where the rules say so.
    ///
    /// # Errors
    /// When the bytes are no picture that is served, whole and within the limits, or there is no memory for it.
    ///
    /// # Panics
    /// A decoder may, on hostile data; nothing is left behind.
    pub fn decode(&mut self, bytes: &[u8]) -> Result<RgbImage, ImageError> {
        let limits = self.limits();
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
            ImageFormatName::Gif => gif::decode(bytes, &limits, buffer),
            ImageFormatName::Bmp => bmp::decode(bytes, &limits, buffer),
            ImageFormatName::Tiff => tiff::decode(bytes, &limits, buffer, &mut self.scratch.spare),
            ImageFormatName::Avif => avif::decode(bytes, &limits, buffer),
            #[cfg(feature = "heic")]
            ImageFormatName::Heic => heic::decode(bytes, &limits),
            #[cfg(feature = "jxl")]
            ImageFormatName::JpegXl => jxl::decode(bytes, &limits, buffer),
        }?;
        self.upright(decoded)
    }

    /// The picture as the rules show it.
    fn upright(&mut self, Decoded { mut image, orientation }: Decoded) -> Result<RgbImage, ImageError> {
        if self.turns {
            orientation.apply(&mut image, &mut self.scratch.spare)?;
        }
        Ok(image)
    }

    fn limits(&self) -> Limits {
        Limits { max_pixels: self.options.max_pixels, kept_modes: self.kept_modes }
    }

    /// How far a JPEG of that size, as stored, is to be reduced. Nearest takes single pixels, which a reduced picture lacks.
    fn reduction(&self, size: (u32, u32), orientation: Orientation) -> Reduction {
        let resample = self.cutter.resample();
        if !self.options.fast_decode || resample.is_none_or(|resample| resample == Resample::Nearest) {
            return Reduction::Whole;
        }
        let upright = if self.turns { upright_size(size, orientation) } else { size };
        Reduction::between(upright, self.cutter.place(upright).size)
    }

    /// Resizes and cuts out the middle, as the model's library does; where the picture is then smaller than the crop, black surrounds it,
    /// or the colour that the model's files name.
    ///
    /// # Errors
    /// [`ImageError::OutOfMemory`].
    pub fn crop(&mut self, mut image: RgbImage) -> Result<PixelBuf, ImageError> {
        let full_size = image.full_size();
        let Placement { size, columns, rows } = self.cutter.place(full_size);
        // Without a filter the size is the picture's own, which is a copy.
        let resample = self.cutter.resample().unwrap_or(Resample::Nearest);
        let window = Window { left: columns.skip, top: rows.skip, width: columns.take, height: rows.take };
        let data = self.resize(&mut image, size, &window, resample)?;
        let around = image.mode.around(self.kept_modes.unwrap_or(0));
        self.scratch.pixels = image.data;
        self.scratch.trim();
        self.framed(data, &columns, &rows, around)
    }

    /// The crop whose middle is `data`, surrounded by a colour where that is smaller.
    fn framed(
        &self,
        mut data: Vec<u8>,
        columns: &Centre,
        rows: &Centre,
        around: [u8; 3],
    ) -> Result<PixelBuf, ImageError> {
        let crop = self.cutter.crop();
        let (crop_width, crop_height) = (crop.width as usize, crop.height as usize);
        if (columns.take, rows.take) != (crop_width, crop_height) {
            let mut padded = memory::zeroed(Vec::new(), crop_width * crop_height * 3)?;
            if around != [0; 3] {
                padded.as_chunks_mut().0.fill(around);
            }
            let lines = padded.chunks_exact_mut(crop_width * 3).skip(rows.pad);
            for (line, out) in data.chunks_exact(columns.take * 3).zip(lines) {
                out[columns.pad * 3..][..line.len()].copy_from_slice(line);
            }
            data = padded;
        }
        Ok(PixelBuf::new(crop.width, crop.height, data))
    }

    /// The window of the resized picture in RGB. What `image` holds afterwards is of no use.
    fn resize(
        &mut self,
        image: &mut RgbImage,
        size: (usize, usize),
        window: &Window,
        resample: Resample,
    ) -> Result<Vec<u8>, ImageError> {
        let (columns, rows) = (image.columns, image.rows);
        let resizer = &mut self.scratch.resizer;
        let mut resize =
            |data: &[u8], resample| resizer.resize(Source::of(columns, rows, data), size, window, resample);
        let (full_width, full_height) = image.full_size();
        // Of a picture that is not resized, nothing is weighed.
        let resizes = size != (full_width as usize, full_height as usize);
        Ok(match &image.mode {
            Mode::Stepped { .. } => resize(&image.data, Resample::Nearest)?,
            Mode::Alpha(alphas) if resizes => {
                mode::premultiply(&mut image.data, alphas);
                let mut data = resize(&image.data, resample)?;
                mode::straighten(&mut data, &resize(alphas, resample)?);
                data
            }
            Mode::Unconverted(space) => {
                let mut data = resize(&image.data, resample)?;
                space.to_rgb(&mut data);
                data
            }
            Mode::Cmyk(blacks) => {
                let mut data = resize(&image.data, resample)?;
                mode::mix(&mut data, &resize(blacks, resample)?);
                data
            }
            Mode::Plain | Mode::Alpha(_) => resize(&image.data, resample)?,
        })
    }

    /// What [`decode`](Self::decode), and then [`crop`](Self::crop), make of a picture. Where its kind allows it, rows are resized while
    /// they are decoded, and there is never a whole picture of them.
    ///
    /// # Errors
    /// As `decode`.
    ///
    /// # Panics
    /// As `decode`.
    pub fn process(&mut self, bytes: &[u8]) -> Result<PixelBuf, ImageError> {
        loop {
            // Always wanted, so that the first time is the last.
            if let Some(crop) = self.process_while(bytes, &mut Progress::new(&|| true))? {
                return Ok(crop);
            }
        }
    }

    /// The same of a picture for which somebody waits; `None` where it is found not to be wanted any more.
    ///
    /// # Errors
    /// As `decode`.
    ///
    /// # Panics
    /// As `decode`.
    pub fn process_while(&mut self, bytes: &[u8], progress: &mut Progress) -> Result<Option<PixelBuf>, ImageError> {
        let image = match self.process_rows(bytes, progress)? {
            ByRow::Crop(crop) => return Ok(Some(crop)),
            ByRow::Unwanted => return Ok(None),
            ByRow::Whole(image) => image,
            ByRow::Not => self.decode(bytes)?,
        };
        if !progress.is_wanted() {
            return Ok(None);
        }
        progress.resizing(|| self.crop(image)).map(Some)
    }

    /// The same by the row.
    fn process_rows(&mut self, bytes: &[u8], progress: &mut Progress) -> Result<ByRow, ImageError> {
        let limits = self.limits();
        self.scratch.trim();
        let (data, plan, size, orientation) = match sniff::sniff(bytes)? {
            ImageFormatName::Jpeg => {
                let jpeg = jpeg::open(bytes, &limits)?;
                let (size, reduction) = (jpeg.size(), self.reduction(jpeg.size(), jpeg.orientation()));
                let orientation = if self.turns { jpeg.orientation() } else { Orientation::Upright };
                let plan = self.plan(size, reduction, orientation);
                let (Some(plan), Some(source)) = (plan, jpeg.rows(reduction)) else {
                    // What has been read of it is not read again.
                    let buffer = std::mem::take(&mut self.scratch.pixels);
                    return self.upright(jpeg.decode(reduction, buffer)?).map(ByRow::Whole);
                };
                let made = rows::resize(&mut source?, &plan, &mut self.scratch.resizer, progress)?;
                let Some(data) = made else { return Ok(ByRow::Unwanted) };
                (data, plan, size, orientation)
            }
            ImageFormatName::Png => {
                let png = png::open(bytes, &limits)?;
                let size = png.size();
                let orientation = if self.turns { png.orientation() } else { Some(Orientation::Upright) };
                let Some(orientation) = orientation.filter(|_| png.has_rows()) else { return Ok(ByRow::Not) };
                let Some(plan) = self.plan(size, Reduction::Whole, orientation) else { return Ok(ByRow::Not) };
                let resizer = &mut self.scratch.resizer;
                let made = png.with_rows(|source| rows::resize(source, &plan, resizer, progress))?;
                let Some((data, found)) = made else { return Ok(ByRow::Unwanted) };
                if self.turns && found != orientation {
                    return Ok(ByRow::Not);
                }
                (data, plan, size, orientation)
            }
            _ => return Ok(ByRow::Not),
        };
        let (width, height) = plan.result();
        let mut image = RgbImage::new(width as u32, height as u32, data);
        orientation.apply(&mut image, &mut self.scratch.spare)?;
        self.scratch.trim();
        let Placement { columns, rows, .. } = self.cutter.place(upright_size(size, orientation));
        let around = Mode::Plain.around(self.kept_modes.unwrap_or(0));
        self.framed(image.data, &columns, &rows, around).map(ByRow::Crop)
    }

    /// How a picture of that size, as stored, becomes a crop by the row.
    fn plan(&self, (width, height): (u32, u32), reduction: Reduction, orientation: Orientation) -> Option<Plan> {
        let axes = orientation.upright(reduction.axis(width), reduction.axis(height));
        let Placement { size, columns, rows } = self.cutter.place(upright_size((width, height), orientation));
        let window = [columns, rows].map(|side| side.skip..side.skip + side.take);
        Plan::new(axes, size, window, self.cutter.resample()?, orientation.turn())
    }
}

/// What a picture has become by the row.
enum ByRow {
    Crop(PixelBuf),
    /// Nobody waits for it any more.
    Unwanted,
    /// It is of a kind that is decoded whole, and has been.
    Whole(RgbImage),
    /// It is of a kind that is to be decoded whole.
    Not,
}

/// Width and height of a picture, upright, that is stored with these.
fn upright_size((width, height): (u32, u32), orientation: Orientation) -> (u32, u32) {
    if orientation.is_sideways() { (height, width) } else { (width, height) }
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

/// What surrounds a picture that is smaller than its crop.
fn fill(transform: &ImageTransform) -> u8 {
    match transform.resize {
        ResizeMode::Within { fill } => fill,
        // torchvision's `center_crop` has no other.
        ResizeMode::Shortest | ResizeMode::Cover | ResizeMode::Squash => 0,
    }
}

/// What a decoder answers: a picture as stored, and which way up it is.
struct Decoded {
    image: RgbImage,
    orientation: Orientation,
}

/// What decoders are asked for.
struct Limits {
    /// What they check a header against.
    max_pixels: u64,
    /// Whether a picture keeps its mode, and then which colour of a palette is to be named. Else it becomes RGB.
    kept_modes: Option<u8>,
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
