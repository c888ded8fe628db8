//! The two modalities, and what a model can lack of either.
//!
//! Owns the names.

use std::fmt;

/// What an encoder takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Modality {
    /// Pictures.
    Image,
    /// Texts.
    Text,
}

impl fmt::Display for Modality {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Image => "image",
            Self::Text => "text",
        })
    }
}

/// What a model does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lack {
    /// The tower.
    Encoder(Modality),
    /// The tower's projection, so it has no embedding.
    Projection(Modality),
    /// A graph of the tower's other outputs.
    Outputs(Modality),
    /// A vision graph that can be fed floats.
    PixelValues,
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Encoder(modality) => write!(f, "the model has no {modality} encoder"),
            Self::Projection(modality) => {
                write!(f, "the model's {modality} encoder has no projection, so it has no embeddings")
            }
            Self::Outputs(modality) => write!(f, "the model's {modality} encoder answers embeddings alone"),
            Self::PixelValues => f.write_str("the model's vision graph takes no pixel_values"),
        }
    }
}
