//! How a model's pictures become the input of its vision tower.
//!
//! Owns the answer, by whose rules it is; `preprocessor`, `open_clip` and `immich` read it from their files. Does not do it:
//! `preprocess::image` cuts, the vision encoder normalises.

use super::{immich::ImmichTransform, open_clip::ImageTransform, preprocessor::PreprocessorConfig, rules::Rules};

/// From a picture to its crop, and from that to floats.
#[derive(Clone, Debug, PartialEq)]
pub enum PicturePreparation {
    /// `CLIPImageProcessor`.
    Transformers(PreprocessorConfig),
    /// open_clip's `image_transform`.
    OpenClip(ImageTransform),
    /// The same, as OpenAI's `clip.load` makes it.
    OpenAi(ImageTransform),
    /// Immich's `OpenClipVisualEncoder`.
    Immich(ImmichTransform),
}

impl PicturePreparation {
    /// Whose it is.
    pub fn rules(&self) -> Rules {
        match self {
            Self::Transformers(_) => Rules::Transformers,
            Self::OpenClip(_) => Rules::OpenClip,
            Self::OpenAi(_) => Rules::OpenAi,
            Self::Immich(_) => Rules::Immich,
        }
    }

    /// What a crop depends on besides the picture; `None` for `transformers`, whose file says it all.
    pub(super) fn identity(&self) -> Option<String> {
        let name = self.rules().name();
        match self {
            Self::Transformers(_) => None,
            Self::OpenClip(transform) | Self::OpenAi(transform) => Some(format!("{name} {transform:?}")),
            Self::Immich(transform) => Some(format!("{name} {transform:?}")),
        }
    }
}
