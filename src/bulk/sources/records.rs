//! JSON lines: an object on each line, with the path of a picture, a text, or both.
//!
//! Owns which keys are read: those that are asked for, else `image`, `image_path` or `path` for the picture's path, `caption` or
//! `text`, and `id` or `key`. A relative path is below the file's own folder. Blank lines are no samples.

use std::{
    io::BufReader,
    path::{Path, PathBuf},
};

use super::{
    file::{Limits, read_picture},
    json::{Object, Value},
    lines::{self, Line},
    names::{WEB_ADDRESS, is_web_address},
};
use crate::{
    bulk::{
        options::{Columns, Modalities},
        sample::{Sample, Sink, Stop, name_of},
    },
    regular,
};

const IMAGE: [&str; 3] = ["image", "image_path", "path"];
pub(super) const TEXT: [&str; 3] = ["caption", "text", "TEXT"];
pub(super) const ID: [&str; 3] = ["id", "key", "__key__"];

/// Sends the samples of the file at `path`.
///
/// # Errors
/// When the sink says so.
pub(super) fn send(
    path: &Path,
    modality: Modalities,
    columns: &Columns,
    sink: &mut dyn Sink,
    limits: Limits,
) -> Result<(), Stop> {
    let name = path.to_string_lossy();
    let reader = regular::open(path).map(|(file, _)| BufReader::new(file));
    lines::each(&name, reader, limits.picture, sink, |number, line, sink| {
        if line.is_blank() {
            return Ok(());
        }
        let place = format!("{name}:{number}");
        let Some(ticket) = sink.ticket(&place)? else { return Ok(()) };
        let record = Record { columns, modality, folder: path.parent().unwrap_or(Path::new("")), limits };
        sink.send(ticket, record.sample(place, line))
    })
}

/// How a line is read.
struct Record<'a> {
    columns: &'a Columns,
    modality: Modalities,
    folder: &'a Path,
    limits: Limits,
}

impl Record<'_> {
    fn sample(&self, place: String, line: Line) -> Sample {
        let object = match self.object(line) {
            Ok(object) => object,
            Err(error) => return Sample::unreadable(place, None, error),
        };
        let mut sample = Sample { id: place, ..Sample::default() };
        match value(&object, &self.columns.id, &ID) {
            Some(Value::Text(id)) => {
                let id = name_of(id.as_bytes(), "id");
                if let Some(id) = sample.take(id) {
                    sample.id = id;
                }
            }
            Some(Value::Number(id)) => sample.id.clone_from(id),
            Some(Value::Null | Value::Other) | None => {}
        }
        match value(&object, &self.columns.text, &TEXT) {
            Some(Value::Text(text)) => {
                // Its length first: it may be as long as the line.
                let text =
                    self.limits.text(text.len() as u64).and_then(|()| self.limits.text_of(text.as_bytes().to_vec()));
                sample.caption = sample.take_text(text);
            }
            Some(Value::Null) | None => {}
            Some(Value::Number(_) | Value::Other) => {
                sample.no_text = Some("its text is no string".to_owned());
            }
        }
        match value(&object, &self.columns.image, &IMAGE) {
            Some(Value::Text(image)) => {
                let image = name_of(image.as_bytes(), "path");
                if let Some(image) = sample.take_picture(image) {
                    self.picture(image, &mut sample);
                }
            }
            Some(Value::Null) | None => sample.no_picture = Some(self.no_picture()),
            Some(Value::Number(_) | Value::Other) => {
                sample.no_picture = Some("its picture is no path: a string is expected".to_owned());
            }
        }
        sample
    }

    fn picture(&self, image: String, sample: &mut Sample) {
        if is_web_address(&image) {
            sample.path = Some(image);
            sample.no_picture = Some(format!("its picture is {WEB_ADDRESS}"));
            return;
        }
        let path = resolved(self.folder, &image);
        sample.path = Some(path.to_string_lossy().into_owned());
        if self.modality.has_images() {
            sample.picture = sample.take_picture(read_picture(&path, self.limits));
        }
    }

    fn object(&self, line: Line) -> Result<Object<'_>, String> {
        let Columns { image, text, id } = self.columns;
        let keys = keys(image, &IMAGE).chain(keys(text, &TEXT)).chain(keys(id, &ID));
        match line {
            Line::Whole(bytes) => {
                Object::read(&bytes, keys).map_err(|error| format!("the line is no JSON object: {error}"))
            }
            Line::TooLong(bytes) => Err(format!(
                "the line has {bytes} bytes, the limit is {} (--set limits.max_body_bytes=...)",
                self.limits.picture
            )),
        }
    }

    fn no_picture(&self) -> String {
        match &self.columns.image {
            Some(name) => format!("the line has no picture: --image-column {name} is not in it"),
            None => {
                format!("the line has no picture: it has none of {}; name another by --image-column", IMAGE.join(", "))
            }
        }
    }
}

