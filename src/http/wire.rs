//! The JSON and query shapes of the native routes, and how embeddings are written.
//!
//! Owns names, defaults and validation of single fields. Does not own where a request's images and texts come from
//! (`extract`).
//!
//! The options stand in each shape again, because serde can flatten a shared part or refuse unknown fields, not both.
//!
//! Invariants: a field that is not known is refused, so a typo cannot silently become a default; strings are borrowed from
//! the body where JSON allows it (a base64 image is not copied before it is decoded).

use std::{borrow::Cow, fmt};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use ndarray::{ArrayD, ArrayView2, ArrayViewD};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{IntoDeserializer, SeqAccess, Visitor},
    ser::{SerializeMap, SerializeSeq},
};

use crate::{embedder::PadTo, encoder::Output};

/// How embeddings are written in JSON.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum EncodingFormat {
    /// Arrays of numbers.
    #[default]
    Float,
    /// One string an embedding: base64 of little-endian f32.
    Base64,
}

fn yes() -> bool {
    true
}

/// The outputs of a query parameter: names with commas between them.
fn comma_separated<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Output>, D::Error> {
    let text = Cow::<str>::deserialize(deserializer)?;
    text.split(',').map(|name| Output::deserialize(name.into_deserializer())).collect()
}

/// The options of `/embed/image` as query parameters.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EmbedImageQuery {
    #[serde(default = "yes")]
    pub normalize: bool,
    #[serde(default)]
    pub encoding_format: EncodingFormat,
    pub dimensions: Option<usize>,
    #[serde(default, deserialize_with = "comma_separated")]
    pub outputs: Vec<Output>,
}

/// The options of `/embed/text` as query parameters.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EmbedTextQuery {
    #[serde(default = "yes")]
    pub normalize: bool,
    #[serde(default)]
    pub encoding_format: EncodingFormat,
    pub dimensions: Option<usize>,
    #[serde(default = "yes")]
    pub truncate: bool,
    #[serde(default, deserialize_with = "comma_separated")]
    pub outputs: Vec<Output>,
    pub padding: Option<PadTo>,
    pub attention_mask: Option<bool>,
}

/// `POST /embed/image` as JSON.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EmbedImageRequest<'a> {
    #[serde(borrow)]
    pub images: Strings<'a>,
    #[serde(default = "yes")]
    pub normalize: bool,
    #[serde(default)]
    pub encoding_format: EncodingFormat,
    pub dimensions: Option<usize>,
    #[serde(default)]
    pub outputs: Vec<Output>,
}

/// `POST /embed/text` as JSON.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EmbedTextRequest<'a> {
    #[serde(borrow)]
    pub texts: Strings<'a>,
    #[serde(default = "yes")]
    pub normalize: bool,
    #[serde(default)]
    pub encoding_format: EncodingFormat,
    pub dimensions: Option<usize>,
    #[serde(default = "yes")]
    pub truncate: bool,
    #[serde(default)]
    pub outputs: Vec<Output>,
    pub padding: Option<PadTo>,
    pub attention_mask: Option<bool>,
}

/// The options of `/similarity` as query parameters.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SimilarityQuery {
    #[serde(default = "yes")]
    pub truncate: bool,
    #[serde(default)]
    pub return_embeds: bool,
    #[serde(default)]
    pub return_loss: bool,
}

/// `POST /similarity` as JSON: each side is given as inputs or as embeddings.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SimilarityRequest<'a> {
    #[serde(borrow)]
    pub images: Option<Strings<'a>>,
    #[serde(borrow)]
    pub texts: Option<Strings<'a>>,
    pub image_embeds: Option<Vec<Vec<f32>>>,
    pub text_embeds: Option<Vec<Vec<f32>>>,
    #[serde(default = "yes")]
    pub truncate: bool,
    #[serde(default)]
    pub return_embeds: bool,
    #[serde(default)]
    pub return_loss: bool,
}

/// The options of `/classify` as query parameters.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ClassifyQuery {
    pub top_k: Option<usize>,
}

/// `POST /classify` as JSON.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ClassifyRequest<'a> {
    #[serde(borrow)]
    pub images: Strings<'a>,
    #[serde(borrow)]
    pub labels: Strings<'a>,
    #[serde(borrow)]
    pub templates: Option<Strings<'a>>,
    pub top_k: Option<usize>,
}

/// `POST /embed/*` answers.
#[derive(Debug, Serialize)]
pub(super) struct EmbedResponse<'a> {
    pub model: &'a str,
    pub dim: usize,
    pub embeddings: Rows<'a>,
}

/// `POST /embed/*` answers where `outputs` were asked for.
#[derive(Debug, Serialize)]
pub(super) struct OutputsResponse<'a> {
    pub model: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dim: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub embeddings: Option<Rows<'a>>,
    pub outputs: Arrays<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attention_mask: Option<Nested<'a, i64>>,
}

/// Arrays by name: nested lists, or `{"shape", "data"}` with base64 of little-endian f32 in C order.
#[derive(Debug)]
pub(super) struct Arrays<'a> {
    pub arrays: &'a [(Output, ArrayD<f32>)],
    pub format: EncodingFormat,
}

impl Serialize for Arrays<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Packed<'a> {
            shape: &'a [usize],
            data: String,
        }

        let mut map = serializer.serialize_map(Some(self.arrays.len()))?;
        for (output, array) in self.arrays {
            match self.format {
                EncodingFormat::Float => map.serialize_entry(output.name(), &Nested(array.view()))?,
                EncodingFormat::Base64 => {
                    let data = little_endian_base64(array.iter());
                    map.serialize_entry(output.name(), &Packed { shape: array.shape(), data })?;
                }
            }
        }
        map.end()
    }
}

