//! What is written: the parts of each format.
//!
//! Owns the names of files, the columns, and that rows are written a batch at a time, of so many rows or bytes. Does not own which parts are complete (`journal`).
//!
//! ```text
//! numpy -> table -> values, draft
//! ```
//!
//! Invariants: the same rows give the same bytes; a row without an embedding has a null, or is not there where the format has none;
//! memory does not grow with the rows of a part.

mod draft;
mod numpy;
mod table;
mod values;

use std::{
    fs::{self, File},
    io::{self, BufWriter, Write as _},
    path::{Path, PathBuf},
};

use draft::Draft;
pub(super) use draft::Written;
use numpy::{Arrays, WIDTH};
use serde::Serialize;
use table::{Column, Columns, Table, strings};
use values::Numbers;
pub(super) use values::Values;

use super::{
    error::BulkError,
    json,
    options::{Format, Modalities},
    row::Row,
};

/// Rows that are written at once.
const BATCH: usize = 512;

/// Bytes that are, about: a part is in memory by its batches, and texts may be long.
const BATCH_BYTES: usize = 8 << 20;

/// Where parts are, and what their names begin with.
const FOLDER: &str = "embeddings";
const PART: &str = "part-";

/// The most parts, so that the order of names is that of numbers.
const MAX_PARTS: u64 = 100_000;

/// How a run's output is written.
pub(super) struct Output {
    root: PathBuf,
    format: Format,
    modality: Modalities,
    values: Values,
    columns: Columns,
}

impl Output {
    /// Into files below `root`. `notes` are written into the metadata of Parquet files.
    pub(super) fn new(
        root: &Path,
        format: Format,
        modality: Modalities,
        values: Values,
        notes: &[(String, String)],
    ) -> Self {
        let columns = match format {
            Format::Npy => numpy::columns(modality.has_images(), &values, notes),
            Format::Parquet | Format::Jsonl => {
                let mut columns = vec![("id", Column::Key), ("embedding", Column::Embedding)];
                if modality == Modalities::Both {
                    columns.push(("text_embedding", Column::Embedding));
                }
                columns.extend(["caption", "path", "metadata", "error"].map(|name| (name, Column::Text)));
                Columns::new(&columns, &values, notes)
            }
        };
        Self { root: root.to_owned(), format, modality, values, columns }
    }

    /// Begins part `number`.
    ///
    /// # Errors
    /// [`BulkError::Out`].
    pub(super) fn begin(&self, number: u64) -> Result<Part<'_>, BulkError> {
        if number >= MAX_PARTS {
            let root = self.root.display();
            return Err(BulkError::Out(format!("{root}: more than {MAX_PARTS} parts; give a higher --part-rows")));
        }
        let path = |suffix| self.root.join(FOLDER).join(format!("{PART}{number:0WIDTH$}.{suffix}"));
        let file = match self.format {
            Format::Parquet => Form::Parquet(Box::new(self.columns.begin(path("parquet"))?)),
            Format::Jsonl => {
                let (draft, file) = Draft::begin(path("jsonl"))?;
                Form::Lines(draft, file)
            }
            Format::Npy => {
                let has = (self.modality.has_images(), self.modality.has_texts());
                Form::Numpy(Box::new(Arrays::begin(&self.root, number, has, &self.columns, self.values)?))
            }
        };
        Ok(Part { output: self, rows: Vec::new(), bytes: 0, form: file })
    }

    /// Removes what there is of parts from number `parts` on, in whatever state: nobody knows them, and a run that comes to its end before it
    /// has made them again would leave them to whoever reads all files.
    ///
    /// # Errors
    /// [`BulkError::Out`].
    pub(super) fn forget(&self, parts: u64) -> Result<(), BulkError> {
        let folders = match self.format {
            Format::Parquet | Format::Jsonl => &[(FOLDER, PART)][..],
            Format::Npy => &numpy::FOLDERS,
        };
        for (folder, name) in folders {
            let folder = self.root.join(folder);
            let entries = match fs::read_dir(&folder) {
                Ok(entries) => entries,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(BulkError::at(&folder, error)),
            };
            for entry in entries {
                let entry = entry.map_err(|error| BulkError::at(&folder, error))?;
                if number_of(&entry.file_name().to_string_lossy(), name).is_some_and(|number| number >= parts) {
                    fs::remove_file(entry.path()).map_err(|error| BulkError::at(&entry.path(), error))?;
                }
            }
        }
        Ok(())
    }

    /// Gives a part's file its last name, once there are `parts` parts and all are complete; answers where it is then.
    ///
    /// # Errors
    /// [`BulkError::Out`].
    pub(super) fn settle(&self, path: &Path, parts: u64) -> Result<PathBuf, BulkError> {
        if self.format == Format::Npy { numpy::settle(path, parts) } else { Ok(path.to_owned()) }
    }
}

