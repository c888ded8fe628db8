//! The items of a `meta` box: what each is, where its data lie, and what it has to do with the others.

use std::{borrow::Cow, collections::BTreeMap};

use super::{
    boxes::{Kind, Reader, boxes},
    container::{Coded, MAX_ENTRIES, Tile, exif_block, is_alpha, pixel_bits, required},
    refusal::{FORMAT, damaged},
};
use crate::preprocess::{image::error::ImageError, memory};

/// The properties that mean something here. An item with another one that is marked as essential is not to be shown.
const KNOWN: &[&Kind] = &[
    b"ispe", b"auxC", b"colr", b"av1C", b"pasp", b"clap", b"irot", b"imir", b"pixi", b"a1op", b"lsel", b"a1lx", b"clli",
];

/// Those that may not be left out by who does not know them.
const ESSENTIAL: &[&Kind] = &[b"a1op", b"lsel", b"clap", b"irot", b"imir"];

/// How a file may describe several layers, at most.
const MAX_LAYERS: u8 = 4;

/// Everything that a `meta` box says.
pub(super) struct Items<'a> {
    file: &'a [u8],
    idat: &'a [u8],
    primary: u32,
    items: BTreeMap<u32, Item>,
    properties: Vec<(Kind, &'a [u8])>,
    entries: usize,
}

#[derive(Default)]
pub(super) struct Item {
    kind: Kind,
    is_xmp: bool,
    in_idat: bool,
    /// Where the data lie, and how long they are; to the end where that is 0.
    extents: Vec<(u64, u64)>,
    /// Their numbers.
    properties: Vec<u16>,
    /// Whether it has a property that nobody knows and everybody must.
    is_foreign: bool,
    is_thumbnail: bool,
    alpha_for: Option<u32>,
    describes: Option<u32>,
    pub(super) premultiplied_by: Option<u32>,
    /// The items that it is put together from.
    parts: Vec<u32>,
    is_part: bool,
}

/// What describes a picture besides its properties.
#[derive(Default)]
pub(super) struct Metadata<'a> {
    pub(super) exif: Option<Cow<'a, [u8]>>,
    pub(super) xmp: Option<Cow<'a, [u8]>>,
}

impl<'a> Items<'a> {
    pub(super) fn read(file: &'a [u8], meta: &'a [u8]) -> Result<Self, ImageError> {
        let mut reader = Reader(meta);
        let (version, _) = reader.version()?;
        if version != 0 || !holds_pictures(reader.0)? {
            return Err(damaged("items that are no pictures"));
        }
        let (items, properties) = (BTreeMap::new(), Vec::new());
        let mut this = Self { file, idat: &[], primary: 0, items, properties, entries: 0 };
        let mut seen: Vec<Kind> = Vec::new();
        for next in boxes(reader.0, false) {
            let (kind, body) = next?;
            if matches!(&kind, b"pitm" | b"iloc" | b"iinf" | b"iprp" | b"iref" | b"idat") {
                if seen.contains(&kind) {
                    return Err(damaged("a box that may be there once is there twice"));
                }
                seen.push(kind);
            }
            let reader = Reader(body);
            match &kind {
                b"pitm" => this.read_primary(reader)?,
                b"iloc" => this.read_locations(reader)?,
                b"iinf" => this.read_infos(reader)?,
                b"iprp" => this.read_properties(body)?,
                b"iref" => this.read_references(reader)?,
                b"idat" => this.idat = body,
                _ => {}
            }
        }
        this.check_sizes()?;
        Ok(this)
    }

    /// Counts something that memory is taken for.
    fn spend(&mut self) -> Result<(), ImageError> {
        self.entries += 1;
        if self.entries > MAX_ENTRIES {
            return Err(ImageError::TooMuchMemory { format: FORMAT });
        }
        Ok(())
    }

    fn item(&mut self, id: u32) -> Result<&mut Item, ImageError> {
        if id == 0 {
            return Err(damaged("an item without a number"));
        }
        self.spend()?;
        Ok(self.items.entry(id).or_default())
    }

