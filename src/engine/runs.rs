//! Which runs of a tower go on at the same time, and which session each of them has.
//!
//! Owns that layout, and that the runs of one session stay so when it is made anew. Does not own how a session is opened (`super`) or what
//! a worker takes ([`Role`]).
//!
//! On the CPU provider a session has a run for each of its threads: one of the caller's, which has all of them while it is alone, and
//! others that begin on them when there is more work than one run's (`beside`). Where sessions have one thread each, all runs have one
//! session. On other providers each run has its own.
//!
//! Invariant: a session that several runs have is made anew once, by the first whose runs fail, so that at most two are there.

use std::sync::{Arc, Mutex, PoisonError};

use ort::session::Session;

use super::{
    Engine, EngineError, Opened,
    beside::Place,
    floats::Feed,
    provider::RunningProvider,
    split::Tower,
    tower::{TowerEncoder, TowerInput},
};
use crate::{
    encoder::{Role, Runner},
    model::{Graphs, graph_info::GraphInfo},
};

/// The session of embeddings that some runs have; `None` where the tower has no projection.
type OpenedEmbedding = Option<Opened<Arc<Session>>>;

/// A session as its runs find it.
#[derive(Default)]
struct Source {
    /// The one that was made last, where several have it.
    latest: OpenedEmbedding,
    /// How often one was made.
    made: u64,
}

impl Source {
    /// The session for one who has had that of `mine`, 0 at first: one that was made since, or a new one, which is kept if others want it.
    fn take(
        &mut self,
        mine: &mut u64,
        is_shared: bool,
        open: impl FnOnce() -> Result<OpenedEmbedding, EngineError>,
    ) -> Result<OpenedEmbedding, EngineError> {
        if self.made == *mine || self.latest.is_none() {
            self.latest = None;
            let opened = open()?;
            self.made += 1;
            *mine = self.made;
            if is_shared {
                self.latest.clone_from(&opened);
            }
            return Ok(opened);
        }
        *mine = self.made;
        Ok(self.latest.clone())
    }
}

impl Engine {
    /// The runs of `sessions` sessions of a tower.
    pub(super) fn towers<I: TowerInput>(
        self: &Arc<Self>,
        tower: Tower,
        graphs: &Graphs,
        sessions: usize,
        input: impl Fn(&Session, Option<&GraphInfo>) -> Result<I, String> + Clone + Send + 'static,
    ) -> Result<Vec<Runner<TowerEncoder<I>>>, EngineError> {
        let mut runners = Vec::new();
        for layout in self.layout(graphs, sessions) {
            let (source, is_shared) = (Arc::new(Mutex::new(Source::default())), layout.len() > 1);
            for (role, place) in layout {
                let (engine, graphs, input) = (Arc::clone(self), graphs.clone(), input.clone());
                let (source, mut mine) = (Arc::clone(&source), 0);
                let mut make = move || {
                    // Made by one, while the others that want it wait for it.
                    let mut source = source.lock().unwrap_or_else(PoisonError::into_inner);
                    let opened = source.take(&mut mine, is_shared, || engine.embedding(tower, Feed::AsIs, &graphs))?;
                    drop(source);
                    let opened = opened.map(|opened| (opened, place));
                    let stop = Self::stop(tower, &graphs)?;
                    engine.tower(tower, Feed::AsIs, &graphs, opened, stop, input.clone())
                };
                let encoder = make()?;
                let rebuild = Box::new(move || make().map_err(|error| error.to_string()));
                runners.push(Runner { encoder, role, rebuild });
            }
        }
        Ok(runners)
    }

    /// For each session the runs that have it.
    fn layout(&self, graphs: &Graphs, sessions: usize) -> Vec<Vec<(Role, Place)>> {
        let (own, sessions) = ((Role::Own, Place::Caller), self.sessions.unwrap_or(sessions));
        // A graph of all outputs is run by a binding, which wants the session for itself.
        let several_can_run_one = matches!(self.provider, RunningProvider::Cpu) && graphs.embedding().is_some();
        let with = |others: usize, other| std::iter::once(own).chain(std::iter::repeat_n(other, others)).collect();
        match self.intra_threads {
            _ if !several_can_run_one => vec![vec![own]; sessions],
            1 => vec![with(sessions.saturating_sub(1), (Role::Shared, Place::Caller))],
            threads => vec![with(threads - 1, (Role::Beside, Place::Session)); sessions],
        }
    }
}
