//! What files of pictures are called.
//!
//! Owns the suffixes of the formats that are decoded. They choose files in folders and tars; what a file is, its first bytes say (`sniff`).

/// Suffixes of pictures that this build decodes, small letters, in order.
pub const SUFFIXES: &[&str] = &[
    "avif",
    "bmp",
    "dib",
    "gif",
    #[cfg(feature = "heic")]
    "heic",
    #[cfg(feature = "heic")]
    "heif",
    "jfif",
    "jpe",
    "jpeg",
    "jpg",
    #[cfg(feature = "jxl")]
    "jxl",
    "png",
    "tif",
    "tiff",
    "webp",
];
