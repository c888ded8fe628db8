//! From the names and layouts of a family of checkpoints to those of `transformers`' PyTorch classes, the exporter's own.
//!
//! Owns which family it is. Does not own how files hold tensors (the containers), nor which tensors a model has (the exporter).

mod pytorch;
mod wrapped;

use std::collections::BTreeMap;

use super::stored::Stored;

/// The same tensors as `CLIPModel` calls them and lays them out.
pub(super) fn of_transformers(tensors: BTreeMap<String, Stored>) -> BTreeMap<String, Stored> {
    pytorch::of_transformers(wrapped::unwrapped(tensors))
}
