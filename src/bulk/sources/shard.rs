//! A tar of samples, as WebDataset and img2dataset make them.
//!
//! Owns what of a group of members is the picture, the caption and the metadata: the one member whose last suffix is a picture's; the
//! field `txt`, else the `caption` of the field `json`; the field `json`. Does not own which members are a group (`members`).
//!
//! Invariant: every key is one row. A group without what is embedded, with two pictures, or with a member twice is a row with its reason.

use std::{fs::File, os::unix::fs::FileExt as _, path::Path};

use bytes::Bytes;

use super::{
    file::Limits,
    json::{Object, Value},
    members::{self, Contents, Group, Member},
};
use crate::{
    bulk::{
        options::Modalities,
        sample::{Sample, Sink, Stop},
        suffix,
    },
    regular,
};

/// Sends the samples of the tar at `path`.
///
/// # Errors
/// When the sink says so.
pub(super) fn send(path: &Path, modality: Modalities, sink: &mut dyn Sink, limits: Limits) -> Result<(), Stop> {
    let name = path.to_string_lossy();
    let broken = match regular::open(path) {
        Ok((file, _)) => {
            let listing = members::list(&file);
            let tar = Tar { file, name: &name, modality, limits };
            for group in &listing.groups {
                let Some(ticket) = sink.ticket(&group.key)? else { continue };
                sink.send(ticket, tar.sample(group))?;
            }
            listing.broken
        }
        Err(error) => Some(format!("the tar cannot be read: {error}")),
    };
    let Some(error) = broken else { return Ok(()) };
    // The samples that are lost have no names; one row says so.
    let Some(ticket) = sink.ticket(&name)? else { return Ok(()) };
    sink.send(ticket, Sample::unreadable(name.clone().into_owned(), Some(name.into_owned()), error))
}

struct Tar<'a> {
    file: File,
    name: &'a str,
    modality: Modalities,
    limits: Limits,
}

impl Tar<'_> {
    fn sample(&self, group: &Group) -> Sample {
        let mut sample = Sample { id: group.key.to_string(), ..Sample::default() };
        if let Some(fault) = &group.fault {
            sample.fail(fault.to_string());
            return sample;
        }
        if let Some(field) = repeated(&group.members) {
            sample.fail(format!("the tar holds {}.{field} twice", group.key));
            return sample;
        }
        let field = |wanted: &str| group.members.iter().find(|member| member.field.eq_ignore_ascii_case(wanted));
        if let Some(member) = field("json") {
            sample.metadata = sample.take_text(self.text(group, member));
        }
        sample.caption = match field("txt") {
            Some(member) => sample.take_text(self.text(group, member)),
            None => {
                let caption = sample.metadata.as_deref().map_or(Ok(None), caption_in);
                sample.take_text(caption).flatten()
            }
        };
        if self.modality.has_images() {
            let picture = self.picture(group, &mut sample.path);
            sample.picture = sample.take_picture(picture).flatten();
        }
        sample
    }

    /// The picture of a group; where it is, is written to `path`.
    fn picture(&self, group: &Group, path: &mut Option<String>) -> Result<Option<Bytes>, String> {
        let called = |is: fn(&str) -> bool| -> Vec<&Member> {
            group.members.iter().filter(|member| member.field.rsplit('.').next().is_some_and(is)).collect()
        };
        let decoded = called(suffix::is_decoded);
        // One that this build does not decode counts where there is no other.
        let pictures = if decoded.is_empty() { called(suffix::is_picture) } else { decoded };
        let member = match pictures[..] {
            [] => return Ok(None),
            [member] => member,
            [..] => {
                let names: Vec<_> = pictures.iter().map(|member| format!("{}.{}", group.key, member.field)).collect();
                let names = names.join(", ");
                return Err(format!(
                    "the sample has {} pictures ({names}): what follows the first dot of a file name is no part of the key; \
                     rename them",
                    pictures.len()
                ));
            }
        };
        *path = Some(format!("{}/{}.{}", self.name, group.key, member.field));
        let contents = contents_of(group, member)?;
        self.limits.picture(contents.size)?;
        self.read(contents).map(|bytes| Some(bytes.into()))
    }

    fn text(&self, group: &Group, member: &Member) -> Result<String, String> {
        let contents = contents_of(group, member)?;
        self.limits.text(contents.size)?;
        self.limits.text_in_file(self.read(contents)?)
    }

    fn read(&self, contents: Contents) -> Result<Vec<u8>, String> {
        let mut bytes = vec![0; usize::try_from(contents.size).map_err(|error| error.to_string())?];
        self.file.read_exact_at(&mut bytes, contents.position).map_err(|error| format!("{}: {error}", self.name))?;
        Ok(bytes)
    }
}

fn contents_of(group: &Group, member: &Member) -> Result<Contents, String> {
    member.contents.as_ref().copied().map_err(|reason| format!("{}.{}: {reason}", group.key, member.field))
}

