//! From the texts of one request to their ids: recalled where they are known, else tokenized here.
//!
//! Owns the order of that: tokenizing takes time, so it comes behind the item gate, and what is known comes before it. A few short
//! texts are tokenized at once, on the I/O thread that has the request, which saves a crossing; more is done in slices off these
//! threads, between which the deadline is looked at and other requests have their turn. The way back from ids goes the same. Does not
//! own a tokenizer's inside (`preprocess`).
//!
//! Invariants: ids that were recalled are those that tokenizing would give, with `truncate` or without; no slice is longer than
//! [`SLICE`] and one text.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use super::{EmbedError, Embedder, Lane, Terms, failing::Failing};
use crate::{
    batch::{Permit, Work},
    encoder::{InputError, Tokens},
    preprocess::text::{Piece, TextTokenizer, Tokenized},
    telemetry::Outcome,
};

/// How long a request tokenizes at a time.
const SLICE: Duration = Duration::from_millis(5);

/// What a byte takes in the texts that take the tokenizer longest, digits without a blank.
const NANOSECONDS_PER_BYTE: u64 = 450;

/// What an id takes to decode, about.
const NANOSECONDS_PER_ID: u64 = 1000;

/// Bytes of text to a token, about: what is expected of a text before it is tokenized.
const BYTES_PER_TOKEN: usize = 4;

