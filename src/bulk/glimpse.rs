//! What a report shows of an item: seen while its file is in memory, and only of the few that are shown.
//!
//! Owns which these are: the slowest pictures so far, and some of every kind of failure. Does not own the page (`report`).
//!
//! Invariants: what is kept is of bounded size, however many items there are; a thumbnail is made for a slow picture only where it is
//! among the slowest when it is there, so that of many items in no order few are decoded twice.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;

use super::reason::kind;
use crate::{
    embedder::{format_of, picture_header, thumbnail},
    heavy::{Heavy, SMALL},
};

/// The slowest pictures that are shown.
pub(super) const SLOWEST: usize = 24;
/// The failures that are.
const FAILURES: usize = 24;
/// Those of one kind.
const OF_ONE_KIND: usize = 3;
/// First bytes of what is of no known format.
const FIRST_BYTES: usize = 8;

/// What is seen of an item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Glimpse {
    /// Its picture, where its file could be read.
    pub(super) picture: Option<Picture>,
}

/// What is seen of a picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Picture {
    /// Of its file.
    pub(super) bytes: usize,
    /// By the first bytes; these where they say nothing.
    pub(super) format: Result<&'static str, Vec<u8>>,
    /// Columns and rows as stored, where the header says so.
    pub(super) size: Option<(u32, u32)>,
    /// A small JPEG, where it can be decoded.
    pub(super) thumbnail: Option<Vec<u8>>,
}

/// Who looks.
#[derive(Debug)]
pub(super) struct Lookout {
    max_pixels: u64,
    /// The times of the slowest so far.
    slowest: Mutex<BinaryHeap<Reverse<Duration>>>,
    /// Failures by kind.
    failures: Mutex<HashMap<String, usize>>,
}

impl Lookout {
    /// Shows no picture of more than `max_pixels`.
    pub(super) fn new(max_pixels: u64) -> Self {
        Self { max_pixels, slowest: Mutex::default(), failures: Mutex::default() }
    }

    /// Looks at a picture that took so long to decode, if it is among the slowest.
    pub(super) async fn slow(&self, took: Duration, file: &Bytes, heavy: &Heavy) -> Option<Glimpse> {
        if !self.is_slow(took) {
            return None;
        }
        Some(Glimpse { picture: Some(self.picture(file, heavy).await) })
    }

    /// Looks at an item that has failed by this `reason`, if few of its kind have. `names` are the item's.
    pub(super) async fn failed<'a>(
        &self,
        reason: &str,
        names: impl IntoIterator<Item = &'a str>,
        file: Option<&Bytes>,
        heavy: &Heavy,
    ) -> Option<Glimpse> {
        if !self.is_new(kind(reason, names)) {
            return None;
        }
        let picture = match file {
            Some(file) => Some(self.picture(file, heavy).await),
            None => None,
        };
        Some(Glimpse { picture })
    }

    fn is_slow(&self, took: Duration) -> bool {
        let mut slowest = self.slowest.lock().unwrap_or_else(PoisonError::into_inner);
        if slowest.len() == SLOWEST {
            if slowest.peek().is_some_and(|Reverse(least)| took <= *least) {
                return false;
            }
            slowest.pop();
        }
        slowest.push(Reverse(took));
        true
    }

    fn is_new(&self, kind: String) -> bool {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        if failures.values().sum::<usize>() == FAILURES {
            return false;
        }
        let seen = failures.entry(kind).or_default();
        let is_new = *seen < OF_ONE_KIND;
        *seen += usize::from(is_new);
        is_new
    }

    async fn picture(&self, file: &Bytes, heavy: &Heavy) -> Picture {
        let header = picture_header(file);
        Picture {
            bytes: file.len(),
            format: format_of(file).ok_or_else(|| file[..file.len().min(FIRST_BYTES)].to_vec()),
            size: header.map(|header| (header.width, header.height)),
            thumbnail: heavy.run(2 * SMALL, || thumbnail(file, self.max_pixels)).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_ever_more_pictures_few_are_among_the_slowest() {
        let lookout = Lookout::new(1);
        let mut random = fastrand::Rng::with_seed(1);
        let slow = (0..100_000).filter(|_| lookout.is_slow(Duration::from_nanos(random.u64(..)))).count();
        assert!((SLOWEST..400).contains(&slow), "{slow}");
        assert_eq!(lookout.slowest.lock().unwrap().len(), SLOWEST);
        assert!(lookout.is_slow(Duration::MAX) && !lookout.is_slow(Duration::ZERO));
    }

    #[test]
    fn some_of_every_kind_of_failure_are_shown_and_not_many_in_all() {
        let lookout = Lookout::new(1);
        let shown = |kind: &str| (0..100).filter(|_| lookout.is_new(kind.to_owned())).count();
        assert_eq!((shown("truncated"), shown("absent")), (OF_ONE_KIND, OF_ONE_KIND));
        let others: usize = (0..100).map(|kind| shown(&format!("{kind}"))).sum();
        assert_eq!(others, FAILURES - 2 * OF_ONE_KIND);
        assert!(lookout.failures.lock().unwrap().len() <= FAILURES, "and no more is kept");
    }

    #[tokio::test]
    async fn what_cannot_be_decoded_has_its_first_bytes_said() {
        let (lookout, heavy) = (Lookout::new(1000), Heavy::new(1));
        for (file, format) in [
            (&b"\xff\xd8\xff\xe0 and no more"[..], Ok("JPEG")),
            (b"%PDF-1.7", Ok("PDF")),
            (b"\0\x01\x02", Err(vec![0, 1, 2])),
            (b"", Err(vec![])),
        ] {
            let glimpse = lookout.failed("broken", ["a"], Some(&Bytes::from_static(file)), &heavy).await;
            // Three of one kind are shown.
            let Some(glimpse) = glimpse else {
                assert_eq!(file, b"");
                continue;
            };
            let expected = Picture { bytes: file.len(), format, size: None, thumbnail: None };
            assert_eq!(glimpse.picture, Some(expected));
        }
        assert_eq!(lookout.failed("absent", ["a"], None, &heavy).await, Some(Glimpse { picture: None }));
    }
}
