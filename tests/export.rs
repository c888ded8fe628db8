//! Exported graphs in the real ONNX Runtime, against what `transformers` computed: the reference checkpoint, and made-up ones
//! (`onnx/verify.py fixtures`) that between them differ in every field of the configuration that changes the arithmetic.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails loudly, in its helpers too")]

#[path = "export/frameworks.rs"]
mod frameworks;

use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, File},
    path::{Path, PathBuf},
    sync::OnceLock,
};

use clipserve::{
    config::Precision,
    encoder::Output,
    export::{
        Checkpoint, ExportedModel, export_cached, export_checkpoint, exporter_version, metadata, write_synthetic_model,
    },
    model::{Digests, clip_config::ClipConfig},
};
use ndarray::{Array2, Array3, Array4, ArrayD, Axis, IxDyn, stack};
use ndarray_npy::{NpzReader, ReadableElement};
use ort::{
    environment::Environment,
    session::{Session, SessionInputValue, builder::GraphOptimizationLevel},
    value::{PrimitiveTensorElementType, Tensor, TensorElementType, ValueType},
};
use serde::Deserialize;
use sha2::Digest;

/// Distance to `transformers`, relative to its norm, that an f32 graph may have.
const F32_BAR: f64 = 1e-5;

fn environment() -> &'static Environment {
    static ENVIRONMENT: OnceLock<Environment> = OnceLock::new();
    ENVIRONMENT.get_or_init(|| {
        let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join(".onnxruntime/libonnxruntime.so.1.32.0");
        let library = std::env::var_os("ORT_DYLIB_PATH").map_or(beside, PathBuf::from);
        ort::init_from(library).unwrap().with_telemetry(false).build().unwrap()
    })
}

/// As the engine makes one.
fn session(path: &Path) -> Session {
    session_of(path, !clipserve::engine::sums_bytes_exactly())
}

/// A session whose weights of signed bytes are rewritten as unsigned ones, or not.
fn session_of(path: &Path, rewrites: bool) -> Session {
    let build = || -> ort::Result<Session> {
        let builder = Session::builder(environment())?
            .with_optimization_level(GraphOptimizationLevel::All)?
            .with_intra_threads(1)?;
        let mut builder = if rewrites { builder.with_precise_qmm()? } else { builder };
        builder.commit_from_file(path)
    };
    build().unwrap()
}

