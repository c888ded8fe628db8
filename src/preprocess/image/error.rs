//! What can be wrong with a client's picture, in the client's words, and that there is no memory for it.
//!
//! Owns [`ImageError`] and the closed sets of names that metrics use as labels. `Display` is the message a client gets: what is
//! wrong, the limit, what to do; the decoder's own words are in [`ImageError::detail`], for the log only.

use crate::preprocess::memory::OutOfMemory;

/// What is decoded only by a build that is made for it.
pub(super) const HEIC: &str = "HEIC";
/// Likewise.
pub(super) const JPEG_XL: &str = "JPEG XL";

/// The formats that are decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ImageFormatName {
    /// Baseline and progressive, grey, YCbCr, RGB, CMYK, YCCK, 8 bits.
    Jpeg,
    /// Every colour type; of an APNG the default picture.
    Png,
    /// Lossy and lossless; of an animation the first frame.
    WebP,
    /// The first frame, on the logical screen.
    Gif,
    /// Windows and OS/2 bitmaps.
    Bmp,
    /// The first page.
    Tiff,
    /// Stills, and of a sequence the first picture.
    Avif,
    /// The primary picture, whole or in tiles.
    #[cfg(feature = "heic")]
    Heic,
    /// The first frame, in sRGB.
    #[cfg(feature = "jxl")]
    JpegXl,
}

impl ImageFormatName {
    /// The name as a metric label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Jpeg => "jpeg",
            Self::Png => "png",
            Self::WebP => "webp",
            Self::Gif => "gif",
            Self::Bmp => "bmp",
            Self::Tiff => "tiff",
            Self::Avif => "avif",
            #[cfg(feature = "heic")]
            Self::Heic => "heic",
            #[cfg(feature = "jxl")]
            Self::JpegXl => "jxl",
        }
    }

    /// The name as people write it.
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Jpeg => "JPEG",
            Self::Png => "PNG",
            Self::WebP => "WebP",
            Self::Gif => "GIF",
            Self::Bmp => "BMP",
            Self::Tiff => "TIFF",
            Self::Avif => "AVIF",
            #[cfg(feature = "heic")]
            Self::Heic => HEIC,
            #[cfg(feature = "jxl")]
            Self::JpegXl => JPEG_XL,
        }
    }
}

/// Why a picture cannot be embedded. Each is the client's to fix, but for [`OutOfMemory`](Self::OutOfMemory) and
/// [`GivenUp`](Self::GivenUp).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// No byte at all.
    #[error("the image is empty")]
    Empty,
    /// The first bytes are of no format that is served.
    #[error("{}; send JPEG, PNG, WebP, GIF, BMP, TIFF or AVIF", unsupported(.recognised))]
    UnsupportedFormat {
        /// What it is, where that is known.
        recognised: Option<&'static str>,
    },
    /// The header announces more pixels than allowed; none was decoded.
    #[error(
        "the image is {width}x{height} pixels, more than the limit of {limit} in all (limits.max_pixels); send a smaller one"
    )]
    TooManyPixels {
        /// Its format.
        format: ImageFormatName,
        /// Columns.
        width: u32,
        /// Rows.
        height: u32,
        /// `max_pixels`
        limit: u64,
    },
    /// A side of no pixel.
    #[error("the {} image has no pixels", .format.title())]
    NoPixels {
        /// Its format.
        format: ImageFormatName,
    },
    /// A JPEG that redraws itself more often than any encoder makes it, to cost time.
    #[error(
        "the {scans} scans of the JPEG image cost many times what its pixels do; save it again with an ordinary encoder"
    )]
    TooManyScans {
        /// How many it has.
        scans: u32,
    },
    /// Data, tiles or layers many times what the pixels need, which cost time.
    #[error(
        "the {} image takes many times the work that its pixels do; save it again with an ordinary encoder",
        .format.title()
    )]
    Wasteful {
        /// Its format.
        format: ImageFormatName,
    },
    /// Decoding needs much more memory than the pixels do.
    #[error("the {} image needs too much memory to decode; save it again without its metadata", .format.title())]
    TooMuchMemory {
        /// Its format.
        format: ImageFormatName,
    },
    /// The decoder of its format has failed too often in this process to be tried again: nothing is known to be wrong with it.
    #[error(
        "{} images are not decoded any more, since their decoder has failed too often; send another format, or have the server \
         started again",
        .format.title()
    )]
    GivenUp {
        /// Its format.
        format: ImageFormatName,
    },
    /// The server has no memory for it now: nothing is known to be wrong with it.
    #[error("there is no memory for the picture now")]
    OutOfMemory,
    /// The data ends before the picture does.
    #[error("the {} image is truncated; send the whole file", .format.title())]
    Truncated {
        /// Its format.
        format: ImageFormatName,
    },
    /// A kind of its format that is not decoded.
    #[error("this kind of {} image is not supported; save it as an 8-bit PNG or JPEG", .format.title())]
    UnsupportedVariant {
        /// Its format.
        format: ImageFormatName,
        /// The decoder's words.
        detail: String,
    },
    /// The data breaks the rules of its format.
    #[error("the {} image is damaged and cannot be decoded", .format.title())]
    Corrupt {
        /// Its format.
        format: ImageFormatName,
        /// The decoder's words.
        detail: String,
    },
}

