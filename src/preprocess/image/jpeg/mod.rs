//! JPEG, by libjpeg-turbo, as Pillow drives it: accurate integer DCT, smooth up-sampling.
//!
//! Owns the walk over the markers before any decode (scans, end, EXIF, XMP); `turbo` calls the decoder. Invariants: no pixel is
//! decoded of a picture over a limit, and none is accepted whose data ends before its end marker. Both hold of the picture as it
//! was sent, also where it is decoded smaller.

mod turbo;

use std::borrow::Cow;

use super::{
    Decoded, Limits, RgbImage, convert,
    error::{ImageError, ImageFormatName},
    mode::{self, Mode},
    orientation::Orientation,
    reduction::Reduction,
};
use crate::preprocess::memory::OutOfMemory;

const FORMAT: ImageFormatName = ImageFormatName::Jpeg;

/// Scans of one picture at most. A progressive picture redraws itself with each: encoders make about 10 (18 for CMYK), while a
/// file of a hundred tiny scans takes ten times the time of the picture it shows.
const MAX_SCANS: u64 = 32;

/// Scans that even the largest picture may have. Smaller ones may have more, as many as take the same time.
const MAX_SCANS_OF_LARGEST: u64 = 12;

/// A JPEG within the limits, its pixels not yet decoded.
pub(super) struct Jpeg<'a> {
    inner: turbo::Jpeg<'a>,
    width: u32,
    height: u32,
    max_scans: u32,
    orientation: Orientation,
    keeps_mode: bool,
}

/// Reads everything but the pixels.
pub(super) fn open<'a>(bytes: &'a [u8], limits: &Limits) -> Result<Jpeg<'a>, ImageError> {
    let inner = turbo::Jpeg::open(bytes)?;
    let (width, height) = limits.check(FORMAT, inner.width as u64, inner.height as u64)?;
    let markers = Markers::walk(bytes)?;
    let pixels = u64::from(width) * u64::from(height);
    let max_scans = (MAX_SCANS_OF_LARGEST.saturating_mul(limits.max_pixels) / pixels).min(MAX_SCANS) as u32;
    if markers.scans > max_scans {
        return Err(ImageError::TooManyScans { limit: max_scans });
    }
    if !markers.ended {
        return Err(ImageError::Truncated { format: FORMAT });
    }
    let orientation = Orientation::find(markers.exif.as_deref(), markers.xmp);
    let keeps_mode = limits.kept_modes.is_some();
    Ok(Jpeg { inner, width, height, max_scans, orientation, keeps_mode })
}

impl Jpeg<'_> {
    /// Width and height as stored.
    pub(super) fn size(&self) -> (u32, u32) {
        (self.width, self.height)
    }

    /// Which way up it is.
    pub(super) fn orientation(&self) -> Orientation {
        self.orientation
    }

    /// Decodes the pixels into the memory of `buffer`, reduced where the JPEG's kind allows it.
    pub(super) fn decode(self, reduction: Reduction, buffer: Vec<u8>) -> Result<Decoded, ImageError> {
        let Self { inner, width, height, max_scans, orientation, keeps_mode } = self;
        let reduction = if inner.lossless { Reduction::Whole } else { reduction };
        let four_channels = inner.four_channels;
        // The decoder keeps count too, should it find scans where the walk does not.
        let mut data = inner.decode(max_scans, reduction, buffer)?;
        if four_channels {
            // Pillow takes every four-channel JPEG for Adobe's, which stores the complement of each ink.
            data.iter_mut().for_each(|sample| *sample = !*sample);
        }
        let (data, mode) = match (four_channels, keeps_mode) {
            (false, _) => (data, Mode::Plain),
            (true, false) => (convert::cmyk(data), Mode::Plain),
            (true, true) => mode::of_cmyk(data)?,
        };
        Ok(Decoded { image: RgbImage::reduced(width, height, reduction, data).in_mode(mode), orientation })
    }
}

/// What the markers of a file say.
#[derive(Default)]
struct Markers<'a> {
    /// Starts of scan.
    scans: u32,
    /// Whether the end marker is there.
    ended: bool,
    /// The EXIF block before the first scan; several are pieces of one, as Pillow has it.
    exif: Option<Cow<'a, [u8]>>,
    /// The last XMP packet before the first scan.
    xmp: Option<&'a [u8]>,
}

impl<'a> Markers<'a> {
    fn walk(bytes: &'a [u8]) -> Result<Self, OutOfMemory> {
        let mut markers = Self::default();
        let mut rest = bytes.get(2..).unwrap_or_default();
        while let Some(at) = memchr::memchr(0xff, rest) {
            rest = &rest[at..];
            let Some(fill) = rest.iter().position(|&byte| byte != 0xff) else { break };
            let (marker, after) = (rest[fill], &rest[fill + 1..]);
            rest = after;
            match marker {
                0xd9 => {
                    markers.ended = true;
                    break;
                }
                // Stuffing, restarts and other markers without a segment.
                0x00 | 0x01 | 0xd0..=0xd8 => continue,
                0xda => markers.scans += 1,
                _ => {}
            }
            let length = after.first_chunk::<2>().map_or(0, |length| usize::from(u16::from_be_bytes(*length)));
            let Some(segment) = after.get(2..length) else { break };
            if marker == 0xe1 && markers.scans == 0 {
                markers.application_1(segment)?;
            }
            rest = &after[length..];
        }
        Ok(markers)
    }

    fn application_1(&mut self, segment: &'a [u8]) -> Result<(), OutOfMemory> {
        if let Some(block) = segment.strip_prefix(b"Exif\0\0") {
            match &mut self.exif {
                Some(exif) => {
                    // The first piece is copied here; one is no longer than a segment.
                    let exif = exif.to_mut();
                    exif.try_reserve(block.len())?;
                    exif.extend_from_slice(block);
                }
                None => self.exif = Some(Cow::Borrowed(block)),
            }
        } else if let Some(packet) = segment.strip_prefix(b"http://ns.adobe.com/xap/1.0/\0") {
            self.xmp = Some(packet);
        }
        Ok(())
    }
}
