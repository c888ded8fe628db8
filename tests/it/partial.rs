//! Checkpoints that lack a tower or a projection: they serve what they can, and say what they cannot.
//!
//! Owns cutting such checkpoints out of the fixture, so that the reference's numbers hold for what is left.

use std::{collections::HashMap, fs};

use safetensors::SafeTensors;
use serde_json::{Value, json};

use crate::{
    checkpoint::{assert_images, assert_texts, info, start},
    support::{TestServer, error, fixture, json, matrix, picture},
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
        let no_encoder = message.contains(&format!("no {missing} encoder"));
        let no_projection = message.contains(&format!("{missing} encoder that is served has no projection"));
        assert!((no_encoder || no_projection) && message.contains("/info"), "{message}");
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
async fn a_tower_without_its_projection_has_outputs_and_no_embedding() {
    let (server, _model, _cache) = serve_cut(&NO_TEXT_PROJECTION).await;
    assert_images(&server, 1e-5).await;
    assert_not_supported(&server, "text", &["/embed/text", "/similarity"]).await;
    let model = &info(&server).await["model"];
    assert_eq!((&model["towers"], &model["outputs"]), (&json!(["vision"]), &json!(["vision", "text"])));
    let asked = json!({"texts": "a cat", "outputs": ["pooler_output"], "dimensions": 4});
    let message = error(server.post_json("/embed/text", &asked).await, 501, "not_supported").await;
    assert!(message.contains("no projection"), "{message}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn both_towers_are_listed() {
    let server = TestServer::start(&[]).await;
    assert_eq!(json(server.get("/info").await, 200).await["model"]["towers"], json!(["vision", "text"]));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bare_tower_serves_its_outputs() {
    let (server, _model, _cache) = serve_cut(&BARE).await;
    assert_not_supported(&server, "text", &["/embed/text"]).await;
    assert_not_supported(&server, "image", &["/embed/image", "/similarity"]).await;
    let model = &info(&server).await["model"];
    assert_eq!((&model["towers"], &model["outputs"], &model["dim"]), (&json!([]), &json!(["text"]), &Value::Null));
    let asked = json!({"texts": ["a cat", "a photo of a dog"], "outputs": ["pooler_output", "last_hidden_state"]});
    let body = json(server.post_json("/embed/text", &asked).await, 200).await;
    assert_eq!((&body["embeddings"], &body["dim"]), (&Value::Null, &Value::Null));
    assert_eq!(matrix(&body["outputs"]["pooler_output"]).len(), 2);
    assert_eq!(body["attention_mask"], json!([[1, 1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1, 1]]));
    server.stop().await;
}
