//! What the markers of a JPEG say, before any pixel is decoded.
//!
//! Owns the walk over them: EXIF and XMP, what the scans cost, and how the data ends. Judges neither; does not read entropy-coded data.
//! Invariant: the walk finds the segments that libjpeg finds, in the same places. Where it cannot, it says that the data has no end.

use std::borrow::Cow;

use super::{
    scans::{Frame, Scans},
    tail,
};
use crate::preprocess::memory::OutOfMemory;

/// What the markers of a file say.
#[derive(Debug)]
pub(super) struct Markers<'a> {
    /// The scans, and what they cost.
    pub(super) scans: Scans,
    /// How the data ends.
    pub(super) end: End,
    /// The EXIF block before the first scan with its name in front; several are pieces of one, as Pillow has it.
    pub(super) exif: Option<Cow<'a, [u8]>>,
    /// The last XMP packet before the first scan.
    pub(super) xmp: Option<&'a [u8]>,
    /// A marker before the first scan that Pillow has no name for, and ends at; libjpeg passes over 0x01.
    pub(super) unknown: Option<u8>,
}

/// How the data of a JPEG ends.
///
/// Pillow feeds libjpeg what there is, and refuses the picture if libjpeg asks for more before it has given the last row. What it asks
/// for afterwards does not matter. Of a picture in one scan it gives rows as it reads; of another when it has met the end marker.
///
/// It reads up to 8 bytes ahead. Where those decide, the last rows being there, Pillow may answer otherwise for a file of more than 64 KiB:
/// it reads in blocks of that size, and where one begins, so does the reading ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// With its marker.
    Marked,
    /// Without, but the only scan is ended by another marker: where it is too short, libjpeg fills up the rows. Up to here the file is whole.
    Stopped { whole: usize },
    /// The only scan goes on to the end of the file: the decoder has to be watched.
    Open,
    /// Not at all.
    Missing,
}

impl<'a> Markers<'a> {
    /// Walks over the markers of a file.
    pub(super) fn walk(bytes: &'a [u8]) -> Result<Self, OutOfMemory> {
        let mut markers = Self { scans: Scans::default(), end: End::Missing, exif: None, xmp: None, unknown: None };
        let mut frame = None;
        let (mut restarts, mut stopped) = (false, false);
        let mut position = 2;
        let whole = loop {
            let rest = bytes.get(position..).unwrap_or_default();
            let Some(at) = memchr::memchr(0xff, rest) else { break bytes.len() };
            let Some(fill) = rest[at..].iter().position(|&byte| byte != 0xff) else { break position + at };
            let (start, marker) = (position + at, rest[at + fill]);
            position = start + fill + 1;
            match marker {
                0xd9 => {
                    markers.end = End::Marked;
                    return Ok(markers);
                }
                // A byte of data that looks like a marker.
                0x00 => continue,
                _ => {}
            }
            if markers.scans.count == 0 && marker < 0xc0 {
                markers.unknown = Some(marker);
            }
            // Where restarts are expected, libjpeg reads on behind one, and behind what is no marker at all.
            let resumes = restarts && matches!(marker, ..0xc0 | 0xd0..=0xd7);
            stopped |= markers.scans.count > 0 && !resumes;
            if matches!(marker, ..0xc0 | 0xd0..=0xd8) {
                continue;
            }
            // libjpeg refuses any other behind a scan, whether its segment is there or not.
            let may_follow = matches!(marker, 0xc4 | 0xcc | 0xda..=0xdd | 0xe0..=0xef | 0xfe);
            let cut = if may_follow { start } else { bytes.len() };
            let Some(&length) = bytes.get(position..).and_then(<[u8]>::first_chunk) else { break cut };
            let length = usize::from(u16::from_be_bytes(length));
            if length < 2 {
                // libjpeg says what it makes of that.
                break bytes.len();
            }
            let Some(segment) = bytes.get(position + 2..position + length) else {
                if tail::is_wrong(marker, length, &bytes[position + 2..]) {
                    return Ok(markers);
                }
                break cut;
            };
            position += length;
            match marker {
                0xc0..=0xcf if !matches!(marker, 0xc4 | 0xc8 | 0xcc) => frame = Frame::read(marker, segment),
                0xda => markers.scans.add(frame.as_ref(), segment),
                0xdd if markers.scans.count == 0 => restarts = segment.iter().any(|&byte| byte != 0),
                0xe1 if markers.scans.count == 0 => markers.application_1(segment)?,
                _ => {}
            }
        };
        markers.end = match (markers.scans.is_single, stopped) {
            (false, _) => End::Missing,
            (true, true) => End::Stopped { whole },
            (true, false) => End::Open,
        };
        Ok(markers)
    }

