//! The five filters of PNG, undone.
//!
//! Of samples of two bytes only the higher one is wanted, and no filter of a byte looks at another one of its pixel: the lower ones are left
//! out before.

#[cfg(target_arch = "x86_64")]
mod sse2;

/// The higher bytes of samples of two.
pub(super) fn higher(stored: &[u8], out: &mut [u8]) {
    out.iter_mut().zip(stored.as_chunks::<2>().0).for_each(|(out, [high, _])| *out = *high);
}

/// Makes `row` of what is stored of it, in pixels of 1 to 4 bytes, and the row above. `None` where there is no such filter.
pub(super) fn undo(filter: u8, pixel_bytes: usize, stored: &[u8], above: &[u8], row: &mut [u8]) -> Option<()> {
    match filter {
        0 => row.copy_from_slice(stored),
        2 => {
            for ((value, stored), above) in row.iter_mut().zip(stored).zip(above) {
                *value = stored.wrapping_add(*above);
            }
        }
        1 | 3 | 4 => {
            let undo = match pixel_bytes {
                1 => undo_by_pixel::<1>,
                2 => undo_by_pixel::<2>,
                3 => undo_side_by_side::<3>,
                _ => undo_side_by_side::<4>,
            };
            undo(filter, stored, above, row);
        }
        _ => return None,
    }
    Some(())
}

/// As `undo_by_pixel`, for pixels that have bytes enough for it.
fn undo_side_by_side<const N: usize>(filter: u8, stored: &[u8], above: &[u8], row: &mut [u8]) {
    #[cfg(target_arch = "x86_64")]
    sse2::undo::<N>(filter, stored, above, row);
    #[cfg(not(target_arch = "x86_64"))]
    undo_by_pixel::<N>(filter, stored, above, row);
}

/// Those that look to the left, for pixels of `N` bytes.
fn undo_by_pixel<const N: usize>(filter: u8, stored: &[u8], above: &[u8], row: &mut [u8]) {
    let pixels = row.as_chunks_mut::<N>().0.iter_mut().zip(stored.as_chunks::<N>().0);
    let mut left = [0; N];
    match filter {
        1 => {
            for (pixel, stored) in pixels {
                left = std::array::from_fn(|i| stored[i].wrapping_add(left[i]));
                *pixel = left;
            }
        }
        3 => {
            for ((pixel, stored), above) in pixels.zip(above.as_chunks::<N>().0) {
                left = std::array::from_fn(|i| {
                    let mean = (u16::from(left[i]) + u16::from(above[i])) / 2;
                    stored[i].wrapping_add(mean as u8)
                });
                *pixel = left;
            }
        }
        _ => {
            // All in the width that is reckoned in, so that a pixel waits for nothing but the one before.
            let (mut left, mut corner) = ([0i16; N], [0; N]);
            for ((pixel, stored), above) in pixels.zip(above.as_chunks::<N>().0) {
                let (stored, above) = (stored.map(i16::from), above.map(i16::from));
                left = std::array::from_fn(|i| (stored[i] + paeth(left[i], above[i], corner[i])) & 0xff);
                *pixel = left.map(|value| value as u8);
                corner = above;
            }
        }
    }
}

/// The neighbour that is nearest to left + above - corner; of equals the first in this order.
///
/// Without a branch: the further the corner lies to one side of the other two, the further their sum goes to the other, until the
/// lower of them is nearest, or the higher.
fn paeth(left: i16, above: i16, corner: i16) -> i16 {
    let (low, high) = (left.min(above), left.max(above));
    let edge = 3 * corner - left - above;
    let inner = if high <= edge { low } else { corner };
    if edge <= low { high } else { inner }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_filter_is_undone_by_the_pixel() {
        let undone = |filter, wanted| {
            let mut row = [0; 6];
            undo(filter, wanted, &[1, 2, 3, 4, 5, 250], &[10, 20, 30, 40, 50, 60], &mut row).map(|()| row)
        };
        assert_eq!(undone(0, 3), Some([1, 2, 3, 4, 5, 250]));
        assert_eq!(undone(1, 3), Some([1, 2, 3, 5, 7, 253]));
        assert_eq!(undone(1, 2), Some([1, 2, 4, 6, 9, 0]));
        assert_eq!(undone(2, 1), Some([11, 22, 33, 44, 55, 54]));
        assert_eq!(undone(3, 3), Some([6, 12, 18, 27, 36, 33]));
        assert_eq!(undone(4, 3), Some([11, 22, 33, 44, 55, 54]));
        assert_eq!(undone(5, 3), None);
    }

    #[test]
    fn side_by_side_is_the_same() {
        fn compare<const N: usize>(bytes: &[u8], above: &[u8]) {
            for filter in [1, 3, 4] {
                let mut rows = [vec![0; bytes.len()], vec![0; bytes.len()]];
                undo_by_pixel::<N>(filter, bytes, above, &mut rows[0]);
                undo_side_by_side::<N>(filter, bytes, above, &mut rows[1]);
                assert_eq!(rows[0], rows[1], "filter {filter} of {N}");
            }
        }
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..100 {
            let mut row = || (0..12 * 37).map(|_| random.u8(..)).collect::<Vec<_>>();
            let (stored, above) = (row(), row());
            compare::<3>(&stored, &above);
            compare::<4>(&stored, &above);
        }
    }

    /// No filter of a byte looks at another one of its pixel.
    #[test]
    fn the_higher_bytes_are_those_of_a_row_of_all_bytes() {
        let numbers =
            |seed: u8| (0..24u8).map(|i| i.wrapping_mul(37).wrapping_add(seed).rotate_left(3)).collect::<Vec<_>>();
        let higher = |row: &[u8]| {
            let mut out = vec![0; row.len() / 2];
            higher(row, &mut out);
            out
        };
        let (stored, above) = (numbers(1), numbers(99));
        for filter in 0..5 {
            for wanted in [1, 2] {
                let mut whole = vec![0; 24];
                undo(filter, 2 * wanted, &stored, &above, &mut whole).unwrap();
                let mut row = vec![0; 12];
                undo(filter, wanted, &higher(&stored), &higher(&above), &mut row).unwrap();
                assert_eq!(row, higher(&whole), "filter {filter} of {wanted}");
            }
        }
    }

    #[test]
    fn paeth_takes_the_first_of_the_nearest() {
        assert_eq!(
            [paeth(5, 5, 5), paeth(1, 9, 9), paeth(9, 1, 9), paeth(1, 3, 2), paeth(0, 255, 128)],
            [5, 1, 1, 2, 128]
        );
    }
}
