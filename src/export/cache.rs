//! The cache of exports by content.
//!
//! Owns the key (everything that changes what is written), and that what is taken from it is what was written; `folder` owns that
//! a folder appears whole, `claim` who makes it. Invariants: of several starts at once one exports and the others wait for it; what a
//! process that was killed left behind is removed by the next start; what a disk has made of an entry since is found, and the entry
//! made anew.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{
    checkpoint::Checkpoint,
    claim::{Claim, remove_leftovers},
    error::ExportError,
    folder::{ExportedModel, GRAPHS, companions},
    metadata::exporter_version,
    model::export_opened,
};
use crate::{
    config::Precision,
    model::{CheckpointFiles, DigestError, Digests, rules::Rules, sha256::Sha256Digest},
};

/// The export of the checkpoint in `source`, from `cache_dir` if the same contents were exported before, else made there. For what is there
/// nothing is written, so the cache may be read-only, or another user's.
///
/// # Errors
/// As [`super::export_checkpoint`].
pub fn export_cached(
    source: &Path,
    cache_dir: &Path,
    precision: Precision,
    digests: &Digests,
) -> Result<ExportedModel, ExportError> {
    let checkpoint = Checkpoint::open(source)?;
    let digest = checkpoint.sha256(digests)?;
    let key = cache_key(checkpoint.files(), &digest, precision, digests)?;
    let dir = cache_dir.join(&key);
    remove_leftovers(cache_dir);
    let whole = || check(&dir, checkpoint.files(), digests);
    if dir.exists() && whole().is_ok() {
        return Ok(ExportedModel::at(&dir));
    }
    let claim = Claim::on(&dir)?;
    if dir.exists() {
        // Another start may have made it, or made it anew, meanwhile.
        digests.forget(&dir);
        let Err(damage) = whole() else { return Ok(ExportedModel::at(&dir)) };
        digests.forget(&dir);
        tracing::warn!(folder = %dir.display(), %damage, "an export in the cache is damaged: it is made anew");
        fs::remove_dir_all(&dir).map_err(ExportError::io(&dir))?;
    }
    let exported = export_opened(source, &checkpoint, &digest, &claim, precision)?;
    digests.take_over(&dir.join(GRAPHS));
    Ok(exported)
}

/// Everything that the export depends on, in hexadecimal.
fn cache_key(
    files: &CheckpointFiles,
    weights_digest: &str,
    precision: Precision,
    digests: &Digests,
) -> Result<String, ExportError> {
    let mut parts = format!("{} {} {weights_digest}\n", exporter_version(precision), precision.name());
    if files.rules() != Rules::Transformers {
        // The same files would have other rules under another name.
        parts.push_str(&format!("{}\n", files.rules().name()));
    }
    for path in companions(files) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let digest = digests.sha256(&path).map_err(ExportError::digest(&path))?;
        parts.push_str(&format!("{name} {}\n", digest.contents.hex()));
    }
    Ok(Sha256Digest::of(parts).hex())
}

/// Whether the export in `dir` is what was written: its graphs by their record, the copies beside them by what they are copies of.
fn check(dir: &Path, files: &CheckpointFiles, digests: &Digests) -> Result<(), Damage> {
    let fault = |path: &Path| {
        let path = path.to_owned();
        move |error| Damage { path, error }
    };
    let graphs = dir.join(GRAPHS);
    digests.check_export(&graphs).map_err(fault(&graphs))?;
    for path in companions(files) {
        let copy = dir.join(path.file_name().unwrap_or_default());
        let (of_copy, of_source) = (digests.sha256(&copy), digests.sha256(&path));
        if of_copy.map_err(fault(&copy))? != of_source.map_err(fault(&path))? {
            return Err(fault(&copy)(DigestError::Damaged));
        }
    }
    Ok(())
}

/// What is wrong with an export in the cache.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {error}", path = .path.display())]
struct Damage {
    path: PathBuf,
    error: DigestError,
}
