//! What an export says of its own files: how long each is, and the hashes of its contents.
//!
//! Owns the record beside the graphs, taking the hashes while a file is written, and checking a file against them. Does not own who
//! writes it (`export`) or who asks (`digests`).
//!
//! BLAKE3 says whether a file is whole: it is computed by all cores at once, at the speed of memory. SHA-256, of which a model's
//! fingerprint is made, is one chain over the whole file, and so is written down once and not computed again.
//!
//! Invariant: the hashes are those of the bytes that were written, whatever a disk makes of them later.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, BufReader, Read, Write},
    path::Path,
    sync::mpsc::{self, SyncSender},
    thread::{self, JoinHandle},
};

use serde::{Deserialize, Serialize};

use super::sha256::{FileDigest, FileHasher};

/// The record's name; it lies in the folder of the files that it names.
pub const CHECKSUMS_FILE: &str = "checksums.json";

/// Bytes of a record. One of ours has a kilobyte.
const MAX_BYTES: u64 = 1 << 20;

/// Bytes of a file that are hashed at once: as many as lie in a core's cache, and enough for all cores.
const PIECE: usize = 1 << 20;

/// What stands in the record.
#[derive(Deserialize, Serialize)]
struct Record {
    files: Checksums,
    /// Of `files` as JSON without blanks: a record may be damaged like all else.
    blake3: String,
}

/// Checksums by the name of the file.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(transparent)]
pub struct Checksums(BTreeMap<String, Checksum>);

/// Of one file.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Checksum {
    /// Its length.
    bytes: u64,
    /// Of its contents, in hexadecimal.
    blake3: String,
    /// Of its contents.
    sha256: FileDigest,
}

impl Checksums {
    /// The record in `folder`; `None` where there is none, or none that can be read: then files are taken as they are.
    pub fn read(folder: &Path) -> Option<Self> {
        let path = folder.join(CHECKSUMS_FILE);
        if fs::metadata(&path).ok()?.len() > MAX_BYTES {
            return None;
        }
        let record: Record = serde_json::from_reader(BufReader::new(File::open(path).ok()?)).ok()?;
        (record.blake3 == record.files.blake3().ok()?).then_some(record.files)
    }

    /// Writes the record into `folder`.
    ///
    /// # Errors
    /// What the system says.
    pub fn write(&self, folder: &Path) -> io::Result<()> {
        let record = Record { files: self.clone(), blake3: self.blake3()? };
        fs::write(folder.join(CHECKSUMS_FILE), serde_json::to_vec_pretty(&record)?)
    }

    fn blake3(&self) -> io::Result<String> {
        Ok(blake3::hash(&serde_json::to_vec(self)?).to_hex().to_string())
    }

    /// Takes up the checksum of the file called `name`.
    pub fn insert(&mut self, name: &str, checksum: Checksum) {
        self.0.insert(name.to_owned(), checksum);
    }

    /// That of the file called `name`.
    pub fn get(&self, name: &str) -> Option<&Checksum> {
        self.0.get(name)
    }

    /// All of them, with the names of the files.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Checksum)> {
        self.0.iter().map(|(name, checksum)| (name.as_str(), checksum))
    }
}

