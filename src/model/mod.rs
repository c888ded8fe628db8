//! What a model is: the files of a directory, what its configuration says, and the fingerprint that names its numbers.
//!
//! Owns reading a model's directory, and (`hub`) getting one that is not there yet. Does not run anything: `engine` opens the
//! graphs, `preprocess` builds the image processor and the tokenizer from what is read here.
//!
//! Invariants: every file that a [`Model`] names was there when it was loaded; an error names the file, and the field in it.

pub mod checksums;
pub mod clip_config;
mod companions;
mod digests;
mod error;
pub mod external_data;
mod fields;
mod fingerprint;
pub mod graph_info;
pub mod hub;
pub mod immich;
pub mod int8_scale;
mod kind;
mod layout;
pub mod lock;
mod logit_scale;
pub mod open_clip;
pub mod open_clip_config;
pub mod pictures;
mod pipeline;
pub mod preprocessor;
pub mod row_operators;
pub mod rules;
mod search;
pub mod sha256;
pub mod texts;
pub mod tokens;
mod tower;

use std::path::Path;

pub use companions::{companion, preprocessor_of};
pub use digests::{DigestError, Digests};
pub use error::{ModelError, one_line, read_text};
pub use fingerprint::Fingerprint;
pub use int8_scale::UNIT_SCALE;
pub use layout::{CheckpointFiles, Graphs, ModelFiles, Origin, TextFiles, VisionFiles, Weights, is_checkpoint};
pub use logit_scale::{LogitScale, LogitScaleSource};
pub use pipeline::{checkpoint_in, towers_of};
pub use tower::Tower;

use clip_config::{ClipConfig, TransformerConfig};
use error::read;
use immich::ImmichTransform;
use open_clip::ImageTransform;
use pictures::PicturePreparation;
use preprocessor::{PREPROCESSOR_FILE, PROCESSOR_FILE, PreprocessorConfig};
use rules::{PictureRules, TextRules};
use texts::Tokenization;

use crate::{config::ModelConfig, encoder::OutputShape};

/// A model as its directory describes it.
#[derive(Debug)]
pub struct Model {
    /// The name that answers carry.
    pub name: String,
    /// The vision tower, where it has one.
    pub vision: Option<VisionModel>,
    /// The text tower, where it has one.
    pub text: Option<TextModel>,
    /// `exp(logit_scale)`, and where it came from; `None` without both towers, which it compares.
    pub logit_scale: Option<LogitScale>,
    /// The scale of its embeddings as `int8`.
    pub int8_scale: f32,
    /// Hash of everything that the embeddings depend on.
    pub fingerprint: Fingerprint,
}

/// The vision tower of a [`Model`].
#[derive(Debug)]
pub struct VisionModel {
    /// Crops to `image_embeds`.
    pub graphs: Graphs,
    /// How large its outputs are, where there is a graph of them.
    pub outputs: Option<OutputShape>,
    /// Positions of a picture, where a configuration of `transformers` says how many.
    pub positions: Option<usize>,
    /// Decode, resize, crop and normalise, as the library does that the model is of.
    pub preparation: PicturePreparation,
    /// The checkpoint's file that its graphs were exported from.
    pub weights: Option<String>,
}

/// The text tower of a [`Model`].
#[derive(Debug)]
pub struct TextModel {
    /// Ids to `text_embeds`.
    pub graphs: Graphs,
    /// From a text to its ids.
    pub tokenization: Tokenization,
    /// Longest sequence of token ids (`max_position_embeddings`).
    pub context_length: usize,
    /// How large its outputs are, where there is a graph of them.
    pub outputs: Option<OutputShape>,
    /// The checkpoint's file that its graphs were exported from.
    pub weights: Option<String>,
}

