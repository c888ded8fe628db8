//! Files that must be regular ones.
//!
//! Owns opening them. Does not own what is in them. Invariant: nobody waits here for somebody who writes, and what is read has an end.

use std::{
    fs::{File, Metadata, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

/// The file at `path`, to be read, and what the system knows of it.
///
/// # Errors
/// What the system says, and that it is no regular file: a folder, a named pipe, a device or a socket.
pub fn open(path: &Path) -> io::Result<(File, Metadata)> {
    let none = || io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file");
    // A named pipe without a writer would hold up whoever opens it, and a terminal would become this process's own.
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let opened = OpenOptions::new().read(true).custom_flags(flags).open(path);
    // What Linux says of a socket.
    let file = opened.map_err(|error| if error.raw_os_error() == Some(libc::ENXIO) { none() } else { error })?;
    let metadata = file.metadata()?;
    if metadata.is_file() { Ok((file, metadata)) } else { Err(none()) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn what_is_no_regular_file_holds_nobody_up() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        assert!(std::process::Command::new("mkfifo").arg(at("pipe")).status().unwrap().success());
        let _socket = UnixListener::bind(at("socket")).unwrap();
        std::os::unix::fs::symlink("pipe", at("link")).unwrap();
        for path in [at("pipe"), at("socket"), at("link"), folder.path().to_owned(), "/dev/null".into()] {
            assert_eq!(open(&path).unwrap_err().to_string(), "it is no regular file", "{}", path.display());
        }
        std::fs::write(at("file"), "12").unwrap();
        assert_eq!(open(&at("file")).unwrap().1.len(), 2);
        assert_eq!(open(&at("absent")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
