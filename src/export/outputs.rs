//! The other outputs of the reference classes, common to both towers: `BaseModelOutputWithPooling` as graph outputs.
//!
//! Owns their names: `pooler_output` `[batch, hidden]`, `last_hidden_state` `[batch, sequence, hidden]`, `hidden_states.{i}`
//! (the same shape, `num_hidden_layers + 1` of them), `attentions.{i}` `[batch, heads, sequence, sequence]`. They are apart,
//! not stacked, so that a run that asks for few copies few.

use super::{
    encoder::Encoded,
    graph::{Dim, GraphBuilder, Value},
};

/// Pooled state, one row per input.
pub const POOLER_OUTPUT: &str = "pooler_output";
/// The last state of every position.
pub const LAST_HIDDEN_STATE: &str = "last_hidden_state";

/// Name of the `index`-th of the hidden states: 0 goes into the first block, `i` comes out of the `i`-th.
pub fn hidden_state(index: usize) -> String {
    format!("hidden_states.{index}")
}

/// Name of the attention probabilities of block `index`, from 0.
pub fn attention(index: usize) -> String {
    format!("attentions.{index}")
}

/// Declares everything but the embedding, which not every checkpoint has. `sequence` is how many positions there are.
pub(crate) fn declare(
    g: &mut GraphBuilder,
    encoded: &Encoded,
    last: &Value,
    pooled: &Value,
    sequence: Dim,
    [hidden, heads]: [usize; 2],
) {
    let (batch, hidden) = (Dim::Named("batch"), Dim::Fixed(hidden));
    g.output(POOLER_OUTPUT, pooled, &[batch, hidden]);
    g.output(LAST_HIDDEN_STATE, last, &[batch, sequence, hidden]);
    for (index, state) in encoded.hidden_states.iter().enumerate() {
        g.output(&hidden_state(index), state, &[batch, sequence, hidden]);
    }
    for (index, probabilities) in encoded.attentions.iter().enumerate() {
        g.output(&attention(index), probabilities, &[batch, Dim::Fixed(heads), sequence, sequence]);
    }
}
