//! Whether the head of a request says in two ways how long its body is.
//!
//! Owns looking for `Content-Length` beside `Transfer-Encoding` in the bytes of a head. hyper goes by the second, as RFC 9112 (section
//! 6.3) has it, closes the connection behind the request, and tells nobody; a proxy in front that went by the first has seen other
//! requests in the same bytes. Does not parse a head, nor refuse a request.
//!
//! Limit: a head that comes in one read with the end of the request before it, pipelined, is not looked at.

/// Names of header fields, with their colons.
const LENGTH: &[u8] = b"content-length:";
const CODING: &[u8] = b"transfer-encoding:";

/// What is known of a head so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct HeadScan {
    /// The beginning of the present line.
    start: [u8; CODING.len()],
    /// Bytes of it.
    line: usize,
    has_length: bool,
    has_coding: bool,
    /// Whether a line that is not empty has come: empty ones may stand before a head.
    begun: bool,
    ended: bool,
}

impl HeadScan {
    /// Takes in the next bytes. What follows the end of the head is not looked at.
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while !self.ended {
            let Some(end) = memchr::memchr(b'\n', rest) else { return self.extend(rest) };
            self.extend(&rest[..end]);
            self.end_line();
            rest = &rest[end + 1..];
        }
    }

    /// More of the present line, of which only the beginning counts.
    fn extend(&mut self, part: &[u8]) {
        for &byte in part.iter().filter(|&&byte| byte != b'\r') {
            let Some(place) = self.start.get_mut(self.line) else { return };
            *place = byte.to_ascii_lowercase();
            self.line += 1;
        }
    }

    fn end_line(&mut self) {
        let start = &self.start[..self.line];
        self.has_length |= start.starts_with(LENGTH);
        self.has_coding |= start.starts_with(CODING);
        self.ended = self.begun && self.line == 0;
        self.begun |= self.line > 0;
        self.line = 0;
    }

    /// Whether both are there.
    pub(super) fn is_ambiguous(self) -> bool {
        self.has_length && self.has_coding
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_fields_in_one_head_are_seen_wherever_its_bytes_are_cut() {
        for (head, ambiguous) in [
            ("POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", true),
            ("\r\nPOST / HTTP/1.1\ntransfer-ENCODING:chunked\nCONTENT-length:1\n\n", true),
            ("POST / HTTP/1.1\r\nContent-Length: 1\r\n\r\nTransfer-Encoding: chunked\r\n\r\n", false),
            ("POST / HTTP/1.1\r\nx-content-length: 1\r\ntransfer-encoding: chunked\r\n\r\n", false),
            (
                "POST /content-length:transfer-encoding: HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 1\r\n\r\n",
                false,
            ),
        ] {
            for cut in 0..head.len() {
                let mut scan = HeadScan::default();
                scan.feed(&head.as_bytes()[..cut]);
                scan.feed(&head.as_bytes()[cut..]);
                assert_eq!(scan.is_ambiguous(), ambiguous, "{head} {cut}");
            }
        }
    }
}
