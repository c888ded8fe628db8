//! LZW as GIF and TIFF have it: a string that a code stands for is always somewhere in what was expanded before, so that the table holds
//! where, and nothing is copied to it.
//!
//! Owns the table. Does not own how codes lie in a file, nor what their end means: whoever expands does, by [`Codes`].
//!
//! Invariant: time is that of the codes and of the bytes that come of them. A code that clears the table costs no more than any other:
//! strings that are forgotten are not touched.

/// Strings that codes can stand for.
const MAX_STRINGS: usize = 1 << 12;

/// Bits of the longest code.
const MAX_CODE_BITS: u32 = 12;

/// Why there are not all bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Damage {
    /// There are too few codes.
    Ended,
    /// A code has no meaning.
    Broken,
    /// More bytes than places are kept of.
    TooLong,
}

/// Where codes come from.
pub(super) trait Codes {
    /// How many strings there may be before the table is cleared; those that it has no room for count, too.
    const MOST_STRINGS: usize;

    /// The next, which has `size` bits.
    fn next(&mut self, size: u32) -> Result<usize, Damage>;

    /// Goes on behind a code that ends the data, where that is done.
    fn pass_end(&mut self) -> Result<(), Damage>;
}

/// When codes become longer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Growth {
    /// With the first string that needs it.
    Needed,
    /// One string before.
    Early,
}

/// Where in what was expanded a string is.
#[derive(Clone, Copy, Default)]
struct Span {
    start: u32,
    length: u32,
}

/// Fills `out`, which are numbers of `code_bits`. It is whole with its last byte, whatever follows; codes of one bit never grow.
pub(super) fn expand<C: Codes>(codes: &mut C, code_bits: u8, growth: Growth, out: &mut [u8]) -> Result<(), Damage> {
    if u32::from(code_bits) > MAX_CODE_BITS {
        return Err(Damage::Broken);
    }
    if u32::try_from(out.len()).is_err() {
        return Err(Damage::TooLong);
    }
    let early = usize::from(growth == Growth::Early);
    let clear = 1 << code_bits;
    let end = clear + 1;
    let mut strings = [Span::default(); MAX_STRINGS];
    let mut next = clear + 2;
    let mut size = u32::from(code_bits) + 1;
    let mut last: Option<Span> = None;
    let mut done = 0;
    while done < out.len() {
        let code = codes.next(size)?;
        if code == clear {
            next = clear + 2;
            size = u32::from(code_bits) + 1;
            last = None;
            continue;
        }
        if code == end {
            codes.pass_end()?;
            continue;
        }
        let known = next;
        if let Some(Span { start, length }) = last {
            if next == C::MOST_STRINGS {
                return Err(Damage::Broken);
            }
            if let Some(string) = strings.get_mut(next) {
                // The one before with the first byte of this one, which is about to follow it.
                *string = Span { start, length: length + 1 };
                if next + early == (1 << size) - 1 && size < MAX_CODE_BITS {
                    size += 1;
                }
            }
            next += 1;
        }
        let length = if code < clear {
            out[done] = code as u8;
            1
        } else {
            // Codes that begin with 13 bits go on behind the table.
            let known_string = strings.get(code).filter(|_| last.is_some() && code < next);
            let &Span { start, length } = known_string.ok_or(Damage::Broken)?;
            let (start, length) = (start as usize, length as usize);
            let room = length.min(out.len() - done);
            out.copy_within(start..start + room, done);
            if code == known && room == length {
                // It ends with what it begins with, which was not there yet.
                out[done + length - 1] = out[start];
            }
            length
        };
        last = Some(Span { start: done as u32, length: length as u32 });
        done += length;
    }
    Ok(())
}
