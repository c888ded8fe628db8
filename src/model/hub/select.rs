//! Which files of a repository are downloaded: what a loader needs, and nothing more.
//!
//! Owns the choice, as a pure function of the repository's list of files and the graphs' suffixes. Does not download.
//!
//! A checkpoint goes before graphs that somebody made from it: `logit_scale` is in no such graph, so without the weights
//! `/similarity` and `/classify` would have the wrong scale.
//!
//! Invariants: graphs or a checkpoint, never both; only names spelt out here are ever chosen, so that no name a server makes up
//! (`../x`, `/x`) reaches the file system.

use std::collections::BTreeSet;

/// The two graphs of transformers.js.
const TRANSFORMERS_JS: [&str; 2] = ["onnx/vision_model", "onnx/text_model"];
/// The two graphs of Immich, each among files of its own.
const IMMICH: [&str; 2] = ["visual/model", "textual/model"];
/// The graph of Optimum, with both towers.
const OPTIMUM: [&str; 2] = ["onnx/model", "model"];

/// The files to download, from the names of all `files`: the configuration, the tokenizer, and the checkpoint, or else the
/// graphs that have one of `suffixes`, the first of these first, with their external data.
///
/// # Errors
/// In one line, what is missing.
pub(super) fn select(files: &BTreeSet<String>, suffixes: &[&str]) -> Result<Vec<String>, String> {
    if !files.contains("config.json") {
        return Err("it has no config.json".to_owned());
    }
    let mut chosen = companions(files, "");
    if let Some(weights) = checkpoint(files)? {
        chosen.extend(weights);
        return Ok(chosen);
    }
    let both =
        |[vision, text]: [&str; 2]| Some([graph(files, vision, suffixes)?, graph(files, text, suffixes)?].concat());
    let one = |graphs: [&str; 2]| graphs.iter().find_map(|name| graph(files, name, suffixes));
    if let Some(graphs) = both(TRANSFORMERS_JS) {
        chosen.extend(graphs);
    } else if let Some(graphs) = both(IMMICH) {
        chosen.extend(companions(files, "visual/"));
        chosen.extend(companions(files, "textual/"));
        chosen.extend(graphs);
    } else if let Some(graph) = one(TRANSFORMERS_JS).or_else(|| one(OPTIMUM)) {
        // A model may have one tower.
        chosen.extend(graph);
    } else {
        return Err(missing(files, suffixes));
    }
    Ok(chosen)
}

/// The small files of a folder that say how inputs are made: of each kind the first that there is.
fn companions(files: &BTreeSet<String>, folder: &str) -> Vec<String> {
    let kinds: [&[&[&str]]; 3] = [
        &[&["config.json"]],
        &[&["preprocessor_config.json"], &["preprocess_cfg.json"]],
        &[&["tokenizer.json"], &["vocab.json", "merges.txt"]],
    ];
    let path = |name: &&str| format!("{folder}{name}");
    let there = |names: &&&[&str]| names.iter().all(|name| files.contains(&path(name)));
    kinds.iter().filter_map(|kind| kind.iter().find(there)).flat_map(|names| names.iter().map(path)).collect()
}

/// A graph and the files of its external data.
fn graph(files: &BTreeSet<String>, name: &str, suffixes: &[&str]) -> Option<Vec<String>> {
    let graph = suffixes.iter().map(|suffix| format!("{name}{suffix}.onnx")).find(|graph| files.contains(graph))?;
    let data = files.iter().filter(|file| file.strip_prefix(&graph).is_some_and(is_external_data)).cloned();
    Some(data.chain([graph.clone()]).collect())
}

/// `_data`, `.data`, and the parts of data that is in several files (`_data_1`).
fn is_external_data(rest: &str) -> bool {
    let Some(number) = rest.strip_prefix("_data").or_else(|| rest.strip_prefix(".data")) else { return false };
    number.is_empty() || number.strip_prefix('_').is_some_and(is_number)
}

/// `model.safetensors`, or its index and all of its shards.
fn checkpoint(files: &BTreeSet<String>) -> Result<Option<Vec<String>>, String> {
    if files.contains("model.safetensors") {
        return Ok(Some(vec!["model.safetensors".to_owned()]));
    }
    let index = "model.safetensors.index.json";
    if !files.contains(index) {
        return Ok(None);
    }
    let shards: Vec<(&String, &str)> = files.iter().filter_map(|file| Some((file, shard_count(file)?))).collect();
    let whole = shards
        .first()
        .is_some_and(|(_, count)| count.parse() == Ok(shards.len()) && shards.iter().all(|(_, other)| other == count));
    if !whole {
        return Err(format!("it has {index} and {} of its shards, not all", shards.len()));
    }
    Ok(Some(shards.into_iter().map(|(file, _)| file.clone()).chain([index.to_owned()]).collect()))
}

