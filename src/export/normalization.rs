//! What happens to a pixel between `u8` and the patch embedding: the part of an image processor's configuration that our vision graph
//! takes over (`do_rescale`, `rescale_factor`, `do_normalize`, `image_mean`, `image_std`).
//!
//! Owns these five fields and their defaults. Resizing, cropping and colour stay with `preprocess`.

use serde::Deserialize;
use serde_json::json;

use crate::model::{open_clip::ImageTransform, preprocessor::image_processor};

/// `pixel = (u8 * rescale_factor - mean[channel]) / std[channel]`.
#[derive(Clone, Debug, PartialEq)]
pub struct PixelNormalization {
    /// Usually 1 / 255.
    pub rescale_factor: f64,
    /// One per channel.
    pub mean: Vec<f64>,
    /// One per channel, none of them zero.
    pub std: Vec<f64>,
}

/// The fields as they stand in the file; absent and null mean the same to `CLIPImageProcessor`, its default.
#[derive(Deserialize)]
struct Raw {
    do_rescale: Option<bool>,
    rescale_factor: Option<f64>,
    do_normalize: Option<bool>,
    image_mean: Option<Channels>,
    image_std: Option<Channels>,
}

/// One number stands for all channels, as in `transformers`' `normalize`.
#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a number or one for each channel")]
enum Channels {
    All(f64),
    Each(Vec<f64>),
}

impl Channels {
    fn of(self, channels: usize) -> Vec<f64> {
        match self {
            Self::All(value) => vec![value; channels],
            Self::Each(values) => values,
        }
    }
}

impl Default for PixelNormalization {
    /// `OPENAI_CLIP_MEAN` and `OPENAI_CLIP_STD` of `transformers`.
    fn default() -> Self {
        Self {
            rescale_factor: 1.0 / 255.0,
            mean: vec![0.48145466, 0.4578275, 0.40821073],
            std: vec![0.26862954, 0.26130258, 0.27577711],
        }
    }
}

impl From<ImageTransform> for PixelNormalization {
    fn from(ImageTransform { mean, std, .. }: ImageTransform) -> Self {
        let each = |values: [f32; 3]| values.map(f64::from).to_vec();
        Self { mean: each(mean), std: each(std), ..Self::default() }
    }
}

impl PixelNormalization {
    /// Reads the text of a `preprocessor_config.json`, or of a `processor_config.json` that has an image processor, for a model of
    /// `channels` channels.
    ///
    /// # Errors
    /// Says which field has the wrong type or length, or that a standard deviation is zero.
    pub fn from_json(text: &str, channels: usize) -> Result<Self, String> {
        let read = |text| serde_json::from_str(image_processor(text)?);
        let raw: Raw = read(text).map_err(|error: serde_json::Error| error.to_string())?;
        let default = Self::default();
        let (mean, std) = if raw.do_normalize.unwrap_or(true) {
            let values = |own: Option<Channels>, default| own.map_or(default, |values| values.of(channels));
            (values(raw.image_mean, default.mean), values(raw.image_std, default.std))
        } else {
            (vec![0.0; channels], vec![1.0; channels])
        };
        let rescale_factor = match raw.do_rescale {
            Some(false) => 1.0,
            Some(true) | None => raw.rescale_factor.unwrap_or(default.rescale_factor),
        };
        for (field, values) in [("image_mean", &mean), ("image_std", &std)] {
            if values.len() != channels {
                return Err(format!("field `{field}` has {} values, the model has {channels} channels", values.len()));
            }
        }
        if let Some(bad) = std.iter().find(|s| !s.is_normal()) {
            return Err(format!("field `image_std` has the value {bad}, expected positive numbers"));
        }
        Ok(Self { rescale_factor, mean, std })
    }

    /// A `preprocessor_config.json` with these values for a model of `side` pixels.
    pub(crate) fn preprocessor_json(&self, side: usize) -> String {
        let fields = json!({
            "image_processor_type": "CLIPImageProcessor",
            "do_resize": true, "size": {"shortest_edge": side}, "resample": 3,
            "do_center_crop": true, "crop_size": {"height": side, "width": side},
            "do_rescale": true, "rescale_factor": self.rescale_factor,
            "do_normalize": true, "image_mean": self.mean, "image_std": self.std,
            "do_convert_rgb": true,
        });
        format!("{fields:#}")
    }

    /// The same as one multiplication and one addition per channel: `pixel = u8 * scale + shift`.
    pub(crate) fn affine(&self) -> Vec<(f64, f64)> {
        self.mean.iter().zip(&self.std).map(|(mean, std)| (self.rescale_factor / std, -mean / std)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_file_means_openai_s_values() {
        for text in ["{}", r#"{"image_mean": null, "do_rescale": null, "size": {"shortest_edge": 224}}"#] {
            assert_eq!(PixelNormalization::from_json(text, 3).unwrap(), PixelNormalization::default());
        }
    }

    #[test]
    fn one_number_is_that_of_every_channel_and_the_processor_may_be_one_of_several() {
        let read = |text| PixelNormalization::from_json(text, 3).unwrap();
        let each = read(r#"{"image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.25, 0.25]}"#);
        assert_eq!(read(r#"{"image_mean": 0.5, "image_std": 0.25}"#), each);
        assert_eq!(read(r#"{"image_processor": {"image_mean": 0.5, "image_std": 0.25}, "image_std": 1}"#), each);
    }

    #[test]
    fn switched_off_steps_do_nothing() {
        let off = PixelNormalization::from_json(r#"{"do_rescale": false, "do_normalize": false}"#, 3).unwrap();
        assert_eq!(off.affine(), [(1.0, 0.0); 3]);
    }

    #[test]
    fn errors_name_the_field() {
        for (text, part) in [
            (r#"{"image_mean": [0.5]}"#, "image_mean"),
            (r#"{"image_std": [1, 0, 1]}"#, "image_std"),
            (r#"{"image_std": "1"}"#, "a number or one for each channel"),
            (r#"{"image_processor": {"image_std": 0}}"#, "image_std"),
        ] {
            let message = PixelNormalization::from_json(text, 3).unwrap_err();
            assert!(message.contains(part), "{message}");
        }
    }
}
