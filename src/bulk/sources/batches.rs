//! Reading a row group a few rows at a time.
//!
//! Owns how many rows are a batch, and which rows a fault takes. Does not own what is in a row (`cells`).
//!
//! Invariants: a batch begins at a multiple of its size, counted from the row group's first row, whatever rows are wanted; what cannot be
//! read takes the rows of its batch, and no others, the same ones wherever reading began.

use std::fs::File;

use arrow_array::RecordBatch;
use parquet::arrow::{
    ProjectionMask,
    arrow_reader::{
        ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
        RowSelection, RowSelectionPolicy, RowSelector,
    },
};

use super::{
    columns::Columns,
    footer::{Footer, contained},
    pages::{claim, must_fit},
};
use crate::bulk::options::{self, Modalities};

/// Bytes of cells that are read at once, about.
const BATCH_BYTES: u64 = 4 << 20;
/// Rows that are, at most. A power of two, as all sizes of batches are: those of a slice of rows are then whole.
const MAX_BATCH: u64 = 1024;

/// A table that is open.
#[derive(Debug)]
pub(super) struct Opened {
    file: File,
    metadata: ArrowReaderMetadata,
    leaves: Vec<usize>,
    pub(super) columns: Columns,
    /// Rows of every row group.
    pub(super) groups: Vec<u64>,
}

impl Opened {
    /// `file`, with the columns that are asked for.
    ///
    /// # Errors
    /// One line: it is no Parquet file, lacks a column, or claims too much.
    pub(super) fn new(file: File, modality: Modalities, asked: &options::Columns) -> Result<Self, String> {
        let footer = Footer::read(&file)?;
        let columns = Columns::find(&footer.metadata, modality, asked)?;
        let leaves = columns.leaves(footer.metadata.file_metadata().schema_descr());
        let groups = footer.rows(&leaves)?;
        let metadata = columns.as_binaries(footer.metadata)?;
        // Without Arrow's own schema in the file, a binary is a binary, however it was held in memory.
        let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
        let metadata = contained(|| ArrowReaderMetadata::try_new(metadata.into(), options))?;
        Ok(Self { file, metadata, leaves, columns, groups })
    }

    /// How many rows of a row group are read at once.
    ///
    /// # Errors
    /// One line: its pages are not what they should be, or too large together.
    pub(super) fn batch(&self, group: usize) -> Result<u64, String> {
        let (mut cell, mut held) = (1, 0_u64);
        for leaf in &self.leaves {
            let claim = claim(&self.file, self.metadata.metadata().row_group(group).column(*leaf))?;
            cell = claim.cell.max(cell);
            held = held.saturating_add(claim.held);
        }
        must_fit(held)?;
        // The largest power of two that is no more.
        Ok(1 << (BATCH_BYTES / cell).clamp(1, MAX_BATCH).ilog2())
    }

    fn reader(&self, group: usize, rows: Vec<RowSelector>, batch: u64) -> Result<ParquetRecordBatchReader, String> {
        let file = self.file.try_clone().map_err(|error| error.to_string())?;
        contained(|| {
            let schema = self.metadata.metadata().file_metadata().schema_descr();
            let mask = ProjectionMask::leaves(schema, self.leaves.iter().copied());
            ParquetRecordBatchReaderBuilder::new_with_metadata(file, self.metadata.clone())
                .with_projection(mask)
                .with_row_groups(vec![group])
                .with_row_selection(RowSelection::from(rows))
                // Otherwise rows between those that are wanted may be read too.
                .with_row_selection_policy(RowSelectionPolicy::Selectors)
                .with_batch_size(number(batch))
                .build()
        })
    }
}

/// Some batches of a row group, to be read in their order.
pub(super) struct Batches<'a> {
    opened: &'a Opened,
    group: usize,
    /// Rows of a batch.
    size: u64,
    /// The first row of each.
    starts: Vec<u64>,
    /// How many were asked for.
    asked: usize,
    /// One that stands at the next batch.
    reader: Option<ParquetRecordBatchReader>,
}

impl<'a> Batches<'a> {
    /// Those with the rows `wanted`, which ascend.
    pub(super) fn new(opened: &'a Opened, group: usize, size: u64, wanted: impl Iterator<Item = u64>) -> Self {
        let mut starts: Vec<_> = wanted.map(|row| row / size * size).collect();
        starts.dedup();
        Self { opened, group, size, starts, asked: 0, reader: None }
    }

