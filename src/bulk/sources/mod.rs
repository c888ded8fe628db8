//! Where samples come from.
//!
//! Owns the sources of a command line: patterns, their order, what of them is this process's shard. Does not own which of its
//! samples are done (`turn`), nor embedding any.
//!
//! ```text
//! list -> place -> folder -> patterns, shard -> members -> headers, table -> records -> json, texts -> lines -> file
//!                  all of them -> names, own
//! ```
//!
//! Invariants: the same sources give the same samples in the same order; what the command line names and cannot be read is found
//! before a model is loaded, and what turns out later to be unreadable is a row with its reason; every size that a file chooses is
//! checked before memory is taken for it; what the run writes is no source.

mod batches;
mod cells;
mod columns;
mod file;
mod folder;
mod footer;
mod headers;
mod json;
mod lines;
mod list;
mod members;
mod names;
mod own;
mod pages;
mod patterns;
mod place;
mod records;
mod shape;
mod shard;
mod table;
mod texts;

use std::path::Path;

pub(super) use file::Limits;
use list::List;
pub(super) use own::Own;
use patterns::Match;
use place::{Asked, Place};

use super::{
    options::{BulkOptions, Columns, Modalities, Shard, SourceArgs},
    sample::{Sink, Stop},
    suffix::Kind,
};

/// All samples of a run.
#[derive(Debug)]
pub(super) struct Sources {
    modality: Modalities,
    columns: Columns,
    own: Own,
    from: From,
    /// The shard whose samples are taken, where samples are dealt out.
    samples_of: Option<Shard>,
    total: Option<u64>,
}

#[derive(Debug)]
enum From {
    Places(Vec<Place>),
    List(List),
}

impl Sources {
    /// Looks at all sources that `options` name, of which none is the run's `own`.
    ///
    /// # Errors
    /// One line: which one cannot be read, or is the run's own, and why.
    pub(super) fn open(options: &BulkOptions, own: Own) -> Result<Self, String> {
        let (columns, shard) = (options.columns.clone(), options.shard);
        let names = match &options.sources {
            SourceArgs::List(path) => {
                let modality = options.modality.unwrap_or(Modalities::Image);
                let from = From::List(List::open(path, shard, &own)?);
                return Ok(Self { modality, columns, own, from, samples_of: None, total: None });
            }
            SourceArgs::Places(names) => expanded(names, &own)?,
        };
        let modality = match options.modality {
            Some(modality) => modality,
            None => usual(&names)?,
        };
        let asked = Asked { modality, columns: &columns, own: &own };
        let place = |Match { path, fault }: Match| match fault.or_else(|| names::fault(&path)) {
            Some(error) => Ok(Place::Lost { path, error }),
            None => Place::named(&path, &asked),
        };
        let mut places = names.into_iter().map(place).collect::<Result<Vec<_>, _>>()?;
        let mut samples_of = shard;
        if let Some(shard) = shard
            && places.len() as u64 >= shard.count()
            && places.iter().all(Place::is_file_of_many)
        {
            // Whole files: no other process then reads them.
            let mut number = 0..;
            places.retain(|_| number.next().is_some_and(|number| shard.has(number)));
            samples_of = None;
        }
        let total = places.iter().map(Place::len).sum::<Option<u64>>();
        let total = total.map(|total| samples_of.map_or(total, |shard| shard.of(total)));
        Ok(Self { modality, columns, own, from: From::Places(places), samples_of, total })
    }

    /// What is embedded.
    pub(super) fn modality(&self) -> Modalities {
        self.modality
    }

    /// The shard whose samples are to be taken of those that are sent.
    pub(super) fn samples_of(&self) -> Option<Shard> {
        self.samples_of
    }

    /// How many samples are of this process, where that is known before they are read.
    pub(super) fn total(&self) -> Option<u64> {
        self.total
    }

    /// Sends all samples.
    ///
    /// # Errors
    /// When the sink says so.
    pub(super) fn send(&self, sink: &mut dyn Sink, limits: Limits) -> Result<(), Stop> {
        let asked = Asked { modality: self.modality, columns: &self.columns, own: &self.own };
        match &self.from {
            From::Places(places) => places.iter().try_for_each(|place| place.send(&asked, sink, limits)),
            From::List(list) => list.send(&asked, sink, limits),
        }
    }
}

/// What is embedded of `names` where nothing is said: the texts of text files, pictures of whatever else.
///
/// # Errors
/// One line: there are both, of which one would be embedded and the other not.
fn usual(names: &[Match]) -> Result<Modalities, String> {
    let is_texts = |path: &Path| Kind::of(path) == Some(Kind::Texts) && path.is_file();
    let (texts, others): (Vec<_>, Vec<_>) = names.iter().map(|it| &it.path).partition(|path| is_texts(path));
    match (texts.first(), others.first()) {
        (Some(texts), Some(other)) => Err(format!(
            "{} is a file of texts, and {} is not; say what is embedded, --modality text or both, or give one kind alone",
            texts.display(),
            other.display()
        )),
        (Some(_), None) => Ok(Modalities::Text),
        (None, _) => Ok(Modalities::Image),
    }
}

/// The sources that `names` are, patterns replaced by what they match, in the order of code points.
fn expanded(names: &[String], own: &Own) -> Result<Vec<Match>, String> {
    let mut all = Vec::new();
    for name in names {
        // A file may be called like a pattern.
        if Path::new(name).exists() || !patterns::is_pattern(name) {
            all.push(Match { path: name.into(), fault: None });
            continue;
        }
        let mut matches = patterns::matches(name, own)?;
        if matches.is_empty() {
            let why = names::taken_for(name).unwrap_or_else(|| "nothing matches the pattern".to_owned());
            return Err(format!("{name}: {why}"));
        }
        all.append(&mut matches);
    }
    Ok(all)
}

#[cfg(test)]
mod tests;
