//! What a directory holds in which there is nothing to serve, by the names of its files, and what to do instead.
//!
//! Owns the table of kinds that people have and try. Does not open a file, but for `model_type` in a `config.json`.

use std::{fs, path::Path};

use serde_json::Value;

use super::{clip_config::Family, error::read_text, layout::is_checkpoint};

/// Names that are looked at.
const MAX_NAMES: usize = 10_000;

/// How a file of a kind is called, what that kind is, and the way out.
const KINDS: &[(&str, &str)] = &[
    ("adapter_config.json", "it is an adapter (LoRA): merge it into its model (peft's merge_and_unload) and save that"),
    ("*.gguf", "it is a GGUF model of llama.cpp: serve the checkpoint that it was made from"),
    ("saved_model.pb", "it is a TensorFlow SavedModel: save the model with save_pretrained"),
    ("*.tflite", "it is a TensorFlow Lite model: serve the checkpoint that it was made from"),
    ("*.mlpackage", "it is a Core ML model: serve the checkpoint that it was made from"),
    ("*.mlmodel", "it is a Core ML model: serve the checkpoint that it was made from"),
    (
        "*.engine",
        "it is a TensorRT engine, which only the GPU that it was built for runs: serve the checkpoint, with engine.provider",
    ),
    (
        "*.plan",
        "it is a TensorRT engine, which only the GPU that it was built for runs: serve the checkpoint, with engine.provider",
    ),
    ("openvino_*.xml", "it is a model of OpenVINO's own format: serve the checkpoint that it was made from"),
    ("config.pbtxt", "it is a model of Triton's repository: serve the folder of its version, where the graphs are"),
    (
        "*.ckpt",
        "it is a checkpoint of a training: save its model with save_pretrained, or its state_dict beside a config.json",
    ),
    ("*.onnx", "it has graphs of other names: model.vision and model.text take one each"),
];

/// What is said of `directory`; `None` where nothing in it is known.
pub(super) fn of(directory: &Path) -> Option<String> {
    let entries = fs::read_dir(directory).ok()?;
    let mut names: Vec<String> =
        entries.flatten().take(MAX_NAMES).filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    if names.is_empty() {
        return Some("it is empty".to_owned());
    }
    if let Some(model_type) = model_type(directory) {
        let served = Family::ALL.iter().any(|family| family.model_types().contains(&&*model_type));
        if !served {
            let shown: String = model_type.chars().filter(|char| char.is_ascii_graphic()).take(40).collect();
            return Some(format!("its config.json is that of a {shown} model, which is not served"));
        }
    }
    let has = |pattern: &str| match pattern.split_once('*') {
        Some((start, end)) => names.iter().any(|name| name.starts_with(start) && name.ends_with(end)),
        None => names.iter().any(|name| name == pattern),
    };
    if let Some((_, kind)) = KINDS.iter().find(|(pattern, _)| has(pattern)) {
        return Some((*kind).to_owned());
    }
    let model = names.iter().map(|name| directory.join(name)).find(|folder| folder.is_dir() && is_checkpoint(folder));
    model.map(|folder| format!("there is a model in {}: serve that", folder.display()))
}

fn model_type(directory: &Path) -> Option<String> {
    let config: Value = serde_json::from_str(&read_text(&directory.join("config.json")).ok()?).ok()?;
    Some(config.get("model_type")?.as_str()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_have_is_named_with_the_way_out() {
        for (file, expected) in [
            ("adapter_config.json", Some("merge_and_unload")),
            ("clip-q4.gguf", Some("GGUF")),
            ("openvino_model.xml", Some("OpenVINO")),
            ("model.plan", Some("TensorRT")),
            ("epoch=3.ckpt", Some("state_dict")),
            ("encoder.onnx", Some("model.vision")),
            ("notes.txt", None),
        ] {
            let directory = tempfile::tempdir().expect("a folder");
            assert_eq!(of(directory.path()).as_deref(), Some("it is empty"));
            fs::write(directory.path().join(file), "").expect("written");
            let kind = of(directory.path());
            assert!(
                expected.map_or(kind.is_none(), |text| kind.as_ref().is_some_and(|kind| kind.contains(text))),
                "{file}: {kind:?}"
            );
        }
        let directory = tempfile::tempdir().expect("a folder");
        fs::write(directory.path().join("config.json"), r#"{"model_type": "bert\n"}"#).expect("written");
        fs::write(directory.path().join("model.gguf"), "").expect("written");
        assert_eq!(
            of(directory.path()).as_deref(),
            Some("its config.json is that of a bert model, which is not served")
        );
    }
}
