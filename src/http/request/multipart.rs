//! Multipart bodies that are all there (RFC 7578): where their parts are, and what their heads say.
//!
//! Owns boundaries, heads and the parameters of their fields, as clients write them: file names in `filename*` or as raw bytes, names
//! in UTF-8 or not. Does not own what a part is for (`form`), nor a copy of any: parts are ranges of the body.
//!
//! Invariants: a head has at most [`MAX_HEAD`] bytes and [`MAX_FIELDS`] fields; a walk goes over the body once and takes no memory that
//! grows with it; an error is in our words.

use std::{borrow::Cow, ops::Range};

use memchr::memmem::Finder;
use percent_encoding::percent_decode;

/// Bytes of a part's head.
pub(super) const MAX_HEAD: usize = 8 * 1024;

/// Fields of a part's head: clients write two or three.
const MAX_FIELDS: usize = 32;

/// What is wrong with a body. The texts are for the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum MultipartError {
    #[error("it ends before its last boundary, or has none; check the boundary in the content type")]
    Ends,
    #[error(
        "a part has a head of more than {MAX_HEAD} bytes, which is the limit; the content goes behind an empty line"
    )]
    LongHead,
    #[error("the head of a part cannot be read")]
    Head,
}

/// One part.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Part<'a> {
    /// The name of its field; empty where it has none.
    pub(super) name: Cow<'a, str>,
    /// Whether it is a file by name, whatever the name is.
    pub(super) has_file_name: bool,
    /// Its media type in small letters, without parameters; empty where it has none.
    pub(super) content_type: String,
    /// Where in the body its content is.
    pub(super) content: Range<usize>,
}

/// The boundary that the content type of a body names.
pub(super) fn boundary(content_type: &str) -> Option<String> {
    let mut parameters = Parameters::of(content_type.as_bytes());
    let (_, boundary) = parameters.find(|(name, _)| name.eq_ignore_ascii_case(b"boundary"))?;
    let boundary = String::from_utf8(boundary.into_owned()).ok()?;
    // RFC 2046, section 5.1.1.
    (1..=70).contains(&boundary.len()).then_some(boundary)
}

/// The parts of a body, in order. After an error there are none.
#[derive(Debug)]
pub(super) struct Parts<'a> {
    body: &'a [u8],
    delimiter: Finder<'static>,
    /// Behind the last boundary that was found; `None` at the end.
    at: Option<usize>,
}

impl<'a> Parts<'a> {
    pub(super) fn of(body: &'a [u8], boundary: &str) -> Self {
        let delimiter = Finder::new(format!("\r\n--{boundary}").as_bytes()).into_owned();
        Self { body, delimiter, at: Some(0) }
    }

    /// The next line from `at` on that is a boundary: where it begins, and what it is.
    fn boundary_line(&self, at: usize) -> Result<(usize, Line), MultipartError> {
        let needle = self.delimiter.needle();
        // The first may begin the body.
        let first = (at == 0 && self.body.starts_with(&needle[2..])).then_some((0, needle.len() - 2));
        let lines = self.delimiter.find_iter(&self.body[at..]).map(|found| (at + found, at + found + needle.len()));
        for (start, end) in first.into_iter().chain(lines) {
            if let Some(line) = Line::of(&self.body[end..], end) {
                return Ok((start, line));
            }
        }
        Err(MultipartError::Ends)
    }

