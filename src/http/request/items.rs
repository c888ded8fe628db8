//! The items of a JSON request: strings, pictures in base64, rows of embeddings.
//!
//! Owns reading them, each kind in the same order: how many there are, how much they take, room for that, and then they themselves.
//! Does not decode a picture or look at a text: that is for the lanes.
//!
//! Invariants: what is made of a body has room in the budget of bodies before it is made; an error names the item by its index.

use std::borrow::Cow;

use memchr::memchr_iter;
use ndarray::{Array2, ArrayView1, ArrayViewMut1};

use super::{
    data_url::decode_picture,
    each::{Each, OnError},
    json::{Items, fault},
    limit::Limit,
    picture::Picture,
    raw::Raw,
    room::Claim,
};
use crate::{budget::Reservation, http::ApiError, similarity};

/// Whose memory strings are to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Memory {
    /// The body's, where JSON allows it.
    Borrowed,
    /// Their own, so that the body can go.
    Own,
}

impl<'a> Items<'a> {
    /// A list of 1 to `limit` strings, or a lone one; borrowed from the body where JSON allows it. With the room of those that are not.
    /// Each may have a fault of its own, half a surrogate pair.
    ///
    /// # Errors
    /// 400 for anything else, and for none; 413 for too many; 413 and 429 as [`Claim::reserve`].
    pub(in crate::http) fn each_string(
        self,
        name: &str,
        limit: impl Into<Limit>,
        claim: &mut Claim<'_>,
        on_error: OnError,
    ) -> Result<(Each<Cow<'a, str>>, Reservation), ApiError> {
        self.read_strings(name, limit, claim, Memory::Borrowed, on_error)
    }

    /// As [`Self::each_string`], all of them good and none borrowed.
    ///
    /// # Errors
    /// As [`Self::each_string`].
    pub(in crate::http) fn owned_strings(
        self,
        name: &str,
        limit: impl Into<Limit>,
        claim: &mut Claim<'_>,
    ) -> Result<(Vec<String>, Reservation), ApiError> {
        let (mut strings, room) = self.read_strings(name, limit, claim, Memory::Own, OnError::Fail)?;
        Ok((strings.take().into_iter().map(Cow::into_owned).collect(), room))
    }

