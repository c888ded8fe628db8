//! What a folder of output is, and how far it is: `run.json`, `parts.jsonl` and `errors.jsonl`.
//!
//! Owns these three files and the lock of the folder. Does not own the parts themselves (`output`).
//!
//! | file | holds |
//! |---|---|
//! | `run.json` | what the output depends on: the model and the arguments |
//! | `parts.jsonl` | a line for each complete part, and one at the end |
//! | `errors.jsonl` | a line for each row without its embedding |
//!
//! Invariants: a part is complete when its line is, and its line is written when its files and its errors are on disk under their names;
//! whatever else is there is written anew. One process at a time has the folder. A run whose record is another one is refused.

use std::{
    borrow::Cow,
    fs::{self, File, OpenOptions},
    io::{self, BufReader, BufWriter, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{error::BulkError, json, output::Written, row::Row, sample::Chain};
use crate::{
    model::lock::{self, Lock},
    regular,
};

/// What makes a folder a run's.
pub(super) const RUN: &str = "run.json";
/// What every record has.
pub(super) const LAYOUT: &str = "layout";

/// Keys that differ because another one does, where another one does: what is said of a difference is its reason.
const FOLLOWING: [&str; 2] = ["fingerprint", "int8_scale"];
const PARTS: &str = "parts.jsonl";
const ERRORS: &str = "errors.jsonl";
const LOCK: &str = ".lock";

/// A line of `parts.jsonl`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Entry {
    /// A part is complete.
    Part {
        /// Its number, from 0.
        number: u64,
        rows: u64,
        /// Of them, those without their embedding.
        errors: u64,
        /// The length of `errors.jsonl` with its errors.
        errors_bytes: u64,
        /// Of all samples up to its last.
        chain: String,
        files: Vec<PartFile>,
    },
    /// There are no more parts.
    End {
        /// How many there are.
        parts: u64,
    },
}

/// A file of a complete part.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct PartFile {
    /// Below the folder, the name that it was given first.
    path: PathBuf,
    bytes: u64,
}

impl PartFile {
    /// The name that it was given first, below the run's folder.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Looks whether the file, which is at `path` now, is there and as long as it was.
    ///
    /// # Errors
    /// [`BulkError::Out`].
    pub(super) fn must_be_whole(&self, path: &Path) -> Result<(), BulkError> {
        let bytes = match fs::metadata(path) {
            Ok(metadata) => metadata.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let path = path.display();
                return Err(BulkError::Out(format!("{path}: it was complete and is gone; give another --out")));
            }
            Err(error) => return Err(BulkError::at(path, error)),
        };
        if bytes == self.bytes {
            return Ok(());
        }
        Err(BulkError::Out(format!(
            "{}: the file has {bytes} bytes, and had {} when it was complete; give another --out",
            path.display(),
            self.bytes
        )))
    }
}

/// A line of `errors.jsonl`.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ErrorLine<'a> {
    row: u64,
    /// What it is known by.
    pub(super) id: Cow<'a, str>,
    /// Where its picture came from.
    pub(super) path: Option<Cow<'a, str>>,
    /// Why it has no embedding.
    pub(super) error: Cow<'a, str>,
}

/// How far a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Done {
    /// Complete parts.
    pub(super) parts: u64,
    /// Their rows.
    pub(super) rows: u64,
    /// Of them, those without their embedding.
    pub(super) errors: u64,
    /// Of all their samples.
    pub(super) chain: Chain,
    /// Whether there are no more.
    pub(super) ended: bool,
    errors_bytes: u64,
}

/// The folder of one run, which this process has.
#[derive(Debug)]
pub(super) struct Journal {
    root: PathBuf,
    parts: File,
    errors: BufWriter<File>,
    /// The length of `errors.jsonl` with what is of no complete part yet.
    errors_bytes: u64,
    done: Done,
    files: Vec<PartFile>,
    _lock: Lock,
}

