//! A picture within a string: base64, or a `data:` URL.
//!
//! Owns what such a string may look like: RFC 2397 and the Fetch standard's `data:` URLs (base64 or percent-encoded, with line ends and
//! blanks, padded or not), the same base64 without a URL around it, and that it is an address of the web. Does not fetch anything, nor look
//! at the picture or the address.
//!
//! Invariant: a picture has room in the budget of bodies before it is decoded.
//!
//! What encoders write, padded base64 without a blank, is decoded by the `base64` crate, many times as fast as the standard's
//! state machine, which gets what is left.

use base64::{Engine as _, decoded_len_estimate, prelude::BASE64_STANDARD};
use data_url::{DataUrl, forgiving_base64};

use super::{
    picture::{Elsewhere, Picture},
    room::Claim,
};
use crate::http::{ApiError, connection::held::owning};

/// Bytes of a data URL before its comma: a media type and its parameters.
const MAX_META: usize = 1024;

/// The picture in `text`, or its address there.
///
/// # Errors
/// 400; an address that is none of the web is refused with a message of its own. 413 and 429 as [`Claim::reserve`].
pub(super) fn decode_picture(text: &str, claim: &mut Claim<'_>) -> Result<Picture, ApiError> {
    let trimmed = text.trim_matches(|char: char| char <= ' ');
    if ["http://", "https://"].iter().any(|scheme| starts_with_ignoring_case(trimmed, scheme)) {
        let room = claim.reserve(trimmed.len())?;
        return Ok(Picture::There(Elsewhere::new(trimmed, room)));
    }
    if let Some(address) = address(trimmed) {
        return Err(ApiError::invalid(format!("{address}; send the picture itself, as base64 or a data URL")));
    }
    let url = starts_with_ignoring_case(trimmed, "data:").then(|| parts(trimmed)).transpose()?;
    let data = url.map_or(trimmed, |(_, data)| data);
    let is_base64 = url.is_none_or(|(meta, _)| ends_with_ignoring_case(meta, ";base64"));
    // Base64 shrinks to three quarters, what is percent-encoded at least not at all.
    let most = if is_base64 { decoded_len_estimate(data.len()) } else { data.len() };
    let room = claim.reserve(most)?;
    let usual = if is_base64 { BASE64_STANDARD.decode(data).ok() } else { None };
    let picture = match (usual, url) {
        (Some(picture), _) => picture,
        (None, Some(_)) => from_data_url(trimmed, data, most)?,
        (None, None) => from_base64(data, most)?,
    };
    if picture.is_empty() {
        return Err(ApiError::invalid("the picture is empty"));
    }
    Ok(Picture::Here(owning(picture, room)))
}

fn starts_with_ignoring_case(text: &str, prefix: &str) -> bool {
    text.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

fn ends_with_ignoring_case(text: &str, suffix: &str) -> bool {
    let end = text.len().checked_sub(suffix.len());
    end.and_then(|end| text.get(end..)).is_some_and(|end| end.eq_ignore_ascii_case(suffix))
}

fn no_comma() -> ApiError {
    ApiError::invalid("the data URL has no comma before its data")
}

/// What stands before and behind the comma of a data URL. What stands before it is parsed, and so is short.
fn parts(url: &str) -> Result<(&str, &str), ApiError> {
    let (meta, data) = url.split_once(',').ok_or_else(no_comma)?;
    if meta.len() > MAX_META {
        let message = format!("the data URL has {} bytes before its data, the limit is {MAX_META}", meta.len());
        return Err(ApiError::invalid(message));
    }
    Ok((meta, data))
}

/// What is said of an address of something that is elsewhere.
fn address(text: &str) -> Option<&'static str> {
    let starts = |scheme| starts_with_ignoring_case(text, scheme);
    if starts("file:") {
        Some("files of this server are not read")
    } else if starts("blob:") {
        Some("a blob: address means something only within the page that made it")
    } else if text.get(..text.len().min(16)).is_some_and(|start| start.contains("://")) {
        Some("addresses of this kind are not fetched")
    } else {
        None
    }
}

fn from_data_url(url: &str, data: &str, most: usize) -> Result<Vec<u8>, ApiError> {
    // It has a comma, which may be in its fragment.
    let parsed = DataUrl::process(url).map_err(|_| no_comma())?;
    let mut picture = Vec::with_capacity(most);
    let decoded = parsed.decode(|bytes| {
        picture.extend_from_slice(bytes);
        Ok::<_, std::convert::Infallible>(())
    });
    decoded.map(|_| picture).map_err(|_| fault_of_base64(data))
}

fn from_base64(text: &str, most: usize) -> Result<Vec<u8>, ApiError> {
    let mut picture = Vec::with_capacity(most);
    let mut decoder = forgiving_base64::Decoder::new(|bytes: &[u8]| {
        picture.extend_from_slice(bytes);
        Ok::<_, std::convert::Infallible>(())
    });
    let decoded = decoder.feed(text.as_bytes()).and_then(|()| decoder.finish());
    decoded.map(|()| picture).map_err(|_| fault_of_base64(text))
}

/// Bytes of the longest path that is told from base64 that is broken.
const MAX_PATH: usize = 4096;

