//! What open_clip says of its models: `preprocess_cfg.json`, `config.json` with `vision_cfg` and `text_cfg` in place of `transformers`'
//! `vision_config` and `text_config`, and `open_clip_config.json`, which holds both as `preprocess_cfg` and `model_cfg`.
//!
//! Owns their fields as far as they say how inputs are prepared, and which values can be honoured; one that cannot is an error that names
//! it, never a silent default. Checked against version 3.3.0 (`transform.py`, `tokenizer.py`, `get_tokenizer`).

use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::{
    preprocessor::{MAX_SIDE, Resample, Size},
    texts::{Clean, Tokenization},
};

/// What exports carry.
pub(super) const PREPROCESS_FILE: &str = "preprocess_cfg.json";

/// What checkpoints carry.
pub const OPEN_CLIP_FILE: &str = "open_clip_config.json";

/// `TextCfg.context_length` of open_clip.
const DEFAULT_CONTEXT_LENGTH: usize = 77;

/// `OPENAI_DATASET_MEAN`.
const DEFAULT_MEAN: [f32; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];

/// `OPENAI_DATASET_STD`.
const DEFAULT_STD: [f32; 3] = [0.268_629_54, 0.261_302_6, 0.275_777_1];

/// What `image_transform` does to a picture: resize, cut, convert to RGB, in this order. EXIF does not turn it.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageTransform {
    /// Of the crop.
    pub size: Size,
    /// What the picture is resized to before.
    pub resize: ResizeMode,
    /// With which filter.
    pub resample: Resample,
    /// Per channel, red first.
    pub mean: [f32; 3],
    /// Per channel, red first; none is zero.
    pub std: [f32; 3],
}

/// `resize_mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResizeMode {
    /// `shortest` with a square crop: torchvision's `Resize`, the shorter side.
    Shortest,
    /// `shortest` with another: `ResizeKeepRatio`, so that it covers the crop.
    Cover,
    /// `longest`: `ResizeKeepRatio`, so that it lies within the crop, with each band of what surrounds it `fill_color`.
    Within {
        /// `fill_color`.
        fill: u8,
    },
    /// `squash`: both sides.
    Squash,
}

/// Why a file of open_clip cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenClipError {
    /// Not JSON, or a known field of the wrong type.
    #[error("not a valid open_clip configuration: {0}")]
    Json(#[from] serde_json::Error),
    /// A value that cannot be honoured.
    #[error("`{field}` is {actual}, expected {expected}")]
    Field {
        /// Its name.
        field: &'static str,
        /// What it is.
        actual: String,
        /// What it may be.
        expected: &'static str,
    },
    /// A setting that is not known.
    #[error("`text_cfg.tokenizer_kwargs` has {0}, which is not served; leave it out")]
    Unknown(String),
}

pub(super) fn wrong(field: &'static str, actual: impl ToString, expected: &'static str) -> OpenClipError {
    OpenClipError::Field { field, actual: actual.to_string(), expected }
}

/// `PreprocessCfg`; `null` is the default, as in `merge_preprocess_dict`.
#[derive(Deserialize)]
struct PreprocessCfg {
    size: Option<RawSize>,
    mode: Option<String>,
    mean: Option<Channels>,
    std: Option<Channels>,
    interpolation: Option<String>,
    resize_mode: Option<String>,
    fill_color: Option<u8>,
}

/// One side, or height and width.
#[derive(Clone, Copy, Deserialize)]
#[serde(untagged, expecting = "expected an integer or a pair [height, width]")]
enum RawSize {
    Side(u32),
    Pair([u32; 2]),
}

/// One number stands for all three.
#[derive(Clone, Copy, Deserialize)]
#[serde(untagged, expecting = "expected a number or three numbers")]
pub(super) enum Channels {
    All(f32),
    Each([f32; 3]),
    None([f32; 0]),
}

impl Channels {
    /// All three, where there are any.
    pub(super) fn each(self) -> Option<[f32; 3]> {
        match self {
            Self::All(value) => Some([value; 3]),
            Self::Each(values) => Some(values),
            Self::None([]) => None,
        }
    }
}

