//! `logit_scale`: the factor between cosine and logit, which no graph from elsewhere contains.
//!
//! Owns where it is looked for, in this order: the checkpoint's weight of that name, the metadata of our own export,
//! `logit_scale_init_value` of `config.json`, 100 (where OpenAI's training clips it, and where nearly every released checkpoint
//! ends). The weight and the configuration hold its natural logarithm, as `CLIPModel` does; [`LogitScale::value`] is the
//! exponential.

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::Path,
};

use half::{bf16, f16};
use safetensors::{Dtype, tensor::Metadata};

use super::error::{ModelError, read};

/// No checkpoint's header comes near this; a damaged length field would.
const MAX_HEADER_BYTES: u64 = 100 << 20;

/// The factor, and where it came from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LogitScale {
    /// `exp(logit_scale)`.
    pub value: f32,
    /// For `/info`: a value from the configuration is the one training started from, not the one it ended with.
    pub source: LogitScaleSource,
}

/// Where a logit scale came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, schemars::JsonSchema, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LogitScaleSource {
    /// The checkpoint's weight.
    Checkpoint,
    /// The metadata of our own export, which has it from the checkpoint.
    Export,
    /// `logit_scale_init_value` in `config.json`.
    Config,
    /// Neither: the value that trained models end with.
    Default,
}

/// The one field of `config.json` that matters here; absent means absent, not `transformers`' default of 2.6592.
#[derive(serde::Deserialize)]
struct InitValue {
    logit_scale_init_value: Option<f64>,
}

impl LogitScale {
    /// Reads the weight from `weights` where there are any, else takes `exported` (the exponential already), else the
    /// configuration's value, else 100; the last two with a warning.
    ///
    /// # Errors
    /// When a file is damaged, or the scale is not a positive finite number.
    pub fn read(weights: Option<&Path>, exported: Option<f32>, config: Option<&Path>) -> Result<Self, ModelError> {
        if let Some(path) = weights {
            let weight = read_weight(path).map_err(|reason| ModelError::File { path: path.to_owned(), reason })?;
            if let Some(logarithm) = weight {
                return Self::from_logarithm(logarithm.into(), path, LogitScaleSource::Checkpoint);
            }
        }
        if let Some(value) = exported {
            return Ok(Self { value, source: LogitScaleSource::Export });
        }
        let mut scale = Self { value: 100.0, source: LogitScaleSource::Default };
        if let Some(config) = config {
            let InitValue { logit_scale_init_value } = read(config, |text| serde_json::from_str(text))?;
            if let Some(logarithm) = logit_scale_init_value {
                scale = Self::from_logarithm(logarithm, config, LogitScaleSource::Config)?;
            }
        }
        tracing::warn!(logit_scale = scale.value, source = ?scale.source, "the model has no logit_scale weight");
        Ok(scale)
    }

    fn from_logarithm(logarithm: f64, path: &Path, source: LogitScaleSource) -> Result<Self, ModelError> {
        let value = logarithm.exp() as f32;
        if value.is_finite() && value > 0.0 {
            return Ok(Self { value, source });
        }
        let reason = format!("logit_scale is {logarithm}, its exponential must be a positive finite number");
        Err(ModelError::File { path: path.to_owned(), reason })
    }
}

