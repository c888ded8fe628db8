//! The calls into libjpeg-turbo.
//!
//! Owns what its messages mean. The `turbojpeg` crate's own safe `Decompressor` is not used, for one reason: it turns
//! each warning into a failure, already in the header, and one JPEG in ten of those that Pillow reads without complaint has a
//! stray byte somewhere that libjpeg warns of.

#![expect(unsafe_code, reason = "libjpeg-turbo is a C library")]

use std::{
    ffi::{CStr, c_int},
    ptr::NonNull,
};

use turbojpeg::{PixelFormat, raw};

use super::markers::End;
use crate::preprocess::{
    image::{
        error::{ImageError, ImageFormatName},
        reduction::Reduction,
    },
    memory,
};

/// What libjpeg says of data it has made sense of all the same; anything else it says ends the decoding. Pillow shows none of
/// these and keeps the picture.
const WARNINGS: &[&str] = &[
    "Corrupt JPEG data: ",
    "Inconsistent progression sequence",
    "Unknown Adobe color transform code",
    "Warning: unknown JFIF revision number",
    "Invalid SOS parameters for sequential JPEG",
];

/// What libjpeg says when it has asked for more than there is, and got an end marker.
const PREMATURE_END: &str = "Premature end of JPEG file";

/// What libjpeg, and what drives it, say where the system has no memory to give. No limit of theirs is set that would say the same.
const SHORTAGES: [&str; 2] = ["Insufficient memory (case ", "Memory allocation failure"];

/// The header of one JPEG, read, and the means to decode it.
///
/// Each picture has a handle of its own: one that is kept also keeps the tables of the last picture, and would decode with them a
/// JPEG that lacks its own. A new one takes a fraction of a microsecond.
pub(in crate::preprocess::image) struct Jpeg<'a> {
    handle: Handle,
    bytes: &'a [u8],
    /// What the picture is to the client, whose JPEG may be inside something else.
    format: ImageFormatName,
    /// Columns.
    pub(in crate::preprocess::image) width: usize,
    /// Rows.
    pub(in crate::preprocess::image) height: usize,
    /// Whether it has the four channels of CMYK or YCCK.
    pub(in crate::preprocess::image) four_channels: bool,
    /// Whether it is coded without loss, not by frequencies.
    pub(in crate::preprocess::image) lossless: bool,
    /// Whether it has one channel.
    grey: bool,
}

/// How pixels are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::preprocess::image) enum Samples {
    Grey,
    Rgb,
    Cmyk,
}

impl Samples {
    fn pixel_format(self) -> PixelFormat {
        match self {
            Self::Grey => PixelFormat::GRAY,
            Self::Rgb => PixelFormat::RGB,
            Self::Cmyk => PixelFormat::CMYK,
        }
    }
}

/// How colours of fewer samples than the picture has pixels are spread over them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::preprocess::image) enum Upsampling {
    Smooth,
    Repeated,
}

/// What the decoder said of data that it made sense of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::preprocess::image) enum Verdict {
    Sound,
    Damaged,
}

struct Handle(NonNull<std::ffi::c_void>);

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: the handle is from `tj3Init` and used by nobody else.
        unsafe { raw::tj3Destroy(self.0.as_ptr()) }
    }
}

