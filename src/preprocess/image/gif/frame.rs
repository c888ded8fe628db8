//! The way through a GIF's blocks to its first frame, as Pillow goes it.
//!
//! Invariant: takes no memory, and looks at no more blocks than it is told.

use crate::preprocess::image::mode;

/// The first frame: what the file says of it, and where its codes begin.
#[derive(Debug)]
pub(in crate::preprocess::image) struct Frame<'a> {
    /// Width and height of the logical screen.
    screen: (u16, u16),
    /// Bits of a pixel, as the screen has it.
    pub(in crate::preprocess::image) bits: u8,
    pub(super) left: u16,
    pub(super) top: u16,
    pub(super) width: u16,
    pub(super) height: u16,
    pub(super) interlaced: bool,
    /// Three bytes a colour; none where numbers are greys.
    pub(super) palette: Option<&'a [u8]>,
    pub(super) transparent: Option<u8>,
    /// Of a pixel in the codes.
    pub(super) code_bits: u8,
    /// The rest of the file.
    pub(super) codes: &'a [u8],
}

/// Why there is none.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::preprocess::image) enum NoFrame {
    /// The file ends before it.
    Ended,
    /// A block before it makes no sense.
    Damaged,
    /// There are more blocks before it than were to be looked at.
    TooFar,
}

impl<'a> Frame<'a> {
    /// Finds it behind `max_blocks` at most.
    pub(in crate::preprocess::image) fn first(bytes: &'a [u8], max_blocks: usize) -> Result<Self, NoFrame> {
        let mut blocks = Blocks { rest: bytes, left: max_blocks };
        let &[_, _, _, _, _, _, w0, w1, h0, h1, flags, _, _] = blocks.array()?;
        let screen = (u16::from_le_bytes([w0, w1]), u16::from_le_bytes([h0, h1]));
        let bits = if flags & 0x80 == 0 { 8 } else { (flags & 7) + 1 };
        let global = blocks.palette(flags)?;
        let mut transparent = None;
        loop {
            match blocks.counted_byte()? {
                b',' => break,
                b';' => return Err(NoFrame::Ended),
                b'!' => blocks.extension(&mut transparent)?,
                // Between blocks anything may lie, and is passed over by the byte.
                _ => {}
            }
        }
        let &[l0, l1, t0, t1, w0, w1, h0, h1, flags] = blocks.array()?;
        let palette = blocks.palette(flags)?.or(global);
        let &[code_bits] = blocks.array()?;
        Ok(Self {
            screen,
            bits,
            left: u16::from_le_bytes([l0, l1]),
            top: u16::from_le_bytes([t0, t1]),
            width: u16::from_le_bytes([w0, w1]),
            height: u16::from_le_bytes([h0, h1]),
            interlaced: flags & 0x40 != 0,
            palette,
            transparent,
            code_bits,
            codes: blocks.rest,
        })
    }

    /// Width and height of the screen, which a frame that sticks out enlarges.
    pub(in crate::preprocess::image) fn canvas(&self) -> (u32, u32) {
        let side = |screen: u16, skip: u16, frame: u16| u32::from(screen).max(u32::from(skip) + u32::from(frame));
        (side(self.screen.0, self.left, self.width), side(self.screen.1, self.top, self.height))
    }
}

/// What is left of a file, and how many of its blocks may be looked at.
struct Blocks<'a> {
    rest: &'a [u8],
    left: usize,
}

