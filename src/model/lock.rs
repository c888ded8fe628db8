//! Files that one process has at a time, and small files that appear whole or not at all.
//!
//! Owns taking the system's lock of a file, which goes with the process however that ends. Invariants: who has the lock of a path has
//! that of the file that is there now, also where an earlier holder has removed or renamed it; a lock that is dropped is free at once;
//! what `replace` writes is on disk before it has its name, and what a process that was killed leaves of it the next one writes over.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::Path,
};

/// The lock of a file, until it is dropped.
#[derive(Debug)]
pub struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        // To close the file is not enough: the system's lock is that of all its descriptors, and a child that another thread starts just
        // now has one until it becomes its program. What cannot be given back goes with the process.
        let _ = self.0.unlock();
    }
}

/// Makes the file at `path` where there is none and takes its lock; `waits` is called before another process is waited for.
///
/// # Errors
/// What the system says.
pub fn lock(path: &Path, waits: impl FnOnce()) -> io::Result<Lock> {
    if let Some(lock) = try_lock(path)? {
        return Ok(lock);
    }
    waits();
    loop {
        let file = open(path)?;
        file.lock()?;
        let lock = Lock(file);
        if is_at(&lock.0, path)? {
            return Ok(lock);
        }
    }
}

/// The same without waiting; `None` where another process has it.
///
/// # Errors
/// What the system says.
pub fn try_lock(path: &Path) -> io::Result<Option<Lock>> {
    loop {
        let file = open(path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        let lock = Lock(file);
        // Where it is not, whoever had it has removed it.
        if is_at(&lock.0, path)? {
            return Ok(Some(lock));
        }
    }
}

/// Gives the file at `path` these contents, by way of the file `partial` on the same file system, which is its own alone.
///
/// # Errors
/// What the system says; then what was at `path` is still there.
pub fn replace(path: &Path, partial: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut lock = lock(partial, || ())?;
    let file = &mut lock.0;
    let written = file
        .set_len(0)
        .and_then(|()| file.write_all(bytes))
        .and_then(|()| file.sync_all())
        .and_then(|()| fs::rename(partial, path));
    if written.is_err() {
        // The first error is the one to report; what stays is written over by the next one.
        let _ = fs::remove_file(partial);
    }
    written
}

fn open(path: &Path) -> io::Result<File> {
    // Neither another file by a link nor a pipe that waits for its other end.
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    match OpenOptions::new().write(true).create(true).truncate(false).custom_flags(flags).open(path) {
        // Another user's: to wait for it, reading is enough.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(|_| error)
        }
        other => other,
    }
}

/// Whether `path` still leads to `file`.
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let is = file.metadata()?;
    match fs::metadata(path) {
        Ok(there) => Ok((is.dev(), is.ino()) == (there.dev(), there.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, thread};

    use super::*;

    #[test]
    fn who_waited_for_a_lock_that_was_removed_has_the_one_that_is_there() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("lock");
        let first = lock(&path, || panic!("nobody has it")).expect("taken");
        assert!(try_lock(&path).expect("tried").is_none());
        // Waits for the file that is about to be removed.
        let opened = open(&path).expect("there");
        let (sender, receiver) = mpsc::channel();
        let waiting = {
            let path = path.clone();
            thread::spawn(move || lock(&path, || sender.send(()).expect("the test waits")).expect("taken"))
        };
        receiver.recv().expect("sent");
        fs::remove_file(&path).expect("removed");
        drop(first);
        let second = waiting.join().expect("taken");
        assert!(is_at(&second.0, &path).expect("there"));
        assert!(!is_at(&opened, &path).expect("there"));
        assert!(try_lock(&path).expect("tried").is_none());
        drop(second);
        assert!(try_lock(&path).expect("tried").is_some());
    }

    #[test]
    fn a_lock_that_is_dropped_is_free_also_while_a_child_that_starts_has_its_descriptor() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("lock");
        let first = try_lock(&path).expect("tried").expect("taken");
        // What a child has between `fork` and `exec`.
        let of_a_child = first.0.try_clone().expect("a duplicate");
        drop(first);
        assert!(try_lock(&path).expect("tried").is_some());
        drop(of_a_child);
    }

    #[test]
    fn a_file_is_replaced_whole_or_stays() {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, partial) = (folder.path().join("file"), folder.path().join("partial"));
        // What a process that was killed has left, longer than what is written.
        fs::write(&partial, "something longer").expect("written");
        replace(&path, &partial, b"one").expect("replaced");
        assert_eq!(fs::read(&path).expect("there"), b"one");
        assert!(!partial.exists());
        fs::remove_file(&path).expect("removed");
        fs::create_dir_all(path.join("below")).expect("in the way");
        replace(&path, &partial, b"two").expect_err("a folder is in the way");
        assert!(path.is_dir() && !partial.exists());
    }

    #[test]
    fn a_pipe_or_a_link_in_its_place_is_an_error_at_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let (pipe, link, target) =
            (folder.path().join("pipe"), folder.path().join("link"), folder.path().join("target"));
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().expect("it runs").success());
        std::os::unix::fs::symlink(&target, &link).expect("a link");
        assert!(try_lock(&pipe).is_err() && try_lock(&link).is_err());
        assert!(!target.exists());
    }
}
