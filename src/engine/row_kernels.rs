//! What the operators of [`RowOperator`] compute, in plain loops that the compiler makes vectors of.
//!
//! Owns the arithmetic. Does not own the runtime's tensors, nor the threads (`row_operators`).
//!
//! Invariants: a row's result depends on no other row; the bits are those of every CPU, since all versions of a function do the same operations in the
//! same order. They differ from those of the functions in the graph by what the exponential differs, some 1e-7 of a value.
//!
//! [`RowOperator`]: crate::model::row_operators::RowOperator

use std::f32::consts::{FRAC_1_SQRT_2, FRAC_2_PI, LOG2_E};

use multiversion::multiversion;

use crate::model::{
    clip_config::Activation,
    row_operators::{LEAST, LIMIT},
};

/// Products of 8-bit integers, and what makes values of them.
#[derive(Clone, Copy)]
pub(super) struct Sums<'a> {
    /// `[rows, width]`.
    pub sums: &'a [i32],
    /// Of each row.
    pub scales: &'a [f32],
    /// Of each column; its length is the width.
    pub columns: &'a [f32],
    /// For each column.
    pub bias: &'a [f32],
}

impl<'a> Sums<'a> {
    /// Its rows: each one's sums and scale.
    #[inline(always)]
    fn rows(&self) -> impl Iterator<Item = (&'a [i32], f32)> + use<'a> {
        self.sums.chunks_exact(self.columns.len()).zip(self.scales.iter().copied())
    }

    /// A row's values.
    #[inline(always)]
    fn values(&self, sums: &'a [i32], scale: f32) -> impl Iterator<Item = f32> + use<'a> {
        sums.iter()
            .zip(self.columns)
            .zip(self.bias)
            .map(move |((&sum, column), bias)| sum as f32 * scale * column + bias)
    }
}

/// `RowOperator::Quantize` of rows `x` of `width` values.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
pub(super) fn quantize(x: &[f32], width: usize, bytes: &mut [u8], scales: &mut [f32]) {
    let rows = x.chunks_exact(width).zip(bytes.chunks_exact_mut(width)).zip(scales);
    rows.for_each(|((x, bytes), scale)| *scale = quantize_row(x, bytes));
}

/// `RowOperator::Dequantize`.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
pub(super) fn dequantize<'a>(sums: Sums<'a>, y: &mut [f32]) {
    for ((row, scale), y) in sums.rows().zip(y.chunks_exact_mut(sums.columns.len())) {
        sums.values(row, scale).zip(y).for_each(|(value, y)| *y = value);
    }
}

/// `RowOperator::DequantizeOnto`.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
pub(super) fn dequantize_onto<'a>(residual: &[f32], sums: Sums<'a>, y: &mut [f32]) {
    let width = sums.columns.len();
    for (((row, scale), residual), y) in sums.rows().zip(residual.chunks_exact(width)).zip(y.chunks_exact_mut(width)) {
        sums.values(row, scale).zip(residual).zip(y).for_each(|((value, residual), y)| *y = value + residual);
    }
}

/// `RowOperator::Activate` of `activation`.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
pub(super) fn activate<'a>(activation: Activation, sums: Sums<'a>, bytes: &mut [u8], scales: &mut [f32]) {
    match activation {
        Activation::QuickGelu => activate_with(quick_gelu, sums, bytes, scales),
        Activation::Gelu => activate_with(gelu, sums, bytes, scales),
        Activation::GeluNew => activate_with(gelu_new, sums, bytes, scales),
        Activation::Relu => activate_with(relu, sums, bytes, scales),
        Activation::Selu => activate_with(selu, sums, bytes, scales),
    }
}

/// Row by row, so that the values between both steps stay in the nearest cache.
#[inline(always)]
fn activate_with(activation: impl Fn(f32) -> f32, sums: Sums<'_>, bytes: &mut [u8], scales: &mut [f32]) {
    let width = sums.columns.len();
    let mut values = vec![0.0; width];
    for (((row, scale), bytes), out) in sums.rows().zip(bytes.chunks_exact_mut(width)).zip(scales) {
        sums.values(row, scale).zip(&mut values).for_each(|(value, y)| *y = activation(value));
        *out = quantize_row(&values, bytes);
    }
}

