//! From the texts of one request to their ids: recalled where they are known, else tokenized here, on the I/O threads.
//!
//! Owns the order of that: tokenizing takes time, so it comes behind the item gate, and what is known comes before it. Does not
//! own a tokenizer's inside (`preprocess`).
//!
//! Invariant: ids that were recalled are those that tokenizing would give, with `truncate` or without.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use super::{EmbedError, Embedder, Lane};
use crate::{batch::Permit, encoder::Tokens, preprocess::text::Tokenized, telemetry::Outcome};

impl Embedder {
    /// The ids of all texts; places in the queue for those that had to be tokenized, which bounds how much is tokenized at a
    /// time; and how long that took.
    pub(super) async fn recall_or_tokenize<S: AsRef<str>>(
        &self,
        lane: &Lane<Tokens>,
        texts: &[S],
        truncate: bool,
    ) -> Result<(Vec<Tokens>, Vec<Permit>, Duration), EmbedError> {
        let recall = |text: &S| {
            let tokenized = lane.cache.as_ref()?.tokens(text.as_ref())?;
            // One that was cut is no answer for a request that wants it refused.
            (truncate || !tokenized.truncated).then_some(tokenized)
        };
        // Each different text is tokenized once: what is not recalled stands here with its place in `new`.
        let mut new = Vec::new();
        let mut places = HashMap::new();
        let place = |(index, text): (usize, &S)| {
            recall(text).ok_or_else(|| {
                *places.entry(texts[index].as_ref()).or_insert_with(|| {
                    new.push((index, texts[index].as_ref()));
                    new.len() - 1
                })
            })
        };
        let recalled: Vec<Result<Tokenized, usize>> = texts.iter().enumerate().map(place).collect();
        if new.is_empty() {
            let all = recalled.into_iter().flatten().collect();
            return Ok((self.counted(all), Vec::new(), Duration::ZERO));
        }
        let held = lane.admit(new.len(), &self.metrics)?;
        let (tokenized, took) = self.tokenize(&new, truncate).await?;
        if let Some(cache) = &lane.cache {
            new.iter().zip(&tokenized).for_each(|((_, text), tokenized)| cache.keep_tokens(text, tokenized));
        }
        let all = recalled.into_iter().map(|text| text.unwrap_or_else(|new| tokenized[new].clone())).collect();
        Ok((self.counted(all), held, took))
    }

    /// The ids of `texts`, each with its place in the request, and the time that took.
    pub(super) async fn tokenize(
        &self,
        texts: &[(usize, &str)],
        truncate: bool,
    ) -> Result<(Vec<Tokenized>, Duration), EmbedError> {
        let tokenizer = &self.texts()?.tokenizer;
        let started = Instant::now();
        let mut tokenized = Vec::with_capacity(texts.len());
        for &(index, text) in texts {
            tokenized.push(tokenizer.tokenize(text, truncate).map_err(|error| {
                self.metrics.text.items(Outcome::Invalid).inc();
                EmbedError::Item { index, error }
            })?);
            // Tokenizing runs on the I/O threads, which saves a crossing; one text is bounded by `max_text_bytes` (some 30 ms
            // at worst), so other connections are served at least that often.
            tokio::task::consume_budget().await;
        }
        let took = started.elapsed();
        self.metrics.tokenize.observe(took.as_secs_f64());
        Ok((tokenized, took))
    }

    /// The ids alone; the texts of a request that were cut are counted.
    pub(super) fn counted(&self, texts: Vec<Tokenized>) -> Vec<Tokens> {
        self.metrics.text_truncated.inc_by(texts.iter().filter(|text| text.truncated).count() as u64);
        texts.into_iter().map(|text| text.tokens).collect()
    }
}
