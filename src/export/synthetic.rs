//! Seeded random weights: a model of any size from nothing, for benchmarks and tests.
//!
//! Owns the scale of each tensor (`CLIPPreTrainedModel._init_weights` with `initializer_factor` 1, so that activations stay of
//! the order of one at every depth) and the generator. The distribution is uniform with the standard deviation that
//! `transformers` gives its normal one: as good for this purpose, and 150 million values take a fraction of a second.

use super::{error::ExportError, weights::WeightSource};
use crate::model::clip_config::{ClipConfig, TransformerConfig};

/// A source that has every tensor, in whatever shape is asked for.
#[derive(Clone, Debug)]
pub struct SyntheticWeights {
    seed: u64,
    text: Option<TransformerConfig>,
    vision: Option<TransformerConfig>,
    logit_scale: f32,
}

impl SyntheticWeights {
    /// Weights for `config`; the same `seed` gives the same weights.
    pub fn new(config: &ClipConfig, seed: u64) -> Self {
        Self {
            seed,
            text: config.text.as_ref().map(|t| t.tower.transformer.clone()),
            vision: config.vision.as_ref().map(|v| v.tower.transformer.clone()),
            logit_scale: config.logit_scale_init_value as f32,
        }
    }

    /// Mean and standard deviation of the tensor `name`.
    fn distribution(&self, name: &str) -> (f32, f64) {
        if name == "logit_scale" {
            return (self.logit_scale, 0.0);
        }
        let is_vision = name.starts_with("vis");
        let Some(config) = (if is_vision { &self.vision } else { &self.text }) else { return (0.0, 0.0) };
        let width = (config.hidden_size as f64).powf(-0.5);
        let depth = (2.0 * config.num_hidden_layers as f64).powf(-0.5);
        if name.contains("norm") {
            (if name.ends_with("weight") { 1.0 } else { 0.0 }, 0.0)
        } else if name.ends_with(".bias") {
            (0.0, 0.0)
        } else if name.ends_with("_embedding.weight") {
            (0.0, 0.02)
        } else if name.contains("fc1") {
            (0.0, width * 0.5f64.sqrt())
        } else if name.contains("fc2") {
            (0.0, width * depth)
        } else {
            // Class embedding, attention, the projections to the shared space. `transformers` gives queries, keys and values
            // the depth factor too; without it attention is sharper and embeddings of different pictures differ clearly.
            (0.0, width)
        }
    }
}

impl WeightSource for SyntheticWeights {
    fn read(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, ExportError> {
        let count = shape.iter().product();
        let (mean, deviation) = self.distribution(name);
        if deviation == 0.0 {
            return Ok(vec![mean; count]);
        }
        // A uniform distribution over [-a, a] has the standard deviation a / sqrt(3).
        let unit = (deviation * 3.0f64.sqrt()) as f32 / (1u32 << 31) as f32;
        let mut state = name.bytes().fold(self.seed ^ 0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        let mut values = Vec::with_capacity(count + 1);
        while values.len() < count {
            let bits = split_mix(&mut state);
            values.extend([(bits >> 32) as u32 as i32 as f32 * unit, bits as u32 as i32 as f32 * unit]);
        }
        values.truncate(count);
        Ok(values)
    }

    fn contains(&self, name: &str) -> bool {
        match name {
            "visual_projection.weight" => self.vision.is_some(),
            "text_projection.weight" => self.text.is_some(),
            _ => true,
        }
    }
}

/// SplitMix64: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014.
fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_the_standard_deviation_of_transformers_init_and_repeat_by_seed() {
        let weights = SyntheticWeights::new(&ClipConfig::default(), 1);
        let name = "vision_model.encoder.layers.0.mlp.fc1.weight";
        let values = weights.read(name, &[1000, 101]).unwrap();
        let mean = values.iter().sum::<f32>() / values.len() as f32;
        let variance = values.iter().map(|v| v * v).sum::<f32>() / values.len() as f32;
        assert!(mean.abs() < 1e-3 && (variance.sqrt() / (2.0f32 * 768.0).powf(-0.5) - 1.0).abs() < 0.02);
        assert_eq!(values, weights.read(name, &[1000, 101]).unwrap());
        assert_ne!(values, SyntheticWeights::new(&ClipConfig::default(), 2).read(name, &[1000, 101]).unwrap());
    }
}
