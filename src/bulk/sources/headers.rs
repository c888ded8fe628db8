//! The headers of a tar, one after the other.
//!
//! Owns the walk: where a member begins and how long it is, what it is called and what a link leads to, by its own header, by GNU's long names
//! and by PAX records in front of it. Does not own which sample it belongs to (`members`). The crate `tar` reads the fields of a header; its own
//! walk ends at the first name that is malformed, and goes astray behind a sparse file of more than four pieces.
//!
//! Invariants: no name is longer than its limit; a member is within the file; a name that cannot be read is the fault of its member alone, and
//! only where it is not known where the next header is does the walk end. Contents are not read here.

use std::{fs::File, io, os::unix::fs::FileExt as _};

use tar::{EntryType, Header};

use crate::bulk::sample::name_length;

/// A tar is made of these, and ends by two of zeros. One is taken for it, as by `tar`: no member can be behind it.
const BLOCK: u64 = 512;
/// Bytes of what stands in front of a member to describe it: its name, what it links to, its attributes.
const MAX_EXTENSION: u64 = 1 << 20;
/// Where the header of more pieces of a sparse file says that there is another such header.
const HAS_MORE_PIECES: usize = 504;

/// What is at the walk's next place.
pub(super) enum Next {
    /// A member.
    Entry(Entry),
    /// Two blocks of zeros, or one.
    Marker,
    /// The end of the file.
    End,
}

/// A member.
pub(super) struct Entry {
    /// What it is called, or why that cannot be known.
    pub(super) name: Result<Vec<u8>, String>,
    /// What its own header calls it, which may be the beginning of its name.
    pub(super) short_name: Vec<u8>,
    pub(super) what: What,
}

/// What a member is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum What {
    /// A file, whose contents are `size` bytes behind byte `position`.
    File { position: u64, size: u64 },
    /// The same file as another member, which is called so.
    HardLink(Vec<u8>),
    /// A link to this path, from its own folder.
    SymbolicLink(Vec<u8>),
    /// A folder, or what describes the archive.
    Nothing,
    /// What is not read, for this reason.
    Other(&'static str),
}

/// The walk.
pub(super) struct Headers<'a> {
    file: &'a File,
    length: u64,
    at: u64,
}

impl<'a> Headers<'a> {
    /// From the beginning of `file`.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn new(file: &'a File) -> io::Result<Self> {
        Ok(Self { file, length: file.metadata()?.len(), at: 0 })
    }

    /// Where the next header is.
    pub(super) fn at(&self) -> u64 {
        self.at
    }

    /// The next member.
    ///
    /// # Errors
    /// Why it is not known where the one behind it would be.
    pub(super) fn next(&mut self) -> Result<Next, String> {
        let mut ahead = Ahead::default();
        loop {
            if self.at >= self.length {
                return ahead.end(Next::End);
            }
            let block = self.block()?;
            if block == [0; BLOCK as usize] {
                return ahead.end(Next::Marker);
            }
            let header = Header::from_byte_slice(&block);
            checked(header)?;
            match header.entry_type() {
                EntryType::XGlobalHeader => drop(self.extension(header)?),
                EntryType::GNULongName => ahead.name = Some(self.extension(header)?.map(text)),
                EntryType::GNULongLink => ahead.link = Some(self.extension(header)?.map(text)),
                EntryType::XHeader => match self.extension(header)? {
                    Ok(bytes) => ahead.take(&bytes),
                    Err(reason) => ahead.fault = Some(reason),
                },
                _ => return self.entry(header, ahead).map(Next::Entry),
            }
        }
    }

    /// The block at the walk's place, which moves behind it.
    fn block(&mut self) -> Result<[u8; BLOCK as usize], String> {
        let mut block = [0; BLOCK as usize];
        if self.length - self.at < BLOCK {
            return Err(format!("the tar ends at byte {}, within a header", self.length));
        }
        self.file.read_exact_at(&mut block, self.at).map_err(|error| error.to_string())?;
        self.at += BLOCK;
        Ok(block)
    }

    /// Moves behind `size` bytes of contents, and answers where they begin.
    fn contents(&mut self, size: u64) -> Result<u64, String> {
        let position = self.at;
        let end = position.checked_add(size).filter(|end| *end <= self.length);
        let end = end.ok_or_else(|| {
            format!("the tar ends at byte {}, within a member of {size} bytes at byte {position}", self.length)
        })?;
        // The last one's padding may be missing.
        self.at = end.checked_next_multiple_of(BLOCK).unwrap_or(end);
        Ok(position)
    }

    /// The contents of what describes the next member; why they are not read.
    fn extension(&mut self, header: &Header) -> Result<Result<Vec<u8>, String>, String> {
        let size = size(header)?;
        let position = self.contents(size)?;
        if size > MAX_EXTENSION {
            return Ok(Err(format!("what describes it has {size} bytes, the limit is {MAX_EXTENSION}")));
        }
        let mut bytes = vec![0; usize::try_from(size).map_err(|error| error.to_string())?];
        self.file.read_exact_at(&mut bytes, position).map_err(|error| error.to_string())?;
        Ok(Ok(bytes))
    }

    fn entry(&mut self, header: &Header, ahead: Ahead) -> Result<Entry, String> {
        let short_name = header.path_bytes().into_owned();
        let link = ahead.link.unwrap_or_else(|| Ok(header.link_name_bytes().unwrap_or_default().into_owned()));
        let is_sparse = ahead.is_sparse;
        let kind = header.entry_type();
        let mut fault = ahead.fault;
        let leads_to = || match link {
            Ok(link) => link,
            Err(reason) => {
                fault.get_or_insert(reason);
                Vec::new()
            }
        };
        // As Python's `tarfile`, by which WebDataset reads: links, folders and devices have no contents, whatever they claim.
        let what = match kind {
            EntryType::Link => What::HardLink(leads_to()),
            EntryType::Symlink => What::SymbolicLink(leads_to()),
            EntryType::Directory => What::Nothing,
            EntryType::Char | EntryType::Block | EntryType::Fifo => What::Other("it is no plain file"),
            _ => {
                if kind == EntryType::GNUSparse {
                    self.pieces(header)?;
                }
                let size = ahead.size.map_or_else(|| size(header), Ok)?;
                let position = self.contents(size)?;
                match kind.as_byte() {
                    _ if is_sparse || kind == EntryType::GNUSparse => {
                        What::Other("it is stored as a sparse file, which is not read; make the tar without --sparse")
                    }
                    // The label of an archive, and the names in a folder of an incremental one.
                    b'V' | b'D' | b'N' => What::Nothing,
                    b'M' => What::Other("it goes on from another volume, and these are not read"),
                    _ => What::File { position, size },
                }
            }
        };
        let name = ahead.name.unwrap_or_else(|| Ok(short_name.clone()));
        let name = match fault {
            Some(reason) => Err(reason),
            None => name.and_then(|name| name_length(name.len(), "name").map(|()| name)),
        };
        Ok(Entry { name, short_name, what })
    }

    /// Passes the headers of a sparse file's further pieces: its own has room for four.
    fn pieces(&mut self, header: &Header) -> Result<(), String> {
        let mut has_more = header.as_gnu().is_some_and(|header| header.is_extended());
        while has_more {
            has_more = self.block()?[HAS_MORE_PIECES] != 0;
        }
        Ok(())
    }
}

