//! The same samples embedded by both: ours first, then the other service, batch by batch.
//!
//! Owns what is read, asked and left out. Does not own what is made of the embeddings (`statistics`, `report`).
//!
//! Invariants: row `i` of both spaces is of sample `i`; no more than one batch of files is in memory; a sample that one side refuses
//! is left out and told; where the other service refuses one after the other and has answered none, it is not asked for all of them.

use std::{
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use bytes::Bytes;
use ndarray::Array2;
use serde::Serialize;
use tokio::runtime::Runtime;

use super::{
    error::CompareError,
    kinds::{Items, Kind},
    peer::{Peer, PeerError},
};
use crate::embedder::{EmbedError, Embedder, Modality, Terms};

/// Bytes of files in one request, where there is more than one.
const BATCH_BYTES: usize = 4 << 20;
/// Samples that the other service may refuse before it has answered any: the fault is not theirs then.
const GIVE_UP: usize = 8;
/// Nobody waits for an answer of ours but this program.
const NO_DEADLINE: Duration = Duration::from_secs(24 * 60 * 60);

/// The samples that both sides have embedded.
#[derive(Debug, Default)]
pub(super) struct Pairs {
    /// What each is called.
    pub(super) names: Vec<String>,
    ours: Vec<Vec<f32>>,
    theirs: Vec<Vec<f32>>,
    /// What is not among them.
    pub(super) left_out: Vec<LeftOut>,
}

/// A sample that has no pair of embeddings.
#[derive(Clone, Debug, Serialize)]
pub(super) struct LeftOut {
    pub(super) sample: String,
    /// Who has none, and why.
    pub(super) reason: String,
}

/// Embeddings of two lengths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Lengths {
    pub(super) ours: usize,
    pub(super) theirs: usize,
}

/// What came of asking both.
#[derive(Debug)]
pub(super) enum Asked {
    /// The pairs, at least one.
    Pairs(Pairs),
    /// They cannot be compared.
    OtherModel(Lengths),
}

/// Both sides.
pub(super) struct Sides<'a> {
    pub(super) embedder: &'a Embedder,
    pub(super) runtime: &'a Runtime,
    pub(super) peer: &'a Peer,
    pub(super) kind: Kind,
    /// Of one file: ours takes no larger one.
    pub(super) max_file_bytes: usize,
}

/// Samples, and how they are called, read and handed over.
trait Samples {
    type Item: Clone;
    const MODALITY: Modality;

    fn items(batch: &[Self::Item]) -> Items<'_>;
    async fn embed(embedder: &Embedder, batch: &[Self::Item]) -> Result<Array2<f32>, EmbedError>;
}

struct Pictures;

impl Samples for Pictures {
    type Item = Bytes;
    const MODALITY: Modality = Modality::Image;

    fn items(batch: &[Bytes]) -> Items<'_> {
        Items::Pictures(batch)
    }

    async fn embed(embedder: &Embedder, batch: &[Bytes]) -> Result<Array2<f32>, EmbedError> {
        Ok(embedder.embed_images(batch.to_vec(), terms()).await?.embeddings)
    }
}

struct Texts;

impl Samples for Texts {
    type Item = String;
    const MODALITY: Modality = Modality::Text;

    fn items(batch: &[String]) -> Items<'_> {
        Items::Texts(batch)
    }

    async fn embed(embedder: &Embedder, batch: &[String]) -> Result<Array2<f32>, EmbedError> {
        // Cut where they are too long, as the others do.
        Ok(embedder.embed_texts(batch, true, terms()).await?.embeddings)
    }
}

fn terms() -> Terms {
    Terms::patient(Instant::now() + NO_DEADLINE)
}

impl Sides<'_> {
    /// Asks both for files.
    ///
    /// # Errors
    /// When one side does not answer, or no sample has a pair.
    pub(super) fn pictures(&self, files: &[PathBuf], progress: &mut dyn FnMut(&str)) -> Result<Asked, CompareError> {
        let mut asking = Asking::<Pictures>::new(self, self.kind.pictures_at_once());
        let (mut batch, mut bytes) = (Vec::new(), 0);
        for (done, file) in files.iter().enumerate() {
            let name = file.display().to_string();
            let picture = match read(file, self.max_file_bytes) {
                Ok(picture) => picture,
                Err(error) => {
                    asking.leave_out(name, error.to_string());
                    continue;
                }
            };
            if !batch.is_empty() && (batch.len() == asking.at_once || bytes + picture.len() > BATCH_BYTES) {
                if let Some(lengths) = asking.ask(std::mem::take(&mut batch))? {
                    return Ok(Asked::OtherModel(lengths));
                }
                progress(&format!("pictures: {done} of {}", files.len()));
                bytes = 0;
            }
            bytes += picture.len();
            batch.push((name, picture));
        }
        asking.finish(batch)
    }

    /// Asks both for texts.
    ///
    /// # Errors
    /// As [`Self::pictures`].
    pub(super) fn texts(&self, texts: &[String], progress: &mut dyn FnMut(&str)) -> Result<Asked, CompareError> {
        let mut asking = Asking::<Texts>::new(self, self.kind.texts_at_once());
        let mut done = 0;
        for batch in texts.chunks(asking.at_once) {
            let batch: Vec<_> = batch.iter().map(|text| (text.clone(), text.clone())).collect();
            done += batch.len();
            if let Some(lengths) = asking.ask(batch)? {
                return Ok(Asked::OtherModel(lengths));
            }
            progress(&format!("texts: {done} of {}", texts.len()));
        }
        asking.finish(Vec::new())
    }
}

