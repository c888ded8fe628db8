//! The two convolution passes with AVX-512: its permutation of bytes (VBMI) and its sums of products of bytes (VNNI).
//!
//! Equal to `scalar` to the byte, by this argument: a weight is split exactly into three digits of base 256, each from -128 to
//! 127; a test of `coefficients` holds weights to what those reach. `dpbusd` adds four products of a sample and a digit to a sum
//! of 32 bits, and rounds or clamps nothing. The sums of each digit are kept apart, modulo 2^32, and joined by their place are
//! the scalar sum modulo 2^32; that one fits `i32` (the same test), so the two are equal. The shift and the clamp to a byte are
//! the same.

#![cfg(target_arch = "x86_64")]

use std::{arch::x86_64::*, array};

use super::{
    coefficients::{Coefficients, PRECISION_BITS},
    scalar::HALF,
};

/// Digits of a weight, lowest first.
const DIGITS: usize = 3;

/// Weights whose digits lie in one 32-bit word, and whose products `dpbusd` adds up.
const QUAD: usize = 4;

/// Pixels that one step of the horizontal pass takes: a quad for each 128-bit part.
const PIXELS: usize = 4 * QUAD;

/// Rows that the horizontal pass does at once, so that weights are loaded once for all of them: one for each 128-bit part.
const ROWS: usize = 4;

/// Bytes of a register.
const BYTES: usize = 64;

/// Weights as `dpbusd` multiplies them: a register for each digit.
type Weights = [__m512i; DIGITS];

/// Memory for weights as the two passes multiply them, kept from one picture to the next.
#[derive(Debug, Default)]
pub(super) struct Layout {
    /// Of the horizontal pass: those of [`PIXELS`] pixels, a quad in each 128-bit part, the same for each channel.
    steps: Vec<Weights>,
    /// Of the vertical pass: a quad, everywhere.
    quads: Vec<Weights>,
}

impl Layout {
    /// Bytes of memory kept.
    pub(super) fn kept_bytes(&self) -> usize {
        (self.steps.capacity() + self.quads.capacity()) * size_of::<Weights>()
    }
}

/// Whether this machine runs the two passes.
pub(super) fn is_supported() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vbmi")
        && is_x86_feature_detected!("avx512vnni")
}

/// Lays out the weights of `columns` for [`horizontal`].
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni")]
pub(super) fn lay_out(columns: &Coefficients, layout: &mut Layout) {
    let steps = &mut layout.steps;
    steps.clear();
    for (_, weights) in columns.iter() {
        steps.extend(weights.chunks(PIXELS).map(|taps| {
            let quads: [_; 4] = array::from_fn(|quad| digits(taps.chunks(QUAD).nth(quad).unwrap_or_default()));
            array::from_fn(|digit| {
                let [a, b, c, d] = quads.map(|quad| quad[digit]);
                _mm512_setr_epi32(a, a, a, a, b, b, b, b, c, c, c, c, d, d, d, d)
            })
        }));
    }
}

/// The horizontal pass over whole rows: `source` is rows of `row_bytes` bytes, `out` rows of one RGB pixel per column. The weights are
/// those that [`lay_out`] was given last.
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni")]
pub(super) fn horizontal(source: &[u8], row_bytes: usize, columns: &Coefficients, layout: &Layout, out: &mut [u8]) {
    let out_bytes = columns.len() * 3;
    for (source, out) in source.chunks(row_bytes * ROWS).zip(out.chunks_mut(out_bytes * ROWS)) {
        horizontal_rows(source, row_bytes, columns, &layout.steps, out);
    }
}

/// As [`horizontal`], of at most [`ROWS`] rows.
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni")]
fn horizontal_rows(source: &[u8], row_bytes: usize, columns: &Coefficients, steps: &[Weights], out: &mut [u8]) {
    let zero = _mm512_setzero_si512();
    let by_channel = by_channel();
    let out_bytes = columns.len() * 3;
    let count = out.len() / out_bytes;
    // Where there are fewer rows, the last one is done again in place of the others.
    let rows: [&[u8]; ROWS] = array::from_fn(|row| &source[row.min(count - 1) * row_bytes..][..row_bytes]);
    let mut rest = steps;
    for (column, (span, weights)) in columns.iter().enumerate() {
        let (steps, later) = rest.split_at(weights.len().div_ceil(PIXELS));
        rest = later;
        let mut sums = [[zero; DIGITS]; ROWS];
        for (step, weights) in steps.iter().enumerate() {
            let start = (span.start + step * PIXELS) * 3;
            let end = row_bytes.min(start + PIXELS * 3);
            for (row, sums) in rows.iter().zip(&mut sums) {
                add_products(sums, _mm512_permutexvar_epi8(by_channel, load(&row[start..end])), weights);
            }
        }
        let [a, b, c, d] = sums.map(|sums| join(sums));
        // Of each row, the sum of its four parts, in the part of the row's number: a red, a green, a blue, nothing.
        let ab = _mm512_add_epi32(_mm512_shuffle_i32x4::<0x44>(a, b), _mm512_shuffle_i32x4::<0xee>(a, b));
        let cd = _mm512_add_epi32(_mm512_shuffle_i32x4::<0x44>(c, d), _mm512_shuffle_i32x4::<0xee>(c, d));
        let sums = _mm512_add_epi32(_mm512_shuffle_i32x4::<0x88>(ab, cd), _mm512_shuffle_i32x4::<0xdd>(ab, cd));
        let pixels = _mm512_cvtusepi32_epi8(_mm512_max_epi32(round(sums), zero));
        let pixels = [
            _mm_extract_epi32::<0>(pixels),
            _mm_extract_epi32::<1>(pixels),
            _mm_extract_epi32::<2>(pixels),
            _mm_extract_epi32::<3>(pixels),
        ];
        for (out, pixel) in out.chunks_exact_mut(out_bytes).zip(pixels) {
            out[column * 3..][..3].copy_from_slice(&pixel.to_le_bytes()[..3]);
        }
    }
}

