//! From the names and layouts of a family of checkpoints to those of `transformers`' PyTorch classes, the exporter's own.
//!
//! Owns which families there are, and that no two tensors get one name. Does not own how files hold tensors (the containers), nor which
//! tensors a model has (the exporter).

mod flax;
mod openai;
mod pytorch;
mod tensorflow;
mod wrapped;

use std::{borrow::Cow, collections::BTreeMap, path::Path};

use super::stored::Stored;
use crate::export::error::ExportError;

/// Whose names the tensors of a checkpoint have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    /// Those of `CLIPModel` and its like, bare or wrapped; or open_clip's and OpenAI's, which lie in the same files.
    PyTorch,
    /// Those of `TFCLIPModel` and its like.
    TensorFlow,
    /// Those of `FlaxCLIPModel` and its like.
    Flax,
}

impl Family {
    /// The same tensors, of the checkpoint at `source`, as `CLIPModel` calls them and lays them out.
    ///
    /// # Errors
    /// When two of them are the same one, or one is of a model that is not served.
    pub(super) fn renamed(
        self,
        tensors: BTreeMap<String, Stored>,
        source: &Path,
    ) -> Result<BTreeMap<String, Stored>, ExportError> {
        let tensors = wrapped::unwrapped(tensors);
        let named = match self {
            Self::PyTorch if openai::is_of(&tensors) => return openai::of_transformers(tensors),
            Self::PyTorch => return Ok(pytorch::of_transformers(tensors)),
            Self::TensorFlow => tensorflow::named,
            Self::Flax => flax::named,
        };
        let mut renamed = BTreeMap::new();
        for (stored, tensor) in tensors {
            let (name, is_kernel) = named(&stored);
            if renamed.contains_key(&name) {
                let reason = format!("`{name}` is in the checkpoint twice, once as `{stored}`");
                return Err(ExportError::malformed(source, reason));
            }
            renamed.insert(name, if is_kernel { outputs_first(tensor) } else { tensor });
        }
        Ok(renamed)
    }

    /// What a name has in common where an index of shards says it and where a shard does: they need not spell it alike.
    pub(super) fn indexed(self, name: &str) -> Cow<'_, str> {
        match self {
            Self::PyTorch => Cow::Borrowed(name),
            Self::TensorFlow => Cow::Owned(tensorflow::named(name).0),
            Self::Flax => Cow::Owned(flax::named(name).0),
        }
    }
}

/// A kernel as PyTorch lays it out: TensorFlow and Flax have the sides of a picture first, then inputs, then outputs.
fn outputs_first(kernel: Stored) -> Stored {
    match kernel.shape.len() {
        2 => kernel.transposed(&[1, 0]),
        4 => kernel.transposed(&[3, 2, 0, 1]),
        _ => kernel,
    }
}
