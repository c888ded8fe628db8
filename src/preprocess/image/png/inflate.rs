//! Inflates the stream of a PNG's pixels, by zlib's rules.
//!
//! Owns the stream from its header to its checksum, and how it is decoded fast; `codes` makes the tables. No crate does both: tell of
//! blocks, and be as fast as those that keep silent about them.
//!
//! Invariants: what a stream may take is counted, never timed: its bytes by whoever calls, its blocks here, before their tables are made.
//! What the bits of a piece say is given with that piece.

use simd_adler32::Adler32;

use super::{
    codes::{END, LINK, LITERAL, MAX_DISTANCES, MAX_LITERALS, OTHER, Table, Whole},
    refusal::{FORMAT, damaged},
};
use crate::preprocess::image::{ImageError, blocks::Blocks};

/// Bytes that one turn of the fast loop may write: three times two literals, or a copy, of which some bytes are too many.
const TURN: usize = 258 + 16 + 8;

/// The order in which the lengths of the codes of lengths are stored.
const ORDER: [usize; 19] = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];

/// Inflates one stream, piece by piece.
pub(super) struct Inflater {
    state: State,
    blocks: Blocks,
    /// Whether the block is the last.
    is_last: bool,
    bits: Bits,
    header: Box<Header>,
    codes: Codes,
    /// What is left of a copy for which there was no room.
    copy: Repeat,
    /// Bytes of the last code among those that end a piece; 0 where that is none of a copy.
    last_copy: usize,
    sum: Adler32,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    Start,
    Block,
    /// So many lengths of the codes of lengths have been read.
    CodeLengths(usize),
    /// So many lengths.
    Lengths(usize),
    Coded,
    /// So many bytes are still to be copied.
    Stored(usize),
    Sum,
    Done,
}

/// What was taken of a piece. Above the `count` lowest bits of those held there may be some that come next and are not counted yet.
#[derive(Clone, Copy, Default)]
struct Bits {
    held: u64,
    count: u32,
}

impl Bits {
    /// Takes what there is room for.
    #[inline(always)]
    fn fill(&mut self, piece: &mut &[u8]) {
        if let Some(&next) = piece.first_chunk::<8>() {
            self.fill_from(next, piece);
        } else {
            while self.count <= 56
                && let Some((&byte, rest)) = piece.split_first()
            {
                self.held |= u64::from(byte) << self.count;
                self.count += 8;
                *piece = rest;
            }
        }
    }

    #[inline(always)]
    fn fill_from(&mut self, next: [u8; 8], piece: &mut &[u8]) {
        self.held |= u64::from_le_bytes(next) << self.count;
        *piece = &piece[(63 - self.count as usize) / 8..];
        self.count |= 56;
    }

    #[inline(always)]
    fn peek(self, count: u32) -> usize {
        (self.held & ((1 << count) - 1)) as usize
    }

    #[inline(always)]
    fn drop(&mut self, count: u32) {
        self.held >>= count;
        self.count -= count;
    }

    /// So many bits, where they are there.
    fn take(&mut self, count: u32) -> Option<usize> {
        if self.count < count {
            return None;
        }
        let taken = self.peek(count);
        self.drop(count);
        Some(taken)
    }
}

/// The header of a block with codes of its own.
struct Header {
    /// How many lengths there are of literals and lengths, of distances, and of the codes of lengths.
    literals: usize,
    distances: usize,
    codes: usize,
    code_lengths: [u8; ORDER.len()],
    table: Table<128>,
    lengths: [u8; MAX_LITERALS + MAX_DISTANCES],
}

/// The codes of a block.
struct Codes {
    literals: Table<4096>,
    distances: Table<512>,
    /// Whether they are those that need no header.
    are_fixed: bool,
}

impl Codes {
    fn build(&mut self, literals: &[u8], distances: &[u8]) -> Option<()> {
        self.literals.build(literals, Whole::OrSingle, |symbol| match symbol {
            0..256 => LITERAL | 1 << 8 | (symbol as u32) << 16,
            256 => END,
            257..265 => number(symbol - 254, 0),
            265..285 => number(3 + ((4 + (symbol - 265) % 4) << ((symbol - 261) / 4)), (symbol - 261) / 4),
            285 => number(258, 0),
            _ => OTHER,
        })?;
        self.distances.build(distances, Whole::OrSingle, |symbol| match symbol {
            0..4 => number(symbol + 1, 0),
            4..30 => number(1 + ((2 + symbol % 2) << (symbol / 2 - 1)), symbol / 2 - 1),
            _ => OTHER,
        })
    }

    fn fix(&mut self) {
        if !self.are_fixed {
            let mut literals = [8; MAX_LITERALS];
            literals[144..256].fill(9);
            literals[256..280].fill(7);
            self.are_fixed = self.build(&literals, &[5; MAX_DISTANCES]).is_some();
        }
    }
}