/// Where a path in a file of `folder` leads.
pub(super) fn resolved(folder: &Path, path: &str) -> PathBuf {
    folder.join(path)
}

/// The keys that one thing may be under: the one that is asked for, else the usual ones.
fn keys<'k>(asked: &'k Option<String>, usual: &'k [&str]) -> impl Iterator<Item = &'k str> {
    let usual = if asked.is_some() { &[] } else { usual };
    asked.iter().map(String::as_str).chain(usual.iter().copied())
}

fn value<'o>(object: &'o Object<'_>, asked: &Option<String>, usual: &[&str]) -> Option<&'o Value> {
    keys(asked, usual).find_map(|key| object.get(key))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bulk::sample::Kept;

    fn read(text: &str, columns: &Columns) -> Vec<Sample> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a.jpg"), "picture").unwrap();
        let path = folder.path().join("r.jsonl");
        std::fs::write(&path, text).unwrap();
        let mut kept = Kept::default();
        send(&path, Modalities::Both, columns, &mut kept, Limits { picture: 99, text: 9 }).unwrap();
        kept.samples
    }

    #[test]
    fn the_usual_keys_are_read_and_paths_are_below_the_file() {
        let samples =
            read("{\"id\": 7, \"image\": \"a.jpg\", \"text\": \"cat\"}\n{\"caption\": \"dog\"}\n", &Columns::default());
        assert_eq!((&*samples[0].id, samples[0].caption.as_deref()), ("7", Some("cat")));
        assert_eq!(samples[0].picture.as_deref(), Some(&b"picture"[..]));
        assert!(samples[1].id.ends_with("r.jsonl:2") && samples[1].picture.is_none());
    }

    #[test]
    fn keys_that_are_asked_for_are_read_in_their_place() {
        let columns = Columns { image: Some("file".into()), text: Some("alt".into()), id: Some("n".into()) };
        let samples = read(r#"{"n": "x", "file": "a.jpg", "alt": "cat", "text": "dog", "id": 1}"#, &columns);
        assert_eq!((&*samples[0].id, samples[0].caption.as_deref()), ("x", Some("cat")));
        assert!(samples[0].picture.is_some());
    }

    #[test]
    fn a_line_that_cannot_be_read_is_a_row_with_its_reason() {
        let long = format!("{{\"text\": \"{}\"}}", "a".repeat(99));
        let deep = "[".repeat(60);
        let text = format!(
            "{long}\n[1]\n{deep}\n{{\"image\": \"b.jpg\"}}\n{{\"image\": 1}}\n{{\"text\": [1]}}\n{{\"text\": \"0123456789\"}}"
        );
        let expected = [
            "111 bytes, the limit is 99",
            "no JSON object",
            "no JSON object",
            "b.jpg",
            "no path",
            "no string",
            "10 bytes",
        ];
        let samples = read(&text, &Columns::default());
        assert_eq!(samples.len(), expected.len());
        for (sample, expected) in samples.iter().zip(expected) {
            let reasons = [&sample.error, &sample.no_picture, &sample.no_text];
            assert!(reasons.into_iter().flatten().any(|reason| reason.contains(expected)), "{sample:?}");
        }
    }

    #[test]
    fn a_line_without_a_picture_says_which_keys_are_read_and_blank_lines_are_none() {
        let text = "\u{feff}{\"url\": \"a.jpg\"}\n\n{\"image\": \"HTTPS://x/a.jpg\"}\n \r\n";
        let samples = read(text, &Columns::default());
        let [lacking, web] = &samples[..] else { panic!("{samples:?}") };
        let reason = lacking.no_picture.as_ref().unwrap();
        assert!(reason.contains("none of image, image_path, path") && reason.contains("--image-column"), "{reason}");
        assert_eq!(lacking.error, None, "a text would be embedded");
        assert!(web.reason().unwrap().contains("not fetched") && web.id.ends_with(":3"), "{web:?}");
        let named = Columns { image: Some("file".into()), ..Columns::default() };
        assert!(read("{}", &named)[0].no_picture.as_ref().unwrap().contains("--image-column file is not in it"));
    }

    #[test]
    fn ids_and_paths_have_a_length() {
        let long = "n".repeat(4097);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("r.jsonl");
        std::fs::write(&path, format!("{{\"id\": \"{long}\"}}\n{{\"path\": \"{long}\", \"id\": \"b\"}}\n")).unwrap();
        let mut kept = Kept::default();
        let limits = Limits { picture: 9999, text: 9 };
        send(&path, Modalities::Image, &Columns::default(), &mut kept, limits).unwrap();
        let rows: Vec<_> = kept.samples.iter().map(|row| (&*row.id, row.reason())).collect();
        let first = format!("{}:1", path.display());
        let expected = [
            (&*first, Some("the id has 4097 bytes, the limit is 4096")),
            ("b", Some("the path has 4097 bytes, the limit is 4096")),
        ];
        assert_eq!(rows, expected);
    }
}
