//! Run lengths of BMP, of pixels of 8 bits and of 4.

use crate::preprocess::memory::{self, OutOfMemory};

/// The `length` pixels that begin at `at` of the file, in rows of `width`, as stored; `None` where there are fewer.
///
/// As in Pillow: what a run has too much for its row is left out, what is skipped is 0, and runs of single pixels are padded to an even
/// place in the file. Takes time for the pixels and for the file.
pub(super) fn expand(
    file: &[u8],
    mut at: usize,
    width: usize,
    length: usize,
    nibbles: bool,
) -> Result<Option<Vec<u8>>, OutOfMemory> {
    let mut pixels = memory::zeroed(Vec::new(), length)?;
    let mut done = 0;
    // The column, as far as the last line end or skip tells.
    let mut x = 0;
    while done < length {
        let Some(&[count, value]) = file.get(at..).and_then(<[u8]>::first_chunk) else { break };
        at += 2;
        match (count, value) {
            // The end of the line, of the picture, and a skip to the right and up.
            (0, 0) => {
                done = done.next_multiple_of(width);
                x = 0;
            }
            (0, 1) => break,
            (0, 2) => {
                let Some(&[right, up]) = file.get(at..).and_then(<[u8]>::first_chunk) else { break };
                at += 2;
                done = length.min(done + usize::from(right) + usize::from(up) * width);
                x = done % width;
            }
            // Single pixels.
            (0, count) => {
                let out = &mut pixels[done..length.min(done + usize::from(count))];
                let stored = if nibbles { out.len().div_ceil(2) } else { out.len() };
                let Some(values) = file.get(at..).and_then(|rest| rest.get(..stored)) else { break };
                if nibbles {
                    for (pair, value) in out.chunks_mut(2).zip(values) {
                        pair.copy_from_slice(&[value >> 4, value & 15][..pair.len()]);
                    }
                } else {
                    out.copy_from_slice(values);
                }
                done += out.len();
                x += usize::from(count);
                at += stored;
                at += at % 2;
            }
            (count, value) => {
                let count = usize::from(count).min(width.saturating_sub(x));
                let out = &mut pixels[done..length.min(done + count)];
                let pair = if nibbles { [value >> 4, value & 15] } else { [value; 2] };
                for pixels in out.chunks_mut(2) {
                    pixels.copy_from_slice(&pair[..pixels.len()]);
                }
                done += out.len();
                x += count;
            }
        }
    }
    Ok((done == length).then_some(pixels))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expanded(file: &[u8], width: usize, length: usize, nibbles: bool) -> Option<Vec<u8>> {
        expand(file, 0, width, length, nibbles).unwrap()
    }

    #[test]
    fn runs_of_both_sizes_are_expanded() {
        assert_eq!(expanded(&[3, 0x12, 1, 0x34], 4, 4, false).unwrap(), [0x12, 0x12, 0x12, 0x34]);
        assert_eq!(expanded(&[3, 0x12, 1, 0x34], 4, 4, true).unwrap(), [1, 2, 1, 3]);
        assert_eq!(expanded(&[0, 3, 7, 8, 9, 0, 1, 5], 4, 4, false).unwrap(), [7, 8, 9, 5]);
        assert_eq!(expanded(&[0, 3, 0x78, 0x90, 1, 0x50], 4, 4, true).unwrap(), [7, 8, 9, 5]);
    }

    #[test]
    fn what_is_skipped_is_zero_and_what_overflows_a_row_is_left_out() {
        assert_eq!(expanded(&[1, 7, 0, 0, 9, 8], 3, 6, false).unwrap(), [7, 0, 0, 8, 8, 8]);
        assert_eq!(expanded(&[1, 7, 0, 2, 1, 1, 9, 8], 3, 6, false).unwrap(), [7, 0, 0, 0, 0, 8]);
        // The column is not that of the pixel once single pixels have gone over the edge.
        assert_eq!(expanded(&[0, 4, 1, 2, 3, 4, 1, 9, 0, 0, 9, 7], 3, 9, false).unwrap(), [1, 2, 3, 4, 0, 0, 7, 7, 7]);
    }

    #[test]
    fn too_few_pixels_are_none() {
        for file in [&[][..], &[1], &[3, 7], &[3, 7, 0, 1], &[0, 4, 1, 2, 3], &[0, 2, 255], &[2, 7, 0, 2, 1, 0]] {
            assert_eq!(expanded(file, 4, 4, false), None, "{file:?}");
        }
    }
}
