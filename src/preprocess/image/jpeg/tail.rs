//! A marker's segment that the end of the file cuts short, behind the pixels.
//!
//! Owns whether libjpeg refuses what there is of one. Pillow has given it the last row by then and still lets it read on to the end
//! marker: what waits for more bytes is no fault, what is wrong already is. The rules are those of libjpeg-turbo's `jdmarker.c`.

/// Whether the segment of `marker`, said to have `length` bytes with its length, is wrong in what is `present` of it behind that.
pub(super) fn is_wrong(marker: u8, length: usize, present: &[u8]) -> bool {
    let left = length.saturating_sub(2);
    match marker {
        0xdb => quantisation(left, present),
        0xc4 => huffman(left, present),
        0xcc => conditioning(left, present),
        0xdd => length != 4,
        0xda => scan(length, present),
        _ => false,
    }
}

/// Tables of 64 values, of one or two bytes.
fn quantisation(mut left: usize, mut present: &[u8]) -> bool {
    while left > 0 {
        let Some((&head, rest)) = present.split_first() else { return false };
        if head & 0x0f >= 4 {
            return true;
        }
        let bytes = if head >> 4 > 0 { 128 } else { 64 };
        let Some(rest) = rest.get(bytes..) else { return false };
        present = rest;
        left = left.saturating_sub(1 + bytes);
    }
    false
}

/// Tables of 16 counts and as many values.
fn huffman(mut left: usize, mut present: &[u8]) -> bool {
    while left > 16 {
        let Some((head, rest)) = present.split_first_chunk::<17>() else { return false };
        left -= 17;
        let count: usize = head[1..].iter().map(|&count| usize::from(count)).sum();
        if count > 256 || count > left {
            return true;
        }
        let Some(rest) = rest.get(count..) else { return false };
        // Told after the values: those of the one kind are numbered from 16.
        if head[0] & !0x10 >= 4 {
            return true;
        }
        present = rest;
        left -= count;
    }
    false
}

/// Pairs of a number and a value, whose low half is no more than its high half.
fn conditioning(left: usize, present: &[u8]) -> bool {
    let pairs = present.as_chunks().0.iter().take(left / 2);
    pairs.into_iter().any(|&[number, value]| number >= 32 || number < 16 && value & 0x0f > value >> 4)
}

/// Its length goes by the number of its components, of which there are 1 to 4. Whose they are is looked at further on.
fn scan(length: usize, present: &[u8]) -> bool {
    present.first().is_some_and(|&count| !(1..=4).contains(&count) || length != 6 + 2 * usize::from(count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_judged_and_what_is_missing_is_not() {
        let mut counts = [0; 17];
        (counts[0], counts[16]) = (0x11, 202);
        let numbered = |number: u8| [&[number; 1][..], &[0; 16]].concat();
        for (marker, length, present, wrong) in [
            (0xdb, 67, &[0x03][..], false),
            (0xdb, 67, &[0x7a], true),
            (0xdb, 67, &[], false),
            (0xdb, 132, &[&[0x00; 65][..], &[0x04]].concat(), true),
            (0xdb, 132, &[&[0x10; 65][..], &[0x04]].concat(), false),
            (0xc4, 26, &counts, true),
            (0xc4, 300, &counts, false),
            (0xc4, 26, &counts[..16], false),
            (0xc4, 40, &numbered(0x13), false),
            (0xc4, 40, &numbered(0x14), true),
            (0xcc, 6, &[0, 0x10, 32], false),
            (0xcc, 6, &[0, 0x10, 32, 0], true),
            (0xcc, 6, &[0, 0x01], true),
            (0xdd, 4, &[0], false),
            (0xdd, 6, &[], true),
            (0xda, 8, &[1, 1], false),
            (0xda, 8, &[2], true),
            (0xda, 16, &[5], true),
            (0xe0, 99, &[0xff], false),
        ] {
            assert_eq!(is_wrong(marker, length, present), wrong, "{marker:x} {length} {present:?}");
        }
    }
}
