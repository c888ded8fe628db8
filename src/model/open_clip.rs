//! The two configuration files of open_clip that exports from it carry: `preprocess_cfg.json`, and `config.json` with
//! `vision_cfg` and `text_cfg` in place of `transformers`' `vision_config` and `text_config`.
//!
//! Owns their fields and which values can be honoured; one that cannot is an error that names it, never a silent default.
//!
//! The crop is `transformers`' (and Immich's own): the odd pixel of an uneven rest is cut on the right. torchvision's
//! `CenterCrop` rounds half to even, so that where the rest leaves 3 modulo 4 it cuts one column or row further.

use serde::Deserialize;

use super::preprocessor::{MAX_SIDE, PreprocessorConfig, Resample, ResizeTo, Size};

/// open_clip's file; anything else is `transformers`' `preprocessor_config.json`.
pub(super) const PREPROCESS_FILE: &str = "preprocess_cfg.json";

/// `TextCfg.context_length` of open_clip.
const DEFAULT_CONTEXT_LENGTH: usize = 77;

/// Why a file of open_clip cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpenClipError {
    /// Not JSON, or a known field of the wrong type.
    #[error("not a valid open_clip configuration: {0}")]
    Json(#[from] serde_json::Error),
    /// A value that cannot be honoured.
    #[error("`{field}` is {actual}, expected {expected}")]
    Field { field: &'static str, actual: String, expected: &'static str },
}

fn wrong(field: &'static str, actual: impl ToString, expected: &'static str) -> OpenClipError {
    OpenClipError::Field { field, actual: actual.to_string(), expected }
}

/// `PreprocessCfg`; `fill_color` is left out, because no resize mode that is served leaves anything to fill.
#[derive(Deserialize)]
struct PreprocessCfg {
    #[serde(default = "default_size")]
    size: RawSize,
    #[serde(default = "default_mode")]
    mode: String,
    #[serde(default = "default_mean")]
    mean: [f32; 3],
    #[serde(default = "default_std")]
    std: [f32; 3],
    #[serde(default = "default_interpolation")]
    interpolation: String,
    #[serde(default = "default_resize_mode")]
    resize_mode: String,
}

/// One side, or height and width.
#[derive(Clone, Copy, Deserialize)]
#[serde(untagged, expecting = "expected an integer or a pair [height, width]")]
enum RawSize {
    Side(u32),
    Pair([u32; 2]),
}

fn default_size() -> RawSize {
    RawSize::Side(224)
}

fn default_mode() -> String {
    "RGB".to_owned()
}

/// `OPENAI_DATASET_MEAN`.
fn default_mean() -> [f32; 3] {
    [0.481_454_66, 0.457_827_5, 0.408_210_73]
}

/// `OPENAI_DATASET_STD`.
fn default_std() -> [f32; 3] {
    [0.268_629_54, 0.261_302_6, 0.275_777_1]
}

fn default_interpolation() -> String {
    "bicubic".to_owned()
}

fn default_resize_mode() -> String {
    "shortest".to_owned()
}

/// Reads the text of a `preprocess_cfg.json`.
///
/// # Errors
/// When it is not JSON, or asks for what cannot be honoured.
pub(super) fn preprocessor(text: &str) -> Result<PreprocessorConfig, OpenClipError> {
    let raw: PreprocessCfg = serde_json::from_str(text)?;
    let [height, width] = match raw.size {
        RawSize::Side(side) => [side, side],
        RawSize::Pair(pair) => pair,
    };
    if !(1..=MAX_SIDE).contains(&height) || !(1..=MAX_SIDE).contains(&width) {
        return Err(wrong("size", format!("{height}x{width}"), "sides from 1 to 4096 pixels"));
    }
    if raw.mode != "RGB" {
        return Err(wrong("mode", raw.mode, "RGB"));
    }
    let resample = match raw.interpolation.as_str() {
        "bicubic" => Resample::Bicubic,
        "bilinear" => Resample::Bilinear,
        _ => return Err(wrong("interpolation", raw.interpolation, "bicubic or bilinear")),
    };
    let (size, do_center_crop) = match raw.resize_mode.as_str() {
        "shortest" if height == width => (ResizeTo::ShortestEdge(height), true),
        "shortest" => return Err(wrong("size", format!("{height}x{width}"), "a square, as resize_mode is shortest")),
        "squash" => (ResizeTo::Exact(Size { height, width }), false),
        _ => return Err(wrong("resize_mode", raw.resize_mode, "shortest or squash")),
    };
    let finite = raw.mean.iter().chain(&raw.std).all(|value| value.is_finite());
    if !finite || raw.std.contains(&0.0) {
        return Err(wrong("std", format!("{:?}", raw.std), "finite numbers other than 0, and a finite mean"));
    }
    Ok(PreprocessorConfig {
        do_resize: true,
        size,
        resample,
        do_center_crop,
        crop_size: Size { height, width },
        do_rescale: true,
        rescale_factor: 1.0 / 255.0,
        do_normalize: true,
        image_mean: raw.mean,
        image_std: raw.std,
        do_convert_rgb: true,
    })
}

