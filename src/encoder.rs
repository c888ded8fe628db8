//! The seam between batching and inference: what goes into an encoder, what comes out, and the one trait of ours.
//!
//! Owns the types that cross it. Knows neither HTTP nor ONNX Runtime: `batch` drives any [`Encoder`], `engine` implements it
//! for the vision and the text session, tests implement it with fakes.
//!
//! Invariant: row `i` of the answer belongs to input `i`, and depends on no other input.

mod outputs;

use std::{fmt, sync::Arc};

use ndarray::Array2;

pub use outputs::{Output, OutputSet, OutputShape, TowerOutputs};

/// One preprocessed picture: `u8` RGB, height x width x channel, after resize and centre crop, before rescale and normalise
/// (what `CLIPImageProcessor` holds just before `do_rescale`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PixelBuf {
    width: u32,
    height: u32,
    data: Vec<u8>,
}

impl PixelBuf {
    /// Wraps `data`, `height * width * 3` bytes, rows first, RGB interleaved.
    ///
    /// # Panics
    /// When `data` has any other length: the caller made the buffer from the same two numbers.
    pub fn new(width: u32, height: u32, data: Vec<u8>) -> Self {
        assert_eq!(data.len(), width as usize * height as usize * 3, "an RGB buffer of {width}x{height}");
        Self { width, height, data }
    }

    /// Pixels per row.
    pub fn width(&self) -> u32 {
        self.width
    }

    /// Rows.
    pub fn height(&self) -> u32 {
        self.height
    }

    /// The samples, `height * width * 3` bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.data
    }
}

/// One picture as `CLIPModel.forward` takes it: normalised floats, channel x height x width. A part of what may be several.
#[derive(Clone, Debug)]
pub struct PixelValues {
    height: usize,
    width: usize,
    data: Arc<[f32]>,
    start: usize,
    digest: blake3::Hash,
}

impl PixelValues {
    /// The picture whose values begin at `start` in `data`. They are hashed, which takes about as long as to copy them twice.
    ///
    /// # Panics
    /// When fewer than `3 * height * width` values are there: the caller has the buffer and the numbers.
    pub fn new(height: usize, width: usize, data: Arc<[f32]>, start: usize) -> Self {
        assert!(data.len() >= start + 3 * height * width, "a picture of {height}x{width}");
        let mut hasher = blake3::Hasher::new();
        let mut bytes = Vec::new();
        // In pieces: each is large enough for the hash to be fast, and small enough for the processor's cache.
        for values in data[start..][..3 * height * width].chunks(4096) {
            bytes.clear();
            values.iter().for_each(|value| bytes.extend_from_slice(&value.to_le_bytes()));
            hasher.update(&bytes);
        }
        Self { height, width, start, digest: hasher.finalize(), data }
    }

    /// What it is known by.
    pub fn digest(&self) -> blake3::Hash {
        self.digest
    }

    /// Rows.
    pub fn height(&self) -> usize {
        self.height
    }

    /// Pixels per row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The values, channel after channel.
    pub fn values(&self) -> &[f32] {
        &self.data[self.start..][..3 * self.height * self.width]
    }
}

/// The `input_ids` of one text: starts with the start token, at most the model's context length. Never empty. For an embedding
/// they end with the end token, since padding to the batch is the encoder's business; whoever asks for the states of padding
/// positions pads here, because those depend on the pad token and on whether they are attended to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tokens {
    ids: Arc<[u32]>,
    attended: usize,
}

impl Tokens {
    /// Wraps the ids of one text.
    ///
    /// # Panics
    /// When `ids` is empty: a tokenizer that adds its special tokens never gives that.
    pub fn new(ids: impl Into<Arc<[u32]>>) -> Self {
        let ids = ids.into();
        assert!(!ids.is_empty(), "a text has at least its special tokens");
        Self { attended: ids.len(), ids }
    }

    /// Of which only the first `attended` are attended to; all where it is more than there are.
    pub fn attending(self, attended: usize) -> Self {
        Self { attended: attended.min(self.ids.len()), ..self }
    }

    /// With `pad` behind it up to `length` ids, which are attended to when `attend`.
    pub fn padded(mut self, length: usize, pad: u32, attend: bool) -> Self {
        let padding = length.saturating_sub(self.ids.len());
        self.ids = self.ids.iter().copied().chain(std::iter::repeat_n(pad, padding)).collect();
        if attend {
            self.attended = self.ids.len();
        }
        self
    }

    /// The ids.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// How many of them, from the first, are attended to: `attention_mask` is 1 for these and 0 for the rest.
    pub fn attended(&self) -> usize {
        self.attended
    }
}

