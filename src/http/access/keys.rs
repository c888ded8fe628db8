//! The keys: whose a token is, and how much of the service its owner may have at a time.
//!
//! Owns looking a token up, and the places of each key. Does not own where keys stand (`file`).
//!
//! What is kept of a key is its SHA-256, and what is compared is that of the token, with every key there is, in constant time: the time
//! that takes tells how long the token is, which its sender knows, and how many keys there are.
//!
//! Invariants: a key has no more requests at a time than it may, also while the file is read again and for as long as those that came
//! before last; a key that is gone has no metrics.

use std::sync::{
    Arc,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};

use sha2::{Digest as _, Sha256};
use subtle::{ConditionallySelectable, ConstantTimeEq};

use super::file::{Listed, MAX_KEY, OF_THE_CONFIGURATION};
use crate::{
    config::Secret,
    embedder::Quota,
    telemetry::{KeyMetrics, Metrics},
};

/// All keys.
#[derive(Debug)]
pub(super) struct Keys(Vec<Arc<Key>>);

/// One key.
#[derive(Debug)]
pub(in crate::http) struct Key {
    name: String,
    digest: [u8; 32],
    max_inflight_requests: Option<usize>,
    queue_share: Option<f64>,
    usage: Arc<Usage>,
}

/// What a key has now. The same for as long as there is a key of that name.
#[derive(Debug)]
struct Usage {
    /// Told to the queues, which know no names.
    client: u64,
    in_flight: AtomicUsize,
    metrics: KeyMetrics,
}

/// The place of one request among those of its key, given back when dropped.
#[derive(Debug)]
pub(in crate::http) struct Place(Arc<Usage>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.0.metrics.in_flight.dec();
    }
}

impl Keys {
    /// The one of the configuration and those that are `listed`; those that were there `before` go on under their names.
    pub(super) fn new(own: Option<&Secret>, listed: Vec<Listed>, before: Option<&Self>, metrics: &Metrics) -> Self {
        let own = own.map(|key| Listed {
            name: OF_THE_CONFIGURATION.to_owned(),
            sha256: Sha256::digest(key.expose()).into(),
            max_inflight_requests: None,
            queue_share: None,
        });
        let known = |name: &str| before?.0.iter().find(|key| key.name == name).map(|key| Arc::clone(&key.usage));
        let key = |listed: Listed| {
            let Listed { name, sha256: digest, max_inflight_requests, queue_share } = listed;
            let usage = known(&name).unwrap_or_else(|| Usage::new(metrics.key(&name)));
            Arc::new(Key { name, digest, max_inflight_requests, queue_share, usage })
        };
        let keys: Vec<_> = own.into_iter().chain(listed).map(key).collect();
        let gone = before.into_iter().flat_map(|before| &before.0);
        for gone in gone.filter(|gone| keys.iter().all(|key| key.name != gone.name)) {
            metrics.retire_key(&gone.name);
        }
        Self(keys)
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// The key that `token` is.
    pub(super) fn find(&self, token: &[u8]) -> Option<Arc<Key>> {
        if token.len() > MAX_KEY {
            return None;
        }
        let digest: [u8; 32] = Sha256::digest(token).into();
        // Counted from 1; all are looked at, and none is chosen by a branch.
        let mut found = 0_u64;
        for (place, key) in (1..).zip(&self.0) {
            found.conditional_assign(&place, key.digest.ct_eq(&digest));
        }
        let place = usize::try_from(found).ok()?.checked_sub(1)?;
        self.0.get(place).cloned()
    }
}

impl Usage {
    fn new(metrics: KeyMetrics) -> Arc<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let client = NEXT.fetch_add(1, Ordering::Relaxed);
        Arc::new(Self { client, in_flight: AtomicUsize::new(0), metrics })
    }
}

impl Key {
    /// As metrics and the log call it.
    pub(in crate::http) fn name(&self) -> &str {
        &self.name
    }

    /// How many requests it may have at a time, where that is limited.
    pub(in crate::http) fn limit(&self) -> Option<usize> {
        self.max_inflight_requests
    }

    /// Its part of each queue, where it has one.
    pub(in crate::http) fn quota(&self) -> Option<Quota> {
        self.queue_share.map(|share| Quota { client: self.usage.client, share })
    }

    /// A place for one request more, where there is one.
    pub(in crate::http) fn enter(&self) -> Option<Place> {
        let (limit, usage) = (self.max_inflight_requests.unwrap_or(usize::MAX), &self.usage);
        let more = |now: usize| (now < limit).then_some(now + 1);
        usage.in_flight.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        usage.metrics.in_flight.inc();
        Some(Place(Arc::clone(usage)))
    }

    /// Counts one finished request.
    pub(in crate::http) fn observe_request(&self, status: u16) {
        self.usage.metrics.observe_request(status);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(name: &str, key: &str, max_inflight_requests: Option<usize>) -> Listed {
        Listed { name: name.to_owned(), sha256: Sha256::digest(key).into(), max_inflight_requests, queue_share: None }
    }

    #[test]
    fn a_token_is_found_whole_wherever_its_key_stands() {
        let own = Secret::new("s3cret".to_owned());
        let all = (0..100).map(|n| listed(&format!("n{n}"), &format!("key-{n}"), None)).collect();
        let keys = Keys::new(Some(&own), all, None, &Metrics::new());
        let name = |token: &[u8]| keys.find(token).map(|key| key.name().to_owned());
        assert_eq!((name(b"s3cret").as_deref(), name(b"key-0").as_deref()), (Some("api_key"), Some("n0")));
        assert_eq!(name(b"key-99").as_deref(), Some("n99"));
        for token in [&b""[..], b"key-", b"key-100", b"s3cre", b"s3crets", &[b'a'; MAX_KEY], &[b'a'; MAX_KEY + 1]] {
            assert_eq!(name(token), None, "{token:?}");
        }
        assert_eq!(Keys::new(None, Vec::new(), None, &Metrics::new()).find(b"").map(|_| ()), None);
    }

    #[test]
    fn every_byte_of_a_digest_counts() {
        for byte in 0..32 {
            let mut near = listed("a", "s3cret", None);
            near.sha256[byte] ^= 1;
            let keys = Keys::new(None, vec![near], None, &Metrics::new());
            assert!(keys.find(b"s3cret").is_none(), "byte {byte}");
        }
    }

    #[test]
    fn places_outlast_a_new_list_and_so_do_counters_under_their_names() {
        let metrics = Metrics::new();
        let before = Keys::new(None, vec![listed("a", "one", Some(2)), listed("b", "two", None)], None, &metrics);
        let key = before.find(b"one").expect("there");
        let held = key.enter().expect("a place");
        key.observe_request(200);
        let after =
            Keys::new(None, vec![listed("a", "new", Some(2)), listed("c", "three", None)], Some(&before), &metrics);
        assert!(after.find(b"one").is_none(), "the old key is gone at once");
        let key = after.find(b"new").expect("there");
        key.observe_request(200);
        let more = key.enter().expect("the second");
        assert!(key.enter().is_none(), "the one from before counts");
        drop(held);
        assert!(key.enter().is_some());
        let (text, _) = metrics.render();
        assert!(text.contains("clipserve_key_requests_total{key=\"a\",status=\"2xx\"} 2"), "{text}");
        assert!(text.contains("clipserve_key_requests_in_flight{key=\"a\"} 1"), "{text}");
        assert!(!text.contains("key=\"b\"") && text.contains("key=\"c\""), "{text}");
        drop(more);
    }
}
