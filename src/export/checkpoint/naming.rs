//! What tensors are called, in the words of `CLIPModel` of `transformers`' PyTorch classes.
//!
//! Owns what stands around those names: the dictionary that a training script wrapped its weights in, the `module.` of
//! `DistributedDataParallel`, and the prefix that a bare `CLIPTextModel` or `CLIPVisionModel` is stored without by newer versions of
//! `transformers`.

use std::collections::BTreeMap;

/// Under these a training script keeps the weights, beside its optimizer's state and whatever else it wants back.
const WRAPPERS: [&str; 2] = ["state_dict.", "model_state_dict."];
/// What `DistributedDataParallel` and `DataParallel` put before each name.
const PARALLEL: &str = "module.";
/// How the names in a bare tower start.
const BARE: [&str; 5] = ["embeddings.", "encoder.", "final_layer_norm.", "pre_layrnorm.", "post_layernorm."];
/// Names in a bare vision tower that a bare text tower does not have.
const VISION_ONLY: [&str; 3] =
    ["embeddings.class_embedding", "embeddings.patch_embedding.weight", "pre_layrnorm.weight"];

/// The same tensors as `CLIPModel` calls them. What lies beside a wrapped dictionary of weights is left out.
pub(super) fn of_transformers<T>(mut tensors: BTreeMap<String, T>) -> BTreeMap<String, T> {
    for wrapper in WRAPPERS {
        if tensors.keys().any(|name| name.starts_with(wrapper)) {
            tensors.retain(|name, _| name.starts_with(wrapper));
            tensors = without(tensors, wrapper);
        }
    }
    if tensors.keys().all(|name| name.starts_with(PARALLEL)) {
        tensors = without(tensors, PARALLEL);
    }
    let is_vision = VISION_ONLY.iter().any(|name| tensors.contains_key(*name));
    let tower = if is_vision { "vision_model." } else { "text_model." };
    let whole = |name: String| {
        if BARE.iter().any(|part| name.starts_with(part)) { format!("{tower}{name}") } else { name }
    };
    tensors.into_iter().map(|(name, tensor)| (whole(name), tensor)).collect()
}

fn without<T>(tensors: BTreeMap<String, T>, prefix: &str) -> BTreeMap<String, T> {
    let short = |name: String| name.strip_prefix(prefix).map_or_else(|| name.clone(), str::to_owned);
    tensors.into_iter().map(|(name, tensor)| (short(name), tensor)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_a_whole_model() {
        for (given, expected) in [
            (&["text_model.a", "logit_scale"][..], &["logit_scale", "text_model.a"][..]),
            (
                &["embeddings.token_embedding.weight", "encoder.x"],
                &["text_model.embeddings.token_embedding.weight", "text_model.encoder.x"],
            ),
            (
                &["embeddings.class_embedding", "encoder.x"],
                &["vision_model.embeddings.class_embedding", "vision_model.encoder.x"],
            ),
            (&["module.logit_scale", "module.text_model.a"], &["logit_scale", "text_model.a"]),
            (&["module.a", "b"], &["b", "module.a"]),
            (&["state_dict.module.text_model.a", "optimizer.state.0.exp_avg"], &["text_model.a"]),
            (&["model_state_dict.encoder.x", "epoch"], &["text_model.encoder.x"]),
        ] {
            let named = of_transformers(given.iter().map(|name| ((*name).to_owned(), *name)).collect());
            assert_eq!(named.keys().map(String::as_str).collect::<Vec<_>>(), expected, "{given:?}");
            assert!(named.iter().all(|(name, was)| {
                was.ends_with(name.trim_start_matches("text_model.").trim_start_matches("vision_model."))
            }));
        }
    }
}
