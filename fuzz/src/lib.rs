//! What is fuzzed: every parser of ours, each as a function of bytes that must come back, without a panic and in little memory and time.
//!
//! Owns the table of targets, by which `fuzz_targets/` and the tests call them. What a parser is called by is public: nothing here
//! reaches into the service. The tests have this file too (`tests/it/fuzzed.rs`), and give each target its small corpus (`corpus/`).

mod checkpoints;
mod models;
mod pictures;
mod requests;

/// One parser and its name, which its corpus and its program have too.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: [Target; 22] = [
    ("avif", pictures::avif),
    ("bmp", pictures::bmp),
    ("exif", pictures::exif),
    ("gif", pictures::gif),
    ("headers", pictures::headers),
    ("jpeg", pictures::jpeg),
    ("png", pictures::png),
    ("tiff", pictures::tiff),
    ("webp", pictures::webp),
    ("coding", requests::coding),
    ("data_url", requests::data_url),
    ("json", requests::json),
    ("multipart", requests::multipart),
    ("tensors", requests::tensors),
    ("hdf5", checkpoints::hdf5),
    ("msgpack", checkpoints::msgpack),
    ("pickle", checkpoints::pickle),
    ("safetensors", checkpoints::safetensors),
    ("config", models::config),
    ("graph", models::graph),
    ("settings", models::settings),
    ("tokenizer", models::tokenizer),
];

/// The target of that name.
///
/// # Panics
/// When there is none.
pub fn target(name: &str) -> fn(&[u8]) {
    let found = TARGETS.iter().find(|target| target.0 == name);
    found.unwrap_or_else(|| panic!("there is no target {name}")).1
}
