//! Options that several dialects have, with their many spellings.
//!
//! Owns the values that they take. Does not own under which name a dialect has them.

use std::{fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{Error, IntoDeserializer, SeqAccess, Visitor, value::SeqAccessDeserializer},
};

use crate::http::{
    ApiError,
    embedding::{EmbeddingForm, EmbeddingType, EncodingFormat},
};

/// One, or a list of them.
#[derive(Clone, Debug, schemars::JsonSchema)]
#[schemars(untagged, inline)]
pub(super) enum OneOrMore<T> {
    One(T),
    More(Vec<T>),
}

impl<T> OneOrMore<T> {
    /// Those that are there.
    pub(super) fn as_slice(&self) -> &[T] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::More(more) => more,
        }
    }
}

// Written out, as what serde says of an untagged enum tells the client nothing.
impl<'de, T: Deserialize<'de>> Deserialize<'de> for OneOrMore<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Either<T> {
            type Value = OneOrMore<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name or a list of names")
            }

            fn visit_str<E: Error>(self, name: &str) -> Result<Self::Value, E> {
                T::deserialize(name.into_deserializer()).map(OneOrMore::One)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, names: A) -> Result<Self::Value, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(names)).map(OneOrMore::More)
            }
        }

        deserializer.deserialize_any(Either(PhantomData))
    }
}

/// The names of types, `base64` being f32 in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum TypeName {
    Float,
    Base64,
    Float16,
    Int8,
    Uint8,
    Binary,
    Ubinary,
}

impl TypeName {
    /// As numbers, but for `base64`.
    pub(super) fn form(self, format: EncodingFormat) -> EmbeddingForm {
        let kind = match self {
            Self::Base64 => return EmbeddingForm::BASE64,
            Self::Float => EmbeddingType::Float,
            Self::Float16 => EmbeddingType::Float16,
            Self::Int8 => EmbeddingType::Int8,
            Self::Uint8 => EmbeddingType::Uint8,
            Self::Binary => EmbeddingType::Binary,
            Self::Ubinary => EmbeddingType::Ubinary,
        };
        EmbeddingForm { kind, format }
    }
}

/// `truncate`, as dialects have it: whether, or at which side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, schemars::JsonSchema)]
#[schemars(untagged)]
pub(super) enum Truncate {
    Whether(bool),
    Side(Side),
}

/// NeMo's and Cohere's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub(super) enum Side {
    None,
    Start,
    End,
}

impl<'de> Deserialize<'de> for Truncate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl Visitor<'_> for Either {
            type Value = Truncate;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a boolean, NONE or END")
            }

            fn visit_bool<E: Error>(self, whether: bool) -> Result<Self::Value, E> {
                Ok(Truncate::Whether(whether))
            }

            fn visit_str<E: Error>(self, side: &str) -> Result<Self::Value, E> {
                Side::deserialize(side.into_deserializer()).map(Truncate::Side)
            }
        }

        deserializer.deserialize_any(Either)
    }
}

impl Truncate {
    /// Whether a text that is too long is cut at its end.
    ///
    /// # Errors
    /// 400 for its start, which CLIP's tokenizer does not cut.
    pub(super) fn cuts(self) -> Result<bool, ApiError> {
        match self {
            Self::Whether(whether) => Ok(whether),
            Self::Side(Side::End) => Ok(true),
            Self::Side(Side::None) => Ok(false),
            Self::Side(Side::Start) => Err(ApiError::invalid(
                "truncate is START; CLIP's tokenizer cuts the end of a text, so send END or NONE",
            )),
        }
    }
}
