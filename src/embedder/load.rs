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
        Graphs, Model, ModelError, ModelFiles, Weights, graph_info::GraphInfo, hub::LocalModel, is_checkpoint,
        towers_of,
    },
};

/// Reads the model, after exporting it where it is a checkpoint.
///
/// # Errors
/// Names the file, field or tensor that is missing or wrong.
pub(super) fn load(model: &LocalModel, precision: Precision) -> Result<Model, StartError> {
    let config = &towers_of(&model.config)?;
    if model.is_checkpoint {
        return open_checkpoint(config, precision);
    }
    // Whoever names the graphs means those.
    if config.vision.is_some() || config.text.is_some() || config.variant.is_some() {
        let files = ModelFiles::locate(&with_own_graphs(config, precision)?, precision)?;
        return open_graphs(config, files, precision);
    }
    let exported = ExportedModel::at(&config.path);
    if let Some(info) = own_graphs(&exported, precision)? {
        return open_export(config, exported, &info);
    }
    match ModelFiles::locate(config, precision) {
        Ok(files) => open_graphs(config, files, precision),
        Err(ModelError::NoGraphs { .. }) if is_checkpoint(&config.path) => open_checkpoint(config, precision),
        Err(error) => Err(error.into()),
    }
}

fn open_checkpoint(config: &ModelConfig, precision: Precision) -> Result<Model, StartError> {
    let exported = export(config, &config.path, precision)?;
    let info = own_graphs(&exported, precision)?.ok_or_else(|| {
        // The cache's folders are complete or not there, so somebody has been at this one.
        let reason = "the export in the cache is damaged; remove this directory".to_owned();
        ModelError::File { path: exported.dir.clone(), reason }
    })?;
    open_export(config, exported, &info)
}

/// The graphs of the checkpoint in `directory`, from the cache where that has them.
fn export(config: &ModelConfig, directory: &Path, precision: Precision) -> Result<ExportedModel, StartError> {
    let cache = config.cache_dir.as_deref().ok_or(StartError::NoCacheDir)?;
    tracing::info!(
        checkpoint = %directory.display(),
        weights = Weights::of(directory).map(Weights::file),
        cache = %cache.display(),
        "the model is a checkpoint: it is exported, unless the cache has it"
    );
    export_cached(directory, cache, precision)
        .map_err(|error| StartError::Export { checkpoint: directory.to_owned(), error })
}

/// The model of these graphs, with the other files from where the operator has them.
fn open_export(config: &ModelConfig, exported: ExportedModel, info: &GraphInfo) -> Result<Model, StartError> {
    let vision = Graphs::new(exported.vision, exported.vision_outputs);
    let text = Graphs::new(exported.text, exported.text_outputs);
    let files = ModelFiles::beside(&config.path, vision, text)?;
    Ok(Model::open(config, files, info.logit_scale)?)
}

/// The model of graphs that were found, each of which may be ours.
fn open_graphs(config: &ModelConfig, mut files: ModelFiles, precision: Precision) -> Result<Model, StartError> {
    // A variant names the files in place of the precision, so there is none that they could contradict.
    let precision = Some(precision).filter(|_| config.variant.is_none());
    let scale = |graphs: Option<&mut Graphs>| -> Result<Option<f32>, ModelError> {
        let Some(graphs) = graphs else { return Ok(None) };
        let graph = graphs.first().to_owned();
        let Some(info) = own_graph(&graph, precision)? else { return Ok(None) };
        if graph.file_name().is_some_and(|name| name.to_string_lossy().ends_with("_outputs.onnx")) {
            *graphs = Graphs::Outputs(graph);
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
    Ok(Model::open(config, files, text.or(vision))?)
}

/// The configuration with the graph itself for the place of a tower where that is a directory of our own export, whose graphs' names
/// have no suffix, whatever their precision, or a checkpoint without graphs of `precision`, which is exported.
fn with_own_graphs(config: &ModelConfig, precision: Precision) -> Result<ModelConfig, StartError> {
    let mut named = config.clone();
    if config.variant.is_some() {
        return Ok(named);
    }
    type Tower = (&'static str, fn(ExportedModel) -> Option<PathBuf>);
    let vision: Tower = ("vision", |exported| exported.vision.or(exported.vision_outputs));
    let text: Tower = ("text", |exported| exported.text.or(exported.text_outputs));
    for (place, (tower, graph)) in [(&mut named.vision, vision), (&mut named.text, text)] {
        let directory = place.as_deref().unwrap_or(&config.path);
        if directory.as_os_str().is_empty() {
            continue;
        }
        if let Some(graph) = graph(ExportedModel::at(directory))
            && own_graph(&graph, None)?.is_some()
        {
            *place = Some(graph);
        } else if is_checkpoint(directory) && !has_graph(config, directory, tower, precision) {
            let checkpoint = directory.to_owned();
            let exported = graph(export(config, &checkpoint, precision)?);
            let none = || ModelError::Directory { path: checkpoint, reason: format!("it has no {tower} tower") };
            *place = Some(exported.ok_or_else(none)?);
        }
    }
    Ok(named)
}

/// Whether `directory` has the `tower` as a graph of `precision`.
fn has_graph(config: &ModelConfig, directory: &Path, tower: &str, precision: Precision) -> bool {
    let place = |name| (tower == name).then(|| directory.to_owned());
    let alone = ModelConfig { path: PathBuf::new(), vision: place("vision"), text: place("text"), ..config.clone() };
    ModelFiles::locate(&alone, precision).is_ok()
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

/// What the graph says about itself, which must have `precision` where one is asked for; `None` when it is not ours.
fn own_graph(graph: &Path, precision: Option<Precision>) -> Result<Option<GraphInfo>, ModelError> {
    let fault = |reason: String| ModelError::File { path: graph.to_owned(), reason };
    let info = GraphInfo::read(graph).map_err(|error| fault(error.to_string()))?;
    match (&info, precision) {
        (Some(info), Some(precision)) if info.precision != precision => Err(fault(format!(
            "this graph was exported in {}, but engine.precision is {}",
            info.precision.name(),
            precision.name()
        ))),
        _ => Ok(info),
    }
}
