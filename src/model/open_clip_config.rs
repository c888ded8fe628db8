//! The `open_clip_config.json` of a checkpoint by open_clip, as the [`ClipConfig`] that computes the same: `CLIPVisionCfg` and
//! `CLIPTextCfg` of open_clip 3.3.0, with their defaults, in the plain and the CustomTextCLIP spelling.
//!
//! Owns which fields exist and which values can be honoured: one that cannot, and a field that nobody knows, is an error that names it. Does
//! not own the pictures (`preprocess_cfg`) nor the tokenizer.
//!
//! What is not CLIP's arithmetic, whatever library ran it, is refused: towers of timm and of transformers, ResNets, CoCa, attention in both
//! directions, pooling other than at the class token and at one token of the text. Where several values come to the same, all are taken:
//! `block_type` "custom" without its features, `final_ln_after_pool` where one position is pooled, position embeddings by sine and cosine, which
//! are stored like learned ones.

use serde_json::{Map, Value, json};

use super::{
    clip_config::{
        Activation, Architecture, ClipConfig, Family, Projected, TextConfig, TextPooling, TransformerConfig,
        VisionConfig, check_context,
    },
    fields::{ConfigError, Fields, MAX_SIZE, as_size, field_error},
};

/// `ln(1 / 0.07)`, `init_logit_scale` by default.
const LOGIT_SCALE: f64 = 2.659_260_036_932_778;

/// Fields of either tower that have to be left as they are, and what to expect of them.
const OF_BOTH: [(&str, &str); 6] = [
    ("qk_norm", NO_FEATURE),
    ("scaled_cosine_attn", NO_FEATURE),
    ("scale_heads", NO_FEATURE),
    ("scale_attn_inner", NO_FEATURE),
    ("scale_attn", NO_FEATURE),
    ("scale_fc", NO_FEATURE),
];
const NO_FEATURE: &str = "false, as CLIP's blocks have it";
const OF_VISION: [(&str, &str); 3] = [
    ("timm_model_name", "none: towers of timm are not served, those of open_clip's own ViT are"),
    ("attentional_pool", "false: pooling at the class token is served"),
    ("no_ln_pre", "false, as in CLIP"),
];
const OF_TEXT: [(&str, &str); 4] = [
    ("hf_model_name", "none: text towers of transformers are not served, open_clip's own is"),
    ("embed_cls", "false: it is CoCa's"),
    ("no_causal_mask", "false, as in CLIP"),
    ("proj_bias", "false, as in CLIP"),
];
const OF_MODEL: [(&str, &str); 3] = [
    ("multimodal_cfg", "none: CoCa is not served"),
    ("audio_cfg", "none: CLAP is not served"),
    ("init_logit_bias", "none: logits with a bias, as SigLIP's, are not served"),
];

/// Fields that change nothing of what inference computes here: of training, of features that are refused where they are asked for, or of the
/// tokenizer, which is another file's matter. LayerScale's factors are in the weights, whatever they began with.
const HARMLESS_IN_VISION: &str = "
    patch_dropout attn_pooler_queries attn_pooler_heads output_tokens final_ln_after_pool ls_init_value timm_model_pretrained timm_pool
    timm_proj timm_proj_bias timm_drop timm_drop_path
";
const HARMLESS_IN_TEXT: &str = "
    hf_tokenizer_name tokenizer_mode tokenizer_kwargs pad_id output_tokens final_ln_after_pool ls_init_value hf_model_pretrained
    hf_proj_type hf_pooler_type
";
const HARMLESS: &str = "custom_text nonscalar_logit_scale output_dict";

/// The file, as far as it is about arithmetic.
#[derive(serde::Deserialize)]
struct File {
    model_cfg: Map<String, Value>,
}

