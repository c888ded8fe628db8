//! `POST /tokenize` and `POST /decode`: from texts to tokens and back.
//!
//! Owns both requests and answers. Does not own a tokenizer (the embedder).
//!
//! A token's `text` is the text's own part from `start` to `stop`, which count bytes, as the service itself has them; a character that is
//! several tokens is in each of them, and an accent that is composed with the letter before it first is in none. Nothing is cut. Ids
//! that no token has are refused.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    response::Response,
};
use memchr::memchr_iter;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer, de::IgnoredAny};

use super::{EMPTY, ERRORS, TAG, check_texts};
use crate::{
    budget::Reservation,
    embedder::{Embedder, Modality, Piece, Timings},
    http::{
        ApiError, AppState, Code,
        answer::{Size, escaped_len},
        operation::{GATED, JSON, Operation, Schemas},
        reply::Written,
        request::{
            json::{Items, JsonRequest, fault},
            limit::Limit,
            payload::{Accepts, Payload},
            raw::Raw,
            room::Claim,
        },
        schema,
    },
};

/// Both routes.
pub(in crate::http) fn operations(schemas: &mut Schemas) -> Vec<Operation> {
    let tokenize = Operation::post(TAG, "/tokenize", "The tokens of texts, with their places")
        .takes(JSON, schemas.request::<Tokenize<'_>>())
        .answers(JSON, schemas.answer::<Vec<Vec<Token<String>>>>())
        .refuses(schemas, GATED, &[ERRORS])
        .refuses(schemas, &[Code::InvalidRequest], &[EMPTY]);
    let decode = Operation::post(TAG, "/decode", "The texts of tokens")
        .takes(JSON, schemas.request::<Decode<'_>>())
        .answers(JSON, schemas.answer::<Vec<String>>())
        .refuses(schemas, GATED, &[ERRORS]);
    vec![tokenize, decode]
}

#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(rename = "TeiTokenizeRequest")]
struct Tokenize<'a> {
    #[serde(borrow)]
    #[schemars(with = "schema::Texts")]
    inputs: Items<'a>,
    add_special_tokens: Option<bool>,
    /// There are no prompts.
    #[schemars(with = "Option<()>")]
    prompt_name: Option<IgnoredAny>,
}

impl<'a> JsonRequest<'a> for Tokenize<'a> {
    const ITEMS: &'static [&'static str] = &["inputs"];
}

/// A request to a model that has a tokenizer.
async fn receive(state: &AppState, request: Request) -> Result<(&Embedder, Payload), ApiError> {
    let embedder = state.embedder()?;
    embedder.supports(Modality::Text)?;
    Ok((embedder, Payload::receive(state, request, &[Accepts::AnyJson]).await?))
}

/// `POST /tokenize`.
pub(in crate::http) async fn tokenize(
    State(state): State<Arc<AppState>>,
    request: Request,
) -> Result<Response, ApiError> {
    let (embedder, payload) = receive(&state, request).await?;
    let mut claim = payload.claim(&state);
    let read = || {
        let request: Tokenize<'_> = payload.json()?;
        super::truncates(None, None, request.prompt_name)?;
        check_texts("inputs", request.inputs)?;
        let texts = request.inputs.owned_strings("inputs", Limit::texts(&state.config.limits), &mut claim)?;
        Ok::<_, ApiError>((texts, request.add_special_tokens.unwrap_or(true)))
    };
    let ((texts, _room), framed) = embedder.heavy().run(payload.reading(), read).await?;
    let mut tokenized: Vec<(Vec<Piece>, Reservation)> = Vec::with_capacity(texts.len());
    let room = |pieces: usize| claim.reserve(pieces.saturating_mul(size_of::<Piece>()));
    let keep = |mut pieces: Vec<Piece>, mut room: Reservation| {
        pieces.shrink_to_fit();
        room.shrink_to(pieces.len() * size_of::<Piece>());
        tokenized.push((pieces, room));
    };
    embedder.pieces(&texts, framed, &payload.terms, room, keep).await?;
    let lists = || tokenized.iter().zip(&texts).map(|((pieces, _), text)| Tokens { embedder, text, pieces });
    let size = lists().fold(Size::new(""), |size, tokens| size.writing(tokens.written()));
    let room = size.reserve(&state).await?;
    let takes = room.writing();
    let write = || {
        let written = Written::json(room.buffer(), &Lists(lists()))?;
        Ok(written.answer(room, &payload.held, Timings::default()))
    };
    embedder.heavy().run(takes, write).await
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "TeiToken")]
struct Token<T> {
    id: u32,
    text: T,
    special: bool,
    start: Option<u32>,
    stop: Option<u32>,
}

