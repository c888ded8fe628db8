//! YCbCr that no JPEG decoder has turned into RGB: as libtiff does it for compressed files, subsampled or not.
//!
//! Owns libtiff's tables and its blocks of samples: of so many pixels the brightness, then their two colours.

use super::{
    chunks::Chunk,
    refusal::{corrupt, unsupported},
    tags::{BLACK_AND_WHITE, COEFFICIENTS, SUBSAMPLING, Tags},
};
use crate::preprocess::image::{directory::Field, error::ImageError};

/// How many pixels across and down have a colour together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Subsampling {
    pub(super) across: usize,
    pub(super) down: usize,
}

impl Subsampling {
    /// That of the fields; 2 x 2 where there is none.
    pub(super) fn of(tags: &Tags<'_>) -> Result<Self, ImageError> {
        let (across, down) = match tags.numbers(SUBSAMPLING)? {
            Some(numbers) => (numbers.get(0)?, numbers.get(1)?),
            None => (2, 2),
        };
        match (across, down) {
            (4, 1 | 2 | 4) | (2, 1 | 2) | (1, 1 | 2) => Ok(Self { across: across as usize, down: down as usize }),
            _ => Err(unsupported(format!("YCbCr of {across} x {down} pixels"))),
        }
    }

    /// Bytes of a block.
    fn block(self) -> usize {
        self.across * self.down + 2
    }

    /// Bytes of a row of blocks of a chunk so wide.
    pub(super) fn block_row(self, width: usize) -> usize {
        width.div_ceil(self.across) * self.block()
    }
}

/// From levels to what they add to red, green and blue.
pub(super) struct Tables {
    luma: [i32; 256],
    red: [i32; 256],
    green_of_blue: [i32; 256],
    green_of_red: [i32; 256],
    blue: [i32; 256],
}

const SHIFT: u32 = 16;

impl Tables {
    /// Those of the fields.
    pub(super) fn of(tags: &Tags<'_>) -> Result<Self, ImageError> {
        let [red, green, blue] = floats(tags.field(COEFFICIENTS), [0.299, 0.587, 0.114])?;
        if green == 0.0 {
            return Err(corrupt("YCbCr without green"));
        }
        let levels = floats(tags.field(BLACK_AND_WHITE), [0.0, 255.0, 128.0, 255.0, 128.0, 255.0])?;
        if !levels.iter().all(|level| (-2_147_483_520.0..=2_147_483_520.0).contains(level)) {
            return Err(corrupt("levels of black and white beyond all"));
        }
        let fixed = |factor: f32| {
            let factor = if factor >= 0.0 { factor.min(2.0) } else { 0.0 };
            (f64::from(factor) * f64::from(1 << SHIFT) + 0.5) as i32
        };
        let (for_red, for_blue) = (2.0 - 2.0 * red, 2.0 - 2.0 * blue);
        let factors = [for_red, red * for_red / green, for_blue, blue * for_blue / green].map(fixed);
        let scaled = |level: i32, black: f32, white: f32, range: f32| {
            let span = if white == black { 1.0 } else { white - black };
            // The black level as a whole number, as libtiff takes it.
            let value = (level - black as i32) as f32 * range / span;
            let clamped = if value < -4096.0 { -4096.0 } else { value.min(4096.0) };
            clamped as i32
        };
        const HALF: i32 = 1 << (SHIFT - 1);
        let mut tables =
            Self { luma: [0; 256], red: [0; 256], green_of_blue: [0; 256], green_of_red: [0; 256], blue: [0; 256] };
        for index in 0..256 {
            let level = index as i32;
            let of_red = scaled(level - 128, levels[4] - 128.0, levels[5] - 128.0, 127.0);
            let of_blue = scaled(level - 128, levels[2] - 128.0, levels[3] - 128.0, 127.0);
            tables.luma[index] = scaled(level, levels[0], levels[1], 255.0);
            tables.red[index] = (factors[0] * of_red + HALF) >> SHIFT;
            tables.green_of_red[index] = -factors[1] * of_red;
            tables.green_of_blue[index] = -factors[3] * of_blue + HALF;
            tables.blue[index] = (factors[2] * of_blue + HALF) >> SHIFT;
        }
        Ok(tables)
    }

    /// One pixel.
    pub(super) fn rgb(&self, [y, cb, cr]: [u8; 3]) -> [u8; 3] {
        let [y, cb, cr] = [y, cb, cr].map(usize::from);
        let green = (self.green_of_blue[cb] + self.green_of_red[cr]) >> SHIFT;
        [self.red[cr], green, self.blue[cb]].map(|colour| (self.luma[y] + colour).clamp(0, 255) as u8)
    }

    /// The blocks of a chunk to its pixels in a picture whose rows are so long.
    pub(super) fn blocks(
        &self,
        subsampling: Subsampling,
        chunk: &Chunk,
        chunk_width: usize,
        data: &[u8],
        picture: &mut [u8],
        row_bytes: usize,
    ) {
        let Subsampling { across, down } = subsampling;
        for (number, blocks) in data.chunks_exact(subsampling.block_row(chunk_width)).enumerate() {
            for line in 0..down.min(chunk.height.saturating_sub(number * down)) {
                let row = &mut picture[(chunk.top + number * down + line) * row_bytes + chunk.left * 3..];
                let pixels = row[..chunk.width * 3].as_chunks_mut::<3>().0;
                for (block, pixels) in blocks.chunks_exact(subsampling.block()).zip(pixels.chunks_mut(across)) {
                    let (cb, cr) = (block[across * down], block[across * down + 1]);
                    for (pixel, &y) in pixels.iter_mut().zip(&block[line * across..]) {
                        *pixel = self.rgb([y, cb, cr]);
                    }
                }
            }
        }
    }
}

fn floats<const N: usize>(field: Option<&Field<'_>>, default: [f32; N]) -> Result<[f32; N], ImageError> {
    // A field that libtiff cannot read is none.
    let Some(field) = field.filter(|field| field.count() == N) else { return Ok(default) };
    let mut values = [0.0; N];
    for (index, value) in values.iter_mut().enumerate() {
        let number = field.number(index).ok_or_else(|| corrupt(format!("field {} has no value {index}", field.tag)))?;
        // No rational of libtiff's is divided by nothing.
        *value = if number.is_finite() { number as f32 } else { 0.0 };
    }
    Ok(values)
}