    fn read_primary(&mut self, mut reader: Reader) -> Result<(), ImageError> {
        let (version, _) = reader.version()?;
        self.primary = reader.number(if version == 0 { 2 } else { 4 })? as u32;
        Ok(())
    }

    fn read_locations(&mut self, mut reader: Reader) -> Result<(), ImageError> {
        let (version, _) = reader.version()?;
        if version > 2 {
            return Err(damaged("item locations of an unknown version"));
        }
        let sizes = reader.u16()?;
        let size = |shift: u16| usize::from(sizes >> shift & 15);
        let (offset_size, length_size, base_size) = (size(12), size(8), size(4));
        let index_size = if version == 0 { 0 } else { size(0) };
        if [offset_size, length_size, base_size, index_size].iter().any(|size| !matches!(size, 0 | 4 | 8)) {
            return Err(damaged("item locations of odd sizes"));
        }
        let id_size = if version < 2 { 2 } else { 4 };
        for _ in 0..reader.number(id_size)? {
            let id = reader.number(id_size)? as u32;
            let method = if version == 0 { 0 } else { reader.u16()? & 15 };
            let _data_reference = reader.u16()?;
            let base = reader.number(base_size)?;
            let count = reader.u16()?;
            let item = self.item(id)?;
            if method > 1 || !item.extents.is_empty() {
                return Err(damaged("an item with more than one place, or of an unknown kind"));
            }
            item.in_idat = method == 1;
            for _ in 0..count {
                reader.take(index_size)?;
                let (offset, length) = (reader.number(offset_size)?, reader.number(length_size)?);
                let offset = base.checked_add(offset).ok_or_else(|| damaged("an item beyond any file"))?;
                self.item(id)?.extents.push((offset, length));
            }
        }
        Ok(())
    }

    fn read_infos(&mut self, mut reader: Reader) -> Result<(), ImageError> {
        let (version, _) = reader.version()?;
        let count = reader.number(if version == 0 { 2 } else { 4 })?;
        let mut infos = boxes(reader.0, false);
        for _ in 0..count {
            let (kind, body) = infos.next().ok_or_else(|| damaged("fewer descriptions of items than it says"))??;
            if kind != *b"infe" {
                return Err(damaged("an item without a description"));
            }
            let mut reader = Reader(body);
            let (version, _) = reader.version()?;
            if !matches!(version, 2 | 3) {
                return Err(damaged("a description of an unknown version"));
            }
            let id = reader.number(if version == 2 { 2 } else { 4 })? as u32;
            let _protection = reader.u16()?;
            let kind = *reader.take(4)?.first_chunk().ok_or_else(|| damaged("an item without a kind"))?;
            // Its name ends with a zero, then comes the media type.
            let name_end =
                reader.0.iter().position(|&byte| byte == 0).ok_or_else(|| damaged("a name without an end"))?;
            let media_type = &reader.0[name_end + 1..];
            let is_xmp = kind == *b"mime" && media_type.starts_with(b"application/rdf+xml\0");
            let item = self.item(id)?;
            (item.kind, item.is_xmp) = (kind, is_xmp);
        }
        Ok(())
    }

    fn read_properties(&mut self, iprp: &'a [u8]) -> Result<(), ImageError> {
        for next in boxes(required(iprp, b"ipco")?, false) {
            self.spend()?;
            let property = next?;
            check_property(property)?;
            self.properties.push(property);
        }
        for next in boxes(iprp, false) {
            let (kind, body) = next?;
            if kind == *b"ipma" {
                self.read_associations(Reader(body))?;
            }
        }
        Ok(())
    }

