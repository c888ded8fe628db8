//! Lines of a file, each of bounded length.
//!
//! Owns finding their ends, leaving out the byte order mark in front of the first, and the row that says that no more of them can be read.
//! Invariant: a line takes no more memory than the limit, however long it is; one that is longer is known by its length, and those behind it
//! are read.

use std::{
    fmt::Display,
    io::{self, BufRead},
};

use crate::bulk::sample::{Sample, Sink, Stop};

/// What some programs write in front of a text, and is none of it.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// A line, without its end (`\n` or `\r\n`).
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// As it is.
    Whole(Vec<u8>),
    /// Longer than the limit, so many bytes.
    TooLong(u64),
}

impl Line {
    /// Whether there is nothing on it.
    pub(super) fn is_blank(&self) -> bool {
        matches!(self, Self::Whole(bytes) if bytes.iter().all(u8::is_ascii_whitespace))
    }
}

/// Gives each line of the file `name` to `take`, with its number from 1. Where the file cannot be read, one row says so in place of
/// all that follows.
///
/// # Errors
/// When the sink or `take` says so.
pub(super) fn each<R: BufRead>(
    name: &str,
    reader: io::Result<R>,
    most: usize,
    sink: &mut dyn Sink,
    mut take: impl FnMut(u64, Line, &mut dyn Sink) -> Result<(), Stop>,
) -> Result<(), Stop> {
    let mut lines = match reader {
        Ok(reader) => Lines::new(reader, most),
        Err(error) => return unreadable(name, 0, &error, sink),
    };
    loop {
        match lines.next() {
            Ok(Some(line)) => take(lines.number, line, sink)?,
            Ok(None) => return Ok(()),
            Err(error) => return unreadable(name, lines.number, &error, sink),
        }
    }
}

/// What follows line `number` is lost: one row says so.
fn unreadable(name: &str, number: u64, error: &dyn Display, sink: &mut dyn Sink) -> Result<(), Stop> {
    let id = format!("{name}:{}", number + 1);
    let Some(ticket) = sink.ticket(&id)? else { return Ok(()) };
    let error = format!("the file cannot be read from here on: {error}");
    sink.send(ticket, Sample::unreadable(id, None, error))
}

/// The lines of a reader.
#[derive(Debug)]
struct Lines<R> {
    reader: R,
    most: usize,
    /// Of the last line that was read, from 1.
    number: u64,
}

impl<R: BufRead> Lines<R> {
    /// Of at most `most` bytes each.
    fn new(reader: R, most: usize) -> Self {
        Self { reader, most, number: 0 }
    }

    /// The next one. The last line end begins no further line.
    fn next(&mut self) -> io::Result<Option<Line>> {
        let (mut line, mut length, mut ended) = (Vec::new(), 0, false);
        let mark = if self.number == 0 { BYTE_ORDER_MARK.len() } else { 0 };
        while !ended {
            let buffer = self.reader.fill_buf()?;
            if buffer.is_empty() {
                break;
            }
            let end = memchr::memchr(b'\n', buffer);
            let piece = &buffer[..end.unwrap_or(buffer.len())];
            // With one byte more than the limit, which may be the `\r` of the end, and the mark.
            let room = (self.most + 1 + mark).saturating_sub(line.len()).min(piece.len());
            line.extend_from_slice(&piece[..room]);
            length += piece.len() as u64;
            ended = end.is_some();
            let used = piece.len() + usize::from(ended);
            self.reader.consume(used);
        }
        if mark > 0 && line.starts_with(BYTE_ORDER_MARK) {
            line.drain(..mark);
            length -= mark as u64;
        }
        if length == 0 && !ended {
            return Ok(None);
        }
        self.number += 1;
        let may_be_whole = line.len() as u64 == length && line.len() <= self.most + 1;
        if may_be_whole && line.last() == Some(&b'\r') {
            line.pop();
            length -= 1;
        }
        let line = if line.len() as u64 == length && line.len() <= self.most {
            Line::Whole(line)
        } else {
            Line::TooLong(length)
        };
        Ok(Some(line))
    }
}

#[cfg(test)]
mod tests {
    use std::io::BufReader;

    use super::*;

    fn lines(text: &[u8], most: usize, buffer: usize) -> Vec<Line> {
        let mut lines = Lines::new(BufReader::with_capacity(buffer, text), most);
        let mut all = Vec::new();
        while let Some(line) = lines.next().unwrap() {
            all.push(line);
            assert_eq!(lines.number, all.len() as u64);
        }
        all
    }

    fn whole(text: &str) -> Line {
        Line::Whole(text.as_bytes().to_vec())
    }

    #[test]
    fn lines_end_in_both_ways_and_the_last_need_not_end() {
        for buffer in [1, 2, 3, 64] {
            assert_eq!(lines(b"ab\r\n\ncd", 9, buffer), [whole("ab"), whole(""), whole("cd")]);
            assert_eq!(lines(b"ab\n", 9, buffer), [whole("ab")]);
            assert_eq!(lines(b"", 9, buffer), []);
            assert_eq!(lines(b"\n", 9, buffer), [whole("")]);
        }
    }

    #[test]
    fn a_line_at_the_limit_is_whole_and_a_longer_one_is_counted_and_passed() {
        for buffer in [1, 2, 64] {
            assert_eq!(lines(b"abc\r\nabcd\nab", 3, buffer), [whole("abc"), Line::TooLong(4), whole("ab")]);
            assert_eq!(lines(b"abcd\r\nabc", 3, buffer), [Line::TooLong(5), whole("abc")]);
        }
    }

    #[test]
    fn a_byte_order_mark_is_no_part_of_the_first_line() {
        for buffer in [1, 2, 64] {
            assert_eq!(lines(b"\xef\xbb\xbfabc\r\n\xef\xbb\xbf", 3, buffer), [whole("abc"), whole("\u{feff}")]);
            assert_eq!(lines(b"\xef\xbb\xbf", 3, buffer), []);
            assert_eq!(lines(b"\xef\xbb\xbfabcd\nabcdef", 3, buffer), [Line::TooLong(4), Line::TooLong(6)]);
        }
    }
}
