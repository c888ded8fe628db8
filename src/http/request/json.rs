//! A JSON body, looked at before it is read: how deep it is, which members its object has and how long they are, how many items.
//!
//! Owns the steps from bytes to a request with its items unread, and what is said when one of them fails. Does not own names and
//! defaults (`wire`), nor what an item is (`items`).
//!
//! Invariants: nothing is taken that grows with the body, but for 16 bytes an item up to the limit of items; a fault is named with its
//! member, or with its place in the whole body.

use std::{borrow::Cow, cell::Cell, fmt};

use memchr::{memchr_iter, memrchr};
use serde::{
    Deserialize, Deserializer,
    de::{Error as _, MapAccess, Visitor, value::MapDeserializer},
    forward_to_deserialize_any,
};
use serde_json::Value;

use super::{
    limit::Limit,
    raw::{MAX_NAME_BYTES, Raw, kind, string_end},
};
use crate::http::{
    ApiError, Code,
    quoted::{Quoted, requote},
};

/// Lists and objects inside each other.
const MAX_DEPTH: usize = 128;

/// Members of the body's object.
const MAX_MEMBERS: usize = 64;

/// Bytes of an option, as it is written.
pub(super) const MAX_OPTION_BYTES: usize = 1024;

/// A request in JSON.
pub(in crate::http) trait JsonRequest<'a>: Deserialize<'a> {
    /// The members that are lists of items. All others are options.
    const ITEMS: &'static [&'static str];
}

/// A body that is an object, its members unread: what it is a request of may depend on which there are.
#[derive(Debug)]
pub(in crate::http) struct Unread<'a> {
    body: &'a [u8],
    members: Vec<Member<'a>>,
}

impl<'a> Unread<'a> {
    /// Of a body.
    ///
    /// # Errors
    /// 400 with the place of the fault.
    pub(in crate::http) fn of(body: &'a [u8]) -> Result<Self, ApiError> {
        if let Some(found) = encoding_fault(body) {
            return Err(fault(found));
        }
        check_depth(body)?;
        let kind = body.iter().find(|byte| !byte.is_ascii_whitespace()).and_then(|&byte| kind(byte));
        if let Some(kind) = kind.filter(|kind| *kind != "an object") {
            return Err(fault(format_args!("it is {kind}, expected an object")));
        }
        let Members(members) = serde_json::from_slice(body).map_err(fault)?;
        Ok(Self { body, members })
    }

    /// Whether it has a member of that name.
    pub(in crate::http) fn has(&self, name: &str) -> bool {
        self.names().any(|member| member == name)
    }

    /// The names of its members, each as it is or as messages may show it.
    pub(in crate::http) fn names(&self) -> impl Iterator<Item = &str> {
        self.members.iter().map(|member| &*member.key)
    }

    /// The request; its lists of items stay unread.
    ///
    /// # Errors
    /// 400 with the member of the fault and its place.
    pub(in crate::http) fn read<T: JsonRequest<'a>>(&self) -> Result<T, ApiError> {
        read_members(self.body, &self.members)
    }
}

/// Reads a request; its lists of items stay unread.
///
/// # Errors
/// 400 with the member, or the place, of the fault.
#[cfg(test)]
pub(in crate::http) fn read<'a, T: JsonRequest<'a>>(body: &'a [u8]) -> Result<T, ApiError> {
    Unread::of(body)?.read()
}

fn read_members<'a, T: JsonRequest<'a>>(body: &'a [u8], members: &[Member<'a>]) -> Result<T, ApiError> {
    let is_option = |member: &&Member<'_>| !T::ITEMS.contains(&&*member.key);
    let long = members.iter().filter(is_option).find(|member| member.value.get().len() > MAX_OPTION_BYTES);
    if let Some(Member { key, value }) = long {
        return Err(fault(format_args!(
            "`{key}` takes {} bytes, an option has at most {MAX_OPTION_BYTES}; items go into {}",
            value.get().len(),
            T::ITEMS.join(", ")
        )));
    }
    let current = Cell::new(None);
    let members = NamedMembers { members, items: T::ITEMS, current: &current };
    T::deserialize(members).map_err(|error| explain(body, current.get(), &error))
}

