//! The two towers of a model, and the names under which their files go in the layouts that people have.
//!
//! Owns the names and their order, for a directory (`search`) and for a repository on the hub (`hub`) alike, so that what is
//! downloaded is what is then found. Looks nowhere.
//!
//! | from | vision graph | text graph |
//! |---|---|---|
//! | transformers.js, our own export | `onnx/vision_model.onnx` | `onnx/text_model.onnx` |
//! | Immich | `visual/model.onnx`, `visual.onnx` | `textual/model.onnx`, `textual.onnx` |
//! | Optimum: both towers in one graph | `onnx/model.onnx`, `model.onnx` | the same |
//! | Qdrant: a repository for each tower | `model.onnx` of `model.vision` | `model.onnx` of `model.text` |
//!
//! The other files are looked for beside the graph, then in the folder above `onnx`, `visual` or `textual`.
//!
//! Invariant: a precision or variant is a suffix of the graph's name, and only a file with that suffix will do (f32 is never
//! served in its place).

use std::path::Path;

use super::{
    open_clip::{OPEN_CLIP_FILE, PREPROCESS_FILE},
    preprocessor::{PREPROCESSOR_FILE, PROCESSOR_FILE},
    tokens::{ADDED_TOKENS, SPECIAL_TOKENS, TOKENIZER_CONFIG},
};
use crate::config::{ModelConfig, Precision};

/// One of the two encoders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tower {
    /// Images.
    Vision,
    /// Texts.
    Text,
}

/// Folders that hold nothing but graphs and what belongs to them: the rest of the model is one folder up.
const GRAPH_FOLDERS: [&str; 3] = ["onnx", IMMICH_VISION, "textual"];

/// Immich's folder of the vision tower.
pub(super) const IMMICH_VISION: &str = "visual";

/// Where Immich has its tokenizer.
pub(super) const IMMICH_TOKENIZER: &str = "textual/tokenizer.json";

impl Tower {
    /// Both of them.
    pub const BOTH: [Self; 2] = [Self::Vision, Self::Text];

    /// As messages have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Vision => "vision",
            Self::Text => "text",
        }
    }

    /// Its graphs' names, without suffix and ending; the first that there is counts.
    pub(super) fn graphs(self) -> [&'static str; 6] {
        match self {
            Self::Vision => ["onnx/vision_model", "vision_model", "visual/model", "visual", "onnx/model", "model"],
            Self::Text => ["onnx/text_model", "text_model", "textual/model", "textual", "onnx/model", "model"],
        }
    }

    /// The files that say how inputs are made, one of these ways; the first name of each way stands for it.
    pub(super) fn companions(self) -> &'static [&'static [&'static str]] {
        match self {
            Self::Vision => &[&[PREPROCESSOR_FILE], &[PROCESSOR_FILE], &[PREPROCESS_FILE], &[OPEN_CLIP_FILE]],
            Self::Text => &[&["tokenizer.json"], &["vocab.json", "merges.txt"]],
        }
    }

    /// The files beside those that may say more, or otherwise.
    pub(super) fn refinements(self) -> &'static [&'static str] {
        match self {
            Self::Vision => &[PROCESSOR_FILE],
            Self::Text => &[TOKENIZER_CONFIG, SPECIAL_TOKENS, ADDED_TOKENS],
        }
    }
}

/// The folders that a graph's other files are looked for in, in this order.
pub(super) fn companion_folders(graph: &Path) -> impl Iterator<Item = &Path> {
    let folder = graph.parent().unwrap_or(Path::new(""));
    [Some(folder), folder_above(folder)].into_iter().flatten()
}

/// The model's folder, where `folder` is one of the [`GRAPH_FOLDERS`] in it.
pub(super) fn folder_above(folder: &Path) -> Option<&Path> {
    folder.parent().filter(|_| GRAPH_FOLDERS.iter().any(|name| folder.ends_with(name)))
}

/// What the names of graphs end in before `.onnx`, the first one first, and what to say when there is no such file.
#[derive(Debug)]
pub(super) struct Suffixes {
    suffixes: Vec<String>,
    /// The end of an error's sentence.
    pub(super) hint: &'static str,
}

impl Suffixes {
    /// The variant's, else those that transformers.js gives the precision.
    pub(super) fn of(config: &ModelConfig, precision: Precision) -> Self {
        let (suffixes, hint): (&[&str], _) = match (&config.variant, precision) {
            (Some(variant), _) => (&[&*format!("_{variant}")], ", which model.variant asks for; correct it"),
            (None, Precision::F32) => (&[""], ""),
            (None, Precision::F16) => (&["_fp16"], BY_PRECISION),
            (None, Precision::Int8) => (&["_int8", "_quantized"], BY_PRECISION),
            // No exporter's but our own, whose names have no suffix.
            (None, Precision::Int8Weights) => (&["_int8_weights"], BY_PRECISION),
        };
        Self { suffixes: suffixes.iter().map(ToString::to_string).collect(), hint }
    }

    /// The names of the graphs of these towers, each once.
    pub(super) fn graphs(&self, towers: &[Tower]) -> Vec<String> {
        let mut names = Vec::new();
        for graph in towers.iter().flat_map(|tower| tower.graphs()) {
            for suffix in &self.suffixes {
                let name = format!("{graph}{suffix}.onnx");
                if !names.contains(&name) {
                    names.push(name);
                }
            }
        }
        names
    }
}

const BY_PRECISION: &str = ", which engine.precision asks for; use f32 or add the file";
