//! Which files are which part of a model, in the layouts that people have.
//!
//! Owns the names that are looked for, and their order. Does not read the files: what a graph is, the engine sees.
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
//! Invariants: a precision or variant is a suffix of the file's name, and only a file with that suffix will do (f32 is never
//! served in its place); a tower that was given a place of its own is looked for nowhere else.

use std::path::{Path, PathBuf};

use super::{
    ModelError,
    layout::{Graphs, ModelFiles, TextFiles, VisionFiles, suffixes},
};
use crate::config::{ModelConfig, Precision};

/// What is looked for, for one tower: graphs without suffix and ending, and the file that says how inputs are made.
struct Tower {
    graphs: [&'static str; 6],
    companions: [&'static str; 2],
}

const VISION: Tower = Tower {
    graphs: ["onnx/vision_model", "vision_model", "visual/model", "visual", "onnx/model", "model"],
    companions: ["preprocessor_config.json", super::open_clip::PREPROCESS_FILE],
};
const TEXT: Tower = Tower {
    graphs: ["onnx/text_model", "text_model", "textual/model", "textual", "onnx/model", "model"],
    companions: ["tokenizer.json", "vocab.json"],
};

/// Folders that hold nothing but graphs and what belongs to them: the rest of the model is one folder up.
const GRAPH_FOLDERS: [&str; 3] = ["onnx", "visual", "textual"];

impl ModelFiles {
    /// Finds the parts of the model that `config` names, with graphs of `precision`.
    ///
    /// # Errors
    /// [`ModelError::NoGraphs`] when `model.path` has no graph at all, else names the first part that is missing, with all the
    /// names under which it was looked for.
    pub fn locate(config: &ModelConfig, precision: Precision) -> Result<Self, ModelError> {
        let search = Search::new(config, precision);
        let whole = Some(config.path.as_path()).filter(|path| !path.as_os_str().is_empty());
        if let Some(directory) = whole {
            check_directory(directory)?;
        }
        let graph = |own: &Option<PathBuf>, tower: &Tower| match (own, whole) {
            (Some(place), _) => search.graph(place, tower).map(Some),
            (None, Some(directory)) => search.graph(directory, tower).map(Some),
            (None, None) => Ok(None),
        };
        let (vision, text) = (graph(&config.vision, &VISION), graph(&config.text, &TEXT));
        if let (Err(_), Err(_), Some(directory), None, None) = (&vision, &text, whole, &config.vision, &config.text) {
            let mut names = search.names(&VISION);
            names.extend(search.names(&TEXT).into_iter().filter(|name| !search.names(&VISION).contains(name)));
            let (directory, file, hint) = (directory.to_owned(), names.join(" or "), search.hint.to_owned());
            return Err(ModelError::NoGraphs { directory, file, hint });
        }
        let (vision, text) = (vision?, text?);
        let beside = |graph: &Option<PathBuf>, name| graph.as_deref().and_then(|graph| companion(graph, &[name]).ok());
        let weights = beside(&vision, "model.safetensors").or_else(|| beside(&text, "model.safetensors"));
        let clip = match &text {
            // Without it nobody knows how many ids the graph takes.
            Some(graph) => Some(companion(graph, &["config.json"])?),
            None => beside(&vision, "config.json"),
        };
        let vision = match vision {
            Some(graph) => Some(VisionFiles {
                preprocessor: companion(&graph, &VISION.companions)?,
                graphs: Graphs::Embedding(graph),
            }),
            None => None,
        };
        let text = match text {
            Some(graph) => {
                Some(TextFiles { tokenizer: companion(&graph, &TEXT.companions)?, graphs: Graphs::Embedding(graph) })
            }
            None => None,
        };
        Ok(Self { vision, text, config: clip, weights })
    }
}

/// Where the model comes from, for its name: the first place that was given.
pub(super) fn source(config: &ModelConfig) -> &Path {
    if !config.path.as_os_str().is_empty() {
        return &config.path;
    }
    let place = config.vision.as_deref().or(config.text.as_deref()).unwrap_or(&config.path);
    match place.parent() {
        Some(folder) if place.is_file() => folder,
        _ => place,
    }
}

/// The suffixes of file names that will do, and what to say when there is none.
struct Search {
    suffixes: Vec<String>,
    hint: &'static str,
}

impl Search {
    fn new(config: &ModelConfig, precision: Precision) -> Self {
        match &config.variant {
            Some(variant) => {
                Self { suffixes: vec![format!("_{variant}")], hint: ", which model.variant asks for; correct it" }
            }
            None => Self {
                suffixes: suffixes(precision).iter().map(ToString::to_string).collect(),
                hint: match precision {
                    Precision::F32 => "",
                    Precision::F16 | Precision::Int8 => ", which engine.precision asks for; use f32 or add the file",
                },
            },
        }
    }

    fn names(&self, tower: &Tower) -> Vec<String> {
        let with_suffixes = |graph| self.suffixes.iter().map(move |suffix| format!("{graph}{suffix}.onnx"));
        tower.graphs.iter().flat_map(with_suffixes).collect()
    }

    /// The graph at `place`: the file itself, or the first of the names in a directory.
    fn graph(&self, place: &Path, tower: &Tower) -> Result<PathBuf, ModelError> {
        if place.is_file() {
            return Ok(place.to_owned());
        }
        check_directory(place)?;
        let names = self.names(tower);
        names.iter().map(|name| place.join(name)).find(|path| path.is_file()).ok_or_else(|| ModelError::MissingFile {
            directory: place.to_owned(),
            file: names.join(" or "),
            hint: self.hint.to_owned(),
        })
    }
}

/// The first of `names` beside `graph`, else in the folder above it where `graph` is in one of [`GRAPH_FOLDERS`].
fn companion(graph: &Path, names: &[&str]) -> Result<PathBuf, ModelError> {
    let folder = graph.parent().unwrap_or(Path::new(""));
    let above = folder.parent().filter(|_| GRAPH_FOLDERS.iter().any(|name| folder.ends_with(name)));
    let folders = [Some(folder), above].into_iter().flatten();
    let mut candidates = folders.flat_map(|folder| names.iter().map(|name| folder.join(name)));
    candidates.find(|path| path.is_file()).ok_or_else(|| ModelError::MissingFile {
        directory: above.unwrap_or(folder).to_owned(),
        file: names.join(" or "),
        hint: String::new(),
    })
}

fn check_directory(path: &Path) -> Result<(), ModelError> {
    let fault = |reason: String| ModelError::Directory { path: path.to_owned(), reason };
    match path.metadata() {
        Ok(metadata) if metadata.is_dir() => Ok(()),
        Ok(_) => Err(fault("not a directory".to_owned())),
        Err(error) => Err(fault(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn directory(files: &[&str]) -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("a folder");
        for file in files {
            let path = root.path().join(file);
            fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
            fs::write(path, "").expect("a file");
        }
        root
    }

    fn config(set: &[String]) -> ModelConfig {
        let set = [&["model.path=".to_owned()], set].concat();
        let overrides = crate::config::Overrides { set, ..Default::default() };
        crate::config::load(&overrides, []).expect("valid").config.model
    }

    fn locate(root: &Path, precision: Precision) -> Result<ModelFiles, ModelError> {
        ModelFiles::locate(&config(&[format!("model.path={}", root.display())]), precision)
    }

    /// The graphs, preprocessor and tokenizer, relative to `root`.
    fn found(root: &Path, files: ModelFiles) -> [String; 4] {
        let relative = |path: PathBuf| path.strip_prefix(root).expect("below").display().to_string();
        let (vision, text) = (files.vision.expect("vision"), files.text.expect("text"));
        let graph = |graphs: Graphs| graphs.first().to_owned();
        [graph(vision.graphs), vision.preprocessor, graph(text.graphs), text.tokenizer].map(relative)
    }

    const WHOLE: [&str; 5] =
        ["onnx/vision_model.onnx", "onnx/text_model.onnx", "tokenizer.json", "preprocessor_config.json", "config.json"];

    #[test]
    fn each_layout_is_found() {
        let shared = ["config.json", "preprocessor_config.json", "vocab.json"];
        let layouts: [(&[&str], [&str; 4]); 4] = [
            (&WHOLE, [WHOLE[0], WHOLE[3], WHOLE[1], WHOLE[2]]),
            (
                &[
                    "config.json",
                    "visual/model.onnx",
                    "visual/preprocess_cfg.json",
                    "textual/model.onnx",
                    "textual/tokenizer.json",
                ],
                ["visual/model.onnx", "visual/preprocess_cfg.json", "textual/model.onnx", "textual/tokenizer.json"],
            ),
            (
                &[&shared[..], &["model.onnx"]].concat(),
                ["model.onnx", "preprocessor_config.json", "model.onnx", "vocab.json"],
            ),
            (
                &[&shared[..], &["onnx/model.onnx"]].concat(),
                ["onnx/model.onnx", "preprocessor_config.json", "onnx/model.onnx", "vocab.json"],
            ),
        ];
        for (files, expected) in layouts {
            let root = directory(files);
            assert_eq!(found(root.path(), locate(root.path(), Precision::F32).expect("found")), expected);
        }
    }

    #[test]
    fn each_tower_may_have_a_place_of_its_own() {
        let repository = ["model.onnx", "config.json", "preprocessor_config.json", "tokenizer.json"];
        let (vision, text) = (directory(&repository), directory(&repository));
        let at = |key: &str, path: PathBuf| format!("model.{key}={}", path.display());
        let given = [at("vision", vision.path().to_owned()), at("text", text.path().join("model.onnx"))];
        let files = ModelFiles::locate(&config(&given), Precision::F32).expect("found");
        assert_eq!(files.config, Some(text.path().join("config.json")));
        assert_eq!(files.text.expect("text").tokenizer, text.path().join("tokenizer.json"));
        assert_eq!(files.vision.expect("vision").graphs, Graphs::Embedding(vision.path().join("model.onnx")));
        let whole = directory(&WHOLE);
        let given = [at("path", whole.path().to_owned()), at("text", text.path().to_owned())];
        let files = ModelFiles::locate(&config(&given), Precision::F32).expect("found");
        assert_eq!(files.text.expect("text").graphs.first(), text.path().join("model.onnx"));
        assert_eq!(files.vision.expect("vision").graphs.first(), whole.path().join(WHOLE[0]));
        let one = ModelFiles::locate(&config(&given[1..]), Precision::F32).expect("found");
        assert!(one.vision.is_none() && one.text.is_some());
    }

    #[test]
    fn a_missing_part_is_named() {
        for missing in WHOLE {
            let rest: Vec<&str> = WHOLE.into_iter().filter(|file| *file != missing).collect();
            let root = directory(&rest);
            let error = locate(root.path(), Precision::F32).expect_err(missing).to_string();
            assert!(error.contains(missing), "{error}");
        }
    }

    #[test]
    fn where_nothing_matches_one_error_lists_what_was_looked_for() {
        let error = locate(directory(&WHOLE[2..]).path(), Precision::F32).expect_err("no graphs");
        assert!(matches!(error, ModelError::NoGraphs { .. }), "{error}");
        for name in VISION.graphs.iter().chain(&TEXT.graphs) {
            assert_eq!(error.to_string().matches(&format!(" {name}.onnx")).count(), 1, "{name}: {error}");
        }
    }

    #[test]
    fn a_precision_or_variant_that_the_model_does_not_have_is_refused() {
        let root = directory(&WHOLE);
        let error = locate(root.path(), Precision::F16).expect_err("no f16 files").to_string();
        assert!(error.contains("onnx/vision_model_fp16.onnx") && error.contains("engine.precision"), "{error}");
        let variant = config(&[format!("model.path={}", root.path().display()), "model.variant=q4f16".to_owned()]);
        let error = ModelFiles::locate(&variant, Precision::F32).expect_err("no such files").to_string();
        assert!(error.contains("onnx/vision_model_q4f16.onnx") && error.contains("model.variant"), "{error}");
    }

    #[test]
    fn a_precision_or_variant_is_a_suffix() {
        let more = [
            "onnx/vision_model_quantized.onnx",
            "onnx/text_model_int8.onnx",
            "onnx/vision_model_q4f16.onnx",
            "onnx/text_model_q4f16.onnx",
        ];
        let root = directory(&[&WHOLE[..], &more].concat());
        let [vision, _, text, _] =
            found(root.path(), locate(root.path(), Precision::Int8).expect("both names of int8"));
        assert_eq!([vision.as_str(), &text], more[..2]);
        let variant = config(&[format!("model.path={}", root.path().display()), "model.variant=q4f16".to_owned()]);
        let [vision, _, text, _] =
            found(root.path(), ModelFiles::locate(&variant, Precision::F32).expect("the variant"));
        assert_eq!([vision.as_str(), &text], more[2..]);
    }

    #[test]
    fn a_directory_that_is_not_there_or_not_one_is_named() {
        let root = directory(&["file"]);
        for (name, expected) in [("nowhere", "No such file"), ("file", "not a directory")] {
            let error = locate(&root.path().join(name), Precision::F32).expect_err(name).to_string();
            assert!(error.contains(name) && error.contains(expected), "{error}");
        }
    }
}
