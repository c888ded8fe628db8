//! What the hub says a file's contents are, and the check that they are that.
//!
//! Owns the two hashes that an etag of the hub can be: the SHA-256 of a large file (`x-linked-etag`), or git's name of a small
//! one: SHA-1 over `blob <size>`, a zero byte and the contents (the object format of git).
//!
//! Invariant: the text of an [`Etag`] is 40 or 64 hexadecimal digits, so it can name a file.

use sha1::Sha1;
use sha2::{Digest, Sha256};

/// A hash of contents, in lower-case hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Etag(String);

impl Etag {
    /// Reads the header, strong or weak, with its quotes; `None` for one that is no hash, which nothing could be checked by.
    pub(super) fn parse(header: &str) -> Option<Self> {
        let header = header.trim();
        let text = header.strip_prefix("W/").unwrap_or(header).trim_matches('"').to_ascii_lowercase();
        let hash = [40, 64].contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        hash.then_some(Self(text))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// Starts to check contents of `size` bytes.
    pub(super) fn check(&self, size: u64) -> Check {
        if self.0.len() == 64 {
            return Check::Sha256(Sha256::new());
        }
        let mut git = Sha1::new();
        git.update(format!("blob {size}\0"));
        Check::Git(git)
    }
}

/// Contents on their way through their hash.
pub(super) enum Check {
    Sha256(Sha256),
    Git(Sha1),
}

impl Check {
    pub(super) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hash) => hash.update(bytes),
            Self::Git(hash) => hash.update(bytes),
        }
    }

    /// What the contents are.
    pub(super) fn finish(self) -> Etag {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        Etag(match self {
            Self::Sha256(hash) => hex(&hash.finalize()),
            Self::Git(hash) => hex(&hash.finalize()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // `git hash-object` and `sha256sum` of "hello\n".
    const GIT: &str = "ce013625030ba8dba906f756967f9e9ca394464a";
    const SHA256: &str = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";

    #[test]
    fn contents_are_checked_by_the_hash_that_the_etag_is() {
        for hash in [GIT, SHA256] {
            let etag = Etag::parse(&format!("\"{hash}\"")).expect("a hash");
            let mut check = etag.check(6);
            check.update(b"hel");
            check.update(b"lo\n");
            assert_eq!(check.finish(), etag);
            let mut check = etag.check(6);
            check.update(b"hallo\n");
            assert_ne!(check.finish(), etag);
        }
    }

    #[test]
    fn only_a_hash_is_an_etag() {
        for header in [GIT.to_owned(), format!("W/\"{GIT}\""), format!(" \"{}\"", GIT.to_uppercase())] {
            assert_eq!(Etag::parse(&header).as_ref().map(Etag::as_str), Some(GIT), "{header}");
        }
        for header in ["", "\"\"", "\"5f3a-1\"", "../../x", &GIT[1..], &format!("{GIT}0"), &GIT.replace('c', "/")] {
            assert_eq!(Etag::parse(header), None, "{header}");
        }
    }
}