    fn read_strings(
        self,
        name: &str,
        limit: impl Into<Limit>,
        claim: &mut Claim<'_>,
        memory: Memory,
        on_error: OnError,
    ) -> Result<(Each<Cow<'a, str>>, Reservation), ApiError> {
        let elements = self.string_elements(name, limit)?;
        let (mut copies, mut unescaped) = (0, Unescaped::default());
        for &(_, text) in &elements {
            let (len, escaped) = unescaped.add(text);
            if escaped || memory == Memory::Own {
                copies += len;
            }
        }
        let mut room = claim.reserve(copies + unescaped.work_space())?;
        let read = |(index, (element, _)): (usize, (Raw<'a>, _))| {
            let text = read_string(name, index, element)?;
            Ok(if memory == Memory::Own { Cow::Owned(text.into_owned()) } else { text })
        };
        let mut strings = Each::new(on_error);
        elements.into_iter().enumerate().map(read).try_for_each(|string| strings.add(string))?;
        room.shrink_to(copies);
        Ok((strings, room))
    }

    /// A list of 1 to `limit` pictures in base64, or a lone one, decoded; some may be addresses. Each has its own share of the budget, for as long as its
    /// bytes are anywhere.
    ///
    /// # Errors
    /// As [`Self::each_string`] and [`decode_picture`].
    pub(in crate::http) fn pictures(
        self,
        name: &str,
        limit: impl Into<Limit>,
        claim: &mut Claim<'_>,
    ) -> Result<Vec<Picture>, ApiError> {
        Ok(self.each_picture(name, limit, claim, OnError::Fail)?.take())
    }

    /// As [`Self::pictures`]; each may have a fault of its own.
    ///
    /// # Errors
    /// As [`Self::pictures`].
    pub(in crate::http) fn each_picture(
        self,
        name: &str,
        limit: impl Into<Limit>,
        claim: &mut Claim<'_>,
        on_error: OnError,
    ) -> Result<Each<Picture>, ApiError> {
        let elements = self.string_elements(name, limit)?;
        let mut unescaped = Unescaped::default();
        for &(_, text) in &elements {
            unescaped.add(text);
        }
        let _work_space = claim.reserve(unescaped.work_space())?;
        let decode = |(index, (element, _)): (usize, (Raw<'_>, _))| {
            let text = read_string(name, index, element)?;
            decode_picture(&text, claim).map_err(|error| error.at(index))
        };
        let mut pictures = Each::new(on_error);
        elements.into_iter().enumerate().map(decode).try_for_each(|picture| pictures.add(picture))?;
        Ok(pictures)
    }

    /// Embeddings of an earlier answer, 1 to `limit` rows of `dim` numbers, L2-normalised, with the room that they take.
    ///
    /// # Errors
    /// 400 for anything else, for numbers that are not finite and rows of zeros; 413 for too many; 413 and 429 as [`Claim::reserve`].
    pub(in crate::http) fn embeddings(
        self,
        name: &str,
        limit: impl Into<Limit>,
        dim: usize,
        claim: &mut Claim<'_>,
    ) -> Result<(Array2<f32>, Reservation), ApiError> {
        let Some(rows) = self.elements(name, limit)? else {
            let kind = self.value().kind();
            return Err(fault(format_args!("{name} is {kind}, expected a list of lists of numbers")));
        };
        let count = rows.len().saturating_mul(dim);
        let room = claim.reserve(count.saturating_mul(size_of::<f32>()))?;
        let mut values = Vec::with_capacity(count);
        for (index, &row) in rows.iter().enumerate() {
            push_row(&mut values, name, row, dim).map_err(|error| error.at(index))?;
        }
        let embeddings = Array2::from_shape_vec((rows.len(), dim), values);
        Ok((embeddings.map_err(|error| ApiError::internal(error.to_string()))?, room))
    }

    /// The strings, unread, each beside what stands between its quotation marks.
    fn string_elements(self, name: &str, limit: impl Into<Limit>) -> Result<Vec<(Raw<'a>, &'a str)>, ApiError> {
        let Some(elements) = self.elements(name, limit)? else {
            let kind = self.value().kind();
            let expected = || fault(format_args!("{name} is {kind}, expected a string or a list of strings"));
            return Ok(vec![(self.value(), self.value().between_quotes().ok_or_else(expected)?)]);
        };
        let text = |(index, element): (usize, Raw<'a>)| {
            let expected = || fault(format_args!("{name} has {} at {index}, expected a string", element.kind()));
            element.between_quotes().map(|text| (element, text)).ok_or_else(|| expected().at(index))
        };
        elements.into_iter().enumerate().map(text).collect()
    }
}

/// What it takes to unescape strings one after the other.
#[derive(Debug, Default)]
struct Unescaped {
    longest: usize,
}

impl Unescaped {
    /// Takes `text` in: its length without escapes, and whether it has any.
    fn add(&mut self, text: &str) -> (usize, bool) {
        let len = unescaped_len(text);
        let escaped = len < text.len();
        if escaped {
            self.longest = self.longest.max(len);
        }
        (len, escaped)
    }

    /// Bytes at most: the parser's buffer doubles as it fills, and its string is copied out.
    fn work_space(&self) -> usize {
        self.longest.saturating_mul(3)
    }
}

/// How long the text of a valid JSON string is once it is unescaped: every escape is longer than what it stands for.
fn unescaped_len(text: &str) -> usize {
    let bytes = text.as_bytes();
    let mut len = bytes.len();
    let mut end = 0;
    for at in memchr_iter(b'\\', bytes) {
        // The second of two is what the first one escapes.
        if at < end {
            continue;
        }
        let unicode = text.get(at + 2..at + 6).filter(|_| bytes.get(at + 1) == Some(&b'u'));
        let (written, meant) = match unicode.and_then(|hex| u16::from_str_radix(hex, 16).ok()) {
            None => (2, 1),
            Some(0..=0x7f) => (6, 1),
            Some(0x80..=0x7ff) => (6, 2),
            // Half of a pair, which stands for 4.
            Some(0xd800..=0xdfff) => (6, 2),
            Some(_) => (6, 3),
        };
        len -= written - meant;
        end = at + written;
    }
    len
}

fn read_string<'a>(name: &str, index: usize, element: Raw<'a>) -> Result<Cow<'a, str>, ApiError> {
    element
        .string()
        .map_err(|_| fault(format_args!("{name} has half a surrogate pair in the string at {index}")).at(index))
}