fn run<const N: usize>(
    session: &mut Session,
    inputs: [(&'static str, SessionInputValue); N],
    output: &str,
) -> ArrayD<f32> {
    let outputs = session.run(inputs.into_iter().collect::<Vec<_>>()).unwrap();
    outputs.get(output).unwrap().try_extract_array::<f32>().unwrap().into_owned()
}

fn embed_images(session: &mut Session, pixels: &ArrayD<u8>) -> ArrayD<f32> {
    run(session, [("pixel_values", input(pixels.clone()))], "image_embeds")
}

fn embed_texts(session: &mut Session, ids: &ArrayD<i64>) -> ArrayD<f32> {
    run(session, [("input_ids", input(ids.clone()))], "text_embeds")
}

/// A graph input. Any call into the runtime wants the library loaded first.
fn input<T: PrimitiveTensorElementType + std::fmt::Debug + Clone + 'static>(
    array: ArrayD<T>,
) -> SessionInputValue<'static> {
    environment();
    Tensor::from_array(array).unwrap().into()
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// Exports a fixture in f32 into a folder that lives as long as the first of the two.
fn export(name: &str, precision: Precision) -> (tempfile::TempDir, ExportedModel) {
    let dir = tempfile::tempdir().unwrap();
    let model = export_checkpoint(&fixture(name), &dir.path().join("model"), precision).unwrap();
    (dir, model)
}

/// `|actual - expected| / |expected|`.
fn distance(actual: &ArrayD<f32>, expected: &ArrayD<f32>) -> f64 {
    assert_eq!(actual.shape(), expected.shape());
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let difference = norm(&mut actual.iter().zip(expected).map(|(a, e)| f64::from(a - e)));
    difference / norm(&mut expected.iter().map(|&e| f64::from(e)))
}

/// The largest [`distance`] of any row.
fn worst_row(actual: &ArrayD<f32>, expected: &ArrayD<f32>) -> f64 {
    let rows = actual.outer_iter().zip(expected.outer_iter());
    rows.map(|(a, e)| distance(&a.to_owned(), &e.to_owned())).fold(0.0, f64::max)
}

struct Golden(NpzReader<File>);

impl Golden {
    fn open(path: &Path) -> Self {
        Self(NpzReader::new(File::open(path).unwrap()).unwrap())
    }

    fn get<T: ReadableElement>(&mut self, name: &str) -> ArrayD<T> {
        self.0.by_name(name).unwrap()
    }

    fn has(&mut self, name: &str) -> bool {
        self.0.names().unwrap().iter().any(|n| n == name)
    }
}

#[derive(Deserialize)]
struct Images {
    images: HashMap<String, Image>,
}

#[derive(Deserialize)]
struct Image {
    image_embeds_raw: Option<Vec<f32>>,
}

#[derive(Deserialize)]
struct Texts {
    texts: Vec<Text>,
}

#[derive(Deserialize)]
struct Text {
    input_ids: Vec<i64>,
    text_embeds_raw: Vec<f32>,
}

fn reference<T: serde::de::DeserializeOwned>(name: &str) -> T {
    serde_json::from_slice(&fs::read(fixture("golden").join(name)).unwrap()).unwrap()
}

/// Crops and embeddings of the reference pictures.
fn reference_images() -> (ArrayD<u8>, ArrayD<f32>) {
    let images: Images = reference("images.json");
    let mut crops = Golden::open(&fixture("golden/crops.npz"));
    let (names, embeds): (Vec<_>, Vec<_>) =
        images.images.into_iter().filter_map(|(name, image)| Some((name, image.image_embeds_raw?))).unzip();
    assert!(names.len() > 30);
    let pixels: Vec<ArrayD<u8>> = names.iter().map(|name| crops.get(name)).collect();
    let views: Vec<_> = pixels.iter().map(|p| p.view()).collect();
    (stack(Axis(0), &views).unwrap(), rows(embeds))
}

/// Ids, padded with the end token, and embeddings of the reference texts.
fn reference_texts() -> (Vec<Vec<i64>>, ArrayD<i64>, ArrayD<f32>) {
    let texts: Texts = reference("texts.json");
    let (ids, embeds): (Vec<_>, Vec<_>) = texts.texts.into_iter().map(|t| (t.input_ids, t.text_embeds_raw)).unzip();
    let longest = ids.iter().map(Vec::len).max().unwrap();
    let padded = Array2::from_shape_fn((ids.len(), longest), |(n, i)| ids[n].get(i).copied().unwrap_or(49407));
    (ids, padded.into_dyn(), rows(embeds))
}

fn rows(rows: Vec<Vec<f32>>) -> ArrayD<f32> {
    let shape = IxDyn(&[rows.len(), rows[0].len()]);
    ArrayD::from_shape_vec(shape, rows.concat()).unwrap()
}

#[test]
fn image_embeddings_of_the_reference_checkpoint_equal_transformers() {
    let (_dir, model) = export("tiny-clip", Precision::F32);
    let mut vision = session(&model.vision.unwrap());
    let ValueType::Tensor { ty, shape, .. } = vision.inputs()[0].dtype() else { panic!("not a tensor") };
    assert_eq!((*ty, &shape[..]), (TensorElementType::Uint8, &[-1, 224, 224, 3][..]));
    let (pixels, expected) = reference_images();
    let worst = worst_row(&embed_images(&mut vision, &pixels), &expected);
    assert!(worst < F32_BAR, "{worst:e}");
}

#[test]
fn text_embeddings_of_the_reference_checkpoint_equal_transformers_alone_and_padded() {
    let (_dir, model) = export("tiny-clip", Precision::F32);
    let mut text = session(&model.text.unwrap());
    let (ids, padded, expected) = reference_texts();
    let worst = worst_row(&embed_texts(&mut text, &padded), &expected);
    assert!(worst < F32_BAR, "padded: {worst:e}");
    for (ids, expected) in ids.iter().zip(expected.outer_iter()) {
        let alone = ArrayD::from_shape_vec(IxDyn(&[1, ids.len()]), ids.clone()).unwrap();
        let worst = worst_row(&embed_texts(&mut text, &alone), &expected.insert_axis(Axis(0)).to_owned());
        assert!(worst < F32_BAR, "{ids:?}: {worst:e}");
    }
}

/// Every output of one tower against the arrays `{prefix}.*` of `golden`.
fn check_outputs(path: &Path, inputs: &[(&'static str, SessionInputValue)], prefix: &str, golden: &mut Golden) {
    let mut session = session(path);
    let run = session.run(inputs.iter().map(|(n, v)| (*n, v.view())).collect::<Vec<_>>()).unwrap();
    let get = |name: &str| run.get(name).unwrap().try_extract_array::<f32>().unwrap().into_owned();
    let check = |name: &str, actual: &ArrayD<f32>, expected: &ArrayD<f32>| {
        let distance = distance(actual, expected);
        assert!(distance < F32_BAR, "{prefix} {name}: {distance:e}");
    };
    for output in Output::ALL {
        let name = output.name();
        // `FlaxCLIPTextModelWithProjection` gives none.
        if output == Output::PoolerOutput && !golden.has(&format!("{prefix}.{name}")) {
            assert!(golden.has("text_embeds"));
            continue;
        }
        let expected: ArrayD<f32> = golden.get(&format!("{prefix}.{name}"));
        if !output.is_per_block() {
            check(name, &get(name), &expected);
            continue;
        }
        for (index, expected) in expected.outer_iter().enumerate() {
            let name = output.of_block(index);
            check(&name, &get(&name), &expected.to_owned());
        }
        assert!(run.get(output.of_block(expected.len_of(Axis(0)))).is_none(), "one of {name} too many");
    }
    let embeds = if prefix == "image" { "image_embeds" } else { "text_embeds" };
    if golden.has(embeds) {
        check(embeds, &get(embeds), &golden.get(embeds));
    }
}

#[test]
fn the_other_outputs_of_the_reference_checkpoint_equal_transformers() {
    let (_dir, model) = export("tiny-clip", Precision::F32);
    let mut golden = Golden::open(&fixture("golden/outputs.npz"));
    let mut crops = Golden::open(&fixture("golden/crops.npz"));
    let pixels: Vec<Array3<u8>> = ["cat_420.jpg", "cat_422.jpg"].map(|n| crops.0.by_name(n).unwrap()).into();
    let pixels: Array4<u8> = stack(Axis(0), &[pixels[0].view(), pixels[1].view()]).unwrap();
    let pixels = [("pixel_values", input(pixels.into_dyn()))];
    check_outputs(&model.vision_outputs.unwrap(), &pixels, "image", &mut golden);
    check_outputs(&model.text_outputs.unwrap(), &text_inputs(&mut golden), "text", &mut golden);
}

fn text_inputs(golden: &mut Golden) -> [(&'static str, SessionInputValue<'static>); 2] {
    ["input_ids", "attention_mask"].map(|name| (name, input(golden.get::<i64>(name))))
}

/// Embeddings and all outputs of a made-up checkpoint; which graphs there are follows from what `transformers` computed.
fn check_fixture(name: &str) {
    let folder = format!("export/{name}");
    let (_dir, model) = export(&folder, Precision::F32);
    let mut golden = Golden::open(&fixture(&folder).join("golden.npz"));
    assert_eq!(model.vision.is_some(), golden.has("image_embeds"));
    assert_eq!(model.text.is_some(), golden.has("text_embeds"));
    assert_eq!(model.vision_outputs.is_some(), golden.has("pixel_values"));
    assert_eq!(model.text_outputs.is_some(), golden.has("input_ids"));
    if let Some(path) = &model.vision {
        let worst =
            worst_row(&embed_images(&mut session(path), &golden.get("pixel_values")), &golden.get("image_embeds"));
        assert!(worst < F32_BAR, "{name} image: {worst:e}");
    }
    if let Some(path) = &model.text {
        let worst = worst_row(&embed_texts(&mut session(path), &golden.get("input_ids")), &golden.get("text_embeds"));
        assert!(worst < F32_BAR, "{name} text: {worst:e}");
    }
    if let Some(path) = &model.vision_outputs {
        let inputs = [("pixel_values", input(golden.get::<u8>("pixel_values")))];
        check_outputs(path, &inputs, "image", &mut golden);
    }
    if let Some(path) = &model.text_outputs {
        check_outputs(path, &text_inputs(&mut golden), "text", &mut golden);
    }
    if golden.has("logit_scale") {
        let expected: ArrayD<f32> = golden.get("logit_scale");
        let session = session(&model.text.unwrap());
        let actual: f32 = session.metadata().unwrap().custom(metadata::LOGIT_SCALE).unwrap().parse().unwrap();
        assert!((actual / expected[[0]] - 1.0).abs() < 1e-6, "{actual} {expected}");
    }
}

/// Embeddings and logits of the checkpoint at `source`, whose numbers its own library computed.
fn check_embeddings(source: &str) {
    let (source, dir) = (fixture("export").join(source), tempfile::tempdir().unwrap());
    let folder = if source.is_dir() { source.as_path() } else { source.parent().unwrap() };
    let mut golden = Golden::open(&folder.join("golden.npz"));
    let model = export_checkpoint(&source, &dir.path().join("model"), Precision::F32).unwrap();
    let (pixels, ids) = (golden.get("pixel_values"), golden.get::<i64>("input_ids"));
    let images = embed_images(&mut session(&model.vision.unwrap()), &pixels);
    let worst = worst_row(&images, &golden.get("image_embeds"));
    assert!(worst < F32_BAR, "image: {worst:e}");
    let mut text = session(&model.text.unwrap());
    let texts = embed_texts(&mut text, &ids);
    let worst = worst_row(&texts, &golden.get("text_embeds"));
    assert!(worst < F32_BAR, "text: {worst:e}");
    let mask = ArrayD::<i64>::ones(ids.raw_dim());
    let inputs = [("input_ids", input(ids)), ("attention_mask", input(mask))];
    let same = run(&mut session(&model.text_outputs.unwrap()), inputs, "text_embeds");
    let worst = worst_row(&same, &texts);
    assert!(worst < F32_BAR, "text outputs: {worst:e}");

    let unit = |rows: ArrayD<f32>| {
        let rows = rows.into_dimensionality::<ndarray::Ix2>().unwrap();
        let norms = rows.map_axis(Axis(1), |row| row.dot(&row).sqrt()).insert_axis(Axis(1));
        rows / norms
    };
    let scale: f32 = text.metadata().unwrap().custom(metadata::LOGIT_SCALE).unwrap().parse().unwrap();
    let logits = unit(images).dot(&unit(texts).t()) * scale;
    let worst = distance(&logits.into_dyn(), &golden.get("logits_per_image"));
    assert!(worst < F32_BAR, "logits: {worst:e}");
    let config = fs::read_to_string(model.dir.join("config.json")).unwrap();
    ClipConfig::from_json(&config).unwrap();
}

#[test]
fn open_clip_with_gelu_tanh_gelu_narrow_heads_odd_mlps_and_another_epsilon() {
    check_embeddings("open-clip");
}

#[test]
fn open_clip_with_a_text_tower_of_its_own_quick_gelu_layer_scale_an_end_token_pickled_in_f16() {
    check_embeddings("open-clip-custom-quick-gelu");
}

#[test]
fn openai_s_archive_by_its_shapes_alone_as_a_file_and_in_a_folder() {
    check_embeddings("openai");
    check_embeddings("openai/ViT-tiny.pt");
}

#[test]
fn of_two_libraries_files_in_one_folder_those_of_transformers_count() {
    let source = copy_of("text-with-projection");
    for file in ["open_clip_config.json", "open_clip_model.safetensors"] {
        fs::copy(fixture("export/open-clip").join(file), source.path().join(file)).unwrap();
    }
    fs::copy(fixture("export/openai/ViT-tiny.pt"), source.path().join("ViT-tiny.pt")).unwrap();
    fs::write(source.path().join("preprocessor_config.json"), "{}").unwrap();
    let out = tempfile::tempdir().unwrap();
    let towers = |name: &str| {
        let model = export_checkpoint(source.path(), &out.path().join(name), Precision::F32).unwrap();
        (model.vision.is_some(), fs::read_to_string(model.dir.join("config.json")).unwrap())
    };
    let (has_vision, config) = towers("transformers");
    assert!(!has_vision && config.contains("CLIPTextModelWithProjection"));
    fs::remove_file(source.path().join("model.safetensors")).unwrap();
    let (has_vision, config) = towers("open-clip");
    assert!(has_vision && config.contains("\"intermediate_size\": 43"), "{config}");
}

#[test]
fn what_of_open_clip_and_openai_is_not_served_is_named() {
    let out = tempfile::tempdir().unwrap();
    let refusal = |source: &Path| {
        let error = export_checkpoint(source, &out.path().join("model"), Precision::F32).unwrap_err().to_string();
        assert_eq!(fs::read_dir(out.path()).unwrap().count(), 0, "{error}");
        error
    };
    let source = copy_of("open-clip");
    let config = fs::read_to_string(source.path().join("open_clip_config.json")).unwrap();
    let with = |from: &str, to: &str| {
        assert!(config.contains(from), "{config}");
        fs::write(source.path().join("open_clip_config.json"), config.replace(from, to)).unwrap();
        refusal(source.path())
    };
    let error = with("\"layers\": 2", "\"layers\": 2, \"no_ln_pre\": true");
    assert!(error.contains("open_clip_config.json: field `model_cfg.vision_cfg.no_ln_pre` is true"), "{error}");
    let error = with("\"layers\": 2", "\"layers\": 3");
    assert!(error.contains("`vision_model.encoder.layers.2."), "{error}");
    let error = with("0.6", "0");
    assert!(error.contains("`std` is"), "{error}");
    fs::remove_file(source.path().join("open_clip_config.json")).unwrap();
    assert!(refusal(source.path()).contains("open_clip_config.json"));

    // Two such files: which of them is meant, nobody knows.
    let source = tempfile::tempdir().unwrap();
    for name in ["a.pt", "b.pt"] {
        fs::copy(fixture("export/openai/ViT-tiny.pt"), source.path().join(name)).unwrap();
    }
    assert!(refusal(source.path()).contains("one file that ends in .pt"));
}

#[test]
fn erf_gelu_relu_old_end_token_and_a_picture_of_broken_patches() {
    check_fixture("gelu-relu-old-eos");
}

#[test]
fn selu_tanh_gelu_one_channel_and_bf16_shards() {
    check_fixture("selu-gelu-new-shards");
}

#[test]
fn one_block_one_head_four_channels_and_f16() {
    check_fixture("one-block-four-channels");
}

#[test]
fn a_text_tower_with_projection_alone() {
    check_fixture("text-with-projection");
}

#[test]
fn a_vision_tower_with_projection_in_a_nested_config() {
    check_fixture("vision-with-projection-nested");
}

#[test]
fn a_bare_text_tower_has_its_outputs_and_no_embedding() {
    check_fixture("text-bare");
}

#[test]
fn a_prefixed_vision_tower_has_its_outputs_and_no_embedding() {
    check_fixture("vision-prefixed");
}

#[test]
fn metaclip_2_pools_at_its_end_token_though_its_id_is_2() {
    check_fixture("metaclip-2");
}

#[test]
fn graphs_say_in_their_metadata_what_they_are() {
    let (_dir, model) = export("export/gelu-relu-old-eos", Precision::Int8);
    let weights = fs::read(fixture("export/gelu-relu-old-eos/model.safetensors")).unwrap();
    let sha256: String = sha2::Sha256::digest(weights).iter().map(|b| format!("{b:02x}")).collect();
    let common = [
        (metadata::EXPORTER, exporter_version(Precision::Int8).to_string()),
        (metadata::PRECISION, "int8".to_owned()),
        (metadata::SOURCE_SHA256, sha256),
        (metadata::PROJECTION_DIM, "20".to_owned()),
    ];
    let vision = [
        (metadata::IMAGE_SIZE, "30".to_owned()),
        (metadata::RESCALE_FACTOR, "0.0078125".to_owned()),
        (metadata::IMAGE_MEAN, "[0.9, 1.0, 1.1]".to_owned()),
        (metadata::IMAGE_STD, "[0.5, 0.6, 0.7]".to_owned()),
    ];
    let text = |packed: bool| {
        [
            (metadata::CONTEXT_LENGTH, "13".to_owned()),
            (metadata::VOCAB_SIZE, "120".to_owned()),
            (metadata::PACKED, packed.to_string()),
        ]
    };
    let (text, text_outputs) = (text(true), text(false));
    let graphs = [
        (model.vision, &vision[..]),
        (model.vision_outputs, &vision),
        (model.text, &text),
        (model.text_outputs, &text_outputs),
    ];
    for (path, own) in graphs {
        let session = session(&path.unwrap());
        let actual = session.metadata().unwrap();
        for (key, value) in common.iter().chain(own) {
            assert_eq!(actual.custom(key).as_ref(), Some(value), "{key}");
        }
    }
}

#[test]
fn every_precision_has_the_other_outputs() {
    for precision in [Precision::F16, Precision::Int8] {
        let (_dir, model) = export("tiny-clip", precision);
        let mut golden = Golden::open(&fixture("golden/outputs.npz"));
        let mut text = session(&model.text_outputs.unwrap());
        let states = run(&mut text, text_inputs(&mut golden), Output::LastHiddenState.name());
        let distance = distance(&states, &golden.get("text.last_hidden_state"));
        assert!(distance > F32_BAR && distance < 0.1, "{precision:?}: {distance:e}");
        session(&model.vision_outputs.unwrap());
    }
}

#[test]
fn f16_stays_within_its_rounding_of_the_reference() {
    let (_dir, model) = export("tiny-clip", Precision::F16);
    let ((pixels, images), (_, ids, texts)) = (reference_images(), reference_texts());
    let worst = worst_row(&embed_images(&mut session(&model.vision.unwrap()), &pixels), &images);
    assert!(worst < 5e-3, "image: {worst:e}");
    let worst = worst_row(&embed_texts(&mut session(&model.text.unwrap()), &ids), &texts);
    assert!(worst < 5e-3, "text: {worst:e}");
}

#[test]
fn int8_is_close_to_the_reference_and_a_row_does_not_depend_on_its_neighbours() {
    let (_dir, model) = export("tiny-clip", Precision::Int8);
    let ((pixels, images), (_, ids, texts)) = (reference_images(), reference_texts());
    let mut vision = session(&model.vision.unwrap());
    let together = embed_images(&mut vision, &pixels);
    let worst = worst_row(&together, &images);
    assert!(worst < 0.1, "image: {worst:e}");
    for (row, picture) in together.outer_iter().zip(pixels.outer_iter()) {
        let alone = embed_images(&mut vision, &picture.insert_axis(Axis(0)).to_owned());
        assert_eq!(alone.index_axis(Axis(0), 0), row);
    }
    let worst = worst_row(&embed_texts(&mut session(&model.text.unwrap()), &ids), &texts);
    assert!(worst < 0.1, "text: {worst:e}");
}

/// Alone, a text has another width, its attention another length, and its rows another place than beside longer ones.
#[test]
fn a_text_of_any_length_has_the_same_bits_alone_and_beside_others() {
    let tower = r#""hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 3, "num_attention_heads": 2"#;
    let text = format!(r#"{{{tower}, "vocab_size": 1000, "max_position_embeddings": 77, "eos_token_id": 999}}"#);
    let config = format!(r#"{{"projection_dim": 64, "text_config": {text}}}"#);
    let config = ClipConfig::from_json(&config).unwrap();
    for precision in [Precision::F32, Precision::Int8] {
        let dir = tempfile::tempdir().unwrap();
        let model = write_synthetic_model(&config, precision, 7, &fixture("tiny-clip"), &dir.path().join("m")).unwrap();
        let mut session = session(&model.text.unwrap());
        let texts = |lengths: &[usize], width: usize| {
            let ids = Array2::from_shape_fn((lengths.len(), width), |(row, i)| {
                let length = lengths[row];
                if i + 1 < length { ((i * 7 + length * 31) % 900) as i64 } else { 999 }
            });
            ids.into_dyn()
        };
        let lengths: Vec<usize> = (2..=77).collect();
        let all = embed_texts(&mut session, &texts(&lengths, 77));
        for (&length, row) in lengths.iter().zip(all.outer_iter()) {
            let alone = embed_texts(&mut session, &texts(&[length], length));
            assert_eq!(alone.index_axis(Axis(0), 0), row, "{precision:?}, {length} ids alone and beside 75 texts");
            let pair = [length, 2 + length * 5 % 76];
            let pair = embed_texts(&mut session, &texts(&pair, pair[0].max(pair[1])));
            assert_eq!(pair.index_axis(Axis(0), 0), row, "{precision:?}, {length} ids beside one text");
        }
    }
}

#[test]
fn int8_has_the_bits_of_exact_products_as_the_engine_computes_it() {
    let tower = r#""hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 3, "num_attention_heads": 4"#;
    let vision = format!(r#"{{{tower}, "image_size": 64, "patch_size": 16}}"#);
    let config = ClipConfig::from_json(&format!(r#"{{"projection_dim": 64, "vision_config": {vision}}}"#)).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("m");
    let model = write_synthetic_model(&config, Precision::Int8, 7, &fixture("tiny-clip"), &out).unwrap();
    let graph = model.vision.unwrap();
    // The brightest pixels make the largest sums; one picture and many are multiplied by different kernels.
    for count in [1, 9] {
        let pixels = Array4::from_shape_fn((count, 64, 64, 3), |(n, y, x, c)| 255 - (n * 7 + y * x + c) as u8 % 97);
        let exact = embed_images(&mut session_of(&graph, true), &pixels.clone().into_dyn());
        assert_eq!(embed_images(&mut session(&graph), &pixels.into_dyn()), exact, "{count}");
    }
}

#[test]
fn embeddings_of_a_synthetic_model_differ_by_input() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("model");
    let tower = r#""hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2"#;
    let text = format!(r#"{{{tower}, "vocab_size": 100, "max_position_embeddings": 16, "eos_token_id": 99}}"#);
    let vision = format!(r#"{{{tower}, "image_size": 32, "patch_size": 8}}"#);
    let config = format!(r#"{{"projection_dim": 24, "text_config": {text}, "vision_config": {vision}}}"#);
    let config = ClipConfig::from_json(&config).unwrap();
    let model = write_synthetic_model(&config, Precision::F32, 7, &fixture("tiny-clip"), &out).unwrap();
    assert_eq!(ClipConfig::from_json(&fs::read_to_string(out.join("config.json")).unwrap()).unwrap(), config);
    assert!(out.join("preprocessor_config.json").exists() && out.join("tokenizer.json").exists());

    let pixels = Array4::from_shape_fn((3, 32, 32, 3), |(n, y, x, c)| (n * 70 + (y * n + x) * 5 + c * 20) as u8);
    let images = embed_images(&mut session(&model.vision.unwrap()), &pixels.into_dyn());
    let ids = Array2::from_shape_fn((3, 6), |(n, i)| if i == 5 { 99 } else { (n * 17 + i * 3) as i64 });
    let texts = embed_texts(&mut session(&model.text.unwrap()), &ids.into_dyn());
    for embeds in [images, texts] {
        assert!(embeds.iter().all(|x| x.is_finite()));
        for (i, a) in embeds.outer_iter().enumerate() {
            for b in embeds.outer_iter().take(i) {
                assert!(distance(&a.to_owned(), &b.to_owned()) > 0.1, "{embeds}");
            }
        }
    }
}

/// Copies a made-up checkpoint so that a test may damage it.
fn copy_of(name: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(fixture("export").join(name)).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
    }
    dir
}

/// Exports the weights of `fixture` from these files of `pickles`, each under its name in a checkpoint.
fn check_pickles(fixture_name: &str, files: &[(&str, &str)]) {
    let model = copy_of(fixture_name);
    for entry in fs::read_dir(model.path()).unwrap() {
        let path = entry.unwrap().path();
        if path.to_str().unwrap().contains("safetensors") {
            fs::remove_file(path).unwrap();
        }
    }
    for (file, name) in files {
        fs::copy(fixture("export/pickles").join(file), model.path().join(name)).unwrap();
    }
    let out = tempfile::tempdir().unwrap();
    let exported = export_checkpoint(model.path(), &out.path().join("model"), Precision::F32).unwrap();
    let (_folder, expected) = export(&format!("export/{fixture_name}"), Precision::F32);
    for tower in ["vision", "text"] {
        let weights =
            |model: &ExportedModel| fs::read(model.dir.join(format!("onnx/{tower}_model.onnx_data"))).unwrap();
        assert!(!weights(&expected).is_empty());
        assert!(weights(&exported) == weights(&expected), "{tower} of {files:?}");
    }
    let scale = |model: &ExportedModel| {
        let info = clipserve::model::graph_info::GraphInfo::read(model.text.as_ref().unwrap()).unwrap().unwrap();
        info.logit_scale.unwrap()
    };
    assert_eq!(scale(&exported), scale(&expected));
}

#[test]
fn weights_by_torch_save_are_those_of_the_same_checkpoint_in_safetensors() {
    let one = "gelu-relu-old-eos";
    check_pickles(one, &[("legacy.bin", "pytorch_model.bin")]);
    check_pickles(one, &[("tar.bin", "pytorch_model.bin")]);
    check_pickles(one, &[("wrapped.bin", "pytorch_model.bin")]);
    let shards =
        ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin", "pytorch_model.bin.index.json"];
    check_pickles("selu-gelu-new-shards", &shards.map(|file| (file, file)));
}

#[test]
fn what_open_clip_s_training_leaves_is_read_by_the_configuration_beside_it() {
    let name = "open-clip-custom-quick-gelu";
    let (_dir, expected) = export(&format!("export/{name}"), Precision::F32);
    let model = copy_of(name);
    let path = model.path().join("epoch_10.pt");
    fs::rename(model.path().join("open_clip_pytorch_model.bin"), &path).unwrap();
    for source in [model.path(), &path] {
        let dir = tempfile::tempdir().unwrap();
        let exported = export_checkpoint(source, &dir.path().join("model"), Precision::F32).unwrap();
        let data = |model: &ExportedModel| fs::read(model.dir.join("onnx/vision_model.onnx_data")).unwrap();
        assert!(
            data(&exported) == data(&expected) && exported.dir.join("open_clip_config.json").is_file(),
            "{source:?}"
        );
    }
    // Of transformers' names nothing is told by their shapes.
    fs::remove_file(model.path().join("open_clip_config.json")).unwrap();
    fs::copy(fixture("export/pickles/wrapped.bin"), &path).unwrap();
    let error = export_checkpoint(&path, &model.path().join("out"), Precision::F32).unwrap_err().to_string();
    assert!(error.contains("epoch_10.pt") && error.contains("pytorch_model.bin"), "{error}");
}

#[test]
fn a_pickle_that_asks_for_something_else_is_refused_by_its_name() {
    let model = copy_of("gelu-relu-old-eos");
    fs::remove_file(model.path().join("model.safetensors")).unwrap();
    let path = model.path().join("pytorch_model.bin");
    let refusal = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        export_checkpoint(model.path(), &model.path().join("out"), Precision::F32).unwrap_err().to_string()
    };
    // `torch.save(model)` of a whole model, and a call whose answer is thrown away before the weights come.
    for pickle in [&b"\x80\x02cmodels.clip\nNet\nq\x00)\x81q\x01."[..], b"\x80\x02cmodels.clip\nNet\n)R0}q\x00."] {
        let mut archive = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
        let options = zip::write::SimpleFileOptions::default();
        archive.start_file("archive/data.pkl", options).unwrap();
        std::io::Write::write_all(&mut archive, pickle).unwrap();
        let archive = archive.finish().unwrap().into_inner();
        for bytes in [pickle, &archive] {
            let message = refusal(bytes);
            assert!(message.contains("pytorch_model.bin") && message.contains("`models.clip.Net`"), "{message}");
        }
    }
    let expanded = fs::read(fixture("export/pickles/expanded.bin")).unwrap();
    assert!(refusal(&expanded).contains("larger than the file"), "{}", refusal(&expanded));
    // A storage that is compressed, whichever folder it is in.
    for folder in ["archive/", ""] {
        let mut archive = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
        let options = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Deflated);
        for (file, bytes) in [("data.pkl", &b"\x80\x02}q\x00."[..]), ("data/0", &[0; 64])] {
            archive.start_file(format!("{folder}{file}"), options).unwrap();
            std::io::Write::write_all(&mut archive, bytes).unwrap();
        }
        let message = refusal(&archive.finish().unwrap().into_inner());
        assert!(message.contains("compressed"), "{message}");
    }
    assert!(refusal(b"PK\x03\x04").contains("not weights by torch.save"));
    assert!(refusal(b"").contains("not weights by torch.save"));
}

/// A thousand of each file with a few bytes changed or its end cut off: whatever they say, it is an answer.
#[test]
fn damaged_pickles_are_read_or_refused_and_nothing_else() {
    let model = copy_of("gelu-relu-old-eos");
    fs::remove_file(model.path().join("model.safetensors")).unwrap();
    let mut rng = fastrand::Rng::with_seed(17);
    let mut refused = 0;
    for file in ["legacy.bin", "tar.bin", "wrapped.bin"] {
        let whole = fs::read(fixture("export/pickles").join(file)).unwrap();
        // Where the pickles and the archive's own entries are, not the weights.
        let places: Vec<usize> = if file != "wrapped.bin" {
            (0..20_000).collect()
        } else {
            let end = whole.len();
            (0..20_000).chain(end - 12_000..end).collect()
        };
        for _ in 0..1_000 {
            let mut bytes = whole.clone();
            for _ in 0..rng.usize(1..4) {
                bytes[places[rng.usize(..places.len())]] = rng.u8(..);
            }
            if rng.u8(..8) == 0 {
                bytes.truncate(rng.usize(..whole.len()));
            }
            fs::write(model.path().join("pytorch_model.bin"), bytes).unwrap();
            refused += usize::from(Checkpoint::open(model.path()).is_err());
        }
    }
    assert!((750..3_000).contains(&refused), "{refused}");
}

/// As a start of its own asks for it.
fn cached(source: &Path, cache: &Path, precision: Precision) -> ExportedModel {
    export_cached(source, cache, precision, &Digests::new(Some(cache))).unwrap()
}

/// All files below `dir`, with their contents.
fn contents(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(contents(&path));
        } else {
            files.insert(path.clone(), fs::read(path).unwrap());
        }
    }
    files
}

#[test]
fn a_damaged_export_in_the_cache_is_made_anew_and_a_whole_one_is_left_alone() {
    let (source, cache) = (copy_of("text-with-projection"), tempfile::tempdir().unwrap());
    let export = || cached(source.path(), cache.path(), Precision::F32);
    let dir = export().dir;
    let whole = contents(cache.path());
    export();
    assert_eq!(contents(cache.path()), whole, "not even a lock is written");

    let names = ["onnx/text_model.onnx_data", "onnx/text_outputs.onnx", "onnx/checksums.json", "config.json"];
    for name in names {
        let path = dir.join(name);
        let mut damaged = whole[&path].clone();
        let middle = damaged.len() / 2;
        damaged[middle] ^= 1;
        // Half of it, another bit in it, nothing of it, none.
        for bytes in [Some(&damaged[..middle]), Some(&damaged), Some(&[]), None] {
            match bytes {
                Some(bytes) => fs::write(&path, bytes).unwrap(),
                None => fs::remove_file(&path).unwrap(),
            }
            // What was known of a damaged file is not known of the one in its place.
            let digests = Digests::new(Some(cache.path()));
            assert_eq!(export_cached(source.path(), cache.path(), Precision::F32, &digests).unwrap().dir, dir);
            let (known, read) = (digests.sha256(&path).unwrap(), Digests::default().sha256(&path).unwrap());
            assert_eq!(known, read, "{name}");
            assert!(contents(&dir).iter().all(|(path, bytes)| whole[path] == *bytes), "{name}");
        }
    }
    // Without its record nobody knows that a tower is missing.
    for name in ["onnx/checksums.json", "onnx/text_model.onnx", "onnx/text_model.onnx_data"] {
        fs::remove_file(dir.join(name)).unwrap();
    }
    export();
    assert_eq!(
        contents(&dir).keys().collect::<Vec<_>>(),
        whole.keys().filter(|path| path.starts_with(&dir)).collect::<Vec<_>>()
    );
}

#[test]
fn the_cache_is_by_content_and_concurrent_starts_share_one_export() {
    let (source, cache) = (copy_of("text-with-projection"), tempfile::tempdir().unwrap());
    let export = || cached(source.path(), cache.path(), Precision::F32);
    let models: Vec<ExportedModel> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(export)).collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    assert!(models.iter().all(|m| *m == models[0]));
    assert!(models[0].text.is_some() && models[0].weight_bytes > 0);
    let written = |model: &ExportedModel| fs::metadata(model.text.as_ref().unwrap()).unwrap().modified().unwrap();
    let before = written(&models[0]);
    assert_eq!(written(&export()), before);

    assert_ne!(cached(source.path(), cache.path(), Precision::F16).dir, models[0].dir);
    let config = source.path().join("config.json");
    let changed = fs::read_to_string(&config).unwrap().replace("\"gelu\"", "\"relu\"");
    fs::write(&config, changed).unwrap();
    assert_ne!(export().dir, models[0].dir);
}

#[test]
fn a_crashed_export_leaves_nothing_in_the_way() {
    let (source, cache) = (copy_of("text-with-projection"), tempfile::tempdir().unwrap());
    let first = cached(source.path(), cache.path(), Precision::F32);
    let key = first.dir.file_name().unwrap().to_str().unwrap().to_owned();
    let leftover = cache.path().join(format!(".{key}.clipserve-partial"));
    fs::rename(&first.dir, &leftover).unwrap();
    let again = cached(source.path(), cache.path(), Precision::F32);
    assert_eq!(again, first);
    assert!(!leftover.exists());
}

#[test]
fn a_failed_export_leaves_no_folder_and_names_what_is_wrong() {
    let replace = |file: &'static str, from: &'static str, to: &'static str| {
        move |dir: &Path| {
            let text = fs::read_to_string(dir.join(file)).unwrap();
            assert!(text.contains(from), "{text}");
            fs::write(dir.join(file), text.replace(from, to)).unwrap();
        }
    };
    type Damage = Box<dyn Fn(&Path)>;
    let cases: BTreeMap<&str, Damage> = BTreeMap::from([
        (
            "tensor `text_model.encoder.layers.2.layer_norm1.weight` is missing",
            Box::new(replace("config.json", "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3")) as Damage,
        ),
        (
            "tensor `text_model.encoder.layers.1.layer_norm1.bias` is not part",
            Box::new(replace("config.json", "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 1")),
        ),
        (
            "tensor `text_model.embeddings.token_embedding.weight` has shape [120, 24], the configuration asks for [121, 24]",
            Box::new(replace("config.json", "\"vocab_size\": 120", "\"vocab_size\": 121")),
        ),
        ("unknown field `hidden_sise`", Box::new(replace("config.json", "hidden_size", "hidden_sise"))),
        ("field `hidden_act` is \"swish\"", Box::new(replace("config.json", "\"gelu\"", "\"swish\""))),
        ("config.json", Box::new(|dir| fs::remove_file(dir.join("config.json")).unwrap())),
        (
            "no tensor of a CLIP",
            Box::new(|dir| {
                let empty = b"\x02\0\0\0\0\0\0\0{}";
                fs::write(dir.join("model.safetensors"), empty).unwrap();
            }),
        ),
    ]);
    for (expected, damage) in cases {
        let (source, out) = (copy_of("text-with-projection"), tempfile::tempdir().unwrap());
        damage(source.path());
        let error = export_checkpoint(source.path(), &out.path().join("model"), Precision::F32).unwrap_err();
        assert!(error.to_string().contains(expected), "expected {expected}, got {error}");
        assert_eq!(fs::read_dir(out.path()).unwrap().count(), 0, "{expected}");
    }
}

#[test]
fn a_folder_in_use_is_not_touched() {
    let out = tempfile::tempdir().unwrap();
    fs::write(out.path().join("mine"), "mine").unwrap();
    let error = export_checkpoint(&fixture("export/text-bare"), out.path(), Precision::F32).unwrap_err();
    assert!(error.to_string().contains("not empty"), "{error}");
    assert_eq!(fs::read_dir(out.path()).unwrap().count(), 1);
}
