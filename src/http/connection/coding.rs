//! The coding of a request body: gzip, deflate, br or zstd, or none.
//!
//! Owns which codings are read, and undoing one. Does not own the arrival of the body (`body`), nor on which thread it is undone.
//!
//! Invariants: what comes out takes its share of the budget before memory is taken, as a body of no declared length does, and is never
//! larger than a body may be; what the decoders hold besides is bounded by [`MAX_WINDOW`]; time is bounded by what goes in and comes out.

use std::{
    io::{self, BufRead, Read},
    time::Duration,
};

use bytes::Bytes;
use flate2::bufread::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};
use http::{HeaderMap, header::CONTENT_ENCODING};
use ruzstd::decoding::{FrameDecoder, StreamingDecoder};

use super::body::{BodyBytes, BodyError, BodyLimits};
use crate::budget::ByteBudget;

/// How far back a decoder looks, in bytes: what a decoder of zstd has to support at least (RFC 9659), and br half of what it may use.
const MAX_WINDOW: u64 = 8 << 20;

/// Bytes that are decoded at a time.
const PIECE: usize = 64 << 10;

/// How much larger than itself a body can become, by what DEFLATE can say with a bit.
const MOST_EXPANSION: u64 = 1032;

/// What a byte that comes out takes at most.
const NANOSECONDS_PER_BYTE: u64 = 5;

/// A coding of RFC 9110, section 8.4.1, but `compress`, and those of RFC 7932 and RFC 8878.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::http) enum Coding {
    Gzip,
    Deflate,
    Brotli,
    Zstd,
}

impl Coding {
    /// The one that a request names; `None` for none.
    ///
    /// # Errors
    /// [`BodyError::UnsupportedEncoding`] for any other, and for more than one.
    pub(in crate::http) fn of(headers: &HeaderMap) -> Result<Option<Self>, BodyError> {
        let mut found = None;
        for value in headers.get_all(CONTENT_ENCODING) {
            let value = value.to_str().map_err(|_| BodyError::UnsupportedEncoding)?;
            for coding in value.split(',').map(|coding| coding.trim().to_ascii_lowercase()) {
                let coding = match coding.as_str() {
                    "" | "identity" => continue,
                    "gzip" | "x-gzip" => Self::Gzip,
                    "deflate" => Self::Deflate,
                    "br" => Self::Brotli,
                    "zstd" => Self::Zstd,
                    _ => return Err(BodyError::UnsupportedEncoding),
                };
                if found.replace(coding).is_some() {
                    return Err(BodyError::UnsupportedEncoding);
                }
            }
        }
        Ok(found)
    }

    /// How long it takes at most to undo it for `body`.
    pub(in crate::http) fn takes(body: &BodyBytes, limits: &BodyLimits) -> Duration {
        let largest = (body.bytes().len() as u64).saturating_mul(MOST_EXPANSION).min(limits.max_bytes as u64);
        Duration::from_nanos(largest.saturating_mul(NANOSECONDS_PER_BYTE))
    }

    /// The body without its coding.
    ///
    /// # Errors
    /// [`BodyError::BadEncoding`] for what is damaged or cut off, [`BodyError::TooLarge`] for what becomes larger than a body may be,
    /// [`BodyError::BudgetExhausted`].
    pub(in crate::http) fn decode(
        self,
        body: BodyBytes,
        limits: &BodyLimits,
        budget: &ByteBudget,
    ) -> Result<BodyBytes, BodyError> {
        let (coded, _reserved) = body.into_parts();
        let mut out = Decoded {
            limits,
            budget,
            body: Vec::new(),
            reservation: budget.reserve(0).ok_or(BodyError::BudgetExhausted)?,
        };
        let coded = &coded[..];
        match self {
            Self::Gzip => out.take_all(MultiGzDecoder::new(coded))?,
            Self::Deflate if is_zlib(coded) => out.take_all(ZlibDecoder::new(coded))?,
            Self::Deflate => out.take_all(DeflateDecoder::new(coded))?,
            Self::Brotli => out.take_all(brotli_decompressor::Decompressor::new(coded, PIECE))?,
            Self::Zstd => {
                let mut rest = coded;
                // One frame after the other.
                while !rest.is_empty() {
                    if let Some(behind) = behind_skippable(rest)? {
                        rest = behind;
                        continue;
                    }
                    let frame = StreamingDecoder::new_with_max_window_size(&mut rest, MAX_WINDOW);
                    let mut frame = frame.map_err(|_| BodyError::BadEncoding)?;
                    out.take_all(&mut frame)?;
                    let frame: FrameDecoder = frame.into_frame_decoder();
                    if frame.get_checksum_from_data().is_some_and(|sum| Some(sum) != frame.get_calculated_checksum()) {
                        return Err(BodyError::BadEncoding);
                    }
                }
            }
        }
        out.body.shrink_to_fit();
        out.reservation.shrink_to(out.body.len());
        Ok(BodyBytes::new(Bytes::from(out.body), out.reservation))
    }
}

