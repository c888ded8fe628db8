//! The SHA-256 of the files that a model is made of, without reading gigabytes anew at every start.
//!
//! Owns by what a file is recognised. Does not own what its hash is for (`fingerprint`, `export`). A file is, in this order,
//!
//! 1. one of our own export, whose record (`checksums`) has its hash: it is read once, by all cores, to see that it is whole, at once or
//!    beside what else a start does with it ([`Digests::deferring`]);
//! 2. one that was hashed before, and by its length, its inode and the times of its last changes is the same: it is not read;
//! 3. hashed, and remembered below the cache's folder, where it is large enough to be worth it.
//!
//! Invariants: no file is read twice in one start, but where one is damaged; a file that was changed less than [`RACY`] before it was read is not remembered
//! (git's rule: what is changed again within the tick of the file system's clock looks the same), nor is one that changed meanwhile;
//! a memory that cannot be read or written costs time and nothing else.

use std::{
    collections::HashMap,
    fs::{self, File, Metadata},
    io,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

use super::{
    checksums::{CHECKSUMS_FILE, Checksum, Checksums},
    lock::replace,
    sha256::FileDigest,
};

/// The folder of what is remembered, below the cache's.
const FOLDER: &str = "digests";

/// Bytes from which on a file is remembered: it takes some 10 ms to hash.
const LARGE: u64 = 16 << 20;

/// Bytes from which on a file of an export may be checked later: a graph has a hundred kilobytes, and is parsed by whoever opens it.
const DEFERRED: u64 = 1 << 20;

/// The coarsest clock of a file system that is in use: FAT counts in steps of two seconds.
const RACY: Duration = Duration::from_secs(2);

/// Bytes of what is remembered of a file, which holds its path.
const MAX_BYTES: u64 = 64 << 10;

/// Why a file has no digest.
#[derive(Debug, thiserror::Error)]
pub enum DigestError {
    /// It cannot be read.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It is of an export, and not what was exported.
    #[error(
        "it is not what was exported: its contents have another checksum than {CHECKSUMS_FILE} beside it says; export the checkpoint \
         again, or remove {CHECKSUMS_FILE} if the change was meant"
    )]
    Damaged,
}

/// The digests of files, as far as they were asked for or are remembered.
#[derive(Debug, Default)]
pub struct Digests {
    folder: Option<PathBuf>,
    known: Mutex<HashMap<PathBuf, FileDigest>>,
    /// The files that are taken at their record's word until they are checked; `None` where each is checked when it is asked for.
    unchecked: Option<Mutex<HashMap<PathBuf, Checksum>>>,
}

/// What is remembered of a file.
#[derive(Debug, Deserialize, PartialEq, Eq, Serialize)]
struct Remembered {
    path: PathBuf,
    state: State,
    sha256: FileDigest,
}

/// By what a file is recognised.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
struct State {
    bytes: u64,
    inode: u64,
    /// Of its contents, nanoseconds since 1970.
    modified: i128,
    /// Of its contents or of what the file system says of it, nanoseconds since 1970; nobody can set it.
    changed: i128,
}

impl Digests {
    /// Remembers below `cache_dir`; nothing where there is none.
    pub fn new(cache_dir: Option<&Path>) -> Self {
        Self { folder: cache_dir.map(|dir| dir.join(FOLDER)), ..Self::default() }
    }

    /// As [`Self::new`], but of what holds the weights of an export only the length is looked at (by `DEFERRED`): whoever asks may open it,
    /// and must not serve from it before [`Self::check_deferred`] has found it whole.
    pub fn deferring(cache_dir: Option<&Path>) -> Self {
        Self { unchecked: Some(Mutex::default()), ..Self::new(cache_dir) }
    }

    /// Reads what was taken at its record's word.
    ///
    /// # Errors
    /// Of the first file that cannot be read or is damaged.
    pub fn check_deferred(&self) -> Result<(), DigestError> {
        let unchecked = self.unchecked.as_ref().map(|files| std::mem::take(&mut *lock(files)));
        unchecked.into_iter().flatten().try_for_each(|(path, checksum)| check(&checksum, &path))
    }

