//! A checkpoint's `config.json`: `CLIPConfig`, `CLIPTextConfig`, `CLIPVisionConfig` of `transformers`, and those of MetaCLIP 2, which has
//! CLIP's shape under other names, read and validated.
//!
//! Owns which fields exist, their defaults (those of `transformers`) and what they may hold. Does not own the weights: which
//! towers and projections a checkpoint really has, `export` learns from its tensors.
//!
//! Invariants: a config that exists can be built: every size is positive and bounded, heads divide the width, the patch fits
//! the image, the activation is one we have. A field that nobody knows is an error that names it, never ignored: a misspelt
//! `hidden_sise` would otherwise silently become the default.

use serde_json::{Map, Value, json};

pub use super::fields::ConfigError;
use super::fields::{Fields, field_error};

/// The activation between the two layers of each MLP: `hidden_act`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x * sigmoid(1.702 x)`: OpenAI's checkpoints.
    QuickGelu,
    /// `x * Phi(x)`, by the error function: most of OpenCLIP's.
    Gelu,
    /// The tanh form of it, also spelt `gelu_pytorch_tanh` and `gelu_fast`.
    GeluNew,
    /// `max(x, 0)`.
    Relu,
    /// The scaled exponential unit with its published constants.
    Selu,
}

/// The spellings `transformers` has for them; the first spelling of each is the one written.
const ACTIVATIONS: [(&str, Activation); 8] = [
    ("quick_gelu", Activation::QuickGelu),
    ("gelu", Activation::Gelu),
    ("gelu_new", Activation::GeluNew),
    ("relu", Activation::Relu),
    ("selu", Activation::Selu),
    ("gelu_python", Activation::Gelu),
    ("gelu_pytorch_tanh", Activation::GeluNew),
    ("gelu_fast", Activation::GeluNew),
];

/// Whose classes of `transformers` wrote the checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// `CLIPModel` and its towers; MetaCLIP's first version among them.
    Clip,
    /// `MetaClip2Model` and its towers: CLIP with another tokenizer.
    MetaClip2,
}

impl Family {
    pub(super) const ALL: [Self; 2] = [Self::Clip, Self::MetaClip2];

    /// `model_type` of the whole model, of its text tower, of its vision tower.
    pub(super) fn model_types(self) -> [&'static str; 3] {
        match self {
            Self::Clip => ["clip", "clip_text_model", "clip_vision_model"],
            Self::MetaClip2 => ["metaclip_2", "metaclip_2_text_model", "metaclip_2_vision_model"],
        }
    }

    /// What the names of its classes begin with.
    fn class_prefix(self) -> &'static str {
        match self {
            Self::Clip => "CLIP",
            Self::MetaClip2 => "MetaClip2",
        }
    }
}

/// Which class of its [`Family`] wrote the checkpoint. It decides where the projection's width stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Architecture {
    /// `CLIPModel`: both towers, both projections, `logit_scale`.
    Clip,
    /// `CLIPTextModel`, `CLIPTextModelWithProjection`.
    Text,
    /// `CLIPVisionModel`, `CLIPVisionModelWithProjection`.
    Vision,
}

/// The sizes that both towers have.
#[derive(Clone, Debug, PartialEq)]
pub struct TransformerConfig {
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width between the MLP's two layers.
    pub intermediate_size: usize,
    /// Encoder blocks.
    pub num_hidden_layers: usize,
    /// Attention heads, a divisor of `hidden_size`.
    pub num_attention_heads: usize,
    /// Between the MLP's two layers.
    pub hidden_act: Activation,
    /// Epsilon of every layer norm of the tower.
    pub layer_norm_eps: f64,
}

/// `CLIPTextConfig`.
#[derive(Clone, Debug, PartialEq)]
pub struct TextConfig {
    /// The encoder blocks.
    pub transformer: TransformerConfig,
    /// Rows of the token embedding.
    pub vocab_size: usize,
    /// The context length: rows of the position embedding.
    pub max_position_embeddings: usize,
    /// Where to pool, from `eos_token_id`.
    pub pooling: TextPooling,
}

/// Which position of a text becomes its `pooler_output`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextPooling {
    /// The first position of the highest id (checkpoints from before the end token was configured right).
    HighestId,
    /// The first position that holds this id; position 0 when none does.
    FirstOf(i64),
}