/// Appends the numbers of `row`, scaled to length 1.
fn push_row(values: &mut Vec<f32>, name: &str, row: Raw<'_>, dim: usize) -> Result<(), ApiError> {
    let expected = |found: &str| ApiError::invalid(format!("{name} has {found}, expected lists of {dim} numbers"));
    let Some(numbers) = row.get().strip_prefix('[').and_then(|row| row.strip_suffix(']')) else {
        return Err(expected(row.kind()));
    };
    let start = values.len();
    // The row is valid JSON: between commas stands a number, or what does not parse as one.
    for number in numbers.split(',').map(str::trim).filter(|number| !number.is_empty()) {
        if values.len() - start == dim {
            let message = format!("{name} has more than {dim} values, the model's embeddings have {dim}");
            return Err(ApiError::invalid(message));
        }
        values.push(number.parse().map_err(|_| expected("something else than numbers"))?);
    }
    let row = &mut values[start..];
    if row.len() < dim {
        let message = format!("{name} has {} values, the model's embeddings have {dim}", row.len());
        return Err(ApiError::invalid(message));
    }
    let norm = similarity::norm(ArrayView1::from(&*row));
    if !(norm.is_finite() && norm > 0.0) {
        return Err(ApiError::invalid(format!("{name} must be finite and not all zero")));
    }
    similarity::normalize_row(ArrayViewMut1::from(row));
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::http::{Code, request::room::tests::with_claim};

    fn items(json: &str) -> Items<'_> {
        serde_json::from_str(json).expect("JSON")
    }

    #[test]
    fn a_picture_has_its_share_until_its_bytes_are_gone_and_is_not_decoded_without() {
        let text = format!("\"{}\"", "QUJD".repeat(1024));
        with_claim(4 << 10, |claim| {
            let pictures = items(&text).pictures("images", 1, claim).expect("room for 3 KiB");
            let error = items(&text).pictures("images", 1, claim).expect_err("no room for 3 more");
            assert_eq!(error.code, Code::PayloadTooLarge);
            drop(pictures);
        });
        let list = r#"["QUJD", "Q\u0055JD", "!"]"#;
        let error = with_claim(1 << 20, |claim| items(list).pictures("images", 3, claim)).expect_err("no base64");
        assert_eq!(error.index, Some(2));
    }

    #[test]
    fn strings_are_one_or_many_and_borrowed_where_json_allows() {
        let read = |json| {
            with_claim(8 << 10, |claim| {
                items(json).each_string("texts", 2, claim, OnError::Fail).map(|(mut strings, _)| strings.take())
            })
        };
        assert_eq!(read(r#""a""#).expect("one"), ["a"]);
        let many = read(r#"["plain", "esc\/aped"]"#).expect("many");
        assert_eq!(many, ["plain", "esc/aped"]);
        assert!(matches!(many[0], Cow::Borrowed(_)) && matches!(many[1], Cow::Owned(_)));
        for (bad, index, expected) in [
            (r#"["a", 1]"#, Some(1), "texts has a number at 1, expected a string"),
            ("{}", None, "texts is an object, expected a string or a list of strings"),
            ("null", None, "texts is null"),
            (r#"["\ud800"]"#, Some(0), "half a surrogate pair"),
            ("[]", None, "no texts"),
            (r#"["","",""]"#, None, "3 texts, the limit is 2"),
        ] {
            let error = read(bad).expect_err(bad);
            assert_eq!(error.index, index, "{bad}");
            assert!(error.message.contains(expected), "{bad}: {}", error.message);
        }
    }

    #[test]
    fn copies_of_strings_have_room_before_they_are_made() {
        let escaped = format!("[\"\\n{}\"]", "a".repeat(2047));
        with_claim(16 << 10, |claim| {
            let (_, room) = items(&escaped).each_string("texts", 1, claim, OnError::Fail).expect("room");
            assert_eq!(room.bytes(), 2 << 10, "what the work took is given back");
            let (_, room) = items(r#"["plain"]"#).each_string("texts", 1, claim, OnError::Fail).expect("room");
            assert_eq!(room.bytes(), 0, "borrowed");
            let (_, room) = items(r#"["plain"]"#).owned_strings("texts", 1, claim).expect("room");
            assert_eq!(room.bytes(), 1 << 10);
        });
        let error = with_claim(7 << 10, |claim| items(&escaped).each_string("texts", 1, claim, OnError::Fail))
            .expect_err("no room");
        assert_eq!(error.code, Code::PayloadTooLarge);
    }

    proptest! {
        #[test]
        fn the_length_of_an_escaped_string_is_known_before_it_is_unescaped(text in "\\PC{0,20}[\"\\\\\\n\u{7}a\u{e9}\u{4e00}\u{1f600}]{0,20}") {
            let every = text.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect::<String>();
            let usual = serde_json::to_string(&text).expect("JSON");
            prop_assert_eq!(unescaped_len(&every), text.len());
            prop_assert_eq!(unescaped_len(&usual[1..usual.len() - 1]), text.len());
        }
    }

    #[test]
    fn embeddings_are_rows_of_the_models_length_normalised() {
        let read = |json| with_claim(8 << 10, |claim| items(json).embeddings("image_embeds", 2, 2, claim));
        let (rows, room) = read("[[3, 4.0], [ 0 ,-1e0 ]]").expect("two rows");
        assert_eq!(rows, ndarray::array![[0.6, 0.8], [0.0, -1.0]]);
        assert_eq!(room.bytes(), 1 << 10);
        for (bad, index, expected) in [
            ("1", None, "image_embeds is a number, expected a list of lists of numbers"),
            ("[[1,2],3]", Some(1), "image_embeds has a number, expected lists of 2 numbers"),
            ("[[1,2],[3]]", Some(1), "has 1 values, the model's embeddings have 2"),
            ("[[]]", Some(0), "has 0 values"),
            ("[[1,2,3]]", Some(0), "has more than 2 values"),
            ("[[1,\"2\"]]", Some(0), "something else than numbers"),
            ("[[1,null]]", Some(0), "something else than numbers"),
            ("[[1,[2]]]", Some(0), "something else than numbers"),
            ("[[0,0]]", Some(0), "not all zero"),
            ("[[1e300,1]]", Some(0), "finite"),
            ("[[1,2],[1,2],[]]", None, "3 image_embeds, the limit is 2"),
        ] {
            let error = read(bad).expect_err(bad);
            assert_eq!(error.index, index, "{bad}");
            assert!(error.message.contains(expected), "{bad}: {}", error.message);
        }
        let error = with_claim(1 << 10, |claim| items("[[1]]").embeddings("image_embeds", 1, 257, claim));
        assert_eq!(error.expect_err("no room").code, Code::PayloadTooLarge);
    }
}
