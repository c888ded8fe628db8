//! The pre-norm transformer blocks that both towers share: `CLIPEncoder` of `transformers`, as ONNX nodes.
//!
//! Owns attention, the residual stream and what is added to it. Does not own what goes in (embeddings) nor what is made of the result
//! (pooling, projection). Hidden states are `[rows, hidden]` throughout: see [`Rows`].
//!
//! Standard operators, but in int8 (`linear`): ONNX Runtime's fused `Attention`, `MultiHeadAttention` and `SkipLayerNormalization` were measured
//! and are not faster on its CPU provider (`docs/export.md`), and other providers know the standard ones best.

use super::{
    error::ExportError,
    graph::{Function, GraphBuilder, Value},
    linear::Operand,
    proto::AttributeProto,
    rows::{Layout, Positions, Rows},
};
use crate::{
    config::Precision,
    model::{
        clip_config::TransformerConfig,
        row_operators::{HEADS, RowOperator},
    },
};

/// Which rows are pooled, for a graph that wants nothing else. The last block then computes only them: its keys and values
/// still come from every position, but its queries, its output projection and its MLP, five sixths of its work, are done for
/// one row per input.
pub(crate) struct Pool<'p> {
    /// Takes `[rows, hidden]` to `[batch, hidden]`.
    pub(crate) rows: &'p dyn Fn(&mut GraphBuilder, &Value) -> Value,
    /// The attention mask of those rows, where there is one: broadcasts to `[batch, heads, 1, sequence]`.
    pub(crate) mask: Option<Value>,
}

/// What the blocks leave behind, as `BaseModelOutput` has it.
pub(crate) struct Encoded {
    /// What goes into the first block, then what comes out of each, `[rows, hidden]`.
    pub(crate) hidden_states: Vec<Value>,
    /// Attention probabilities of each block, `[batch, heads, sequence, sequence]`.
    pub(crate) attentions: Vec<Value>,
}

/// The pooled rows `[batch, hidden]` of the last block over `x`, whose rows lie as `rows` says. `mask` is added to the scores and broadcasts to
/// `[batch, heads, sequence, sequence]`.
pub(crate) fn encode_pooled(
    g: &mut GraphBuilder,
    tower: &str,
    config: &TransformerConfig,
    rows: &Rows,
    x: Value,
    mask: Option<&Value>,
    pool: &Pool,
) -> Result<Value, ExportError> {
    let last = config.num_hidden_layers - 1;
    let mut x = x;
    for layer in 0..last {
        (x, _) = block(g, &format!("{tower}.encoder.layers.{layer}"), config, rows, &x, mask, None)?;
    }
    let (pooled, _) =
        block(g, &format!("{tower}.encoder.layers.{last}"), config, rows, &x, pool.mask.as_ref(), Some(pool))?;
    Ok(pooled)
}

/// All blocks over `x` at every position, with everything in between.
pub(crate) fn encode_all(
    g: &mut GraphBuilder,
    tower: &str,
    config: &TransformerConfig,
    rows: &Rows,
    x: Value,
    mask: Option<&Value>,
) -> Result<Encoded, ExportError> {
    let mut encoded = Encoded { hidden_states: vec![x.clone()], attentions: Vec::new() };
    let mut x = x;
    for layer in 0..config.num_hidden_layers {
        let attention;
        (x, attention) = block(g, &format!("{tower}.encoder.layers.{layer}"), config, rows, &x, mask, None)?;
        encoded.hidden_states.push(x.clone());
        encoded.attentions.extend(attention);
    }
    Ok(encoded)
}

/// `CLIPEncoderLayer.forward`, for all rows or for the pooled ones: the hidden states and, where there are such, the attention probabilities.
fn block(
    g: &mut GraphBuilder,
    name: &str,
    config: &TransformerConfig,
    rows: &Rows,
    x: &Value,
    mask: Option<&Value>,
    pool: Option<&Pool>,
) -> Result<(Value, Option<Value>), ExportError> {
    let hidden = config.hidden_size;
    g.scope(name);
    let normed = |g: &mut GraphBuilder, part: &str, x: &Value| {
        g.normed(&format!("{name}.{part}"), x, hidden, config.layer_norm_eps)
    };
    let states = normed(g, "layer_norm1", x)?;
    let (residual, queries) = match pool {
        None => (x.clone(), None),
        Some(pool) => {
            let residual = (pool.rows)(g, x);
            let queries = match &states {
                Operand::Floats(states) => Operand::Floats((pool.rows)(g, states)),
                // Bytes and their scales would be two more things to pool.
                Operand::Bytes(_) => normed(g, "layer_norm1", &residual)?,
            };
            (residual, Some(queries))
        }
    };
    let attention = Attention { config, layout: rows.layout(), mask };
    let (context, probabilities) = attention.of(g, &format!("{name}.self_attn"), &states, queries.as_ref())?;
    let context = g.operand(context);
    let x = g.linear_onto(&residual, &format!("{name}.self_attn.out_proj"), &context, [hidden, hidden])?;

    let states = normed(g, "layer_norm2", &x)?;
    Ok((g.mlp_onto(&x, &format!("{name}.mlp"), &states, config)?, probabilities))
}

