//! An encoder that is opened by its first batch: it holds another copy of the weights, which most servers never need.
//!
//! Owns that moment. Does not own what is opened (`tower`).
//!
//! Invariant: the handle that stops it is there from the start, and is that of the tower which comes.

use super::{
    graph::StopHandle,
    tower::{TowerEncoder, TowerInput},
};
use crate::encoder::{Embeddings, EncodeError, Encoder, Interrupt, OutputSet, TowerOutputs};

/// How it is opened, with the handle that stops it.
type Open<I> = Box<dyn Fn(StopHandle) -> Result<TowerEncoder<I>, String> + Send>;

/// A tower that may not be there yet.
pub struct LateEncoder<I> {
    open: Open<I>,
    tower: Option<TowerEncoder<I>>,
    stop: StopHandle,
}

impl<I: TowerInput> LateEncoder<I> {
    pub(super) fn new(
        open: impl Fn(StopHandle) -> Result<TowerEncoder<I>, String> + Send + 'static,
        stop: StopHandle,
    ) -> Self {
        Self { open: Box::new(open), tower: None, stop }
    }

    fn tower(&mut self) -> Result<&mut TowerEncoder<I>, EncodeError> {
        if self.tower.is_none() {
            let tower = (self.open)(self.stop.clone()).map_err(EncodeError::Runtime)?;
            tracing::info!("the graph of another form of input is loaded: it was asked for");
            self.tower = Some(tower);
        }
        self.tower.as_mut().ok_or_else(|| EncodeError::Runtime("it was opened, and is not there".to_owned()))
    }
}

impl<I: TowerInput> Encoder for LateEncoder<I> {
    type Input = I::Item;

    fn encode(&mut self, inputs: &[I::Item]) -> Result<Embeddings, EncodeError> {
        self.tower()?.encode(inputs)
    }

    fn encode_outputs(&mut self, inputs: &[I::Item], outputs: OutputSet) -> Result<Vec<TowerOutputs>, EncodeError> {
        self.tower()?.encode_outputs(inputs, outputs)
    }

    fn interrupt(&mut self) -> Interrupt {
        self.stop.interrupt()
    }

    fn ends_soon(&self) -> bool {
        self.stop.ends_soon()
    }
}
