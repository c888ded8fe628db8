//! A value of JSON that has been found valid, and is looked into without being read again.
//!
//! Owns what kind of value it is, what stands inside a list or an object, a string's text, and handing the value to serde, read
//! or unread. Does not own the body that it is of (`json`), nor how many values there may be in it (`limit`).
//!
//! A value ends where its own quotation mark or bracket closes: of text that has been parsed once there is no more to know. So a
//! picture of megabytes in base64 is searched for the end of its string, at the speed of memory, by each list and object that it
//! stands in, where a parser would go through it byte by byte once more for each.
//!
//! Invariants: a value is valid JSON without blanks around it; nothing is copied but a string in which something is escaped, and
//! of names of members only short ones.

use std::{borrow::Cow, fmt, iter};

use memchr::{memchr, memchr2};
use serde::{
    Deserialize, Deserializer,
    de::{Error, IntoDeserializer, Visitor},
};
use serde_json::value::RawValue;

/// Bytes of a member's name, above which it is nobody's.
pub(super) const MAX_NAME_BYTES: usize = 1024;

const NULL: &str = "null";

/// A value, unread.
#[derive(Clone, Copy, Debug)]
pub(in crate::http) struct Raw<'a>(&'a str);

/// What [`Raw`] asks a deserializer for. None but its own knows the name.
const TOKEN: &str = "$clipserve::Raw";

impl<'de: 'a, 'a> Deserialize<'de> for Raw<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Value;

        impl<'de> Visitor<'de> for Value {
            type Value = Raw<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value of JSON")
            }

            // From a parser.
            fn visit_newtype_struct<D: Deserializer<'de>>(self, parser: D) -> Result<Self::Value, D::Error> {
                <&RawValue>::deserialize(parser).map(Raw::from)
            }

            // From a value that has been parsed.
            fn visit_borrowed_str<E: Error>(self, value: &'de str) -> Result<Self::Value, E> {
                Ok(Raw(value))
            }
        }

        deserializer.deserialize_newtype_struct(TOKEN, Value)
    }
}

impl<'de> IntoDeserializer<'de, serde_json::Error> for Raw<'de> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

macro_rules! by_the_parser {
    ($($method:ident($($name:ident: $type:ty),*);)*) => {$(
        fn $method<V: Visitor<'de>>(self, $($name: $type,)* visitor: V) -> Result<V::Value, Self::Error> {
            serde_json::Deserializer::from_str(self.0).$method($($name,)* visitor)
        }
    )*};
}