impl Journal {
    /// Takes the folder for the run that `record` describes, whose keys are what an operator knows them by.
    ///
    /// # Errors
    /// [`BulkError::Out`]: another process has it, it is of another run, or it holds what is of none.
    pub(super) fn open(root: &Path, record: &Map<String, Value>) -> Result<Self, BulkError> {
        fs::create_dir_all(root).map_err(|error| BulkError::at(root, error))?;
        let run = root.join(RUN);
        if !run.exists() {
            must_be_empty(root)?;
        }
        let lock_path = root.join(LOCK);
        let lock = lock::try_lock(&lock_path).map_err(|error| BulkError::at(&lock_path, error))?;
        let lock =
            lock.ok_or_else(|| BulkError::Out(format!("{}: another process is writing there", root.display())))?;
        match read_whole(&run) {
            Ok(bytes) => must_be_the_same(root, &bytes, record)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => write_record(&run, record)?,
            Err(error) => return Err(BulkError::at(&run, error)),
        }
        let (parts_path, errors_path) = (root.join(PARTS), root.join(ERRORS));
        let mut parts = open(&parts_path)?;
        let (done, files) = read(root, &mut parts, &parts_path)?;
        must_hold(&errors_path, done.errors_bytes)?;
        let mut errors = open(&errors_path)?;
        let cut = errors.set_len(done.errors_bytes).and_then(|()| errors.seek(SeekFrom::End(0)));
        cut.map_err(|error| BulkError::at(&errors_path, error))?;
        let (errors, errors_bytes) = (BufWriter::new(errors), done.errors_bytes);
        Ok(Self { root: root.to_owned(), parts, errors, errors_bytes, done, files, _lock: lock })
    }

    /// How far the run is.
    pub(super) fn done(&self) -> Done {
        self.done
    }

    /// The files of all complete parts.
    pub(super) fn files(&self) -> &[PartFile] {
        &self.files
    }

    /// Where errors are written.
    pub(super) fn errors_file(&self) -> PathBuf {
        self.root.join(ERRORS)
    }

    /// Gives `take` the errors of all complete parts, in order, one at a time.
    ///
    /// # Errors
    /// [`BulkError::Out`].
    pub(super) fn each_error(&self, mut take: impl FnMut(&ErrorLine<'_>)) -> Result<(), BulkError> {
        let path = self.root.join(ERRORS);
        let (file, _) = regular::open(&path).map_err(|error| BulkError::at(&path, error))?;
        let file = BufReader::new(file.take(self.done.errors_bytes));
        for line in serde_json::Deserializer::from_reader(file).into_iter::<ErrorLine<'static>>() {
            take(&line.map_err(|error| BulkError::at(&path, error))?);
        }
        Ok(())
    }

    /// Takes down why row `number` lacks its embedding.
    ///
    /// # Errors
    /// [`BulkError::Out`].
    pub(super) fn error(&mut self, number: u64, row: &Row) -> Result<(), BulkError> {
        let line = ErrorLine {
            row: number,
            id: row.id.as_str().into(),
            path: row.path.as_deref().map(Into::into),
            error: row.error.as_deref().unwrap_or_default().into(),
        };
        let text = json::line(&line).map_err(|error| BulkError::at(&self.root, error))?;
        self.errors_bytes += text.len() as u64;
        self.errors.write_all(text.as_bytes()).map_err(|error| BulkError::at(&self.root.join(ERRORS), error))
    }

    /// The next part is complete: `rows` rows, `errors` of them without their embedding, in `files`, which get their names here.
    ///
    /// # Errors
    /// [`BulkError::Out`]; then it is not complete.
    pub(super) fn part(&mut self, rows: u64, errors: u64, chain: Chain, files: &[Written]) -> Result<(), BulkError> {
        let errors_path = self.root.join(ERRORS);
        let on_disk = self.errors.flush().and_then(|()| self.errors.get_ref().sync_all());
        on_disk.map_err(|error| BulkError::at(&errors_path, error))?;
        files.iter().try_for_each(Written::publish)?;
        let file = |file: &Written| {
            let path = file.path().strip_prefix(&self.root).unwrap_or(file.path()).to_owned();
            PartFile { path, bytes: file.bytes() }
        };
        let files: Vec<_> = files.iter().map(file).collect();
        let entry = Entry::Part {
            number: self.done.parts,
            rows,
            errors,
            errors_bytes: self.errors_bytes,
            chain: chain.to_hex(),
            files: files.clone(),
        };
        self.append(&entry)?;
        self.done.parts += 1;
        self.done.rows += rows;
        self.done.errors += errors;
        self.done.errors_bytes = self.errors_bytes;
        self.done.chain = chain;
        self.files.extend(files);
        Ok(())
    }

    /// There are no more parts. Said once, however often a run is started again.
    ///
    /// # Errors
    /// [`BulkError::Out`].
    pub(super) fn end(&mut self) -> Result<(), BulkError> {
        if self.done.ended {
            return Ok(());
        }
        self.append(&Entry::End { parts: self.done.parts })?;
        self.done.ended = true;
        Ok(())
    }

    fn append(&mut self, entry: &Entry) -> Result<(), BulkError> {
        let path = self.root.join(PARTS);
        let line = json::line(entry).map_err(|error| BulkError::at(&path, error))?;
        let written = self.parts.write_all(line.as_bytes()).and_then(|()| self.parts.sync_all());
        written.map_err(|error| BulkError::at(&path, error))
    }
}

