//! The container of a WebP, read as libwebp's demultiplexer reads it.
//!
//! Owns finding the first frame and the metadata, and refusing what libwebp refuses of the chunks around them. Does not decode.
//!
//! Invariants: metadata counts only where the header announces it, and need not be there where it does; a frame has the size of the canvas, in
//! an animation it lies on it; what follows the RIFF chunk is not there. The walk takes time in the number of chunks, and no memory.

use crate::preprocess::image::error::{ImageError, ImageFormatName};

pub(super) const FORMAT: ImageFormatName = ImageFormatName::WebP;

/// What a file is made of.
#[derive(Debug)]
pub(super) struct Container<'a> {
    /// Columns and rows of the picture.
    pub(super) canvas: (u32, u32),
    /// Whether its pixels have alpha.
    pub(super) has_alpha: bool,
    /// The EXIF block.
    pub(super) exif: Option<&'a [u8]>,
    /// The XMP packet.
    pub(super) xmp: Option<&'a [u8]>,
    /// The only frame, or the first of an animation.
    pub(super) frame: Frame<'a>,
}

/// A frame, and where it lies.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame<'a> {
    pub(super) left: u32,
    pub(super) top: u32,
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) lossless: bool,
    /// The body of its chunk; of a lossless one with its padding, which libwebp reads as more of the stream.
    pub(super) image: &'a [u8],
    /// The body of its chunk of alpha, which only a lossy frame has.
    pub(super) alpha: Option<&'a [u8]>,
}

// Flags of the extended header.
const ANIMATION: u8 = 0x02;
const XMP: u8 = 0x04;
const EXIF: u8 = 0x08;
const ALPHA: u8 = 0x10;
const PROFILE: u8 = 0x20;

fn damaged(detail: &str) -> ImageError {
    ImageError::Corrupt { format: FORMAT, detail: detail.into() }
}

impl<'a> Container<'a> {
    /// Reads a file's chunks.
    pub(super) fn read(bytes: &'a [u8]) -> Result<Self, ImageError> {
        let truncated = || ImageError::Truncated { format: FORMAT };
        let length = bytes.get(4..).and_then(<[u8]>::first_chunk).map(|length| u32::from_le_bytes(*length));
        let end = length.and_then(|length| (length as usize).checked_add(8)).ok_or_else(truncated)?;
        let file = bytes.get(..end).ok_or_else(truncated)?;
        let mut chunks = Chunks(file.get(12..).ok_or_else(|| damaged("a file shorter than its header"))?);
        let first = chunks.next()?;
        match &first.name {
            b"VP8X" => Self::extended(first.body, chunks),
            b"VP8 " | b"VP8L" => {
                let (frame, has_alpha) = Frame::of(first)?;
                // What belongs to the picture has to be whole; alpha that is not announced also silences its own.
                let stored = Stored::read(&mut Chunks(&file[12..]))?;
                let has_alpha = has_alpha && stored.alpha.is_none();
                let canvas = (frame.width, frame.height);
                Ok(Self { canvas, has_alpha, exif: None, xmp: None, frame })
            }
            _ => Err(damaged("neither a picture nor an extended header at the start")),
        }
    }

