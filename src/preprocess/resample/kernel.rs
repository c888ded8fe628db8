//! Which code runs the two passes on this machine.
//!
//! Owns the choice. Invariant: all kernels give the same bytes.

#[cfg(target_arch = "x86_64")]
use super::{avx2, avx512};
use super::{coefficients::Coefficients, scalar};

/// Which code runs the passes. All kernels give the same bytes.
#[derive(Debug)]
pub(super) enum Kernel {
    Scalar,
    #[cfg(target_arch = "x86_64")]
    Avx2(avx2::Layout),
    #[cfg(target_arch = "x86_64")]
    Avx512(avx512::Layout),
}

impl Kernel {
    /// The fastest that this machine runs.
    pub(super) fn best() -> Self {
        Self::of_this_machine().pop().unwrap_or(Self::Scalar)
    }

    /// Those that this machine runs, each faster than the one before it. (The detection is cached by the standard library.)
    pub(super) fn of_this_machine() -> Vec<Self> {
        let mut kernels = vec![Self::Scalar];
        #[cfg(target_arch = "x86_64")]
        {
            kernels.extend(is_x86_feature_detected!("avx2").then(|| Self::Avx2(avx2::Layout::default())));
            kernels.extend(avx512::is_supported().then(|| Self::Avx512(avx512::Layout::default())));
        }
        kernels
    }

    /// Bytes of memory kept.
    pub(super) fn kept_bytes(&self) -> usize {
        match self {
            Self::Scalar => 0,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(layout) => layout.kept_bytes(),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(layout) => layout.kept_bytes(),
        }
    }

    /// Makes the weights of `columns` those of [`horizontal`](Self::horizontal).
    #[cfg_attr(target_arch = "x86_64", expect(unsafe_code, reason = "calling code built for CPU features"))]
    pub(super) fn lay_out(&mut self, columns: &Coefficients) {
        match self {
            // As they are.
            Self::Scalar => {}
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `of_this_machine` gives this kernel only where the CPU has AVX2.
            Self::Avx2(layout) => unsafe { avx2::lay_out(columns, layout) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `of_this_machine` gives this kernel only where the CPU has what it asks for.
            Self::Avx512(layout) => unsafe { avx512::lay_out(columns, layout) },
        }
    }

    /// `data`: whole rows of `row_bytes` bytes. `out`: as many rows of one RGB pixel per column. `columns` are those that were laid out
    /// last.
    #[cfg_attr(target_arch = "x86_64", expect(unsafe_code, reason = "calling code built for CPU features"))]
    pub(super) fn horizontal(&self, data: &[u8], row_bytes: usize, columns: &Coefficients, out: &mut [u8]) {
        match self {
            Self::Scalar => {
                for (row, out) in data.chunks_exact(row_bytes).zip(out.chunks_exact_mut(columns.len() * 3)) {
                    scalar::horizontal_row(row, columns, out);
                }
            }
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as in `lay_out`.
            Self::Avx2(layout) => unsafe { avx2::horizontal(data, row_bytes, columns, layout, out) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as in `lay_out`.
            Self::Avx512(layout) => unsafe { avx512::horizontal(data, row_bytes, columns, layout, out) },
        }
    }

    /// `data`: rows `stride` bytes apart, as many as `weights`. `out`: as many bytes as are wanted of each.
    #[cfg_attr(target_arch = "x86_64", expect(unsafe_code, reason = "calling code built for CPU features"))]
    pub(super) fn vertical_row(&mut self, data: &[u8], stride: usize, weights: &[i32], out: &mut [u8]) {
        match self {
            Self::Scalar => scalar::vertical_row(data, stride, weights, out),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as in `lay_out`.
            Self::Avx2(layout) => unsafe { avx2::vertical_row(data, stride, weights, layout, out) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as in `lay_out`.
            Self::Avx512(layout) => unsafe { avx512::vertical_row(data, stride, weights, layout, out) },
        }
    }
}
