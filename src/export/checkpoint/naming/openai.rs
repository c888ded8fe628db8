//! The names of OpenAI's own code and of open_clip, which keeps them.
//!
//! Owns the cut of `in_proj` into queries, keys and values, the projections that are stored the other way around, and LayerScale, which is
//! a factor of the layer before it. Does not own the sizes (`shapes`, `model::open_clip_config`).
//!
//! | open_clip, OpenAI | `CLIPModel` |
//! |---|---|
//! | `visual.conv1.weight`, `visual.class_embedding`, `visual.positional_embedding` | `vision_model.embeddings.*` |
//! | `visual.ln_pre`, `visual.ln_post`, `visual.proj` | `vision_model.pre_layrnorm`, `.post_layernorm`, `visual_projection` |
//! | `token_embedding`, `positional_embedding`, `ln_final`, `text_projection` (in a CustomTextCLIP behind `text.`) | `text_model.embeddings.*`, `.final_layer_norm`, `text_projection` |
//! | `transformer.resblocks.N.` and `visual.transformer.resblocks.N.` | `text_model.encoder.layers.N.`, `vision_model.encoder.layers.N.` |

use std::collections::BTreeMap;

use super::super::stored::Stored;
use crate::export::error::ExportError;

/// What `CLIPModel` calls what lies outside of the blocks.
const NAMES: [(&str, &str); 15] = [
    ("visual.class_embedding", "vision_model.embeddings.class_embedding"),
    ("visual.conv1.weight", "vision_model.embeddings.patch_embedding.weight"),
    ("visual.positional_embedding", "vision_model.embeddings.position_embedding.weight"),
    ("visual.ln_pre.weight", "vision_model.pre_layrnorm.weight"),
    ("visual.ln_pre.bias", "vision_model.pre_layrnorm.bias"),
    ("visual.ln_post.weight", "vision_model.post_layernorm.weight"),
    ("visual.ln_post.bias", "vision_model.post_layernorm.bias"),
    (VISUAL_PROJECTION, "visual_projection.weight"),
    ("token_embedding.weight", "text_model.embeddings.token_embedding.weight"),
    ("positional_embedding", "text_model.embeddings.position_embedding.weight"),
    ("ln_final.weight", "text_model.final_layer_norm.weight"),
    ("ln_final.bias", "text_model.final_layer_norm.bias"),
    (TEXT_PROJECTION, "text_projection.weight"),
    // Where it is a `Linear`.
    ("text_projection.weight", "text_projection.weight"),
    ("logit_scale", "logit_scale"),
];
/// Parameters `[width, embed]`, where a `Linear` has `[embed, width]`.
const VISUAL_PROJECTION: &str = "visual.proj";
const TEXT_PROJECTION: &str = "text_projection";

/// In a block, the layers that have a weight and a bias.
const LAYERS: [(&str, &str); 5] = [
    ("ln_1", "layer_norm1"),
    ("ln_2", "layer_norm2"),
    ("attn.out_proj", "self_attn.out_proj"),
    ("mlp.c_fc", "mlp.fc1"),
    ("mlp.c_proj", "mlp.fc2"),
];
/// In a block, the layers whose outputs LayerScale multiplies, and what it calls the factors.
const SCALED: [(&str, &str); 2] = [("attn.out_proj", "ls_1.gamma"), ("mlp.c_proj", "ls_2.gamma")];

/// The causal mask, and the sizes that OpenAI keeps beside the weights.
const BUFFERS: [&str; 4] = ["attn_mask", "input_resolution", "context_length", "vocab_size"];

/// How the names begin of what is not a tower of CLIP's own, and what it is.
const OTHERS: [(&str, &str); 9] = [
    ("visual.trunk.", "a tower of timm"),
    ("visual.head.", "a tower of timm"),
    ("visual.layer1.", "a ResNet"),
    ("visual.attnpool.", "a ResNet"),
    ("visual.attn_pool", "a tower with attentional pooling"),
    ("text.transformer.embeddings.", "a text tower of transformers"),
    ("text.transformer.encoder.", "a text tower of transformers"),
    ("text_decoder.", "CoCa"),
    ("logit_bias", "a model whose logits have a bias, as SigLIP's"),
];

/// Whether names are these.
pub(super) fn is_of<T>(tensors: &BTreeMap<String, T>) -> bool {
    let starts = ["visual.", "text.", "transformer.resblocks."];
    tensors.keys().any(|name| starts.iter().any(|start| name.starts_with(start)) || name == "token_embedding.weight")
}

