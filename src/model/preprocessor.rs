//! How a checkpoint of `transformers` wants its pictures prepared, with `CLIPImageProcessor`'s own defaults: `preprocessor_config.json`,
//! or `image_processor` in the `processor_config.json` that version 5 writes in its place for a whole model.
//!
//! Owns which of the two files counts, reading it and validating it. Does not own doing it: `preprocess::image` resizes and crops, the vision encoder
//! rescales and normalises. Fields we do not know are ignored, as `transformers` ignores them; a field we do know with a value
//! we cannot honour is an error, never a silent default.
//!
//! Invariants of a [`PreprocessorConfig`] that exists: every size is at least 1 and at most [`MAX_SIDE`], every number is
//! finite, no `image_std` is zero.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::value::RawValue;

use super::error::{ModelError, read};

/// The image processor by itself.
pub const PREPROCESSOR_FILE: &str = "preprocessor_config.json";

/// All processors of a model, each under its name; older versions of `transformers` write it without the image processor.
pub const PROCESSOR_FILE: &str = "processor_config.json";

/// The largest side a resize or crop may ask for, in pixels: no CLIP comes near, and it bounds the memory of one crop.
pub const MAX_SIDE: u32 = 4096;

/// The fields of `CLIPImageProcessor` that change a pixel.
#[derive(Clone, Debug, PartialEq)]
pub struct PreprocessorConfig {
    /// Whether pictures are resized to [`size`](Self::size).
    pub do_resize: bool,
    /// What they are resized to.
    pub size: ResizeTo,
    /// With which filter.
    pub resample: Resample,
    /// Whether the middle [`crop_size`](Self::crop_size) is then cut out.
    pub do_center_crop: bool,
    /// Its size.
    pub crop_size: Size,
    /// Whether samples are multiplied by [`rescale_factor`](Self::rescale_factor).
    pub do_rescale: bool,
    /// Usually 1/255.
    pub rescale_factor: f64,
    /// Whether [`image_mean`](Self::image_mean) is subtracted and the result divided by [`image_std`](Self::image_std).
    pub do_normalize: bool,
    /// Per channel, red first.
    pub image_mean: [f32; 3],
    /// Per channel, red first.
    pub image_std: [f32; 3],
    /// Whether pictures are converted to RGB first. Read for completeness: the model takes three channels, so they always are
    /// (where the reference would not, it fails on everything that is not RGB already).
    pub do_convert_rgb: bool,
}

/// A height and a width in pixels, each in `1..=MAX_SIDE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Rows.
    pub height: u32,
    /// Columns.
    pub width: u32,
}

/// What `do_resize` aims at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResizeTo {
    /// The shorter side becomes this, the longer follows the aspect ratio.
    ShortestEdge(u32),
    /// Both sides are given; the aspect ratio is not kept.
    Exact(Size),
}

/// Pillow's resampling filters; the numbers of `PIL.Image.Resampling` are what the file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resample {
    /// 0
    Nearest,
    /// 1
    Lanczos,
    /// 2
    Bilinear,
    /// 3
    Bicubic,
    /// 4
    Box,
    /// 5
    Hamming,
}

/// Why the configuration of an image processor cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PreprocessorConfigError {
    /// Not JSON, or a known field of the wrong type.
    #[error("not a valid configuration of an image processor: {0}")]
    Json(#[from] serde_json::Error),
    /// A known field with a value that cannot be honoured.
    #[error("`{field}` of the image processor {problem}")]
    Field {
        /// The field's name in the file.
        field: &'static str,
        /// What is wrong and what would be right, as the end of a sentence.
        problem: String,
    },
}

/// The file of all processors.
#[derive(Deserialize)]
struct Processors<'a> {
    #[serde(borrow)]
    image_processor: Option<&'a RawValue>,
}

/// The image processor's part of either file's text: `image_processor`, or all of it.
///
/// # Errors
/// When it is not a JSON object.
pub fn image_processor(text: &str) -> Result<&str, serde_json::Error> {
    Ok(serde_json::from_str::<Processors>(text)?.image_processor.map_or(text, RawValue::get))
}

