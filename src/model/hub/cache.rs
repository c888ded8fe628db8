//! The cache of the Hugging Face Hub's own tools, shared with them: what is where, and how it gets its name.
//!
//! Owns the layout of one repository: `blobs/<etag>` holds contents, `snapshots/<commit>/<file>` are symbolic links to them,
//! `refs/<revision>` holds a commit, and `.locks` beside the repository one lock file for each blob. Does not download.
//!
//! Invariants: a blob under its final name is whole and checked; a snapshot is linked once all of its blobs are there, and a
//! ref is written after that, at once, so whoever follows a ref that was written here finds everything.

use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use super::{HubError, RepoId};
use crate::model::lock::{Lock, lock, replace};

/// The folders of one repository.
#[derive(Debug)]
pub(super) struct RepoCache {
    root: PathBuf,
    locks: PathBuf,
}

impl RepoCache {
    pub(super) fn of(cache: &Path, repo: &RepoId) -> Self {
        let folder = format!("models--{}", repo.0.replace('/', "--"));
        Self { root: cache.join(&folder), locks: cache.join(".locks").join(folder) }
    }

    pub(super) fn blob(&self, etag: &str) -> PathBuf {
        self.root.join("blobs").join(etag)
    }

    pub(super) fn snapshot(&self, commit: &str) -> PathBuf {
        self.root.join("snapshots").join(commit)
    }

    /// The commit that `revision` was when it was last downloaded, or `revision` where that is a commit.
    pub(super) fn commit(&self, revision: &str) -> Option<String> {
        if is_commit(revision) {
            return Some(revision.to_owned());
        }
        let commit = fs::read_to_string(self.root.join("refs").join(revision)).ok()?;
        Some(commit.trim().to_owned()).filter(|commit| is_commit(commit))
    }

    /// The files of a snapshot whose contents are there.
    pub(super) fn files(&self, commit: &str) -> BTreeSet<String> {
        let root = self.snapshot(commit);
        let mut files = BTreeSet::new();
        let mut folders = vec![root.clone()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
                let path = entry.path();
                // Not through the links of folders, which could go round in circles.
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    folders.push(path);
                } else if path.is_file()
                    && let Some(name) = path.strip_prefix(&root).ok().and_then(Path::to_str)
                {
                    files.insert(name.to_owned());
                }
            }
        }
        files
    }

    /// Makes the folder of the blobs and takes the lock of one, waiting for another process that downloads it. It goes
    /// when it is dropped, and with the process.
    pub(super) fn lock(&self, etag: &str) -> Result<Lock, HubError> {
        create_folder(&self.root.join("blobs"))?;
        create_folder(&self.locks)?;
        let path = self.locks.join(format!("{etag}.lock"));
        let waits = || tracing::info!(lock = %path.display(), "another process downloads this file; waiting for it");
        lock(&path, waits).map_err(HubError::storage(&path))
    }

    /// Gives the blobs their names in the snapshot of `commit`.
    pub(super) fn link<'a>(
        &self,
        commit: &str,
        files: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<(), HubError> {
        for (name, etag) in files {
            let path = self.snapshot(commit).join(name);
            if let Some(folder) = path.parent() {
                create_folder(folder)?;
            }
            // Relative, so that the cache can be moved or mounted elsewhere; one step up for each folder below `snapshots`.
            let up = "../".repeat(name.split('/').count() + 1);
            let target = format!("{up}blobs/{etag}");
            let linked = match symlink(&target, &path) {
                // Another process was faster; a commit never changes, so its link is as good unless it leads nowhere.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_file() => Ok(()),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    fs::remove_file(&path).and_then(|()| symlink(&target, &path))
                }
                linked => linked,
            };
            linked.map_err(HubError::storage(&path))?;
        }
        Ok(())
    }

    /// Notes that `revision` is `commit`.
    pub(super) fn write_ref(&self, revision: &str, commit: &str) -> Result<(), HubError> {
        if is_commit(revision) || self.commit(revision).as_deref() == Some(commit) {
            return Ok(());
        }
        let path = self.root.join("refs").join(revision);
        if let Some(folder) = path.parent() {
            create_folder(folder)?;
        }
        // Beside the locks: what is in `refs` counts as a ref.
        create_folder(&self.locks)?;
        replace(&path, &self.locks.join("ref.partial"), commit.as_bytes()).map_err(HubError::storage(&path))
    }
}

/// Whether `text` is the full hash of a commit.
pub(super) fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn create_folder(path: &Path) -> Result<(), HubError> {
    fs::create_dir_all(path).map_err(HubError::storage(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    #[test]
    fn a_snapshot_is_links_to_blobs_and_a_ref_leads_to_it() {
        let root = tempfile::tempdir().expect("a folder");
        let cache = RepoCache::of(root.path(), &RepoId("a/b".to_owned()));
        drop(cache.lock("e1").expect("a lock"));
        fs::write(cache.blob("e1"), "one").expect("a blob");
        let files = [("config.json", "e1"), ("onnx/text_model.onnx", "e1"), ("gone.json", "e2")];
        cache.link(COMMIT, files).expect("linked");
        cache.link(COMMIT, files).expect("linked again");
        cache.write_ref("refs/pr/1", COMMIT).expect("written");

        let repo = root.path().join("models--a--b");
        let linked = repo.join("snapshots").join(COMMIT).join("onnx/text_model.onnx");
        assert_eq!(fs::read_link(&linked).expect("a link"), Path::new("../../../blobs/e1"));
        assert_eq!(fs::read_to_string(&linked).expect("its blob"), "one");
        assert_eq!(fs::read_to_string(repo.join("refs/refs/pr/1")).expect("a ref"), COMMIT);
        assert_eq!(cache.commit("refs/pr/1").as_deref(), Some(COMMIT));
        assert_eq!(cache.commit("main"), None);
        // The third link leads nowhere, so that file is not there.
        assert_eq!(cache.files(COMMIT).into_iter().collect::<Vec<_>>(), ["config.json", "onnx/text_model.onnx"]);
        assert!(root.path().join(".locks/models--a--b/e1.lock").is_file());
    }

    #[test]
    fn a_ref_that_holds_no_commit_leads_nowhere() {
        let root = tempfile::tempdir().expect("a folder");
        let cache = RepoCache::of(root.path(), &RepoId("a/b".to_owned()));
        let refs = root.path().join("models--a--b/refs");
        fs::create_dir_all(&refs).expect("a folder");
        fs::write(refs.join("main"), "../../../../etc").expect("a ref");
        assert_eq!(cache.commit("main"), None);
    }
}