    fn application_1(&mut self, segment: &'a [u8]) -> Result<(), OutOfMemory> {
        if let Some(block) = segment.strip_prefix(b"Exif\0\0") {
            match &mut self.exif {
                Some(exif) => {
                    // The first piece is copied here; one is no longer than a segment.
                    let exif = exif.to_mut();
                    exif.try_reserve(block.len())?;
                    exif.extend_from_slice(block);
                }
                None => self.exif = Some(Cow::Borrowed(segment)),
            }
        } else if let Some(packet) = segment.strip_prefix(b"http://ns.adobe.com/xap/1.0/\0") {
            self.xmp = Some(packet);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME: &[u8] = b"\xff\xc0\0\x0b\x08\0\x08\0\x08\x01\x01\x11\0";
    const SCAN: &[u8] = b"\xff\xda\0\x08\x01\x01\0\0\x3f\0";

    fn end(parts: &[&[u8]]) -> End {
        let bytes = [b"\xff\xd8", &parts.concat()[..]].concat();
        Markers::walk(&bytes).unwrap().end
    }

    #[test]
    fn data_ends_with_its_marker_or_another_or_the_file() {
        let progressive: &[u8] = b"\xff\xc2\0\x0b\x08\0\x08\0\x08\x01\x01\x11\0";
        let whole = 2 + FRAME.len() + SCAN.len() + 5;
        for (rest, expected) in [
            (b"dat\xff\0a\xff\xd9".as_slice(), End::Marked),
            (b"dat\xff\0", End::Open),
            (b"dat\xff\0\0\0\0\xff", End::Open),
            (b"dat\xff\0\xff\xdb\0\x43", End::Stopped { whole }),
            (b"dat\xff\0\xff\xdb", End::Stopped { whole }),
            (b"dat\xff\0\xff\xc0", End::Stopped { whole: whole + 2 }),
            (b"dat\xff\0\xff\xd3", End::Stopped { whole: whole + 2 }),
            (b"dat\xff\0\xff\xdb\0\x02", End::Stopped { whole: whole + 4 }),
            (b"dat\xff\0\xff\xdb\0\x43\x04", End::Missing),
        ] {
            assert_eq!(end(&[FRAME, SCAN, rest]), expected, "{rest:?}");
            let of_many = if expected == End::Marked { End::Marked } else { End::Missing };
            assert_eq!(end(&[progressive, SCAN, rest]), of_many, "{rest:?}");
        }
    }

    #[test]
    fn a_restart_does_not_end_the_data_where_it_is_expected() {
        let restarts: &[u8] = b"\xff\xdd\0\x04\0\x01";
        assert_eq!(end(&[restarts, FRAME, SCAN, b"a\xff\xd0b\xff\x99c"]), End::Open);
        let whole = 2 + restarts.len() + FRAME.len() + SCAN.len() + 4;
        assert_eq!(end(&[restarts, FRAME, SCAN, b"a\xff\xd0b\xff\xe0\0\x09"]), End::Stopped { whole });
        assert_eq!(end(&[restarts, FRAME, SCAN, b"a\xff\xd0b\xff\xd9"]), End::Marked);
    }

    #[test]
    fn a_marker_without_a_name_is_told_of_before_the_first_scan_alone() {
        let unknown = |parts: &[&[u8]]| Markers::walk(&[b"\xff\xd8", &parts.concat()[..]].concat()).unwrap().unknown;
        for marker in [0x01, 0x02, 0xbf] {
            let junk: &[u8] = &[b'a', 0xff, 0x00, 0xff, 0xff, marker];
            assert_eq!(unknown(&[FRAME, junk, SCAN, b"a\xff\xd9"]), Some(marker), "{marker:#x}");
            assert_eq!(unknown(&[FRAME, SCAN, junk, b"a\xff\xd9"]), None, "{marker:#x}");
        }
        assert_eq!(unknown(&[b"\xff\xfe\0\x04\xff\x01", FRAME, SCAN, b"a\xff\xd9"]), None, "within a segment");
    }

    #[test]
    fn pieces_of_exif_are_one_block() {
        let bytes = b"\xff\xd8\xff\xe1\0\x0bExif\0\0II*\xff\xe1\0\x0cExif\0\0more\xff\xe1\0\x04no\xff\xd9";
        assert_eq!(Markers::walk(bytes).unwrap().exif.as_deref(), Some(b"Exif\0\0II*more".as_slice()));
    }
}
