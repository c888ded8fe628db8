//! A list of paths, one a line: of pictures, and of every other kind of source.
//!
//! Owns reading it line by line, however long it is. Does not own what a path is (`places`).
//!
//! Invariants: a list is opened once; a line in memory is of bounded length; a path that leads to nothing is a row with its reason. Lines, not samples, are
//! dealt out to shards.

use std::{
    fs::{self, File},
    io::{self, BufRead, BufReader},
    os::unix::fs::FileTypeExt as _,
    path::{Path, PathBuf},
};

use super::{
    file::Limits,
    lines::{self, Line},
    names,
    own::Own,
    place::{Asked, Place},
};
use crate::{
    bulk::{
        options::Shard,
        sample::{MAX_NAME, Sample, Sink, Stop},
    },
    regular,
};

/// What standard input is called.
const STDIN: &str = "-";

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
    /// One line, when there is no such file or pipe.
    pub(super) fn open(path: &Path, shard: Option<Shard>, own: &Own) -> Result<Self, String> {
        must_be_readable(path, own).map_err(|reason| format!("--from-file {}: {reason}", path.display()))?;
        Ok(Self { path: path.to_owned(), shard })
    }

    fn reader(&self) -> io::Result<Box<dyn BufRead>> {
        if self.path == Path::new(STDIN) {
            return Ok(Box::new(io::stdin().lock()));
        }
        // Here alone, and on the thread that reads: a pipe waits for who writes into it.
        Ok(Box::new(BufReader::new(File::open(&self.path)?)))
    }

    /// Sends the samples of all lines.
    ///
    /// # Errors
    /// When the sink says so.
    pub(super) fn send(&self, asked: &Asked<'_>, sink: &mut dyn Sink, limits: Limits) -> Result<(), Stop> {
        let name = self.path.to_string_lossy();
        let mut paths = 0;
        lines::each(&name, self.reader(), MAX_NAME, sink, |number, line, sink| {
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

/// Looks at a list without opening what can be read once alone: a pipe, such as the shell's `<(find photos)`.
fn must_be_readable(path: &Path, own: &Own) -> Result<(), String> {
    if path == Path::new(STDIN) {
        return Ok(());
    }
    own.must_not_have(path)?;
    let kind = fs::metadata(path).map_err(|error| error.to_string())?.file_type();
    if kind.is_file() {
        return regular::open(path).map(drop).map_err(|error| error.to_string());
    }
    // Standard input under a name of its own is a terminal, too.
    if kind.is_fifo() || kind.is_char_device() {
        return Ok(());
    }
    Err("it is neither a file nor a pipe; - is standard input".to_owned())
}

fn path_of(line: Line) -> Result<String, (String, String)> {
    match line {
        Line::Whole(bytes) => {
            String::from_utf8(bytes).map_err(|error| (names::escaped(error.as_bytes()), names::NOT_UTF8.to_owned()))
        }
        Line::TooLong(bytes) => Err((String::new(), format!("the path has {bytes} bytes, the limit is {MAX_NAME}"))),
    }
}
