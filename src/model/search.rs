//! Which files of directories are which part of a model.
//!
//! Owns the looking; the names and their order are in `tower`, and of the files about pictures in `preprocessor`. Does not read
//! the graphs: what one is, the engine sees.
//!
//! Invariant: a tower that was given a place of its own is looked for nowhere else.

use std::path::{Path, PathBuf};

use super::{
    error::{ModelError, read},
    kind,
    layout::{CheckpointFiles, Graphs, ModelFiles, TextFiles, VisionFiles, Weights, is_checkpoint},
    open_clip::{OPEN_CLIP_FILE, PREPROCESS_FILE, has_text_cfg},
    preprocessor,
    rules::{PictureRules, TextRules},
    tower::{IMMICH_TOKENIZER, IMMICH_VISION, Suffixes, Tower, companion_folders, folder_above},
};
use crate::config::{ModelConfig, Precision};

impl ModelFiles {
    /// Finds the parts of the model that `config` names, with graphs of `precision`.
    ///
    /// # Errors
    /// [`ModelError::NoGraphs`] when `model.path` has no graph at all, else names the first part that is missing, with all the
    /// names under which it was looked for.
    pub fn locate(config: &ModelConfig, precision: Precision) -> Result<Self, ModelError> {
        let suffixes = Suffixes::of(config, precision);
        let whole = Some(config.path.as_path()).filter(|path| !path.as_os_str().is_empty());
        if let Some(directory) = whole {
            check_directory(directory)?;
        }
        let find = |own: &Option<PathBuf>, tower: Tower| match (own, whole) {
            (Some(place), _) => graph(place, tower, &suffixes).map(Some),
            (None, Some(directory)) => graph(directory, tower, &suffixes).map(Some),
            (None, None) => Ok(None),
        };
        let (vision, text) = (find(&config.vision, Tower::Vision), find(&config.text, Tower::Text));
        if let (Err(_), Err(_), Some(directory), None, None) = (&vision, &text, whole, &config.vision, &config.text) {
            let (file, hint) = (suffixes.graphs(&Tower::BOTH).join(" or "), suffixes.hint.to_owned());
            return Err(match config.variant {
                // It names graphs, which are not made of weights.
                Some(_) => ModelError::MissingFile { directory: directory.to_owned(), file, hint },
                None => no_graphs(directory, file, hint),
            });
        }
        let (vision, text) = (vision?, text?);
        let beside = |graph: &Option<PathBuf>, name| graph.as_deref().and_then(|graph| file_of(graph, [name]).ok());
        let weights = beside(&vision, "model.safetensors").or_else(|| beside(&text, "model.safetensors"));
        let config = |graph: &Path| file_of(graph, ["config.json"]);
        let vision = match vision {
            Some(graph) => Some(VisionFiles {
                preparation: pictures(&graph)?,
                config: config(&graph).ok(),
                graphs: Graphs::Embedding(graph),
                weights: None,
            }),
            None => None,
        };
        let text = match text {
            Some(graph) => {
                let config = config(&graph)?;
                let preparation = texts(&graph, &config)?;
                Some(TextFiles { preparation, config, graphs: Graphs::Embedding(graph), weights: None })
            }
            None => None,
        };
        Ok(Self { vision, text, weights })
    }
}

impl ModelFiles {
    /// Whether there is a graph of `tower` at `place`, in `precision`.
    pub fn has_graph(config: &ModelConfig, place: &Path, tower: Tower, precision: Precision) -> bool {
        graph(place, tower, &Suffixes::of(config, precision)).is_ok()
    }
}

/// Where the model comes from, for its name: the first place that was given, and of a graph the model's folder.
pub(super) fn source(config: &ModelConfig) -> &Path {
    if !config.path.as_os_str().is_empty() {
        return &config.path;
    }
    let place = config.vision.as_deref().or(config.text.as_deref()).unwrap_or(&config.path);
    match place.parent() {
        Some(folder) if place.is_file() => folder_above(folder).unwrap_or(folder),
        _ => place,
    }
}

/// Why nothing in `directory` can be served, where graphs called `file` are not there: what a checkpoint lacks, if there is one.
fn no_graphs(directory: &Path, file: String, hint: String) -> ModelError {
    let directory = directory.to_owned();
    match CheckpointFiles::of(&directory).filter(|_| !is_checkpoint(&directory)) {
        Some(files) => {
            let config = files.description().map_or("config.json", |(_, config)| config);
            let hint = format!(" beside its {}", files.weights().display());
            ModelError::MissingFile { directory, file: config.to_owned(), hint }
        }
        None => {
            let weights = Weights::ALL.map(Weights::file).join(", ");
            let kind = kind::of(&directory).map(|kind| format!("; {kind}")).unwrap_or_default();
            let weights = format!("({weights}, or one file *.pt){kind}");
            ModelError::NoGraphs { directory, file, hint, weights }
        }
    }
}

