//! What of a JSON object is wanted.
//!
//! Owns reading the values of some keys and passing all others. Invariant: what is taken is no more than the wanted strings of the object, whatever
//! else is in it.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::error::Category;

/// A value that is wanted.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Null,
    Text(String),
    /// As it would be written.
    Number(String),
    /// A boolean, a list, or an object.
    Other,
}

/// The values of some keys: of each the last one.
#[derive(Debug, PartialEq)]
pub(super) struct Object<'k> {
    keys: Vec<&'k str>,
    values: Vec<Option<Value>>,
}

impl<'k> Object<'k> {
    /// Those in `json` under `keys`.
    ///
    /// # Errors
    /// One line: it is no JSON object.
    pub(super) fn read(json: &[u8], keys: impl IntoIterator<Item = &'k str>) -> Result<Self, String> {
        let keys: Vec<_> = keys.into_iter().collect();
        let mut object = Self { values: vec![None; keys.len()], keys };
        let mut reader = serde_json::Deserializer::from_slice(json);
        let read = reader.deserialize_map(Wanted(&mut object)).and_then(|()| reader.end());
        read.map(|()| object).map_err(|error| match error.classify() {
            Category::Eof => "it ends within a value".to_owned(),
            Category::Data => "it is of another type".to_owned(),
            Category::Syntax | Category::Io => format!("line {}, column {} is no JSON", error.line(), error.column()),
        })
    }

    /// The value of `key`, which is one of those that were read.
    pub(super) fn get(&self, key: &str) -> Option<&Value> {
        self.values.get(self.place(key)?)?.as_ref()
    }

    fn place(&self, key: &str) -> Option<usize> {
        self.keys.iter().position(|known| *known == key)
    }
}

/// Fills an object.
struct Wanted<'o, 'k>(&'o mut Object<'k>);

impl<'de> Visitor<'de> for Wanted<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(place) = map.next_key_seed(Key(self.0))? {
            match place {
                Some(place) => self.0.values[place] = Some(map.next_value_seed(OfKey)?),
                None => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }
}

/// The place of a key, where it is wanted.
struct Key<'o, 'k>(&'o Object<'k>);

impl<'de> DeserializeSeed<'de> for Key<'_, '_> {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Option<usize>, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Key<'_, '_> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, key: &str) -> Result<Option<usize>, E> {
        Ok(self.0.place(key))
    }
}

/// A wanted value.
struct OfKey;

impl<'de> DeserializeSeed<'de> for OfKey {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for OfKey {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::Text(text.to_owned()))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Value, E> {
        Ok(Value::Other)
    }

    fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
        Ok(Value::Number(number.to_string()))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
        Ok(Value::Number(number.to_string()))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Value, E> {
        serde_json::Number::from_f64(number)
            .map(|number| Value::Number(number.to_string()))
            .ok_or_else(|| E::custom("a number without end"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Value::Other)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Value::Other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wanted_values_are_read_whatever_stands_between_them() {
        let json = r#" {"a": "x\n", "b": [{"a": 1}, [[]]], "c": 1.50, "d": null, "x": {"a": [1, {}]}, "a\u0062": -7, "a": "last"} "#;
        let object = Object::read(json.as_bytes(), ["a", "b", "c", "d", "ab", "absent"]).unwrap();
        let text = |text: &str| Value::Text(text.to_owned());
        let number = |number: &str| Value::Number(number.to_owned());
        for (key, expected) in [
            ("a", Some(text("last"))),
            ("b", Some(Value::Other)),
            ("c", Some(number("1.5"))),
            ("d", Some(Value::Null)),
            ("ab", Some(number("-7"))),
            ("absent", None),
            ("x", None),
        ] {
            assert_eq!(object.get(key), expected.as_ref(), "{key}");
        }
    }

    #[test]
    fn what_is_no_object_says_so_in_our_words() {
        let deep = format!("{{\"b\": {}", "[".repeat(100_000));
        for (json, expected) in [
            ("[1]", "of another type"),
            ("7", "of another type"),
            ("", "ends within"),
            ("{\"a\": \"x", "ends within"),
            (&*deep, "ends within"),
            ("{\"a\" 1}", "line 1, column 6"),
            ("{} {}", "line 1, column 4"),
            ("{\"a\": 1e999}", "line 1, column "),
            ("{\"a\": \"\\ud800\"}", "line 1, column "),
        ] {
            let error = Object::read(json.as_bytes(), ["a"]).unwrap_err();
            assert!(error.contains(expected), "{json:.20}: {error}");
        }
        assert!(Object::read(b"{\"a\": \"\xff\"}", ["a"]).is_err());
    }
}
