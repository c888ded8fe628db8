//! TIFF: the first page, as Pillow shows it: the kinds that it opens, read by its own rules where they are not compressed, and by
//! libtiff's where they are.
//!
//! Owns the order of steps. `tags` reads the directory's fields, `samples` tells from them what a pixel is, `chunks` where strips and
//! tiles lie, `codec`, `ccitt` and `jpeg` decompress one, `predictor` undoes differences, `picture` and `ycbcr` make RGB of its rows.
//!
//! Invariants: the size is checked before any memory is taken; a chunk is decompressed into a buffer of the size that it has by the fields,
//! whatever it would inflate to; time is that of the pixels, and of the bytes of strips and tiles, of which no more are believed than pixels
//! can need, and of all together no more than twice what the file and the pixels have, wherever they lie. A picture is answered upright: Pillow turns a TIFF while it loads it, whoever asks.
//!
//! Differences from the reference, all deliberate: what a damaged chunk of YCbCr or JPEG lacks is not made up, and files with too few
//! strips are refused, where Pillow shows black; deep samples that Pillow reads in the wrong byte order, or as bytes, are read as they
//! are; so is BigTIFF in the order that Pillow does not find its directory in.

mod ccitt;
mod chunks;
mod codec;
mod jpeg;
mod ojpeg;
mod picture;
mod predictor;
mod refusal;
mod samples;
mod tags;
mod ycbcr;

use self::{
    chunks::{Allowance, Chunk, Compressed, Cut, MostChunks, Stored},
    codec::{Codec, Decoder},
    picture::Picture,
    predictor::Predictor,
    refusal::{FORMAT, corrupt, unsupported},
    samples::{Colour, Depth, Samples},
    tags::{
        COMPRESSION, FAX_OPTIONS, HEIGHT, JPEG_AC, JPEG_DC, JPEG_INTERCHANGE, JPEG_INTERCHANGE_BYTES,
        JPEG_QUANTISATION, JPEG_RESTARTS, JPEG_TABLES, OLD_JPEG, PLANAR, Tags, WIDTH, WINDOWS_PHOTO, XMP,
    },
    ycbcr::{Subsampling, Tables},
};
use super::{
    Decoded, Limits, RgbImage,
    blocks::Blocks,
    directory::{Directory, Kind},
    error::ImageError,
    mode::Mode,
    orientation::Orientation,
};
use crate::preprocess::memory;

/// Decodes the first page, upright, into the memory of `buffer`; where turning takes a second buffer, it is `spare`.
pub(super) fn decode(
    bytes: &[u8],
    limits: &Limits,
    buffer: Vec<u8>,
    spare: &mut Vec<u8>,
) -> Result<Decoded, ImageError> {
    let tags = Tags::read(bytes)?;
    if tags.field(WINDOWS_PHOTO).is_some() {
        return Err(unsupported("a Windows Media Photo"));
    }
    let side = |tag| tags.number(tag)?.ok_or_else(|| corrupt("a picture without a size"));
    let (width, height) = limits.check(FORMAT, side(WIDTH)?, side(HEIGHT)?)?;
    let size = (width as usize, height as usize);
    let samples = Samples::of(&tags)?;
    let picture = match tags.number_or(COMPRESSION, 1)? {
        1 => stored(&tags, size, samples, limits, buffer)?,
        OLD_JPEG => old_jpeg(&tags, size, samples, limits, buffer)?,
        compression => compressed(&tags, size, samples, compression, limits, buffer)?,
    };
    let xmp = tags.field(XMP).filter(|field| matches!(field.kind, Kind::Byte | Kind::Undefined));
    // An EXIF block is a TIFF structure: the file's own first directory has the tag.
    let xmp = xmp.map(|field| field.bytes());
    let orientation =
        Directory::first(bytes).map_or(Orientation::Upright, |first| Orientation::of_directory(first, xmp));
    Ok(Decoded { image: upright(picture.finish(), orientation, spare)?, orientation: Orientation::Upright })
}

/// Turns a picture, and what its mode has besides.
fn upright(mut image: RgbImage, orientation: Orientation, spare: &mut Vec<u8>) -> Result<RgbImage, ImageError> {
    let (width, height) = (image.width(), image.height());
    let mut turned = |plane| {
        let mut plane = RgbImage::new(width, height, plane);
        orientation.apply(&mut plane, spare).map(|()| plane.data)
    };
    let mode = match std::mem::take(&mut image.mode) {
        Mode::Alpha(plane) => Mode::Alpha(turned(plane)?),
        Mode::Cmyk(plane) => Mode::Cmyk(turned(plane)?),
        mode => mode,
    };
    orientation.apply(&mut image, spare)?;
    Ok(image.in_mode(mode))
}

