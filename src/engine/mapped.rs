//! Files that the runtime has mapped into memory and has read.
//!
//! Owns giving back the memory of such a mapping, which stays valid: what is touched again is read from the file again. Does not
//! own the mappings.

use std::{io, path::PathBuf, sync::mpsc, thread, time::Duration};

/// How often what is read meanwhile is given back: some tens of megabytes are read in between.
const PERIOD: Duration = Duration::from_millis(20);

/// What is mapped, read-only, of some files.
#[derive(Default)]
pub(super) struct Mapped(Vec<Mapping>);

impl Mapped {
    /// What is mapped of `files` now; nothing where the system does not say.
    ///
    /// # Errors
    /// When the system's list cannot be read.
    #[cfg(target_os = "linux")]
    pub(super) fn of(files: &[PathBuf]) -> io::Result<Self> {
        let files: Vec<PathBuf> = files.iter().filter_map(|file| file.canonicalize().ok()).collect();
        if files.is_empty() {
            return Ok(Self::default());
        }
        let maps = std::fs::read_to_string("/proc/self/maps")?;
        Ok(Self(maps.lines().filter_map(Mapping::of).filter(|mapping| files.contains(&mapping.file)).collect()))
    }

    /// Elsewhere memory is not given back.
    #[cfg(not(target_os = "linux"))]
    pub(super) fn of(_files: &[PathBuf]) -> io::Result<Self> {
        Ok(Self(Vec::new()))
    }

    /// Gives back its memory: bytes of the mappings.
    ///
    /// # Safety
    /// The files are data, of which whoever maps them changes nothing in memory, unlike a loader that relocates a library. Nobody may
    /// have unmapped any of them since [`Self::of`], nor do so meanwhile.
    #[expect(unsafe_code, reason = "advice on memory that the runtime has mapped")]
    pub(super) unsafe fn release(&self) -> usize {
        #[cfg(target_os = "linux")]
        return self
            .0
            .iter()
            .map(|mapping| {
                let length = mapping.end - mapping.start;
                // SAFETY: the range is mapped, since nobody unmaps it; it is read-only, so that its pages hold what the file holds, and are
                // read from there when they are touched again.
                let done = unsafe { libc::madvise(mapping.start as *mut libc::c_void, length, libc::MADV_DONTNEED) };
                if done == 0 { length } else { 0 }
            })
            .sum();
        #[cfg(not(target_os = "linux"))]
        0
    }

    /// Does `work`, which reads them, and gives back their memory before, meanwhile and afterwards, so that hardly any of it is held. Where
    /// the system has no thread to give, only before and afterwards.
    ///
    /// # Safety
    /// As of [`Self::release`].
    #[expect(unsafe_code, reason = "as its parts")]
    pub(super) unsafe fn release_during<T>(&self, work: impl FnOnce() -> T) -> T {
        if self.0.is_empty() {
            return work();
        }
        // SAFETY: the caller's.
        let release = || unsafe { self.release() };
        let (working, done) = mpsc::channel::<()>();
        let result = thread::scope(|scope| {
            let meanwhile = move || {
                while let Err(mpsc::RecvTimeoutError::Timeout) = done.recv_timeout(PERIOD) {
                    release();
                }
            };
            release();
            if let Err(error) = thread::Builder::new().name("release".to_owned()).spawn_scoped(scope, meanwhile) {
                tracing::debug!(%error, "the memory of the mapped weights is held until they are read");
            }
            let result = work();
            drop(working);
            result
        });
        let bytes = release();
        tracing::debug!(bytes, "the memory of the mapped weights is given back");
        result
    }
}

/// A read-only mapping of a file, as a line of `/proc/self/maps` says: OpenVINO maps privately until 2025.4, and shared in 2026.4.
#[cfg_attr(not(target_os = "linux"), expect(dead_code, reason = "there are none"))]
#[derive(Debug, PartialEq, Eq)]
struct Mapping {
    start: usize,
    end: usize,
    file: PathBuf,
}