/// That it is a path, which byte is none of the alphabet, or that its end is wrong.
fn fault_of_base64(text: &str) -> ApiError {
    // No byte of base64 is a dot.
    let suffix = text.rsplit_once('.').map_or("", |(_, suffix)| suffix);
    if text.len() <= MAX_PATH
        && matches!(suffix.len(), 3 | 4)
        && suffix.bytes().all(|byte| byte.is_ascii_alphanumeric())
    {
        return ApiError::invalid(
            "the picture looks like the path of a file, and files of this server are not read; send the picture itself, as base64 or a data URL",
        );
    }
    let known = |byte: &u8| byte.is_ascii_alphanumeric() || byte.is_ascii_whitespace() || b"+/=%".contains(byte);
    ApiError::invalid(match text.bytes().enumerate().find(|(_, byte)| !known(byte)) {
        Some((_, b'-' | b'_')) => {
            "the picture is base64 of the alphabet for URLs; send the standard one, with + and /".into()
        }
        Some((at, byte)) => format!(
            "the picture is not base64: byte {at} is `{}`; a picture in JSON is base64 or a data URL",
            byte.escape_ascii()
        ),
        None => "the picture is not base64: its length or its padding is wrong, it may have been cut off".into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::{Code, request::room::tests::with_claim};

    fn here(picture: Picture) -> bytes::Bytes {
        match picture {
            Picture::Here(bytes) => bytes,
            Picture::There(elsewhere) => panic!("{elsewhere:?}"),
        }
    }

    fn decode(text: &str) -> Result<bytes::Bytes, ApiError> {
        with_claim(1 << 20, |claim| decode_picture(text, claim)).map(here)
    }

    #[test]
    fn an_address_of_the_web_is_kept_as_it_is_with_its_room() {
        with_claim(2 << 10, |claim| {
            for text in [" HTTPS://example.com/a.png\n", "http://169.254.169.254/"] {
                let picture = decode_picture(text, claim).expect(text);
                assert!(matches!(&picture, Picture::There(_)), "{picture:?}");
            }
            let error = decode_picture(&format!("http://{}", "a".repeat(2 << 10)), claim).expect_err("no room");
            assert_eq!(error.code, Code::PayloadTooLarge);
        });
    }

    #[test]
    fn base64_is_a_picture_padded_or_not_with_blanks_and_line_ends() {
        for good in ["QUJD", " QUJD\n", "QU\r\nJD", "QU J\tD", "data:image/png;base64,QUJD", "DATA:;BASE64,QUJD"] {
            assert_eq!(decode(good).expect(good), "ABC", "{good}");
        }
        for good in ["QUI=", "QUI", "QU\nI", "data:;base64,QUI", "data:;base64,QUI%3D", "data:;base64,QUI=#fragment"] {
            assert_eq!(decode(good).expect(good), "AB", "{good}");
        }
    }

    #[test]
    fn data_urls_are_read_as_the_fetch_standard_has_them() {
        for (url, expected) in [
            (" \n\tdata:image/png;base64,QUJD \n", "ABC"),
            ("data:image/png;charset=x;base64,QUJD", "ABC"),
            ("data:image/png; base64 ,QUJD", "ABC"),
            ("data:image/png;base64,%51%55%4a%44", "ABC"),
            ("data:image/png;base64,QU%0AJD", "ABC"),
            ("data:image/png;base64,QU\nJD", "ABC"),
            ("data:,A%42C", "ABC"),
            ("data:image/png,ABC#fragment", "ABC"),
            ("data:image/png;base64;x=1,ABC", "ABC"),
        ] {
            assert_eq!(decode(url).expect(url), expected, "{url}");
        }
    }

    #[test]
    fn what_is_neither_is_refused_with_the_way_out() {
        for (bad, expected) in [
            ("QUJDR", "its length or its padding is wrong"),
            ("Q_-D", "the alphabet for URLs"),
            ("QU!D", "byte 2 is `!`"),
            ("", "empty"),
            ("data:image/png;base64,", "empty"),
            ("data:,", "empty"),
            ("data:image/png;base64", "no comma"),
            ("data:image/png#fragment,QUJD", "no comma"),
            ("data:;base64,QU\u{e9}D", "byte 2 is"),
            ("file:///etc/passwd", "files of this server are not read"),
            ("onnx/examples/cat_face.png", "looks like the path of a file"),
            ("IMG_1.JPEG", "looks like the path of a file"),
            ("QUJD.", "byte 4 is `.`"),
            ("blob:http://x/1", "within the page"),
            ("s3://bucket/key", "addresses of this kind"),
        ] {
            let error = decode(bad).expect_err(bad);
            assert!(error.message.contains(expected), "{bad}: {}", error.message);
            assert_eq!(error.code, Code::InvalidRequest);
        }
    }

    #[test]
    fn what_stands_before_the_data_is_short_and_takes_no_room() {
        let url = |meta: usize| format!("data:{},A%42C", "m".repeat(meta - 5));
        let decode = |url: &str| with_claim(1 << 10, |claim| decode_picture(url, claim)).map(here);
        assert_eq!(decode(&url(MAX_META)).expect("as long as allowed"), "ABC");
        let error = decode(&url(MAX_META + 1)).expect_err("longer");
        assert_eq!(
            (error.code, &*error.message),
            (Code::InvalidRequest, "the data URL has 1025 bytes before its data, the limit is 1024")
        );
    }

    #[test]
    fn both_ways_of_decoding_agree() {
        for len in 0..200 {
            let bytes: Vec<u8> = (0..len).map(|i| (i * 37 + len) as u8).collect();
            let text = BASE64_STANDARD.encode(&bytes);
            let slow = from_base64(&text, bytes.len()).expect("base64");
            assert_eq!((&slow, slow.capacity()), (&bytes, Vec::<u8>::with_capacity(bytes.len()).capacity()), "{len}");
            assert_eq!(from_data_url(&format!("data:;base64,{text}"), &text, len as usize).expect("a URL"), bytes);
        }
    }
}
