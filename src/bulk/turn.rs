//! Which samples are embedded: those of this process's shard that no complete part has.
//!
//! Owns counting them, and finding that they are no longer the same. Does not own what is complete (`journal`).
//!
//! Invariant: what is skipped was seen, in the same order, by the run that wrote it; otherwise the run ends.

use super::{
    options::Shard,
    sample::{Chain, Stop, Ticket},
};

/// The next sample's turn.
#[derive(Debug)]
pub(super) struct Turn {
    /// `None` where the files are dealt out, not their samples.
    shard: Option<Shard>,
    /// Samples seen.
    seen: u64,
    /// Those of them that are ours.
    ours: u64,
    chain: Chain,
    /// How many complete parts have, and their chain.
    done: (u64, Chain),
    /// Whether these are all.
    ended: bool,
}

impl Turn {
    /// Before the first sample, of which the first `rows` of ours are done, with this chain; `ended`: there were no more of them.
    pub(super) fn new(shard: Option<Shard>, rows: u64, chain: Chain, ended: bool) -> Self {
        Self { shard, seen: 0, ours: 0, chain: Chain::EMPTY, done: (rows, chain), ended }
    }

    /// A ticket where the sample of `origin` is to be embedded.
    ///
    /// # Errors
    /// [`Stop::Changed`].
    pub(super) fn next(&mut self, origin: &str) -> Result<Option<Ticket>, Stop> {
        let number = self.seen;
        self.seen += 1;
        if self.shard.is_some_and(|shard| !shard.has(number)) {
            return Ok(None);
        }
        self.ours += 1;
        self.chain = self.chain.then(origin);
        let (rows, chain) = self.done;
        if self.ours == rows && self.chain != chain {
            return Err(Stop::Changed(format!(
                "the sources have changed: their first {rows} samples are not those that the complete parts were made of; give \
                 the sources as they were, or another --out"
            )));
        }
        if self.ours > rows && self.ended {
            return Err(Stop::Changed(format!(
                "the sources have changed: they have more than the {rows} samples that this run was made of, and it has come to its end; \
                 give the sources as they were, or another --out"
            )));
        }
        Ok((self.ours > rows).then_some(Ticket(self.chain)))
    }

    /// After the last sample.
    ///
    /// # Errors
    /// [`Stop::Changed`].
    pub(super) fn end(&self) -> Result<(), Stop> {
        let (rows, _) = self.done;
        if self.ours >= rows {
            return Ok(());
        }
        Err(Stop::Changed(format!(
            "the sources have changed: they have {} samples, and the complete parts {rows}; give the sources as they were, or \
             another --out",
            self.ours
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(origins: &[&str]) -> Chain {
        origins.iter().fold(Chain::EMPTY, |chain, origin| chain.then(origin))
    }

    fn wanted(turn: &mut Turn, origins: &[&str]) -> Result<Vec<bool>, Stop> {
        let all = origins.iter().map(|origin| turn.next(origin).map(|ticket| ticket.is_some())).collect();
        turn.end().and(all)
    }

    #[test]
    fn what_is_done_is_skipped_and_tickets_have_the_chain_up_to_them() {
        let mut turn = Turn::new(None, 2, chain(&["a", "b"]), false);
        assert!(turn.next("a").unwrap().is_none() && turn.next("b").unwrap().is_none());
        assert_eq!(turn.next("c").unwrap().unwrap().0, chain(&["a", "b", "c"]));
        assert_ne!(chain(&["a", "bc"]), chain(&["ab", "c"]));
    }

    #[test]
    fn a_shard_counts_its_own() {
        let shard = Some(Shard::new(1, 2).unwrap());
        assert_eq!(
            wanted(&mut Turn::new(shard, 1, chain(&["b"]), false), &["a", "b", "c", "d"]).unwrap(),
            [false, false, false, true]
        );
    }

    #[test]
    fn other_samples_than_those_that_are_done_end_the_run() {
        for origins in [&["b", "a", "c"][..], &["a", "x"], &["a"], &[]] {
            let stop = wanted(&mut Turn::new(None, 2, chain(&["a", "b"]), false), origins).unwrap_err();
            assert!(matches!(stop, Stop::Changed(text) if text.contains("have changed")), "{origins:?}");
        }
    }

    #[test]
    fn a_run_that_has_come_to_its_end_takes_the_same_samples_and_no_more() {
        let ended = |rows, origins: &[&str]| Turn::new(None, rows, chain(origins), true);
        assert_eq!(wanted(&mut ended(2, &["a", "b"]), &["a", "b"]).unwrap(), [false, false]);
        assert_eq!(wanted(&mut ended(0, &[]), &[]).unwrap(), [false; 0]);
        for (rows, of, origins) in [
            (2, &["a", "b"][..], &["a", "b", "c"][..]),
            (2, &["a", "b"], &["a", "c"]),
            (2, &["a", "b"], &["a"]),
            (0, &[], &["a"]),
        ] {
            let stop = wanted(&mut ended(rows, of), origins).unwrap_err();
            assert!(matches!(stop, Stop::Changed(text) if text.contains("have changed")), "{origins:?}");
        }
    }
}