/// `RowOperator::LayerNorm` of rows `x`, which are as wide as `weight` and `bias`.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
pub(super) fn layer_norm(x: &[f32], weight: &[f32], bias: &[f32], epsilon: f32, bytes: &mut [u8], scales: &mut [f32]) {
    let width = weight.len();
    let mut values = vec![0.0; width];
    for ((x, bytes), scale) in x.chunks_exact(width).zip(bytes.chunks_exact_mut(width)).zip(scales) {
        let mean = sum(x, |x| x) / width as f32;
        let variance = sum(x, |x| (x - mean) * (x - mean)) / width as f32;
        let inverse = 1.0 / (variance + epsilon).sqrt();
        let normed = x.iter().zip(weight).zip(bias).map(|((x, weight), bias)| (x - mean) * inverse * weight + bias);
        normed.zip(&mut values).for_each(|(value, y)| *y = value);
        *scale = quantize_row(&values, bytes);
    }
}

/// Queries, keys and values `[rows, heads * head]`.
#[derive(Clone, Copy)]
pub(super) struct Attended<'a> {
    pub queries: &'a [f32],
    pub keys: &'a [f32],
    pub values: &'a [f32],
    /// At least one.
    pub heads: usize,
    pub head: usize,
}

/// `RowOperator::CausalAttention` of one text, whose rows these are.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
pub(super) fn attend<'a>(Attended { queries, keys, values, heads, head }: Attended<'a>, y: &mut [f32]) {
    let width = heads * head;
    let mut weights = vec![0.0; y.len() / width];
    for first in (0..width).step_by(head) {
        let of = |states: &'a [f32], row: usize| &states[row * width + first..][..head];
        for position in 0..weights.len() {
            let weights = &mut weights[..=position];
            let query = of(queries, position);
            weights.iter_mut().enumerate().for_each(|(row, weight)| *weight = dot(query, of(keys, row)));
            softmax(weights);
            let y = &mut y[position * width + first..][..head];
            y.fill(0.0);
            for (row, weight) in weights.iter().enumerate() {
                y.iter_mut().zip(of(values, row)).for_each(|(y, x)| *y += weight * x);
            }
        }
    }
}

/// `e^x / sum(e^x)` in place.
#[inline(always)]
fn softmax(x: &mut [f32]) {
    let largest = x.iter().fold(f32::NEG_INFINITY, |largest, &x| if x > largest { x } else { largest });
    x.iter_mut().for_each(|x| *x = exp(*x - largest));
    let all: f32 = x.iter().sum();
    x.iter_mut().for_each(|x| *x /= all);
}

/// How many sums go on side by side, so that they are vectors and their order is that of every CPU.
const LANES: usize = 16;

/// The sum of `of` of each value.
#[inline(always)]
fn sum(x: &[f32], of: impl Fn(f32) -> f32) -> f32 {
    let (whole, rest) = x.as_chunks::<LANES>();
    let mut sums = [0.0; LANES];
    for x in whole {
        for lane in 0..LANES {
            sums[lane] += of(x[lane]);
        }
    }
    rest.iter().fold(total(sums), |sum, x| sum + of(*x))
}

/// The sum of the products of two rows of one length.
#[inline(always)]
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let ((whole_a, rest_a), (whole_b, rest_b)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    let mut sums = [0.0; LANES];
    for (a, b) in whole_a.iter().zip(whole_b) {
        for lane in 0..LANES {
            sums[lane] += a[lane] * b[lane];
        }
    }
    rest_a.iter().zip(rest_b).fold(total(sums), |sum, (a, b)| sum + a * b)
}

/// The sum of sums that went on side by side, by halves.
#[inline(always)]
fn total(sums: [f32; LANES]) -> f32 {
    let eight: [f32; 8] = std::array::from_fn(|i| sums[i] + sums[i + 8]);
    let four: [f32; 4] = std::array::from_fn(|i| eight[i] + eight[i + 4]);
    (four[0] + four[2]) + (four[1] + four[3])
}

