//! What is the run's own: `--out` and all below it.
//!
//! Owns telling that apart, by where a path really leads, so that no link and no other way to write it makes a source of what the run writes:
//! a run that goes on would read its own parts, and then those that come of them.

use std::{
    fs,
    path::{self, Path, PathBuf},
};

use walkdir::DirEntry;

/// The run's own folder.
#[derive(Clone, Debug)]
pub(in crate::bulk) struct Own(PathBuf);

impl Own {
    /// `out`, which need not be there yet.
    pub(in crate::bulk) fn new(out: &Path) -> Self {
        let out = path::absolute(out).unwrap_or_else(|_| out.to_owned());
        let real = |there: &Path| {
            let real = fs::canonicalize(there).ok()?;
            Some(real.join(out.strip_prefix(there).ok()?))
        };
        Self(out.ancestors().find_map(real).unwrap_or(out.clone()))
    }

    /// Whether `path` leads to it or below it. What leads nowhere does not.
    pub(in crate::bulk) fn has(&self, path: &Path) -> bool {
        fs::canonicalize(path).is_ok_and(|path| path.starts_with(&self.0))
    }

    /// The same of what a walk comes by. What is in a folder that is not the run's own is not either, but for where a link leads.
    pub(super) fn has_entry(&self, entry: &DirEntry) -> bool {
        (entry.file_type().is_dir() || entry.path_is_symlink()) && self.has(entry.path())
    }

    /// That no source is there.
    ///
    /// # Errors
    /// One line that names `path`.
    pub(super) fn must_not_have(&self, path: &Path) -> Result<(), String> {
        if !self.has(path) {
            return Ok(());
        }
        Err(format!(
            "{}: it is --out or lies in it, and a run does not read what it writes; give another --out, or another source (a folder or a quoted \
             pattern that has --out below it may stay: --out is left out)",
            path.display()
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_below_the_folder_is_its_own_by_whatever_way() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir_all(at("real/out/embeddings")).unwrap();
        fs::create_dir_all(at("real/output")).unwrap();
        std::os::unix::fs::symlink(at("real"), at("link")).unwrap();
        std::os::unix::fs::symlink(at("real/out/embeddings"), at("inside")).unwrap();
        std::os::unix::fs::symlink("nowhere", at("real/out/lost")).unwrap();
        for out in ["real/out", "link/out", "real/../link/out/"] {
            let own = Own::new(&at(out));
            for path in ["real/out", "link/out/embeddings", "inside", "real/output/../out"] {
                assert!(own.has(&at(path)), "{path} of {out}");
            }
            for path in ["real", "real/output", "real/out/lost", "absent", "."] {
                assert!(!own.has(&at(path)), "{path} of {out}");
            }
        }
        let own = Own::new(&at("link/new/deep"));
        fs::create_dir_all(at("real/new/deep/er")).unwrap();
        assert!(own.has(&at("real/new/deep/er")) && !own.has(&at("real/new")), "it was not there when it was named");
    }
}
