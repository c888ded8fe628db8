//! What a start reads and what it does when that is damaged: weights are checked beside the towers that are opened from them.
//!
//! Owns what only a whole start shows. What a checksum finds has its tests in `src/model`, what the cache makes anew in `tests/export.rs`.

use std::{fs, os::unix::fs::FileExt, path::Path};

use crate::{
    checkpoint::{assert_texts, checkpoint, start, utf8},
    lifecycle::{command, fault},
    support::fixture,
};

/// Changes a bit in the middle of the file, whose length stays.
fn damage(file: &Path) {
    let middle = fs::metadata(file).expect("there").len() / 2;
    let opened = fs::File::options().read(true).write(true).open(file).expect("a file");
    let mut byte = [0];
    opened.read_exact_at(&mut byte, middle).expect("readable");
    opened.write_all_at(&[byte[0] ^ 0x40], middle).expect("written");
}

/// The file of that name in the one export of a cache.
fn exported(cache: &Path, name: &str) -> std::path::PathBuf {
    let folders = fs::read_dir(cache).expect("the cache").map(|entry| entry.expect("readable").path().join(name));
    folders.into_iter().find(|path| path.is_file()).expect("one export")
}

#[tokio::test(flavor = "multi_thread")]
async fn weights_in_the_cache_that_are_damaged_are_never_served_and_made_anew() {
    let (model, cache) = (checkpoint(), tempfile::tempdir().expect("a folder"));
    start(model.path(), cache.path(), &[]).await.stop().await;
    let weights = exported(cache.path(), "onnx/text_model.onnx_data");
    let whole = fs::read(&weights).expect("readable");
    assert!(whole.len() > 1 << 20, "so small that it is checked before it is opened");
    damage(&weights);
    assert_ne!(fs::read(&weights).expect("readable"), whole);

    let server = start(model.path(), cache.path(), &[]).await;
    assert_texts(&server, 1e-5).await;
    server.stop().await;
    assert!(fs::read(&weights).expect("readable") == whole, "made anew");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_of_the_operator_s_own_that_is_damaged_is_refused_by_name() {
    let out = tempfile::tempdir().expect("a folder");
    let out = out.path().join("model");
    let exported = fault(command(&["export", utf8(&fixture("tiny-clip")), utf8(&out)]));
    assert_eq!(exported.status.code(), Some(0), "{}", String::from_utf8_lossy(&exported.stderr));
    damage(&out.join("onnx/text_model.onnx_data"));
    let message = crate::layouts::refusal(&[format!("model.path={}", out.display())]).await;
    assert!(message.contains("text_model.onnx_data") && message.contains("checksum"), "{message}");
}
