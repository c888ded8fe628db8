//! What a text graph is fed: token ids.
//!
//! Owns padding a batch to its longest text (or to the length the graph is fixed to) and the ids' integer width. Does not own
//! tokenizing or truncation.
//!
//! Padding repeats each text's own last id, the end token. It cannot change the answer: attention is causal, and the pooled
//! position is the first end token (or the first highest id, which is the same one). The states of padding itself are cut off.

use ort::{
    session::{Session, SessionInputValue},
    value::{TensorElementType, TensorRef},
};

use super::{
    graph::{self, NamedInput, Port},
    tower::{TowerEncoder, TowerInput},
};
use crate::{encoder::Tokens, model::graph_info::GraphInfo};

/// One integer input of `batch x sequence`; the buffer is kept between runs.
enum Ids {
    I64(Vec<i64>),
    I32(Vec<i32>),
}

impl Ids {
    fn for_port(port: &Port) -> Option<Self> {
        match (port.shape.len(), port.element) {
            (2, TensorElementType::Int64) => Some(Self::I64(Vec::new())),
            (2, TensorElementType::Int32) => Some(Self::I32(Vec::new())),
            _ => None,
        }
    }

    fn fill(&mut self, values: impl Iterator<Item = u32>) {
        match self {
            Self::I64(buffer) => {
                buffer.clear();
                buffer.extend(values.map(i64::from));
            }
            Self::I32(buffer) => {
                buffer.clear();
                // Token ids index an embedding table: far below 2^31.
                buffer.extend(values.map(|id| id as i32));
            }
        }
    }

    fn tensor(&self, shape: [usize; 2]) -> ort::Result<SessionInputValue<'_>> {
        match self {
            Self::I64(buffer) => TensorRef::from_array_view((shape, buffer.as_slice())).map(Into::into),
            Self::I32(buffer) => TensorRef::from_array_view((shape, buffer.as_slice())).map(Into::into),
        }
    }
}

/// What a text graph is fed.
pub struct TokenInput {
    input_ids: (String, Ids),
    attention_mask: Option<(String, Ids)>,
    sequence: Option<usize>,
    packed: bool,
    vocab_size: Option<usize>,
}

/// A text graph and what it is fed.
pub type TextEncoder = TowerEncoder<TokenInput>;

impl TokenInput {
    /// Reads from the inputs of a session which tensors it wants, and the rest from what a graph of ours says about itself.
    pub(super) fn of(session: &Session, info: Option<&GraphInfo>) -> Result<Self, String> {
        let inputs = graph::inputs(session);
        let wrong = || {
            format!(
                "its inputs are ({}), expected input_ids int64 [batch, sequence] and at most an attention_mask",
                graph::describe(&inputs)
            )
        };
        let (masks, ids): (Vec<&Port>, Vec<&Port>) = inputs.iter().partition(|port| port.name == "attention_mask");
        let ([ids], true) = (ids.as_slice(), masks.len() <= 1) else { return Err(wrong()) };
        let input_ids = (ids.name.clone(), Ids::for_port(ids).ok_or_else(wrong)?);
        let attention_mask = match masks.first() {
            Some(mask) => Some((mask.name.clone(), Ids::for_port(mask).ok_or_else(wrong)?)),
            None => None,
        };
        Ok(Self {
            input_ids,
            attention_mask,
            sequence: ids.fixed(1),
            packed: info.is_some_and(|info| info.packed),
            vocab_size: info.and_then(|info| info.vocab_size),
        })
    }

    /// The sequence length that the graph is fixed to, if it is.
    pub fn sequence(&self) -> Option<usize> {
        self.sequence
    }

    /// How many ids the graph knows, if it says so. Others are not to be fed to it: OpenVINO reads beyond the table for them.
    pub fn vocab_size(&self) -> Option<usize> {
        self.vocab_size
    }
}

impl TowerInput for TokenInput {
    type Item = Tokens;

    fn tensors<'a>(&'a mut self, items: &'a [Tokens]) -> ort::Result<Vec<NamedInput<'a>>> {
        let longest = items.iter().map(|tokens| tokens.ids().len()).max().unwrap_or(0);
        let shape = [items.len(), self.sequence.unwrap_or(longest)];
        self.input_ids.1.fill(items.iter().flat_map(|tokens| padded(tokens.ids(), shape[1])));
        if let Some((_, mask)) = &mut self.attention_mask {
            mask.fill(items.iter().flat_map(|tokens| (0..shape[1]).map(|i| u32::from(i < tokens.attended()))));
        }
        let inputs = [Some(&self.input_ids), self.attention_mask.as_ref()].into_iter().flatten();
        inputs.map(|(name, ids)| Ok((name.as_str().into(), ids.tensor(shape)?))).collect()
    }

    fn pads(&self) -> bool {
        !self.packed
    }

    fn positions(item: &Tokens) -> Option<usize> {
        Some(item.ids().len())
    }
}

fn padded(ids: &[u32], length: usize) -> impl Iterator<Item = u32> {
    let end = ids.last().copied().unwrap_or(0);
    ids.iter().copied().chain(std::iter::repeat(end)).take(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_repeats_the_end_token() {
        assert_eq!(padded(&[1, 5, 9], 5).collect::<Vec<_>>(), [1, 5, 9, 9, 9]);
        assert_eq!(padded(&[1, 9], 2).collect::<Vec<_>>(), [1, 9]);
    }
}