fn unsupported(recognised: &Option<&'static str>) -> String {
    match recognised {
        Some(name @ (HEIC | JPEG_XL)) => {
            format!("{name} is not a supported image format: this build was made without it")
        }
        Some(name) => format!("{name} is not a supported image format"),
        None => "the data is not in a supported image format".into(),
    }
}

impl From<OutOfMemory> for ImageError {
    fn from(_: OutOfMemory) -> Self {
        Self::OutOfMemory
    }
}

impl ImageError {
    /// Every value of [`reason`](Self::reason), for a metric to start at zero.
    pub const REASONS: [&str; 12] = [
        "empty",
        "unsupported_format",
        "too_many_pixels",
        "no_pixels",
        "too_many_scans",
        "wasteful",
        "too_much_memory",
        "given_up",
        "out_of_memory",
        "truncated",
        "unsupported_variant",
        "corrupt",
    ];

    /// Whether another format would help (HTTP 415), rather than another picture (422).
    pub fn is_unsupported_format(&self) -> bool {
        matches!(self, Self::UnsupportedFormat { .. } | Self::GivenUp { .. })
    }

    /// The format, where the error is about one.
    pub fn format(&self) -> Option<ImageFormatName> {
        match self {
            Self::Empty | Self::UnsupportedFormat { .. } | Self::OutOfMemory => None,
            Self::TooManyScans { .. } => Some(ImageFormatName::Jpeg),
            Self::TooManyPixels { format, .. }
            | Self::NoPixels { format }
            | Self::Wasteful { format }
            | Self::TooMuchMemory { format }
            | Self::GivenUp { format }
            | Self::Truncated { format }
            | Self::UnsupportedVariant { format, .. }
            | Self::Corrupt { format, .. } => Some(*format),
        }
    }

    /// The kind of error as a metric label, one of [`REASONS`](Self::REASONS).
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::UnsupportedFormat { .. } => "unsupported_format",
            Self::TooManyPixels { .. } => "too_many_pixels",
            Self::NoPixels { .. } => "no_pixels",
            Self::TooManyScans { .. } => "too_many_scans",
            Self::Wasteful { .. } => "wasteful",
            Self::TooMuchMemory { .. } => "too_much_memory",
            Self::GivenUp { .. } => "given_up",
            Self::OutOfMemory => "out_of_memory",
            Self::Truncated { .. } => "truncated",
            Self::UnsupportedVariant { .. } => "unsupported_variant",
            Self::Corrupt { .. } => "corrupt",
        }
    }

    /// What the decoder said, for the log; never for a client.
    pub fn detail(&self) -> Option<&str> {
        match self {
            Self::UnsupportedVariant { detail, .. } | Self::Corrupt { detail, .. } => Some(detail),
            _ => None,
        }
    }
}
