//! What is asked, as bytes that are ready before the load.
//!
//! Owns the bodies of every route and service. Invariants: each request differs from every other, so that no cache on the way
//! answers it, unless a number of different ones is asked for; the part that differs is a few bytes, so that making a request
//! costs next to nothing and a picture is not copied.
//!
//! A template may have several kinds of requests, which then come in turn.
//!
//! A picture differs by a comment segment after its first marker: another file, the same pixels. A text differs by its words.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::{Buf, Bytes, buf::Chain};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, header};
use http_body_util::Full;
use serde_json::json;

/// A body: what differs, and what is shared.
pub(crate) type Body = Full<Chain<Bytes, Bytes>>;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum Ask {
    /// The embedding of one picture.
    Image,
    /// The embedding of one text.
    Text,
    /// One picture against four texts.
    Similarity,
    /// Pictures and texts in turn.
    Mix,
    /// `GET /livez`: the least that can be asked, which shows what the generator itself can do.
    Livez,
}

/// Whose routes and shapes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Wire {
    /// clipserve's own, and those of `benches/peers/fastapi_transformers.py`.
    Native,
    /// infinity's: `/embeddings` of OpenAI with `modality`.
    Infinity,
}

/// The bytes of a comment segment with [`DIGITS`] digits in it, after the two of the start marker: 18 in all, a multiple of
/// three, so that the rest of the file has a base64 of its own.
const COMMENT: [u8; 4] = [0xff, 0xfe, 0x00, 14];
const DIGITS: usize = 12;

/// Words for texts. 64 of them, most of one token in CLIP's vocabulary.
const WORDS: [&str; 64] = [
    "red", "blue", "green", "old", "small", "large", "wooden", "bright", "dark", "round", "tall", "wet", "golden",
    "quiet", "happy", "white", "cat", "dog", "house", "car", "tree", "boat", "bird", "chair", "table", "bridge",
    "river", "street", "city", "beach", "snow", "flower", "garden", "kitchen", "window", "door", "lamp", "book", "cup",
    "bottle", "horse", "train", "plane", "mountain", "lake", "forest", "field", "road", "cloud", "sun", "moon",
    "night", "man", "woman", "child", "dress", "hat", "shoe", "guitar", "phone", "cake", "pizza", "apple", "bread",
];

/// How every text begins.
const CAPTION: &str = "a photo of a";

const BOUNDARY: &str = "clipserve-bench-boundary";

/// Makes requests, of one kind or of several in turn.
#[derive(Clone)]
pub(crate) struct Template {
    kinds: Arc<[Kind]>,
    /// The number of the first request.
    first: u64,
}

#[derive(Clone)]
struct Kind {
    method: Method,
    path: &'static str,
    headers: HeaderMap,
    differing: Differing,
    before: Bytes,
    after: Bytes,
    /// How many different requests there are.
    distinct: u64,
}

/// What differs from request to request, between `before` and `after`.
#[derive(Clone, Copy)]
enum Differing {
    Nothing,
    /// The picture's first bytes.
    Jpeg,
    /// The same in base64.
    Base64Jpeg,
    /// A text, inside a JSON string.
    Text,
}

impl Template {
    /// Requests for `ask`, with `picture`, a JPEG, where there is one in it. `distinct` of them, then again from the first.
    ///
    /// # Errors
    /// When the service has no such route, or the picture is no JPEG.
    pub(crate) fn new(ask: Ask, wire: Wire, picture: &[u8], distinct: u64) -> Result<Self, String> {
        if ask == Ask::Mix {
            let kinds = [Ask::Image, Ask::Text].map(|ask| Self::new(ask, wire, picture, distinct));
            let kinds = kinds.into_iter().collect::<Result<Vec<_>, _>>()?;
            return Ok(Self {
                kinds: kinds.iter().flat_map(|template| template.kinds.iter().cloned()).collect(),
                first: 0,
            });
        }
        let rest = picture.strip_prefix(&[0xff, 0xd8]).ok_or("the picture is not a JPEG")?;
        let (path, content_type, differing, before, after) = match (ask, wire) {
            (Ask::Image, Wire::Native) => {
                ("/embed/image", "image/jpeg".to_owned(), Differing::Jpeg, String::new(), rest.to_vec())
            }
            (Ask::Image, Wire::Infinity) => {
                let (before, after) = split_json(&json!({"model": "bench", "modality": "image", "input": "@"}));
                let (before, after) = (before + "data:image/jpeg;base64,", STANDARD.encode(rest) + &after);
                ("/embeddings", JSON.to_owned(), Differing::Base64Jpeg, before, after.into_bytes())
            }
            (Ask::Text, Wire::Native) => {
                let (before, after) = split_json(&json!({"texts": ["@"]}));
                ("/embed/text", JSON.to_owned(), Differing::Text, before, after.into_bytes())
            }
            (Ask::Text, Wire::Infinity) => {
                let (before, after) = split_json(&json!({"model": "bench", "modality": "text", "input": "@"}));
                ("/embeddings", JSON.to_owned(), Differing::Text, before, after.into_bytes())
            }
            (Ask::Similarity, Wire::Native) => {
                let part = |head: &str| format!("--{BOUNDARY}\r\ncontent-disposition: form-data; {head}\r\n\r\n");
                let before = part("name=\"image\"; filename=\"photo.jpg\"\r\ncontent-type: image/jpeg");
                let mut after = rest.to_vec();
                for text in ["a photo of a cat", "a photo of a dog", "a photo of a rocket", "a cup of coffee"] {
                    after.extend_from_slice(format!("\r\n{}{text}", part("name=\"text\"")).as_bytes());
                }
                after.extend_from_slice(format!("\r\n--{BOUNDARY}--\r\n").as_bytes());
                let content_type = format!("multipart/form-data; boundary={BOUNDARY}");
                ("/similarity", content_type, Differing::Jpeg, before, after)
            }
            (Ask::Mix, _) => return Err("a mix has no request of its own".into()),
            (Ask::Livez, _) => ("/livez", String::new(), Differing::Nothing, String::new(), Vec::new()),
            (Ask::Similarity, Wire::Infinity) => return Err("infinity has no route for similarity".into()),
        };
        Self::of_kind(path, &content_type, differing, before.into(), after.into(), distinct)
    }

