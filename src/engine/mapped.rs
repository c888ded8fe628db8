//! Files that the runtime has mapped into memory and has read.
//!
//! Owns giving back the memory of such a mapping, which stays valid: what is touched again is read from the file again. Does not
//! own the mappings.

use std::path::PathBuf;

/// Gives back the memory of what is mapped, read-only, of `files`: bytes of the mappings.
///
/// # Safety
/// The files are data, of which whoever maps them changes nothing in memory, unlike a loader that relocates a library. Nobody may
/// unmap any of them meanwhile.
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "advice on memory that the runtime has mapped")]
pub(super) unsafe fn release(files: &[PathBuf]) -> std::io::Result<usize> {
    let files: Vec<PathBuf> = files.iter().filter_map(|file| file.canonicalize().ok()).collect();
    let mut released = 0;
    for line in std::fs::read_to_string("/proc/self/maps")?.lines() {
        let Some(mapping) = Mapping::of(line) else { continue };
        if !files.contains(&mapping.file) {
            continue;
        }
        let length = mapping.end - mapping.start;
        // SAFETY: the range is mapped, since nobody unmaps it meanwhile; it is read-only, so that its pages hold what the file
        // holds, and are read from there when they are touched again.
        if unsafe { libc::madvise(mapping.start as *mut libc::c_void, length, libc::MADV_DONTNEED) } == 0 {
            released += length;
        }
    }
    Ok(released)
}

/// Elsewhere memory is not given back.
#[cfg(not(target_os = "linux"))]
#[expect(unsafe_code, reason = "as on Linux")]
pub(super) unsafe fn release(_files: &[PathBuf]) -> std::io::Result<usize> {
    Ok(0)
}

/// A read-only mapping of a file, as a line of `/proc/self/maps` says: OpenVINO maps privately until 2025.4, and shared in 2026.4.
#[cfg(target_os = "linux")]
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
        // SAFETY: no file that anybody maps.
        let others = unsafe { release(&[folder.path().join("other"), folder.path().to_owned()]) };
        assert_eq!((others.expect("the mappings are readable"), resident()), (0, Some(bytes.len() / 1024)));
        // Named by another way, as a cache of downloads does.
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&file, &link).expect("a link");
        // SAFETY: data, which nobody but this test maps.
        let released = unsafe { release(&[link]) }.expect("the mappings are readable");
        assert_eq!((released, resident()), (bytes.len(), Some(0)));
        assert_eq!(mapped, bytes);
        // SAFETY: the mapping from above, which nobody uses any more.
        unsafe { libc::munmap(mapped.as_ptr().cast_mut().cast(), bytes.len()) };
    }
}