    fn part(&mut self, from: usize) -> Result<Option<Part<'a>>, MultipartError> {
        let head_start = if from == 0 {
            match self.boundary_line(0)?.1 {
                Line::Last => return Ok(None),
                Line::Part(start) => start,
            }
        } else {
            from
        };
        let rest = &self.body[head_start..];
        let within = &rest[..rest.len().min(MAX_HEAD)];
        // A part may have no head at all, but an empty line it has.
        let head_len = if rest.starts_with(b"\r\n") { Some(2) } else { find_head_end(within) };
        let head_len =
            head_len.ok_or(if within.len() < rest.len() { MultipartError::LongHead } else { MultipartError::Ends })?;
        let mut part = Part::with_head(&rest[..head_len])?;
        let content = head_start + head_len;
        // The line end before a boundary is the boundary's, also behind an empty content.
        let (end, line) = self.boundary_line(content - 2)?;
        part.content = content..end.max(content);
        self.at = match line {
            Line::Last => None,
            Line::Part(start) => Some(start),
        };
        Ok(Some(part))
    }
}

fn find_head_end(bytes: &[u8]) -> Option<usize> {
    memchr::memmem::find(bytes, b"\r\n\r\n").map(|at| at + 4)
}

impl<'a> Iterator for Parts<'a> {
    type Item = Result<Part<'a>, MultipartError>;

    fn next(&mut self) -> Option<Self::Item> {
        let from = self.at.take()?;
        self.part(from).transpose()
    }
}

/// What follows a boundary on its line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    /// A part, which begins there.
    Part(usize),
    /// No more parts.
    Last,
}

impl Line {
    /// Of what stands behind a boundary; `None` where that is a longer word than it, and so none.
    fn of(behind: &[u8], at: usize) -> Option<Self> {
        if behind.starts_with(b"--") {
            return Some(Self::Last);
        }
        // Blanks are allowed, and no more than a mail gateway would add.
        let blanks = behind.iter().take(64).take_while(|byte| matches!(byte, b' ' | b'\t')).count();
        behind[blanks..].starts_with(b"\r\n").then_some(Self::Part(at + blanks + 2))
    }
}

impl<'a> Part<'a> {
    /// What a head, with the empty line at its end, says.
    fn with_head(head: &'a [u8]) -> Result<Self, MultipartError> {
        let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
        let Ok(httparse::Status::Complete((_, fields))) = httparse::parse_headers(head, &mut fields) else {
            return Err(MultipartError::Head);
        };
        let mut part = Self::default();
        for field in fields {
            if field.name.eq_ignore_ascii_case("content-disposition") {
                part.disposition(field.value);
            } else if field.name.eq_ignore_ascii_case("content-type") {
                let kind = field.value.split(|&byte| byte == b';').next().unwrap_or_default();
                part.content_type = String::from_utf8_lossy(kind.trim_ascii()).to_ascii_lowercase();
            }
        }
        Ok(part)
    }

    fn disposition(&mut self, value: &'a [u8]) {
        let mut extended = None;
        for (name, value) in Parameters::of(value) {
            match name.to_ascii_lowercase().as_slice() {
                b"name" => self.name = lossy(value),
                b"name*" => extended = extended_value(&value),
                b"filename" | b"filename*" => self.has_file_name = true,
                _ => {}
            }
        }
        if let (true, Some(name)) = (self.name.is_empty(), extended) {
            self.name = Cow::Owned(name);
        }
    }
}

fn lossy(bytes: Cow<'_, [u8]>) -> Cow<'_, str> {
    match bytes {
        Cow::Borrowed(bytes) => String::from_utf8_lossy(bytes),
        Cow::Owned(bytes) => Cow::Owned(String::from_utf8_lossy(&bytes).into_owned()),
    }
}

/// `charset'language'percent-encoded` (RFC 5987); bytes that are no UTF-8 are replaced, whatever the charset says.
fn extended_value(value: &[u8]) -> Option<String> {
    let encoded = value.splitn(3, |&byte| byte == b'\'').nth(2)?;
    Some(percent_decode(encoded).decode_utf8_lossy().into_owned())
}

/// The parameters behind a value: `; name=token` or `; name="quoted, with \" in it"`.
#[derive(Clone, Debug)]
struct Parameters<'a> {
    rest: &'a [u8],
}