    /// The next batch's first row, and its rows or why they cannot be read.
    pub(super) fn next(&mut self) -> Option<(u64, Result<RecordBatch, String>)> {
        let start = *self.starts.get(self.asked)?;
        let was_new = self.reader.is_none();
        let mut batch = self.read();
        if batch.is_err() {
            self.reader = None;
            if !was_new {
                // What a reader says that has come here by reading may depend on where it began.
                batch = self.read();
                if batch.is_err() {
                    self.reader = None;
                }
            }
        }
        self.asked += 1;
        Some((start, batch))
    }

    fn read(&mut self) -> Result<RecordBatch, String> {
        let rows = self.rows(self.starts[self.asked]);
        let reader = match self.reader.take() {
            Some(reader) => reader,
            None => self.opened.reader(self.group, self.selectors(), self.size)?,
        };
        let reader = self.reader.insert(reader);
        match contained(|| reader.next().transpose())? {
            Some(batch) if batch.num_rows() as u64 == rows => Ok(batch),
            _ => Err("its row group has fewer rows than the file says".to_owned()),
        }
    }

    /// Rows of the batch that begins at `start`: the last one of a row group may be short.
    fn rows(&self, start: u64) -> u64 {
        self.size.min(self.opened.groups[self.group] - start)
    }

    /// Which rows of the row group are in what is left of the batches.
    fn selectors(&self) -> Vec<RowSelector> {
        let (mut selectors, mut at) = (Vec::new(), 0);
        for start in &self.starts[self.asked..] {
            if *start > at {
                selectors.push(RowSelector::skip(number(start - at)));
            }
            let rows = self.rows(*start);
            selectors.push(RowSelector::select(number(rows)));
            at = start + rows;
        }
        selectors
    }
}

fn number(rows: u64) -> usize {
    usize::try_from(rows).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use std::{iter, sync::Arc};

    use arrow_array::{ArrayRef, BinaryArray};
    use parquet::{
        arrow::ArrowWriter,
        basic::Encoding,
        file::properties::{EnabledStatistics, WriterProperties},
    };

    use super::*;

    #[test]
    fn a_picture_that_a_dictionary_repeats_is_not_taken_many_times_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.parquet");
        let picture = vec![7; 1 << 19];
        let column: ArrayRef = Arc::new(BinaryArray::from_vec(vec![&picture[..]; 100]));
        let batch = RecordBatch::try_from_iter([("image", column)]).unwrap();
        let mut writer = ArrowWriter::try_new(File::create(&path).unwrap(), batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        assert!(std::fs::metadata(&path).unwrap().len() < 2 << 20, "the writer repeats nothing");
        let opened = Opened::new(File::open(path).unwrap(), Modalities::Image, &options::Columns::default()).unwrap();
        let size = opened.batch(0).unwrap();
        let mut batches = Batches::new(&opened, 0, size, 0..100);
        let rows: Vec<_> = iter::from_fn(|| batches.next()).map(|(_, batch)| batch.unwrap().num_rows()).collect();
        assert_eq!((size, rows.iter().sum::<usize>(), rows[0]), (4, 100, 4));
    }

    #[test]
    fn a_picture_whose_beginning_is_that_of_the_one_in_front_is_not_taken_many_times_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.parquet");
        let pictures: Vec<_> = (0..100).map(|row| [&vec![7; 1 << 19][..], &[row]].concat()).collect();
        let column: ArrayRef = Arc::new(BinaryArray::from_iter_values(&pictures));
        let batch = RecordBatch::try_from_iter([("image", column)]).unwrap();
        let properties = WriterProperties::builder()
            .set_dictionary_enabled(false)
            .set_encoding(Encoding::DELTA_BYTE_ARRAY)
            .set_statistics_enabled(EnabledStatistics::None)
            .build();
        let mut writer = ArrowWriter::try_new(File::create(&path).unwrap(), batch.schema(), Some(properties)).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        assert!(std::fs::metadata(&path).unwrap().len() < 2 << 20, "the writer repeats nothing");
        let opened = Opened::new(File::open(path).unwrap(), Modalities::Image, &options::Columns::default()).unwrap();
        let size = opened.batch(0).unwrap();
        assert_eq!(size, 4);
        let mut batches = Batches::new(&opened, 0, size, 0..100);
        assert_eq!(iter::from_fn(|| batches.next()).map(|(_, batch)| batch.unwrap().num_rows()).sum::<usize>(), 100);
    }
}
