//! What a file is, by its first bytes alone: a name or a media type may say anything.
//!
//! Owns the table of magic numbers, of what is served and of what is often sent in vain, so that the refusal can name it.

use super::error::{HEIC, ImageError, ImageFormatName, JPEG_XL};

const AVIF: &str = "AVIF";

/// The format of `bytes`.
///
/// # Errors
/// [`ImageError::Empty`], or [`ImageError::UnsupportedFormat`] with a name where it is known.
pub(super) fn sniff(bytes: &[u8]) -> Result<ImageFormatName, ImageError> {
    if bytes.is_empty() {
        return Err(ImageError::Empty);
    }
    let starts = |magic: &[u8]| bytes.starts_with(magic);
    if starts(b"\xff\xd8\xff") {
        Ok(ImageFormatName::Jpeg)
    } else if starts(b"\x89PNG\r\n\x1a\n") {
        Ok(ImageFormatName::Png)
    } else if starts(b"RIFF") && bytes.get(8..12) == Some(b"WEBP") {
        Ok(ImageFormatName::WebP)
    } else if starts(b"GIF87a") || starts(b"GIF89a") {
        Ok(ImageFormatName::Gif)
    } else if starts(b"BM") && is_bitmap_header(bytes) {
        Ok(ImageFormatName::Bmp)
    } else if [b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"].iter().any(|magic| starts(*magic)) {
        Ok(ImageFormatName::Tiff)
    } else {
        match recognise(bytes) {
            Some(AVIF) => Ok(ImageFormatName::Avif),
            #[cfg(feature = "heic")]
            Some(HEIC) => Ok(ImageFormatName::Heic),
            #[cfg(feature = "jxl")]
            Some(JPEG_XL) => Ok(ImageFormatName::JpegXl),
            recognised => Err(ImageError::UnsupportedFormat { recognised }),
        }
    }
}

/// Whether `bytes` begin as a picture does of a format that is served, or is in other builds, and then refused by its name.
pub fn is_picture(bytes: &[u8]) -> bool {
    match sniff(bytes) {
        Ok(_) => true,
        Err(ImageError::UnsupportedFormat { recognised }) => matches!(recognised, Some(HEIC | JPEG_XL)),
        Err(_) => false,
    }
}

/// What `bytes` begin as, in people's words: a format that is served, or one that is often sent in vain. `None` for whatever else.
pub fn format_of(bytes: &[u8]) -> Option<&'static str> {
    match sniff(bytes) {
        Ok(format) => Some(format.title()),
        Err(ImageError::UnsupportedFormat { recognised }) => recognised,
        Err(_) => None,
    }
}

/// `BM` alone begins many a text: the length of the header that follows is one of few.
fn is_bitmap_header(bytes: &[u8]) -> bool {
    let length = bytes.get(14..18).and_then(|b| b.try_into().ok()).map(u32::from_le_bytes);
    matches!(length, Some(12 | 16 | 40 | 52 | 56 | 64 | 108 | 124))
}

/// Formats that are not served, or not in every build, by what they begin with.
const OTHERS: &[(&[u8], &str)] = &[
    (b"\xff\x0a", JPEG_XL),
    (b"\0\0\0\x0cJXL \r\n\x87\n", JPEG_XL),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"8BPS", "PSD"),
    (b"\0\0\x01\0", "ICO"),
    (b"\0\0\x02\0", "CUR"),
    (b"%PDF-", "PDF"),
    (b"%!PS", "PostScript"),
    (b"DDS ", "DDS"),
    (b"qoif", "QOI"),
    (b"\x76\x2f\x31\x01", "OpenEXR"),
    (b"#?RADIANCE", "Radiance HDR"),
    (b"farbfeld", "farbfeld"),
    (b"\x01\xda", "SGI"),
    (b"PK\x03\x04", "ZIP"),
    (b"\x1f\x8b", "gzip"),
    (b"\x1a\x45\xdf\xa3", "Matroska or WebM video"),
];

