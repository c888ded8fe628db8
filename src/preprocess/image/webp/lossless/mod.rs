//! Lossless WebP (VP8L): the stream of a picture or of an alpha plane to its pixels.
//!
//! Owns the stream, from its header to what undoes its transforms. Knows neither the chunks around it nor what becomes of the
//! pixels.
//!
//! Follows the WebP Lossless Bitstream Specification, and where that says less, libwebp: what it shows is shown the same, what it
//! refuses is refused. What follows the picture does not matter; a stream that ends before it is refused.
//!
//! Invariants: tables of codes are kept for those groups alone that a block of the picture names, and are bounded by the pixels
//! ([`table_limit`]), however many groups the stream has; all memory that the stream decides is asked for and may be refused; time
//! is in the pixels and the bytes of the stream.

mod bits;
mod failure;
mod huffman;
mod transform;

use bits::Bits;
pub(super) use failure::Failure;
use huffman::{Code, CodeReader, DISTANCE_PREFIXES, LENGTH_PREFIXES, LITERALS, MAX_CACHE_BITS};
use transform::{Blocks, Transform};

use crate::preprocess::memory;

/// A group that no block names.
const UNUSED: u32 = u32::MAX;

/// A decoded picture, whose transforms are not yet undone.
pub(super) struct Picture {
    width: usize,
    stored_width: usize,
    pixels: Vec<u32>,
    transforms: Vec<Transform>,
}

impl Picture {
    /// Decodes the picture of a stream with a header, which has to be of that size.
    pub(super) fn decode(stream: &[u8], (width, height): (u32, u32)) -> Result<Self, Failure> {
        let mut bits = Bits::new(stream);
        let signature = bits.take(8);
        let size = (bits.take(14) + 1, bits.take(14) + 1);
        // That alpha is used is a hint.
        bits.take(1);
        if signature != 0x2f || bits.take(3) != 0 || size != (width, height) {
            return Err(Failure::Damaged("another header of the picture"));
        }
        Self::read(&mut bits, width as usize, height as usize, false)
    }

    /// Decodes the picture of that size, whose green is a plane of alpha, of a stream without a header.
    pub(super) fn decode_alpha(stream: &[u8], (width, height): (u32, u32)) -> Result<Self, Failure> {
        Self::read(&mut Bits::new(stream), width as usize, height as usize, true)
    }

    fn read(bits: &mut Bits, width: usize, height: usize, is_alpha: bool) -> Result<Self, Failure> {
        let mut stored_width = width;
        let mut transforms = Vec::new();
        let mut seen = 0;
        while bits.flag() {
            let kind = bits.take(2);
            if seen >> kind & 1 == 1 {
                return Err(Failure::Damaged("the same transform twice"));
            }
            seen |= 1 << kind;
            let transform = match kind {
                0 => Transform::predictor(read_blocks(bits, stored_width, height)?, stored_width)?,
                1 => Transform::Colour(read_blocks(bits, stored_width, height)?),
                2 => Transform::SubtractGreen,
                _ => {
                    let colours = bits.take(8) as usize + 1;
                    Transform::palette(read_inner(bits, colours, 1)?, stored_width)?
                }
            };
            stored_width = transform.stored_width(stored_width);
            transforms.push(transform);
        }
        let cache_bits = read_cache_bits(bits)?;
        let blocks = if bits.flag() { Some(read_blocks(bits, stored_width, height)?) } else { None };
        let codes = Codes::read(bits, cache_bits, blocks, stored_width * height)?;
        let pixels = codes.read_pixels(bits, stored_width, height, cache_bits)?;
        // Where libwebp decodes a plane of alpha in bytes, it looks for the end before each pixel, and not behind the last.
        let is_in_bytes =
            || matches!(transforms[..], [Transform::Palette { .. }]) && cache_bits == 0 && codes.are_of_green();
        if bits.is_past_end() && !(is_alpha && is_in_bytes()) {
            return Err(Failure::Truncated);
        }
        Ok(Self { width, stored_width, pixels, transforms })
    }

