//! Checkpoints of ViT-B/32's and other sizes with seeded random weights, in the layout of `transformers`, made without Python.
//!
//! Owns the list of `CLIPModel`'s tensors, the sizes, and a smaller model of the same kind. Every service of the comparison serves one folder, so that they compute the
//! same numbers, which `compare` checks. Made once (605 MB) and kept under `target/`; nothing is downloaded.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::Instant,
};

use clipserve::{
    export::{SyntheticWeights, WeightSource},
    model::clip_config::{ClipConfig, TransformerConfig},
};
use safetensors::{Dtype, tensor::TensorView};

use crate::{Result, services::Places};

/// What does not depend on the sizes, from the model of the tests: CLIP's own tokenizer and preprocessing.
const COPIED: [&str; 6] = [
    "preprocessor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.json",
    "merges.txt",
];

/// Makes [`Places::checkpoint`] where it is not there yet.
pub(crate) fn make(places: &Places) -> Result<()> {
    make_in(places, &places.checkpoint(), &Size::VitB32.config())
}

/// The sizes of OpenAI's models.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Size {
    /// 50 positions, 768 wide, 12 blocks.
    #[value(name = "vit-b-32")]
    VitB32,
    /// The same in patches of 16: 197 positions.
    #[value(name = "vit-b-16")]
    VitB16,
    /// 257 positions, 1024 wide, 24 blocks.
    #[value(name = "vit-l-14")]
    VitL14,
    /// The same of pictures of 336: 577 positions.
    #[value(name = "vit-l-14-336")]
    VitL14At336,
}

impl Size {
    /// Makes its checkpoint where it is not there yet: where that is.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn make(self, places: &Places) -> Result<PathBuf> {
        let folder = match self {
            Self::VitB32 => places.checkpoint(),
            Self::VitB16 => places.made().join("clip-vit-b-16"),
            Self::VitL14 => places.made().join("clip-vit-l-14"),
            Self::VitL14At336 => places.made().join("clip-vit-l-14-336"),
        };
        make_in(places, &folder, &self.config())?;
        Ok(folder)
    }

    /// What its `config.json` says.
    pub(crate) fn config(self) -> ClipConfig {
        let mut config = ClipConfig::default();
        let (Some(text), Some(vision)) = (&mut config.text, &mut config.vision) else { return config };
        if self != Self::VitB32 {
            vision.tower.patch_size = if self == Self::VitB16 { 16 } else { 14 };
        }
        if matches!(self, Self::VitL14 | Self::VitL14At336) {
            resize(&mut text.tower.transformer, 768, 12, 12);
            resize(&mut vision.tower.transformer, 1024, 24, 16);
            (text.projection_dim, vision.projection_dim) = (768, 768);
        }
        if self == Self::VitL14At336 {
            vision.tower.image_size = 336;
        }
        config
    }
}

fn resize(transformer: &mut TransformerConfig, width: usize, layers: usize, heads: usize) {
    transformer.hidden_size = width;
    transformer.intermediate_size = 4 * width;
    transformer.num_hidden_layers = layers;
    transformer.num_attention_heads = heads;
}

/// Makes [`Places::small_checkpoint`] where it is not there yet: of 50 MB, so that what becomes of it takes some tenths of a second.
pub(crate) fn make_small(places: &Places) -> Result<()> {
    let mut config = ClipConfig::default();
    if let (Some(text), Some(vision)) = (&mut config.text, &mut config.vision) {
        resize(&mut text.tower.transformer, 128, 4, 4);
        resize(&mut vision.tower.transformer, 256, 6, 4);
        (text.projection_dim, vision.projection_dim) = (128, 128);
    }
    make_in(places, &places.small_checkpoint(), &config)
}

fn make_in(places: &Places, folder: &Path, config: &ClipConfig) -> Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    eprintln!("making a checkpoint with random weights in {}", folder.display());
    let started = Instant::now();
    let partial = folder.with_extension("partial");
    fs::create_dir_all(&partial)?;
    write(config, &places.fixture(), &partial)?;
    fs::rename(&partial, folder)?;
    eprintln!("made in {:.1} s", started.elapsed().as_secs_f64());
    Ok(())
}