/// Reads what is not compressed.
fn stored(
    tags: &Tags<'_>,
    size: (usize, usize),
    samples: Samples,
    limits: &Limits,
    buffer: Vec<u8>,
) -> Result<Picture, ImageError> {
    let samples = samples.as_stored()?;
    let source = Stored::find(tags, size, samples)?;
    let mut picture = Picture::new(tags, samples, size, limits.kept_modes, buffer)?;
    for chunk in source.cut.chunks(samples.planes()) {
        let (bytes, stride) = source.rows(&chunk)?;
        put(&mut picture, &chunk, bytes, stride);
    }
    if samples.planar {
        picture.join(None);
    }
    Ok(picture)
}

/// Reads what is compressed.
fn compressed(
    tags: &Tags<'_>,
    size: (usize, usize),
    samples: Samples,
    compression: u64,
    limits: &Limits,
    buffer: Vec<u8>,
) -> Result<Picture, ImageError> {
    let (pillow, tags) = (tags, &Tags::for_libtiff(tags.file)?);
    if !matches!(tags.number_or(PLANAR, 1)?, 1 | 2) {
        return Err(corrupt("planes that are neither together nor apart"));
    }
    let source = Compressed::find(tags, size, samples.planes(), MostChunks::of(compression))?;
    let mut coding = Coding::of(tags, &samples, compression, &source)?;
    let reversed = samples.reversed && !matches!(coding, Coding::Jpeg { .. });
    let samples = samples.as_decompressed(matches!(coding, Coding::Jpeg { .. }))?;
    let blocks = match samples.colour {
        Colour::YCbCr => Some(blocks(tags, size, &samples)?),
        _ => None,
    };
    let rows = match &blocks {
        Some((subsampling, _)) if !samples.planar => Rows::Blocks(*subsampling),
        _ => Rows::Pixels((source.cut.width * samples.pixel_bits()).div_ceil(8)),
    };
    if let Rows::Pixels(bytes) = rows
        && tags.row_bytes(source.cut.width)? > bytes as u64
    {
        return Err(corrupt("rows that are longer than their pixels"));
    }
    // libtiff makes RGB of YCbCr itself.
    let shown = Samples { colour: if blocks.is_some() { Colour::Rgb } else { samples.colour }, ..samples };
    let mut picture = Picture::new(pillow, shown, size, limits.kept_modes, buffer)?;
    let mut room = memory::zeroed(Vec::new(), rows.bytes(&source.cut, source.cut.height))?;
    let mut allowance = Allowance::new(tags.file, source.cut.per_plane() * samples.planes(), room.len());
    let mut turned = Vec::new();
    for chunk in source.cut.chunks(samples.planes()) {
        let height = if source.cut.is_tiled { source.cut.height } else { chunk.height };
        let out = &mut room[..rows.bytes(&source.cut, height)];
        let (mut bytes, offset) = source.bytes(&chunk, out.len(), coding.most_bytes(out.len()))?;
        allowance.spend(bytes)?;
        if reversed {
            turned.clear();
            turned.try_reserve(bytes.len()).map_err(memory::OutOfMemory::from)?;
            turned.extend(bytes.iter().map(|byte| byte.reverse_bits()));
            bytes = &turned;
        }
        let line = rows.line(&source.cut);
        // Of blocks in tiles libtiff takes the differences over rows that their pixels would have if each had its own colours.
        let predicted = match rows {
            Rows::Blocks(_) if source.cut.is_tiled => (source.cut.width * samples.pixel_bits()).div_ceil(8),
            _ => line,
        };
        match &mut coding {
            Coding::Bytes(decoder, predictor) => {
                // Of a strip of blocks libtiff takes what its lines come to, rounded down.
                let taken = if source.cut.is_tiled { out.len() } else { rows.lines(height) * line };
                let (out, rest) = out.split_at_mut(taken);
                rest.fill(0);
                decoder.decode(bytes, out)?;
                predictor.undo(&samples, predicted, out)?;
            }
            Coding::Fax(decoder) => decoder.decode(bytes, offset % 2 == 1, out)?,
            Coding::Jpeg { tables, colour } => {
                let is_last = !source.cut.is_tiled && chunk.top + chunk.height == size.1;
                let count = if samples.planar { 1 } else { samples.count };
                let layout = jpeg::Layout {
                    width: source.cut.width,
                    rows: height,
                    samples: count,
                    colour: *colour,
                    may_be_higher: is_last,
                };
                jpeg::decode(tables, bytes, &layout, out)?;
            }
        }
        match (rows, &blocks) {
            (Rows::Blocks(subsampling), Some((_, tables))) => {
                tables.blocks(subsampling, &chunk, source.cut.width, out, &mut picture.data, size.0 * 3);
            }
            _ => put(&mut picture, &chunk, out, line),
        }
    }
    if samples.planar {
        picture.join(blocks.as_ref().map(|(_, tables)| tables));
    }
    Ok(picture)
}

