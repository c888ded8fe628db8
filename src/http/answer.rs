//! How large an answer may become, and its room in `limits.max_inflight_answer_bytes`.
//!
//! Owns the upper bounds and the taking. Does not write an answer (`reply`, `wire`), nor hold an item's way there to anything.
//!
//! Invariants: room is taken before anything is computed, for the arrays and the written bytes together; an answer is never longer than
//! its bound; once it is written its room is what it has, until its client has taken it.

use std::time::Duration;

use super::{ApiError, AppState, Code, Peers, connection::held::Held};
use crate::{
    budget::{ByteBudget, Reservation},
    telemetry::Reject,
};

/// A number of JSON with the comma behind it: of all f32 the longest is like -0.0000010000001.
const NUMBER: usize = 17;

/// What stands around a row, or a string, of JSON: two brackets or quotation marks, and a comma.
const AROUND: usize = 3;

/// The names of all fields, numbers that stand alone, and whatever else there is once in an answer.
const FRAME: usize = 512;

/// The head of an array in a NumPy file, and its entries in an archive.
const ARRAY_HEAD: usize = 512;

/// To write a number of JSON takes some 50 ns.
const NANOSECONDS_PER_BYTE: u64 = 4;

/// What an answer takes at most. Grows by what is added; sums that are too large stay at the largest number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Size {
    /// Bytes of arrays that are held while it is written.
    held: usize,
    /// Bytes that are written.
    written: usize,
}

/// How an array is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// Lists of numbers in JSON.
    Numbers,
    /// Strings of JSON, one for each row, or in all.
    Base64,
    /// A NumPy file, alone or in an archive.
    Npy,
}

impl Size {
    /// Of an answer that names `model`, without any array yet.
    pub(super) fn new(model: &str) -> Self {
        Self { held: 0, written: FRAME.saturating_add(escaped_len(model)) }
    }

    /// With `values` of f32 held while it is written.
    pub(super) fn holding(self, values: usize) -> Self {
        Self { held: self.held.saturating_add(values.saturating_mul(size_of::<f32>())), ..self }
    }

    /// With `bytes` written.
    pub(super) fn writing(self, bytes: usize) -> Self {
        Self { written: self.written.saturating_add(bytes), ..self }
    }

    /// With an array of f32 with these axes written, the last of which is that of a row.
    pub(super) fn writing_array(self, axes: &[usize], shape: Shape) -> Self {
        let product = |axes: &[usize]| axes.iter().fold(1, |product: usize, axis| product.saturating_mul(*axis));
        let (values, rows) = (product(axes), product(axes.split_last().map_or(&[], |(_, rows)| rows)));
        self.writing(match shape {
            // No axis before the last counts more lists than there are rows.
            Shape::Numbers => {
                let brackets = rows.saturating_mul(AROUND * axes.len());
                values.saturating_mul(NUMBER).saturating_add(brackets)
            }
            // Three bytes are four characters, and each string is padded.
            Shape::Base64 => values.saturating_mul(16).div_ceil(3).saturating_add(rows.saturating_mul(AROUND + 4)),
            Shape::Npy => values.saturating_mul(size_of::<f32>()).saturating_add(ARRAY_HEAD),
        })
    }

    /// Takes the room, made by ending those who do not read their answers where there is none.
    ///
    /// # Errors
    /// 413 when it is more than all answers together may take, 429 when others hold what it needs.
    pub(super) async fn reserve(self, state: &AppState) -> Result<Room, ApiError> {
        self.check(&state.answers)?;
        let taken = state.peers.make_room(Peers::end_slowest_reader, || self.take(&state.answers)).await;
        taken.ok_or_else(|| {
            state.metrics.reject(Reject::AnswerBytes);
            let message = "the server holds as many answers as it may; send the request again in a moment";
            // Nothing measures how fast clients take their answers; one second is when to look again.
            ApiError::new(Code::Overloaded, message).retry_after(Duration::from_secs(1))
        })
    }

    /// Bytes that are written at most.
    #[cfg(test)]
    pub(in crate::http) fn written(self) -> usize {
        self.written
    }

    fn bytes(self) -> usize {
        self.held.saturating_add(self.written)
    }

    /// Whether there could ever be room.
    fn check(self, budget: &ByteBudget) -> Result<(), ApiError> {
        let (bytes, capacity) = (self.bytes(), budget.capacity());
        if bytes <= capacity {
            return Ok(());
        }
        let message = format!(
            "the answer may take {bytes} bytes, the limit is {capacity} (limits.max_inflight_answer_bytes); send fewer items, ask \
             for less of them, or take a shorter form where there is one (base64, NumPy)"
        );
        Err(ApiError::new(Code::PayloadTooLarge, message))
    }

    fn take(self, budget: &ByteBudget) -> Option<Room> {
        Some(Room { written: self.written, reservation: budget.reserve(self.bytes())? })
    }
}

/// The room of one answer.
#[derive(Debug)]
pub(super) struct Room {
    written: usize,
    reservation: Reservation,
}

impl Room {
    /// How long it takes to write the answer, at most.
    pub(super) fn writing(&self) -> Duration {
        Duration::from_nanos((self.written as u64).saturating_mul(NANOSECONDS_PER_BYTE))
    }