impl TextPooling {
    /// The rule of `CLIPTextModel.forward`: an `eos_token_id` of 2 is the mark of an old checkpoint. `MetaClip2TextModel`, whose
    /// tokenizer really ends with 2, has no such rule.
    fn of(eos_token_id: i64, family: Family) -> Self {
        match (eos_token_id, family) {
            (2, Family::Clip) => Self::HighestId,
            (id, _) => Self::FirstOf(id),
        }
    }

    /// What [`of`](Self::of) reads back as `self`.
    fn eos_token_id(self) -> i64 {
        match self {
            Self::HighestId => 2,
            Self::FirstOf(id) => id,
        }
    }
}

/// `CLIPVisionConfig`.
#[derive(Clone, Debug, PartialEq)]
pub struct VisionConfig {
    /// The encoder blocks.
    pub transformer: TransformerConfig,
    /// Side of the square picture, pixels.
    pub image_size: usize,
    /// Side of one square patch, pixels.
    pub patch_size: usize,
    /// Channels of the picture.
    pub num_channels: usize,
}

impl VisionConfig {
    /// Patches along one side; pixels past the last whole patch are not looked at.
    pub fn grid(&self) -> usize {
        self.image_size / self.patch_size
    }

    /// Tokens of one picture: the class token and the patches.
    pub fn num_positions(&self) -> usize {
        self.grid() * self.grid() + 1
    }
}

/// A tower's configuration and the width of the projection behind it, if the checkpoint has one.
#[derive(Clone, Debug, PartialEq)]
pub struct Projected<T> {
    /// The tower.
    pub tower: T,
    /// Length of `image_embeds` / `text_embeds`.
    pub projection_dim: usize,
}

/// A whole `config.json`. At least one tower is there.
#[derive(Clone, Debug, PartialEq)]
pub struct ClipConfig {
    /// Whose classes wrote it.
    pub family: Family,
    /// Which of them.
    pub architecture: Architecture,
    /// The text tower, unless the configuration is a vision tower's.
    pub text: Option<Projected<TextConfig>>,
    /// The vision tower, unless the configuration is a text tower's.
    pub vision: Option<Projected<VisionConfig>>,
    /// `ln` of the logit scale for a checkpoint without the weight of that name.
    pub logit_scale_init_value: f64,
}

impl Default for ClipConfig {
    /// `CLIPConfig()`: ViT-B/32.
    fn default() -> Self {
        let mut root = Fields::root(Map::from_iter([("model_type".to_owned(), json!("clip"))]));
        Self::read(&mut root).unwrap_or_else(|error| unreachable!("the defaults are valid: {error}"))
    }
}

impl ClipConfig {
    /// Reads the text of a `config.json`.
    ///
    /// # Errors
    /// Names the first field that is unknown or holds what it cannot.
    pub fn from_json(text: &str) -> Result<Self, ConfigError> {
        let value: Value = serde_json::from_str(text).map_err(|e| ConfigError::Syntax(e.to_string()))?;
        let Value::Object(map) = value else {
            return Err(ConfigError::Syntax("the top level is not an object".into()));
        };
        Self::read(&mut Fields::root(map))
    }

