//! SHA-256 of files and of texts.
//!
//! Owns the two hashes that a file has here: of its contents alone, as `sha256sum` prints it, and of its contents with their length
//! behind them, of which fingerprints are made so that no two lists of files can run into each other. Both come of one reading.

use std::{
    fmt::Write as _,
    io::{self, Read},
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use sha2::{Digest, Sha256};

/// 32 bytes of SHA-256.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sha256Digest([u8; 32]);

/// The hashes of one file.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct FileDigest {
    /// Of its contents.
    pub contents: Sha256Digest,
    /// Of its contents and, behind them, how many bytes they are, as a little-endian integer of 64 bits.
    pub and_length: Sha256Digest,
}

/// Takes the hashes of a file, part by part.
#[derive(Clone, Default)]
pub struct FileHasher {
    hasher: Sha256,
    length: u64,
}

impl Sha256Digest {
    /// Of `bytes`.
    pub fn of(bytes: impl AsRef<[u8]>) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// In lower-case hexadecimal.
    pub fn hex(&self) -> String {
        self.0.iter().fold(String::with_capacity(64), |mut text, byte| {
            // A string takes everything.
            let _ = write!(text, "{byte:02x}");
            text
        })
    }

    fn from_hex(text: &str) -> Option<Self> {
        let mut digest = [0; 32];
        if text.len() != 2 * digest.len() {
            return None;
        }
        for (at, byte) in digest.iter_mut().enumerate() {
            *byte = u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok()?;
        }
        Some(Self(digest))
    }
}

impl AsRef<[u8]> for Sha256Digest {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Serialize for Sha256Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.hex())
    }
}

impl<'de> Deserialize<'de> for Sha256Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::from_hex(&text).ok_or_else(|| D::Error::custom("a SHA-256 is 64 hexadecimal digits"))
    }
}

impl FileDigest {
    /// Of what is read from here on.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(mut file: impl Read) -> io::Result<Self> {
        let (mut hasher, mut buffer) = (FileHasher::default(), vec![0; 1 << 20]);
        loop {
            match file.read(&mut buffer) {
                Ok(0) => return Ok(hasher.finish()),
                Ok(read) => hasher.update(&buffer[..read]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl FileHasher {
    /// The file goes on with `bytes`.
    pub fn update(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
        self.length += bytes.len() as u64;
    }

    /// It has ended.
    pub fn finish(self) -> FileDigest {
        let contents = Sha256Digest(self.hasher.clone().finalize().into());
        FileDigest {
            contents,
            and_length: Sha256Digest(self.hasher.chain_update(self.length.to_le_bytes()).finalize().into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_the_hash_of_its_contents_and_one_with_their_length() {
        let digest = FileDigest::read(&b"abc"[..]).expect("in memory");
        let known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(digest.contents.hex(), known);
        assert_eq!(digest.and_length, Sha256Digest::of(b"abc\x03\0\0\0\0\0\0\0"));
        assert_eq!(Sha256Digest::from_hex(known), Some(digest.contents));
        for wrong in ["", "0", &known[1..], &known.replace('f', "é"), &format!("{known}00")] {
            assert_eq!(Sha256Digest::from_hex(wrong), None, "{wrong}");
        }
    }
}