/// `mean` and `std`, if samples can be scaled by them.
///
/// # Errors
/// When one is not finite, or divides by zero.
pub(super) fn checked_scaling(mean: [f32; 3], std: [f32; 3]) -> Result<([f32; 3], [f32; 3]), OpenClipError> {
    let finite = mean.iter().chain(&std).all(|value| value.is_finite());
    if !finite || std.contains(&0.0) {
        return Err(wrong("std", format!("{std:?}"), "finite numbers other than 0, and a finite mean"));
    }
    Ok((mean, std))
}

impl ImageTransform {
    /// Reads the text of a `preprocess_cfg.json`, or of an `open_clip_config.json`.
    ///
    /// # Errors
    /// When it is not JSON, or asks for what cannot be honoured.
    pub fn from_json(text: &str) -> Result<Self, OpenClipError> {
        #[derive(Deserialize)]
        struct Whole {
            preprocess_cfg: Option<PreprocessCfg>,
            model_cfg: Option<VisionSide>,
        }
        #[derive(Deserialize)]
        struct VisionSide {
            vision_cfg: Option<VisionCfg>,
        }
        #[derive(Deserialize)]
        struct VisionCfg {
            image_size: Option<RawSize>,
        }
        let Whole { preprocess_cfg, model_cfg } = serde_json::from_str(text)?;
        let raw = preprocess_cfg.map_or_else(|| serde_json::from_str(text), Ok)?;
        // Beside a model, its size is the crop's, whatever else is said.
        let of_model = model_cfg.and_then(|model| model.vision_cfg?.image_size);
        let [height, width] = match of_model.or(raw.size).unwrap_or(RawSize::Side(224)) {
            RawSize::Side(side) => [side, side],
            RawSize::Pair(pair) => pair,
        };
        if !(1..=MAX_SIDE).contains(&height) || !(1..=MAX_SIDE).contains(&width) {
            return Err(wrong("size", format!("{height}x{width}"), "sides from 1 to 4096 pixels"));
        }
        if let Some(mode) = raw.mode.filter(|mode| mode != "RGB") {
            return Err(wrong("mode", mode, "RGB"));
        }
        let resample = match raw.interpolation.as_deref() {
            // Only training draws one.
            None | Some("bicubic" | "random") => Resample::Bicubic,
            Some("bilinear") => Resample::Bilinear,
            Some(other) => return Err(wrong("interpolation", other, "bicubic, bilinear or random")),
        };
        let (resize, resample) = match raw.resize_mode.as_deref() {
            None | Some("shortest") if height == width => (ResizeMode::Shortest, resample),
            // It is not handed the filter.
            None | Some("shortest") => (ResizeMode::Cover, Resample::Bicubic),
            Some("longest") => (ResizeMode::Within { fill: raw.fill_color.unwrap_or(0) }, resample),
            Some("squash") => (ResizeMode::Squash, resample),
            Some(other) => return Err(wrong("resize_mode", other, "shortest, longest or squash")),
        };
        // `mean or OPENAI_DATASET_MEAN`, so nought is none.
        let own = |values: Option<Channels>, default| {
            values.filter(|values| !matches!(values, Channels::All(0.0))).and_then(Channels::each).unwrap_or(default)
        };
        let (mean, std) = checked_scaling(own(raw.mean, DEFAULT_MEAN), own(raw.std, DEFAULT_STD))?;
        Ok(Self { size: Size { height, width }, resize, resample, mean, std })
    }

    /// That of OpenAI's own code, for crops with sides of `size` pixels.
    ///
    /// # Errors
    /// When there is no such crop.
    pub(super) fn of_openai(size: usize) -> Result<Self, OpenClipError> {
        let side = u32::try_from(size).ok().filter(|side| (1..=MAX_SIDE).contains(side));
        let side = side.ok_or_else(|| wrong("image_size", size, "1 to 4096 pixels"))?;
        Ok(Self {
            size: Size { height: side, width: side },
            resize: ResizeMode::Shortest,
            resample: Resample::Bicubic,
            mean: DEFAULT_MEAN,
            std: DEFAULT_STD,
        })
    }
}

/// What of a model's `config.json` matters beside a graph.
#[derive(Deserialize)]
struct ModelCfg {
    text_cfg: Option<TextCfg>,
    model_cfg: Option<Box<ModelCfg>>,
}

