//! Which runs of a tower go on at the same time, and which session each of them has.
//!
//! Owns that layout, and how each is made anew. Does not own how a session is opened (`super`), how several runs have one (`beside`) or what
//! a worker takes ([`Role`]).
//!
//! On the CPU provider a session has a run for each of its threads: one of the caller's, which has all of them while it is alone, and
//! others that begin on them when there is more work than one run's (`beside`). Where sessions have one thread each, all runs have one
//! session. On other providers each run has its own.
//!
//! Invariant: a session that several runs have is made anew once, by the first whose runs fail, for all of them.

use std::sync::{Arc, atomic::AtomicU64};

use ort::session::Session;

use super::{
    Engine, EngineError, Opened,
    beside::{Place, Shared, Source},
    floats::Feed,
    graph::Held,
    provider::RunningProvider,
    split::Tower,
    tower::{TowerEncoder, TowerInput},
};
use crate::{
    encoder::{Role, Runner},
    model::{Graphs, graph_info::GraphInfo},
};

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
            match self.embedding(tower, Feed::AsIs, graphs)? {
                Some(opened) if layout.len() > 1 => {
                    let opened = opened.held(Source::new);
                    for (role, place) in layout {
                        runners.push(self.shared(tower, graphs, role, place, &opened, input.clone())?);
                    }
                }
                opened => runners.push(self.alone(tower, graphs, opened, input.clone())?),
            }
        }
        Ok(runners)
    }

    /// A run of a session of its own, which is `opened`; `None` where the tower has no projection.
    fn alone<I: TowerInput>(
        self: &Arc<Self>,
        tower: Tower,
        graphs: &Graphs,
        opened: Option<Opened>,
        input: impl Fn(&Session, Option<&GraphInfo>) -> Result<I, String> + Clone + Send + 'static,
    ) -> Result<Runner<TowerEncoder<I>>, EngineError> {
        let (engine, graphs) = (Arc::clone(self), graphs.clone());
        let make = {
            let (engine, graphs) = (Arc::clone(&engine), graphs.clone());
            move |opened: Option<Opened>| {
                let opened = opened.map(|opened| opened.held(Held::Own));
                engine.tower(tower, Feed::AsIs, &graphs, opened, engine.stop(), input.clone())
            }
        };
        let encoder = make(opened)?;
        let again = move || make(engine.embedding(tower, Feed::AsIs, &graphs)?);
        Ok(Runner::new(encoder, move || again().map_err(|error| error.to_string())))
    }

    /// A run of a session that others have, too.
    fn shared<I: TowerInput>(
        self: &Arc<Self>,
        tower: Tower,
        graphs: &Graphs,
        role: Role,
        place: Place,
        opened: &Opened<Arc<Source>>,
        input: impl Fn(&Session, Option<&GraphInfo>) -> Result<I, String> + Clone + Send + 'static,
    ) -> Result<Runner<TowerEncoder<I>>, EngineError> {
        let (engine, graphs, opened) = (Arc::clone(self), graphs.clone(), opened.clone());
        let used = Arc::new(AtomicU64::new(0));
        let (source, last) = (Arc::clone(&opened.session), Arc::clone(&used));
        let make = {
            let (engine, graphs) = (Arc::clone(&engine), graphs.clone());
            move || {
                let opened = opened.clone().held(|source| Held::Shared(Shared::new(&source, place, &used)));
                engine.tower(tower, Feed::AsIs, &graphs, Some(opened), engine.stop(), input.clone())
            }
        };
        let encoder = make()?;
        let open = move || {
            let opened = engine.embedding(tower, Feed::AsIs, &graphs)?;
            let gone = || super::fault(tower, graphs.first(), "its projection is gone".to_owned());
            opened.map(|opened| opened.session).ok_or_else(gone)
        };
        let again = move || {
            source.replace(&last, &open)?;
            make()
        };
        let rebuild = Box::new(move || again().map_err(|error: EngineError| error.to_string()));
        Ok(Runner { encoder, role, rebuild })
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
