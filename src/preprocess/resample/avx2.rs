//! The two convolution passes with AVX2.
//!
//! Equal to `scalar` to the byte, by this argument: a weight `w` is split exactly, `w = (high << SPLIT) + low` with
//! `0 <= low < 2^SPLIT`; samples are 8 bits, weights at most a little over 2^22, so both halves times a sample fit the `i16 x i16`
//! products of `madd`, whose sum of two fits `i32`. Sums of `low` and of `high` products are kept apart, modulo 2^32, and
//! `(high_sum << SPLIT) + low_sum + half` is then the scalar sum modulo 2^32; that one fits `i32` (a test of `coefficients` holds
//! it to that), so the two are equal. The shift and the clamp to a byte are the same.

#![cfg(target_arch = "x86_64")]

use std::arch::x86_64::*;

use super::{
    coefficients::{Coefficients, PRECISION_BITS},
    scalar::{self, HALF},
};

/// Bits of the low half of a weight.
const SPLIT: u32 = 11;

/// Pixels that one step of the horizontal pass takes: two per 128-bit half.
const GROUP: usize = 4;

/// Bytes that one step of the horizontal pass reads; the last four of them carry no weight.
const READ: usize = 16;

/// Weights for [`GROUP`] pixels, as the horizontal pass multiplies them: low halves, then high halves; within each, pixels 0
/// and 1 alternating four times (red, green, blue, unused), then pixels 2 and 3.
#[derive(Clone, Copy, Debug)]
struct Group {
    low: __m256i,
    high: __m256i,
}

/// Two weights of [`vertical_row`] as it multiplies them: low halves, high halves.
type Pair = (__m256i, __m256i);

/// The weights of a window's columns, as they are and laid out.
struct Columns<'a> {
    plain: &'a Coefficients,
    groups: &'a [Group],
}

/// Memory for weights as the two passes multiply them, kept from one picture to the next.
#[derive(Debug, Default)]
pub(super) struct Layout {
    groups: Vec<Group>,
    pairs: Vec<Pair>,
}

impl Layout {
    /// Bytes of memory kept.
    pub(super) fn kept_bytes(&self) -> usize {
        self.groups.capacity() * size_of::<Group>() + self.pairs.capacity() * size_of::<Pair>()
    }
}

/// Lays out the weights of `columns` for [`horizontal`].
#[target_feature(enable = "avx2")]
pub(super) fn lay_out(columns: &Coefficients, layout: &mut Layout) {
    let groups = &mut layout.groups;
    groups.clear();
    for (_, weights) in columns.iter() {
        groups.extend(weights.chunks(GROUP).map(|taps| {
            let tap = |i: usize| taps.get(i).copied().unwrap_or(0);
            let (low_01, high_01) = split_pair(tap(0), tap(1));
            let (low_23, high_23) = split_pair(tap(2), tap(3));
            Group {
                low: _mm256_set_m128i(_mm_set1_epi32(low_23), _mm_set1_epi32(low_01)),
                high: _mm256_set_m128i(_mm_set1_epi32(high_23), _mm_set1_epi32(high_01)),
            }
        }));
    }
}

/// The horizontal pass over whole rows: `source` is rows of `row_bytes` bytes, `out` rows of one RGB pixel per column. The weights are
/// those that [`lay_out`] was given last.
#[target_feature(enable = "avx2")]
pub(super) fn horizontal(source: &[u8], row_bytes: usize, plain: &Coefficients, layout: &Layout, out: &mut [u8]) {
    const ROWS: usize = 4;
    let columns = &Columns { plain, groups: &layout.groups };
    let out_bytes = plain.len() * 3;
    let mut blocks = out.chunks_exact_mut(out_bytes * ROWS);
    let mut first_row = 0;
    for block in &mut blocks {
        horizontal_rows::<ROWS>(&source[first_row * row_bytes..], row_bytes, columns, block);
        first_row += ROWS;
    }
    for row in blocks.into_remainder().chunks_exact_mut(out_bytes) {
        horizontal_rows::<1>(&source[first_row * row_bytes..], row_bytes, columns, row);
        first_row += 1;
    }
}

/// `ROWS` rows at once, so that each group of weights is loaded once for all of them.
#[target_feature(enable = "avx2")]
fn horizontal_rows<const ROWS: usize>(source: &[u8], row_bytes: usize, columns: &Columns, out: &mut [u8]) {
    // Bytes of four RGB pixels to 16-bit pairs of one channel: pixels 0 and 1 in the lower half, 2 and 3 in the upper.
    let pairs = _mm256_setr_epi8(
        0, -1, 3, -1, 1, -1, 4, -1, 2, -1, 5, -1, -1, -1, -1, -1, 6, -1, 9, -1, 7, -1, 10, -1, 8, -1, 11, -1, -1, -1,
        -1, -1,
    );
    let out_bytes = columns.plain.len() * 3;
    let mut rest = columns.groups;
    for (column, (span, weights)) in columns.plain.iter().enumerate() {
        let (groups, later) = rest.split_at(weights.len().div_ceil(GROUP));
        rest = later;
        let start = span.start * 3;
        let read = groups.len().saturating_sub(1) * GROUP * 3 + READ;
        // Only the last columns of the picture's last rows read past its end; those go the plain way.
        if groups.is_empty() || (ROWS - 1) * row_bytes + start + read > source.len() {
            for row in 0..ROWS {
                let pixel = scalar::pixel(&source[row * row_bytes..], span.start, weights);
                out[row * out_bytes + column * 3..][..3].copy_from_slice(&pixel);
            }
            continue;
        }
        let rows: [&[u8]; ROWS] = std::array::from_fn(|row| &source[row * row_bytes + start..][..read]);
        let mut low = [_mm256_setzero_si256(); ROWS];
        let mut high = [_mm256_setzero_si256(); ROWS];
        for (step, group) in groups.iter().enumerate() {
            for row in 0..ROWS {
                let samples = load_16(&rows[row][step * GROUP * 3..]);
                let samples = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(samples), pairs);
                low[row] = _mm256_add_epi32(low[row], _mm256_madd_epi16(samples, group.low));
                high[row] = _mm256_add_epi32(high[row], _mm256_madd_epi16(samples, group.high));
            }
        }
        for row in 0..ROWS {
            let sum = join(low[row], high[row]);
            let sum = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256::<1>(sum));
            let sum = _mm_srai_epi32::<{ PRECISION_BITS as i32 }>(_mm_add_epi32(sum, _mm_set1_epi32(HALF)));
            let words = _mm_packs_epi32(sum, sum);
            let pixel = _mm_cvtsi128_si32(_mm_packus_epi16(words, words)).to_le_bytes();
            out[row * out_bytes + column * 3..][..3].copy_from_slice(&pixel[..3]);
        }
    }
}

