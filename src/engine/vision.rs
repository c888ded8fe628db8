//! What a vision graph is fed: crops.
//!
//! Owns how a batch of `u8` HWC crops becomes the tensor that the graph wants. Does not own decoding or resizing.
//!
//! Two kinds of graph are told apart by their input: `u8` [batch, height, width, 3] normalises inside (our own export);
//! `f32` or `f16` [batch, 3, height, width] wants `CLIPImageProcessor`'s rescaled, normalised `pixel_values`.

use half::f16;
use ort::{
    session::{Session, SessionInputValue},
    value::{TensorElementType, TensorRef},
};

use super::{
    graph::{self, NamedInput},
    tower::{TowerEncoder, TowerInput},
};
use crate::{config::Precision, encoder::PixelBuf, model::graph_info::GraphInfo};

/// `CLIPImageProcessor`'s rescale and normalise.
#[derive(Clone, Debug, PartialEq)]
pub struct Normalization {
    /// `rescale_factor`, or `None` when `do_rescale` is false.
    pub rescale_factor: Option<f64>,
    /// `(image_mean, image_std)`, or `None` when `do_normalize` is false.
    pub mean_std: Option<([f32; 3], [f32; 3])>,
}

impl Normalization {
    /// What a pixel is as a level again, for each channel: `level = pixel * scale + shift`.
    pub(super) fn inverse(&self) -> [(f64, f64); 3] {
        let factor = self.rescale_factor.unwrap_or(1.0);
        let (mean, std) = self.mean_std.unwrap_or(([0.0; 3], [1.0; 3]));
        std::array::from_fn(|channel| (f64::from(std[channel]) / factor, f64::from(mean[channel]) / factor))
    }

    /// What each of the 256 levels of each channel becomes, computed in the order and precision of `transformers`: the
    /// product rounded to f32, then mean and standard deviation applied in f32.
    fn table(&self) -> [[f32; 256]; 3] {
        let mut table = [[0.0; 256]; 3];
        for (channel, levels) in table.iter_mut().enumerate() {
            for (level, value) in levels.iter_mut().enumerate() {
                let level = level as f64;
                let rescaled = self.rescale_factor.map_or(level, |factor| level * factor) as f32;
                *value = match self.mean_std {
                    Some((mean, std)) => (rescaled - mean[channel]) / std[channel],
                    None => rescaled,
                };
            }
        }
        table
    }
}

/// The batch as the graph wants it; the buffer is kept between runs.
enum PixelValues {
    U8(Vec<u8>),
    F32(Vec<f32>, Box<[[f32; 256]; 3]>),
    F16(Vec<f16>, Box<[[f16; 256]; 3]>),
}

/// What a vision graph is fed. The crops of a batch must all have the graph's image size.
pub struct PixelInput {
    name: String,
    image_size: Option<(usize, usize)>,
    pixel_values: PixelValues,
    takes_floats: bool,
}

/// A vision graph and what it is fed.
pub type VisionEncoder = TowerEncoder<PixelInput>;

impl PixelInput {
    /// Reads from the inputs of a session which tensor it wants.
    pub(super) fn of(
        session: &Session,
        info: Option<&GraphInfo>,
        normalization: &Normalization,
    ) -> Result<Self, String> {
        let inputs = graph::inputs(session);
        let [input] = inputs.as_slice() else {
            return Err(format!("it has the inputs ({}), expected one image input", graph::describe(&inputs)));
        };
        let wrong = || {
            format!(
                "its input is {}, expected pixel_values f32 [batch, 3, height, width] or u8 [batch, height, width, 3]",
                graph::describe(&inputs)
            )
        };
        if input.shape.len() != 4 {
            return Err(wrong());
        }
        let channels_first = matches!(input.fixed(1), Some(3) | None);
        let table = || Box::new(normalization.table());
        let (pixel_values, height, width) = match input.element {
            TensorElementType::Uint8 if input.fixed(3) == Some(3) => (PixelValues::U8(Vec::new()), 1, 2),
            TensorElementType::Float32 if channels_first => (PixelValues::F32(Vec::new(), table()), 2, 3),
            TensorElementType::Float16 if channels_first => {
                let half = table().map(|levels| levels.map(f16::from_f32));
                (PixelValues::F16(Vec::new(), Box::new(half)), 2, 3)
            }
            _ => return Err(wrong()),
        };
        let image_size = input.fixed(height).zip(input.fixed(width));
        let takes_floats = match info {
            Some(own) => own.precision != Precision::Int8,
            None => !matches!(pixel_values, PixelValues::U8(_)),
        };
        Ok(Self { name: input.name.clone(), image_size, pixel_values, takes_floats })
    }

