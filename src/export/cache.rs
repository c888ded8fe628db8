//! Exports that appear whole or not at all, and the cache of them by content.
//!
//! Owns the key (everything that changes what is written), the lock and the rename. Invariants: a folder under its final name
//! is complete; of several starts at once one exports and the others wait for it; what a crash left behind is removed by the
//! next export of the same key.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    process,
};

use sha2::{Digest, Sha256};

use super::{
    COPIED_FILES, Checkpoint, ExportError, ExportedModel,
    checkpoint::{file_sha256, hex},
    export_opened, exporter_version,
};
use crate::config::Precision;

/// The export of the checkpoint in `source`, from `cache_dir` if the same contents were exported before, else made there.
///
/// # Errors
/// As [`super::export_checkpoint`].
pub fn export_cached(source: &Path, cache_dir: &Path, precision: Precision) -> Result<ExportedModel, ExportError> {
    let checkpoint = Checkpoint::open(source)?;
    let digest = checkpoint.sha256()?;
    let key = cache_key(source, &digest, precision)?;
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
fn cache_key(source: &Path, weights_digest: &str, precision: Precision) -> Result<String, ExportError> {
    let mut parts = format!("{} {} {weights_digest}\n", exporter_version(precision), precision.name());
    for name in COPIED_FILES {
        let path = source.join(name);
        if path.exists() {
            parts.push_str(&format!("{name} {}\n", file_sha256(&path)?));
        }
    }
    Ok(hex(&Sha256::digest(parts)))
}

/// Lets `fill` write a folder under another name, then gives it the name `out`. On any error nothing is left.
pub(crate) fn new_folder(
    out: &Path,
    fill: impl FnOnce(&Path) -> Result<(), ExportError>,
) -> Result<ExportedModel, ExportError> {
    let occupied = match fs::read_dir(out) {
        Ok(mut entries) => entries.next().is_some(),
        Err(_) => out.exists(),
    };
    if occupied {
        return Err(ExportError::OutputExists(out.to_owned()));
    }
    let partial = partial_path(out, process::id());
    fs::create_dir_all(&partial).map_err(ExportError::io(&partial))?;
    let result = fill(&partial).and_then(|()| {
        // To disk before the name says that it is complete: a power cut must not leave holes under the final name.
        sync_tree(&partial).map_err(ExportError::io(&partial))?;
        fs::rename(&partial, out).map_err(ExportError::io(out))
    });
    match result {
        Ok(()) => Ok(ExportedModel::at(out)),
        Err(error) => {
            // The first error is the one to report; what cannot be removed now, the next export removes.
            let _ = fs::remove_dir_all(&partial);
            Err(error)
        }
    }
}

/// Waits until every file and folder in `dir`, and `dir` itself, is on disk.
fn sync_tree(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_tree(&entry.path())?;
        } else {
            File::open(entry.path())?.sync_all()?;
        }
    }
    File::open(dir)?.sync_all()
}

/// A hidden sibling of `out`: on the same file system, so that the rename is atomic.
fn partial_path(out: &Path, process: u32) -> PathBuf {
    out.with_file_name(format!(".{}.partial-{process}", out.file_name().unwrap_or_default().to_string_lossy()))
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
