//! The first runs of an opened tower, and what its answers must be like before it may serve.
//!
//! Owns the inputs of these runs and the canary. Does not own sessions or threads.
//!
//! Invariant: after it, every session has answered a single item and two together with finite values of one length; where each size
//! of a batch costs its first run time, every power of two up to the largest, too. On a CPU a full batch of its own would take seconds of a
//! large model's start and tell nothing that two items do not.

use std::time::Instant;

use super::{
    error::StartError,
    parts::{Abilities, Sessions, TextParts, VisionParts},
};
use crate::{
    encoder::{Embeddings, EncodeError, Encoder, Output, PixelBuf, Role, Runner, Tokens},
    similarity,
};

/// Words that short texts have at most, after three: so many texts as a batch takes have fewer tokens than it may.
const SHORT: usize = 3;

/// Items of the canary's batch, where not each size of one is run.
const FEW: usize = 2;

/// Runs every session at [`FEW`] pictures and at one; when `each_batch_size`, at every power of two up to `max_batch_size`. Returns the
/// length of the embeddings, where there are any.
pub(super) fn vision<V: Encoder<Input = PixelBuf>>(
    vision: &mut VisionParts<V>,
    max_batch_size: usize,
    each_batch_size: bool,
) -> Result<Option<usize>, StartError> {
    let (height, width) = vision.processor.crop_size();
    // Grey ramps of different steepness: cheap, all different, no flat picture among them.
    let picture = |i: usize| {
        let bytes = (0..height as usize * width as usize * 3).map(|at| (at * (i + 1) / 97 % 256) as u8).collect();
        PixelBuf::new(width, height, bytes)
    };
    let count = if each_batch_size { max_batch_size } else { max_batch_size.min(FEW) };
    let pictures: Vec<PixelBuf> = (0..count).map(picture).collect();
    canary("vision", vision.abilities, &mut vision.sessions, &pictures, each_batch_size, |pictures| pictures.len())
}

/// As [`vision`], for texts; of each batch size, the most tokens and the most texts.
pub(super) fn text<T: Encoder<Input = Tokens>>(
    text: &mut TextParts<T>,
    max_batch_size: usize,
    max_batch_tokens: usize,
    each_batch_size: bool,
) -> Result<Option<usize>, StartError> {
    let TextParts { abilities, tokenizer, sessions } = text;
    // The longest first, then shorter and shorter.
    let texts = |count: usize, words: usize| -> Result<Vec<Tokens>, StartError> {
        let text = |i: usize| {
            let text = format!("a photo of {}", "word ".repeat(words - 1 - i * words / count));
            tokenizer.tokenize(&text, true).map(|text| text.tokens)
        };
        (0..count).map(text).collect::<Result<_, _>>().map_err(|error| StartError::Canary(error.to_string()))
    };
    let work = |texts: &[Tokens]| texts.iter().map(|tokens| tokens.ids().len()).sum();
    if each_batch_size {
        canary("text", *abilities, sessions, &texts(max_batch_size, SHORT)?, true, work)?;
    }
    let count = if each_batch_size { max_batch_size } else { max_batch_size.min(FEW) };
    let texts = texts(count, tokenizer.context_length())?;
    let fits = (max_batch_tokens / tokenizer.context_length()).max(1);
    let texts = &texts[..fits.min(texts.len())];
    canary("text", *abilities, sessions, texts, each_batch_size, work)
}

