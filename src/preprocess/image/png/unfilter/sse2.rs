//! The filters that look to the left, by SSE2: the bytes of a pixel side by side in 16 bits each. Compilers take them apart and put
//! them together one by one.
//!
//! Invariant: what `undo_by_pixel` gives, which says what is computed.

use std::arch::x86_64::{
    __m128i, _mm_add_epi16, _mm_and_si128, _mm_andnot_si128, _mm_cmpgt_epi16, _mm_cvtsi32_si128, _mm_cvtsi128_si32,
    _mm_max_epi16, _mm_min_epi16, _mm_or_si128, _mm_packus_epi16, _mm_set1_epi16, _mm_setzero_si128, _mm_srli_epi16,
    _mm_sub_epi16, _mm_unpacklo_epi8,
};

/// Undoes filter 1, 3 or 4 of pixels of `N` bytes, 4 at most.
#[expect(unsafe_code, reason = "a function that wants a feature of the CPU")]
pub(super) fn undo<const N: usize>(filter: u8, stored: &[u8], above: &[u8], row: &mut [u8]) {
    // SAFETY: every x86_64 has SSE2, and there is no other condition.
    unsafe { undo_by_pixel::<N>(filter, stored, above, row) }
}

#[target_feature(enable = "sse2")]
fn undo_by_pixel<const N: usize>(filter: u8, stored: &[u8], above: &[u8], row: &mut [u8]) {
    let pixels = row.as_chunks_mut::<N>().0.iter_mut().zip(stored.as_chunks::<N>().0);
    let above = above.as_chunks::<N>().0;
    let mut left = _mm_setzero_si128();
    match filter {
        1 => {
            for (pixel, stored) in pixels {
                left = low_bytes(_mm_add_epi16(widen(stored), left));
                *pixel = narrow(left);
            }
        }
        3 => {
            for ((pixel, stored), above) in pixels.zip(above) {
                let mean = _mm_srli_epi16::<1>(_mm_add_epi16(left, widen(above)));
                left = low_bytes(_mm_add_epi16(widen(stored), mean));
                *pixel = narrow(left);
            }
        }
        _ => {
            let mut corner = _mm_setzero_si128();
            for ((pixel, stored), above) in pixels.zip(above) {
                let above = widen(above);
                left = low_bytes(_mm_add_epi16(widen(stored), paeth(left, above, corner)));
                *pixel = narrow(left);
                corner = above;
            }
        }
    }
}

#[target_feature(enable = "sse2")]
fn widen<const N: usize>(pixel: &[u8; N]) -> __m128i {
    let mut four = [0; 4];
    four[..N].copy_from_slice(pixel);
    _mm_unpacklo_epi8(_mm_cvtsi32_si128(i32::from_le_bytes(four)), _mm_setzero_si128())
}

#[target_feature(enable = "sse2")]
fn narrow<const N: usize>(lanes: __m128i) -> [u8; N] {
    let four = _mm_cvtsi128_si32(_mm_packus_epi16(lanes, lanes)).to_le_bytes();
    std::array::from_fn(|i| four[i])
}

#[target_feature(enable = "sse2")]
fn low_bytes(lanes: __m128i) -> __m128i {
    _mm_and_si128(lanes, _mm_set1_epi16(0xff))
}

#[target_feature(enable = "sse2")]
fn paeth(left: __m128i, above: __m128i, corner: __m128i) -> __m128i {
    let (low, high) = (_mm_min_epi16(left, above), _mm_max_epi16(left, above));
    // What does not wait for the left comes first.
    let edge = _mm_sub_epi16(_mm_add_epi16(corner, _mm_add_epi16(corner, corner)), above);
    let edge = _mm_sub_epi16(edge, left);
    let inner = choose(_mm_cmpgt_epi16(high, edge), corner, low);
    choose(_mm_cmpgt_epi16(edge, low), inner, high)
}

/// Of each lane the first where the mask is set, else the second.
#[target_feature(enable = "sse2")]
fn choose(mask: __m128i, first: __m128i, second: __m128i) -> __m128i {
    _mm_or_si128(_mm_and_si128(mask, first), _mm_andnot_si128(mask, second))
}
