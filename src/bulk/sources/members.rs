//! The members of a tar, by the samples that they belong to.
//!
//! Owns the listing, by WebDataset's rule: a member's path up to the first dot of its file name is the key of its sample, what follows
//! is its field, in lower case. Where that library would make one sample into two or lose one without a word, this does not: a leading
//! `./` is no part of a key, members of one key are one sample wherever they are, and two members of one field are that sample's error.
//! Hidden members (a part of the path begins with a dot, or is `__MACOSX`), those without a suffix, and what is no plain file are left
//! out.
//!
//! Invariants: no name or list is longer than its limit; a member is within the file. Contents are not read here.

use std::{collections::HashMap, fs::File, io::Read, os::unix::fs::FileExt as _};

use tar::{Archive, EntryType, PaxExtensions};

use super::names;
use crate::bulk::suffix;

/// Members of one tar, since their list is in memory: some hundred bytes each.
const MAX_MEMBERS: usize = 1 << 21;

/// Bytes of a name, which an archive may claim to be of any length.
const MAX_NAME: u64 = 64 << 10;

/// A file in the tar.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Member {
    /// What follows the key and its dot, as it is written.
    pub(super) field: Box<str>,
    /// Where its contents begin.
    pub(super) position: u64,
    /// Their bytes.
    pub(super) size: u64,
}

/// The members of one key.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Group {
    /// The key.
    pub(super) key: Box<str>,
    /// Whether the names of all members are UTF-8.
    pub(super) is_utf8: bool,
    /// In the order of the tar.
    pub(super) members: Vec<Member>,
}

/// What is in a tar, and why there is no more.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// In the order of their first members.
    pub(super) groups: Vec<Group>,
    /// Why it may hold more than that.
    pub(super) broken: Option<String>,
}

/// Lists the tar in `file`.
pub(super) fn list(file: &File) -> Listing {
    let mut listing = Listing::default();
    listing.broken = match read(file, &mut listing.groups) {
        Err(error) => Some(format!("the tar cannot be read to its end: {error}")),
        // Nothing says that a member is missing, and a writer that was killed between two looks like this.
        Ok(End::Missing) => Some("the archive ends without its end marker; it may be truncated".to_owned()),
        Ok(End::Marked) => None,
    };
    listing
}

/// How an archive ends that can be read to its end.
enum End {
    /// By zeros.
    Marked,
    /// By the end of the file.
    Missing,
}

/// A tar is made of these, and ends by two of zeros. One is taken for it, as by `tar`: no member can be behind it.
const BLOCK: u64 = 512;