/// An entry of a table.
fn number(base: usize, further_bits: usize) -> u32 {
    (base << 16 | further_bits << 8) as u32
}

/// Bytes that are there again.
#[derive(Clone, Copy, Default)]
struct Repeat {
    distance: usize,
    length: usize,
}

impl Repeat {
    /// Copies what there is room for.
    fn go_on(&mut self, out: &mut [u8], at: &mut usize) {
        let length = self.length.min(out.len() - *at);
        for to in *at..*at + length {
            out[to] = out[to - self.distance];
        }
        *at += length;
        self.length -= length;
    }
}

/// What became of a block's data.
enum Coded {
    /// The block has ended.
    Whole,
    /// The piece has, or there is no more room.
    Paused,
}

impl Inflater {
    /// For a stream of so many blocks.
    pub(super) fn new(blocks: Blocks) -> Self {
        Self {
            state: State::Start,
            blocks,
            is_last: false,
            bits: Bits::default(),
            header: Box::new(Header {
                literals: 0,
                distances: 0,
                codes: 0,
                code_lengths: [0; _],
                table: Table::new(),
                lengths: [0; _],
            }),
            codes: Codes { literals: Table::new(), distances: Table::new(), are_fixed: false },
            copy: Repeat::default(),
            last_copy: 0,
            sum: Adler32::new(),
        }
    }

    /// Whether the checksum has been read.
    pub(super) fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Bytes that came of the last code, where it is a copy and no byte follows that its bits are not in.
    pub(super) fn last_copy(&self) -> usize {
        if self.bits.count < 8 { self.last_copy } else { 0 }
    }

    /// Inflates to the end of `out`, of which so many bytes are filled, the last of the stream among them; or to the end of the piece. Returns
    /// how many bytes it took and gave.
    pub(super) fn read(&mut self, piece: &[u8], out: &mut [u8], filled: usize) -> Result<(usize, usize), ImageError> {
        let mut rest = piece;
        let mut at = filled;
        self.copy.go_on(out, &mut at);
        let mut summed = filled;
        while self.copy.length == 0 && self.step(&mut rest, out, &mut at, &mut summed)?.is_some() {}
        self.sum.write(&out[summed..at]);
        Ok((piece.len() - rest.len(), at - filled))
    }

    /// Goes on to the next state, unless more bits or more room are needed.
    fn step(
        &mut self,
        piece: &mut &[u8],
        out: &mut [u8],
        at: &mut usize,
        summed: &mut usize,
    ) -> Result<Option<()>, ImageError> {
        self.bits.fill(piece);
        let next = match self.state {
            State::Start => self.start()?,
            State::Block => self.block()?,
            State::CodeLengths(read) => self.code_lengths(piece, read)?,
            State::Lengths(read) => self.lengths(piece, read)?,
            State::Coded => match self.coded(piece, out, at)? {
                Coded::Whole => Some(self.behind_block()),
                Coded::Paused => None,
            },
            State::Stored(left) => {
                let left = self.stored(left, piece, out, at);
                self.state = State::Stored(left);
                (left == 0).then(|| self.behind_block())
            }
            State::Sum => {
                self.sum.write(&out[*summed..*at]);
                *summed = *at;
                self.check_sum()?
            }
            State::Done => None,
        };
        self.state = next.unwrap_or(self.state);
        Ok(next.map(|_| ()))
    }

    fn behind_block(&self) -> State {
        if self.is_last { State::Sum } else { State::Block }
    }

    fn start(&mut self) -> Result<Option<State>, ImageError> {
        const HAS_DICTIONARY: usize = 1 << 13;
        let Some(header) = self.bits.take(16) else { return Ok(None) };
        let (method, flags) = (header & 0xff, header >> 8);
        if method & 15 != 8 || method > 0x78 || (method << 8 | flags) % 31 != 0 || header & HAS_DICTIONARY != 0 {
            return Err(damaged("not the header of a stream"));
        }
        Ok(Some(State::Block))
    }

    fn block(&mut self) -> Result<Option<State>, ImageError> {
        let start = self.bits.peek(17);
        let kind = start >> 1 & 3;
        let needed = match kind {
            0 => 3 + (self.bits.count.wrapping_sub(3) & 7) + 32,
            2 => 17,
            _ => 3,
        };
        // Of fewer than three bits the kind is not known either, and the least is needed.
        if self.bits.count < needed {
            return Ok(None);
        }
        self.blocks.spend(FORMAT)?;
        self.is_last = start & 1 == 1;
        self.bits.drop(3);
        match kind {
            0 => {
                self.bits.drop(self.bits.count & 7);
                let (length, inverse) = (self.bits.peek(16), self.bits.peek(32) >> 16);
                self.bits.drop(32);
                if length ^ inverse != 0xffff {
                    return Err(damaged("a stored block of two lengths"));
                }
                Ok(Some(State::Stored(length)))
            }
            1 => {
                self.codes.fix();
                Ok(Some(State::Coded))
            }
            2 => {
                self.bits.drop(14);
                let header = &mut *self.header;
                header.literals = 257 + (start >> 3 & 31);
                header.distances = 1 + (start >> 8 & 31);
                header.codes = 4 + (start >> 13 & 15);
                if header.literals > 286 || header.distances > 30 {
                    return Err(damaged("too many codes"));
                }
                header.code_lengths = [0; _];
                Ok(Some(State::CodeLengths(0)))
            }
            _ => Err(damaged("a block of an unknown kind")),
        }
    }