#[cfg(target_os = "linux")]
impl Mapping {
    /// `start-end permissions offset device inode    path`
    fn of(line: &str) -> Option<Self> {
        let mut fields = line.splitn(6, ' ');
        let (start, end) = fields.next()?.split_once('-')?;
        let is_read_only = matches!(fields.next()?, "r--p" | "r--s");
        let path = fields.nth(3)?.trim_start();
        let address = |text: &str| usize::from_str_radix(text, 16).ok();
        let mapping = Self { start: address(start)?, end: address(end)?, file: PathBuf::from(path) };
        (is_read_only && mapping.file.is_absolute()).then_some(mapping)
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn only_read_only_mappings_of_files_count() {
        for line in [
            "7f10a000-7f10c000 r--p 00001000 fe:01 1234                       /models/my clip/text.onnx_data",
            "7f10a000-7f10c000 r--s 00001000 fe:01 1234                       /models/my clip/text.onnx_data",
        ] {
            let mapping =
                Mapping { start: 0x7f10_a000, end: 0x7f10_c000, file: "/models/my clip/text.onnx_data".into() };
            assert_eq!(Mapping::of(line), Some(mapping), "{line}");
        }
        for other in [
            "7f10a000-7f10c000 rw-p 00001000 fe:01 1234                       /models/text.onnx_data",
            "7f10a000-7f10c000 rw-s 00001000 fe:01 1234                       /models/text.onnx_data",
            "7f10a000-7f10c000 r--p 00000000 00:00 0 ",
            "7ffc1000-7ffc2000 r--p 00000000 00:00 0                          [vvar]",
            "",
        ] {
            assert_eq!(Mapping::of(other), None, "{other}");
        }
    }

    #[test]
    fn what_is_given_back_reads_the_same_again() {
        for kind in [libc::MAP_PRIVATE, libc::MAP_SHARED] {
            is_given_back_and_reads_the_same_again(kind);
        }
    }

    #[expect(unsafe_code, reason = "maps a file")]
    fn is_given_back_and_reads_the_same_again(kind: libc::c_int) {
        use std::os::fd::AsRawFd;
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("data");
        let bytes: Vec<u8> = (0..1 << 20).map(|i| (i / 7) as u8).collect();
        std::fs::write(&file, &bytes).expect("a file");
        let opened = std::fs::File::open(&file).expect("a file");
        // SAFETY: a new mapping of a whole file that nobody changes, as long as its length; unmapped below.
        let mapped = unsafe {
            let start = libc::mmap(std::ptr::null_mut(), bytes.len(), libc::PROT_READ, kind, opened.as_raw_fd(), 0);
            assert_ne!(start, libc::MAP_FAILED);
            std::slice::from_raw_parts(start.cast::<u8>(), bytes.len())
        };
        let file_name = file.to_str().expect("UTF-8");
        let resident = || {
            std::fs::read_to_string("/proc/self/smaps").expect("readable").split(file_name).nth(1).and_then(|rest| {
                let line = rest.lines().find(|line| line.starts_with("Rss:"))?;
                line.split_whitespace().nth(1)?.parse::<usize>().ok()
            })
        };
        assert_eq!(mapped, bytes);
        assert_eq!(resident(), Some(bytes.len() / 1024));
        let of = |files: &[PathBuf]| Mapped::of(files).expect("the mappings are readable");
        let others = of(&[folder.path().join("other"), folder.path().to_owned()]);
        // SAFETY: nothing is mapped of these.
        assert_eq!((unsafe { others.release() }, resident()), (0, Some(bytes.len() / 1024)));
        // Named by another way, as a cache of downloads does.
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&file, &link).expect("a link");
        let own = of(&[link]);
        // SAFETY: data, which nobody but this test maps.
        assert_eq!((unsafe { own.release() }, resident()), (bytes.len(), Some(0)));
        // What is read while somebody works with it goes, too.
        let reads_until_it_is_gone = || {
            assert_eq!(mapped, bytes);
            // Far longer than it takes, but not for ever.
            assert!((0..50_000).any(|_| resident() == Some(0)), "nothing is given back meanwhile");
            assert_eq!(mapped, bytes);
        };
        // SAFETY: as before.
        unsafe { own.release_during(reads_until_it_is_gone) };
        assert_eq!(resident(), Some(0));
        // SAFETY: the mapping from above, which nobody uses any more.
        unsafe { libc::munmap(mapped.as_ptr().cast_mut().cast(), bytes.len()) };
    }
}
