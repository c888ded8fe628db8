//! Towers that have a place of their own: a directory, a graph, or a repository on the hub; alone, or as a pair.
//!
//! Owns what `model.vision`, `model.text` and `model.variant` do in a whole service. The hub is a stand-in.

use std::{fs, path::Path, time::Duration};

use clipserve::{
    config::{Config, Precision},
    embedder,
    export::export_checkpoint,
    model::hub::{self, HubError, LocalModel},
};
use serde_json::json;
use tempfile::TempDir;

use crate::{
    checkpoint::{assert_images, assert_texts, info},
    hub_stand_in::{COMMIT, Files, HubStandIn, ID},
    layouts::{at, copy, folder, refusal, text, vision},
    partial::assert_not_supported,
    support::{TestServer, configuration, fixture},
};

/// Distance to the reference, relative to its norm.
const TOLERANCE: f32 = 1e-5;
/// That of half precision.
const F16_TOLERANCE: f32 = 5e-3;
const NO_PATH: &str = "model.path=";

async fn start(set: &[&str]) -> TestServer {
    TestServer::start(&[&[NO_PATH], set].concat()).await
}

/// A directory for each tower, as Qdrant's repositories are: vision, text.
fn directories() -> (TempDir, TempDir) {
    let (images, texts) = (folder(), folder());
    vision().write(&images.path().join("model.onnx"));
    copy(&["config.json", "preprocessor_config.json"], images.path());
    text().write(&texts.path().join("model.onnx"));
    copy(&["config.json", "tokenizer.json"], texts.path());
    (images, texts)
}

