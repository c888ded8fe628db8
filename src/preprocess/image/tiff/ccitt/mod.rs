//! The fax codes of TIFF: modified Huffman (compressions 2 and 32771), Group 3 (T.4) and Group 4 (T.6).
//!
//! Owns the way from code words to rows of bits, black being ones, and what becomes of damaged lines: as libtiff has it, a line goes on
//! to its end in white where a code word makes no sense, and the next is tried. Data that end before the rows do are refused. Knows
//! neither the order of bits in a byte nor what black means: whoever calls does.
//!
//! Invariants: takes 16 bytes of memory for a pixel of a line; time is that of the rows and of the data, which are read twice at most.

mod codes;

use self::codes::{BLACK, BLACK_BITS, Entry, MODE_BITS, MODES, Mode, Run, WHITE, WHITE_BITS};
use crate::preprocess::{
    image::error::{ImageError, ImageFormatName},
    memory,
};

const FORMAT: ImageFormatName = ImageFormatName::Tiff;

/// Pixels of a line at most: what is held of one takes 16 bytes a pixel. The widest plotters have some 50,000.
const MAX_WIDTH: usize = 1 << 20;

/// How lines are coded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Scheme {
    /// Runs; each line begins with a byte.
    Rle,
    /// Runs; each line begins with a pair of bytes.
    RleWords,
    /// Lines with ends between them, by runs only.
    Group3,
    /// Lines with ends between them, by runs or by the line above.
    Group3TwoDimensional,
    /// By the line above only.
    Group4,
}

/// Decodes the strips or tiles of one picture, one after the other.
pub(super) struct Decoder {
    scheme: Scheme,
    width: usize,
    /// Whether ends of lines were looked for and not found, in this strip or one before: libtiff looks no more.
    lacks_ends: bool,
    /// Lengths of runs, white first: those of a line and those of the line above, either first. What is behind a line's last run is left
    /// from lines before; libtiff, too, goes on there where a damaged line refers to more than the line above has.
    runs: Vec<u32>,
    /// Runs that one of them may have.
    capacity: usize,
}

impl Decoder {
    /// For lines of `width` pixels.
    pub(super) fn new(scheme: Scheme, width: usize) -> Result<Self, ImageError> {
        if width > MAX_WIDTH {
            let detail = format!("fax lines of {width} pixels");
            return Err(ImageError::UnsupportedVariant { format: FORMAT, detail });
        }
        let capacity = Self::capacity(scheme, width);
        let mut runs = memory::room(2 * capacity + 1)?;
        runs.resize(2 * capacity + 1, 0);
        Ok(Self { scheme, width, lacks_ends: false, runs, capacity })
    }

    /// As many as libtiff has room for: a line of more is refused.
    fn capacity(scheme: Scheme, width: usize) -> usize {
        let runs = (width + 1).next_multiple_of(32);
        match scheme {
            Scheme::Rle | Scheme::RleWords | Scheme::Group3 => runs,
            Scheme::Group3TwoDimensional | Scheme::Group4 => 2 * runs,
        }
    }

