//! The layouts that people have, each served for real, and its embeddings compared with the reference's.
//!
//! The models are made here, out of the fixture's graphs; see `onnx`.

use std::{
    fs,
    path::{Path, PathBuf},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use clipserve::{config::Precision, embedder, export::export_checkpoint, server::Server};
use serde_json::json;

use crate::{
    onnx::Model,
    reference::{EMBEDDING_TOLERANCE, assert_close, images, texts},
    support::{TestServer, configuration, fixture, json, matrix, picture},
};

const PICTURES: [&str; 4] = ["astronaut.png", "cat_420.jpg", "logo_rgba.png", "tall_333x777.jpg"];

pub(crate) fn vision() -> Model {
    Model::read(&fixture("tiny-clip/onnx/vision_model.onnx"))
}

pub(crate) fn text() -> Model {
    Model::read(&fixture("tiny-clip/onnx/text_model.onnx"))
}

pub(crate) fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

/// Copies files of the fixture into `to`.
pub(crate) fn copy(files: &[&str], to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for file in files {
        fs::copy(fixture("tiny-clip").join(file), to.join(file)).expect("a copy");
    }
}

pub(crate) fn at(key: &str, path: impl AsRef<Path>) -> String {
    format!("{key}={}", path.as_ref().display())
}

/// How near the reference embeddings must be.
#[derive(Clone, Copy)]
pub(crate) enum Bound {
    /// Within 1e-5 of the norm.
    Exact,
    /// By the cosine.
    Cosine(f32),
}

impl Bound {
    #[track_caller]
    fn check(self, name: &str, actual: &[f32], expected: &[f32]) {
        let norm = expected.iter().map(|value| value * value).sum::<f32>().sqrt();
        let expected: Vec<f32> = expected.iter().map(|value| value / norm).collect();
        match self {
            Self::Exact => assert_close(name, actual, &expected, EMBEDDING_TOLERANCE),
            Self::Cosine(least) => {
                let cosine: f32 = actual.iter().zip(&expected).map(|(a, b)| a * b).sum();
                assert!(cosine >= least, "{name}: cosine {cosine}");
            }
        }
    }
}

/// Serves the model of these settings and compares four pictures, all texts at once and one alone.
pub(crate) async fn assert_serves(set: &[String], bound: Bound) {
    let set: Vec<&str> = set.iter().map(String::as_str).collect();
    let server = TestServer::start(&set).await;
    let golden = images();
    let pictures: Vec<String> = PICTURES.iter().map(|name| BASE64_STANDARD.encode(picture(name))).collect();
    let body = json(server.post_json("/embed/image", &json!({"images": pictures})).await, 200).await;
    for (name, row) in PICTURES.iter().zip(matrix(&body["embeddings"])) {
        let (_, expected) = golden.iter().find(|(golden, _)| golden == name).expect("a golden");
        bound.check(name, &row, expected);
    }
    let golden = texts();
    let all: Vec<&str> = golden.iter().map(|(text, _)| text.as_str()).collect();
    let body = json(server.post_json("/embed/text", &json!({"texts": all})).await, 200).await;
    for ((text, expected), row) in golden.iter().zip(matrix(&body["embeddings"])) {
        bound.check(text, &row, expected);
    }
    let (text, expected) = &golden[golden.len() / 2];
    let body = json(server.post_json("/embed/text", &json!({"texts": text})).await, 200).await;
    bound.check(text, &matrix(&body["embeddings"])[0], expected);
    server.stop().await;
}

/// What a start with these settings says.
pub(crate) async fn refusal(set: &[String]) -> String {
    let set: Vec<&str> = set.iter().map(String::as_str).collect();
    let config = configuration(&set);
    let context = Server::bind(config.clone()).await.expect("a free port").context().clone();
    match embedder::start(&config, context.metrics, &context.health) {
        Ok(_) => panic!("{set:?} starts"),
        Err(error) => error.to_string(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tokenizer_of_two_files_serves() {
    let root = folder();
    copy(&["config.json", "preprocessor_config.json", "vocab.json", "merges.txt"], root.path());
    copy(&["onnx/vision_model.onnx", "onnx/text_model.onnx"], &with_onnx(root.path()));
    assert_serves(&[at("model.path", root.path())], Bound::Exact).await;
}

/// `root` with its folder `onnx` made.
fn with_onnx(root: &Path) -> PathBuf {
    fs::create_dir_all(root.join("onnx")).expect("a folder");
    root.to_owned()
}

/// Immich's files, in a folder.
pub(crate) fn immich() -> tempfile::TempDir {
    let root = folder();
    vision().immich_visual().write(&root.path().join("visual/model.onnx"));
    text().immich_textual().write(&root.path().join("textual/model.onnx"));
    copy(&["tokenizer.json", "tokenizer_config.json"], &root.path().join("textual"));
    let config = json!({
        "embed_dim": 48,
        "vision_cfg": {"image_size": 224, "layers": 3, "width": 64, "patch_size": 32},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 4, "layers": 3},
    });
    fs::write(root.path().join("config.json"), config.to_string()).expect("written");
    let preprocess = json!({
        "size": [224, 224], "mode": "RGB", "interpolation": "bicubic", "resize_mode": "shortest", "fill_color": 0,
        "mean": [0.48145466, 0.4578275, 0.40821073], "std": [0.26862954, 0.26130258, 0.27577711],
    });
    fs::write(root.path().join("visual/preprocess_cfg.json"), preprocess.to_string()).expect("written");
    root
}

#[tokio::test(flavor = "multi_thread")]
async fn immichs_layout_serves() {
    let root = immich();
    assert_serves(&[at("model.path", root.path())], Bound::Exact).await;
}

/// The embedding of one text.
async fn embedding(server: &TestServer, text: &str) -> Vec<f32> {
    let body = json(server.post_json("/embed/text", &json!({"texts": text})).await, 200).await;
    matrix(&body["embeddings"]).remove(0)
}

/// The same graphs beside the files of each library: its rules are followed, named, and part of the fingerprint.
#[tokio::test(flavor = "multi_thread")]
async fn the_files_beside_the_graphs_say_whose_rules_are_followed() {
    let (of_immich, of_open_clip, of_transformers) = (immich(), immich(), folder());
    // As open_clip's exports have it: at the root.
    for (from, to) in
        [("visual/preprocess_cfg.json", "preprocess_cfg.json"), ("textual/tokenizer.json", "tokenizer.json")]
    {
        fs::rename(of_open_clip.path().join(from), of_open_clip.path().join(to)).expect("moved");
    }
    copy(&["config.json", "preprocessor_config.json", "tokenizer.json"], of_transformers.path());
    copy(&["onnx/vision_model.onnx", "onnx/text_model.onnx"], &with_onnx(of_transformers.path()));
    let mut fingerprints = std::collections::BTreeSet::new();
    for (root, name, unescapes) in
        [(&of_immich, "immich", false), (&of_open_clip, "open_clip", true), (&of_transformers, "transformers", false)]
    {
        let server = TestServer::start(&[&at("model.path", root.path())]).await;
        let info = json(server.get("/info").await, 200).await;
        assert_eq!(info["model"]["preprocessing"], json!({"vision": name, "text": name}));
        fingerprints.insert(info["model"]["fingerprint"].to_string());
        let (escaped, plain) = (embedding(&server, "caf&eacute;").await, embedding(&server, "caf\u{e9}").await);
        assert_eq!(escaped == plain, unescapes, "{name}");
        server.stop().await;
    }
    assert_eq!(fingerprints.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn immichs_layout_with_a_text_tower_that_is_not_clips_is_refused() {
    let root = immich();
    fs::write(root.path().join("config.json"), r#"{"text_cfg": {"hf_model_name": "xlm-roberta"}}"#).expect("written");
    let error = refusal(&[at("model.path", root.path())]).await;
    assert!(error.contains("hf_model_name") && error.contains("config.json"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_for_each_tower_serves() {
    let (images, texts) = (folder(), folder());
    vision().write(&images.path().join("model.onnx"));
    copy(&["config.json", "preprocessor_config.json"], images.path());
    text().with_mask_and_states().write(&texts.path().join("model.onnx"));
    copy(&["config.json", "tokenizer.json"], texts.path());
    let path = "model.path=".to_owned();
    let folders = [path.clone(), at("model.vision", images.path()), at("model.text", texts.path())];
    assert_serves(&folders, Bound::Exact).await;
    let file = at("model.text", texts.path().join("model.onnx"));
    assert_serves(&[path, folders[1].clone(), file], Bound::Exact).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn half_precision_graphs_serve_by_precision_and_by_variant() {
    let root = folder();
    copy(&["config.json", "preprocessor_config.json", "tokenizer.json"], root.path());
    vision().half().write(&root.path().join("onnx/vision_model_fp16.onnx"));
    text().half().write(&root.path().join("onnx/text_model_fp16.onnx"));
    let path = at("model.path", root.path());
    for key in ["engine.precision=f16", "model.variant=fp16"] {
        assert_serves(&[path.clone(), key.to_owned()], Bound::Cosine(0.999)).await;
    }
    let error = refusal(&[path, "model.variant=q4f16".to_owned()]).await;
    assert!(error.contains("vision_model_q4f16.onnx"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn quantised_graphs_serve_by_precision_and_by_variant() {
    let (parent, root) = (folder(), folder());
    let exported = export_checkpoint(&fixture("tiny-clip"), &parent.path().join("int8"), Precision::Int8);
    let exported = exported.expect("an export");
    copy(&["config.json", "preprocessor_config.json", "tokenizer.json"], root.path());
    let onnx = with_onnx(root.path()).join("onnx");
    for (from, to) in [
        ("vision_model.onnx", "vision_model_quantized.onnx"),
        ("text_model.onnx", "text_model_quantized.onnx"),
        ("vision_model.onnx_data", "vision_model.onnx_data"),
        ("text_model.onnx_data", "text_model.onnx_data"),
    ] {
        fs::copy(exported.dir.join("onnx").join(from), onnx.join(to)).expect("a copy");
    }
    let path = at("model.path", root.path());
    for key in ["engine.precision=int8", "model.variant=quantized"] {
        // The bound that the export's own test has for this narrow model (0.1 of the norm), as a cosine.
        assert_serves(&[path.clone(), key.to_owned()], Bound::Cosine(0.995)).await;
    }
}

/// A folder with both towers in `model.onnx`, its weights inside or beside it.
fn merged(graph: &str, external: bool) -> tempfile::TempDir {
    let root = folder();
    copy(&["config.json", "preprocessor_config.json", "tokenizer.json"], root.path());
    let (model, path) = (Model::merged(vision(), text()), with_onnx(root.path()).join(graph));
    if external {
        model.write_with_external_data(&path)
    } else {
        model.write(&path)
    }
    root
}

#[tokio::test(flavor = "multi_thread")]
async fn a_graph_of_both_towers_is_split_and_serves() {
    for (graph, external) in [("model.onnx", false), ("onnx/model.onnx", true)] {
        let root = merged(graph, external);
        assert_serves(&[at("model.path", root.path())], Bound::Exact).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_graph_without_a_projected_embedding_is_refused() {
    let root = folder();
    copy(&["config.json", "preprocessor_config.json", "tokenizer.json"], root.path());
    vision().pooled().write(&root.path().join("onnx/vision_model.onnx"));
    text().write(&root.path().join("onnx/text_model.onnx"));
    let error = refusal(&[at("model.path", root.path())]).await;
    assert!(error.contains("no projected embedding") && error.contains("pooler_output"), "{error}");
}