/// The same tensors as `CLIPModel` calls them and lays them out; what has no place there keeps its name.
///
/// # Errors
/// Names the first tensor that is of a tower that is not served.
pub(super) fn of_transformers(tensors: BTreeMap<String, Stored>) -> Result<BTreeMap<String, Stored>, ExportError> {
    for name in tensors.keys() {
        if let Some((_, what)) = OTHERS.iter().find(|(start, _)| name.starts_with(start)) {
            return Err(ExportError::OtherTower { name: name.clone(), what });
        }
    }
    let plain = |(name, tensor): (String, Stored)| (name.strip_prefix("text.").unwrap_or(&name).to_owned(), tensor);
    let mut tensors: BTreeMap<String, Stored> = tensors.into_iter().map(plain).collect();
    tensors.retain(|name, _| !BUFFERS.contains(&name.as_str()));
    scale_layers(&mut tensors);
    let mut named = BTreeMap::new();
    for (name, tensor) in tensors {
        let turned = [VISUAL_PROJECTION, TEXT_PROJECTION].contains(&name.as_str()) && tensor.shape.len() == 2;
        let tensor = if turned { tensor.transposed(&[1, 0]) } else { tensor };
        if let Some((_, known)) = NAMES.iter().find(|(ours, _)| *ours == name) {
            named.insert((*known).to_owned(), tensor);
        } else if let Some((layer, rest)) = in_block(&name) {
            name_in_block(&mut named, &layer, rest, &name, tensor);
        } else {
            named.insert(name, tensor);
        }
    }
    Ok(named)
}

/// Of a tensor in a block, the block as `CLIPModel` calls it, and the rest of the name.
fn in_block(name: &str) -> Option<(String, &str)> {
    let (tower, rest) = match name.strip_prefix("visual.") {
        Some(rest) => ("vision_model", rest),
        None => ("text_model", name),
    };
    let (number, rest) = rest.strip_prefix("transformer.resblocks.")?.split_once('.')?;
    Some((format!("{tower}.encoder.layers.{number}"), rest))
}

fn name_in_block(named: &mut BTreeMap<String, Stored>, block: &str, rest: &str, whole: &str, tensor: Stored) {
    if let Some(kind) = rest.strip_prefix("attn.in_proj_")
        && let Some(third) = tensor.shape.first().filter(|rows| rows.is_multiple_of(3)).map(|rows| rows / 3)
    {
        for (index, part) in ["q_proj", "k_proj", "v_proj"].into_iter().enumerate() {
            let part_of = tensor.clone().rows(index * third..(index + 1) * third);
            named.insert(format!("{block}.self_attn.{part}.{kind}"), part_of);
        }
        return;
    }
    let known = rest.rsplit_once('.').and_then(|(layer, kind)| {
        let (_, known) = LAYERS.iter().find(|(ours, _)| *ours == layer)?;
        Some(format!("{block}.{known}.{kind}"))
    });
    named.insert(known.unwrap_or_else(|| whole.to_owned()), tensor);
}