/// The members of a request, for a type that names its fields. An option that is `null` is left out, whose default then counts; a list
/// of items is not, and what is unknown is not either.
struct NamedMembers<'m, 'a> {
    members: &'m [Member<'a>],
    items: &'static [&'static str],
    /// A deserializer that fails is in the member that it took last.
    current: &'m Cell<Option<&'m Member<'a>>>,
}

impl<'de> Deserializer<'de> for NamedMembers<'_, 'de> {
    type Error = serde_json::Error;

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        let left_out = |member: &Member<'_>| {
            let key = &*member.key;
            member.value.get() == "null" && fields.contains(&key) && !self.items.contains(&key)
        };
        let mut members = self.members.iter().filter(|member| !left_out(member));
        let pairs = std::iter::from_fn(|| {
            self.current.set(members.next());
            self.current.get().map(|member| (&*member.key, member.value))
        });
        MapDeserializer::new(pairs).deserialize_any(visitor)
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        self.deserialize_struct("", &[], visitor)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct newtype_struct seq
        tuple tuple_struct map enum identifier ignored_any
    }
}

/// What is said of a body that begins as no UTF-8 text does which a client would send on purpose: in words, with the way out.
pub(super) fn encoding_fault(body: &[u8]) -> Option<&'static str> {
    match body {
        [0xef, 0xbb, 0xbf, ..] => Some("it begins with a byte order mark; send UTF-8 without one"),
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] | [0, ..] | [_, 0, ..] => Some("it is UTF-16 or UTF-32; send UTF-8"),
        [0x1f, 0x8b, ..] => Some("it is compressed by gzip; say so in the header Content-Encoding: gzip"),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Some("it is compressed by zstd; say so in the header Content-Encoding: zstd"),
        _ => None,
    }
}

