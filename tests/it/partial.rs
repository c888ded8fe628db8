//! Checkpoints that lack a tower or a projection: they serve what they can, and say what they cannot.
//!
//! Owns cutting such checkpoints out of the fixture, so that the reference's numbers hold for what is left.

use std::{collections::HashMap, fs, path::Path};

use safetensors::SafeTensors;
use serde_json::{Value, json};

use crate::{
    checkpoint::{assert_images, assert_texts, info, start, utf8},
    lifecycle::{assert_fault, serve},
    support::{TestServer, error, fixture, json, picture},
};

/// Which part of the fixture's checkpoint is kept.
struct Cut {
    /// `architectures`.
    class: &'static str,
    /// The configuration that becomes the whole one; `None`: the whole one stays.
    config: Option<&'static str>,
    /// How the names of the tensors that stay begin.
    tensors: &'static [&'static str],
}

const TEXT: Cut = Cut {
    class: "CLIPTextModelWithProjection",
    config: Some("text_config"),
    tensors: &["text_model.", "text_projection."],
};
const VISION: Cut = Cut {
    class: "CLIPVisionModelWithProjection",
    config: Some("vision_config"),
    tensors: &["vision_model.", "visual_projection."],
};
const NO_TEXT_PROJECTION: Cut = Cut {
    class: "CLIPModel",
    config: None,
    tensors: &["text_model.", "vision_model.", "visual_projection.", "logit_scale"],
};
const BARE: Cut = Cut { class: "CLIPTextModel", config: Some("text_config"), tensors: &["text_model."] };

fn cut(cut: &Cut) -> tempfile::TempDir {
    let (from, to) = (fixture("tiny-clip"), tempfile::tempdir().expect("a folder"));
    let config: Value =
        serde_json::from_str(&fs::read_to_string(from.join("config.json")).expect("readable")).expect("JSON");
    let mut config = cut.config.map_or(config.clone(), |part| config[part].clone());
    config["architectures"] = json!([cut.class]);
    fs::write(to.path().join("config.json"), config.to_string()).expect("written");
    let bytes = fs::read(from.join("model.safetensors")).expect("readable");
    let tensors = SafeTensors::deserialize(&bytes).expect("a checkpoint");
    let kept: HashMap<_, _> =
        tensors.iter().filter(|(name, _)| cut.tensors.iter().any(|start| name.starts_with(start))).collect();
    safetensors::serialize_to_file(&kept, None, &to.path().join("model.safetensors")).expect("written");
    let vision = kept.keys().any(|name| name.starts_with("vision"));
    let text = kept.keys().any(|name| name.starts_with("text"));
    for (file, wanted) in [("preprocessor_config.json", vision), ("tokenizer.json", text)] {
        if wanted {
            fs::copy(from.join(file), to.path().join(file)).expect("a copy");
        }
    }
    to
}

async fn serve_cut(part: &Cut) -> (TestServer, tempfile::TempDir, tempfile::TempDir) {
    let (model, cache) = (cut(part), tempfile::tempdir().expect("a folder"));
    (start(model.path(), cache.path(), &[]).await, model, cache)
}

/// What every route but those of the tower answers.
pub(crate) async fn assert_not_supported(server: &TestServer, missing: &str, routes: &[&str]) {
    for route in routes {
        let answer = match *route {
            "/embed/image" => server.post_picture(route, picture("cat_420.jpg")).await,
            "/embed/text" => server.post_json(route, &json!({"texts": "a cat"})).await,
            _ => server.post_json(route, &json!({"images": "", "texts": "a cat"})).await,
        };
        let message = error(answer, 501, "not_supported").await;
        assert!(message.contains(&format!("no {missing} encoder")) && message.contains("/info"), "{message}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_tower_embeds_texts_and_answers_the_rest_not_supported() {
    let (server, ..) = serve_cut(&TEXT).await;
    assert_texts(&server, 1e-5).await;
    assert_not_supported(&server, "image", &["/embed/image", "/similarity", "/classify"]).await;
    let model = &info(&server).await["model"];
    assert_eq!((&model["towers"], &model["dim"], &model["context_length"]), (&json!(["text"]), &json!(48), &json!(77)));
    for absent in ["image_size", "logit_scale", "logit_scale_source"] {
        assert_eq!(model[absent], Value::Null, "{absent}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vision_tower_embeds_images_and_answers_the_rest_not_supported() {
    let (server, ..) = serve_cut(&VISION).await;
    assert_images(&server, 1e-5).await;
    assert_not_supported(&server, "text", &["/embed/text", "/similarity", "/classify"]).await;
    let model = &info(&server).await["model"];
    assert_eq!((&model["towers"], &model["image_size"]["width"]), (&json!(["vision"]), &json!(224)));
    assert_eq!((&model["context_length"], &model["logit_scale"]), (&Value::Null, &Value::Null));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tower_without_its_projection_counts_as_missing() {
    let (server, ..) = serve_cut(&NO_TEXT_PROJECTION).await;
    assert_images(&server, 1e-5).await;
    assert_not_supported(&server, "text", &["/embed/text", "/similarity"]).await;
    assert_eq!(info(&server).await["model"]["towers"], json!(["vision"]));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn both_towers_are_listed() {
    let server = TestServer::start(&[]).await;
    assert_eq!(json(server.get("/info").await, 200).await["model"]["towers"], json!(["vision", "text"]));
    server.stop().await;
}

#[test]
fn a_checkpoint_that_embeds_nothing_is_refused() {
    let (model, cache) = (cut(&BARE), tempfile::tempdir().expect("a folder"));
    let start = |path: &Path| serve(path, &["--cache-dir", utf8(cache.path())]);
    assert_fault("bare", start(model.path()), 1, &["text_projection", "embeds nothing"]);
}
