//! The text graph: `input_ids` `i64` `[batch, sequence]` to `text_embeds` `[batch, projection]`.
//!
//! Owns `CLIPTextTransformer` and the projection. No attention mask: attention is causal and pooling stops at the end token,
//! so what stands after it (padding of any kind) never reaches the embedding, and has no rows in the blocks. `sequence` is at
//! most the context length. The graph of all outputs is another, see [`outputs`].

use super::{
    encoder::{Pool, encode_all, encode_pooled, heads},
    error::ExportError,
    graph::{Dim, GraphBuilder, Value},
    outputs,
    proto::{AttributeProto, DataType},
    rows::{Packed, Rows, padded},
};
use crate::{
    config::Precision,
    model::clip_config::{Projected, TextConfig, TextPooling, TransformerConfig},
};

/// The graph of `text_embeds` alone.
pub(crate) fn embedding(g: &mut GraphBuilder, config: &Projected<TextConfig>) -> Result<(), ExportError> {
    let tower = &config.tower;
    let Begun { input_ids, sequence, embeddings } = begin(g, tower)?;
    let position = pooled_position(g, tower.pooling, &input_ids);
    let (rows, mask) = if is_packed(g.precision()) {
        let packed = Packed::new(g, &position, &sequence);
        let mask = causal_mask(g, tower, &sequence, packed.padded())?;
        (Rows::Packed(packed), mask)
    } else {
        (dense(g, tower, &input_ids).0, causal_mask(g, tower, &sequence, &sequence)?)
    };
    let row_mask = g.op("Gather", [&mask, &position]);
    let heads_axis = g.ints(&[1]);
    let row_mask = g.op("Unsqueeze", [&row_mask, &heads_axis]);
    let hidden = tower.transformer.hidden_size;
    let x = rows.layout().join(g, &embeddings, hidden);
    let rows_at_end = |g: &mut GraphBuilder, x: &Value| rows.at(g, x, &position, hidden);
    let pool = Pool { rows: &rows_at_end, mask: Some(row_mask) };
    let pooled = encode_pooled(g, "text_model", &tower.transformer, &rows, x, Some(&mask), &pool)?;
    let pooled = final_layer_norm(g, tower, &pooled)?;
    project(g, config, &pooled)
}

/// Whether the blocks of the graph of `text_embeds` have no rows for padding. f16 is for GPUs, where TensorRT plans for ranges of its
/// inputs' sizes: a size that depends on what is in them would stop it.
pub(crate) fn is_packed(precision: Precision) -> bool {
    precision != Precision::F16
}

/// The graph of `CLIPTextModelOutput`: everything, `text_embeds` only where `projected` says that there is a projection.
///
/// It has a second input, `attention_mask` `i64` `[batch, sequence]`: the states of padding positions, which are outputs here,
/// depend on it.
pub(crate) fn outputs(
    g: &mut GraphBuilder,
    config: &Projected<TextConfig>,
    projected: bool,
) -> Result<(), ExportError> {
    let tower = &config.tower;
    let Begun { input_ids, sequence, embeddings } = begin(g, tower)?;
    let dims = [Dim::Named("batch"), Dim::Named("sequence")];
    let attention_mask = g.input("attention_mask", DataType::Int64, &dims);
    let causal = causal_mask(g, tower, &sequence, &sequence)?;
    let mask = with_padding(g, &causal, &attention_mask);
    let (rows, lead) = dense(g, tower, &input_ids);
    let hidden = tower.transformer.hidden_size;
    let x = rows.layout().join(g, &embeddings, hidden);
    let encoded = encode_all(g, "text_model", &tower.transformer, &rows, x, Some(&mask))?;
    let last = &encoded.hidden_states[tower.transformer.num_hidden_layers];
    let last = final_layer_norm(g, tower, last)?;
    let width = g.ints(&[hidden as i64]);
    let states = g.node("Concat", [&lead, &width], vec![AttributeProto::int("axis", 0)]);
    let position = pooled_position(g, tower.pooling, &input_ids);
    let pooled = rows.at(g, &last, &position, hidden);
    let sizes = [hidden, tower.transformer.num_attention_heads];
    outputs::declare(g, &encoded, &last, &states, &pooled, Dim::Named("sequence"), sizes);
    if projected { project(g, config, &pooled) } else { Ok(()) }
}

/// What both graphs begin with.
struct Begun {
    /// `i64` `[batch, sequence]`.
    input_ids: Value,
    /// `i64` `[1]`.
    sequence: Value,
    /// `[batch, sequence, hidden]`.
    embeddings: Value,
}

fn begin(g: &mut GraphBuilder, config: &TextConfig) -> Result<Begun, ExportError> {
    let input_ids = g.input("input_ids", DataType::Int64, &[Dim::Named("batch"), Dim::Named("sequence")]);
    g.scope("text_model.embeddings");
    let bounds = vec![AttributeProto::int("start", 1), AttributeProto::int("end", 2)];
    let sequence = g.node("Shape", [&input_ids], bounds);
    let embeddings = embed(g, config, &input_ids, &sequence)?;
    Ok(Begun { input_ids, sequence, embeddings })
}

