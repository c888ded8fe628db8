//! The cache of exports by content.
//!
//! Owns the key (everything that changes what is written) and the lock; `folder` owns that a folder is whole. Invariants: of several starts at once one exports and the others wait for it; what a crash left behind is removed by the
//! next export of the same key.

use std::{
    fs::{self, File},
    path::Path,
};

use sha2::{Digest, Sha256};

use super::{
    checkpoint::{Checkpoint, file_sha256, hex},
    error::ExportError,
    folder::{ExportedModel, companions},
    metadata::exporter_version,
    model::export_opened,
};
use crate::{
    config::Precision,
    model::{CheckpointFiles, rules::Rules},
};

/// The export of the checkpoint in `source`, from `cache_dir` if the same contents were exported before, else made there.
///
/// # Errors
/// As [`super::export_checkpoint`].
pub fn export_cached(source: &Path, cache_dir: &Path, precision: Precision) -> Result<ExportedModel, ExportError> {
    let checkpoint = Checkpoint::open(source)?;
    let digest = checkpoint.sha256()?;
    let key = cache_key(checkpoint.files(), &digest, precision)?;
    let dir = cache_dir.join(&key);
    fs::create_dir_all(cache_dir).map_err(ExportError::io(cache_dir))?;
    let lock_path = cache_dir.join(format!("{key}.lock"));
    let lock = File::create(&lock_path).map_err(ExportError::io(&lock_path))?;
    // Released when the file is closed, and by the system when the process dies.
    lock.lock().map_err(ExportError::io(&lock_path))?;
    if dir.exists() {
        return Ok(ExportedModel::at(&dir));
    }
    remove_leftovers(cache_dir, &key)?;
    export_opened(source, &checkpoint, &digest, &dir, precision)
}

/// Everything that the export depends on, in hexadecimal.
fn cache_key(files: &CheckpointFiles, weights_digest: &str, precision: Precision) -> Result<String, ExportError> {
    let mut parts = format!("{} {} {weights_digest}\n", exporter_version(precision), precision.name());
    if files.rules() != Rules::Transformers {
        // The same files would have other rules under another name.
        parts.push_str(&format!("{}\n", files.rules().name()));
    }
    for path in companions(files) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        parts.push_str(&format!("{name} {}\n", file_sha256(&path)?));
    }
    Ok(hex(&Sha256::digest(parts)))
}

/// Removes what crashed exports of `key` left. Called with the lock held, so none is running.
fn remove_leftovers(cache_dir: &Path, key: &str) -> Result<(), ExportError> {
    let prefix = format!(".{key}.partial-");
    for entry in fs::read_dir(cache_dir).map_err(ExportError::io(cache_dir))?.flatten() {
        if entry.file_name().to_string_lossy().starts_with(&prefix) {
            fs::remove_dir_all(entry.path()).map_err(ExportError::io(entry.path()))?;
        }
    }
    Ok(())
}