/// An array of any rank as nested lists.
#[derive(Debug)]
pub(super) struct Nested<'a, T>(pub ArrayViewD<'a, T>);

impl<T: Serialize> Serialize for Nested<'_, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.ndim() {
            0 | 1 => serializer.collect_seq(self.0.iter()),
            _ => serializer.collect_seq(self.0.outer_iter().map(Nested)),
        }
    }
}

fn little_endian_base64<'a>(values: impl Iterator<Item = &'a f32>) -> String {
    BASE64_STANDARD.encode(values.flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>())
}

/// `POST /similarity` answers.
#[derive(Debug, Serialize)]
pub(super) struct SimilarityResponse<'a> {
    pub model: &'a str,
    pub logit_scale: f32,
    pub logits_per_image: Rows<'a>,
    pub logits_per_text: Rows<'a>,
    pub probs: Rows<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_embeds: Option<Rows<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text_embeds: Option<Rows<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss: Option<f32>,
}

/// `POST /classify` answers: for each image its labels, best first.
#[derive(Debug, Serialize)]
pub(super) struct ClassifyResponse<'a> {
    pub model: &'a str,
    pub results: Vec<Vec<Score<'a>>>,
}

/// One label of one image.
#[derive(Debug, Serialize)]
pub(super) struct Score<'a> {
    pub label: &'a str,
    pub score: f32,
}

/// A matrix, written as an array for each row, or as a base64 string for each row.
#[derive(Debug)]
pub(super) struct Rows<'a> {
    pub rows: ArrayView2<'a, f32>,
    pub format: EncodingFormat,
}

impl<'a> Rows<'a> {
    /// As arrays of numbers.
    pub(super) fn floats(rows: ArrayView2<'a, f32>) -> Self {
        Self { rows, format: EncodingFormat::Float }
    }
}

impl Serialize for Rows<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut seq = serializer.serialize_seq(Some(self.rows.nrows()))?;
        for row in self.rows.rows() {
            match self.format {
                EncodingFormat::Float => seq.serialize_element(&Row(row))?,
                EncodingFormat::Base64 => seq.serialize_element(&little_endian_base64(row.iter()))?,
            }
        }
        seq.end()
    }
}

/// One row of numbers. serde_json writes each as the shortest that parses to the same f32, and faster than anything else that was
/// measured on rows of 512 and 768: within 10 % of its own formatter (zmij) called by hand, ahead of ryu, lexical and std.
struct Row<'a>(ndarray::ArrayView1<'a, f32>);

impl Serialize for Row<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0)
    }
}

/// A list of strings, or a lone one.
#[derive(Debug, Default)]
pub(super) struct Strings<'a>(pub Vec<Cow<'a, str>>);

impl<'de: 'a, 'a> Deserialize<'de> for Strings<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrMany;

        impl<'de> Visitor<'de> for OneOrMany {
            type Value = Strings<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or a list of strings")
            }

            fn visit_borrowed_str<E>(self, one: &'de str) -> Result<Self::Value, E> {
                Ok(Strings(vec![Cow::Borrowed(one)]))
            }

            fn visit_str<E>(self, one: &str) -> Result<Self::Value, E> {
                Ok(Strings(vec![Cow::Owned(one.to_owned())]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                #[derive(Deserialize)]
                struct Item<'a>(#[serde(borrow)] Cow<'a, str>);

                let mut strings = Vec::new();
                while let Some(Item(one)) = seq.next_element()? {
                    strings.push(one);
                }
                Ok(Strings(strings))
            }
        }

        deserializer.deserialize_any(OneOrMany)
    }
}

#[cfg(test)]
mod tests {
    use ndarray::{ArrayView2, array};
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn strings_are_one_or_many_and_borrowed_where_json_allows() {
        let parse = |json: &'static str| serde_json::from_str::<Strings<'_>>(json).map(|strings| strings.0);
        assert_eq!(parse(r#""a""#).expect("one"), ["a"]);
        let many = parse(r#"["plain", "esc\/aped"]"#).expect("many");
        assert_eq!(many, ["plain", "esc/aped"]);
        assert!(matches!(many[0], Cow::Borrowed(_)) && matches!(many[1], Cow::Owned(_)));
        let error = parse("[1]").expect_err("a number").to_string();
        assert!(error.contains("expected a string"), "{error}");
        assert!(parse("{}").expect_err("an object").to_string().contains("a string or a list of strings"));
    }

    #[test]
    fn an_unknown_field_is_named() {
        let error = serde_json::from_str::<EmbedTextRequest<'_>>(r#"{"texts": "a", "normalise": true}"#);
        let error = error.expect_err("a typo").to_string();
        assert!(error.contains("unknown field `normalise`") && error.contains("`normalize`"), "{error}");
    }

    proptest! {
        #[test]
        fn a_number_parses_to_the_value_it_was(values in prop::collection::vec(prop::num::f32::NORMAL | prop::num::f32::SUBNORMAL | prop::num::f32::ZERO, 1..40)) {
            let rows = ArrayView2::from_shape((1, values.len()), &values).expect("one row");
            let json = serde_json::to_string(&Rows::floats(rows)).expect("JSON");
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
        let json = serde_json::from_str::<EmbedTextRequest<'_>>(r#"{"texts": "a", "outputs": ["attentions"]}"#);
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

    #[test]
    fn rows_are_arrays_or_little_endian_base64() {
        let embeddings = array![[1.0f32, -0.5], [0.25, 3.0]];
        let rows = |format| serde_json::to_string(&Rows { rows: embeddings.view(), format }).expect("JSON");
        assert_eq!(rows(EncodingFormat::Float), "[[1.0,-0.5],[0.25,3.0]]");
        assert_eq!(rows(EncodingFormat::Base64), r#"["AACAPwAAAL8=","AACAPgAAQEA="]"#);
    }
}