impl<'a> Blocks<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], NoFrame> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(NoFrame::Ended)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<&'a [u8; N], NoFrame> {
        self.take(N)?.first_chunk().ok_or(NoFrame::Ended)
    }

    /// The first byte of a block.
    fn counted_byte(&mut self) -> Result<u8, NoFrame> {
        self.left = self.left.checked_sub(1).ok_or(NoFrame::TooFar)?;
        let &[byte] = self.array()?;
        Ok(byte)
    }

    /// A block of data; an empty one ends a sequence.
    fn block(&mut self) -> Result<&'a [u8], NoFrame> {
        let length = self.counted_byte()?;
        self.take(length.into())
    }

    /// The palette that the flags of a screen or a frame announce, unless it is one of greys.
    fn palette(&mut self, flags: u8) -> Result<Option<&'a [u8]>, NoFrame> {
        if flags & 0x80 == 0 {
            return Ok(None);
        }
        let colours = self.take(3 << ((flags & 7) + 1))?;
        Ok((!mode::is_grey_ramp(colours, 3)).then_some(colours))
    }

    /// Passes over an extension. Of several graphic controls the last that names a transparent colour counts.
    fn extension(&mut self, transparent: &mut Option<u8>) -> Result<(), NoFrame> {
        const GRAPHIC_CONTROL: u8 = 0xf9;
        const COMMENT: u8 = 0xfe;
        const APPLICATION: u8 = 0xff;
        let &[label] = self.array()?;
        let first = self.block()?;
        match label {
            COMMENT if first.is_empty() => return Ok(()),
            GRAPHIC_CONTROL if !first.is_empty() => {
                let Some((&[flags, _, _], rest)) = first.split_first_chunk() else { return Err(NoFrame::Damaged) };
                if flags & 1 != 0 {
                    *transparent = Some(*rest.first().ok_or(NoFrame::Damaged)?);
                }
            }
            APPLICATION if first.starts_with(b"NETSCAPE2.0") => {
                self.block()?;
            }
            _ => {}
        }
        // Pillow reads on to an empty block here, be it that it has just passed one.
        while !self.block()?.is_empty() {}
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCREEN: &[u8] = b"GIF89a\x04\0\x03\0\0\0\0";
    const FRAME: &[u8] = b",\0\0\0\0\x02\0\x01\0\0\x02";

    fn transparent_behind(blocks: &[u8]) -> Result<Option<u8>, NoFrame> {
        let file = [SCREEN, blocks, FRAME].concat();
        Frame::first(&file, 100).map(|frame| {
            assert_eq!((frame.width, frame.height, frame.code_bits, frame.canvas()), (2, 1, 2, (4, 3)));
            frame.transparent
        })
    }

    #[test]
    fn of_two_graphic_controls_the_last_that_names_a_colour_counts() {
        let control = |flags: u8, colour: u8| [b'!', 0xf9, 4, flags, 0, 0, colour, 0];
        assert_eq!(transparent_behind(b""), Ok(None));
        assert_eq!(transparent_behind(&[control(1, 3), control(1, 5)].concat()), Ok(Some(5)));
        assert_eq!(transparent_behind(&[control(1, 3), control(0, 5)].concat()), Ok(Some(3)));
        assert_eq!(transparent_behind(&[control(1, 3), *b"!\xfe\x03abc\0\0"].concat()), Ok(Some(3)));
    }

    #[test]
    fn anything_between_blocks_is_passed_over() {
        assert_eq!(transparent_behind(&[0; 50]), Ok(None));
        assert_eq!(transparent_behind(b"\0\x01\x02abc"), Ok(None));
        assert_eq!(transparent_behind(b"!\xff\x0bNETSCAPE2.0\x03\x01\0\0\0"), Ok(None));
    }

    #[test]
    fn a_short_control_is_damage_and_too_much_is_too_far() {
        assert_eq!(transparent_behind(b"!\xf9\x02\x01\0\0"), Err(NoFrame::Damaged));
        assert_eq!(transparent_behind(b"!\xf9\x03\x01\0\0\0"), Err(NoFrame::Damaged));
        assert_eq!(transparent_behind(&[0; 101]), Err(NoFrame::TooFar));
        assert_eq!(transparent_behind(&b"!\xfe\x01a\0".repeat(34)), Err(NoFrame::TooFar));
        assert_eq!(transparent_behind(b";"), Err(NoFrame::Ended));
    }

    #[test]
    fn a_palette_of_greys_is_none_and_leaves_the_other() {
        let palettes = |global: &[u8], local: &[u8]| {
            let flags = |palette: &[u8]| if palette.is_empty() { 0 } else { 0x80 };
            let mut screen = SCREEN.to_vec();
            screen[10] = flags(global);
            let frame = [b",\0\0\0\0\x02\0\x01\0".as_slice(), &[flags(local)], local, b"\x02"].concat();
            let file = [&screen, global, &frame].concat();
            Frame::first(&file, 100).unwrap().palette.map(<[u8]>::to_vec)
        };
        let (greys, reds, blues) = ([0, 0, 0, 1, 1, 1], [9, 0, 0, 99, 0, 0], [0, 0, 9, 0, 0, 99]);
        assert_eq!(palettes(&[], &[]), None);
        assert_eq!(palettes(&greys, &[]), None);
        assert_eq!(palettes(&reds, &[]), Some(reds.to_vec()));
        assert_eq!(palettes(&reds, &blues), Some(blues.to_vec()));
        assert_eq!(palettes(&reds, &greys), Some(reds.to_vec()));
        assert_eq!(palettes(&greys, &blues), Some(blues.to_vec()));
    }
}