impl<'a> Jpeg<'a> {
    /// Reads the header.
    pub(in crate::preprocess::image) fn open(bytes: &'a [u8], format: ImageFormatName) -> Result<Self, ImageError> {
        // SAFETY: no precondition.
        let handle = unsafe { raw::tj3Init(raw::TJINIT_TJINIT_DECOMPRESS as c_int) };
        let handle = NonNull::new(handle).map(Handle).ok_or(ImageError::OutOfMemory)?;
        // SAFETY: the handle is live, and the pointer and length are of one slice.
        let status = unsafe { raw::tj3DecompressHeader(handle.0.as_ptr(), bytes.as_ptr(), bytes.len() as _) };
        handle.check(status, format)?;
        // SAFETY: the handle is live.
        let parameter = |which: raw::TJPARAM| unsafe { raw::tj3Get(handle.0.as_ptr(), which as c_int) };
        let side = |which| {
            usize::try_from(parameter(which))
                .map_err(|_| ImageError::Corrupt { format, detail: "no frame header".into() })
        };
        let (width, height) = (side(raw::TJPARAM_TJPARAM_JPEGWIDTH)?, side(raw::TJPARAM_TJPARAM_JPEGHEIGHT)?);
        let colour_space = parameter(raw::TJPARAM_TJPARAM_COLORSPACE);
        let four_channels =
            [raw::TJCS_TJCS_CMYK, raw::TJCS_TJCS_YCCK].iter().any(|&space| space as c_int == colour_space);
        let lossless = parameter(raw::TJPARAM_TJPARAM_LOSSLESS) != 0;
        let grey = colour_space == raw::TJCS_TJCS_GRAY as c_int;
        Ok(Self { handle, bytes, format, width, height, four_channels, lossless, grey })
    }

    /// The file.
    pub(super) fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Whether it is decoded to grey: what is lossless is never converted.
    pub(super) fn answers_grey(&self) -> bool {
        self.lossless && self.grey
    }

    /// Decodes to RGB, to CMYK where the picture has [`four_channels`](Self::four_channels), or to [grey](Self::answers_grey), into the
    /// memory of `buffer`. Gives up after `max_scans` scans, and when the data of a picture without an end ends before its last row.
    ///
    /// # Panics
    /// As [`decode_into`](Self::decode_into).
    pub(super) fn decode(
        mut self,
        end: End,
        max_scans: u32,
        reduction: Reduction,
        buffer: Vec<u8>,
    ) -> Result<Vec<u8>, ImageError> {
        let samples = match (self.four_channels, self.answers_grey()) {
            (true, _) => Samples::Cmyk,
            (false, true) => Samples::Grey,
            (false, false) => Samples::Rgb,
        };
        let (columns, rows) = self.size(reduction);
        let pitch = columns * samples.pixel_format().size();
        // What the last picture left there is never seen: a decoding that succeeds writes every row.
        let mut data = memory::any(buffer, pitch * rows)?;
        match end {
            // A marker cut short would be completed with what libjpeg makes up for an end.
            End::Stopped { whole } => self.bytes = &self.bytes[..whole],
            End::Open => {
                // SAFETY: the handle is live.
                let status =
                    unsafe { raw::tj3Set(self.handle.0.as_ptr(), raw::TJPARAM_TJPARAM_STOPONWARNING as c_int, 1) };
                self.handle.check(status, self.format)?;
                mark(&mut data, pitch);
            }
            End::Marked | End::Missing => {}
        }
        let format = self.format;
        let decoded = self.decode_into(samples, max_scans, reduction, Upsampling::Smooth, pitch, &mut data);
        match (decoded, end) {
            (Err(ImageError::Truncated { .. }), End::Stopped { .. }) => {}
            // Where libjpeg was to stop at the first warning, it stopped because the data had ended, after the last row.
            (Err(ImageError::Truncated { .. }), End::Open) if !is_marked(&data, pitch) => {}
            (Ok(Verdict::Damaged), End::Open) => return Err(ImageError::Truncated { format }),
            (Err(error), _) => return Err(error),
            (Ok(_), _) => {}
        }
        Ok(data)
    }

