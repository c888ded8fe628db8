//! Which files of a repository are downloaded: what a loader needs, and nothing more.
//!
//! Owns the choice, as a pure function of the repository's list of files and of what is wanted. Does not download.
//!
//! A checkpoint goes before graphs that somebody made from it: `logit_scale` is in no such graph, so without the weights
//! `/similarity` and `/classify` would have the wrong scale. Whoever names a variant or a tower means the graphs, though; and one in
//! any other format than `model.safetensors` goes behind them, lest a model that was served from its graphs before such files were read gets another
//! fingerprint.
//!
//! Invariants: graphs or a checkpoint, never both; only names spelt out here and in `tower` are ever chosen, so that no name a
//! server makes up (`../x`, `/x`) reaches the file system.

use std::{collections::BTreeSet, path::Path};

use crate::model::{
    Weights, external_data,
    tower::{Suffixes, Tower, companion_folders},
};

/// What is wanted of a repository.
#[derive(Debug)]
pub(super) struct Wanted {
    /// For these towers, at least one.
    pub(super) towers: Vec<Tower>,
    /// Whether a checkpoint will do, and goes before graphs.
    pub(super) checkpoint: bool,
    /// Of the graphs.
    pub(super) suffixes: Suffixes,
}

/// What was chosen.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Selection {
    /// The names of the files, the large ones last: what is refused is refused before them.
    pub(super) files: Vec<String>,
    /// Whether they are a checkpoint.
    pub(super) checkpoint: bool,
    /// The one tower that was wanted and is not in the repository at all: our own export may be without it.
    pub(super) absent: Option<Tower>,
}

/// The files to download, from the names of all `files`: the checkpoint or the graphs with their external data, and what
/// belongs to them.
///
/// # Errors
/// In one line, what is missing.
pub(super) fn select(files: &BTreeSet<String>, wanted: &Wanted) -> Result<Selection, String> {
    let format = Weights::among(|file| files.contains(file)).filter(|_| wanted.checkpoint);
    if format == Some(Weights::Safetensors) {
        return checkpoint(files, Weights::Safetensors);
    }
    // Two towers may share files, and a graph.
    let (mut small, mut graphs, mut absent) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
    for &tower in &wanted.towers {
        match wanted.suffixes.graphs(&[tower]).into_iter().find(|name| files.contains(name)) {
            Some(graph) => {
                small.extend(companions(&graph, tower, files)?);
                graphs.extend(external_data(&graph, files));
                graphs.insert(graph);
            }
            None => absent.push(tower),
        }
    }
    let absent = match absent[..] {
        [] => None,
        [tower] if wanted.checkpoint && !graphs.is_empty() && graphs_of(&[tower], files).is_empty() => Some(tower),
        _ => {
            return match format {
                Some(format) => checkpoint(files, format),
                None => Err(missing(&absent, files, wanted)),
            };
        }
    };
    Ok(Selection { files: small.into_iter().chain(graphs).collect(), checkpoint: false, absent })
}

/// The checkpoint with weights in this format, and what belongs to it.
fn checkpoint(files: &BTreeSet<String>, format: Weights) -> Result<Selection, String> {
    let config = format.config();
    if !files.contains(config) {
        return Err(format!("it has no {config}"));
    }
    let mut chosen = vec![config.to_owned()];
    // Which towers it has, its tensors say.
    for tower in Tower::BOTH {
        for name in inputs(config, tower, files).unwrap_or_default() {
            // Of open_clip's one file describes the model and its inputs.
            if !chosen.contains(&name) {
                chosen.push(name);
            }
        }
    }
    chosen.extend(weights(files, format)?);
    Ok(Selection { files: chosen, checkpoint: true, absent: None })
}

/// The small files that say what a graph's inputs are and how they are made.
fn companions(graph: &str, tower: Tower, files: &BTreeSet<String>) -> Result<Vec<String>, String> {
    let inputs = inputs(graph, tower, files).ok_or_else(|| {
        let ways: Vec<String> = tower.companions().iter().map(|names| names.join(" with ")).collect();
        format!("it has {graph}, but no {}", ways.join(" or "))
    })?;
    let config = beside(graph, &[&["config.json"]], files);
    if config.is_none() && tower == Tower::Text {
        return Err(format!("it has {graph}, but no config.json"));
    }
    Ok([inputs, config.unwrap_or_default()].concat())
}

fn external_data(graph: &str, files: &BTreeSet<String>) -> impl Iterator<Item = String> {
    files.iter().filter(move |file| file.strip_prefix(graph).is_some_and(external_data::is_rest_of_name)).cloned()
}

