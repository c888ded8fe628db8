//! `POST /tokenize` and `POST /decode`: from texts to tokens and back.
//!
//! Owns both requests and answers. Does not own a tokenizer (the embedder).
//!
//! A token's `text` is the text's own part from `start` to `stop`, which count bytes; a character that is several tokens is in each of
//! them. Nothing is cut. Ids that no token has are refused.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    response::Response,
};
use serde::{Deserialize, Serialize, Serializer, de::IgnoredAny};
use serde_json::value::RawValue;

use super::check_texts;
use crate::{
    budget::Reservation,
    embedder::{Embedder, Modality, Piece, Timings},
    http::{
        ApiError, AppState,
        answer::{Size, escaped_len},
        reply::Written,
        request::{
            json::{Items, JsonRequest, fault, kind_of},
            limit::Limit,
            payload::{Accepts, Payload},
            room::Claim,
        },
    },
};

#[derive(Debug, Deserialize)]
struct Tokenize<'a> {
    #[serde(borrow)]
    inputs: Items<'a>,
    add_special_tokens: Option<bool>,
    prompt_name: Option<IgnoredAny>,
}

impl<'a> JsonRequest<'a> for Tokenize<'a> {
    const ITEMS: &'static [&'static str] = &["inputs"];
}

/// `POST /tokenize`.
pub(in crate::http) async fn tokenize(
    State(state): State<Arc<AppState>>,
    request: Request,
) -> Result<Response, ApiError> {
    let embedder = state.embedder()?;
    embedder.supports(Modality::Text)?;
    let payload = Payload::receive(&state, request, &[Accepts::AnyJson]).await?;
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
        #[derive(Serialize)]
        struct Token<T> {
            id: u32,
            text: T,
            special: bool,
            start: Option<u32>,
            stop: Option<u32>,
        }
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

#[derive(Debug, Deserialize)]
struct Decode<'a> {
    #[serde(borrow)]
    ids: Items<'a>,
    skip_special_tokens: Option<bool>,
}

impl<'a> JsonRequest<'a> for Decode<'a> {
    const ITEMS: &'static [&'static str] = &["ids"];
}

/// Ids of each text, and what their texts take in JSON at most.
struct Ids {
    lists: Vec<Vec<u32>>,
    written: usize,
    /// Of the lists.
    room: Reservation,
}

/// `POST /decode`.
pub(in crate::http) async fn decode(
    State(state): State<Arc<AppState>>,
    request: Request,
) -> Result<Response, ApiError> {
    let embedder = state.embedder()?;
    embedder.supports(Modality::Text)?;
    let payload = Payload::receive(&state, request, &[Accepts::AnyJson]).await?;
    let read = || {
        let request: Decode<'_> = payload.json()?;
        let ids = Ids::read(&state, embedder, request.ids, payload.claim(&state))?;
        Ok::<_, ApiError>((ids, request.skip_special_tokens.unwrap_or(true)))
    };
    let (Ids { lists, written, room: _room }, skip_special) = embedder.heavy().run(payload.reading(), read).await?;
    let room = Size::new("").holding(written.div_ceil(size_of::<f32>())).writing(written).reserve(&state).await?;
    let takes = room.writing();
    let write = || {
        let texts = lists.iter().enumerate().map(|(index, ids)| {
            let text = embedder.decode(ids, skip_special);
            text.map_err(|error| ApiError::from(error).at(index))
        });
        let texts = texts.collect::<Result<Vec<String>, _>>()?;
        let written = Written::json(room.buffer(), &texts)?;
        drop(texts);
        Ok(written.answer(room, &payload.held, Timings::default()))
    };
    embedder.heavy().run(takes, write).await
}

impl Ids {
    /// One list of ids, or a list of them.
    fn read(state: &AppState, embedder: &Embedder, ids: Items<'_>, mut claim: Claim<'_>) -> Result<Self, ApiError> {
        let limits = &state.config.limits;
        let text = ids.value().get();
        let is_nested = text.strip_prefix('[').is_some_and(|rest| rest.trim_start().starts_with('['));
        let lists = if is_nested {
            ids.elements("lists of ids", limits.max_texts)?.unwrap_or_default()
        } else {
            vec![ids.value()]
        };
        // An id takes two bytes of the body at least, with what parts it from the next.
        let room = claim.reserve((text.len() / 2 + lists.len()).saturating_mul(size_of::<u32>()))?;
        // No text that is tokenized has more tokens.
        let most = limits.max_text_bytes.saturating_add(2);
        let mut read = Self { lists: Vec::with_capacity(lists.len()), written: 0, room };
        for (index, list) in lists.into_iter().enumerate() {
            read.push(embedder, list, most).map_err(|error| error.at(index))?;
        }
        Ok(read)
    }

    fn push(&mut self, embedder: &Embedder, list: &RawValue, most: usize) -> Result<(), ApiError> {
        let expected =
            || fault(format_args!("ids has {}, expected a list of ids, or a list of such lists", kind_of(list)));
        if !list.get().starts_with('[') {
            return Err(expected());
        }
        let ids = serde_json::from_str::<Vec<u32>>(list.get()).map_err(|_| {
            fault(format_args!("ids has a list with something in it that is no id; expected integers from 0 on"))
        })?;
        if ids.len() > most {
            return Err(ApiError::invalid(format!(
                "a list has {} ids, the limit is {most} (limits.max_text_bytes, and two); split it",
                ids.len()
            )));
        }
        for &id in &ids {
            let token = embedder.token(id)?;
            let token = token.ok_or_else(|| ApiError::invalid(format!("no token has the id {id}")))?;
            // A character of a text takes 6 bytes at most, when it is escaped, and each token may have a blank.
            self.written = self.written.saturating_add((token.len() + 1) * 6);
        }
        self.written = self.written.saturating_add(LIST);
        self.lists.push(ids);
        Ok(())
    }
}
