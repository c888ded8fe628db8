//! An item that a page shows, and how it shows a text.
//!
//! Owns the bound of every text. Invariant: a text of a page has no more than [`MAX_CHARS`] characters and its mark.

use std::time::Duration;

use crate::bulk::glimpse::Glimpse;

/// Characters of a text.
const MAX_CHARS: usize = 240;

/// An item that is shown.
pub(super) struct Card {
    pub(super) id: String,
    /// How long it took to decode.
    pub(super) took: Duration,
    /// Why it has no embedding.
    pub(super) error: Option<String>,
    pub(super) glimpse: Glimpse,
}

/// `text` as a page shows it: without its middle where it is long, since names differ at their ends, and with a mark for what is not seen.
pub(super) fn clipped(text: &str) -> String {
    let visible = |character: char| if character.is_control() { '\u{fffd}' } else { character };
    let length = text.chars().count();
    if length <= MAX_CHARS {
        return text.chars().map(visible).collect();
    }
    let half = MAX_CHARS / 2;
    let start: String = text.chars().take(half).map(visible).collect();
    let end: String = text.chars().skip(length - half).map(visible).collect();
    format!("{start} … {end}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_loses_its_middle() {
        assert_eq!(clipped("a\nb"), "a\u{fffd}b");
        let long = clipped(&format!("first{}last", "ä".repeat(MAX_CHARS)));
        assert_eq!(long.chars().count(), MAX_CHARS + 3);
        assert!(long.starts_with("first") && long.ends_with("last") && long.contains("ä … ä"));
    }
}
