//! The vision graph: `pixel_values` `u8` `[batch, image_size, image_size, channels]` to `image_embeds` `[batch, projection]`.
//!
//! Owns `CLIPVisionTransformer` and the projection. The picture comes as the preprocessing leaves it, height x width x channel
//! in bytes: rescale, mean and standard deviation are in the patch weights. That is exact, not an approximation: the patch
//! convolution has no padding, so an affine map of its input is one of its weights and a bias
//! (`w * (s u + t) = (w s) * u + w t`), and the bias joins the position embedding. Both are computed in f64. Where bytes are
//! counted from another zero `z`, that is in the bias too (`(w s) * (u - z) + w (s z + t)`).

use super::{
    encoder::{Pool, encode_all, encode_pooled, heads},
    error::ExportError,
    graph::{Dim, GraphBuilder, Value},
    normalization::PixelNormalization,
    outputs,
    proto::{AttributeProto, DataType},
    rows::Rows,
};
use crate::model::clip_config::{Projected, TransformerConfig, VisionConfig};

/// The graph of `image_embeds` alone.
pub(crate) fn embedding(
    g: &mut GraphBuilder,
    config: &Projected<VisionConfig>,
    normalization: &PixelNormalization,
) -> Result<(), ExportError> {
    let tower = &config.tower;
    let (rows, x) = begin(g, tower, normalization)?;
    let class_token = |g: &mut GraphBuilder, x: &Value| class_token(g, tower, x);
    let pool = Pool { rows: &class_token, mask: None };
    let pooled = encode_pooled(g, "vision_model", &tower.transformer, &rows, x, None, &pool)?;
    let pooled = post_layernorm(g, tower, &pooled)?;
    project(g, config, &pooled)
}

/// The graph of `CLIPVisionModelOutput`: everything, `image_embeds` only where `projected` says that there is a projection.
pub(crate) fn outputs(
    g: &mut GraphBuilder,
    config: &Projected<VisionConfig>,
    normalization: &PixelNormalization,
    projected: bool,
) -> Result<(), ExportError> {
    let tower = &config.tower;
    let (rows, x) = begin(g, tower, normalization)?;
    let encoded = encode_all(g, "vision_model", &tower.transformer, &rows, x, None)?;
    let last = encoded.hidden_states[tower.transformer.num_hidden_layers].clone();
    let pooled = class_token(g, tower, &last);
    let pooled = post_layernorm(g, tower, &pooled)?;
    let states = g.ints(&[-1, tower.num_positions() as i64, tower.transformer.hidden_size as i64]);
    let sizes = [tower.transformer.hidden_size, tower.transformer.num_attention_heads];
    outputs::declare(g, &encoded, &last, &states, &pooled, Dim::Fixed(tower.num_positions()), sizes);
    if projected { project(g, config, &pooled) } else { Ok(()) }
}

/// From the input to what the first block gets: its rows, and how they lie.
fn begin(
    g: &mut GraphBuilder,
    config: &VisionConfig,
    normalization: &PixelNormalization,
) -> Result<(Rows, Value), ExportError> {
    let side = Dim::Fixed(config.image_size);
    let dims = [Dim::Named("batch"), side, side, Dim::Fixed(config.num_channels)];
    let pixel_values = g.input("pixel_values", DataType::Uint8, &dims);
    g.scope("vision_model.embeddings");
    let x = embed(g, config, normalization, &pixel_values)?;
    let TransformerConfig { hidden_size, layer_norm_eps, .. } = config.transformer;
    let rows = g.reshape(&x, &[-1, hidden_size as i64]);
    let x = g.layer_norm("vision_model.pre_layrnorm", &rows, hidden_size, layer_norm_eps)?;
    let lead = g.ints(&[-1, config.num_positions() as i64]);
    Ok((Rows::dense(g, &lead, heads(&config.transformer)), x))
}

/// Rows to those of the class tokens, `[batch, hidden]`.
fn class_token(g: &mut GraphBuilder, config: &VisionConfig, x: &Value) -> Value {
    let positions = g.reshape(x, &[-1, config.num_positions() as i64, config.transformer.hidden_size as i64]);
    let first = g.int(0);
    g.node("Gather", [&positions, &first], vec![AttributeProto::int("axis", 1)])
}

/// `pooler_output` `[batch, hidden]` from the class token's last state, of the same shape.
fn post_layernorm(g: &mut GraphBuilder, config: &VisionConfig, class_token: &Value) -> Result<Value, ExportError> {
    let TransformerConfig { hidden_size, layer_norm_eps, .. } = config.transformer;
    g.scope("vision_model");
    g.layer_norm("vision_model.post_layernorm", class_token, hidden_size, layer_norm_eps)
}

