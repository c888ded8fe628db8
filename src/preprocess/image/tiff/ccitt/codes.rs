//! The code words of T.4 and T.6, as tables to look bits up in.
//!
//! Invariants: a table has an entry for every pattern of its bits, and the code word of none is longer than they are.

/// Of white pixels: 0 to 63, then 64 to 1728 in steps of 64.
const WHITE_RUNS: &str = "\
    00110101 000111 0111 1000 1011 1100 1110 1111 10011 10100 00111 01000 001000 000011 110100 110101 101010 101011 \
    0100111 0001100 0001000 0010111 0000011 0000100 0101000 0101011 0010011 0100100 0011000 00000010 00000011 \
    00011010 00011011 00010010 00010011 00010100 00010101 00010110 00010111 00101000 00101001 00101010 00101011 \
    00101100 00101101 00000100 00000101 00001010 00001011 01010010 01010011 01010100 01010101 00100100 00100101 \
    01011000 01011001 01011010 01011011 01001010 01001011 00110010 00110011 00110100 11011 10010 010111 0110111 \
    00110110 00110111 01100100 01100101 01101000 01100111 011001100 011001101 011010010 011010011 011010100 \
    011010101 011010110 011010111 011011000 011011001 011011010 011011011 010011000 010011001 010011010 011000 \
    010011011 ";

/// Of black pixels, the same lengths.
const BLACK_RUNS: &str = "\
    0000110111 010 11 10 011 0011 0010 00011 000101 000100 0000100 0000101 0000111 00000100 00000111 000011000 \
    0000010111 0000011000 0000001000 00001100111 00001101000 00001101100 00000110111 00000101000 00000010111 \
    00000011000 000011001010 000011001011 000011001100 000011001101 000001101000 000001101001 000001101010 \
    000001101011 000011010010 000011010011 000011010100 000011010101 000011010110 000011010111 000001101100 \
    000001101101 000011011010 000011011011 000001010100 000001010101 000001010110 000001010111 000001100100 \
    000001100101 000001010010 000001010011 000000100100 000000110111 000000111000 000000100111 000000101000 \
    000001011000 000001011001 000000101011 000000101100 000001011010 000001100110 000001100111 0000001111 \
    000011001000 000011001001 000001011011 000000110011 000000110100 000000110101 0000001101100 0000001101101 \
    0000001001010 0000001001011 0000001001100 0000001001101 0000001110010 0000001110011 0000001110100 0000001110101 \
    0000001110110 0000001110111 0000001010010 0000001010011 0000001010100 0000001010101 0000001011010 0000001011011 \
    0000001100100 0000001100101 ";

/// Of either colour: 1792 to 2560 in steps of 64.
const LONG_RUNS: &str = "\
    00000001000 00000001100 00000001101 000000010010 000000010011 000000010100 000000010101 000000010110 \
    000000010111 000000011100 000000011101 000000011110 000000011111 ";

/// Eleven zeros, which begin the end of a line; its twelfth bit is a one, after any number of zeros more.
const END_OF_LINE: &str = "00000000000 ";

/// What bits mean in a run of pixels.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Run {
    /// The last part of a run.
    Last(u16),
    /// A part of a run that goes on.
    Part(u16),
    /// Zeros only.
    EndOfLine,
    /// Nothing.
    Unknown,
}

/// What bits mean in a line that is told by the line above.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Mode {
    /// The next pair of changes above has none here.
    Pass,
    /// Two runs by their lengths.
    Horizontal,
    /// A change so many pixels right of the one above.
    Right(u8),
    /// A change so many pixels left of the one above.
    Left(u8),
    /// Another way of coding, of which there is none in use.
    Extension,
    /// Zeros only.
    EndOfLine,
}

/// What the next bits mean, and how many of them that takes.
#[derive(Clone, Copy)]
pub(super) struct Entry<T> {
    pub(super) meaning: T,
    pub(super) bits: u8,
}

/// Bits that tell every code word of a [`Mode`].
pub(super) const MODE_BITS: u32 = 7;
/// Bits that tell every run of white pixels.
pub(super) const WHITE_BITS: u32 = 12;
/// Bits that tell every run of black pixels.
pub(super) const BLACK_BITS: u32 = 13;

/// The modes.
pub(super) static MODES: [Entry<Mode>; 1 << MODE_BITS] = modes();
/// Runs of white pixels.
pub(super) static WHITE: [Entry<Run>; 1 << WHITE_BITS] = runs(WHITE_RUNS, WHITE_BITS);
/// Runs of black pixels.
pub(super) static BLACK: [Entry<Run>; 1 << BLACK_BITS] = runs(BLACK_RUNS, BLACK_BITS);

const fn modes() -> [Entry<Mode>; 1 << MODE_BITS] {
    const CODES: [(&str, Mode); 9] = [
        ("0001 ", Mode::Pass),
        ("001 ", Mode::Horizontal),
        ("1 ", Mode::Right(0)),
        ("011 ", Mode::Right(1)),
        ("000011 ", Mode::Right(2)),
        ("0000011 ", Mode::Right(3)),
        ("010 ", Mode::Left(1)),
        ("000010 ", Mode::Left(2)),
        ("0000010 ", Mode::Left(3)),
    ];
    // All seven bits zero begin an end of line; what no other code word covers is the extension.
    let mut table = [Entry { meaning: Mode::Extension, bits: 7 }; 1 << MODE_BITS];
    table[0].meaning = Mode::EndOfLine;
    let mut i = 0;
    while i < CODES.len() {
        let (word, meaning) = CODES[i];
        fill(&mut table, MODE_BITS, word.as_bytes(), &mut 0, meaning);
        i += 1;
    }
    table
}

const fn runs<const N: usize>(words: &str, bits: u32) -> [Entry<Run>; N] {
    // Nothing is skipped of what makes no sense.
    let mut table = [Entry { meaning: Run::Unknown, bits: 0 }; N];
    let (mut at, mut length) = (0, 0);
    while at < words.len() {
        let meaning = if length < 64 { Run::Last(length) } else { Run::Part(length) };
        fill(&mut table, bits, words.as_bytes(), &mut at, meaning);
        length += if length < 64 { 1 } else { 64 };
    }
    at = 0;
    while at < LONG_RUNS.len() {
        fill(&mut table, bits, LONG_RUNS.as_bytes(), &mut at, Run::Part(length));
        length += 64;
    }
    fill(&mut table, bits, END_OF_LINE.as_bytes(), &mut 0, Run::EndOfLine);
    table
}

/// Gives `meaning` to every pattern of `bits` bits that begins with the word at `at`, and moves behind it and its space.
const fn fill<T: Copy>(table: &mut [Entry<T>], bits: u32, words: &[u8], at: &mut usize, meaning: T) {
    let (mut word, mut length) = (0, 0);
    while words[*at] != b' ' {
        word = word << 1 | (words[*at] - b'0') as usize;
        length += 1;
        *at += 1;
    }
    *at += 1;
    let spare = bits - length;
    let mut rest = 0;
    while rest < 1 << spare {
        table[word << spare | rest] = Entry { meaning, bits: length as u8 };
        rest += 1;
    }
}
