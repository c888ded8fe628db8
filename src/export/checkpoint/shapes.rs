//! The sizes of a model that is described by nothing but its weights, as OpenAI published theirs.
//!
//! Owns what its shapes say, and what they do not: heads are 64 wide, the activation is quick_gelu, a text is pooled at its highest id, layer
//! norms have the epsilon of `torch.nn.LayerNorm`. That is what `build_model` of OpenAI's code does, for its Vision Transformers.

use std::{collections::BTreeMap, path::Path};

use serde_json::json;

use super::stored::Stored;
use crate::{export::error::ExportError, model::clip_config::ClipConfig};

const HEAD: usize = 64;

/// The configuration of the model whose weights are `tensors`, of the file `path`, by the names of `CLIPModel`.
///
/// # Errors
/// When it is not a whole CLIP, or its shapes are those of none.
pub(super) fn clip_config(path: &Path, tensors: &BTreeMap<String, Stored>) -> Result<ClipConfig, ExportError> {
    let no_clip = |reason: String| {
        ExportError::malformed(path, format!("the shapes of its tensors are not those of a CLIP of OpenAI's: {reason}"))
    };
    let side = |name: &str, dimension: usize| {
        let tensor = tensors.get(name).ok_or_else(|| ExportError::MissingTensor(name.to_owned()))?;
        tensor
            .shape
            .get(dimension)
            .copied()
            .ok_or_else(|| no_clip(format!("`{name}` has {} dimensions", tensor.shape.len())))
    };
    let layers = |tower: &str| {
        let norm = |layer: &usize| tensors.contains_key(&format!("{tower}.encoder.layers.{layer}.layer_norm1.weight"));
        (0..).take_while(norm).count()
    };
    let tower = |tower: &str, width: usize| {
        let mlp = side(&format!("{tower}.encoder.layers.0.mlp.fc1.weight"), 0)?;
        Ok::<_, ExportError>(json!({
            "hidden_size": width,
            "intermediate_size": mlp,
            "num_hidden_layers": layers(tower),
            "num_attention_heads": width / HEAD,
        }))
    };
    let patch_size = side("vision_model.embeddings.patch_embedding.weight", 3)?;
    let positions = side("vision_model.embeddings.position_embedding.weight", 0)?;
    let mut vision = tower("vision_model", side("vision_model.embeddings.patch_embedding.weight", 0)?)?;
    vision["patch_size"] = json!(patch_size);
    vision["image_size"] = json!(patch_size.saturating_mul(positions.saturating_sub(1).isqrt()));
    let mut text = tower("text_model", side("text_model.final_layer_norm.weight", 0)?)?;
    text["vocab_size"] = json!(side("text_model.embeddings.token_embedding.weight", 0)?);
    text["max_position_embeddings"] = json!(side("text_model.embeddings.position_embedding.weight", 0)?);
    text["eos_token_id"] = json!(2);
    let config = json!({
        "projection_dim": side("text_projection.weight", 0)?,
        "text_config": text,
        "vision_config": vision,
    });
    ClipConfig::from_json(&config.to_string()).map_err(|error| no_clip(error.to_string()))
}
