//! A Parquet file with a column of pictures, of texts, or both.
//!
//! Owns which columns those are and reading them a few rows at a time, page by page: a row group may hold 100 MB of pictures.
//! A picture is a binary, the struct `{bytes, path}` of Hugging Face's `Image` (with null bytes the file at `path` is read), or, in a
//! column that is named, a string: the path of a file.
//!
//! Invariants: what the file lacks is found before a model is loaded; a row that cannot be read is a row with its reason, also where the
//! crate `parquet` panics at it; what is read at once is bounded by what the pages hold, not by what the file says of itself.

use std::{
    fs::File,
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

use arrow_array::{
    Array, ArrayRef, BinaryArray, RecordBatch, StringArray, StructArray,
    cast::AsArray as _,
    types::{Int32Type, Int64Type},
};
use arrow_schema::{DataType, Field, Schema};
use bytes::Bytes;
use parquet::arrow::{
    ProjectionMask,
    arrow_reader::{
        ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
        RowSelection, RowSelector,
    },
};

use super::{
    file::{Limits, read_picture},
    pages::largest_cell,
    records::{ID, TEXT, resolved},
};
use crate::bulk::{
    options::{Columns, Modalities},
    sample::{Sample, Sink, Stop, Ticket},
};

/// Bytes of cells that are read at once, about.
const BATCH_BYTES: u64 = 4 << 20;
/// Rows that are, at most.
const MAX_BATCH: u64 = 1024;
/// Rows whose tickets are held at once.
const SLICE: u64 = 1 << 16;

/// A Parquet file whose columns are known.
#[derive(Debug)]
pub(in crate::bulk) struct Table {
    path: PathBuf,
    modality: Modalities,
    /// The places of the columns.
    image: Option<usize>,
    text: Option<usize>,
    id: Option<usize>,
    rows: u64,
}

impl Table {
    /// Looks at the file's schema.
    ///
    /// # Errors
    /// One line: it is no Parquet file, or does not have the columns.
    pub(super) fn open(path: &Path, modality: Modalities, columns: &Columns) -> Result<Self, String> {
        let wrong = |reason: String| format!("{}: {reason}", path.display());
        let metadata = metadata(path).map_err(wrong)?;
        let schema = metadata.schema();
        let image = image(schema, columns.image.as_deref()).map_err(wrong)?;
        let text = string(schema, columns.text.as_deref(), "--text-column", &TEXT).map_err(wrong)?;
        let id = id(schema, columns.id.as_deref()).map_err(wrong)?;
        if image.is_none() && modality.has_images() {
            return Err(wrong(format!(
                "it has no column of pictures (a binary, or a struct of bytes and path) among {}; name one by --image-column, or \
                 embed its texts by --modality text",
                names(schema)
            )));
        }
        if text.is_none() && modality.has_texts() {
            let usual = TEXT.join(", ");
            return Err(wrong(format!(
                "it has no string column {usual} among {}; name one by --text-column",
                names(schema)
            )));
        }
        let rows = u64::try_from(metadata.metadata().file_metadata().num_rows()).unwrap_or_default();
        Ok(Self { path: path.to_owned(), modality, image, text, id, rows })
    }

    /// How many rows there are.
    pub(super) fn len(&self) -> u64 {
        self.rows
    }

    /// Sends all of them.
    ///
    /// # Errors
    /// When the sink says so.
    pub(super) fn send(&self, sink: &mut dyn Sink, limits: Limits) -> Result<(), Stop> {
        let name = self.path.to_string_lossy();
        let metadata = match metadata(&self.path) {
            Ok(metadata) => metadata,
            Err(error) => {
                let Some(ticket) = sink.ticket(&name)? else { return Ok(()) };
                return sink.send(ticket, Sample::unreadable(name.into_owned(), None, error));
            }
        };
        let mut first: u64 = 0;
        for group in 0..metadata.metadata().num_row_groups() {
            let rows = u64::try_from(metadata.metadata().row_group(group).num_rows()).unwrap_or_default();
            let end = first.saturating_add(rows);
            self.send_group(&metadata, group, first..end, sink, limits)?;
            first = end;
        }
        Ok(())
    }

    /// Sends the row group with these rows, in slices: its tickets are in memory.
    fn send_group(
        &self,
        metadata: &ArrowReaderMetadata,
        group: usize,
        rows: Range<u64>,
        sink: &mut dyn Sink,
        limits: Limits,
    ) -> Result<(), Stop> {
        let name = self.path.to_string_lossy();
        let mut slice = rows.start..rows.start;
        while slice.end < rows.end {
            slice = slice.end..rows.end.min(slice.end + SLICE);
            let mut wanted = Wanted::behind(slice.start - rows.start);
            for row in slice.clone() {
                wanted.push(sink.ticket(&format!("{name}:{row}"))?.map(|ticket| (row, ticket)));
            }
            let mut tickets = wanted.tickets.into_iter();
            if tickets.len() == 0 {
                continue;
            }
            let mut broken = None;
            match self.reader(metadata, group, wanted.selectors) {
                Ok(mut reader) => {
                    while let Some(batch) = contained(|| reader.next().transpose()).transpose() {
                        match batch {
                            Ok(batch) => self.send_batch(&name, &batch, &mut tickets, sink, limits)?,
                            Err(error) => {
                                broken = Some(error);
                                break;
                            }
                        }
                    }
                }
                Err(error) => broken = Some(error),
            }
            if tickets.len() == 0 {
                continue;
            }
            let broken = broken.unwrap_or_else(|| "its row group has fewer rows than the file says".to_owned());
            for (row, ticket) in tickets {
                let error = format!("the row cannot be read: {broken}");
                sink.send(ticket, Sample::unreadable(format!("{name}:{row}"), None, error))?;
            }
            // What a fault has in front of it cannot be passed, and how many rows are behind it is only claimed: one row for them.
            if slice.end < rows.end {
                let id = format!("{name}:{}", slice.end);
                let Some(ticket) = sink.ticket(&id)? else { return Ok(()) };
                let error = format!("{} rows from here on cannot be read: {broken}", rows.end - slice.end);
                return sink.send(ticket, Sample::unreadable(id, None, error));
            }
        }
        Ok(())
    }

    fn reader(
        &self,
        metadata: &ArrowReaderMetadata,
        group: usize,
        selectors: Vec<RowSelector>,
    ) -> Result<ParquetRecordBatchReader, String> {
        let columns = [self.image, self.text, self.id];
        let mask = ProjectionMask::roots(metadata.parquet_schema(), columns.into_iter().flatten());
        let file = File::open(&self.path).map_err(|error| error.to_string())?;
        let mut cell = 1;
        for (leaf, chunk) in metadata.metadata().row_group(group).columns().iter().enumerate() {
            if mask.leaf_included(leaf) {
                cell = largest_cell(&file, chunk)?.max(cell);
            }
        }
        let batch = (BATCH_BYTES / cell).clamp(1, MAX_BATCH);
        contained(|| {
            ParquetRecordBatchReaderBuilder::new_with_metadata(file, metadata.clone())
                .with_projection(mask)
                .with_row_groups(vec![group])
                .with_row_selection(RowSelection::from(selectors))
                .with_batch_size(usize::try_from(batch).unwrap_or(1))
                .build()
        })
    }

    fn send_batch(
        &self,
        name: &str,
        batch: &RecordBatch,
        tickets: &mut impl Iterator<Item = (u64, Ticket)>,
        sink: &mut dyn Sink,
        limits: Limits,
    ) -> Result<(), Stop> {
        // The columns of a batch are those that were asked for, in the order of the file.
        let mut places: Vec<_> = [self.image, self.text, self.id].into_iter().flatten().collect();
        places.sort_unstable();
        places.dedup();
        let column = |place: Option<usize>| Some(batch.column(places.binary_search(&place?).ok()?));
        let (images, texts, ids) = (column(self.image), column(self.text), column(self.id));
        for (at, (row, ticket)) in (0..batch.num_rows()).zip(tickets) {
            let id = ids.and_then(|ids| id_at(ids, at)).unwrap_or_else(|| format!("{name}:{row}"));
            let mut sample = Sample { id, ..Sample::default() };
            if let Some(text) = texts.and_then(|texts| string_at(texts, at)) {
                sample.caption = sample.take(limits.text_of(text.as_bytes().to_vec()));
            }
            if let Some(images) = images {
                let cell = Cell::at(images, at);
                sample.path = cell.path.map(str::to_owned);
                if self.modality.has_images() {
                    let picture = cell.picture(self.path.parent().unwrap_or(Path::new("")), limits);
                    sample.picture = sample.take(picture).flatten();
                }
            }
            sink.send(ticket, sample)?;
        }
        Ok(())
    }
}

/// The rows of a group that are wanted.
#[derive(Default)]
struct Wanted {
    tickets: Vec<(u64, Ticket)>,
    selectors: Vec<RowSelector>,
}

impl Wanted {
    /// Behind so many rows that are not.
    fn behind(rows: u64) -> Self {
        let skip = usize::try_from(rows).ok().filter(|rows| *rows > 0).map(RowSelector::skip);
        Self { tickets: Vec::new(), selectors: skip.into_iter().collect() }
    }

    fn push(&mut self, ticket: Option<(u64, Ticket)>) {
        let skip = ticket.is_none();
        match self.selectors.last_mut() {
            Some(last) if last.skip == skip => last.row_count += 1,
            _ if skip => self.selectors.push(RowSelector::skip(1)),
            _ => self.selectors.push(RowSelector::select(1)),
        }
        self.tickets.extend(ticket);
    }
}

/// A cell with a picture.
#[derive(Default)]
struct Cell<'a> {
    bytes: Option<&'a [u8]>,
    path: Option<&'a str>,
}

