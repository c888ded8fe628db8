//! The folder of an exported model, which appears whole or not at all.
//!
//! Owns the names of its files, the rename that makes it appear, and the copies beside the graphs. Does not own what is in the graphs, nor
//! who may make it (`claim`).
//! Invariant: a folder under its final name is complete and on disk.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use super::{claim::Claim, error::ExportError};
use crate::model::{CheckpointFiles, companion, open_clip::OPEN_CLIP_FILE, preprocessor, rules::Rules};

/// The folder of the graphs and their weights, in that of the model.
pub(super) const GRAPHS: &str = "onnx";

/// What `transformers` leaves beside its weights, as far as it is there, before its tokenizer.
const OF_TRANSFORMERS: [&str; 3] = ["config.json", preprocessor::PREPROCESSOR_FILE, preprocessor::PROCESSOR_FILE];
/// A tokenizer's files; of open_clip, where `hf_tokenizer_name` stands for one.
const OF_TOKENIZER: [&str; 6] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
];

/// The files that say how inputs are made for these weights: they are copied beside the graphs, and what an export depends on.
pub(super) fn companions(files: &CheckpointFiles) -> Vec<PathBuf> {
    match (files.description(), files.rules()) {
        (Some((directory, _)), Rules::OpenClip) => those_of(directory, &[OPEN_CLIP_FILE]),
        (Some((directory, _)), _) => files_of_transformers(directory),
        (None, _) => Vec::new(),
    }
}

/// The files of `transformers` in `directory`.
pub(super) fn files_of_transformers(directory: &Path) -> Vec<PathBuf> {
    those_of(directory, &OF_TRANSFORMERS)
}

/// These files and those of a tokenizer, as far as they are there.
fn those_of(directory: &Path, names: &[&str]) -> Vec<PathBuf> {
    names.iter().chain(&OF_TOKENIZER).filter_map(|name| companion(directory, name)).collect()
}

/// A model folder that was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportedModel {
    /// The folder.
    pub dir: PathBuf,
    /// The graph of `image_embeds`, when the checkpoint has a vision tower and its projection.
    pub vision: Option<PathBuf>,
    /// The graph of all outputs of the vision tower, when the checkpoint has one.
    pub vision_outputs: Option<PathBuf>,
    /// The graph of `text_embeds`, when the checkpoint has a text tower and its projection.
    pub text: Option<PathBuf>,
    /// The graph of all outputs of the text tower, when the checkpoint has one.
    pub text_outputs: Option<PathBuf>,
    /// Bytes of weights beside the graphs.
    pub weight_bytes: u64,
}

impl ExportedModel {
    /// The graphs that there are.
    pub fn graphs(&self) -> impl Iterator<Item = &Path> {
        [&self.vision, &self.vision_outputs, &self.text, &self.text_outputs].into_iter().flatten().map(PathBuf::as_path)
    }

    /// The exported model in `dir`, as far as its files say. That they are ours, [`GraphInfo`](crate::model::graph_info::GraphInfo) says.
    pub fn at(dir: &Path) -> Self {
        let onnx = dir.join(GRAPHS);
        let graph = |name: &str| Some(onnx.join(name)).filter(|path| path.exists());
        let size = |name: &str| fs::metadata(onnx.join(name)).map_or(0, |m| m.len());
        Self {
            dir: dir.to_owned(),
            vision: graph("vision_model.onnx"),
            vision_outputs: graph("vision_outputs.onnx"),
            text: graph("text_model.onnx"),
            text_outputs: graph("text_outputs.onnx"),
            weight_bytes: size("vision_model.onnx_data") + size("text_model.onnx_data"),
        }
    }
}

/// Lets `fill` write the folder that is claimed under another name, then gives it its own. On any error nothing is left.
pub(super) fn new_folder(
    claim: &Claim,
    fill: impl FnOnce(&Path) -> Result<(), ExportError>,
) -> Result<ExportedModel, ExportError> {
    let out = claim.out();
    let occupied = match fs::read_dir(out) {
        Ok(mut entries) => entries.next().is_some(),
        Err(_) => out.exists(),
    };
    if occupied {
        return Err(ExportError::OutputExists(out.to_owned()));
    }
    let partial = claim.partial();
    fs::create_dir_all(&partial).map_err(ExportError::io(&partial))?;
    let result = fill(&partial).and_then(|()| {
        // To disk before the name says that it is complete: a power cut must not leave holes under the final name.
        sync_tree(&partial).map_err(ExportError::io(&partial))?;
        fs::rename(&partial, out).map_err(ExportError::io(out))
    });
    match result {
        Ok(()) => Ok(ExportedModel::at(out)),
        Err(error) => {
            // The first error is the one to report; what cannot be removed now, the next claim removes.
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

pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<(), ExportError> {
    fs::write(path, bytes).map_err(ExportError::io(path))
}

/// Copies these files, contents only: a source may be read-only.
pub(super) fn copy(files: Vec<PathBuf>, to: &Path) -> Result<(), ExportError> {
    for path in files {
        let bytes = fs::read(&path).map_err(ExportError::io(&path))?;
        write(&to.join(path.file_name().unwrap_or_default()), &bytes)?;
    }
    Ok(())
}
