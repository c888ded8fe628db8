//! How the positions of a batch lie in the rows `[rows, hidden]` that the blocks compute on.
//!
//! Norms and linear layers treat every position alike, so they see one matrix; only attention asks which positions belong to the
//! same input, and gets them as `[batch, sequence, heads, head]`. Owns the way there and back.

use super::{
    graph::{GraphBuilder, Value},
    proto::{AttributeProto, DataType},
};
use crate::config::Precision;

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
///
/// Attention alone sees padding, up to the batch's longest, and its keys up to whole steps ([`padded`]).
pub(crate) struct Packed {
    positions: Positions,
    /// `i64` `[batch]`: the row of each input's last position.
    last: Value,
    /// `i64` `[1]`.
    padded: Value,
}

/// Which rows and positions are the same.
pub(crate) struct Positions {
    /// `i64` `[batch, sequence]`: the row of each position; of padding, that of the input's last position.
    row_of: Value,
    /// `i64` `[batch, padded]`: the same for whole steps.
    row_of_padded: Value,
    /// `i64` `[rows]`: the position of each row, counted through the batch.
    position_of: Value,
}

impl Positions {
    /// Inputs of a function, and what a call of it is given for them.
    pub(super) fn named() -> Self {
        let [row_of, row_of_padded, position_of] = ["row_of", "row_of_padded", "position_of"].map(Value::named);
        Self { row_of, row_of_padded, position_of }
    }

    /// In the order of [`Self::named`].
    pub(super) fn inputs(&self) -> [&Value; 3] {
        [&self.row_of, &self.row_of_padded, &self.position_of]
    }
}

/// Rows as attention sees them.
#[derive(Clone, Copy)]
pub(crate) enum Layout<'r> {
    /// See [`Rows::Dense`].
    Dense(&'r Value),
    /// See [`Rows::Packed`].
    Packed(&'r Positions),
}

/// `positions` in whole steps of attention's sums.
///
/// A query adds up over all keys, and kernels do that in blocks: where a sequence ends within one, they add up the rest in another
/// order, and a text would change in its last bits beside a longer one. Tests hold texts to the bit with these steps.
pub(crate) const fn padded(positions: usize, precision: Precision) -> usize {
    positions.next_multiple_of(step(precision))
}

/// ONNX Runtime's CPU provider, and OpenVINO in bf16, need no more than 4. OpenVINO in f32, which does the attention of int8, needs
/// 16, the number of f32 in a register of AVX-512; that many keys cost 2 to 6 % of a batch of short texts.
const fn step(precision: Precision) -> usize {
    match precision {
        Precision::Int8Weights => 16,
        Precision::F32 | Precision::F16 | Precision::Int8 => 4,
    }
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

        let step = step(g.precision()) as i64;
        let (step, rest) = (g.int(step), g.int(step - 1));
        let padded = g.op("Add", [sequence, &rest]);
        let padded = g.op("Div", [&padded, &step]);
        let padded = g.op("Mul", [&padded, &step]);
        let [row_of, row_of_padded] = [sequence, &padded].map(|count| {
            let first_axis = g.ints(&[0]);
            let count = g.op("Squeeze", [count, &first_axis]);
            let positions = g.op("Range", [&zero, &count, &one]);
            let row_of = g.op("Add", [&starts, &positions]);
            g.op("Min", [&row_of, &last])
        });

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
        let positions = Positions { row_of, row_of_padded, position_of };
        Self { positions, last: g.reshape(&last, &[-1]), padded }
    }

    /// How many keys there are for each input, `i64` `[1]`.
    pub(crate) fn padded(&self) -> &Value {
        &self.padded
    }
}

impl Rows {
    /// Dense rows of `lead` (`i64` `[2]`: batch and sequence), for attention of `heads` `[heads, head]`.
    pub(crate) fn dense(g: &mut GraphBuilder, lead: &Value, [heads, head]: [usize; 2]) -> Self {
        let heads = g.ints(&[heads as i64, head as i64]);
        Self::Dense { shape: g.node("Concat", [lead, &heads], vec![AttributeProto::int("axis", 0)]) }
    }

    /// What attention has to know of them.
    pub(crate) fn layout(&self) -> Layout<'_> {
        match self {
            Self::Dense { shape } => Layout::Dense(shape),
            Self::Packed(packed) => Layout::Packed(&packed.positions),
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
}

impl Layout<'_> {
    /// Queries `[rows, heads * head]` as `[batch, sequence, heads, head]`.
    pub(crate) fn queries(self, g: &mut GraphBuilder, x: &Value, sizes: [usize; 2]) -> Value {
        self.split(g, x, sizes, |positions| &positions.row_of)
    }

    /// Keys or values `[rows, heads * head]` as `[batch, sequence or padded, heads, head]`.
    pub(crate) fn keys(self, g: &mut GraphBuilder, x: &Value, sizes: [usize; 2]) -> Value {
        self.split(g, x, sizes, |positions| &positions.row_of_padded)
    }

    fn split(self, g: &mut GraphBuilder, x: &Value, sizes: [usize; 2], row_of: fn(&Positions) -> &Value) -> Value {
        match self {
            Self::Dense(shape) => g.op("Reshape", [x, shape]),
            Self::Packed(positions) => {
                let rows = g.op("Gather", [x, row_of(positions)]);
                let [heads, head] = sizes.map(|size| size as i64);
                g.reshape(&rows, &[0, 0, heads, head])
            }
        }
    }

    /// The way back from [`Self::queries`].
    pub(crate) fn join(self, g: &mut GraphBuilder, x: &Value, hidden: usize) -> Value {
        let all = g.reshape(x, &[-1, hidden as i64]);
        match self {
            Self::Dense(_) => all,
            Self::Packed(positions) => g.op("Gather", [&all, &positions.position_of]),
        }
    }
}
