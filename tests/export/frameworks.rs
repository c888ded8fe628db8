//! Checkpoints by the TensorFlow and Flax classes of `transformers`, against what those classes compute of them
//! (`onnx/verify.py frameworks`).

use std::{fs, path::Path};

use clipserve::{
    config::Precision,
    export::{Checkpoint, export_checkpoint},
};
use ndarray::{ArrayD, Axis, Ix2};

use super::{Golden, check_fixture, distance, embed_images, embed_texts, export, fixture, session};

const ALL: [&str; 7] = ["tf", "tf-text", "tf-vision", "flax", "flax-text", "flax-text-with-projection", "flax-vision"];

#[test]
fn every_class_is_answered_as_it_answers() {
    for name in ALL {
        check_fixture(&format!("frameworks/{name}"));
    }
}

#[test]
fn logits_are_those_of_the_classes() {
    for name in ["tf", "flax"] {
        let folder = format!("export/frameworks/{name}");
        let (_dir, model) = export(&folder, Precision::F32);
        let mut golden = Golden::open(&fixture(&folder).join("golden.npz"));
        let unit = |embeds: ArrayD<f32>| {
            let embeds = embeds.into_dimensionality::<Ix2>().unwrap();
            let norms = embeds.mapv(|x| x * x).sum_axis(Axis(1)).mapv(f32::sqrt).insert_axis(Axis(1));
            embeds / norms
        };
        let images = embed_images(&mut session(&model.vision.unwrap()), &golden.get("pixel_values"));
        let texts = embed_texts(&mut session(&model.text.unwrap()), &golden.get("input_ids"));
        let scale: ArrayD<f32> = golden.get("logit_scale");
        let logits = unit(images).dot(&unit(texts).t()) * scale[[0]];
        let distance = distance(&logits.into_dyn(), &golden.get("logits_per_image"));
        assert!(distance < super::F32_BAR, "{name}: {distance:e}");
    }
}

/// The weights of `name`, without those that it has beside its configuration, in a folder of its own.
fn with_weights_of(name: &str, folder: &str) -> tempfile::TempDir {
    let (dir, source) = (tempfile::tempdir().unwrap(), fixture("export/frameworks").join(name));
    for from in [source.clone(), source.join(folder)] {
        for entry in fs::read_dir(from).unwrap() {
            let path = entry.unwrap().path();
            let file = path.file_name().unwrap().to_str().unwrap();
            let is_other = path.parent() == Some(&source) && ["h5", "msgpack"].iter().any(|end| file.ends_with(end));
            if path.is_file() && !is_other {
                fs::copy(&path, dir.path().join(file)).unwrap();
            }
        }
    }
    dir
}

#[test]
fn the_same_weights_saved_in_another_way_are_the_same() {
    for (name, folder) in [("tf", "safetensors-shards"), ("flax", "shards")] {
        let (source, out) = (with_weights_of(name, folder), tempfile::tempdir().unwrap());
        let exported = export_checkpoint(source.path(), &out.path().join("model"), Precision::F32).unwrap();
        let (_folder, expected) = export(&format!("export/frameworks/{name}"), Precision::F32);
        for tower in ["vision", "text"] {
            let weights = |dir: &Path| fs::read(dir.join(format!("onnx/{tower}_model.onnx_data"))).unwrap();
            assert!(!weights(&expected.dir).is_empty());
            assert!(weights(&exported.dir) == weights(&expected.dir), "{tower} of {name}");
        }
    }
}

#[test]
fn an_index_that_names_what_no_shard_has_is_caught() {
    for (name, folder, index) in [
        ("tf", "safetensors-shards", "model.safetensors.index.json"),
        ("tf-text", "", "tf_model.h5.index.json"),
        ("flax", "shards", "flax_model.msgpack.index.json"),
    ] {
        let source = with_weights_of(name, folder);
        for entry in fs::read_dir(fixture("export/frameworks").join(name).join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                fs::copy(&path, source.path().join(path.file_name().unwrap())).unwrap();
            }
        }
        Checkpoint::open(source.path()).unwrap();
        let index = source.path().join(index);
        let lying = fs::read_to_string(&index).unwrap().replace("final_layer_norm", "last_layer_norm");
        fs::write(&index, lying).unwrap();
        let error = Checkpoint::open(source.path()).unwrap_err().to_string();
        assert!(error.contains("last_layer_norm") && error.contains("is missing"), "{error}");
    }
}

/// A thousand of each file with a few bytes changed or its end cut off: whatever they say, it is an answer.
#[test]
fn damaged_files_are_read_or_refused_and_nothing_else() {
    let mut rng = fastrand::Rng::with_seed(17);
    for (from, name) in [
        ("tf/tf_model.h5", "tf_model.h5"),
        ("odd.h5", "tf_model.h5"),
        ("flax-text/flax_model.msgpack", "flax_model.msgpack"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let whole = fs::read(fixture("export/frameworks").join(from)).unwrap();
        let mut refused = 0;
        for _ in 0..1_000 {
            let mut bytes = whole.clone();
            for _ in 0..rng.usize(1..4) {
                // Sizes and addresses are of eight bytes.
                let at = rng.usize(..whole.len() / 8) * 8;
                match rng.u8(..4) {
                    0 => bytes[at] = rng.u8(..),
                    1 => bytes[at + rng.usize(..8)] = rng.u8(..),
                    2 => bytes[at..at + 8].copy_from_slice(&(rng.u64(..) >> rng.u32(..64)).to_le_bytes()),
                    _ => {
                        let from = rng.usize(..whole.len() / 8) * 8;
                        bytes.copy_within(from..from + 8, at);
                    }
                }
            }
            if rng.u8(..8) == 0 {
                bytes.truncate(rng.usize(..whole.len()));
            }
            fs::write(dir.path().join(name), bytes).unwrap();
            refused += usize::from(Checkpoint::open(dir.path()).is_err());
        }
        assert!((100..1_000).contains(&refused), "{from}: {refused}");
    }
}
