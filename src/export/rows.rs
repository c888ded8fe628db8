//! How the positions of a batch lie in the rows `[rows, hidden]` that the blocks compute on.
//!
//! Norms and linear layers treat every position alike, so they see one matrix; only attention asks which positions belong to the
//! same input, and gets them as `[batch, sequence, heads, head]`. Owns the way there and back.

use super::{
    graph::{GraphBuilder, Value},
    proto::{AttributeProto, DataType},
};

/// The rows of a batch.
pub(crate) enum Rows {
    /// Every input has a row for each of `sequence` positions. `shape` is `[batch, sequence, heads, head]`, -1 for one of them.
    Dense {
        /// `i64` `[4]`.
        shape: Value,
    },
    /// Every input has rows for its own length, padding has none.
    Packed(Packed),
}

/// Where rows without padding come from and go to. In one batch texts differ in length, and a batch padded to its longest is easily
/// a third padding.
pub(crate) struct Packed {
    /// `i64` `[batch, sequence]`: the row of each position; of padding, that of the input's last position.
    row_of: Value,
    /// `i64` `[rows]`: the position of each row, counted through the batch.
    position_of: Value,
    /// `i64` `[batch]`: the row of each input's last position.
    last: Value,
}

impl Packed {
    /// Of inputs that end with `last_position` `i64` `[batch, 1]`, of `sequence` `i64` `[1]` positions with their padding.
    ///
    /// Without `NonZero` and reductions to a scalar, which OpenVINO's provider does not take.
    pub(crate) fn new(g: &mut GraphBuilder, last_position: &Value, sequence: &Value) -> Self {
        let (zero, one, along) = (g.int(0), g.int(1), g.ints(&[1]));
        let lengths = g.op("Add", [last_position, &one]);
        let ends = g.op("CumSum", [&lengths, &zero]);
        let last = g.op("Sub", [&ends, &one]);
        let starts = g.op("Sub", [&ends, &lengths]);

        let first_axis = g.ints(&[0]);
        let count = g.op("Squeeze", [sequence, &first_axis]);
        let positions = g.op("Range", [&zero, &count, &one]);
        let row_of = g.op("Add", [&starts, &positions]);
        let row_of = g.op("Min", [&row_of, &last]);

        // A row's position is its own number and the padding of every input that ends before it.
        let count = g.op("ReduceSum", [&lengths]);
        let both_axes = g.ints(&[0, 1]);
        let count = g.op("Squeeze", [&count, &both_axes]);
        let rows = g.op("Range", [&zero, &count, &one]);
        let as_column = g.op("Unsqueeze", [&rows, &along]);
        let last = g.reshape(&last, &[1, -1]);
        let ended = g.op("Less", [&last, &as_column]);
        let ended = g.cast(&ended, DataType::Int64);
        let padding = g.op("Sub", [sequence, &lengths]);
        let padding = g.reshape(&padding, &[1, -1]);
        let before = g.op("Mul", [&ended, &padding]);
        let before = g.node("ReduceSum", [&before, &along], vec![AttributeProto::int("keepdims", 0)]);
        let position_of = g.op("Add", [&rows, &before]);
        Self { row_of, position_of, last: g.reshape(&last, &[-1]) }
    }
}

impl Rows {
    /// Dense rows of `lead` (`i64` `[2]`: batch and sequence), for attention of `heads` `[heads, head]`.
    pub(crate) fn dense(g: &mut GraphBuilder, lead: &Value, [heads, head]: [usize; 2]) -> Self {
        let heads = g.ints(&[heads as i64, head as i64]);
        Self::Dense { shape: g.node("Concat", [lead, &heads], vec![AttributeProto::int("axis", 0)]) }
    }

    /// Rows `[rows, heads * head]` as `[batch, sequence, heads, head]`.
    pub(crate) fn split(&self, g: &mut GraphBuilder, x: &Value, [heads, head]: [usize; 2]) -> Value {
        match self {
            Self::Dense { shape } => g.op("Reshape", [x, shape]),
            Self::Packed(packed) => {
                let positions = g.op("Gather", [x, &packed.row_of]);
                g.reshape(&positions, &[0, 0, heads as i64, head as i64])
            }
        }
    }

    /// The rows `[batch, hidden]` of `x` at `position` `i64` `[batch, 1]`: without padding, that must be the last one.
    pub(crate) fn at(&self, g: &mut GraphBuilder, x: &Value, position: &Value, hidden: usize) -> Value {
        match self {
            Self::Dense { shape } => {
                let axis = g.ints(&[2]);
                let index = g.op("Unsqueeze", [position, &axis]);
                let positions = g.op("Reshape", [x, shape]);
                let row = g.node("GatherND", [&positions, &index], vec![AttributeProto::int("batch_dims", 1)]);
                g.reshape(&row, &[-1, hidden as i64])
            }
            Self::Packed(packed) => g.op("Gather", [x, &packed.last]),
        }
    }

    /// The way back from [`Rows::split`].
    pub(crate) fn join(&self, g: &mut GraphBuilder, x: &Value, hidden: usize) -> Value {
        let positions = g.reshape(x, &[-1, hidden as i64]);
        match self {
            Self::Dense { .. } => positions,
            Self::Packed(packed) => g.op("Gather", [&positions, &packed.position_of]),
        }
    }
}