    fn extended(header: &'a [u8], mut chunks: Chunks<'a>) -> Result<Self, ImageError> {
        let &[flags, _, _, _, a, b, c, d, e, f] = header else {
            return Err(damaged("an extended header of another length"));
        };
        let canvas = (side([a, b, c]), side([d, e, f]));
        let (is_animation, has_alpha) = (flags & ANIMATION != 0, flags & ALPHA != 0);
        if flags & !(ANIMATION | XMP | EXIF | ALPHA | PROFILE) != 0 {
            return Err(damaged("unknown flags"));
        }
        if u64::from(canvas.0) * u64::from(canvas.1) > u64::from(u32::MAX) {
            return Err(damaged("a canvas too large"));
        }
        let (mut exif, mut xmp) = (None, None);
        let (mut frame, mut animated): (Option<Frame>, bool) = (None, false);
        loop {
            let mut at_chunk = chunks;
            let chunk = chunks.next()?;
            let stored = match &chunk.name {
                b"VP8X" => return Err(damaged("two extended headers")),
                b"ALPH" | b"VP8 " | b"VP8L" => {
                    if is_animation || animated || frame.is_some() {
                        return Err(damaged("a picture among frames"));
                    }
                    let mut stored = Stored::read(&mut at_chunk)?;
                    chunks = at_chunk;
                    if !has_alpha {
                        stored.alpha = None;
                    }
                    Some((stored, 0, 0))
                }
                b"ANIM" => {
                    if chunk.body.len() + chunk.body.len() % 2 < 6 {
                        return Err(damaged("a short animation header"));
                    }
                    animated = true;
                    None
                }
                b"ANMF" => {
                    if !animated {
                        return Err(damaged("a frame without an animation header"));
                    }
                    let (place, stored) = frame_chunk(chunk, at_chunk, &mut chunks)?;
                    let of_animation = is_animation && stored.is_anything();
                    of_animation.then_some((stored, place[0], place[1]))
                }
                b"EXIF" if flags & EXIF != 0 => {
                    exif = exif.or(Some(chunk.body));
                    None
                }
                b"XMP " if flags & XMP != 0 => {
                    xmp = xmp.or(Some(chunk.body));
                    None
                }
                _ => None,
            };
            if let Some((stored, left, top)) = stored {
                let placed = Frame { left, top, ..stored.frame()? };
                if !placed.fits(canvas, is_animation) {
                    return Err(damaged("a frame that is not on the canvas"));
                }
                frame = frame.or(Some(placed));
            }
            if chunks.0.is_empty() {
                break;
            }
        }
        let frame = frame.ok_or_else(|| damaged("no frame"))?;
        let some = |block: Option<&'a [u8]>| block.filter(|block| !block.is_empty());
        Ok(Self { canvas, has_alpha, exif: some(exif), xmp: some(xmp), frame })
    }
}

/// Where the frame of an `ANMF` chunk lies, and what is in it. What follows its picture there is read as chunks of the file.
fn frame_chunk<'a>(
    chunk: Chunk<'a>,
    Chunks(at_chunk): Chunks<'a>,
    chunks: &mut Chunks<'a>,
) -> Result<([u32; 2], Stored<'a>), ImageError> {
    let Some(&[a, b, c, d, e, f]) = chunk.body.first_chunk().filter(|_| chunk.body.len() >= 16) else {
        return Err(damaged("a short frame header"));
    };
    // Offsets are stored halved.
    let offset = |bytes| (side(bytes) - 1) * 2;
    let mut inner = Chunks(&at_chunk[8 + 16..]);
    let payload = chunk.body.len().next_multiple_of(2) - 16;
    let before = inner.0.len();
    let stored = Stored::read(&mut inner)?;
    if before - inner.0.len() > payload {
        return Err(damaged("a frame larger than its chunk"));
    }
    *chunks = inner;
    Ok(([offset([a, b, c]), offset([d, e, f])], stored))
}

/// A number of three bytes, stored less one.
fn side([a, b, c]: [u8; 3]) -> u32 {
    u32::from_le_bytes([a, b, c, 0]) + 1
}

impl<'a> Frame<'a> {
    /// The frame of a chunk, and whether that says it has alpha: what of its header libwebp looks at.
    fn of(Chunk { name, body, padded }: Chunk<'a>) -> Result<(Self, bool), ImageError> {
        let lossless = name == *b"VP8L";
        let headless = || damaged("a frame without a header");
        let (width, height) = frame_size(lossless, body).ok_or_else(headless)?;
        let header = body.first_chunk::<5>().ok_or_else(headless)?;
        let (is_right, has_alpha) = if lossless {
            (header[0] == 0x2f && header[4] >> 5 == 0, header[4] & 0x10 != 0)
        } else {
            let bits = u32::from_le_bytes([header[0], header[1], header[2], 0]);
            let is_key_frame = bits & 1 == 0;
            let is_shown = bits >> 4 & 1 == 1;
            let right = is_key_frame && bits >> 1 & 7 <= 3 && is_shown && ((bits >> 5) as usize) < body.len();
            (right && body.get(3..6) == Some(b"\x9d\x01\x2a") && width > 0 && height > 0, false)
        };
        if !is_right {
            return Err(headless());
        }
        let image = if lossless { padded } else { body };
        let (width, height) = (width.into(), height.into());
        let frame = Self { left: 0, top: 0, width, height, lossless, image, alpha: None };
        Ok((frame, has_alpha))
    }

