//! The prefix codes of a lossless WebP: reading them, and tables to read symbols by.
//!
//! A code whose lengths do not fill the tree is refused; one of a single symbol takes no bits, whatever length it was given. Both are
//! libwebp's rules, as is that a symbol beyond the alphabet, which a simple code can name, is not there.
//!
//! A table has two levels: the first is looked up by [`ROOT_BITS`] bits, or fewer where the longest code is shorter, so that codes
//! of few symbols take little. All tables of a picture lie in one vector.
//!
//! Invariant: every entry of a [`Code`]'s table that its bits can reach was written, and leads to a symbol of the alphabet.

use super::{bits::Bits, failure::Failure};

/// The largest cache of colours has that power of two.
pub(super) const MAX_CACHE_BITS: u32 = 11;

/// Bits that are looked up at once.
const ROOT_BITS: u32 = 8;

/// The longest code.
const MAX_BITS: usize = 15;

/// Literals, and the prefixes of lengths.
pub(super) const LITERALS: usize = 256;
pub(super) const LENGTH_PREFIXES: usize = 24;
/// The prefixes of distances.
pub(super) const DISTANCE_PREFIXES: usize = 40;

/// Symbols of the largest alphabet.
const MAX_SYMBOLS: usize = LITERALS + LENGTH_PREFIXES + (1 << MAX_CACHE_BITS);

/// Set in an entry of the first level that leads to the second.
const LINK: u32 = 0x80;

/// Where a code's table is.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Code {
    start: u32,
    mask: u32,
}

impl Code {
    /// The next symbol, above a byte with the length of its code in bits. [`MAX_BITS`] have to be there.
    #[inline(always)]
    pub(super) fn look_up(self, tables: &[u32], bits: &Bits) -> u32 {
        let next = bits.peek() as u32;
        let mut entry = tables[(self.start + (next & self.mask)) as usize];
        if entry & LINK != 0 {
            let below = (next >> ROOT_BITS) & ((1 << (entry & 0xf)) - 1);
            entry = tables[(self.start + (entry >> 8) + below) as usize];
        }
        entry
    }

    /// Reads the next symbol.
    #[inline(always)]
    pub(super) fn read(self, tables: &[u32], bits: &mut Bits) -> u32 {
        let entry = self.look_up(tables, bits);
        bits.skip(entry & 0x3f);
        entry >> 8
    }

    /// The symbol of a code that takes no bits.
    pub(super) fn only(self, tables: &[u32]) -> Option<u32> {
        (self.mask == 0).then(|| tables[self.start as usize] >> 8)
    }
}

/// Reads codes.
pub(super) struct CodeReader {
    /// Of each symbol of the code that is read.
    lengths: [u8; MAX_SYMBOLS],
    /// How many symbols have that length.
    counts: [u32; MAX_BITS + 1],
    /// Symbols by length, those of a length by number.
    sorted: [u16; MAX_SYMBOLS],
}

impl CodeReader {
    pub(super) fn new() -> Self {
        Self { lengths: [0; MAX_SYMBOLS], counts: [0; MAX_BITS + 1], sorted: [0; MAX_SYMBOLS] }
    }

    /// Reads a code and looks whether it is one.
    pub(super) fn pass(&mut self, bits: &mut Bits, alphabet: usize) -> Result<(), Failure> {
        self.lengths[..alphabet].fill(0);
        self.counts = [0; MAX_BITS + 1];
        if bits.flag() {
            self.read_simple(bits, alphabet);
        } else {
            self.read_lengths(bits, alphabet)?;
        }
        if bits.is_past_end() {
            return Err(Failure::Truncated);
        }
        is_code(&self.counts)
    }

    /// Reads a code and adds its table to `tables`.
    pub(super) fn read(&mut self, bits: &mut Bits, alphabet: usize, tables: &mut Vec<u32>) -> Result<Code, Failure> {
        self.pass(bits, alphabet)?;
        self.add_table(alphabet, tables)
    }

    /// One or two symbols.
    fn read_simple(&mut self, bits: &mut Bits, alphabet: usize) {
        let has_two = bits.flag();
        let first_bits = if bits.flag() { 8 } else { 1 };
        let first = bits.take(first_bits) as usize;
        let second = if has_two { bits.take(8) as usize } else { first };
        // Given twice it is one symbol; the shorter code is that of the smaller one, not of the first.
        for symbol in [first, second] {
            if symbol < alphabet && self.lengths[symbol] == 0 {
                self.lengths[symbol] = 1;
                self.counts[1] += 1;
            }
        }
    }

