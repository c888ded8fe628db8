//! A value of the configuration as a layer gives it, before its key says what it means.

use super::units::parse_integer;

/// A value as given: typed by TOML, or a text that its key will type.
#[derive(Clone, Debug)]
pub(super) enum Given {
    Toml(toml::Value),
    Text(String),
}

impl Given {
    pub(super) fn text(&self) -> Option<&str> {
        match self {
            Self::Toml(value) => value.as_str(),
            Self::Text(text) => Some(text),
        }
    }

    pub(super) fn integer(&self) -> Option<u64> {
        match self {
            Self::Toml(value) => value.as_integer().and_then(|integer| u64::try_from(integer).ok()),
            Self::Text(text) => parse_integer(text),
        }
    }

    pub(super) fn number(&self) -> Option<f64> {
        match self {
            Self::Toml(toml::Value::Integer(integer)) => Some(*integer as f64),
            Self::Toml(value) => value.as_float(),
            Self::Text(text) => text.parse().ok(),
        }
    }

    pub(super) fn boolean(&self) -> Option<bool> {
        match self {
            Self::Toml(value) => value.as_bool(),
            Self::Text(text) => text.parse().ok(),
        }
    }

    /// For an error message: one line, texts in quotes.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Toml(toml::Value::String(text)) | Self::Text(text) => format!("{text:?}"),
            Self::Toml(value) => value.to_string(),
        }
    }
}