/// What says how the inputs of `graph` are made, and what may say more of it.
fn inputs(graph: &str, tower: Tower, files: &BTreeSet<String>) -> Option<Vec<String>> {
    let mut chosen = beside(graph, tower.companions(), files)?;
    let beside = |name: &&str| Some(Path::new(chosen.first()?).with_file_name(name).to_str()?.to_owned());
    let more =
        tower.refinements().iter().filter_map(beside).filter(|path| files.contains(path) && !chosen.contains(path));
    let more: Vec<String> = more.collect();
    chosen.extend(more);
    Some(chosen)
}

/// The first of `ways` whose files are all in one of the folders that belong to `graph`.
fn beside(graph: &str, ways: &[&[&str]], files: &BTreeSet<String>) -> Option<Vec<String>> {
    let in_folder = |folder: &Path| {
        let path = |name: &&str| folder.join(name).to_str().map(str::to_owned);
        let paths = ways.iter().filter_map(|names| names.iter().map(path).collect::<Option<Vec<_>>>());
        paths.into_iter().find(|paths| paths.iter().all(|path| files.contains(path)))
    };
    companion_folders(Path::new(graph)).find_map(in_folder)
}

/// The weights in this format: whole, or the index and all shards.
fn weights(files: &BTreeSet<String>, format: Weights) -> Result<Vec<String>, String> {
    if files.contains(format.file()) {
        return Ok(vec![format.file().to_owned()]);
    }
    let index = format.index();
    let shards: Vec<(&String, &str)> =
        files.iter().filter_map(|file| Some((file, shard_count(file, format)?))).collect();
    let whole = shards
        .first()
        .is_some_and(|(_, count)| count.parse() == Ok(shards.len()) && shards.iter().all(|(_, other)| other == count));
    if !whole {
        return Err(format!("it has {index} and {} of its shards, not all", shards.len()));
    }
    Ok(shards.into_iter().map(|(file, _)| file.clone()).chain([index.to_owned()]).collect())
}

/// The `00002` of `model-00001-of-00002.safetensors`.
fn shard_count(file: &str, format: Weights) -> Option<&str> {
    let (before, behind) = format.around_shard();
    let (number, count) = file.strip_prefix(before)?.strip_suffix(behind)?.split_once("-of-")?;
    (is_number(number) && is_number(count)).then_some(count)
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// The graphs that these towers could have, whatever they end in.
fn graphs_of<'a>(towers: &[Tower], files: &'a BTreeSet<String>) -> Vec<&'a str> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
    let suffix = |rest: &str| rest.is_empty() || rest.starts_with('_') && rest.bytes().all(plain);
    let is_graph = |file: &str| {
        let Some(stem) = file.strip_suffix(".onnx") else { return false };
        towers.iter().flat_map(|tower| tower.graphs()).any(|name| stem.strip_prefix(name).is_some_and(suffix))
    };
    files.iter().map(String::as_str).filter(|file| is_graph(file)).collect()
}

