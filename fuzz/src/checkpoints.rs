//! The containers of checkpoints.

use std::{cell::OnceCell, fs};

use clipserve::{export::Checkpoint, model::Weights};
use tempfile::TempDir;

thread_local! {
    static FOLDER: OnceCell<TempDir> = const { OnceCell::new() };
}

pub(super) fn hdf5(bytes: &[u8]) {
    open(Weights::TensorFlow, bytes);
}

pub(super) fn msgpack(bytes: &[u8]) {
    open(Weights::Flax, bytes);
}

pub(super) fn pickle(bytes: &[u8]) {
    open(Weights::PyTorch, bytes);
}

pub(super) fn safetensors(bytes: &[u8]) {
    open(Weights::Safetensors, bytes);
}

/// Opens a checkpoint whose weights are these bytes.
fn open(weights: Weights, bytes: &[u8]) {
    FOLDER.with(|folder| {
        let folder = folder.get_or_init(|| TempDir::new().expect("a folder")).path();
        let file = folder.join(weights.file());
        fs::write(&file, bytes).expect("room for a file");
        let _ = Checkpoint::open(folder);
        // The tests have all containers in one thread, and what lies there decides which is read.
        fs::remove_file(file).expect("it was written");
    });
}
