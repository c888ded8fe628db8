//! A picture of a request: its bytes, or where they are.
//!
//! Owns the one step between reading a request and computing it, in which pictures that are elsewhere are brought, and what the client is
//! told of one that is not. Does not own the fetching (`web`), nor where a request may have an address (`data_url` and whoever reads by it).
//!
//! Invariants: nobody is asked before all that is evident from the addresses of a request has been said; the same address is asked for once
//! in a request; of a failure the client learns that there was one, and which picture it was.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use futures_util::{StreamExt, stream::FuturesUnordered};

use super::{
    each::{Each, OnError},
    room::{exhausted, too_much},
};
use crate::{
    budget::Reservation,
    embedder::{EmbedError, Terms},
    http::{ApiError, AppState, Code, connection::held::owning},
    web::{Address, NoRoom, NotFetched, Room, Unfit, Web},
};

/// A picture of a request.
#[derive(Debug)]
pub(in crate::http) enum Picture {
    /// The bytes of its file, which keep their room.
    Here(Bytes),
    /// Its address, as it was sent.
    There(Elsewhere),
}

/// Where a picture is.
#[derive(Debug)]
pub(in crate::http) struct Elsewhere {
    address: String,
    /// Of the text.
    _room: Reservation,
}

impl Elsewhere {
    /// At `address`, a copy for which there is `room`.
    pub(super) fn new(address: &str, room: Reservation) -> Self {
        Self { address: address.to_owned(), _room: room }
    }
}

impl From<Bytes> for Picture {
    fn from(bytes: Bytes) -> Self {
        Self::Here(bytes)
    }
}

/// The bytes of all `pictures`.
///
/// # Errors
/// Of the first one that cannot be had, with its index: 400 for an address that is not asked, 422 for one that was asked in vain. 413 and 429
/// for the room of what comes, 429 when there was no connection in time, 504 when the deadline has passed.
pub(in crate::http) async fn bring_all(
    state: &AppState,
    pictures: Vec<Picture>,
    terms: Terms,
) -> Result<Vec<Bytes>, ApiError> {
    bring(state, pictures, OnError::Fail, terms).await?.into_iter().collect()
}

impl Each<Picture> {
    /// The same with the bytes of all that can be had.
    ///
    /// # Errors
    /// As [`bring_all`], but for what is an item's own fault where that does not fail the request.
    pub(in crate::http) async fn bring(mut self, state: &AppState, terms: Terms) -> Result<Each<Bytes>, ApiError> {
        let on_error = self.on_error();
        let brought = bring(state, self.take(), on_error, terms).await?;
        self.replaced(brought)
    }
}

/// What is known of a picture before anybody is asked.
enum Found {
    Here(Bytes),
    /// One of the addresses.
    There(usize),
    Not(ApiError),
}

/// The bytes of each picture, or its fault with its index; faults only where the request does not fail with one.
async fn bring(
    state: &AppState,
    pictures: Vec<Picture>,
    on_error: OnError,
    terms: Terms,
) -> Result<Vec<Result<Bytes, ApiError>>, ApiError> {
    let mut addresses = Addresses::default();
    let mut found = Vec::with_capacity(pictures.len());
    let mut held = 0;
    for (index, picture) in pictures.into_iter().enumerate() {
        found.push(match picture {
            Picture::Here(bytes) => {
                held += bytes.len();
                Found::Here(bytes)
            }
            Picture::There(Elsewhere { address, .. }) => match addresses.add(state, &address, index) {
                Ok(place) => Found::There(place),
                Err(error) if on_error == OnError::Partial => Found::Not(error),
                Err(error) => return Err(error),
            },
        });
    }
    let fetched = addresses.fetch(state, held, on_error, terms).await?;
    let brought = found.into_iter().enumerate().map(|(index, found)| match found {
        Found::Here(bytes) => Ok(bytes),
        Found::There(place) => fetched.get(place).cloned().flatten().ok_or_else(|| not_fetched().at(index)),
        Found::Not(error) => Err(error),
    });
    Ok(brought.collect())
}

/// The addresses of a request, each once.
#[derive(Default)]
struct Addresses {
    /// With the index of the first picture that is there.
    all: Vec<(Address, usize)>,
    places: HashMap<String, usize>,
}

impl Addresses {
    /// The place among them of the address in `text`, which is that of the picture at `index`.
    fn add(&mut self, state: &AppState, text: &str, index: usize) -> Result<usize, ApiError> {
        let web = web_of(state).map_err(|error| error.at(index))?;
        let address = web.address(text).map_err(|unfit| unfit_error(&unfit).at(index))?;
        Ok(*self.places.entry(address.as_str().to_owned()).or_insert_with(|| {
            self.all.push((address, index));
            self.all.len() - 1
        }))
    }

    /// What is at each of them, all at the same time; `None` where a picture may fail alone.
    async fn fetch(
        self,
        state: &AppState,
        held: usize,
        on_error: OnError,
        terms: Terms,
    ) -> Result<Vec<Option<Bytes>>, ApiError> {
        let mut fetched = vec![None; self.all.len()];
        if self.all.is_empty() {
            return Ok(fetched);
        }
        let web = web_of(state)?;
        let _turn = web.turn(self.all.iter().map(|(address, _)| address)).map_err(|busy| refusal(state, busy))?;
        let room = Arc::new(Room::new(state.bodies.clone(), held));
        let fetch = |(place, (address, index)): (usize, (Address, usize))| {
            let room = Arc::clone(&room);
            async move { (place, index, web.fetch(&address, &room, terms.deadline).await) }
        };
        let mut fetching: FuturesUnordered<_> = self.all.into_iter().enumerate().map(fetch).collect();
        // The first that fails the request ends all others with it.
        while let Some((place, index, picture)) = fetching.next().await {
            match picture {
                Ok((bytes, reservation)) => fetched[place] = Some(owning(bytes, reservation)),
                Err(NotFetched::Failed) if on_error == OnError::Partial => {}
                Err(NotFetched::Failed) => return Err(not_fetched().at(index)),
                Err(other) => return Err(refusal(state, other)),
            }
        }
        Ok(fetched)
    }
}

/// # Errors
/// 400 where nothing is fetched.
fn web_of(state: &AppState) -> Result<&Web, ApiError> {
    state.web().ok_or_else(|| {
        ApiError::invalid(
            "web addresses are not fetched; send the picture itself, as base64 or a data URL, or have its host added to web.allow_hosts",
        )
    })
}

fn unfit_error(unfit: &Unfit) -> ApiError {
    ApiError::invalid(unfit.to_string())
}

/// The one thing that is said of an address that was asked in vain: anything more would tell what is behind this server.
fn not_fetched() -> ApiError {
    let message = "the picture could not be fetched from its address; check that the address leads to a picture without a redirect, or send the \
                   picture itself, as base64 or a data URL (the log has the reason under the request id, unless too many failed at once)";
    ApiError::new(Code::ImageNotFetched, message)
}

/// What is no fault of a picture.
fn refusal(state: &AppState, error: NotFetched) -> ApiError {
    match error {
        NotFetched::Failed => not_fetched(),
        NotFetched::Late => EmbedError::DeadlineExceeded.into(),
        NotFetched::Room(NoRoom::Now) => exhausted(&state.metrics),
        NotFetched::Room(NoRoom::Never { takes }) => too_much(takes, &state.bodies),
        NotFetched::Busy => {
            let message = "as many pictures are being fetched as may be at a time (web.max_connections, web.max_connections_per_host); come back \
                           after the time in the Retry-After header";
            ApiError::new(Code::Overloaded, message).retry_after(state.config.web.timeout)
        }
    }
}
