//! The instructions of a pickle, one after the other.
//!
//! A pickle is a program for a machine with a stack and a memo. This file reads it; what the machine then holds is its callers' matter
//! (`pickle_globals`, `torchscript`). The numbers of the instructions are those of Python's `pickletools`.
//!
//! Invariants: every instruction is one of protocols 0 to 5; nothing is copied, so a length that lies costs nothing.

/// Bytes of pickles in a file. Those of a ViT-L/14 with its optimizer's state have less than one.
pub(super) const MAX_PICKLE: u64 = 4 << 20;
/// Instructions in one pickle: a tensor takes some thirty.
pub(super) const MAX_INSTRUCTIONS: usize = 1 << 18;

/// What an instruction does, as far as weights need it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Instruction<'a> {
    /// The pickle ends.
    End,
    /// Nothing is pushed, and nothing changes.
    Nothing,
    /// A global is asked for.
    Global {
        /// Where it is.
        module: &'a [u8],
        /// What it is called there.
        name: &'a [u8],
    },
    /// A global is asked for by the two texts that were pushed.
    StackGlobal,
    /// A text is pushed.
    Text(&'a [u8]),
    /// A whole number is pushed; one that no size can be is `None`.
    Int(Option<i64>),
    /// Something is pushed that is made of nothing else: a number with a fraction, bytes, `None`, a truth value.
    Constant,
    /// A tuple, list, dictionary or set with nothing in it is pushed.
    Empty,
    /// What was pushed is kept under this key, or the next one.
    Memo(Option<u64>),
    /// What was kept is pushed.
    Recall(u64),
    /// A place on the stack is marked.
    Mark,
    /// A tuple is made of all that was pushed since the last mark.
    TupleFromMark,
    /// A tuple is made of the last so many.
    Tuple(usize),
    /// What was pushed since the last mark goes, in pairs, into the dictionary before it.
    SetItems,
    /// The last two go, as a pair, into the dictionary before them.
    SetItem,
    /// What was pushed since the last mark goes into the list before it.
    Appends,
    /// The last one goes into the list before it.
    Append,
    /// Something else is done with what was pushed since the last mark.
    OtherFromMark,
    /// The first of the last two is called with the second, or made anew with it.
    Call,
    /// The last one is the state of the one before it.
    Build,
    /// The last one names something that lies outside of the pickle.
    Persistent,
    /// The stack changes in some other way.
    Other,
}

/// What is left of a pickle.
pub(super) struct Pickle<'a> {
    rest: &'a [u8],
}

