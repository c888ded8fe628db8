//! One pixel of luma and colour differences to RGB, by each matrix.
//!
//! The coefficients are those of H.273, in libyuv rounded to 1/64.

use super::{
    container::Cicp,
    frame::{Frame, Layout},
    refusal::FORMAT,
};
use crate::preprocess::image::error::ImageError;

const IDENTITY: u16 = 0;
const BT709: u16 = 1;
const UNSPECIFIED: u16 = 2;
const FCC: u16 = 4;
const BT470BG: u16 = 5;
const BT601: u16 = 6;
const SMPTE240: u16 = 7;
const YCGCO: u16 = 8;
const BT2020: u16 = 9;
const FROM_PRIMARIES: u16 = 12;
const YCGCO_RE: u16 = 16;
const YCGCO_RO: u16 = 17;

/// Whether there is a way from those samples to RGB at all.
pub(super) fn is_known(cicp: Cicp, frame: &Frame) -> Result<(), ImageError> {
    let is_known = match cicp.matrix {
        IDENTITY => matches!(frame.layout, Layout::Yuv444 | Layout::Grey),
        YCGCO => cicp.full_range,
        YCGCO_RE => cicp.full_range && frame.depth == 10,
        BT709 | UNSPECIFIED | FCC | BT470BG | BT601 | SMPTE240 | BT2020 | FROM_PRIMARIES => true,
        // Its colours would have 9 bits.
        YCGCO_RO => false,
        _ => false,
    };
    if is_known {
        return Ok(());
    }
    let detail = format!("matrix {} with {:?} of {} bits", cicp.matrix, frame.layout, frame.depth);
    Err(ImageError::UnsupportedVariant { format: FORMAT, detail })
}

/// The integers of libyuv, on x86: what blue, green and red take of the differences, in 1/64.
#[derive(Clone, Copy)]
pub(super) struct Integers {
    luma: u32,
    bias: i32,
    blue_u: i32,
    green_u: i32,
    green_v: i32,
    red_v: i32,
}

impl Integers {
    /// Those of a matrix, if libyuv has it.
    pub(super) fn of(cicp: Cicp, layout: Layout) -> Option<Self> {
        let matrix = match (cicp.matrix, cicp.primaries) {
            (IDENTITY, _) if layout == Layout::Grey => BT601,
            (FROM_PRIMARIES, 1 | 2) => BT709,
            (FROM_PRIMARIES, 5 | 6) => BT601,
            (FROM_PRIMARIES, 9) => BT2020,
            (BT470BG | UNSPECIFIED, _) => BT601,
            (matrix, _) => matrix,
        };
        let [luma, blue_u, green_u, green_v, red_v] = match (matrix, cicp.full_range) {
            (BT601, false) => [18997, 128, 25, 52, 102],
            (BT601, true) => [16320, 113, 22, 46, 90],
            (BT709, false) => [18997, 128, 14, 34, 115],
            (BT709, true) => [16320, 119, 12, 30, 101],
            (BT2020, false) => [19003, 128, 12, 42, 107],
            (BT2020, true) => [16320, 120, 11, 37, 94],
            _ => return None,
        };
        let bias = if cicp.full_range { 32 } else { -1160 };
        Some(Self { luma: luma as u32, bias, blue_u, green_u, green_v, red_v })
    }

    /// A row of samples of `depth` bits.
    pub(super) fn row(&self, depth: u8, luma: &[u16], u: &[u16], v: &[u16], out: &mut [[u8; 3]]) {
        match depth {
            8 => self.pixels(|y| y * 0x101, |c| c, luma, u, v, out),
            10 => self.pixels(|y| y << 6 | y >> 4, |c| (c >> 2).min(255), luma, u, v, out),
            _ => self.pixels(|y| y << 4 | y >> 8, |c| (c >> 4).min(255), luma, u, v, out),
        }
    }

    fn pixels(
        &self,
        to_16: impl Fn(u32) -> u32,
        to_8: impl Fn(u16) -> u16,
        luma: &[u16],
        u: &[u16],
        v: &[u16],
        out: &mut [[u8; 3]],
    ) {
        let level = |sum: i32| (sum >> 6).clamp(0, 255) as u8;
        for (((pixel, &y), &u), &v) in out.iter_mut().zip(luma).zip(u).zip(v) {
            let y = ((to_16(y.into()) * self.luma) >> 16) as i32 + self.bias;
            let (u, v) = (i32::from(to_8(u)) - 128, i32::from(to_8(v)) - 128);
            *pixel = [
                level(y + v * self.red_v),
                level(y - (u * self.green_u + v * self.green_v)),
                level(y + u * self.blue_u),
            ];
        }
    }
}