/// The file in `folder` that says how pictures are prepared, if there is one. As in version 5 of `transformers` a
/// [`PROCESSOR_FILE`] with an image processor goes before a [`PREPROCESSOR_FILE`], unless they say the same: then it is the latter, as
/// it was before there was the former, and the model's fingerprint stays.
///
/// # Errors
/// When the [`PROCESSOR_FILE`] is damaged.
pub fn find(folder: &Path) -> Result<Option<PathBuf>, ModelError> {
    let (alone, whole) = (folder.join(PREPROCESSOR_FILE), folder.join(PROCESSOR_FILE));
    let alone = Some(alone).filter(|path| path.is_file());
    let nested =
        |text: &str| Ok::<_, serde_json::Error>(serde_json::from_str::<Processors>(text)?.image_processor.is_some());
    if !whole.is_file() || !read(&whole, nested)? {
        return Ok(alone);
    }
    let same = |alone: &PathBuf| match read(alone, PreprocessorConfig::from_json) {
        Ok(config) => read(&whole, PreprocessorConfig::from_json).is_ok_and(|nested| nested == config),
        Err(_) => false,
    };
    Ok(Some(alone.filter(same).unwrap_or(whole)))
}

/// The file as it is written. `null` means absent, as in `CLIPImageProcessor.__init__`.
#[derive(Deserialize)]
struct Raw {
    do_resize: Option<bool>,
    size: Option<RawSize>,
    resample: Option<i64>,
    do_center_crop: Option<bool>,
    crop_size: Option<RawSize>,
    do_rescale: Option<bool>,
    rescale_factor: Option<f64>,
    do_normalize: Option<bool>,
    image_mean: Option<RawChannels>,
    image_std: Option<RawChannels>,
    do_convert_rgb: Option<bool>,
}

/// The three ways `transformers` writes a size (its `get_size_dict`).
#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "expected an integer, a pair [height, width], or an object with shortest_edge or with height and width"
)]
enum RawSize {
    Side(i64),
    Pair([i64; 2]),
    Named { shortest_edge: Option<i64>, height: Option<i64>, width: Option<i64> },
}

/// One number stands for all three channels, as in `transformers`' `normalize`.
#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a number or three numbers")]
enum RawChannels {
    All(f32),
    Each([f32; 3]),
}

impl PreprocessorConfig {
    /// Reads the text of either file.
    ///
    /// # Errors
    /// When it is not JSON, or a known field holds a value that cannot be honoured; the message names the field.
    pub fn from_json(text: &str) -> Result<Self, PreprocessorConfigError> {
        let raw: Raw = serde_json::from_str(image_processor(text)?)?;
        Ok(Self {
            do_resize: raw.do_resize.unwrap_or(true),
            size: raw.size.map_or(Ok(ResizeTo::ShortestEdge(224)), resize_to)?,
            resample: raw.resample.map_or(Ok(Resample::Bicubic), resample)?,
            do_center_crop: raw.do_center_crop.unwrap_or(true),
            crop_size: raw.crop_size.map_or(Ok(Size { height: 224, width: 224 }), crop_size)?,
            do_rescale: raw.do_rescale.unwrap_or(true),
            rescale_factor: finite("rescale_factor", raw.rescale_factor.unwrap_or(1.0 / 255.0))?,
            do_normalize: raw.do_normalize.unwrap_or(true),
            // OPENAI_CLIP_MEAN and OPENAI_CLIP_STD of transformers.image_utils.
            image_mean: channels("image_mean", raw.image_mean, [0.481_454_66, 0.457_827_5, 0.408_210_73])?,
            image_std: image_std(raw.image_std)?,
            do_convert_rgb: raw.do_convert_rgb.unwrap_or(true),
        })
    }
}

fn resize_to(raw: RawSize) -> Result<ResizeTo, PreprocessorConfigError> {
    Ok(match raw {
        RawSize::Side(edge) | RawSize::Named { shortest_edge: Some(edge), .. } => {
            ResizeTo::ShortestEdge(side("size", edge)?)
        }
        RawSize::Pair([height, width])
        | RawSize::Named { shortest_edge: None, height: Some(height), width: Some(width) } => {
            ResizeTo::Exact(Size { height: side("size", height)?, width: side("size", width)? })
        }
        RawSize::Named { .. } => return Err(wrong("size", "needs either shortest_edge, or height and width".into())),
    })
}

