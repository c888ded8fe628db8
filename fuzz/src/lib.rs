//! What the fuzz targets, one for each container, have in common.

use std::{cell::OnceCell, fs};

use clipserve::{export::Checkpoint, model::Weights};
use tempfile::TempDir;

thread_local! {
    static FOLDER: OnceCell<TempDir> = const { OnceCell::new() };
}

/// Opens a checkpoint whose weights are these bytes. That it ends, without a panic and in little memory, is what is tried.
pub fn open(weights: Weights, bytes: &[u8]) {
    FOLDER.with(|folder| {
        let folder = folder.get_or_init(|| TempDir::new().expect("a folder")).path();
        fs::write(folder.join(weights.file()), bytes).expect("room for a file");
        let _ = Checkpoint::open(folder);
    });
}
