//! Who may ask: by an API key, or without one by path and network.
//!
//! Owns that decision, the keys and what each may have at a time. Does not own when it is asked (`layers`), nor the answer to who is
//! refused.
//!
//! ```text
//! file (what stands in server.api_keys_file) -> keys (whose key it is, what it may have) -> here (keys, or open)
//! ```
//!
//! Invariants: where a key is wanted and none is there, nobody is let in; a client's address is that of its connection, never what a header
//! says; how long it takes to look a key up tells nothing of any key.

mod file;
mod keys;
mod open;

use std::{
    net::IpAddr,
    sync::{Arc, OnceLock},
};

pub(super) use self::keys::{Key, Place};
pub use self::open::UnknownPath;
use self::{keys::Keys, open::Open};
use crate::{
    config::ServerConfig,
    telemetry::{FileKind, Metrics},
    watched::{Current, Watched, read_and_watch},
};

/// Why it cannot be said who may ask; one line.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct AccessError(String);

/// Who may ask.
#[derive(Debug)]
pub struct Access {
    /// `None`: no key is wanted.
    keys: Option<Arc<Current<Keys>>>,
    open: Open,
}

/// What is known of who asks.
#[derive(Clone, Debug)]
pub(super) enum Asker {
    /// The key is one of ours.
    Key(Arc<Key>),
    /// No key is wanted, of anybody or of this one.
    Anybody,
}

/// In the extensions of every request: the key that it brought, once that is known.
#[derive(Clone, Debug, Default)]
pub(super) struct Caller(Arc<OnceLock<Arc<Key>>>);

impl Caller {
    pub(super) fn set(&self, key: Arc<Key>) {
        // It is set once for each request.
        let _ = self.0.set(key);
    }

    pub(super) fn key(&self) -> Option<&Arc<Key>> {
        self.0.get()
    }
}

impl Access {
    /// What `server.api_key` alone says; the keys of a file are none before it has been read ([`Self::start`]), and then nobody has one.
    pub(super) fn without_file(server: &ServerConfig, metrics: &Metrics) -> Self {
        let is_wanted = server.api_key.is_some() || server.api_keys_file.is_some();
        let keys =
            is_wanted.then(|| Arc::new(Current::new(Keys::new(server.api_key.as_ref(), Vec::new(), None, metrics))));
        Self { keys, open: Open::default() }
    }

    /// Whether what is configured is there: `routes` are the templates of all routes. Reads no file.
    ///
    /// # Errors
    /// [`UnknownPath`].
    pub(super) fn check<'a>(server: &ServerConfig, routes: impl Iterator<Item = &'a str>) -> Result<(), UnknownPath> {
        Open::new(server, routes).map(|_| ())
    }

    /// As configured, and the file that is to be watched, where there is one. `routes` are the templates of all routes.
    ///
    /// # Errors
    /// A file that cannot be used; a path that is none.
    pub(super) fn start<'a>(
        server: &ServerConfig,
        metrics: &Arc<Metrics>,
        routes: impl Iterator<Item = &'a str>,
    ) -> Result<(Self, Option<Watched>), AccessError> {
        let open = Open::new(server, routes).map_err(|error| AccessError(error.to_string()))?;
        let Some(path) = server.api_keys_file.clone() else {
            return Ok((Self { open, ..Self::without_file(server, metrics) }, None));
        };
        let (key, metrics) = (server.api_key.clone(), Arc::clone(metrics));
        let read = {
            let path = path.clone();
            move |before: Option<&Keys>| {
                let listed = file::read(&path, key.as_ref()).map_err(AccessError)?;
                let keys = Keys::new(key.as_ref(), listed, before, &metrics);
                tracing::info!(keys = keys.len(), file = %path.display(), "API keys are read");
                Ok::<_, AccessError>(keys)
            }
        };
        let (keys, watched) = read_and_watch(FileKind::ApiKeys, vec![path], read)?;
        Ok((Self { keys: Some(keys), open }, Some(watched)))
    }

    /// Who it is that asks for a path of the route `template`, with this token where one was sent, from this address where that is known;
    /// `None` for who must not.
    pub(super) fn of(&self, token: Option<&[u8]>, template: Option<&str>, address: Option<IpAddr>) -> Option<Asker> {
        let Some(keys) = &self.keys else { return Some(Asker::Anybody) };
        if let Some(key) = token.and_then(|token| keys.get().find(token)) {
            return Some(Asker::Key(key));
        }
        self.open.is_open(template, address).then_some(Asker::Anybody)
    }
}