fn crop_size(raw: RawSize) -> Result<Size, PreprocessorConfigError> {
    let (height, width) = match raw {
        RawSize::Side(side) => (side, side),
        RawSize::Pair([height, width]) | RawSize::Named { height: Some(height), width: Some(width), .. } => {
            (height, width)
        }
        RawSize::Named { .. } => return Err(wrong("crop_size", "needs both height and width".into())),
    };
    Ok(Size { height: side("crop_size", height)?, width: side("crop_size", width)? })
}

fn side(field: &'static str, value: i64) -> Result<u32, PreprocessorConfigError> {
    match u32::try_from(value) {
        Ok(side @ 1..=MAX_SIDE) => Ok(side),
        _ => Err(wrong(field, format!("has a side of {value} pixels; it must be between 1 and {MAX_SIDE}"))),
    }
}

fn resample(value: i64) -> Result<Resample, PreprocessorConfigError> {
    Ok(match value {
        0 => Resample::Nearest,
        1 => Resample::Lanczos,
        2 => Resample::Bilinear,
        3 => Resample::Bicubic,
        4 => Resample::Box,
        5 => Resample::Hamming,
        _ => {
            let known = "0 nearest, 1 lanczos, 2 bilinear, 3 bicubic, 4 box, 5 hamming";
            return Err(wrong("resample", format!("is {value}; it must be one of Pillow's filters: {known}")));
        }
    })
}

fn channels(
    field: &'static str,
    raw: Option<RawChannels>,
    default: [f32; 3],
) -> Result<[f32; 3], PreprocessorConfigError> {
    let values = match raw {
        None => default,
        Some(RawChannels::All(value)) => [value; 3],
        Some(RawChannels::Each(values)) => values,
    };
    for value in values {
        finite(field, value.into())?;
    }
    Ok(values)
}

fn image_std(raw: Option<RawChannels>) -> Result<[f32; 3], PreprocessorConfigError> {
    let values = channels("image_std", raw, [0.268_629_54, 0.261_302_6, 0.275_777_1])?;
    if values.contains(&0.0) {
        return Err(wrong("image_std", "has a zero, and samples are divided by it".into()));
    }
    Ok(values)
}

/// `f32` fields pass through here too: a literal such as `1e39` reads as infinity.
fn finite(field: &'static str, value: f64) -> Result<f64, PreprocessorConfigError> {
    if value.is_finite() { Ok(value) } else { Err(wrong(field, format!("is {value}, which is out of range"))) }
}

