//! The tar archives that `torch.save` wrote before PyTorch 0.1.10: which of them are read.
//!
//! Owns walking their tables, in which pickles and numbers take turns, so that every pickle in them is looked through. Does not build what they
//! describe: `pytorch-reader` does, with all storages in memory.
//!
//! Invariant: what is let through has its members within the file, as plain ones, and is at most [`MAX_ARCHIVE`] large.

use std::{
    fs::File,
    io::{BufReader, Read},
};

use super::pickle_globals;

/// Bytes of an archive, since its storages are read whole. PyTorch before 0.1.10 is of 2017, years before CLIP.
const MAX_ARCHIVE: u64 = 1 << 30;
/// Dimensions of a tensor in PyTorch.
const MAX_RANK: usize = 64;
/// Bytes of an element, by the class of the storage, which a storage's pickle names.
const STORAGES: [(&[u8], usize); 8] = [
    (b"FloatStorage", 4),
    (b"HalfStorage", 2),
    (b"DoubleStorage", 8),
    (b"LongStorage", 8),
    (b"IntStorage", 4),
    (b"ShortStorage", 2),
    (b"CharStorage", 1),
    (b"ByteStorage", 1),
];

/// Looks through every pickle in the archive.
///
/// # Errors
/// Names the first global that no weights need, or says what this archive has that those of PyTorch have not.
pub(super) fn check(file: File) -> Result<(), String> {
    let size = file.metadata().map_err(|error| error.to_string())?.len();
    if size > MAX_ARCHIVE {
        return Err(format!(
            "it is a tar archive of PyTorch before 0.1.10 of {size} bytes, and is read whole up to {MAX_ARCHIVE}; load it in PyTorch \
             and save it by a later version"
        ));
    }
    let mut left = size;
    let mut archive = tar::Archive::new(BufReader::new(file));
    for member in archive.entries().map_err(|error| error.to_string())? {
        let mut member = member.map_err(|error| error.to_string())?;
        let name = member.path().map_err(|error| error.to_string())?.to_string_lossy().into_owned();
        let table = match name.trim_start_matches("./") {
            "sys_info" | "pickle" => None,
            "storages" => Some(Table::Storages),
            "tensors" => Some(Table::Tensors),
            _ => continue,
        };
        // A sparse member may claim any size, and a link is none of the archive's.
        if !member.header().entry_type().is_file() {
            return Err(format!("its `{}` is no plain file", name.escape_debug()));
        }
        left = left.checked_sub(member.size()).ok_or("its members are larger than itself")?;
        let mut bytes = Vec::new();
        member.read_to_end(&mut bytes).map_err(|error| error.to_string())?;
        match table {
            None => drop(pickle_globals::check(&bytes)?),
            Some(table) => table.check(&bytes)?,
        }
    }
    Ok(())
}

/// A member that is a count, so many rows, and for storages a list of views.
#[derive(Clone, Copy)]
enum Table {
    /// A row is a pickle, the number of elements in 8 bytes, and those.
    Storages,
    /// A row is a pickle, the number of dimensions in 4 bytes, 4 bytes of nothing, and in 8 bytes each the dimensions, their strides,
    /// and where in its storage the tensor begins.
    Tensors,
}

impl Table {
    fn check(self, bytes: &[u8]) -> Result<(), String> {
        let (count, mut rest) = pickle(bytes)?;
        for _ in 0..number(count)? {
            let (row, values) = pickle(rest)?;
            let length = match self {
                Self::Storages => {
                    let class = |name: &&[u8]| row.windows(name.len()).any(|part| part == *name);
                    let element = STORAGES.iter().find(|(name, _)| class(name)).map(|(_, size)| *size);
                    let count = values.first_chunk().and_then(|bytes| usize::try_from(i64::from_le_bytes(*bytes)).ok());
                    let bytes = count.zip(element).and_then(|(count, element)| count.checked_mul(element));
                    bytes.and_then(|bytes| bytes.checked_add(8))
                }
                Self::Tensors => {
                    let rank = values.first_chunk().and_then(|bytes| usize::try_from(i32::from_le_bytes(*bytes)).ok());
                    rank.filter(|rank| *rank <= MAX_RANK).map(|rank| 8 + 16 * rank + 8)
                }
            };
            rest = length.and_then(|length| values.get(length..)).ok_or("one of its tables ends within a row")?;
        }
        match self {
            Self::Storages => pickle(rest).map(drop),
            Self::Tensors => Ok(()),
        }
    }
}

/// A pickle that asks for nothing else, and what lies behind it.
fn pickle(bytes: &[u8]) -> Result<(&[u8], &[u8]), String> {
    let rest = pickle_globals::check(bytes)?;
    Ok(bytes.split_at(bytes.len() - rest.len()))
}

/// The number that is all there is in a pickle of protocol 2: `PROTO 2`, one of `BININT1`, `BININT2` and `BININT`, `STOP`.
fn number(pickle: &[u8]) -> Result<u32, String> {
    match *pickle {
        [0x80, 2, b'K', a, b'.'] => Ok(u32::from(a)),
        [0x80, 2, b'M', a, b, b'.'] => Ok(u32::from_le_bytes([a, b, 0, 0])),
        [0x80, 2, b'J', a, b, c, d, b'.'] => Ok(u32::from_le_bytes([a, b, c, d])),
        _ => Err("one of its tables begins with no number of rows".to_owned()),
    }
}