/// The first field that is there twice, in whatever case.
fn repeated(members: &[Member]) -> Option<&str> {
    let is_twice = |(at, member): &(usize, &Member)| {
        members.iter().take(*at).any(|earlier| earlier.field.eq_ignore_ascii_case(&member.field))
    };
    members.iter().enumerate().find(is_twice).map(|(_, member)| &*member.field)
}

fn caption_in(json: &str) -> Result<Option<String>, String> {
    let object = Object::read(json.as_bytes(), ["caption"]);
    let object = object.map_err(|error| format!("its metadata is no JSON object: {error}"))?;
    Ok(match object.get("caption") {
        Some(Value::Text(caption)) => Some(caption.clone()),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::{super::members::tests::tar, *};
    use crate::bulk::sample::Kept;

    fn samples(members: &[(&str, &[u8])], modality: Modalities) -> Vec<Sample> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s.tar");
        std::fs::write(&path, tar(members)).unwrap();
        let mut kept = Kept::default();
        send(&path, modality, &mut kept, Limits { picture: 20, text: 30 }).unwrap();
        kept.samples
    }

    #[test]
    fn a_picture_that_is_not_decoded_counts_where_there_is_no_other() {
        let samples = samples(&[("a.jp2", b"one"), ("a.jpg", b"two"), ("b.jp2", b"three")], Modalities::Image);
        let [a, b] = &samples[..] else { panic!("{samples:?}") };
        assert_eq!((a.picture.as_deref(), &a.error), (Some(&b"two"[..]), &None));
        assert_eq!((b.picture.as_deref(), &b.error), (Some(&b"three"[..]), &None));
    }

    #[test]
    fn the_picture_its_caption_and_its_metadata_are_one_sample() {
        let members: [(&str, &[u8]); 5] = [
            ("a.b.JPG", b"one"),
            ("a.TXT", b"cat\n"),
            ("a.json", b"{\"caption\": \"dropped\"}"),
            ("c.png", b"two"),
            ("c.json", b"{\"caption\": \"dog\", \"w\": 1}"),
        ];
        let samples = samples(&members, Modalities::Image);
        let [a, c] = &samples[..] else { panic!("{samples:?}") };
        assert_eq!((&*a.id, a.picture.as_deref(), a.caption.as_deref()), ("a", Some(&b"one"[..]), Some("cat")));
        assert!(a.path.as_ref().unwrap().ends_with("s.tar/a.b.JPG"), "{a:?}");
        assert_eq!(
            (c.caption.as_deref(), c.metadata.as_deref()),
            (Some("dog"), Some("{\"caption\": \"dog\", \"w\": 1}"))
        );
        assert_eq!((&a.error, &c.error), (&None, &None));
    }

    #[test]
    fn what_is_no_single_sample_is_a_row_with_its_reason() {
        for (members, expected) in [
            (&[("a.jpg", &b"1"[..]), ("a.jpg", b"2")][..], "holds a.jpg twice"),
            (&[("a.jpg", b"1"), ("a.JPG", b"2")], "holds a.JPG twice"),
            (&[("a.l.jpg", b"1"), ("a.r.jpg", b"2")], "has 2 pictures (a.l.jpg, a.r.jpg)"),
            (&[("a.jpg", b"123456789012345678901")], "21 bytes, the limit is 20"),
            (&[("a.jpg", b"1"), ("a.json", b"[]")], "no JSON object"),
            (&[("a.jpg", b"1"), ("a.txt", b"\xff")], "not UTF-8"),
        ] {
            let both = samples(members, Modalities::Both);
            assert_eq!(both.len(), 1, "{both:?}");
            assert!(both[0].reason().unwrap().contains(expected), "{both:?}");
            // What stands beside a picture costs it nothing.
            let is_beside = ["no JSON object", "not UTF-8"].contains(&expected);
            for modality in [Modalities::Image, Modalities::Both] {
                let sample = samples(members, modality).remove(0);
                let is_whole = sample.error.is_none() && sample.no_picture.is_none();
                assert_eq!((is_whole, sample.picture.is_some()), (is_beside, is_beside), "{sample:?}");
            }
        }
    }

    #[test]
    fn pictures_are_not_read_where_texts_alone_are_wanted() {
        let samples = samples(&[("a.jpg", &[0; 21]), ("a.txt", b"cat")], Modalities::Text);
        assert_eq!((samples[0].picture.as_ref(), &samples[0].error), (None, &None));
    }

    #[test]
    fn a_tar_that_is_broken_or_gone_is_a_row_behind_what_can_be_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s.tar");
        std::fs::write(&path, &tar(&[("a.jpg", b"1"), ("b.jpg", b"2")])[..1100]).unwrap();
        let mut kept = Kept::default();
        let limits = Limits { picture: 20, text: 30 };
        send(&path, Modalities::Image, &mut kept, limits).unwrap();
        send(Path::new("/absent.tar"), Modalities::Image, &mut kept, limits).unwrap();
        let ids: Vec<_> = kept.samples.iter().map(|sample| (&*sample.id, sample.reason().is_some())).collect();
        assert_eq!(ids[0], ("a", false));
        assert_eq!(ids[ids.len() - 1], ("/absent.tar", true));
    }
}
