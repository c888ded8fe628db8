//! What the process can learn of itself: where its executable is, what lies beside it, how many CPUs it may use.
//!
//! Owns the defaults that depend on the machine. Does not own the keys they are defaults of.

use std::{
    num::NonZeroUsize,
    path::{Path, PathBuf},
    thread,
};

/// Where a source checkout has the model that is served when none is named.
const BUNDLED_MODEL: &str = "onnx/emoji-clip";

/// Where it has pictures to try that with.
const BUNDLED_PICTURES: &str = "onnx/examples";

/// The folder of the running executable, which the system always knows on the platforms we run on.
pub(super) fn executable_dir() -> Option<PathBuf> {
    std::env::current_exe().ok()?.parent().map(Path::to_owned)
}

/// The model in the box: `onnx/emoji-clip` in the executable's folder or any folder above it, as in a source checkout.
pub(super) fn bundled_model(executable_dir: &Path) -> Option<PathBuf> {
    executable_dir.ancestors().map(|dir| dir.join(BUNDLED_MODEL)).find(|model| model.join("config.json").is_file())
}

/// Drawings to try a model with: `onnx/examples` in the executable's folder or any folder above it, as in a source checkout.
pub fn bundled_pictures() -> Option<PathBuf> {
    executable_dir()?.ancestors().map(|dir| dir.join(BUNDLED_PICTURES)).find(|folder| folder.is_dir())
}

/// The CPUs that this process may use; honours affinity and a cgroup's quota.
pub(super) fn parallelism() -> usize {
    thread::available_parallelism().map_or(1, NonZeroUsize::get)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_model_in_the_box_is_found_above_the_executable() {
        let root = tempfile::tempdir().unwrap();
        let bin = root.path().join("target/release");
        std::fs::create_dir_all(&bin).unwrap();
        assert_eq!(bundled_model(&bin), None);
        let model = root.path().join(BUNDLED_MODEL);
        std::fs::create_dir_all(&model).unwrap();
        assert_eq!(bundled_model(&bin), None, "a folder alone is no model");
        std::fs::write(model.join("config.json"), "{}").unwrap();
        assert_eq!(bundled_model(&bin), Some(model));
    }
}