impl ModelCfg {
    /// The text tower, in either file.
    fn text(self) -> Option<TextCfg> {
        self.text_cfg.or_else(|| self.model_cfg?.text_cfg)
    }
}

#[derive(Deserialize)]
struct TextCfg {
    context_length: Option<usize>,
    pool_type: Option<String>,
    hf_model_name: Option<String>,
    hf_tokenizer_name: Option<String>,
    tokenizer_mode: Option<String>,
    #[serde(default)]
    tokenizer_kwargs: Option<Map<String, Value>>,
    #[serde(default)]
    no_causal_mask: bool,
}

/// Whether the text of a `config.json` is open_clip's.
///
/// # Errors
/// When it is not JSON, or a known field is of the wrong type.
pub(super) fn has_text_cfg(text: &str) -> Result<bool, serde_json::Error> {
    Ok(serde_json::from_str::<ModelCfg>(text)?.text().is_some())
}

/// How texts become ids by the text of a `config.json` or an `open_clip_config.json`: as open_clip's `get_tokenizer` decides. `tokenizer` is
/// the one beside it.
///
/// # Errors
/// When it has no `text_cfg`, or asks for what cannot be honoured.
pub(super) fn tokenization(text: &str, tokenizer: Option<&Path>) -> Result<Tokenization, OpenClipError> {
    let text = serde_json::from_str::<ModelCfg>(text)?.text();
    let text = text.ok_or_else(|| wrong("text_cfg", "missing", "open_clip's description of the text tower"))?;
    if let Some(mode) = text.tokenizer_mode.filter(|mode| !mode.is_empty()) {
        return Err(wrong("text_cfg.tokenizer_mode", mode, "none, as for CLIP's vocabulary"));
    }
    let hugging_face = text.hf_tokenizer_name.filter(|name| !name.is_empty());
    let mut clean = if hugging_face.is_some() { Clean::Whitespace } else { Clean::Lower };
    for (name, value) in text.tokenizer_kwargs.unwrap_or_default() {
        clean = match (name.as_str(), value) {
            ("clean", Value::String(value)) => match value.as_str() {
                "lower" => Clean::Lower,
                "whitespace" => Clean::Whitespace,
                "canonicalize" => Clean::Canonicalize,
                _ => {
                    let expected = "lower, whitespace or canonicalize";
                    return Err(wrong("text_cfg.tokenizer_kwargs.clean", value, expected));
                }
            },
            // It would drop words of long texts, at random.
            ("reduction_mask", Value::String(value)) if !value.is_empty() => {
                return Err(wrong("text_cfg.tokenizer_kwargs.reduction_mask", value, "none: texts are cut at the end"));
            }
            ("reduction_mask", Value::String(_)) | (_, Value::Null) | ("strip_sep_token", Value::Bool(false)) => clean,
            (name, value) => return Err(OpenClipError::Unknown(format!("{name} = {value}"))),
        };
    }
    match (hugging_face, tokenizer) {
        (None, _) => Ok(Tokenization::OpenClip(clean)),
        (Some(_), Some(tokenizer)) => Ok(Tokenization::OpenClipHuggingFace(tokenizer.to_owned(), clean)),
        (Some(name), None) => Err(wrong("text_cfg.hf_tokenizer_name", name, "its tokenizer.json beside the graph")),
    }
}

