//! What size a picture is resized to, and which part of that is the crop.
//!
//! Owns the arithmetic of each library, halves and all. Does not touch a pixel.
//!
//! Invariant: the crop has the same size for every picture.
//!
//! One deliberate difference: where open_clip's `longest` leaves nothing of a side, and so fails, one row or column is left.

use crate::model::{
    immich::ImmichTransform,
    open_clip::{ImageTransform, ResizeMode},
    pictures::PicturePreparation,
    preprocessor::{PreprocessorConfig, Resample, ResizeTo, Size},
};

/// Why a checkpoint's preprocessing cannot be served.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnsupportedPreprocessing {
    /// Pictures of different shapes would give crops of different shapes, and a batch needs one.
    #[error(
        "preprocessor_config.json gives crops of no fixed size: it needs do_center_crop, or do_resize with a size of height and width"
    )]
    NoFixedSize,
}

/// From any picture's size to where its crop lies.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cutter {
    resize: Resize,
    rounding: Rounding,
    resample: Resample,
    crop: Size,
}

/// The size of the resized picture.
#[derive(Clone, Copy, Debug)]
enum Resize {
    /// That of the picture.
    Not,
    /// This.
    Exact(Size),
    /// The shorter side this, the longer one rounded down: `int(edge * long / short)`.
    ShortestEdge(u32),
    /// The same, the ratio of the sides rounded first: `int((long / short) * edge)`.
    ShortestEdgeByRatio(u32),
    /// Covers this, sides rounded to the nearest.
    Cover(Size),
    /// Lies within this, sides rounded to the nearest.
    Within(Size),
}

/// What becomes of the odd pixel of a rest.
#[derive(Clone, Copy, Debug)]
enum Rounding {
    /// It is cut at the end, and added at the beginning: `CLIPImageProcessor`, and Immich, which adds none.
    Down,
    /// It is cut where torchvision's `round` has it, halves to even, and added at the end.
    HalfToEven,
}

/// One picture's crop.
pub(super) struct Placement {
    /// Width and height of the resized picture.
    pub(super) size: (usize, usize),
    pub(super) columns: Centre,
    pub(super) rows: Centre,
}

/// One axis: where the crop lies in the picture, or the picture in the crop.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Centre {
    /// Samples before the crop.
    pub(super) skip: usize,
    /// Samples of the picture that are in the crop.
    pub(super) take: usize,
    /// What is added before them.
    pub(super) pad: usize,
}

impl Cutter {
    /// That of a model.
    ///
    /// # Errors
    /// When crops would have no fixed size.
    pub(super) fn of(preparation: &PicturePreparation) -> Result<Self, UnsupportedPreprocessing> {
        match preparation {
            PicturePreparation::Transformers(config) => Self::of_transformers(config),
            PicturePreparation::OpenClip(transform) | PicturePreparation::OpenAi(transform) => {
                Ok(Self::of_open_clip(transform))
            }
            PicturePreparation::Immich(transform) => Ok(Self::of_immich(transform)),
        }
    }

    fn of_transformers(config: &PreprocessorConfig) -> Result<Self, UnsupportedPreprocessing> {
        let resize = match (config.do_resize, config.size) {
            (false, _) => Resize::Not,
            (true, ResizeTo::ShortestEdge(edge)) => Resize::ShortestEdge(edge),
            (true, ResizeTo::Exact(size)) => Resize::Exact(size),
        };
        let crop = match (config.do_center_crop, resize) {
            (true, _) => config.crop_size,
            (false, Resize::Exact(size)) => size,
            _ => return Err(UnsupportedPreprocessing::NoFixedSize),
        };
        Ok(Self { resize, rounding: Rounding::Down, resample: config.resample, crop })
    }

    fn of_open_clip(&ImageTransform { size, resize, resample, .. }: &ImageTransform) -> Self {
        let resize = match resize {
            ResizeMode::Shortest => Resize::ShortestEdge(size.height),
            ResizeMode::Cover => Resize::Cover(size),
            ResizeMode::Within { .. } => Resize::Within(size),
            ResizeMode::Squash => Resize::Exact(size),
        };
        Self { resize, rounding: Rounding::HalfToEven, resample, crop: size }
    }

    fn of_immich(&ImmichTransform { size, squash, resample, .. }: &ImmichTransform) -> Self {
        let crop = Size { height: size, width: size };
        let resize = if squash { Resize::Exact(crop) } else { Resize::ShortestEdgeByRatio(size) };
        Self { resize, rounding: Rounding::Down, resample, crop }
    }

    /// Of every crop.
    pub(super) fn crop(&self) -> Size {
        self.crop
    }

    /// The filter; `None` where nothing is resized.
    pub(super) fn resample(&self) -> Option<Resample> {
        (!matches!(self.resize, Resize::Not)).then_some(self.resample)
    }

    /// Where the crop of a picture of `width x height` lies.
    pub(super) fn place(&self, (width, height): (u32, u32)) -> Placement {
        let size = self.resized(width, height);
        let crop = self.crop;
        Placement {
            size,
            columns: self.rounding.centre(size.0, crop.width as usize),
            rows: self.rounding.centre(size.1, crop.height as usize),
        }
    }

