//! The small files of a checkpoint: beside its weights, or in diffusers' pipelines in the folder beside that.
//!
//! Owns where they are looked for. Does not own what they say.
//!
//! | folder | the other |
//! |---|---|
//! | `text_encoder`, `text_encoder_2` | `../tokenizer`, `../tokenizer_2` |
//! | `image_encoder` | `../feature_extractor` |

use std::{
    iter,
    path::{Path, PathBuf},
};

use super::{error::ModelError, preprocessor};

/// The folders that a checkpoint's small files are looked for in, in this order: its own, and in a pipeline the one beside it.
fn folders(checkpoint: &Path) -> impl Iterator<Item = PathBuf> {
    // So that `.` has a name.
    let whole = checkpoint.canonicalize().unwrap_or_else(|_| checkpoint.to_owned());
    let beside = whole.file_name().and_then(|name| name.to_str()).and_then(|name| match name {
        "image_encoder" => Some("feature_extractor".to_owned()),
        _ => name.strip_prefix("text_encoder").map(|number| format!("tokenizer{number}")),
    });
    iter::once(checkpoint.to_owned()).chain(beside.map(|beside| whole.with_file_name(beside)))
}

/// The file `name` of a checkpoint, where it is.
pub fn companion(checkpoint: &Path, name: &str) -> Option<PathBuf> {
    folders(checkpoint).map(|folder| folder.join(name)).find(|path| path.is_file())
}

/// The file that says how a checkpoint's pictures are prepared, if there is one.
///
/// # Errors
/// When one is damaged.
pub fn preprocessor_of(checkpoint: &Path) -> Result<Option<PathBuf>, ModelError> {
    folders(checkpoint).find_map(|folder| preprocessor::find(&folder).transpose()).transpose()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn in_a_pipeline_small_files_lie_beside_the_encoder() {
        let root = tempfile::tempdir().expect("a folder");
        for file in [
            "text_encoder_2/config.json",
            "tokenizer_2/vocab.json",
            "image_encoder/config.json",
            "feature_extractor/preprocessor_config.json",
            "tokenizer/vocab.json",
            "other/config.json",
        ] {
            let path = root.path().join(file);
            fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
            fs::write(path, "{}").expect("written");
        }
        let of = |folder: &str, name| companion(&root.path().join(folder), name);
        let at = |path: &str| Some(root.path().canonicalize().expect("there").join(path));
        assert_eq!(of("text_encoder_2", "vocab.json"), at("tokenizer_2/vocab.json"));
        assert_eq!(of("text_encoder_2", "config.json"), Some(root.path().join("text_encoder_2/config.json")));
        assert_eq!(of("other", "vocab.json"), None);
        let preprocessor = preprocessor_of(&root.path().join("image_encoder")).expect("readable");
        assert_eq!(preprocessor, at("feature_extractor/preprocessor_config.json"));
    }
}
