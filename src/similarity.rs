//! Logits, probabilities and the contrastive loss, as `CLIPModel.forward` computes them. Pure `ndarray`.
//!
//! Owns the arithmetic on embeddings after the encoders: L2 normalisation, `dimensions`, `logits_per_image`, softmax, loss.
//! Knows neither HTTP nor where embeddings come from.

use ndarray::{Array2, ArrayView1, ArrayView2, ArrayViewMut1, Axis, s};

/// Scales every row to length 1. A row of zeros stays as it is.
pub fn normalize(embeddings: &mut Array2<f32>) {
    embeddings.rows_mut().into_iter().for_each(normalize_row);
}

/// Scales `row` to length 1; the sum of squares is accumulated in f64, so the order of summation does not matter.
pub fn normalize_row(mut row: ArrayViewMut1<'_, f32>) {
    let norm = norm(row.view());
    if norm > 0.0 {
        row.mapv_inplace(|value| (f64::from(value) / norm) as f32);
    }
}

/// The Euclidean norm.
pub fn norm(row: ArrayView1<'_, f32>) -> f64 {
    row.iter().map(|&value| f64::from(value) * f64::from(value)).sum::<f64>().sqrt()
}

/// Keeps the first `dimensions` columns.
///
/// # Panics
/// When there are fewer: the caller has checked the request against the model.
pub fn truncate_dimensions(embeddings: &Array2<f32>, dimensions: usize) -> Array2<f32> {
    embeddings.slice(s![.., ..dimensions]).to_owned()
}

/// `logits_per_image = logit_scale * image_embeds @ text_embeds^T` on L2-normalised rows: n x d and m x d give n x m.
pub fn logits_per_image(
    image_embeds: ArrayView2<'_, f32>,
    text_embeds: ArrayView2<'_, f32>,
    logit_scale: f32,
) -> Array2<f32> {
    let mut logits = image_embeds.dot(&text_embeds.t());
    logits *= logit_scale;
    logits
}

/// Softmax of each row (over the texts), stable for any finite input.
pub fn softmax_rows(logits: ArrayView2<'_, f32>) -> Array2<f32> {
    let mut probs = logits.to_owned();
    for mut row in probs.rows_mut() {
        let max = row.fold(f32::NEG_INFINITY, |max, &value| max.max(value));
        row.mapv_inplace(|value| (value - max).exp());
        let sum: f32 = row.sum();
        row /= sum;
    }
    probs
}

/// `CLIPModel`'s loss: the mean of the cross-entropies of rows and of columns against the diagonal. Square input.
pub fn contrastive_loss(logits_per_text: ArrayView2<'_, f32>) -> f32 {
    let cross_entropy = |logits: ArrayView2<'_, f32>| {
        let losses = logits.axis_iter(Axis(0)).enumerate().map(|(i, row)| {
            let max = row.fold(f32::NEG_INFINITY, |max, &value| max.max(value));
            let log_sum = row.iter().map(|&value| f64::from(value - max).exp()).sum::<f64>().ln() + f64::from(max);
            log_sum - f64::from(row[i])
        });
        losses.sum::<f64>() / logits.nrows() as f64
    };
    ((cross_entropy(logits_per_text) + cross_entropy(logits_per_text.t())) / 2.0) as f32
}

#[cfg(test)]
mod tests {
    use ndarray::array;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn loss_of_equal_logits_is_the_logarithm_of_their_number() {
        let loss = contrastive_loss(Array2::from_elem((4, 4), 3.0).view());
        assert!((loss - 4f32.ln()).abs() < 1e-6, "{loss}");
    }

    #[test]
    fn loss_takes_both_directions() {
        // torch: clip_loss(tensor([[2., 0.], [1., 3.]])) == 0.17339769
        let loss = contrastive_loss(array![[2.0, 0.0], [1.0, 3.0]].view());
        let rows = (f64::ln(1.0 + (-2f64).exp()) + f64::ln(1.0 + (-2f64).exp())) / 2.0;
        let columns = (f64::ln(1.0 + (-1f64).exp()) + f64::ln(1.0 + (-3f64).exp())) / 2.0;
        assert!((f64::from(loss) - f64::midpoint(rows, columns)).abs() < 1e-6, "{loss}");
    }

    #[test]
    fn logits_have_images_as_rows() {
        let logits =
            logits_per_image(array![[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]].view(), array![[1.0, 0.0]].view(), 100.0);
        assert_eq!(logits, array![[100.0], [0.0], [50.0]]);
    }

    #[test]
    fn a_row_of_zeros_stays_finite() {
        let mut zeros = Array2::zeros((1, 3));
        normalize(&mut zeros);
        assert_eq!(zeros, Array2::<f32>::zeros((1, 3)));
    }

    proptest! {
        #[test]
        fn softmax_rows_are_probabilities(rows in prop::collection::vec(-1e4f32..1e4, 1..40)) {
            let logits = Array2::from_shape_vec((1, rows.len()), rows).expect("one row");
            let probs = softmax_rows(logits.view());
            prop_assert!(probs.iter().all(|p| (0.0..=1.0).contains(p)));
            prop_assert!((probs.sum() - 1.0).abs() < 1e-5);
        }

        #[test]
        fn normalised_rows_have_length_one(row in prop::collection::vec(-1e3f32..1e3, 1..600)) {
            prop_assume!(row.iter().any(|v| v.abs() > 1e-3));
            let mut embeddings = Array2::from_shape_vec((1, row.len()), row).expect("one row");
            normalize(&mut embeddings);
            prop_assert!((norm(embeddings.row(0)) - 1.0).abs() < 1e-5);
        }
    }
}
