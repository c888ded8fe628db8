//! From the names and layouts of a family of checkpoints to those of `transformers`' PyTorch classes, the exporter's own.
//!
//! Owns which family it is. Does not own how files hold tensors (the containers), nor which tensors a model has (the exporter).

mod openai;
mod pytorch;
mod wrapped;

use std::collections::BTreeMap;

use super::stored::Stored;
use crate::export::error::ExportError;

/// The same tensors as `CLIPModel` calls them and lays them out.
///
/// # Errors
/// Names a tensor that is of a model that is not served.
pub(super) fn of_transformers(tensors: BTreeMap<String, Stored>) -> Result<BTreeMap<String, Stored>, ExportError> {
    let tensors = wrapped::unwrapped(tensors);
    if openai::is_of(&tensors) {
        return openai::of_transformers(tensors);
    }
    Ok(pytorch::of_transformers(tensors))
}