/// As [`super::scalar::vertical_row`].
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni")]
pub(super) fn vertical_row(rows: &[u8], stride: usize, weights: &[i32], layout: &mut Layout, out: &mut [u8]) {
    let quads = &mut layout.quads;
    quads.clear();
    quads.extend(weights.chunks(QUAD).map(|quad| digits(quad).map(|digits| _mm512_set1_epi32(digits))));
    for (strip, out) in out.chunks_mut(BYTES).enumerate() {
        let mut sums = [[_mm512_setzero_si512(); DIGITS]; 4];
        for (quad, quad_weights) in quads.iter().enumerate() {
            // The last quad may have fewer rows: the weights are zero then, and the last row stands for those.
            let [a, b, c, d] = array::from_fn(|row| {
                load(&rows[(quad * QUAD + row).min(weights.len() - 1) * stride + strip * BYTES..][..out.len()])
            });
            let (ab, ab_high) = (_mm512_unpacklo_epi8(a, b), _mm512_unpackhi_epi8(a, b));
            let (cd, cd_high) = (_mm512_unpacklo_epi8(c, d), _mm512_unpackhi_epi8(c, d));
            let samples = [
                _mm512_unpacklo_epi16(ab, cd),
                _mm512_unpackhi_epi16(ab, cd),
                _mm512_unpacklo_epi16(ab_high, cd_high),
                _mm512_unpackhi_epi16(ab_high, cd_high),
            ];
            for (sums, samples) in sums.iter_mut().zip(samples) {
                add_products(sums, samples, quad_weights);
            }
        }
        // Unpacking and packing both work within 128-bit parts, so the bytes come out in the order they went in.
        let [a, b, c, d] = sums.map(|sums| round(join(sums)));
        store(_mm512_packus_epi16(_mm512_packs_epi32(a, b), _mm512_packs_epi32(c, d)), out);
    }
}

/// Up to four weights as words whose bytes are their digits: a word of their lowest digits, of their middle ones, of their highest.
fn digits(weights: &[i32]) -> [i32; DIGITS] {
    let mut words = [[0; QUAD]; DIGITS];
    for (place, &weight) in weights.iter().enumerate() {
        let mut rest = weight;
        for word in &mut words {
            let [lowest, ..] = rest.to_le_bytes();
            word[place] = lowest;
            rest = (rest - i32::from(lowest as i8)) >> 8;
        }
        debug_assert_eq!(rest, 0, "{weight} has more than {DIGITS} digits");
    }
    words.map(i32::from_le_bytes)
}

/// Which bytes of [`PIXELS`] RGB pixels [`horizontal_rows`] multiplies where: in each 128-bit part a quad of reds, of greens, of
/// blues, and one that nobody reads.
#[target_feature(enable = "avx512bw")]
fn by_channel() -> __m512i {
    const BY_CHANNEL: [u8; BYTES] = {
        let mut bytes = [0; BYTES];
        let mut at = 0;
        while at < BYTES {
            let (part, channel, place) = (at / 16, at % 16 / QUAD, at % QUAD);
            bytes[at] = ((part * QUAD + place) * 3 + channel) as u8;
            at += 1;
        }
        bytes
    };
    load(&BY_CHANNEL)
}

#[target_feature(enable = "avx512f,avx512vnni")]
#[inline]
fn add_products(sums: &mut Weights, samples: __m512i, weights: &Weights) {
    for (sum, &weights) in sums.iter_mut().zip(weights) {
        *sum = _mm512_dpbusd_epi32(*sum, samples, weights);
    }
}

/// The sums of the three digits, each in its place.
#[target_feature(enable = "avx512f")]
#[inline]
fn join([low, middle, high]: Weights) -> __m512i {
    let upper = _mm512_add_epi32(_mm512_slli_epi32::<8>(high), middle);
    _mm512_add_epi32(_mm512_slli_epi32::<8>(upper), low)
}

#[target_feature(enable = "avx512f")]
#[inline]
fn round(sums: __m512i) -> __m512i {
    _mm512_srai_epi32::<PRECISION_BITS>(_mm512_add_epi32(sums, _mm512_set1_epi32(HALF)))
}

/// A bit for each of `bytes` bytes, of which a register holds no more than [`BYTES`].
fn mask(bytes: usize) -> __mmask64 {
    u64::MAX.unbounded_shr((BYTES - bytes.min(BYTES)) as u32)
}

/// The first [`BYTES`] of `bytes`, zeros behind them where they are fewer.
#[target_feature(enable = "avx512bw")]
#[inline]
#[expect(unsafe_code, reason = "vector loads take pointers")]
fn load(bytes: &[u8]) -> __m512i {
    // SAFETY: the mask has bits for bytes of `bytes` alone, nothing else is touched, and the load needs no alignment.
    unsafe { _mm512_maskz_loadu_epi8(mask(bytes.len()), bytes.as_ptr().cast()) }
}

/// Fills `bytes`, at most [`BYTES`].
#[target_feature(enable = "avx512bw")]
#[inline]
#[expect(unsafe_code, reason = "vector stores take pointers")]
fn store(value: __m512i, bytes: &mut [u8]) {
    // SAFETY: the mask has bits for bytes of `bytes` alone, nothing else is touched, and the store needs no alignment.
    unsafe { _mm512_mask_storeu_epi8(bytes.as_mut_ptr().cast(), mask(bytes.len()), value) }
}
