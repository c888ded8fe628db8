//! One file from the hub to its blob: resumed where it was left, checked, and named when it is whole.
//!
//! Owns the partial file `blobs/<etag>.incomplete`. Does not own the protocol (`client`) or where things are (`cache`).
//!
//! Invariants: one process at a time writes a partial file (its lock is held); every byte of a blob has gone through its hash,
//! also those that an earlier process left; a blob is on disk before it has its name.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, Write},
    path::Path,
};

use super::{
    HubError,
    cache::RepoCache,
    client::{Client, RemoteFile},
    etag::Check,
    progress::Progress,
};

const CHUNK: usize = 256 << 10;

/// Brings `file` of `commit` into the cache, unless its blob is there.
pub(super) fn fetch(
    client: &Client,
    cache: &RepoCache,
    commit: &str,
    file: &RemoteFile,
    progress: &mut Progress,
) -> Result<(), HubError> {
    progress.file(&file.name);
    let blob = cache.blob(file.etag.as_str());
    let _lock = cache.lock(file.etag.as_str())?;
    if blob.is_file() {
        progress.advance(file.size);
        return Ok(());
    }
    let partial_path = cache.blob(&format!("{}.incomplete", file.etag.as_str()));
    let mut partial = Partial::open(&partial_path, file)?;
    progress.advance(partial.done);
    if partial.done > 0 {
        tracing::info!(file = file.name, from = partial.done, of = file.size, "resuming a download");
    }
    let mut inherited = partial.done > 0;
    loop {
        transfer(client, commit, file, &mut partial, progress)?;
        if partial.is_right(file) {
            break;
        }
        progress.take_back(partial.done);
        if !inherited {
            drop(partial);
            fs::remove_file(&partial_path).map_err(HubError::storage(&partial_path))?;
            return Err(HubError::Corrupt { file: file.name.clone(), etag: file.etag.as_str().to_owned() });
        }
        // What an earlier process left was damaged (a crash of the machine can do that): once more, all of it.
        tracing::warn!(file = file.name, "what was downloaded earlier is damaged; starting over");
        partial.restart(file)?;
        inherited = false;
    }
    partial.file.sync_all().map_err(|error| partial.fault(file, &error))?;
    fs::rename(&partial_path, &blob).map_err(HubError::storage(&blob))
}

/// Fills `partial` up to the size of `file`, with as many requests as it takes.
fn transfer(
    client: &Client,
    commit: &str,
    file: &RemoteFile,
    partial: &mut Partial<'_>,
    progress: &mut Progress,
) -> Result<(), HubError> {
    let mut retries = client.retries();
    while partial.done < file.size {
        let before = partial.done;
        let outcome = client.open(commit, &file.name, partial.done).and_then(|(start, body)| {
            if start != partial.done {
                progress.take_back(partial.done);
                partial.restart(file)?;
            }
            partial.fill(body, file, progress)
        });
        if partial.done > before {
            retries.reset();
        }
        if let Err(error) = outcome {
            retries.after(error)?;
        }
    }
    Ok(())
}

/// A partial file, opened.
struct Partial<'a> {
    path: &'a Path,
    file: File,
    /// Its length; everything up to here is in `check`.
    done: u64,
    check: Check,
}

impl<'a> Partial<'a> {
    /// Opens or makes the file at `path`, and hashes what is there.
    fn open(path: &'a Path, remote: &RemoteFile) -> Result<Self, HubError> {
        let open = || -> io::Result<Self> {
            let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
            if file.metadata()?.len() > remote.size {
                file.set_len(0)?;
            }
            let mut check = remote.etag.check(remote.size);
            let (mut done, mut chunk) = (0, vec![0; CHUNK]);
            loop {
                let read = file.read(&mut chunk)?;
                if read == 0 {
                    return Ok(Self { path, file, done, check });
                }
                check.update(chunk.get(..read).unwrap_or_default());
                done += read as u64;
            }
        };
        open().map_err(HubError::storage(path))
    }

    fn restart(&mut self, remote: &RemoteFile) -> Result<(), HubError> {
        self.file.set_len(0).and_then(|()| self.file.rewind()).map_err(HubError::storage(self.path))?;
        self.done = 0;
        self.check = remote.etag.check(remote.size);
        Ok(())
    }

    /// Appends `body`, of which no more is read than the file is announced to have.
    fn fill(&mut self, body: impl Read, remote: &RemoteFile, progress: &mut Progress) -> Result<(), HubError> {
        let mut body = body.take(remote.size - self.done);
        let mut chunk = vec![0; CHUNK];
        let cut = |reason: String| HubError::Unavailable { url: remote.name.clone(), reason };
        while self.done < remote.size {
            let read = body.read(&mut chunk).map_err(|error| cut(error.to_string()))?;
            if read == 0 {
                return Err(cut(format!("the transfer ended after {} of {} bytes", self.done, remote.size)));
            }
            let bytes = chunk.get(..read).unwrap_or_default();
            if let Err(error) = self.file.write_all(bytes) {
                let fault = self.fault(remote, &error);
                // So that the length and the hash agree again with what is there, for whoever resumes.
                let _ = self.file.set_len(self.done);
                return Err(fault);
            }
            self.check.update(bytes);
            self.done += read as u64;
            progress.advance(read as u64);
        }
        Ok(())
    }

    /// Whether what is there is what the hub says. Starts the check anew.
    fn is_right(&mut self, remote: &RemoteFile) -> bool {
        std::mem::replace(&mut self.check, remote.etag.check(remote.size)).finish() == remote.etag
    }

    /// A write that the system refused.
    fn fault(&self, remote: &RemoteFile, error: &io::Error) -> HubError {
        HubError::Write {
            file: remote.name.clone(),
            path: self.path.to_owned(),
            done: self.done,
            size: remote.size,
            reason: error.to_string(),
        }
    }
}