/// As [`scalar::vertical_row`].
#[target_feature(enable = "avx2")]
pub(super) fn vertical_row(rows: &[u8], stride: usize, weights: &[i32], layout: &mut Layout, out: &mut [u8]) {
    /// Bytes of a row at once: one register.
    const STRIP: usize = 32;
    let pairs = &mut layout.pairs;
    pairs.clear();
    pairs.extend(weights.chunks(2).map(|pair| {
        let (low, high) = split_pair(pair[0], pair.get(1).copied().unwrap_or(0));
        (_mm256_set1_epi32(low), _mm256_set1_epi32(high))
    }));
    let zero = _mm256_setzero_si256();
    let mut strips = out.chunks_exact_mut(STRIP);
    let mut offset = 0;
    for out in &mut strips {
        let mut low = [zero; 4];
        let mut high = [zero; 4];
        for (pair, &(low_weight, high_weight)) in pairs.iter().enumerate() {
            let first = load_32(&rows[pair * 2 * stride + offset..]);
            // The last row may have no partner: its weight is zero then, and it is its own partner.
            let partner = if pair * 2 + 1 < weights.len() { stride } else { 0 };
            let second = load_32(&rows[pair * 2 * stride + partner + offset..]);
            let (a, b) = (_mm256_unpacklo_epi8(first, second), _mm256_unpackhi_epi8(first, second));
            let samples = [
                _mm256_unpacklo_epi8(a, zero),
                _mm256_unpackhi_epi8(a, zero),
                _mm256_unpacklo_epi8(b, zero),
                _mm256_unpackhi_epi8(b, zero),
            ];
            for i in 0..4 {
                low[i] = _mm256_add_epi32(low[i], _mm256_madd_epi16(samples[i], low_weight));
                high[i] = _mm256_add_epi32(high[i], _mm256_madd_epi16(samples[i], high_weight));
            }
        }
        // Unpacking and packing both work within 128-bit halves, so the bytes come out in the order they went in.
        let half = _mm256_set1_epi32(HALF);
        let sums: [__m256i; 4] = std::array::from_fn(|i| {
            _mm256_srai_epi32::<{ PRECISION_BITS as i32 }>(_mm256_add_epi32(join(low[i], high[i]), half))
        });
        let words = [_mm256_packs_epi32(sums[0], sums[1]), _mm256_packs_epi32(sums[2], sums[3])];
        store_32(_mm256_packus_epi16(words[0], words[1]), out);
        offset += STRIP;
    }
    scalar::vertical_row(&rows[offset..], stride, weights, strips.into_remainder());
}

/// Two weights as the `i16` pairs that `madd` multiplies: their low halves, their high halves.
fn split_pair(first: i32, second: i32) -> (i32, i32) {
    const LOW: i32 = (1 << SPLIT) - 1;
    let pair = |a: i32, b: i32| (a & 0xffff) | (b << 16);
    (pair(first & LOW, second & LOW), pair(first >> SPLIT, second >> SPLIT))
}

#[target_feature(enable = "avx2")]
fn join(low: __m256i, high: __m256i) -> __m256i {
    _mm256_add_epi32(_mm256_slli_epi32::<{ SPLIT as i32 }>(high), low)
}

#[target_feature(enable = "avx2")]
#[inline]
#[expect(unsafe_code, reason = "vector loads take pointers")]
fn load_16(bytes: &[u8]) -> __m128i {
    let bytes = &bytes[..16];
    // SAFETY: `bytes` is 16 readable bytes, and the load needs no alignment.
    unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }
}

#[target_feature(enable = "avx2")]
#[inline]
#[expect(unsafe_code, reason = "vector loads take pointers")]
fn load_32(bytes: &[u8]) -> __m256i {
    let bytes = &bytes[..32];
    // SAFETY: `bytes` is 32 readable bytes, and the load needs no alignment.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}

#[target_feature(enable = "avx2")]
#[inline]
#[expect(unsafe_code, reason = "vector stores take pointers")]
fn store_32(value: __m256i, bytes: &mut [u8]) {
    let bytes = &mut bytes[..32];
    // SAFETY: `bytes` is 32 writable bytes, and the store needs no alignment.
    unsafe { _mm256_storeu_si256(bytes.as_mut_ptr().cast(), value) }
}