/// The depth, which nothing behind it limits: to skip a value takes a byte for each list that is open.
fn check_depth(body: &[u8]) -> Result<(), ApiError> {
    let (mut depth, mut at) = (0usize, 0);
    while let Some(&byte) = body.get(at) {
        at += 1;
        match byte {
            // Whether it has an end, the parser says.
            b'"' => at += string_end(&body[at - 1..]) - 1,
            b'[' | b'{' if depth == MAX_DEPTH => {
                let (line, column) = place(body, at);
                return Err(fault(format_args!(
                    "more than {MAX_DEPTH} lists or objects inside each other at line {line} column {column}"
                )));
            }
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    Ok(())
}

/// A fault of the body.
pub(in crate::http) fn fault(reason: impl fmt::Display) -> ApiError {
    ApiError::invalid(format!("the JSON body: {reason}"))
}

/// The line and the column of the byte before `at`, both from 1.
fn place(body: &[u8], at: usize) -> (usize, usize) {
    let before = &body[..at];
    let line = memchr_iter(b'\n', before).count() + 1;
    (line, at - memrchr(b'\n', before).map_or(0, |newline| newline + 1))
}

/// What Rust and serde say of numbers, and how a client would.
const NUMBERS: [(&str, &str); 10] = [
    ("expected usize", "expected a whole number"),
    ("expected u64", "expected a whole number"),
    ("expected u32", "expected a whole number"),
    ("expected i64", "expected a whole number"),
    ("expected f32", "expected a number"),
    ("invalid digit found in string", "expected a whole number"),
    ("cannot parse integer from empty string", "expected a whole number, and it is empty"),
    ("number too large to fit in target type", "the number is too large"),
    ("number too small to fit in target type", "the number is too small"),
    ("invalid float literal", "expected a number"),
];

/// `text`, which a parser wrote, in words for clients.
pub(super) fn in_words(text: String) -> String {
    NUMBERS.iter().fold(text, |text, (theirs, ours)| text.replace(theirs, ours))
}

/// What serde says of `member`, in the client's words cut to size, with its place in the whole body.
fn explain(body: &[u8], member: Option<&Member<'_>>, error: &serde_json::Error) -> ApiError {
    let text = in_words(error.to_string());
    let Some(Member { key, value }) = member.filter(|_| error.line() > 0) else {
        // Of the object as a whole: the only words in it are keys, which have been cut.
        return fault(text);
    };
    let reason = text.strip_suffix(&format!(" at line {} column {}", error.line(), error.column())).unwrap_or(&text);
    let mut words = Vec::new();
    collect_strings(&serde_json::from_str(value.get()).unwrap_or_default(), &mut words);
    let reason = requote(reason.to_owned(), words.iter().map(String::as_str));
    // The value is a part of the body, so where it begins is a matter of addresses.
    let (line, column) = place(body, (value.get().as_ptr().addr() - body.as_ptr().addr()).min(body.len()));
    let column = if error.line() == 1 { column + error.column() } else { error.column() };
    fault(format_args!("{key}: {reason} at line {} column {column}", line + error.line() - 1))
}

/// Every string in `value`, which is an option and so is small.
fn collect_strings(value: &Value, strings: &mut Vec<String>) {
    match value {
        Value::String(string) => strings.push(string.clone()),
        Value::Array(values) => values.iter().for_each(|value| collect_strings(value, strings)),
        Value::Object(members) => members.iter().for_each(|(key, value)| {
            strings.push(key.clone());
            collect_strings(value, strings);
        }),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// One member of the body's object, its value unread.
#[derive(Debug)]
struct Member<'a> {
    /// As it is, or [`Quoted`]: what is changed by that is no name of ours, before nor after.
    key: Cow<'a, str>,
    value: Raw<'a>,
}

/// The body's object.
struct Members<'a>(Vec<Member<'a>>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;

        impl<'de> Visitor<'de> for Object {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(key) = map.next_key::<Raw<'_>>()? {
                    if members.len() == MAX_MEMBERS {
                        return Err(A::Error::custom(format_args!("the object has more than {MAX_MEMBERS} members")));
                    }
                    let key = name(key).map_err(A::Error::custom)?;
                    members.push(Member { key, value: map.next_value()? });
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(Object)
    }
}

fn name(key: Raw<'_>) -> Result<Cow<'_, str>, serde_json::Error> {
    let name = match key.get().get(1..) {
        Some(long) if long.len() > MAX_NAME_BYTES => Cow::Borrowed(long),
        _ => key.string()?,
    };
    Ok(if Quoted(&name).is_plain() { name } else { Quoted(&name).to_string().into() })
}

/// A member that is a list of items, or a lone one, unread.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(in crate::http) struct Items<'a>(#[serde(borrow)] Raw<'a>);

impl<'a> Items<'a> {
    /// One element of another list.
    pub(in crate::http) fn of(value: Raw<'a>) -> Self {
        Self(value)
    }

    /// The value as it is.
    pub(in crate::http) fn value(self) -> Raw<'a> {
        self.0
    }

    /// Whether it is a list of nothing.
    pub(in crate::http) fn is_empty_list(self) -> bool {
        self.0.get().strip_prefix('[').is_some_and(|rest| rest.trim_start() == "]")
    }

    /// The elements of a list, 1 to `limit`, unread; `None` for what is no list.
    ///
    /// # Errors
    /// As [`check_count`].
    pub(in crate::http) fn elements(
        self,
        name: &str,
        limit: impl Into<Limit>,
    ) -> Result<Option<Vec<Raw<'a>>>, ApiError> {
        if !self.0.is_list() {
            return Ok(None);
        }
        let limit = limit.into();
        let mut elements = self.0.elements();
        let kept: Vec<_> = elements.by_ref().take(limit.items).collect();
        check_count(name, kept.len() + elements.count(), limit)?;
        Ok(Some(kept))
    }

    /// The elements of a list, 1 to `limit`, or the lone value, unread.
    ///
    /// # Errors
    /// As [`check_count`].
    pub(in crate::http) fn each(self, name: &str, limit: impl Into<Limit>) -> Result<Vec<Self>, ApiError> {
        Ok(match self.elements(name, limit)? {
            Some(elements) => elements.into_iter().map(Self).collect(),
            None => vec![self],
        })
    }
}

/// Holds the number of one kind of item between 1 and its limit.
///
/// # Errors
/// 400 for none, 413 for too many.
pub(in crate::http) fn check_count(kind: &str, count: usize, limit: impl Into<Limit>) -> Result<(), ApiError> {
    let limit = limit.into();
    if count == 0 {
        return Err(ApiError::invalid(format!("the request has no {kind}")));
    }
    if count > limit.items {
        let message = format!("the request has {count} {kind}, the limit is {limit}; split it");
        return Err(ApiError::new(Code::PayloadTooLarge, message));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Request<'a> {
        #[serde(borrow)]
        texts: Items<'a>,
        #[serde(borrow)]
        more: Option<Items<'a>>,
        #[serde(default)]
        truncate: bool,
        top_k: Option<usize>,
        #[serde(default)]
        outputs: Vec<crate::encoder::Output>,
    }

    impl<'a> JsonRequest<'a> for Request<'a> {
        const ITEMS: &'static [&'static str] = &["texts", "more"];
    }

    fn refused(body: &str) -> String {
        let error = read::<Request<'_>>(body.as_bytes()).map(|request| format!("{request:?}")).expect_err("refused");
        assert_eq!(error.code, Code::InvalidRequest);
        assert!(error.message.len() <= 1024, "{}", error.message);
        error.message.into_owned()
    }

    #[test]
    fn options_are_read_and_items_are_not() {
        let body = r#" {"texts": ["a", 1 ], "top_k": null, "truncate": true, "outputs": ["attentions"]} "#;
        let request: Request<'_> = read(body.as_bytes()).expect("valid");
        assert_eq!(request.texts.value().get(), r#"["a", 1 ]"#);
        assert!(request.more.is_none() && request.truncate && request.top_k.is_none());
        assert_eq!(request.outputs.len(), 1);
        let more: Request<'_> = read(br#"{"texts": "a", "more": null}"#).expect("an optional list");
        assert!(more.more.is_none());
        let null: Request<'_> = read(br#"{"texts": "a", "truncate": null, "outputs": null}"#).expect("the defaults");
        assert!(!null.truncate && null.outputs.is_empty());
        let escaped: Request<'_> = read(br#"{"te\u0078ts": "a"}"#).expect("a key may be escaped");
        assert_eq!(escaped.texts.value().get(), "\"a\"");
    }

    #[test]
    fn a_fault_names_its_member_and_its_place_in_the_whole_body() {
        for (body, expected) in [
            ("", "EOF while parsing a value at line 1 column 0"),
            ("[1]", "it is a list, expected an object"),
            ("\"a\"", "it is a string"),
            ("{\"texts\": \"a\"} x", "trailing characters at line 1 column 16"),
            ("{\"texts\": [\"a\"", "EOF while parsing a list at line 1 column 14"),
            (
                "{\"texts\": \"a\",\n\n \"truncate\": 1}",
                "truncate: invalid type: integer `1`, expected a boolean at line 3",
            ),
            (
                "{\"texts\": \"a\", \"top_k\": \"b\"}",
                "top_k: invalid type: string \"b\", expected a whole number at line 1 column 27",
            ),
            ("{\"texts\": \"a\", \"truncat\": null}", "unknown field `truncat`"),
            (
                "{\"texts\": \"a\", \"outputs\": [\"b\"]}",
                "outputs: unknown variant `b`, expected one of `pooler_output`",
            ),
            ("{\"texts\": \"a\", \"texts\": \"b\"}", "duplicate field `texts`"),
            ("{\"text\": \"a\"}", "unknown field `text`, expected one of `texts`"),
            ("{}", "missing field `texts`"),
        ] {
            let message = refused(body);
            assert!(message.starts_with("the JSON body: ") && message.contains(expected), "{body}: {message}");
        }
    }

    #[test]
    fn a_body_in_another_encoding_is_told_which() {
        let utf_16 = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<_>>();
        for (body, expected) in [
            ("\u{feff}{}".into(), "byte order mark"),
            (utf_16("{}"), "UTF-16"),
            (utf_16("\u{feff}{}"), "UTF-16"),
            (b"\x1f\x8b\x08\0".to_vec(), "Content-Encoding: gzip"),
            (b"\x28\xb5\x2f\xfd\0".to_vec(), "Content-Encoding: zstd"),
        ] {
            let error = read::<Request<'_>>(&body).expect_err("refused");
            assert!(error.message.contains(expected), "{}", error.message);
        }
    }

    #[test]
    fn the_clients_words_are_cut_and_escaped() {
        let (long, cut) = ("x".repeat(2000), format!("{}…", "x".repeat(63)));
        for body in [
            format!("{{\"{long}\": 1}}"),
            format!("{{\"{}\": 1}}", &long[..70]),
            format!("{{\"texts\": \"a\", \"outputs\": [\"{}\"]}}", &long[..900]),
            format!("{{\"texts\": \"a\", \"top_k\": \"{}\"}}", &long[..900]),
            format!("{{\"texts\": \"a\", \"top_k\": {{\"{}\": 1}}}}", &long[..900]),
        ] {
            let message = refused(&body);
            assert!(!message.contains(&long[..64]), "{message}");
            assert!(message.contains(&cut) || message.contains("invalid type: map"), "{message}");
        }
        for body in ["{\"\u{202e}\\n\": 1}", "{\"texts\": \"a\", \"outputs\": [\"\u{202e}\\n\"]}"] {
            let message = refused(body);
            assert!(message.contains("`\\u{202e}\\n`"), "{message}");
        }
    }

    #[test]
    fn depth_members_and_options_have_limits() {
        let nested = |depth| format!("{{\"texts\": {}{}}}", "[".repeat(depth - 1), "]".repeat(depth - 1));
        read::<Request<'_>>(nested(MAX_DEPTH).as_bytes()).expect("as deep as allowed");
        assert!(
            refused(&nested(MAX_DEPTH + 1))
                .contains("more than 128 lists or objects inside each other at line 1 column 138")
        );
        read::<Request<'_>>(format!("{{\"texts\": \"\\\"{}\"}}", "[".repeat(1000)).as_bytes()).expect("in a string");

        let members = (0..65).map(|i| format!("\"{i}\":0")).collect::<Vec<_>>().join(",");
        assert!(refused(&format!("{{{members}}}")).contains("the object has more than 64 members"));

        let message = refused(&format!("{{\"texts\": \"a\", \"top_k\": \"{}\"}}", "9".repeat(1023)));
        assert!(
            message.contains("`top_k` takes 1025 bytes, an option has at most 1024; items go into texts, more"),
            "{message}"
        );
    }

    #[test]
    fn elements_are_counted_and_kept_up_to_the_limit() {
        let items = |json: &'static str| Items(serde_json::from_str(json).expect("JSON"));
        assert_eq!(items("[1, [2]]").elements("texts", 2).expect("within").expect("a list").len(), 2);
        assert!(items("\"a\"").elements("texts", 1).expect("not counted").is_none());
        let error = items("[1,2,3,4]").elements("texts", 2).expect_err("too many");
        assert_eq!(error.code, Code::PayloadTooLarge);
        assert_eq!(error.message, "the request has 4 texts, the limit is 2 (fixed); split it");
        assert_eq!(items("[]").elements("texts", 2).expect_err("none").message, "the request has no texts");
    }
}