impl Checksum {
    /// Of a file of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        let mut hashes = Hashes::default();
        hashes.update(bytes);
        hashes.finish()
    }

    /// Whether `file` is what was written. Reads all of it, on all cores, through a small buffer: of a mapping all pages would be held,
    /// beside those of the runtime's own.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn is_of(&self, file: &Path) -> io::Result<bool> {
        if !self.is_as_long_as(file)? {
            return Ok(false);
        }
        let (mut file, mut piece, mut hasher) = (File::open(file)?, vec![0; PIECE], blake3::Hasher::new());
        loop {
            match file.read(&mut piece) {
                Ok(0) => return Ok(hasher.finalize().to_hex().as_str() == self.blake3),
                Ok(read) => _ = hasher.update_rayon(&piece[..read]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Whether `file` has the length of what was written. Reads nothing of it.
    ///
    /// # Errors
    /// When it is not there.
    pub fn is_as_long_as(&self, file: &Path) -> io::Result<bool> {
        Ok(fs::metadata(file)?.len() == self.bytes)
    }

    /// Bytes of what was written.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The SHA-256 of what was written.
    pub fn sha256(&self) -> &FileDigest {
        &self.sha256
    }
}

/// The hashes of a file, part by part.
#[derive(Default)]
struct Hashes {
    bytes: u64,
    blake3: blake3::Hasher,
    sha256: FileHasher,
}

impl Hashes {
    fn update(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        self.blake3.update(bytes);
        self.sha256.update(bytes);
    }

    fn finish(self) -> Checksum {
        let blake3 = self.blake3.finalize().to_hex().to_string();
        Checksum { bytes: self.bytes, blake3, sha256: self.sha256.finish() }
    }
}

/// Pieces of what is written that may wait for their hashes.
const WAITING: usize = 8;

/// Writes, and takes the hashes of what is written, on a thread of its own: SHA-256 alone takes as long as all else that an export does
/// with weights.
pub struct Checksumming<W> {
    inner: W,
    pieces: SyncSender<Vec<u8>>,
    hashes: JoinHandle<Checksum>,
}

impl<W: Write> Checksumming<W> {
    /// Of what is going to be written to `inner`.
    ///
    /// # Errors
    /// When the operating system has no thread to give.
    pub fn new(inner: W) -> io::Result<Self> {
        let (pieces, written) = mpsc::sync_channel::<Vec<u8>>(WAITING);
        let hash = move || {
            let mut hashes = Hashes::default();
            written.into_iter().for_each(|piece| hashes.update(&piece));
            hashes.finish()
        };
        Ok(Self { inner, pieces, hashes: thread::Builder::new().name("checksum".to_owned()).spawn(hash)? })
    }

    /// Flushes it: what was written to, and the checksum.
    ///
    /// # Errors
    /// What the system says.
    pub fn finish(mut self) -> io::Result<(W, Checksum)> {
        self.inner.flush()?;
        drop(self.pieces);
        let checksum = self.hashes.join().map_err(|_| io::Error::other("the thread of the checksum has panicked"))?;
        Ok((self.inner, checksum))
    }
}

impl<W: Write> Write for Checksumming<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        // Who takes them ends after this.
        self.pieces.send(bytes[..written].to_vec()).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<W> std::fmt::Debug for Checksumming<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Checksumming").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_tells_what_was_written_from_what_is_there() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("data");
        // Beyond what BLAKE3 hashes on one core.
        let contents: Vec<u8> = (0..1 << 18).map(|at: u32| (at * 7 / 3) as u8).collect();
        let mut file = Checksumming::new(File::create(&path).expect("a file")).expect("a thread");
        contents.chunks(1000).for_each(|chunk| file.write_all(chunk).expect("written"));
        let mut record = Checksums::default();
        record.insert("data", file.finish().expect("flushed").1);
        record.write(folder.path()).expect("written");

        let record = Checksums::read(folder.path()).expect("a record");
        let checksum = record.get("data").expect("of the file");
        assert_eq!(*checksum.sha256(), FileDigest::read(&contents[..]).expect("in memory"));
        assert!(checksum.is_of(&path).expect("readable"));
        let mut damaged = contents.clone();
        damaged[1 << 17] ^= 1;
        fs::write(&path, &damaged).expect("written");
        assert!(!checksum.is_of(&path).expect("readable"));
        fs::write(&path, &contents[1..]).expect("written");
        assert!(!checksum.is_of(&path).expect("readable"));
    }

    #[test]
    fn what_is_no_record_is_none() {
        let folder = tempfile::tempdir().expect("a folder");
        assert!(Checksums::read(folder.path()).is_none());
        let mut record = Checksums::default();
        let nothing = Checksumming::new(Vec::new()).expect("a thread");
        record.insert("data", nothing.finish().expect("in memory").1);
        record.write(folder.path()).expect("written");
        let good = fs::read_to_string(folder.path().join(CHECKSUMS_FILE)).expect("readable");
        assert!(Checksums::read(folder.path()).is_some());
        // Of SHA-256 of nothing.
        let digest = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert!(good.contains(digest));
        let (other, short) = (good.replace(digest, &digest.replace('e', "d")), good.replace(digest, &digest[1..]));
        for damaged in ["", "{", "[]", r#"{"data": 1}"#, &other, &short] {
            fs::write(folder.path().join(CHECKSUMS_FILE), damaged).expect("written");
            assert!(Checksums::read(folder.path()).is_none(), "{damaged}");
        }
    }
}
