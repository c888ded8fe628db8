//! The parts of a multipart body.
//!
//! Owns which parts are pictures and which are texts, how many parts there may be and how long their heads. Does not look into a
//! picture or a text.
//!
//! Invariants: the bytes of all parts are those of one copy of the body, which has room in the budget of bodies before it is made
//! and for as long as any picture of it is anywhere; a message is ours, not the parser's.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;
use memchr::memmem;
use serde_json::{Value, json};

use super::room::Claim;
use crate::{
    budget::Reservation,
    http::{
        ApiError, Code,
        connection::{body::BodyBytes, held::owning},
        quoted::Quoted,
    },
};

/// Bytes of a part's head: the parser copies it a few times.
const MAX_PART_HEAD: usize = 8 * 1024;

/// Which parts of a form are pictures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::http) enum Pictures {
    /// Those with a file name or an image content type. What is neither that nor a known field is refused.
    Files,
    /// Those of this name, whatever else their heads say. What is neither that nor a known field is passed over.
    Named(&'static str),
}

/// What the OpenAPI document says of a form with pictures and these text fields, the `optional` ones of which may be missing.
pub(in crate::http) fn schema(required: &[&str], optional: &[&str]) -> Value {
    let file = json!({"type": "string", "format": "binary"});
    let picture = ("image", json!({"type": "array", "minItems": 1, "items": file}));
    // Whatever a part holds is a text.
    let fields = required.iter().chain(optional).map(|field| (*field, json!({})));
    let properties: serde_json::Map<_, _> =
        fields.chain([picture]).map(|(name, schema)| (name.to_owned(), schema)).collect();
    let required: Vec<&str> = ["image"].iter().chain(required).copied().collect();
    json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false})
}

