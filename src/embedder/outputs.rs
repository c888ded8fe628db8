//! The other outputs of the reference classes, for a whole request: `pooler_output`, `last_hidden_state`, `hidden_states`,
//! `attentions` of images and of texts.
//!
//! Owns how large a request's outputs may be, padding its texts to one length, and stacking the answers of its items. The items
//! themselves go the way of embeddings (`Lane`), as jobs that ask for more.
//!
//! Invariants: what the outputs take is known and reserved before an item is decoded or run; the reservation lives as long as
//! the [`Outputs`].

use std::time::Instant;

use bytes::Bytes;
use ndarray::{Array2, ArrayD, Axis, stack};

use super::{EmbedError, Embedder, Lane, Modality, Terms, failing::Failing, join};
use crate::{
    batch::{Encoded, Ticket, Timings, Work},
    budget::Reservation,
    encoder::{Output, OutputSet, Tokens, TowerOutputs},
    telemetry::Reject,
};

/// What `transformers` answers for `return_dict=True`, over the items of one request.
#[derive(Debug)]
pub struct Outputs {
    /// `n x dim`, as the projection gives them, where the tower has one.
    pub embeddings: Option<Array2<f32>>,
    /// What was asked for, in the order of [`Output::ALL`], with the axis of the items first; what comes per block has the
    /// blocks before it.
    pub arrays: Vec<(Output, ArrayD<f32>)>,
    /// For texts, `n x positions`: 1 for what is attended to, 0 for padding.
    pub attention_mask: Option<Array2<i64>>,
    /// The longest time of each stage over the items.
    pub timings: Timings,
    /// The memory of all this, for as long as any form of it is held.
    pub reservation: Reservation,
}

/// How the texts of one request become one length, as `CLIPTokenizer` is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Padding {
    /// To which length.
    pub to: PadTo,
    /// Whether the states of padding attend to padding (and are attended to by it): `attention_mask=None` in `transformers`,
    /// which is how diffusion pipelines call the text encoder.
    pub attended: bool,
}

/// `padding` of `CLIPTokenizer`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, schemars::JsonSchema, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PadTo {
    /// To the longest text of the request.
    #[default]
    Longest,
    /// To the model's context length.
    MaxLength,
}

impl Embedder {
    /// The `outputs` of pictures, given as the bytes of their files.
    ///
    /// # Errors
    /// [`EmbedError`]; a picture that cannot be decoded is named by its index.
    pub async fn image_outputs(
        &self,
        images: Vec<Bytes>,
        outputs: OutputSet,
        terms: Terms,
    ) -> Result<Outputs, EmbedError> {
        self.picture_outputs(&self.images()?.lane, images, outputs, terms).await
    }

    /// The `outputs` of the pictures of either lane.
    pub(super) async fn picture_outputs<T>(
        &self,
        lane: &Lane<T>,
        pictures: Vec<T>,
        outputs: OutputSet,
        terms: Terms,
    ) -> Result<Outputs, EmbedError> {
        let shape = self.output_shape(Modality::Image)?;
        let bytes = shape.bytes(outputs, shape.max_positions).saturating_mul(pictures.len());
        let reservation = self.reserve(bytes)?;
        let works: Vec<Work> = pictures.iter().map(lane.work).collect();
        let permits = lane.admit(&works, &terms, &self.metrics)?;
        let tickets = lane.submit(pictures, outputs, permits, terms.deadline);
        answered(tickets, outputs, None, reservation, terms.deadline).await
    }

    /// The `outputs` of texts, padded to one length; one that is longer than the context length is cut when `truncate`, else
    /// refused.
    ///
    /// # Errors
    /// [`EmbedError`]; a text that is over a limit is named by its index.
    pub async fn text_outputs<S: AsRef<str>>(
        &self,
        texts: &[S],
        truncate: bool,
        padding: Padding,
        outputs: OutputSet,
        terms: Terms,
    ) -> Result<Outputs, EmbedError> {
        let (lane, tokenizer) = (&self.texts()?.lane, &self.texts()?.tokenizer);
        let shape = self.output_shape(Modality::Text)?;
        let numbered: Vec<(usize, &str)> = texts.iter().map(AsRef::as_ref).enumerate().collect();
        let permits = lane.admit(&self.works(&numbered)?, &terms, &self.metrics)?;
        let (tokenized, preprocess) = self.tokenize(&numbered, truncate, &terms, &Failing::Request).await?;
        // All of them: one that fails has failed the request.
        let tokenized = self.counted(tokenized.into_iter().flatten().collect());
        let positions = match padding.to {
            PadTo::Longest => tokenized.iter().map(|tokens| tokens.ids().len()).max().unwrap_or(0),
            PadTo::MaxLength => tokenizer.context_length(),
        };
        let reservation = self.reserve(shape.bytes(outputs, positions).saturating_mul(texts.len()))?;
        let mut attention_mask = Array2::zeros((texts.len(), positions));
        for (mut mask, tokens) in attention_mask.rows_mut().into_iter().zip(&tokenized) {
            mask.iter_mut().take(tokens.ids().len()).for_each(|attended| *attended = 1);
        }
        let pad = |tokens: Tokens| tokens.padded(positions, tokenizer.pad_id(), padding.attended);
        let tickets = lane.submit(tokenized.into_iter().map(pad), outputs, permits, terms.deadline);
        let mut answered = answered(tickets, outputs, Some(attention_mask), reservation, terms.deadline).await?;
        answered.timings.preprocess = preprocess;
        Ok(answered)
    }