    /// Decodes one strip or tile into `out`, rows of whole bytes. `is_odd` is whether `data` begin at an odd place of the file, where
    /// libtiff counts pairs of bytes.
    pub(super) fn decode(&mut self, data: &[u8], is_odd: bool, out: &mut [u8]) -> Result<(), ImageError> {
        let mut bits = Bits { data, next: 0, held: 0, count: 0 };
        let (mut this, mut above) = (0, self.capacity);
        if matches!(self.scheme, Scheme::Group3TwoDimensional | Scheme::Group4) {
            self.runs[above] = self.width as u32;
            self.runs[above + 1] = 0;
        }
        let mut at_end_of_line = false;
        let mut rows = out.chunks_exact_mut(self.width.div_ceil(8)).enumerate().peekable();
        while let Some((number, row)) = rows.next() {
            if matches!(self.scheme, Scheme::Group3 | Scheme::Group3TwoDimensional) && !self.lacks_ends {
                match bits.skip_end_of_line(at_end_of_line) {
                    EndOfLine::Skipped => at_end_of_line = false,
                    EndOfLine::OutOfData => return Err(TRUNCATED),
                    EndOfLine::Missing => {
                        self.lacks_ends = true;
                        at_end_of_line = false;
                        bits = Bits { data, next: 0, held: 0, count: 0 };
                    }
                }
            }
            let by_runs = match self.scheme {
                Scheme::Rle | Scheme::RleWords | Scheme::Group3 => true,
                Scheme::Group3TwoDimensional => bits.take(1).ok_or(TRUNCATED)? == 1,
                Scheme::Group4 => false,
            };
            let runs = self.runs.as_mut_slice();
            let end = this + self.capacity;
            let mut line = Line { runs, first: this, next: this, end, width: self.width as i32, x: 0, pending: 0 };
            let ended = if by_runs {
                line.by_runs(&mut bits)
            } else {
                line.by_line_above(&mut bits, above, above + self.capacity)
            }?;
            line.close()?;
            line.paint(row);
            match (self.scheme, ended) {
                // An end of line is the end of the picture; either may come after its last code word.
                (Scheme::Group4, Ended::OutOfData | Ended::EndOfLine) => {
                    return if number > 0 && rows.peek().is_none() { Ok(()) } else { Err(TRUNCATED) };
                }
                (_, Ended::OutOfData) => return Err(TRUNCATED),
                (_, Ended::EndOfLine) => at_end_of_line = true,
                (_, Ended::Whole | Ended::Damaged) => {}
            }
            match self.scheme {
                Scheme::Rle => bits.skip_to_byte(),
                Scheme::RleWords => bits.skip_to_word(is_odd),
                Scheme::Group3 => {}
                Scheme::Group3TwoDimensional | Scheme::Group4 => {
                    // A change behind the last, for the next line to refer to.
                    if line.next < line.end || self.scheme == Scheme::Group4 {
                        line.run(0)?;
                    }
                    (this, above) = (above, this);
                }
            }
        }
        Ok(())
    }
}

const TRUNCATED: ImageError = ImageError::Truncated { format: FORMAT };

fn too_many_runs() -> ImageError {
    ImageError::Corrupt { format: FORMAT, detail: "more runs than pixels in a fax line".into() }
}

/// How a line came to its end.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ended {
    Whole,
    /// Before its end there was one told.
    EndOfLine,
    Damaged,
    OutOfData,
}

/// A line that is being decoded. Damaged ones may count past any number, so all counting wraps, as it does in libtiff.
struct Line<'a> {
    runs: &'a mut [u32],
    /// Where its runs begin.
    first: usize,
    /// Where its next run goes.
    next: usize,
    /// Where there is no more room for runs.
    end: usize,
    width: i32,
    /// Where in the line it is.
    x: i32,
    /// What of the run at `x` lies left of it and is in no run yet.
    pending: i32,
}

