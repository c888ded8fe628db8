//! int8: the linear layers of the encoder blocks as products of 8-bit integers.
//!
//! Weights are S8, one scale per output, symmetric; activations U8 around a zero point of 128, one scale per **row**,
//! measured while the graph runs. So a row's result depends on no other row: an embedding is the same bits alone and in any
//! batch. The usual dynamic form (`DynamicQuantizeLinear` + `MatMulInteger`, one scale for the whole batch) is 8 % faster and
//! gives up exactly that; numbers in `docs/export.md`. The patch embedding's activations are bytes as they come. Everything else
//! (token embeddings, norms, attention scores, the projection) stays f32. Owns the arithmetic of weights; `linear` has it as
//! ONNX nodes, and decides which layers use it.
//!
//! OpenVINO takes weights alone in 8 bits and quantises activations itself, in groups within a row
//! ([`activation_group`]): no row is measured by another, and in kernels that do the rest of a layer on the way.

use crate::model::{clip_config::TransformerConfig, graph_info::LEAST_GROUP, row_operators::LIMIT};

/// The zero point of activations.
pub(crate) const MIDDLE: f32 = 128.0;

/// Groups of activations that OpenVINO is asked for, best first. Larger ones are faster and less exact, up to a point: of a
/// ViT-B/32's images, 384 values against 128 are 1.06 times as fast, 768 no faster than that (`docs/precision.md`).
const GROUPS: [usize; 4] = [512, 384, 256, LEAST_GROUP];

/// How many values of a row OpenVINO is to quantise with one scale, for a tower of `transformer` and layers whose inputs are of
/// `others`, where those are [grouped](is_grouped): of [`GROUPS`] the first that divides all.
pub(crate) fn activation_group(transformer: &TransformerConfig, others: &[usize]) -> usize {
    let others = others.iter().copied().filter(|&input| is_grouped(input));
    let inputs: Vec<usize> = others.chain([transformer.hidden_size, transformer.intermediate_size]).collect();
    GROUPS.into_iter().find(|group| inputs.iter().all(|input| input % group == 0)).unwrap_or(LEAST_GROUP)
}

/// Whether a layer of `input` values is computed in groups: OpenVINO fails on one that is not of whole ones.
pub(crate) fn is_grouped(input: usize) -> bool {
    input.is_multiple_of(LEAST_GROUP)
}

/// The scale of each of the `outputs` rows of `matrix` `[outputs, inputs]`.
pub(crate) fn scales(matrix: &[f32], outputs: usize) -> Vec<f32> {
    let largest = |row: &[f32]| row.iter().fold(f32::MIN_POSITIVE, |max, w| max.max(w.abs()));
    matrix.chunks_exact(matrix.len() / outputs).map(|row| largest(row) / LIMIT).collect()
}

/// `matrix` `[outputs, inputs]` in steps of its rows' [`scales`]: whole numbers from -127 to 127.
pub(crate) fn quantized(matrix: &[f32], outputs: usize) -> Vec<f32> {
    let rows = matrix.chunks_exact(matrix.len() / outputs).zip(scales(matrix, outputs));
    rows.flat_map(|(row, scale)| row.iter().map(move |w| (w / scale).round().clamp(-LIMIT, LIMIT))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_use_the_whole_range_and_come_back_within_half_a_step() {
        let matrix = [0.5, -1.0, 0.0, -100.0, 3.0, 7.7];
        let scales = scales(&matrix, 2);
        let steps = quantized(&matrix, 2);
        assert_eq!((steps[1], steps[3]), (-127.0, -127.0));
        for (i, (w, q)) in matrix.iter().zip(&steps).enumerate() {
            assert!((w - q * scales[i / 3]).abs() <= scales[i / 3] / 2.0 + 1e-6);
        }
    }

    #[test]
    fn a_group_divides_every_layer_that_has_groups() {
        let group = |hidden_size, intermediate_size, others: &[usize]| {
            let json = serde_json::json!({
                "hidden_size": hidden_size, "intermediate_size": intermediate_size, "num_attention_heads": 16
            });
            let config = serde_json::json!({"projection_dim": 8, "vision_config": json}).to_string();
            let config = crate::model::clip_config::ClipConfig::from_json(&config).unwrap();
            activation_group(&config.vision.unwrap().tower.transformer, others)
        };
        assert_eq!(group(768, 3072, &[3072]), 384, "ViT-B/32");
        assert_eq!(group(1024, 4096, &[588]), 512, "ViT-L/14: its patches are not in groups");
        assert_eq!(group(1280, 5120, &[]), 256, "ViT-H/14");
        assert_eq!(group(1024, 4096, &[640]), 128);
    }

    #[test]
    fn a_row_of_zeros_stays_zero() {
        assert_eq!(quantized(&[0.0, 0.0], 1), [0.0, 0.0]);
    }
}
