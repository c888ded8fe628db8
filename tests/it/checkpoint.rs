//! Serving a checkpoint that has no ONNX files: exported at start, kept in the cache, with the reference's numbers.
//!
//! Owns what only the whole service or the real binary shows; the graphs themselves have their tests in `tests/export.rs`.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::{Value, json};

use crate::{
    lifecycle::{assert_fault, command, fault, serve},
    support::{TestServer, fixture, json, matrix, picture},
};

/// Distance to the reference, relative to its norm.
const TOLERANCE: f32 = 1e-5;

/// The fixture's files without its graphs.
pub(crate) fn checkpoint() -> tempfile::TempDir {
    let copy = tempfile::tempdir().expect("a folder");
    for file in ["config.json", "preprocessor_config.json", "tokenizer.json", "model.safetensors"] {
        fs::copy(fixture("tiny-clip").join(file), copy.path().join(file)).expect("a copy");
    }
    copy
}

pub(crate) fn utf8(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// A server of `model` with its cache in `cache`.
pub(crate) async fn start(model: &Path, cache: &Path, more: &[&str]) -> TestServer {
    let set = [format!("model.path={}", model.display()), format!("model.cache_dir={}", cache.display())];
    let set: Vec<&str> = set.iter().map(String::as_str).chain(more.iter().copied()).collect();
    TestServer::start(&set).await
}

fn golden(file: &str) -> Value {
    let text = fs::read_to_string(fixture("golden").join(file)).expect("a golden");
    serde_json::from_str(&text).expect("JSON")
}

#[track_caller]
fn assert_close(name: &str, actual: &[f32], expected: &Value, tolerance: f32) {
    let expected: Vec<f32> =
        expected.as_array().expect("a row").iter().map(|v| v.as_f64().expect("a number") as f32).collect();
    assert_eq!(actual.len(), expected.len(), "{name}");
    let norm = expected.iter().map(|v| v * v).sum::<f32>().sqrt();
    let distance = actual.iter().zip(&expected).map(|(a, b)| (a - b) * (a - b)).sum::<f32>().sqrt();
    assert!(distance <= tolerance * norm, "{name}: {} of the norm", distance / norm);
}

/// The embeddings of a few pictures and of every text, against the reference's.
async fn assert_reference(server: &TestServer, tolerance: f32) {
    assert_images(server, tolerance).await;
    assert_texts(server, tolerance).await;
}

/// The embeddings of a few pictures, against the reference's.
pub(crate) async fn assert_images(server: &TestServer, tolerance: f32) {
    let images = golden("images.json");
    for name in ["cat_420.jpg", "logo_rgba.png", "tall_333x777.jpg", "coffee_cmyk.jpg", "astronaut.png"] {
        let body = json(server.post_picture("/embed/image?normalize=false", picture(name)).await, 200).await;
        let expected = &images["images"][name]["image_embeds_raw"];
        assert_close(name, &matrix(&body["embeddings"])[0], expected, tolerance);
    }
}

/// The embeddings of every text, against the reference's.
pub(crate) async fn assert_texts(server: &TestServer, tolerance: f32) {
    let texts = golden("texts.json");
    let texts = texts["texts"].as_array().expect("texts");
    let all: Vec<&Value> = texts.iter().map(|text| &text["text"]).collect();
    let body = json(server.post_json("/embed/text", &json!({"texts": all, "normalize": false})).await, 200).await;
    for (row, text) in matrix(&body["embeddings"]).iter().zip(texts) {
        assert_close("text", row, &text["text_embeds_raw"], tolerance);
    }
}

pub(crate) async fn info(server: &TestServer) -> Value {
    json(server.get("/info").await, 200).await
}

/// The one folder in a cache.
fn only_export(cache: &Path) -> PathBuf {
    let folders: Vec<PathBuf> = fs::read_dir(cache)
        .expect("the cache")
        .map(|entry| entry.expect("readable").path())
        .filter(|path| path.is_dir())
        .collect();
    let [one] = folders.as_slice() else { panic!("{folders:?}") };
    one.clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_is_served_with_the_numbers_of_the_reference_and_the_second_start_uses_the_cache() {
    let (model, cache) = (checkpoint(), tempfile::tempdir().expect("a folder"));
    let name = model.path().file_name().expect("a name").to_str().expect("UTF-8").to_owned();
    let server = start(model.path(), cache.path(), &[]).await;
    assert_reference(&server, TOLERANCE).await;
    let first = info(&server).await;
    assert_eq!(first["model"]["name"], name, "named after the checkpoint, not the cache");
    assert_eq!((&first["model"]["dim"], &first["model"]["context_length"]), (&json!(48), &json!(77)));
    assert_eq!(first["model"]["logit_scale_source"], "checkpoint");
    server.stop().await;

    let graph = only_export(cache.path()).join("onnx/vision_model.onnx");
    let made = fs::metadata(&graph).expect("the graph");
    let server = start(model.path(), cache.path(), &[]).await;
    assert_eq!(info(&server).await["model"]["fingerprint"], first["model"]["fingerprint"]);
    server.stop().await;
    let now = fs::metadata(&graph).expect("the graph");
    assert_eq!((now.ino(), now.modified().expect("a time")), (made.ino(), made.modified().expect("a time")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_is_exported_in_the_precision_that_is_asked_for() {
    let (model, cache) = (checkpoint(), tempfile::tempdir().expect("a folder"));
    for (precision, tolerance) in [("f16", 5e-3), ("int8", 0.2)] {
        let server = start(model.path(), cache.path(), &[&format!("engine.precision={precision}")]).await;
        assert_reference(&server, tolerance).await;
        assert_eq!(info(&server).await["precision"], precision);
        server.stop().await;
    }
    assert_eq!(
        fs::read_dir(cache.path()).expect("the cache").filter(|e| e.as_ref().is_ok_and(|e| e.path().is_dir())).count(),
        2
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_export_command_writes_a_directory_that_serves_without_weights_or_cache() {
    let out = tempfile::tempdir().expect("a folder");
    let out = out.path().join("model");
    let from = fixture("tiny-clip");
    let exported = fault(command(&["export", utf8(&from), utf8(&out)]));
    assert_eq!(exported.status.code(), Some(0), "{}", String::from_utf8_lossy(&exported.stderr));
    let printed = String::from_utf8(exported.stdout).expect("UTF-8");
    assert_eq!(printed.lines().count(), 4, "{printed}");
    assert!(printed.lines().all(|line| Path::new(line).is_file()), "{printed}");
    assert!(!out.join("model.safetensors").exists());

    let server = start(&out, Path::new(""), &[]).await;
    assert_reference(&server, TOLERANCE).await;
    let info = info(&server).await;
    assert_eq!(info["model"]["logit_scale_source"], "export");
    assert!((info["model"]["logit_scale"].as_f64().expect("a number") - 100.03).abs() < 0.01, "{info}");
    server.stop().await;

    // Once more into the same place, and in a precision that it does not have.
    assert_fault("twice", command(&["export", utf8(&from), utf8(&out)]), 1, &[utf8(&out), "not empty"]);
    assert_fault("f16 of f32", serve(&out, &["--precision", "f16"]), 1, &["vision_model.onnx", "f32", "f16"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_exports_that_were_killed_have_left_is_gone_after_the_next() {
    let folder = tempfile::tempdir().expect("a folder");
    let (cache, out) = (folder.path().join("cache"), folder.path().join("out"));
    let leave = |path: PathBuf, name: &str| {
        fs::create_dir_all(path.join(format!(".{name}.clipserve-partial/onnx"))).expect("a folder");
        fs::write(path.join(format!(".{name}.clipserve-partial/onnx/vision_model.onnx_data")), "half")
            .expect("written");
        fs::write(path.join(format!(".{name}.clipserve-lock")), "").expect("written");
    };
    let names = |path: &Path| -> Vec<_> {
        fs::read_dir(path).expect("a folder").map(|entry| entry.expect("readable").file_name()).collect()
    };
    leave(folder.path().to_owned(), "out");
    let exported = fault(command(&["export", utf8(&fixture("tiny-clip")), utf8(&out)]));
    assert_eq!(exported.status.code(), Some(0), "{}", String::from_utf8_lossy(&exported.stderr));
    assert_eq!(names(folder.path()), ["out"]);

    // Of another checkpoint, which may never be served again.
    leave(cache.clone(), "0123");
    for _ in 0..2 {
        let model = checkpoint();
        start(model.path(), &cache, &[]).await.stop().await;
        let names = names(&cache);
        assert!(names.iter().all(|name| !name.to_string_lossy().starts_with('.')), "{names:?}");
        leave(cache.clone(), "4567");
    }
}

#[test]
fn a_cache_that_cannot_be_written_is_one_line() {
    let (model, home) = (checkpoint(), tempfile::tempdir().expect("a folder"));
    let file = home.path().join("file");
    fs::write(&file, "").expect("written");
    for cache in [file.as_path(), Path::new("/proc/clipserve")] {
        assert_fault(
            "cache",
            serve(model.path(), &["--cache-dir", utf8(cache)]),
            1,
            &[utf8(model.path()), utf8(cache)],
        );
    }
    let mut homeless = serve(model.path(), &[]);
    homeless.env_remove("HOME").env_remove("XDG_CACHE_HOME");
    assert_fault("no cache", homeless, 1, &["--cache-dir", "HOME"]);
}

#[test]
fn an_export_that_is_cut_short_by_a_full_disk_is_one_line_and_leaves_nothing() {
    let (model, cache) = (checkpoint(), tempfile::tempdir().expect("a folder"));
    // A limit on the size of files (in blocks of 512 or 1024 bytes) fails a write in the middle, as a full disk does.
    let mut limited = Command::new("sh");
    limited.args(["-c", "trap '' XFSZ; ulimit -f 1000; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_clipserve")]);
    limited.args(["serve", "--model", utf8(model.path()), "--cache-dir", utf8(cache.path())]);
    limited.args(["--set", "server.listen=127.0.0.1:0", "--provider", "cpu"]);
    limited.stdout(Stdio::piped()).stderr(Stdio::piped());
    assert_fault(
        "full",
        limited,
        1,
        &[utf8(cache.path()), "_model.onnx_data", "too large", "make room", "--cache-dir"],
    );
    let left: Vec<_> =
        fs::read_dir(cache.path()).expect("the cache").map(|e| e.expect("readable").file_name()).collect();
    assert!(left.is_empty(), "{left:?}");
}

/// A name, what is done to the directory, and what the error must name.
type Damage = (&'static str, fn(&Path), &'static [&'static str]);

#[test]
fn what_is_wrong_with_a_checkpoint_is_named() {
    let cache = tempfile::tempdir().expect("a folder");
    let cases: [Damage; 5] = [
        ("field", |dir| edit(dir, "config.json", "\"hidden_act\"", "\"hidden_akt\""), &["config.json", "hidden_akt"]),
        (
            "shape",
            |dir| edit(dir, "config.json", "\"projection_dim\": 48", "\"projection_dim\": 47"),
            &["tensor", "_projection.weight", "48", "47"],
        ),
        (
            "tensor",
            |dir| edit_bytes(dir, b"visual_projection.weight", b"visual_projektion.weight"),
            &["visual_projektion.weight"],
        ),
        ("tokenizer", |dir| fs::remove_file(dir.join("tokenizer.json")).expect("removed"), &["tokenizer.json"]),
        ("weights", |dir| fs::remove_file(dir.join("model.safetensors")).expect("removed"), &["model.safetensors"]),
    ];
    for (name, damage, expected) in cases {
        let model = checkpoint();
        damage(model.path());
        let expected: Vec<&str> = expected.iter().copied().chain([utf8(model.path())]).collect();
        assert_fault(name, serve(model.path(), &["--cache-dir", utf8(cache.path())]), 1, &expected);
    }
}

fn edit(dir: &Path, file: &str, from: &str, to: &str) {
    edit_file(&dir.join(file), from.as_bytes(), to.as_bytes());
}

fn edit_bytes(dir: &Path, from: &[u8], to: &[u8]) {
    edit_file(&dir.join("model.safetensors"), from, to);
}

fn edit_file(path: &Path, from: &[u8], to: &[u8]) {
    let bytes = fs::read(path).expect("readable");
    let at = bytes.windows(from.len()).position(|window| window == from).expect("what is replaced is there");
    fs::write(path, [&bytes[..at], to, &bytes[at + from.len()..]].concat()).expect("written");
}

/// The tokenizer of `model` with one more token, whose id is the first that the model has no row for.
fn add_a_token(model: &Path) {
    let path = model.join("tokenizer.json");
    let mut tokenizer: Value = serde_json::from_str(&fs::read_to_string(&path).expect("the fixture")).expect("JSON");
    let more = json!({"id": 49408, "content": "<more>", "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": false, "special": true});
    tokenizer["added_tokens"].as_array_mut().expect("tokens").push(more);
    fs::write(path, tokenizer.to_string()).expect("written");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_with_a_token_that_the_model_has_not_is_refused_and_no_other() {
    let (model, cache) = (checkpoint(), tempfile::tempdir().expect("a folder"));
    add_a_token(model.path());
    let server = start(model.path(), cache.path(), &[]).await;
    let texts = json!({"texts": ["a cat", "a <more> cat"]});
    let answer = json(server.post_json("/embed/text", &texts).await, 422).await;
    assert_eq!((&answer["error"]["code"], &answer["error"]["index"]), (&json!("invalid_text"), &json!(1)), "{answer}");
    let message = answer["error"]["message"].as_str().expect("a message");
    assert!(message.contains("<more>") && message.contains("49408"), "{message}");
    // Where it is cut off, the model does not get it.
    let long = json!({"texts": format!("{} <more>", "cat ".repeat(80)), "truncate": true});
    json(server.post_json("/embed/text", &long).await, 200).await;
    assert_texts(&server, TOLERANCE).await;
    server.stop().await;
}

/// The JSON file of `model`, changed.
fn change(model: &Path, file: &str, change: impl FnOnce(&mut Value)) {
    let path = model.join(file);
    let mut value = serde_json::from_slice(&fs::read(&path).expect("there")).expect("JSON");
    change(&mut value);
    fs::write(path, value.to_string()).expect("written");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_that_transformers_5_saved_is_served_with_the_numbers_of_the_reference() {
    let (model, cache) = (checkpoint(), tempfile::tempdir().expect("a folder"));
    fs::remove_file(model.path().join("preprocessor_config.json")).expect("there");
    fs::copy(fixture("processor_config.json"), model.path().join("processor_config.json")).expect("a copy");
    let config = json!({"backend": "tokenizers", "is_local": true, "pad_token": "<|endoftext|>"});
    fs::write(model.path().join("tokenizer_config.json"), config.to_string()).expect("written");
    // As version 5.24 has it: the special tokens are words too, and words are cut once more.
    change(model.path(), "tokenizer.json", |tokenizer| {
        let [words, bytes] = tokenizer["pre_tokenizer"]["pretokenizers"].as_array_mut().expect("two").as_mut_slice()
        else {
            panic!("not two")
        };
        let pattern = words["pattern"]["Regex"].as_str().expect("a pattern");
        words["pattern"]["Regex"] = json!(format!(r"<\|startoftext\|>|<\|endoftext\|>|{pattern}"));
        bytes["use_regex"] = json!(true);
        bytes["trim_offsets"] = json!(true);
    });
    let server = start(model.path(), cache.path(), &[]).await;
    assert_reference(&server, TOLERANCE).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_with_a_vocabulary_and_merges_alone_is_served_with_the_numbers_of_the_reference() {
    let (model, cache) = (checkpoint(), tempfile::tempdir().expect("a folder"));
    fs::remove_file(model.path().join("tokenizer.json")).expect("there");
    for file in ["vocab.json", "merges.txt"] {
        fs::copy(fixture("tiny-clip").join(file), model.path().join(file)).expect("a copy");
    }
    let server = start(model.path(), cache.path(), &[]).await;
    assert_reference(&server, TOLERANCE).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_image_processors_that_differ_the_nested_one_counts_in_crops_and_graphs() {
    let cache = tempfile::tempdir().expect("a folder");
    let (alone, both) = (checkpoint(), checkpoint());
    let other = |config: &mut Value| {
        config["image_mean"] = json!(0.25);
        config["resample"] = json!(0);
    };
    change(alone.path(), "preprocessor_config.json", other);
    fs::copy(fixture("processor_config.json"), both.path().join("processor_config.json")).expect("a copy");
    change(both.path(), "processor_config.json", |config| other(&mut config["image_processor"]));
    let mut embeddings = Vec::new();
    for model in [&checkpoint(), &alone, &both] {
        let server = start(model.path(), cache.path(), &[]).await;
        let body = json(server.post_picture("/embed/image", picture("rocket.jpg")).await, 200).await;
        embeddings.push(body["embeddings"].clone());
        server.stop().await;
    }
    assert_ne!(embeddings[0], embeddings[1]);
    assert_eq!(embeddings[1], embeddings[2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_without_logit_scale_has_that_of_a_new_model() {
    let (model, cache) = (checkpoint(), tempfile::tempdir().expect("a folder"));
    let path = model.path().join("model.safetensors");
    let bytes = fs::read(&path).expect("there");
    let tensors = safetensors::SafeTensors::deserialize(&bytes).expect("tensors");
    let rest = tensors.tensors().into_iter().filter(|(name, _)| name != "logit_scale");
    fs::write(&path, safetensors::serialize(rest, None).expect("a file")).expect("written");
    for (init_value, expected) in [(json!(1.5), 1.5f32.exp()), (Value::Null, 2.6592f32.exp())] {
        change(model.path(), "config.json", |config| {
            config.as_object_mut().expect("an object").remove("logit_scale_init_value");
            if !init_value.is_null() {
                config["logit_scale_init_value"] = init_value;
            }
        });
        let server = start(model.path(), cache.path(), &[]).await;
        let scale = info(&server).await["model"]["logit_scale"].as_f64().expect("a number") as f32;
        assert!((scale - expected).abs() < 1e-4, "{scale}, not {expected}");
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn added_tokens_are_part_of_the_models_name_where_they_change_a_text() {
    let cache = tempfile::tempdir().expect("a folder");
    let mut names = Vec::new();
    for added in ["{}", r#"{"<|startoftext|>": 49406, "<|endoftext|>": 49407}"#, r#"{"<sks>": 49408}"#] {
        let model = checkpoint();
        fs::write(model.path().join("added_tokens.json"), added).expect("written");
        let server = start(model.path(), cache.path(), &[]).await;
        assert_texts(&server, TOLERANCE).await;
        names.push(info(&server).await["model"]["fingerprint"].clone());
        server.stop().await;
    }
    assert_eq!(names[0], names[1]);
    assert_ne!(names[0], names[2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tokenizer_whose_padding_the_model_has_not_is_refused_at_the_start() {
    let (model, cache) = (checkpoint(), tempfile::tempdir().expect("a folder"));
    add_a_token(model.path());
    fs::write(model.path().join("tokenizer_config.json"), r#"{"pad_token": "<more>"}"#).expect("written");
    let set = [format!("model.path={}", model.path().display()), format!("model.cache_dir={}", cache.path().display())];
    let message = crate::layouts::refusal(&set).await;
    assert!(message.contains("tokenizer.json") && message.contains("49408"), "{message}");
}

/// The reference checkpoint as open_clip would save it, with its own configuration and without any file of `transformers`.
fn of_open_clip() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let bytes = fs::read(fixture("tiny-clip").join("model.safetensors")).expect("weights");
    let tensors = safetensors::SafeTensors::deserialize(&bytes).expect("tensors");
    let mut renamed: Vec<(String, Vec<usize>, Vec<u8>)> = Vec::new();
    for (name, tensor) in tensors.tensors() {
        let (shape, data) = (tensor.shape().to_vec(), tensor.data().to_vec());
        let plain = name
            .replace("vision_model.", "visual.")
            .replace("text_model.", "")
            .replace("encoder.layers.", "transformer.resblocks.")
            .replace("embeddings.", "")
            .replace("layer_norm", "ln_")
            .replace("mlp.fc1", "mlp.c_fc")
            .replace("mlp.fc2", "mlp.c_proj")
            .replace("self_attn.", "attn.")
            .replace("pre_layrnorm", "ln_pre")
            .replace("post_layernorm", "ln_post")
            .replace("patch_embedding", "conv1")
            .replace("position_embedding.weight", "positional_embedding")
            .replace("final_ln_", "ln_final");
        match plain.as_str() {
            "visual_projection.weight" | "text_projection.weight" => {
                let (rows, columns) = (shape[0], shape[1]);
                let turned = (0..columns).flat_map(|c| (0..rows).map(move |r| r * columns + c));
                let turned = turned.flat_map(|at| [data[2 * at], data[2 * at + 1]]).collect();
                let name = if plain.starts_with('v') { "visual.proj" } else { "text_projection" };
                renamed.push((name.to_owned(), vec![columns, rows], turned));
            }
            _ if plain.contains("k_proj") || plain.contains("v_proj") => {}
            _ if plain.contains("q_proj") => {
                let parts = ["q_proj", "k_proj", "v_proj"].map(|part| name.replace("q_proj", part));
                let whole =
                    parts.iter().flat_map(|name| tensors.tensor(name).expect("a third").data().to_vec()).collect();
                let shape = [&[shape[0] * 3], &shape[1..]].concat();
                renamed.push((plain.replace("q_proj.", "in_proj_"), shape, whole));
            }
            _ => renamed.push((plain, shape, data)),
        }
    }
    let views = renamed.iter().map(|(name, shape, data)| {
        let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F16, shape.clone(), data);
        (name.clone(), view.expect("a tensor"))
    });
    let weights = safetensors::serialize(views, None).expect("a file");
    fs::write(folder.path().join("open_clip_model.safetensors"), weights).expect("written");
    let config = json!({
        "model_cfg": {
            "embed_dim": 48,
            "quick_gelu": true,
            "vision_cfg": {"image_size": 224, "layers": 3, "width": 64, "head_width": 16, "mlp_ratio": 2.5, "patch_size": 32},
            "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 4, "layers": 3},
        },
        "preprocess_cfg": {"interpolation": "bicubic", "resize_mode": "shortest"},
    });
    fs::write(folder.path().join("open_clip_config.json"), config.to_string()).expect("written");
    folder
}

/// With the same weights as the reference, open_clip gives its numbers wherever the two prepare an input alike.
#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_of_open_clip_is_served_by_open_clip_s_rules_from_its_folder_and_from_its_export() {
    let (model, cache) = (of_open_clip(), tempfile::tempdir().expect("a folder"));
    let export = cache.path().join("export");
    clipserve::export::export_checkpoint(model.path(), &export, clipserve::config::Precision::F32).expect("exported");
    let mut fingerprints = Vec::new();
    for place in [model.path(), &export] {
        let server = start(place, cache.path(), &[]).await;
        let about = info(&server).await;
        let rules = json!({"vision": "open_clip", "text": "open_clip"});
        assert_eq!((&about["model"]["preprocessing"], &about["model"]["dim"]), (&rules, &json!(48)), "{about}");
        let texts = golden("texts.json");
        let text = &texts["texts"][0];
        let body = json!({"texts": [text["text"]], "normalize": false});
        let body = json(server.post_json("/embed/text", &body).await, 200).await;
        assert_close("text", &matrix(&body["embeddings"])[0], &text["text_embeds_raw"], TOLERANCE);
        let images = golden("images.json");
        let body = json(server.post_picture("/embed/image?normalize=false", picture("cat_420.jpg")).await, 200).await;
        let expected = &images["images"]["cat_420.jpg"]["image_embeds_raw"];
        assert_close("cat_420.jpg", &matrix(&body["embeddings"])[0], expected, TOLERANCE);
        fingerprints.push(about["model"]["fingerprint"].clone());
        server.stop().await;
    }
    assert_eq!(fingerprints[0], fingerprints[1]);
}
