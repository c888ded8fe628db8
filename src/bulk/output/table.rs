//! Parquet files, written a few rows at a time.
//!
//! Owns how columns are encoded: f32 split by byte and without a dictionary, which packs it best; f16 without a dictionary and whole,
//! since DuckDB reads no f16 that is split; `int8` with one, since Parquet has no type of 8 bits; everything under zstd.
//! Invariant: the same rows give the same bytes.

use std::{fs::File, io::BufWriter, path::PathBuf, sync::Arc};

use arrow_array::{ArrayRef, RecordBatch, StringArray};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use parquet::{
    arrow::ArrowWriter,
    basic::{Compression, Encoding, ZstdLevel},
    errors::ParquetError,
    file::{
        metadata::KeyValue,
        properties::{EnabledStatistics, WriterProperties},
    },
    schema::types::ColumnPath,
};

use super::{
    draft::{Draft, Written},
    values::Values,
};
use crate::bulk::{error::BulkError, options::Dtype};

/// Rows of a row group: its pages are in memory until it is complete.
const ROW_GROUP: usize = 8192;
/// Bytes of one, about, since texts may be long.
const ROW_GROUP_BYTES: usize = 64 << 20;

/// What a column holds.
#[derive(Clone, Copy, Debug)]
pub(super) enum Column {
    /// A string in every row.
    Key,
    /// A string, or null.
    Text,
    /// An embedding, or null.
    Embedding,
}

/// The columns of a file, and what else is known of it.
#[derive(Clone, Debug)]
pub(super) struct Columns {
    schema: SchemaRef,
    properties: WriterProperties,
}

impl Columns {
    /// Columns by their names; `notes` become the file's own metadata.
    pub(super) fn new(columns: &[(&str, Column)], values: &Values, notes: &[(String, String)]) -> Self {
        let mut properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .set_max_row_group_row_count(Some(ROW_GROUP))
            .set_max_row_group_bytes(Some(ROW_GROUP_BYTES))
            .set_key_value_metadata(Some(
                notes.iter().map(|(key, value)| KeyValue::new(key.clone(), value.clone())).collect(),
            ));
        let mut fields = Vec::new();
        for (name, column) in columns {
            let (data_type, nullable) = match column {
                Column::Key => (DataType::Utf8, false),
                Column::Text => (DataType::Utf8, true),
                Column::Embedding => (values.column(), true),
            };
            fields.push(Field::new(*name, data_type, nullable));
            if matches!(column, Column::Embedding) {
                let path = || ColumnPath::from(vec![(*name).to_owned(), "list".to_owned(), "element".to_owned()]);
                properties = properties
                    .set_column_statistics_enabled(path(), EnabledStatistics::None)
                    .set_column_dictionary_enabled(path(), values.dtype == Dtype::Int8);
                if values.dtype == Dtype::F32 {
                    properties = properties.set_column_encoding(path(), Encoding::BYTE_STREAM_SPLIT);
                }
            }
        }
        Self { schema: Arc::new(Schema::new(fields)), properties: properties.build() }
    }

    /// Begins the file that will be at `path`.
    ///
    /// # Errors
    /// [`BulkError::Out`].
    pub(super) fn begin(&self, path: PathBuf) -> Result<Table, BulkError> {
        let (draft, file) = Draft::begin(path)?;
        let writer = ArrowWriter::try_new(file, Arc::clone(&self.schema), Some(self.properties.clone()));
        let writer = writer.map_err(|error| draft.error(other(error)))?;
        Ok(Table { schema: Arc::clone(&self.schema), draft, writer })
    }
}

/// A Parquet file that is being written.
pub(super) struct Table {
    schema: SchemaRef,
    draft: Draft,
    writer: ArrowWriter<BufWriter<File>>,
}

impl Table {
    /// Writes rows, given by their columns.
    ///
    /// # Errors
    /// [`BulkError::Out`].
    pub(super) fn write(&mut self, columns: Vec<ArrayRef>) -> Result<(), BulkError> {
        let batch = RecordBatch::try_new(Arc::clone(&self.schema), columns);
        let batch = batch.map_err(|error| self.draft.error(std::io::Error::other(error.to_string())))?;
        self.writer.write(&batch).map_err(|error| self.draft.error(other(error)))
    }

    /// Bytes that wait for their row group to be complete.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.writer.memory_size()
    }

    /// All rows are written.
    ///
    /// # Errors
    /// [`BulkError::Out`].
    pub(super) fn finish(self) -> Result<Written, BulkError> {
        let Self { draft, writer, .. } = self;
        let file = writer.into_inner().map_err(|error| draft.error(other(error)))?;
        draft.written(file)
    }

    /// It is not to be.
    ///
    /// # Errors
    /// [`BulkError::Out`].
    pub(super) fn discard(self) -> Result<(), BulkError> {
        self.draft.discard()
    }
}

fn other(error: ParquetError) -> std::io::Error {
    std::io::Error::other(error.to_string())
}

/// A column of strings.
pub(super) fn strings<'a>(cells: impl Iterator<Item = Option<&'a str>>) -> ArrayRef {
    Arc::new(cells.collect::<StringArray>())
}
