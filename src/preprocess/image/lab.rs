//! CIELab of 8 bits to sRGB, as Pillow's `convert("RGB")` has it of LittleCMS: perceptual, from D50.
//!
//! LittleCMS computes a grid of colours once and every pixel from the four of them around it. What that takes away from the colours
//! shows (black is not quite black), so the same grid is used here, and no pixel of any differs.

use std::sync::LazyLock;

/// Points of the grid on a side.
const POINTS: usize = 33;

/// The colours of the grid, 16 bits a channel, lightness first.
static GRID: LazyLock<Vec<[u16; 3]>> = LazyLock::new(|| {
    let point = |i: usize| f64::from(((i * 0xffff) as f64 / (POINTS - 1) as f64).round() as f32 / 65535.0);
    let points = 0..POINTS;
    let colours = points.clone().flat_map(|l| points.clone().flat_map(move |a| (0..POINTS).map(move |b| [l, a, b])));
    colours.map(|[l, a, b]| colour(point(l) * 100.0, point(a) * 255.0 - 128.0, point(b) * 255.0 - 128.0)).collect()
});

/// Converts pixels in place, of which Pillow stores a and b raised by 128.
pub(super) fn to_rgb(samples: &mut [u8]) {
    let grid = GRID.as_slice();
    for pixel in samples.as_chunks_mut::<3>().0 {
        *pixel = interpolate(grid, *pixel);
    }
}

/// XYZ by D50, the largest value of its encoding being one, to linear sRGB, by Bradford.
const XYZ_TO_RGB: [[f64; 3]; 3] = [
    [6.268277080696409, -3.2343685646958, -0.9813731532183343],
    [-1.957467139347447, 3.8322017178972487, 0.06686577801362029],
    [0.14392565943970462, -0.45798075856798326, 2.811464565593521],
];

/// One colour of the grid. What is between two steps has single precision in LittleCMS.
fn colour(l: f64, a: f64, b: f64) -> [u16; 3] {
    const WHITE: [f64; 3] = [0.9642, 1.0, 0.8249];
    const LARGEST: f64 = 1.0 + 32767.0 / 32768.0;
    let single = |value: f64| f64::from(value as f32);
    let y = (l + 16.0) / 116.0;
    let roots = [y + 0.002 * a, y, y - 0.005 * b];
    let cube = |t: f64| if t <= 24.0 / 116.0 { (108.0 / 841.0) * (t - 16.0 / 116.0) } else { t * t * t };
    let xyz = [0, 1, 2].map(|i| single(cube(roots[i]) * WHITE[i] / LARGEST));
    XYZ_TO_RGB.map(|row| {
        let linear = single(row[0] * xyz[0] + row[1] * xyz[1] + row[2] * xyz[2]);
        let value = if linear < 0.04045 / 12.92 { linear * 12.92 } else { 1.055 * linear.powf(1.0 / 2.4) - 0.055 };
        (single(value) * 65535.0 + 0.5).floor().clamp(0.0, 65535.0) as u16
    })
}

/// Where a level of a channel lies between the points of the grid.
#[derive(Clone, Copy)]
struct Place {
    point: u32,
    /// In 65536ths of the way to the next.
    rest: i64,
}

/// The places of all levels.
static PLACES: [Place; 256] = {
    let mut places = [Place { point: 0, rest: 0 }; 256];
    let mut level = 0;
    while level < 256 {
        let product = level as u32 * 257 * (POINTS as u32 - 1);
        let place = product + (product + 0x7fff) / 0xffff;
        places[level] = Place { point: place >> 16, rest: (place & 0xffff) as i64 };
        level += 1;
    }
    places
};

/// Moves along the sides of the grid's cell, the longest way first.
fn interpolate(grid: &[[u16; 3]], pixel: [u8; 3]) -> [u8; 3] {
    let place = |channel: usize, stride: usize| {
        let Place { point, rest } = PLACES[usize::from(pixel[channel])];
        // The last point has none behind it, and no rest.
        let step = if pixel[channel] == 0xff { 0 } else { stride };
        (point as usize * stride, (rest, step))
    };
    let ((l, mut long), (a, mut middle), (b, mut short)) = (place(0, POINTS * POINTS), place(1, POINTS), place(2, 1));
    // Equal steps lead to the same colour in any order.
    let order = |first: &mut (i64, usize), second: &mut (i64, usize)| {
        if first.0 < second.0 {
            std::mem::swap(first, second);
        }
    };
    order(&mut long, &mut middle);
    order(&mut middle, &mut short);
    order(&mut long, &mut middle);
    let at = l + a + b;
    let corners =
        [0, long.1, long.1 + middle.1, long.1 + middle.1 + short.1].map(|step| grid[at + step].map(i64::from));
    [0, 1, 2].map(|channel| {
        let [start, first, second, third] = corners.map(|colour| colour[channel]);
        let sum = (first - start) * long.0 + (second - first) * middle.0 + (third - second) * short.0 + 0x8001;
        let value = start + ((sum + (sum >> 16)) >> 16);
        // Just below black LittleCMS is white: it keeps 16 bits.
        ((u64::from(value as u16) * 65281 + (1 << 23)) >> 24) as u8
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_those_of_pillow() {
        let cases = [
            ([128, 128, 128], [119, 119, 119]),
            ([255, 0, 255], [0, 255, 0]),
            ([10, 200, 3], [0, 0, 202]),
            ([0, 128, 128], [1, 0, 1]),
            ([255, 128, 128], [254, 255, 254]),
            ([140, 190, 60], [184, 83, 252]),
            // Beyond 32 bits, where LittleCMS goes round to the same colour.
            ([199, 175, 7], [129, 170, 255]),
        ];
        for (mut lab, rgb) in cases {
            let stored = lab;
            to_rgb(&mut lab);
            assert_eq!(lab, rgb, "{stored:?}");
        }
    }

    #[test]
    fn every_fifth_level_is_that_of_pillow() {
        let levels = || (0..=255).step_by(5);
        let mut samples: Vec<u8> =
            levels().flat_map(|l| levels().flat_map(move |a| levels().flat_map(move |b| [l, a, b]))).collect();
        to_rgb(&mut samples);
        let sum = samples.iter().fold(0u32, |sum, &sample| sum.wrapping_mul(31).wrapping_add(sample.into()));
        assert_eq!((samples.len(), sum), (3 * 52 * 52 * 52, 0x86de_2097));
    }
}
