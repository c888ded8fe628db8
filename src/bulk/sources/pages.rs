//! What the pages of a Parquet file claim, looked at before its reader takes memory for them.
//!
//! Owns walking the headers of a column chunk. Does not own what is in the pages: the crate `parquet` reads them, takes what a header claims
//! before it has unpacked a byte, and has no limit for it.
//!
//! Invariants: no more than one header is held; a chunk whose headers cannot be followed to its end is refused, since what is not
//! seen here is not bounded there.

use std::{
    fs::File,
    io::{BufReader, Read, Seek as _, SeekFrom},
};

use parquet::file::metadata::ColumnChunkMetaData;
use thrift::{
    TConfiguration,
    protocol::{TCompactInputProtocol, TInputProtocol, TType},
};

/// Bytes that a page may have, unpacked. A row group of Hugging Face's datasets is 100 MB; writers cut pages at about a megabyte.
const MAX_PAGE: u64 = 1 << 30;
/// Bytes that a header may have, the smallest and largest value of the page among them.
const MAX_HEADER: usize = 1 << 20;

/// Bytes of the largest cell of the chunk, about: of the page whose cells are the largest on average, or of its dictionary, which a cell may be
/// the whole of.
///
/// # Errors
/// One line: a page is too large, or the headers make no sense.
pub(super) fn largest_cell(file: &File, chunk: &ColumnChunkMetaData) -> Result<u64, String> {
    let wrong = |reason: String| format!("column {}: {reason}", chunk.column_path().string());
    let damaged = || wrong("its pages are not where the file says".to_owned());
    let start = chunk.dictionary_page_offset().unwrap_or(chunk.data_page_offset());
    let start = u64::try_from(start).map_err(|_| damaged())?;
    let length = u64::try_from(chunk.compressed_size()).map_err(|_| damaged())?;
    let end = start.checked_add(length).ok_or_else(damaged)?;
    let mut file = BufReader::new(file);
    file.seek(SeekFrom::Start(start)).map_err(|error| wrong(error.to_string()))?;
    let (mut at, mut largest) = (start, 0);
    while at < end {
        let mut limited = file.by_ref().take(MAX_HEADER as u64);
        let header = Header::read(&mut limited).map_err(|_| damaged())?;
        let read = MAX_HEADER as u64 - limited.limit();
        if header.unpacked > MAX_PAGE {
            return Err(wrong(format!(
                "a page claims {} bytes, the limit is {MAX_PAGE}; write the file again with smaller pages",
                header.unpacked
            )));
        }
        largest = largest.max(header.unpacked / header.values.max(1));
        at = at.saturating_add(read).saturating_add(header.packed);
        file.seek_relative(i64::try_from(header.packed).map_err(|_| damaged())?).map_err(|_| damaged())?;
    }
    Ok(largest)
}

/// What the header of a page says (`PageHeader` of `parquet.thrift`).
#[derive(Default)]
struct Header {
    /// `uncompressed_page_size`.
    unpacked: u64,
    /// `compressed_page_size`.
    packed: u64,
    /// `num_values`, nulls among them; 0 for a dictionary.
    values: u64,
}

impl Header {
    /// # Errors
    /// When these bytes are no header, or a longer one than `reader` gives.
    fn read(reader: &mut impl Read) -> thrift::Result<Self> {
        let mut header = Self::default();
        let limits = TConfiguration::builder().max_string_size(Some(MAX_HEADER)).build()?;
        let mut protocol = TCompactInputProtocol::with_config(reader, limits);
        each_field(&mut protocol, |protocol, id, kind| {
            match (id, kind) {
                (2, TType::I32) => header.unpacked = size(protocol)?,
                (3, TType::I32) => header.packed = size(protocol)?,
                // `data_page_header` and `data_page_header_v2`, which both begin with their `num_values`.
                (5 | 8, TType::Struct) => each_field(protocol, |protocol, id, kind| match (id, kind) {
                    (1, TType::I32) => {
                        header.values = size(protocol)?;
                        Ok(())
                    }
                    _ => protocol.skip(kind),
                })?,
                _ => protocol.skip(kind)?,
            }
            Ok(())
        })?;
        Ok(header)
    }
}

/// Calls `each` with the number and type of every field of a struct; it has to read or skip the field.
fn each_field<P: TInputProtocol>(
    protocol: &mut P,
    mut each: impl FnMut(&mut P, i16, TType) -> thrift::Result<()>,
) -> thrift::Result<()> {
    protocol.read_struct_begin()?;
    loop {
        let field = protocol.read_field_begin()?;
        if field.field_type == TType::Stop {
            return protocol.read_struct_end();
        }
        each(protocol, field.id.unwrap_or_default(), field.field_type)?;
        protocol.read_field_end()?;
    }
}

fn size(protocol: &mut impl TInputProtocol) -> thrift::Result<u64> {
    u64::try_from(protocol.read_i32()?).map_err(|_| thrift::Error::from("a negative size"))
}
