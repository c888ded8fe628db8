//! The parts of a multipart body.
//!
//! Owns which parts are pictures and which are texts, and how many parts there may be. Does not own how parts are told apart
//! (`multipart`). Does not look into a picture or a text.
//!
//! Invariants: pictures are slices of the body, whose room in the budget of bodies lasts for as long as any of them is anywhere; texts
//! have room before they are made.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Value, json};

use super::{
    multipart::{Part, Parts},
    room::Claim,
};
use crate::{
    budget::Reservation,
    http::{
        ApiError, Code,
        connection::{body::BodyBytes, held::owning},
        quoted::Quoted,
    },
};

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
        let (body, room) = body.into_parts();
        let room = Arc::new(room);
        let (mut files, mut texts) = (Vec::new(), Vec::new());
        for (index, part) in Parts::of(&body, boundary).enumerate() {
            let part = part.map_err(|error| ApiError::invalid(format!("the multipart body: {error}")))?;
            if index == max_parts {
                let message = format!("the multipart body has more than {max_parts} parts, which is the limit");
                return Err(ApiError::new(Code::PayloadTooLarge, message));
            }
            let known = fields.iter().copied().find(|field| *field == part.name);
            match known {
                _ if pictures.have(&part) => {
                    files.push(owning(body.slice(part.content), Arc::clone(&room)));
                }
                Some(name) => texts.push((name, part.content)),
                None if pictures == Pictures::Files => return Err(unknown_field(&part.name, fields)),
                None => {}
            }
        }
        let room = claim.reserve(texts.iter().map(|(_, text)| text.len()).sum())?;
        let text = |(name, range): (&'static str, _)| match std::str::from_utf8(&body[range]) {
            Ok(text) => Ok((name, text.to_owned())),
            Err(_) => Err(ApiError::invalid(format!("the field \"{name}\" of the multipart body is not UTF-8"))),
        };
        let fields = texts.into_iter().map(text).collect::<Result<_, _>>()?;
        Ok(Self { files, fields, room })
    }

    /// Takes out the values of the fields of that name, in order.
    pub(in crate::http) fn take(&mut self, name: &str) -> Vec<String> {
        self.fields.extract_if(.., |(field, _)| *field == name).map(|(_, value)| value).collect()
    }
}

impl Pictures {
    fn have(self, part: &Part<'_>) -> bool {
        match self {
            Self::Named(picture) => part.name == picture,
            Self::Files => {
                let kind = &*part.content_type;
                part.has_file_name || kind.starts_with("image/") || kind.ends_with("/octet-stream")
            }
        }
    }
}

fn unknown_field(name: &str, fields: &[&str]) -> ApiError {
    let expected = if fields.is_empty() { "file parts only".to_owned() } else { fields.join(", ") };
    ApiError::invalid(format!(
        "the multipart body has a field \"{}\" that is not a file; expected {expected} (a picture needs a file name or an image content \
         type; options go into the query, as in ?name=value)",
        Quoted(name)
    ))
}

#[cfg(test)]
mod tests {
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
        let body = read_body(sent, &limits, budget, &peers, None).await.expect("room for the body");
        let mut claim = claim_on(budget, &metrics, body.bytes().len());
        Form::read(body, "x", fields, pictures, 3, &mut claim)
    }

    const FILE: &str = "--x\r\ncontent-disposition: form-data; name=f; filename=f\r\n\r\n";
    const FIELD: &str = "--x\r\ncontent-disposition: form-data; name=label\r\n\r\n";

    #[tokio::test]
    async fn files_are_slices_of_the_body_and_fields_have_their_own_memory() {
        let budget = ByteBudget::new(64 << 10);
        let body = format!("{FILE}{}\r\n{FIELD}cat\r\n{FIELD}dog\r\n--x--\r\n", "p".repeat(8000));
        let mut form = read(&body, &budget, &["label"]).await.expect("a form");
        assert_eq!(form.take("label"), ["cat", "dog"]);
        assert_eq!((form.take("label").len(), form.files.len(), form.files[0].len()), (0, 1, 8000));
        let kib = |bytes: usize| bytes.div_ceil(1024) * 1024;
        assert_eq!(budget.capacity() - budget.left(), kib(body.len()) + kib(6));
        let Form { files, room, .. } = form;
        let slice = files[0].slice(1..2);
        drop((files, room));
        assert_eq!(budget.capacity() - budget.left(), kib(body.len()));
        drop(slice);
        assert_eq!(budget.capacity() - budget.left(), 0);

        let small = ByteBudget::new(10 << 10);
        let body = format!("{FIELD}{}\r\n--x--\r\n", "l".repeat(6000));
        let error = read(&body, &small, &["label"]).await.expect_err("no room for the field");
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
