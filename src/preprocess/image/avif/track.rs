//! The first sample of an image sequence: a `moov` box with a track of colours and perhaps one of alpha.

use super::{
    boxes::{Kind, Reader, boxes, find},
    container::{Cicp, Coded, Container, Tile, is_alpha, orientation, pixel_bits, required},
    items::{Items, Metadata, check_property},
    refusal::{FORMAT, damaged},
};
use crate::preprocess::image::error::ImageError;

/// Tracks that are looked at.
const MAX_TRACKS: usize = 64;

/// Samples of a track, at most, as libavif has it: those of twelve hours at 60 a second.
const MAX_SAMPLES: u32 = 12 * 3600 * 60;

/// Bytes of a sample's description before its boxes.
const VISUAL_SAMPLE_ENTRY: usize = 78;

struct Track<'a> {
    id: u32,
    width: u32,
    height: u32,
    meta: Option<&'a [u8]>,
    /// The boxes that describe its samples.
    properties: Vec<(Kind, &'a [u8])>,
    /// Bits of a pixel.
    bits: u32,
    /// Its first sample.
    sample: &'a [u8],
    /// The track that it is the alpha of.
    alpha_for: Option<u32>,
    premultiplied_by: Option<u32>,
}

/// Reads the first picture of the first track of pictures.
pub(super) fn read<'a>(file: &'a [u8], moov: &'a [u8]) -> Result<Container<'a>, ImageError> {
    let mut tracks = Vec::new();
    for next in boxes(moov, false) {
        let (kind, body) = next?;
        if kind == *b"trak" && tracks.len() < MAX_TRACKS {
            tracks.extend(track(file, body)?);
        }
    }
    // Of number 0 there is none.
    tracks.retain(|track| track.id != 0);
    let colour = tracks.iter().find(|track| track.alpha_for.is_none());
    let colour = colour.ok_or_else(|| damaged("no track of pictures"))?;
    let is_alpha = |track: &&Track| {
        let kind = track.properties.iter().find(|(kind, _)| kind == b"auxi");
        track.alpha_for == Some(colour.id) && kind.is_none_or(|(_, body)| is_alpha(body))
    };
    let alpha = tracks.iter().find(is_alpha);
    let metadata = match colour.meta {
        Some(meta) => Items::read(file, meta)?.metadata(0)?,
        None => Metadata::default(),
    };
    let properties = || colour.properties.iter().copied();
    Ok(Container {
        colour: colour.coded(),
        alpha: alpha.map(Track::coded),
        premultiplied: alpha.is_some_and(|alpha| colour.premultiplied_by == Some(alpha.id)),
        cicp: Cicp::find(properties())?,
        orientation: orientation(properties(), metadata.exif.as_deref(), metadata.xmp.as_deref())?,
    })
}

impl<'a> Track<'a> {
    fn coded(&self) -> Coded<'a> {
        let &Self { width, height, bits, sample, .. } = self;
        let tile = Tile { width, height, data: vec![sample], bits, operating_point: 0, layer: None };
        Coded { width, height, columns: 1, tiles: vec![tile], is_grid: false }
    }
}

/// A track of AV1 pictures; `None` for any other.
fn track<'a>(file: &'a [u8], trak: &'a [u8]) -> Result<Option<Track<'a>>, ImageError> {
    if let Some(edts) = find(trak, b"edts")? {
        check_edits(Reader(required(edts, b"elst")?))?;
    }
    let (Some(tkhd), Some(mdia)) = (find(trak, b"tkhd")?, find(trak, b"mdia")?) else { return Ok(None) };
    let Some(minf) = find(mdia, b"minf")? else { return Ok(None) };
    let Some(stbl) = find(minf, b"stbl")? else { return Ok(None) };
    let Some(description) = description(required(stbl, b"stsd")?)? else { return Ok(None) };
    let properties: Vec<_> = boxes(description, false).collect::<Result<_, _>>()?;
    properties.iter().try_for_each(|&property| check_property(property))?;
    let bits = pixel_bits(properties.iter().copied())?;
    let Some(sample) = first_sample(file, stbl)? else { return Ok(None) };
    let mut reader = Reader(tkhd);
    let (version, _) = reader.version()?;
    reader.take(if version == 1 { 16 } else { 8 })?;
    let id = reader.u32()?;
    // The duration, and what else lies before the size, in 1/65536 of a pixel.
    reader.take(if version == 1 { 12 } else { 8 })?;
    reader.take(52)?;
    let (width, height) = (reader.u32()? >> 16, reader.u32()? >> 16);
    if width == 0 || height == 0 {
        return Err(ImageError::NoPixels { format: FORMAT });
    }
    let reference = |kind: &Kind| -> Result<Option<u32>, ImageError> {
        let Some(tref) = find(trak, b"tref")? else { return Ok(None) };
        find(tref, kind)?.map(|ids| Reader(ids).u32()).transpose()
    };
    let (alpha_for, premultiplied_by) = (reference(b"auxl")?, reference(b"prem")?);
    Ok(Some(Track {
        id,
        width,
        height,
        meta: find(trak, b"meta")?,
        properties,
        bits,
        sample,
        alpha_for,
        premultiplied_by,
    }))
}

