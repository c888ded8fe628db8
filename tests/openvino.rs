//! bf16 and int8 by OpenVINO: close to f32, the same whatever the batch, and nowhere but where they were asked for.
//!
//! On its own, because a process can hold only one ONNX Runtime, and on CPUs that are not Intel's OpenVINO brings its own. What
//! a CPU without bf16 instructions answers is tested too: each machine runs one half of the first test.
#![cfg(target_arch = "x86_64")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails loudly, in its helpers too")]

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
};

use clipserve::{
    config::{self, EngineConfig, Overrides, Precision},
    encoder::{Embeddings, Encoder, PixelBuf, Tokens},
    engine::{Engine, EngineError, Normalization},
    export::{ExportError, ExportedModel, export_checkpoint, write_synthetic_model},
    model::{
        Graphs, clip_config::ClipConfig, graph_info::GraphInfo, pictures::PicturePreparation,
        preprocessor::PreprocessorConfig, texts::Tokenization,
    },
    preprocess::{
        image::{ImageOptions, ImageProcessor},
        text::TextTokenizer,
    },
};
use tempfile::TempDir;

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn engine(set: &[&str]) -> Result<Arc<Engine>, EngineError> {
    let set = [&["model.path=m"], set].concat().into_iter().map(str::to_owned).collect();
    let config: EngineConfig = config::load(&Overrides { set, ..Overrides::default() }, []).unwrap().config.engine;
    Engine::start(&config).map(Arc::new)
}

/// The CPU's own engine on the library that OpenVINO runs on, of which the process has one.
fn cpu_engine(beside: &Engine) -> Arc<Engine> {
    engine(&["engine.provider=cpu", &format!("engine.library={}", beside.library().display())]).unwrap()
}

fn cpu_features() -> raw_cpuid::ExtendedFeatures {
    raw_cpuid::CpuId::new().get_extended_feature_info().unwrap()
}

fn computes_in_bf16() -> bool {
    cpu_features().has_amx_bf16() || cpu_features().has_avx512_bf16()
}

/// Where `auto` takes it.
fn gains_from_bf16() -> bool {
    let is_intel = raw_cpuid::CpuId::new().get_vendor_info().is_some_and(|vendor| vendor.as_str() == "GenuineIntel");
    cpu_features().has_amx_bf16() || (computes_in_bf16() && !is_intel)
}

/// A checkpoint's graphs, crops of pictures and ids of texts.
struct Model {
    _dir: TempDir,
    vision: Graphs,
    text: Graphs,
    crops: Vec<PixelBuf>,
    texts: Vec<Tokens>,
}

impl Model {
    fn new(checkpoint: &str, pictures: &str, texts: &[&str]) -> Self {
        let checkpoint = root(checkpoint);
        let dir = tempfile::tempdir().unwrap();
        let exported = export_checkpoint(&checkpoint, &dir.path().join("export"), Precision::F32).unwrap();
        let json = fs::read_to_string(checkpoint.join("preprocessor_config.json")).unwrap();
        let options = ImageOptions { exif_orientation: true, fast_decode: false, max_pixels: 50_000_000 };
        let mut processor = ImageProcessor::new(
            &PicturePreparation::Transformers(PreprocessorConfig::from_json(&json).unwrap()),
            options,
        )
        .unwrap();
        let mut files: Vec<PathBuf> =
            fs::read_dir(root(pictures)).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        let crops = files.iter().filter_map(|file| {
            let image = processor.decode(&fs::read(file).unwrap()).ok()?;
            Some(processor.crop(image).unwrap())
        });
        let crops: Vec<PixelBuf> = crops.collect();
        let config: serde_json::Value =
            serde_json::from_slice(&fs::read(checkpoint.join("config.json")).unwrap()).unwrap();
        let context = config["text_config"]["max_position_embeddings"].as_u64().unwrap_or(77) as usize;
        let tokenizer =
            TextTokenizer::open(&Tokenization::Transformers(checkpoint.join("tokenizer.json")), context, 1 << 14, None)
                .unwrap();
        let texts: Vec<Tokens> = texts.iter().map(|text| tokenizer.tokenize(text, true).unwrap().tokens).collect();
        assert!(crops.len() >= 8 && texts.len() >= 8, "{} pictures, {} texts", crops.len(), texts.len());
        let (vision, text) = (exported.vision.unwrap(), exported.text.unwrap());
        Self { _dir: dir, vision: Graphs::Embedding(vision), text: Graphs::Embedding(text), crops, texts }
    }

