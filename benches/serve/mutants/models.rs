//! Broken models, and how each is loaded: checkpoints by exporting them, graphs and configurations by starting a service of them as far as its
//! first answer, tokenizers by tokenizing.
//!
//! Owns which valid models they are made of, all of this repository or made here, and the folder that a broken one lies in. Does not own how
//! they are broken (`bytes`, `values`), nor what becomes of a process that one of them brings down (`loading`). What is called is what
//! `clipserve serve` and `clipserve export` call.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use clap::ValueEnum;
use clipserve::{
    config::{self, Config, Overrides, Precision},
    embedder,
    export::{export_checkpoint, write_synthetic_model},
    health::Health,
    model::{clip_config::ClipConfig, texts::Tokenization},
    preprocess::text::TextTokenizer,
    telemetry::Metrics,
};
use fastrand::Rng;
use serde_json::Value;
use tempfile::TempDir;

use super::{bytes, values};
use crate::{Result, services::Places};

/// What is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    Checkpoint,
    Graph,
    Tokenizer,
    Configuration,
}

/// A model that is made here: small, so that a start takes little, and with the tokenizer of the box.
const SMALL: &str = r#"{"model_type": "clip", "projection_dim": 16,
    "text_config": {"vocab_size": 3072, "max_position_embeddings": 24, "bos_token_id": 3070, "eos_token_id": 3071,
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2},
    "vision_config": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
        "image_size": 32, "patch_size": 16}}"#;

/// Checkpoints in every container, below `tests/fixtures/export`.
const CHECKPOINTS: [&str; 10] = [
    "vision-prefixed",
    "text-with-projection",
    "gelu-relu-old-eos",
    "selu-gelu-new-shards",
    "open-clip",
    "open-clip-custom-quick-gelu",
    "openai",
    "frameworks/tf",
    "frameworks/tf-text",
    "frameworks/flax",
];

/// Weights by themselves, each with the name that a reader looks for and a folder whose configuration goes with it.
const PICKLES: [&str; 3] = ["pickles/tar.bin", "pickles/legacy.bin", "pickles/wrapped.bin"];

/// Keys that stand in configurations, of which one may stand where another was.
const NAMES: [&str; 24] = [
    "model_type",
    "architectures",
    "projection_dim",
    "text_config",
    "vision_config",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "image_size",
    "patch_size",
    "num_channels",
    "hidden_act",
    "layer_norm_eps",
    "vocab_size",
    "max_position_embeddings",
    "eos_token_id",
    "size",
    "crop_size",
    "shortest_edge",
    "resample",
    "image_mean",
    "type",
    "pattern",
];

/// A file that belongs to a model, valid.
#[derive(Clone)]
struct File {
    name: String,
    contents: Vec<u8>,
}

/// A valid model: all of its files, and which of them are broken.
struct Valid {
    files: Vec<File>,
    broken: Vec<usize>,
    precision: Precision,
}

/// What broken models of one kind are made of and lie in.
pub(super) struct Models {
    part: Part,
    valid: Vec<Valid>,
    folder: TempDir,
    /// Which valid model's files lie in the folder.
    lying: Option<usize>,
}

impl Models {
    /// Reads, or makes, what those of `part` are made of.
    pub(super) fn new(places: &Places, part: Part) -> Result<Self> {
        let folder = TempDir::new()?;
        let valid = match part {
            Part::Checkpoint => checkpoints(places)?,
            Part::Tokenizer => {
                let files = read_folder(&places.box_model(), |name| !name.ends_with(".safetensors"))?;
                let is_broken = |name: &str| !matches!(name, "config.json" | "preprocessor_config.json");
                vec![Valid::new(files, Precision::F32, is_broken)]
            }
            Part::Graph | Part::Configuration => small_models(places, part)?,
        };
        Ok(Self { part, valid, folder, lying: None })
    }

    /// The broken model of that number, in its folder; the file that is broken.
    pub(super) fn make(&mut self, number: u64) -> Result<(PathBuf, Precision)> {
        let mut rng = Rng::with_seed(number);
        let which = rng.usize(..self.valid.len());
        let valid = &self.valid[which];
        // The last one broke a file of this one, or left others behind.
        if self.lying.replace(which) != Some(which) {
            for entry in fs::read_dir(self.folder.path())? {
                let path = entry?.path();
                if path.is_dir() { fs::remove_dir_all(path)? } else { fs::remove_file(path)? }
            }
            for file in &valid.files {
                write(self.folder.path(), file)?;
            }
        }
        let file = &valid.files[valid.broken[rng.usize(..valid.broken.len())]];
        let other = &valid.files[valid.broken[rng.usize(..valid.broken.len())]];
        let mut contents = file.contents.clone();
        let document = if rng.u8(..4) > 0 { serde_json::from_slice::<Value>(&contents).ok() } else { None };
        match document {
            Some(mut document) => {
                (0..rng.usize(1..=3)).for_each(|_| values::mutate(&mut document, &NAMES, &mut rng));
                contents = document.to_string().into_bytes();
            }
            None => bytes::mutate(&mut contents, &other.contents, &mut rng),
        }
        write(self.folder.path(), &File { name: file.name.clone(), contents })?;
        Ok((self.folder.path().join(&file.name), valid.precision))
    }

