//! Files that are read whole, if they are not too large.
//!
//! Owns the check in front of the read. Invariant: no more memory is taken than the limit, whatever the file claims or becomes.

use std::{
    io::{self, Read as _},
    path::Path,
};

use bytes::Bytes;

use crate::regular;

/// What sources may hold.
#[derive(Clone, Copy, Debug)]
pub(in crate::bulk) struct Limits {
    /// Bytes of a picture's file, of a line of JSON.
    pub(in crate::bulk) picture: usize,
    /// Bytes of a text.
    pub(in crate::bulk) text: usize,
}

impl Limits {
    /// Whether a picture of so many bytes is taken.
    ///
    /// # Errors
    /// The reason, for its row.
    pub(super) fn picture(&self, bytes: u64) -> Result<(), String> {
        within(bytes, self.picture, "picture", "limits.max_body_bytes")
    }

    /// Whether a text of so many bytes is taken.
    ///
    /// # Errors
    /// The reason, for its row.
    pub(super) fn text(&self, bytes: u64) -> Result<(), String> {
        within(bytes, self.text, "text", "limits.max_text_bytes")
    }

    /// A text without its last line end.
    ///
    /// # Errors
    /// The reason, for its row: it is too long, or no UTF-8.
    pub(super) fn text_of(&self, bytes: Vec<u8>) -> Result<String, String> {
        self.text(bytes.len() as u64)?;
        let mut text = String::from_utf8(bytes).map_err(|_| "the text is not UTF-8".to_owned())?;
        text.truncate(text.trim_end_matches(['\r', '\n']).len());
        Ok(text)
    }

    /// [`Self::text_of`] what a file of texts holds.
    ///
    /// # Errors
    /// As that; and there is a zero byte in it, as in UTF-16, whose letters would be embedded with one between them.
    pub(super) fn text_in_file(&self, bytes: Vec<u8>) -> Result<String, String> {
        self.text(bytes.len() as u64)?;
        if bytes.contains(&0) {
            return Err("the text has zero bytes, as UTF-16 has: save the file as UTF-8".to_owned());
        }
        self.text_of(bytes)
    }
}

fn within(bytes: u64, most: usize, what: &str, key: &str) -> Result<(), String> {
    if bytes <= most as u64 {
        return Ok(());
    }
    Err(format!("the {what} has {bytes} bytes, the limit is {most} (--set {key}=...)"))
}

/// The picture's file at `path`.
///
/// # Errors
/// The reason, for its row.
pub(super) fn read_picture(path: &Path, limits: Limits) -> Result<Bytes, String> {
    read(path, |bytes| limits.picture(bytes)).map(Bytes::from)
}

/// The text's file at `path`.
///
/// # Errors
/// The reason, for its row.
pub(super) fn read_text(path: &Path, limits: Limits) -> Result<String, String> {
    limits.text_in_file(read(path, |bytes| limits.text(bytes))?)
}

fn read(path: &Path, allow: impl Fn(u64) -> Result<(), String>) -> Result<Vec<u8>, String> {
    let wrong = |error: io::Error| format!("{}: {error}", path.display());
    let (file, metadata) = regular::open(path).map_err(wrong)?;
    allow(metadata.len())?;
    let mut bytes = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or_default());
    // One byte more: the file may have grown since, and that is seen.
    file.take(metadata.len().saturating_add(1)).read_to_end(&mut bytes).map_err(wrong)?;
    if bytes.len() as u64 != metadata.len() {
        return Err(format!("{}: it changed while it was read", path.display()));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    const LIMITS: Limits = Limits { picture: 8, text: 4 };

    #[test]
    fn what_is_too_large_is_refused_before_it_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p");
        std::fs::write(&path, "12345678").unwrap();
        assert_eq!(read_picture(&path, LIMITS).unwrap(), "12345678");
        assert!(read_text(&path, LIMITS).unwrap_err().contains("8 bytes, the limit is 4 (--set limits.max_text_bytes"));
        let huge = File::create(folder.path().join("huge")).unwrap();
        huge.set_len(1 << 40).unwrap();
        let error = read_picture(&folder.path().join("huge"), LIMITS).unwrap_err();
        assert!(error.contains("the limit is 8 (--set limits.max_body_bytes"), "{error}");
        assert!(read_picture(folder.path(), LIMITS).unwrap_err().ends_with("it is no regular file"));
        assert!(read_picture(&folder.path().join("absent"), LIMITS).unwrap_err().contains("absent"));
    }

    #[test]
    fn texts_lose_their_last_line_end_alone() {
        let limits = Limits { picture: 8, text: 99 };
        assert_eq!(limits.text_of(b" a\nb \r\n".to_vec()).unwrap(), " a\nb ");
        assert_eq!(limits.text_of(b"\xff".to_vec()).unwrap_err(), "the text is not UTF-8");
        assert_eq!(limits.text_in_file(b"cat\r\n".to_vec()).unwrap(), "cat");
        for utf16 in [&b"c\0a\0t\0"[..], b"\0c\0a\0t", b"\xff\xfec\0"] {
            assert!(limits.text_in_file(utf16.to_vec()).unwrap_err().ends_with("save the file as UTF-8"));
        }
    }
}