impl Model {
    /// Reads the files of the model that `config` names. `exported_logit_scale` is the one in our own export's metadata.
    ///
    /// # Errors
    /// Names the file that is missing or wrong.
    pub fn open(
        config: &ModelConfig,
        files: ModelFiles,
        exported_logit_scale: Option<f32>,
        digests: &Digests,
    ) -> Result<Self, ModelError> {
        let preparation = files.vision.as_ref().map(|vision| picture_preparation(&vision.preparation)).transpose()?;
        let tokenization = files.text.as_ref().map(|text| tokenization(&text.preparation)).transpose()?;
        let fingerprint = Fingerprint::of(&files, preparation.as_ref(), tokenization.as_ref(), digests)?;
        let clip = files.config().map(Path::to_owned);
        let ModelFiles { vision, text, weights } = files;
        let vision = match vision.zip(preparation) {
            Some((files, preparation)) => {
                let shape = |config: &ClipConfig| {
                    let tower = &config.vision.as_ref()?.tower;
                    Some(output_shape(&tower.transformer, tower.num_positions()))
                };
                let outputs = outputs(&files.graphs, files.config.as_deref(), shape)?;
                let positions = files.config.as_deref().and_then(positions);
                Some(VisionModel { graphs: files.graphs, preparation, outputs, positions, weights: files.weights })
            }
            None => None,
        };
        let text = match text.zip(tokenization) {
            Some((files, tokenization)) => {
                let shape = |config: &ClipConfig| {
                    let tower = &config.text.as_ref()?.tower;
                    Some(output_shape(&tower.transformer, tower.max_position_embeddings))
                };
                let outputs = outputs(&files.graphs, Some(&files.config), shape)?;
                let context_length = context_length(&files.config)?;
                let (graphs, weights) = (files.graphs, files.weights);
                Some(TextModel { graphs, tokenization, context_length, outputs, weights })
            }
            None => None,
        };
        let logit_scale = if vision.is_some() && text.is_some() {
            Some(LogitScale::read(weights.as_deref(), exported_logit_scale, clip.as_deref())?)
        } else {
            None
        };
        let int8_scale = clip.as_deref().map_or(Ok(UNIT_SCALE), |path| read(path, int8_scale::of_config))?;
        let name = config.name.clone().unwrap_or_else(|| search::directory_name(search::source(config)));
        Ok(Self { name, vision, text, logit_scale, int8_scale, fingerprint })
    }
}

/// What the files of `rules` say of pictures.
fn picture_preparation(rules: &PictureRules) -> Result<PicturePreparation, ModelError> {
    Ok(match rules {
        PictureRules::Transformers(path) => {
            if path.ends_with(PROCESSOR_FILE) && path.with_file_name(PREPROCESSOR_FILE).is_file() {
                let file = path.display();
                tracing::warn!(%file, "{PREPROCESSOR_FILE} beside it says otherwise, and does not count");
            }
            PicturePreparation::Transformers(read(path, PreprocessorConfig::from_json)?)
        }
        PictureRules::OpenClip(path) => PicturePreparation::OpenClip(read(path, ImageTransform::from_json)?),
        PictureRules::OpenAi(path) => {
            let size = read(path, ClipConfig::from_json)?.vision.map_or(0, |vision| vision.tower.image_size);
            PicturePreparation::OpenAi(read(path, |_| ImageTransform::of_openai(size))?)
        }
        PictureRules::Immich(path) => PicturePreparation::Immich(read(path, ImmichTransform::from_json)?),
    })
}

/// What the files of `rules` say of texts.
fn tokenization(rules: &TextRules) -> Result<Tokenization, ModelError> {
    Ok(match rules {
        TextRules::Transformers(path) => Tokenization::Transformers(path.clone()),
        TextRules::OpenClip { config, tokenizer } => {
            read(config, |text| open_clip::tokenization(text, tokenizer.as_deref()))?
        }
        TextRules::OpenAi => Tokenization::OpenAi,
        TextRules::Immich { config, tokenizer } => {
            let canonicalize = read(config, immich::canonicalizes)?;
            Tokenization::Immich { tokenizer: tokenizer.clone(), canonicalize }
        }
    })
}

/// The shape of a tower's outputs, where its graphs have them: they are our own export, so `config.json` is that of
/// `transformers` and describes the tower.
fn outputs(
    graphs: &Graphs,
    config: Option<&Path>,
    shape: impl Fn(&ClipConfig) -> Option<OutputShape>,
) -> Result<Option<OutputShape>, ModelError> {
    match (graphs.outputs(), config) {
        (Some(_), Some(path)) => Ok(shape(&read(path, ClipConfig::from_json)?)),
        _ => Ok(None),
    }
}

fn output_shape(transformer: &TransformerConfig, max_positions: usize) -> OutputShape {
    let TransformerConfig { hidden_size, num_hidden_layers, num_attention_heads, .. } = *transformer;
    OutputShape { hidden_size, num_hidden_layers, num_attention_heads, max_positions }
}

/// How many positions a picture has by a `config.json`. Graphs from elsewhere may have one of another shape beside them, or none.
fn positions(config: &Path) -> Option<usize> {
    let config = ClipConfig::from_json(&read_text(config).ok()?).ok()?;
    config.vision.map(|vision| vision.tower.num_positions())
}

/// `max_position_embeddings` of the text tower in a `config.json`.
fn context_length(path: &Path) -> Result<usize, ModelError> {
    if let Some(length) = read(path, open_clip::context_length)? {
        return Ok(length);
    }
    match read(path, ClipConfig::from_json)?.text {
        Some(text) => Ok(text.tower.max_position_embeddings),
        None => {
            let reason = "it describes no text tower, but there is a graph of one".to_owned();
            Err(ModelError::File { path: path.to_owned(), reason })
        }
    }
}