/// The context length in the text of open_clip's `config.json`; `None` when it is not open_clip's.
///
/// # Errors
/// When the text tower is not CLIP's: texts are padded with their end token, which only causal attention and pooling at the
/// first end token forgive.
pub(super) fn context_length(text: &str) -> Result<Option<usize>, OpenClipError> {
    let Some(text) = serde_json::from_str::<ModelCfg>(text)?.text() else { return Ok(None) };
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
    fn clips_own_preprocessing_is_the_default_and_openais() {
        let expected = ImageTransform::of_openai(224).expect("a size");
        let nested = format!(r#"{{"model_cfg": {{}}, "preprocess_cfg": {OPENAI}}}"#);
        let nulls =
            r#"{"size": null, "mode": null, "mean": null, "std": null, "interpolation": null, "resize_mode": null}"#;
        for json in [OPENAI, &nested, "{}", nulls] {
            assert_eq!(ImageTransform::from_json(json).expect("valid"), expected);
        }
        assert!(ImageTransform::of_openai(0).is_err() && ImageTransform::of_openai(4097).is_err());
    }

    #[test]
    fn each_resize_mode_is_read_with_its_filter() {
        let read = |json| ImageTransform::from_json(json).expect("valid");
        let none = ImageTransform::from_json(r#"{"mean": 0, "std": []}"#).expect("valid");
        assert_eq!((none.mean, none.std), (DEFAULT_MEAN, DEFAULT_STD));
        let config = read(r#"{"size": [240, 320], "resize_mode": "squash", "interpolation": "bilinear", "mean": 0.5}"#);
        assert_eq!(config.size, Size { height: 240, width: 320 });
        assert_eq!((config.resize, config.resample, config.mean), (ResizeMode::Squash, Resample::Bilinear, [0.5; 3]));
        let config = read(r#"{"size": [240, 320], "interpolation": "bilinear"}"#);
        assert_eq!((config.resize, config.resample), (ResizeMode::Cover, Resample::Bicubic));
        let config = read(r#"{"resize_mode": "longest", "fill_color": 7, "interpolation": "random"}"#);
        assert_eq!((config.resize, config.resample), (ResizeMode::Within { fill: 7 }, Resample::Bicubic));
    }

    #[test]
    fn a_value_that_cannot_be_honoured_is_named() {
        for (json, field) in [
            (r#"{"resize_mode": "both"}"#, "`resize_mode` is both"),
            (r#"{"interpolation": "lanczos"}"#, "`interpolation` is lanczos"),
            (r#"{"mode": "L"}"#, "`mode` is L"),
            (r#"{"size": 0}"#, "`size` is 0x0"),
            (r#"{"std": [1, 0, 1]}"#, "`std`"),
            (r#"{"mean": [1, 0]}"#, "open_clip"),
            (r#"{"fill_color": 256}"#, "open_clip"),
            ("[", "open_clip"),
        ] {
            let error = ImageTransform::from_json(json).expect_err(json).to_string();
            assert!(error.contains(field), "{json}: {error}");
        }
    }

    #[test]
    fn the_tokenizer_is_the_one_that_open_clip_takes() {
        let file = Path::new("tokenizer.json");
        let read = |json: &str, beside| tokenization(json, beside).map_err(|error| error.to_string());
        let simple = |clean| Ok(Tokenization::OpenClip(clean));
        assert_eq!(read(r#"{"text_cfg": {}}"#, Some(file)), simple(Clean::Lower));
        assert_eq!(read(r#"{"model_cfg": {"text_cfg": {"hf_tokenizer_name": ""}}}"#, None), simple(Clean::Lower));
        let kwargs = r#"{"text_cfg": {"tokenizer_kwargs": {"clean": "canonicalize", "reduction_mask": ""}}}"#;
        assert_eq!(read(kwargs, None), simple(Clean::Canonicalize));
        let named = r#"{"text_cfg": {"hf_tokenizer_name": "a/b", "tokenizer_kwargs": {"strip_sep_token": false}}}"#;
        let expected = Tokenization::OpenClipHuggingFace(file.to_owned(), Clean::Whitespace);
        assert_eq!(read(named, Some(file)), Ok(expected));
        for (json, field) in [
            (named, "hf_tokenizer_name` is a/b"),
            (r#"{"text_config": {}}"#, "text_cfg"),
            (r#"{"text_cfg": {"tokenizer_mode": "clips"}}"#, "tokenizer_mode` is clips"),
            (r#"{"text_cfg": {"tokenizer_kwargs": {"clean": "none"}}}"#, "clean` is none"),
            (r#"{"text_cfg": {"tokenizer_kwargs": {"reduction_mask": "random"}}}"#, "reduction_mask` is random"),
            (r#"{"text_cfg": {"tokenizer_kwargs": {"strip_sep_token": true}}}"#, "strip_sep_token = true"),
            (r#"{"text_cfg": {"tokenizer_kwargs": {"additional_special_tokens": ["<a>"]}}}"#, "additional_special"),
        ] {
            let error = read(json, None).expect_err(json);
            assert!(error.contains(field), "{error}");
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
