//! The fields of a TIFF's first directory that tell its picture, read as Pillow reads them.
//!
//! Owns which types of numbers count. Invariant: a field of a type that Pillow takes for no number is an error, not a missing field.

use super::refusal::{FORMAT, corrupt};
use crate::preprocess::image::{
    directory::{Directory, Field, Fields, Kind},
    error::ImageError,
};

pub(super) const WIDTH: u16 = 256;
pub(super) const HEIGHT: u16 = 257;
pub(super) const BITS: u16 = 258;
pub(super) const COMPRESSION: u16 = 259;
pub(super) const PHOTOMETRIC: u16 = 262;
pub(super) const FILL_ORDER: u16 = 266;
pub(super) const STRIP_OFFSETS: u16 = 273;
pub(super) const SAMPLES: u16 = 277;
pub(super) const ROWS_PER_STRIP: u16 = 278;
pub(super) const STRIP_BYTES: u16 = 279;
pub(super) const PLANAR: u16 = 284;
pub(super) const FAX_OPTIONS: u16 = 292;
pub(super) const PREDICTOR: u16 = 317;
pub(super) const COLOURS: u16 = 320;
pub(super) const TILE_WIDTH: u16 = 322;
pub(super) const TILE_HEIGHT: u16 = 323;
pub(super) const TILE_OFFSETS: u16 = 324;
pub(super) const TILE_BYTES: u16 = 325;
pub(super) const EXTRA_SAMPLES: u16 = 338;
pub(super) const SAMPLE_FORMAT: u16 = 339;
pub(super) const JPEG_TABLES: u16 = 347;
pub(super) const JPEG_INTERCHANGE: u16 = 513;
pub(super) const JPEG_INTERCHANGE_BYTES: u16 = 514;
pub(super) const JPEG_RESTARTS: u16 = 515;
pub(super) const JPEG_QUANTISATION: u16 = 519;
pub(super) const JPEG_DC: u16 = 520;
pub(super) const JPEG_AC: u16 = 521;
pub(super) const COEFFICIENTS: u16 = 529;
pub(super) const SUBSAMPLING: u16 = 530;
pub(super) const BLACK_AND_WHITE: u16 = 532;
pub(super) const XMP: u16 = 700;
pub(super) const WINDOWS_PHOTO: u16 = 0xbc01;

// Of `PHOTOMETRIC`: numbers of colours, and what is mostly subsampled.
const PALETTE: u64 = 3;
const YCBCR: u64 = 6;

/// The value of `COMPRESSION` for JPEG as TIFF 6.0 had it.
pub(super) const OLD_JPEG: u64 = 6;

const TAGS: [u16; 32] = [
    WIDTH,
    HEIGHT,
    BITS,
    COMPRESSION,
    PHOTOMETRIC,
    FILL_ORDER,
    STRIP_OFFSETS,
    SAMPLES,
    ROWS_PER_STRIP,
    STRIP_BYTES,
    PLANAR,
    FAX_OPTIONS,
    PREDICTOR,
    COLOURS,
    TILE_WIDTH,
    TILE_HEIGHT,
    TILE_OFFSETS,
    TILE_BYTES,
    EXTRA_SAMPLES,
    SAMPLE_FORMAT,
    JPEG_TABLES,
    JPEG_INTERCHANGE,
    JPEG_INTERCHANGE_BYTES,
    JPEG_RESTARTS,
    JPEG_QUANTISATION,
    JPEG_DC,
    JPEG_AC,
    COEFFICIENTS,
    SUBSAMPLING,
    BLACK_AND_WHITE,
    XMP,
    WINDOWS_PHOTO,
];

/// Fields of which libtiff takes one value and no more.
const SINGLE: [u16; 7] = [WIDTH, HEIGHT, SAMPLES, ROWS_PER_STRIP, PLANAR, TILE_WIDTH, TILE_HEIGHT];

/// Fields that it does not do without once they are there.
const SEVERAL: [u16; 6] = [BITS, EXTRA_SAMPLES, STRIP_OFFSETS, STRIP_BYTES, TILE_OFFSETS, TILE_BYTES];

/// Those fields of one file.
pub(super) struct Tags<'a> {
    pub(super) file: &'a [u8],
    pub(super) big_endian: bool,
    /// Whether single bytes are numbers too, as libtiff has it and Pillow has not.
    takes_bytes: bool,
    fields: [Option<Field<'a>>; TAGS.len()],
}

/// Fields of a directory at most that libtiff believes.
const MAX_FIELDS: u64 = 4096;

impl<'a> Tags<'a> {
    /// Those of the first directory of `file`.
    pub(super) fn read(file: &'a [u8]) -> Result<Self, ImageError> {
        let directory = Directory::first(file).ok_or(ImageError::Truncated { format: FORMAT })?;
        Ok(Self::of(file, &directory, directory.fields(), false))
    }