/// The pairs so far.
struct Asking<'a, S> {
    sides: &'a Sides<'a>,
    at_once: usize,
    pairs: Pairs,
    /// By the other service.
    refused: usize,
    samples: std::marker::PhantomData<S>,
}

/// Samples by their names.
type Batch<S> = Vec<(String, <S as Samples>::Item)>;

impl<'a, S: Samples> Asking<'a, S> {
    fn new(sides: &'a Sides<'a>, at_once: usize) -> Self {
        Self { sides, at_once, pairs: Pairs::default(), refused: 0, samples: std::marker::PhantomData }
    }

    fn leave_out(&mut self, sample: String, reason: String) {
        self.pairs.left_out.push(LeftOut { sample, reason });
    }

    /// Both embeddings of a batch; the lengths where they are two.
    fn ask(&mut self, batch: Batch<S>) -> Result<Option<Lengths>, CompareError> {
        let (batch, ours) = self.ours(batch)?;
        if batch.is_empty() {
            return Ok(None);
        }
        let items: Vec<S::Item> = batch.iter().map(|(_, item)| item.clone()).collect();
        let theirs = match self.sides.peer.embed(S::items(&items)) {
            Ok(theirs) => theirs.into_iter().map(Ok).collect(),
            Err(PeerError::Service(error)) => return Err(error),
            Err(PeerError::Items { url, reason }) => self.one_by_one(&items, url, reason)?,
        };
        for (((name, _), ours), theirs) in batch.into_iter().zip(ours).zip(theirs) {
            let theirs = match theirs {
                Ok(theirs) => theirs,
                Err(reason) => {
                    self.leave_out(name, reason);
                    continue;
                }
            };
            if ours.len() != theirs.len() {
                return Ok(Some(Lengths { ours: ours.len(), theirs: theirs.len() }));
            }
            self.pairs.names.push(name);
            self.pairs.ours.push(ours);
            self.pairs.theirs.push(theirs);
        }
        Ok(None)
    }

    /// Ours, of those samples that have an embedding.
    fn ours(&mut self, mut batch: Batch<S>) -> Result<(Batch<S>, Vec<Vec<f32>>), CompareError> {
        while !batch.is_empty() {
            let items: Vec<S::Item> = batch.iter().map(|(_, item)| item.clone()).collect();
            match self.sides.runtime.block_on(S::embed(self.sides.embedder, &items)) {
                Ok(embeddings) => return Ok((batch, embeddings.rows().into_iter().map(|row| row.to_vec()).collect())),
                Err(EmbedError::Item { index, error }) if index < batch.len() => {
                    let (name, _) = batch.remove(index);
                    self.leave_out(name, format!("our own model: {error}"));
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok((batch, Vec::new()))
    }

    /// Theirs for each item by itself, or why there is none, where the request of all of them was refused for this reason.
    fn one_by_one(
        &mut self,
        items: &[S::Item],
        url: String,
        reason: String,
    ) -> Result<Vec<Result<Vec<f32>, String>>, CompareError> {
        let mut answers = Vec::new();
        let mut nothing = self.pairs.names.is_empty();
        for item in items {
            let answer = match items.len() {
                1 => Err(PeerError::Items { url: url.clone(), reason: reason.clone() }),
                _ => self.sides.peer.embed(S::items(std::slice::from_ref(item))),
            };
            answers.push(match answer {
                Ok(embeddings) => {
                    nothing = false;
                    Ok(embeddings.into_iter().flatten().collect())
                }
                Err(PeerError::Items { reason, .. }) => {
                    self.refused += 1;
                    if nothing && self.refused == GIVE_UP {
                        return Err(CompareError::Peer { url, reason });
                    }
                    Err(reason)
                }
                Err(PeerError::Service(error)) => return Err(error),
            });
        }
        Ok(answers)
    }

    /// Asks for what is left.
    fn finish(mut self, batch: Batch<S>) -> Result<Asked, CompareError> {
        if let Some(lengths) = self.ask(batch)? {
            return Ok(Asked::OtherModel(lengths));
        }
        match self.pairs.left_out.first() {
            Some(left_out) if self.pairs.names.is_empty() => {
                let LeftOut { sample, reason } = left_out;
                let what = S::MODALITY;
                Err(CompareError::Nothing(format!("no {what} could be embedded by both; {sample}: {reason}")))
            }
            _ => Ok(Asked::Pairs(self.pairs)),
        }
    }
}

impl Pairs {
    /// Ours, a row for each sample.
    pub(super) fn ours(&self) -> Array2<f32> {
        matrix(&self.ours)
    }

    /// Theirs.
    pub(super) fn theirs(&self) -> Array2<f32> {
        matrix(&self.theirs)
    }
}

fn matrix(rows: &[Vec<f32>]) -> Array2<f32> {
    let dim = rows.first().map_or(0, Vec::len);
    Array2::from_shape_vec((rows.len(), dim), rows.concat()).expect("rows of two lengths were found when they came")
}

/// A file, if it is not larger than ours may be.
fn read(path: &Path, most: usize) -> io::Result<Bytes> {
    let mut bytes = Vec::new();
    let limit = u64::try_from(most).unwrap_or(u64::MAX);
    File::open(path)?.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() > most {
        return Err(io::Error::other(format!("it is larger than limits.max_body_bytes ({most})")));
    }
    Ok(bytes.into())
}