    /// Loads what [`Self::make`] made, and puts the valid file back.
    ///
    /// # Errors
    /// Why it is refused, as its operator is told.
    pub(super) fn load(&mut self, broken: &Path, precision: Precision) -> Result<()> {
        let loaded = match self.part {
            Part::Checkpoint => self.export(precision),
            Part::Tokenizer => self.tokenize(),
            Part::Graph | Part::Configuration => start(self.folder.path(), precision),
        };
        let name = broken.strip_prefix(self.folder.path())?.to_string_lossy().into_owned();
        if let Some(file) = self.lying.and_then(|lying| self.valid[lying].files.iter().find(|file| file.name == name)) {
            write(self.folder.path(), file)?;
        }
        loaded
    }

    fn export(&self, precision: Precision) -> Result<()> {
        let out = TempDir::new()?;
        export_checkpoint(self.folder.path(), &out.path().join("export"), precision)?;
        Ok(())
    }

    fn tokenize(&self) -> Result<()> {
        let tokenization = Tokenization::Transformers(self.folder.path().join("tokenizer.json"));
        let tokenizer = TextTokenizer::open(&tokenization, 24, 16 << 10, Some(3072))?;
        let long = "a photo of a cat, ".repeat(800);
        for text in
            ["", "a photo of a cat", "na\u{ef}ve  \u{1f408}\u{200d}\u{2b1b} 12's\n", &"a".repeat(16 << 10), &long]
        {
            tokenizer.tokenize(text, true)?;
        }
        tokenizer.decode(&[0, 1, 320, 3071], true)?;
        Ok(())
    }
}

/// A service's way to its first answer.
fn start(folder: &Path, precision: Precision) -> Result<()> {
    let config = configuration(folder, precision)?;
    let (metrics, health) = (Arc::new(Metrics::new()), Health::new(Duration::from_secs(60)));
    embedder::start(&config, metrics, &health)?.shut_down();
    Ok(())
}

fn configuration(folder: &Path, precision: Precision) -> Result<Config> {
    let set = vec![
        format!("model.path={}", folder.display()),
        format!("model.cache_dir={}", folder.join("cache").display()),
        format!("engine.precision={}", precision.name()),
        "engine.provider=cpu".to_owned(),
    ];
    let loaded = config::load(&Overrides { set, ..Overrides::default() }, []);
    Ok(loaded.map_err(|errors| errors.to_string())?.config)
}

impl Valid {
    fn new(files: Vec<File>, precision: Precision, is_broken: impl Fn(&str) -> bool) -> Self {
        let broken = (0..files.len()).filter(|&place| is_broken(&files[place].name)).collect();
        Self { files, broken, precision }
    }
}

fn checkpoints(places: &Places) -> Result<Vec<Valid>> {
    let fixtures = places.root.join("tests/fixtures/export");
    let mut all = Vec::new();
    for name in CHECKPOINTS {
        let files = read_folder(&fixtures.join(name), |name| !name.ends_with(".npz"))?;
        // The weights are what others make; the configuration is broken here too, a file among several.
        all.push(Valid::new(files, Precision::F32, |_| true));
    }
    let mut around = read_folder(&fixtures.join("gelu-relu-old-eos"), |name| name.ends_with(".json"))?;
    for pickle in PICKLES {
        let weights = File { name: "pytorch_model.bin".to_owned(), contents: fs::read(fixtures.join(pickle))? };
        around.retain(|file| file.name != weights.name);
        around.push(weights);
        all.push(Valid::new(around.clone(), Precision::F32, |name| name.ends_with(".bin")));
    }
    Ok(all)
}

/// Exports of ours and a graph of another exporter, of which every file is broken that `part` is.
fn small_models(places: &Places, part: Part) -> Result<Vec<Valid>> {
    let config = ClipConfig::from_json(SMALL)?;
    let is_broken = |name: &str| (part == Part::Graph) == name.contains(".onnx");
    let mut all = Vec::new();
    for precision in [Precision::F32, Precision::F16, Precision::Int8] {
        let made = TempDir::new()?;
        let out = made.path().join("model");
        write_synthetic_model(&config, precision, 1, &places.box_model(), &out)?;
        all.push(Valid::new(read_folder(&out, |_| true)?, precision, is_broken));
    }
    // One tower, whose weights are within the graph.
    let others =
        |name: &str| name.ends_with("vision_model.onnx") || matches!(name, "config.json" | "preprocessor_config.json");
    all.push(Valid::new(read_folder(&places.fixture(), others)?, Precision::F32, is_broken));
    Ok(all)
}

/// The files below `folder` whose names are wanted, in the order of their names.
fn read_folder(folder: &Path, wanted: impl Fn(&str) -> bool + Copy) -> Result<Vec<File>> {
    let mut paths = Vec::new();
    below(folder, &mut paths)?;
    paths.sort();
    let mut files = Vec::new();
    for path in paths {
        let name = path.strip_prefix(folder)?.to_string_lossy().into_owned();
        if wanted(&name) {
            files.push(File { name, contents: fs::read(&path)? });
        }
    }
    Ok(files)
}

fn below(folder: &Path, into: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() { below(&path, into)? } else { into.push(path) }
    }
    Ok(())
}

fn write(folder: &Path, file: &File) -> Result<()> {
    let path = folder.join(&file.name);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    // A file that is still mapped keeps what it had.
    if path.exists() {
        fs::remove_file(&path)?;
    }
    Ok(fs::write(path, &file.contents)?)
}