fn name(directory: &TempDir) -> &str {
    directory.path().file_name().and_then(|name| name.to_str()).expect("UTF-8")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vision_tower_alone_serves_images_and_answers_the_rest_not_supported() {
    let (images, _) = directories();
    for place in [images.path().to_owned(), images.path().join("model.onnx")] {
        let server = start(&[&at("model.vision", place)]).await;
        assert_images(&server, TOLERANCE).await;
        assert_not_supported(&server, "text", &["/embed/text", "/similarity", "/classify"]).await;
        let model = &info(&server).await["model"];
        assert_eq!((&model["towers"], &model["name"]), (&json!(["vision"]), &json!(name(&images))));
        let ids = json!({"name": "input_ids", "datatype": "INT64", "shape": [1, 2], "data": [0, 1]});
        let model = info(&server).await["model"]["name"].as_str().expect("a name").to_owned();
        let answer = server.post_json(&format!("/v2/models/{model}/infer"), &json!({"inputs": [ids]})).await;
        let error = crate::support::json(answer, 501).await;
        assert!(error["error"].as_str().expect("a message").contains("no text encoder"), "{error}");
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_tower_alone_serves_texts_and_answers_the_rest_not_supported() {
    let (_, texts) = directories();
    for place in [texts.path().to_owned(), texts.path().join("model.onnx")] {
        let server = start(&[&at("model.text", place)]).await;
        assert_texts(&server, TOLERANCE).await;
        assert_not_supported(&server, "image", &["/embed/image", "/similarity", "/classify"]).await;
        let model = &info(&server).await["model"];
        assert_eq!((&model["towers"], &model["name"]), (&json!(["text"]), &json!(name(&texts))));
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_directories_serve_as_one_model_named_after_the_first() {
    let (images, texts) = directories();
    let server = start(&[&at("model.text", texts.path()), &at("model.vision", images.path())]).await;
    assert_images(&server, TOLERANCE).await;
    assert_texts(&server, TOLERANCE).await;
    let model = &info(&server).await["model"];
    assert_eq!((&model["towers"], &model["name"]), (&json!(["vision", "text"]), &json!(name(&images))));
    server.stop().await;
}

/// Our own export of the fixture, without its weights.
fn export(precision: Precision) -> TempDir {
    let parent = folder();
    export_checkpoint(&fixture("tiny-clip"), &parent.path().join("export"), precision).expect("an export");
    parent
}

#[tokio::test(flavor = "multi_thread")]
async fn our_own_graphs_bring_their_logit_scale_wherever_they_are_named() {
    for (precision, name, tolerance) in [(Precision::F32, "f32", TOLERANCE), (Precision::F16, "f16", F16_TOLERANCE)] {
        let parent = export(precision);
        let root = parent.path().join("export");
        let (dir, file) = (at("model.vision", &root), at("model.text", root.join("onnx/text_model.onnx")));
        let engine = format!("engine.precision={name}");
        for set in [&[&*dir, &*file][..], &[&*at("model.path", &root), &*file]] {
            let server = start(&[set, &[&*engine]].concat()).await;
            assert_images(&server, tolerance).await;
            assert_texts(&server, tolerance).await;
            let info = info(&server).await;
            let model = &info["model"];
            assert_eq!((&model["logit_scale_source"], &model["name"]), (&json!("export"), &json!("export")), "{set:?}");
            assert_eq!(model["outputs"], json!(["vision", "text"]), "the graphs of outputs are beside them: {set:?}");
            assert!((model["logit_scale"].as_f64().expect("a number") - 100.03).abs() < 0.01, "{info}");
            server.stop().await;
        }
        let server = start(&[&*file, &*engine]).await;
        assert_texts(&server, tolerance).await;
        assert_eq!(info(&server).await["model"]["name"], "export", "the model's folder, not `onnx`");
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn our_own_graph_of_another_precision_is_refused_wherever_it_is_named() {
    let (half, full) = (export(Precision::F16), export(Precision::F32));
    let graph = |root: &TempDir, name: &str| root.path().join("export").join(name);
    let (vision, text) = ("onnx/vision_model.onnx", "onnx/text_model.onnx");
    // A name that promises another precision than the graph has.
    let renamed = folder();
    copy(&["config.json", "preprocessor_config.json"], renamed.path());
    fs::create_dir(renamed.path().join("onnx")).expect("a folder");
    fs::copy(graph(&full, vision), renamed.path().join("onnx/vision_model_fp16.onnx")).expect("a copy");
    for (set, precision, named, actual) in [
        (&[at("model.vision", graph(&half, ""))][..], "f32", vision, "f16"),
        (&[at("model.text", graph(&half, ""))], "f32", text, "f16"),
        (&[at("model.vision", graph(&half, vision))], "f32", vision, "f16"),
        (&[at("model.text", graph(&half, text))], "int8", text, "f16"),
        (&[at("model.vision", graph(&full, vision)), at("model.text", graph(&half, text))], "f16", vision, "f32"),
        (&[at("model.path", graph(&half, "")), at("model.text", graph(&full, text))], "f32", vision, "f16"),
        (&[at("model.vision", renamed.path())], "f16", "vision_model_fp16.onnx", "f32"),
    ] {
        let engine = format!("engine.precision={precision}");
        let error = refusal(&[&[NO_PATH.to_owned(), engine.clone()], set].concat()).await;
        let (is, wanted) = (
            format!("exported in {actual}, which is served by --precision {actual}"),
            format!("an export in {precision}"),
        );
        let expected = [named, &is, &wanted];
        assert!(expected.iter().all(|part| error.contains(part)), "{set:?} {engine}: {error}");
    }
}

const VISION_ID: &str = "someone/clip-vision";
const TEXT_ID: &str = "someone/clip-text";

/// The files of a directory, among some that nobody needs.
fn files(directory: &Path) -> Files {
    let mut files: Files = ["README.md", "generation_config.json", "vocab.txt", "model_fp16.onnx"]
        .into_iter()
        .map(|name| (name.to_owned(), name.into()))
        .collect();
    for entry in fs::read_dir(directory).expect("readable") {
        let path = entry.expect("readable").path();
        let name = path.file_name().and_then(|name| name.to_str()).expect("UTF-8");
        files.insert(name.to_owned(), fs::read(&path).expect("readable"));
    }
    files
}

/// A whole model: a checkpoint, and graphs of it as they are and as a variant.
fn whole() -> Files {
    let read = |name: &str| fs::read(fixture("tiny-clip").join(name)).expect("the fixture");
    let mut files: Files =
        ["config.json", "model.safetensors", "preprocessor_config.json", "tokenizer.json", "vocab.json", "merges.txt"]
            .into_iter()
            .map(|name| (name.to_owned(), read(name)))
            .collect();
    for tower in ["vision", "text"] {
        let graph = read(&format!("onnx/{tower}_model.onnx"));
        files.insert(format!("onnx/{tower}_model_q4f16.onnx"), graph.clone());
        files.insert(format!("onnx/{tower}_model.onnx"), graph);
    }
    files
}

/// A hub with a whole model and with a repository for each tower, and a cache that has nothing.
struct Case {
    hub: HubStandIn,
    cache: TempDir,
}

impl Case {
    fn new() -> Self {
        let (images, texts) = directories();
        let towers = [(VISION_ID, files(images.path())), (TEXT_ID, files(texts.path()))];
        let hub = HubStandIn::start_with(towers.into_iter().chain([(ID, whole())]));
        Self { hub, cache: folder() }
    }

    /// A configuration that downloads from here, with these `section.key=value`.
    fn config(&self, set: &[&str]) -> Config {
        let cache_dir = at("model.cache_dir", self.cache.path().join("exports"));
        let mut config = configuration(&[&[NO_PATH, &*cache_dir], set].concat());
        config.model.hub.endpoint = self.hub.endpoint();
        config.model.hub.cache = Some(self.cache.path().join("hub"));
        config.model.hub.retry_delay = Duration::from_millis(1);
        config
    }

    fn local(&self, set: &[&str]) -> Result<LocalModel, HubError> {
        let config = self.config(set);
        hub::local(&config.model, config.engine.graphs())
    }

    fn error(&self, set: &[&str]) -> String {
        self.local(set).expect_err("a fault").to_string()
    }

    async fn start(&self, set: &[&str]) -> TestServer {
        let config = self.config(set);
        let served = config.clone();
        let load =
            move |context: clipserve::server::LoadContext| embedder::start(&config, context.metrics, &context.health);
        let server = TestServer::bind(served, load).await;
        server.ready().await;
        server
    }

    #[track_caller]
    fn assert_downloaded(&self, id: &str, expected: &[&str]) {
        assert_eq!(self.hub.downloaded_of(id), expected, "{id}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_for_each_tower_is_downloaded_as_far_as_needed_and_serves() {
    let case = Case::new();
    let (vision, text) = (format!("model.vision={VISION_ID}"), format!("model.text={TEXT_ID}"));
    let server = case.start(&[&vision, &text]).await;
    assert_images(&server, TOLERANCE).await;
    assert_texts(&server, TOLERANCE).await;
    assert_eq!(info(&server).await["model"]["name"], VISION_ID);
    server.stop().await;
    case.assert_downloaded(VISION_ID, &["config.json", "model.onnx", "preprocessor_config.json"]);
    case.assert_downloaded(TEXT_ID, &["config.json", "model.onnx", "tokenizer.json"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_repository_serves_its_tower_and_a_directory_beside_it_is_not_looked_for_on_the_hub() {
    let case = Case::new();
    let text = format!("model.text={TEXT_ID}");
    let server = case.start(&[&text]).await;
    assert_texts(&server, TOLERANCE).await;
    assert_not_supported(&server, "image", &["/embed/image", "/similarity"]).await;
    assert_eq!(info(&server).await["model"]["name"], TEXT_ID);
    server.stop().await;

    let (images, _) = directories();
    let server = case.start(&[&text, &at("model.vision", images.path().join("model.onnx"))]).await;
    assert_images(&server, TOLERANCE).await;
    assert_texts(&server, TOLERANCE).await;
    assert_eq!(info(&server).await["model"]["name"], name(&images));
    server.stop().await;
    assert!(case.hub.requests().iter().all(|request| request.path.contains(TEXT_ID)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tower_with_a_place_of_its_own_is_not_downloaded_with_the_model() {
    let case = Case::new();
    let (path, text) = (format!("model.path={ID}"), format!("model.text={TEXT_ID}"));
    let server = case.start(&[&path, &text]).await;
    assert_images(&server, TOLERANCE).await;
    assert_texts(&server, TOLERANCE).await;
    assert_eq!(info(&server).await["model"]["name"], ID);
    server.stop().await;
    case.assert_downloaded(ID, &["config.json", "onnx/vision_model.onnx", "preprocessor_config.json"]);

    let case = Case::new();
    let server = case.start(&[&path, &text, &format!("model.vision={VISION_ID}")]).await;
    assert_eq!(info(&server).await["model"]["name"], ID);
    server.stop().await;
    case.assert_downloaded(ID, &[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_serves_whatever_graphs_an_earlier_start_left_beside_it() {
    let case = Case::new();
    case.local(&[&format!("model.text={ID}")]).expect("downloaded");
    case.assert_downloaded(ID, &["config.json", "onnx/text_model.onnx", "tokenizer.json"]);
    let server = case.start(&[&format!("model.path={ID}")]).await;
    assert_images(&server, TOLERANCE).await;
    assert_texts(&server, TOLERANCE).await;
    assert_eq!(info(&server).await["model"]["logit_scale_source"], "checkpoint");
    server.stop().await;
    assert!(case.hub.downloaded().contains(&"model.safetensors".to_owned()));
    assert!(fs::read_dir(case.cache.path().join("exports")).expect("it was exported").next().is_some());
}

#[test]
fn one_revision_is_that_of_every_place() {
    let case = Case::new();
    let set = ["model.revision=refs/pr/1", &format!("model.vision={VISION_ID}"), &format!("model.text={TEXT_ID}")];
    case.local(&set).expect("downloaded");
    for folder in ["models--someone--clip-vision", "models--someone--clip-text"] {
        let written = case.cache.path().join("hub").join(folder).join("refs/refs/pr/1");
        assert_eq!(fs::read_to_string(written).expect("a ref"), COMMIT, "{folder}");
    }
    let error = case.error(&["model.revision=v9", set[2]]);
    assert!(error.contains(&format!("{TEXT_ID} has no revision v9")), "{error}");
}

#[test]
fn a_tower_that_is_nowhere_is_named() {
    let case = Case::new();
    let error = case.error(&["model.text=texts/no/such.onnx"]);
    assert!(error.contains("texts/no/such.onnx") && error.contains("owner/name"), "{error}");
    assert_eq!(case.hub.requests().len(), 0);
    let error = case.error(&["model.vision=no/such"]);
    assert!(error.contains("no/such is neither a file or directory nor a model"), "{error}");
    let error = case.error(&[&format!("model.text={VISION_ID}")]);
    assert!(error.contains(VISION_ID) && error.contains("tokenizer.json"), "{error}");
    case.assert_downloaded(VISION_ID, &[]);
}

#[test]
fn offline_the_cache_serves_the_tower_that_it_has_and_no_half_model() {
    let mut whole = whole();
    whole.remove("model.safetensors");
    let case = Case { hub: HubStandIn::start(whole), cache: folder() };
    let (path, vision, text) = (format!("model.path={ID}"), format!("model.vision={ID}"), format!("model.text={ID}"));
    let online = case.local(&[&text]).expect("downloaded").config.text;
    let before = case.hub.requests().len();
    let offline = |set: &str| {
        let mut config = case.config(&[set]);
        config.model.hub.offline = true;
        hub::local(&config.model, Precision::F32)
    };
    assert_eq!(offline(&text).expect("cached").config.text, online);
    for other in [&vision, &path] {
        let error = offline(other).expect_err(other).to_string();
        assert!(error.contains(ID) && error.contains("HF_HUB_OFFLINE"), "{error}");
    }
    assert_eq!(case.hub.requests().len(), before);
    case.local(&[&vision]).expect("downloaded");
    offline(&path).expect("both towers are there now");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_variant_on_the_hub_is_its_graphs_also_where_there_is_a_checkpoint() {
    let case = Case::new();
    let path = format!("model.path={ID}");
    let server = case.start(&[&path, "model.variant=q4f16"]).await;
    assert_images(&server, TOLERANCE).await;
    assert_texts(&server, TOLERANCE).await;
    let info = info(&server).await;
    assert_eq!((&info["precision"], &info["model"]["name"]), (&json!("q4f16"), &json!(ID)));
    server.stop().await;
    let graphs = ["onnx/text_model_q4f16.onnx", "onnx/vision_model_q4f16.onnx"];
    case.assert_downloaded(ID, &["config.json", graphs[0], graphs[1], "preprocessor_config.json", "tokenizer.json"]);

    let before = case.hub.requests().len();
    let error = case.error(&[&path, "model.variant=q8"]);
    for part in [ID, "onnx/vision_model_q8.onnx", "model.variant", graphs[1]] {
        assert!(error.contains(part), "{part}: {error}");
    }
    assert!(!error.contains("safetensors"), "{error}");
    assert_eq!(case.hub.requests().len(), before + 1, "only the list was asked for");
}