impl<'a> Parameters<'a> {
    fn of(field: &'a [u8]) -> Self {
        let rest = field.iter().position(|&byte| byte == b';').map_or(&[][..], |at| &field[at..]);
        Self { rest }
    }
}

impl<'a> Iterator for Parameters<'a> {
    type Item = (&'a [u8], Cow<'a, [u8]>);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let rest = self.rest.strip_prefix(b";")?.trim_ascii_start();
            let end = rest.iter().position(|&byte| matches!(byte, b'=' | b';')).unwrap_or(rest.len());
            let (name, after) = rest.split_at(end);
            let Some(after) = after.strip_prefix(b"=") else {
                self.rest = after;
                continue;
            };
            let after = after.trim_ascii_start();
            let (value, after) = match after.strip_prefix(b"\"") {
                Some(quoted) => unquote(quoted),
                None => {
                    let end = after.iter().position(|&byte| byte == b';').unwrap_or(after.len());
                    (Cow::Borrowed(after[..end].trim_ascii()), &after[end..])
                }
            };
            let next = after.iter().position(|&byte| byte == b';').unwrap_or(after.len());
            self.rest = &after[next..];
            return Some((name.trim_ascii(), value));
        }
    }
}

/// A quoted value, and what follows its end; without one it goes to the end of the field.
fn unquote(quoted: &[u8]) -> (Cow<'_, [u8]>, &[u8]) {
    let mut unescaped = Vec::new();
    let mut from = 0;
    while let Some(found) = quoted[from..].iter().position(|byte| matches!(byte, b'"' | b'\\')) {
        let at = from + found;
        if quoted[at] == b'"' {
            let value = &quoted[from..at];
            let rest = &quoted[at + 1..];
            if unescaped.is_empty() {
                return (Cow::Borrowed(value), rest);
            }
            unescaped.extend_from_slice(value);
            return (Cow::Owned(unescaped), rest);
        }
        // Only these two are ever escaped; a path of Windows has backslashes that mean themselves.
        let escapes = matches!(quoted.get(at + 1), Some(b'"' | b'\\'));
        unescaped.extend_from_slice(&quoted[from..at + usize::from(!escapes)]);
        if escapes {
            unescaped.push(quoted[at + 1]);
        }
        from = at + 1 + usize::from(escapes);
    }
    if from == 0 {
        return (Cow::Borrowed(quoted), &[]);
    }
    unescaped.extend_from_slice(&quoted[from..]);
    (Cow::Owned(unescaped), &[])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Name, whether it is a file, type and content of a part.
    type Read = (String, bool, String, Vec<u8>);

    fn read(body: &[u8]) -> Result<Vec<Read>, MultipartError> {
        let part = |part: Part<'_>| {
            (part.name.into_owned(), part.has_file_name, part.content_type, body[part.content].to_vec())
        };
        Parts::of(body, "x").map(|read| read.map(part)).collect()
    }

    fn names(disposition: &[u8]) -> (String, bool) {
        let body = [b"--x\r\nContent-Disposition: form-data; ", disposition, b"\r\n\r\n\r\n--x--"].concat();
        let part = read(&body).expect("a body").remove(0);
        (part.0, part.1)
    }

    #[test]
    fn names_are_read_as_clients_write_them() {
        for (disposition, name, is_file) in [
            (&b"name=image"[..], "image", false),
            (b"name=\"image\"; filename=\"cat.png\"", "image", true),
            (b"name=\"image\"; filename*=utf-8''%E6%9D%B1.png", "image", true),
            (b"filename=\"a;name=b\"; name=image", "image", true),
            (b"name=\"im\\\"age\"", "im\"age", false),
            (b"name=\"image\"; filename=\"C:\\cats\\cat.png\"", "image", true),
            (b"name=\"C:\\\\x\\y\"", "C:\\x\\y", false),
            (b"name*=utf-8''%E6%9D%B1", "\u{6771}", false),
            (b"name=a; name*=utf-8''b", "a", false),
            (b"NAME = image ; FileName=x", "image", true),
            ("name=\"\u{6771}\"".as_bytes(), "\u{6771}", false),
            (b"name=\"caf\xe9\"; filename=\"caf\xe9.png\"", "caf\u{fffd}", true),
            (b"filename", "", false),
            (b"name=\"open", "open", false),
            (b"x=\"y\" z; name=a", "a", false),
        ] {
            assert_eq!(names(disposition), (name.to_owned(), is_file), "{}", disposition.escape_ascii());
        }
    }

    #[test]
    fn contents_are_what_stands_between_boundaries_that_are_lines_of_their_own() {
        let body = b"preamble\r\n--x \t\r\nContent-Type: Image/PNG; a=b\r\n\r\nab\r\n--xy\r\n--\r\n\r\n--x\r\n\r\n\r\n--x\r\n\r\n\r\n\r\n--x--\r\nepilogue";
        let parts = read(body).expect("a body");
        let contents: Vec<_> = parts.iter().map(|part| part.3.escape_ascii().to_string()).collect();
        assert_eq!(contents, ["ab\\r\\n--xy\\r\\n--\\r\\n", "", "\\r\\n"]);
        assert_eq!((parts[0].2.as_str(), parts[1].2.as_str()), ("image/png", ""));
        assert_eq!(read(b"--x--").expect("no parts"), []);
        assert_eq!(read(b"--x\r\na: b\r\n\r\n--x--").expect("an empty part")[0].3, b"");
    }

    #[test]
    fn what_cannot_be_read_is_said() {
        let long = [b"--x\r\na: ".as_slice(), &[b'h'; MAX_HEAD], b"\r\n\r\np\r\n--x--"].concat();
        let many = [b"--x\r\n".as_slice(), &b"a: b\r\n".repeat(33), b"\r\np\r\n--x--"].concat();
        for (body, error) in [
            (&b""[..], MultipartError::Ends),
            (b"--y", MultipartError::Ends),
            (b"--x\r\n\r\np", MultipartError::Ends),
            (b"--x\r\na: b", MultipartError::Ends),
            (b"--x\r\n\x7f: 1\r\n\r\na\r\n--x--", MultipartError::Head),
            (&long, MultipartError::LongHead),
            (&many, MultipartError::Head),
        ] {
            assert_eq!(read(body), Err(error));
        }
    }

    #[test]
    fn the_boundary_is_named_by_the_content_type() {
        for (content_type, expected) in [
            ("multipart/form-data; boundary=abc", Some("abc")),
            ("multipart/form-data;charset=utf-8; Boundary=\"a b\"", Some("a b")),
            ("multipart/form-data", None),
            ("multipart/form-data; boundary=", None),
            ("multipart/form-data; boundary=\"\"", None),
        ] {
            assert_eq!(boundary(content_type).as_deref(), expected, "{content_type}");
        }
        assert_eq!(boundary(&format!("multipart/form-data; boundary={}", "b".repeat(71))), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_parts_or_an_error(body in "(--x|\r\n|--|\"|\\\\|;|=|name|: |Content-Disposition|a){0,40}") {
            for part in Parts::of(body.as_bytes(), "x").flatten() {
                prop_assert!(body.as_bytes().get(part.content).is_some());
            }
        }

        #[test]
        fn contents_come_back(contents in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..50), 0..5)) {
            let part = |content: &Vec<u8>| [b"--boundary\r\ncontent-disposition: form-data; name=a\r\n\r\n", &content[..], b"\r\n"].concat();
            let body = [contents.iter().map(part).collect::<Vec<_>>().concat(), b"--boundary--\r\n".to_vec()].concat();
            let read: Vec<_> = Parts::of(&body, "boundary").map(|part| body[part.expect("a part").content].to_vec()).collect();
            prop_assert_eq!(read, contents);
        }
    }
}
