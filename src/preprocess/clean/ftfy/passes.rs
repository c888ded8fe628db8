//! How often a text may be gone over.
//!
//! Owns the count. ftfy repeats its repairs until nothing changes; each takes time in proportion to the text, and a text can be made for as
//! many of them as it has characters (`&amp;amp;amp;`...).

/// Passes over the whole text, or as much in parts of it. Text that was misread three times takes about 20.
const MOST: usize = 100;

/// What is left of the passes.
pub(super) struct Passes {
    bytes: usize,
}

/// They are used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::preprocess) struct TooManyPasses;

impl Passes {
    /// Those for a text of so many bytes.
    pub(super) fn over(bytes: usize) -> Self {
        // A short text counts as a line, so that what a part costs beyond its length is in it.
        Self { bytes: bytes.max(64).saturating_mul(MOST) }
    }

    /// Counts one over so many bytes.
    ///
    /// # Errors
    /// When there is none left.
    pub(super) fn count(&mut self, bytes: usize) -> Result<(), TooManyPasses> {
        self.bytes = self.bytes.checked_sub(bytes.max(1)).ok_or(TooManyPasses)?;
        Ok(())
    }
}