    fn read(root: &mut Fields) -> Result<Self, ConfigError> {
        let model_type = root.string("model_type", "clip")?;
        let family = Family::ALL.into_iter().find(|family| family.model_types().contains(&model_type.as_str()));
        let Some(family) = family else {
            let served = Family::ALL.map(|family| family.model_types().join(", ")).join(", ");
            let expected = format!("one of {served}: CLIP and what has its shape is served, other models are not");
            return Err(field_error("model_type", &json!(model_type), &expected));
        };
        let [whole, text_model, vision_model] = family.model_types();
        let classes = root.strings("architectures")?;
        let known = CLASSES.map(|class| format!("{}{class}", family.class_prefix()));
        if let Some(class) = classes.iter().find(|class| !known.contains(class)) {
            return Err(field_error("architectures", &json!(class), &known.join(", ")));
        }
        let has = |start: &str| {
            classes
                .iter()
                .any(|class| class.strip_prefix(family.class_prefix()).is_some_and(|class| class.starts_with(start)))
        };
        let nested = model_type == whole;
        let architecture = if model_type == text_model || nested && has("TextModel") {
            Architecture::Text
        } else if model_type == vision_model || nested && has("VisionModel") {
            Architecture::Vision
        } else {
            Architecture::Clip
        };

        let (text, vision, logit_scale_init_value);
        if nested {
            let mut text_fields = root.tower("text_config")?;
            let mut vision_fields = root.tower("vision_config")?;
            let own = root.size("projection_dim", 512);
            // `CLIPModel` takes the width of both projections from the top level, the single-tower classes from the tower.
            let shared = if architecture == Architecture::Clip { Some(own?) } else { None };
            logit_scale_init_value = root.number("logit_scale_init_value", 2.6592)?;
            root.finish()?;
            // A tower that the checkpoint does not have may say what it likes.
            text = match architecture {
                Architecture::Vision => None,
                Architecture::Clip | Architecture::Text => Some(read_text(&mut text_fields, family, shared)?),
            };
            vision = match architecture {
                Architecture::Text => None,
                Architecture::Clip | Architecture::Vision => Some(read_vision(&mut vision_fields, family, shared)?),
            };
        } else {
            logit_scale_init_value = 2.6592;
            text = if architecture == Architecture::Text { Some(read_text(root, family, None)?) } else { None };
            vision = if architecture == Architecture::Vision { Some(read_vision(root, family, None)?) } else { None };
        }
        Ok(Self { family, architecture, text, vision, logit_scale_init_value })
    }

    /// The `config.json` that [`ClipConfig::from_json`] reads back as `self`.
    pub fn to_json(&self) -> String {
        let [whole, text_model, vision_model] = self.family.model_types();
        let text = self.text.as_ref().map(|t| {
            let mut fields = transformer_json(&t.tower.transformer, text_model, t.projection_dim);
            fields.insert("vocab_size".into(), json!(t.tower.vocab_size));
            fields.insert("max_position_embeddings".into(), json!(t.tower.max_position_embeddings));
            fields.insert("eos_token_id".into(), json!(t.tower.pooling.eos_token_id()));
            fields
        });
        let vision = self.vision.as_ref().map(|v| {
            let mut fields = transformer_json(&v.tower.transformer, vision_model, v.projection_dim);
            fields.insert("image_size".into(), json!(v.tower.image_size));
            fields.insert("patch_size".into(), json!(v.tower.patch_size));
            fields.insert("num_channels".into(), json!(v.tower.num_channels));
            fields
        });
        let root = match (text, vision) {
            (Some(text), Some(vision)) => {
                let projection_dim = self.text.as_ref().map(|t| t.projection_dim);
                Map::from_iter([
                    ("architectures".to_owned(), json!([format!("{}Model", self.family.class_prefix())])),
                    ("model_type".to_owned(), json!(whole)),
                    ("projection_dim".to_owned(), json!(projection_dim)),
                    ("logit_scale_init_value".to_owned(), json!(self.logit_scale_init_value)),
                    ("text_config".to_owned(), Value::Object(text)),
                    ("vision_config".to_owned(), Value::Object(vision)),
                ])
            }
            (Some(one), None) | (None, Some(one)) => one,
            (None, None) => Map::new(),
        };
        format!("{:#}", Value::Object(root))
    }
}

/// The classes whose checkpoints have the towers we build, behind the [prefix](Family::class_prefix) of their family.
const CLASSES: [&str; 5] =
    ["Model", "TextModel", "TextModelWithProjection", "VisionModel", "VisionModelWithProjection"];

fn transformer_json(config: &TransformerConfig, model_type: &str, projection_dim: usize) -> Map<String, Value> {
    let act = ACTIVATIONS.iter().find(|(_, a)| *a == config.hidden_act).map_or("quick_gelu", |(name, _)| name);
    Map::from_iter([
        ("model_type".to_owned(), json!(model_type)),
        ("hidden_size".to_owned(), json!(config.hidden_size)),
        ("intermediate_size".to_owned(), json!(config.intermediate_size)),
        ("num_hidden_layers".to_owned(), json!(config.num_hidden_layers)),
        ("num_attention_heads".to_owned(), json!(config.num_attention_heads)),
        ("hidden_act".to_owned(), json!(act)),
        ("layer_norm_eps".to_owned(), json!(config.layer_norm_eps)),
        ("projection_dim".to_owned(), json!(projection_dim)),
    ])
}