    fn code_lengths(&mut self, piece: &mut &[u8], read: usize) -> Result<Option<State>, ImageError> {
        let Header { codes, code_lengths, table, .. } = &mut *self.header;
        for (number, &place) in ORDER.iter().enumerate().take(*codes).skip(read) {
            self.bits.fill(piece);
            let Some(length) = self.bits.take(3) else {
                self.state = State::CodeLengths(number);
                return Ok(None);
            };
            code_lengths[place] = length as u8;
        }
        let built = table.build(code_lengths, Whole::Always, |symbol| (symbol as u32) << 16);
        built.ok_or_else(|| damaged("lengths without a code"))?;
        Ok(Some(State::Lengths(0)))
    }

    fn lengths(&mut self, piece: &mut &[u8], mut read: usize) -> Result<Option<State>, ImageError> {
        let Header { literals, distances, table, lengths, .. } = &mut *self.header;
        let all = *literals + *distances;
        while read < all {
            self.bits.fill(piece);
            let entry = table.find(self.bits.held);
            let (symbol, bits) = (entry >> 16, entry & 15);
            let (least, further) = match symbol {
                16 => (3, 2),
                17 => (3, 3),
                18 => (11, 7),
                _ => (1, 0),
            };
            if self.bits.count < bits + further {
                self.state = State::Lengths(read);
                return Ok(None);
            }
            self.bits.drop(bits);
            let times = least + self.bits.peek(further);
            self.bits.drop(further);
            let length = match symbol {
                16 => *read.checked_sub(1).map(|last| &lengths[last]).ok_or_else(|| damaged("a length of nothing"))?,
                17 | 18 => 0,
                length => length as u8,
            };
            if read + times > all {
                return Err(damaged("too many lengths"));
            }
            lengths[read..read + times].fill(length);
            read += times;
        }
        let (literals, distances) = lengths[..all].split_at(*literals);
        if literals[256] == 0 {
            return Err(damaged("a block that cannot end"));
        }
        self.codes.are_fixed = false;
        self.codes.build(literals, distances).ok_or_else(|| damaged("a code that is none"))?;
        Ok(Some(State::Coded))
    }

    /// Copies what is there and has room, and returns how much is left.
    fn stored(&mut self, mut left: usize, piece: &mut &[u8], out: &mut [u8], at: &mut usize) -> usize {
        while left > 0
            && *at < out.len()
            && let Some(byte) = self.bits.take(8)
        {
            out[*at] = byte as u8;
            *at += 1;
            left -= 1;
        }
        // What was held without being counted is still in the piece.
        if self.bits.count == 0 {
            self.bits.held = 0;
            let length = left.min(piece.len()).min(out.len() - *at);
            let (bytes, rest) = piece.split_at(length);
            out[*at..][..length].copy_from_slice(bytes);
            *piece = rest;
            *at += length;
            left -= length;
        }
        left
    }

    fn check_sum(&mut self) -> Result<Option<State>, ImageError> {
        let padding = self.bits.count & 7;
        if self.bits.count < padding + 32 {
            return Ok(None);
        }
        self.bits.drop(padding);
        let sum = (self.bits.peek(32) as u32).swap_bytes();
        self.bits.drop(32);
        if sum == self.sum.finish() { Ok(Some(State::Done)) } else { Err(damaged("a checksum is wrong")) }
    }