/// As serde_json's own, but that what is to stay unread is not parsed to find where it ends.
impl<'de> Deserializer<'de> for Raw<'de> {
    type Error = serde_json::Error;

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        if name == TOKEN { visitor.visit_borrowed_str(self.0) } else { visitor.visit_newtype_struct(self) }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        if self.0 == NULL { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    by_the_parser! {
        deserialize_any();
        deserialize_bool();
        deserialize_i8();
        deserialize_i16();
        deserialize_i32();
        deserialize_i64();
        deserialize_i128();
        deserialize_u8();
        deserialize_u16();
        deserialize_u32();
        deserialize_u64();
        deserialize_u128();
        deserialize_f32();
        deserialize_f64();
        deserialize_char();
        deserialize_str();
        deserialize_string();
        deserialize_bytes();
        deserialize_byte_buf();
        deserialize_unit();
        deserialize_unit_struct(name: &'static str);
        deserialize_seq();
        deserialize_tuple(len: usize);
        deserialize_tuple_struct(name: &'static str, len: usize);
        deserialize_map();
        deserialize_struct(name: &'static str, fields: &'static [&'static str]);
        deserialize_enum(name: &'static str, variants: &'static [&'static str]);
        deserialize_identifier();
        deserialize_ignored_any();
    }
}

impl<'a> From<&'a RawValue> for Raw<'a> {
    fn from(value: &'a RawValue) -> Self {
        Self(value.get())
    }
}

impl<'a> Raw<'a> {
    /// As it is written.
    pub(in crate::http) fn get(self) -> &'a str {
        self.0
    }

    /// What it is, as messages call it.
    pub(in crate::http) fn kind(self) -> &'static str {
        self.0.bytes().next().and_then(kind).unwrap_or("nothing")
    }

    /// Whether it is a list.
    pub(in crate::http) fn is_list(self) -> bool {
        self.0.starts_with('[')
    }

    /// Whether it is an object.
    pub(in crate::http) fn is_object(self) -> bool {
        self.0.starts_with('{')
    }

    /// Whether it is a string.
    pub(in crate::http) fn is_string(self) -> bool {
        self.0.starts_with('"')
    }

    /// What stands between a string's quotation marks, escaped as it is; `None` for what is no string.
    pub(super) fn between_quotes(self) -> Option<&'a str> {
        self.0.strip_prefix('"')?.strip_suffix('"')
    }

    /// The string, borrowed where nothing in it is escaped.
    ///
    /// # Errors
    /// When it is no string, or has half a surrogate pair.
    pub(in crate::http) fn string(self) -> Result<Cow<'a, str>, serde_json::Error> {
        match self.between_quotes() {
            Some(text) if memchr(b'\\', text.as_bytes()).is_none() => Ok(Cow::Borrowed(text)),
            _ => serde_json::from_str(self.0).map(Cow::Owned),
        }
    }

    /// The elements of a list; none of what is no list.
    pub(in crate::http) fn elements(self) -> impl Iterator<Item = Self> {
        inside(self.0.strip_prefix('[').unwrap_or_default())
    }

    /// The members of an object, each a string and its value; none of what is no object.
    pub(in crate::http) fn members(self) -> impl Iterator<Item = (Self, Self)> {
        let mut inside = inside(self.0.strip_prefix('{').unwrap_or_default());
        iter::from_fn(move || Some((inside.next()?, inside.next()?)))
    }

    /// The values of an object's members with these names; `None` where there is no such member, or its value is null. Other
    /// members are passed over.
    ///
    /// # Errors
    /// What is wrong: a member that is there twice, or half a surrogate pair in a name.
    pub(in crate::http) fn members_named<const N: usize>(
        self,
        names: [&str; N],
    ) -> Result<[Option<Self>; N], Cow<'static, str>> {
        let mut found = [None; N];
        for (key, value) in self.members().filter(|(key, _)| key.0.len() <= MAX_NAME_BYTES) {
            let key = key.string().map_err(|error| {
                let text = error.to_string();
                // Where it was found says little: the place of the object in the body is not known here.
                text.split(" at line").next().unwrap_or_default().to_owned()
            })?;
            let Some(at) = names.iter().position(|name| *name == key) else { continue };
            if found[at].replace(value).is_some() {
                return Err(format!("duplicate field `{key}`").into());
            }
        }
        Ok(found.map(|value| value.filter(|value| value.0 != NULL)))
    }
}

/// What a value is that begins with `byte`, if any does.
pub(super) fn kind(byte: u8) -> Option<&'static str> {
    match byte {
        b'{' => Some("an object"),
        b'[' => Some("a list"),
        b'"' => Some("a string"),
        b't' | b'f' => Some("a boolean"),
        b'n' => Some("null"),
        b'-' | b'0'..=b'9' => Some("a number"),
        _ => None,
    }
}

/// The values in `rest`, which is what follows the bracket of a list or an object: of an object its names and its values in turn.
fn inside(mut rest: &str) -> impl Iterator<Item = Raw<'_>> {
    iter::from_fn(move || {
        let text = rest.trim_ascii_start();
        let (value, behind) = text.split_at(end(text.as_bytes()));
        let behind = behind.trim_ascii_start();
        rest = behind.strip_prefix([',', ':']).unwrap_or(behind);
        // At the bracket that closes, and at the end of the text, no value begins.
        (!value.is_empty()).then_some(Raw(value))
    })
}

/// Where the value ends that `text` begins with; 0 when it begins with none.
fn end(text: &[u8]) -> usize {
    match text.first() {
        Some(b'"') => string_end(text),
        Some(b'[' | b'{') => {
            let (mut depth, mut at) = (0, 0);
            while let Some(byte) = text.get(at) {
                match byte {
                    b'"' => {
                        at += string_end(&text[at..]);
                        continue;
                    }
                    b'[' | b'{' => depth += 1,
                    b']' | b'}' if depth == 1 => return at + 1,
                    b']' | b'}' => depth -= 1,
                    _ => {}
                }
                at += 1;
            }
            text.len()
        }
        _ => {
            let ends = |byte: &u8| matches!(byte, b',' | b':' | b']' | b'}') || byte.is_ascii_whitespace();
            text.iter().position(ends).unwrap_or(text.len())
        }
    }
}

/// Where the string ends that `text` begins with, over what is escaped: behind its quotation mark, or with the text where it has
/// none.
pub(super) fn string_end(text: &[u8]) -> usize {
    let mut at = 1;
    while let Some(found) = text.get(at..).and_then(|rest| memchr2(b'"', b'\\', rest)) {
        at += found + 1;
        if text[at - 1] == b'"' {
            return at;
        }
        at += 1;
    }
    text.len()
}

