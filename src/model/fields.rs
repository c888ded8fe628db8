//! A JSON object read field by field: each is taken out with its default, what is left must be known to be harmless.
//!
//! Owns the error that names a field and the list of fields that change nothing. Knows no field's meaning: `clip_config` does.

use serde_json::{Map, Value};

/// No size in a CLIP configuration comes near this; products of three of them still fit in a `usize`.
pub(super) const MAX_SIZE: usize = 1 << 20;

/// Characters of a value that an error repeats.
const MAX_SHOWN: usize = 100;

/// What is wrong with a `config.json`, by field.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ConfigError {
    /// Not JSON, or not an object.
    #[error("not a JSON object: {0}")]
    Syntax(String),
    /// A field holds something it cannot.
    #[error("field `{field}` is {actual}, expected {expected}")]
    Field {
        /// Dotted path of the field.
        field: String,
        /// Its JSON value, or the beginning of a long one.
        actual: String,
        /// What it may be.
        expected: String,
    },
    /// A field that CLIP's configuration classes do not have.
    #[error("unknown field `{0}`: correct it, or remove it if the model does not depend on it")]
    Unknown(String),
}

/// A JSON object whose fields are taken out one by one; what is left must be known to be harmless.
pub(super) struct Fields {
    map: Map<String, Value>,
    prefix: String,
}

impl Fields {
    pub(super) fn root(map: Map<String, Value>) -> Self {
        Self { map, prefix: String::new() }
    }

    /// Of the object that `name` leads to.
    pub(super) fn of(name: &str, map: Map<String, Value>) -> Self {
        Self { map, prefix: format!("{name}.") }
    }

    pub(super) fn path(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// `text_config` or `vision_config`. As in `transformers`, a `*_config_dict` (written by old versions) replaces it whole.
    pub(super) fn tower(&mut self, name: &str) -> Result<Self, ConfigError> {
        let plain = self.map.remove(name);
        let dict_name = format!("{name}_dict");
        let (name, value) = match self.map.remove(&dict_name) {
            None | Some(Value::Null) => (name.to_owned(), plain),
            dict => (dict_name, dict),
        };
        match value {
            None | Some(Value::Null) => Ok(Self { map: Map::new(), prefix: format!("{name}.") }),
            Some(Value::Object(map)) => Ok(Self { map, prefix: format!("{name}.") }),
            Some(other) => Err(field_error(&name, &other, "an object")),
        }
    }

    /// The object `name`, which must be there.
    pub(super) fn object(&mut self, name: &str) -> Result<Self, ConfigError> {
        match self.map.remove(name) {
            Some(Value::Object(map)) => Ok(Self::of(&self.path(name), map)),
            other => Err(field_error(&self.path(name), &other.unwrap_or_default(), "an object")),
        }
    }

    pub(super) fn take<T>(
        &mut self,
        name: &str,
        default: T,
        expected: &str,
        read: impl FnOnce(&Value) -> Option<T>,
    ) -> Result<T, ConfigError> {
        match self.map.remove(name) {
            None => Ok(default),
            Some(value) => read(&value).ok_or_else(|| field_error(&self.path(name), &value, expected)),
        }
    }

    pub(super) fn size(&mut self, name: &str, default: usize) -> Result<usize, ConfigError> {
        self.take(name, default, &format!("a whole number from 1 to {MAX_SIZE}"), as_size)
    }

    pub(super) fn integer(&mut self, name: &str, default: i64) -> Result<i64, ConfigError> {
        self.take(name, default, "one whole number", |v| v.as_i64().filter(|n| i32::try_from(*n).is_ok()))
    }

    pub(super) fn flag(&mut self, name: &str) -> Result<bool, ConfigError> {
        self.take(name, false, "true or false", Value::as_bool)
    }

    pub(super) fn number(&mut self, name: &str, default: f64) -> Result<f64, ConfigError> {
        self.take(name, default, "a number", |v| v.as_f64().filter(|x| x.is_finite()))
    }

    pub(super) fn string(&mut self, name: &str, default: &str) -> Result<String, ConfigError> {
        self.take(name, default.to_owned(), "a string", |v| v.as_str().map(str::to_owned))
    }

    pub(super) fn strings(&mut self, name: &str) -> Result<Vec<String>, ConfigError> {
        self.take(name, Vec::new(), "a list of strings", |v| match v {
            Value::Null => Some(Vec::new()),
            Value::Array(items) => items.iter().map(|i| i.as_str().map(str::to_owned)).collect(),
            _ => None,
        })
    }

    /// The tower's own `projection_dim`, unless the whole model has one (then the tower's is not read by `transformers`).
    pub(super) fn projection(&mut self, shared: Option<usize>) -> Result<usize, ConfigError> {
        match shared {
            Some(dim) => {
                self.map.remove("projection_dim");
                Ok(dim)
            }
            None => self.size("projection_dim", 512),
        }
    }

    pub(super) fn expect_type(&mut self, expected: &str) -> Result<(), ConfigError> {
        self.take("model_type", (), expected, |v| (v.as_str() == Some(expected)).then_some(()))
    }

    /// Refuses what was not taken and is not in [`HARMLESS`].
    pub(super) fn finish(&self) -> Result<(), ConfigError> {
        self.finish_but(HARMLESS)
    }

    /// Refuses what was not taken and is not in `harmless`, names with blanks between them.
    pub(super) fn finish_but(&self, harmless: &str) -> Result<(), ConfigError> {
        for (name, value) in &self.map {
            let empty = match value {
                Value::Null | Value::Bool(false) => true,
                Value::Object(map) => map.is_empty(),
                Value::Array(items) => items.is_empty(),
                _ => false,
            };
            // A null or empty field asks for nothing, whatever its name (`pruned_heads: {}`, `quantization_config: null`).
            if !empty && !name.starts_with('_') && !harmless.split_whitespace().any(|known| known == name) {
                return Err(ConfigError::Unknown(self.path(name)));
            }
        }
        Ok(())
    }
}

/// A size, if it is one.
pub(super) fn as_size(value: &Value) -> Option<usize> {
    value.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|n| (1..=MAX_SIZE).contains(n))
}