/// The embeddings must be finite, not zero, and those of an item alone must point where those of the item in a batch point
/// (cosine 0.99: half precision and 8 bits are allowed their rounding, a mixed-up batch is not). Of a tower without
/// projection, the same is asked of `pooler_output`. Takes down how long each run but the first took, with its `work`. Returns the length of the embeddings, where there are any.
fn canary<E: Encoder>(
    name: &str,
    abilities: Abilities,
    sessions: &mut Sessions<E>,
    inputs: &[E::Input],
    each_batch_size: bool,
    work: impl Fn(&[E::Input]) -> usize,
) -> Result<Option<usize>, StartError> {
    let mut dim = 0;
    let Sessions { runners, runs } = sessions;
    for Runner { encoder, .. } in runners.iter_mut().filter(|runner| runner.role == Role::Own) {
        let mut is_first = true;
        let mut run = |inputs: &[E::Input]| -> Result<Embeddings, StartError> {
            let started = Instant::now();
            let answer = if abilities.embeds { encoder.encode(inputs) } else { pooler_outputs(encoder, inputs) };
            let embeddings = answer.map_err(|error| StartError::Canary(format!("{name}: {error}")))?;
            // The first run of a session takes what beginning takes, and would have clients refused for it.
            if !std::mem::take(&mut is_first) {
                runs.push((work(inputs) as u64, started.elapsed()));
            }
            let sane = embeddings.rows().into_iter().all(|row| {
                let norm = similarity::norm(row);
                norm.is_finite() && norm > 0.0
            });
            if sane {
                Ok(embeddings)
            } else {
                Err(StartError::Canary(format!("{name}: embeddings are not finite or zero")))
            }
        };
        let mut batch = run(inputs)?;
        // The largest first, so that what it takes is there for the others.
        let between = (1..usize::BITS).rev().map(|power| 1 << power).filter(|&size| size < inputs.len());
        for size in between.filter(|_| each_batch_size) {
            run(&inputs[..size])?;
        }
        let last = inputs.len().saturating_sub(1);
        let mut alone = run(&inputs[last..])?;
        similarity::normalize(&mut batch);
        similarity::normalize(&mut alone);
        let cosine = batch.row(last).dot(&alone.row(0));
        if cosine < 0.99 {
            return Err(StartError::Canary(format!(
                "{name}: an input alone and in a batch of {} have cosine {cosine}",
                inputs.len()
            )));
        }
        dim = batch.ncols();
    }
    Ok(Some(dim).filter(|_| abilities.embeds))
}

fn pooler_outputs<E: Encoder>(encoder: &mut E, inputs: &[E::Input]) -> Result<Embeddings, EncodeError> {
    let answers = encoder.encode_outputs(inputs, [Output::PoolerOutput].into_iter().collect())?;
    let values: Vec<f32> = answers.into_iter().flat_map(|answer| answer.arrays).flatten().collect();
    let dim = values.len() / inputs.len().max(1);
    let mismatch = |error: ndarray::ShapeError| EncodeError::Runtime(error.to_string());
    Embeddings::from_shape_vec((inputs.len(), dim), values).map_err(mismatch)
}

#[cfg(test)]
mod tests {
    use std::{
        path::Path,
        sync::{Arc, Mutex},
    };

    use super::*;
    use crate::{model::texts::Tokenization, preprocess::text::TextTokenizer};

    /// Answers the same for each, and takes down how many there were and how long the longest was.
    #[derive(Clone, Default)]
    struct Recorder(Arc<Mutex<Vec<(usize, usize)>>>);

    impl Encoder for Recorder {
        type Input = Tokens;

        fn encode(&mut self, inputs: &[Tokens]) -> Result<Embeddings, EncodeError> {
            let longest = inputs.iter().map(|tokens| tokens.ids().len()).max().expect("an input");
            self.0.lock().expect("no panic").push((inputs.len(), longest));
            Ok(Embeddings::ones((inputs.len(), 4)))
        }
    }

    fn runs(max_batch_size: usize, max_batch_tokens: usize, each_batch_size: bool) -> Vec<(usize, usize)> {
        let tokenizer = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiny-clip/tokenizer.json");
        let tokenizer =
            TextTokenizer::open(&Tokenization::Transformers(tokenizer), 77, 1 << 14, None).expect("the fixture");
        let recorder = Recorder::default();
        let sessions = Sessions::new(vec![Runner::new(recorder.clone(), || Err("never".to_owned()))]);
        let mut parts = TextParts { abilities: Abilities { embeds: true, outputs: None }, tokenizer, sessions };
        let dim = text(&mut parts, max_batch_size, max_batch_tokens, each_batch_size);
        assert_eq!(dim.expect("sane answers"), Some(4));
        let runs = recorder.0.lock().expect("no panic");
        runs.clone()
    }

    #[test]
    fn two_texts_and_one_are_run_and_no_full_batch() {
        assert_eq!(runs(64, 2048, false), [(2, 77), (1, 43)]);
        assert_eq!(runs(4, 20, false), [(1, 77), (1, 77)]);
        assert_eq!(runs(1, 2048, false), [(1, 77), (1, 77)]);
    }

    #[test]
    fn a_gpu_has_seen_every_power_of_two_of_short_and_of_long_texts() {
        let runs = runs(256, 2048, true);
        let sizes = |runs: &[(usize, usize)]| runs.iter().map(|run| run.0).collect::<Vec<_>>();
        let (short, long) = runs.split_at(9);
        assert_eq!(sizes(short), [256, 128, 64, 32, 16, 8, 4, 2, 1]);
        assert_eq!(sizes(long), [26, 16, 8, 4, 2, 1]);
        assert!(short.iter().all(|(count, longest)| count * longest <= 2048), "{short:?}");
        assert_eq!(long[0].1, 77);
    }
}
