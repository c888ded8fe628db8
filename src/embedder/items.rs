//! The items of one request on their way to embeddings: what is known is taken, what is being computed is joined, and only the
//! rest is computed.
//!
//! Owns that decision and the waiting for its outcome. Does not own what is known or in flight (`cache`).
//!
//! Invariants: what is known or joined takes no place in a queue; what must be computed is admitted whole or not at all; a
//! request gets no error of another's deadline.

use std::{collections::HashMap, sync::Arc, time::Instant};

use ndarray::{Array2, ArrayView1};

use super::{
    EmbedError, Embedded, Lane, Terms,
    cache::{Cache, Computed, Flight, Key, alone},
    failing::Failing,
    job_error,
};
use crate::{
    batch::{JobError, Permit, Ticket, Timings, Work},
    encoder::OutputSet,
    telemetry::{Lookup, Metrics},
};

/// Where the embedding of one item comes from.
enum Source {
    /// It is there.
    Known(Computed),
    /// It is being computed, for this request or for another one.
    Flight(Flight),
}

/// Where one item stands while the flights are held.
enum Place {
    Found(Source),
    /// Among those that this request begins.
    New(usize),
}

/// A request's view of its lane.
pub(super) struct Request<'a, T> {
    pub(super) lane: &'a Lane<T>,
    pub(super) metrics: &'a Metrics,
    /// The length of an embedding.
    pub(super) dim: usize,
    pub(super) terms: Terms,
}

impl<T: Clone> Request<'_, T> {
    /// The embeddings of `inputs`, in order. `held` are places in the queue that the request has already: so many of what must
    /// be computed need no other, and the rest of them is given back.
    ///
    /// Waits in the order of the request, so that the error of a request does not depend on timing. The rows of items that fail alone are
    /// zeros.
    pub(super) async fn embed(
        &self,
        inputs: &[T],
        mut held: Vec<Permit>,
        failing: &mut Failing,
    ) -> Result<Embedded, EmbedError> {
        let keys: Vec<Key> = match self.lane.cache {
            Some(_) => inputs.iter().map(self.lane.key).collect(),
            None => Vec::new(),
        };
        let mut embeddings = Array2::zeros((inputs.len(), self.dim));
        let all = async {
            let mut longest = Timings::default();
            let mut missing: Vec<usize> = (0..inputs.len()).collect();
            loop {
                let sources = self.sources(inputs, &keys, &missing, std::mem::take(&mut held))?;
                let mut expired = Vec::new();
                for (index, source) in missing.into_iter().zip(sources) {
                    let computed = match source {
                        Source::Known(computed) => Ok(computed),
                        Source::Flight(flight) => flight.await,
                    };
                    match computed {
                        Ok(Computed { embedding, timings }) => {
                            embeddings.row_mut(index).assign(&ArrayView1::from(&embedding[..]));
                            longest = longest.max(timings);
                        }
                        // The deadline of the request that began it; this one came later and still has time.
                        Err(JobError::Expired) if Instant::now() < self.terms.deadline => expired.push(index),
                        Err(JobError::Input(error)) => failing.item(index, error)?,
                        Err(error) => return Err(job_error(index, error)),
                    }
                }
                if expired.is_empty() {
                    return Ok(longest);
                }
                missing = expired;
            }
        };
        let timings = tokio::time::timeout_at(self.terms.deadline.into(), all);
        let timings = timings.await.unwrap_or(Err(EmbedError::DeadlineExceeded))?;
        Ok(Embedded { embeddings, timings, tokens: 0 })
    }

    /// A source for each of the `missing` inputs.
    fn sources(
        &self,
        inputs: &[T],
        keys: &[Key],
        missing: &[usize],
        held: Vec<Permit>,
    ) -> Result<Vec<Source>, EmbedError> {
        match &self.lane.cache {
            Some(cache) => self.look_up(cache, inputs, keys, missing, held),
            None => {
                let tickets = self.submit(missing.iter().map(|&index| &inputs[index]), held)?;
                Ok(tickets.into_iter().map(|ticket| Source::Flight(alone(ticket, self.dim))).collect())
            }
        }
    }

    fn look_up(
        &self,
        cache: &Arc<Cache>,
        inputs: &[T],
        keys: &[Key],
        missing: &[usize],
        held: Vec<Permit>,
    ) -> Result<Vec<Source>, EmbedError> {
        let known = |index: usize| {
            let embedding = cache.embedding(&keys[index])?;
            Some(Source::Known(Computed { embedding, timings: Timings::default() }))
        };
        let count = |lookup, count: usize| self.lane.metrics.lookups(lookup).inc_by(count as u64);
        let found: Vec<Option<Source>> = missing.iter().map(|&index| known(index)).collect();
        if found.iter().all(Option::is_some) {
            count(Lookup::Hit, found.len());
            return Ok(found.into_iter().flatten().collect());
        }
        // Declared before the lock, and so dropped after it: see `Cache::flights`.
        let mut places: Vec<Place> = Vec::with_capacity(missing.len());
        let mut flights = cache.flights();
        let mut new: Vec<usize> = Vec::new();
        // By key, the place in `new`: the request may have it twice.
        let mut begun: HashMap<&Key, usize> = HashMap::new();
        for (found, &index) in found.into_iter().zip(missing) {
            let key = &keys[index];
            // Known after all, when it landed since it was looked for.
            let found =
                found.or_else(|| flights.join(key, self.terms.class).map(Source::Flight)).or_else(|| known(index));
            places.push(found.map_or_else(
                || {
                    Place::New(*begun.entry(key).or_insert_with(|| {
                        new.push(index);
                        new.len() - 1
                    }))
                },
                Place::Found,
            ));
        }
        let hits = places.iter().filter(|place| matches!(place, Place::Found(Source::Known(_)))).count();
        count(Lookup::Hit, hits);
        count(Lookup::Miss, new.len());
        count(Lookup::Joined, places.len() - hits - new.len());
        let tickets = self.submit(new.iter().map(|&index| &inputs[index]), held)?;
        let begun: Vec<Flight> = new
            .iter()
            .zip(tickets)
            .map(|(&index, ticket)| flights.begin(cache, keys[index].clone(), self.terms.class, ticket, self.dim))
            .collect();
        drop(flights);
        let source = |place| match place {
            Place::Found(source) => source,
            Place::New(new) => Source::Flight(begun[new].clone()),
        };
        Ok(places.into_iter().map(source).collect())
    }

    /// One job for each of `inputs`, in a place that is `held` or else one that the lane has free.
    fn submit<'i>(
        &self,
        inputs: impl ExactSizeIterator<Item = &'i T>,
        mut held: Vec<Permit>,
    ) -> Result<Vec<Ticket>, EmbedError>
    where
        T: 'i,
    {
        let inputs: Vec<T> = inputs.cloned().collect();
        if inputs.len() > held.len() {
            let further: Vec<Work> = inputs[held.len()..].iter().map(self.lane.work).collect();
            held.extend(self.lane.admit(&further, &self.terms, self.metrics)?);
        }
        Ok(self.lane.submit(inputs, OutputSet::EMPTY, held, self.terms.deadline))
    }
}

#[cfg(test)]
mod tests;
