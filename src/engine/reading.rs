//! Everything that is read of a graph's file before the runtime has it: what it says about itself, the part of it that is a tower's, and
//! what its operators mean for a run.
//!
//! Owns the order of these. Does not own any of them (`model::graph_info`, `floats`, `split`, `operators`), nor the session that is made of it.
//!
//! Invariant: a file that is no graph, or a damaged one, is no error here: the runtime will say what is wrong with it.

use std::{io, path::Path};

use super::{
    floats::{self, Feed},
    graph_file::GraphFile,
    operators,
    split::{self, Tower},
};
use crate::{encoder::OneByOne, model::graph_info::GraphInfo};

/// What was read.
pub(super) struct Reading {
    /// What it says about itself, where it is ours.
    pub info: Option<GraphInfo>,
    /// What to load of the file, when not all of it.
    pub part: Option<Vec<u8>>,
    /// Whether its operators let the items of one run change each other's answers.
    pub one_by_one: Option<OneByOne>,
}

impl Reading {
    /// Reads the graph at `path`, for that tower and fed like that.
    ///
    /// # Errors
    /// When the file cannot be read, or is one of ours that cannot be fed floats and should be.
    pub(super) fn of(path: &Path, tower: Tower, feed: Feed) -> io::Result<Self> {
        let info = GraphInfo::read(path)?;
        let part = match (feed, &info) {
            (Feed::Floats, Some(_)) => floats::with_floats(path).map(Some),
            _ => split::tower_of_both(path, tower),
        }?;
        let one_by_one = match &part {
            Some(part) => operators::one_by_one(&mut GraphFile::of_bytes(part)),
            None => GraphFile::open(path).and_then(|mut file| operators::one_by_one(&mut file)),
        }?;
        Ok(Self { info, part, one_by_one })
    }
}

/// Reads the graph at `path` in every way that it is read, and keeps nothing: what the fuzzer calls, which must not call the runtime.
///
/// # Errors
/// See [`Reading::of`].
#[doc(hidden)]
pub fn read_graph(path: &Path) -> io::Result<()> {
    for (tower, feed) in [(Tower::Vision, Feed::AsIs), (Tower::Vision, Feed::Floats), (Tower::Text, Feed::AsIs)] {
        Reading::of(path, tower, feed)?;
    }
    Ok(())
}