impl<'a> Pickle<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// What has not been read.
    pub(super) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// The next instruction with its argument.
    ///
    /// # Errors
    /// When there is none: the pickle is cut off, or is none.
    pub(super) fn instruction(&mut self) -> Result<Instruction<'a>, String> {
        use Instruction::*;
        Ok(match self.byte()? {
            b'.' => End,
            // PROTO, FRAME.
            0x80 => self.skip(1, Nothing)?,
            0x95 => self.skip(8, Nothing)?,
            b'c' | b'i' => Global { module: self.line()?, name: self.line()? },
            0x93 => StackGlobal,
            0x82..=0x84 => return Err("it asks for a global by a number that only its author knows".to_owned()),
            b'U' | 0x8c => Text(self.counted(1)?),
            b'T' | b'X' => Text(self.counted(4)?),
            0x8d => Text(self.counted(8)?),
            b'S' | b'V' => Text(unquoted(self.line()?)),
            b'p' => Memo(Some(decimal(self.line()?)?)),
            b'q' => Memo(Some(self.number(1)?)),
            b'r' => Memo(Some(self.number(4)?)),
            0x94 => Memo(None),
            b'g' => Recall(decimal(self.line()?)?),
            b'h' => Recall(self.number(1)?),
            b'j' => Recall(self.number(4)?),
            b'K' => Int(i64::try_from(self.number(1)?).ok()),
            b'M' => Int(i64::try_from(self.number(2)?).ok()),
            b'J' => Int(Some(i64::from(self.number(4)? as u32 as i32))),
            0x8a => Int(signed(self.counted(1)?)),
            b'I' | b'L' => Int(decimal(self.line()?).ok().and_then(|number| number.try_into().ok())),
            b'F' | b'P' => self.line().map(|_| Constant)?,
            b'G' => self.skip(8, Constant)?,
            b'C' => self.counted(1).map(|_| Constant)?,
            b'B' | 0x8b => self.counted(4).map(|_| Constant)?,
            0x8e | 0x96 => self.counted(8).map(|_| Constant)?,
            b'N' | 0x88 | 0x89 => Constant,
            b')' | b']' | b'}' | 0x8f => Empty,
            b'(' => Mark,
            b't' => TupleFromMark,
            opcode @ 0x85..=0x87 => Tuple(usize::from(opcode - 0x84)),
            b'u' => SetItems,
            b's' => SetItem,
            b'e' => Appends,
            b'a' => Append,
            b'1' | b'd' | b'l' | b'o' | 0x90 | 0x91 => OtherFromMark,
            b'R' | 0x81 => Call,
            b'b' => Build,
            b'Q' => Persistent,
            b'0' | b'2' | 0x92 | 0x97 | 0x98 => Other,
            other => return Err(format!("it has the instruction {other:#04x}, which no pickle has")),
        })
    }

    fn skip(&mut self, bytes: u64, instruction: Instruction<'a>) -> Result<Instruction<'a>, String> {
        self.take(bytes).map(|_| instruction)
    }

    /// As many bytes as the number says that these bytes are.
    fn counted(&mut self, bytes: u64) -> Result<&'a [u8], String> {
        let length = self.number(bytes)?;
        self.take(length)
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], String> {
        let taken = usize::try_from(length).ok().and_then(|length| self.rest.split_at_checked(length));
        let (taken, rest) = taken.ok_or_else(|| {
            format!("a pickle in it is cut off, or takes more than the {MAX_PICKLE} bytes that are read of one")
        })?;
        self.rest = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, String> {
        Ok(self.take(1)?.first().copied().unwrap_or_default())
    }

    /// A little-endian number of so many bytes.
    fn number(&mut self, bytes: u64) -> Result<u64, String> {
        Ok(self.take(bytes)?.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte)))
    }

    /// Up to the end of the line, which is left out.
    fn line(&mut self) -> Result<&'a [u8], String> {
        let end = memchr::memchr(b'\n', self.rest).map_or(self.rest.len() as u64 + 1, |at| at as u64);
        let line = self.take(end)?;
        self.take(1)?;
        Ok(line)
    }
}

/// The text of a `STRING` or `UNICODE`, without its quotes.
fn unquoted(line: &[u8]) -> &[u8] {
    match line {
        [b'\'', text @ .., b'\''] | [b'"', text @ .., b'"'] => text,
        text => text,
    }
}

fn decimal(line: &[u8]) -> Result<u64, String> {
    let number = std::str::from_utf8(line).ok().and_then(|text| text.trim().parse().ok());
    number.ok_or_else(|| "it refers to something by no number".to_owned())
}

/// The whole number in two's complement, little-endian, where it has at most eight bytes.
fn signed(bytes: &[u8]) -> Option<i64> {
    let sign = if bytes.last().is_some_and(|last| last & 0x80 != 0) { 0xff } else { 0 };
    let mut whole = [sign; 8];
    whole.get_mut(..bytes.len())?.copy_from_slice(bytes);
    Some(i64::from_le_bytes(whole))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_that_python_reads() {
        for (bytes, number) in [
            (&b"K\xff"[..], Some(255)),
            (b"M\x01\x02", Some(513)),
            (b"J\xfe\xff\xff\xff", Some(-2)),
            (b"\x8a\x00", Some(0)),
            (b"\x8a\x01\xff", Some(-1)),
            (b"\x8a\x05\0\0\0\0\x01", Some(1 << 32)),
            (b"\x8a\x09\0\0\0\0\0\0\0\0\x01", None),
            (b"I12\n", Some(12)),
        ] {
            let read = Pickle::new(bytes).instruction();
            assert_eq!(read, Ok(Instruction::Int(number)), "{}", bytes.escape_ascii());
        }
    }
}