/// First bytes of what compresses tars: gzip, bzip2, xz, zstd, LZ4.
const COMPRESSED: [&[u8]; 5] = [b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd", b"\x04\x22\x4d\x18"];

fn read(file: &File, groups: &mut Vec<Group>) -> Result<End, String> {
    let mut first = [0; 6];
    if file.read_exact_at(&mut first, 0).is_ok() && COMPRESSED.iter().any(|magic| first.starts_with(magic)) {
        return Err(suffix::COMPRESSED_TAR.to_owned());
    }
    let length = file.metadata().map_err(|error| error.to_string())?.len();
    let mut by_key: HashMap<Box<str>, usize> = HashMap::new();
    let mut archive = Archive::new(file);
    let (mut name, mut count, mut end) = (None, 0, 0);
    // Raw, since otherwise names are read into memory however long they claim to be.
    for entry in archive.entries_with_seek().map_err(|error| error.to_string())?.raw(true) {
        let mut entry = entry.map_err(|error| format!("behind byte {end}: {error}"))?;
        let (position, size) = (entry.raw_file_position(), entry.size());
        end = position.saturating_add(size);
        if end > length {
            return Err(format!("the tar ends at byte {length}, within a member of {size} bytes at byte {position}"));
        }
        match entry.header().entry_type() {
            EntryType::GNULongName => {
                let bytes = short(&mut entry, size)?;
                name = Some(bytes.strip_suffix(b"\0").unwrap_or(&bytes).to_vec());
                continue;
            }
            EntryType::XHeader => {
                name = path_of(&short(&mut entry, size)?)?.or(name);
                continue;
            }
            EntryType::GNULongLink | EntryType::XGlobalHeader => continue,
            EntryType::Regular | EntryType::Continuous => {}
            _ => {
                name = None;
                continue;
            }
        }
        let path = name.take().unwrap_or_else(|| entry.header().path_bytes().into_owned());
        let is_utf8 = str::from_utf8(&path).is_ok();
        let path = names::escaped(&path);
        let Some((key, field)) = key_and_field(&path) else { continue };
        count += 1;
        if count > MAX_MEMBERS {
            return Err(format!("it has more than {MAX_MEMBERS} members; split it"));
        }
        let member = Member { field: field.into(), position, size };
        match by_key.get(key) {
            Some(&at) => {
                groups[at].members.push(member);
                groups[at].is_utf8 &= is_utf8;
            }
            None => {
                by_key.insert(key.into(), groups.len());
                groups.push(Group { key: key.into(), is_utf8, members: vec![member] });
            }
        }
    }
    let mut block = [1; BLOCK as usize];
    let is_marked = file.read_exact_at(&mut block, end.next_multiple_of(BLOCK)).is_ok() && block == [0; BLOCK as usize];
    Ok(if is_marked { End::Marked } else { End::Missing })
}

/// The contents of a member that describes the next one.
fn short(entry: &mut impl Read, size: u64) -> Result<Vec<u8>, String> {
    if size > MAX_NAME {
        return Err(format!("a name in it has {size} bytes, the limit is {MAX_NAME}"));
    }
    let mut bytes = Vec::new();
    entry.take(size).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    Ok(bytes)
}

/// The path that a PAX header gives the next member.
fn path_of(bytes: &[u8]) -> Result<Option<Vec<u8>>, String> {
    let mut path = None;
    for extension in PaxExtensions::new(bytes) {
        let extension = extension.map_err(|error| error.to_string())?;
        match extension.key_bytes() {
            b"path" => path = Some(extension.value_bytes().to_vec()),
            // The size in the header itself is then too small to be right.
            b"size" => return Err("it has a member of more than 8 GiB".to_owned()),
            _ => {}
        }
    }
    Ok(path)
}

/// The key of the sample that `path` belongs to, and its field; `None` for what belongs to none.
fn key_and_field(path: &str) -> Option<(&str, &str)> {
    let path = path.trim_start_matches("./");
    if path.split('/').any(|part| part.starts_with('.') || part == "__MACOSX") {
        return None;
    }
    let name = path.rfind('/').map_or(0, |slash| slash + 1);
    let dot = name + path[name..].find('.')?;
    let (key, field) = (&path[..dot], &path[dot + 1..]);
    (!field.is_empty()).then_some((key, field))
}

#[cfg(test)]
pub(super) mod tests {
    use std::io::{Seek as _, Write as _};

    use super::*;

    /// A tar with these members.
    pub(in crate::bulk) fn tar(members: &[(&str, &[u8])]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, bytes) in members {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, name, *bytes).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn listed(bytes: &[u8]) -> Listing {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file.rewind().unwrap();
        list(&file)
    }

    fn groups(names: &[&str]) -> Vec<String> {
        let members: Vec<_> = names.iter().map(|name| (*name, &b"x"[..])).collect();
        let listing = listed(&tar(&members));
        assert_eq!(listing.broken, None);
        let group = |group: &Group| {
            let fields: Vec<_> = group.members.iter().map(|member| &*member.field).collect();
            format!("{}: {}", group.key, fields.join(" "))
        };
        listing.groups.iter().map(group).collect()
    }

    #[test]
    fn keys_end_at_the_first_dot_of_the_file_name_and_keep_their_case() {
        let names = ["a.b.jpg", "a.b.txt", "v1.0/x.jpg", "v1.0/x.txt", "Y.JPG", "y.txt"];
        assert_eq!(groups(&names), ["a: b.jpg b.txt", "v1.0/x: jpg txt", "Y: JPG", "y: txt"]);
    }

    #[test]
    fn members_of_a_key_are_one_sample_wherever_they_are() {
        assert_eq!(groups(&["a.jpg", "b.jpg", "a.txt", "./b.txt"]), ["a: jpg txt", "b: jpg txt"]);
        assert_eq!(groups(&["a.jpg", "a.jpg"]), ["a: jpg jpg"]);
        assert_eq!(key_and_field("./1.jpg"), key_and_field("1.jpg"));
    }

    #[test]
    fn hidden_members_and_those_without_a_suffix_are_left_out() {
        assert!(groups(&[".hidden/x.jpg", "__MACOSX/._a.jpg", "._a.jpg", "noext", "a/.b/c.jpg", "a."]).is_empty());
    }

    #[test]
    fn long_names_of_both_kinds_are_read() {
        let long = format!("{}/x.jpg", "d".repeat(300));
        assert_eq!(groups(&[&long]), [format!("{}/x: jpg", "d".repeat(300))]);
        let mut builder = tar::Builder::new(Vec::new());
        builder.append_pax_extensions([("path", "long/name.png".as_bytes())]).unwrap();
        let mut header = tar::Header::new_ustar();
        header.set_size(1);
        builder.append_data(&mut header, "short.txt", &b"x"[..]).unwrap();
        assert_eq!(listed(&builder.into_inner().unwrap()).groups[0].key, "long/name".into());
    }

    #[test]
    fn what_is_in_front_of_a_fault_is_kept() {
        let whole = tar(&[("a.jpg", &[1; 2000]), ("b.jpg", &[2; 2000])]);
        let cut = listed(&whole[..4000]);
        assert_eq!(cut.groups.len(), 1);
        assert!(cut.broken.unwrap().contains("the tar ends at byte 4000, within a member of 2000 bytes"));
        let mut changed = whole.clone();
        changed[512 + 2048] ^= 1;
        let changed = listed(&changed);
        assert_eq!(changed.groups.len(), 1);
        assert!(changed.broken.unwrap().contains("checksum"));
        assert!(
            listed(b"no tar, but longer than the five hundred and twelve bytes of a header".repeat(9).as_slice())
                .broken
                .is_some()
        );
    }

    #[test]
    fn a_name_that_claims_to_be_long_is_not_read() {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(EntryType::GNULongName);
        header.set_path("././@LongLink").unwrap();
        header.set_size(MAX_NAME + 1);
        header.set_cksum();
        let mut bytes = header.as_bytes().to_vec();
        bytes.resize(bytes.len() + MAX_NAME as usize + 512, b'a');
        assert!(listed(&bytes).broken.unwrap().contains("the limit is 65536"));
    }

    #[test]
    fn an_archive_without_its_end_marker_may_be_truncated() {
        let whole = tar(&[("a.jpg", &[1; 700]), ("b.jpg", &[2; 700])]);
        assert_eq!(listed(&whole).broken, None);
        let second = 3 * 512;
        // Nothing at all, on the boundary of a member, within the padding behind one, and behind the last.
        for (length, groups) in [(0, 0), (second, 1), (second - 100, 1), (2 * second, 2)] {
            let listing = listed(&whole[..length]);
            assert_eq!(listing.groups.len(), groups, "{length}");
            assert!(
                listing.broken.as_ref().is_some_and(|text| text.contains("without its end marker")),
                "{length}: {listing:?}"
            );
        }
        assert_eq!(listed(&whole[..2 * second + 512]).broken, None, "one block of zeros is an end");
        assert_eq!(listed(&[0; 1024]).broken, None);
    }

    #[test]
    fn a_compressed_tar_says_so() {
        for magic in COMPRESSED {
            let bytes = [magic, &[7; 2000]].concat();
            assert!(listed(&bytes).broken.unwrap().ends_with(suffix::COMPRESSED_TAR), "{magic:?}");
        }
    }

    #[test]
    fn names_that_are_not_utf8_are_told_apart() {
        let mut bytes = tar(&[("a1.jpg", b"1"), ("a2.jpg", b"2")]);
        for (at, byte) in [(1, 0xfe), (1025, 0xff)] {
            bytes[at] = byte;
            let mut header = tar::Header::from_byte_slice(&bytes[at - 1..at + 511]).clone();
            header.set_cksum();
            bytes[at - 1..at + 511].copy_from_slice(header.as_bytes());
        }
        let listing = listed(&bytes);
        let keys: Vec<_> = listing.groups.iter().map(|group| (&*group.key, group.is_utf8)).collect();
        assert_eq!(keys, [("a\\xfe", false), ("a\\xff", false)]);
    }
}