/// The bytes of a row, and their scale.
#[inline(always)]
fn quantize_row(x: &[f32], bytes: &mut [u8]) -> f32 {
    // Of floats without their signs the order is that of their bits, and what is not a number stands above all: the scale says so.
    let largest = x.iter().fold(LEAST.to_bits(), |largest, x| largest.max(x.abs().to_bits()));
    let largest = f32::from_bits(largest);
    let steps = LIMIT / largest;
    // The last bits of the sum are the whole number, in two's complement; another sign bit adds 128.
    x.iter().zip(bytes).for_each(|(x, byte)| *byte = ((x * steps + ROUND).to_bits() as u8) ^ 0x80);
    largest / LIMIT
}

/// `1.5 * 2^23`: a sum with it is rounded to a whole number, ties to even.
const ROUND: f32 = 12_582_912.0;

/// `x * sigmoid(1.702 x)`.
#[inline(always)]
fn quick_gelu(x: f32) -> f32 {
    x / (1.0 + exp(-1.702 * x))
}

/// `x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3))) / 2`, where `(1 + tanh(t)) / 2` is `sigmoid(2 t)`.
#[inline(always)]
fn gelu_new(x: f32) -> f32 {
    let slope = -2.0 * FRAC_2_PI.sqrt();
    x / (1.0 + exp(slope * (x + 0.044_715 * x * x * x)))
}

/// `x * (1 + erf(x / sqrt 2)) / 2`.
#[inline(always)]
fn gelu(x: f32) -> f32 {
    0.5 * x * (1.0 + erf(x * FRAC_1_SQRT_2))
}

/// `max(x, 0)`, but not a number where `x` is none.
#[inline(always)]
fn relu(x: f32) -> f32 {
    if x < 0.0 { 0.0 } else { x }
}

/// The scaled exponential unit.
#[inline(always)]
fn selu(x: f32) -> f32 {
    let below = 1.673_263_2 * (exp(x) - 1.0);
    1.050_701 * if x < 0.0 { below } else { x }
}

/// The error function within 2e-7, by 7.1.26 of Abramowitz and Stegun's handbook.
#[inline(always)]
fn erf(x: f32) -> f32 {
    let positive = x.abs();
    let t = 1.0 / (1.0 + 0.327_591_1 * positive);
    let polynomial = ((((1.061_405_4 * t - 1.453_152_1) * t + 1.421_413_8) * t - 0.284_496_72) * t + 0.254_829_6) * t;
    (1.0 - polynomial * exp(-positive * positive)).copysign(x)
}

