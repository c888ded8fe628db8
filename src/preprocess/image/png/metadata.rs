//! EXIF and XMP of a PNG, in all the chunks that Pillow looks for them in.
//!
//! Of all that is compressed, only what may say the orientation is inflated, and no further than Pillow does.

use std::{
    borrow::Cow,
    io::{ErrorKind, Read},
};

use flate2::read::ZlibDecoder;

use super::refusal::{FORMAT, damaged};
use crate::preprocess::image::{ImageError, orientation::Orientation};

/// Bytes that one compressed text may inflate to: Pillow's own `MAX_TEXT_CHUNK`.
const MAX_TEXT: u64 = 1 << 20;

/// What a file says of its picture.
#[derive(Clone, Default)]
pub(super) struct Metadata<'a> {
    exif: Option<Cow<'a, [u8]>>,
    /// What ImageMagick wrote before there was a chunk for EXIF: three header lines and hexadecimal digits.
    profile: Option<Cow<'a, [u8]>>,
    xmp: Option<Cow<'a, [u8]>>,
}

impl<'a> Metadata<'a> {
    /// Which way up the picture is.
    pub(super) fn orientation(&self) -> Orientation {
        let profile = || self.profile.as_deref().map(|text| Cow::Owned(digits(text)));
        let exif = self.exif.as_deref().map(Cow::Borrowed).or_else(profile);
        Orientation::find(exif.as_deref(), self.xmp.as_deref())
    }

    /// Keeps what a chunk says; the last of a kind counts. One that Pillow does not understand is refused.
    pub(super) fn look_at(&mut self, name: &[u8; 4], body: &'a [u8]) -> Result<(), ImageError> {
        match name {
            b"eXIf" => self.exif = Some(Cow::Borrowed(body)),
            b"tEXt" => {
                let (keyword, text) = split(body).unwrap_or((body, &[]));
                if keyword == b"exif" {
                    self.exif = Some(Cow::Borrowed(text));
                } else if let Some(place) = self.place(keyword) {
                    *place = Some(Cow::Borrowed(text));
                }
            }
            b"zTXt" => {
                let (keyword, text) = split(body).unwrap_or((body, &[]));
                let (method, text) = text.split_first().unwrap_or((&0, &[]));
                if *method != 0 {
                    return Err(damaged("an unknown compression of a text"));
                }
                if let Some(place) = self.place(keyword) {
                    *place = Some(Cow::Owned(inflated(text)?.unwrap_or_default()));
                }
            }
            b"iTXt" => {
                let parts = split(body).and_then(|(keyword, rest)| {
                    let (&[compressed, method], rest) = rest.split_first_chunk()?;
                    let (_, text) = split(split(rest)?.1)?;
                    Some((keyword, compressed != 0, method, text))
                });
                let Some((keyword, compressed, method, text)) = parts else { return Ok(()) };
                let Some(place) = self.place(keyword) else { return Ok(()) };
                if !compressed {
                    *place = Some(Cow::Borrowed(text));
                } else if method == 0
                    && let Some(text) = inflated(text)?
                {
                    *place = Some(Cow::Owned(text));
                }
            }
            b"iCCP" => {
                let name = body.iter().position(|&byte| byte == 0).map_or(0, |end| end + 1);
                if body.get(name) != Some(&0) {
                    return Err(damaged("an unknown compression of a profile"));
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Where a text with that keyword is kept.
    fn place(&mut self, keyword: &[u8]) -> Option<&mut Option<Cow<'a, [u8]>>> {
        match keyword {
            b"Raw profile type exif" => Some(&mut self.profile),
            b"XML:com.adobe.xmp" => Some(&mut self.xmp),
            _ => None,
        }
    }
}

/// What is before the first zero, and what is behind it.
fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.iter().position(|&byte| byte == 0)?;
    Some((&bytes[..end], &bytes[end + 1..]))
}

/// A text, or as much of it as there is; none of one that is damaged.
fn inflated(text: &[u8]) -> Result<Option<Vec<u8>>, ImageError> {
    let mut inflated = Vec::new();
    let cut = ZlibDecoder::new(text).take(MAX_TEXT + 1).read_to_end(&mut inflated).err();
    if inflated.len() as u64 > MAX_TEXT {
        return Err(ImageError::TooMuchMemory { format: FORMAT });
    }
    let damaged = cut.is_some_and(|error| error.kind() != ErrorKind::UnexpectedEof);
    Ok((!damaged).then_some(inflated))
}

fn digits(text: &[u8]) -> Vec<u8> {
    let lines = text.split(|&byte| byte == b'\n').skip(3);
    let mut digits = lines.flatten().filter_map(|&byte| char::from(byte).to_digit(16));
    let mut bytes = Vec::new();
    while let (Some(high), Some(low)) = (digits.next(), digits.next()) {
        bytes.push((high << 4 | low) as u8);
    }
    bytes
}
