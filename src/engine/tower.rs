//! The encoder of one tower: a session for embeddings, another one for everything else, and what both are fed.
//!
//! Owns which of the two graphs answers, and opening the second one when it is first asked for: its session holds a second copy
//! of the weights, which most servers never need. Does not own how items become tensors (`vision`, `text`).
//!
//! Invariants: there is at least one of the two sessions from the start; both stop through the same handle.

use super::{
    graph::{EmbeddingSession, NamedInput, StopHandle, runtime},
    outputs::OutputsSession,
};
use crate::encoder::{Embeddings, EncodeError, Encoder, Interrupt, OneByOne, OutputSet, TowerOutputs};

/// How items become the tensors that one graph wants.
pub trait TowerInput: Send + 'static {
    /// [`crate::encoder::PixelBuf`] or [`crate::encoder::Tokens`].
    type Item: Send + 'static;

    /// The tensors of a batch.
    ///
    /// # Errors
    /// When the runtime cannot make one.
    fn tensors<'a>(&'a mut self, items: &'a [Self::Item]) -> ort::Result<Vec<NamedInput<'a>>>;

    /// Whether the graph computes what short items are padded with.
    fn pads(&self) -> bool {
        true
    }

    /// How many positions of the outputs belong to `item`; `None` where every item has as many.
    fn positions(item: &Self::Item) -> Option<usize>;
}

/// A graph of all outputs that is opened when it is first needed.
pub(super) type OpenOutputs<I> = Box<dyn Fn() -> Result<(OutputsSession, I), String> + Send>;

/// The graph of all outputs.
pub(super) enum Outputs<I> {
    /// There is none: the graph is from elsewhere.
    None,
    /// Not needed yet.
    Closed(OpenOutputs<I>),
    /// In use.
    Open(OutputsSession, I),
}

/// The sessions of one tower.
pub struct TowerEncoder<I> {
    embedding: Option<(EmbeddingSession, I)>,
    outputs: Outputs<I>,
    one_by_one: Option<OneByOne>,
    stop: StopHandle,
}

impl<I: TowerInput> TowerEncoder<I> {
    pub(super) fn new(
        embedding: Option<(EmbeddingSession, I)>,
        outputs: Outputs<I>,
        one_by_one: Option<OneByOne>,
        stop: StopHandle,
    ) -> Self {
        Self { embedding, outputs, one_by_one, stop }
    }

    /// Why no run may have more than one item; `None` where it may.
    pub fn one_by_one(&self) -> Option<OneByOne> {
        self.one_by_one
    }

    /// What the graph that is open takes; the other one takes the same.
    pub fn input(&self) -> Option<&I> {
        match (&self.embedding, &self.outputs) {
            (Some((_, input)), _) | (None, Outputs::Open(_, input)) => Some(input),
            (None, Outputs::None | Outputs::Closed(_)) => None,
        }
    }
}

impl<I: TowerInput> Encoder for TowerEncoder<I> {
    type Input = I::Item;

    fn encode(&mut self, inputs: &[I::Item]) -> Result<Embeddings, EncodeError> {
        let Some((session, input)) = &mut self.embedding else {
            return Err(EncodeError::Runtime("the tower has no projection".to_owned()));
        };
        let tensors = input.tensors(inputs).map_err(|error| runtime(&error))?;
        session.run(inputs.len(), tensors)
    }

    fn encode_outputs(&mut self, inputs: &[I::Item], outputs: OutputSet) -> Result<Vec<TowerOutputs>, EncodeError> {
        if let Outputs::Closed(open) = &self.outputs {
            let (session, input) = open().map_err(EncodeError::Runtime)?;
            tracing::info!("the graph of all outputs is loaded: they were asked for");
            self.outputs = Outputs::Open(session, input);
        }
        let Outputs::Open(session, input) = &mut self.outputs else {
            return Err(EncodeError::Runtime("the model has no graph of all outputs".to_owned()));
        };
        let tensors = input.tensors(inputs).map_err(|error| runtime(&error))?;
        let positions: Vec<Option<usize>> = inputs.iter().map(I::positions).collect();
        session.run(tensors, &positions, outputs)
    }

    fn pads(&self) -> bool {
        self.embedding.as_ref().is_none_or(|(_, input)| input.pads())
    }

    fn interrupt(&mut self) -> Interrupt {
        self.stop.interrupt()
    }

    fn ends_soon(&self) -> bool {
        self.stop.ends_soon()
    }
}