/// `x + gamma * (W y + b)` is `x + (gamma W) y + gamma b`: the factors go into the layers, and are gone.
fn scale_layers(tensors: &mut BTreeMap<String, Stored>) {
    for (layer, factors) in SCALED {
        let blocks: Vec<String> =
            tensors.keys().filter_map(|name| name.strip_suffix(factors)).map(str::to_owned).collect();
        for block in blocks {
            let names = ["weight", "bias"].map(|kind| format!("{block}{layer}.{kind}"));
            let Some(gamma) = tensors.get(&format!("{block}{factors}")).cloned() else { continue };
            let fits = |name: &String| tensors.get(name).is_some_and(|t| t.shape.first() == gamma.shape.first());
            if gamma.shape.len() != 1 || !names.iter().all(fits) {
                continue;
            }
            for name in names {
                if let Some(tensor) = tensors.remove(&name) {
                    tensors.insert(name, tensor.scaled_rows(gamma.clone()));
                }
            }
            tensors.remove(&format!("{block}{factors}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{path::PathBuf, sync::Arc};

    use super::*;
    use crate::export::checkpoint::stored::Element;

    /// 0, 1, 2, ..
    fn counted(shape: &[usize]) -> Stored {
        let bytes: Vec<u8> = (0..shape.iter().product()).flat_map(|i: usize| (i as f32).to_le_bytes()).collect();
        Stored::new(&Arc::new(PathBuf::new()), Element::F32, shape.to_vec(), move || Ok(bytes.clone()))
    }

    fn named(tensors: &[(&str, &[usize])]) -> Result<BTreeMap<String, Stored>, ExportError> {
        of_transformers(tensors.iter().map(|(name, shape)| ((*name).to_owned(), counted(shape))).collect())
    }

    #[test]
    fn names_and_layouts_are_those_of_transformers() {
        let block = "visual.transformer.resblocks.11";
        let in_proj = format!("{block}.attn.in_proj_weight");
        let tensors = named(&[
            (&in_proj, &[6, 2]),
            ("transformer.resblocks.0.attn.in_proj_bias", &[6]),
            ("transformer.resblocks.0.mlp.c_fc.weight", &[4, 2]),
            ("visual.proj", &[2, 3]),
            ("text_projection", &[2, 3]),
            ("visual.conv1.weight", &[1, 1, 1, 1]),
            ("logit_scale", &[]),
            ("attn_mask", &[3, 3]),
            ("context_length", &[]),
        ])
        .unwrap();
        let value = |name: &str| tensors.get(name).unwrap_or_else(|| panic!("{name}: {tensors:?}")).values().unwrap();
        let attention = "vision_model.encoder.layers.11.self_attn";
        assert_eq!(value(&format!("{attention}.q_proj.weight")), [0.0, 1.0, 2.0, 3.0]);
        assert_eq!(value(&format!("{attention}.v_proj.weight")), [8.0, 9.0, 10.0, 11.0]);
        assert_eq!(value("text_model.encoder.layers.0.self_attn.k_proj.bias"), [2.0, 3.0]);
        for projection in ["visual_projection.weight", "text_projection.weight"] {
            assert_eq!(tensors[projection].shape, [3, 2]);
            assert_eq!(value(projection), [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
        }
        for name in ["text_model.encoder.layers.0.mlp.fc1.weight", "vision_model.embeddings.patch_embedding.weight"] {
            assert!(tensors.contains_key(name), "{name}");
        }
        assert_eq!(tensors.len(), 11, "{tensors:?}");
    }

    #[test]
    fn the_text_of_a_custom_text_clip_lies_deeper_and_is_the_same() {
        let plain: [(&str, &[usize]); 4] = [
            ("token_embedding.weight", &[2, 2]),
            ("positional_embedding", &[2, 2]),
            ("ln_final.bias", &[2]),
            ("transformer.resblocks.3.ln_2.weight", &[2]),
        ];
        let custom = plain.map(|(name, shape)| (format!("text.{name}"), shape));
        let custom: Vec<(&str, &[usize])> = custom.iter().map(|(name, shape)| (name.as_str(), *shape)).collect();
        let names = |tensors: &[(&str, &[usize])]| named(tensors).unwrap().into_keys().collect::<Vec<_>>();
        assert_eq!(names(&custom), names(&plain));
        assert_eq!(names(&plain)[2], "text_model.encoder.layers.3.layer_norm2.weight");
    }

    #[test]
    fn layer_scale_goes_into_the_layer_before_it() {
        let block = "visual.transformer.resblocks.0";
        let name = |rest: &str| format!("{block}.{rest}");
        let names = ["mlp.c_proj.weight", "mlp.c_proj.bias", "ls_2.gamma", "ls_1.gamma"].map(name);
        let tensors = named(&[(&names[0], &[3, 2]), (&names[1], &[3]), (&names[2], &[3]), (&names[3], &[3])]).unwrap();
        let layer = "vision_model.encoder.layers.0.mlp.fc2";
        assert_eq!(tensors[&format!("{layer}.weight")].values().unwrap(), [0.0, 0.0, 2.0, 3.0, 8.0, 10.0]);
        assert_eq!(tensors[&format!("{layer}.bias")].values().unwrap(), [0.0, 1.0, 4.0]);
        // Without the layer that it scales it stays, and is refused as a tensor that nothing reads.
        assert!(tensors.contains_key(&names[3]) && !tensors.contains_key(&names[2]), "{tensors:?}");
    }

    #[test]
    fn shapes_that_cannot_be_turned_or_cut_are_left_for_the_exporter_to_refuse() {
        let odd: [(&str, &[usize]); 4] = [
            ("visual.proj", &[3]),
            ("transformer.resblocks.0.attn.in_proj_weight", &[7, 2]),
            ("transformer.resblocks.0.attn.in_proj_bias", &[]),
            ("transformer.resblocks.0.surprise", &[1]),
        ];
        let tensors = named(&odd).unwrap();
        assert_eq!(tensors["visual_projection.weight"].shape, [3]);
        for (name, _) in &odd[1..] {
            assert!(tensors.contains_key(*name), "{name}");
        }
    }

    #[test]
    fn a_tower_of_another_kind_is_refused_by_what_it_is() {
        for (name, what) in [
            ("visual.trunk.blocks.0.norm1.weight", "timm"),
            ("visual.layer1.0.conv1.weight", "a ResNet"),
            ("visual.attn_pool.query", "attentional pooling"),
            ("text.transformer.encoder.layer.0.x", "a text tower of transformers"),
            ("text_decoder.x", "CoCa"),
            ("logit_bias", "SigLIP"),
        ] {
            let error = named(&[(name, &[1]), ("logit_scale", &[])]).unwrap_err().to_string();
            assert!(error.contains(&format!("`{name}`")) && error.contains(what), "{error}");
        }
    }
}