/// The error of a field that holds what it cannot.
pub(super) fn field_error(field: &str, actual: &Value, expected: &str) -> ConfigError {
    let mut actual = actual.to_string();
    // What is expected stands behind it.
    if let Some((end, _)) = actual.char_indices().nth(MAX_SHOWN) {
        actual.truncate(end);
        actual.push('…');
    }
    ConfigError::Field { field: field.to_owned(), actual, expected: expected.to_owned() }
}

/// Fields of `PretrainedConfig` (all versions) and of CLIP's classes that do not change what inference computes: training,
/// generation, labels, bookkeeping; and our own `int8_scale`, which is of what becomes of embeddings. `pruned_heads`,
/// `quantization_config` and the like are left out on purpose.
const HARMLESS: &str = "
    add_cross_attention architectures attention_dropout attn_implementation auto_map bad_words_ids
    begin_suppress_tokens bos_token_id chunk_size_feed_forward cross_attention_hidden_size decoder_start_token_id
    diversity_penalty do_sample dropout dtype early_stopping encoder_no_repeat_ngram_size eos_token_id
    exponential_decay_length_penalty finetuning_task forced_bos_token_id forced_eos_token_id
    gradient_checkpointing id2label initializer_factor initializer_range int8_scale is_decoder is_encoder_decoder label2id
    length_penalty logit_scale_init_value max_length min_length model_type name_or_path no_repeat_ngram_size
    num_beam_groups num_beams num_labels num_return_sequences output_attentions output_hidden_states output_scores
    pad_token_id prefix problem_type projection_dim remove_invalid_values repetition_penalty return_dict
    return_dict_in_generate sep_token_id suppress_tokens task_specific_params temperature text_config_dict
    tf_legacy_loss tie_encoder_decoder tie_word_embeddings tokenizer_class top_k top_p torch_dtype torchscript
    transformers.js_config transformers_version typical_p use_bfloat16 use_cache use_return_dict
    vision_config_dict
";