    fn embed(&self, engine: &Arc<Engine>) -> [Embeddings; 2] {
        let none = Normalization { rescale_factor: None, mean_std: None };
        let mut vision = engine.vision(&self.vision, &none, 1).unwrap().remove(0).encoder;
        let mut text = engine.text(&self.text, 1).unwrap().remove(0).encoder;
        // What is computed does not hang on the memory of the files of weights.
        let (pictures, texts) = (self.vision.first(), self.text.first());
        let both = [
            engine.release_weights_during(pictures, Some(texts), || vision.encode(&self.crops)).unwrap(),
            engine.release_weights_during(texts, Some(pictures), || text.encode(&self.texts)).unwrap(),
        ];
        for i in [0, 3, 7] {
            let alone = vision.encode(&self.crops[i..=i]).unwrap();
            assert_eq!(alone.row(0), both[0].row(i), "image {i} alone and in a batch of {}", self.crops.len());
            let alone = text.encode(&self.texts[i..=i]).unwrap();
            let in_batch = both[1].slice(ndarray::s![i..=i, ..]).to_owned();
            // OpenVINO in f32 adds up a row of attention in another order when the batch is longer: `export/rows.rs`.
            let f32_by_openvino =
                ("openvino", "f32") == (engine.provider_name(), engine.precision_name(Precision::F32));
            let least = if f32_by_openvino { 1e-5 } else { 0.0 };
            let distance = largest_distance(&alone, &in_batch);
            assert!(distance <= least, "text {i} alone and in a batch of {}: {distance:e}", self.texts.len());
        }
        both
    }
}

/// The lowest cosine between rows of the same index.
fn lowest_cosine(a: &Embeddings, b: &Embeddings) -> f32 {
    let cosine = |(a, b): (ndarray::ArrayView1<'_, f32>, ndarray::ArrayView1<'_, f32>)| {
        a.dot(&b) / (a.dot(&a).sqrt() * b.dot(&b).sqrt())
    };
    a.rows().into_iter().zip(b.rows()).map(cosine).fold(1.0, f32::min)
}

fn largest_distance(a: &Embeddings, b: &Embeddings) -> f32 {
    let distance = |(a, b): (ndarray::ArrayView1<'_, f32>, ndarray::ArrayView1<'_, f32>)| {
        let difference = &a - &b;
        (difference.dot(&difference) / b.dot(&b)).sqrt()
    };
    a.rows().into_iter().zip(b.rows()).map(distance).fold(0.0, f32::max)
}

const TEXTS: [&str; 9] = [
    "a photo of a cat",
    "a dog",
    "pizza",
    "an astronaut in an orange suit on the moon",
    "snowman",
    "red umbrella",
    "",
    "two people playing tennis in the rain while a third one watches from under a tree",
    "smiling face with open hands",
];