    pub(super) fn reserve(&self, bytes: usize) -> Result<Reservation, EmbedError> {
        if bytes > self.max_output_bytes {
            return Err(EmbedError::OutputsTooLarge { bytes, limit: self.max_output_bytes });
        }
        self.output_budget.reserve(bytes).ok_or_else(|| {
            self.metrics.reject(Reject::OutputBytes);
            // Nothing measures how fast clients take their answers; one second is when to look again.
            let wait = std::time::Duration::from_secs(1);
            EmbedError::Overloaded { reject: Reject::OutputBytes, wait }
        })
    }
}

/// The outputs behind `tickets`, stacked.
pub(super) async fn answered(
    tickets: Vec<Ticket>,
    outputs: OutputSet,
    attention_mask: Option<Array2<i64>>,
    reservation: Reservation,
    deadline: Instant,
) -> Result<Outputs, EmbedError> {
    let (items, timings) = answers(tickets, deadline).await?;
    let (embeddings, arrays) = stacked(items, outputs)?;
    Ok(Outputs { embeddings, arrays, attention_mask, timings, reservation })
}

async fn answers(tickets: Vec<Ticket>, deadline: Instant) -> Result<(Vec<TowerOutputs>, Timings), EmbedError> {
    let mut items = Vec::with_capacity(tickets.len());
    let timings = join(tickets, deadline, |_, encoded| match encoded {
        Encoded::Outputs(outputs) => {
            items.push(outputs);
            Ok(())
        }
        Encoded::Embedding(_) => Err("an embedding instead of outputs".to_owned()),
    })
    .await?;
    Ok((items, timings))
}

/// The embeddings and, one by one, the outputs of all items.
#[expect(clippy::type_complexity, reason = "two fields of `Outputs`, nowhere else together")]
fn stacked(
    mut items: Vec<TowerOutputs>,
    outputs: OutputSet,
) -> Result<(Option<Array2<f32>>, Vec<(Output, ArrayD<f32>)>), EmbedError> {
    let unequal = |error: ndarray::ShapeError| EmbedError::Internal(format!("the items' outputs differ: {error}"));
    let embeddings: Option<Vec<Vec<f32>>> = items.iter_mut().map(|item| item.embedding.take()).collect();
    let embeddings = embeddings.map(|rows| {
        let shape = (rows.len(), rows.first().map_or(0, Vec::len));
        Array2::from_shape_vec(shape, rows.concat()).map_err(unequal)
    });
    let mut arrays = Vec::new();
    // From the last to the first, so that each item's array is freed as soon as it is stacked.
    for output in outputs.iter().collect::<Vec<_>>().into_iter().rev() {
        let parts: Option<Vec<ArrayD<f32>>> = items.iter_mut().map(|item| item.arrays.pop()).collect();
        let parts = parts.ok_or_else(|| EmbedError::Internal(format!("{} is missing", output.name())))?;
        let views: Vec<_> = parts.iter().map(|part| part.view()).collect();
        let axis = Axis(usize::from(output.is_per_block()));
        arrays.push((output, stack(axis, &views).map_err(unequal)?));
    }
    arrays.reverse();
    Ok((embeddings.transpose()?, arrays))
}

#[cfg(test)]
mod tests {
    use ndarray::{Array, IxDyn};

    use super::*;

    #[test]
    fn items_are_stacked_behind_the_blocks() {
        let item = |base: f32| TowerOutputs {
            embedding: Some(vec![base, base]),
            arrays: [(vec![3], 3), (vec![2, 3, 4], 24)]
                .map(|(shape, count)| {
                    let values = Array::from_iter((0..count).map(|i| base + i as f32));
                    values.into_shape_with_order(IxDyn(&shape)).expect("as many")
                })
                .into(),
        };
        let outputs = [Output::PoolerOutput, Output::HiddenStates].into_iter().collect();
        let (embeddings, arrays) = stacked(vec![item(0.0), item(100.0)], outputs).expect("equal shapes");
        assert_eq!(embeddings.expect("both"), ndarray::array![[0.0, 0.0], [100.0, 100.0]]);
        let shapes: Vec<_> = arrays.iter().map(|(output, array)| (*output, array.shape())).collect();
        assert_eq!(shapes, [(Output::PoolerOutput, &[2, 3][..]), (Output::HiddenStates, &[2, 2, 3, 4])]);
        assert_eq!(arrays[1].1[[1, 1, 0, 0]], 112.0, "second block of the second item");
        let missing = stacked(vec![TowerOutputs { embedding: None, arrays: Vec::new() }], outputs);
        assert!(matches!(missing, Err(EmbedError::Internal(text)) if text.contains("hidden_states")));
    }
}
