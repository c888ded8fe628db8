//! The small corpus of every fuzz target, replayed: each input must come back, and an empty corpus is a fault.
//!
//! Owns that no target is without a corpus, a program and a test. What a target calls and asserts is in `fuzz/src`, which is compiled
//! here as it is; `fuzz/run.sh` looks for new inputs.

use std::{collections::BTreeSet, fs, path::Path};

#[path = "../../fuzz/src/lib.rs"]
#[allow(unreachable_pub, reason = "it is a library of its own")]
mod targets;

/// A file or folder of `fuzz`.
fn fuzz(path: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(path)
}

/// Every input of a target's corpus.
#[expect(clippy::print_stdout, reason = "says which one it was when it does not come back")]
fn replay(name: &str) {
    let target = targets::target(name);
    let mut inputs = 0;
    for entry in fs::read_dir(fuzz("corpus").join(name)).expect("the target has a corpus") {
        let path = entry.expect("readable").path();
        println!("{}", path.display());
        target(&fs::read(&path).expect("readable"));
        inputs += 1;
    }
    assert!(inputs > 0, "the corpus of {name} is empty");
}

macro_rules! replays {
    ($($name:ident)+) => {
        $(
            #[test]
            fn $name() {
                replay(stringify!($name));
            }
        )+

        const REPLAYED: &[&str] = &[$(stringify!($name)),+];
    };
}

replays! {
    avif bmp coding config data_url exif gif graph hdf5 headers jpeg json msgpack multipart pickle png safetensors settings tensors tiff
    tokenizer webp
}

#[test]
fn every_target_has_a_program_a_corpus_and_a_test() {
    let targets: BTreeSet<&str> = targets::TARGETS.iter().map(|target| target.0).collect();
    assert_eq!(targets, BTreeSet::from_iter(REPLAYED.iter().copied()), "tests");
    let manifest: toml::Table = fs::read_to_string(fuzz("Cargo.toml")).expect("a manifest").parse().expect("TOML");
    let programs =
        manifest["bin"].as_array().expect("programs").iter().map(|bin| bin["name"].as_str().expect("a name"));
    assert_eq!(targets, programs.collect(), "programs");
    for name in &targets {
        let program = fs::read_to_string(fuzz(&format!("fuzz_targets/{name}.rs"))).expect("a program");
        assert!(program.contains(&format!("target(\"{name}\")")), "{name}");
    }
    let corpora: BTreeSet<String> = fs::read_dir(fuzz("corpus"))
        .expect("corpora")
        .map(|entry| entry.expect("readable").file_name().into_string().expect("a name"))
        .collect();
    assert_eq!(targets.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>(), corpora, "corpora");
}
