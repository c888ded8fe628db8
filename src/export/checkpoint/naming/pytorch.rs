//! The names of `transformers`' PyTorch classes, in every version.
//!
//! Owns the prefix that a bare `CLIPTextModel` or `CLIPVisionModel` is stored without by newer versions of `transformers`.

use std::collections::BTreeMap;

/// How the names in a bare tower start.
const BARE: [&str; 5] = ["embeddings.", "encoder.", "final_layer_norm.", "pre_layrnorm.", "post_layernorm."];
/// Names in a bare vision tower that a bare text tower does not have.
const VISION_ONLY: [&str; 3] =
    ["embeddings.class_embedding", "embeddings.patch_embedding.weight", "pre_layrnorm.weight"];

/// The same tensors as `CLIPModel` calls them.
pub(super) fn of_transformers<T>(tensors: BTreeMap<String, T>) -> BTreeMap<String, T> {
    let is_vision = VISION_ONLY.iter().any(|name| tensors.contains_key(*name));
    let tower = if is_vision { "vision_model." } else { "text_model." };
    let whole = |name: String| {
        if BARE.iter().any(|part| name.starts_with(part)) { format!("{tower}{name}") } else { name }
    };
    tensors.into_iter().map(|(name, tensor)| (whole(name), tensor)).collect()
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
        ] {
            let named = of_transformers(given.iter().map(|name| ((*name).to_owned(), *name)).collect());
            assert_eq!(named.keys().map(String::as_str).collect::<Vec<_>>(), expected, "{given:?}");
            assert!(named.iter().all(|(name, was)| {
                was.ends_with(name.trim_start_matches("text_model.").trim_start_matches("vision_model."))
            }));
        }
    }
}
