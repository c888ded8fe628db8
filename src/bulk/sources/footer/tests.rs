//! Footers that claim too much, each a little over a limit: small enough that any reader survives them.

use std::io::Write as _;

use super::*;

fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value > 0x7f {
        bytes.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

fn signed(value: i64) -> Vec<u8> {
    varint(((value << 1) ^ (value >> 63)) as u64)
}

/// Structs in a list.
fn list(elements: &[Vec<u8>]) -> Vec<u8> {
    [vec![0xfc], varint(elements.len() as u64), elements.concat()].concat()
}

/// A `SchemaElement`: a binary, or a struct of so many.
fn element(children: Option<i64>) -> Vec<u8> {
    match children {
        Some(children) => [&[0x35, 0, 0x18, 1, b'g', 0x15][..], &signed(children), &[0]].concat(),
        None => vec![0x15, 12, 0x25, 2, 0x18, 1, b'x', 0],
    }
}

/// A `RowGroup` of one column whose pages are there.
fn group(rows: i64, start: i64, bytes: i64) -> Vec<u8> {
    let column = [
        &[0x15, 12, 0x19, 0x15, 0, 0x19, 0x18, 1, b'x', 0x15, 0, 0x16][..],
        &signed(rows),
        &[0x16],
        &signed(bytes),
        &[0x16],
        &signed(bytes),
        &[0x26],
        &signed(start),
        &[0],
    ]
    .concat();
    let chunk = [&[0x26, 8, 0x1c][..], &column, &[0]].concat();
    [&[0x19, 0x1c][..], &chunk, &[0x16, 0, 0x16], &signed(rows), &[0]].concat()
}

fn footer(elements: &[Vec<u8>], rows: i64, groups: &[Vec<u8>]) -> Vec<u8> {
    [&[0x15, 2, 0x19][..], &list(elements), &[0x16], &signed(rows), &[0x19], &list(groups), &[0]].concat()
}

/// A file with that footer behind 100 bytes.
fn file(footer: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(b"PAR1").unwrap();
    file.write_all(&[0; 96]).unwrap();
    file.write_all(footer).unwrap();
    file.write_all(&(footer.len() as u32).to_le_bytes()).unwrap();
    file.write_all(b"PAR1").unwrap();
    file
}

fn read(footer: &[u8]) -> Result<Vec<u64>, String> {
    Footer::read(&file(footer)).and_then(|footer| footer.rows(&[0]))
}

fn nested(depth: usize) -> Vec<Vec<u8>> {
    let mut elements = vec![element(Some(1)); depth - 1];
    elements.push(element(None));
    elements
}

#[test]
fn what_a_footer_may_claim_is_read_and_what_is_more_is_refused() {
    let flat = || vec![element(Some(1)), element(None)];
    assert_eq!(read(&footer(&flat(), 5, &[group(3, 4, 40), group(2, 44, 40)])), Ok(vec![3, 2]));
    // One cell for all of them, in the smallest page.
    let most = (1 << 20) + 17 * 256;
    assert_eq!(read(&footer(&flat(), most, &[group(most, 4, 17)])), Ok(vec![most as u64]));
    assert_eq!(read(&footer(&nested(MAX_DEPTH), 0, &[])), Ok(vec![]));
    let wide = |columns: usize| {
        let mut elements = vec![element(None); columns];
        elements.insert(0, element(Some(columns as i64)));
        elements
    };
    assert_eq!(read(&footer(&wide(MAX_ELEMENTS - 1), 0, &[])), Ok(vec![]));
    let many = vec![vec![0]; MAX_CHUNKS / 2 + 1];
    for (footer, expected) in [
        (footer(&nested(MAX_DEPTH + 1), 0, &[]), "its columns are nested deeper than 64"),
        (footer(&wide(MAX_ELEMENTS), 0, &[]), "its schema has 10001 columns, the limit is 10000"),
        (footer(&[element(Some(3)), element(None)], 0, &[]), "its schema of 2 columns claims more of them in one"),
        (footer(&[element(Some(-1)), element(None)], 0, &[]), "its schema of 2 columns claims more of them in one"),
        (footer(&flat(), 0, &many), "the limit is 1048576 of both multiplied"),
        (footer(&flat(), 3, &[group(3, 4, 97)]), "row group 0 claims 3 rows, and the file has no pages of x"),
        (footer(&flat(), 3, &[group(3, 4, 16)]), "row group 0 claims 3 rows, and the file has no pages of x"),
        (footer(&flat(), 3, &[group(3, -4, 40)]), "row group 0 claims 3 rows, and the file has no pages of x"),
        (footer(&flat(), 3, &[group(3, i64::MAX, i64::MAX)]), "row group 0 claims 3 rows, and the file has no pages"),
        (
            footer(&flat(), most + 1, &[group(most + 1, 4, 17)]),
            "claims 1052929 rows in 17 bytes of pages, the limit is 256",
        ),
        (
            footer(&flat(), 6, &vec![group(3, 4, 60); 2]),
            "its row groups claim 120 bytes of pages, and the file has 100",
        ),
        (footer(&flat(), 4, &[group(3, 4, 40)]), "it claims 4 rows, and its row groups 3"),
        (footer(&flat(), -3, &[group(-3, 4, 40)]), "row group 0 claims a negative number of rows"),
    ] {
        let error = read(&footer).unwrap_err();
        assert!(error.contains(expected), "{error}, expected {expected}");
    }
}

#[test]
fn a_footer_of_another_shape_is_refused() {
    let whole = footer(&[element(Some(1)), element(None)], 0, &[]);
    assert!(read(&whole).is_ok());
    let changed = |at: usize, bytes: &[u8]| {
        let mut changed = whole.clone();
        changed.splice(at..at + 1, bytes.iter().copied());
        changed
    };
    for (footer, why) in [
        (changed(0, &[0x16]), "a version of 64 bits"),
        (changed(whole.len() - 1, &[0x09, 4, 0x0c, 0]), "a second schema"),
        (changed(whole.len() - 1, &[0x59, 0x22, 1, 1, 0]), "an unknown list of booleans"),
        (whole[..whole.len() - 1].to_vec(), "an end too early"),
    ] {
        assert_eq!(read(&footer).unwrap_err(), "its footer is damaged", "{why}");
    }
    assert!(read(&changed(whole.len() - 1, &[0x58, 1, 7, 0])).is_ok(), "a field of a later version");
}

#[test]
fn a_footer_is_in_its_file_and_no_longer_than_the_limit() {
    for (tail, expected) in [
        (5_u32.to_le_bytes(), "its footer claims 5 bytes, and the file has 12"),
        (u32::MAX.to_le_bytes(), "its footer claims 4294967295 bytes, the limit is 67108864"),
    ] {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[b"PAR1", &tail[..], b"PAR1"].concat()).unwrap();
        assert_eq!(Footer::read(&file).unwrap_err(), expected);
    }
    for (bytes, expected) in
        [(&b"PARE\0\0\0\0PARE"[..], "it is encrypted"), (b"PAR1", "no Parquet"), (b"", "no Parquet")]
    {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        assert!(Footer::read(&file).unwrap_err().contains(expected), "{expected}");
    }
}

#[test]
fn a_panic_of_the_reader_is_an_error() {
    assert!(contained(|| -> Result<(), String> { panic!("asserted") }).unwrap_err().contains("gave up"));
}
