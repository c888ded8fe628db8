//! `visual/preprocess_cfg.json` and `config.json` as Immich's service for machine learning reads them: open_clip's files, another transform.
//!
//! Owns the fields that it reads. Checked against its version 2.2 (`machine-learning/immich_ml/models/clip`).

use serde::Deserialize;

use super::{
    open_clip::{Channels, OpenClipError, checked_scaling, wrong},
    preprocessor::{MAX_SIDE, Resample},
};

/// What `OpenClipVisualEncoder` does to a picture, which is RGB by then and stays as it is stored: EXIF does not turn it.
#[derive(Clone, Debug, PartialEq)]
pub struct ImmichTransform {
    /// The sides of the crop, in pixels.
    pub size: u32,
    /// Whether both sides are resized to that; else the shorter one, and the middle is cut out.
    pub squash: bool,
    /// With which filter.
    pub resample: Resample,
    /// Per channel, red first.
    pub mean: [f32; 3],
    /// Per channel, red first; none is zero.
    pub std: [f32; 3],
}

/// All of these have to be there.
#[derive(Deserialize)]
struct PreprocessCfg {
    size: RawSize,
    interpolation: String,
    mean: Channels,
    std: Channels,
    resize_mode: Option<String>,
}

/// One side, or a list whose first one counts.
#[derive(Deserialize)]
#[serde(untagged, expecting = "expected an integer or a list of them")]
enum RawSize {
    Side(u32),
    List(Vec<u32>),
}

impl ImmichTransform {
    /// Reads the text of a `preprocess_cfg.json`.
    ///
    /// # Errors
    /// When it is not JSON, lacks a field, or asks for what cannot be honoured.
    pub fn from_json(text: &str) -> Result<Self, OpenClipError> {
        let raw: PreprocessCfg = serde_json::from_str(text)?;
        let size = match &raw.size {
            RawSize::Side(side) => *side,
            RawSize::List(sides) => sides.first().copied().unwrap_or(0),
        };
        if !(1..=MAX_SIDE).contains(&size) {
            return Err(wrong("size", size, "1 to 4096 pixels"));
        }
        let resample = match raw.interpolation.to_lowercase().as_str() {
            "nearest" => Resample::Nearest,
            "lanczos" => Resample::Lanczos,
            "bilinear" => Resample::Bilinear,
            "bicubic" => Resample::Bicubic,
            "box" => Resample::Box,
            "hamming" => Resample::Hamming,
            _ => return Err(wrong("interpolation", raw.interpolation, "one of Pillow's filters")),
        };
        let squash = match raw.resize_mode.as_deref() {
            None | Some("shortest") => false,
            Some("squash") => true,
            Some(other) => return Err(wrong("resize_mode", other, "shortest or squash")),
        };
        let each = |field, values: Channels| values.each().ok_or_else(|| wrong(field, "[]", "a number or three"));
        let (mean, std) = checked_scaling(each("mean", raw.mean)?, each("std", raw.std)?)?;
        Ok(Self { size, squash, resample, mean, std })
    }
}

/// Whether the `config.json` asks for canonical texts, as those of SigLIP do.
///
/// # Errors
/// When it is no configuration of open_clip.
pub(super) fn canonicalizes(text: &str) -> Result<bool, serde_json::Error> {
    #[derive(Deserialize)]
    struct Config {
        text_cfg: TextCfg,
    }
    #[derive(Deserialize)]
    struct TextCfg {
        tokenizer_kwargs: Option<TokenizerKwargs>,
    }
    #[derive(Deserialize)]
    struct TokenizerKwargs {
        clean: Option<String>,
    }
    let Config { text_cfg } = serde_json::from_str(text)?;
    Ok(text_cfg.tokenizer_kwargs.and_then(|kwargs| kwargs.clean).is_some_and(|clean| clean == "canonicalize"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: &str = r#"{"size": [224, 336], "interpolation": "BICUBIC", "mean": [0.5, 0.25, 1], "std": 0.5}"#;

    #[test]
    fn of_a_size_the_first_side_counts_and_filters_are_pillows() {
        let expected = ImmichTransform {
            size: 224,
            squash: false,
            resample: Resample::Bicubic,
            mean: [0.5, 0.25, 1.0],
            std: [0.5; 3],
        };
        assert_eq!(ImmichTransform::from_json(FULL).expect("valid"), expected);
        let squash = FULL.replace("[224, 336]", "224").replace("\"std\"", "\"resize_mode\": \"squash\", \"std\"");
        assert_eq!(ImmichTransform::from_json(&squash).expect("valid"), ImmichTransform { squash: true, ..expected });
    }

    #[test]
    fn what_is_missing_or_cannot_be_honoured_is_named() {
        for (from, to, named) in [
            ("\"size\"", "\"other\"", "size"),
            ("\"mean\"", "\"other\"", "mean"),
            ("[224, 336]", "[]", "`size` is 0"),
            ("BICUBIC", "random", "`interpolation` is random"),
            ("0.5}", "0}", "`std`"),
            ("\"std\"", "\"resize_mode\": \"longest\", \"std\"", "`resize_mode` is longest"),
        ] {
            let error = ImmichTransform::from_json(&FULL.replace(from, to)).expect_err(to).to_string();
            assert!(error.contains(named), "{error}");
        }
    }

    #[test]
    fn texts_are_canonical_where_the_tokenizer_says_so() {
        let of = |text| canonicalizes(text).map_err(|_| ());
        assert_eq!(of(r#"{"text_cfg": {"tokenizer_kwargs": {"clean": "canonicalize"}}}"#), Ok(true));
        assert_eq!(of(r#"{"text_cfg": {"tokenizer_kwargs": {"clean": "lower"}}}"#), Ok(false));
        assert_eq!(of(r#"{"text_cfg": {"tokenizer_kwargs": null}}"#), Ok(false));
        assert_eq!(of(r#"{"text_cfg": {}}"#), Ok(false));
        assert_eq!(of(r#"{"text_config": {}}"#), Err(()));
    }
}