    /// Decodes into the first rows of `out`, `pitch` bytes each, of which what is right of the picture is left as it is. Gives up after
    /// `max_scans` scans.
    ///
    /// # Panics
    /// When a [`lossless`](Self::lossless) picture is to be reduced (the decoder would not, and so write more than it was given), and
    /// when `out` is too small.
    pub(in crate::preprocess::image) fn decode_into(
        self,
        samples: Samples,
        max_scans: u32,
        reduction: Reduction,
        upsampling: Upsampling,
        pitch: usize,
        out: &mut [u8],
    ) -> Result<Verdict, ImageError> {
        assert!(reduction == Reduction::Whole || !self.lossless, "a lossless JPEG cannot be reduced");
        let pixel_format = samples.pixel_format();
        let (columns, rows) = self.size(reduction);
        assert!(columns * pixel_format.size() <= pitch && rows * pitch <= out.len(), "no room for a JPEG");
        let limit = c_int::try_from(max_scans).unwrap_or(c_int::MAX);
        let repeats = (upsampling == Upsampling::Repeated) as c_int;
        let parameters = [(raw::TJPARAM_TJPARAM_SCANLIMIT, limit), (raw::TJPARAM_TJPARAM_FASTUPSAMPLE, repeats)];
        for (which, value) in parameters {
            // SAFETY: the handle is live.
            let status = unsafe { raw::tj3Set(self.handle.0.as_ptr(), which as c_int, value) };
            self.handle.check(status, self.format)?;
        }
        let factor = raw::tjscalingfactor { num: 1, denom: reduction.denominator() as c_int };
        // SAFETY: the handle is live.
        let status = unsafe { raw::tj3SetScalingFactor(self.handle.0.as_ptr(), factor) };
        self.handle.check(status, self.format)?;
        let pitch = c_int::try_from(pitch).map_err(|_| ImageError::TooMuchMemory { format: self.format })?;
        // SAFETY: the handle is live; the pointer and length are of one slice; the decoder reads the same header again and divides
        // its sides by the denominator, rounding up, so it writes `columns` pixels of `rows` rows, and `out` has room for them.
        let status = unsafe {
            raw::tj3Decompress8(
                self.handle.0.as_ptr(),
                self.bytes.as_ptr(),
                self.bytes.len() as _,
                out.as_mut_ptr(),
                pitch,
                pixel_format as c_int,
            )
        };
        self.handle.check(status, self.format)
    }

    /// Columns and rows that are written. Both sides are at most 65,535.
    fn size(&self, reduction: Reduction) -> (usize, usize) {
        let denominator = reduction.denominator() as usize;
        (self.width.div_ceil(denominator), self.height.div_ceil(denominator))
    }
}

/// Writes into the last row what no picture has there but by design, for [`is_marked`] to tell whether it has been decoded.
fn mark(data: &mut [u8], pitch: usize) {
    let row = data.len().saturating_sub(pitch);
    data[row..].iter_mut().zip(marks()).for_each(|(sample, mark)| *sample = mark);
}

fn is_marked(data: &[u8], pitch: usize) -> bool {
    let row = data.len().saturating_sub(pitch);
    data[row..].iter().zip(marks()).all(|(&sample, mark)| sample == mark)
}

fn marks() -> impl Iterator<Item = u8> {
    (0u8..=255).cycle().map(|index| index.wrapping_mul(101) ^ 0x5a)
}

impl Handle {
    /// What a call came to: a warning is no failure.
    fn check(&self, status: c_int, format: ImageFormatName) -> Result<Verdict, ImageError> {
        if status == 0 {
            return Ok(Verdict::Sound);
        }
        // SAFETY: the handle is live, its message is a C string that lasts until the next call, and it is copied here. The last
        // thing said is an error's text if there was one: only the first warning is kept, and an error overwrites it.
        let message = unsafe { CStr::from_ptr(raw::tj3GetErrorStr(self.0.as_ptr())) }.to_string_lossy();
        judge(&message, format)
    }
}

/// What the last thing said comes to: a warning is no failure.
pub(super) fn judge(message: &str, format: ImageFormatName) -> Result<Verdict, ImageError> {
    if WARNINGS.iter().any(|warning| message.starts_with(warning)) {
        Ok(Verdict::Damaged)
    } else if message.starts_with(PREMATURE_END) {
        Err(ImageError::Truncated { format })
    } else if SHORTAGES.iter().any(|shortage| message.contains(shortage)) {
        Err(ImageError::OutOfMemory)
    } else {
        Err(ImageError::Corrupt { format, detail: message.to_owned() })
    }
}
