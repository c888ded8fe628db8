//! The JSON and query shapes of the native routes, and how embeddings are written.
//!
//! Owns names, defaults and validation of single options. Does not own where a request's images and texts come from
//! (`payload`), nor how its lists of items are read (`items`).
//!
//! The options stand in each shape again, because serde can flatten a shared part or refuse unknown fields, not both.
//!
//! Invariant: a field that is not known is refused, so a typo cannot silently become a default.

use std::{borrow::Cow, fmt};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use ndarray::{ArrayD, ArrayView, ArrayView2, ArrayViewD, Dimension, IxDyn};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::IntoDeserializer, ser::SerializeMap};

use crate::{
    embedder::PadTo,
    encoder::Output,
    http::{
        ApiError,
        embedding::{Embedding, EmbeddingType, Embeddings, EncodingFormat, ScaledForm},
        request::{
            each::{Missing, OnError},
            json::{Items, JsonRequest},
        },
        schema,
    },
};

/// What the routes stand under in the OpenAPI document.
pub(in crate::http) const TAG: &str = "native";

fn yes() -> bool {
    true
}

/// The outputs of a query parameter: names with commas between them.
fn comma_separated<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Output>, D::Error> {
    let text = Cow::<str>::deserialize(deserializer)?;
    text.split(',').map(|name| Output::deserialize(name.into_deserializer())).collect()
}

/// The options of `/embed/image` as query parameters.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct EmbedImageQuery {
    #[serde(default = "yes")]
    pub normalize: bool,
    #[serde(default)]
    pub encoding_format: EncodingFormat,
    #[serde(default)]
    pub embedding_type: EmbeddingType,
    #[serde(default)]
    pub on_error: OnError,
    #[schemars(range(min = 1))]
    pub dimensions: Option<usize>,
    #[serde(default, deserialize_with = "comma_separated")]
    pub outputs: Vec<Output>,
    /// As vLLM and Cohere have it: lower is sooner, above 0 is bulk.
    pub priority: Option<i64>,
}

/// The options of `/embed/text` as query parameters.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct EmbedTextQuery {
    #[serde(default = "yes")]
    pub normalize: bool,
    #[serde(default)]
    pub encoding_format: EncodingFormat,
    #[serde(default)]
    pub embedding_type: EmbeddingType,
    #[serde(default)]
    pub on_error: OnError,
    #[schemars(range(min = 1))]
    pub dimensions: Option<usize>,
    #[serde(default = "yes")]
    pub truncate: bool,
    #[serde(default, deserialize_with = "comma_separated")]
    pub outputs: Vec<Output>,
    pub padding: Option<PadTo>,
    pub attention_mask: Option<bool>,
    /// As vLLM and Cohere have it: lower is sooner, above 0 is bulk.
    pub priority: Option<i64>,
}

/// `POST /embed/image` as JSON.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct EmbedImageRequest<'a> {
    #[serde(borrow)]
    #[schemars(with = "schema::Pictures")]
    pub images: Items<'a>,
    #[serde(default = "yes")]
    pub normalize: bool,
    #[serde(default)]
    pub encoding_format: EncodingFormat,
    #[serde(default)]
    pub embedding_type: EmbeddingType,
    #[serde(default)]
    pub on_error: OnError,
    #[schemars(range(min = 1))]
    pub dimensions: Option<usize>,
    #[serde(default)]
    pub outputs: Vec<Output>,
    /// As vLLM and Cohere have it: lower is sooner, above 0 is bulk.
    pub priority: Option<i64>,
}

impl<'a> JsonRequest<'a> for EmbedImageRequest<'a> {
    const ITEMS: &'static [&'static str] = &["images"];
}

/// `POST /embed/text` as JSON.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct EmbedTextRequest<'a> {
    #[serde(borrow)]
    #[schemars(with = "schema::Texts")]
    pub texts: Items<'a>,
    #[serde(default = "yes")]
    pub normalize: bool,
    #[serde(default)]
    pub encoding_format: EncodingFormat,
    #[serde(default)]
    pub embedding_type: EmbeddingType,
    #[serde(default)]
    pub on_error: OnError,
    #[schemars(range(min = 1))]
    pub dimensions: Option<usize>,
    #[serde(default = "yes")]
    pub truncate: bool,
    #[serde(default)]
    pub outputs: Vec<Output>,
    pub padding: Option<PadTo>,
    pub attention_mask: Option<bool>,
    /// As vLLM and Cohere have it: lower is sooner, above 0 is bulk.
    pub priority: Option<i64>,
}