/// Reads the text of an `open_clip_config.json`.
///
/// # Errors
/// Names the first field of `model_cfg` that is unknown, or holds what it cannot or what is not served.
pub fn clip_config(text: &str) -> Result<ClipConfig, ConfigError> {
    let File { model_cfg } = serde_json::from_str(text).map_err(|error| ConfigError::Syntax(error.to_string()))?;
    let mut fields = Fields::of("model_cfg", model_cfg);
    refuse(&mut fields, &OF_MODEL)?;
    let embed_dim = fields.size("embed_dim", 0)?;
    if embed_dim == 0 {
        return Err(field_error(&fields.path("embed_dim"), &Value::Null, "the length of an embedding"));
    }
    let quick_gelu = fields.flag("quick_gelu")?;
    let logit_scale_init_value = fields.number("init_logit_scale", LOGIT_SCALE)?;
    let (mut vision, mut text) = (fields.object("vision_cfg")?, fields.object("text_cfg")?);
    fields.finish_but(HARMLESS)?;
    Ok(ClipConfig {
        family: Family::Clip,
        architecture: Architecture::Clip,
        text: Some(Projected { tower: read_text(&mut text, quick_gelu)?, projection_dim: embed_dim }),
        vision: Some(Projected { tower: read_vision(&mut vision, quick_gelu)?, projection_dim: embed_dim }),
        logit_scale_init_value,
    })
}

fn read_vision(fields: &mut Fields, quick_gelu: bool) -> Result<VisionConfig, ConfigError> {
    refuse(fields, &OF_VISION)?;
    refuse(fields, &OF_BOTH)?;
    fields.take("pool_type", (), "tok, as CLIP pools", |v| (v == "tok").then_some(()))?;
    fields.take("pos_embed_type", (), "learnable or sin_cos_2d", |v| {
        ["learnable", "sin_cos_2d"].contains(&v.as_str()?).then_some(())
    })?;
    let head_width = fields.size("head_width", 64)?;
    let image_size = side(fields, "image_size", 224)?;
    let patch_size = side(fields, "patch_size", 16)?;
    let heads = |fields: &mut Fields, width: usize| {
        let heads = width / head_width;
        if heads == 0 || !width.is_multiple_of(heads) {
            let expected = format!("a width of heads that divide width ({width})");
            return Err(field_error(&fields.path("head_width"), &json!(head_width), &expected));
        }
        Ok(heads)
    };
    let transformer = read_transformer(fields, 768, quick_gelu, heads)?;
    fields.finish_but(HARMLESS_IN_VISION)?;
    if patch_size > image_size {
        let expected = format!("at most image_size ({image_size})");
        return Err(field_error(&fields.path("patch_size"), &json!(patch_size), &expected));
    }
    Ok(VisionConfig { transformer, image_size, patch_size, num_channels: 3 })
}

fn read_text(fields: &mut Fields, quick_gelu: bool) -> Result<TextConfig, ConfigError> {
    refuse(fields, &OF_TEXT)?;
    refuse(fields, &OF_BOTH)?;
    fields.take("proj_type", (), "linear: embeddings without a projection are not served", |v| {
        (v == "linear").then_some(())
    })?;
    let at_end = fields.take("pool_type", false, "argmax or eos, as CLIP pools", |v| match v.as_str()? {
        "argmax" => Some(false),
        "eos" => Some(true),
        _ => None,
    })?;
    let eos_id = fields.integer("eos_id", UNREAD)?;
    if at_end && eos_id == UNREAD {
        let expected = "another: with pool_type eos, 2 is not served";
        return Err(field_error(&fields.path("eos_id"), &json!(eos_id), expected));
    }
    let heads = |fields: &mut Fields, width: usize| {
        let heads = fields.size("heads", 8)?;
        if !width.is_multiple_of(heads) {
            let expected = format!("a divisor of width ({width})");
            return Err(field_error(&fields.path("heads"), &json!(heads), &expected));
        }
        Ok(heads)
    };
    let tower = TextConfig {
        transformer: read_transformer(fields, 512, quick_gelu, heads)?,
        vocab_size: fields.size("vocab_size", 49408)?,
        max_position_embeddings: fields.size("context_length", 77)?,
        pooling: if at_end { TextPooling::FirstOf(eos_id) } else { TextPooling::HighestId },
    };
    fields.finish_but(HARMLESS_IN_TEXT)?;
    check_context("context_length", fields, tower.max_position_embeddings)?;
    Ok(tower)
}

