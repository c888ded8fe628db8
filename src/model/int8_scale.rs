//! The scale of `int8` embeddings: what values of unit vectors are multiplied with before they are rounded to -127 to 127.
//!
//! Owns where it comes from: `int8_scale` of `config.json`, else [`UNIT_SCALE`]. Does not own writing them (`http`, `bulk`).
//!
//! It is a choice between two errors. The rounding's error of a cosine is about `0.4 / scale`, whatever the length of the vectors. But a
//! value beyond `127 / scale` is cut, and to cut the same few values of every vector costs far more than any rounding: real CLIPs have one
//! or two values of 0.3 to 0.9 in each of their vectors. So the scale is 127, which cuts nothing of a unit vector, unless somebody
//! who has measured a model says in its `config.json` that it can have more (`docs/embeddings.md` has the figures).
//!
//! Invariant: it depends on the model's files alone, so that vectors of different requests, replicas and days can be compared.

/// The scale under which no value of a unit vector is cut.
pub const UNIT_SCALE: f32 = 127.0;

/// More would leave no vector of any model whole.
const MAX_SCALE: f32 = 127.0 * 127.0;

/// The one field of `config.json` that matters here.
#[derive(serde::Deserialize)]
struct Field {
    int8_scale: Option<f32>,
}

/// A value of an embedding of length 1 as `int8`: -127 to 127.
pub fn quantized(value: f32, scale: f32) -> i8 {
    (value * scale).round().clamp(-127.0, 127.0) as i8
}

/// The scale of a model's whole embeddings, by its `config.json`.
///
/// # Errors
/// When that asks for less than [`UNIT_SCALE`], or for more than any model can have.
pub(super) fn of_config(text: &str) -> Result<f32, String> {
    let Field { int8_scale } = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let scale = int8_scale.unwrap_or(UNIT_SCALE);
    if (UNIT_SCALE..=MAX_SCALE).contains(&scale) {
        return Ok(scale);
    }
    Err(format!("int8_scale is {scale}, expected {UNIT_SCALE} (which cuts no value) to {MAX_SCALE}"))
}

/// The scale of embeddings of `dim` values that are cut to `columns` and are of length 1 again, where that of whole ones is `whole`: what
/// is left of a vector grows, on average with the square root.
pub fn of_columns(whole: f32, dim: usize, columns: usize) -> f32 {
    (whole * (columns as f32 / dim.max(1) as f32).sqrt()).max(UNIT_SCALE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_what_the_model_says_or_cuts_nothing() {
        assert_eq!(of_config("{}"), Ok(127.0));
        assert_eq!(of_config(r#"{"model_type": "clip", "int8_scale": 440}"#), Ok(440.0));
        for bad in ["126", "-440", "1e9"] {
            let error = of_config(&format!(r#"{{"int8_scale": {bad}}}"#)).expect_err(bad);
            assert!(error.contains("int8_scale is ") && error.contains("expected 127"), "{error}");
        }
        assert!(of_config(r#"{"int8_scale": "many"}"#).is_err());
    }

    #[test]
    fn shorter_embeddings_have_a_smaller_one_and_never_less_than_that_of_any_unit_vector() {
        assert_eq!(of_columns(440.0, 192, 192), 440.0);
        assert_eq!(of_columns(440.0, 192, 48), 220.0);
        assert_eq!(of_columns(440.0, 192, 1), 127.0);
        assert_eq!(of_columns(127.0, 512, 64), 127.0);
    }
}
