//! The rows of a PNG as they are inflated.
//!
//! Owns which pictures are given by the row, and that the fast inflater's rows are taken back where it gives up. Invariant: rows, errors
//! and the way up are those of the whole picture.

use std::ops::Range;

use super::{
    INDEXED, Png,
    chunks::Chunks,
    patience::Patience,
    rows::{Inflater, Input, Rows},
};
use crate::preprocess::image::{error::ImageError, orientation::Orientation, rows::RowSource};

/// Pixels that begin together with a byte, whatever their depth.
const WHOLE_BYTES: usize = 8;

impl Png<'_> {
    /// Whether it can be given by the row, in RGB: its rows come in their order and fill it, and nothing besides them is kept.
    pub(in crate::preprocess::image) fn has_rows(&self) -> bool {
        let (depth, colour) = self.kind;
        let is_stepped = self.kept_modes.is_some() && (colour == INDEXED || depth == 1);
        !self.interlaced && self.is_filled() && self.kept_alpha().is_none() && !is_stepped
    }

    /// Which way up it is, told before its pixels are decoded; `None` where what follows these is damaged.
    pub(in crate::preprocess::image) fn orientation(&self) -> Option<Orientation> {
        let mut chunks = self.chunks.clone();
        chunks.finish().ok().map(|()| chunks.metadata.orientation())
    }

    /// What `work` makes of the rows, and which way up these are after all; it may be called twice. `None` where it has given up.
    pub(in crate::preprocess::image) fn with_rows<T>(
        &self,
        work: impl FnMut(&mut dyn RowSource) -> Result<Option<T>, ImageError>,
    ) -> Result<Option<(T, Orientation)>, ImageError> {
        self.with_rows_in(Patience::new(), work)
    }

    /// The same, with so much time for the fast inflater.
    pub(super) fn with_rows_in<T>(
        &self,
        patience: Patience,
        mut work: impl FnMut(&mut dyn RowSource) -> Result<Option<T>, ImageError>,
    ) -> Result<Option<(T, Orientation)>, ImageError> {
        let mut with = |inflater| {
            let mut chunks = self.chunks.clone();
            let mut source = Streamed::new(self, &mut chunks, inflater)?;
            let made = work(&mut source)?;
            Ok::<_, ImageError>((made, chunks))
        };
        let (made, mut chunks) = with(Inflater::fast(patience)).or_else(|_| with(Inflater::zlib()))?;
        let Some(made) = made else { return Ok(None) };
        chunks.finish()?;
        Ok(Some((made, chunks.metadata.orientation())))
    }
}

/// The rows of one picture.
struct Streamed<'p, 'c, 'a> {
    png: &'p Png<'a>,
    rows: Rows,
    input: Input<'c, 'a>,
    row_bytes: usize,
    /// Rows that are to come.
    left: usize,
    /// Columns that are given.
    columns: Range<usize>,
}

impl<'p, 'c, 'a> Streamed<'p, 'c, 'a> {
    fn new(png: &'p Png<'a>, chunks: &'c mut Chunks<'a>, inflater: Inflater) -> Result<Self, ImageError> {
        let row_bytes = png.layout.row_bytes(png.width);
        let rows = Rows::new(inflater, row_bytes, (row_bytes as u64 + 1) * u64::from(png.height))?;
        Ok(Self { png, rows, input: Input::new(chunks), row_bytes, left: png.height as usize, columns: 0..0 })
    }
}

impl RowSource for Streamed<'_, '_, '_> {
    fn begin(&mut self, wanted: Range<usize>) -> Result<Range<usize>, ImageError> {
        self.rows.begin_pass();
        self.columns = wanted.start - wanted.start % WHOLE_BYTES..wanted.end;
        Ok(self.columns.clone())
    }

    fn skip(&mut self, rows: usize) -> Result<(), ImageError> {
        for _ in 0..rows {
            self.rows.next(&mut self.input, self.row_bytes, self.png.layout.pixel)?;
        }
        self.left -= rows;
        Ok(())
    }

    fn read(&mut self, out: &mut [u8]) -> Result<(), ImageError> {
        let layout = &self.png.layout;
        // The first byte that is wanted of a row, of which only some may be.
        let first = if layout.bits < 8 {
            self.columns.start * layout.bits / 8
        } else {
            self.columns.start * layout.pixel.wanted
        };
        for line in out.chunks_exact_mut(self.columns.len() * 3) {
            let row = self.rows.next(&mut self.input, self.row_bytes, layout.pixel)?;
            layout.unpack(&row[first..], line);
            self.left -= 1;
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<(), ImageError> {
        self.skip(self.left)?;
        self.rows.finish(&mut self.input)
    }
}