fn write(config: &ClipConfig, fixture: &Path, folder: &Path) -> Result<()> {
    let weights = SyntheticWeights::new(config, 0);
    let mut tensors = BTreeMap::new();
    for (name, shape) in shapes(config) {
        let values = weights.read(&name, &shape)?;
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        tensors.insert(name, (shape, bytes));
    }
    let views = tensors
        .iter()
        .map(|(name, (shape, bytes))| Ok((name, TensorView::new(Dtype::F32, shape.clone(), bytes)?)))
        .collect::<Result<Vec<_>>>()?;
    // `transformers` refuses a file that does not say what it was written for.
    let metadata = [("format".to_owned(), "pt".to_owned())].into();
    safetensors::serialize_to_file(views, Some(metadata), &folder.join("model.safetensors"))?;
    fs::write(folder.join("config.json"), config.to_json())?;
    for name in COPIED {
        fs::copy(fixture.join(name), folder.join(name))?;
    }
    let side = config.vision.as_ref().map_or(224, |vision| vision.tower.image_size);
    let preprocessor = folder.join(COPIED[0]);
    let resized = fs::read_to_string(&preprocessor)?.replace("224", &side.to_string());
    Ok(fs::write(preprocessor, resized)?)
}

/// The tensors of `CLIPModel` with both towers.
fn shapes(config: &ClipConfig) -> Vec<(String, Vec<usize>)> {
    let mut shapes = vec![("logit_scale".to_owned(), vec![])];
    if let Some(text) = &config.text {
        let (tower, width) = (&text.tower, text.tower.transformer.hidden_size);
        shapes.push(("text_projection.weight".to_owned(), vec![text.projection_dim, width]));
        let embeddings = "text_model.embeddings";
        shapes.push((format!("{embeddings}.token_embedding.weight"), vec![tower.vocab_size, width]));
        shapes.push((format!("{embeddings}.position_embedding.weight"), vec![tower.max_position_embeddings, width]));
        affine(&mut shapes, "text_model.final_layer_norm", &[width]);
        blocks(&mut shapes, "text_model", &tower.transformer);
    }
    if let Some(vision) = &config.vision {
        let (tower, width) = (&vision.tower, vision.tower.transformer.hidden_size);
        shapes.push(("visual_projection.weight".to_owned(), vec![vision.projection_dim, width]));
        let embeddings = "vision_model.embeddings";
        let patch = vec![width, tower.num_channels, tower.patch_size, tower.patch_size];
        shapes.push((format!("{embeddings}.class_embedding"), vec![width]));
        shapes.push((format!("{embeddings}.patch_embedding.weight"), patch));
        shapes.push((format!("{embeddings}.position_embedding.weight"), vec![tower.num_positions(), width]));
        // The name is misspelt in `transformers`.
        affine(&mut shapes, "vision_model.pre_layrnorm", &[width]);
        affine(&mut shapes, "vision_model.post_layernorm", &[width]);
        blocks(&mut shapes, "vision_model", &tower.transformer);
    }
    shapes
}

fn blocks(shapes: &mut Vec<(String, Vec<usize>)>, tower: &str, config: &TransformerConfig) {
    let (width, inner) = (config.hidden_size, config.intermediate_size);
    for layer in 0..config.num_hidden_layers {
        let layer = format!("{tower}.encoder.layers.{layer}");
        for projection in ["q_proj", "k_proj", "v_proj", "out_proj"] {
            affine(shapes, &format!("{layer}.self_attn.{projection}"), &[width, width]);
        }
        affine(shapes, &format!("{layer}.layer_norm1"), &[width]);
        affine(shapes, &format!("{layer}.layer_norm2"), &[width]);
        affine(shapes, &format!("{layer}.mlp.fc1"), &[inner, width]);
        affine(shapes, &format!("{layer}.mlp.fc2"), &[width, inner]);
    }
}

/// A weight and its bias, as long as the weight has rows.
fn affine(shapes: &mut Vec<(String, Vec<usize>)>, name: &str, weight: &[usize]) {
    shapes.push((format!("{name}.weight"), weight.to_vec()));
    shapes.push((format!("{name}.bias"), weight[..1].to_vec()));
}
