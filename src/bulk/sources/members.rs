//! The members of a tar, by the samples that they belong to.
//!
//! Owns the listing, by WebDataset's rule: a member's path up to the first dot of its file name is the key of its sample, what follows
//! is its field, in lower case. Where that library would make one sample into two or lose one without a word, this does not: a leading
//! `./` is no part of a key, members of one key are one sample wherever they are, two members of one field are that sample's error, a link is
//! the member that it leads to, and what cannot be read is an error. Hidden members (a part of the path begins with a dot, or is
//! `__MACOSX`), those without a suffix, and folders are left out. Does not own the walk (`headers`).
//!
//! Invariants: no list is longer than its limit, be it of all members or of a key's; names have a limit, each and together. Contents are not
//! read here.

use std::{collections::HashMap, fs::File, os::unix::fs::FileExt as _, rc::Rc};

use super::{
    headers::{Entry, Headers, Next, What},
    names,
};
use crate::bulk::{sample::name_length, suffix};

/// Members of one tar, since their list is in memory: some hundred bytes each.
const MAX_MEMBERS: usize = 1 << 21;
/// Those of one key: they are compared with each other.
const MAX_OF_KEY: usize = 64;
/// Bytes of the names of all.
const MAX_NAMES: usize = 256 << 20;
/// Links that lead to links that lead to links.
const MAX_LINKS: usize = 8;

/// A file in the tar.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Member {
    /// What follows the key and its dot, as it is written.
    pub(super) field: Box<str>,
    /// Where its contents are, or why they are not read.
    pub(super) contents: Result<Contents, Box<str>>,
}

/// Where contents are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Contents {
    /// Of their first byte.
    pub(super) position: u64,
    /// Their bytes.
    pub(super) size: u64,
}

/// The members of one key.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Group {
    /// The key.
    pub(super) key: Rc<str>,
    /// Why its members are no sample.
    pub(super) fault: Option<Box<str>>,
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
    let mut index = Index::default();
    let broken = index.read(file).unwrap_or_else(Some);
    index.follow_links();
    Listing { groups: index.groups, broken }
}

