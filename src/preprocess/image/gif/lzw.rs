//! The codes of a GIF's frame, by the rules of Pillow's decoder.
//!
//! Owns the way through the blocks that they lie in; `image::lzw` expands them.
//!
//! As in Pillow: an empty block ends nothing; an end before the last pixel is passed over as long as not all of the file has been read.

pub(super) use crate::preprocess::image::lzw::Damage;
use crate::preprocess::image::lzw::{self, Growth};

/// What Pillow reads of a file at a time.
const READ_BYTES: usize = 1 << 16;

/// Fills `pixels`, which are numbers of `code_bits`, from the blocks at the beginning of `file`.
pub(super) fn expand(file: &[u8], code_bits: u8, pixels: &mut [u8]) -> Result<(), Damage> {
    let mut codes = Codes { file, at: 0, block_end: 0, read: READ_BYTES, buffer: 0, bits: 0 };
    lzw::expand(&mut codes, code_bits, Growth::Needed, pixels)
}

/// Codes in blocks of up to 255 bytes, the first in the lowest bits.
struct Codes<'a> {
    file: &'a [u8],
    at: usize,
    /// Of the block that `at` is in.
    block_end: usize,
    /// How far Pillow would have read.
    read: usize,
    buffer: u32,
    /// In the buffer.
    bits: u32,
}

impl lzw::Codes for Codes<'_> {
    /// Many writers clear the table late, and some never.
    const MOST_STRINGS: usize = usize::MAX;

    fn next(&mut self, size: u32) -> Result<usize, Damage> {
        while self.bits < size {
            while self.at == self.block_end {
                self.next_block()?;
            }
            self.buffer |= u32::from(self.file[self.at]) << self.bits;
            self.at += 1;
            self.bits += 8;
        }
        let code = self.buffer & ((1 << size) - 1);
        self.buffer >>= size;
        self.bits -= size;
        Ok(code as usize)
    }

    fn pass_end(&mut self) -> Result<(), Damage> {
        if self.read >= self.file.len() {
            return Err(Damage::Ended);
        }
        self.read += READ_BYTES;
        Ok(())
    }
}

impl Codes<'_> {
    /// Goes to the next block, all of which is there.
    fn next_block(&mut self) -> Result<(), Damage> {
        let length = *self.file.get(self.at).ok_or(Damage::Ended)?;
        self.at += 1;
        self.block_end = self.at + usize::from(length);
        if self.block_end > self.file.len() {
            return Err(Damage::Ended);
        }
        while self.read < self.block_end {
            self.read += READ_BYTES;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One block of codes of these sizes.
    fn block(codes: &[(u32, u32)]) -> Vec<u8> {
        let mut bytes = vec![0];
        let (mut buffer, mut bits) = (0, 0);
        for &(code, size) in codes {
            buffer |= code << bits;
            bits += size;
            while bits >= 8 {
                bytes.push(buffer as u8);
                buffer >>= 8;
                bits -= 8;
            }
        }
        bytes.push(buffer as u8);
        bytes[0] = bytes.len() as u8 - 1;
        bytes
    }

    fn expanded(file: &[u8], code_bits: u8, length: usize) -> Result<Vec<u8>, Damage> {
        let mut pixels = vec![0; length];
        expand(file, code_bits, &mut pixels).map(|()| pixels)
    }

    #[test]
    fn strings_are_what_came_before() {
        // 6 is "12", 7 "21"; 8 is used as it is made: "12" and its first.
        let file = block(&[(4, 3), (1, 3), (2, 3), (6, 3), (8, 4), (5, 4)]);
        assert_eq!(expanded(&file, 2, 7), Ok(vec![1, 2, 1, 2, 1, 2, 1]));
        // No clear at the beginning, no end, and more than is wanted.
        let file = block(&[(1, 3), (2, 3), (6, 3), (8, 4)]);
        assert_eq!(expanded(&file, 2, 6), Ok(vec![1, 2, 1, 2, 1, 2]));
    }

    #[test]
    fn empty_blocks_end_nothing_but_half_ones_do() {
        let (first, second) = (block(&[(1, 3), (2, 3)]), block(&[(1, 3)]));
        let file = [&first[..], &[0, 0, 0], &second].concat();
        // The two bits left over are the lowest of the next code.
        assert_eq!(expanded(&file, 2, 4).map(|pixels| pixels[..2].to_vec()), Ok(vec![1, 2]));
        let file = [&[9][..], &second].concat();
        assert_eq!(expanded(&file, 2, 1), Err(Damage::Ended));
    }

    #[test]
    fn codes_that_nothing_stands_for_are_broken() {
        assert_eq!(expanded(&block(&[(4, 3), (6, 3)]), 2, 9), Err(Damage::Broken));
        // The longest that a frame may ask for to begin with: the table has no room for any string.
        assert_eq!(expanded(&block(&[(1, 13), (4098, 13)]), 12, 9), Err(Damage::Broken));
        assert_eq!(expanded(&block(&[(4, 3), (1, 3), (7, 3)]), 2, 9), Err(Damage::Broken));
        assert_eq!(expanded(&block(&[]), 13, 9), Err(Damage::Broken));
    }

    #[test]
    fn an_early_end_is_the_end_unless_more_is_to_be_read() {
        let early = block(&[(1, 3), (5, 3), (2, 3)]);
        assert_eq!(expanded(&early, 2, 2), Err(Damage::Ended));
        let long = [&early[..], &[0; READ_BYTES]].concat();
        assert_eq!(expanded(&long, 2, 2), Ok(vec![1, 2]));
    }

    #[test]
    fn codes_of_one_bit_never_grow() {
        // 2 clears, and 4 would be the first string.
        let file = block(&[(2, 2), (1, 2), (0, 2), (1, 2), (1, 2), (0, 2)]);
        assert_eq!(expanded(&file, 1, 5), Ok(vec![1, 0, 1, 1, 0]));
    }
}