/// What the headers in front of a member say of it.
#[derive(Default)]
struct Ahead {
    name: Option<Result<Vec<u8>, String>>,
    link: Option<Result<Vec<u8>, String>>,
    /// Where its own header has no room for it.
    size: Option<u64>,
    is_sparse: bool,
    /// Why what they say is not known.
    fault: Option<String>,
}

impl Ahead {
    /// Takes PAX records.
    fn take(&mut self, mut bytes: &[u8]) {
        let mut real_name = None;
        while !bytes.is_empty() {
            let Some((key, value, rest)) = record(bytes) else {
                self.fault = Some("the PAX header in front of it is malformed".to_owned());
                return;
            };
            bytes = rest;
            match key {
                b"path" => self.name = Some(Ok(value.to_vec())),
                b"linkpath" => self.link = Some(Ok(value.to_vec())),
                b"size" => match str::from_utf8(value).ok().and_then(|size| size.parse().ok()) {
                    Some(size) => self.size = Some(size),
                    None => self.fault = Some("its size in the PAX header in front of it is no number".to_owned()),
                },
                b"GNU.sparse.name" => real_name = Some(Ok(value.to_vec())),
                key => self.is_sparse |= key.starts_with(b"GNU.sparse."),
            }
        }
        self.is_sparse |= real_name.is_some();
        // What `path` has is made up, for who knows nothing of sparse files.
        self.name = real_name.or(self.name.take());
    }

    /// `next`, if nothing waits for a member.
    fn end(self, next: Next) -> Result<Next, String> {
        let Self { name: None, link: None, size: None, is_sparse: false, fault: None } = self else {
            return Err("a member is described, and is not there".to_owned());
        };
        Ok(next)
    }
}

/// The first PAX record of `bytes`, `LENGTH KEY=VALUE` and a line end, and what is behind it.
fn record(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let blank = memchr::memchr(b' ', bytes)?;
    let length: usize = str::from_utf8(&bytes[..blank]).ok()?.parse().ok()?;
    let (record, rest) = bytes.split_at_checked(length)?;
    let record = record.get(blank + 1..)?.strip_suffix(b"\n")?;
    let equals = memchr::memchr(b'=', record)?;
    Some((&record[..equals], &record[equals + 1..], rest))
}

fn checked(header: &Header) -> Result<(), String> {
    // What the checksum covers with blanks in its own place.
    let bytes = header.as_bytes();
    let sum = |bytes: &[u8]| bytes.iter().map(|byte| u32::from(*byte)).sum::<u32>();
    let expected = sum(&bytes[..148]) + 8 * u32::from(b' ') + sum(&bytes[156..]);
    match header.cksum() {
        Ok(sum) if sum == expected => Ok(()),
        _ => Err("the checksum of a header is wrong".to_owned()),
    }
}

fn size(header: &Header) -> Result<u64, String> {
    header.entry_size().map_err(|_| "the size of a member is no number".to_owned())
}

/// A string of C.
fn text(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.truncate(memchr::memchr(0, &bytes).unwrap_or(bytes.len()));
    bytes
}