/// The tokens of a text.
struct Tokens<'a> {
    embedder: &'a Embedder,
    text: &'a str,
    pieces: &'a [Piece],
}

/// Bytes of a token besides its text, with the comma behind it, at most.
const TOKEN: usize = r#"{"id":4294967295,"text":"","special":false,"start":4294967295,"stop":4294967295},"#.len();

/// Bytes around a list with the comma behind it.
const LIST: usize = 3;

impl<'a> Tokens<'a> {
    fn slice(&self, (start, stop): (u32, u32)) -> &'a str {
        self.text.get(start as usize..stop as usize).unwrap_or_default()
    }

    /// How it is written in the vocabulary: what frames a text stands for nothing in it.
    fn name(&self, id: u32) -> String {
        self.embedder.token(id).ok().flatten().unwrap_or_default()
    }

    /// Bytes, at most.
    fn written(&self) -> usize {
        let text = |piece: &Piece| match piece.span {
            Some(span) => escaped_len(self.slice(span)),
            None => escaped_len(&self.name(piece.id)),
        };
        self.pieces.iter().map(|piece| TOKEN + text(piece)).sum::<usize>() + LIST
    }
}

impl Serialize for Tokens<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.pieces.iter().map(|&Piece { id, span }| {
            let text = span.map_or_else(|| self.name(id).into(), |span| std::borrow::Cow::Borrowed(self.slice(span)));
            let (start, stop) = span.unzip();
            Token { id, text, special: span.is_none(), start, stop }
        }))
    }
}

/// Whatever it is that can be written, as a list.
struct Lists<I>(I);

impl<I: Iterator<Item: Serialize> + Clone> Serialize for Lists<I> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.clone())
    }
}

/// The ids of a text, or a list of such lists.
#[derive(JsonSchema)]
#[schemars(untagged, inline)]
#[expect(dead_code, reason = "read by the macro that derives its schema")]
enum OneOrEach {
    One(Vec<u32>),
    Each(Vec<Vec<u32>>),
}

#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(rename = "TeiDecodeRequest")]
struct Decode<'a> {
    #[serde(borrow)]
    #[schemars(with = "OneOrEach")]
    ids: Items<'a>,
    skip_special_tokens: Option<bool>,
}

impl<'a> JsonRequest<'a> for Decode<'a> {
    const ITEMS: &'static [&'static str] = &["ids"];
}

/// Ids of each text, with the room of these lists.
struct Ids(Vec<Vec<u32>>, Reservation);

/// `POST /decode`.
pub(in crate::http) async fn decode(
    State(state): State<Arc<AppState>>,
    request: Request,
) -> Result<Response, ApiError> {
    let (embedder, payload) = receive(&state, request).await?;
    let read = || {
        let request: Decode<'_> = payload.json()?;
        let ids = Ids::read(&state, request.ids, payload.claim(&state))?;
        Ok::<_, ApiError>((ids, request.skip_special_tokens.unwrap_or(true)))
    };
    let (Ids(lists, _room), skip_special) = embedder.heavy().run(payload.reading(), read).await?;
    let mut written = 0usize;
    let measure = |index, ids: &[u32]| {
        let text = most_written(embedder, ids).map_err(|error| error.at(index))?;
        written = written.saturating_add(text);
        Ok::<_, ApiError>(())
    };
    embedder.for_ids(&lists, &payload.terms, measure).await?;
    let room = Size::new("").holding(written.div_ceil(size_of::<f32>())).writing(written).reserve(&state).await?;
    let mut texts: Vec<String> = Vec::with_capacity(lists.len());
    let decode = |index, ids: &[u32]| {
        let text = embedder.decode(ids, skip_special);
        texts.push(text.map_err(|error| ApiError::from(error).at(index))?);
        Ok::<_, ApiError>(())
    };
    embedder.for_ids(&lists, &payload.terms, decode).await?;
    let takes = room.writing();
    let write = || {
        let written = Written::json(room.buffer(), &texts)?;
        drop(texts);
        Ok(written.answer(room, &payload.held, Timings::default()))
    };
    embedder.heavy().run(takes, write).await
}

