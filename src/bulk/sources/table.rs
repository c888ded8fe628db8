//! A Parquet file with a column of pictures, of texts, or both.
//!
//! Owns its rows: which there are, and that each is a sample. A picture is a binary, the struct `{bytes, path}` of Hugging Face's `Image`
//! (with null bytes the file at `path` is read), or, in a column that is named, a string: the path of a file.
//!
//! ```text
//! table -> cells, batches -> columns, pages -> footer -> shape
//! ```
//!
//! Invariants: what the file lacks is found before a model is loaded; how many rows there are is what its footer says, whatever of them
//! can be read; a row that cannot be read is a row with its reason, also where the crate `parquet` panics at it; what is read at once is
//! bounded by what the pages hold, not by what the file says of itself.

use std::path::{Path, PathBuf};

use super::{
    batches::{Batches, Opened},
    cells::Cells,
    columns::Columns,
    file::Limits,
};
use crate::{
    bulk::{
        options::{self, Modalities},
        sample::{Sample, Sink, Stop, Ticket},
    },
    regular,
};

/// Rows whose tickets are held at once: whole batches.
const SLICE: u64 = 1 << 16;

/// A Parquet file whose columns are known.
#[derive(Debug)]
pub(in crate::bulk) struct Table {
    path: PathBuf,
    modality: Modalities,
    asked: options::Columns,
    /// What it had when it was looked at.
    columns: Columns,
    groups: Vec<u64>,
}

impl Table {
    /// Looks at the file's schema.
    ///
    /// # Errors
    /// One line: it is no Parquet file, does not have the columns, or claims more than it can hold.
    pub(super) fn open(path: &Path, modality: Modalities, asked: &options::Columns) -> Result<Self, String> {
        let opened = opened(path, modality, asked).map_err(|reason| format!("{}: {reason}", path.display()))?;
        let Opened { columns, groups, .. } = opened;
        Ok(Self { path: path.to_owned(), modality, asked: asked.clone(), columns, groups })
    }

    /// How many rows there are.
    pub(super) fn len(&self) -> u64 {
        self.groups.iter().sum()
    }

    /// Sends all of them.
    ///
    /// # Errors
    /// When the sink says so.
    pub(super) fn send(&self, sink: &mut dyn Sink, limits: Limits) -> Result<(), Stop> {
        let opened = opened(&self.path, self.modality, &self.asked).and_then(|opened| {
            let is_same = opened.columns == self.columns && opened.groups == self.groups;
            is_same.then_some(opened).ok_or_else(|| {
                "the file was replaced by another while the run began: its columns or its rows are not the same"
                    .to_owned()
            })
        });
        let opened = match opened {
            Ok(opened) => opened,
            Err(error) => {
                let name = self.path.to_string_lossy();
                let Some(ticket) = sink.ticket(&name)? else { return Ok(()) };
                return sink.send(ticket, Sample::unreadable(name.into_owned(), None, error));
            }
        };
        let mut first = 0;
        for (group, rows) in self.groups.iter().enumerate() {
            Group { table: self, opened: &opened, group, first, rows: *rows, limits }.send(sink)?;
            first += rows;
        }
        Ok(())
    }
}

fn opened(path: &Path, modality: Modalities, asked: &options::Columns) -> Result<Opened, String> {
    let (file, _) = regular::open(path).map_err(|error| error.to_string())?;
    Opened::new(file, modality, asked)
}

/// A row group that is sent.
struct Group<'a> {
    table: &'a Table,
    opened: &'a Opened,
    group: usize,
    /// Rows in front of it.
    first: u64,
    rows: u64,
    limits: Limits,
}

impl Group<'_> {
    /// Sends it in slices: their tickets are in memory.
    fn send(&self, sink: &mut dyn Sink) -> Result<(), Stop> {
        // Looked at where a row is wanted: pages are many, and those of complete parts no matter.
        let mut size = None;
        let mut slice = 0..0;
        while slice.end < self.rows {
            slice = slice.end..self.rows.min(slice.end + SLICE);
            let mut tickets = Vec::new();
            for row in slice.clone() {
                tickets.extend(sink.ticket(&self.place(row))?.map(|ticket| (row, ticket)));
            }
            if tickets.is_empty() {
                continue;
            }
            match size.get_or_insert_with(|| self.opened.batch(self.group)) {
                Ok(size) => self.send_rows(tickets, *size, sink)?,
                Err(reason) => {
                    for (row, ticket) in tickets {
                        sink.send(ticket, self.unreadable(row, reason))?;
                    }
                }
            }
        }
        Ok(())
    }

    fn send_rows(&self, tickets: Vec<(u64, Ticket)>, size: u64, sink: &mut dyn Sink) -> Result<(), Stop> {
        let folder = self.table.path.parent().unwrap_or(Path::new(""));
        let mut batches = Batches::new(self.opened, self.group, size, tickets.iter().map(|(row, _)| *row));
        let mut tickets = tickets.into_iter().peekable();
        while let Some((start, batch)) = batches.next() {
            let cells = batch.as_ref().map(|batch| Cells::new(batch, &self.opened.columns, folder, self.limits));
            while let Some((row, ticket)) = tickets.next_if(|(row, _)| *row < start + size) {
                let sample = match &cells {
                    Ok(cells) => cells.sample(usize::try_from(row - start).unwrap_or_default(), self.place(row)),
                    Err(reason) => self.unreadable(row, reason),
                };
                sink.send(ticket, sample)?;
            }
        }
        Ok(())
    }

    /// What a row is known by before anything of it is read.
    fn place(&self, row: u64) -> String {
        format!("{}:{}", self.table.path.to_string_lossy(), self.first + row)
    }

    fn unreadable(&self, row: u64, reason: &str) -> Sample {
        Sample::unreadable(self.place(row), None, format!("the row cannot be read: {reason}"))
    }
}

#[cfg(test)]
mod tests;
