//! What is read from files, and read again when they change, without a restart.
//!
//! Owns the looking: one thread for all files of a process, which asks the system once a second what it knows of each. Does not own
//! what stands in a file, nor who uses it.
//!
//! Looked at is the file that a path leads to, so a link that is turned to another file (a Kubernetes secret) is a change like any other.
//! A change counts when it has stood still from one look to the next: who writes a file in pieces, or two files that belong together, is
//! given the time to be done.
//!
//! Invariants: who uses a value never waits for a file; a file that is refused changes nothing, is said once for each change, and shows in
//! a metric until it is good again.

use std::{
    fmt::{self, Display},
    fs,
    io::{self, Read as _},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock, mpsc},
    thread,
    time::Duration,
};

use crate::{
    regular,
    telemetry::{FileKind, Metrics},
};

/// Between two looks.
const PERIOD: Duration = Duration::from_secs(1);

/// A value that is replaced as a whole.
#[derive(Debug)]
pub struct Current<T>(RwLock<Arc<T>>);

impl<T> Current<T> {
    /// `value`, until it is replaced.
    pub fn new(value: T) -> Self {
        Self(RwLock::new(Arc::new(value)))
    }

    /// The value as it is now.
    pub fn get(&self) -> Arc<T> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn set(&self, value: T) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(value);
    }
}

/// The bytes of a file, at most so many, and its mode. Never waits for somebody who writes.
///
/// # Errors
/// In words, when it is no regular file, is longer, or cannot be read.
pub fn contents(path: &Path, most: u64) -> Result<(Vec<u8>, u32), String> {
    let words = |error: io::Error| error.to_string();
    let (file, metadata) = regular::open(path).map_err(words)?;
    let mut bytes = Vec::new();
    file.take(most + 1).read_to_end(&mut bytes).map_err(words)?;
    if bytes.len() as u64 > most {
        return Err(format!("it has more than {most} bytes"));
    }
    Ok((bytes, metadata.permissions().mode()))
}

/// Files that are looked at.
pub struct Watched {
    kind: FileKind,
    paths: Vec<PathBuf>,
    /// As they were when they were last read.
    read: Vec<Stamp>,
    /// As they were at the last look, where that is something else.
    changed: Option<Vec<Stamp>>,
    /// Reads them again; the reason where that changes nothing.
    again: Box<dyn Fn() -> Result<(), String> + Send>,
}

impl fmt::Debug for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watched").field("kind", &self.kind).field("paths", &self.paths).finish_non_exhaustive()
    }
}

/// What the system knows of a file; `None` where there is none that can be looked at.
type Stamp = Option<[i64; 7]>;

/// Reads `paths` by `read`, which is given what was read before, where something was; the value as it is at any time, and what a
/// [`Watcher`] reads again.
///
/// # Errors
/// Those of `read`, the first time.
pub fn read_and_watch<T, E>(
    kind: FileKind,
    paths: Vec<PathBuf>,
    read: impl Fn(Option<&T>) -> Result<T, E> + Send + 'static,
) -> Result<(Arc<Current<T>>, Watched), E>
where
    T: Send + Sync + 'static,
    E: Display,
{
    // Before they are read: what changes from here on is seen.
    let stamps = stamps(&paths);
    let current = Arc::new(Current::new(read(None)?));
    let shared = Arc::clone(&current);
    let again = move || {
        shared.set(read(Some(&shared.get())).map_err(|error| error.to_string())?);
        Ok(())
    };
    Ok((current, Watched { kind, paths, read: stamps, changed: None, again: Box::new(again) }))
}

impl Watched {
    /// Reads the files again where they have changed and stood still since the last look.
    fn look(&mut self, metrics: &Metrics) {
        let now = stamps(&self.paths);
        if now == self.read {
            self.changed = None;
            return;
        }
        if self.changed.as_ref() != Some(&now) {
            self.changed = Some(now);
            return;
        }
        (self.read, self.changed) = (now, None);
        let outcome = (self.again)();
        metrics.file_read_again(self.kind, outcome.is_ok());
        match outcome {
            Ok(()) => tracing::info!("{} changed: read again, and in use", self.kind),
            Err(reason) => {
                tracing::error!("{} changed and cannot be used, what was read before stays: {reason}", self.kind)
            }
        }
    }
}