/// Whether DEFLATE is within zlib's frame (RFC 1950), as it should be; some clients leave the frame out.
fn is_zlib(mut coded: &[u8]) -> bool {
    let Ok([method, flags, ..]) = coded.fill_buf() else { return false };
    method & 0x0f == 8 && u16::from_be_bytes([*method, *flags]) % 31 == 0
}

/// What is behind a frame of zstd that holds nothing of the contents (RFC 8878, section 3.1.2); `None` where it is another one.
fn behind_skippable(coded: &[u8]) -> Result<Option<&[u8]>, BodyError> {
    let Some((magic, rest)) = coded.split_first_chunk() else { return Ok(None) };
    if u32::from_le_bytes(*magic) & 0xffff_fff0 != 0x184d_2a50 {
        return Ok(None);
    }
    let (length, rest) = rest.split_first_chunk().ok_or(BodyError::BadEncoding)?;
    let length = usize::try_from(u32::from_le_bytes(*length)).map_err(|_| BodyError::BadEncoding)?;
    rest.get(length..).map(Some).ok_or(BodyError::BadEncoding)
}

struct Decoded<'a> {
    limits: &'a BodyLimits,
    budget: &'a ByteBudget,
    body: Vec<u8>,
    reservation: crate::budget::Reservation,
}

