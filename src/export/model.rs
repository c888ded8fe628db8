//! A model folder from weights: what the configuration says is there, as graphs.
//!
//! Owns which graphs are written, and what has to hold between a checkpoint's files. What is in a graph, `text` and `vision` know.

use std::{
    fs::{self, File},
    panic,
    path::Path,
    thread,
};

use prost::Message;

use super::{
    checkpoint::Checkpoint,
    claim::Claim,
    error::ExportError,
    folder::{ExportedModel, GRAPHS, companions, copy, files_of_transformers, new_folder, write},
    graph::{Entries, GraphBuilder},
    metadata::{self, Provenance},
    normalization::PixelNormalization,
    synthetic::SyntheticWeights,
    text, vision,
    weights::{WeightFile, WeightSource},
};
use crate::{
    config::Precision,
    model::{
        CheckpointFiles, Digests,
        checksums::{CHECKSUMS_FILE, Checksum, Checksums},
        clip_config::{Architecture, ClipConfig, Projected, TextConfig, VisionConfig},
        graph_info::LEAST_GROUP,
        open_clip::{ImageTransform, OPEN_CLIP_FILE},
        preprocessor, preprocessor_of, read_text,
        rules::Rules,
    },
};

/// Exports the checkpoint in `source` into the new folder `out`, which appears whole or not at all.
///
/// # Errors
/// Names the file, the field of `config.json` or the tensor that is missing, unknown or of the wrong shape; refuses an `out`
/// that has something in it.
pub fn export_checkpoint(source: &Path, out: &Path, precision: Precision) -> Result<ExportedModel, ExportError> {
    let checkpoint = Checkpoint::open(source)?;
    let digest = checkpoint.sha256(&Digests::default())?;
    export_opened(source, &checkpoint, &digest, &Claim::on(out)?, precision)
}

/// Writes a model folder of `config`'s size with seeded random weights into the new folder `out`: what benchmarks run on. The
/// tokenizer comes from `tokenizer_dir`. The same `seed` gives the same weights, whatever `precision` then makes of them.
///
/// # Errors
/// When a file cannot be read or written, or `out` has something in it; when `precision` cannot hold the model.
pub fn write_synthetic_model(
    config: &ClipConfig,
    precision: Precision,
    seed: u64,
    tokenizer_dir: &Path,
    out: &Path,
) -> Result<ExportedModel, ExportError> {
    check_groups(config, precision)?;
    let normalization = PixelNormalization::default();
    let weights = SyntheticWeights::new(config, seed);
    let provenance = Provenance {
        source_sha256: &format!("synthetic-{seed}"),
        precision,
        rules: Rules::Transformers,
        logit_scale: Some(config.logit_scale_init_value as f32),
    };
    new_folder(&Claim::on(out)?, |dir| {
        write_graphs(config, &normalization, &weights, &provenance, dir)?;
        copy(files_of_transformers(tokenizer_dir), dir)?;
        write(&dir.join("config.json"), config.to_json().as_bytes())?;
        let side = config.vision.as_ref().map_or(224, |v| v.tower.image_size);
        write(&dir.join(preprocessor::PREPROCESSOR_FILE), normalization.preprocessor_json(side).as_bytes())
    })
}

/// [`export_checkpoint`] of weights that are open already and whose digest is known.
pub(super) fn export_opened(
    source: &Path,
    checkpoint: &Checkpoint,
    digest: &str,
    claim: &Claim,
    precision: Precision,
) -> Result<ExportedModel, ExportError> {
    let config = checkpoint.config()?;
    let config = ClipConfig {
        text: config.text.filter(|_| checkpoint.has_prefix("text_model.")),
        vision: config.vision.filter(|_| checkpoint.has_prefix("vision_model.")),
        ..config
    };
    if config.text.is_none() && config.vision.is_none() {
        return Err(ExportError::NoTower);
    }
    check_groups(&config, precision)?;
    let normalization = match &config.vision {
        Some(vision) => read_normalization(checkpoint.files(), vision.tower.num_channels)?,
        None => PixelNormalization::default(),
    };
    let logit_scale = match config.architecture {
        Architecture::Clip if checkpoint.contains("logit_scale") => {
            let logarithm = checkpoint.read("logit_scale", &[])?.first().copied();
            // What is rounded is the exponential.
            let half = checkpoint.rounding(&["logit_scale"]);
            logarithm.map(|value| half.map_or(value, |half| half.round(value.exp()).ln()))
        }
        Architecture::Clip => {
            let logit_scale = config.logit_scale_init_value as f32;
            tracing::warn!(
                logit_scale,
                "the checkpoint has no logit_scale: it is logit_scale_init_value of its config.json"
            );
            Some(logit_scale)
        }
        Architecture::Text | Architecture::Vision => None,
    };
    if let Some(logarithm) = logit_scale.filter(|logarithm| !logarithm.exp().is_normal()) {
        let reason = format!("logit_scale is {logarithm}, its exponential must be a positive finite number");
        return Err(ExportError::malformed(source, reason));
    }
    let rules = checkpoint.files().rules();
    let provenance = Provenance { source_sha256: digest, precision, rules, logit_scale };
    new_folder(claim, |dir| {
        write_graphs(&config, &normalization, checkpoint, &provenance, dir)?;
        checkpoint.check_all_read()?;
        copy(companions(checkpoint.files()), dir)?;
        if rules == Rules::Transformers { Ok(()) } else { write(&dir.join("config.json"), config.to_json().as_bytes()) }
    })
}