impl Line<'_> {
    /// Ends the run at `x` after `length` more pixels.
    fn run(&mut self, length: u32) -> Result<(), ImageError> {
        if self.next >= self.end {
            return Err(too_many_runs());
        }
        self.runs[self.next] = (self.pending as u32).wrapping_add(length);
        self.next += 1;
        self.x = self.x.wrapping_add(length as i32);
        self.pending = 0;
        Ok(())
    }

    fn is_black(&self) -> bool {
        (self.next - self.first) % 2 == 1
    }

    /// Reads one run, unless something else is there.
    fn read_run(&mut self, bits: &mut Bits<'_>, is_black: bool) -> Result<Ended, ImageError> {
        loop {
            let run = if is_black { bits.look_up(&BLACK, BLACK_BITS) } else { bits.look_up(&WHITE, WHITE_BITS) };
            match run {
                Some(Run::Last(length)) => {
                    self.run(length.into())?;
                    return Ok(Ended::Whole);
                }
                Some(Run::Part(length)) => {
                    self.x = self.x.wrapping_add(length.into());
                    self.pending = self.pending.wrapping_add(length.into());
                }
                Some(Run::EndOfLine) => return Ok(Ended::EndOfLine),
                Some(Run::Unknown) => return Ok(Ended::Damaged),
                None => return Ok(Ended::OutOfData),
            }
        }
    }

    fn by_runs(&mut self, bits: &mut Bits<'_>) -> Result<Ended, ImageError> {
        loop {
            for is_black in [false, true] {
                let ended = self.read_run(bits, is_black)?;
                if ended != Ended::Whole || self.x >= self.width {
                    return Ok(ended);
                }
            }
            // A pair of nothing takes no room.
            if self.runs[self.next - 2..self.next] == [0, 0] {
                self.next -= 2;
            }
        }
    }

    /// The runs of the line above lie from `above` to `above_end`.
    fn by_line_above(&mut self, bits: &mut Bits<'_>, above: usize, above_end: usize) -> Result<Ended, ImageError> {
        let mut above = Above { next: above, first: above, end: above_end, x: 0 };
        above.step(self.runs)?;
        while self.x < self.width {
            if self.next >= self.end {
                return Err(too_many_runs());
            }
            let Some(mode) = bits.look_up(&MODES, MODE_BITS) else { return Ok(Ended::OutOfData) };
            match mode {
                Mode::Pass => {
                    above.catch_up(self)?;
                    above.step(self.runs)?;
                    self.pending = self.pending.wrapping_add(above.x.wrapping_sub(self.x));
                    self.x = above.x;
                    above.step(self.runs)?;
                }
                Mode::Horizontal => {
                    let is_black = self.is_black();
                    for is_black in [is_black, !is_black] {
                        match self.read_run(bits, is_black)? {
                            Ended::Whole => {}
                            Ended::OutOfData => return Ok(Ended::OutOfData),
                            Ended::EndOfLine | Ended::Damaged => return Ok(Ended::Damaged),
                        }
                    }
                    above.catch_up(self)?;
                }
                Mode::Right(pixels) => {
                    above.catch_up(self)?;
                    self.run(above.x.wrapping_sub(self.x).wrapping_add(pixels.into()) as u32)?;
                    above.step(self.runs)?;
                }
                Mode::Left(pixels) => {
                    above.catch_up(self)?;
                    if above.x < self.x.wrapping_add(pixels.into()) {
                        return Ok(Ended::Damaged);
                    }
                    self.run(above.x.wrapping_sub(self.x).wrapping_sub(pixels.into()) as u32)?;
                    above.step_back(self.runs)?;
                }
                Mode::Extension | Mode::EndOfLine => {
                    // There is room, as was seen above. `x` stays where it is.
                    self.runs[self.next] = self.width.wrapping_sub(self.x) as u32;
                    self.next += 1;
                    if mode == Mode::Extension {
                        return Ok(Ended::Damaged);
                    }
                    return Ok(if bits.take(4).is_some() { Ended::EndOfLine } else { Ended::OutOfData });
                }
            }
        }
        if self.pending != 0 {
            if self.pending.wrapping_add(self.x) < self.width {
                match bits.peek(1) {
                    None => return Ok(Ended::OutOfData),
                    Some(0) => return Ok(Ended::Damaged),
                    Some(_) => bits.skip(1),
                }
            }
            self.run(0)?;
        }
        Ok(Ended::Whole)
    }

    /// Makes the runs end with the line: what is too much is taken away, what lacks is white.
    fn close(&mut self) -> Result<(), ImageError> {
        if self.pending != 0 {
            self.run(0)?;
        }
        while self.x > self.width && self.next > self.first {
            self.next -= 1;
            self.x = self.x.wrapping_sub(self.runs[self.next] as i32);
        }
        if self.x < self.width {
            self.x = self.x.max(0);
            if self.is_black() {
                self.run(0)?;
            }
            self.run((self.width - self.x) as u32)?;
        } else if self.x > self.width {
            self.run(self.width as u32)?;
            self.run(0)?;
        }
        Ok(())
    }

    /// Paints the runs into `row`, and cuts them short where they reach past its end: the next line refers to what was painted.
    fn paint(&mut self, row: &mut [u8]) {
        row.fill(0);
        let width = self.width as usize;
        let mut x = 0;
        for i in self.first..self.next {
            let run = self.runs[i] as usize;
            let run = run.min(width - x);
            self.runs[i] = run as u32;
            if (i - self.first) % 2 == 1 {
                blacken(row, x, x + run);
            }
            x += run;
        }
        if self.is_black() {
            // There is one more place than the lines have.
            self.runs[self.next] = 0;
        }
    }
}

