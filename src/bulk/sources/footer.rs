//! What a Parquet file says of itself, bounded before the crate `parquet` believes it.
//!
//! Owns the way to the footer, walking it, and the bounds of what it claims: the crate builds a schema by recursion, and takes memory for as
//! many children and row groups as are named. Does not own the columns (`columns`), nor the pages (`pages`).
//!
//! Invariants: the bytes that are checked are the bytes that are believed; a table's rows are those that its footer claims, and it claims
//! no more of them than its pages can have.

use std::{
    fmt::Display,
    fs::File,
    io::{Read as _, Seek as _, SeekFrom},
    panic::{AssertUnwindSafe, catch_unwind},
};

use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};
use thrift::{
    TConfiguration,
    protocol::{TCompactInputProtocol, TInputProtocol},
};

use super::shape::{FILE, ROW_GROUP, SCHEMA_ELEMENT, each_field, structs, walk};

/// Bytes of a footer. One of 1,000 row groups of 100 columns has about ten million.
const MAX_FOOTER: u64 = 64 << 20;
/// Columns and what they are nested in: wide tables have some thousand.
const MAX_ELEMENTS: usize = 10_000;
/// How deep columns are nested: the crate calls itself for each level.
const MAX_DEPTH: usize = 64;
/// Row groups times columns, each of which the crate holds in some hundred bytes.
const MAX_CHUNKS: usize = 1 << 20;
/// Bytes of the smallest page: a header alone, with all that it must have.
const MIN_PAGE: u64 = 17;
/// Rows for each byte of their pages. A picture and a text have more than a byte; only one cell for all rows, or none, packs into less.
/// Without it a few bytes could claim a row with a reason a billion times.
const MAX_ROWS_PER_BYTE: u64 = 256;
/// Rows of a table that need no bytes: so many are a row group of one caption for all, as pyarrow writes it in a hundred bytes.
const ROWS_FOR_NOTHING: u64 = 1 << 20;
/// The magic at both ends of the file, and the length of the footer.
const MAGIC: u64 = 4;
const TAIL: u64 = 8;

/// A footer that may be believed.
#[derive(Debug)]
pub(super) struct Footer {
    pub(super) metadata: ParquetMetaData,
    /// Where the footer begins: pages are in front of it.
    start: u64,
}

impl Footer {
    /// That of `file`.
    ///
    /// # Errors
    /// One line: it is no Parquet file, or claims too much.
    pub(super) fn read(file: &File) -> Result<Self, String> {
        let (bytes, start) = bytes(file)?;
        check(&bytes)?;
        let metadata = contained(|| ParquetMetaDataReader::decode_metadata(&bytes))?;
        Ok(Self { metadata, start })
    }

    /// How many rows every row group has, of which the columns `leaves` are read.
    ///
    /// # Errors
    /// One line: they cannot be there.
    pub(super) fn rows(&self, leaves: &[usize]) -> Result<Vec<u64>, String> {
        let (mut all, mut total, mut held) = (Vec::new(), 0_u64, 0_u64);
        for (number, group) in self.metadata.row_groups().iter().enumerate() {
            let wrong = |reason: String| format!("row group {number} {reason}");
            let rows = u64::try_from(group.num_rows()).map_err(|_| wrong("claims a negative number of rows".into()))?;
            let mut bytes = 0_u64;
            for leaf in leaves {
                let chunk = group.columns().get(*leaf).ok_or_else(|| wrong("lacks a column".to_owned()))?;
                let begin = chunk.dictionary_page_offset().unwrap_or(chunk.data_page_offset());
                let begin = u64::try_from(begin).ok().filter(|begin| *begin >= MAGIC);
                let length = u64::try_from(chunk.compressed_size()).ok();
                let end = begin.zip(length).and_then(|(begin, length)| begin.checked_add(length));
                if rows > 0 && (end.is_none_or(|end| end > self.start) || length.is_none_or(|length| length < MIN_PAGE))
                {
                    let name = chunk.column_path().string();
                    return Err(wrong(format!(
                        "claims {rows} rows, and the file has no pages of {name} where it says"
                    )));
                }
                bytes = bytes.saturating_add(length.unwrap_or_default());
            }
            held = held.saturating_add(bytes);
            total = total.checked_add(rows).ok_or_else(|| wrong("claims too many rows".to_owned()))?;
            all.push(rows);
        }
        if held > self.start {
            return Err(format!("its row groups claim {held} bytes of pages, and the file has {}", self.start));
        }
        if total > held.saturating_mul(MAX_ROWS_PER_BYTE).saturating_add(ROWS_FOR_NOTHING) {
            return Err(format!(
                "it claims {total} rows in {held} bytes of pages, the limit is {MAX_ROWS_PER_BYTE} rows for each byte and \
                 {ROWS_FOR_NOTHING} more"
            ));
        }
        let claimed = self.metadata.file_metadata().num_rows();
        if u64::try_from(claimed) != Ok(total) {
            return Err(format!("it claims {claimed} rows, and its row groups {total}"));
        }
        Ok(all)
    }
}

