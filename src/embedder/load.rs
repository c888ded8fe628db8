//! From the places of a model to a [`Model`]: which kind of directory it is, and the export of a checkpoint.
//!
//! Owns the order in which a directory's contents count: our own export, graphs from elsewhere in the precision that was asked
//! for, a checkpoint, which is exported under `model.cache_dir`. Does not own any layout (`model`) nor exporting (`export`).
//!
//! Invariant: what is served has the precision that was asked for; a graph of ours that says otherwise is refused wherever it
//! was named.

use std::path::{Path, PathBuf};

use super::StartError;
use crate::{
    config::{ModelConfig, Precision},
    export::{ExportedModel, export_cached},
    model::{
        CheckpointFiles, Digests, Graphs, Model, ModelError, ModelFiles, Origin, Tower, graph_info::GraphInfo,
        hub::LocalModel, is_checkpoint, towers_of,
    },
};

/// Reads the model, after exporting it where it is a checkpoint.
///
/// # Errors
/// Names the file, field or tensor that is missing or wrong.
pub(super) fn load(model: &LocalModel, precision: Precision, digests: &Digests) -> Result<Model, StartError> {
    let config = &towers_of(&model.config)?;
    if model.is_checkpoint || config.path.is_file() && is_checkpoint(&config.path) {
        return open_checkpoint(config, precision, digests);
    }
    // Whoever names the graphs means those.
    if config.vision.is_some() || config.text.is_some() || config.variant.is_some() {
        let (exports, rest) = own_exports(config, precision, digests)?;
        let graphs = ModelFiles::locate(&rest, precision)?;
        let (vision, text) = (exports.vision.or(graphs.vision), exports.text.or(graphs.text));
        return open_graphs(config, ModelFiles { vision, text, weights: graphs.weights }, precision, digests);
    }
    let exported = ExportedModel::at(&config.path);
    if let Some(info) = own_graphs(&exported, precision)? {
        return open_export(config, exported, &info, None, digests);
    }
    match ModelFiles::locate(config, precision) {
        Ok(files) => open_graphs(config, files, precision, digests),
        Err(ModelError::NoGraphs { .. }) if is_checkpoint(&config.path) => open_checkpoint(config, precision, digests),
        Err(error) => Err(error.into()),
    }
}

fn open_checkpoint(config: &ModelConfig, precision: Precision, digests: &Digests) -> Result<Model, StartError> {
    let exported = export(config, &config.path, precision, digests)?;
    let info = own_graphs(&exported, precision)?.ok_or_else(|| damaged(&exported))?;
    open_export(config, exported, &info, weights_of(&config.path), digests)
}

/// The cache's folders are complete or not there, so somebody has been at this one.
fn damaged(exported: &ExportedModel) -> ModelError {
    let reason = "the export in the cache is damaged; remove this directory".to_owned();
    ModelError::File { path: exported.dir.clone(), reason }
}

/// The name of the file that counts in a checkpoint.
fn weights_of(checkpoint: &Path) -> Option<String> {
    let files = CheckpointFiles::of(checkpoint)?;
    Some(files.weights().file_name()?.to_string_lossy().into_owned())
}

/// The graphs of the checkpoint in `directory`, from the cache where that has them.
fn export(
    config: &ModelConfig,
    directory: &Path,
    precision: Precision,
    digests: &Digests,
) -> Result<ExportedModel, StartError> {
    let cache = config.cache_dir.as_deref().ok_or(StartError::NoCacheDir)?;
    tracing::info!(
        checkpoint = %directory.display(),
        weights = weights_of(directory),
        cache = %cache.display(),
        "the model is a checkpoint: it is exported, unless the cache has it"
    );
    export_cached(directory, cache, precision, digests)
        .map_err(|error| StartError::Export { checkpoint: directory.to_owned(), error })
}

/// The model of these graphs, with the other files from where the operator has them.
fn open_export(
    config: &ModelConfig,
    exported: ExportedModel,
    info: &GraphInfo,
    weights: Option<String>,
    digests: &Digests,
) -> Result<Model, StartError> {
    let origin = origin(&config.path, &exported, info, weights);
    let [vision, text] = Tower::BOTH.map(|tower| graphs_of(&exported, tower));
    Ok(Model::open(config, ModelFiles::beside(&origin, vision, text)?, info.logit_scale, digests)?)
}

/// Of the graphs of the checkpoint at `place`, a folder or a file in one.
fn origin(place: &Path, exported: &ExportedModel, info: &GraphInfo, weights: Option<String>) -> Origin {
    let directory = place.parent().filter(|_| place.is_file()).unwrap_or(place);
    let config = exported.dir.join("config.json");
    Origin { directory: directory.to_owned(), config, rules: info.rules, weights }
}

fn graphs_of(exported: &ExportedModel, tower: Tower) -> Option<Graphs> {
    let (embedding, outputs) = match tower {
        Tower::Vision => (&exported.vision, &exported.vision_outputs),
        Tower::Text => (&exported.text, &exported.text_outputs),
    };
    Graphs::new(embedding.clone(), outputs.clone())
}