/// Where the next change of the line above is.
struct Above {
    /// Where its runs begin.
    first: usize,
    /// The run behind the change.
    next: usize,
    /// Where its runs end.
    end: usize,
    /// The change.
    x: i32,
}

impl Above {
    /// On to the next change.
    fn step(&mut self, runs: &[u32]) -> Result<(), ImageError> {
        if self.next >= self.end {
            return Err(too_many_runs());
        }
        self.x = self.x.wrapping_add(runs[self.next] as i32);
        self.next += 1;
        Ok(())
    }

    /// Back to the change before.
    fn step_back(&mut self, runs: &[u32]) -> Result<(), ImageError> {
        if self.next <= self.first {
            return Err(too_many_runs());
        }
        self.next -= 1;
        self.x = self.x.wrapping_sub(runs[self.next] as i32);
        Ok(())
    }

    /// On to the first change of the same colour right of where `line` is.
    fn catch_up(&mut self, line: &Line<'_>) -> Result<(), ImageError> {
        if line.next != line.first {
            while self.x <= line.x && self.x < line.width {
                self.step(line.runs)?;
                self.step(line.runs)?;
            }
        }
        Ok(())
    }
}

/// Sets the bits of `row` from `start` to `end`.
fn blacken(row: &mut [u8], start: usize, end: usize) {
    if start == end {
        return;
    }
    let (first, last) = (start / 8, (end - 1) / 8);
    let (left, right) = (0xff >> (start % 8), 0xff << (7 - (end - 1) % 8));
    if first == last {
        row[first] |= left & right;
    } else {
        row[first] |= left;
        row[first + 1..last].fill(0xff);
        row[last] |= right;
    }
}

/// What there is at the beginning of a line.
enum EndOfLine {
    Skipped,
    Missing,
    OutOfData,
}

/// The data, bit by bit, the highest of a byte first. It holds no more whole bytes than it was asked for: words are counted from there.
struct Bits<'a> {
    data: &'a [u8],
    next: usize,
    /// The bits that were read and not used: the lowest `count`.
    held: u32,
    count: u32,
}

impl Bits<'_> {
    /// The next `count` bits, at most 13. Where fewer are left they end in zeros; where none is left there are none.
    fn peek(&mut self, count: u32) -> Option<u32> {
        while self.count < count {
            if let Some(&byte) = self.data.get(self.next) {
                self.held = self.held << 8 | u32::from(byte);
                self.count += 8;
                self.next += 1;
            } else if self.count == 0 {
                return None;
            } else {
                self.held <<= count - self.count;
                self.count = count;
            }
        }
        Some(self.held >> (self.count - count) & ((1 << count) - 1))
    }

    /// Moves on by bits that were peeked at.
    fn skip(&mut self, count: u32) {
        self.count -= count;
    }

    fn take(&mut self, count: u32) -> Option<u32> {
        let bits = self.peek(count)?;
        self.skip(count);
        Some(bits)
    }

    fn look_up<T: Copy>(&mut self, table: &[Entry<T>], bits: u32) -> Option<T> {
        let entry = table[self.peek(bits)? as usize];
        self.skip(entry.bits.into());
        Some(entry.meaning)
    }

    /// Moves behind the next end of a line, whatever is before it. Where the zeros of one were read already, only its last bit is.
    fn skip_end_of_line(&mut self, zeros_are_read: bool) -> EndOfLine {
        if !zeros_are_read {
            loop {
                match self.peek(11) {
                    None => return EndOfLine::OutOfData,
                    Some(0) => break,
                    Some(_) => self.skip(1),
                }
            }
        }
        loop {
            match self.peek(8) {
                None => return EndOfLine::Missing,
                Some(0) => self.skip(8),
                Some(bits) => {
                    self.skip(bits.leading_zeros() - 24 + 1);
                    return EndOfLine::Skipped;
                }
            }
        }
    }

    fn skip_to_byte(&mut self) {
        self.skip(self.count % 8);
    }

    fn skip_to_word(&mut self, is_odd: bool) {
        self.skip(self.count % 16);
        if self.count == 0 && (self.next % 2 == 1) != is_odd {
            self.next += 1;
        }
    }
}

#[cfg(test)]
mod tests;