/// `e^x` within 3e-7 of it, and of `e^-60` and `e^88` beyond these, where nothing sees a difference, and what is computed with smaller ones takes a
/// CPU a hundred times as long; a number whatever `x` is: `2^n e^r` with a whole `n`, and `e^r` by its series.
#[inline(always)]
fn exp(x: f32) -> f32 {
    // Not `clamp`, which lets through what is not a number, and takes more instructions for that.
    let x = if x > -60.0 { x } else { -60.0 };
    let x = if x < 88.0 { x } else { 88.0 };
    let shifted = x * LOG2_E + ROUND;
    let n = shifted - ROUND;
    // ln 2 in two parts: `n` times the first is exact.
    let r = x - n * 0.693_359_4 + n * 2.121_944_4e-4;
    let series = (((((r / 720.0 + 1.0 / 120.0) * r + 1.0 / 24.0) * r + 1.0 / 6.0) * r + 0.5) * r + 1.0) * r + 1.0;
    // `n` into the exponent.
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(1.0_f32.to_bits()));
    series * power
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values from -12 to 12, and what is far beyond.
    fn values() -> Vec<f32> {
        (-6000..=6000).map(|i| i as f32 / 500.0).chain([-1e30, -200.0, -88.5, 88.5, 200.0]).collect()
    }

    fn close(name: &str, ours: fn(f32) -> f32, exact: fn(f64) -> f64, error: f64) {
        for x in values() {
            let (ours, exact) = (f64::from(ours(x)), exact(f64::from(x)));
            assert!((ours - exact).abs() <= error * exact.abs().max(1.0), "{name}({x}) is {exact}, not {ours}");
        }
    }

    #[test]
    fn activations_are_those_of_their_formulas() {
        fn sigmoid(x: f64) -> f64 {
            1.0 / (1.0 + (-x).exp())
        }
        close("exp", exp, |x| x.clamp(-60.0, 88.0).exp(), 3e-7);
        close("quick_gelu", quick_gelu, |x| x * sigmoid(1.702 * x), 4e-7);
        close(
            "gelu_new",
            gelu_new,
            |x| x * sigmoid(2.0 * (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))),
            2e-6,
        );
        close("selu", selu, |x| 1.0507009873554805 * if x > 0.0 { x } else { 1.6732632423543772 * x.exp_m1() }, 4e-7);
        // By the series of erf, which converges for small values.
        for i in -30..=30 {
            let x = f64::from(i) / 10.0;
            let term = |k: i32| {
                (-1f64).powi(k) * x.powi(2 * k + 1) / ((1..=k).map(f64::from).product::<f64>() * f64::from(2 * k + 1))
            };
            let exact = (0..60).map(term).sum::<f64>() * 2.0 / std::f64::consts::PI.sqrt();
            assert!((f64::from(erf(x as f32)) - exact).abs() < 3e-7, "erf({x})");
        }
        assert_eq!((gelu(20.0), gelu(-20.0)), (20.0, 0.0));
    }

    #[test]
    fn rows_become_bytes_within_half_a_step_and_back() {
        let x = [0.5, -1.0, 0.0, -100.0, 3.0, 7.7, 0.0, 0.0, 0.0];
        let (mut bytes, mut scales) = ([1; 9], [1.0; 3]);
        quantize(&x, 3, &mut bytes, &mut scales);
        assert_eq!((bytes[1], bytes[3], &bytes[6..]), (1, 1, &[128; 3][..]));
        for (i, (x, &byte)) in x.iter().zip(&bytes).enumerate() {
            let scale = scales[i / 3];
            assert!((x - (f32::from(byte) - 128.0) * scale).abs() <= scale / 2.0 + 1e-6, "{i}");
        }
        // Ties go to the even number: steps of one here.
        quantize(&[127.0, 0.5, 1.5, -0.5, -1.5], 5, &mut bytes[..5], &mut scales[..1]);
        assert_eq!(bytes[..5], [255, 128, 130, 128, 126]);
    }

    #[test]
    fn the_values_of_a_product_are_those_of_its_formula() {
        let product = Sums { sums: &[3, -4, 0, 5], scales: &[0.5, 2.0], columns: &[10.0, 0.25], bias: &[1.0, -2.0] };
        let (mut y, mut onto) = ([0.0; 4], [0.0; 4]);
        dequantize(product, &mut y);
        assert_eq!(y, [16.0, -2.5, 1.0, 0.5]);
        dequantize_onto(&[100.0, 200.0, 300.0, 400.0], product, &mut onto);
        assert_eq!(onto, [116.0, 197.5, 301.0, 400.5]);
    }

    #[test]
    fn a_layer_norm_is_that_of_its_formula() {
        let x: Vec<f32> = (0..2 * 77).map(|i| ((i * 37) % 101) as f32 / 7.0 - 5.0).collect();
        let (weight, bias): (Vec<f32>, Vec<f32>) =
            (0..77).map(|i| (0.5 + i as f32 / 50.0, i as f32 / 30.0 - 1.0)).unzip();
        let (mut bytes, mut scales) = (vec![0; x.len()], [0.0; 2]);
        layer_norm(&x, &weight, &bias, 0.5, &mut bytes, &mut scales);
        for (row, x) in x.chunks(77).enumerate() {
            let mean = x.iter().map(|&x| f64::from(x)).sum::<f64>() / 77.0;
            let variance = x.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / 77.0;
            for (i, &x) in x.iter().enumerate() {
                let exact = (f64::from(x) - mean) / (variance + 0.5).sqrt() * f64::from(weight[i]) + f64::from(bias[i]);
                let ours = (f64::from(bytes[row * 77 + i]) - 128.0) * f64::from(scales[row]);
                assert!((ours - exact).abs() <= f64::from(scales[row]) * 0.5001, "{row} {i}");
            }
        }
    }

    #[test]
    fn attention_is_that_of_its_formula_for_heads_of_any_size() {
        for (heads, head, rows) in [(1, 1, 1), (2, 7, 5), (3, 32, 4), (2, 80, 9)] {
            let width = heads * head;
            let states = |seed: usize| {
                (0..rows * width).map(|i| ((i * 31 + seed * 17) % 23) as f32 / 11.0 - 1.0).collect::<Vec<_>>()
            };
            let (queries, keys, values) = (states(1), states(2), states(3));
            let mut y = vec![f32::NAN; rows * width];
            attend(Attended { queries: &queries, keys: &keys, values: &values, heads, head }, &mut y);
            let at = |states: &[f32], row: usize, column: usize| f64::from(states[row * width + column]);
            for (i, &ours) in y.iter().enumerate() {
                let (row, column) = (i / width, i % width);
                let first = column / head * head;
                let score = |key| {
                    (0..head).map(|i| at(&queries, row, first + i) * at(&keys, key, first + i)).sum::<f64>().exp()
                };
                let all: f64 = (0..=row).map(score).sum();
                let exact: f64 = (0..=row).map(|key| score(key) / all * at(&values, key, column)).sum();
                assert!((f64::from(ours) - exact).abs() < 2e-6, "{heads} x {head}: {row}, {column}");
            }
        }
    }

    #[test]
    fn what_is_not_a_number_is_none_afterwards() {
        for broken in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let (mut bytes, mut scales) = ([0; 2], [0.0]);
            quantize(&[1.0, broken], 2, &mut bytes, &mut scales);
            let mut y = [0.0; 2];
            let sums = Sums { sums: &[3, 0], scales: &scales, columns: &[1.0; 2], bias: &[0.0; 2] };
            dequantize(sums, &mut y);
            assert!(y.iter().any(|y| !y.is_finite()), "{broken}");
            for activation in
                [Activation::QuickGelu, Activation::Gelu, Activation::GeluNew, Activation::Relu, Activation::Selu]
            {
                let mut scales = [0.0];
                let sums = Sums { sums: &[3, 0], scales: &[broken.abs()], ..sums };
                activate(activation, sums, &mut bytes, &mut scales);
                assert!(!scales[0].is_finite(), "{activation:?} {broken}");
            }
        }
    }

    #[test]
    fn a_row_has_the_same_bits_alone_and_beside_others() {
        let (rows, width) = (5, 77);
        let numbers =
            |count: usize, seed: usize| (0..count).map(move |i| ((i * 7919 + seed * 104_729) % 2003) as i32 - 1001);
        let sums: Vec<i32> = numbers(rows * width, 1).map(|n| n * 50).collect();
        let floats = |count, seed| numbers(count, seed).map(|n| n as f32 / 3e4).collect::<Vec<_>>();
        let (scales, columns, bias, residual) =
            (floats(rows, 2), floats(width, 3), floats(width, 4), floats(rows * width, 5));
        let compute = |from: usize, to: usize| {
            let part = Sums {
                sums: &sums[from * width..to * width],
                scales: &scales[from..to],
                columns: &columns,
                bias: &bias,
            };
            let (mut y, mut onto) = (vec![0.0; part.sums.len()], vec![0.0; part.sums.len()]);
            dequantize(part, &mut y);
            dequantize_onto(&residual[from * width..to * width], part, &mut onto);
            let (mut bytes, mut steps) = (vec![0; part.sums.len()], vec![0.0; to - from]);
            activate(Activation::QuickGelu, part, &mut bytes, &mut steps);
            (y, onto, bytes, steps)
        };
        let all = compute(0, rows);
        for row in 0..rows {
            let (here, one) = (row * width..(row + 1) * width, compute(row, row + 1));
            assert_eq!((&one.0[..], &one.1[..]), (&all.0[here.clone()], &all.1[here.clone()]), "{row}");
            assert_eq!((&one.2[..], one.3[0]), (&all.2[here], all.3[row]), "{row}");
        }
    }
}