    /// Calls `row` with each row's pixels: alpha highest, then red, green, blue.
    pub(super) fn for_each_row(mut self, mut row: impl FnMut(&[u32])) -> Result<(), Failure> {
        if self.transforms.is_empty() {
            self.pixels.chunks_exact(self.width).for_each(row);
            return Ok(());
        }
        let mut pixels = memory::room(self.width)?;
        pixels.resize(self.width, 0);
        for (y, stored) in self.pixels.chunks_exact(self.stored_width).enumerate() {
            pixels[..self.stored_width].copy_from_slice(stored);
            for transform in self.transforms.iter_mut().rev() {
                transform.undo(y, &mut pixels);
            }
            row(&pixels);
        }
        Ok(())
    }
}

/// A number for each block of a picture.
fn read_blocks(bits: &mut Bits, width: usize, height: usize) -> Result<Blocks, Failure> {
    let block_bits = bits.take(3) + 2;
    let across = width.div_ceil(1 << block_bits);
    let values = read_inner(bits, across, height.div_ceil(1 << block_bits))?;
    Ok(Blocks { bits: block_bits, across, values })
}

/// A picture in the stream of another, which has neither transforms nor more than one group of codes.
fn read_inner(bits: &mut Bits, width: usize, height: usize) -> Result<Vec<u32>, Failure> {
    let cache_bits = read_cache_bits(bits)?;
    let codes = Codes::read(bits, cache_bits, None, width * height)?;
    let pixels = codes.read_pixels(bits, width, height, cache_bits)?;
    if bits.is_past_end() { Err(Failure::Truncated) } else { Ok(pixels) }
}

/// The size of the cache of colours, as a power of two; none has zero.
fn read_cache_bits(bits: &mut Bits) -> Result<u32, Failure> {
    if !bits.flag() {
        return Ok(0);
    }
    let cache_bits = bits.take(4);
    if (1..=MAX_CACHE_BITS).contains(&cache_bits) {
        Ok(cache_bits)
    } else {
        Err(Failure::Damaged("a cache of colours of no size"))
    }
}

/// Entries of four bytes that the tables of a picture may have: libwebp's encoder makes 2600 groups at most, of some 3500 entries each; and
/// a byte for each pixel, which has four of its own and becomes three.
fn table_limit(pixels: usize) -> usize {
    const LEAST: usize = 10 << 20;
    LEAST + pixels / 4
}

/// The codes of a block.
#[derive(Clone, Copy)]
struct Group {
    green: Code,
    red: Code,
    blue: Code,
    alpha: Code,
    distance: Code,
    /// What is the same of each literal.
    literal: u32,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// All pixels are the same, and take no bits.
    Constant,
    /// Literals differ in green only.
    Green,
    /// Literals have the same alpha.
    Opaque,
    Any,
}

struct Codes {
    tables: Vec<u32>,
    groups: Vec<Group>,
    /// The group of each block.
    blocks: Option<Blocks>,
}

impl Codes {
    fn read(bits: &mut Bits, cache_bits: u32, mut blocks: Option<Blocks>, pixels: usize) -> Result<Self, Failure> {
        let mut kept = Vec::new();
        let mut used = 1;
        if let Some(blocks) = &mut blocks {
            let group = |value: u32| (value >> 8 & 0xffff) as usize;
            let number = blocks.values.iter().map(|&value| group(value) + 1).max().unwrap_or(1);
            kept = memory::room(number)?;
            kept.resize(number, UNUSED);
            for value in &blocks.values {
                kept[group(*value)] = 0;
            }
            used = 0;
            for place in kept.iter_mut().filter(|place| **place == 0) {
                *place = used;
                used += 1;
            }
            for value in &mut blocks.values {
                *value = kept[group(*value)];
            }
        }
        let cache = if cache_bits > 0 { 1 << cache_bits } else { 0 };
        let green_symbols = LITERALS + LENGTH_PREFIXES + cache;
        let alphabets = [green_symbols, LITERALS, LITERALS, LITERALS, DISTANCE_PREFIXES];
        let mut reader = CodeReader::new();
        let mut tables = Vec::new();
        let mut groups = memory::room(used as usize)?;
        let limit = table_limit(pixels);
        if kept.is_empty() {
            kept = vec![0];
        }
        for place in kept {
            if place == UNUSED {
                for alphabet in alphabets {
                    reader.pass(bits, alphabet)?;
                }
                continue;
            }
            let mut codes = [Code::default(); 5];
            for (code, alphabet) in codes.iter_mut().zip(alphabets) {
                *code = reader.read(bits, alphabet, &mut tables)?;
            }
            if tables.len() > limit {
                return Err(Failure::TooManyCodes);
            }
            groups.push(Group::new(codes, &tables));
        }
        Ok(Self { tables, groups, blocks })
    }

