//! What the pages of a Parquet file claim, looked at before its reader takes memory for them.
//!
//! Owns walking the headers of a column chunk. Does not own what is in the pages: the crate `parquet` reads them, takes what a header claims
//! before it has unpacked a byte, and has no limit for it.
//!
//! Invariants: no more than one header is held; a chunk whose headers cannot be followed to its end is refused, since what is not
//! seen here is not bounded there, and so is a header that the crate could read otherwise (`shape`).

use std::{
    fs::File,
    io::{BufReader, Read, Seek as _, SeekFrom},
};

use parquet::file::metadata::ColumnChunkMetaData;
use thrift::{
    TConfiguration,
    protocol::{TCompactInputProtocol, TInputProtocol},
};

use super::shape::{DATA_PAGE, DATA_PAGE_V2, Fields, PAGE, each_field};

/// Bytes of pages that are in memory at once, unpacked: of each column one, and its dictionary. A page is read whole, and while it is unpacked,
/// or the next one is, some of it is there twice. A row group of Hugging Face's datasets is 100 MB; writers cut pages at about a megabyte, some
/// at about a thousand rows.
const MAX_HELD: u64 = 512 << 20;
/// `Encoding::DELTA_BYTE_ARRAY`.
const DELTA_BYTE_ARRAY: i32 = 7;
/// Bytes that a header may have, the smallest and largest value of the page among them.
const MAX_HEADER: usize = 1 << 20;

/// What reading a chunk takes.
#[derive(Debug)]
pub(super) struct Claim {
    /// Bytes of its largest cell, about: of the page whose cells are the largest on average, or of a page or dictionary that a cell may be the
    /// whole of.
    pub(super) cell: u64,
    /// Bytes that are in memory at once, unpacked: of its dictionary and its largest page.
    pub(super) held: u64,
}

/// Whether pages may take so many bytes at once.
///
/// # Errors
/// One line.
pub(super) fn must_fit(held: u64) -> Result<(), String> {
    if held <= MAX_HELD {
        return Ok(());
    }
    Err(format!(
        "its pages claim {held} bytes that are in memory at once, the limit is {MAX_HELD}; write the file again with smaller pages"
    ))
}

/// What the headers of the chunk's pages claim.
///
/// # Errors
/// One line: a page is too large, or the headers make no sense.
pub(super) fn claim(file: &File, chunk: &ColumnChunkMetaData) -> Result<Claim, String> {
    let wrong = |reason: String| format!("column {}: {reason}", chunk.column_path().string());
    let damaged = || wrong("its pages are not where the file says".to_owned());
    let start = chunk.dictionary_page_offset().unwrap_or(chunk.data_page_offset());
    let start = u64::try_from(start).map_err(|_| damaged())?;
    let length = u64::try_from(chunk.compressed_size()).map_err(|_| damaged())?;
    let end = start.checked_add(length).ok_or_else(damaged)?;
    let mut file = BufReader::new(file);
    file.seek(SeekFrom::Start(start)).map_err(|error| wrong(error.to_string()))?;
    let (mut at, mut cell, mut dictionary, mut page) = (start, 1, 0, 0);
    while at < end {
        let mut limited = file.by_ref().take(MAX_HEADER as u64);
        let header = Header::read(&mut limited).map_err(|_| damaged())?;
        let read = MAX_HEADER as u64 - limited.limit();
        cell = header.cell().max(cell);
        let of_its_kind = if header.is_data { &mut page } else { &mut dictionary };
        *of_its_kind = header.unpacked.max(*of_its_kind);
        must_fit(dictionary + page).map_err(wrong)?;
        at = at.saturating_add(read).saturating_add(header.packed);
        file.seek_relative(i64::try_from(header.packed).map_err(|_| damaged())?).map_err(|_| damaged())?;
    }
    Ok(Claim { cell, held: dictionary + page })
}

/// What the header of a page says (`PageHeader` of `parquet.thrift`).
#[derive(Default)]
struct Header {
    /// `uncompressed_page_size`.
    unpacked: u64,
    /// `compressed_page_size`.
    packed: u64,
    /// Whether it is a page of cells, not a dictionary.
    is_data: bool,
    /// Its cells, nulls among them, and how they are written.
    cells: Cells,
}