/// First bytes of what compresses tars: gzip, bzip2, xz, zstd, LZ4.
const COMPRESSED: [&[u8]; 5] = [b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd", b"\x04\x22\x4d\x18"];

/// A listing that is being made.
#[derive(Default)]
struct Index {
    groups: Vec<Group>,
    by_key: HashMap<Rc<str>, usize>,
    links: Vec<Link>,
    members: usize,
    /// Of their names.
    bytes: usize,
}

/// A member that has the contents of another one.
struct Link {
    group: usize,
    member: usize,
    /// The other one's path.
    target: Box<str>,
}

impl Index {
    /// Takes all members; answers why there may be more.
    fn read(&mut self, file: &File) -> Result<Option<String>, String> {
        let mut first = [0; 6];
        if file.read_exact_at(&mut first, 0).is_ok() && COMPRESSED.iter().any(|magic| first.starts_with(magic)) {
            return Err(format!("the tar cannot be read: {}", suffix::COMPRESSED_TAR));
        }
        let mut headers = Headers::new(file).map_err(|error| format!("the tar cannot be read: {error}"))?;
        loop {
            let at = headers.at();
            let lost = |reason: String| {
                format!("the tar cannot be read to its end: {reason}; what is behind byte {at} is lost")
            };
            match headers.next().map_err(lost)? {
                Next::Entry(entry) => self.take(entry).map_err(lost)?,
                Next::Marker => return Ok(None),
                // Nothing says that a member is missing, and a writer that was killed between two looks like this.
                Next::End => {
                    return Ok(Some("the archive ends without its end marker; it may be truncated".to_owned()));
                }
            }
        }
    }

    /// # Errors
    /// When there are too many.
    fn take(&mut self, entry: Entry) -> Result<(), String> {
        let Entry { name, short_name, what } = entry;
        if what == What::Nothing {
            return Ok(());
        }
        let path = name.and_then(|name| {
            let path = names::escaped(&name);
            name_length(path.len(), "name")?;
            Ok((path, str::from_utf8(&name).is_err().then_some(names::NOT_UTF8)))
        });
        let (path, fault) = match path {
            Ok(path) => path,
            // Whose it is cannot be known, so that it is a row of its own.
            Err(reason) => {
                let key = names::escaped(&short_name);
                self.count(key.len())?;
                let fault = Some(format!("a member of the tar cannot be read: {reason}").into());
                self.groups.push(Group { key: key.into(), fault, members: Vec::new() });
                return Ok(());
            }
        };
        let Some((key, field)) = key_and_field(&path) else { return Ok(()) };
        let group = match self.by_key.get(key) {
            Some(group) => *group,
            None => {
                let key: Rc<str> = key.into();
                self.by_key.insert(Rc::clone(&key), self.groups.len());
                self.groups.push(Group { key, fault: None, members: Vec::new() });
                self.groups.len() - 1
            }
        };
        let (contents, target) = match what {
            What::File { position, size } => (Ok(Contents { position, size }), None),
            What::HardLink(target) => (Err("it is a link".into()), Some(names::escaped(&target))),
            What::SymbolicLink(target) => (Err("it is a link".into()), Some(beside(&path, &names::escaped(&target)))),
            What::Other(reason) => (Err(reason.into()), None),
            What::Nothing => return Ok(()),
        };
        self.count(path.len() + target.as_ref().map_or(0, String::len))?;
        let Group { key, fault: known, members } = &mut self.groups[group];
        if let Some(fault) = fault {
            known.get_or_insert_with(|| fault.into());
        }
        if members.len() == MAX_OF_KEY {
            known
                .get_or_insert_with(|| format!("the tar holds more than {MAX_OF_KEY} members of the key {key}").into());
            return Ok(());
        }
        if let Some(target) = target {
            self.links.push(Link { group, member: members.len(), target: target.into() });
        }
        members.push(Member { field: field.into(), contents });
        Ok(())
    }

    /// # Errors
    /// When there are too many.
    fn count(&mut self, bytes: usize) -> Result<(), String> {
        (self.members, self.bytes) = (self.members + 1, self.bytes.saturating_add(bytes));
        if self.members > MAX_MEMBERS {
            return Err(format!("it has more than {MAX_MEMBERS} members; split it"));
        }
        if self.bytes > MAX_NAMES {
            return Err(format!("the names in it have more than {MAX_NAMES} bytes; split it"));
        }
        Ok(())
    }

    /// Gives links the contents of what they lead to: of hard ones that is in front of them, of symbolic ones it may be behind them.
    fn follow_links(&mut self) {
        let mut links = std::mem::take(&mut self.links);
        for _ in 0..MAX_LINKS {
            links.retain(|link| {
                let contents = self.at(&link.target).and_then(|member| member.contents.as_ref().ok().copied());
                if let Some(contents) = contents {
                    self.groups[link.group].members[link.member].contents = Ok(contents);
                }
                contents.is_none()
            });
        }
        for Link { group, member, target } in links {
            let reason = format!("it is a link to {target}, which is no member of the tar that can be read");
            self.groups[group].members[member].contents = Err(reason.into());
        }
    }

    fn at(&self, path: &str) -> Option<&Member> {
        let (key, field) = key_and_field(path)?;
        self.groups[*self.by_key.get(key)?].members.iter().find(|member| *member.field == *field)
    }
}

/// Where `target` leads from the folder of `path`.
fn beside(path: &str, target: &str) -> String {
    if target.starts_with('/') {
        return target.to_owned();
    }
    let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let mut parts = Vec::new();
    for part in folder.split('/').chain(target.split('/')) {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
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
pub(super) mod tests;
