//! The right to make a folder: of several processes that want to, one makes it and the others wait.
//!
//! Owns the names beside the folder, `.NAME.clipserve-lock` and `.NAME.clipserve-partial`, and when they go. Invariants: who has a
//! claim is alone with the unfinished folder, so what is found there was left by a process that has ended, and is removed; after a claim
//! there is neither, unless the process was killed, and then the next claim of that folder removes them.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::error::ExportError;
use crate::model::lock::{self, Lock};

// With our name: what is so called in a folder of somebody else is removed.
const LOCK: &str = ".clipserve-lock";
const PARTIAL: &str = ".clipserve-partial";

/// The right to make one folder.
#[derive(Debug)]
pub(super) struct Claim {
    out: PathBuf,
    _lock: Lock,
}

impl Claim {
    /// Waits for who has it.
    pub(super) fn on(out: &Path) -> Result<Self, ExportError> {
        if let Some(parent) = out.parent() {
            fs::create_dir_all(parent).map_err(ExportError::io(parent))?;
        }
        let path = beside(out, LOCK);
        let waits = || tracing::info!(folder = %out.display(), "another process makes this folder; waiting for it");
        Self::with(out, lock::lock(&path, waits).map_err(ExportError::io(&path))?)
    }

    fn with(out: &Path, lock: Lock) -> Result<Self, ExportError> {
        let claim = Self { out: out.to_owned(), _lock: lock };
        let partial = claim.partial();
        match fs::remove_dir_all(&partial) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(ExportError::io(&partial)(error)),
            _ => Ok(claim),
        }
    }

    /// The folder that is to be made.
    pub(super) fn out(&self) -> &Path {
        &self.out
    }

    /// Where it is while it is unfinished: on the same file system, so that a rename makes it appear.
    pub(super) fn partial(&self) -> PathBuf {
        beside(&self.out, PARTIAL)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // While it is locked: who waits for it finds that it is gone, and makes another.
        let _ = fs::remove_file(beside(&self.out, LOCK));
    }
}

/// Removes what processes that have ended left in `folder`, as far as it can be removed.
pub(super) fn remove_leftovers(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str().and_then(|name| name.strip_prefix('.')) else { continue };
        let Some(name) = name.strip_suffix(PARTIAL).or_else(|| name.strip_suffix(LOCK)) else { continue };
        let out = folder.join(name);
        if let Ok(Some(lock)) = lock::try_lock(&beside(&out, LOCK)) {
            // To have the claim is to have removed them; what the system does not let go is no worse than before.
            let _ = Claim::with(&out, lock);
        }
    }
}

/// A hidden sibling of `out`.
fn beside(out: &Path, suffix: &str) -> PathBuf {
    out.with_file_name(format!(".{}{suffix}", out.file_name().unwrap_or_default().to_string_lossy()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_works_on_is_removed_and_the_rest_is_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        for name in [".a.clipserve-partial/onnx", ".b.clipserve-partial", "c", ".other.partial"] {
            fs::create_dir_all(path(name)).expect("a folder");
        }
        fs::write(path(".d.clipserve-lock"), "").expect("a file");
        let at_work = Claim::on(&path("b")).expect("nobody else");
        fs::create_dir(at_work.partial()).expect("what was there is removed");
        remove_leftovers(folder.path());
        let names = || {
            let mut names: Vec<_> = fs::read_dir(folder.path())
                .expect("a folder")
                .map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"))
                .collect();
            names.sort();
            names
        };
        assert_eq!(names(), [".b.clipserve-lock", ".b.clipserve-partial", ".other.partial", "c"]);
        drop(at_work);
        remove_leftovers(folder.path());
        assert_eq!(names(), [".other.partial", "c"]);
    }
}