    /// Width and height of the resized picture.
    fn resized(&self, width: u32, height: u32) -> (usize, usize) {
        let (w, h) = (width as usize, height as usize);
        let exact = |size: Size| (size.width as usize, size.height as usize);
        match self.resize {
            Resize::Not => (w, h),
            Resize::Exact(size) => exact(size),
            // The libraries divide in floating point; the quotient of integers this small, truncated, is the integer quotient.
            Resize::ShortestEdge(edge) => {
                let edge = edge as usize;
                if w <= h { (edge, edge * h / w) } else { (edge * w / h, edge) }
            }
            Resize::ShortestEdgeByRatio(edge) => {
                let long = |long: u32, short: u32| (f64::from(long) / f64::from(short) * f64::from(edge)) as usize;
                if w < h { (edge as usize, long(height, width)) } else { (long(width, height), edge as usize) }
            }
            Resize::Cover(size) => by_ratio((width, height), size, f64::min),
            Resize::Within(size) => by_ratio((width, height), size, f64::max),
        }
    }
}

/// open_clip's `ResizeKeepRatio`: both sides divided by one of their ratios to `size`.
fn by_ratio((width, height): (u32, u32), size: Size, which: fn(f64, f64) -> f64) -> (usize, usize) {
    let (width, height) = (f64::from(width), f64::from(height));
    let ratio = which(height / f64::from(size.height), width / f64::from(size.width));
    let side = |side: f64| ((side / ratio).round_ties_even() as usize).max(1);
    (side(width), side(height))
}

impl Rounding {
    fn centre(self, length: usize, crop: usize) -> Centre {
        let (rest, missing) = (length.saturating_sub(crop), crop.saturating_sub(length));
        let (skip, pad) = match self {
            Self::Down => (rest / 2, missing.div_ceil(2)),
            // Half of an odd rest lies between two whole numbers, of which the upper one is even where the lower is odd.
            Self::HalfToEven => (rest / 2 + rest % 2 * (rest / 2 % 2), missing / 2),
        };
        Centre { skip, take: length.min(crop), pad }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// `int(round(rest / 2.0))` of Python for rests 0 to 8.
    #[test]
    fn torchvision_rounds_halves_to_even_and_the_others_down() {
        let skips = |rounding: Rounding| [0, 1, 2, 3, 4, 5, 6, 7, 8].map(|rest| rounding.centre(100 + rest, 100).skip);
        assert_eq!(skips(Rounding::HalfToEven), [0, 0, 1, 2, 2, 2, 3, 4, 4]);
        assert_eq!(skips(Rounding::Down), [0, 0, 1, 1, 2, 2, 3, 3, 4]);
        assert_eq!(Rounding::HalfToEven.centre(97, 100), Centre { skip: 0, take: 97, pad: 1 });
        assert_eq!(Rounding::Down.centre(97, 100), Centre { skip: 0, take: 97, pad: 2 });
    }

    #[test]
    fn immich_rounds_the_ratio_first() {
        let immich = |size| {
            let (mean, std) = ([0.5; 3], [0.5; 3]);
            Cutter::of_immich(&ImmichTransform { size, squash: false, resample: Resample::Bicubic, mean, std })
        };
        let transform = ImageTransform::from_json(r#"{"size": 224}"#).expect("valid");
        // int((1000 / 625) * 224) in Python.
        for (size, expected) in [((1000, 625), (358, 224)), ((625, 1000), (224, 358)), ((7, 7), (224, 224))] {
            assert_eq!(immich(224).resized(size.0, size.1), expected);
            assert_eq!(Cutter::of_open_clip(&transform).resized(size.0, size.1), expected);
        }
        let differ = (1..400u32).flat_map(|short| (short..400).map(move |long| (long, short)));
        let differ = differ.filter(|&(long, short)| {
            immich(224).resized(long, short) != Cutter::of_open_clip(&transform).resized(long, short)
        });
        // Counted in Python: int((long / short) * 224) != int(224 * long / short).
        assert_eq!(differ.count(), 56);
    }

    /// The sizes that `ResizeKeepRatio` of open_clip 3.3.0 gives.
    #[test]
    fn keeping_the_ratio_rounds_to_the_nearest() {
        let size = Size { height: 224, width: 336 };
        assert_eq!(by_ratio((640, 480), size, f64::min), (336, 252));
        assert_eq!(by_ratio((640, 480), size, f64::max), (299, 224));
        assert_eq!(by_ratio((1, 10_000), size, f64::max), (1, 224));
    }

    proptest! {
        #[test]
        fn the_longer_side_is_the_references_floating_point_one(width in 1u32..200_000, height in 1u32..200_000, edge in 1u32..1000) {
            let (short, long) = (f64::from(width.min(height)), f64::from(width.max(height)));
            let (edge, reference) = (edge as usize, (f64::from(edge) * long / short) as usize);
            let expected = if width <= height { (edge, reference) } else { (reference, edge) };
            let crop = Size { height: 1, width: 1 };
            let resize = Resize::ShortestEdge(edge as u32);
            let cutter = Cutter { resize, rounding: Rounding::Down, resample: Resample::Bicubic, crop };
            prop_assert_eq!(cutter.resized(width, height), expected);
        }
    }
}
