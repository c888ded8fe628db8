//! The tensors of the reference's own `forward` in place of what its processor makes them of: `input_ids` with their mask, `pixel_values`.
//!
//! Owns what of them can be taken, and their way into the lanes. Texts go the way of all texts once they are ids; pictures that come as
//! floats have a lane of their own, since our graphs take bytes.
//!
//! Invariant: what reaches a lane has the model's sizes and values that it can compute with, so that no batch fails of one item.

use ndarray::Array2;

use super::{
    EmbedError, Embedded, Embedder, Lack, Modality, Outputs, Pixels, Terms, failing::Failing, items::Request,
    outputs::answered,
};
use crate::{
    batch::Work,
    encoder::{InputError, InputErrorKind, OutputSet, PixelValues, Tokens},
};

/// The largest pixel value that is taken, of either sign. What a processor makes of a picture is between -3 and 3, or 0 and 255 if it does
/// not normalise; far beyond that the squares of a layer norm are no numbers any more, in f16 first.
const LARGEST_PIXEL_VALUE: f32 = 1000.0;

impl Embedder {
    /// The ids of a text that somebody else has tokenized, of which the first `attended` are attended to.
    ///
    /// # Errors
    /// [`EmbedError::Item`] for ids that are not the model's, and for too many.
    pub fn tokens(&self, ids: &[i64], attended: usize) -> Result<Tokens, EmbedError> {
        self.texts()?.tokenizer.accept(ids, attended).map_err(|error| EmbedError::Item { index: 0, error })
    }

    /// Embeds texts that somebody else has tokenized.
    ///
    /// # Errors
    /// [`EmbedError`]; a text whose mask shuts out what its embedding is taken from is named by its index.
    pub async fn embed_tokens(&self, texts: &[Tokens], terms: Terms) -> Result<Embedded, EmbedError> {
        let (lane, dim) = (&self.texts()?.lane, self.dim(Modality::Text)?);
        let tokenizer = &self.texts()?.tokenizer;
        let attended = |(index, tokens)| tokenizer.attended(tokens).map_err(|error| EmbedError::Item { index, error });
        let tokens: Vec<Tokens> = texts.iter().enumerate().map(attended).collect::<Result<_, _>>()?;
        let embedded = Request { lane, metrics: &self.metrics, dim, terms }
            .embed(&tokens, Vec::new(), &mut Failing::Request)
            .await?;
        Ok(Embedded { tokens: tokens.iter().map(|tokens| tokens.ids().len()).sum(), ..embedded })
    }

    /// The `outputs` of texts that somebody else has tokenized and padded to one length.
    ///
    /// # Errors
    /// [`EmbedError`].
    pub async fn token_outputs(
        &self,
        texts: Vec<Tokens>,
        outputs: OutputSet,
        terms: Terms,
    ) -> Result<Outputs, EmbedError> {
        let lane = &self.texts()?.lane;
        let shape = self.output_shape(Modality::Text)?;
        let positions = texts.iter().map(|tokens| tokens.ids().len()).max().unwrap_or(0);
        let reservation = self.reserve(shape.bytes(outputs, positions).saturating_mul(texts.len()))?;
        let mut attention_mask = Array2::zeros((texts.len(), positions));
        for (mut mask, tokens) in attention_mask.rows_mut().into_iter().zip(&texts) {
            mask.iter_mut().take(tokens.attended()).for_each(|attended| *attended = 1);
        }
        let works: Vec<Work> = texts.iter().map(lane.work).collect();
        let permits = lane.admit(&works, &terms, &self.metrics)?;
        let tickets = lane.submit(texts, outputs, permits, terms.deadline);
        answered(tickets, outputs, Some(attention_mask), reservation, terms.deadline).await
    }

    fn pixels(&self) -> Result<&Pixels, EmbedError> {
        self.images()?.pixels.as_ref().ok_or(EmbedError::NotSupported(Lack::PixelValues))
    }

    /// Height and width of the pictures that are taken as floats.
    ///
    /// # Errors
    /// [`EmbedError::NotSupported`] when none are.
    pub fn pixel_values_size(&self) -> Result<(usize, usize), EmbedError> {
        self.pixels()?;
        let (height, width) = self.info().image_size.ok_or(EmbedError::NotSupported(Lack::PixelValues))?;
        Ok((height as usize, width as usize))
    }

    /// Whether `picture` can be taken.
    ///
    /// # Errors
    /// [`InputError`] for what is no number or so large that nothing can be computed with it.
    pub fn check_pixel_values(picture: &PixelValues) -> Result<(), InputError> {
        match picture.values().iter().find(|value| value.is_nan() || value.abs() > LARGEST_PIXEL_VALUE) {
            None => Ok(()),
            Some(value) => Err(InputError {
                kind: InputErrorKind::InvalidImage,
                message: format!(
                    "the value {value} is not between -{LARGEST_PIXEL_VALUE} and {LARGEST_PIXEL_VALUE}; send what the model's own \
                     image processor gives, which is about -3 to 3"
                ),
            }),
        }
    }

    /// Embeds pictures that somebody else has preprocessed: of [that size](Self::pixel_values_size), and
    /// [checked](Self::check_pixel_values).
    ///
    /// # Errors
    /// [`EmbedError`].
    pub async fn embed_pixels(&self, pictures: &[PixelValues], terms: Terms) -> Result<Embedded, EmbedError> {
        let (lane, dim) = (&self.pixels()?.lane, self.dim(Modality::Image)?);
        Request { lane, metrics: &self.metrics, dim, terms }.embed(pictures, Vec::new(), &mut Failing::Request).await
    }

    /// The `outputs` of such pictures.
    ///
    /// # Errors
    /// [`EmbedError`].
    pub async fn pixel_outputs(
        &self,
        pictures: Vec<PixelValues>,
        outputs: OutputSet,
        terms: Terms,
    ) -> Result<Outputs, EmbedError> {
        let lane = &self.pixels()?.lane;
        self.picture_outputs(lane, pictures, outputs, terms).await
    }
}