/// How many items one run takes at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchSizes {
    /// Images.
    pub images: usize,
    /// Texts.
    pub texts: usize,
}

/// Why the items of a tower run one by one, whatever the configuration says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, schemars::JsonSchema, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OneByOne {
    /// Its graph is fixed to batches of 1.
    FixedBatch,
    /// Its graph is quantised dynamically: scales are measured over all that is in a run, so that in one run with others an item
    /// would be rounded by theirs.
    DynamicQuantization,
    /// Its graph is no ONNX file, so its operators are not seen: dynamic quantisation may be among them.
    UnknownOperators,
}

impl fmt::Display for OneByOne {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::FixedBatch => "it is fixed to batches of 1",
            Self::DynamicQuantization => "it is quantised dynamically, by scales over all that is in a run",
            Self::UnknownOperators => "it is no ONNX file, and whether it is quantised dynamically is not seen",
        })
    }
}

/// What an encoder answers: `inputs.len()` rows of `dim` values, as the projection gives them (not normalised).
pub type Embeddings = Array2<f32>;

/// Why one input can never be encoded. The message is for the client: it names what is wrong and what would be right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct InputError {
    /// The kind, which decides the status of the answer.
    pub kind: InputErrorKind,
    /// The message.
    pub message: String,
}

/// The kinds of [`InputError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InputErrorKind {
    /// A media type that is not served.
    UnsupportedImage,
    /// A picture that cannot be decoded, or is over a limit.
    InvalidImage,
    /// A text that is over a limit.
    InvalidText,
}

/// Why a whole batch failed. The text is for the log, never for a client.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// The runtime refused or failed to run the batch.
    #[error("inference failed: {0}")]
    Runtime(String),
    /// The model answered something else than `batch x dim` floats.
    #[error("the model answered shape {actual:?}, expected {expected:?}")]
    Shape {
        /// What came.
        actual: Vec<i64>,
        /// What the model promised at load.
        expected: Vec<i64>,
    },
}

/// Makes another encoder for a thread whose own is broken.
pub type Rebuild<E> = Box<dyn FnMut() -> Result<E, String> + Send>;

/// Whose session a run has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Its own.
    Own,
    /// That of another run, beside which it is as if it had one of its own.
    Shared,
    /// That of another run, with the part of its threads that it takes from it: worth it only while there is more work than one run has.
    Beside,
}

/// An encoder for one thread, beside which others may run.
pub struct Runner<E> {
    /// What it runs.
    pub encoder: E,
    /// Whose session that has.
    pub role: Role,
    /// How it is made anew.
    pub rebuild: Rebuild<E>,
}

impl<E> Runner<E> {
    /// With a session of its own.
    pub fn new(encoder: E, rebuild: impl FnMut() -> Result<E, String> + Send + 'static) -> Self {
        Self { encoder, role: Role::Own, rebuild: Box::new(rebuild) }
    }
}

/// Ends one run of an [`Encoder`] from another thread: it then answers an error, or what it has if it was done.
pub type Interrupt = Arc<dyn Fn() + Send + Sync>;

/// Something that turns a batch of inputs into one embedding each. Owned and driven by exactly one thread.
pub trait Encoder: Send + 'static {
    /// One input: [`PixelBuf`] or [`Tokens`].
    type Input: Send + 'static;

    /// Encodes `inputs` (at least one) in order.
    ///
    /// # Errors
    /// When the batch as a whole failed; the encoder stays usable.
    fn encode(&mut self, inputs: &[Self::Input]) -> Result<Embeddings, EncodeError>;

    /// Answers `outputs` for each of `inputs` (at least one) in order, and the embedding where there is a projection.
    ///
    /// # Errors
    /// When the batch as a whole failed; always, in an encoder that has nothing but embeddings.
    fn encode_outputs(&mut self, inputs: &[Self::Input], outputs: OutputSet) -> Result<Vec<TowerOutputs>, EncodeError> {
        let _ = (inputs, outputs);
        Err(EncodeError::Runtime("this encoder has embeddings only".to_owned()))
    }

    /// Whether, in [`Encoder::encode`], a short input beside a long one costs as much as the long one.
    fn pads(&self) -> bool {
        true
    }

    /// What ends the next run, also before it has begun, and no other.
    fn interrupt(&mut self) -> Interrupt {
        Arc::new(|| {})
    }

    /// Whether a run that is interrupted ends after a small part of what it takes, so that it may be tried while others come first.
    fn ends_soon(&self) -> bool {
        false
    }
}
