//! The names of `transformers`' Flax classes, in its files of msgpack and of safetensors.
//!
//! They are the PyTorch classes' but for the last part. An index of shards joins their parts by slashes, the rest by dots.

/// What `CLIPModel` calls the tensor `stored`, and whether it is a kernel.
pub(super) fn named(stored: &str) -> (String, bool) {
    let stored = stored.replace('/', ".");
    let (layers, weight) = stored.rsplit_once('.').unwrap_or(("", &stored));
    if layers.is_empty() || !["kernel", "scale", "embedding"].contains(&weight) {
        return (stored, false);
    }
    (format!("{layers}.weight"), weight == "kernel")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_pytorch_classes() {
        for (stored, expected, is_kernel) in [
            ("logit_scale", "logit_scale", false),
            ("text_model.embeddings.token_embedding.embedding", "text_model.embeddings.token_embedding.weight", false),
            ("text_model/encoder/layers/0/layer_norm1/scale", "text_model.encoder.layers.0.layer_norm1.weight", false),
            ("text_model.encoder.layers.0.layer_norm1.bias", "text_model.encoder.layers.0.layer_norm1.bias", false),
            ("vision_model.embeddings.class_embedding", "vision_model.embeddings.class_embedding", false),
            ("vision_model.embeddings.patch_embedding.kernel", "vision_model.embeddings.patch_embedding.weight", true),
            ("text_projection.kernel", "text_projection.weight", true),
        ] {
            assert_eq!(named(stored), (expected.to_owned(), is_kernel));
        }
    }
}