/// A row for every position, and batch and sequence as `i64` `[2]`.
fn dense(g: &mut GraphBuilder, config: &TextConfig, input_ids: &Value) -> (Rows, Value) {
    let lead = g.op("Shape", [input_ids]);
    (Rows::dense(g, &lead, heads(&config.transformer)), lead)
}

fn final_layer_norm(g: &mut GraphBuilder, config: &TextConfig, x: &Value) -> Result<Value, ExportError> {
    let TransformerConfig { hidden_size, layer_norm_eps, .. } = config.transformer;
    g.scope("text_model");
    g.layer_norm("text_model.final_layer_norm", x, hidden_size, layer_norm_eps)
}

/// `text_embeds` from the pooled state `[batch, hidden]`.
fn project(g: &mut GraphBuilder, config: &Projected<TextConfig>, pooled: &Value) -> Result<(), ExportError> {
    let hidden = config.tower.transformer.hidden_size;
    let embeds = g.projection("text_projection", pooled, [config.projection_dim, hidden])?;
    g.output("text_embeds", &embeds, &[Dim::Named("batch"), Dim::Fixed(config.projection_dim)]);
    Ok(())
}

/// `CLIPTextEmbeddings.forward`: tokens and positions, `[batch, sequence, hidden]`. `FlaxCLIPTextEmbeddings` adds them in the type of its
/// weights, and computes in f32 from there on.
fn embed(g: &mut GraphBuilder, config: &TextConfig, input_ids: &Value, length: &Value) -> Result<Value, ExportError> {
    let hidden = config.transformer.hidden_size;
    let tokens = g.weight(TOKENS, &[config.vocab_size, hidden])?;
    let tokens = g.op("Gather", [&tokens, input_ids]);
    let positions = g.weight(POSITIONS, &[config.max_position_embeddings, hidden])?;
    let (start, axis) = (g.ints(&[0]), g.ints(&[0]));
    let positions = g.op("Slice", [&positions, &start, length, &axis]);
    let sum = g.op("Add", [&tokens, &positions]);
    Ok(match g.source().rounding(&[TOKENS, POSITIONS]) {
        Some(half) => {
            let rounded = g.cast(&sum, half.data_type());
            g.cast(&rounded, g.float())
        }
        None => sum,
    })
}

const TOKENS: &str = "text_model.embeddings.token_embedding.weight";
const POSITIONS: &str = "text_model.embeddings.position_embedding.weight";

/// `[sequence, keys]`: zero where the column is not after the row, the lowest finite number elsewhere. Both are `i64` `[1]`; there
/// may be more keys than positions, up to [`padded`] of them.
fn causal_mask(
    g: &mut GraphBuilder,
    config: &TextConfig,
    sequence: &Value,
    keys: &Value,
) -> Result<Value, ExportError> {
    let lowest = g.float().lowest();
    let context = config.max_position_embeddings;
    let width = padded(context, g.precision());
    let mask = g.derived("text_model.causal_mask", g.float(), &[context, width], || {
        Ok((0..context * width).map(|i| if i % width > i / width { lowest } else { 0.0 }).collect())
    })?;
    let ends = g.node("Concat", [sequence, keys], vec![AttributeProto::int("axis", 0)]);
    let (starts, axes) = (g.ints(&[0, 0]), g.ints(&[0, 1]));
    Ok(g.op("Slice", [&mask, &starts, &ends, &axes]))
}

/// The causal mask with the positions shut out that `attention_mask` has zero for: `[batch, 1, sequence, sequence]`. The lower
/// of the two, not their sum, which would overflow.
fn with_padding(g: &mut GraphBuilder, causal: &Value, attention_mask: &Value) -> Value {
    let none = g.ints(&[0]);
    let shut = g.op("Equal", [attention_mask, &none]);
    let (open, lowest) = (g.scalar(0.0), g.scalar(g.float().lowest()));
    let padding = g.op("Where", [&shut, &lowest, &open]);
    let axes = g.ints(&[1, 2]);
    let padding = g.op("Unsqueeze", [&padding, &axes]);
    g.op("Min", [causal, &padding])
}

/// The position whose state is pooled, `[batch, 1]`. `ArgMax` takes the first of equals; it runs on f32, which holds every
/// token id exactly and has a kernel in every execution provider.
fn pooled_position(g: &mut GraphBuilder, pooling: TextPooling, input_ids: &Value) -> Value {
    let ranked = match pooling {
        TextPooling::HighestId => input_ids.clone(),
        TextPooling::FirstOf(id) => {
            let id = g.ints(&[id]);
            g.op("Equal", [input_ids, &id])
        }
    };
    let ranked = g.cast(&ranked, DataType::Float);
    g.node("ArgMax", [&ranked], vec![AttributeProto::int("axis", 1)])
}
