//! The other outputs of the reference classes, as they cross the seam: which there are, which are wanted, how large they are.
//!
//! Owns names and shapes, as `BaseModelOutputWithPooling` of `transformers` has them. Does not compute any.
//!
//! Invariant: the arrays of a [`TowerOutputs`] are those of the set that was asked for, in the order of [`Output::ALL`].

use ndarray::ArrayD;

/// One of the outputs besides the embedding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, schemars::JsonSchema, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Output {
    /// The pooled state before the projection: `[hidden]` for one input.
    PoolerOutput,
    /// The state of every position after the last block: `[positions, hidden]`; for texts after `final_layer_norm`.
    LastHiddenState,
    /// What goes into the first block and what comes out of each: `[blocks + 1, positions, hidden]`.
    HiddenStates,
    /// The attention probabilities of each block: `[blocks, heads, positions, positions]`.
    Attentions,
}

impl Output {
    /// Every one, in the order in which they are answered.
    pub const ALL: [Self; 4] = [Self::PoolerOutput, Self::LastHiddenState, Self::HiddenStates, Self::Attentions];

    /// As `transformers` calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::PoolerOutput => "pooler_output",
            Self::LastHiddenState => "last_hidden_state",
            Self::HiddenStates => "hidden_states",
            Self::Attentions => "attentions",
        }
    }

    /// Whether the first axis counts blocks, where `transformers` has a tuple and our graphs an output for each.
    pub fn is_per_block(self) -> bool {
        matches!(self, Self::HiddenStates | Self::Attentions)
    }

    /// What our graphs call the `index`-th of an output that [is per block](Self::is_per_block).
    pub fn of_block(self, index: usize) -> String {
        format!("{}.{index}", self.name())
    }
}

/// What is wanted besides the embedding; empty: nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct OutputSet(u8);

impl OutputSet {
    /// Nothing but the embedding.
    pub const EMPTY: Self = Self(0);

    /// Whether it is [`Self::EMPTY`].
    pub fn is_empty(self) -> bool {
        self == Self::EMPTY
    }

    /// Whether `output` is wanted.
    pub fn contains(self, output: Output) -> bool {
        self.0 & (1 << output as u8) != 0
    }

    /// The wanted ones, in the order of [`Output::ALL`].
    pub fn iter(self) -> impl Iterator<Item = Output> {
        Output::ALL.into_iter().filter(move |&output| self.contains(output))
    }
}

impl FromIterator<Output> for OutputSet {
    fn from_iter<I: IntoIterator<Item = Output>>(outputs: I) -> Self {
        Self(outputs.into_iter().fold(0, |set, output| set | 1 << output as u8))
    }
}

/// What the sizes of a tower's outputs follow from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutputShape {
    /// `hidden_size`.
    pub hidden_size: usize,
    /// `num_hidden_layers`.
    pub num_hidden_layers: usize,
    /// `num_attention_heads`.
    pub num_attention_heads: usize,
    /// Positions of every image; the most that a text may have.
    pub max_positions: usize,
}

impl OutputShape {
    /// The shape of `output` for one input of `positions` positions.
    pub fn of(&self, output: Output, positions: usize) -> Vec<usize> {
        let Self { hidden_size, num_hidden_layers, num_attention_heads, .. } = *self;
        match output {
            Output::PoolerOutput => vec![hidden_size],
            Output::LastHiddenState => vec![positions, hidden_size],
            Output::HiddenStates => vec![num_hidden_layers + 1, positions, hidden_size],
            Output::Attentions => vec![num_hidden_layers, num_attention_heads, positions, positions],
        }
    }

    /// Bytes of all `outputs` of one input of `positions` positions, as f32.
    pub fn bytes(&self, outputs: OutputSet, positions: usize) -> usize {
        let floats = |output| self.of(output, positions).into_iter().fold(1usize, usize::saturating_mul);
        outputs.iter().map(floats).fold(0, usize::saturating_add).saturating_mul(size_of::<f32>())
    }
}

/// What an encoder answers for one input of which more than the embedding is wanted.
#[derive(Clone, Debug, PartialEq)]
pub struct TowerOutputs {
    /// As the projection gives it, where the tower has one.
    pub embedding: Option<Vec<f32>>,
    /// The wanted outputs, shaped as [`Output`] says.
    pub arrays: Vec<ArrayD<f32>>,
}

impl TowerOutputs {
    /// Whether every value is a number.
    pub fn is_finite(&self) -> bool {
        let mut embedding = self.embedding.iter().flatten();
        embedding.all(|value| value.is_finite()) && self.arrays.iter().flatten().all(|value| value.is_finite())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_holds_what_was_put_in_and_gives_it_back_in_order() {
        let set: OutputSet = [Output::Attentions, Output::PoolerOutput, Output::Attentions].into_iter().collect();
        assert_eq!(set.iter().collect::<Vec<_>>(), [Output::PoolerOutput, Output::Attentions]);
        assert!(!set.contains(Output::LastHiddenState) && !set.is_empty() && OutputSet::EMPTY.is_empty());
    }

    #[test]
    fn names_are_those_of_the_wire() {
        for output in Output::ALL {
            let read: Output = serde_json::from_value(output.name().into()).expect("a name");
            assert_eq!(read, output);
        }
    }

    #[test]
    fn bytes_are_those_of_the_shapes() {
        let shape = OutputShape { hidden_size: 4, num_hidden_layers: 3, num_attention_heads: 2, max_positions: 5 };
        let bytes = |outputs: &[Output]| shape.bytes(outputs.iter().copied().collect(), 5);
        assert_eq!(bytes(&[Output::PoolerOutput]), 4 * 4);
        assert_eq!(bytes(&[Output::LastHiddenState, Output::HiddenStates]), (5 * 4 + 4 * 5 * 4) * 4);
        assert_eq!(bytes(&[Output::Attentions]), 3 * 2 * 5 * 5 * 4);
        let huge = OutputShape { hidden_size: usize::MAX, ..shape };
        assert_eq!(huge.bytes(Output::ALL.into_iter().collect(), 5), usize::MAX, "no overflow");
    }
}