/// Bytes in JSON, at most, of the text of `ids`.
///
/// # Errors
/// 400 for an id that no token has.
fn most_written(embedder: &Embedder, ids: &[u32]) -> Result<usize, ApiError> {
    ids.iter().try_fold(LIST, |written: usize, &id| {
        let token = embedder.token(id)?;
        let token = token.ok_or_else(|| ApiError::invalid(format!("no token has the id {id}")))?;
        // A character of a text takes 6 bytes at most, when it is escaped, and each token may have a blank.
        Ok(written.saturating_add((token.len() + 1) * 6))
    })
}

impl Ids {
    /// One list of ids, or a list of them; counted, and their room taken, before one is read.
    fn read(state: &AppState, ids: Items<'_>, mut claim: Claim<'_>) -> Result<Self, ApiError> {
        let limits = &state.config.limits;
        let text = ids.value().get();
        let is_nested = text.strip_prefix('[').is_some_and(|rest| rest.trim_start().starts_with('['));
        let lists = if is_nested {
            ids.elements("lists of ids", Limit::texts(limits))?.unwrap_or_default()
        } else {
            vec![ids.value()]
        };
        // No text that is tokenized has more tokens.
        let most = limits.max_text_bytes.saturating_add(2);
        let count = |(index, list)| count(list, most).map_err(|error| error.at(index));
        let counts = lists.iter().copied().enumerate().map(count).collect::<Result<Vec<usize>, _>>()?;
        let room = claim.reserve(counts.iter().sum::<usize>().saturating_mul(size_of::<u32>()))?;
        let read = |(index, (list, count))| parse(list, count).map_err(|error| error.at(index));
        let lists = lists.into_iter().zip(counts).enumerate().map(read).collect::<Result<_, _>>()?;
        Ok(Self(lists, room))
    }
}

/// What stands between the brackets of a list.
fn between_brackets(list: Raw<'_>) -> Option<&str> {
    list.get().strip_prefix('[')?.strip_suffix(']').map(str::trim)
}

/// How many ids `list` has, if it is one of nothing else.
fn count(list: Raw<'_>, most: usize) -> Result<usize, ApiError> {
    let expected = || fault(format_args!("ids has {}, expected a list of ids, or a list of such lists", list.kind()));
    let ids = between_brackets(list).ok_or_else(expected)?;
    let count = if ids.is_empty() { 0 } else { memchr_iter(b',', ids.as_bytes()).count() + 1 };
    if count > most {
        return Err(ApiError::invalid(format!(
            "a list has {count} ids, the limit is {most} (limits.max_text_bytes, and two); split it"
        )));
    }
    Ok(count)
}

/// The ids of `list`, which has `count` of them. It is valid JSON: between commas stands a number, or what does not parse as an id.
fn parse(list: Raw<'_>, count: usize) -> Result<Vec<u32>, ApiError> {
    let mut ids = Vec::with_capacity(count);
    for id in between_brackets(list).unwrap_or_default().split(',').map(str::trim).take(count) {
        ids.push(
            id.parse()
                .map_err(|_| fault("ids has a list with something in it that is no id; expected integers from 0 on"))?,
        );
    }
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::request::raw::tests::raw;

    #[test]
    fn ids_are_counted_before_they_are_read() {
        for (json, expected) in [("[]", &[][..]), ("[ ]", &[]), ("[7]", &[7]), ("[ 0, 4294967295 ]", &[0, u32::MAX])] {
            let count = count(raw(json), 2).expect(json);
            let ids = parse(raw(json), count).expect(json);
            assert_eq!((ids.as_slice(), ids.capacity()), (expected, count), "{json}");
        }
        // Counted without a look at them.
        let error = count(raw("[1, 2, -3]"), 2).expect_err("too many");
        assert!(error.message.contains("3 ids, the limit is 2"), "{}", error.message);
        for json in ["[-1]", "[1.0]", "[4294967296]", "[\"1\"]", "[[1]]", "[null]", "[1, {\"a\": 2}]"] {
            let error = count(raw(json), 9).and_then(|count| parse(raw(json), count)).expect_err(json);
            assert!(error.message.contains("expected integers from 0"), "{}", error.message);
        }
        assert!(count(raw("\"a\""), 9).expect_err("a string").message.contains("ids has a string"));
    }
}
