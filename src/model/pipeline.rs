//! Where in a folder of another library a CLIP of `transformers` lies: sentence-transformers' models (`modules.json`) and diffusers'
//! pipelines (`model_index.json`).
//!
//! Owns the two files, and which of a pipeline's models are which tower. Does not read the models (`layout` says what is one); what lies
//! beside a tower's folder, `companions` finds.
//!
//! | folder | tower |
//! |---|---|
//! | sentence-transformers: that of its module `CLIPModel` (`0_CLIPModel`; since 3.1 the same folder) | both |
//! | diffusers: `text_encoder` (`text_encoder_2` where it is named itself) | text |
//! | diffusers: `image_encoder` | vision |

use std::{
    collections::BTreeMap,
    path::{Component, Path, PathBuf},
};

use serde::Deserialize;

use super::{
    error::{ModelError, one_line, read},
    search::{self, directory_name},
    tower::Tower,
};
use crate::config::ModelConfig;

/// sentence-transformers' list of what a text or picture goes through.
const MODULES: &str = "modules.json";
/// diffusers' table of a pipeline's models, by the names of their folders.
const MODEL_INDEX: &str = "model_index.json";

/// One of the modules. Its `type` is a path in Python, whose last part is the class.
#[derive(Deserialize)]
struct Module {
    #[serde(default)]
    path: String,
    r#type: String,
}

/// Library and class of each folder, among settings that are something else.
#[derive(Deserialize)]
struct ModelIndex(BTreeMap<String, serde_json::Value>);

impl ModelIndex {
    fn class(&self, folder: &str) -> Option<&str> {
        self.0.get(folder)?.get(1)?.as_str()
    }
}

/// The same model with the folders of `transformers` in place of those around them. Its name stays.
///
/// # Errors
/// Names the file that is damaged, or says what of it is not served.
pub fn towers_of(config: &ModelConfig) -> Result<ModelConfig, ModelError> {
    let mut found = config.clone();
    if let Some(folder) = module(&config.path)? {
        found.path = folder;
    } else if let Some(index) = index(&config.path)? {
        for (place, tower) in [(&mut found.vision, Tower::Vision), (&mut found.text, Tower::Text)] {
            if place.is_none() {
                *place = encoder(&config.path, &index, tower);
            }
        }
        if found.vision.is_none() && found.text.is_none() {
            let towers = Tower::BOTH.map(|tower| nothing_for(&config.path, &index, tower)).join("; ");
            return Err(ModelError::File { path: config.path.join(MODEL_INDEX), reason: towers });
        }
        found.path = PathBuf::new();
    }
    for (place, tower) in [(&mut found.vision, Tower::Vision), (&mut found.text, Tower::Text)] {
        let Some(folder) = place else { continue };
        if let Some(inner) = module(folder)? {
            *place = Some(inner);
        } else if let Some(index) = index(folder)? {
            let inner = encoder(folder, &index, tower).ok_or_else(|| ModelError::File {
                path: folder.join(MODEL_INDEX),
                reason: nothing_for(folder, &index, tower),
            })?;
            *place = Some(inner);
        }
    }
    if (&found.path, &found.vision, &found.text) != (&config.path, &config.vision, &config.text) {
        found.name.get_or_insert_with(|| directory_name(search::source(config)));
    }
    Ok(found)
}

/// The one checkpoint of `transformers` in `directory`: itself, or the folder of a module of sentence-transformers.
///
/// # Errors
/// Names the file that is damaged or what is not served; of a pipeline, which has several, the folders to name in its place.
pub fn checkpoint_in(directory: &Path) -> Result<PathBuf, ModelError> {
    if let Some(folder) = module(directory)? {
        return Ok(folder);
    }
    match index(directory)? {
        Some(index) => {
            let towers = Tower::BOTH.map(|tower| match encoder(directory, &index, tower) {
                Some(folder) => folder.display().to_string(),
                None => nothing_for(directory, &index, tower),
            });
            let reason = format!("it is a pipeline, whose models are named one by one: {}", towers.join(", "));
            Err(ModelError::File { path: directory.join(MODEL_INDEX), reason })
        }
        None => Ok(directory.to_owned()),
    }
}

/// The folder of CLIP in a model of sentence-transformers.
fn module(directory: &Path) -> Result<Option<PathBuf>, ModelError> {
    let path = directory.join(MODULES);
    if !path.is_file() {
        return Ok(None);
    }
    let modules: Vec<Module> = read(&path, |text| serde_json::from_str(text))?;
    let fault = |reason: String| ModelError::File { path: path.clone(), reason: one_line(&reason) };
    let class = |module: &Module| module.r#type.rsplit('.').next().unwrap_or_default().to_owned();
    let mut clip = None;
    for module in &modules {
        match class(module).as_str() {
            "CLIPModel" => clip = Some(module),
            // What the service does to embeddings unless it is asked not to.
            "Normalize" => {}
            other => {
                return Err(fault(format!(
                    "it has a module {other}, which is not served; served is one CLIPModel, with Normalize or without"
                )));
            }
        }
    }
    let clip = clip.ok_or_else(|| fault("it has no module CLIPModel".to_owned()))?;
    if Path::new(&clip.path).components().any(|part| !matches!(part, Component::Normal(_))) {
        return Err(fault(format!("its module CLIPModel is in {:?}, which is not below it", clip.path)));
    }
    Ok(Some(directory.join(&clip.path)))
}