fn missing(towers: &[Tower], files: &BTreeSet<String>, wanted: &Wanted) -> String {
    let names = wanted.suffixes.graphs(towers).join(" or ");
    let checkpoint = if wanted.checkpoint {
        Weights::ALL.map(|weights| format!("{} or ", weights.file())).concat()
    } else {
        String::new()
    };
    let there = match graphs_of(towers, files)[..] {
        [] => "no such graph at all".to_owned(),
        ref graphs => graphs.join(", "),
    };
    format!("it has no {checkpoint}{names}{}; it has {there}", wanted.suffixes.hint)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, Overrides};

    /// What a model with this `section.key=value` wants of a repository; nothing for f32.
    fn wanted(set: &str, towers: &[Tower], checkpoint: bool) -> Wanted {
        let set = ["model.path=m", set].into_iter().filter(|pair| !pair.is_empty()).map(str::to_owned).collect();
        let config = config::load(&Overrides { set, ..Overrides::default() }, []).expect("valid").config;
        let suffixes = Suffixes::of(&config.model, config.engine.graphs());
        Wanted { towers: towers.to_vec(), checkpoint, suffixes }
    }

    fn choose(files: &str, wanted: &Wanted) -> Result<Selection, String> {
        select(&files.split_whitespace().map(str::to_owned).collect(), wanted)
    }

    #[track_caller]
    fn assert_chosen(files: &str, wanted: &Wanted, expected: &str) -> Selection {
        let chosen = choose(files, wanted).unwrap_or_else(|error| panic!("{wanted:?} of {files}: {error}"));
        let mut names: Vec<&str> = expected.split_whitespace().collect();
        names.sort_unstable();
        let sorted = BTreeSet::from_iter(chosen.files.iter().map(String::as_str));
        assert_eq!((&*Vec::from_iter(sorted), chosen.files.len()), (&*names, names.len()), "{wanted:?} of {files}");
        let large =
            |name: &&String| [".onnx", ".safetensors", ".bin", ".h5", ".msgpack"].iter().any(|end| name.contains(end));
        assert!(chosen.files.iter().skip_while(|name| !large(name)).all(|name| large(&name)), "{:?}", chosen.files);
        chosen
    }

    const XENOVA: &str = "README.md .gitattributes config.json preprocessor_config.json quantize_config.json \
        special_tokens_map.json tokenizer.json tokenizer_config.json vocab.json merges.txt \
        onnx/model.onnx onnx/model_fp16.onnx onnx/model_quantized.onnx \
        onnx/vision_model.onnx onnx/vision_model_fp16.onnx onnx/vision_model_quantized.onnx onnx/vision_model_q4.onnx \
        onnx/text_model.onnx onnx/text_model_fp16.onnx onnx/text_model_quantized.onnx onnx/text_model_int8.onnx \
        onnx/text_model_q4.onnx";
    const OPENAI: &str = "README.md config.json preprocessor_config.json tokenizer.json vocab.json merges.txt \
        flax_model.msgpack pytorch_model.bin tf_model.h5 model.safetensors";
    const SLOW_SHARDS: &str = "config.json vocab.json merges.txt pytorch_model.bin.index.json \
        pytorch_model-00001-of-00002.bin model.safetensors.index.json \
        model-00001-of-00002.safetensors model-00002-of-00002.safetensors model.fp16-00001-of-00001.safetensors";
    const OF_IMMICH: &str = "README.md config.json visual/model.onnx visual/model.armnn visual/preprocess_cfg.json \
        visual/fp16/model.armnn textual/model.onnx textual/tokenizer.json textual/vocab.json textual/merges.txt";
    const OF_QDRANT: &str = "README.md config.json model.onnx preprocessor_config.json special_tokens_map.json tokenizer.json \
        tokenizer_config.json vocab.json merges.txt";
    const OF_VERSION_5: &str =
        "config.json model.safetensors processor_config.json tokenizer.json tokenizer_config.json";
    const OF_OPEN_CLIP: &str = "README.md open_clip_config.json open_clip_model.safetensors open_clip_pytorch_model.bin \
        tokenizer.json tokenizer_config.json";
    const SMALL: &str = "config.json preprocessor_config.json tokenizer.json";
    const ALSO: &str =
        "config.json preprocessor_config.json tokenizer.json tokenizer_config.json special_tokens_map.json";

    #[test]
    fn of_a_whole_model_what_is_needed_is_chosen_and_nothing_more() {
        let (f16, int8) = ("engine.precision=f16", "engine.precision=int8");
        for (files, set, expected) in [
            (XENOVA, "", &*format!("{ALSO} onnx/vision_model.onnx onnx/text_model.onnx")),
            (XENOVA, f16, &format!("{ALSO} onnx/vision_model_fp16.onnx onnx/text_model_fp16.onnx")),
            (XENOVA, int8, &format!("{ALSO} onnx/vision_model_quantized.onnx onnx/text_model_int8.onnx")),
            (OPENAI, "", &format!("{SMALL} model.safetensors")),
            (OPENAI, int8, &format!("{SMALL} model.safetensors")),
            (&format!("{XENOVA} {OPENAI}"), "", &format!("{ALSO} model.safetensors")),
            (OF_VERSION_5, "", OF_VERSION_5),
            (
                &format!("{SMALL} pytorch_model.bin onnx/vision_model.onnx onnx/text_model.onnx"),
                "",
                &format!("{SMALL} onnx/vision_model.onnx onnx/text_model.onnx"),
            ),
            (
                &format!("{SMALL} pytorch_model.bin onnx/vision_model.onnx onnx/text_model.onnx"),
                f16,
                &format!("{SMALL} pytorch_model.bin"),
            ),
            (&format!("{SMALL} pytorch_model.bin"), "", &format!("{SMALL} pytorch_model.bin")),
            (&format!("{SMALL} flax_model.msgpack tf_model.h5"), "", &format!("{SMALL} tf_model.h5")),
            (&format!("{SMALL} flax_model.msgpack"), "", &format!("{SMALL} flax_model.msgpack")),
            (
                &format!("{SMALL} tf_model.h5.index.json tf_model-00001-of-00001.h5 model-00001-of-00001.h5"),
                "",
                &format!("{SMALL} tf_model.h5.index.json tf_model-00001-of-00001.h5"),
            ),
            (
                OF_OPEN_CLIP,
                "",
                "open_clip_config.json tokenizer.json tokenizer_config.json open_clip_model.safetensors",
            ),
            (
                &format!("{OF_OPEN_CLIP} {SMALL} pytorch_model.bin"),
                "",
                &format!("{SMALL} tokenizer_config.json pytorch_model.bin"),
            ),
            (
                &format!("{OF_OPEN_CLIP} config.json model.safetensors pytorch_model.bin"),
                "",
                "open_clip_config.json tokenizer.json tokenizer_config.json open_clip_model.safetensors",
            ),
            (
                "open_clip_config.json open_clip_pytorch_model.bin",
                f16,
                "open_clip_config.json open_clip_pytorch_model.bin",
            ),
            (
                &format!(
                    "{SMALL} pytorch_model.bin.index.json pytorch_model-00001-of-00002.bin pytorch_model-00002-of-00002.bin \
                     model-00001-of-00002.bin"
                ),
                "",
                &format!(
                    "{SMALL} pytorch_model.bin.index.json pytorch_model-00001-of-00002.bin pytorch_model-00002-of-00002.bin"
                ),
            ),
            (
                &format!("{OF_VERSION_5} preprocessor_config.json added_tokens.json"),
                "",
                &format!("{OF_VERSION_5} preprocessor_config.json added_tokens.json"),
            ),
            (
                SLOW_SHARDS,
                "",
                "config.json vocab.json merges.txt model.safetensors.index.json model-00001-of-00002.safetensors \
                 model-00002-of-00002.safetensors",
            ),
            (
                OF_IMMICH,
                "",
                "config.json visual/model.onnx visual/preprocess_cfg.json textual/model.onnx textual/tokenizer.json",
            ),
            (
                "config.json preprocessor_config.json vocab.json merges.txt model.onnx model.onnx_data",
                "",
                "config.json preprocessor_config.json vocab.json merges.txt model.onnx model.onnx_data",
            ),
            (
                &format!("{SMALL} onnx/text_model.onnx onnx/model.onnx"),
                "",
                &format!("{SMALL} onnx/text_model.onnx onnx/model.onnx"),
            ),
            (
                &format!(
                    "{SMALL} onnx/text_model.onnx onnx/vision_model.onnx onnx/vision_model.onnx_data \
                     onnx/vision_model.onnx_data_1 onnx/text_model.onnx.data onnx/text_model.onnx_database"
                ),
                "",
                &format!(
                    "{SMALL} onnx/text_model.onnx onnx/vision_model.onnx onnx/vision_model.onnx_data \
                     onnx/vision_model.onnx_data_1 onnx/text_model.onnx.data"
                ),
            ),
        ] {
            let chosen = assert_chosen(files, &wanted(set, &Tower::BOTH, true), expected);
            let is_checkpoint = [".safetensors", ".bin", ".h5", ".msgpack"].iter().any(|end| expected.contains(end));
            assert_eq!((chosen.checkpoint, chosen.absent), (is_checkpoint, None), "{files}");
        }
    }

    #[test]
    fn whoever_names_a_variant_gets_its_graphs_also_beside_a_checkpoint() {
        let wanted = wanted("model.variant=q4", &Tower::BOTH, false);
        let expected = format!("{ALSO} onnx/vision_model_q4.onnx onnx/text_model_q4.onnx");
        assert!(!assert_chosen(&format!("{XENOVA} {OPENAI}"), &wanted, &expected).checkpoint);
    }

    #[test]
    fn of_one_tower_nothing_of_the_other_is_chosen_and_no_checkpoint() {
        let both = format!("{XENOVA} {OPENAI}");
        for (files, set, tower, expected) in [
            (OF_QDRANT, "", Tower::Vision, "config.json model.onnx preprocessor_config.json"),
            (
                OF_QDRANT,
                "",
                Tower::Text,
                "config.json model.onnx special_tokens_map.json tokenizer.json tokenizer_config.json",
            ),
            (&both, "", Tower::Vision, "config.json onnx/vision_model.onnx preprocessor_config.json"),
            (
                &both,
                "model.variant=q4",
                Tower::Text,
                "config.json onnx/text_model_q4.onnx special_tokens_map.json tokenizer.json tokenizer_config.json",
            ),
            (OF_IMMICH, "", Tower::Text, "config.json textual/model.onnx textual/tokenizer.json"),
            ("model.onnx preprocess_cfg.json", "", Tower::Vision, "model.onnx preprocess_cfg.json"),
        ] {
            assert_chosen(files, &wanted(set, &[tower], false), expected);
        }
    }

    #[test]
    fn a_model_may_be_without_a_tower_but_not_without_its_graph_in_this_precision() {
        let one = format!("{SMALL} onnx/text_model.onnx onnx/text_model_fp16.onnx");
        for set in ["", "engine.precision=f16"] {
            let chosen = choose(&one, &wanted(set, &Tower::BOTH, true)).expect("a text tower");
            assert_eq!(chosen.absent, Some(Tower::Vision));
        }
        let other = format!("{one} onnx/vision_model.onnx");
        let error = choose(&other, &wanted("engine.precision=f16", &Tower::BOTH, true)).expect_err("no f16 of vision");
        assert!(
            error.contains("onnx/vision_model_fp16.onnx") && error.ends_with("has onnx/vision_model.onnx"),
            "{error}"
        );
        choose(&one, &wanted("model.variant=fp16", &Tower::BOTH, false)).expect_err("who names graphs wants both");
    }

    #[test]
    fn what_is_missing_is_said() {
        let (both, vision, text) = (&Tower::BOTH[..], &[Tower::Vision][..], &[Tower::Text][..]);
        for (files, set, towers, expected) in [
            (
                "",
                "",
                both,
                &[
                    "no model.safetensors or pytorch_model.bin or model.fp16.safetensors or tf_model.h5 or flax_model.msgpack or open_clip_model.safetensors or \
                     open_clip_pytorch_model.bin or onnx/vision_model.onnx or ",
                    "no such graph at all",
                ][..],
            ),
            ("model.safetensors", "", both, &["no config.json"]),
            ("config.json open_clip_pytorch_model.bin", "", both, &["no open_clip_config.json"]),
            ("config.json tf_model.keras", "", both, &["onnx/text_model.onnx", "no such graph at all"]),
            ("tf_model.h5", "", both, &["no config.json"]),
            ("config.json flax_model.msgpack.index.json", "", both, &["0 of its shards"]),
            (
                "config.json onnx/vision_model.onnx",
                "engine.precision=f16",
                both,
                &["_model_fp16.onnx", ", which engine.precision asks for", "it has onnx/vision_model.onnx"],
            ),
            ("config.json model.safetensors.index.json", "", both, &["0 of its shards"]),
            (
                "config.json model.safetensors.index.json model-00001-of-00002.safetensors",
                "",
                both,
                &["1 of its shards"],
            ),
            (
                XENOVA,
                "model.variant=q4f16",
                vision,
                &[
                    "no onnx/vision_model_q4f16.onnx or ",
                    ", which model.variant asks for; correct it; it has onnx/model.onnx, ",
                    ", onnx/vision_model_q4.onnx",
                ],
            ),
            (OPENAI, "", text, &["no onnx/text_model.onnx or ", "no such graph at all"]),
            ("model.onnx config.json", "", text, &["model.onnx, but no tokenizer.json or vocab.json with merges.txt"]),
            ("model.onnx vocab.json tokenizer.json", "", text, &["model.onnx, but no config.json"]),
            (
                "model.onnx",
                "",
                vision,
                &["model.onnx, but no preprocessor_config.json or processor_config.json or preprocess_cfg.json"],
            ),
        ] {
            let error = choose(files, &wanted(set, towers, towers == both)).expect_err(files);
            assert!(expected.iter().all(|part| error.contains(part)), "{expected:?}: {error}");
        }
    }

    #[test]
    fn names_that_lead_elsewhere_are_never_chosen() {
        let files = "config.json model.safetensors.index.json model-1-of-1.safetensors model-../x-of-1.safetensors \
            ../config.json /config.json onnx/vision_model.onnx_data/../../x onnx/vision_model.onnx_data_../x";
        let expected = "config.json model-1-of-1.safetensors model.safetensors.index.json";
        assert_chosen(files, &wanted("", &Tower::BOTH, true), expected);
    }

    proptest::proptest! {
        #[test]
        fn whatever_a_repository_holds_the_choice_is_of_plain_names(rest in r"[a-z0-9_./\\-]{0,20}") {
            let graph = "onnx/text_model.onnx";
            let mut files: BTreeSet<String> = SMALL.split(' ').map(str::to_owned).collect();
            let vision = "onnx/vision_model.onnx".to_owned();
            files.extend([vision, graph.to_owned(), format!("{graph}{rest}"), format!("{graph}_data{rest}"), rest]);
            for file in select(&files, &wanted("", &Tower::BOTH, true)).expect("both graphs").files {
                let parts: Vec<&str> = file.split('/').collect();
                proptest::prop_assert!(parts.len() <= 2 && !parts.contains(&"..") && !parts.contains(&""), "{file}");
            }
        }
    }
}
