//! Planes to RGB, to the byte as libavif has it done for Pillow: by libyuv's integers where that knows the matrix, else by its own
//! floating point.
//!
//! Owns which of the two it is, and how colours and alpha of more than 8 bits become 8: a picture with alpha takes other ways there
//! than one without.

use super::{
    container::Cicp,
    frame::{Frame, Layout},
    matrix::{Float, Integers, is_known},
    upsample::Upsampling,
};
use crate::preprocess::{
    image::error::ImageError,
    memory::{self, OutOfMemory},
};

/// Makes one picture RGB.
pub(super) struct Converter<'a> {
    colour: &'a Frame,
    alpha: Option<Alpha<'a>>,
    method: Method,
}

enum Method {
    /// Grey without alpha: a level for each sample.
    Grey(Vec<u8>),
    /// The lowest bits of the samples are cut off first, `shift` of them.
    Integers {
        matrix: Integers,
        shift: u8,
        upsampling: Upsampling,
    },
    Float(Float),
}

#[derive(Clone, Copy)]
struct Alpha<'a> {
    frame: &'a Frame,
    /// Whether 10 or 12 bits become 8 by leaving out the lowest, rather than by scaling.
    cuts: bool,
    /// What is undone where the colours have been multiplied by it.
    premultiplied: Option<Division>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Division {
    /// In 8-bit integers, afterwards.
    Integer,
    /// In floating point, before the colours are rounded.
    Float,
}

impl<'a> Converter<'a> {
    /// The way from those planes to RGB.
    pub(super) fn new(
        colour: &'a Frame,
        alpha: Option<&'a Frame>,
        premultiplied: bool,
        cicp: Cicp,
    ) -> Result<Self, ImageError> {
        let layout = colour.layout;
        is_known(cicp, colour)?;
        let method = match Integers::of(cicp, layout) {
            _ if layout == Layout::Grey && alpha.is_none() => Method::Grey(Float::new(cicp, colour)?.greys()),
            None => Method::Float(Float::new(cicp, colour)?),
            Some(matrix) => {
                // Of 12 bits there are no functions but one, which does not filter.
                let (keeps_depth, filters) = match (colour.depth, layout, alpha) {
                    (10, Layout::Yuv420 | Layout::Yuv422 | Layout::Yuv444, Some(_)) => (true, true),
                    (12, Layout::Yuv420, Some(_)) => (true, false),
                    _ => (false, true),
                };
                let shift = if keeps_depth { 0 } else { colour.depth - 8 };
                let upsampling = if filters { Upsampling::Filtered } else { Upsampling::Nearest };
                Method::Integers { matrix, shift, upsampling }
            }
        };
        let alpha = alpha.map(|frame| {
            let cuts = match &method {
                Method::Integers { upsampling, .. } => layout != Layout::Grey && *upsampling == Upsampling::Filtered,
                Method::Grey(_) | Method::Float(_) => false,
            };
            let division = match &method {
                Method::Float(float) if !float.is_fast(colour) => Division::Float,
                _ => Division::Integer,
            };
            Alpha { frame, cuts, premultiplied: premultiplied.then_some(division) }
        });
        Ok(Self { colour, alpha, method })
    }

    /// Fills `rgb`, and with three times the alpha of each pixel `alphas`, unless that is empty.
    pub(super) fn convert(&self, rgb: &mut [u8], alphas: &mut [u8]) -> Result<(), OutOfMemory> {
        let width = self.colour.width as usize;
        let mut lines = Lines::new(width)?;
        let mut alpha_lines = alphas.chunks_exact_mut(width * 3);
        for (row, out) in rgb.chunks_exact_mut(width * 3).enumerate() {
            let out = out.as_chunks_mut().0;
            if let Some(alpha) = self.alpha {
                alpha.read_row(row, &mut lines.alpha);
            }
            self.colour_row(row, &mut lines, out);
            let Some(alpha) = self.alpha else { continue };
            let levels = alpha.levels();
            if alpha.premultiplied == Some(Division::Integer) {
                for (pixel, &alpha) in out.iter_mut().zip(&lines.alpha) {
                    divide(pixel, levels(alpha));
                }
            }
            if let Some(alphas) = alpha_lines.next() {
                for (triple, &alpha) in alphas.as_chunks_mut::<3>().0.iter_mut().zip(&lines.alpha) {
                    *triple = [levels(alpha); 3];
                }
            }
        }
        Ok(())
    }