fn index(directory: &Path) -> Result<Option<ModelIndex>, ModelError> {
    let path = directory.join(MODEL_INDEX);
    if path.is_file() { read(&path, |text| serde_json::from_str(text)).map(Some) } else { Ok(None) }
}

/// The folder and what its class's name begins with, where it is CLIP's.
fn encoder_folder(tower: Tower) -> (&'static str, &'static str) {
    match tower {
        Tower::Vision => ("image_encoder", "CLIPVisionModel"),
        Tower::Text => ("text_encoder", "CLIPTextModel"),
    }
}

/// The folder of `tower` in a pipeline, where it has one of CLIP's classes.
fn encoder(pipeline: &Path, index: &ModelIndex, tower: Tower) -> Option<PathBuf> {
    let (folder, class) = encoder_folder(tower);
    index.class(folder)?.starts_with(class).then(|| pipeline.join(folder))
}

/// Why a pipeline has no `tower` to serve, and what may be tried.
fn nothing_for(pipeline: &Path, index: &ModelIndex, tower: Tower) -> String {
    let (folder, class) = encoder_folder(tower);
    let is = index.class(folder).map_or_else(|| format!("there is no {folder}"), |is| format!("{folder} is a {is}"));
    let other = index
        .0
        .keys()
        .find(|other| other.starts_with(folder) && index.class(other).is_some_and(|other| other.starts_with(class)));
    let hint = other.map(|other| format!("; name its folder to serve another: {}", pipeline.join(other).display()));
    let is = one_line(&is);
    format!("no {class} to serve as its {} tower, {is}{}", tower.name(), hint.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn config(set: &[(&str, &Path)]) -> ModelConfig {
        let set = set.iter().map(|(key, path)| format!("model.{key}={}", path.display()));
        let set = [vec!["model.path=".to_owned()], set.collect()].concat();
        crate::config::load(&crate::config::Overrides { set, ..Default::default() }, []).expect("valid").config.model
    }

    fn written(name: &str, text: &str) -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("a folder");
        fs::write(root.path().join(name), text).expect("written");
        root
    }

    #[test]
    fn of_sentence_transformers_the_folder_of_clip_is_taken() {
        for (path, expected) in [("0_CLIPModel", "0_CLIPModel"), ("", "")] {
            let modules = format!(
                r#"[{{"idx": 0, "name": "0", "path": "{path}", "type": "sentence_transformers.models.CLIPModel"}},
                    {{"idx": 1, "name": "1", "path": "1_Normalize", "type": "sentence_transformers.models.Normalize"}}]"#
            );
            let root = written(MODULES, &modules);
            let found = towers_of(&config(&[("path", root.path())])).expect("found");
            // Where it lies in a folder of its own, the name is still that of the whole.
            assert_eq!((found.path, found.name.is_some()), (root.path().join(expected), !expected.is_empty()));
            let found = towers_of(&config(&[("text", root.path())])).expect("found");
            assert_eq!(found.text, Some(root.path().join(expected)));
            assert_eq!(checkpoint_in(root.path()).expect("one"), root.path().join(expected));
        }
    }

    #[test]
    fn what_is_not_served_of_sentence_transformers_is_named() {
        for (modules, part) in [
            (r#"[{"path": "", "type": "sentence_transformers.models.Transformer"}]"#, "a module Transformer"),
            (r#"[{"path": "", "type": "x.CLIPModel"}, {"path": "2_Dense", "type": "x.Dense"}]"#, "a module Dense"),
            (r#"[{"path": "../other", "type": "x.CLIPModel"}]"#, "not below it"),
            ("[]", "no module CLIPModel"),
            ("{}", MODULES),
        ] {
            let root = written(MODULES, modules);
            let error = towers_of(&config(&[("path", root.path())])).expect_err(modules).to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn of_a_pipeline_the_encoders_are_the_towers() {
        let root = written(
            MODEL_INDEX,
            r#"{"_class_name": "StableDiffusionPipeline", "requires_safety_checker": false,
                "text_encoder": ["transformers", "CLIPTextModel"], "safety_checker": [null, null],
                "image_encoder": ["transformers", "CLIPVisionModelWithProjection"]}"#,
        );
        let found = towers_of(&config(&[("path", root.path())])).expect("found");
        let expected =
            (PathBuf::new(), Some(root.path().join("image_encoder")), Some(root.path().join("text_encoder")));
        assert_eq!((found.path, found.vision, found.text), expected);
        let found = towers_of(&config(&[("text", root.path())])).expect("found");
        assert_eq!((found.vision, found.text), (None, expected.2));
    }

    #[test]
    fn a_pipeline_without_clip_says_what_it_has() {
        let root = written(
            MODEL_INDEX,
            r#"{"text_encoder": ["transformers", "T5EncoderModel"], "text_encoder_2": ["transformers", "CLIPTextModel"]}"#,
        );
        for key in ["path", "text"] {
            let error = towers_of(&config(&[(key, root.path())])).expect_err("no CLIP").to_string();
            assert!(error.contains("a T5EncoderModel") && error.contains("text_encoder_2"), "{error}");
        }
        let error = towers_of(&config(&[("vision", root.path())])).expect_err("no CLIP").to_string();
        assert!(error.contains("no image_encoder") && error.contains("no CLIPVisionModel"), "{error}");
        let error = checkpoint_in(root.path()).expect_err("no single one").to_string();
        assert!(error.contains("one by one") && error.contains("text_encoder_2"), "{error}");
    }
}