    /// Whether literals have nothing but green in all groups.
    fn are_of_green(&self) -> bool {
        self.groups.iter().all(|group| matches!(group.kind, Kind::Green | Kind::Constant))
    }

    fn read_pixels(&self, from: &mut Bits, width: usize, height: usize, cache_bits: u32) -> Result<Vec<u32>, Failure> {
        // A copy, which stays in registers.
        let mut bits_here = *from;
        let bits = &mut bits_here;
        let total = width * height;
        let mut pixels: Vec<u32> = memory::zeros(total)?;
        let mut cache = Cache::new(cache_bits);
        let tables = &self.tables[..];
        let (block_bits, across) =
            self.blocks.as_ref().map_or((usize::BITS - 1, 0), |blocks| (blocks.bits, blocks.across));
        let (mut at, mut row_start, mut y) = (0, 0, 0);
        while at < total {
            if bits.is_past_end() {
                return Err(Failure::Truncated);
            }
            // What follows up to the end of the block or of the row has one group.
            let x = at - row_start;
            let block = x >> block_bits;
            let end = row_start + ((block + 1) << block_bits).min(width);
            let index = self.blocks.as_ref().map_or(0, |blocks| blocks.values[(y >> block_bits) * across + block]);
            let group = self.groups[index as usize];
            if group.kind == Kind::Constant {
                pixels[at..end].fill(group.literal);
                at = end;
            }
            while at < end {
                bits.refill();
                let entry = group.green.look_up(tables, bits);
                bits.skip(entry & 0x3f);
                let symbol = (entry >> 8) as usize;
                if symbol < LITERALS {
                    pixels[at] = match group.kind {
                        Kind::Any => {
                            let red = group.red.read(tables, bits);
                            let blue = group.blue.read(tables, bits);
                            bits.need(15);
                            let alpha = group.alpha.read(tables, bits);
                            alpha << 24 | red << 16 | entry & 0xff00 | blue
                        }
                        Kind::Opaque => {
                            let red = group.red.read(tables, bits);
                            let blue = group.blue.read(tables, bits);
                            group.literal | red << 16 | entry & 0xff00 | blue
                        }
                        Kind::Green | Kind::Constant => group.literal | entry & 0xff00,
                    };
                    at += 1;
                } else if let Some(prefix) = symbol.checked_sub(LITERALS).filter(|&prefix| prefix < LENGTH_PREFIXES) {
                    let length = read_prefixed(prefix as u32, bits);
                    bits.refill();
                    let prefix = group.distance.read(tables, bits);
                    let distance = distance(read_prefixed(prefix, bits), width);
                    if distance > at || length > total - at {
                        return Err(Failure::Damaged("a copy of pixels that are not there"));
                    }
                    copy(&mut pixels, at, distance, length);
                    at += length;
                } else {
                    pixels[at] = cache.look_up(symbol - LITERALS - LENGTH_PREFIXES, &pixels[..at]);
                    at += 1;
                }
            }
            let over = at - row_start;
            if over >= width {
                let rows = over / width;
                y += rows;
                row_start += rows * width;
            }
        }
        *from = bits_here;
        Ok(pixels)
    }
}

impl Group {
    fn new([green, red, blue, alpha, distance]: [Code; 5], tables: &[u32]) -> Self {
        let mut group = Self { green, red, blue, alpha, distance, literal: 0, kind: Kind::Any };
        if let Some(alpha) = alpha.only(tables) {
            group.kind = Kind::Opaque;
            group.literal = alpha << 24;
        }
        if let [Some(red), Some(blue), Some(alpha)] = [red, blue, alpha].map(|code| code.only(tables)) {
            group.kind = Kind::Green;
            group.literal = alpha << 24 | red << 16 | blue;
            if let Some(green) = green.only(tables).filter(|&green| (green as usize) < LITERALS) {
                group.kind = Kind::Constant;
                group.literal |= green << 8;
            }
        }
        group
    }
}