    fn coded(&mut self, piece: &mut &[u8], out: &mut [u8], at: &mut usize) -> Result<Coded, ImageError> {
        if let Coded::Whole = fast(&self.codes, &mut self.bits, piece, out, at)? {
            return Ok(Coded::Whole);
        }
        let Codes { literals, distances, .. } = &self.codes;
        while *at < out.len() {
            self.bits.fill(piece);
            let Bits { held, count } = self.bits;
            let entry = literals.find_any(held);
            if entry & LITERAL != 0 {
                let bits = entry >> 4 & 15;
                if count < bits {
                    return Ok(Coded::Paused);
                }
                out[*at] = (entry >> 16) as u8;
                *at += 1;
                self.bits.drop(bits);
                self.last_copy = 0;
                continue;
            }
            let bits = entry & 15;
            if count < bits || count == 0 {
                return Ok(Coded::Paused);
            }
            if entry & OTHER != 0 {
                if entry & END != END {
                    return Err(damaged("a code that nothing stands for"));
                }
                self.bits.drop(bits);
                return Ok(Coded::Whole);
            }
            let (length, bits) = value(entry, held, bits);
            let distance = distances.find_any(held >> bits);
            if count < bits + (distance & 15).max(1) {
                return Ok(Coded::Paused);
            }
            if distance & OTHER != 0 {
                return Err(damaged("a code that nothing stands for"));
            }
            let (distance, further) = value(distance, held >> bits, distance & 15);
            if count < bits + further {
                return Ok(Coded::Paused);
            }
            if distance > *at {
                return Err(damaged("a copy of what is not there"));
            }
            self.bits.drop(bits + further);
            self.copy = Repeat { distance, length };
            self.last_copy = length;
            self.copy.go_on(out, at);
        }
        // The end takes no room.
        self.bits.fill(piece);
        let entry = literals.find_any(self.bits.held);
        if self.copy.length == 0 && entry & END == END && self.bits.count >= entry & 15 {
            self.bits.drop(entry & 15);
            return Ok(Coded::Whole);
        }
        Ok(Coded::Paused)
    }
}

/// What an entry and the bits behind its code say together, and how many bits that are with its own.
#[inline(always)]
fn value(entry: u32, held: u64, bits: u32) -> (usize, u32) {
    let further = entry >> 8 & 15;
    ((entry >> 16) as usize + (held >> bits & ((1 << further) - 1)) as usize, bits + further)
}

/// Puts the literals of an entry, as if they were two.
#[inline(always)]
fn put(out: &mut [u8], at: &mut usize, bits: &mut Bits, entry: u32) {
    out[*at..][..2].copy_from_slice(&((entry >> 16) as u16).to_le_bytes());
    *at += (entry >> 8 & 3) as usize;
    bits.drop(entry & 15);
}

/// Decodes as long as bits and room are there for whatever comes.
fn fast(
    codes: &Codes,
    state: &mut Bits,
    piece: &mut &[u8],
    out: &mut [u8],
    place: &mut usize,
) -> Result<Coded, ImageError> {
    let Codes { literals, distances, .. } = codes;
    let (mut bits, mut rest, mut at) = (*state, *piece, *place);
    let mut ended = Coded::Paused;
    // Of the code that comes next, whose bits are there: it is looked up before more are taken, which then wait for nothing.
    bits.fill(&mut rest);
    let mut entry = literals.find(bits.held);
    while out.len() - at >= TURN
        && let Some(&next) = rest.first_chunk::<8>()
    {
        bits.fill_from(next, &mut rest);
        if entry & LITERAL != 0 {
            put(out, &mut at, &mut bits, entry);
            entry = literals.find(bits.held);
            if entry & LITERAL != 0 {
                put(out, &mut at, &mut bits, entry);
                entry = literals.find(bits.held);
                if entry & LITERAL != 0 {
                    put(out, &mut at, &mut bits, entry);
                    entry = literals.find(bits.held);
                    continue;
                }
            }
            let Some(&next) = rest.first_chunk::<8>() else { break };
            bits.fill_from(next, &mut rest);
        }
        if entry & LINK == LINK {
            entry = literals.follow(entry, bits.held);
            if entry & LITERAL != 0 {
                put(out, &mut at, &mut bits, entry);
                entry = literals.find(bits.held);
                continue;
            }
        }
        if entry & OTHER != 0 {
            if entry & END != END {
                return Err(damaged("a code that nothing stands for"));
            }
            bits.drop(entry & 15);
            ended = Coded::Whole;
            break;
        }
        // A length takes 20 bits at most, a distance 28: of 64, which are held though fewer are counted, enough are left for the next code.
        let (length, used) = value(entry, bits.held, entry & 15);
        bits.drop(used);
        let of_distance = distances.find_any(bits.held);
        if of_distance & OTHER != 0 {
            return Err(damaged("a code that nothing stands for"));
        }
        let (distance, used) = value(of_distance, bits.held, of_distance & 15);
        bits.drop(used);
        entry = literals.find(bits.held);
        let from = at.checked_sub(distance).ok_or_else(|| damaged("a copy of what is not there"))?;
        if distance == 1 {
            let byte = out[from];
            out[at..at + length].fill(byte);
        } else {
            // What is written too much comes to be overwritten.
            for done in (0..length).step_by(distance.min(16)) {
                out.copy_within(from + done..from + done + 16, at + done);
            }
        }
        at += length;
    }
    (*state, *piece, *place) = (bits, rest, at);
    Ok(ended)
}

#[cfg(test)]
mod tests;