    /// Whether the graph, or the same with its input declared otherwise, takes floats (`floats`).
    pub fn takes_floats(&self) -> bool {
        self.takes_floats
    }

    /// Height and width that the graph is fixed to, if it is.
    pub fn image_size(&self) -> Option<(usize, usize)> {
        self.image_size
    }
}

impl TowerInput for PixelInput {
    type Item = PixelBuf;

    fn tensors<'a>(&'a mut self, items: &'a [PixelBuf]) -> ort::Result<Vec<NamedInput<'a>>> {
        let batch = items.len();
        let (height, width) = items.first().map_or((0, 0), |first| (first.height() as usize, first.width() as usize));
        let hwc = [batch, height, width, 3];
        let nchw = [batch, 3, height, width];
        let tensor: SessionInputValue<'_> = match &mut self.pixel_values {
            PixelValues::U8(buffer) => {
                if let [alone] = items {
                    // As it is: nothing is to be joined or converted.
                    let tensor = TensorRef::from_array_view((hwc, alone.as_bytes()))?;
                    return Ok(vec![(self.name.as_str().into(), tensor.into())]);
                }
                buffer.clear();
                items.iter().for_each(|item| buffer.extend_from_slice(item.as_bytes()));
                TensorRef::from_array_view((hwc, buffer.as_slice()))?.into()
            }
            PixelValues::F32(buffer, table) => {
                gather(buffer, items, table);
                TensorRef::from_array_view((nchw, buffer.as_slice()))?.into()
            }
            PixelValues::F16(buffer, table) => {
                gather(buffer, items, table);
                TensorRef::from_array_view((nchw, buffer.as_slice()))?.into()
            }
        };
        Ok(vec![(self.name.as_str().into(), tensor)])
    }

    fn positions(_item: &PixelBuf) -> Option<usize> {
        None
    }
}

/// HWC bytes to normalised NCHW.
fn gather<T: Copy + Default>(buffer: &mut Vec<T>, inputs: &[PixelBuf], table: &[[T; 256]; 3]) {
    buffer.clear();
    for input in inputs {
        for (channel, levels) in table.iter().enumerate() {
            let samples = input.as_bytes().iter().skip(channel).step_by(3);
            buffer.extend(samples.map(|&level| levels[usize::from(level)]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normalisation_is_that_of_the_reference_image_processor() {
        let clip = Normalization {
            rescale_factor: Some(1.0 / 255.0),
            mean_std: Some(([0.48145466, 0.4578275, 0.40821073], [0.268_629_54, 0.261_302_6, 0.275_777_1])),
        };
        let table = clip.table();
        // numpy: ((np.uint8([0, 255, 128]) * (1/255)).astype(f32) - f32(mean)) / f32(std), channel 0, 1, 2
        assert_eq!(table[0][0], -1.792_262_6);
        assert_eq!(table[1][255], 2.074_883_7);
        assert_eq!(table[2][128], 0.339_948_77);
    }

    #[test]
    fn gather_separates_the_channels() {
        let identity = Normalization { rescale_factor: None, mean_std: None };
        let input = PixelBuf::new(2, 1, vec![1, 2, 3, 4, 5, 6]);
        let mut buffer = Vec::new();
        gather(&mut buffer, &[input.clone(), input], &identity.table());
        assert_eq!(buffer, [1.0, 4.0, 2.0, 5.0, 3.0, 6.0, 1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
    }
}