impl<'a> JsonRequest<'a> for EmbedTextRequest<'a> {
    const ITEMS: &'static [&'static str] = &["texts"];
}

/// The options of `/similarity` as query parameters.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct SimilarityQuery {
    #[serde(default = "yes")]
    pub truncate: bool,
    #[serde(default)]
    pub return_embeds: bool,
    #[serde(default)]
    pub return_loss: bool,
    /// As vLLM and Cohere have it: lower is sooner, above 0 is bulk.
    pub priority: Option<i64>,
}

/// `POST /similarity` as JSON: each side is given as inputs or as embeddings.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct SimilarityRequest<'a> {
    #[serde(borrow)]
    #[schemars(with = "Option<schema::Pictures>")]
    pub images: Option<Items<'a>>,
    #[serde(borrow)]
    #[schemars(with = "Option<schema::Texts>")]
    pub texts: Option<Items<'a>>,
    #[serde(borrow)]
    #[schemars(with = "Option<schema::Embeds>")]
    pub image_embeds: Option<Items<'a>>,
    #[serde(borrow)]
    #[schemars(with = "Option<schema::Embeds>")]
    pub text_embeds: Option<Items<'a>>,
    #[serde(default = "yes")]
    pub truncate: bool,
    #[serde(default)]
    pub return_embeds: bool,
    #[serde(default)]
    pub return_loss: bool,
    /// As vLLM and Cohere have it: lower is sooner, above 0 is bulk.
    pub priority: Option<i64>,
}

impl<'a> JsonRequest<'a> for SimilarityRequest<'a> {
    const ITEMS: &'static [&'static str] = &["images", "texts", "image_embeds", "text_embeds"];
}

/// The options of `/classify` as query parameters.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct ClassifyQuery {
    pub top_k: Option<usize>,
    /// As vLLM and Cohere have it: lower is sooner, above 0 is bulk.
    pub priority: Option<i64>,
}

/// `POST /classify` as JSON.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct ClassifyRequest<'a> {
    #[serde(borrow)]
    #[schemars(with = "schema::Pictures")]
    pub images: Items<'a>,
    #[serde(borrow)]
    #[schemars(with = "schema::Texts")]
    pub labels: Items<'a>,
    #[serde(borrow)]
    #[schemars(with = "Option<schema::Texts>")]
    pub templates: Option<Items<'a>>,
    pub top_k: Option<usize>,
    /// As vLLM and Cohere have it: lower is sooner, above 0 is bulk.
    pub priority: Option<i64>,
}

impl<'a> JsonRequest<'a> for ClassifyRequest<'a> {
    const ITEMS: &'static [&'static str] = &["images", "labels", "templates"];
}

/// `POST /embed/*` answers.
#[derive(Debug, Serialize, JsonSchema)]
pub(in crate::http) struct EmbedResponse<'a> {
    pub model: &'a str,
    pub dim: usize,
    #[schemars(with = "schema::Rows")]
    pub embeddings: Embeddings<'a>,
}

/// `POST /embed/*` answers with `on_error` "partial".
#[derive(Debug, Serialize, JsonSchema)]
pub(in crate::http) struct PartialResponse<'a> {
    pub model: &'a str,
    pub dim: usize,
    #[schemars(with = "schema::RowsOrNull")]
    pub embeddings: OrNull<'a>,
    #[schemars(with = "Vec<schema::ItemError>")]
    pub errors: ItemErrors<'a>,
}

/// An embedding for each item, `null` for those that have none.
#[derive(Debug)]
pub(in crate::http) struct OrNull<'a> {
    pub rows: ArrayView2<'a, f32>,
    pub form: ScaledForm,
    pub missing: &'a Missing,
}

impl Serialize for OrNull<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let embedding = |row: &Option<usize>| row.map(|row| Embedding { row: self.rows.row(row), form: self.form });
        serializer.collect_seq(self.missing.rows.iter().map(embedding))
    }
}

/// What is wrong with each item that has no embedding: `index`, `code` and `message` as in the error of a whole request.
#[derive(Debug)]
pub(in crate::http) struct ItemErrors<'a>(pub &'a [ApiError]);