#[test]
fn bf16_is_close_to_f32_and_f32_stays_f32_in_the_same_process() {
    let bf16 = engine(&["engine.precision=bf16"]);
    if !computes_in_bf16() {
        let error = bf16.err().unwrap_or_else(|| panic!("this CPU has no bf16")).to_string();
        assert!(error.contains("engine.precision = \"bf16\"") && error.contains("AMX-BF16"), "{error}");
        return;
    }
    let bf16 = bf16.unwrap();
    assert_eq!((bf16.provider_name(), bf16.precision_name(Precision::F32)), ("openvino", "bf16"));
    let auto = engine(&["engine.precision=auto"]).unwrap();
    let taken = if gains_from_bf16() { ("openvino", "bf16") } else { ("cpu", "f32") };
    assert_eq!((auto.provider_name(), auto.precision_name(Precision::F32)), taken);
    // The plugin is registered by now, where it is one: a session of the CPU provider must not move to it.
    let cpu = cpu_engine(&bf16);
    let library = format!("engine.library={}", bf16.library().display());
    let openvino_f32 = engine(&["engine.provider=openvino", "engine.precision=f32", &library]).unwrap();
    assert_eq!((cpu.provider_name(), cpu.precision_name(Precision::F32)), ("cpu", "f32"));
    assert_eq!((openvino_f32.provider_name(), openvino_f32.precision_name(Precision::F32)), ("openvino", "f32"));
    // Rows, not pictures: a ViT-B/32's have 50, a ViT-B/16's 197, a ViT-L/14's 257 and, of 336 pixels, 577.
    let images =
        |engine: &Engine| [None, Some(50), Some(197), Some(257), Some(577)].map(|rows| engine.batch_sizes(rows).images);
    let amx = cpu_features().has_amx_bf16();
    assert_eq!(images(&bf16), if amx { [15, 15, 4, 3, 1] } else { [16, 16, 4, 3, 1] });
    assert_eq!((images(&openvino_f32), images(&cpu)), ([16, 16, 4, 3, 1], [6, 6, 1, 1, 1]));
    let models = [("tests/fixtures/tiny-clip", "tests/fixtures/images"), ("onnx/emoji-clip", "onnx/examples")];
    for (checkpoint, pictures) in models {
        let model = Model::new(checkpoint, pictures, &TEXTS);
        let (fast, exact, other) = (model.embed(&bf16), model.embed(&cpu), model.embed(&openvino_f32));
        for (kind, i) in [("images", 0), ("texts", 1)] {
            let cosine = lowest_cosine(&fast[i], &exact[i]);
            println!("{checkpoint}, {} {kind}: lowest cosine of bf16 to f32 {cosine:.6}", exact[i].nrows());
            assert!(cosine >= 0.999, "{checkpoint} {kind}: {cosine}");
            assert!(largest_distance(&fast[i], &exact[i]) > 1e-4, "{checkpoint} {kind}: this is f32, not bf16");
            let distance = largest_distance(&other[i], &exact[i]);
            assert!(distance < 1e-5, "{checkpoint} {kind}: f32 by two providers differs by {distance:e}");
        }
    }
}

/// A checkpoint whose layers are of whole groups, with seeded weights in the precision asked for and the tokenizer of `tiny-clip`; the last
/// token of the vocabulary is the end token.
fn synthetic(
    precision: Precision,
    [hidden, patch, vocabulary]: [usize; 3],
    out: &Path,
) -> Result<ExportedModel, ExportError> {
    let tower = serde_json::json!({
        "hidden_size": hidden, "intermediate_size": 4 * hidden, "num_hidden_layers": 4, "num_attention_heads": 4,
        "image_size": 64, "patch_size": patch, "max_position_embeddings": 32, "vocab_size": vocabulary, "projection_dim": 64,
        "eos_token_id": vocabulary - 1,
    });
    let mut config = serde_json::json!({"model_type": "clip", "projection_dim": 64});
    let without = |fields: &[&str]| {
        let mut tower = tower.clone();
        fields.iter().for_each(|field| drop(tower.as_object_mut().unwrap().remove(*field)));
        tower
    };
    config["text_config"] = without(&["image_size", "patch_size"]);
    config["vision_config"] = without(&["max_position_embeddings", "vocab_size", "eos_token_id"]);
    let config = ClipConfig::from_json(&config.to_string()).unwrap();
    write_synthetic_model(&config, precision, 7, &root("tests/fixtures/tiny-clip"), out)
}