fn read_whole(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    regular::open(path)?.0.read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn open(path: &Path) -> Result<File, BulkError> {
    // Neither another file by a link nor a pipe that waits for its other end.
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).custom_flags(flags).open(path);
    opened.map_err(|error| BulkError::at(path, error))
}

/// The lines of `parts.jsonl` up to the first that is cut off; what follows them is cut off.
fn read(root: &Path, parts: &mut File, path: &Path) -> Result<(Done, Vec<PartFile>), BulkError> {
    let at = |error: io::Error| BulkError::at(path, error);
    let mut text = Vec::new();
    parts.read_to_end(&mut text).map_err(at)?;
    let mut done = Done { parts: 0, rows: 0, errors: 0, chain: Chain::EMPTY, ended: false, errors_bytes: 0 };
    let (mut files, mut whole) = (Vec::new(), 0);
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        let Some(entry) = line.strip_suffix(b"\n").and_then(|line| serde_json::from_slice::<Entry>(line).ok()) else {
            break;
        };
        match entry {
            Entry::Part { number, rows, errors, errors_bytes, chain, files: of_part } => {
                let Some(chain) = Chain::from_hex(&chain).filter(|_| number == done.parts) else { break };
                let parts = number + 1;
                done = Done {
                    parts,
                    rows: done.rows + rows,
                    errors: done.errors + errors,
                    chain,
                    ended: false,
                    errors_bytes,
                };
                files.push(of_part);
            }
            Entry::End { parts } => done.ended = parts == done.parts,
        }
        whole += line.len() as u64;
    }
    parts.set_len(whole).and_then(|()| parts.seek(SeekFrom::Start(whole))).map_err(at)?;
    let files: Vec<PartFile> = files.into_iter().flatten().collect();
    if !done.ended {
        // A part that somebody took away is not made again: what is behind it would have to go. Those of a run that has come to its end
        // may have got their last names.
        files.iter().try_for_each(|file| file.must_be_whole(&root.join(&file.path)))?;
    }
    Ok((done, files))
}

/// `errors.jsonl` has what the complete parts wrote, or it is another hand's work.
fn must_hold(path: &Path, bytes: u64) -> Result<(), BulkError> {
    let has = match fs::metadata(path) {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
        Err(error) => return Err(BulkError::at(path, error)),
    };
    if has >= bytes {
        return Ok(());
    }
    Err(BulkError::Out(format!(
        "{}: it has {has} bytes, and the complete parts wrote {bytes}; put it back, or give another --out",
        path.display()
    )))
}

/// A folder that is to become a run's holds nothing, but for what one that was killed at its start has left.
fn must_be_empty(root: &Path) -> Result<(), BulkError> {
    for entry in fs::read_dir(root).map_err(|error| BulkError::at(root, error))? {
        let name = entry.map_err(|error| BulkError::at(root, error))?.file_name();
        if name != LOCK && name != partial(RUN).as_str() {
            return Err(BulkError::usage_of_out(format!(
                "{}: the folder is not empty, and no `clipserve embed` has made it; give another",
                root.display()
            )));
        }
    }
    Ok(())
}

fn must_be_the_same(root: &Path, bytes: &[u8], record: &Map<String, Value>) -> Result<(), BulkError> {
    let made = serde_json::from_slice::<Map<String, Value>>(bytes).ok().filter(|made| made.contains_key(LAYOUT));
    let Some(made) = made else {
        return Err(BulkError::usage_of_out(format!(
            "{}: no `clipserve embed` has made its {RUN}; give another folder",
            root.display()
        )));
    };
    let differs = |key: &&String| made.get(*key) != record.get(*key);
    let different: Vec<_> = record.keys().chain(made.keys()).filter(differs).collect();
    let says_why = |key: &&&String| !FOLLOWING.contains(&key.as_str());
    let Some(&key) = different.iter().find(says_why).or(different.first()) else { return Ok(()) };
    let shown = |value: Option<&Value>| value.map_or("nothing".to_owned(), Value::to_string);
    let name = if key == "model" { ", the model's name among them (--set model.name=...)" } else { "" };
    Err(BulkError::usage_of_out(format!(
        "{}: it was made with {key} {}, and this run has {}; give the same arguments{name}, or another folder",
        root.display(),
        shown(made.get(key)),
        shown(record.get(key))
    )))
}

fn partial(name: &str) -> String {
    format!(".{name}.partial")
}

fn write_record(path: &Path, record: &Map<String, Value>) -> Result<(), BulkError> {
    let at = |error: io::Error| BulkError::at(path, error);
    let text = json::page(record).map_err(|error| at(error.into()))?;
    lock::replace(path, &path.with_file_name(partial(RUN)), text.as_bytes()).map_err(at)
}

#[cfg(test)]
mod tests;