    /// The same as libtiff reads them, which takes only whole directories.
    pub(super) fn for_libtiff(file: &'a [u8]) -> Result<Self, ImageError> {
        let whole = Directory::first(file).filter(Directory::is_whole).ok_or(ImageError::Truncated { format: FORMAT });
        let directory = whole?;
        if directory.count() > MAX_FIELDS {
            return Err(corrupt(format!("a directory of {} fields", directory.count())));
        }
        let tags = Self::of(file, &directory, directory.fields_past_gaps(), true);
        let has_one = |&tag: &u16| tags.field(tag).is_none_or(|field| field.count() == 1);
        let has_some = |&tag: &u16| tags.field(tag).is_none_or(|field| field.count() > 0);
        if !SINGLE.iter().all(has_one) || !SEVERAL.iter().all(has_some) {
            return Err(corrupt("fields with too many values, or none"));
        }
        tags.check_samples()?;
        Ok(tags)
    }

    /// What libtiff finds wrong with what fields say of samples, and Pillow does not.
    fn check_samples(&self) -> Result<(), ImageError> {
        let is_old_jpeg = self.number_or(COMPRESSION, 1)? == OLD_JPEG;
        let samples = self.number_or(SAMPLES, if is_old_jpeg { 3 } else { 1 })?;
        for tag in [BITS, SAMPLE_FORMAT] {
            let Some(numbers) = self.numbers(tag)? else { continue };
            let first = numbers.get(0)?;
            let is_other = |value: Result<u64, ImageError>| value != Ok(first);
            if numbers.iter().zip(0..samples).any(|(value, _)| is_other(value)) {
                return Err(corrupt(format!("field {tag} says something else of each sample")));
            }
        }
        match self.number(PHOTOMETRIC) {
            Ok(Some(PALETTE)) if self.field(BITS).is_none() => Err(corrupt("a palette for pixels of unknown depth")),
            Ok(Some(YCBCR)) if samples != 3 => Err(corrupt("colours of other than three samples")),
            _ => Ok(()),
        }
    }

    /// Bytes of a row of so many pixels, in one plane or in all that lie together, as libtiff reckons them.
    pub(super) fn row_bytes(&self, width: usize) -> Result<u64, ImageError> {
        let samples = if self.number_or(PLANAR, 1)? == 2 { 1 } else { self.number_or(SAMPLES, 1)? };
        Ok(samples.saturating_mul(self.number_or(BITS, 1)?).saturating_mul(width as u64).div_ceil(8))
    }

    fn of(file: &'a [u8], directory: &Directory<'a>, found: Fields<'a>, takes_bytes: bool) -> Self {
        let mut fields = [None; TAGS.len()];
        for field in found {
            if let Some(index) = TAGS.iter().position(|&tag| tag == field.tag) {
                fields[index] = Some(field);
            }
        }
        Self { file, big_endian: directory.layout().big_endian, takes_bytes, fields }
    }

    /// A field, of whatever type.
    pub(super) fn field(&self, tag: u16) -> Option<&Field<'a>> {
        self.fields[TAGS.iter().position(|&other| other == tag)?].as_ref()
    }

    /// The first number of a field; of several, Pillow takes that.
    pub(super) fn number(&self, tag: u16) -> Result<Option<u64>, ImageError> {
        self.numbers(tag)?.map(|numbers| numbers.get(0)).transpose()
    }

    /// The same, with what it is where the field is missing.
    pub(super) fn number_or(&self, tag: u16, default: u64) -> Result<u64, ImageError> {
        Ok(self.number(tag)?.unwrap_or(default))
    }

    /// The numbers of a field.
    pub(super) fn numbers(&self, tag: u16) -> Result<Option<Numbers<'a>>, ImageError> {
        let Some(field) = self.field(tag) else { return Ok(None) };
        match field.kind {
            Kind::Short
            | Kind::Long
            | Kind::Ifd
            | Kind::Long8
            | Kind::SignedByte
            | Kind::SignedShort
            | Kind::SignedLong => Ok(Some(Numbers(*field))),
            Kind::Byte if self.takes_bytes => Ok(Some(Numbers(*field))),
            _ => Err(corrupt(format!("field {tag} holds no whole numbers"))),
        }
    }

    /// The numbers of a field in which Pillow takes single bytes for numbers too.
    pub(super) fn bytes_or_numbers(&self, tag: u16) -> Result<Option<Numbers<'a>>, ImageError> {
        match self.field(tag) {
            Some(field) if matches!(field.kind, Kind::Byte | Kind::Undefined) => Ok(Some(Numbers(*field))),
            _ => self.numbers(tag),
        }
    }
}

/// The whole numbers of a field: at least one.
#[derive(Clone, Copy)]
pub(super) struct Numbers<'a>(Field<'a>);

impl Numbers<'_> {
    /// How many.
    pub(super) fn count(&self) -> usize {
        self.0.count()
    }

    /// One of them, which is there and not negative.
    pub(super) fn get(&self, index: usize) -> Result<u64, ImageError> {
        self.0.integer(index).ok_or_else(|| corrupt(format!("field {} has no value {index}", self.0.tag)))
    }

    /// All of them in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = Result<u64, ImageError>> {
        (0..self.count()).map(|index| self.get(index))
    }
}
