//! From the places of a model to a [`Model`]: which kind of directory it is, and the export of a checkpoint.
//!
//! Owns the order in which a directory's contents count: our own export, graphs from elsewhere in the precision that was asked
//! for, a checkpoint, which is exported under `model.cache_dir`. Does not own any layout (`model`) nor exporting (`export`).
//!
//! Invariant: what is served has the precision that was asked for.

use super::StartError;
use crate::{
    config::{ModelConfig, Precision},
    export::{ExportedModel, export_cached, metadata::GraphInfo},
    model::{Model, ModelError, ModelFiles, hub::LocalModel, is_checkpoint},
};

/// Reads the model, after exporting it where it is a checkpoint.
///
/// # Errors
/// Names the file, field or tensor that is missing or wrong.
pub(super) fn load(model: &LocalModel, precision: Precision) -> Result<Model, StartError> {
    let config = &model.config;
    if model.is_checkpoint {
        return open_checkpoint(config, precision);
    }
    // Whoever names the graphs means those.
    let named = config.vision.is_some() || config.text.is_some() || config.variant.is_some();
    if !named {
        let exported = ExportedModel::at(&config.path);
        if let Some(info) = own_graphs(&exported, precision)? {
            return open_export(config, exported, &info);
        }
    }
    match ModelFiles::locate(config, precision) {
        Ok(files) => Ok(Model::open(config, files, None)?),
        Err(ModelError::NoGraphs { .. }) if !named && is_checkpoint(&config.path) => open_checkpoint(config, precision),
        Err(error) => Err(error.into()),
    }
}

fn open_checkpoint(config: &ModelConfig, precision: Precision) -> Result<Model, StartError> {
    let cache = config.cache_dir.as_deref().ok_or(StartError::NoCacheDir)?;
    tracing::info!(
        checkpoint = %config.path.display(),
        cache = %cache.display(),
        "the model is a checkpoint: it is exported, unless the cache has it"
    );
    let exported = export_cached(&config.path, cache, precision)
        .map_err(|error| StartError::Export { checkpoint: config.path.clone(), error })?;
    let info = own_graphs(&exported, precision)?.ok_or_else(|| {
        // The cache's folders are complete or not there, so somebody has been at this one.
        let reason = "the export in the cache is damaged; remove this directory".to_owned();
        ModelError::File { path: exported.dir.clone(), reason }
    })?;
    open_export(config, exported, &info)
}

/// The model of these graphs, with the other files from where the operator has them.
fn open_export(config: &ModelConfig, exported: ExportedModel, info: &GraphInfo) -> Result<Model, StartError> {
    let files = ModelFiles::beside(&config.path, exported.vision, exported.text)?;
    Ok(Model::open(config, files, info.logit_scale)?)
}

/// What the graphs say about themselves; `None` when they are not ours, or there are none.
fn own_graphs(exported: &ExportedModel, precision: Precision) -> Result<Option<GraphInfo>, ModelError> {
    let mut found = None;
    for graph in exported.graphs() {
        let fault = |reason: String| ModelError::File { path: graph.to_owned(), reason };
        let Some(info) = GraphInfo::read(graph).map_err(|error| fault(error.to_string()))? else { return Ok(None) };
        if info.precision != precision {
            return Err(fault(format!(
                "this graph was exported in {}, but engine.precision is {}",
                info.precision.name(),
                precision.name()
            )));
        }
        found = Some(info);
    }
    Ok(found)
}