/// The `00002` of `model-00001-of-00002.safetensors`.
fn shard_count(file: &str) -> Option<&str> {
    let (number, count) = file.strip_prefix("model-")?.strip_suffix(".safetensors")?.split_once("-of-")?;
    (is_number(number) && is_number(count)).then_some(count)
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn missing(files: &BTreeSet<String>, suffixes: &[&str]) -> String {
    let wanted: Vec<String> =
        suffixes.iter().map(|suffix| format!("onnx/{{vision,text}}_model{suffix}.onnx")).collect();
    let wanted = wanted.join(" or ");
    match files.iter().find(|file| file.ends_with(".onnx")) {
        Some(other) => {
            format!("it has neither model.safetensors nor {wanted}, as engine.precision asks for, but {other}")
        }
        None => format!("it has neither model.safetensors nor {wanted}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::Precision, model::layout::suffixes};

    fn chosen(files: &str, precision: Precision) -> Result<Vec<String>, String> {
        let files = files.split_whitespace().map(str::to_owned).collect();
        let mut chosen = select(&files, suffixes(precision))?;
        chosen.sort();
        Ok(chosen)
    }

    const XENOVA: &str = "README.md .gitattributes config.json preprocessor_config.json quantize_config.json \
        special_tokens_map.json tokenizer.json tokenizer_config.json vocab.json merges.txt \
        onnx/model.onnx onnx/model_fp16.onnx onnx/model_quantized.onnx \
        onnx/vision_model.onnx onnx/vision_model_fp16.onnx onnx/vision_model_quantized.onnx onnx/vision_model_q4.onnx \
        onnx/text_model.onnx onnx/text_model_fp16.onnx onnx/text_model_quantized.onnx onnx/text_model_int8.onnx";
    const OPENAI: &str = "README.md config.json preprocessor_config.json tokenizer.json vocab.json merges.txt \
        flax_model.msgpack pytorch_model.bin tf_model.h5 model.safetensors";
    const SLOW_SHARDS: &str = "config.json vocab.json merges.txt pytorch_model.bin.index.json \
        pytorch_model-00001-of-00002.bin model.safetensors.index.json \
        model-00001-of-00002.safetensors model-00002-of-00002.safetensors model.fp16-00001-of-00001.safetensors";
    const OF_IMMICH: &str = "README.md config.json visual/model.onnx visual/model.armnn visual/preprocess_cfg.json \
        visual/fp16/model.armnn textual/model.onnx textual/tokenizer.json textual/vocab.json textual/merges.txt";

    #[test]
    fn what_is_needed_is_chosen_and_nothing_more() {
        use Precision::{F16, F32, Int8};
        let base = "config.json preprocessor_config.json tokenizer.json";
        for (files, precision, expected) in [
            (XENOVA, F32, &*format!("{base} onnx/vision_model.onnx onnx/text_model.onnx")),
            (XENOVA, F16, &format!("{base} onnx/vision_model_fp16.onnx onnx/text_model_fp16.onnx")),
            (XENOVA, Int8, &format!("{base} onnx/vision_model_quantized.onnx onnx/text_model_int8.onnx")),
            (OPENAI, F32, &format!("{base} model.safetensors")),
            (OPENAI, Int8, &format!("{base} model.safetensors")),
            (&format!("{XENOVA} {OPENAI}"), F32, &format!("{base} model.safetensors")),
            (
                SLOW_SHARDS,
                F32,
                "config.json vocab.json merges.txt model.safetensors.index.json model-00001-of-00002.safetensors \
                 model-00002-of-00002.safetensors",
            ),
            (
                OF_IMMICH,
                F32,
                "config.json visual/model.onnx visual/preprocess_cfg.json textual/model.onnx textual/tokenizer.json",
            ),
            ("config.json model.onnx model.onnx_data vocab.json", F32, "config.json model.onnx model.onnx_data"),
            ("config.json onnx/text_model.onnx onnx/model.onnx", F32, "config.json onnx/text_model.onnx"),
            (
                "config.json onnx/text_model.onnx onnx/vision_model.onnx onnx/vision_model.onnx_data \
                 onnx/vision_model.onnx_data_1 onnx/text_model.onnx.data onnx/text_model.onnx_database",
                F32,
                "config.json onnx/text_model.onnx onnx/vision_model.onnx onnx/vision_model.onnx_data \
                 onnx/vision_model.onnx_data_1 onnx/text_model.onnx.data",
            ),
        ] {
            let mut expected: Vec<_> = expected.split_whitespace().map(str::to_owned).collect();
            expected.sort();
            assert_eq!(chosen(files, precision), Ok(expected), "{precision:?} of {files}");
        }
    }

    #[test]
    fn what_is_missing_is_said() {
        for (files, precision, expected) in [
            ("", Precision::F32, "no config.json"),
            (
                "config.json pytorch_model.bin",
                Precision::F32,
                "neither model.safetensors nor onnx/{vision,text}_model.onnx",
            ),
            (
                "config.json onnx/vision_model.onnx",
                Precision::F16,
                "_model_fp16.onnx, as engine.precision asks for, but onnx/",
            ),
            ("config.json model.safetensors.index.json", Precision::F32, "0 of its shards"),
            (
                "config.json model.safetensors.index.json model-00001-of-00002.safetensors",
                Precision::F32,
                "1 of its shards",
            ),
        ] {
            let error = chosen(files, precision).expect_err(files);
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn names_that_lead_elsewhere_are_never_chosen() {
        let files = "config.json model.safetensors.index.json model-1-of-1.safetensors model-../x-of-1.safetensors \
            ../config.json /config.json onnx/vision_model.onnx_data/../../x onnx/vision_model.onnx_data_../x";
        assert_eq!(
            chosen(files, Precision::F32).expect("the good ones"),
            ["config.json", "model-1-of-1.safetensors", "model.safetensors.index.json"]
        );
    }

    proptest::proptest! {
        #[test]
        fn whatever_a_repository_holds_the_choice_is_of_plain_names(rest in r"[a-z0-9_./\\-]{0,20}") {
            let graph = "onnx/text_model.onnx";
            let files = [
                "config.json".to_owned(), "onnx/vision_model.onnx".to_owned(), graph.to_owned(), format!("{graph}{rest}"),
                format!("{graph}_data{rest}"), rest,
            ];
            for file in select(&files.into(), &[""]).expect("both graphs") {
                let parts: Vec<&str> = file.split('/').collect();
                proptest::prop_assert!(parts.len() <= 2 && !parts.contains(&"..") && !parts.contains(&""), "{file}");
            }
        }
    }
}