/// open_clip's default of `eos_id`, which in a `config.json` of `CLIPModel`, as one is written beside the graphs, says to pool elsewhere.
const UNREAD: i64 = 2;

fn read_transformer(
    fields: &mut Fields,
    width: usize,
    quick_gelu: bool,
    heads: impl FnOnce(&mut Fields, usize) -> Result<usize, ConfigError>,
) -> Result<TransformerConfig, ConfigError> {
    let hidden_size = fields.size("width", width)?;
    let num_attention_heads = heads(fields, hidden_size)?;
    fields.take("block_type", (), "default or custom", |v| {
        (v.is_null() || v == "default" || v == "custom").then_some(())
    })?;
    let expected = format!("one whole number from 1 to {MAX_SIZE}: a list of them makes a ResNet, which is not served");
    let num_hidden_layers = fields.take("layers", 12, &expected, as_size)?;
    let intermediate_size =
        fields.take("mlp_ratio", hidden_size * 4, "a number that makes an MLP at least one wide", |v| {
            // As Python's `int(width * mlp_ratio)`.
            let wide = (hidden_size as f64 * v.as_f64()?).trunc();
            (1.0..=MAX_SIZE as f64).contains(&wide).then_some(wide as usize)
        })?;
    Ok(TransformerConfig {
        hidden_size,
        intermediate_size,
        num_hidden_layers,
        num_attention_heads,
        hidden_act: activation(fields, quick_gelu)?,
        layer_norm_eps: epsilon(fields)?,
    })
}

/// `act_kwargs`: what `torch.nn.GELU` takes. `QuickGELU` takes nothing.
fn activation(fields: &mut Fields, quick_gelu: bool) -> Result<Activation, ConfigError> {
    let plain = if quick_gelu { Activation::QuickGelu } else { Activation::Gelu };
    let expected =
        if quick_gelu { "null, as quick_gelu has no arguments" } else { r#"{"approximate": "tanh" or "none"}"# };
    fields.take("act_kwargs", plain, expected, |v| match v {
        Value::Null => Some(plain),
        Value::Object(map) if map.is_empty() => Some(plain),
        Value::Object(map) if map.len() == 1 && !quick_gelu => match map.get("approximate")?.as_str()? {
            "tanh" => Some(Activation::GeluNew),
            "none" => Some(Activation::Gelu),
            _ => None,
        },
        _ => None,
    })
}

/// `norm_kwargs`: what `torch.nn.LayerNorm` takes.
fn epsilon(fields: &mut Fields) -> Result<f64, ConfigError> {
    const DEFAULT: f64 = 1e-5;
    fields.take("norm_kwargs", DEFAULT, r#"{"eps": a number from 0 on}"#, |v| match v {
        Value::Null => Some(DEFAULT),
        Value::Object(map) if map.is_empty() => Some(DEFAULT),
        Value::Object(map) if map.len() == 1 => map.get("eps")?.as_f64().filter(|eps| *eps >= 0.0 && eps.is_finite()),
        _ => None,
    })
}

/// One side, or two that are equal.
fn side(fields: &mut Fields, name: &str, default: usize) -> Result<usize, ConfigError> {
    let expected = format!("a whole number from 1 to {MAX_SIZE}, or a pair of equal ones: only squares are served");
    fields.take(name, default, &expected, |v| {
        let v = match v.as_array().map(Vec::as_slice) {
            Some([height, width]) if height == width => height,
            _ => v,
        };
        as_size(v)
    })
}