fn wrong(field: &'static str, problem: String) -> PreprocessorConfigError {
    PreprocessorConfigError::Field { field, problem }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> PreprocessorConfig {
        PreprocessorConfig::from_json(json).unwrap()
    }

    #[test]
    fn an_empty_object_means_clip_image_processors_defaults() {
        let config = read("{}");
        assert!(config.do_resize && config.do_center_crop && config.do_rescale && config.do_normalize);
        assert!(config.do_convert_rgb);
        assert_eq!(config.size, ResizeTo::ShortestEdge(224));
        assert_eq!(config.crop_size, Size { height: 224, width: 224 });
        assert_eq!(config.resample, Resample::Bicubic);
        assert_eq!(config.rescale_factor, 1.0 / 255.0);
        assert_eq!(config.image_mean, [0.48145466, 0.4578275, 0.40821073]);
        assert_eq!(config.image_std, [0.268_629_54, 0.261_302_6, 0.275_777_1]);
    }

    #[test]
    fn sizes_read_as_a_number_a_pair_or_an_object() {
        let exact = ResizeTo::Exact(Size { height: 240, width: 320 });
        assert_eq!(read(r#"{"size": 336}"#).size, ResizeTo::ShortestEdge(336));
        assert_eq!(read(r#"{"size": {"shortest_edge": 336, "longest_edge": 900}}"#).size, ResizeTo::ShortestEdge(336));
        assert_eq!(read(r#"{"size": {"height": 240, "width": 320}}"#).size, exact);
        assert_eq!(read(r#"{"size": [240, 320]}"#).size, exact);
        assert_eq!(read(r#"{"crop_size": 336}"#).crop_size, Size { height: 336, width: 336 });
        assert_eq!(read(r#"{"crop_size": {"height": 1, "width": 4096}}"#).crop_size, Size { height: 1, width: 4096 });
    }

    #[test]
    fn every_filter_number_of_pillow_is_known() {
        let filters = [0, 1, 2, 3, 4, 5].map(|n| read(&format!(r#"{{"resample": {n}}}"#)).resample);
        use Resample::*;
        assert_eq!(filters, [Nearest, Lanczos, Bilinear, Bicubic, Box, Hamming]);
    }

    #[test]
    fn unknown_fields_and_nulls_are_ignored_and_a_lone_number_fills_three_channels() {
        let config =
            read(r#"{"image_processor_type": "X", "size": null, "image_mean": 0.5, "image_std": [0.5, 0.25, 1]}"#);
        assert_eq!(config.size, ResizeTo::ShortestEdge(224));
        assert_eq!((config.image_mean, config.image_std), ([0.5; 3], [0.5, 0.25, 1.0]));
    }

    #[test]
    fn the_image_processor_may_be_one_of_several() {
        let alone = r#"{"size": 64, "do_normalize": false}"#;
        let nested = format!(r#"{{"processor_class": "CLIPProcessor", "image_processor": {alone}, "size": 32}}"#);
        assert_eq!(read(&nested), read(alone));
        assert_eq!(read(r#"{"image_processor": null, "size": 64}"#).size, ResizeTo::ShortestEdge(64));
    }

    #[test]
    fn of_two_files_the_one_of_all_processors_counts_where_they_differ() {
        let (small, large) = (r#"{"size": 64, "crop_size": 64}"#, r#"{"size": 224}"#);
        let nested = format!(r#"{{"image_processor": {small}}}"#);
        let same = r#"{"crop_size": {"height": 64, "width": 64}, "size": {"shortest_edge": 64}}"#;
        for (alone, whole, expected) in [
            (None, None, None),
            (Some(large), None, Some(PREPROCESSOR_FILE)),
            (None, Some(nested.as_str()), Some(PROCESSOR_FILE)),
            (Some(large), Some(&nested), Some(PROCESSOR_FILE)),
            (Some(same), Some(&nested), Some(PREPROCESSOR_FILE)),
            (Some("damaged"), Some(&nested), Some(PROCESSOR_FILE)),
            (Some(large), Some(r#"{"processor_class": "CLIPProcessor"}"#), Some(PREPROCESSOR_FILE)),
            (None, Some(r#"{"processor_class": "CLIPProcessor"}"#), None),
        ] {
            let folder = tempfile::tempdir().expect("a folder");
            for (file, text) in [(PREPROCESSOR_FILE, alone), (PROCESSOR_FILE, whole)] {
                text.inspect(|text| std::fs::write(folder.path().join(file), text).expect("written"));
            }
            let found = find(folder.path()).expect("well formed");
            assert_eq!(found, expected.map(|file| folder.path().join(file)), "{alone:?} {whole:?}");
        }
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join(PROCESSOR_FILE), "{").expect("written");
        assert!(find(folder.path()).expect_err("damaged").to_string().contains(PROCESSOR_FILE));
    }

    #[test]
    fn a_wrong_value_is_an_error_that_names_its_field() {
        for (json, needle) in [
            (r#"{"size": 0}"#, "`size`"),
            (r#"{"size": -224}"#, "-224"),
            (r#"{"size": {"height": 4097, "width": 1}}"#, "4097"),
            (r#"{"size": {"height": 224}}"#, "shortest_edge"),
            (r#"{"size": "224"}"#, "integer"),
            (r#"{"crop_size": {"shortest_edge": 224}}"#, "`crop_size`"),
            (r#"{"resample": 6}"#, "bicubic"),
            (r#"{"resample": "bicubic"}"#, "bicubic"),
            (r#"{"image_std": [0.2, 0, 0.2]}"#, "`image_std`"),
            (r#"{"image_mean": [0.2, 0.2]}"#, "three numbers"),
            (r#"{"image_mean": [1e39, 0, 0]}"#, "`image_mean`"),
            (r#"{"do_resize": "yes"}"#, "boolean"),
            ("[]", "image processor"),
            ("", "image processor"),
            (r#"{"image_processor": {"size": 0}}"#, "`size`"),
            (r#"{"image_processor": 7}"#, "image processor"),
        ] {
            let message = PreprocessorConfig::from_json(json).unwrap_err().to_string();
            assert!(message.contains(needle), "{json}: {message}");
        }
    }
}