    fn colour_row(&self, row: usize, lines: &mut Lines, out: &mut [[u8; 3]]) {
        let Lines { luma, u, v, near, far, alpha } = lines;
        match &self.method {
            Method::Grey(levels) => {
                self.colour.read_row(0, row, 0, luma);
                for (pixel, &sample) in out.iter_mut().zip(&*luma) {
                    // Samples have no more bits than the table.
                    *pixel = [levels.get(usize::from(sample)).copied().unwrap_or(255); 3];
                }
            }
            Method::Integers { matrix, shift, upsampling } => {
                self.colour.read_row(0, row, *shift, luma);
                if self.colour.layout != Layout::Grey {
                    upsampling.row(self.colour, 1, row, *shift, (near, far), u);
                    upsampling.row(self.colour, 2, row, *shift, (near, far), v);
                }
                matrix.row(self.colour.depth - shift, luma, u, v, out);
            }
            Method::Float(float) => {
                let divides = self.alpha.is_some_and(|alpha| alpha.premultiplied == Some(Division::Float));
                self.colour.read_row(0, row, 0, luma);
                float.row(self.colour, row, (luma, near, far), (u, v), divides.then_some(alpha), out);
            }
        }
    }
}

impl Alpha<'_> {
    /// The samples of a row, in the full range.
    fn read_row(&self, row: usize, out: &mut [u16]) {
        self.frame.read_row(0, row, 0, out);
        if !self.frame.cicp.full_range {
            let shift = self.frame.depth - 8;
            let (black, range, full) = (16 << shift, 219 << shift, (1i32 << self.frame.depth) - 1);
            for sample in out {
                let scaled = ((i32::from(*sample) - black) * full + range / 2) / range;
                *sample = scaled.clamp(0, full) as u16;
            }
        }
    }

    /// From samples to 8 bits.
    fn levels(&self) -> impl Fn(u16) -> u8 + use<> {
        let (depth, cuts) = (self.frame.depth, self.cuts);
        let full = f32::from((1u16 << depth) - 1);
        move |sample| match (depth, cuts) {
            (8, _) => sample as u8,
            (_, true) => (sample >> (depth - 8)).min(255) as u8,
            (_, false) => (0.5 + f32::from(sample) / full * 255.0).min(255.0) as u8,
        }
    }
}

/// Undoes the multiplication of a pixel by its alpha, as libyuv's vector code does: what comes out 128 times too light comes out black.
fn divide(pixel: &mut [u8; 3], alpha: u8) {
    let inverse = match alpha {
        0 => 0,
        1 => 0xffff,
        255 => 0x100,
        _ => 0x1_0000 / u32::from(alpha),
    };
    *pixel = pixel.map(|level| match (u32::from(level) * 0x101 * inverse) >> 16 {
        0x8000.. => 0,
        level => level.min(255) as u8,
    });
}

/// Memory for a row of each.
struct Lines {
    luma: Vec<u16>,
    u: Vec<u16>,
    v: Vec<u16>,
    near: Vec<u16>,
    far: Vec<u16>,
    alpha: Vec<u16>,
}

impl Lines {
    fn new(width: usize) -> Result<Self, OutOfMemory> {
        let line = || -> Result<Vec<u16>, OutOfMemory> {
            let mut line = memory::room(width)?;
            // Neutral, where there are no colours.
            line.resize(width, 128);
            Ok(line)
        };
        Ok(Self { luma: line()?, u: line()?, v: line()?, near: line()?, far: line()?, alpha: line()? })
    }
}