impl Embedder {
    /// The ids of all texts but those that fail alone, each with its place in the request; places in the queue for those that had to be
    /// tokenized, which bounds how much is tokenized at a time; and how long that took.
    pub(super) async fn recall_or_tokenize<S: AsRef<str>>(
        &self,
        lane: &Lane<Tokens>,
        texts: &[S],
        truncate: bool,
        terms: &Terms,
        failing: &mut Failing,
    ) -> Result<(Vec<(usize, Tokens)>, Vec<Permit>, Duration), EmbedError> {
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
            return Ok((self.counted(all).into_iter().enumerate().collect(), Vec::new(), Duration::ZERO));
        }
        let held = lane.admit(&self.works(&new)?, terms, &self.metrics)?;
        let (tokenized, took) = self.tokenize(&new, truncate, terms, failing).await?;
        if let Some(cache) = &lane.cache {
            let texts =
                new.iter().zip(&tokenized).filter_map(|((_, text), tokenized)| Some((text, tokenized.as_ref().ok()?)));
            texts.for_each(|(text, tokenized)| cache.keep_tokens(text, tokenized));
        }
        let (mut places, mut all) = (Vec::with_capacity(texts.len()), Vec::with_capacity(texts.len()));
        for (place, text) in recalled.into_iter().enumerate() {
            // One that is there twice fails at both places.
            match text.map_or_else(|new| tokenized[new].clone(), Ok) {
                Ok(text) => {
                    places.push(place);
                    all.push(text);
                }
                Err(error) => failing.item(place, error)?,
            }
        }
        Ok((places.into_iter().zip(self.counted(all)).collect(), held, took))
    }

    /// What `texts` will take to encode, before they are tokenized.
    pub(super) fn works(&self, texts: &[(usize, &str)]) -> Result<Vec<Work>, EmbedError> {
        let longest = self.texts()?.tokenizer.context_length();
        let tokens = |text: &str| (text.len() / BYTES_PER_TOKEN + 2).min(longest) as u64;
        Ok(texts.iter().map(|(_, text)| Work { decode: 0, encode: tokens(text) }).collect())
    }

    /// The ids of `texts`, each with its place in the request, and the time that took. A text without ids is one that fails alone.
    pub(super) async fn tokenize(
        &self,
        texts: &[(usize, &str)],
        truncate: bool,
        terms: &Terms,
        failing: &Failing,
    ) -> Result<(Vec<Result<Tokenized, InputError>>, Duration), EmbedError> {
        let tokenizer = &self.texts()?.tokenizer;
        let invalid = || self.metrics.text.items(Outcome::Invalid).inc();
        let mut tokenized = Vec::with_capacity(texts.len());
        let each = |index, text: &str| {
            match (tokenizer.tokenize(text, truncate).inspect_err(|_| invalid()), failing) {
                (Err(error), Failing::Request) => return Err(EmbedError::Item { index, error }),
                (text, _) => tokenized.push(text),
            }
            Ok(())
        };
        let took = self.texts_in_slices(texts, terms, each).await?;
        self.metrics.tokenize.observe(took.as_secs_f64());
        Ok((tokenized, took))
    }

    /// Does `each` for every text with its place, which takes as long as tokenizing it; and the time that took.
    async fn texts_in_slices<E: From<EmbedError>>(
        &self,
        texts: &[(usize, &str)],
        terms: &Terms,
        mut each: impl FnMut(usize, &str) -> Result<(), E>,
    ) -> Result<Duration, E> {
        let takes = |(_, text): &(usize, &str)| (text.len() as u64).saturating_mul(NANOSECONDS_PER_BYTE);
        self.in_slices(texts, takes, terms, |&(index, text)| each(index, text)).await
    }

    /// Does `each` for every item, which `takes` so many nanoseconds; and the time that took.
    async fn in_slices<T, E: From<EmbedError>>(
        &self,
        items: &[T],
        takes: impl Fn(&T) -> u64,
        terms: &Terms,
        mut each: impl FnMut(&T) -> Result<(), E>,
    ) -> Result<Duration, E> {
        let (mut took, mut done) = (Duration::ZERO, 0);
        while done < items.len() {
            let rest = &items[done..];
            let expected = Duration::from_nanos(rest.iter().map(&takes).fold(0, u64::saturating_add));
            let slice = self.heavy.run(expected, || {
                let started = Instant::now();
                for item in rest {
                    each(item)?;
                    done += 1;
                    if started.elapsed() >= SLICE {
                        break;
                    }
                }
                Ok::<_, E>(started.elapsed())
            });
            took += slice.await?;
            if Instant::now() >= terms.deadline {
                return Err(EmbedError::DeadlineExceeded.into());
            }
        }
        Ok(took)
    }

    /// Hands all tokens of each text to `keep`, in order: nothing is cut, nothing is embedded. `room` is asked before a text is tokenized,
    /// for the most [`Piece`]s that it can have.
    ///
    /// # Errors
    /// [`EmbedError::NotSupported`] without a text encoder, [`EmbedError::Item`] for a text over the byte limit,
    /// [`EmbedError::DeadlineExceeded`]; what `room` and `keep` refuse.
    pub async fn pieces<S: AsRef<str>, R, E: From<EmbedError>>(
        &self,
        texts: &[S],
        framed: bool,
        terms: &Terms,
        mut room: impl FnMut(usize) -> Result<R, E>,
        mut keep: impl FnMut(Vec<Piece>, R),
    ) -> Result<(), E> {
        let tokenizer = &self.texts()?.tokenizer;
        let texts: Vec<_> = texts.iter().map(AsRef::as_ref).enumerate().collect();
        let each = |index, text: &str| {
            let room = room(TextTokenizer::most_pieces(text.len()))?;
            let error = |error| EmbedError::Item { index, error };
            keep(tokenizer.pieces(text, framed).map_err(error)?, room);
            Ok::<_, E>(())
        };
        self.texts_in_slices(&texts, terms, each).await?;
        Ok(())
    }

    /// Does `each` for every list of ids with its place, which takes no longer than decoding it.
    ///
    /// # Errors
    /// [`EmbedError::DeadlineExceeded`], and those of `each`.
    pub async fn for_ids<E: From<EmbedError>>(
        &self,
        lists: &[Vec<u32>],
        terms: &Terms,
        mut each: impl FnMut(usize, &[u32]) -> Result<(), E>,
    ) -> Result<(), E> {
        let lists: Vec<_> = lists.iter().map(Vec::as_slice).enumerate().collect();
        let takes = |(_, ids): &(usize, &[u32])| (ids.len() as u64).saturating_mul(NANOSECONDS_PER_ID);
        self.in_slices(&lists, takes, terms, |&(index, ids)| each(index, ids)).await?;
        Ok(())
    }

    /// How the token with this id is written, if there is one.
    ///
    /// # Errors
    /// [`EmbedError::NotSupported`] without a text encoder.
    pub fn token(&self, id: u32) -> Result<Option<String>, EmbedError> {
        Ok(self.texts()?.tokenizer.token(id))
    }

    /// The text of `ids`, each of which has a token; with the names of special tokens or without. Written as UTF-8 it has no more
    /// characters than the tokens have bytes together, and one for each token.
    ///
    /// # Errors
    /// [`EmbedError::NotSupported`] without a text encoder; [`EmbedError::Item`], its index 0, when they are no text.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String, EmbedError> {
        let text = self.texts()?.tokenizer.decode(ids, skip_special);
        text.map_err(|error| EmbedError::Item { index: 0, error })
    }

    /// The ids alone; the texts of a request that were cut are counted.
    pub(super) fn counted(&self, texts: Vec<Tokenized>) -> Vec<Tokens> {
        self.metrics.text_truncated.inc_by(texts.iter().filter(|text| text.truncated).count() as u64);
        texts.into_iter().map(|text| text.tokens).collect()
    }
}
