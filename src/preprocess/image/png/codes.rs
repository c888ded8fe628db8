//! The codes of a block of deflate as tables, in which the next bits of the stream say what they stand for.
//!
//! Owns which codes are taken: as in zlib those that use up all bits, and such of one bit alone as its encoders do not make.
//!
//! An entry is 32 bits. The lowest four are the length of its code, the next four, of two literals, that of the first alone. A literal
//! has [`LITERAL`], the number of literals from bit 8 on, and these from bit 16 on; a length or distance has the number of further bits
//! from bit 8 on and its base from bit 16 on; what is neither has [`OTHER`].

use std::{array::from_fn, ops::Range};

/// A literal, or two.
pub(super) const LITERAL: u32 = 1 << 15;
/// Neither a literal nor a number: what nothing stands for, unless it is one of the next two.
pub(super) const OTHER: u32 = 1 << 14;
/// The code is longer: it is looked up in the second table, from the place that begins at bit 16.
pub(super) const LINK: u32 = OTHER | 1 << 13;
/// The end of the block.
pub(super) const END: u32 = OTHER | 1 << 12;

/// Bits of the longest code.
const MAX_BITS: usize = 15;

/// Symbols of the largest alphabet, that of literals and lengths.
pub(super) const MAX_LITERALS: usize = 288;
/// Symbols of that of distances.
pub(super) const MAX_DISTANCES: usize = 32;

/// Which lengths make a code.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Whole {
    /// Those alone that leave no bits without a meaning.
    Always,
    /// Also one code of one bit, or none.
    OrSingle,
}

/// The table of the first bits of a code, as many as make `SIZE`, and one of the others.
pub(super) struct Table<const SIZE: usize> {
    first: Box<[u32; SIZE]>,
    second: Vec<u32>,
    /// Of the bits that are looked up in the second.
    mask: u64,
}

impl<const SIZE: usize> Table<SIZE> {
    const BITS: usize = SIZE.ilog2() as usize;

    pub(super) fn new() -> Self {
        Self { first: Box::new([OTHER; SIZE]), second: Vec::new(), mask: 0 }
    }

    /// What the lowest bits stand for.
    #[inline(always)]
    pub(super) fn find(&self, bits: u64) -> u32 {
        self.first[bits as usize % SIZE]
    }

    /// What a [`LINK`] leads to.
    #[inline(always)]
    pub(super) fn follow(&self, link: u32, bits: u64) -> u32 {
        self.second[(link >> 16) as usize + (bits >> Self::BITS & self.mask) as usize]
    }

    /// What the lowest bits stand for, however long its code is.
    pub(super) fn find_any(&self, bits: u64) -> u32 {
        match self.find(bits) {
            link if link & LINK == LINK => self.follow(link, bits),
            entry => entry,
        }
    }

    /// Makes the table of a code from the lengths of its symbols' codes. `entry` says what a symbol stands for. `None` where they make none.
    pub(super) fn build(&mut self, lengths: &[u8], whole: Whole, entry: impl Fn(usize) -> u32) -> Option<()> {
        let mut counts = [0usize; MAX_BITS + 1];
        lengths.iter().for_each(|&length| counts[usize::from(length)] += 1);
        let unused = std::mem::take(&mut counts[0]);
        let longest = (1..=MAX_BITS).rev().find(|&length| counts[length] > 0).unwrap_or(0);
        let mut left = 1usize;
        for count in &counts[1..=longest] {
            left = (left << 1).checked_sub(*count)?;
        }
        if left > 0 && (whole == Whole::Always || longest > 1) {
            return None;
        }
        // By length, and then in their order.
        let mut sorted = [0u16; MAX_LITERALS];
        let mut starts = [0; MAX_BITS + 2];
        for length in 1..=MAX_BITS {
            starts[length + 1] = starts[length] + counts[length];
        }
        let mut next = starts;
        for (symbol, &length) in lengths.iter().enumerate().filter(|&(_, &length)| length > 0) {
            sorted[next[usize::from(length)]] = symbol as u16;
            next[usize::from(length)] += 1;
        }
        let sorted = &sorted[..lengths.len() - unused];
        self.first[..2].fill(OTHER);
        // Those of literals come first among the codes of a length.
        let literals: [Range<usize>; MAX_BITS + 1] = from_fn(|length| {
            let symbols = &sorted[starts[length]..starts[length + 1]];
            starts[length]..starts[length] + symbols.partition_point(|&symbol| entry(symbol.into()) & LITERAL != 0)
        });
        let mut codes = [0u16; MAX_LITERALS];
        let mut code = 0;
        for length in 1..=Self::BITS {
            for at in starts[length]..starts[length + 1] {
                let entry = entry(usize::from(sorted[at]));
                self.first[code] = entry | (length << 4 | length) as u32;
                codes[at] = code as u16;
                code = following(code, length);
            }
            for first_length in 1..length {
                for first in literals[first_length].clone() {
                    let pair = LITERAL | 2 << 8 | u32::from(sorted[first]) << 16 | (first_length << 4 | length) as u32;
                    for second in literals[length - first_length].clone() {
                        let code = codes[first] | codes[second] << first_length;
                        self.first[usize::from(code) % SIZE] = pair | u32::from(sorted[second]) << 24;
                    }
                }
            }
            if length < Self::BITS {
                self.first.copy_within(..1 << length, 1 << length);
            }
        }
        self.second.clear();
        let further = longest.saturating_sub(Self::BITS);
        self.mask = (1 << further) - 1;
        let mut last = SIZE;
        for length in Self::BITS + 1..=longest {
            for &symbol in &sorted[starts[length]..starts[length + 1]] {
                if code % SIZE != last {
                    last = code % SIZE;
                    self.first[last] = LINK | (self.second.len() as u32) << 16;
                    self.second.resize(self.second.len() + (1 << further), OTHER);
                }
                let start = self.second.len() - (1 << further);
                for place in (code >> Self::BITS..1 << further).step_by(1 << (length - Self::BITS)) {
                    self.second[start + place] = entry(usize::from(symbol)) | (length << 4 | length) as u32;
                }
                code = following(code, length);
            }
        }
        Some(())
    }
}

/// The code of so many bits after `code`, whose first bit is the lowest. After the last comes the last.
fn following(code: usize, length: usize) -> usize {
    match !code & ((1 << length) - 1) {
        0 => code,
        zeros => {
            let carry = 1 << zeros.ilog2();
            code & (carry - 1) | carry
        }
    }
}