/// The name of a model in `path`.
pub(super) fn directory_name(path: &Path) -> String {
    let absolute = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    absolute.file_name().map_or_else(|| "clip".to_owned(), |name| name.to_string_lossy().into_owned())
}

/// The graph at `place`: the file itself, or the first of the names in a directory.
fn graph(place: &Path, tower: Tower, suffixes: &Suffixes) -> Result<PathBuf, ModelError> {
    if place.is_file() {
        return Ok(place.to_owned());
    }
    check_directory(place)?;
    let names = suffixes.graphs(&[tower]);
    names.iter().map(|name| place.join(name)).find(|path| path.is_file()).ok_or_else(|| ModelError::MissingFile {
        directory: place.to_owned(),
        file: names.join(" or "),
        hint: suffixes.hint.to_owned(),
    })
}

/// What says how the pictures of `graph` are prepared.
fn pictures(graph: &Path) -> Result<PictureRules, ModelError> {
    for folder in companion_folders(graph) {
        if let Some(path) = preprocessor::find(folder)? {
            return Ok(PictureRules::Transformers(path));
        }
        let there = |name: &&str| folder.join(name).is_file();
        if let Some(name) = [PREPROCESS_FILE, OPEN_CLIP_FILE].into_iter().find(there) {
            let path = folder.join(name);
            let of_immich = name == PREPROCESS_FILE && folder.ends_with(IMMICH_VISION);
            return Ok(if of_immich { PictureRules::Immich(path) } else { PictureRules::OpenClip(path) });
        }
    }
    Err(missing_of(graph, &Vec::from_iter(standing_for(Tower::Vision))))
}

/// What says how the texts of `graph` become ids, beside its `config`.
fn texts(graph: &Path, config: &Path) -> Result<TextRules, ModelError> {
    let tokenizer = file_of(graph, standing_for(Tower::Text));
    if !read(config, has_text_cfg)? {
        return Ok(TextRules::Transformers(tokenizer?));
    }
    let config = config.to_owned();
    match tokenizer {
        Ok(tokenizer) if tokenizer.ends_with(IMMICH_TOKENIZER) => Ok(TextRules::Immich { config, tokenizer }),
        tokenizer => Ok(TextRules::OpenClip { config, tokenizer: tokenizer.ok() }),
    }
}

/// The names that stand for each way to say how inputs are made.
fn standing_for(tower: Tower) -> impl Iterator<Item = &'static str> {
    tower.companions().iter().filter_map(|names| names.first().copied())
}

/// The first of `names` in the first of the folders that belong to `graph`.
fn file_of(graph: &Path, names: impl IntoIterator<Item = &'static str>) -> Result<PathBuf, ModelError> {
    let names: Vec<&str> = names.into_iter().collect();
    let mut candidates = companion_folders(graph).flat_map(|folder| names.iter().map(|name| folder.join(name)));
    candidates.find(|path| path.is_file()).ok_or_else(|| missing_of(graph, &names))
}

fn missing_of(graph: &Path, names: &[&str]) -> ModelError {
    ModelError::missing(companion_folders(graph).last().unwrap_or(graph), names)
}

fn check_directory(path: &Path) -> Result<(), ModelError> {
    let fault = |reason: String| ModelError::Directory { path: path.to_owned(), reason };
    match path.metadata() {
        Ok(metadata) if metadata.is_dir() => Ok(()),
        Ok(_) => Err(fault(
            "not a directory; name the folder that it is in, or a graph by --vision-model or --text-model".to_owned(),
        )),
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
            // Of the others the names are enough.
            fs::write(&path, if path.ends_with("config.json") { "{}" } else { "" }).expect("a file");
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
        let tokenizer = match text.preparation {
            TextRules::Transformers(path) | TextRules::Immich { tokenizer: path, .. } => path,
            other => panic!("{other:?}"),
        };
        let preprocessor = vision.preparation.file().to_owned();
        [graph(vision.graphs), preprocessor, graph(text.graphs), tokenizer].map(relative)
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
        assert_eq!(files.config(), Some(&*text.path().join("config.json")));
        let tokenizer = text.path().join("tokenizer.json");
        assert_eq!(files.text.expect("text").preparation, TextRules::Transformers(tokenizer));
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
        for name in Tower::BOTH.into_iter().flat_map(Tower::graphs) {
            assert_eq!(error.to_string().matches(&format!(" {name}.onnx")).count(), 1, "{name}: {error}");
        }
    }

    #[test]
    fn weights_that_nothing_describes_are_told() {
        let error = locate(directory(&["tf_model.h5"]).path(), Precision::F32).expect_err("no configuration");
        assert!(error.to_string().ends_with("has no config.json beside its tf_model.h5"), "{error}");
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
