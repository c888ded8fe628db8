//! What becomes of a request of which some items can never be encoded: it fails with the first of them, or goes on without them.
//!
//! Owns that choice, and taking down which items failed. Does not own what an item's fault is ([`InputError`]), nor any other error: what
//! is no item's own (no room, no time, no memory, a fault of ours) fails a request in both cases.

use crate::encoder::InputError;

/// An item that can never be encoded.
#[derive(Debug, PartialEq, Eq)]
pub struct BadItem {
    /// Its place in the request.
    pub index: usize,
    /// What is wrong with it.
    pub error: InputError,
}

/// What items that can never be encoded do.
#[derive(Debug)]
pub(super) enum Failing {
    /// The first one fails the request.
    Request,
    /// They fail alone.
    Items(Vec<BadItem>),
}

impl Failing {
    /// Takes down that the item at `index` fails.
    ///
    /// # Errors
    /// The item, when it fails the request.
    pub(super) fn item(&mut self, index: usize, error: InputError) -> Result<(), BadItem> {
        let item = BadItem { index, error };
        match self {
            Self::Request => return Err(item),
            Self::Items(failed) => failed.push(item),
        }
        Ok(())
    }

    /// Those that failed alone.
    pub(super) fn items(self) -> Vec<BadItem> {
        match self {
            Self::Request => Vec::new(),
            Self::Items(failed) => failed,
        }
    }
}
