//! A file that appears under its name whole or not at all.
//!
//! Owns the way there: a hidden name in the same folder, all bytes on disk, then the name. Invariant: what a process that was killed
//! leaves has the hidden name, and the next one puts its own in its place.

use std::{
    fs::{self, File},
    io::{self, BufWriter},
    path::{Path, PathBuf},
};

use crate::bulk::error::BulkError;

/// What is behind a name that is not there yet.
const PARTIAL: &str = ".partial";

/// A file that is being written.
#[derive(Debug)]
pub(super) struct Draft {
    path: PathBuf,
    partial: PathBuf,
}

impl Draft {
    /// Begins the file that will be at `path`.
    ///
    /// # Errors
    /// [`BulkError::Out`].
    pub(super) fn begin(path: PathBuf) -> Result<(Self, BufWriter<File>), BulkError> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let partial = path.with_file_name(format!(".{name}{PARTIAL}"));
        let folder = path.parent().unwrap_or(Path::new(""));
        fs::create_dir_all(folder).map_err(|error| BulkError::at(folder, error))?;
        let file = created(&partial).map_err(|error| BulkError::at(&partial, error))?;
        Ok((Self { path, partial }, BufWriter::with_capacity(1 << 16, file)))
    }

    /// What the system said about it.
    pub(super) fn error(&self, error: impl Into<io::Error>) -> BulkError {
        BulkError::at(&self.path, error)
    }

    /// All that is to be in it has been written to `file`.
    ///
    /// # Errors
    /// [`BulkError::Out`].
    pub(super) fn written(self, file: BufWriter<File>) -> Result<Written, BulkError> {
        let file = file.into_inner().map_err(|error| self.error(error.into_error()))?;
        file.sync_all().map_err(|error| self.error(error))?;
        let bytes = file.metadata().map_err(|error| self.error(error))?.len();
        Ok(Written { path: self.path, partial: self.partial, bytes })
    }

    /// It is not to be.
    ///
    /// # Errors
    /// [`BulkError::Out`].
    pub(super) fn discard(self) -> Result<(), BulkError> {
        fs::remove_file(&self.partial).map_err(|error| self.error(error))
    }
}

/// What the file of this name is to be called, if it has not its name yet.
pub(super) fn named(partial: &str) -> Option<&str> {
    partial.strip_prefix('.')?.strip_suffix(PARTIAL)
}

/// A new file at `path`, in place of what a process that was killed has left: never one that a link leads to, nor one that has another name.
fn created(path: &Path) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => File::create_new(path),
    }
}

/// A file that is on disk and has not its name yet.
#[derive(Debug)]
pub(in crate::bulk) struct Written {
    path: PathBuf,
    partial: PathBuf,
    bytes: u64,
}

impl Written {
    /// Where it will be.
    pub(in crate::bulk) fn path(&self) -> &Path {
        &self.path
    }

    /// Its length.
    pub(in crate::bulk) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Gives it its name, which is on disk too when this returns.
    ///
    /// # Errors
    /// [`BulkError::Out`].
    pub(in crate::bulk) fn publish(&self) -> Result<(), BulkError> {
        rename(&self.partial, &self.path)
    }
}

/// Renames a file within its folder, for good.
///
/// # Errors
/// [`BulkError::Out`].
pub(super) fn rename(from: &Path, to: &Path) -> Result<(), BulkError> {
    fs::rename(from, to).map_err(|error| BulkError::at(to, error))?;
    let folder = to.parent().unwrap_or(Path::new(""));
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(|error| BulkError::at(folder, error))
}
