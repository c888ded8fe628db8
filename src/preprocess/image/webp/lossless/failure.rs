//! Why a lossless stream is no picture.

use std::collections::TryReserveError;

use crate::preprocess::memory::OutOfMemory;

/// Why there is no picture.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::preprocess::image::webp) enum Failure {
    /// The stream ends in it.
    Truncated,
    /// The stream has no meaning, in these words.
    Damaged(&'static str),
    /// Its codes take more than a picture of that size may.
    TooManyCodes,
    /// There is none to be had.
    OutOfMemory,
}

impl From<OutOfMemory> for Failure {
    fn from(_: OutOfMemory) -> Self {
        Self::OutOfMemory
    }
}

impl From<TryReserveError> for Failure {
    fn from(_: TryReserveError) -> Self {
        Self::OutOfMemory
    }
}
