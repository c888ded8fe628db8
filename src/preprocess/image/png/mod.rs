//! PNG: every colour type and depth to RGB, by the rules of Pillow's reader.
//!
//! Owns what pixels become, and where they lie. `chunks` goes through the file, `metadata` keeps what tells the orientation, `rows`
//! inflates and `unfilter` undoes what rows were filtered by, `streamed` gives rows without a picture of them. Profiles are skipped, so that none can be a bomb.
//!
//! As in Pillow: a colour that the palette lacks, also where there is none, is black.

mod chunks;
mod metadata;
mod patience;
mod refusal;
mod rows;
mod streamed;
mod unfilter;

use self::{
    chunks::{Area, Chunks, Kind},
    patience::Patience,
    refusal::{FORMAT, damaged},
    rows::{Inflater, Input, Pixel, Rows},
};
use super::{
    Decoded, Limits, RgbImage, convert,
    error::ImageError,
    mode::{self, Mode},
};
use crate::preprocess::memory;

/// A PNG within the limits, its pixels not yet decoded.
pub(super) struct Png<'a> {
    /// At the first data of pixels.
    chunks: Chunks<'a>,
    width: u32,
    height: u32,
    kind: Kind,
    interlaced: bool,
    layout: Layout,
    /// What the pixels fill.
    area: Area,
    kept_modes: Option<u8>,
}

/// Decodes a PNG; of an APNG the default picture, as Pillow's first frame.
pub(super) fn decode(bytes: &[u8], limits: &Limits, buffer: Vec<u8>) -> Result<Decoded, ImageError> {
    decode_with(bytes, limits, buffer, Patience::new())
}

/// The same, with so much time for the fast inflater.
fn decode_with(bytes: &[u8], limits: &Limits, buffer: Vec<u8>, patience: Patience) -> Result<Decoded, ImageError> {
    open(bytes, limits)?.decode(buffer, patience)
}

/// Reads everything up to the pixels.
pub(super) fn open<'a>(bytes: &'a [u8], limits: &Limits) -> Result<Png<'a>, ImageError> {
    let mut chunks = Chunks::new(bytes);
    let opened = chunks.open();
    let header = &chunks.header;
    let size = limits.check(FORMAT, header.width.into(), header.height.into());
    let (width, height) = match (opened, size) {
        // Whatever else is wrong with it.
        (_, Err(error @ ImageError::TooManyPixels { .. })) => return Err(error),
        (opened, size) => {
            opened?;
            size?
        }
    };
    let Some(kind) = header.kind else { return Err(damaged("no such depth and colour type")) };
    let layout = Layout::of(kind, header.palette)?;
    let interlaced = header.interlaced;
    let area = match header.area {
        Some(area) if area.width == 0 || area.height == 0 => return Err(damaged("a frame of no pixels")),
        // Pillow forgets where it lies.
        Some(area) if interlaced => Area { left: 0, top: 0, ..area },
        area => area.unwrap_or(Area { left: 0, top: 0, width, height }),
    };
    Ok(Png { chunks, width, height, kind, interlaced, layout, area, kept_modes: limits.kept_modes })
}

impl Png<'_> {
    /// Width and height.
    pub(super) fn size(&self) -> (u32, u32) {
        (self.width, self.height)
    }

    fn is_filled(&self) -> bool {
        self.area == Area { left: 0, top: 0, width: self.width, height: self.height }
    }

    /// Of a pixel's wanted bytes that of alpha, where it is kept.
    fn kept_alpha(&self) -> Option<usize> {
        self.layout.alpha.filter(|_| self.kept_modes.is_some())
    }

    /// The mode of a picture without alpha.
    fn mode(&self) -> Mode {
        match (self.kept_modes, self.kind) {
            (Some(fill), (_, INDEXED)) => Mode::Stepped { fill: self.layout.colours[usize::from(fill)] },
            (Some(fill), (1, GREY)) => Mode::bilevel(fill),
            _ => Mode::Plain,
        }
    }

    fn decode(self, buffer: Vec<u8>, patience: Patience) -> Result<Decoded, ImageError> {
        let Self { width, height, area, ref layout, .. } = self;
        let line_bytes = width as usize * 3;
        let mut data = memory::any(buffer, line_bytes * height as usize)?;
        if !self.is_filled() {
            data.as_chunks_mut().0.fill(layout.colours[0]);
        }
        let alpha = self.kept_alpha();
        let mut alphas = match alpha {
            Some(_) => memory::zeroed(Vec::new(), data.len())?,
            None => Vec::new(),
        };
        let passes: &[Pass] = if self.interlaced { &ADAM7 } else { &[Pass { x: 0, y: 0, dx: 1, dy: 1 }] };
        let passes = passes.iter().filter(|pass| pass.columns(area.width) > 0 && pass.rows(area.height) > 0);
        let stored =
            |pass: &Pass| (layout.row_bytes(pass.columns(area.width)) as u64 + 1) * u64::from(pass.rows(area.height));
        let mut spread = memory::zeroed(Vec::new(), if self.interlaced { line_bytes } else { 0 })?;
        let mut fill = |chunks: &mut Chunks, inflater: Inflater| -> Result<(), ImageError> {
            let mut rows = Rows::new(inflater, layout.row_bytes(area.width), passes.clone().map(stored).sum())?;
            let mut input = Input::new(chunks);
            for pass in passes.clone() {
                rows.begin_pass();
                let columns = pass.columns(area.width);
                let row_bytes = layout.row_bytes(columns);
                for number in 0..pass.rows(area.height) {
                    let row = rows.next(&mut input, row_bytes, layout.pixel)?;
                    let y = (area.top + pass.y + number * pass.dy) as usize;
                    let place = y * line_bytes + area.left as usize * 3..;
                    let mut put = |plane: &mut [u8], unpack: &dyn Fn(&mut [u8])| {
                        let line = &mut plane[place.clone()][..area.width as usize * 3];
                        if pass.dx == 1 && pass.x == 0 {
                            return unpack(line);
                        }
                        let pixels = &mut spread[..columns as usize * 3];
                        unpack(pixels);
                        let places =
                            line.as_chunks_mut::<3>().0.iter_mut().skip(pass.x as usize).step_by(pass.dx as usize);
                        for (place, pixel) in places.zip(pixels.as_chunks().0) {
                            *place = *pixel;
                        }
                    };
                    put(&mut data, &|line| layout.unpack(row, line));
                    if let Some(alpha) = alpha {
                        put(&mut alphas, &|line| layout.unpack_alpha(alpha, row, line));
                    }
                }
            }
            rows.finish(&mut input)
        };
        let mut chunks = self.chunks.clone();
        if fill(&mut chunks, Inflater::fast(patience)).is_err() {
            chunks = self.chunks.clone();
            fill(&mut chunks, Inflater::zlib())?;
        }
        chunks.finish()?;
        // Nothing is weighed where all is opaque.
        let mode = if alphas.iter().any(|&alpha| alpha != 255) { Mode::Alpha(alphas) } else { self.mode() };
        let orientation = chunks.metadata.orientation();
        Ok(Decoded { image: RgbImage::new(width, height, data).in_mode(mode), orientation })
    }
}

