//! What a path is: a folder, a picture, a tar, a Parquet file, JSON lines or a text file.
//!
//! Owns that choice, and sending what is there. Does not own any kind's reading, each of which has a file of its own.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{
    file::{Limits, read_picture},
    folder::Folder,
    names,
    own::Own,
    records, shard,
    table::Table,
    texts,
};
use crate::bulk::{
    options::{Columns, Modalities},
    sample::{Sample, Sink, Stop},
    suffix::{self, Kind},
};

/// What is read of every place.
#[derive(Clone, Copy, Debug)]
pub(in crate::bulk) struct Asked<'a> {
    /// What is embedded.
    pub(in crate::bulk) modality: Modalities,
    /// The columns.
    pub(in crate::bulk) columns: &'a Columns,
    /// What is left out.
    pub(in crate::bulk) own: &'a Own,
}

/// A place of samples.
#[derive(Debug)]
pub(super) enum Place {
    Folder(Folder),
    Picture(PathBuf),
    Shard(PathBuf),
    Table(Table),
    Records(PathBuf),
    Texts(PathBuf),
    /// What cannot be read, which is known already.
    Lost {
        path: PathBuf,
        error: String,
    },
}

impl Place {
    /// What is at `path`, which the command line names.
    ///
    /// # Errors
    /// One line that names it: there is nothing, it is of no kind that is read, or the run's own.
    pub(super) fn named(path: &Path, asked: &Asked<'_>) -> Result<Self, String> {
        let metadata = match fs::metadata(path) {
            Ok(metadata) => metadata,
            Err(error) => {
                let error = match names::taken_for(&path.to_string_lossy()) {
                    Some(why) if error.kind() == io::ErrorKind::NotFound => format!("{}: {why}", path.display()),
                    _ => format!("{}: {error}", path.display()),
                };
                // A link that leads nowhere is there: a row, as in a folder.
                let is_link = fs::symlink_metadata(path).is_ok_and(|file| file.is_symlink());
                return if is_link { Ok(Self::Lost { path: path.to_owned(), error }) } else { Err(error) };
            }
        };
        asked.own.must_not_have(path)?;
        if metadata.is_dir() {
            return Folder::open(path, asked.modality, asked.own).map(Self::Folder);
        }
        if !metadata.is_file() {
            return Err(format!("{}: it is neither a regular file nor a folder", path.display()));
        }
        let kind = Kind::of(path).ok_or_else(|| {
            if suffix::is_compressed_tar(path) {
                return format!("{}: {}", path.display(), suffix::COMPRESSED_TAR);
            }
            format!(
                "{}: its suffix says not what it is; a source is a folder or one of {}",
                path.display(),
                suffix::known()
            )
        })?;
        Self::of_kind(kind, path, asked)
    }

    /// What is at `path`, a line of a list: a picture wherever its name does not say otherwise.
    ///
    /// # Errors
    /// As [`Self::named`]; that a picture can be read is seen when its turn comes.
    pub(super) fn listed(path: &str, asked: &Asked<'_>) -> Result<Self, String> {
        if names::is_web_address(path) {
            return Err(format!("it is {}", names::WEB_ADDRESS));
        }
        let path = Path::new(path);
        asked.own.must_not_have(path)?;
        match Kind::of(path) {
            Some(kind) => Self::of_kind(kind, path, asked),
            None if suffix::is_compressed_tar(path) => Err(suffix::COMPRESSED_TAR.to_owned()),
            None if path.is_dir() => Folder::open(path, asked.modality, asked.own).map(Self::Folder),
            None => Ok(Self::Picture(path.to_owned())),
        }
    }

    fn of_kind(kind: Kind, path: &Path, asked: &Asked<'_>) -> Result<Self, String> {
        Ok(match kind {
            Kind::Picture => Self::Picture(path.to_owned()),
            Kind::Shard => Self::Shard(path.to_owned()),
            Kind::Table => Self::Table(Table::open(path, asked.modality, asked.columns)?),
            Kind::Records => Self::Records(path.to_owned()),
            Kind::Texts if !asked.modality.has_texts() => {
                return Err(format!(
                    "{}: each of its lines is a text, and pictures alone are embedded; a list of paths is given by --from-file",
                    path.display()
                ));
            }
            Kind::Texts => Self::Texts(path.to_owned()),
        })
    }

    /// How many samples it has, where that is known before it is read.
    pub(super) fn len(&self) -> Option<u64> {
        match self {
            Self::Folder(folder) => Some(folder.len()),
            Self::Picture(_) | Self::Lost { .. } => Some(1),
            Self::Table(table) => Some(table.len()),
            Self::Shard(_) | Self::Records(_) | Self::Texts(_) => None,
        }
    }

    /// Whether it is a file that many samples are in.
    pub(super) fn is_file_of_many(&self) -> bool {
        !matches!(self, Self::Folder(_) | Self::Picture(_))
    }

    /// Sends its samples.
    ///
    /// # Errors
    /// When the sink says so.
    pub(super) fn send(&self, asked: &Asked<'_>, sink: &mut dyn Sink, limits: Limits) -> Result<(), Stop> {
        match self {
            Self::Folder(folder) => folder.send(sink, limits),
            Self::Picture(path) => send_picture(path, sink, limits),
            Self::Shard(path) => shard::send(path, asked.modality, sink, limits),
            Self::Table(table) => table.send(sink, limits),
            Self::Records(path) => records::send(path, asked.modality, asked.columns, sink, limits),
            Self::Texts(path) => texts::send(path, sink, limits),
            Self::Lost { path, error } => send_lost(path, error, sink),
        }
    }
}

fn send_lost(path: &Path, error: &str, sink: &mut dyn Sink) -> Result<(), Stop> {
    let id = names::id(path);
    let Some(ticket) = sink.ticket(&id)? else { return Ok(()) };
    sink.send(ticket, Sample::unreadable(id.clone(), Some(id), error.to_owned()))
}

fn send_picture(path: &Path, sink: &mut dyn Sink, limits: Limits) -> Result<(), Stop> {
    let id = names::id(path);
    let Some(ticket) = sink.ticket(&id)? else { return Ok(()) };
    let mut sample = Sample { path: Some(id.clone()), id, ..Sample::default() };
    sample.picture = sample.take_picture(read_picture(path, limits));
    sink.send(ticket, sample)
}