impl Decoded<'_> {
    fn take_all(&mut self, mut decoder: impl Read) -> Result<(), BodyError> {
        let mut piece = vec![0; PIECE];
        loop {
            let read = match decoder.read(&mut piece) {
                Ok(0) => return Ok(()),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => return Err(BodyError::BadEncoding),
            };
            self.push(&piece[..read])?;
        }
    }

    fn push(&mut self, piece: &[u8]) -> Result<(), BodyError> {
        let max_bytes = self.limits.max_bytes;
        let len = self.body.len() + piece.len();
        if len > max_bytes {
            return Err(BodyError::TooLarge { limit: max_bytes });
        }
        if len > self.body.capacity() {
            let room = len.max(self.body.capacity().saturating_mul(2).min(max_bytes));
            let more = room.saturating_sub(self.reservation.bytes());
            self.reservation.merge(self.budget.reserve(more).ok_or(BodyError::BudgetExhausted)?);
            self.body.reserve_exact(room - self.body.len());
        }
        self.body.extend_from_slice(piece);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::{
        Compression,
        write::{DeflateEncoder, GzEncoder, ZlibEncoder},
    };
    use http::HeaderValue;

    use super::*;

    const LIMITS: BodyLimits =
        BodyLimits { max_bytes: 1 << 20, idle_timeout: Duration::from_secs(1), timeout: Duration::from_secs(1) };

    /// `Hello, hello, hello, hello!`, and a zero more than [`LIMITS`] allow, by the `brotli` package of Python (1.2.0).
    const BROTLI: &[u8] = &[
        0x1b, 0x1a, 0x00, 0xf8, 0x8d, 0xd4, 0x4e, 0xf9, 0xc3, 0x8c, 0xaa, 0x91, 0xd0, 0xd8, 0xde, 0x34, 0x48, 0x08,
        0x4b, 0x99, 0x52, 0x64, 0x9f, 0x48, 0x20, 0xb8, 0x0e, 0x09,
    ];
    const BROTLI_ZEROS: &[u8] = &[0x9b, 0x00, 0x00, 0x10, 0xf8, 0x27, 0x00, 0xe2, 0xb1, 0x40, 0x40, 0xf7, 0xfe, 0x01];

    fn decode(coding: Coding, coded: Vec<u8>, budget: &ByteBudget) -> Result<BodyBytes, BodyError> {
        let reservation = budget.reserve(coded.len()).expect("room for the body");
        coding.decode(BodyBytes::new(Bytes::from(coded), reservation), &LIMITS, budget)
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(bytes).expect("memory");
        encoder.finish().expect("memory")
    }

    fn zlib(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).expect("memory");
        encoder.finish().expect("memory")
    }

    fn deflate(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).expect("memory");
        encoder.finish().expect("memory")
    }

    fn zstd(bytes: &[u8]) -> Vec<u8> {
        ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
    }

    #[test]
    fn each_coding_is_undone_and_what_came_out_alone_is_held() {
        let text: Vec<u8> = (0..100_000u32).flat_map(|i| (i / 7).to_le_bytes()).collect();
        let budget = ByteBudget::new(4 << 20);
        let two = [gzip(&text[..1000]), gzip(&text[1000..])].concat();
        let frames = [zstd(&text[..1000]), zstd(&text[1000..])].concat();
        for (coding, coded) in [
            (Coding::Gzip, gzip(&text)),
            (Coding::Gzip, two),
            (Coding::Deflate, zlib(&text)),
            (Coding::Deflate, deflate(&text)),
            (Coding::Zstd, zstd(&text)),
            (Coding::Zstd, frames),
        ] {
            let body = decode(coding, coded, &budget).expect("whole");
            assert!(body.bytes() == &text, "{coding:?}");
            assert_eq!(budget.capacity() - budget.left(), text.len().next_multiple_of(1024));
        }
        assert_eq!(budget.left(), budget.capacity());
        let body = decode(Coding::Brotli, BROTLI.to_vec(), &budget).expect("whole");
        assert_eq!(&body.bytes()[..], b"Hello, hello, hello, hello!");
    }

    #[test]
    fn what_becomes_too_large_is_refused_before_its_memory_is_taken() {
        let zeros = vec![0; LIMITS.max_bytes + 1];
        let budget = ByteBudget::new(4 << 20);
        for (coding, coded) in [
            (Coding::Gzip, gzip(&zeros)),
            (Coding::Deflate, zlib(&zeros)),
            (Coding::Zstd, zstd(&zeros)),
            (Coding::Brotli, BROTLI_ZEROS.to_vec()),
        ] {
            assert_eq!(
                decode(coding, coded, &budget).expect_err("large"),
                BodyError::TooLarge { limit: LIMITS.max_bytes }
            );
        }
        decode(Coding::Gzip, gzip(&zeros[1..]), &budget).expect("as large as a body may be");
        let small = ByteBudget::new(256 << 10);
        assert_eq!(decode(Coding::Gzip, gzip(&zeros[1..]), &small).expect_err("no room"), BodyError::BudgetExhausted);
        assert_eq!(small.left(), small.capacity());
    }

    #[test]
    fn what_is_damaged_or_cut_off_is_refused() {
        let budget = ByteBudget::new(4 << 20);
        let text = b"Hello, hello, hello, hello!".repeat(100);
        for (coding, coded) in [
            (Coding::Gzip, gzip(&text)),
            (Coding::Deflate, zlib(&text)),
            (Coding::Zstd, zstd(&text)),
            (Coding::Brotli, BROTLI.to_vec()),
        ] {
            for end in 0..coded.len() {
                let cut = decode(coding, coded[..end].to_vec(), &budget);
                // No byte of zstd is no frame, and no body.
                assert!(cut.is_err() || end == 0 && coding == Coding::Zstd, "{coding:?} {end}");
            }
            let other = decode(coding, b"{\"texts\": [\"a\"]}".to_vec(), &budget);
            assert_eq!(other.expect_err("not coded"), BodyError::BadEncoding, "{coding:?}");
        }
    }

    #[test]
    fn frames_of_zstd_are_checked_by_their_sums_and_some_hold_nothing() {
        let budget = ByteBudget::new(4 << 20);
        let text = b"Hello, hello, hello, hello!".repeat(10);
        let skippable = |contents: &[u8]| [&[0x53, 0x2a, 0x4d, 0x18, contents.len() as u8, 0, 0, 0], contents].concat();
        let coded = [skippable(b""), zstd(&text), skippable(b"anything"), zstd(&text)].concat();
        assert_eq!(decode(Coding::Zstd, coded, &budget).expect("whole").bytes(), &text.repeat(2)[..]);
        let cut = skippable(b"anything");
        assert_eq!(
            decode(Coding::Zstd, cut[..cut.len() - 1].to_vec(), &budget).expect_err("cut"),
            BodyError::BadEncoding
        );
        let mut damaged = zstd(&text);
        *damaged.last_mut().expect("a sum") ^= 1;
        assert_eq!(decode(Coding::Zstd, damaged, &budget).expect_err("damaged"), BodyError::BadEncoding);
    }

    #[test]
    fn one_coding_is_read_by_its_name() {
        let of = |values: &[&'static str]| {
            let value = |value: &&'static str| (CONTENT_ENCODING, HeaderValue::from_static(value));
            Coding::of(&values.iter().map(value).collect())
        };
        assert_eq!(of(&[]), Ok(None));
        assert_eq!(of(&["identity", " , Identity"]), Ok(None));
        assert_eq!(of(&["GZip"]), Ok(Some(Coding::Gzip)));
        assert_eq!(of(&["x-gzip, identity"]), Ok(Some(Coding::Gzip)));
        assert_eq!(of(&["deflate"]), Ok(Some(Coding::Deflate)));
        assert_eq!(of(&["br"]), Ok(Some(Coding::Brotli)));
        assert_eq!(of(&["zstd"]), Ok(Some(Coding::Zstd)));
        for bad in [&["compress"][..], &["gzip, br"], &["gzip", "gzip"], &["gzip;q=1"]] {
            assert_eq!(of(bad), Err(BodyError::UnsupportedEncoding), "{bad:?}");
        }
    }
}
