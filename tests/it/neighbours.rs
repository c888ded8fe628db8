//! What an item's neighbours in a run do to its answer, and the graphs whose items must have none.
//!
//! Owns the graphs that are told to run one by one, and what the service does about it. Does not own that other graphs are
//! independent of the batch (`reference`, and `tests/export.rs` to the bit).

use std::{fs, path::Path, process::Command, sync::Arc};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use clipserve::{
    config::Precision,
    encoder::{Embeddings, Encoder, OneByOne, PixelBuf, Tokens},
    engine::{Engine, Normalization},
    export::export_checkpoint,
    model::Graphs,
};
use serde_json::{Value, json};

use crate::{
    checkpoint::info,
    layouts::{at, copy, folder, immich, refusal, text, vision},
    oip::{embed_pixels, pixel_values},
    onnx::{self, Model},
    support::{TestServer, configuration, fixture, json, picture},
};

const PICTURES: [&str; 3] = ["cat_420.jpg", "astronaut.png", "logo_rgba.png"];
const TEXTS: [&str; 3] = ["a cat", "a photograph of an astronaut in front of a flag, a shuttle beside her", "two cats"];

fn engine() -> Arc<Engine> {
    Arc::new(Engine::start(&configuration(&[]).engine).expect("the CPU provider"))
}

/// The files of a model around its graphs.
fn around_graphs() -> tempfile::TempDir {
    let root = folder();
    copy(&["config.json", "preprocessor_config.json", "tokenizer.json"], root.path());
    root
}

/// The fixture as `quantize_dynamic` leaves it.
fn quantized() -> tempfile::TempDir {
    let root = around_graphs();
    vision().dynamically_quantized().write(&root.path().join("onnx/vision_model.onnx"));
    text().dynamically_quantized().write(&root.path().join("onnx/text_model.onnx"));
    root
}

/// How far the first row is from what it was alone, relative to the latter's norm.
fn distance(together: &Embeddings, alone: &Embeddings) -> f32 {
    let (together, alone) = (together.row(0), alone.row(0));
    (&together - &alone).powi(2).sum().sqrt() / alone.powi(2).sum().sqrt()
}

#[test]
fn a_dynamically_quantised_graph_answers_otherwise_beside_others_and_is_told() {
    let (engine, root) = (engine(), quantized());
    let graph = |name| Graphs::Embedding(root.path().join("onnx").join(name));
    let clip = Normalization {
        rescale_factor: Some(1.0 / 255.0),
        mean_std: Some(([0.481_454_66, 0.457_827_5, 0.408_210_73], [0.268_629_54, 0.261_302_6, 0.275_777_1])),
    };
    let crop = |step: usize| PixelBuf::new(224, 224, (0..224 * 224 * 3).map(|at| (at * step / 97) as u8).collect());
    let mut images = engine.vision(&graph("vision_model.onnx"), &clip, 1).expect("a vision graph").remove(0).encoder;
    let together = images.encode(&[crop(1), crop(90)]).expect("embeddings");
    let images_off = distance(&together, &images.encode(&[crop(1)]).expect("an embedding"));
    let ids = |length: u32| Tokens::new((0..length).map(|at| 400 + at * 311).chain([49407]).collect::<Vec<_>>());
    let mut texts = engine.text(&graph("text_model.onnx"), 1).expect("a text graph").remove(0).encoder;
    let together = texts.encode(&[ids(3), ids(60)]).expect("embeddings");
    let texts_off = distance(&together, &texts.encode(&[ids(3)]).expect("an embedding"));
    println!("beside one other: images {images_off:.4}, texts {texts_off:.4} of the norm");
    assert!(images_off > 0.01 && texts_off > 0.01, "else there is nothing to mend: {images_off} {texts_off}");
    let told = Some(OneByOne::DynamicQuantization);
    assert_eq!((images.one_by_one(), texts.one_by_one()), (told, told));
}