/// Which pixels of a picture come together.
struct Pass {
    x: u32,
    y: u32,
    dx: u32,
    dy: u32,
}

/// Those of an interlaced picture.
const ADAM7: [Pass; 7] = [
    Pass { x: 0, y: 0, dx: 8, dy: 8 },
    Pass { x: 4, y: 0, dx: 8, dy: 8 },
    Pass { x: 0, y: 4, dx: 4, dy: 8 },
    Pass { x: 2, y: 0, dx: 4, dy: 4 },
    Pass { x: 0, y: 2, dx: 2, dy: 4 },
    Pass { x: 1, y: 0, dx: 2, dy: 2 },
    Pass { x: 0, y: 1, dx: 1, dy: 2 },
];

impl Pass {
    fn columns(&self, width: u32) -> u32 {
        width.saturating_sub(self.x).div_ceil(self.dx)
    }

    fn rows(&self, height: u32) -> u32 {
        height.saturating_sub(self.y).div_ceil(self.dy)
    }
}

const GREY: u8 = 0;
const INDEXED: u8 = 3;

/// How pixels are stored.
struct Layout {
    /// Of a pixel.
    bits: usize,
    pixel: Pixel,
    /// What the numbers of pixels stand for, where these are numbers.
    colours: [[u8; 3]; 256],
    unpack: Unpack,
    /// Of a pixel's wanted bytes that of alpha.
    alpha: Option<usize>,
}

/// A row to RGB.
enum Unpack {
    Numbers(fn(&[u8], &[[u8; 3]; 256], &mut [u8])),
    /// A byte of each channel.
    Channels(fn(&[u8], &mut [u8])),
}

impl Layout {
    fn of((depth, colour): Kind, palette: Option<&[u8]>) -> Result<Self, ImageError> {
        const MAX_COLOURS: usize = 256;
        const NUMBERS: Pixel = Pixel { wanted: 1, stored: 1 };
        let bits = usize::from(depth);
        let numbers = match depth {
            1 => convert::numbers::<1>,
            2 => convert::numbers::<2>,
            4 => convert::numbers::<4>,
            _ => convert::numbers::<8>,
        };
        let channels = |count, unpack, alpha| Self {
            bits: bits * count,
            pixel: Pixel { wanted: count, stored: bits / 8 },
            colours: [[0; 3]; 256],
            unpack: Unpack::Channels(unpack),
            alpha,
        };
        Ok(match (colour, depth) {
            (INDEXED, _) => {
                let palette = palette.unwrap_or_default();
                if palette.len() / 3 > MAX_COLOURS {
                    return Err(damaged("too many colours in the palette"));
                }
                let colours = std::array::from_fn(|number| mode::entry(Some(palette), number as u8));
                Self { bits, pixel: NUMBERS, colours, unpack: Unpack::Numbers(numbers), alpha: None }
            }
            (GREY, 1 | 2 | 4) => {
                let most = (1 << depth) - 1;
                let colours = std::array::from_fn(|number| [(number * 255 / most).min(255) as u8; 3]);
                Self { bits, pixel: NUMBERS, colours, unpack: Unpack::Numbers(numbers), alpha: None }
            }
            (GREY, _) => channels(1, convert::channels::<1, 0, 0, 0>, None),
            (2, _) => channels(3, convert::channels::<3, 0, 1, 2>, None),
            (4, _) => channels(2, convert::channels::<2, 0, 0, 0>, Some(1)),
            _ => channels(4, convert::channels::<4, 0, 1, 2>, Some(3)),
        })
    }

    fn row_bytes(&self, columns: u32) -> usize {
        (columns as usize * self.bits).div_ceil(8)
    }

    fn unpack(&self, row: &[u8], line: &mut [u8]) {
        match self.unpack {
            Unpack::Numbers(unpack) => unpack(row, &self.colours, line),
            Unpack::Channels(unpack) => unpack(row, line),
        }
    }

    /// Of each pixel alpha, three times.
    fn unpack_alpha(&self, alpha: usize, row: &[u8], line: &mut [u8]) {
        for (out, pixel) in line.as_chunks_mut().0.iter_mut().zip(row.chunks_exact(self.pixel.wanted)) {
            *out = [pixel[alpha]; 3];
        }
    }
}

#[cfg(test)]
mod tests;
