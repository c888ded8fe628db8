//! Made-up pictures and texts for bare sessions, by number: the same in every process and on every machine.
//!
//! Owns what they are, and the tensors of a batch of them. Reads from a session how large they have to be.

use clipserve::export::metadata::VOCAB_SIZE;
use ort::{
    session::Session,
    value::{DynValue, Tensor},
};

use crate::Result;

/// What a graph runs on, by number: the same in every process.
pub(crate) enum Inputs {
    /// Pictures of this side.
    Pictures(usize),
    /// Texts of ids below this, the last two of which begin and end them.
    Texts(i64),
}

impl Inputs {
    /// What the session's graph takes.
    pub(crate) fn of(session: &Session) -> Result<Self> {
        let input = session.inputs().first().ok_or("the graph has no input")?;
        if input.name() == "input_ids" {
            let size = session.metadata()?.custom(VOCAB_SIZE).ok_or("the graph does not say its vocabulary")?;
            return Ok(Self::Texts(size.parse()?));
        }
        let side = input.dtype().tensor_shape().and_then(|shape| usize::try_from(*shape.get(1)?).ok());
        Ok(Self::Pictures(side.ok_or("the graph does not say how large its pictures are")?))
    }

    /// The first `batch` of them.
    pub(crate) fn tensor(&self, batch: usize) -> Result<(&'static str, DynValue)> {
        match *self {
            Self::Pictures(side) => {
                let pixels: Vec<u8> = (0..batch).flat_map(|number| picture(number, side)).collect();
                Ok(("pixel_values", Tensor::from_array(([batch, side, side, 3], pixels))?.into_dyn()))
            }
            Self::Texts(vocabulary) => {
                let texts: Vec<Vec<i64>> = (0..batch).map(|number| text(number, vocabulary)).collect();
                let longest = texts.iter().map(Vec::len).max().unwrap_or(0);
                let end = std::iter::repeat(vocabulary - 1);
                let padded = texts.into_iter().flat_map(|ids| ids.into_iter().chain(end.clone()).take(longest));
                let ids: Vec<i64> = padded.collect();
                Ok(("input_ids", Tensor::from_array(([batch, longest], ids))?.into_dyn()))
            }
        }
    }
}

/// Noise, blocks of a seventh of the side, or a gradient.
fn picture(number: usize, side: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(number as u64);
    let block = (side / 7).max(1);
    let colours: Vec<u8> = (0..8 * 8 * 3).map(|_| random.u8(..)).collect();
    let [from, to] = [colours[0], colours[1]].map(usize::from);
    let sample = |at: usize| {
        let (x, y, channel) = (at / 3 % side, at / 3 / side, at % 3);
        match number % 3 {
            0 => random.u8(..),
            1 => colours[((y / block).min(7) * 8 + (x / block).min(7)) * 3 + channel],
            _ => ((from * (side - x) + to * x) / side * (2 * side - y) / (2 * side)) as u8,
        }
    };
    (0..side * side * 3).map(sample).collect()
}

/// 9 to 19 ids, as captions have them.
fn text(number: usize, vocabulary: i64) -> Vec<i64> {
    let mut random = fastrand::Rng::with_seed(number as u64);
    let words: Vec<i64> = (0..random.usize(7..=17)).map(|_| random.i64(1..vocabulary - 2)).collect();
    [&[vocabulary - 2][..], &words, &[vocabulary - 1]].concat()
}