impl Serialize for ItemErrors<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct ItemError<'a> {
            index: Option<usize>,
            code: &'static str,
            message: &'a str,
        }
        serializer.collect_seq(self.0.iter().map(|error| ItemError {
            index: error.index,
            code: error.code.as_str(),
            message: &error.message,
        }))
    }
}

/// `POST /embed/*` answers where `outputs` were asked for.
#[derive(Debug, Serialize, JsonSchema)]
pub(in crate::http) struct OutputsResponse<'a> {
    pub model: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dim: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<schema::Rows>")]
    pub embeddings: Option<Embeddings<'a>>,
    #[schemars(with = "schema::Arrays")]
    pub outputs: Arrays<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Vec<Vec<i64>>>")]
    pub attention_mask: Option<Nested<'a, i64>>,
}

/// Arrays by name: nested lists, or `{"shape", "data"}` with base64 of little-endian f32 in C order.
#[derive(Debug)]
pub(in crate::http) struct Arrays<'a> {
    pub arrays: &'a [(Output, ArrayD<f32>)],
    pub format: EncodingFormat,
}

impl Serialize for Arrays<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Packed<'a> {
            shape: &'a [usize],
            data: LittleEndian<'a, IxDyn>,
        }

        let mut map = serializer.serialize_map(Some(self.arrays.len()))?;
        for (output, array) in self.arrays {
            match self.format {
                EncodingFormat::Float => map.serialize_entry(output.name(), &Nested(array.view()))?,
                EncodingFormat::Base64 => {
                    let packed = Packed { shape: array.shape(), data: LittleEndian(array.view()) };
                    map.serialize_entry(output.name(), &packed)?;
                }
            }
        }
        map.end()
    }
}

/// An array of any rank as nested lists.
#[derive(Debug)]
pub(in crate::http) struct Nested<'a, T>(pub ArrayViewD<'a, T>);

impl<T: Serialize> Serialize for Nested<'_, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.ndim() {
            0 | 1 => serializer.collect_seq(self.0.iter()),
            _ => serializer.collect_seq(self.0.outer_iter().map(Nested)),
        }
    }
}

/// Base64 of little-endian f32 in C order, written as it is encoded.
struct LittleEndian<'a, D>(ArrayView<'a, f32, D>);

impl<D: Dimension> fmt::Display for LittleEndian<'_, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Three bytes are four characters, so only the last piece is padded.
        const VALUES: usize = 192;
        let mut bytes = [0; 4 * VALUES];
        let mut text = [0; 4 * VALUES / 3 * 4];
        let mut values = self.0.iter();
        loop {
            let pieces = bytes.chunks_exact_mut(4).zip(&mut values);
            let filled = 4 * pieces.map(|(piece, value)| piece.copy_from_slice(&value.to_le_bytes())).count();
            if filled == 0 {
                return Ok(());
            }
            let len = BASE64_STANDARD.encode_slice(&bytes[..filled], &mut text).map_err(|_| fmt::Error)?;
            f.write_str(std::str::from_utf8(&text[..len]).map_err(|_| fmt::Error)?)?;
        }
    }
}

impl<D: Dimension> Serialize for LittleEndian<'_, D> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// `POST /similarity` answers.
#[derive(Debug, Serialize, JsonSchema)]
pub(in crate::http) struct SimilarityResponse<'a> {
    pub model: &'a str,
    pub logit_scale: f32,
    #[schemars(with = "schema::Matrix")]
    pub logits_per_image: Embeddings<'a>,
    #[schemars(with = "schema::Matrix")]
    pub logits_per_text: Embeddings<'a>,
    #[schemars(with = "schema::Matrix")]
    pub probs: Embeddings<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<schema::Matrix>")]
    pub image_embeds: Option<Embeddings<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<schema::Matrix>")]
    pub text_embeds: Option<Embeddings<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss: Option<f32>,
}

/// `POST /classify` answers: for each image its labels, best first.
#[derive(Debug, Serialize, JsonSchema)]
pub(in crate::http) struct ClassifyResponse<'a> {
    pub model: &'a str,
    #[schemars(with = "Vec<Vec<Score<'static>>>")]
    pub results: Scores<'a>,
}

/// The scores of all images, each image's sorted while they are written.
#[derive(Debug)]
pub(in crate::http) struct Scores<'a> {
    pub labels: &'a [String],
    /// Images by labels.
    pub probs: ArrayView2<'a, f32>,
    /// So many of each image, or all.
    pub top_k: Option<usize>,
}

