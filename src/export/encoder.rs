//! The pre-norm transformer blocks that both towers share: `CLIPEncoder` of `transformers`, as ONNX nodes.
//!
//! Owns attention, the MLP and the residual stream. Does not own what goes in (embeddings) nor what is made of the result
//! (pooling, projection). Hidden states are `[rows, hidden]` throughout: see [`Rows`].
//!
//! Standard operators only: ONNX Runtime's fused `Attention`, `MultiHeadAttention` and `SkipLayerNormalization` were measured
//! and are not faster on its CPU provider (`docs/export.md`), and other providers know the standard ones best.

use super::{
    activation::activate,
    error::ExportError,
    graph::{GraphBuilder, Value},
    rows::Rows,
};
use crate::model::clip_config::TransformerConfig;

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
        encoded.attentions.push(attention);
    }
    Ok(encoded)
}

/// `CLIPEncoderLayer.forward`, for all rows or for the pooled ones: the hidden states and the attention probabilities.
fn block(
    g: &mut GraphBuilder,
    name: &str,
    config: &TransformerConfig,
    rows: &Rows,
    x: &Value,
    mask: Option<&Value>,
    pool: Option<&Pool>,
) -> Result<(Value, Value), ExportError> {
    let hidden = config.hidden_size;
    g.scope(name);
    let normed = g.layer_norm(&format!("{name}.layer_norm1"), x, hidden, config.layer_norm_eps)?;
    let (residual, queries) = match pool {
        Some(pool) => ((pool.rows)(g, x), Some((pool.rows)(g, &normed))),
        None => (x.clone(), None),
    };
    let attention = Attention { config, rows, mask };
    let (attended, probabilities) = attention.over(g, &format!("{name}.self_attn"), &normed, queries.as_ref())?;
    let x = g.op("Add", [&residual, &attended]);

    let normed = g.layer_norm(&format!("{name}.layer_norm2"), &x, hidden, config.layer_norm_eps)?;
    let wide = g.linear(&format!("{name}.mlp.fc1"), &normed, [config.intermediate_size, hidden], 1.0)?;
    let active = activate(g, config.hidden_act, &wide);
    let narrow = g.linear(&format!("{name}.mlp.fc2"), &active, [hidden, config.intermediate_size], 1.0)?;
    Ok((g.op("Add", [&x, &narrow]), probabilities))
}

/// `CLIPAttention`.
struct Attention<'a> {
    config: &'a TransformerConfig,
    rows: &'a Rows,
    mask: Option<&'a Value>,
}

impl Attention<'_> {
    /// `CLIPAttention.forward`: `softmax(q k^T / sqrt(head) + mask) v`, projected, and the probabilities. The division is in the
    /// query's weights. `queries` `[batch, hidden]` asks for one row per input, else every row of `x` asks.
    fn over(
        &self,
        g: &mut GraphBuilder,
        name: &str,
        x: &Value,
        queries: Option<&Value>,
    ) -> Result<(Value, Value), ExportError> {
        let (hidden, sizes) = (self.config.hidden_size, heads(self.config));
        let [heads, head] = sizes;
        let scale = (head as f64).powf(-0.5) as f32;
        let project = |g: &mut GraphBuilder, part: &str, of: &Value, scale: f32| {
            g.linear(&format!("{name}.{part}_proj"), of, [hidden, hidden], scale)
        };
        let query = project(g, "q", queries.unwrap_or(x), scale)?;
        let query = match queries {
            Some(_) => g.reshape(&query, &[-1, 1, heads as i64, head as i64]),
            None => self.rows.queries(g, &query, sizes),
        };
        let query = g.transpose(&query, &[0, 2, 1, 3]);
        let key = project(g, "k", x, 1.0)?;
        let key = self.rows.keys(g, &key, sizes);
        let key = g.transpose(&key, &[0, 2, 3, 1]);
        let value = project(g, "v", x, 1.0)?;
        let value = self.rows.keys(g, &value, sizes);
        let value = g.transpose(&value, &[0, 2, 1, 3]);

        let mut scores = g.op("MatMul", [&query, &key]);
        if let Some(mask) = self.mask {
            scores = g.op("Add", [&scores, mask]);
        }
        let probabilities = g.op("Softmax", [&scores]);
        let context = g.op("MatMul", [&probabilities, &value]);
        let merged = g.transpose(&context, &[0, 2, 1, 3]);
        let joined = match queries {
            Some(_) => g.reshape(&merged, &[-1, hidden as i64]),
            None => self.rows.join(g, &merged, hidden),
        };
        let projected = g.linear(&format!("{name}.out_proj"), &joined, [hidden, hidden], 1.0)?;
        Ok((projected, probabilities))
    }
}

/// How many heads, and the size of each.
pub(crate) fn heads(config: &TransformerConfig) -> [usize; 2] {
    [config.num_attention_heads, config.hidden_size / config.num_attention_heads]
}
