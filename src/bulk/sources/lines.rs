//! Lines of a file, each of bounded length.
//!
//! Owns finding their ends. Invariant: a line takes no more memory than the limit, however long it is; one that is longer is known
//! by its length, and those behind it are read.

use std::io::{self, BufRead};

/// A line, without its end (`\n` or `\r\n`).
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// As it is.
    Whole(Vec<u8>),
    /// Longer than the limit, so many bytes.
    TooLong(u64),
}

/// The lines of a reader.
#[derive(Debug)]
pub(super) struct Lines<R> {
    reader: R,
    most: usize,
    number: u64,
}

impl<R: BufRead> Lines<R> {
    /// Of at most `most` bytes each.
    pub(super) fn new(reader: R, most: usize) -> Self {
        Self { reader, most, number: 0 }
    }

    /// The next one with its number, from 1. The last line end begins no further line.
    ///
    /// # Errors
    /// What the reader says.
    pub(super) fn next(&mut self) -> io::Result<Option<(u64, Line)>> {
        let (mut line, mut length, mut ended) = (Vec::new(), 0, false);
        while !ended {
            let buffer = self.reader.fill_buf()?;
            if buffer.is_empty() {
                break;
            }
            let end = memchr::memchr(b'\n', buffer);
            let piece = &buffer[..end.unwrap_or(buffer.len())];
            // With one byte more than the limit, which may be the `\r` of the end.
            let room = (self.most + 1).saturating_sub(line.len()).min(piece.len());
            line.extend_from_slice(&piece[..room]);
            length += piece.len() as u64;
            ended = end.is_some();
            let used = piece.len() + usize::from(ended);
            self.reader.consume(used);
        }
        if length == 0 && !ended {
            return Ok(None);
        }
        self.number += 1;
        if line.len() as u64 == length && line.last() == Some(&b'\r') {
            line.pop();
            length -= 1;
        }
        let line = if line.len() as u64 == length && line.len() <= self.most {
            Line::Whole(line)
        } else {
            Line::TooLong(length)
        };
        Ok(Some((self.number, line)))
    }
}

#[cfg(test)]
mod tests {
    use std::io::BufReader;

    use super::*;

    fn lines(text: &[u8], most: usize, buffer: usize) -> Vec<Line> {
        let mut lines = Lines::new(BufReader::with_capacity(buffer, text), most);
        let mut all = Vec::new();
        while let Some((number, line)) = lines.next().unwrap() {
            all.push(line);
            assert_eq!(number, all.len() as u64);
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
}