#[test]
fn int8_is_close_to_f32_and_the_same_in_every_batch() {
    let int8 = engine(&["engine.provider=openvino", "engine.precision=int8"]).unwrap();
    assert_eq!((int8.provider_name(), int8.precision_name(Precision::Int8Weights)), ("openvino", "int8"));
    let cpu = cpu_engine(&int8);
    let crops: Vec<PixelBuf> = (1..=9)
        .map(|i| PixelBuf::new(64, 64, (0..64 * 64 * 3).map(|at: usize| (at * i * 31 / 7 % 256) as u8).collect()))
        .collect();
    let texts: Vec<Tokens> = (0..9)
        .map(|i| Tokens::new((0..3 * i + 2).map(|at| 7 * at * (i + 1) % 900).chain([999]).collect::<Vec<_>>()))
        .collect();
    let none = Normalization { rescale_factor: None, mean_std: None };
    let graphs = |graph: Option<PathBuf>| Graphs::Embedding(graph.unwrap());
    // Patches of 768 bytes, whole groups, and of 192, which stay in f32; layers of groups that are not 128, and that must be.
    for (hidden, patch, group) in [(384, 16, 384), (640, 8, 128)] {
        let dir = tempfile::tempdir().unwrap();
        let [exact, small] = [Precision::F32, Precision::Int8Weights]
            .map(|precision| synthetic(precision, [hidden, patch, 1000], &dir.path().join(precision.name())).unwrap());
        let [exact, small] = [exact, small].map(|model| (graphs(model.vision), graphs(model.text)));
        let groups =
            [&small.0, &small.1].map(|graphs| GraphInfo::read(graphs.first()).unwrap().unwrap().activation_group);
        assert_eq!(groups, [group; 2]);
        let mut vision = int8.vision(&small.0, &none, 1).unwrap().remove(0).encoder;
        let mut text = int8.text(&small.1, 1).unwrap().remove(0).encoder;
        let actual = [vision.encode(&crops).unwrap(), text.encode(&texts).unwrap()];
        let expected = [
            cpu.vision(&exact.0, &none, 1).unwrap()[0].encoder.encode(&crops).unwrap(),
            cpu.text(&exact.1, 1).unwrap()[0].encoder.encode(&texts).unwrap(),
        ];
        for (kind, i) in [("images", 0), ("texts", 1)] {
            let cosine = lowest_cosine(&actual[i], &expected[i]);
            println!("{hidden} wide, patches of {patch}: lowest cosine of int8 to f32, {kind}: {cosine:.6}");
            assert!(cosine >= 0.995, "{kind}: {cosine}");
            assert!(largest_distance(&actual[i], &expected[i]) > 1e-3, "{kind}: this is f32, not int8");
        }
        // Without 8-bit products OpenVINO multiplies in f32, in another order for another batch.
        let has_products = cpu_features().has_avx512vnni();
        let least = if has_products { 0.0 } else { 1e-5 };
        for i in [0, 4, 8] {
            let alone = vision.encode(&crops[i..=i]).unwrap();
            let distance = largest_distance(&alone, &actual[0].slice(ndarray::s![i..=i, ..]).to_owned());
            assert!(distance <= least, "image {i} alone and in a batch of {}: {distance:e}", crops.len());
            let alone = text.encode(&texts[i..=i]).unwrap();
            let distance = largest_distance(&alone, &actual[1].slice(ndarray::s![i..=i, ..]).to_owned());
            assert!(distance <= least, "text {i} alone and in a batch of {}: {distance:e}", texts.len());
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let odd = synthetic(Precision::Int8Weights, [96, 16, 1000], &dir.path().join("odd")).unwrap_err().to_string();
    assert!(odd.contains("hidden_size is 96") && odd.contains("multiples of 128"), "{odd}");
}

/// What `look` sees of a service that is ready: its process and its log. Then it is ended.
fn once_ready<T>(mut command: Command, look: impl FnOnce(u32, &str) -> T) -> T {
    let mut service = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut log = String::new();
    let is_ready = BufReader::new(service.stderr.take().unwrap()).lines().map(Result::unwrap).any(|line| {
        log += &format!("{line}\n");
        line.trim_end().ends_with("ready")
    });
    let seen = is_ready.then(|| look(service.id(), &log));
    service.kill().unwrap();
    service.wait().unwrap();
    assert!(is_ready, "it ended before it was ready:\n{log}");
    seen.unwrap()
}

/// Kilobytes of the mappings of files in `folder`, all and in memory, as `smaps` has them.
#[cfg(target_os = "linux")]
fn mapped(smaps: &str, folder: &Path) -> (usize, usize) {
    let (mut is_ours, mut all, mut resident) = (false, 0, 0);
    for line in smaps.lines() {
        let kilobytes =
            |name: &str| -> Option<usize> { line.strip_prefix(name)?.trim().strip_suffix("kB")?.trim().parse().ok() };
        if !line.split_whitespace().next().is_some_and(|word| word.ends_with(':')) {
            is_ours = line.find('/').is_some_and(|at| Path::new(&line[at..]).starts_with(folder));
        } else if is_ours {
            all += kilobytes("Size:").unwrap_or(0);
            resident += kilobytes("Rss:").unwrap_or(0);
        }
    }
    (all, resident)
}

#[test]
#[cfg(target_os = "linux")]
fn a_service_that_is_ready_has_given_the_memory_of_mapped_weights_back() {
    let cache = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_clipserve"));
    command.args(["serve", "--listen", "127.0.0.1:0", "--provider", "openvino", "--precision", "f32", "--model"]);
    command.arg(root("onnx/emoji-clip")).arg("--cache-dir").arg(cache.path());
    let smaps = once_ready(command, |id, _| fs::read_to_string(format!("/proc/{id}/smaps")).unwrap());
    let (all, resident) = mapped(&smaps, &cache.path().canonicalize().unwrap());
    assert!(all > 1000, "{all} kB of weights are mapped");
    assert_eq!(resident, 0, "kB of {all}");
}

/// Anonymous memory of a process, in kilobytes.
#[cfg(target_os = "linux")]
fn anonymous(id: u32) -> usize {
    let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().strip_suffix("kB").unwrap().trim().parse().unwrap()
}

/// OpenVINO compiles for every size of a batch, and of what it has compiled it keeps hundreds of megabytes unless it is told not to.
#[test]
#[cfg(target_os = "linux")]
fn what_is_compiled_for_sizes_of_batches_is_bounded() {
    let model = tempfile::tempdir().unwrap();
    synthetic(Precision::Int8Weights, [128, 16, 49408], model.path()).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_clipserve"));
    command.args(["serve", "--listen", "127.0.0.1:0", "--provider", "openvino", "--precision", "int8"]);
    command.args(["--set", "cache.max_bytes=0", "--model"]).arg(model.path());
    // What this test itself was told must not tell the service.
    command.env_remove("ONEDNN_PRIMITIVE_CACHE_CAPACITY");
    let (before, after) = once_ready(command, |id, log| {
        let address = log.lines().find_map(|line| line.trim_end().rsplit_once("address=")).unwrap().1.to_owned();
        let url = format!("http://{address}/embed/text");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let client = reqwest::Client::new();
        let embed = |texts: usize, words: usize| {
            // Different ones: of the same text one embedding is computed.
            let texts: Vec<String> = (0..texts).map(|i| format!("{i:02} {}", "cat ".repeat(words))).collect();
            let body = serde_json::json!({"texts": texts});
            let answer = runtime.block_on(client.post(&url).json(&body).send()).unwrap();
            assert!(answer.status().is_success(), "{}", answer.status());
        };
        // The largest tensors that there are, before anything else. Without both bounds 290 MB follow, with one 190.
        embed(61, 15);
        let before = anonymous(id);
        (1..=61).for_each(|texts| (1..=15).for_each(|words| embed(texts, words)));
        (before, anonymous(id))
    });
    let grown = after.saturating_sub(before);
    println!("{grown} kB more than {before}, for 900 sizes");
    assert!(grown < 150_000, "{grown} kB more than {before}, for 900 sizes");
}

#[test]
fn auto_serves_f32_where_openvino_is_there_and_does_not_start() {
    let install = tempfile::tempdir().unwrap();
    let copy = |from: &Path, to: &str| {
        let to = install.path().join(to);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(from, to).unwrap();
    };
    let libraries = root(".onnxruntime");
    for (from, to) in [(libraries.clone(), ""), (libraries.join("openvino/runtime"), "openvino/runtime/")] {
        let names = fs::read_dir(from).unwrap().map(|entry| entry.unwrap());
        let is_library = |name: &str| name.starts_with("libonnxruntime.so");
        for entry in names.filter(|entry| is_library(&entry.file_name().to_string_lossy())) {
            copy(&entry.path(), &format!("{to}{}", entry.file_name().to_string_lossy()));
        }
    }
    // Both forms of OpenVINO, and neither is a library.
    copy(&root("Cargo.toml"), "openvino/runtime/libonnxruntime_providers_openvino.so");
    copy(&root("Cargo.toml"), "openvino/plugin/libonnxruntime_providers_openvino_plugin.so");
    copy(Path::new(env!("CARGO_BIN_EXE_clipserve")), "clipserve");
    let mut command = Command::new(install.path().join("clipserve"));
    command.args(["serve", "--listen", "127.0.0.1:0", "--precision", "auto", "--model"]);
    command.arg(root("onnx/emoji-clip")).arg("--cache-dir").arg(install.path().join("cache"));
    let log = once_ready(command, |_, log| log.to_owned());
    assert!(log.contains("provider=\"cpu\""), "{log}");
    assert_eq!(log.contains("OpenVINO does not start"), gains_from_bf16(), "{log}");
}