impl<'a> Cell<'a> {
    fn at(images: &'a ArrayRef, at: usize) -> Self {
        if images.is_null(at) {
            return Self::default();
        }
        let bytes =
            |array: Option<&'a BinaryArray>| array.filter(|array| array.is_valid(at)).map(|array| array.value(at));
        match images.as_any().downcast_ref::<StructArray>() {
            Some(fields) => Self {
                bytes: bytes(fields.column_by_name("bytes").and_then(|array| array.as_binary_opt())),
                path: fields.column_by_name("path").and_then(|paths| string_at(paths, at)),
            },
            None => Self { bytes: bytes(images.as_binary_opt()), path: string_at(images, at) },
        }
    }

    fn picture(&self, folder: &Path, limits: Limits) -> Result<Option<Bytes>, String> {
        match (self.bytes, self.path) {
            (Some(bytes), _) => {
                limits.picture(bytes.len() as u64)?;
                Ok(Some(Bytes::copy_from_slice(bytes)))
            }
            (None, Some(path)) => read_picture(&resolved(folder, path), limits)
                .map(Some)
                .map_err(|error| format!("the picture is not in the Parquet file but named by it, and {error}")),
            (None, None) => Ok(None),
        }
    }
}

/// What `read` says; that it gave up, where it panics, since the crate asserts some of what a file claims.
fn contained<T, E: ToString>(read: impl FnOnce() -> Result<T, E>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(read)) {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(_) => Err("the reader of Parquet files gave up".to_owned()),
    }
}