fn stamps(paths: &[PathBuf]) -> Vec<Stamp> {
    let stamp = |path: &PathBuf| {
        let known = fs::metadata(path).ok()?;
        let (device, inode, size) = (known.dev() as i64, known.ino() as i64, known.size() as i64);
        Some([device, inode, size, known.mtime(), known.mtime_nsec(), known.ctime(), known.ctime_nsec()])
    };
    paths.iter().map(stamp).collect()
}

/// The thread that looks. It ends with this value.
#[derive(Debug)]
pub struct Watcher {
    _end: mpsc::Sender<()>,
}

impl Watcher {
    /// Looks at `files` from now on; `None` where there are none.
    ///
    /// # Errors
    /// When the system has no thread to give.
    pub fn start(mut files: Vec<Watched>, metrics: Arc<Metrics>) -> io::Result<Option<Self>> {
        if files.is_empty() {
            return Ok(None);
        }
        let (end, ended) = mpsc::channel::<()>();
        let body = move || {
            while ended.recv_timeout(PERIOD) == Err(mpsc::RecvTimeoutError::Timeout) {
                files.iter_mut().for_each(|file| file.look(&metrics));
            }
        };
        thread::Builder::new().name("watch".to_owned()).spawn(body)?;
        Ok(Some(Self { _end: end }))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn watched(path: &Path) -> (Arc<Current<String>>, Watched) {
        let file = path.to_owned();
        let read = move |_: Option<&String>| match fs::read_to_string(&file) {
            Ok(text) if text.starts_with("bad") => Err("it is bad".to_owned()),
            Ok(text) => Ok(text),
            Err(error) => Err(error.to_string()),
        };
        read_and_watch(FileKind::ApiKeys, vec![path.to_owned()], read).expect("readable")
    }

    #[test]
    fn a_change_is_read_when_it_has_stood_still_and_a_bad_one_leaves_what_was() {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, metrics) = (folder.path().join("file"), Metrics::new());
        fs::write(&path, "one").expect("written");
        let (value, mut file) = watched(&path);
        let series = |name: &str| metrics.render().0.lines().any(|line| line == name);
        file.look(&metrics);
        fs::write(&path, "two and more").expect("written");
        file.look(&metrics);
        assert_eq!(*value.get(), "one", "it may still be written to");
        fs::write(&path, "two and more still").expect("written");
        file.look(&metrics);
        assert_eq!(*value.get(), "one", "it was");
        file.look(&metrics);
        assert_eq!(*value.get(), "two and more still");
        assert!(series("clipserve_file_reloads_total{file=\"api_keys\",outcome=\"ok\"} 1"), "{}", metrics.render().0);

        fs::write(&path, "bad").expect("written");
        (0..5).for_each(|_| file.look(&metrics));
        assert_eq!(*value.get(), "two and more still");
        assert!(series("clipserve_file_reloads_total{file=\"api_keys\",outcome=\"refused\"} 1"), "said once");
        assert!(series("clipserve_file_refused{file=\"api_keys\"} 1"));

        fs::remove_file(&path).expect("removed");
        (0..5).for_each(|_| file.look(&metrics));
        assert_eq!(*value.get(), "two and more still");
        assert!(series("clipserve_file_reloads_total{file=\"api_keys\",outcome=\"refused\"} 2"));

        fs::write(&path, "three").expect("written");
        (0..2).for_each(|_| file.look(&metrics));
        assert_eq!(*value.get(), "three");
        assert!(series("clipserve_file_refused{file=\"api_keys\"} 0"));
    }

    #[test]
    fn a_named_pipe_holds_nobody_up() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&path).status().expect("mkfifo");
        assert!(made.success());
        assert_eq!(contents(&path, 10), Err("it is no regular file".to_owned()));
        assert_eq!(contents(folder.path(), 10), Err("it is no regular file".to_owned()));
    }

    #[test]
    fn a_link_that_is_turned_is_a_change() {
        // As in a Kubernetes secret: the file is a link into `..data`, which is a link to the folder of one version.
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        for version in ["one", "two"] {
            fs::create_dir(at(version)).expect("a folder");
            fs::write(at(version).join("keys"), version).expect("written");
        }
        symlink("one", at("..data")).expect("a link");
        symlink("..data/keys", at("keys")).expect("a link");
        let (value, mut file) = watched(&at("keys"));
        assert_eq!(*value.get(), "one");
        symlink("two", at("..new")).expect("a link");
        fs::rename(at("..new"), at("..data")).expect("turned");
        (0..2).for_each(|_| file.look(&Metrics::new()));
        assert_eq!(*value.get(), "two");
    }
}