/// The rows that `route` answers for these items.
async fn rows(server: &TestServer, route: &str, key: &str, items: &[String]) -> Vec<Value> {
    let body = json(server.post_json(route, &json!({key: items})).await, 200).await;
    body["embeddings"].as_array().expect("rows").clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn items_of_such_graphs_have_the_same_bits_alone_and_beside_others() {
    let root = quantized();
    let server = TestServer::start(&[
        &at("model.path", root.path()),
        "model.name=tiny-clip",
        // What is known would not be computed again.
        "cache.max_bytes=0",
        "batch.vision.max_batch_size=8",
        "batch.text.max_batch_size=64",
        // Items that may share a run would wait for each other; those that may not do not wait.
        "batch.vision.max_queue_delay=1s",
        "batch.text.max_queue_delay=1s",
    ])
    .await;
    let pictures = PICTURES.map(|name| BASE64_STANDARD.encode(picture(name)));
    for (route, key, items) in
        [("/embed/image", "images", pictures), ("/embed/text", "texts", TEXTS.map(str::to_owned))]
    {
        let together = rows(&server, route, key, &items).await;
        for (item, row) in items.iter().zip(&together) {
            assert_eq!(&rows(&server, route, key, std::slice::from_ref(item)).await[0], row, "{route}");
        }
    }
    let pixels = pixel_values(&PICTURES[..2]);
    let (first, second) = pixels.split_at(pixels.len() / 2);
    let alone = [embed_pixels(&server, first).await, embed_pixels(&server, second).await].concat();
    assert_eq!(embed_pixels(&server, &pixels).await, alone);
    let about = info(&server).await;
    assert_eq!(about["model"]["one_by_one"], json!({"vision": "dynamic_quantization", "text": "dynamic_quantization"}));
    let limits = &about["limits"];
    assert_eq!((&limits["max_batch_size_image"], &limits["max_batch_size_text"]), (&json!(1), &json!(1)));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_towers_in_one_file_only_the_quantised_one_runs_one_by_one() {
    let root = around_graphs();
    Model::merged(vision(), text().dynamically_quantized()).write(&root.path().join("model.onnx"));
    let server = TestServer::start(&[&at("model.path", root.path()), "batch.vision.max_batch_size=5"]).await;
    let about = info(&server).await;
    assert_eq!(about["model"]["one_by_one"], json!({"vision": null, "text": "dynamic_quantization"}));
    let limits = &about["limits"];
    assert_eq!((&limits["max_batch_size_image"], &limits["max_batch_size_text"]), (&json!(5), &json!(1)));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_graph_fixed_to_one_says_so_and_one_fixed_to_more_is_refused() {
    let root = immich();
    let server = TestServer::start(&[&at("model.path", root.path())]).await;
    assert_eq!(info(&server).await["model"]["one_by_one"], json!({"vision": "fixed_batch", "text": "fixed_batch"}));
    server.stop().await;

    let root = around_graphs();
    let pairs = vision().input("pixel_values", onnx::FLOAT, &[2, 3, 224, 224]);
    pairs.write(&root.path().join("onnx/vision_model.onnx"));
    text().write(&root.path().join("onnx/text_model.onnx"));
    let error = refusal(&[at("model.path", root.path())]).await;
    assert!(error.contains("vision_model.onnx") && error.contains("fixed to batches of 2; export it"), "{error}");
}

#[test]
fn our_own_exports_share_runs_and_a_graph_of_outputs_counts_before_it_is_opened() {
    let (engine, root) = (engine(), quantized());
    let told = |graphs: &Graphs| engine.text(graphs, 1).expect("a text graph")[0].encoder.one_by_one();
    let embedding = fixture("tiny-clip/onnx/text_model.onnx");
    assert_eq!(told(&Graphs::Embedding(embedding.clone())), None);
    let outputs = root.path().join("onnx/text_model.onnx");
    assert_eq!(told(&Graphs::Both { embedding, outputs }), Some(OneByOne::DynamicQuantization));
    for precision in [Precision::F32, Precision::Int8] {
        let out = root.path().join(precision.name());
        let exported = export_checkpoint(&fixture("tiny-clip"), &out, precision).expect("the fixture");
        let (embedding, outputs) = (exported.text.expect("a tower"), exported.text_outputs.expect("its outputs"));
        assert_eq!(told(&Graphs::Both { embedding, outputs }), None, "{}", precision.name());
    }
}

fn tune(model: &Path) -> (String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_clipserve"));
    command.env_clear().args(["tune", "--seconds", "0.02", "--rounds", "1", "--provider", "cpu", "--model"]).arg(model);
    let output = command.args(["--set", "telemetry.log_level=info"]).output().expect("the binary starts");
    let (report, log) = (String::from_utf8(output.stdout).expect("UTF-8"), String::from_utf8(output.stderr).unwrap());
    assert!(output.status.success(), "{log}");
    (report, log)
}

#[test]
fn the_log_says_why_and_tuning_tries_no_batches_of_such_a_tower() {
    let root = quantized();
    fs::copy(fixture("tiny-clip/onnx/text_model.onnx"), root.path().join("onnx/text_model.onnx")).expect("a copy");
    let (report, log) = tune(root.path());
    let line = log.lines().find(|line| line.contains("run one by one")).expect("a line of it");
    assert!(line.contains("vision") && line.contains("it is quantised dynamically"), "{line}");
    assert!(!log.lines().any(|line| line.contains("run one by one") && line.contains("text")), "{log}");
    assert!(!report.contains("batch.vision.max_batch_size") && report.contains("## texts: batch.text.max_batch_size"));
}
