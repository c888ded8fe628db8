//! Which picture of a file is shown: that of its items, or the first of its track.
//!
//! Owns the boxes of the file itself, by libavif's rules. Does not read what is in them (`items`, `track`).

use super::{
    boxes::{Kind, boxes},
    container::{Cicp, Container, orientation},
    items::Items,
    refusal::{FORMAT, damaged},
    track,
};
use crate::preprocess::image::error::ImageError;

impl<'a> Container<'a> {
    /// Reads the boxes of a file.
    pub(super) fn read(bytes: &'a [u8]) -> Result<Self, ImageError> {
        let mut brands: Option<&[u8]> = None;
        let (mut meta, mut moov) = (None, None);
        for next in boxes(bytes, true) {
            let (kind, body) = next?;
            match &kind {
                b"ftyp" if brands.is_none() => brands = Some(body),
                b"meta" if meta.is_none() => meta = Some(body),
                b"moov" if moov.is_none() => moov = Some(body),
                b"ftyp" | b"meta" | b"moov" => return Err(damaged("a box that may be there once is there twice")),
                _ => {}
            }
            let has = |brand| brands.is_some_and(|brands| has_brand(brands, brand));
            if brands.is_some() && (meta.is_some() || !has(b"avif")) && (moov.is_some() || !has(b"avis")) {
                break;
            }
        }
        let brands = brands.ok_or_else(|| damaged("no file type"))?;
        if has_brand(brands, b"avif") && meta.is_none() || has_brand(brands, b"avis") && moov.is_none() {
            return Err(ImageError::Truncated { format: FORMAT });
        }
        // What is not shown has to be sound, too.
        let items = meta.map(|meta| Items::read(bytes, meta)).transpose()?;
        match (moov, items) {
            (Some(moov), _) if brands.starts_with(b"avis") => track::read(bytes, moov),
            (_, Some(items)) => Self::of_items(&items),
            (Some(moov), None) => track::read(bytes, moov),
            (None, None) => Err(damaged("neither items nor a track")),
        }
    }

    fn of_items(items: &Items<'a>) -> Result<Self, ImageError> {
        let (id, primary) = items.primary()?;
        let colour = items.coded(id, None)?;
        let alpha_id = items.alpha_of(id);
        let alpha = match alpha_id {
            Some(alpha) => Some(items.coded(alpha, Some(&colour))?),
            None if colour.is_grid => items.alpha_of_tiles(id, &colour)?,
            None => None,
        };
        let premultiplied = alpha_id.is_some() && primary.premultiplied_by == alpha_id;
        let cicp = Cicp::find(items.properties(primary))?;
        let metadata = items.metadata(id)?;
        let orientation = orientation(items.properties(primary), metadata.exif.as_deref(), metadata.xmp.as_deref())?;
        Ok(Self { colour, alpha, premultiplied, cicp, orientation })
    }
}

fn has_brand(brands: &[u8], brand: &Kind) -> bool {
    let (first, rest) = brands.split_at(brands.len().min(8));
    first.starts_with(brand) || rest.as_chunks().0.contains(brand)
}