fn recognise(bytes: &[u8]) -> Option<&'static str> {
    if let Some((_, name)) = OTHERS.iter().find(|(magic, _)| bytes.starts_with(magic)) {
        return Some(name);
    }
    if bytes.get(4..8) == Some(b"ftyp") {
        return Some(iso_media(bytes));
    }
    if let [b'P', b'1'..=b'7', white, ..] = bytes
        && white.is_ascii_whitespace()
    {
        return Some("PNM");
    }
    let head = bytes.get(..1024).unwrap_or(bytes).to_ascii_lowercase();
    let has = |needle: &[u8]| head.windows(needle.len()).any(|window| window == needle);
    if head.trim_ascii_start().starts_with(b"<") || head.starts_with(b"\xef\xbb\xbf<") {
        return if has(b"<svg") {
            Some("SVG")
        } else if has(b"<html") || has(b"<!doctype html") {
            Some("HTML")
        } else {
            None
        };
    }
    None
}

/// Files of boxes: the first names its brand and those it is compatible with.
fn iso_media(bytes: &[u8]) -> &'static str {
    let length = bytes.get(..4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_be_bytes) as usize;
    let brands = bytes.get(8..length.clamp(12, 256).min(bytes.len())).unwrap_or_default();
    let has = |known: &[&[u8; 4]]| brands.chunks_exact(4).any(|brand| known.iter().any(|known| brand == *known));
    let is_heic = |brand: &[u8]| matches!(brand, b"heic" | b"heix" | b"hevc" | b"hevx" | b"heim" | b"heis");
    // Files of one codec claim to be compatible with another one's now and then, but not first.
    if brands.get(..4).is_some_and(is_heic) {
        HEIC
    } else if has(&[b"avif", b"avis"]) {
        AVIF
    } else if brands.chunks_exact(4).any(is_heic) || has(&[b"mif1", b"msf1"]) {
        HEIC
    } else if has(&[b"jxl "]) {
        JPEG_XL
    } else {
        "MP4 or QuickTime video"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_served_formats_are_told_by_their_first_bytes() {
        use ImageFormatName::*;
        let bmp = [b"BM".as_slice(), &[0; 12], &40u32.to_le_bytes()].concat();
        for (bytes, format) in [
            (b"\xff\xd8\xff\xe0".as_slice(), Jpeg),
            (b"\x89PNG\r\n\x1a\n", Png),
            (b"RIFF\x10\0\0\0WEBPVP8 ", WebP),
            (b"GIF87a", Gif),
            (b"GIF89a", Gif),
            (&bmp, Bmp),
            (b"II*\0", Tiff),
            (b"MM\0*", Tiff),
            (b"II+\0", Tiff),
            (b"\0\0\0\x1cftypavif\0\0\0\0", Avif),
            (b"\0\0\0\x1cftypavis\0\0\0\0", Avif),
            (b"\0\0\0\x18ftypmif1\0\0\0\0mif1avif", Avif),
            (b"\0\0\0\x18ftypmif1\0\0\0\0avifheic", Avif),
            #[cfg(feature = "heic")]
            (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", Heic),
            #[cfg(feature = "heic")]
            (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", Heic),
            #[cfg(feature = "jxl")]
            (b"\xff\x0a", JpegXl),
            #[cfg(feature = "jxl")]
            (b"\0\0\0\x0cJXL \r\n\x87\n", JpegXl),
        ] {
            assert_eq!(sniff(bytes), Ok(format));
        }
    }

    #[test]
    fn what_is_not_served_is_named_where_known() {
        for (bytes, name) in [
            (b"\0\0\0\x18ftypisom\0\0\0\0mp42".as_slice(), Some("MP4 or QuickTime video")),
            #[cfg(not(feature = "heic"))]
            (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", Some(HEIC)),
            #[cfg(not(feature = "heic"))]
            (b"\0\0\0\x18ftypheic\0\0\0\0heicavif", Some(HEIC)),
            #[cfg(not(feature = "jxl"))]
            (b"\0\0\0\x0cJXL \r\n\x87\n", Some(JPEG_XL)),
            (b"%PDF-1.7", Some("PDF")),
            (b"8BPS\0\x01", Some("PSD")),
            (b"\n <?xml version='1.0'?><!-- --> <svg>", Some("SVG")),
            (b"<!DOCTYPE HTML><p>", Some("HTML")),
            (b"P6 1 1 255 abc", Some("PNM")),
            (b"BMW is a car maker, not a bitmap", None),
            (b"RIFF\x10\0\0\0WAVEfmt ", None),
            (b"hello", None),
            (b"\0", None),
        ] {
            let error = ImageError::UnsupportedFormat { recognised: name };
            assert_eq!(sniff(bytes), Err(error), "{}", String::from_utf8_lossy(bytes));
        }
        assert_eq!(sniff(b""), Err(ImageError::Empty));
    }
}
