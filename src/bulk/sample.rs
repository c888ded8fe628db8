//! What sources give, and where it goes.
//!
//! Owns the two types that every source speaks. Does not own how samples are found (`sources`) or chosen (`turn`).
//!
//! Invariant: a source asks for a ticket for every sample it has, in an order that its files alone decide, and sends one sample
//! for every ticket it gets.

use bytes::Bytes;

/// Bytes of an id or a path; Linux takes paths of 4096. A cell that a dictionary repeats costs its file nothing, and every row its length.
pub(super) const MAX_NAME: usize = 4096;
/// Bytes of a reason: it is written twice for every row, and a library's may have the item's own bytes in it.
const MAX_REASON: usize = 1024;

/// A picture, a text, or both, and what is known of them.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Sample {
    /// What its row is known by.
    pub(super) id: String,
    /// Where the picture came from.
    pub(super) path: Option<String>,
    /// The text beside the picture, or the text itself.
    pub(super) caption: Option<String>,
    /// What else its source has on it, as JSON.
    pub(super) metadata: Option<String>,
    /// The picture's file.
    pub(super) picture: Option<Bytes>,
    /// Why there is none, where its source knows more than that; a text beside it is embedded all the same.
    pub(super) no_picture: Option<String>,
    /// The same of the text, and of what it would be read from.
    pub(super) no_text: Option<String>,
    /// Why nothing of it can be read; then it is not embedded.
    pub(super) error: Option<String>,
}

impl Sample {
    /// A sample of which nothing else can be had.
    pub(super) fn unreadable(id: String, path: Option<String>, error: String) -> Self {
        Self { id, path, error: Some(short(error)), ..Self::default() }
    }

    /// Takes what is of its picture, or the reason why that cannot be had, which costs it no text.
    pub(super) fn take_picture<T>(&mut self, value: Result<T, String>) -> Option<T> {
        taken(value, &mut self.no_picture)
    }

    /// Takes what is of its text, or the reason why that cannot be had, which costs it no picture.
    pub(super) fn take_text<T>(&mut self, value: Result<T, String>) -> Option<T> {
        taken(value, &mut self.no_text)
    }

    /// Bytes that it holds while it waits.
    pub(super) fn bytes(&self) -> usize {
        let texts = [&self.path, &self.caption, &self.metadata, &self.no_picture, &self.no_text, &self.error];
        let texts = texts.into_iter().flatten().map(String::len).sum::<usize>();
        self.picture.as_ref().map_or(0, Bytes::len) + self.id.len() + texts
    }

    /// Nothing of it can be read, for this reason, unless there is one already.
    pub(super) fn fail(&mut self, error: String) {
        self.error.get_or_insert_with(|| short(error));
    }

    /// Whatever its source has said of why something of it cannot be had.
    #[cfg(test)]
    pub(super) fn reason(&self) -> Option<&str> {
        [&self.error, &self.no_picture, &self.no_text].into_iter().find_map(|reason| reason.as_deref())
    }

    /// Takes `value`, or the reason why nothing of it can be read.
    pub(super) fn take<T>(&mut self, value: Result<T, String>) -> Option<T> {
        taken(value, &mut self.error)
    }
}

/// `value`, or the reason why there is none, which goes to `reason` unless there is one already.
fn taken<T>(value: Result<T, String>, reason: &mut Option<String>) -> Option<T> {
    value.map_err(|error| reason.get_or_insert_with(|| short(error))).ok()
}

/// An id or a path.
///
/// # Errors
/// The reason, for its row: it is too long, or no UTF-8. `what` it is.
pub(super) fn name_of(bytes: &[u8], what: &str) -> Result<String, String> {
    name_length(bytes.len(), what)?;
    std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| format!("the {what} is not UTF-8"))
}

/// Whether an id, a path or another name may have so many bytes.
///
/// # Errors
/// The reason, for its row.
pub(super) fn name_length(bytes: usize, what: &str) -> Result<(), String> {
    if bytes <= MAX_NAME { Ok(()) } else { Err(format!("the {what} has {bytes} bytes, the limit is {MAX_NAME}")) }
}

