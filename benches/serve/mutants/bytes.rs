//! A file that nobody wrote: a valid one with bits, bytes, blocks and lengths changed, cut off, or spliced with another of its kind.
//!
//! Pure: the same generator makes the same file. Knows of formats only that many say lengths in 2, 4 or 8 bytes of either order, and that PNG
//! has checksums, which hide everything behind them unless they are made anew.

use fastrand::Rng;

/// Where headers are: half of the changes are there, in files that are longer.
const HEAD: usize = 512;

/// The longest block that is copied, taken out or swapped.
const BLOCK: usize = 256;

const PNG: &[u8] = b"\x89PNG\r\n\x1a\n";

/// Changes `file` in one to four ways; `other` is another file of its kind.
pub(crate) fn mutate(file: &mut Vec<u8>, other: &[u8], rng: &mut Rng) {
    for _ in 0..rng.usize(1..=4) {
        change(file, other, rng);
    }
    if rng.bool() {
        repair_png(file);
    }
}

fn change(file: &mut Vec<u8>, other: &[u8], rng: &mut Rng) {
    let at = place(file.len(), rng);
    let end = at + rng.usize(..=(file.len() - at).min(BLOCK));
    match rng.u8(..10) {
        0 | 1 => {
            for _ in 0..rng.usize(1..=8) {
                let at = place(file.len(), rng);
                if let Some(byte) = file.get_mut(at) {
                    *byte ^= 1 << rng.u8(..8);
                }
            }
        }
        2 => {
            let value = [0, 0xff, 0x7f, 0x80, rng.u8(..)][rng.usize(..5)];
            let some = rng.usize(1..=4);
            file[at..].iter_mut().take(some).for_each(|byte| *byte = value);
        }
        3 | 4 => length(&mut file[at..], rng),
        5 => file.truncate(at),
        6 => {
            let block = file[at..end].to_vec();
            let to = place(file.len(), rng);
            if rng.bool() {
                file.splice(to..to, block);
            } else {
                let fits = block.len().min(file.len() - to);
                file[to..to + fits].copy_from_slice(&block[..fits]);
            }
        }
        7 => drop(file.drain(at..end)),
        8 => {
            let to = place(file.len(), rng);
            let fits = (end - at).min(file.len() - to).min(at.abs_diff(to));
            for step in 0..fits {
                file.swap(at + step, to + step);
            }
        }
        _ => {
            file.truncate(at);
            file.extend_from_slice(&other[place(other.len(), rng)..]);
        }
    }
}

/// A place in a file of that length, its end among them.
fn place(length: usize, rng: &mut Rng) -> usize {
    let most = if rng.bool() { length.min(HEAD) } else { length };
    rng.usize(..=most)
}

/// Makes a number of what stands there that no length is, or nearly none.
fn length(bytes: &mut [u8], rng: &mut Rng) {
    let width = [2, 4, 8][rng.usize(..3)];
    let Some(field) = bytes.get_mut(..width) else { return };
    let is_big = rng.bool();
    let mut value = [0; 8];
    for (step, &byte) in field.iter().enumerate() {
        value[if is_big { width - 1 - step } else { step }] = byte;
    }
    let old = u64::from_le_bytes(value);
    let most = u64::MAX >> (64 - 8 * width);
    let new = match rng.u8(..6) {
        0 => 0,
        1 => most,
        2 => most >> 1,
        3 => old.wrapping_add(1),
        4 => old.wrapping_sub(1),
        _ => old.wrapping_mul(2),
    };
    let new = new.to_le_bytes();
    for (step, byte) in field.iter_mut().enumerate() {
        *byte = new[if is_big { width - 1 - step } else { step }];
    }
}

/// Makes the checksums of a PNG anew, as far as its lengths lead.
fn repair_png(file: &mut [u8]) {
    let mut at = PNG.len();
    while file.starts_with(PNG) && file.len() >= at + 12 {
        let length = u32::from_be_bytes([file[at], file[at + 1], file[at + 2], file[at + 3]]) as usize;
        let end = at + 8 + length;
        if end + 4 > file.len() {
            return;
        }
        let mut checksum = flate2::Crc::new();
        checksum.update(&file[at + 4..end]);
        file[end..end + 4].copy_from_slice(&checksum.sum().to_be_bytes());
        at = end + 4;
    }
}