fn metadata(path: &Path) -> Result<ArrowReaderMetadata, String> {
    let file = File::open(path).map_err(|error| error.to_string())?;
    // Without Arrow's own schema in the file, a string is a string, however it was held in memory.
    let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
    contained(|| ArrowReaderMetadata::load(&file, options))
}

fn names(schema: &Schema) -> String {
    schema
        .fields()
        .iter()
        .map(|field| format!("{} ({})", field.name(), field.data_type()))
        .collect::<Vec<_>>()
        .join(", ")
}

/// The column that is asked for, if it is one that `is` is true of.
fn asked(schema: &Schema, name: &str, flag: &str, what: &str, is: impl Fn(&Field) -> bool) -> Result<usize, String> {
    match schema.column_with_name(name) {
        Some((place, field)) if is(field) => Ok(place),
        Some((_, field)) => Err(format!("{flag} {name}: the column is {}, expected {what}", field.data_type())),
        None => Err(format!("{flag} {name}: there is no such column among {}", names(schema))),
    }
}

fn image(schema: &Schema, name: Option<&str>) -> Result<Option<usize>, String> {
    let has_bytes = |field: &Field| match field.data_type() {
        DataType::Binary => true,
        DataType::Struct(fields) => {
            fields.find("bytes").is_some_and(|(_, bytes)| *bytes.data_type() == DataType::Binary)
        }
        _ => false,
    };
    if let Some(name) = name {
        let is = |field: &Field| has_bytes(field) || *field.data_type() == DataType::Utf8;
        return asked(schema, name, "--image-column", "a binary, a struct of bytes and path, or a string", is)
            .map(Some);
    }
    let found: Vec<_> = schema.fields().iter().enumerate().filter(|(_, field)| has_bytes(field)).collect();
    match found[..] {
        [] => Ok(None),
        [(place, _)] => Ok(Some(place)),
        [..] => {
            let names: Vec<_> = found.iter().map(|(_, field)| field.name().as_str()).collect();
            Err(format!("several columns may be its pictures ({}); name one by --image-column", names.join(", ")))
        }
    }
}

fn string(schema: &Schema, name: Option<&str>, flag: &str, usual: &[&str]) -> Result<Option<usize>, String> {
    let is = |field: &Field| *field.data_type() == DataType::Utf8;
    if let Some(name) = name {
        return asked(schema, name, flag, "a string", is).map(Some);
    }
    let found = usual.iter().find_map(|name| schema.column_with_name(name).filter(|(_, field)| is(field)));
    Ok(found.map(|(place, _)| place))
}

fn id(schema: &Schema, name: Option<&str>) -> Result<Option<usize>, String> {
    let is = |field: &Field| matches!(field.data_type(), DataType::Utf8 | DataType::Int32 | DataType::Int64);
    if let Some(name) = name {
        return asked(schema, name, "--id-column", "a string or an integer", is).map(Some);
    }
    let found = ID.iter().find_map(|name| schema.column_with_name(name).filter(|(_, field)| is(field)));
    Ok(found.map(|(place, _)| place))
}

fn string_at(array: &ArrayRef, at: usize) -> Option<&str> {
    let strings: &StringArray = array.as_string_opt()?;
    strings.is_valid(at).then(|| strings.value(at))
}

fn id_at(array: &ArrayRef, at: usize) -> Option<String> {
    if array.is_null(at) {
        return None;
    }
    match array.data_type() {
        DataType::Int32 => Some(array.as_primitive::<Int32Type>().value(at).to_string()),
        DataType::Int64 => Some(array.as_primitive::<Int64Type>().value(at).to_string()),
        _ => string_at(array, at).map(str::to_owned),
    }
}

#[cfg(test)]
mod tests;
