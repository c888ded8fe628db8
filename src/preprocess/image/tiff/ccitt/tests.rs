//! Fax codes as encoders write them, and damaged ones.

use super::*;

/// Bytes of ones and zeros, the last filled with zeros.
fn bytes(bits: &str) -> Vec<u8> {
    let bits: Vec<u8> = bits.bytes().filter(|bit| !bit.is_ascii_whitespace()).map(|bit| bit - b'0').collect();
    bits.chunks(8).map(|byte| byte.iter().enumerate().fold(0, |sum, (i, bit)| sum | bit << (7 - i))).collect()
}

fn decode(scheme: Scheme, width: usize, rows: usize, bits: &str) -> Result<Vec<String>, ImageError> {
    let mut out = vec![0xa5; rows * width.div_ceil(8)];
    Decoder::new(scheme, width)?.decode(&bytes(bits), false, &mut out)?;
    let line = |row: &[u8]| row.iter().map(|byte| format!("{byte:08b}")).collect::<String>();
    let lines = out.chunks(width.div_ceil(8)).map(line);
    Ok(lines.map(|line| line[..width].to_string()).collect())
}

/// White 2, black 3, white 3.
const LINE: &str = "0111 10 1000";
const END: &str = "000000000001";

#[test]
fn lines_of_runs_begin_with_a_byte_or_with_two() {
    let two = ["00111000", "00111000"];
    let padded = |zeros: usize| format!("{LINE} {} {LINE}", "0".repeat(zeros));
    assert_eq!(decode(Scheme::Rle, 8, 2, &padded(6)).unwrap(), two);
    // libtiff takes two bytes for begun that it has looked at; of a short line that is no more than there are.
    let words = format!("10011 00000000000 {LINE}");
    assert_eq!(decode(Scheme::RleWords, 8, 2, &words).unwrap(), ["00000000", "00111000"]);
    // At an odd place the next pair begins a byte later.
    let data = bytes("0111 0111 00000000 10101010 01110000");
    let mut white = [0xff; 2];
    Decoder::new(Scheme::RleWords, 2).unwrap().decode(&data, true, &mut white).unwrap();
    assert_eq!(white, [0; 2]);
}

#[test]
fn long_runs_are_told_in_parts() {
    // White 2560 + 2560 + 64 + 0, black 64 + 0, white 1.
    let bits = "000000011111 000000011111 11011 00110101 0000001111 0000110111 000111";
    let line = &decode(Scheme::Rle, 5249, 1, bits).unwrap()[0];
    assert_eq!((line.find('1'), line.rfind('1'), line.matches('1').count()), (Some(5184), Some(5247), 64));
}

#[test]
fn ends_of_lines_are_looked_for() {
    let lines = ["00111000", "00111000"];
    let bits = format!("{END} {LINE} 0000 {END} {LINE} {END}{END}");
    assert_eq!(decode(Scheme::Group3, 8, 2, &bits).unwrap(), lines);
    // Bits that are in no line are left out.
    let bits = format!("1011 {END} {LINE} 1101 {END} {LINE}");
    assert_eq!(decode(Scheme::Group3, 8, 2, &bits).unwrap(), lines);
    // Where there is none, the lines follow each other.
    assert_eq!(decode(Scheme::Group3, 8, 2, &format!("{LINE} {LINE}")).unwrap(), lines);
}

#[test]
fn a_damaged_line_is_white_to_its_end() {
    let broken = "0111 10 000000001";
    let bits = format!("{END} {broken} {END} {LINE}");
    assert_eq!(decode(Scheme::Group3, 8, 2, &bits).unwrap(), ["00111000", "00111000"]);
    // A run that goes on too long is left out; behind one that ends too early is white.
    let bits = format!("{END} 0111 11 0111 0011 {END} 0111 11 {END} {LINE}");
    assert_eq!(decode(Scheme::Group3, 8, 2, &bits).unwrap(), ["00110000", "00110000"]);
}

#[test]
fn lines_are_told_by_the_line_above() {
    // By runs, then: two changes below those above, and a change one and three pixels off.
    let bits = format!("{END} 1 {LINE} {END} 0 1 1 1 {END} 0 010 0000011 1");
    assert_eq!(decode(Scheme::Group3TwoDimensional, 8, 3, &bits).unwrap(), ["00111000", "00111000", "01111111"]);
    // By two runs; passed; right by one and two, left by one.
    let bits = "001 0111 10 1   0001 1   001 0111 10 1   011 000011 1   010 010 1";
    let lines = ["00111000", "00000000", "00111000", "00011110", "00111100"];
    assert_eq!(decode(Scheme::Group4, 8, 5, bits).unwrap(), lines);
}

#[test]
fn data_that_end_before_the_rows_are_refused() {
    let truncated = Err(TRUNCATED);
    assert_eq!(decode(Scheme::Rle, 8, 4, &format!("{LINE} 000000 {LINE}")), truncated);
    assert_eq!(decode(Scheme::Rle, 8, 1, ""), truncated);
    for scheme in [Scheme::Group3, Scheme::Group3TwoDimensional, Scheme::Group4] {
        assert_eq!(decode(scheme, 8, 1, ""), truncated, "{scheme:?}");
    }
    // The end of the picture comes too early: the line that it is found in is white, and others may not lack.
    let end = format!("{END}{END}");
    assert_eq!(decode(Scheme::Group4, 8, 3, &format!("1 1 {end}")).unwrap(), ["00000000"; 3]);
    assert_eq!(decode(Scheme::Group4, 8, 4, &format!("1 1 {end}")), truncated);
    assert_eq!(decode(Scheme::Group4, 8, 2, &format!("1 1 {end}")).unwrap(), ["00000000"; 2]);
}

#[test]
fn a_line_of_more_runs_than_there_is_room_for_is_refused() {
    let pairs = |count: usize| "00110101 010".repeat(count);
    assert_eq!(decode(Scheme::Rle, 32, 1, &pairs(32)).unwrap(), ["1".repeat(32)]);
    let refused = decode(Scheme::Rle, 40, 1, &pairs(40)).unwrap_err();
    assert_eq!(refused.reason(), "corrupt");
    assert_eq!(Decoder::new(Scheme::Group4, MAX_WIDTH + 1).err().unwrap().reason(), "unsupported_variant");
}

#[test]
fn noise_is_decoded_or_refused() {
    let mut random = fastrand::Rng::with_seed(7);
    let schemes = [Scheme::Rle, Scheme::RleWords, Scheme::Group3, Scheme::Group3TwoDimensional, Scheme::Group4];
    let mut decoded = 0;
    for _ in 0..3000 {
        let width = random.usize(1..100);
        let mut decoder = Decoder::new(random.choice(schemes).unwrap(), width).unwrap();
        for _ in 0..2 {
            let data: Vec<u8> = (0..random.usize(0..300)).map(|_| random.u8(..) & random.u8(..)).collect();
            let mut out = vec![0; width.div_ceil(8) * random.usize(1..20)];
            decoded += usize::from(decoder.decode(&data, random.bool(), &mut out).is_ok());
        }
    }
    assert!((500..5500).contains(&decoded), "{decoded}");
}