    /// Those of the file at `path`.
    ///
    /// # Errors
    /// When it cannot be read, or is a damaged file of an export.
    pub fn sha256(&self, path: &Path) -> Result<FileDigest, DigestError> {
        let path = &path.canonicalize()?;
        if let Some(known) = self.known().get(path) {
            return Ok(*known);
        }
        let digest = match recorded(path) {
            Some(checksum) => self.exported(path, checksum)?,
            None => self.of_contents(path)?,
        };
        self.known().insert(path.clone(), digest);
        Ok(digest)
    }

    /// Looks whether the files of the export in `folder` are those of its record, and whole.
    ///
    /// # Errors
    /// When one cannot be read, is not there, or is damaged; when there is no record, for then nobody knows what else is missing.
    pub fn check_export(&self, folder: &Path) -> Result<(), DigestError> {
        let record = Checksums::read(folder).ok_or(DigestError::Damaged)?;
        record.iter().try_for_each(|(name, _)| self.sha256(&folder.join(name)).map(|_| ()))
    }

    /// Takes the record in `folder` at its word: this process has just written what it is of.
    pub fn take_over(&self, folder: &Path) {
        // What cannot be found now is read when it is asked for.
        let (Ok(folder), Some(record)) = (folder.canonicalize(), Checksums::read(folder)) else { return };
        self.known().extend(record.iter().map(|(name, checksum)| (folder.join(name), *checksum.sha256())));
    }

    /// Forgets what is in `folder`, which is there, and below it: somebody has replaced it, or is about to.
    pub fn forget(&self, folder: &Path) {
        let Ok(folder) = folder.canonicalize() else { return };
        self.known().retain(|path, _| !path.starts_with(&folder));
        self.unchecked.iter().for_each(|files| lock(files).retain(|path, _| !path.starts_with(&folder)));
    }

    fn known(&self) -> MutexGuard<'_, HashMap<PathBuf, FileDigest>> {
        lock(&self.known)
    }

    /// That of a file of our own export, which is whole, or is going to be checked.
    fn exported(&self, path: &Path, checksum: Checksum) -> Result<FileDigest, DigestError> {
        let digest = *checksum.sha256();
        match &self.unchecked {
            Some(unchecked) if checksum.bytes() >= DEFERRED && checksum.is_as_long_as(path)? => {
                lock(unchecked).insert(path.to_owned(), checksum);
            }
            _ => check(&checksum, path)?,
        }
        Ok(digest)
    }

    fn of_contents(&self, path: &Path) -> io::Result<FileDigest> {
        let file = File::open(path)?;
        let before = file.metadata()?;
        let memory = self.folder.as_deref().filter(|_| before.len() >= LARGE);
        let memory = memory.zip(State::of(&before)).map(|(folder, state)| (folder.join(name(path)), state));
        if let Some((memory, state)) = &memory
            && let Some(digest) = recall(memory, path, state)
        {
            return Ok(digest);
        }
        let started = SystemTime::now();
        let digest = FileDigest::read(&file)?;
        if let Some((memory, state)) = memory
            && State::of(&file.metadata()?).as_ref() == Some(&state)
            && state.is_settled(started)
        {
            let remembered = Remembered { path: path.to_owned(), state, sha256: digest };
            if let Err(error) = remember(&memory, &remembered) {
                tracing::debug!(path = %path.display(), %error, "the digest of this file is not remembered");
            }
        }
        Ok(digest)
    }
}

impl State {
    /// `None` where the system does not say all of it.
    #[cfg(unix)]
    fn of(metadata: &Metadata) -> Option<Self> {
        use std::os::unix::fs::MetadataExt;
        let time = |seconds: i64, nanoseconds: i64| i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds);
        Some(Self {
            bytes: metadata.len(),
            inode: metadata.ino(),
            modified: time(metadata.mtime(), metadata.mtime_nsec()),
            changed: time(metadata.ctime(), metadata.ctime_nsec()),
        })
    }

    #[cfg(not(unix))]
    fn of(_metadata: &Metadata) -> Option<Self> {
        None
    }

    /// Whether another change would have another time.
    fn is_settled(&self, now: SystemTime) -> bool {
        let Ok(now) = now.duration_since(UNIX_EPOCH) else { return false };
        let latest = self.modified.max(self.changed);
        i128::try_from(now.saturating_sub(RACY).as_nanos()).is_ok_and(|settled| latest < settled)
    }
}

/// What the record beside `path` says of it; `None` for a file that is not of an export.
fn recorded(path: &Path) -> Option<Checksum> {
    Checksums::read(path.parent()?)?.get(path.file_name()?.to_str()?).cloned()
}