/// `num_values` and `encoding` of a page.
#[derive(Clone, Copy, Default)]
struct Cells {
    values: u64,
    encoding: i32,
}

impl Header {
    /// # Errors
    /// When these bytes are no header, or a longer one than `reader` gives.
    fn read(reader: &mut impl Read) -> thrift::Result<Self> {
        let (mut header, mut kind, mut cells) = (Self::default(), 0, [Cells::default(); 2]);
        let limits = TConfiguration::builder().max_string_size(Some(MAX_HEADER)).build()?;
        let mut protocol = TCompactInputProtocol::with_config(reader, limits);
        each_field(&mut protocol, PAGE, &mut |protocol, id| {
            match id {
                1 => kind = protocol.read_i32()?,
                2 => header.unpacked = size(protocol)?,
                3 => header.packed = size(protocol)?,
                5 => cells[0] = Cells::read(protocol, DATA_PAGE, 2)?,
                8 => cells[1] = Cells::read(protocol, DATA_PAGE_V2, 4)?,
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        // The type of a page says which of its headers the crate believes.
        (header.is_data, header.cells) = match kind {
            0 => (true, cells[0]),
            3 => (true, cells[1]),
            _ => (false, Cells::default()),
        };
        Ok(header)
    }

    /// Bytes of its largest cell, about.
    fn cell(&self) -> u64 {
        let Cells { values, encoding } = self.cells;
        // Each cell may begin as the one in front of it, for nothing.
        let may_be_whole = !self.is_data || encoding == DELTA_BYTE_ARRAY;
        if may_be_whole { self.unpacked } else { self.unpacked / values.max(1) }
    }
}

impl Cells {
    /// Those of the header of a data page, whose encoding is its field `encoding_id`.
    fn read<P: TInputProtocol>(protocol: &mut P, fields: Fields, encoding_id: i16) -> thrift::Result<Self> {
        let mut cells = Self::default();
        each_field(protocol, fields, &mut |protocol, id| {
            if id == 1 {
                cells.values = size(protocol)?;
            } else if id == encoding_id {
                cells.encoding = protocol.read_i32()?;
            } else {
                return Ok(false);
            }
            Ok(true)
        })?;
        Ok(cells)
    }
}

fn size(protocol: &mut impl TInputProtocol) -> thrift::Result<u64> {
    u64::try_from(protocol.read_i32()?).map_err(|_| thrift::Error::from("a negative size"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_read_if_its_fields_have_their_types_and_come_once() {
        // A data page of 8 bytes, 4 packed, with 3 values.
        let whole: &[u8] = &[0x15, 0, 0x15, 16, 0x15, 8, 0x2c, 0x15, 6, 0, 0];
        let header = Header::read(&mut &*whole).unwrap();
        assert_eq!((header.unpacked, header.packed, header.cells.values), (8, 4, 3));
        // A dictionary may claim to be a data page as well.
        let dictionary = Header::read(&mut &[0x15, 4, 0x15, 16, 0x15, 8, 0x2c, 0x15, 6, 0, 0][..]).unwrap();
        assert_eq!((dictionary.is_data, dictionary.cell()), (false, 8));
        for (bytes, why) in [
            (&[0x15, 0, 0x16, 16, 0x15, 8, 0][..], "a size of 64 bits"),
            (&[0x15, 0, 0x15, 16, 0x16, 8, 0][..], "a packed size of 64 bits"),
            (&[0x15, 0, 0x15, 16, 0x15, 8, 0x2c, 0x16, 6, 0, 0][..], "a number of values of 64 bits"),
            (&[0x15, 0, 0x15, 16, 0x15, 8, 0x4c, 0x16, 6, 0, 0][..], "that of a dictionary"),
            (&[0x15, 0, 0x15, 16, 0x15, 8, 0x05, 4, 18, 0][..], "a size that comes twice"),
            (&[0x15, 0, 0x15, 16, 0x15, 8, 0x18, 1, 0x15, 0][..], "a check sum that is a string"),
            (&[0x15, 0, 0x15, 15, 0x15, 8, 0][..], "a negative size"),
        ] {
            assert!(Header::read(&mut &*bytes).is_err(), "{why}");
        }
    }
}
