//! Tars of every kind of member, and broken ones.

use std::io::{Seek as _, Write as _};

use tar::EntryType;

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

/// A member of any kind, its contents as they are given.
fn member(name: &str, kind: EntryType, link: &str, contents: &[u8]) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.set_path(name).unwrap();
    header.set_entry_type(kind);
    if !link.is_empty() {
        header.set_link_name(link).unwrap();
    }
    header.set_size(contents.len() as u64);
    header.set_cksum();
    let mut bytes = [header.as_bytes(), contents].concat();
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

fn archive(members: &[Vec<u8>]) -> Listing {
    listed(&[members.concat(), vec![0; 1024]].concat())
}

fn file(name: &str) -> Vec<u8> {
    member(name, EntryType::Regular, "", name.as_bytes())
}

/// A key with why it is none, and the size of each member or why it is not read.
type Shown<'a> = (String, Option<&'a str>, Vec<Result<u64, &'a str>>);

fn shown(listing: &Listing) -> Vec<Shown<'_>> {
    assert_eq!(listing.broken, None);
    let mut all = Vec::new();
    for Group { key, fault, members } in &listing.groups {
        let contents = members.iter().map(|member| member.contents.as_ref());
        let sizes =
            contents.map(|contents| contents.map(|contents| contents.size).map_err(|reason| &**reason)).collect();
        all.push((key.to_string(), fault.as_deref(), sizes));
    }
    all
}

#[test]
fn a_name_that_cannot_be_read_is_a_row_and_the_others_are_read() {
    let (long, records) = (EntryType::GNULongName, EntryType::XHeader);
    for (ahead, expected) in [
        (member("x", long, "", &[b'n'; 4097]), "the name has 4097 bytes, the limit is 4096"),
        (member("x", long, "", &vec![b'n'; (1 << 20) + 1]), "1048577 bytes, the limit is 1048576"),
        (member("x", records, "", b"99 path=short\n"), "PAX header in front of it is malformed"),
        (member("x", records, "", b"no record"), "PAX header in front of it is malformed"),
        (member("x", records, "", b"12 size=one\n"), "is no number"),
    ] {
        let listing = archive(&[file("a.jpg"), ahead, file("b.jpg"), file("c.jpg")]);
        let shown = shown(&listing);
        let [a, b, c] = &shown[..] else { panic!("{shown:?}") };
        assert_eq!((&*a.0, a.1, &*c.0, c.1), ("a", None, "c", None));
        assert!(b.0 == "b.jpg" && b.1.unwrap().contains(expected) && b.2.is_empty(), "{b:?}");
    }
}

#[test]
fn what_is_behind_a_sparse_file_of_many_pieces_is_read() {
    let mut sparse = member("s.jpg", EntryType::GNUSparse, "", &[7; 700]);
    let mut header = tar::Header::from_byte_slice(&sparse[..512]).clone();
    header.as_gnu_mut().unwrap().set_is_extended(true);
    header.set_cksum();
    let mut more = [0; 1024];
    more[504] = 1;
    sparse.splice(..512, [&header.as_bytes()[..], &more].concat());
    let pax = |records: &[u8], name| [member("x", EntryType::XHeader, "", records), file(name)].concat();
    let listing = archive(&[
        file("a.jpg"),
        sparse,
        pax(b"22 GNU.sparse.major=1\n28 GNU.sparse.name=real.jpg\n", "GNUSparseFile.1/0.jpg"),
        // A value may have a line end in it.
        pax(b"13 x.y=a\nb=c\n11 size=12\n", "large.jpg"),
        file("z.jpg"),
    ]);
    let shown = shown(&listing);
    let keys: Vec<_> = shown.iter().map(|(key, ..)| &**key).collect();
    assert_eq!(keys, ["a", "s", "real", "large", "z"]);
    for sparse in [1, 2] {
        assert!(shown[sparse].2[0].unwrap_err().contains("sparse file"), "{shown:?}");
    }
    assert_eq!((shown[3].2[0], shown[4].2[0]), (Ok(12), Ok(5)));
}

#[test]
fn a_link_is_the_member_that_it_leads_to_or_says_that_there_is_none() {
    let (hard, symbolic) = (EntryType::Link, EntryType::Symlink);
    let listing = archive(&[
        member("early.jpg", symbolic, "d/real.jpg", b""),
        member("d/real.jpg", EntryType::Regular, "", b"123"),
        member("hard.jpg", hard, "./d/real.jpg", b""),
        member("e/up.jpg", symbolic, "../hard.jpg", b""),
        member("d/beside.jpg", symbolic, "real.jpg", b""),
        member("lost.jpg", hard, "absent.jpg", b""),
        member("absolute.jpg", symbolic, "/d/real.jpg", b""),
        member("one.jpg", symbolic, "two.jpg", b""),
        member("two.jpg", symbolic, "one.jpg", b""),
        member("pipe.jpg", EntryType::Fifo, "", b""),
        member("folder.jpg", EntryType::Directory, "", b""),
    ]);
    let shown = shown(&listing);
    let read: Vec<_> = shown.iter().map(|(key, _, members)| (&**key, members[0].is_ok())).collect();
    let expected = [
        ("early", true),
        ("d/real", true),
        ("hard", true),
        ("e/up", true),
        ("d/beside", true),
        ("lost", false),
        ("absolute", false),
        ("one", false),
        ("two", false),
        ("pipe", false),
    ];
    assert_eq!(read, expected);
    assert!(shown[..5].iter().all(|(_, _, members)| members[0] == Ok(3)), "{shown:?}");
    assert!(shown[5].2[0].unwrap_err().contains("link to absent.jpg"), "{shown:?}");
}

#[test]
fn a_key_has_a_limit_of_members_and_says_so() {
    let members: Vec<_> = (0..MAX_OF_KEY + 2).map(|number| file(&format!("a.{number}.json"))).collect();
    let listing = archive(&members[..MAX_OF_KEY]);
    assert_eq!((listing.groups[0].members.len(), &listing.groups[0].fault), (MAX_OF_KEY, &None));
    let listing = archive(&members);
    assert_eq!(listing.groups[0].members.len(), MAX_OF_KEY);
    assert_eq!(listing.groups[0].fault.as_deref(), Some("the tar holds more than 64 members of the key a"));
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
    let keys: Vec<_> = listing.groups.iter().map(|group| (&*group.key, group.fault.as_deref())).collect();
    assert_eq!(keys, [("a\\xfe", Some(names::NOT_UTF8)), ("a\\xff", Some(names::NOT_UTF8))]);
}
