//! `--report`: what a run came to, as one page of HTML that needs nothing else.
//!
//! Owns what is gathered for it while the run lasts, and that the file appears whole. Does not own which items are looked at
//! (`glimpse`), what is complete (`journal`), nor the rates of the summary (`progress`).
//!
//! ```text
//! page -> classes, curve -> card
//! ```
//!
//! Invariants: what is gathered does not grow with the items; the numbers of the whole are those of the journal, whoever wrote them;
//! whatever comes from a source is text in the page, and is cut where it is long.

mod card;
mod classes;
mod curve;
mod page;

use std::{
    fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
    time::Instant,
};

use serde_json::{Map, Value};

use super::{
    error::BulkError, glimpse::SLOWEST, journal::Journal, options::Shard, progress::Summary, row::Row, sources::Own,
    suffix::Kind,
};
use crate::{model::lock, regular};
use card::{Card, clipped};
use classes::Classes;
use curve::Curve;
use page::{HEAD, Page};

/// What is gathered for a report.
pub(super) struct Report {
    path: PathBuf,
    started: Instant,
    curve: Curve,
    /// The slowest pictures, slowest first.
    slowest: Vec<Card>,
    failed: Vec<Card>,
    /// Rows of this process without their embedding.
    errors: u64,
}

impl Report {
    /// A report that is to be at `path`; of a shard, beside it, with the shard in its name. `own` is the run's folder.
    ///
    /// # Errors
    /// [`BulkError::Usage`], where no file can be there, or what is there is no report: better now than at the end.
    pub(super) fn begin(path: &Path, shard: Option<Shard>, own: &Own) -> Result<Self, BulkError> {
        let path = match shard {
            None => path.to_owned(),
            Some(shard) => {
                let stem = path.file_stem().unwrap_or_default().to_string_lossy();
                let suffix = path.extension().map_or(String::new(), |suffix| format!(".{}", suffix.to_string_lossy()));
                path.with_file_name(format!("{stem}-{}{suffix}", shard.name()))
            }
        };
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        if path.file_name().is_none() || path.is_dir() {
            return Err(BulkError::Usage(format!("--report {}: it is a folder; name a file", path.display())));
        }
        if !folder.is_dir() {
            let (path, folder) = (path.display(), folder.display());
            return Err(BulkError::Usage(format!("--report {path}: there is no folder {folder}")));
        }
        let wrong = |reason: &str| BulkError::Usage(format!("--report {}: {reason}", path.display()));
        if own.has(folder) {
            return Err(wrong("it lies in --out, which the run fills; give another place"));
        }
        if Kind::of(&path).is_some() {
            return Err(wrong("by its suffix it is a source; call it .html"));
        }
        if !may_be_replaced(&path) {
            return Err(wrong(NO_REPORT));
        }
        Ok(Self {
            path,
            started: Instant::now(),
            curve: Curve::new(),
            slowest: Vec::new(),
            failed: Vec::new(),
            errors: 0,
        })
    }

    /// One more row is there.
    pub(super) fn row(&mut self, row: &mut Row) {
        self.curve.add(self.started.elapsed());
        self.errors += u64::from(row.error.is_some());
        let Some(glimpse) = row.glimpse.take() else { return };
        let card = Card {
            id: clipped(&row.id),
            took: row.timings.preprocess,
            error: row.error.as_deref().map(clipped),
            glimpse,
        };
        if card.error.is_some() {
            self.failed.push(card);
            return;
        }
        let place = self.slowest.partition_point(|other| other.took >= card.took);
        self.slowest.insert(place, card);
        self.slowest.truncate(SLOWEST);
    }

    /// The page of an earlier run that is to stay, since this one has made no row and would show less.
    pub(super) fn to_keep(&self, summary: &Summary) -> Option<&Path> {
        (summary.embedded_now == 0 && self.path.is_file()).then_some(&*self.path)
    }

    /// Writes it: of a run with this record, which came to this, and ended early for that reason, if it did.
    ///
    /// # Errors
    /// [`BulkError::Report`], and [`BulkError::Out`] where the errors cannot be read back.
    pub(super) fn write(
        self,
        record: &Map<String, Value>,
        journal: &Journal,
        summary: &Summary,
        ended_early: Option<&BulkError>,
    ) -> Result<(), BulkError> {
        let mut classes = Classes::default();
        journal.each_error(|line| classes.add(&line.id, line.path.as_deref(), &line.error))?;
        let page = Page {
            record,
            done: journal.done(),
            summary,
            ended_early: ended_early.map(|error| clipped(&error.to_string())),
            errors_now: self.errors,
            classes,
            curve: &self.curve,
            slowest: &self.slowest,
            failed: &self.failed,
        };
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        if !may_be_replaced(&self.path) {
            return Err(BulkError::Report(format!("{}: {NO_REPORT}", self.path.display())));
        }
        let partial = self.path.with_file_name(format!(".{name}.partial"));
        lock::replace(&self.path, &partial, page.html().as_bytes())
            .map_err(|error| BulkError::Report(format!("{}: {error}", self.path.display())))
    }
}

/// Why a file stays as it is.
const NO_REPORT: &str = "it is there, and no earlier report; give another name";

/// Whether there is nothing at `path`, or an earlier report.
fn may_be_replaced(path: &Path) -> bool {
    if fs::symlink_metadata(path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
        return true;
    }
    let mut head = [0; HEAD.len()];
    let read = regular::open(path).and_then(|(mut file, _)| file.read_exact(&mut head));
    read.is_ok() && head == HEAD.as_bytes()
}

#[cfg(test)]
mod tests;
