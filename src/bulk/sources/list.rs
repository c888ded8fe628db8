//! A list of paths, one a line: of pictures, and of every other kind of source.
//!
//! Owns reading it line by line, however long it is. Does not own what a path is (`places`).
//!
//! Invariants: a line in memory is of bounded length; a path that leads to nothing is a row with its reason. Lines, not samples, are
//! dealt out to shards.

use std::{
    fs::File,
    io::{self, BufRead, BufReader},
    path::{Path, PathBuf},
};

use super::{
    file::Limits,
    lines::{self, Line},
    names,
    place::{Asked, Place},
};
use crate::bulk::{
    options::Shard,
    sample::{Sample, Sink, Stop},
};

/// Bytes of a path; Linux takes 4096.
const MAX_PATH: usize = 64 << 10;

/// Paths that are read when their turn comes.
#[derive(Debug)]
pub(in crate::bulk) struct List {
    path: PathBuf,
    shard: Option<Shard>,
}

impl List {
    /// The list at `path`; `-` is standard input.
    ///
    /// # Errors
    /// One line, when there is no such file.
    pub(super) fn open(path: &Path, shard: Option<Shard>) -> Result<Self, String> {
        let list = Self { path: path.to_owned(), shard };
        list.reader().map_err(|error| format!("--from-file {}: {error}", path.display()))?;
        Ok(list)
    }

    fn reader(&self) -> io::Result<Box<dyn BufRead>> {
        if self.path == Path::new("-") {
            return Ok(Box::new(io::stdin().lock()));
        }
        Ok(Box::new(BufReader::new(File::open(&self.path)?)))
    }

    /// Sends the samples of all lines.
    ///
    /// # Errors
    /// When the sink says so.
    pub(super) fn send(&self, asked: &Asked<'_>, sink: &mut dyn Sink, limits: Limits) -> Result<(), Stop> {
        let name = self.path.to_string_lossy();
        let mut paths = 0;
        lines::each(&name, self.reader(), MAX_PATH, sink, |number, line, sink| {
            if line == Line::Whole(Vec::new()) {
                return Ok(());
            }
            paths += 1;
            if self.shard.is_some_and(|shard| !shard.has(paths - 1)) {
                return Ok(());
            }
            match path_of(line).and_then(|path| Place::listed(&path, asked).map_err(|error| (path, error))) {
                Ok(place) => place.send(asked, sink, limits),
                Err((id, error)) => {
                    let id = if id.is_empty() { format!("{name}:{number}") } else { id };
                    let Some(ticket) = sink.ticket(&id)? else { return Ok(()) };
                    sink.send(ticket, Sample::unreadable(id, None, error))
                }
            }
        })
    }
}

fn path_of(line: Line) -> Result<String, (String, String)> {
    match line {
        Line::Whole(bytes) => {
            String::from_utf8(bytes).map_err(|error| (names::escaped(error.as_bytes()), names::NOT_UTF8.to_owned()))
        }
        Line::TooLong(bytes) => Err((String::new(), format!("the path has {bytes} bytes, the limit is {MAX_PATH}"))),
    }
}