fn check(checksum: &Checksum, path: &Path) -> Result<(), DigestError> {
    if checksum.is_of(path)? { Ok(()) } else { Err(DigestError::Damaged) }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where a file is remembered: its path is in there, and may be too long for a name.
fn name(path: &Path) -> String {
    format!("{}.json", &blake3::hash(path.as_os_str().as_encoded_bytes()).to_hex()[..32])
}

fn recall(memory: &Path, path: &Path, state: &State) -> Option<FileDigest> {
    if fs::metadata(memory).ok()?.len() > MAX_BYTES {
        return None;
    }
    let remembered: Remembered = serde_json::from_slice(&fs::read(memory).ok()?).ok()?;
    (remembered.path == path && remembered.state == *state).then_some(remembered.sha256)
}

fn remember(memory: &Path, remembered: &Remembered) -> io::Result<()> {
    if let Some(folder) = memory.parent() {
        fs::create_dir_all(folder)?;
    }
    // Another start may read it at any time.
    replace(memory, &memory.with_extension("partial"), &serde_json::to_vec(remembered)?)
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{FileTimes, OpenOptions},
        io::Write as _,
    };

    use super::*;
    use crate::model::checksums::Checksumming;

    /// A folder with a file that is large enough to be remembered and was changed long ago, and a cache.
    fn large(contents: u8) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("weights");
        fs::write(&path, vec![contents; usize::try_from(LARGE).expect("small")]).expect("written");
        (folder, path)
    }

    fn memories(cache: &Path) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(cache.join(FOLDER)) else { return Vec::new() };
        entries.map(|entry| entry.expect("an entry").path()).collect()
    }

    /// What a start long after the last change remembers: the clock is not waited for.
    fn remembered(cache: &Path, path: &Path, sha256: FileDigest) {
        let path = path.canonicalize().expect("there");
        let state = State::of(&fs::metadata(&path).expect("there")).expect("a state");
        let memory = cache.join(FOLDER).join(name(&path));
        remember(&memory, &Remembered { path, state, sha256 }).expect("written");
    }

    fn other() -> FileDigest {
        FileDigest::read(&b"other"[..]).expect("in memory")
    }

    #[test]
    fn a_file_that_is_remembered_is_not_read_and_one_that_has_changed_is() {
        let (folder, path) = large(1);
        let right = Digests::default().sha256(&path).expect("readable");
        // That this is answered shows that nothing was read.
        remembered(folder.path(), &path, other());
        let digests = || Digests::new(Some(folder.path()));
        assert_eq!(digests().sha256(&path).expect("remembered"), other());

        // The same length and the same time of the contents, as `cp -p` and archives leave them: only the time of the change differs.
        let modified = fs::metadata(&path).expect("there").modified().expect("a time");
        let mut file = OpenOptions::new().write(true).open(&path).expect("a file");
        file.write_all(&[2]).expect("written");
        file.set_times(FileTimes::new().set_modified(modified)).expect("set");
        assert_ne!(digests().sha256(&path).expect("readable"), right);
        assert_ne!(digests().sha256(&path).expect("readable"), other());
    }

    #[test]
    fn another_file_under_the_same_name_is_read() {
        let (folder, path) = large(1);
        remembered(folder.path(), &path, other());
        let (_elsewhere, replacement) = large(1);
        fs::rename(&replacement, &path).or_else(|_| fs::copy(&replacement, &path).map(|_| ())).expect("replaced");
        assert_ne!(Digests::new(Some(folder.path())).sha256(&path).expect("readable"), other());
    }

    #[test]
    fn what_was_changed_a_moment_ago_and_what_is_small_is_not_remembered() {
        let (folder, path) = large(1);
        let small = folder.path().join("small");
        fs::write(&small, "small").expect("written");
        let digests = Digests::new(Some(folder.path()));
        digests.sha256(&path).expect("readable");
        digests.sha256(&small).expect("readable");
        assert_eq!(memories(folder.path()), Vec::<PathBuf>::new());
        let state = State::of(&fs::metadata(&path).expect("there")).expect("a state");
        let changed =
            UNIX_EPOCH + Duration::from_nanos(u64::try_from(state.changed.max(state.modified)).expect("later"));
        assert!(!state.is_settled(changed) && !state.is_settled(changed + RACY));
        assert!(state.is_settled(changed + RACY + Duration::from_millis(1)));
        assert!(!state.is_settled(UNIX_EPOCH));
    }

    #[test]
    fn a_memory_that_is_damaged_or_of_another_file_costs_time_only() {
        let (folder, path) = large(1);
        let right = Digests::default().sha256(&path).expect("readable");
        remembered(folder.path(), &path, other());
        let [memory] = &memories(folder.path())[..] else { panic!("one file") };
        let good = fs::read_to_string(memory).expect("readable");
        for damaged in ["", "{", "null", &good[..good.len() / 2], &good.replace("weights", "weight2")] {
            fs::write(memory, damaged).expect("written");
            assert_eq!(Digests::new(Some(folder.path())).sha256(&path).expect("readable"), right, "{damaged}");
        }
        // A folder where nothing can be written, since it is a file.
        assert_eq!(Digests::new(Some(&path)).sha256(&path).expect("readable"), right);
    }

    #[test]
    fn a_file_of_an_export_is_what_its_record_says_or_damaged() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("data");
        let mut file = Checksumming::new(File::create(&path).expect("a file")).expect("a thread");
        file.write_all(b"weights").expect("written");
        let mut record = Checksums::default();
        record.insert("data", file.finish().expect("flushed").1);
        record.write(folder.path()).expect("written");
        let right = FileDigest::read(&b"weights"[..]).expect("in memory");
        assert_eq!(Digests::default().sha256(&path).expect("whole"), right);
        Digests::default().check_export(folder.path()).expect("whole");

        fs::write(&path, "wEights").expect("written");
        assert!(matches!(Digests::default().sha256(&path), Err(DigestError::Damaged)));
        assert!(Digests::default().check_export(folder.path()).is_err());
        let written = Digests::default();
        written.take_over(folder.path());
        assert_eq!(written.sha256(&path).expect("taken over"), right);

        fs::write(folder.path().join(CHECKSUMS_FILE), "{").expect("written");
        assert!(matches!(Digests::default().check_export(folder.path()), Err(DigestError::Damaged)));
        fs::remove_file(folder.path().join(CHECKSUMS_FILE)).expect("removed");
        assert!(matches!(Digests::default().check_export(folder.path()), Err(DigestError::Damaged)));
        assert_ne!(Digests::default().sha256(&path).expect("read"), right);
    }

    /// An export of one file of `bytes` zeros, and where that is.
    fn export_of(bytes: u64) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("data");
        let mut file = Checksumming::new(File::create(&path).expect("a file")).expect("a thread");
        file.write_all(&vec![0; usize::try_from(bytes).expect("small")]).expect("written");
        let mut record = Checksums::default();
        record.insert("data", file.finish().expect("flushed").1);
        record.write(folder.path()).expect("written");
        (folder, path)
    }

    #[test]
    fn a_large_file_of_an_export_may_be_checked_later_and_is_checked_then() {
        let (folder, path) = export_of(DEFERRED);
        let right = Digests::default().sha256(&path).expect("whole");
        let file = OpenOptions::new().write(true).open(&path).expect("a file");
        std::os::unix::fs::FileExt::write_all_at(&file, &[1], DEFERRED - 1).expect("written");
        let deferring = Digests::deferring(None);
        deferring.check_export(folder.path()).expect("taken at its record's word");
        assert_eq!(deferring.sha256(&path).expect("the same"), right);
        assert!(matches!(deferring.check_deferred(), Err(DigestError::Damaged)));
        deferring.check_deferred().expect("nothing is left to check");
        assert!(matches!(Digests::default().sha256(&path), Err(DigestError::Damaged)));

        let forgetting = Digests::deferring(None);
        forgetting.sha256(&path).expect("taken at its record's word");
        forgetting.forget(folder.path());
        forgetting.check_deferred().expect("nothing is left to check");

        // The length is looked at, and what is small is read at once.
        file.set_len(DEFERRED - 1).expect("cut");
        assert!(matches!(Digests::deferring(None).sha256(&path), Err(DigestError::Damaged)));
        let (_folder, small) = export_of(DEFERRED - 1);
        OpenOptions::new().write(true).open(&small).expect("a file").write_all(&[1]).expect("written");
        assert!(matches!(Digests::deferring(None).sha256(&small), Err(DigestError::Damaged)));
    }
}
