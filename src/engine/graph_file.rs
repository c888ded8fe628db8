//! A graph's file as what it is: protobuf messages in each other, walked by their lengths.
//!
//! Owns the reading of fields, names and payloads. Does not own what the fields mean (`operators`, `split`).
//!
//! Invariants: a field lies within the message it is of; what is not asked for is passed over, not read, so a gigabyte of
//! weights costs nothing.

use std::{
    fs::File,
    io::{self, BufReader, Cursor, Read, Seek, SeekFrom},
    ops::Range,
    path::Path,
};

use prost::encoding::WireType;

/// One field of a message: where it is in the file.
#[derive(Clone, Copy)]
pub(super) struct Field {
    pub number: u32,
    /// Where its key is.
    pub start: u64,
    payload: u64,
    /// Where the next one is.
    pub end: u64,
}

impl Field {
    /// Its message, string or bytes; empty for a number.
    pub(super) fn payload(&self) -> Range<u64> {
        self.payload..self.end
    }
}

/// A file of nested protobuf messages.
pub(super) struct GraphFile<R> {
    reader: BufReader<R>,
    /// Where the reader is. Asking the reader would be a call of the system for every field.
    position: u64,
    length: u64,
}

impl GraphFile<File> {
    /// Opens the file.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        Ok(Self { length: file.metadata()?.len(), reader: BufReader::new(file), position: 0 })
    }
}

impl<'a> GraphFile<Cursor<&'a [u8]>> {
    /// What stands in memory as if it were a file.
    pub(super) fn of_bytes(bytes: &'a [u8]) -> Self {
        Self { length: bytes.len() as u64, reader: BufReader::new(Cursor::new(bytes)), position: 0 }
    }
}

impl<R: Read + Seek> GraphFile<R> {
    /// The outermost message.
    pub(super) fn whole(&self) -> Range<u64> {
        0..self.length
    }

    /// The fields of `message`.
    ///
    /// # Errors
    /// See [`Self::next`].
    pub(super) fn fields(&mut self, mut message: Range<u64>) -> io::Result<Vec<Field>> {
        let mut fields = Vec::new();
        while let Some(field) = self.next(&mut message)? {
            fields.push(field);
        }
        Ok(fields)
    }

    /// The first field of what is left of `message`, which it is taken from; `None` at the end.
    ///
    /// # Errors
    /// When the file cannot be read; [`is_damaged`] says of one that it holds no such messages.
    pub(super) fn next(&mut self, message: &mut Range<u64>) -> io::Result<Option<Field>> {
        if message.is_empty() {
            return Ok(None);
        }
        let start = message.start;
        self.seek(start)?;
        let key = self.varint()?;
        let length = match WireType::try_from(key & 7).map_err(|_| damaged())? {
            WireType::Varint => {
                self.varint()?;
                0
            }
            WireType::SixtyFourBit => 8,
            WireType::ThirtyTwoBit => 4,
            WireType::LengthDelimited => self.varint()?,
            // Groups, which ONNX does not use.
            WireType::StartGroup | WireType::EndGroup => return Err(damaged()),
        };
        let payload = self.position;
        let end = payload.checked_add(length).filter(|&end| end <= message.end).ok_or_else(damaged)?;
        message.start = end;
        Ok(Some(Field { number: u32::try_from(key >> 3).map_err(|_| damaged())?, start, payload, end }))
    }

    /// The string that is field `number` of the message in `field`; empty where there is none.
    ///
    /// # Errors
    /// See [`Self::next`]; also where it is no UTF-8.
    pub(super) fn name(&mut self, field: &Field, number: u32) -> io::Result<String> {
        let mut message = field.payload();
        while let Some(inner) = self.next(&mut message)? {
            if inner.number == number {
                return String::from_utf8(self.read(inner.payload())?).map_err(|_| damaged());
            }
        }
        Ok(String::new())
    }

    /// Whether the bytes of `range` begin with `start`; no more of them are read.
    ///
    /// # Errors
    /// See [`Self::read`].
    pub(super) fn starts_with(&mut self, range: Range<u64>, start: &[u8]) -> io::Result<bool> {
        let end = range.start + start.len() as u64;
        Ok(end <= range.end && self.read(range.start..end)? == start)
    }

    /// The bytes of a range.
    ///
    /// # Errors
    /// When the file cannot be read, or has become shorter.
    pub(super) fn read(&mut self, range: Range<u64>) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.append(range, &mut bytes)?;
        Ok(bytes)
    }

    /// Appends the bytes of a range.
    ///
    /// # Errors
    /// When the file cannot be read, or has become shorter.
    pub(super) fn append(&mut self, range: Range<u64>, bytes: &mut Vec<u8>) -> io::Result<()> {
        self.seek(range.start)?;
        let length = range.end - range.start;
        let read = (&mut self.reader).take(length).read_to_end(bytes)? as u64;
        self.position += read;
        if read == length { Ok(()) } else { Err(damaged()) }
    }

    fn varint(&mut self) -> io::Result<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let mut byte = [0];
            self.reader.read_exact(&mut byte)?;
            self.position += 1;
            value |= u64::from(byte[0] & 0x7f) << shift;
            if byte[0] < 0x80 {
                return Ok(value);
            }
        }
        Err(damaged())
    }

    /// Goes to `position`; within what is buffered, without reading again.
    fn seek(&mut self, position: u64) -> io::Result<()> {
        match i64::try_from(i128::from(position) - i128::from(self.position)) {
            Ok(distance) => self.reader.seek_relative(distance)?,
            Err(_) => self.reader.seek(SeekFrom::Start(position)).map(|_| ())?,
        }
        self.position = position;
        Ok(())
    }
}

/// Why there are no such messages in a file that can be read.
pub(super) fn damaged() -> io::Error {
    io::ErrorKind::InvalidData.into()
}

/// Whether an error says that a file which can be read is no graph, or no whole one.
pub(super) fn is_damaged(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
}

/// A message's field `number` as it stands in a file, for tests.
#[cfg(test)]
pub(super) fn field(number: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    prost::encoding::encode_key(number, WireType::LengthDelimited, &mut bytes);
    prost::encoding::encode_varint(payload.len() as u64, &mut bytes);
    [bytes.as_slice(), payload].concat()
}
