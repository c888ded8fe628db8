//! The output tensors, by their names.
//!
//! Owns the names, which are those of `CLIPModel.forward`, and the shape and size of each. Does not own their values (`infer`) nor how
//! they are written (`answer`).
//!
//! | name | shape | follows from |
//! |---|---|---|
//! | `image_embeds`, `text_embeds` | [n, d], L2-normalised | that side |
//! | `logits_per_image`, `logits_per_text` | [images, texts], [texts, images] | both sides |
//! | `vision_model_output.pooler_output`, `text_model_output.pooler_output` | [n, hidden] | that side |
//! | `...last_hidden_state` | [n, positions, hidden] | that side |
//! | `...hidden_states` | [blocks + 1, n, positions, hidden] | that side |
//! | `...attentions` | [blocks, n, heads, positions, positions] | that side |
//! | `attention_mask` | [n, positions], of the texts in the outputs above | texts |
//!
//! What stands behind a `..model_output.` may be asked for without it where the request has one side: then it is what
//! `CLIPVisionModelWithProjection` or `CLIPTextModelWithProjection` answers.

use std::fmt;

use super::tensor::about;
use crate::{
    embedder::{EmbedError, Embedder, Modality},
    encoder::{Output, OutputSet},
    http::{
        ApiError,
        answer::{Shape, Size},
    },
};

/// One output tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Name {
    /// `image_embeds`, `text_embeds`.
    Embeds(Modality),
    /// `logits_per_image`, `logits_per_text`.
    LogitsPer(Modality),
    /// Of a tower.
    State(Modality, Output),
    /// The mask of the texts.
    AttentionMask,
}

/// How the outputs of a tower begin.
const TOWERS: [(Modality, &str); 2] =
    [(Modality::Image, "vision_model_output."), (Modality::Text, "text_model_output.")];

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [tower, name] = self.parts();
        write!(f, "{tower}{name}")
    }
}

/// Which inputs a request has, and the numbers of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) images: Option<usize>,
    pub(super) texts: Option<usize>,
}

impl Counts {
    pub(super) fn of(self, modality: Modality) -> Option<usize> {
        match modality {
            Modality::Image => self.images,
            Modality::Text => self.texts,
        }
    }
}

impl Name {
    /// Every output there is, of any model.
    pub(super) fn all() -> impl Iterator<Item = Self> {
        let sides = [Modality::Image, Modality::Text];
        let states = |modality| Output::ALL.map(|output| Self::State(modality, output));
        let pairs = sides.map(Self::Embeds).into_iter().chain(sides.map(Self::LogitsPer));
        pairs.chain(sides.into_iter().flat_map(states)).chain([Self::AttentionMask])
    }

    /// What it is called: the tower that it is of, if any, and its name there.
    fn parts(self) -> [&'static str; 2] {
        match self {
            Self::Embeds(Modality::Image) => ["", "image_embeds"],
            Self::Embeds(Modality::Text) => ["", "text_embeds"],
            Self::LogitsPer(Modality::Image) => ["", "logits_per_image"],
            Self::LogitsPer(Modality::Text) => ["", "logits_per_text"],
            Self::State(modality, output) => {
                let tower = TOWERS.iter().find(|(tower, _)| *tower == modality).map_or("", |(_, tower)| tower);
                [tower, output.name()]
            }
            Self::AttentionMask => ["", "attention_mask"],
        }
    }

    fn is_called(self, name: &str) -> bool {
        let [tower, own] = self.parts();
        name.strip_prefix(tower) == Some(own)
    }

    /// The output that `name` is in a request with these inputs. Several names may be one output, so who answers by names keeps `name`.
    ///
    /// # Errors
    /// 400 for none of them, and for one that follows from inputs which are not there.
    pub(super) fn read(name: &str, counts: Counts) -> Result<Self, ApiError> {
        let alone = Output::ALL.into_iter().find(|output| output.name() == name);
        let output = match (alone, counts.images, counts.texts) {
            (Some(output), Some(_), None) => Self::State(Modality::Image, output),
            (Some(output), None, _) => Self::State(Modality::Text, output),
            (Some(_), Some(_), Some(_)) => {
                let [vision, text] = TOWERS.map(|(_, tower)| format!("{tower}{name}"));
                return Err(about(name, format_args!("could be of either side; ask for {vision} or {text}")));
            }
            (None, ..) => Self::all().find(|output| output.is_called(name)).ok_or_else(|| {
                let known: Vec<String> = Self::all().map(|output| output.to_string()).collect();
                about(name, format_args!("is no output; there are {}", known.join(", ")))
            })?,
        };
        for modality in output.sides() {
            if counts.of(*modality).is_none() {
                let inputs = match modality {
                    Modality::Image => "images or pixel_values",
                    Modality::Text => "texts or input_ids",
                };
                return Err(about(name, format_args!("follows from {inputs}, and the request has none")));
            }
        }
        Ok(output)
    }