    fn fits(&self, (width, height): (u32, u32), is_animation: bool) -> bool {
        if is_animation {
            self.left + self.width <= width && self.top + self.height <= height
        } else {
            (self.left, self.top, self.width, self.height) == (0, 0, width, height)
        }
    }
}

/// The chunks of one picture.
#[derive(Default)]
struct Stored<'a> {
    image: Option<Frame<'a>>,
    alpha: Option<&'a [u8]>,
    /// Whether alpha came first, as it has to.
    in_order: bool,
}

impl<'a> Stored<'a> {
    /// Takes them from `chunks`: those of a picture that follow each other.
    fn read(chunks: &mut Chunks<'a>) -> Result<Self, ImageError> {
        let mut stored = Self::default();
        loop {
            let mut after = *chunks;
            let chunk = after.next()?;
            match &chunk.name {
                b"ALPH" if stored.alpha.is_none() => {
                    stored.alpha = Some(chunk.body);
                    stored.in_order = stored.image.is_none();
                }
                b"VP8L" if stored.alpha.is_some() => return Err(damaged("alpha beside what has its own")),
                b"VP8 " | b"VP8L" if stored.image.is_none() => stored.image = Some(Frame::of(chunk)?.0),
                _ => return Ok(stored),
            }
            *chunks = after;
            if chunks.0.is_empty() {
                return Ok(stored);
            }
        }
    }

    fn is_anything(&self) -> bool {
        self.image.is_some() || self.alpha.is_some()
    }

    fn frame(self) -> Result<Frame<'a>, ImageError> {
        let Self { image, alpha, in_order } = self;
        let image = image.ok_or_else(|| damaged("alpha without a picture"))?;
        if alpha.is_some() && !in_order {
            return Err(damaged("alpha behind its picture"));
        }
        Ok(Frame { alpha, ..image })
    }
}

#[derive(Clone, Copy)]
struct Chunk<'a> {
    name: [u8; 4],
    body: &'a [u8],
    /// The body with its padding.
    padded: &'a [u8],
}

/// The chunks that are left.
#[derive(Clone, Copy)]
struct Chunks<'a>(&'a [u8]);

impl<'a> Chunks<'a> {
    fn next(&mut self) -> Result<Chunk<'a>, ImageError> {
        let whole = || damaged("a chunk that is not whole");
        let (&[a, b, c, d, length @ ..], rest) = self.0.split_first_chunk::<8>().ok_or_else(whole)?;
        let length = u32::from_le_bytes(length) as usize;
        // Chunks are padded to an even length, the last one too.
        let padded_length = length.checked_add(length % 2).ok_or_else(whole)?;
        let (padded, rest) = rest.split_at_checked(padded_length).ok_or_else(whole)?;
        self.0 = rest;
        Ok(Chunk { name: [a, b, c, d], body: &padded[..length], padded })
    }
}

