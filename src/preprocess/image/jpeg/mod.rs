//! JPEG, by libjpeg-turbo, as Pillow drives it: accurate integer DCT, smooth up-sampling.
//!
//! Owns the order of things: `markers` walks over the file before any decode, `scans` says what it costs, `turbo` calls the decoder for
//! a whole picture, `rows` for one row after the other.
//! Invariants: no pixel is decoded of a picture over a limit, and none is accepted whose data ends before its last row, which is where
//! Pillow refuses. Both hold of the picture as it was sent, also where it is decoded smaller.

mod markers;
mod rows;
mod scans;
mod tail;
pub(super) mod turbo;

use super::{
    Decoded, Limits, RgbImage, convert,
    error::{ImageError, ImageFormatName},
    mode::{self, Mode},
    orientation::Orientation,
    reduction::Reduction,
};
use markers::{End, Markers};
use rows::Rows;
use scans::Scans;
pub(super) use scans::is_arithmetic;

const FORMAT: ImageFormatName = ImageFormatName::Jpeg;

/// A JPEG within the limits, its pixels not yet decoded.
pub(super) struct Jpeg<'a> {
    inner: turbo::Jpeg<'a>,
    width: u32,
    height: u32,
    scans: u32,
    end: End,
    orientation: Orientation,
    keeps_mode: bool,
}

/// Reads everything but the pixels.
pub(super) fn open<'a>(bytes: &'a [u8], limits: &Limits) -> Result<Jpeg<'a>, ImageError> {
    let inner = turbo::Jpeg::open(bytes, FORMAT)?;
    let (width, height) = limits.check(FORMAT, inner.width as u64, inner.height as u64)?;
    let markers = Markers::walk(bytes)?;
    let scans = checked(&markers.scans)?;
    if let Some(marker) = markers.unknown {
        return Err(ImageError::Corrupt {
            format: FORMAT,
            detail: format!("the marker {marker:#04x} before the first scan"),
        });
    }
    let end = markers.end;
    if end == End::Missing {
        return Err(ImageError::Truncated { format: FORMAT });
    }
    let orientation = Orientation::find(markers.exif.as_deref(), markers.xmp);
    let keeps_mode = limits.kept_modes.is_some();
    Ok(Jpeg { inner, width, height, scans, end, orientation, keeps_mode })
}

/// How many scans a JPEG within another file has, if they do not cost too much.
pub(super) fn count_scans(bytes: &[u8]) -> Result<u32, ImageError> {
    checked(&Markers::walk(bytes)?.scans)
}

fn checked(scans: &Scans) -> Result<u32, ImageError> {
    if scans.are_too_many() { Err(ImageError::TooManyScans { scans: scans.count }) } else { Ok(scans.count) }
}

impl<'a> Jpeg<'a> {
    /// Width and height as stored.
    pub(super) fn size(&self) -> (u32, u32) {
        (self.width, self.height)
    }

    /// Which way up it is.
    pub(super) fn orientation(&self) -> Orientation {
        self.orientation
    }

    /// Its rows as they are decoded, reduced: the same that [`decode`](Self::decode) gives. None of a kind that is decoded whole.
    pub(super) fn rows(&self, reduction: Reduction) -> Option<Result<Rows<'a>, ImageError>> {
        let Self { ref inner, width, scans, end, .. } = *self;
        let is_whole = inner.four_channels || inner.lossless;
        (!is_whole).then(|| Rows::new(inner.bytes(), FORMAT, end, scans, reduction, width))
    }

    /// Decodes the pixels into the memory of `buffer`, reduced where the JPEG's kind allows it.
    pub(super) fn decode(self, reduction: Reduction, buffer: Vec<u8>) -> Result<Decoded, ImageError> {
        let Self { inner, width, height, scans, end, orientation, keeps_mode } = self;
        let reduction = if inner.lossless { Reduction::Whole } else { reduction };
        let (four_channels, grey) = (inner.four_channels, inner.answers_grey());
        // The decoder keeps count too, should it find scans where the walk does not.
        let mut data = inner.decode(end, scans, reduction, buffer)?;
        if four_channels {
            // Pillow takes every four-channel JPEG for Adobe's, which stores the complement of each ink.
            data.iter_mut().for_each(|sample| *sample = !*sample);
        }
        if grey {
            data = convert::grey(&data)?;
        }
        let (data, mode) = match (four_channels, keeps_mode) {
            (false, _) => (data, Mode::Plain),
            (true, false) => (convert::cmyk(data), Mode::Plain),
            (true, true) => mode::of_cmyk(data)?,
        };
        Ok(Decoded { image: RgbImage::reduced(width, height, reduction, data).in_mode(mode), orientation })
    }
}