/// Whether what is said of repeating a track is as libavif has it. A still is shown in any case.
fn check_edits(mut elst: Reader) -> Result<(), ImageError> {
    let (version, flags) = elst.version()?;
    if flags & 1 == 0 {
        return Ok(());
    }
    let edits = elst.u32()?;
    let duration = match version {
        0 => elst.number(4)?,
        1 => elst.number(8)?,
        _ => return Err(damaged("edits of an unknown version")),
    };
    if edits == 1 && duration > 0 { Ok(()) } else { Err(damaged("other edits than one that repeats")) }
}

/// The boxes of the first kind of AV1 sample.
fn description(stsd: &[u8]) -> Result<Option<&[u8]>, ImageError> {
    let mut reader = Reader(stsd);
    reader.version()?;
    reader.u32()?;
    find(reader.0, b"av01")?
        .map(|entry| {
            let mut reader = Reader(entry);
            reader.take(VISUAL_SAMPLE_ENTRY)?;
            Ok(reader.0)
        })
        .transpose()
}

/// The first sample of a track, all of whose samples have to be in the file; `None` where it has no chunk of them.
fn first_sample<'a>(file: &'a [u8], stbl: &[u8]) -> Result<Option<&'a [u8]>, ImageError> {
    let truncated = ImageError::Truncated { format: FORMAT };
    let (chunks, offset_size) = match (find(stbl, b"stco")?, find(stbl, b"co64")?) {
        (Some(chunks), _) => (chunks, 4),
        (None, Some(chunks)) => (chunks, 8),
        (None, None) => return Ok(None),
    };
    let mut chunks = Reader(chunks);
    chunks.version()?;
    let count = chunks.u32()?;
    if count == 0 {
        return Ok(None);
    }
    let mut sizes = Reader(required(stbl, b"stsz")?);
    sizes.version()?;
    let (of_all, _count) = (sizes.u32()?, sizes.u32()?);
    let mut runs = Runs::read(required(stbl, b"stsc")?)?;
    let (mut first, mut left) = (None, MAX_SAMPLES);
    for number in 1..=count {
        let offset = chunks.number(offset_size)?;
        let samples = runs.of_chunk(number)?;
        left = left
            .checked_sub(samples)
            .filter(|_| samples > 0)
            .ok_or_else(|| damaged("chunks of no samples, or of too many"))?;
        let mut size = u64::from(of_all);
        let mut length = size * u64::from(samples);
        if of_all == 0 {
            size = sizes.u32()?.into();
            length = size;
            for _ in 1..samples {
                length += u64::from(sizes.u32()?);
            }
        }
        let range = offset..offset.checked_add(length).ok_or(truncated.clone())?;
        if range.end > file.len() as u64 {
            return Err(truncated);
        }
        first.get_or_insert(&file[range.start as usize..][..size as usize]);
    }
    first.filter(|sample| !sample.is_empty()).map(Some).ok_or(truncated)
}

/// How many samples chunks have: those from one on as many each, up to the next that is named.
struct Runs<'a> {
    rest: Reader<'a>,
    /// Of the chunks that come now.
    samples: u32,
    /// The first of the next, and theirs.
    next: Option<(u32, u32)>,
}

impl<'a> Runs<'a> {
    fn read(stsc: &'a [u8]) -> Result<Self, ImageError> {
        const ENTRY: usize = 12;
        let mut reader = Reader(stsc);
        reader.version()?;
        let count = reader.u32()? as usize;
        let rest = Reader(reader.take(count.checked_mul(ENTRY).ok_or_else(|| damaged("too many runs of chunks"))?)?);
        let mut this = Self { rest, samples: 0, next: None };
        this.advance()?;
        // The first chunk is in the first run.
        if this.next.is_some_and(|(chunk, _)| chunk != 1) {
            return Err(damaged("chunks of an unknown number of samples"));
        }
        Ok(this)
    }

    fn advance(&mut self) -> Result<(), ImageError> {
        self.next = match self.rest.is_empty() {
            true => None,
            false => {
                let entry = (self.rest.u32()?, self.rest.u32()?);
                self.rest.u32()?;
                Some(entry)
            }
        };
        Ok(())
    }

    /// Those of a chunk; chunks are asked for in their order.
    fn of_chunk(&mut self, chunk: u32) -> Result<u32, ImageError> {
        while let Some((first, samples)) = self.next
            && first <= chunk
        {
            self.samples = samples;
            self.advance()?;
            if self.next.is_some_and(|(next, _)| next <= first) {
                return Err(damaged("runs of chunks that are out of order"));
            }
        }
        Ok(self.samples)
    }
}