    /// The lengths of all symbols, in a code of their own.
    fn read_lengths(&mut self, bits: &mut Bits, alphabet: usize) -> Result<(), Failure> {
        const ORDER: [u8; 19] = [17, 18, 0, 1, 2, 3, 4, 5, 16, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
        /// The longest code of a length.
        const TABLE_BITS: usize = 7;
        const REPEAT_LAST: u32 = 16;
        let number = bits.take(4) as usize + 4;
        let order = ORDER.get(..number).ok_or(Failure::Damaged("a code of too many lengths"))?;
        let mut lengths = [0; ORDER.len()];
        let mut counts = [0; MAX_BITS + 1];
        for &symbol in order {
            let length = bits.take(3);
            lengths[usize::from(symbol)] = length as u8;
            counts[length as usize] += 1;
        }
        counts[0] = 0;
        is_code(&counts)?;
        let mut sorted = [0; ORDER.len()];
        sort(&lengths, &counts, &mut sorted);
        let mut table = [0; 1 << TABLE_BITS];
        if counts.iter().sum::<u32>() == 1 {
            table = [u32::from(sorted[0]) << 8; 1 << TABLE_BITS];
        } else {
            let (mut key, mut symbols) = (0, sorted.iter());
            for (length, &count) in counts.iter().enumerate() {
                for &symbol in symbols.by_ref().take(count as usize) {
                    for place in table.iter_mut().skip(key).step_by(1 << length) {
                        *place = u32::from(symbol) << 8 | length as u32;
                    }
                    key = next_key(key, length);
                }
            }
        }
        let mut left = alphabet;
        if bits.flag() {
            let number_bits = 2 + 2 * bits.take(3);
            left = 2 + bits.take(number_bits) as usize;
            if left > alphabet {
                return Err(Failure::Damaged("more lengths of codes than symbols"));
            }
        }
        let mut last = 8;
        let mut symbol = 0;
        while symbol < alphabet && left > 0 {
            left -= 1;
            bits.need(TABLE_BITS as u32 + 7);
            let entry = table[bits.peek() as usize % (1 << TABLE_BITS)];
            bits.skip(entry & 0xff);
            let kind = entry >> 8;
            let (length, repeat) = match kind {
                0..REPEAT_LAST => {
                    if kind != 0 {
                        last = kind as u8;
                    }
                    self.lengths[symbol] = kind as u8;
                    self.counts[kind as usize] += 1;
                    symbol += 1;
                    continue;
                }
                REPEAT_LAST => (last, 3 + bits.take_known(2)),
                17 => (0, 3 + bits.take_known(3)),
                _ => (0, 11 + bits.take_known(7)),
            };
            let end = symbol + repeat as usize;
            if end > alphabet {
                return Err(Failure::Damaged("a length of codes repeated too often"));
            }
            self.lengths[symbol..end].fill(length);
            self.counts[usize::from(length)] += repeat;
            symbol = end;
        }
        self.counts[0] = 0;
        Ok(())
    }

    fn add_table(&mut self, alphabet: usize, tables: &mut Vec<u32>) -> Result<Code, Failure> {
        let Self { lengths, counts, sorted } = self;
        let start = tables.len();
        sort(&lengths[..alphabet], counts, sorted);
        let longest = counts.iter().rposition(|&count| count > 0).unwrap_or(0);
        if counts.iter().sum::<u32>() == 1 {
            tables.try_reserve(1)?;
            tables.push(u32::from(sorted[0]) << 8);
            return Ok(Code { start: start as u32, mask: 0 });
        }
        let root_bits = (longest as u32).min(ROOT_BITS);
        let root_size = 1 << root_bits;
        grow(tables, root_size)?;
        let mut symbols = sorted.iter();
        let mut key = 0;
        // What the table that is filled is reached by, where it starts, its size.
        let (mut low, mut at, mut size) = (usize::MAX, start, root_size);
        for length in 1..=longest {
            for done in 0..counts[length] {
                let Some(&symbol) = symbols.next() else { break };
                let entry = u32::from(symbol) << 8 | length as u32;
                let (mut place, mut step) = (key, 1 << length);
                if length as u32 > ROOT_BITS {
                    if key % root_size != low {
                        low = key % root_size;
                        let table_bits = table_bits(counts, length, done);
                        at = tables.len();
                        size = 1 << table_bits;
                        grow(tables, size)?;
                        tables[start + low] = ((at - start) as u32) << 8 | LINK | table_bits;
                    }
                    place = key >> ROOT_BITS;
                    step = 1 << (length as u32 - ROOT_BITS);
                }
                while place < size {
                    tables[at + place] = entry;
                    place += step;
                }
                key = next_key(key, length);
            }
        }
        Ok(Code { start: start as u32, mask: root_size as u32 - 1 })
    }
}

fn grow(tables: &mut Vec<u32>, entries: usize) -> Result<(), Failure> {
    tables.try_reserve(entries)?;
    tables.resize(tables.len() + entries, 0);
    Ok(())
}

/// Whether there is one symbol, or the lengths fill a tree.
fn is_code(counts: &[u32; MAX_BITS + 1]) -> Result<(), Failure> {
    let mut open = 1i64;
    for &count in &counts[1..] {
        open = open * 2 - i64::from(count);
        if open < 0 {
            break;
        }
    }
    let is_single = counts[1..].iter().sum::<u32>() == 1;
    if open == 0 || is_single { Ok(()) } else { Err(Failure::Damaged("lengths that make no prefix code")) }
}

fn sort(lengths: &[u8], counts: &[u32; MAX_BITS + 1], sorted: &mut [u16]) {
    let mut next = [0; MAX_BITS + 1];
    for length in 1..MAX_BITS {
        next[length + 1] = next[length] + counts[length] as usize;
    }
    for (symbol, &length) in lengths.iter().enumerate() {
        if length > 0 {
            let place = &mut next[usize::from(length)];
            sorted[*place] = symbol as u16;
            *place += 1;
        }
    }
}

/// The code behind `key`, both with their first bit lowest.
fn next_key(key: usize, length: usize) -> usize {
    let zeros = !key & ((1 << length) - 1);
    match zeros.checked_ilog2() {
        Some(highest) => key & ((1 << highest) - 1) | 1 << highest,
        None => 0,
    }
}

/// Bits that the table of the second level has which starts with a code of `length`, of which `done` are already elsewhere.
fn table_bits(counts: &[u32; MAX_BITS + 1], length: usize, done: u32) -> u32 {
    let mut bits = length as u32 - ROOT_BITS;
    let mut left = 1i64 << bits;
    let mut done = done;
    for &count in &counts[length..] {
        left -= i64::from(count - done);
        done = 0;
        if left <= 0 || bits == MAX_BITS as u32 - ROOT_BITS {
            break;
        }
        bits += 1;
        left *= 2;
    }
    bits
}