/// `CLIPAttention` but for its last projection.
struct Attention<'a> {
    config: &'a TransformerConfig,
    layout: Layout<'a>,
    mask: Option<&'a Value>,
}

impl Attention<'_> {
    /// `softmax(q k^T / sqrt(head) + mask) v`, `[rows, hidden]`, and where they are written down the probabilities. The division is in the
    /// query's weights. `queries` `[batch, hidden]` asks for one row per input, else every row of `x` asks.
    fn of(
        &self,
        g: &mut GraphBuilder,
        name: &str,
        x: &Operand,
        queries: Option<&Operand>,
    ) -> Result<(Value, Option<Value>), ExportError> {
        let (hidden, sizes) = (self.config.hidden_size, heads(self.config));
        let scale = (sizes[1] as f64).powf(-0.5) as f32;
        let project = |g: &mut GraphBuilder, part: &str, of: &Operand, scale: f32| {
            g.linear(&format!("{name}.{part}_proj"), of, [hidden, hidden], scale)
        };
        let query = project(g, "q", queries.unwrap_or(x), scale)?;
        match (self.layout, self.mask, queries, g.precision()) {
            (Layout::Packed(positions), Some(mask), None, Precision::Int8) => {
                let states = [query, project(g, "k", x, 1.0)?, project(g, "v", x, 1.0)?];
                Ok((attend_texts(g, &states, positions, mask, sizes), None))
            }
            _ => {
                let query = match queries {
                    Some(_) => g.reshape(&query, &[-1, 1, sizes[0] as i64, sizes[1] as i64]),
                    None => self.layout.queries(g, &query, sizes),
                };
                let query = g.transpose(&query, &[0, 2, 1, 3]);
                let key = project(g, "k", x, 1.0)?;
                let key = keys(g, &key, self.layout, sizes);
                let value = project(g, "v", x, 1.0)?;
                let value = values(g, &value, self.layout, sizes);
                let (context, probabilities) = attend(g, [&query, &key, &value], self.mask);
                let context = match queries {
                    Some(_) => g.reshape(&context, &[-1, hidden as i64]),
                    None => self.layout.join(g, &context, hidden),
                };
                Ok((context, Some(probabilities)))
            }
        }
    }
}

/// Rows `[rows, hidden]` as keys, `[batch, heads, head, keys]`.
fn keys(g: &mut GraphBuilder, rows: &Value, layout: Layout, sizes: [usize; 2]) -> Value {
    let keys = layout.keys(g, rows, sizes);
    g.transpose(&keys, &[0, 2, 3, 1])
}

/// Rows `[rows, hidden]` as values, `[batch, heads, keys, head]`.
fn values(g: &mut GraphBuilder, rows: &Value, layout: Layout, sizes: [usize; 2]) -> Value {
    let values = layout.keys(g, rows, sizes);
    g.transpose(&values, &[0, 2, 1, 3])
}

/// Queries `[batch, heads, sequence, head]`, [`keys`] and [`values`] to `[batch, sequence, heads, head]` and the probabilities.
fn attend(g: &mut GraphBuilder, [query, key, value]: [&Value; 3], mask: Option<&Value>) -> (Value, Value) {
    let mut scores = g.op("MatMul", [query, key]);
    if let Some(mask) = mask {
        scores = g.op("Add", [&scores, mask]);
    }
    let probabilities = g.op("Softmax", [&scores]);
    let context = g.op("MatMul", [&probabilities, value]);
    (g.transpose(&context, &[0, 2, 1, 3]), probabilities)
}

/// [`RowOperator::CausalAttention`] of queries, keys and values `[rows, hidden]`. As a function it is what others have as nodes; as a kernel it knows
/// each text by its length, without padding, and is most of what a run of short texts gains.
fn attend_texts(
    g: &mut GraphBuilder,
    states: &[Value; 3],
    positions: &Positions,
    mask: &Value,
    sizes: [usize; 2],
) -> Value {
    let [heads, head] = sizes;
    g.define(RowOperator::CausalAttention, &[HEADS], |g| {
        let states = ["queries", "keys", "values"].map(Value::named);
        let (positions, mask) = (Positions::named(), Value::named("mask"));
        let layout = Layout::Packed(&positions);
        let query = layout.queries(g, &states[0], sizes);
        let query = g.transpose(&query, &[0, 2, 1, 3]);
        let (key, value) = (keys(g, &states[1], layout, sizes), values(g, &states[2], layout, sizes));
        let (context, _) = attend(g, [&query, &key, &value], Some(&mask));
        let context = layout.join(g, &context, heads * head);
        let inputs = states.into_iter().chain(positions.inputs().map(Value::clone)).chain([mask]);
        Function { inputs: inputs.collect(), outputs: vec![context] }
    });
    let ([query, key, value], [row_of, row_of_padded, position_of]) = (states, positions.inputs());
    let inputs = [query, key, value, row_of, row_of_padded, position_of, mask];
    let [context] = g.call(RowOperator::CausalAttention, inputs, vec![AttributeProto::int(HEADS, heads as i64)]);
    context
}

/// How many heads, and the size of each.
pub(crate) fn heads(config: &TransformerConfig) -> [usize; 2] {
    [config.num_attention_heads, config.hidden_size / config.num_attention_heads]
}
