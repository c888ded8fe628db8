//! How many blocks compressed pixels may come in.
//!
//! A block begins with tables that take microseconds to set up, and may then hold nothing: neither its bytes nor those that come of it
//! bound its time.

use super::error::{ImageError, ImageFormatName};

/// Blocks of any picture: twice as many as it has rows, where an encoder flushes after each.
const OF_PICTURE: u64 = 1 << 13;

/// Blocks of each stream besides.
const OF_STREAM: u64 = 4;

/// Bytes that come of each block beyond those, on the mean. Encoders make blocks of tens of thousands, and of a row where they flush.
const BYTES_OF_MORE: u64 = 256;

/// Those that may still come.
#[derive(Debug)]
pub(super) struct Blocks(u64);

impl Blocks {
    /// Of so many streams, which become `bytes` bytes in all.
    pub(super) fn of(streams: u64, bytes: u64) -> Self {
        Self((OF_PICTURE + bytes / BYTES_OF_MORE).saturating_add(streams.saturating_mul(OF_STREAM)))
    }

    /// Takes one.
    pub(super) fn spend(&mut self, format: ImageFormatName) -> Result<(), ImageError> {
        self.0 = self.0.checked_sub(1).ok_or(ImageError::Wasteful { format })?;
        Ok(())
    }
}
