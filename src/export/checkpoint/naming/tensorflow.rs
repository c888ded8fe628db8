//! The names of `transformers`' TensorFlow classes, in its files of HDF5 and of safetensors.
//!
//! Keras names a weight by the layers around it, the model and its main layer among them: `tfclip_model/clip/text_model/…`, where the
//! first is numbered in a process that has several, is missing in safetensors and in shards, and is twice as deep in a whole file.

/// Where the name that all spellings have in common begins.
const PARTS: [&str; 5] = ["text_model", "vision_model", "text_projection", "visual_projection", "logit_scale"];

/// What `CLIPModel` calls the tensor `stored`, and whether it is a kernel.
pub(super) fn named(stored: &str) -> (String, bool) {
    // The number behind the colon is of the operation's outputs, of which a weight is the first and only one.
    let layers: Vec<&str> = stored.strip_suffix(":0").unwrap_or(stored).split('/').collect();
    let first = layers.iter().position(|layer| PARTS.contains(layer)).unwrap_or(0);
    let Some((&weight, layers)) = layers[first..].split_last() else { return (stored.to_owned(), false) };
    let renamed = match weight {
        "kernel" | "gamma" | "embeddings" => "weight",
        "beta" => "bias",
        other => other,
    };
    let layers = layers.iter().map(|layer| layer.replace("_._", "."));
    (layers.chain([renamed.to_owned()]).collect::<Vec<_>>().join("."), weight == "kernel")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_pytorch_classes_in_every_spelling() {
        for (stored, expected) in [
            ("clip/tfclip_model_1/clip/logit_scale:0", "logit_scale"),
            ("clip/logit_scale:0", "logit_scale"),
            (
                "clip/tfclip_text_model/clip/text_model/embeddings/token_embedding/weight:0",
                "text_model.embeddings.token_embedding.weight",
            ),
            (
                "clip/text_model/embeddings/position_embedding/embeddings:0",
                "text_model.embeddings.position_embedding.weight",
            ),
            (
                "tfclip_model/clip/text_model/encoder/layers_._10/layer_norm2/gamma:0",
                "text_model.encoder.layers.10.layer_norm2.weight",
            ),
            ("vision_model/pre_layrnorm/beta:0", "vision_model.pre_layrnorm.bias"),
            ("clip/vision_model/embeddings/class_embedding:0", "vision_model.embeddings.class_embedding"),
            ("clip/vision_model/encoder/layers_._0/mlp/fc1/bias:0", "vision_model.encoder.layers.0.mlp.fc1.bias"),
            ("bert/pooler/dense/bias:0", "bert.pooler.dense.bias"),
        ] {
            assert_eq!(named(stored), (expected.to_owned(), false));
        }
        let kernel = ("visual_projection.weight".to_owned(), true);
        assert_eq!(named("clip/tfclip_model/clip/visual_projection/kernel:0"), kernel);
    }
}
