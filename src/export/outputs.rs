//! The other outputs of the reference classes, common to both towers: `BaseModelOutputWithPooling` as graph outputs.
//!
//! Owns their names: `pooler_output` `[batch, hidden]`, `last_hidden_state` `[batch, sequence, hidden]`, `hidden_states.{i}`
//! (the same shape, `num_hidden_layers + 1` of them), `attentions.{i}` `[batch, heads, sequence, sequence]`. They are apart,
//! not stacked, so that a run that asks for few copies few.

use std::iter;

use super::{
    encoder::Encoded,
    graph::{Dim, GraphBuilder, Value},
};
use crate::encoder::Output;

/// Declares everything but the embedding, which not every checkpoint has. Hidden states come as rows and are given the shape
/// `states` (`i64` `[3]`); `sequence` is how many positions there are.
pub(crate) fn declare(
    g: &mut GraphBuilder,
    encoded: &Encoded,
    last: &Value,
    states: &Value,
    pooled: &Value,
    sequence: Dim,
    [hidden, heads]: [usize; 2],
) {
    let (batch, hidden) = (Dim::Named("batch"), Dim::Fixed(hidden));
    g.output(Output::PoolerOutput.name(), pooled, &[batch, hidden]);
    let named = |(index, state)| (Output::HiddenStates.of_block(index), state);
    let all = encoded.hidden_states.iter().enumerate().map(named);
    for (name, state) in iter::once((Output::LastHiddenState.name().to_owned(), last)).chain(all) {
        let state = g.op("Reshape", [state, states]);
        g.output(&name, &state, &[batch, sequence, hidden]);
    }
    for (index, probabilities) in encoded.attentions.iter().enumerate() {
        g.output(&Output::Attentions.of_block(index), probabilities, &[batch, Dim::Fixed(heads), sequence, sequence]);
    }
}