/// A reason without its middle where it is long: a path stands at its beginning, and what is wrong with it at its end.
fn short(reason: String) -> String {
    if reason.len() <= MAX_REASON {
        return reason;
    }
    let cut = "…";
    let half = (MAX_REASON - cut.len()) / 2;
    let (begin, end) = (reason.floor_char_boundary(half), reason.ceil_char_boundary(reason.len() - half));
    format!("{}{cut}{}", &reason[..begin], &reason[end..])
}

/// All origins up to a sample, in one number: two runs that agree on it have seen the same samples in the same order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Chain(blake3::Hash);

impl Chain {
    /// Of no sample.
    pub(super) const EMPTY: Self = Self(blake3::Hash::from_bytes([0; 32]));

    /// With one more sample.
    pub(super) fn then(self, origin: &str) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(self.0.as_bytes()).update(origin.as_bytes());
        Self(hasher.finalize())
    }

    /// As hexadecimal digits.
    pub(super) fn to_hex(self) -> String {
        self.0.to_hex().to_string()
    }

    /// From them.
    pub(super) fn from_hex(text: &str) -> Option<Self> {
        blake3::Hash::from_hex(text).ok().map(Self)
    }
}

/// The right to send one sample.
#[derive(Debug)]
pub(super) struct Ticket(pub(super) Chain);

/// Why a source is to stop.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// Nobody takes samples any more.
    Closed,
    /// The samples are not those of the parts that are there.
    Changed(String),
}

/// Where samples go.
pub(super) trait Sink {
    /// A ticket for the next sample, where it is wanted. `origin` is what it is known by before anything of it is read.
    ///
    /// # Errors
    /// When the source is to stop.
    fn ticket(&mut self, origin: &str) -> Result<Option<Ticket>, Stop>;

    /// Sends the sample of a ticket; waits while there is no room.
    ///
    /// # Errors
    /// As [`Sink::ticket`].
    fn send(&mut self, ticket: Ticket, sample: Sample) -> Result<(), Stop>;
}

/// A sink that keeps everything, for the tests of sources.
#[cfg(test)]
#[derive(Default)]
pub(super) struct Kept {
    pub(super) origins: Vec<String>,
    pub(super) samples: Vec<Sample>,
    /// Samples that are not wanted, by number.
    pub(super) unwanted: std::collections::HashSet<usize>,
}

#[cfg(test)]
impl Sink for Kept {
    fn ticket(&mut self, origin: &str) -> Result<Option<Ticket>, Stop> {
        self.origins.push(origin.to_owned());
        Ok((!self.unwanted.contains(&(self.origins.len() - 1))).then_some(Ticket(Chain::EMPTY)))
    }

    fn send(&mut self, _: Ticket, sample: Sample) -> Result<(), Stop> {
        self.samples.push(sample);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_a_sample_holds_is_counted() {
        let long = || "x".repeat(100);
        let sample = Sample { id: long(), path: Some(long()), error: Some(long()), ..Sample::default() };
        assert_eq!(sample.bytes(), 300);
    }

    #[test]
    fn names_have_a_length_and_long_reasons_lose_their_middle() {
        assert_eq!(name_of(&[b'a'; MAX_NAME], "id").unwrap().len(), MAX_NAME);
        assert_eq!(name_of(&[b'a'; MAX_NAME + 1], "id").unwrap_err(), "the id has 4097 bytes, the limit is 4096");
        assert_eq!(name_of(b"\xff", "path").unwrap_err(), "the path is not UTF-8");
        let reason = format!("{}: no such file", "ä".repeat(3000));
        for cut in [Sample::unreadable(String::new(), None, reason.clone()).error, {
            let mut sample = Sample::default();
            sample.take::<()>(Err(reason));
            sample.error
        }] {
            let cut = cut.unwrap();
            assert!(cut.len() <= MAX_REASON && cut.starts_with("ää") && cut.ends_with("ä: no such file"), "{cut}");
        }
    }
}