/// The model of graphs that were found, each of which may be ours.
fn open_graphs(
    config: &ModelConfig,
    mut files: ModelFiles,
    precision: Precision,
    digests: &Digests,
) -> Result<Model, StartError> {
    // A variant names the files in place of the precision, so there is none that they could contradict.
    let precision = Some(precision).filter(|_| config.variant.is_none());
    let scale = |graphs: Option<&mut Graphs>| -> Result<Option<f32>, ModelError> {
        let Some(graphs) = graphs else { return Ok(None) };
        let graph = graphs.first().to_owned();
        let Some(info) = own_graph(&graph, precision)? else { return Ok(None) };
        if !matches!(graphs, Graphs::Embedding(_)) {
            return Ok(info.logit_scale);
        }
        // Of our own export, the graph of all outputs lies beside that of the embedding.
        let name = graph.file_name().unwrap_or_default().to_string_lossy().replace("_model.onnx", "_outputs.onnx");
        let outputs = graph.with_file_name(name);
        if outputs != graph && outputs.is_file() && own_graph(&outputs, precision)?.is_some() {
            *graphs = Graphs::Both { embedding: graph, outputs };
        }
        Ok(info.logit_scale)
    };
    let vision = scale(files.vision.as_mut().map(|vision| &mut vision.graphs))?;
    let text = scale(files.text.as_mut().map(|text| &mut text.graphs))?;
    if let (Some(vision), Some(text)) = (vision, text)
        && vision != text
    {
        tracing::warn!(
            vision,
            text,
            "the towers come from checkpoints with different logit_scale; the text tower's is used"
        );
    }
    Ok(Model::open(config, files, text.or(vision), digests)?)
}

/// The towers at whose places there is our own export, whose graphs' names have no suffix whatever their precision, or a checkpoint
/// without graphs of `precision`, which is exported; and the places of the other towers.
fn own_exports(
    config: &ModelConfig,
    precision: Precision,
    digests: &Digests,
) -> Result<(ModelFiles, ModelConfig), StartError> {
    let mut exports = ModelFiles { vision: None, text: None, weights: None };
    // A variant names graphs.
    if config.variant.is_some() {
        return Ok((exports, config.clone()));
    }
    let whole = Some(&config.path).filter(|path| !path.as_os_str().is_empty());
    let place = |own: &Option<PathBuf>| own.as_ref().or(whole).cloned();
    let (vision, text) = (place(&config.vision), place(&config.text));
    let mut rest = ModelConfig { path: PathBuf::new(), vision, text, ..config.clone() };
    for (place, tower) in [(&mut rest.vision, Tower::Vision), (&mut rest.text, Tower::Text)] {
        let Some(directory) = place.as_deref() else { continue };
        if let Some(files) = own_export(config, directory, tower, precision, digests)? {
            exports.vision = files.vision.or(exports.vision);
            exports.text = files.text.or(exports.text);
            *place = None;
        }
    }
    Ok((exports, rest))
}

/// The `tower` at `place`, where that is our own export or is exported.
fn own_export(
    config: &ModelConfig,
    place: &Path,
    tower: Tower,
    precision: Precision,
    digests: &Digests,
) -> Result<Option<ModelFiles>, StartError> {
    let there = ExportedModel::at(place);
    let own = graphs_of(&there, tower).map(|graphs| own_graph(graphs.first(), None)).transpose()?.flatten();
    let (exported, weights) = if own.is_some() {
        (there, None)
    } else if is_checkpoint(place) && (place.is_file() || !ModelFiles::has_graph(config, place, tower, precision)) {
        (export(config, place, precision, digests)?, weights_of(place))
    } else {
        return Ok(None);
    };
    let graphs = graphs_of(&exported, tower).ok_or_else(|| {
        let reason = format!("it has no {} tower", tower.name());
        ModelError::Directory { path: place.to_owned(), reason }
    })?;
    let info = own_graph(graphs.first(), Some(precision))?.ok_or_else(|| damaged(&exported))?;
    let origin = origin(place, &exported, &info, weights);
    let files = match tower {
        Tower::Vision => ModelFiles::beside(&origin, Some(graphs), None),
        Tower::Text => ModelFiles::beside(&origin, None, Some(graphs)),
    };
    Ok(Some(files?))
}

/// What the graphs say about themselves; `None` when they are not ours, or there are none.
fn own_graphs(exported: &ExportedModel, precision: Precision) -> Result<Option<GraphInfo>, ModelError> {
    let mut found = None;
    for graph in exported.graphs() {
        let Some(info) = own_graph(graph, Some(precision))? else { return Ok(None) };
        found = Some(info);
    }
    Ok(found)
}

/// How an export in `precision` is asked for.
fn served_by(precision: Precision) -> &'static str {
    match precision {
        Precision::F32 => "--precision f32, bf16 or auto",
        Precision::F16 => "--precision f16",
        Precision::Int8 => "--precision int8 with any provider but openvino",
        Precision::Int8Weights => "--precision int8 --provider openvino",
    }
}

/// What the graph says about itself, which must have `precision` where one is asked for; `None` when it is not ours.
fn own_graph(graph: &Path, precision: Option<Precision>) -> Result<Option<GraphInfo>, ModelError> {
    let fault = |reason: String| ModelError::File { path: graph.to_owned(), reason };
    let info = GraphInfo::read(graph).map_err(|error| fault(error.to_string()))?;
    match (&info, precision) {
        (Some(info), Some(precision)) if info.precision != precision => Err(fault(format!(
            "this graph was exported in {}, which is served by {}; what is asked for wants an export in {}, or the checkpoint",
            info.precision.name(),
            served_by(info.precision),
            precision.name()
        ))),
        _ => Ok(info),
    }
}