    fn read_associations(&mut self, mut reader: Reader) -> Result<(), ImageError> {
        let (version, flags) = reader.version()?;
        for _ in 0..reader.u32()? {
            let id = reader.number(if version == 0 { 2 } else { 4 })? as u32;
            for _ in 0..reader.u8()? {
                let (is_essential, number) = if flags & 1 == 1 {
                    let word = reader.u16()?;
                    (word & 0x8000 != 0, word & 0x7fff)
                } else {
                    let byte = reader.u8()?;
                    (byte & 0x80 != 0, u16::from(byte & 0x7f))
                };
                let Some(number) = number.checked_sub(1) else {
                    if is_essential {
                        return Err(damaged("an essential property that is none"));
                    }
                    continue;
                };
                let &(kind, _) =
                    self.properties.get(usize::from(number)).ok_or_else(|| damaged("an unknown property"))?;
                let known = KNOWN.contains(&&kind);
                if is_essential && kind == *b"a1lx" || !is_essential && ESSENTIAL.contains(&&kind) {
                    return Err(damaged("a property that is wrongly essential, or wrongly not"));
                }
                let item = self.item(id)?;
                item.is_foreign |= is_essential && !known;
                item.properties.push(number);
            }
        }
        Ok(())
    }

    fn read_references(&mut self, mut reader: Reader) -> Result<(), ImageError> {
        let (version, _) = reader.version()?;
        if version > 1 {
            return Ok(());
        }
        let id_size = if version == 0 { 2 } else { 4 };
        for next in boxes(reader.0, false) {
            let (kind, body) = next?;
            let mut reader = Reader(body);
            let from = reader.number(id_size)? as u32;
            if kind == *b"dimg" && !self.item(from)?.parts.is_empty() {
                return Err(damaged("an item put together twice"));
            }
            for _ in 0..reader.u16()? {
                let to = reader.number(id_size)? as u32;
                let item = self.item(from)?;
                match &kind {
                    b"thmb" => item.is_thumbnail = true,
                    b"auxl" => item.alpha_for = Some(to),
                    b"cdsc" => item.describes = Some(to),
                    b"prem" => item.premultiplied_by = Some(to),
                    b"dimg" => {
                        item.parts.push(to);
                        if std::mem::replace(&mut self.item(to)?.is_part, true) {
                            return Err(damaged("an item that is part of two, or twice of one"));
                        }
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// Every picture has to state its size, the used and the unused.
    fn check_sizes(&self) -> Result<(), ImageError> {
        for item in self.items.values().filter(|item| self.is_shown(item)) {
            match self.size(item)? {
                Some((0, _) | (_, 0)) => return Err(ImageError::NoPixels { format: FORMAT }),
                Some(_) => {}
                None => return Err(damaged("a picture that does not state its size")),
            }
        }
        Ok(())
    }

    /// Whether it is a picture, and may be shown.
    fn is_shown(&self, item: &Item) -> bool {
        matches!(&item.kind, b"av01" | b"grid") && !item.extents.is_empty() && !item.is_foreign && !item.is_thumbnail
    }

    fn size(&self, item: &Item) -> Result<Option<(u32, u32)>, ImageError> {
        self.property(item, b"ispe")
            .map(|body| {
                let mut reader = Reader(body);
                match reader.version()? {
                    (0, _) => Ok((reader.u32()?, reader.u32()?)),
                    _ => Err(damaged("a size of an unknown version")),
                }
            })
            .transpose()
    }

    /// The picture to be shown, and its number.
    pub(super) fn primary(&self) -> Result<(u32, &Item), ImageError> {
        let item = self.items.get(&self.primary).filter(|item| self.is_shown(item));
        Ok((self.primary, item.ok_or_else(|| damaged("no primary item that can be shown"))?))
    }

    pub(super) fn properties(&self, item: &Item) -> impl Iterator<Item = (Kind, &'a [u8])> {
        item.properties.iter().filter_map(|&number| self.properties.get(usize::from(number)).copied())
    }

    fn property(&self, item: &Item, kind: &Kind) -> Option<&'a [u8]> {
        self.properties(item).find(|(other, _)| other == kind).map(|(_, body)| body)
    }

    /// The picture of item `id`. As the alpha of a picture it has the size of that, should it state none.
    pub(super) fn coded(&self, id: u32, alpha_of: Option<&Coded<'a>>) -> Result<Coded<'a>, ImageError> {
        let item = self.items.get(&id).ok_or_else(|| damaged("an item that is not there"))?;
        if item.kind != *b"grid" {
            let size = alpha_of.map(|colour| (colour.width, colour.height));
            let tile = self.tile(item, size)?;
            return Ok(Coded { width: tile.width, height: tile.height, columns: 1, tiles: vec![tile], is_grid: false });
        }
        let grid = join(&self.data(item)?)?;
        let mut reader = Reader(&grid);
        let version = reader.u8()?;
        let number_size = if reader.u8()? & 1 == 0 { 2 } else { 4 };
        let (rows, columns) = (u32::from(reader.u8()?) + 1, u32::from(reader.u8()?) + 1);
        let (width, height) = (reader.number(number_size)? as u32, reader.number(number_size)? as u32);
        if version != 0 || width == 0 || height == 0 || item.parts.len() as u64 != u64::from(rows) * u64::from(columns)
        {
            return Err(damaged("a grid of other tiles than it has"));
        }
        let part = |id| self.items.get(id).ok_or_else(|| damaged("a tile that is not there"));
        let tiles = item.parts.iter().map(|id| self.tile(part(id)?, None)).collect::<Result<_, _>>()?;
        Ok(Coded { width, height, columns, tiles, is_grid: true })
    }

    fn tile(&self, item: &Item, size: Option<(u32, u32)>) -> Result<Tile<'a>, ImageError> {
        if item.kind != *b"av01" || item.is_foreign {
            return Err(damaged("an item that is no AV1 picture"));
        }
        let bits = pixel_bits(self.properties(item))?;
        let (width, height) =
            self.size(item)?.or(size).ok_or_else(|| damaged("a picture that does not state its size"))?;
        let operating_point = self.property(item, b"a1op").and_then(|body| body.first().copied()).unwrap_or(0);
        let layer = match self.property(item, b"lsel").map(|body| Reader(body).u16()).transpose()? {
            Some(0xffff) | None => None,
            Some(layer) if layer < u16::from(MAX_LAYERS) => Some(layer as u8),
            Some(_) => return Err(damaged("a layer that is not there")),
        };
        Ok(Tile { width, height, data: self.data(item)?, bits, operating_point, layer })
    }

    /// The alpha of a picture.
    pub(super) fn alpha_of(&self, id: u32) -> Option<u32> {
        let is_alpha = |item: &Item| {
            item.alpha_for == Some(id) && self.is_shown(item) && self.property(item, b"auxC").is_some_and(is_alpha)
        };
        self.items.iter().find(|(_, item)| is_alpha(item)).map(|(&id, _)| id)
    }

    /// The alpha of a picture whose tiles have one each.
    pub(super) fn alpha_of_tiles(&self, id: u32, colour: &Coded<'a>) -> Result<Option<Coded<'a>>, ImageError> {
        let masters = self.items.get(&id).map_or(&[][..], |item| &item.parts);
        let alphas: BTreeMap<u32, &Item> = self
            .items
            .values()
            .filter(|item| self.is_shown(item) && self.property(item, b"auxC").is_some_and(is_alpha))
            .filter_map(|item| Some((item.alpha_for?, item)))
            .collect();
        let tiles: Option<Vec<&Item>> = masters.iter().map(|master| alphas.get(master).copied()).collect();
        let Some(tiles) = tiles else { return Ok(None) };
        if tiles.iter().any(|tile| tile.is_part) {
            return Err(damaged("the alpha of a tile that is a tile itself"));
        }
        let tiles = tiles.into_iter().map(|item| self.tile(item, None)).collect::<Result<_, _>>()?;
        let &Coded { width, height, columns, is_grid, .. } = colour;
        Ok(Some(Coded { width, height, columns, tiles, is_grid }))
    }

    /// What describes item `id`, or whatever there is, of a track.
    pub(super) fn metadata(&self, id: u32) -> Result<Metadata<'a>, ImageError> {
        let mut metadata = Metadata::default();
        for item in self.items.values() {
            if item.extents.is_empty() || item.is_foreign || id != 0 && item.describes != Some(id) {
                continue;
            }
            if item.kind == *b"Exif" {
                metadata.exif = Some(match join(&self.data(item)?)? {
                    Cow::Borrowed(data) => Cow::Borrowed(exif_block(data)?),
                    Cow::Owned(data) => Cow::Owned(exif_block(&data)?.to_vec()),
                });
            } else if item.is_xmp {
                metadata.xmp = Some(join(&self.data(item)?)?);
            }
        }
        Ok(metadata)
    }

    /// The data of an item, none of it outside the file, and no more than there is.
    fn data(&self, item: &Item) -> Result<Vec<&'a [u8]>, ImageError> {
        let place = if item.in_idat { self.idat } else { self.file };
        let mut left = place.len();
        let mut pieces = Vec::new();
        for &(offset, length) in &item.extents {
            let rest = usize::try_from(offset).ok().and_then(|offset| place.get(offset..));
            let piece = match (rest, usize::try_from(length)) {
                (Some(rest), Ok(0)) => Some(rest),
                (Some(rest), Ok(length)) => rest.get(..length),
                _ => None,
            };
            let piece = piece.ok_or(ImageError::Truncated { format: FORMAT })?;
            left = left.checked_sub(piece.len()).ok_or_else(|| damaged("an item larger than the file"))?;
            pieces.push(piece);
        }
        if pieces.iter().all(|piece| piece.is_empty()) {
            return Err(damaged("an item without data"));
        }
        Ok(pieces)
    }
}

/// Whether a property is what its kind has to be, as libavif finds it whether or not it is about what is shown.
pub(super) fn check_property((kind, body): (Kind, &[u8])) -> Result<(), ImageError> {
    let mut reader = Reader(body);
    let is_sound = match &kind {
        b"ispe" => reader.version()?.0 == 0 && reader.take(8).is_ok(),
        b"pasp" => reader.take(8).is_ok(),
        b"clap" => reader.take(32).is_ok(),
        b"irot" => reader.u8()? & 0xfc == 0,
        b"imir" => reader.u8()? & 0xfe == 0,
        b"av1C" => reader.u8()? == 0x81 && reader.take(3).is_ok(),
        b"pixi" => {
            let (version, count) = (reader.version()?.0, reader.u8()?);
            let depths = reader.take(count.into())?;
            version == 0 && (1..=4).contains(&count) && depths.iter().all(|depth| *depth == depths[0])
        }
        b"a1op" => reader.u8()? < 32,
        b"lsel" => matches!(reader.u16()?, 0xffff | 0..4),
        b"clli" => reader.take(4).is_ok(),
        // A name, and the zero behind it.
        b"auxC" => reader.version()?.0 == 0 && reader.0.contains(&0),
        _ => true,
    };
    if is_sound { Ok(()) } else { Err(damaged("a property that is none of its kind")) }
}

/// Whether the first of the boxes says that they are about pictures.
fn holds_pictures(meta: &[u8]) -> Result<bool, ImageError> {
    let first = boxes(meta, false).next().transpose()?;
    let Some((_, body)) = first.filter(|(kind, _)| kind == b"hdlr") else { return Ok(false) };
    let mut reader = Reader(body);
    let (version, _) = reader.version()?;
    Ok((version, reader.u32()?, reader.take(4)?) == (0, 0, b"pict"))
}

/// Pieces that follow each other as one.
fn join<'a>(pieces: &[&'a [u8]]) -> Result<Cow<'a, [u8]>, ImageError> {
    if let [piece] = pieces {
        return Ok(Cow::Borrowed(piece));
    }
    let mut joined = memory::room(pieces.iter().map(|piece| piece.len()).sum())?;
    pieces.iter().for_each(|piece| joined.extend_from_slice(piece));
    Ok(Cow::Owned(joined))
}
