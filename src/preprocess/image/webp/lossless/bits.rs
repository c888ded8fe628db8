//! The bits of a lossless WebP, from the lowest of each byte on.
//!
//! Behind the end there are zeros: whoever reads asks in time whether it has gone too far ([`Bits::is_past_end`]), not at each bit.
//! Invariant: after [`Bits::refill`] at least [`REFILLED`] bits can be looked at.

/// Bits that there are after a refill.
pub(super) const REFILLED: u32 = 56;

/// libwebp's reader starts with a window of so many bytes, and takes what is missing of them as zeros that are there.
const WINDOW_BYTES: usize = 8;

#[derive(Clone, Copy)]
pub(super) struct Bits<'a> {
    data: &'a [u8],
    /// Bytes in the window and before it; what is behind the end counts.
    taken: usize,
    window: u64,
    /// How many bits of the window count. Those above are zeros, or what the bytes to come say.
    count: u32,
}

impl<'a> Bits<'a> {
    pub(super) fn new(data: &'a [u8]) -> Self {
        Self { data, taken: 0, window: 0, count: 0 }
    }

    /// Fills the window.
    #[inline(always)]
    pub(super) fn refill(&mut self) {
        if let Some(next) = self.data.get(self.taken..).and_then(<[u8]>::first_chunk) {
            self.window |= u64::from_le_bytes(*next) << self.count;
            self.taken += ((63 - self.count) >> 3) as usize;
            self.count |= REFILLED;
        } else {
            // By value: what a reference was given away of does not stay in registers.
            *self = self.refilled_at_end();
        }
    }

    #[cold]
    #[inline(never)]
    fn refilled_at_end(mut self) -> Self {
        while self.count < REFILLED {
            let byte = self.data.get(self.taken).copied().unwrap_or(0);
            self.window |= u64::from(byte) << self.count;
            self.taken += 1;
            self.count += 8;
        }
        self
    }

    /// Fills the window where it has less than `bits`.
    #[inline(always)]
    pub(super) fn need(&mut self, bits: u32) {
        if self.count < bits {
            self.refill();
        }
    }

    /// What comes next; as much as was asked for counts.
    #[inline(always)]
    pub(super) fn peek(&self) -> u64 {
        self.window
    }

    /// Passes bits that were asked for.
    #[inline(always)]
    pub(super) fn skip(&mut self, bits: u32) {
        self.window >>= bits;
        self.count -= bits;
    }

    /// The next number, of 24 bits at most.
    #[inline(always)]
    pub(super) fn take(&mut self, bits: u32) -> u32 {
        self.need(bits);
        self.take_known(bits)
    }

    /// The same where the bits were asked for.
    #[inline(always)]
    pub(super) fn take_known(&mut self, bits: u32) -> u32 {
        let number = self.window as u32 & ((1 << bits) - 1);
        self.skip(bits);
        number
    }

    /// The next bit.
    pub(super) fn flag(&mut self) -> bool {
        self.take(1) == 1
    }

    /// Whether more was read than there is.
    pub(super) fn is_past_end(&self) -> bool {
        self.taken * 8 - self.count as usize > self.data.len().max(WINDOW_BYTES) * 8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_start_at_the_lowest_bit_and_cross_bytes() {
        let mut bits = Bits::new(&[0b1010_0110, 0xff, 0, 0x12, 0x34, 0x56, 0x78, 0x9a, 0xbc, 0xde]);
        assert_eq!((bits.take(1), bits.take(3), bits.take(12)), (0, 0b011, 0b1111_1111_1010));
        assert_eq!((bits.take(0), bits.take(8), bits.take(24)), (0, 0, 0x563412));
        assert_eq!((bits.take(24), bits.take(8)), (0xbc9a78, 0xde));
        assert!(!bits.is_past_end());
        assert_eq!(bits.take(1), 0);
        assert!(bits.is_past_end());
    }

    #[test]
    fn less_than_a_window_is_as_if_it_were_filled_with_zeros() {
        let mut bits = Bits::new(&[1]);
        assert_eq!((bits.take(16), bits.take(24), bits.take(24)), (1, 0, 0));
        assert!(!bits.is_past_end());
        assert!(!bits.flag() && bits.is_past_end());
    }
}