    /// What it follows from.
    pub(super) fn sides(self) -> &'static [Modality] {
        match self {
            Self::LogitsPer(_) => &[Modality::Image, Modality::Text],
            Self::Embeds(Modality::Image) | Self::State(Modality::Image, _) => &[Modality::Image],
            Self::Embeds(Modality::Text) | Self::State(Modality::Text, _) | Self::AttentionMask => &[Modality::Text],
        }
    }

    /// As the protocol calls the type of its values.
    pub(super) fn datatype(self) -> &'static str {
        match self {
            Self::AttentionMask => "INT64",
            Self::Embeds(_) | Self::LogitsPer(_) | Self::State(..) => "FP32",
        }
    }

    /// Its shape for so many inputs, texts having so many positions.
    ///
    /// # Errors
    /// [`EmbedError::NotSupported`] when the model does not have it.
    pub(super) fn shape(self, embedder: &Embedder, counts: Counts, positions: usize) -> Result<Vec<usize>, EmbedError> {
        let n = |modality| counts.of(modality).unwrap_or(0);
        Ok(match self {
            Self::Embeds(modality) => vec![n(modality), embedder.dim(modality)?],
            Self::LogitsPer(modality) => {
                embedder.logit_scale()?;
                match modality {
                    Modality::Image => vec![n(Modality::Image), n(Modality::Text)],
                    Modality::Text => vec![n(Modality::Text), n(Modality::Image)],
                }
            }
            Self::State(modality, output) => {
                let shape = embedder.output_shape(modality)?;
                let mut axes =
                    shape.of(output, if modality == Modality::Text { positions } else { shape.max_positions });
                axes.insert(usize::from(output.is_per_block()), n(modality));
                axes
            }
            Self::AttentionMask => {
                embedder.output_shape(Modality::Text)?;
                vec![n(Modality::Text), positions]
            }
        })
    }

    /// `size` with this output of that shape written.
    pub(super) fn add_to(self, size: Size, shape: &[usize], binary: bool) -> Size {
        let form = if binary { Shape::Npy } else { Shape::Numbers };
        let size = size.writing(AROUND);
        match self {
            // Eight bytes for each.
            Self::AttentionMask => size.writing_array(shape, form).writing_array(shape, form),
            Self::Embeds(_) | Self::LogitsPer(_) | Self::State(..) => size.writing_array(shape, form),
        }
    }
}

/// `{"name":"vision_model_output.last_hidden_state","datatype":"FP32","shape":[..],"parameters":{"binary_data_size":..}},` with five sizes.
const AROUND: usize = 256;

/// What of a tower is asked for besides its embedding.
pub(super) fn states(outputs: impl IntoIterator<Item = Name>, of: Modality) -> OutputSet {
    let state = |output| match output {
        Name::State(modality, output) if modality == of => Some(output),
        // The mask is that of the states, of which this one is the smallest.
        Name::AttentionMask if of == Modality::Text => Some(Output::PoolerOutput),
        _ => None,
    };
    outputs.into_iter().filter_map(state).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: Counts = Counts { images: Some(1), texts: Some(2) };

    #[test]
    fn names_are_those_of_the_reference() {
        for output in Name::all() {
            assert_eq!(Name::read(&output.to_string(), BOTH).expect("a name"), output);
        }
        let last = Output::LastHiddenState;
        let images = Counts { texts: None, ..BOTH };
        assert_eq!(Name::State(Modality::Image, last).to_string(), "vision_model_output.last_hidden_state");
        assert_eq!(Name::read("last_hidden_state", images).expect("one side"), Name::State(Modality::Image, last));
        let error = Name::read("last_hidden_state", BOTH).expect_err("two sides");
        assert!(error.message.contains("ask for vision_model_output.last_hidden_state or text_"), "{}", error.message);
        let error = Name::read("logits_per_text", images).expect_err("one side");
        assert!(error.message.contains("follows from texts or input_ids"), "{}", error.message);
        let error = Name::read("embeddings", BOTH).expect_err("no output");
        assert!(error.message.contains("is no output; there are image_embeds"), "{}", error.message);
    }
}