/// Reads what was JPEG in TIFF before JPEG had files: one picture in all its strips.
fn old_jpeg(
    tags: &Tags<'_>,
    size: (usize, usize),
    samples: Samples,
    limits: &Limits,
    buffer: Vec<u8>,
) -> Result<Picture, ImageError> {
    /// Of tables of one kind: one for each sample.
    const MAX_TABLES: usize = 3;
    let tags = &Tags::for_libtiff(tags.file)?;
    let source = Compressed::find(tags, size, 1, MostChunks::CHEAP)?;
    if samples.colour != Colour::YCbCr || samples.planar || source.cut.is_tiled {
        return Err(unsupported("old JPEG that is not in strips of YCbCr"));
    }
    let mut strips = memory::room(source.cut.per_plane())?;
    for chunk in source.cut.chunks(1) {
        strips.push(source.place(&chunk)?);
    }
    let list = |tag| -> Result<([u64; MAX_TABLES], usize), ImageError> {
        let mut places = [0; MAX_TABLES];
        let Some(numbers) = tags.numbers(tag)? else { return Ok((places, 0)) };
        for (place, number) in places.iter_mut().zip(numbers.iter()) {
            *place = number?;
        }
        Ok((places, numbers.count().min(MAX_TABLES)))
    };
    let tables = [JPEG_QUANTISATION, JPEG_DC, JPEG_AC].map(list);
    let [quantisation, dc, ac] = tables;
    let (quantisation, dc, ac) = (quantisation?, dc?, ac?);
    let interchange = tags.number(JPEG_INTERCHANGE)?;
    let interchange_bytes = tags.number_or(JPEG_INTERCHANGE_BYTES, 0)?;
    let Subsampling { across, down } = Subsampling::of(tags)?;
    let old = ojpeg::OldJpeg {
        file: tags.file,
        width: size.0,
        height: size.1,
        rows_per_strip: source.cut.height,
        sampling: (across as u8, down as u8),
        interchange: interchange.map(|place| (place, interchange_bytes)),
        restart_interval: u16::try_from(tags.number_or(JPEG_RESTARTS, 0)?).unwrap_or(0),
        quantisation: &quantisation.0[..quantisation.1],
        dc: &dc.0[..dc.1],
        ac: &ac.0[..ac.1],
        strips: &strips,
    };
    let colours = Tables::of(tags)?;
    let samples = Samples { colour: Colour::Rgb, ..samples };
    let mut picture = Picture::new(tags, samples, size, limits.kept_modes, buffer)?;
    ojpeg::decode(&old, &mut picture.data)?;
    picture.data.as_chunks_mut::<3>().0.iter_mut().for_each(|pixel| *pixel = colours.rgb(*pixel));
    Ok(picture)
}

/// Puts the rows of a chunk, which begin `stride` bytes apart.
fn put(picture: &mut Picture, chunk: &Chunk, bytes: &[u8], stride: usize) {
    for (y, row) in bytes.chunks(stride).take(chunk.height).enumerate() {
        picture.put(chunk.plane, (chunk.left, chunk.top + y), chunk.width, row);
    }
}

/// What YCbCr needs to become RGB.
fn blocks(tags: &Tags<'_>, size: (usize, usize), samples: &Samples) -> Result<(Subsampling, Tables), ImageError> {
    let subsampling = Subsampling::of(tags)?;
    let whole = Subsampling { across: 1, down: 1 };
    if samples.planar && subsampling != whole {
        return Err(unsupported("subsampled planes"));
    }
    if size.0 < subsampling.across || size.1 < subsampling.down {
        return Err(corrupt("fewer pixels than have a colour together"));
    }
    Ok((subsampling, Tables::of(tags)?))
}

/// What the rows of a decompressed chunk are.
#[derive(Clone, Copy)]
enum Rows {
    /// Of so many bytes.
    Pixels(usize),
    /// Of blocks of YCbCr.
    Blocks(Subsampling),
}

impl Rows {
    /// What libtiff takes for the bytes of a row.
    fn line(self, cut: &Cut) -> usize {
        match self {
            Self::Pixels(bytes) => bytes,
            Self::Blocks(subsampling) => subsampling.block_row(cut.width) / subsampling.down,
        }
    }

