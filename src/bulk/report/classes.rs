//! Errors by their kind, counted.
//!
//! Owns how many kinds are kept and shown. Invariant: memory does not grow with the errors: what is of one kind too many is counted as
//! "others".

use std::collections::HashMap;

use super::card::clipped;
use crate::bulk::reason::kind;

/// Kinds that are told apart.
const KEPT: usize = 64;
/// Those that are shown.
const SHOWN: usize = 16;
/// Ids of each.
const IDS: usize = 3;

/// How often errors of one kind came.
#[derive(Debug, Default)]
pub(super) struct Class {
    pub(super) count: u64,
    /// The first ids.
    pub(super) ids: Vec<String>,
}

/// Errors by kind.
#[derive(Debug, Default)]
pub(super) struct Classes {
    kinds: HashMap<String, Class>,
    others: u64,
}

impl Classes {
    /// One more error.
    pub(super) fn add(&mut self, id: &str, path: Option<&str>, reason: &str) {
        let kind = kind(reason, path.into_iter().chain([id]));
        let is_full = self.kinds.len() == KEPT;
        if is_full && !self.kinds.contains_key(&kind) {
            self.others += 1;
            return;
        }
        let class = self.kinds.entry(kind).or_default();
        class.count += 1;
        if class.ids.len() < IDS {
            class.ids.push(clipped(id));
        }
    }

    /// The largest, largest first, and how many errors are of others.
    pub(super) fn largest(self) -> (Vec<(String, Class)>, u64) {
        let mut kinds: Vec<_> = self.kinds.into_iter().collect();
        kinds.sort_by(|(a, one), (b, other)| other.count.cmp(&one.count).then_with(|| a.cmp(b)));
        let small = kinds.split_off(kinds.len().min(SHOWN));
        (kinds, self.others + small.iter().map(|(_, class)| class.count).sum::<u64>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_a_kind_are_counted_with_their_first_ids_and_there_are_few_kinds() {
        let mut classes = Classes::default();
        for number in 0..1000 {
            let path = format!("/in/{number}.jpg");
            classes.add(&path, Some(&path), &format!("{path}: gone after {number} s"));
        }
        let letters = |number: u32| {
            format!("{}{}", char::from(b'a' + (number / 26) as u8), char::from(b'a' + (number % 26) as u8))
        };
        (0..200).for_each(|number| classes.add("x", None, &letters(number)));
        let (kinds, others) = classes.largest();
        assert_eq!((kinds[0].0.as_str(), kinds[0].1.count), ("…: gone after # s", 1000));
        assert_eq!(kinds[0].1.ids, ["/in/0.jpg", "/in/1.jpg", "/in/2.jpg"]);
        assert_eq!((kinds.len(), others), (SHOWN, 200 - (SHOWN as u64 - 1)));
    }
}
