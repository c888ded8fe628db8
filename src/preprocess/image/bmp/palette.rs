//! The palette of a BMP, and what Pillow takes it for.

use super::{header::Header, refusal::unsupported};
use crate::preprocess::image::{ImageError, convert, mode::Mode};

/// The colours of pixels that are numbers, black where there is none.
pub(super) struct Palette {
    table: [[u8; 3]; 256],
    pub(super) kind: Kind,
}

/// What Pillow takes a palette for.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Kind {
    /// Black and white.
    Bilevel,
    /// Each colour is the grey of its number.
    Grey,
    Colours,
}

impl Palette {
    pub(super) fn read(header: &Header, bytes: &[u8]) -> Result<Self, ImageError> {
        const MAX_COLOURS: u64 = 1 << 16;
        let &Header { colours, colour_bytes, end, .. } = header;
        if colours > MAX_COLOURS {
            return Err(unsupported("colours in the palette:", colours));
        }
        let stored = bytes.get(end..).unwrap_or_default();
        let stored = &stored[..stored.len().min(header.palette_bytes() as usize)];
        let entries = || stored.chunks_exact(colour_bytes).map(|entry| [entry[2], entry[1], entry[0]]);
        // A last one may lack its fourth byte.
        let whole = stored.chunks(colour_bytes).filter(|entry| entry.len() >= 3).count() as u64;
        let level = |number: usize| if colours == 2 { number as u8 * 255 } else { number as u8 };
        let is_grey =
            stored.chunks(colour_bytes).enumerate().all(|(number, entry)| entry.starts_with(&[level(number); 3]));
        let mut table = [[0; 3]; 256];
        let kind = match colours {
            1 | 2 if is_grey && whole == colours => {
                table[1..].fill([255; 3]);
                Kind::Bilevel
            }
            _ if is_grey && whole == colours => {
                table = std::array::from_fn(|number| [number as u8; 3]);
                Kind::Grey
            }
            _ => {
                if entries().count() > table.len() {
                    return Err(unsupported("colours in the palette:", colours));
                }
                for (colour, entry) in table.iter_mut().zip(entries()) {
                    *colour = entry;
                }
                Kind::Colours
            }
        };
        Ok(Self { table, kind })
    }

    pub(super) fn mode(&self, fill: u8) -> Mode {
        match self.kind {
            Kind::Bilevel => Mode::bilevel(fill),
            Kind::Grey => Mode::Plain,
            Kind::Colours => Mode::Stepped { fill: self.table[usize::from(fill)] },
        }
    }

    /// Pixels of `BITS` each.
    pub(super) fn unpack<const BITS: usize>(&self, row: &[u8], line: &mut [u8]) {
        convert::numbers::<BITS>(row, &self.table, line);
    }
}