/// A multipart body.
#[derive(Debug)]
pub(in crate::http) struct Form {
    /// The pictures in order.
    pub files: Vec<Bytes>,
    fields: Vec<(&'static str, String)>,
    /// The room of the fields, to be held for as long as they are.
    pub room: Reservation,
}

impl Form {
    /// The parts of `body`: `pictures` and, by name, text fields. At most `max_parts`.
    ///
    /// # Errors
    /// 400 when it is malformed or has a part that is neither and is not passed over; 413 for too many parts; 413 and 429 as
    /// [`Claim::reserve`].
    pub(in crate::http) fn read(
        body: BodyBytes,
        boundary: &str,
        fields: &[&'static str],
        pictures: Pictures,
        max_parts: usize,
        claim: &mut Claim<'_>,
    ) -> Result<Self, ApiError> {
        let parse = async {
            check_heads(body.bytes(), boundary)?;
            // The parser copies the whole body once; what it hands out are slices of that copy.
            let room = Arc::new(claim.reserve(body.bytes().len())?);
            let bytes = body.bytes().clone();
            let stream = futures_util::stream::once(async move { Ok::<_, std::convert::Infallible>(bytes) });
            let mut multipart = multer::Multipart::new(stream, boundary);
            let (mut files, mut texts, mut parts) = (Vec::new(), Vec::new(), 0);
            while let Some(mut part) = multipart.next_field().await.map_err(|error| malformed(&error))? {
                if parts == max_parts {
                    let message = format!("the multipart body has more than {max_parts} parts, which is the limit");
                    return Err(ApiError::new(Code::PayloadTooLarge, message));
                }
                parts += 1;
                let name = part.name().unwrap_or_default();
                let is_picture = match pictures {
                    Pictures::Named(picture) => name == picture,
                    Pictures::Files => {
                        let kind = part.content_type();
                        part.file_name().is_some()
                            || kind.is_some_and(|mime| mime.type_() == "image" || mime.subtype() == "octet-stream")
                    }
                };
                let known = fields.iter().copied().find(|field| *field == name);
                if !is_picture && known.is_none() {
                    if pictures != Pictures::Files {
                        continue;
                    }
                    let expected = if fields.is_empty() { "file parts only".to_owned() } else { fields.join(", ") };
                    return Err(ApiError::invalid(format!(
                        "the multipart body has a field \"{}\" that is not a file; expected {expected} (a picture needs a file name \
                         or an image content type)",
                        Quoted(name)
                    )));
                }
                // All of the body is there, so a part comes in one piece.
                let bytes = part.chunk().await.map_err(|error| malformed(&error))?.unwrap_or_default();
                if part.chunk().await.map_err(|error| malformed(&error))?.is_some() {
                    return Err(ApiError::internal("a part of a multipart body came in pieces"));
                }
                match known {
                    Some(name) if !is_picture => texts.push((name, bytes)),
                    _ => files.push(owning(bytes, Arc::clone(&room))),
                }
            }
            let room = claim.reserve(texts.iter().map(|(_, text)| text.len()).sum())?;
            let text = |(name, bytes): (&'static str, Bytes)| match std::str::from_utf8(&bytes) {
                Ok(text) => Ok((name, text.to_owned())),
                Err(_) => Err(ApiError::invalid(format!("the field \"{name}\" of the multipart body is not UTF-8"))),
            };
            let fields = texts.into_iter().map(text).collect::<Result<_, _>>()?;
            Ok(Self { files, fields, room })
        };
        // All of the body is there, so the parser never waits.
        let never = || ApiError::internal("a multipart body that is there was waited for");
        parse.now_or_never().ok_or_else(never)?
    }

    /// Takes out the values of the fields of that name, in order.
    pub(in crate::http) fn take(&mut self, name: &str) -> Vec<String> {
        self.fields.extract_if(.., |(field, _)| *field == name).map(|(_, value)| value).collect()
    }
}

/// Looks at the length of every head before the parser takes one of them apart.
fn check_heads(body: &[u8], boundary: &str) -> Result<(), ApiError> {
    let delimiter = format!("--{boundary}");
    for (part, at) in memmem::find_iter(body, &delimiter).enumerate() {
        // Within a part only a line of its own is a delimiter.
        if part > 0 && !body[..at].ends_with(b"\r\n") {
            continue;
        }
        let head = &body[at + delimiter.len()..];
        let is_last = head.starts_with(b"--");
        let within = &head[..head.len().min(MAX_PART_HEAD)];
        if !is_last && within.len() < head.len() && memmem::find(within, b"\r\n\r\n").is_none() {
            return Err(ApiError::invalid(format!(
                "a part of the multipart body has a head of more than {MAX_PART_HEAD} bytes, which is the limit; the content goes \
                 behind an empty line"
            )));
        }
    }
    Ok(())
}

fn malformed(error: &multer::Error) -> ApiError {
    let what = match error {
        multer::Error::IncompleteFieldData { .. } | multer::Error::IncompleteStream => {
            "it ends before its last boundary, or has none; check the boundary in the content type"
        }
        multer::Error::IncompleteHeaders
        | multer::Error::ReadHeaderFailed(_)
        | multer::Error::DecodeHeaderName { .. }
        | multer::Error::DecodeHeaderValue { .. } => "the head of a part cannot be read",
        _ => "it cannot be read",
    };
    ApiError::invalid(format!("the multipart body: {what}"))
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;
    use crate::{
        budget::ByteBudget,
        http::{
            Peers,
            connection::body::{BodyLimits, read_body},
            request::room::tests::claim_on,
        },
        telemetry::Metrics,
    };

    async fn read(body: &str, budget: &ByteBudget, fields: &[&'static str]) -> Result<Form, ApiError> {
        read_with(body, budget, fields, Pictures::Files).await
    }

    async fn read_with(
        body: &str,
        budget: &ByteBudget,
        fields: &[&'static str],
        pictures: Pictures,
    ) -> Result<Form, ApiError> {
        let second = std::time::Duration::from_secs(1);
        let limits = BodyLimits { max_bytes: 1 << 20, idle_timeout: second, timeout: second };
        let sent = http_body_util::Full::new(Bytes::copy_from_slice(body.as_bytes()));
        let metrics = Arc::new(Metrics::new());
        let peers = Peers::new(Arc::clone(&metrics), second);
        let body = read_body(&HeaderMap::new(), sent, &limits, budget, &peers, None).await.expect("room for the body");
        let mut claim = claim_on(budget, &metrics, body.bytes().len());
        Form::read(body, "x", fields, pictures, 3, &mut claim)
    }

    const FILE: &str = "--x\r\ncontent-disposition: form-data; name=f; filename=f\r\n\r\n";
    const FIELD: &str = "--x\r\ncontent-disposition: form-data; name=label\r\n\r\n";

    #[tokio::test]
    async fn files_keep_one_copy_of_the_body_and_fields_their_own() {
        let budget = ByteBudget::new(64 << 10);
        let body = format!("{FILE}{}\r\n{FIELD}cat\r\n{FIELD}dog\r\n--x--\r\n", "p".repeat(8000));
        let mut form = read(&body, &budget, &["label"]).await.expect("a form");
        assert_eq!(form.take("label"), ["cat", "dog"]);
        assert_eq!((form.take("label").len(), form.files.len(), form.files[0].len()), (0, 1, 8000));
        assert_eq!(64 - budget.left() / 1024, 8 + 1, "the body is gone");
        let Form { files, room, .. } = form;
        let slice = files[0].slice(1..2);
        drop((files, room));
        assert_eq!(64 - budget.left() / 1024, 8);
        drop(slice);
        assert_eq!(64 - budget.left() / 1024, 0);

        let small = ByteBudget::new(15 << 10);
        let error = read(&body, &small, &["label"]).await.expect_err("no room for the copy");
        assert_eq!(error.code, Code::PayloadTooLarge);
    }

    #[tokio::test]
    async fn a_part_is_a_picture_by_its_name_alone_and_others_are_passed_over() {
        let budget = ByteBudget::new(64 << 10);
        let part = |head: &str, body: &str| format!("--x\r\ncontent-disposition: form-data; {head}\r\n\r\n{body}\r\n");
        let body = [
            part("name=picture", "p"),
            part("name=picture; filename=f", "q"),
            part("name=label; filename=f", "cat"),
            "--x--".to_owned(),
        ];
        let mut form =
            read_with(&body.concat(), &budget, &["label"], Pictures::Named("picture")).await.expect("a form");
        assert_eq!((form.take("label"), form.files.len()), (vec!["cat".to_owned()], 2));
        let other = [part("name=other; filename=f", "p"), part("name=other", "q"), "--x--".to_owned()].concat();
        let mut form = read_with(&other, &budget, &["label"], Pictures::Named("picture")).await.expect("a form");
        assert_eq!((form.take("label").len(), form.files.len()), (0, 0));
        let many = part("name=other", "q").repeat(4) + "--x--";
        let error = read_with(&many, &budget, &[], Pictures::Named("picture")).await.expect_err("four parts");
        assert!(error.message.contains("more than 3 parts"), "{}", error.message);
    }

    #[tokio::test]
    async fn what_is_no_form_of_ours_is_said_in_our_words() {
        let budget = ByteBudget::new(1 << 20);
        let long = "n".repeat(100);
        for (body, expected) in [
            ("--y".to_owned(), "the multipart body: it ends before its last boundary"),
            (format!("{FILE}p"), "it ends before its last boundary"),
            ("--x\r\n\u{7f}: 1\r\n\r\na\r\n--x--".to_owned(), "the head of a part cannot be read"),
            (format!("--x\r\na: {}\r\n\r\np\r\n--x--", "h".repeat(8192)), "a head of more than 8192 bytes"),
            (format!("{FILE}p\r\n--x\r\na: {}", "h".repeat(9000)), "a head of more than 8192 bytes"),
            (format!("{FIELD}{FIELD}"), "it ends before"),
            (FIELD.replace("label", &long) + "a\r\n--x--", "nnn…\" that is not a file; expected label ("),
            (FIELD.replace("label", "\"a%0Ab\u{202e}\"") + "a\r\n--x--", "that is not a file"),
            (format!("{FILE}p\r\n{FILE}p\r\n{FILE}p\r\n{FILE}p\r\n--x--"), "more than 3 parts"),
        ] {
            let error = read(&body, &budget, &["label"]).await.expect_err(&body);
            assert!(error.message.contains(expected), "{body}: {}", error.message);
            assert!(error.message.len() <= 1024 && !error.message.contains(['\n', '\u{202e}']), "{}", error.message);
        }
        // A long line in a picture is no head, even where it has the boundary in it.
        read(&format!("{FILE}{}--x{}\r\n--x--", "p".repeat(9000), "p".repeat(9000)), &budget, &[])
            .await
            .expect("a form");
        assert_eq!(budget.left(), budget.capacity());
    }
}