/// Refuses what asks for a feature that is not served.
fn refuse(fields: &mut Fields, unserved: &[(&str, &str)]) -> Result<(), ConfigError> {
    for (name, expected) in unserved {
        fields.take(name, (), expected, |v| match v {
            Value::Null | Value::Bool(false) => Some(()),
            _ => None,
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(model_cfg: Value) -> Result<ClipConfig, ConfigError> {
        clip_config(&json!({"model_cfg": model_cfg, "preprocess_cfg": {"size": 7}}).to_string())
    }

    /// With these fields more, or others, at the top, of the pictures' tower and of the texts'.
    fn changed(top: Value, vision: Value, text: Value) -> Value {
        let mut model = json!({"embed_dim": 32, "vision_cfg": {"patch_size": 32}, "text_cfg": {}});
        for (at, more) in [("", top), ("/vision_cfg", vision), ("/text_cfg", text)] {
            let fields = model.pointer_mut(at).unwrap().as_object_mut().unwrap();
            fields.extend(more.as_object().unwrap().clone());
        }
        model
    }

    fn of_vision(fields: Value) -> Value {
        changed(json!({}), fields, json!({}))
    }

    fn of_text(fields: Value) -> Value {
        changed(json!({}), json!({}), fields)
    }

    #[test]
    fn what_is_not_said_is_open_clip_s_default_and_not_that_of_transformers() {
        let config = read(changed(json!({}), json!({}), json!({}))).unwrap();
        let (text, vision) = (config.text.unwrap(), config.vision.unwrap());
        let act = |t: &TransformerConfig| (t.hidden_act, t.layer_norm_eps);
        assert_eq!(act(&text.tower.transformer), (Activation::Gelu, 1e-5));
        assert_eq!(act(&vision.tower.transformer), (Activation::Gelu, 1e-5));
        let sizes =
            |t: &TransformerConfig| [t.hidden_size, t.intermediate_size, t.num_hidden_layers, t.num_attention_heads];
        assert_eq!(sizes(&text.tower.transformer), [512, 2048, 12, 8]);
        assert_eq!(sizes(&vision.tower.transformer), [768, 3072, 12, 12]);
        assert_eq!((text.tower.vocab_size, text.tower.max_position_embeddings), (49408, 77));
        assert_eq!(text.tower.pooling, TextPooling::HighestId);
        assert_eq!((vision.tower.image_size, vision.tower.patch_size), (224, 32));
        assert_eq!((text.projection_dim, vision.projection_dim), (32, 32));
        assert!((config.logit_scale_init_value - (1.0f64 / 0.07).ln()).abs() < 1e-12);
    }

    #[test]
    fn every_field_that_changes_the_arithmetic_is_honoured() {
        let config = read(changed(
            json!({"quick_gelu": true, "custom_text": true, "init_logit_scale": 1.5}),
            json!({"width": 104, "head_width": 26, "layers": 3, "mlp_ratio": 4.9231, "image_size": [70, 70], "patch_size": [14, 14],
                   "pool_type": "tok", "final_ln_after_pool": true, "norm_kwargs": {"eps": 1e-6}, "patch_dropout": 0.5}),
            json!({"width": 60, "heads": 5, "layers": 2, "context_length": 32, "vocab_size": 99, "pool_type": "eos", "eos_id": 98}),
        ))
        .unwrap();
        assert_eq!(config.logit_scale_init_value, 1.5);
        let vision = config.vision.as_ref().unwrap().tower.clone();
        let transformer = TransformerConfig {
            hidden_size: 104,
            intermediate_size: 512,
            num_hidden_layers: 3,
            num_attention_heads: 4,
            hidden_act: Activation::QuickGelu,
            layer_norm_eps: 1e-6,
        };
        assert_eq!(vision, VisionConfig { transformer, image_size: 70, patch_size: 14, num_channels: 3 });
        let text = &config.text.as_ref().unwrap().tower;
        assert_eq!(
            (text.transformer.num_attention_heads, text.pooling, text.max_position_embeddings),
            (5, TextPooling::FirstOf(98), 32)
        );
        assert_eq!(
            ClipConfig::from_json(&config.to_json()).unwrap(),
            config,
            "the file beside the graphs says the same"
        );
        let tanh = read(of_text(json!({"act_kwargs": {"approximate": "tanh"}}))).unwrap();
        assert_eq!(tanh.text.unwrap().tower.transformer.hidden_act, Activation::GeluNew);
        assert_eq!(tanh.vision.unwrap().tower.transformer.hidden_act, Activation::Gelu);
    }

    #[test]
    fn what_is_not_served_is_named_with_its_value() {
        let top = |fields: Value| changed(fields, json!({}), json!({}));
        for (model, part) in [
            (
                of_vision(json!({"timm_model_name": "convnext_base"})),
                "`model_cfg.vision_cfg.timm_model_name` is \"convnext_base\"",
            ),
            (of_vision(json!({"layers": [3, 4, 6, 3]})), "a list of them makes a ResNet"),
            (of_vision(json!({"image_size": [224, 336]})), "only squares are served"),
            (of_vision(json!({"image_size": 16})), "at most image_size (16)"),
            (of_vision(json!({"attentional_pool": "parallel"})), "vision_cfg.attentional_pool"),
            (of_vision(json!({"no_ln_pre": true})), "vision_cfg.no_ln_pre"),
            (of_vision(json!({"pool_type": "avg"})), "tok, as CLIP pools"),
            (of_vision(json!({"pos_embed_type": "rope"})), "learnable or sin_cos_2d"),
            (of_vision(json!({"qk_norm": true})), "vision_cfg.qk_norm"),
            (of_vision(json!({"head_width": 1000})), "vision_cfg.head_width"),
            (of_vision(json!({"head_width": 100})), "divide width (768)"),
            (of_vision(json!({"mlp_ratio": 0.001})), "vision_cfg.mlp_ratio"),
            (of_vision(json!({"mlp_ratio": 1e300})), "vision_cfg.mlp_ratio"),
            (of_vision(json!({"norm_kwargs": {"bias": false}})), "vision_cfg.norm_kwargs"),
            (of_vision(json!({"widht": 3})), "unknown field `model_cfg.vision_cfg.widht`"),
            (of_text(json!({"hf_model_name": "xlm-roberta-base"})), "text_cfg.hf_model_name"),
            (of_text(json!({"embed_cls": true})), "text_cfg.embed_cls"),
            (of_text(json!({"no_causal_mask": true})), "text_cfg.no_causal_mask"),
            (of_text(json!({"pool_type": "last"})), "argmax or eos"),
            (of_text(json!({"pool_type": "eos"})), "with pool_type eos, 2 is not served"),
            (of_text(json!({"proj_bias": true})), "text_cfg.proj_bias"),
            (of_text(json!({"proj_type": "none"})), "text_cfg.proj_type"),
            (of_text(json!({"block_type": "new"})), "default or custom"),
            (of_text(json!({"heads": 7})), "divisor of width (512)"),
            (of_text(json!({"text_arch": "modern"})), "unknown field `model_cfg.text_cfg.text_arch`"),
            (top(json!({"multimodal_cfg": {"width": 3}})), "CoCa"),
            (top(json!({"init_logit_bias": -10})), "init_logit_bias"),
            (top(json!({"quick_gelu": 1})), "true or false"),
            (top(json!({"embed_dim": 0})), "model_cfg.embed_dim"),
            (json!({"vision_cfg": {}, "text_cfg": {}}), "`model_cfg.embed_dim` is null"),
            (json!({"embed_dim": 3, "text_cfg": {}}), "`model_cfg.vision_cfg` is null, expected an object"),
            (
                changed(json!({"quick_gelu": true}), json!({"act_kwargs": {"approximate": "tanh"}}), json!({})),
                "act_kwargs",
            ),
        ] {
            let message = read(model.clone()).expect_err(&model.to_string()).to_string();
            assert!(message.contains(part), "{model}: {message}");
        }
        assert!(clip_config("{}").unwrap_err().to_string().contains("model_cfg"));
    }

    proptest! {
        #[test]
        fn a_config_that_reads_can_be_built(
            field in "width|heads|head_width|layers|mlp_ratio|patch_size|image_size|context_length|eos_id|norm_kwargs",
            value in prop_oneof![any::<i64>().prop_map(Value::from), any::<f64>().prop_map(Value::from)],
        ) {
            let fields = json!({field: value});
            if let Ok(config) = read(changed(json!({}), fields.clone(), fields)) {
                prop_assert_eq!(ClipConfig::from_json(&config.to_json()), Ok(config));
            }
        }
    }
}