fn read_text(
    fields: &mut Fields,
    family: Family,
    shared_projection: Option<usize>,
) -> Result<Projected<TextConfig>, ConfigError> {
    let [_, text_model, _] = family.model_types();
    fields.expect_type(text_model)?;
    let transformer = read_transformer(fields, 512, 2048, 8)?;
    let projection_dim = fields.projection(shared_projection)?;
    let tower = TextConfig {
        transformer,
        vocab_size: fields.size("vocab_size", 49408)?,
        max_position_embeddings: fields.size("max_position_embeddings", 77)?,
        pooling: TextPooling::of(fields.integer("eos_token_id", 49407)?, family),
    };
    // First, so that a misspelt field is called unknown, not its default a contradiction.
    fields.finish()?;
    check_transformer(fields, &tower.transformer)?;
    check_context("max_position_embeddings", fields, tower.max_position_embeddings)?;
    Ok(Projected { tower, projection_dim })
}

/// The longest text, ids: the causal mask in a graph is its square. CLIPs have 77, those for long texts 248 and 512.
const MAX_CONTEXT: usize = 4096;

/// What `field` says is the longest text, if a mask for it can be made.
pub(super) fn check_context(field: &str, fields: &Fields, length: usize) -> Result<(), ConfigError> {
    if length <= MAX_CONTEXT {
        return Ok(());
    }
    Err(field_error(&fields.path(field), &json!(length), &format!("at most {MAX_CONTEXT}")))
}

fn read_vision(
    fields: &mut Fields,
    family: Family,
    shared_projection: Option<usize>,
) -> Result<Projected<VisionConfig>, ConfigError> {
    let [.., vision_model] = family.model_types();
    fields.expect_type(vision_model)?;
    let transformer = read_transformer(fields, 768, 3072, 12)?;
    let projection_dim = fields.projection(shared_projection)?;
    let tower = VisionConfig {
        transformer,
        image_size: fields.size("image_size", 224)?,
        patch_size: fields.size("patch_size", 32)?,
        num_channels: fields.size("num_channels", 3)?,
    };
    fields.finish()?;
    check_transformer(fields, &tower.transformer)?;
    if tower.patch_size > tower.image_size {
        let expected = format!("at most image_size ({})", tower.image_size);
        return Err(field_error(&fields.path("patch_size"), &json!(tower.patch_size), &expected));
    }
    Ok(Projected { tower, projection_dim })
}

fn read_transformer(
    fields: &mut Fields,
    hidden_size: usize,
    intermediate_size: usize,
    heads: usize,
) -> Result<TransformerConfig, ConfigError> {
    Ok(TransformerConfig {
        hidden_size: fields.size("hidden_size", hidden_size)?,
        intermediate_size: fields.size("intermediate_size", intermediate_size)?,
        num_hidden_layers: fields.size("num_hidden_layers", 12)?,
        num_attention_heads: fields.size("num_attention_heads", heads)?,
        hidden_act: read_activation(fields)?,
        layer_norm_eps: fields.number("layer_norm_eps", 1e-5)?,
    })
}

/// What has to hold between fields.
fn check_transformer(fields: &Fields, config: &TransformerConfig) -> Result<(), ConfigError> {
    if !config.hidden_size.is_multiple_of(config.num_attention_heads) {
        let expected = format!("a divisor of hidden_size ({})", config.hidden_size);
        return Err(field_error(&fields.path("num_attention_heads"), &json!(config.num_attention_heads), &expected));
    }
    if config.layer_norm_eps < 0.0 {
        return Err(field_error(&fields.path("layer_norm_eps"), &json!(config.layer_norm_eps), "zero or more"));
    }
    Ok(())
}

/// `hidden_act`.
fn read_activation(fields: &mut Fields) -> Result<Activation, ConfigError> {
    let expected = format!("one of {}", ACTIVATIONS.map(|(name, _)| name).join(", "));
    fields.take("hidden_act", Activation::QuickGelu, &expected, |v| {
        let name = v.as_str()?;
        ACTIVATIONS.iter().find(|(known, _)| *known == name).map(|(_, act)| *act)
    })
}

#[cfg(test)]
mod tests;