/// Copies what is `distance` before; it may reach into what is copied.
fn copy(pixels: &mut [u32], at: usize, distance: usize, length: usize) {
    if distance >= length {
        pixels.copy_within(at - distance..at - distance + length, at);
    } else if distance == 1 {
        let pixel = pixels[at - 1];
        pixels[at..at + length].fill(pixel);
    } else {
        // What was copied is copied again, twice as much each time.
        let mut done = 0;
        while done < length {
            let part = (distance + done).min(length - done);
            pixels.copy_within(at - distance..at - distance + part, at + done);
            done += part;
        }
    }
}

/// A length or a distance: its prefix says how large it is, the next bits the rest.
#[inline(always)]
fn read_prefixed(prefix: u32, bits: &mut Bits) -> usize {
    if prefix < 4 {
        return prefix as usize + 1;
    }
    let extra = (prefix - 2) >> 1;
    (((2 + (prefix & 1)) << extra) + bits.take_known(extra) + 1) as usize
}

/// The distance in pixels: the first numbers are those of pixels near by.
#[inline(always)]
fn distance(code: usize, width: usize) -> usize {
    /// Rows up, above eight less columns to the left.
    #[rustfmt::skip]
    const NEAR: [u8; 120] = [
        0x18, 0x07, 0x17, 0x19, 0x28, 0x06, 0x27, 0x29, 0x16, 0x1a, 0x26, 0x2a, 0x38, 0x05, 0x37, 0x39, 0x15, 0x1b, 0x36, 0x3a,
        0x25, 0x2b, 0x48, 0x04, 0x47, 0x49, 0x14, 0x1c, 0x35, 0x3b, 0x46, 0x4a, 0x24, 0x2c, 0x58, 0x45, 0x4b, 0x34, 0x3c, 0x03,
        0x57, 0x59, 0x13, 0x1d, 0x56, 0x5a, 0x23, 0x2d, 0x44, 0x4c, 0x55, 0x5b, 0x33, 0x3d, 0x68, 0x02, 0x67, 0x69, 0x12, 0x1e,
        0x66, 0x6a, 0x22, 0x2e, 0x54, 0x5c, 0x43, 0x4d, 0x65, 0x6b, 0x32, 0x3e, 0x78, 0x01, 0x77, 0x79, 0x53, 0x5d, 0x11, 0x1f,
        0x64, 0x6c, 0x42, 0x4e, 0x76, 0x7a, 0x21, 0x2f, 0x75, 0x7b, 0x31, 0x3f, 0x63, 0x6d, 0x52, 0x5e, 0x00, 0x74, 0x7c, 0x41,
        0x4f, 0x10, 0x20, 0x62, 0x6e, 0x30, 0x73, 0x7d, 0x51, 0x5f, 0x40, 0x72, 0x7e, 0x61, 0x6f, 0x50, 0x71, 0x7f, 0x60, 0x70,
    ];
    match NEAR.get(code - 1) {
        Some(&near) => {
            let before = usize::from(near >> 4) * width + 8;
            // In a narrow picture it may be none.
            before.saturating_sub(usize::from(near & 0xf)).max(1)
        }
        None => code - NEAR.len(),
    }
}

/// The colours that were last seen, by a hash. It is filled when it is asked, up to there.
struct Cache {
    colours: Vec<u32>,
    shift: u32,
    /// Pixels that are in it.
    filled: usize,
}

impl Cache {
    fn new(bits: u32) -> Self {
        Self { colours: vec![0; if bits > 0 { 1 << bits } else { 0 }], shift: 32 - bits, filled: 0 }
    }

    /// The colour of that number, which there is only where there is a cache, behind `pixels`.
    #[inline(always)]
    fn look_up(&mut self, number: usize, pixels: &[u32]) -> u32 {
        for &pixel in &pixels[self.filled..] {
            self.colours[(pixel.wrapping_mul(0x1e35_a7bd) >> self.shift) as usize] = pixel;
        }
        self.filled = pixels.len();
        self.colours[number]
    }
}

#[cfg(test)]
mod tests;