fn project(g: &mut GraphBuilder, config: &Projected<VisionConfig>, pooled: &Value) -> Result<(), ExportError> {
    let embeds =
        g.projection("visual_projection", pooled, [config.projection_dim, config.tower.transformer.hidden_size])?;
    g.output("image_embeds", &embeds, &[Dim::Named("batch"), Dim::Fixed(config.projection_dim)]);
    Ok(())
}

/// `CLIPVisionEmbeddings.forward`: class token, patches and positions, `[batch, 1 + grid^2, hidden]`.
///
/// The convolution's stride is its kernel, so it is a matrix product over patches. Cutting the picture into patches as bytes
/// moves a quarter of what a transposition to f32 NCHW would.
fn embed(
    g: &mut GraphBuilder,
    config: &VisionConfig,
    normalization: &PixelNormalization,
    pixel_values: &Value,
) -> Result<Value, ExportError> {
    let (hidden, patch, grid) = (config.transformer.hidden_size, config.patch_size, config.grid());
    let (channels, patches) = (config.num_channels, grid * grid);
    let whole = if config.image_size == grid * patch {
        pixel_values.clone()
    } else {
        let (starts, ends, axes) = (g.ints(&[0, 0]), g.ints(&[(grid * patch) as i64; 2]), g.ints(&[1, 2]));
        g.op("Slice", [pixel_values, &starts, &ends, &axes])
    };
    let [grid, side, depth] = [grid, patch, channels].map(|n| n as i64);
    let cut = g.reshape(&whole, &[0, grid, side, grid, side, depth]);
    let cut = g.transpose(&cut, &[0, 1, 3, 2, 4, 5]);
    let cut = g.reshape(&cut, &[-1, side * side * depth]);

    let source = g.source();
    let affine = normalization.affine();
    let read_kernel = || source.read(PATCH_WEIGHT, &[hidden, channels, patch, patch]);
    let per_patch = bytes_per_patch(config);
    let (product, zero) = g.byte_product(PATCH_EMBEDDING, &cut, [hidden, per_patch], &|| {
        let kernel = read_kernel()?;
        let mut out = vec![0.0; kernel.len()];
        for (index, &w) in kernel.iter().enumerate() {
            let within = index % per_patch;
            let (channel, pixel) = (within / (patch * patch), within % (patch * patch));
            out[index - within + pixel * channels + channel] = (f64::from(w) * affine[channel].0) as f32;
        }
        Ok(out)
    })?;
    let read_positions = || source.read(POSITION_WEIGHT, &[patches + 1, hidden]);
    let patch_positions =
        g.derived("vision_model.embeddings.patch_positions", DataType::Float, &[patches, hidden], || {
            let kernel = read_kernel()?;
            let bias: Vec<f64> = kernel
                .chunks_exact(per_patch)
                .map(|unit| {
                    let sums = unit.chunks_exact(patch * patch).map(|c| c.iter().copied().map(f64::from).sum::<f64>());
                    sums.zip(&affine).map(|(sum, (scale, shift))| sum * (scale * f64::from(zero) + shift)).sum()
                })
                .collect();
            let positions = read_positions()?;
            Ok(positions
                .iter()
                .enumerate()
                .skip(hidden)
                .map(|(i, &p)| (f64::from(p) + bias[i % hidden]) as f32)
                .collect())
        })?;
    let class_row = g.derived("vision_model.embeddings.class_position", DataType::Float, &[1, 1, hidden], || {
        let class = source.read("vision_model.embeddings.class_embedding", &[hidden])?;
        Ok(class.iter().zip(read_positions()?).map(|(c, p)| c + p).collect())
    })?;

    let product = g.reshape(&product, &[-1, patches as i64, hidden as i64]);
    let patches = g.op("Add", [&product, &patch_positions]);
    let bounds = vec![AttributeProto::int("start", 0), AttributeProto::int("end", 1)];
    let batch = g.node("Shape", [pixel_values], bounds);
    let ones = g.ints(&[1, 1]);
    let shape = g.node("Concat", [&batch, &ones], vec![AttributeProto::int("axis", 0)]);
    let class_rows = g.op("Expand", [&class_row, &shape]);
    let embeddings = g.node("Concat", [&class_rows, &patches], vec![AttributeProto::int("axis", 1)]);
    // Up to here f32 in every precision: bytes times weights are far from centred until the positions' part takes the mean off.
    Ok(if g.float() == DataType::Float { embeddings } else { g.cast(&embeddings, g.float()) })
}

/// How many values the patch embedding multiplies for each patch.
pub(crate) fn bytes_per_patch(config: &VisionConfig) -> usize {
    config.num_channels * config.patch_size * config.patch_size
}

const PATCH_EMBEDDING: &str = "vision_model.embeddings.patch_embedding";
const PATCH_WEIGHT: &str = "vision_model.embeddings.patch_embedding.weight";
const POSITION_WEIGHT: &str = "vision_model.embeddings.position_embedding.weight";