impl Serialize for Scores<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.probs.rows().into_iter().map(|row| {
            let mut scores: Vec<Score<'_>> =
                self.labels.iter().zip(row).map(|(label, &score)| Score { label, score }).collect();
            scores.sort_by(|a, b| b.score.total_cmp(&a.score));
            scores.truncate(self.top_k.unwrap_or(usize::MAX));
            scores
        }))
    }
}

/// One label of one image.
#[derive(Debug, Serialize, JsonSchema)]
pub(in crate::http) struct Score<'a> {
    pub label: &'a str,
    pub score: f32,
}

#[cfg(test)]
mod tests {
    use ndarray::{ArrayView2, array};
    use proptest::prelude::*;

    use super::*;
    use crate::http::request::json;

    #[test]
    fn an_unknown_field_is_named_and_every_list_of_items_is_a_field() {
        let error = json::read::<EmbedTextRequest<'_>>(br#"{"texts": "a", "normalise": true}"#);
        let error = error.expect_err("a typo").message;
        assert!(error.contains("unknown field `normalise`") && error.contains("`normalize`"), "{error}");

        fn unknown<T: JsonRequest<'static> + fmt::Debug>() -> bool {
            let error = json::read::<T>(br#"{"x": 1}"#).expect_err("unknown").message;
            T::ITEMS.iter().all(|name| error.contains(&format!("`{name}`")))
        }
        assert!(unknown::<EmbedImageRequest<'_>>() && unknown::<EmbedTextRequest<'_>>());
        assert!(unknown::<SimilarityRequest<'_>>() && unknown::<ClassifyRequest<'_>>());
    }

    proptest! {
        #[test]
        fn a_number_parses_to_the_value_it_was(values in prop::collection::vec(prop::num::f32::NORMAL | prop::num::f32::SUBNORMAL | prop::num::f32::ZERO, 1..40)) {
            let rows = ArrayView2::from_shape((1, values.len()), &values).expect("one row");
            let json = serde_json::to_string(&Embeddings::floats(rows)).expect("JSON");
            let parsed: Vec<Vec<f32>> = serde_json::from_str(&json).expect("JSON");
            let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
            prop_assert_eq!(bits(&parsed[0]), bits(&values));
            // As few digits as that takes: no longer than Rust's own shortest form, in scientific notation.
            for (text, value) in json.trim_matches(['[', ']']).split(',').zip(&values) {
                let digits = |text: &str| {
                    let mantissa = text.split('e').next().unwrap_or_default().trim_start_matches('-');
                    mantissa.replace('.', "").trim_matches('0').len()
                };
                prop_assert_eq!(digits(text), digits(&format!("{value:e}")), "{}", text);
            }
        }
    }

    #[test]
    fn outputs_are_a_list_of_names_in_json_and_in_the_query() {
        let json = json::read::<EmbedTextRequest<'_>>(br#"{"texts": "a", "outputs": ["attentions"]}"#);
        assert_eq!(json.expect("valid").outputs, [Output::Attentions]);
        let query = |text: &str| {
            let uri = format!("/?{text}").parse().expect("a URI");
            axum::extract::Query::<EmbedTextQuery>::try_from_uri(&uri).map(|query| query.0.outputs)
        };
        let both = query("outputs=pooler_output,hidden_states").expect("two names");
        assert_eq!(both, [Output::PoolerOutput, Output::HiddenStates]);
        assert_eq!(query("normalize=true").expect("none"), []);
        for bad in ["outputs=", "outputs=pooler_output,", "outputs=states"] {
            let error = query(bad).expect_err(bad).body_text();
            assert!(error.contains("last_hidden_state"), "{error}");
        }
    }

    #[test]
    fn arrays_of_any_rank_are_nested_lists_or_their_bytes_with_a_shape() {
        let array = array![[[1.0f32, 2.0], [3.0, 4.0]]].into_dyn();
        let arrays = [(Output::LastHiddenState, array)];
        let json = |format| serde_json::to_value(Arrays { arrays: &arrays, format }).expect("JSON");
        assert_eq!(json(EncodingFormat::Float), serde_json::json!({"last_hidden_state": [[[1.0, 2.0], [3.0, 4.0]]]}));
        assert_eq!(
            json(EncodingFormat::Base64),
            serde_json::json!({"last_hidden_state": {"shape": [1, 2, 2], "data": "AACAPwAAAEAAAEBAAACAQA=="}})
        );
    }
}