#[cfg(test)]
pub(in crate::http) mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    /// A valid value.
    pub(in crate::http) fn raw(json: &str) -> Raw<'_> {
        serde_json::from_str(json).expect("JSON")
    }

    fn texts<'a>(values: impl Iterator<Item = Raw<'a>>) -> Vec<&'a str> {
        values.map(Raw::get).collect()
    }

    #[test]
    fn what_is_inside_is_found_wherever_blanks_and_brackets_stand() {
        for (list, expected) in [
            ("[]", &[][..]),
            (" [ \n\t\r ] ", &[]),
            ("[1]", &["1"]),
            ("[ -1.5e+3 , true,null\n,\"\" ]", &["-1.5e+3", "true", "null", "\"\""]),
            (r#"["]\"[","\\", "\\\"," , "é]"]"#, &[r#""]\"[""#, r#""\\""#, r#""\\\",""#, "\"é]\""]),
            (r#"[[1,[2]],{"a]":[{}]} ,[ ]]"#, &["[1,[2]]", r#"{"a]":[{}]}"#, "[ ]"]),
        ] {
            assert_eq!(texts(raw(list).elements()), expected, "{list}");
        }
        let object = raw(r#"{"a":1,"b\"}" : {"c":[2,3]} , "" :"x:y,z" }"#);
        let members: Vec<_> = object.members().map(|(name, value)| (name.get(), value.get())).collect();
        assert_eq!(members, [("\"a\"", "1"), (r#""b\"}""#, r#"{"c":[2,3]}"#), ("\"\"", "\"x:y,z\"")]);
        assert_eq!(raw("{ }").members().count(), 0);
        for other in ["1", "null", "\"[1]\"", "{\"a\":1}"] {
            assert_eq!(raw(other).elements().count(), 0, "{other}");
        }
        for other in ["1", "\"{1}\"", "[\"a\",1]"] {
            assert_eq!(raw(other).members().count(), 0, "{other}");
        }
    }

    fn values() -> impl Strategy<Value = Value> {
        let text = "[\\[\\]{}\",:\\\\ a\u{e9}\u{1f600}\\n]{0,8}";
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            text.prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 64, 6, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::btree_map(text, inner, 0..6)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    /// Puts a value together again from what is found inside.
    fn read(value: Raw<'_>) -> Value {
        match value.get().as_bytes()[0] {
            b'[' => value.elements().map(read).collect(),
            b'{' => {
                let member = |(name, value): (Raw<'_>, _)| (name.string().expect("a name").into_owned(), read(value));
                Value::Object(value.members().map(member).collect())
            }
            _ => serde_json::from_str(value.get()).expect("a value"),
        }
    }

    proptest! {
        #[test]
        fn what_is_inside_is_what_the_parser_finds(value in values()) {
            for json in [value.to_string(), format!("{value:#}")] {
                // Not `value` itself, whose floats serde_json does not read back to the last bit.
                let expected: Value = serde_json::from_str(&json).expect("JSON");
                prop_assert_eq!(read(raw(&json)), expected);
            }
        }
    }

    #[test]
    fn members_are_found_by_their_names() {
        let named = |json| raw(json).members_named(["a", "b"]).map(|found| found.map(|value| value.map(Raw::get)));
        assert_eq!(named(r#"{"c": 1, "b": [2]}"#), Ok([None, Some("[2]")]));
        assert_eq!(named(r#"{"\u0061": 1, "b": null}"#), Ok([Some("1"), None]));
        assert_eq!(named(r#"{"b": null, "a": 1, "b": 2}"#).expect_err("twice"), "duplicate field `b`");
        let half = named(r#"{"\ud800": 1}"#).expect_err("half a pair");
        assert!(half.contains("hex escape") && !half.contains("line"), "{half}");
        let long = format!("{{\"{}\": 1, \"a\": 2}}", "\\u0061".repeat(MAX_NAME_BYTES / 6 + 1));
        assert_eq!(raw(&long).members_named(["a"]).map(|[a]| a.map(Raw::get)), Ok(Some("2")), "not copied");
    }

    #[test]
    fn a_string_is_borrowed_where_json_allows() {
        let string = |json| raw(json).string();
        assert!(matches!(string(r#""plain""#), Ok(Cow::Borrowed("plain"))));
        assert!(matches!(string(r#""esc\/aped""#), Ok(Cow::Owned(text)) if text == "esc/aped"));
        assert!(string(r#""\ud800""#).is_err() && string("1").is_err());
    }
}