    /// A buffer for the whole answer. What of it is never written to costs nothing.
    pub(super) fn buffer(&self) -> Vec<u8> {
        Vec::with_capacity(self.written)
    }

    /// What was written, its buffer and its room cut to its length, and its room kept until the client has it. The arrays must be
    /// gone.
    pub(super) fn settle(mut self, mut answer: Vec<u8>, held: &Held) -> Vec<u8> {
        debug_assert!(answer.len() <= self.written, "{} bytes, at most {} were expected", answer.len(), self.written);
        answer.shrink_to_fit();
        self.reservation.shrink_to(answer.len());
        held.keep(self.reservation);
        answer
    }
}

/// How long `text` is in JSON.
pub(super) fn escaped_len(text: &str) -> usize {
    let len = |byte| match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 0x08 | 0x0c => 2,
        0..0x20 => 6,
        _ => 1,
    };
    text.bytes().map(len).sum()
}

#[cfg(test)]
mod tests {
    use ndarray::{Array2, ArrayD, IxDyn};
    use proptest::prelude::*;

    use super::*;
    use crate::{
        encoder::Output,
        http::{
            embedding::{EmbeddingForm, EmbeddingType, Embeddings, EncodingFormat},
            native::wire::{Arrays, Nested},
            reply::{Npz, Written},
        },
    };

    fn bound(axes: &[usize], shape: Shape) -> usize {
        Size { held: 0, written: 0 }.writing_array(axes, shape).written
    }

    #[test]
    fn no_number_is_longer_than_its_bound() {
        // The longest are those just above where the exponent begins: sign, 0.00000 and nine digits.
        for bits in (f32::to_bits(9e-7)..f32::to_bits(2e-6)).chain((0..f32::INFINITY.to_bits()).step_by(49_999)) {
            let number = serde_json::to_string(&-f32::from_bits(bits)).expect("JSON");
            assert!(number.len() < NUMBER, "{number}");
        }
    }

    proptest! {
        #[test]
        fn an_array_is_never_longer_than_its_bound(axes in prop::collection::vec(1usize..6, 2..6)) {
            let array = ArrayD::from_elem(IxDyn(&axes), -0.000_001_000_000_1f32);
            let len = serde_json::to_string(&Nested(array.view())).expect("JSON").len();
            prop_assert!(len <= bound(&axes, Shape::Numbers) + 2);
            let arrays = [(Output::Attentions, array)];
            let packed = Arrays { arrays: &arrays, format: EncodingFormat::Base64 };
            let len = serde_json::to_string(&packed).expect("JSON").len();
            prop_assert!(len <= bound(&axes, Shape::Base64) + FRAME);
            let mut npz = Npz::new(Vec::new());
            npz.add(Output::LastHiddenState.name(), &arrays[0].1).expect("in memory");
            prop_assert!(npz.finish().expect("in memory").len() <= bound(&axes, Shape::Npy));
        }

        #[test]
        fn a_matrix_is_never_longer_than_its_bound(rows in 1usize..9, columns in 1usize..9) {
            let matrix = Array2::from_elem((rows, columns), -0.000_001_000_000_1f32);
            for (format, shape) in [(EncodingFormat::Float, Shape::Numbers), (EncodingFormat::Base64, Shape::Base64)] {
                let json = serde_json::to_string(&Embeddings { rows: matrix.view(), form: EmbeddingForm { kind: EmbeddingType::Float, format }.scaled(127.0) }).expect("JSON");
                prop_assert!(json.len() <= bound(&[rows, columns], shape) + 2, "{}", json);
            }
            let npy = Written::npy(Vec::new(), &matrix).expect("in memory");
            prop_assert!(npy.len() <= bound(&[rows, columns], Shape::Npy));
        }

        #[test]
        fn the_length_of_a_text_in_json_is_known(text in "[\u{0}-\u{7f}]{0,20}\\PC{0,20}") {
            prop_assert_eq!(escaped_len(&text) + 2, serde_json::to_string(&text).expect("JSON").len());
        }
    }

    #[test]
    fn what_can_never_have_room_is_413_and_what_others_hold_is_not_taken() {
        let budget = ByteBudget::new(16 << 10);
        let size = |bytes: usize| Size { held: 0, written: 0 }.holding(bytes / 8).writing(bytes / 2);
        let room = size(12 << 10).take(&budget).expect("room");
        assert!(size(8 << 10).check(&budget).is_ok() && size(8 << 10).take(&budget).is_none(), "held by another");
        let error = size(17 << 10).check(&budget).expect_err("more than there is");
        assert_eq!(error.code, Code::PayloadTooLarge);
        assert!(error.message.contains("17408 bytes, the limit is 16384"), "{}", error.message);
        assert_eq!(Size::new("m").writing_array(&[usize::MAX, 2], Shape::Numbers).written, usize::MAX, "no overflow");

        let held = Held::default();
        let mut buffer = room.buffer();
        assert_eq!(buffer.capacity(), 6 << 10);
        buffer.extend_from_slice(&[0; 1500]);
        let answer = room.settle(buffer, &held);
        assert_eq!((answer.capacity(), budget.left()), (1500, 14 << 10), "arrays and slack are given back");
        drop(held);
        assert_eq!(budget.left(), 16 << 10);
    }
}