    /// The same `body` again and again; a GET where `content_type` is empty.
    ///
    /// # Errors
    /// When the content type cannot be a header.
    pub(crate) fn fixed(path: &'static str, content_type: &str, body: impl Into<Bytes>) -> Result<Self, String> {
        Self::of_kind(path, content_type, Differing::Nothing, Bytes::new(), body.into(), 1)
    }

    /// `body` with another text behind its end each time, which no decoder of pictures looks at.
    ///
    /// # Errors
    /// When the content type cannot be a header.
    pub(crate) fn trailing(path: &'static str, content_type: &str, body: impl Into<Bytes>) -> Result<Self, String> {
        Self::of_kind(path, content_type, Differing::Text, body.into(), Bytes::new(), u64::MAX)
    }

    fn of_kind(
        path: &'static str,
        content_type: &str,
        differing: Differing,
        before: Bytes,
        after: Bytes,
        distinct: u64,
    ) -> Result<Self, String> {
        let mut headers = HeaderMap::from_iter([(header::HOST, HeaderValue::from_static("localhost"))]);
        let method = if content_type.is_empty() { Method::GET } else { Method::POST };
        if method == Method::POST {
            headers
                .insert(header::CONTENT_TYPE, HeaderValue::try_from(content_type).map_err(|error| error.to_string())?);
        }
        let kind = Kind { method, path, headers, differing, before, after, distinct: distinct.max(1) };
        Ok(Self { kinds: [kind].into(), first: 0 })
    }

    /// With `first` as the number of the first request of each kind: a load after another one does not repeat it.
    pub(crate) fn starting_at(self, first: u64) -> Self {
        Self { first, ..self }
    }

    /// With one more header in every request.
    pub(crate) fn with_header(self, name: &HeaderName, value: &HeaderValue) -> Self {
        let kinds = self.kinds.iter().cloned().map(|mut kind| {
            kind.headers.insert(name.clone(), value.clone());
            kind
        });
        Self { kinds: kinds.collect(), ..self }
    }

    /// The paths that are asked.
    pub(crate) fn name(&self) -> String {
        self.kinds.iter().map(|kind| kind.path).collect::<Vec<_>>().join(" and ")
    }

    /// How many kinds of requests there are; request `n` is of kind `n` modulo this.
    pub(crate) fn kinds(&self) -> usize {
        self.kinds.len()
    }

    /// Request `number`.
    pub(crate) fn request(&self, number: u64) -> Request<Body> {
        let kinds = self.kinds.len() as u64;
        self.kinds[(number % kinds) as usize].request(self.first + number / kinds)
    }
}

impl Kind {
    fn request(&self, number: u64) -> Request<Body> {
        let body = Full::new(self.start(number % self.distinct).chain(self.after.clone()));
        let mut request = Request::new(body);
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = http::Uri::from_static(self.path);
        *request.headers_mut() = self.headers.clone();
        request
    }

    /// Everything up to the part that all requests share.
    fn start(&self, number: u64) -> Bytes {
        let mut start = self.before.to_vec();
        match self.differing {
            Differing::Nothing => {}
            Differing::Jpeg => start.extend_from_slice(&jpeg_start(number)),
            Differing::Base64Jpeg => start.extend_from_slice(STANDARD.encode(jpeg_start(number)).as_bytes()),
            Differing::Text => start.extend_from_slice(text(number).as_bytes()),
        }
        start.into()
    }
}

const JSON: &str = "application/json";

/// The JSON before and after its one string "@", with the quotes.
fn split_json(value: &serde_json::Value) -> (String, String) {
    let text = value.to_string();
    let (before, after) = text.split_once('@').expect("the value has the mark");
    (before.to_owned(), after.to_owned())
}

/// The start of another JPEG: its start marker, and a comment with `number` in it.
pub(crate) fn jpeg_start(number: u64) -> Vec<u8> {
    [&[0xff, 0xd8], &COMMENT[..], format!("{number:0DIGITS$}").as_bytes()].concat()
}

/// A caption of 4 to 12 words after [`CAPTION`]: the first four are the number in base 64, the others make it of some length.
pub(crate) fn text(number: u64) -> String {
    let words = 4 + number * 5 % 9;
    let digit = |place: u64| (number >> (6 * (place % 4)) & 63) as usize;
    (0..words).fold(CAPTION.to_owned(), |text, place| text + " " + WORDS[(digit(place) + place as usize / 4) % 64])
}