/// The scalar `logit_scale` of a safetensors file, read without the rest; `None` when there is no such tensor.
fn read_weight(path: &Path) -> Result<Option<f32>, String> {
    let mut file = File::open(path).map_err(|error| error.to_string())?;
    let mut length = [0; 8];
    file.read_exact(&mut length).map_err(|_| "not a safetensors file: it ends before its header".to_owned())?;
    let length = u64::from_le_bytes(length);
    if length > MAX_HEADER_BYTES {
        return Err(format!("not a safetensors file: its header claims {length} bytes"));
    }
    let mut header = vec![0; length as usize];
    file.read_exact(&mut header).map_err(|_| "not a safetensors file: it ends inside its header".to_owned())?;
    let metadata: Metadata =
        serde_json::from_slice(&header).map_err(|error| format!("not a safetensors file: {error}"))?;
    let Some(tensor) = metadata.info("logit_scale") else { return Ok(None) };
    let (begin, end) = tensor.data_offsets;
    let mut value = [0; 4];
    let value = value.get_mut(..end - begin).ok_or("logit_scale is not a scalar")?;
    file.seek(SeekFrom::Start(8 + length + begin as u64))
        .and_then(|_| file.read_exact(value))
        .map_err(|_| "it ends before its logit_scale".to_owned())?;
    match (tensor.dtype, &*value) {
        (Dtype::F32, &[a, b, c, d]) => Ok(Some(f32::from_le_bytes([a, b, c, d]))),
        (Dtype::F16, &[a, b]) => Ok(Some(f16::from_le_bytes([a, b]).to_f32())),
        (Dtype::BF16, &[a, b]) => Ok(Some(bf16::from_le_bytes([a, b]).to_f32())),
        (dtype, _) => Err(format!("logit_scale is {dtype:?} {:?}, expected one float", tensor.shape)),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::PathBuf};

    use super::*;

    fn file(root: &tempfile::TempDir, header: &str, data: &[u8]) -> PathBuf {
        let path = root.path().join("model.safetensors");
        let bytes = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat();
        fs::write(&path, bytes).expect("a file");
        path
    }

    fn read(path: &Path) -> Result<LogitScale, ModelError> {
        LogitScale::read(Some(path), None, None)
    }

    #[test]
    fn every_float_type_is_read_from_its_place_in_the_file() {
        let root = tempfile::tempdir().expect("a folder");
        for (dtype, bytes) in [
            ("F32", 4.5f32.to_le_bytes().to_vec()),
            ("F16", f16::from_f32(4.5).to_le_bytes().to_vec()),
            ("BF16", bf16::from_f32(4.5).to_le_bytes().to_vec()),
        ] {
            let header = format!(
                r#"{{"a":{{"dtype":"U8","shape":[3],"data_offsets":[0,3]}},"logit_scale":{{"dtype":"{dtype}","shape":[],"data_offsets":[3,{}]}}}}"#,
                3 + bytes.len()
            );
            let path = file(&root, &header, &[&[9, 9, 9], bytes.as_slice()].concat());
            let scale = read(&path).expect(dtype);
            assert_eq!(scale, LogitScale { value: 4.5f64.exp() as f32, source: LogitScaleSource::Checkpoint });
        }
    }

    #[test]
    fn without_the_weight_the_export_counts_then_the_configuration_and_without_that_100() {
        let root = tempfile::tempdir().expect("a folder");
        let config = root.path().join("config.json");
        fs::write(&config, r#"{"model_type": "clip", "logit_scale_init_value": 2.6592}"#).expect("a file");
        let read = |exported, config| LogitScale::read(None, exported, config).expect("a value");
        let exported = LogitScale { value: 50.0, source: LogitScaleSource::Export };
        assert_eq!(read(Some(50.0), Some(config.as_path())), exported);
        let scale = read(None, Some(&config));
        assert_eq!(scale.source, LogitScaleSource::Config);
        assert!((scale.value - 14.285).abs() < 1e-3);
        fs::write(&config, "{}").expect("a file");
        for config in [Some(config.as_path()), None] {
            assert_eq!(read(None, config), LogitScale { value: 100.0, source: LogitScaleSource::Default });
        }
    }

    #[test]
    fn damage_is_named() {
        let root = tempfile::tempdir().expect("a folder");
        let scalar = r#"{"logit_scale":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}"#;
        for (header, data, expected) in [
            ("{", &[][..], "not a safetensors file"),
            (scalar, &[1, 2], "ends before its logit_scale"),
            (r#"{"logit_scale":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#, &[0; 8], "not a scalar"),
            (r#"{"logit_scale":{"dtype":"I32","shape":[],"data_offsets":[0,4]}}"#, &[0; 4], "I32"),
            (scalar, &f32::NAN.to_le_bytes(), "must be a positive finite number"),
        ] {
            let error = read(&file(&root, header, data)).expect_err(header).to_string();
            assert!(error.contains(expected), "{error}");
        }
        let path = root.path().join("model.safetensors");
        fs::write(&path, u64::MAX.to_le_bytes()).expect("a file");
        assert!(read(&path).expect_err("a huge header").to_string().contains("header claims"));
    }
}