/// Whether the layers' inputs are whole groups, where OpenVINO quantises them.
fn check_groups(config: &ClipConfig, precision: Precision) -> Result<(), ExportError> {
    if precision != Precision::Int8Weights {
        return Ok(());
    }
    let text = config.text.as_ref().map(|text| &text.tower.transformer);
    let vision = config.vision.as_ref().map(|vision| &vision.tower.transformer);
    for transformer in [text, vision].into_iter().flatten() {
        let sizes = [("hidden_size", transformer.hidden_size), ("intermediate_size", transformer.intermediate_size)];
        if let Some((field, size)) = sizes.into_iter().find(|(_, size)| size % LEAST_GROUP != 0) {
            return Err(ExportError::Groups { field, size, group: LEAST_GROUP });
        }
    }
    Ok(())
}

fn read_normalization(files: &CheckpointFiles, channels: usize) -> Result<PixelNormalization, ExportError> {
    let fault = |file: &Path, reason: String| ExportError::Json { file: file.display().to_string(), reason };
    let read = |path: &Path| read_text(path).map_err(ExportError::io(path));
    let Some((directory, _)) = files.description() else { return Ok(PixelNormalization::default()) };
    if files.rules() == Rules::OpenClip {
        let path = directory.join(OPEN_CLIP_FILE);
        let transform = ImageTransform::from_json(&read(&path)?).map_err(|error| fault(&path, error.to_string()))?;
        return Ok(transform.into());
    }
    match preprocessor_of(directory)? {
        Some(path) => PixelNormalization::from_json(&read(&path)?, channels).map_err(|reason| fault(&path, reason)),
        // Checkpoints of a single tower often come without; then `CLIPImageProcessor`'s defaults hold.
        None => PixelNormalization::from_json("{}", channels).map_err(|reason| fault(directory, reason)),
    }
}

/// All graphs that `config` has a tower for; those of embeddings where `source` has the projection.
fn write_graphs(
    config: &ClipConfig,
    normalization: &PixelNormalization,
    source: &dyn WeightSource,
    provenance: &Provenance,
    dir: &Path,
) -> Result<(), ExportError> {
    let onnx = dir.join(GRAPHS);
    fs::create_dir_all(&onnx).map_err(ExportError::io(&onnx))?;
    let mut checksums = Checksums::default();
    let mut vision_graphs = |vision: &Projected<VisionConfig>| {
        let projected = source.contains("visual_projection.weight");
        let metadata = || metadata::vision(provenance, vision, normalization);
        let mut tower = TowerWriter::new(&onnx, "vision", provenance.precision, source)?;
        if projected {
            tower.graph("model", metadata(), |g| vision::embedding(g, vision, normalization))?;
        }
        tower.graph("outputs", metadata(), |g| vision::outputs(g, vision, normalization, projected))?;
        tower.finish(&mut checksums)
    };
    let vision = config.vision.as_ref().map(&mut vision_graphs).transpose()?;
    let mut text_graphs = |text: &Projected<TextConfig>| {
        let projected = source.contains("text_projection.weight");
        let metadata = |packed| metadata::text(provenance, text, packed);
        let mut tower = TowerWriter::new(&onnx, "text", provenance.precision, source)?;
        if projected {
            let packed = text::is_packed(provenance.precision);
            tower.graph("model", metadata(packed), |g| text::embedding(g, text))?;
        }
        tower.graph("outputs", metadata(false), |g| text::outputs(g, text, projected))?;
        tower.finish(&mut checksums)
    };
    // While the weights of one tower go to the disk those of the other are made; the folder as a whole waits for both.
    thread::scope(|scope| {
        let synced = vision.map(|file| scope.spawn(move || file.sync_data()));
        let text = config.text.as_ref().map(&mut text_graphs).transpose();
        let synced = synced.map_or(Ok(()), |synced| synced.join().unwrap_or_else(|panic| panic::resume_unwind(panic)));
        text.and(synced.map_err(ExportError::io(&onnx)))
    })?;
    checksums.write(&onnx).map_err(ExportError::io(onnx.join(CHECKSUMS_FILE)))
}

/// Writes the graphs of one tower, which share one file of weights.
struct TowerWriter<'a> {
    onnx: &'a Path,
    tower: &'static str,
    precision: Precision,
    source: &'a dyn WeightSource,
    file: WeightFile,
    /// Of the graphs, by their names.
    graphs: Vec<(String, Checksum)>,
}

impl<'a> TowerWriter<'a> {
    fn new(
        onnx: &'a Path,
        tower: &'static str,
        precision: Precision,
        source: &'a dyn WeightSource,
    ) -> Result<Self, ExportError> {
        let file = WeightFile::create(&onnx.join(format!("{tower}_model.onnx_data")))?;
        Ok(Self { onnx, tower, precision, source, file, graphs: Vec::new() })
    }

    fn graph(
        &mut self,
        kind: &str,
        metadata: Entries,
        build: impl FnOnce(&mut GraphBuilder) -> Result<(), ExportError>,
    ) -> Result<(), ExportError> {
        let name = format!("{}_{kind}", self.tower);
        let mut graph = GraphBuilder::new(&name, self.precision, self.source, &mut self.file);
        build(&mut graph)?;
        let (name, bytes) = (format!("{name}.onnx"), graph.finish(metadata).encode_to_vec());
        let path = self.onnx.join(&name);
        write(&path, &bytes)?;
        let checksum = Checksum::of(&bytes);
        self.graphs.push((name, checksum));
        Ok(())
    }

    /// Ends the file of weights, which is not yet on the disk, and takes down what all files have become.
    fn finish(self, checksums: &mut Checksums) -> Result<File, ExportError> {
        let (file, name, checksum) = self.file.finish()?;
        self.graphs
            .into_iter()
            .chain([(name, checksum)])
            .for_each(|(name, checksum)| checksums.insert(&name, checksum));
        Ok(file)
    }
}
