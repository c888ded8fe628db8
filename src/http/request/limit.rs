//! How many items a request may have, and who says so.
//!
//! Owns naming the setting behind a limit: who is refused by a number alone does not know whether it can be raised. Does not count.

use std::fmt;

use crate::config::LimitsConfig;

/// So many items of one kind, at most.
#[derive(Clone, Copy, Debug)]
pub(in crate::http) struct Limit {
    pub(super) items: usize,
    /// The settings that say so; none where it is fixed.
    settings: &'static str,
}

impl Limit {
    /// Of images.
    pub(in crate::http) fn images(limits: &LimitsConfig) -> Self {
        Self { items: limits.max_images, settings: "limits.max_images" }
    }

    /// Of texts.
    pub(in crate::http) fn texts(limits: &LimitsConfig) -> Self {
        Self { items: limits.max_texts, settings: "limits.max_texts" }
    }

    /// Of inputs before it is known what they are: no request has more of either kind.
    pub(in crate::http) fn inputs(limits: &LimitsConfig) -> Self {
        let items = limits.max_texts.max(limits.max_images);
        Self { items, settings: "the larger of limits.max_texts and limits.max_images" }
    }
}

impl From<usize> for Limit {
    fn from(items: usize) -> Self {
        Self { items, settings: "fixed" }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.items, self.settings)
    }
}