/// libavif's floating point.
pub(super) struct Float {
    kind: Kind,
    /// Of each sample, its value between 0 and 1.
    luma: Vec<f32>,
    /// And as a difference.
    difference: Vec<f32>,
    /// Whether samples are levels.
    is_plain: bool,
}

enum Kind {
    Identity,
    Ycgco,
    YcgcoRe,
    Weights { red: f32, green: f32, blue: f32 },
}

impl Float {
    /// The tables for the samples of a picture.
    pub(super) fn new(cicp: Cicp, frame: &Frame) -> Result<Self, ImageError> {
        let depth = frame.depth;
        let scale = |full: f32, limited: u16| if cicp.full_range { full } else { f32::from(limited << (depth - 8)) };
        let most = f32::from((1u16 << depth) - 1);
        let (black, range) = (scale(0.0, 16), scale(most, 219));
        let (middle, spread) = (f32::from(1u16 << (depth - 1)), scale(most, 224));
        let table =
            |bias: f32, range: f32| (0..1u16 << depth).map(|sample| (f32::from(sample) - bias) / range).collect();
        let weights = |red: f32, blue: f32| Kind::Weights { red, green: 1.0 - red - blue, blue };
        let kind = match cicp.matrix {
            IDENTITY => Kind::Identity,
            YCGCO => Kind::Ycgco,
            YCGCO_RE => Kind::YcgcoRe,
            BT709 => weights(0.2126, 0.0722),
            FCC => weights(0.30, 0.11),
            SMPTE240 => weights(0.212, 0.087),
            BT2020 => weights(0.2627, 0.0593),
            FROM_PRIMARIES => from_primaries(cicp.primaries),
            _ => weights(0.299, 0.114),
        };
        let luma: Vec<f32> = table(black, range);
        let difference = if matches!(kind, Kind::Identity) { luma.clone() } else { table(middle, spread) };
        let is_plain = matches!(kind, Kind::Identity) && depth == 8 && cicp.full_range;
        Ok(Self { kind, luma, difference, is_plain })
    }

    /// The level of each sample of a grey picture.
    pub(super) fn greys(&self) -> Vec<u8> {
        self.luma.iter().map(|&luma| level(luma.clamp(0.0, 1.0))).collect()
    }

    /// Whether libavif takes one of its ways that do not know alpha.
    pub(super) fn is_fast(&self, frame: &Frame) -> bool {
        match (&self.kind, frame.layout) {
            (_, Layout::Yuv420 | Layout::Yuv422) => false,
            (Kind::Identity, Layout::Yuv444) => self.is_plain,
            (Kind::Weights { .. }, _) => true,
            _ => false,
        }
    }

    /// A row of a picture. With alpha, the colours are divided by it.
    pub(super) fn row(
        &self,
        frame: &Frame,
        row: usize,
        (luma, near, far): (&[u16], &mut [u16], &mut [u16]),
        (u, v): (&mut [u16], &mut [u16]),
        alpha: Option<&Vec<u16>>,
        out: &mut [[u8; 3]],
    ) {
        let last = self.luma.len() - 1;
        let at = |table: &[f32], sample: u16| table[usize::from(sample).min(last)];
        let has_colours = frame.layout != Layout::Grey;
        let neighbours = Neighbours::of(frame, row);
        if has_colours {
            for (plane, near, far) in [(1, &mut *u, &mut *near), (2, &mut *v, &mut *far)] {
                frame.read_row(plane, neighbours.near, 0, near);
                frame.read_row(plane, neighbours.far, 0, far);
            }
        }
        let difference = |x: usize, nears: &[u16], fars: &[u16]| {
            if frame.layout == Layout::Yuv444 {
                return at(&self.difference, nears[x]);
            }
            let (own, side) = neighbours.columns(x);
            let of = |samples: &[u16], column: usize| at(&self.difference, samples[column]);
            of(nears, own) * (9.0 / 16.0)
                + of(nears, side) * (3.0 / 16.0)
                + of(fars, own) * (3.0 / 16.0)
                + of(fars, side) * (1.0 / 16.0)
        };
        for (x, pixel) in out.iter_mut().enumerate() {
            let y = at(&self.luma, luma[x]);
            let colours = if has_colours {
                let (cb, cr) = (difference(x, u, near), difference(x, v, far));
                self.pixel(luma[x], y, cb, cr)
            } else {
                [y; 3]
            };
            let mut colours = colours.map(|colour| colour.clamp(0.0, 1.0));
            if let Some(alpha) = alpha {
                let alpha = f32::from(alpha[x]) / last as f32;
                colours = colours.map(|colour| if alpha == 0.0 { 0.0 } else { (colour / alpha).min(1.0) });
            }
            *pixel = colours.map(level);
        }
    }