/// What of a model's `config.json` matters beside a graph.
#[derive(Deserialize)]
struct ModelCfg {
    text_cfg: Option<TextCfg>,
}

#[derive(Deserialize)]
struct TextCfg {
    context_length: Option<usize>,
    pool_type: Option<String>,
    hf_model_name: Option<String>,
    #[serde(default)]
    no_causal_mask: bool,
}

/// The context length in the text of open_clip's `config.json`; `None` when it is not open_clip's.
///
/// # Errors
/// When the text tower is not CLIP's: texts are padded with their end token, which only causal attention and pooling at the
/// first end token forgive.
pub(super) fn context_length(text: &str) -> Result<Option<usize>, OpenClipError> {
    let ModelCfg { text_cfg: Some(text) } = serde_json::from_str(text)? else { return Ok(None) };
    if let Some(name) = text.hf_model_name {
        return Err(wrong("text_cfg.hf_model_name", name, "none: text towers other than CLIP's are not served"));
    }
    if let Some(pool) = text.pool_type.filter(|pool| pool != "argmax" && pool != "eos") {
        return Err(wrong("text_cfg.pool_type", pool, "argmax or eos, as CLIP pools"));
    }
    if text.no_causal_mask {
        return Err(wrong("text_cfg.no_causal_mask", true, "false, as in CLIP"));
    }
    match text.context_length.unwrap_or(DEFAULT_CONTEXT_LENGTH) {
        length @ 3..=65_536 => Ok(Some(length)),
        length => Err(wrong("text_cfg.context_length", length, "3 to 65536")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As written beside ViT-B-32__openai.
    const OPENAI: &str = r#"{"size": [224, 224], "mode": "RGB", "mean": [0.48145466, 0.4578275, 0.40821073],
        "std": [0.26862954, 0.26130258, 0.27577711], "interpolation": "bicubic", "resize_mode": "shortest", "fill_color": 0}"#;

    #[test]
    fn clips_own_preprocessing_reads_as_that_of_transformers() {
        let expected = PreprocessorConfig::from_json("{}").expect("the defaults");
        assert_eq!(preprocessor(OPENAI).expect("valid"), expected);
        assert_eq!(preprocessor("{}").expect("the defaults"), expected);
    }

    #[test]
    fn squash_resizes_both_sides_and_cuts_nothing() {
        let config = preprocessor(r#"{"size": [240, 320], "resize_mode": "squash", "interpolation": "bilinear"}"#);
        let config = config.expect("valid");
        assert_eq!(config.size, ResizeTo::Exact(Size { height: 240, width: 320 }));
        assert_eq!((config.do_center_crop, config.resample), (false, Resample::Bilinear));
    }

    #[test]
    fn a_value_that_cannot_be_honoured_is_named() {
        for (json, field) in [
            (r#"{"resize_mode": "longest"}"#, "`resize_mode` is longest"),
            (r#"{"interpolation": "random"}"#, "`interpolation` is random"),
            (r#"{"mode": "L"}"#, "`mode` is L"),
            (r#"{"size": [224, 336]}"#, "`size` is 224x336"),
            (r#"{"size": 0}"#, "`size` is 0x0"),
            (r#"{"std": [1, 0, 1]}"#, "`std`"),
            (r#"{"mean": [1, 0]}"#, "open_clip"),
            ("[", "open_clip"),
        ] {
            let error = preprocessor(json).expect_err(json).to_string();
            assert!(error.contains(field), "{json}: {error}");
        }
    }

    #[test]
    fn the_context_length_is_read_from_clips_text_tower_only() {
        let read = |json| context_length(json).map_err(|error| error.to_string());
        assert_eq!(read(r#"{"text_cfg": {"context_length": 64, "vocab_size": 49408}}"#), Ok(Some(64)));
        assert_eq!(read(r#"{"text_cfg": {}}"#), Ok(Some(77)));
        assert_eq!(read(r#"{"text_config": {}}"#), Ok(None));
        for (json, field) in [
            (r#"{"text_cfg": {"hf_model_name": "xlm"}}"#, "hf_model_name"),
            (r#"{"text_cfg": {"pool_type": "last"}}"#, "pool_type"),
            (r#"{"text_cfg": {"no_causal_mask": true}}"#, "no_causal_mask"),
            (r#"{"text_cfg": {"context_length": 0}}"#, "context_length"),
        ] {
            let error = read(json).expect_err(json);
            assert!(error.contains(field), "{error}");
        }
    }
}