/// The footer's bytes, and where they begin.
fn bytes(mut file: &File) -> Result<(Vec<u8>, u64), String> {
    let io = |error: std::io::Error| error.to_string();
    let length = file.seek(SeekFrom::End(0)).map_err(io)?;
    let none = || "it is no Parquet file".to_owned();
    let tail_at = length.checked_sub(TAIL).filter(|at| *at >= MAGIC).ok_or_else(none)?;
    file.seek(SeekFrom::Start(tail_at)).map_err(io)?;
    let mut tail = [0; TAIL as usize];
    file.read_exact(&mut tail).map_err(io)?;
    let [a, b, c, d, magic @ ..] = tail;
    match &magic {
        b"PAR1" => {}
        b"PARE" => return Err("it is encrypted, which is not read".to_owned()),
        _ => return Err(none()),
    }
    let footer = u64::from(u32::from_le_bytes([a, b, c, d]));
    if footer > MAX_FOOTER {
        return Err(format!("its footer claims {footer} bytes, the limit is {MAX_FOOTER}"));
    }
    let start = tail_at.checked_sub(footer).filter(|start| *start >= MAGIC);
    let start = start.ok_or_else(|| format!("its footer claims {footer} bytes, and the file has {length}"))?;
    file.seek(SeekFrom::Start(start)).map_err(io)?;
    let mut bytes = Vec::new();
    file.take(footer).read_to_end(&mut bytes).map_err(io)?;
    Ok((bytes, start))
}

/// Whether the crate can take these bytes.
fn check(bytes: &[u8]) -> Result<(), String> {
    walked(bytes).map_err(|error| match error {
        // The one kind that `over` makes.
        thrift::Error::User(reason) => reason.to_string(),
        _ => "its footer is damaged".to_owned(),
    })
}

fn walked(mut bytes: &[u8]) -> thrift::Result<()> {
    let limits = TConfiguration::builder().max_string_size(Some(bytes.len())).build()?;
    let mut protocol = TCompactInputProtocol::with_config(&mut bytes, limits);
    let mut elements = 0;
    each_field(&mut protocol, FILE, &mut |protocol, id| {
        match id {
            2 => elements = schema(protocol)?,
            4 => {
                let groups = structs(protocol)?;
                if groups.saturating_mul(elements.max(1)) > MAX_CHUNKS {
                    return Err(over(format!(
                        "it has {groups} row groups of {elements} columns, the limit is {MAX_CHUNKS} of both multiplied"
                    )));
                }
                for _ in 0..groups {
                    walk(protocol, ROW_GROUP)?;
                }
            }
            _ => return Ok(false),
        }
        Ok(true)
    })
}

/// Walks the schema, which is its tree's nodes from the root on, each with the number of its children.
fn schema(protocol: &mut impl TInputProtocol) -> thrift::Result<usize> {
    let elements = structs(protocol)?;
    if elements > MAX_ELEMENTS {
        return Err(over(format!("its schema has {elements} columns, the limit is {MAX_ELEMENTS}")));
    }
    // How many children are still to come, of every node above.
    let mut above: Vec<usize> = Vec::new();
    for _ in 0..elements {
        let mut children = 0;
        each_field(protocol, SCHEMA_ELEMENT, &mut |protocol, id| {
            if id == 5 {
                children = protocol.read_i32()?;
            }
            Ok(id == 5)
        })?;
        let children = usize::try_from(children).ok().filter(|children| *children <= elements);
        let Some(children) = children else {
            return Err(over(format!("its schema of {elements} columns claims more of them in one")));
        };
        if let Some(last) = above.last_mut() {
            *last -= 1;
        }
        above.push(children);
        if above.len() > MAX_DEPTH {
            return Err(over(format!("its columns are nested deeper than {MAX_DEPTH}")));
        }
        while above.last() == Some(&0) {
            above.pop();
        }
    }
    Ok(elements)
}

/// What `read` says; that it gave up, where it panics, since the crate asserts some of what a file claims.
pub(super) fn contained<T, E: Display>(read: impl FnOnce() -> Result<T, E>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(read)) {
        Ok(result) => result.map_err(|error| format!("the reader of Parquet files says \"{error}\"")),
        Err(_) => Err("the reader of Parquet files gave up".to_owned()),
    }
}

/// The reason of a limit.
fn over(reason: String) -> thrift::Error {
    thrift::Error::User(reason.into())
}

#[cfg(test)]
mod tests;