    fn pixel(&self, luma: u16, y: f32, cb: f32, cr: f32) -> [f32; 3] {
        match self.kind {
            Kind::Identity => [cr, y, cb],
            Kind::Ycgco => {
                let t = y - cb;
                [t + cr, y + cb, t - cr]
            }
            Kind::YcgcoRe => {
                let whole = |difference: f32| (difference * (self.luma.len() - 1) as f32 + 0.5).floor() as i32;
                let (cg, co) = (whole(cb), whole(cr));
                let level = |value: i32| value.clamp(0, 255);
                let t = i32::from(luma) - (cg >> 1);
                let blue = level(t - (co >> 1));
                [level(blue + co), level(t + cg), blue].map(|level| level as f32 / 255.0)
            }
            Kind::Weights { red, green, blue } => {
                let r = y + (2.0 * (1.0 - red)) * cr;
                let b = y + (2.0 * (1.0 - blue)) * cb;
                let g = y - (2.0 * (red * (1.0 - red) * cr + blue * (1.0 - blue) * cb)) / green;
                [r, g, b]
            }
        }
    }
}

/// The rows and columns of colour around a pixel.
struct Neighbours {
    near: usize,
    far: usize,
    width: usize,
}

impl Neighbours {
    fn of(frame: &Frame, row: usize) -> Self {
        let (width, height) = (frame.width as usize, frame.height as usize);
        let (near, far) = match frame.layout {
            Layout::Yuv420 if row == 0 || row == height - 1 && row % 2 == 1 => (row / 2, row / 2),
            Layout::Yuv420 if row % 2 == 1 => (row / 2, row / 2 + 1),
            Layout::Yuv420 => (row / 2, row / 2 - 1),
            _ => (row, row),
        };
        Self { near, far, width }
    }

    /// The column of a pixel, and the next one to it.
    fn columns(&self, x: usize) -> (usize, usize) {
        let own = x / 2;
        let side = if x == 0 || x == self.width - 1 && x % 2 == 1 {
            own
        } else if x % 2 == 1 {
            own + 1
        } else {
            own - 1
        };
        (own, side)
    }
}

fn level(value: f32) -> u8 {
    (0.5 + value * 255.0) as u8
}

/// The weights that follow from the colours of the primaries.
fn from_primaries(primaries: u16) -> Kind {
    let [rx, ry, gx, gy, bx, by, wx, wy]: [f32; 8] = match primaries {
        4 => [0.67, 0.33, 0.21, 0.71, 0.14, 0.08, 0.310, 0.316],
        5 => [0.64, 0.33, 0.29, 0.60, 0.15, 0.06, 0.3127, 0.3290],
        6 | 7 => [0.630, 0.340, 0.310, 0.595, 0.155, 0.070, 0.3127, 0.3290],
        8 => [0.681, 0.319, 0.243, 0.692, 0.145, 0.049, 0.310, 0.316],
        9 => [0.708, 0.292, 0.170, 0.797, 0.131, 0.046, 0.3127, 0.3290],
        10 => [1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.3333, 0.3333],
        11 => [0.680, 0.320, 0.265, 0.690, 0.150, 0.060, 0.314, 0.351],
        12 => [0.680, 0.320, 0.265, 0.690, 0.150, 0.060, 0.3127, 0.3290],
        22 => [0.630, 0.340, 0.295, 0.605, 0.155, 0.077, 0.3127, 0.3290],
        _ => [0.64, 0.33, 0.3, 0.6, 0.15, 0.06, 0.3127, 0.329],
    };
    let [rz, gz, bz, wz] = [(rx, ry), (gx, gy), (bx, by), (wx, wy)].map(|(x, y)| 1.0 - (x + y));
    let whole = wy * (rx * (gy * bz - by * gz) + gx * (by * rz - ry * bz) + bx * (ry * gz - gy * rz));
    let red = ry * (wx * (gy * bz - by * gz) + wy * (bx * gz - gx * bz) + wz * (gx * by - bx * gy)) / whole;
    let blue = by * (wx * (ry * gz - gy * rz) + wy * (gx * rz - rx * gz) + wz * (rx * gy - gx * ry)) / whole;
    Kind::Weights { red, green: 1.0 - red - blue, blue }
}