/// The part that the file `name` is of, which begins with `prefix` while it is known to nobody; also where it has not its name yet.
fn number_of(name: &str, prefix: &str) -> Option<u64> {
    let name = draft::named(name).unwrap_or(name);
    let (number, _) = name.strip_prefix(prefix)?.split_once('.')?;
    number.parse().ok().filter(|_| number.len() == WIDTH)
}

/// A part that is being written.
pub(super) struct Part<'a> {
    output: &'a Output,
    /// Not yet in its file.
    rows: Vec<Row>,
    /// Of these.
    bytes: usize,
    form: Form,
}

enum Form {
    Parquet(Box<Table>),
    Numpy(Box<Arrays>),
    Lines(Draft, BufWriter<File>),
}

impl Part<'_> {
    /// Adds a row.
    ///
    /// # Errors
    /// [`BulkError::Out`].
    pub(super) fn push(&mut self, row: Row) -> Result<(), BulkError> {
        self.bytes = self.bytes.saturating_add(bytes(&row));
        self.rows.push(row);
        if self.rows.len() == BATCH || self.bytes >= BATCH_BYTES { self.write() } else { Ok(()) }
    }

    fn write(&mut self) -> Result<(), BulkError> {
        let rows = std::mem::take(&mut self.rows);
        self.bytes = 0;
        let Output { values, modality, .. } = self.output;
        match &mut self.form {
            Form::Parquet(table) => table.write(columns(&rows, values, *modality)),
            Form::Numpy(arrays) => arrays.write(&rows),
            Form::Lines(draft, file) => {
                for row in &rows {
                    let line = json::line(&Line::of(row, values, *modality)).map_err(|error| draft.error(error))?;
                    file.write_all(line.as_bytes()).map_err(|error| draft.error(error))?;
                }
                Ok(())
            }
        }
    }

    /// No row is left out. The files are on disk, and are to be published.
    ///
    /// # Errors
    /// [`BulkError::Out`].
    pub(super) fn finish(mut self) -> Result<Vec<Written>, BulkError> {
        if !self.rows.is_empty() {
            self.write()?;
        }
        match self.form {
            Form::Parquet(table) => Ok(vec![table.finish()?]),
            Form::Numpy(arrays) => arrays.finish(),
            Form::Lines(draft, file) => Ok(vec![draft.written(file)?]),
        }
    }
}

/// What a row holds.
fn bytes(row: &Row) -> usize {
    let texts = [&row.path, &row.caption, &row.metadata, &row.error];
    let numbers = [&row.image, &row.text].into_iter().flatten().map(|numbers| size_of_val(&numbers[..]));
    row.id.len() + texts.into_iter().flatten().map(String::len).sum::<usize>() + numbers.sum::<usize>()
}

/// The embedding of the first column: the picture's, or the text's where texts alone are asked for.
fn first(row: &Row, modality: Modalities) -> Option<&[f32]> {
    if modality.has_images() { row.image.as_deref() } else { row.text.as_deref() }
}

fn columns(rows: &[Row], values: &Values, modality: Modalities) -> Vec<arrow_array::ArrayRef> {
    let embeddings: Vec<_> = rows.iter().map(|row| first(row, modality)).collect();
    let mut columns = vec![strings(rows.iter().map(|row| Some(&*row.id))), values.array(&embeddings)];
    if modality == Modalities::Both {
        let embeddings: Vec<_> = rows.iter().map(|row| row.text.as_deref()).collect();
        columns.push(values.array(&embeddings));
    }
    columns.push(strings(rows.iter().map(|row| row.caption.as_deref())));
    columns.push(strings(rows.iter().map(|row| row.path.as_deref())));
    columns.push(strings(rows.iter().map(|row| row.metadata.as_deref())));
    columns.push(strings(rows.iter().map(|row| row.error.as_deref())));
    columns
}

/// A line of JSON.
#[derive(Serialize)]
struct Line<'a> {
    id: &'a str,
    embedding: Option<Numbers>,
    /// Where it is asked for, the embedding or null.
    #[serde(skip_serializing_if = "Option::is_none")]
    text_embedding: Option<Option<Numbers>>,
    caption: Option<&'a str>,
    path: Option<&'a str>,
    metadata: Option<&'a str>,
    error: Option<&'a str>,
}

impl<'a> Line<'a> {
    fn of(row: &'a Row, values: &Values, modality: Modalities) -> Self {
        let numbers = |embedding: Option<&[f32]>| embedding.map(|embedding| values.numbers(embedding));
        Self {
            id: &row.id,
            embedding: numbers(first(row, modality)),
            text_embedding: (modality == Modalities::Both).then(|| numbers(row.text.as_deref())),
            caption: row.caption.as_deref(),
            path: row.path.as_deref(),
            metadata: row.metadata.as_deref(),
            error: row.error.as_deref(),
        }
    }
}

#[cfg(test)]
mod tests;
