//! The operators that an int8 graph has between its products of 8-bit integers, which ONNX has no name for: they give each row a scale of its own,
//! and see no padding.
//!
//! Owns their names and attributes. What they compute is said twice, and a test holds the two together: as functions of standard operators, which the exporter
//! writes into the graph, so that every runtime computes it (`export::functions`); and as kernels of ours, which ONNX Runtime calls in place of
//! such a function where they are registered (`engine::row_operators`).
//!
//! Rows are `[rows, width]`. In 8 bits they are U8 `[rows, width]` and an f32 scale `[rows, 1]`: a value is `(byte - 128) * scale`. A product of
//! them with S8 weights is I32 `[rows, width]`, and its values are `sum * scale * column scale + bias`.

use super::clip_config::Activation;

/// The domain of these operators.
pub const DOMAIN: &str = "clipserve";

/// The version of [`DOMAIN`] that graphs import.
pub const VERSION: i64 = 1;

/// The largest distance of a byte from its zero point; -128 is left out so that both signs reach equally far.
pub const LIMIT: f32 = 127.0;

/// What the largest magnitude of a row is taken for at least, since a row of zeros would divide by zero.
pub const LEAST: f32 = 1e-30;

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowOperator {
    /// Rows `x` f32 to bytes and scale: the scale is `max |x| / 127`, the byte `x / scale` to the nearest, ties to even, plus 128.
    Quantize,
    /// Sums, scale, column scales `[width]` and bias `[width]` to f32.
    Dequantize,
    /// The same onto f32 rows, which come first: what residual connections add.
    DequantizeOnto,
    /// Rows `x` f32, weight `[width]` and bias `[width]` to bytes and scale of their layer norm; with [`EPSILON`].
    LayerNorm,
    /// The inputs of [`Self::Dequantize`] to bytes and scale of what the activation makes of them: what is between the layers of an MLP.
    Activate(Activation),
    /// Causal attention of texts that lie one behind the other, each of its own length: queries (divided by the root of a head's size), keys and
    /// values, f32 `[rows, width]`, and `row_of`, I64 `[batch, sequence]`, the row of each position, of padding that of a text's last one; to
    /// f32 `[rows, width]`; with [`HEADS`]. Three more inputs are for the function alone.
    CausalAttention,
}

/// The attribute of [`RowOperator::LayerNorm`]: what is added to the variance, a float.
pub const EPSILON: &str = "epsilon";

/// The attribute of [`RowOperator::CausalAttention`]: how many heads there are, an integer that divides the width.
pub const HEADS: &str = "heads";

impl RowOperator {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Quantize,
        Self::LayerNorm,
        Self::Dequantize,
        Self::DequantizeOnto,
        Self::Activate(Activation::QuickGelu),
        Self::Activate(Activation::Gelu),
        Self::Activate(Activation::GeluNew),
        Self::Activate(Activation::Relu),
        Self::Activate(Activation::Selu),
        Self::CausalAttention,
    ];

    /// Its name in [`DOMAIN`].
    pub fn name(self) -> &'static str {
        match self {
            Self::Quantize => "QuantizeRows",
            Self::LayerNorm => "LayerNormRows",
            Self::Dequantize => "DequantizeRows",
            Self::DequantizeOnto => "DequantizeRowsOnto",
            Self::Activate(Activation::QuickGelu) => "QuickGeluRows",
            Self::Activate(Activation::Gelu) => "GeluRows",
            Self::Activate(Activation::GeluNew) => "GeluNewRows",
            Self::Activate(Activation::Relu) => "ReluRows",
            Self::Activate(Activation::Selu) => "SeluRows",
            Self::CausalAttention => "CausalAttentionRows",
        }
    }
}