/// Width and height of a frame, by its own header.
pub(in crate::preprocess::image) fn frame_size(lossless: bool, frame: &[u8]) -> Option<(u16, u16)> {
    if lossless {
        let sides = u32::from_le_bytes(*frame.get(1..)?.first_chunk()?);
        return Some(((sides & 0x3fff) as u16 + 1, (sides >> 14 & 0x3fff) as u16 + 1));
    }
    let [a, b, c, d] = *frame.get(6..)?.first_chunk()?;
    Some((u16::from_le_bytes([a, b]) & 0x3fff, u16::from_le_bytes([c, d]) & 0x3fff))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(name: &[u8; 4], body: &[u8]) -> Vec<u8> {
        let padding = &[0][..body.len() % 2];
        [&name[..], &(body.len() as u32).to_le_bytes(), body, padding].concat()
    }

    fn file(chunks: &[Vec<u8>]) -> Vec<u8> {
        chunk(b"RIFF", &[b"WEBP", &chunks.concat()[..]].concat())
    }

    fn header(flags: u8, width: u8, height: u8) -> Vec<u8> {
        chunk(b"VP8X", &[flags, 0, 0, 0, width - 1, 0, 0, height - 1, 0, 0])
    }

    /// A lossy frame of 3 x 2, as far as its header.
    fn lossy() -> Vec<u8> {
        chunk(b"VP8 ", b"\x10\0\0\x9d\x01\x2a\x03\0\x02\0\0\0")
    }

    fn frame(left: u8, inner: &[Vec<u8>]) -> Vec<u8> {
        chunk(b"ANMF", &[&[left, 0, 0, 0, 0, 0, 2, 0, 0, 1, 0, 0, 0, 0, 0, 0], &inner.concat()[..]].concat())
    }

    fn reads(chunks: &[Vec<u8>]) -> bool {
        Container::read(&file(chunks)).is_ok()
    }

    #[test]
    fn metadata_counts_where_it_is_announced_and_may_be_missing() {
        let exif = || chunk(b"EXIF", b"block");
        for (flags, found) in
            [(EXIF, Some(b"block".as_slice())), (0, None), (EXIF | XMP | ALPHA | PROFILE, Some(b"block"))]
        {
            let file = file(&[header(flags, 3, 2), lossy(), exif(), chunk(b"EXIF", b"second")]);
            let container = Container::read(&file).unwrap();
            assert_eq!((container.exif, container.xmp), (found, None));
            assert_eq!((container.canvas, container.has_alpha), ((3, 2), flags & ALPHA != 0));
        }
        assert!(reads(&[header(EXIF, 3, 2), lossy()]));
        assert_eq!(Container::read(&file(&[lossy(), exif()])).unwrap().exif, None);
    }

    #[test]
    fn alpha_counts_where_it_is_announced_and_comes_first() {
        let alpha = || chunk(b"ALPH", b"alpha");
        let of = |chunks: &[Vec<u8>]| Container::read(&file(chunks)).map(|read| read.frame.alpha.is_some()).ok();
        assert_eq!(of(&[header(ALPHA, 3, 2), alpha(), lossy()]), Some(true));
        assert_eq!(of(&[header(0, 3, 2), alpha(), lossy()]), Some(false));
        assert_eq!(of(&[header(ALPHA, 3, 2), lossy(), alpha()]), None);
        assert_eq!(of(&[header(0, 3, 2), lossy(), alpha()]), Some(false));
        assert_eq!(of(&[lossy(), alpha()]), Some(false));
        assert_eq!(of(&[header(ALPHA, 3, 2), alpha()]), None);
        // What is lossless has its own.
        let lossless = || chunk(b"VP8L", &[0x2f, 2, 0x40, 0, 0x10]);
        assert_eq!(of(&[header(ALPHA, 3, 2), alpha(), lossless()]), None);
        for (chunks, has_alpha) in [(vec![lossless()], true), (vec![lossless(), alpha()], false)] {
            assert_eq!(Container::read(&file(&chunks)).unwrap().has_alpha, has_alpha);
        }
        assert!(!Container::read(&file(&[header(0, 3, 2), lossless()])).unwrap().has_alpha);
    }

    #[test]
    fn frames_lie_on_the_canvas_and_a_still_fills_it() {
        let animation = || chunk(b"ANIM", &[0; 6]);
        assert!(reads(&[header(ANIMATION, 5, 2), animation(), frame(1, &[lossy()])]));
        assert!(!reads(&[header(ANIMATION, 4, 2), animation(), frame(1, &[lossy()])]));
        assert!(!reads(&[header(ANIMATION, 5, 2), frame(1, &[lossy()])]));
        assert!(!reads(&[header(0, 5, 2), animation(), frame(1, &[lossy()])]));
        assert!(!reads(&[header(ANIMATION, 5, 2), animation(), frame(1, &[lossy()]), lossy()]));
        assert!(!reads(&[header(ANIMATION, 3, 2), lossy()]));
        assert!(!reads(&[header(0, 5, 2), lossy()]));
        let second = [header(ANIMATION, 5, 2), animation(), frame(0, &[lossy()]), frame(2, &[lossy()])];
        assert!(!reads(&second), "the second is beside the canvas");
    }

    #[test]
    fn what_is_not_whole_is_refused_and_what_follows_is_not_there() {
        let whole = file(&[header(0, 3, 2), lossy(), chunk(b"what", b"odd")]);
        assert!(Container::read(&whole).is_ok());
        assert!(Container::read(&[&whole[..], b"anything"].concat()).is_ok());
        for end in 0..whole.len() {
            assert!(Container::read(&whole[..end]).is_err(), "{end}");
        }
        let mut unpadded = whole[..whole.len() - 1].to_vec();
        unpadded[4] -= 1;
        assert!(Container::read(&unpadded).is_err());
        assert!(!reads(&[header(0x40, 3, 2), lossy()]));
        assert!(!reads(&[chunk(b"what", b""), lossy()]));
    }
}
