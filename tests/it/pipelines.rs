//! Folders of other libraries around a CLIP, each served for real from its outside, and its embeddings compared with the reference's.
//!
//! The folders are made here, out of the fixture's checkpoint, as sentence-transformers and diffusers lay them out
//! (`onnx/formats/pipelines.py` asks the libraries themselves).

use std::{collections::HashMap, fs, path::Path};

use safetensors::{SafeTensors, serialize_to_file};
use serde_json::{Value, json};

use crate::{
    layouts::{Bound, assert_serves, at, copy, folder},
    support::fixture,
};

const TOKENIZER: [&str; 4] = ["vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json"];

/// The part of the fixture's checkpoint whose tensors begin with one of `prefixes`, as a checkpoint of `class`.
fn tower(class: &str, prefixes: [&str; 2], to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    let bytes = fs::read(fixture("tiny-clip/model.safetensors")).expect("the fixture");
    let all = SafeTensors::deserialize(&bytes).expect("safetensors");
    let own = all.iter().filter(|(name, _)| prefixes.iter().any(|prefix| name.starts_with(prefix)));
    let tensors: HashMap<_, _> = own.collect();
    serialize_to_file(&tensors, None, &to.join("model.safetensors")).expect("written");
    let config = fs::read(fixture("tiny-clip/config.json")).expect("the fixture");
    let mut config: Value = serde_json::from_slice(&config).expect("JSON");
    config["architectures"] = json!([class]);
    for part in ["text_config", "vision_config"] {
        config[part]["projection_dim"] = config["projection_dim"].clone();
    }
    fs::write(to.join("config.json"), config.to_string()).expect("written");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_of_sentence_transformers_is_served_from_the_folder_of_its_module() {
    let (root, cache) = (folder(), folder());
    let files = ["config.json", "model.safetensors", "preprocessor_config.json", "tokenizer.json"];
    copy(&files, &root.path().join("0_CLIPModel"));
    let modules =
        json!([{"idx": 0, "name": "0", "path": "0_CLIPModel", "type": "sentence_transformers.models.CLIPModel"}]);
    fs::write(root.path().join("modules.json"), modules.to_string()).expect("written");
    assert_serves(&[at("model.path", root.path()), at("model.cache_dir", cache.path())], Bound::Exact).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_is_served_from_its_encoders_and_what_lies_beside_them() {
    let (root, cache) = (folder(), folder());
    let part = |name: &str| root.path().join(name);
    tower("CLIPTextModelWithProjection", ["text_model.", "text_projection."], &part("text_encoder"));
    tower("CLIPVisionModelWithProjection", ["vision_model.", "visual_projection."], &part("image_encoder"));
    copy(&TOKENIZER, &part("tokenizer"));
    copy(&["preprocessor_config.json"], &part("feature_extractor"));
    let index = json!({"_class_name": "StableDiffusionPipeline", "safety_checker": [null, null],
        "text_encoder": ["transformers", "CLIPTextModelWithProjection"], "tokenizer": ["transformers", "CLIPTokenizer"],
        "image_encoder": ["transformers", "CLIPVisionModelWithProjection"]});
    fs::write(part("model_index.json"), index.to_string()).expect("written");
    let cache = at("model.cache_dir", cache.path());
    assert_serves(&[at("model.path", root.path()), cache.clone()], Bound::Exact).await;
    // Each tower in its own place, the pipeline or the folder of the tower.
    let places =
        [at("model.text", root.path()), at("model.vision", part("image_encoder")), "model.path=".to_owned(), cache];
    assert_serves(&places, Bound::Exact).await;
}