    /// How many of them a chunk of so many rows has.
    fn lines(self, height: usize) -> usize {
        match self {
            Self::Pixels(_) => height,
            Self::Blocks(subsampling) => height.next_multiple_of(subsampling.down),
        }
    }

    /// Bytes of a chunk of so many rows.
    fn bytes(self, cut: &Cut, height: usize) -> usize {
        match self {
            Self::Pixels(bytes) => bytes * height,
            Self::Blocks(subsampling) => height.div_ceil(subsampling.down) * subsampling.block_row(cut.width),
        }
    }
}

/// How chunks are decompressed.
enum Coding<'a> {
    Bytes(Decoder, Predictor),
    Fax(ccitt::Decoder),
    Jpeg { tables: jpeg::Tables<'a>, colour: jpeg::Colour },
}

impl<'a> Coding<'a> {
    fn of(tags: &Tags<'a>, samples: &Samples, compression: u64, source: &Compressed<'_>) -> Result<Self, ImageError> {
        let codec = match compression {
            2 => return Self::fax(ccitt::Scheme::Rle, samples, source),
            3 => {
                let options = tags.bytes_or_numbers(FAX_OPTIONS)?.map_or(Ok(0), |options| options.get(0))?;
                let by_line_above = options & 1 == 1;
                let scheme = if by_line_above { ccitt::Scheme::Group3TwoDimensional } else { ccitt::Scheme::Group3 };
                return Self::fax(scheme, samples, source);
            }
            4 => return Self::fax(ccitt::Scheme::Group4, samples, source),
            5 => Codec::Lzw,
            7 => return Self::jpeg(tags, samples, source),
            8 | 32946 => Codec::Deflate,
            32771 => return Self::fax(ccitt::Scheme::RleWords, samples, source),
            32773 => Codec::PackBits,
            34925 => Codec::Lzma,
            50000 => Codec::Zstd,
            _ => return Err(unsupported(format!("compression {compression}"))),
        };
        let predictor = if codec.predicts() { Predictor::of(tags, samples)? } else { Predictor::None };
        let (cut, planes) = (&source.cut, samples.planes() as u64);
        let chunks = cut.per_plane() as u64 * planes;
        let pixels = (cut.width as u64 * cut.height as u64).saturating_mul(cut.per_plane() as u64 * planes);
        let bytes = pixels.saturating_mul(samples.pixel_bits() as u64) / 8;
        Ok(Self::Bytes(Decoder::new(codec, Blocks::of(chunks, bytes))?, predictor))
    }

    /// Bytes that a chunk is believed to have, which becomes `size` bytes.
    fn most_bytes(&self, size: usize) -> u64 {
        match self {
            Self::Bytes(..) => Allowance::of_codec(size),
            Self::Fax(_) => Allowance::of_fax(size),
            Self::Jpeg { .. } => Allowance::of_jpeg(size),
        }
    }

    fn fax(scheme: ccitt::Scheme, samples: &Samples, source: &Compressed<'_>) -> Result<Self, ImageError> {
        if samples.depth != Depth::Bits(1) {
            return Err(corrupt("a fax of more than one bit"));
        }
        Ok(Self::Fax(ccitt::Decoder::new(scheme, source.cut.width)?))
    }

    fn jpeg(tags: &Tags<'a>, samples: &Samples, source: &Compressed<'_>) -> Result<Self, ImageError> {
        let channels = if samples.planar { 1 } else { samples.count };
        if samples.depth != Depth::Bits(8) || !matches!(channels, 1 | 3 | 4) {
            return Err(unsupported(format!("JPEG of {channels} samples of {:?}", samples.depth)));
        }
        let tables = match tags.field(JPEG_TABLES) {
            Some(field) => jpeg::Tables::read(field.bytes())?,
            None => jpeg::Tables::default(),
        };
        let colour = if samples.colour == Colour::YCbCr && !samples.planar {
            // libtiff believes the first strip before the field.
            let first =
                source.cut.chunks(1).next().and_then(|chunk| source.bytes(&chunk, usize::MAX / 16, u64::MAX).ok());
            let sampling = match first.and_then(|(bytes, _)| jpeg::sampling(bytes)) {
                Some(sampling) => sampling,
                None => {
                    let Subsampling { across, down } = Subsampling::of(tags)?;
                    (across as u8, down as u8)
                }
            };
            jpeg::Colour::YcbcrToRgb { sampling }
        } else {
            jpeg::Colour::Plain
        };
        Ok(Self::Jpeg { tables, colour })
    }
}

#[cfg(test)]
mod tests;
