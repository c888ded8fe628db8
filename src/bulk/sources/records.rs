//! JSON lines: an object on each line, with the path of a picture, a text, or both.
//!
//! Owns which keys are read: those that are asked for, else `image`, `image_path` or `path` for the picture's path, `caption` or
//! `text`, and `id` or `key`. A relative path is below the file's own folder. Blank lines are no samples.

use std::{
    io::BufReader,
    path::{Path, PathBuf},
};

use serde_json::{Map, Value};

use super::{
    file::{Limits, read_picture},
    lines::{self, Line},
};
use crate::{
    bulk::{
        options::{Columns, Modalities},
        sample::{Sample, Sink, Stop},
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
        let object = match object(line, self.limits) {
            Ok(object) => object,
            Err(error) => return Sample::unreadable(place, None, error),
        };
        let mut sample = Sample { id: place, ..Sample::default() };
        match value(&object, self.columns.id.as_ref(), &ID) {
            Some(Value::String(id)) => sample.id.clone_from(id),
            Some(id @ Value::Number(_)) => sample.id = id.to_string(),
            _ => {}
        }
        match value(&object, self.columns.text.as_ref(), &TEXT) {
            Some(Value::String(text)) => {
                sample.caption = sample.take(self.limits.text_of(text.as_bytes().to_vec()));
            }
            Some(Value::Null) | None => {}
            Some(_) => sample.error = Some("its text is no string".to_owned()),
        }
        match value(&object, self.columns.image.as_ref(), &IMAGE) {
            Some(Value::String(image)) if is_web_address(image) => {
                sample.path = Some(image.clone());
                sample.error =
                    Some("its picture is a web address, and these are not fetched; give the path of a file".to_owned());
            }
            Some(Value::String(image)) => {
                let path = resolved(self.folder, image);
                sample.path = Some(path.to_string_lossy().into_owned());
                if self.modality.has_images() {
                    sample.picture = sample.take(read_picture(&path, self.limits));
                }
            }
            Some(Value::Null) | None => sample.no_picture = Some(self.no_picture()),
            Some(_) => sample.error = Some("its picture is no path: a string is expected".to_owned()),
        }
        sample
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

fn is_web_address(text: &str) -> bool {
    let begins = |scheme: &str| text.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme));
    begins("http://") || begins("https://")
}

/// Where a path in a file of `folder` leads.
pub(super) fn resolved(folder: &Path, path: &str) -> PathBuf {
    folder.join(path)
}

fn object(line: Line, limits: Limits) -> Result<Map<String, Value>, String> {
    match line {
        Line::Whole(bytes) => {
            serde_json::from_slice(&bytes).map_err(|error| format!("the line is no JSON object: {error}"))
        }
        Line::TooLong(bytes) => Err(format!(
            "the line has {bytes} bytes, the limit is {} (--set limits.max_body_bytes=...)",
            limits.picture
        )),
    }
}

fn value<'o>(object: &'o Map<String, Value>, asked: Option<&String>, usual: &[&str]) -> Option<&'o Value> {
    match asked {
        Some(asked) => object.get(asked),
        None => usual.iter().find_map(|key| object.get(*key)),
    }
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
            assert!(sample.error.as_ref().unwrap().contains(expected), "{sample:?}");
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
        assert!(web.error.as_ref().unwrap().contains("not fetched") && web.id.ends_with(":3"), "{web:?}");
        let named = Columns { image: Some("file".into()), ..Columns::default() };
        assert!(read("{}", &named)[0].no_picture.as_ref().unwrap().contains("--image-column file is not in it"));
    }
}
