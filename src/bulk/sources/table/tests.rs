//! Parquet files as Hugging Face's datasets and others write them, and broken ones.

use std::{
    collections::HashSet,
    fs::{self, File},
    sync::Arc,
};

use arrow_array::{
    ArrayRef, Int8Array, Int64Array, RecordBatch, StringArray, StructArray, UInt16Array, UInt32Array, UInt64Array,
    builder::BinaryBuilder,
};
use arrow_buffer::NullBuffer;
use arrow_schema::{DataType, Field};
use parquet::{arrow::ArrowWriter, file::properties::WriterProperties};

use super::*;
use crate::bulk::{options::Columns, sample::Kept, sources::footer::Footer};

const LIMITS: Limits = Limits { picture: 20, text: 30 };

fn write(path: &Path, columns: Vec<(&str, ArrayRef)>, group: usize) {
    let batch =
        RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, array)| (name, array, true))).unwrap();
    let properties = WriterProperties::builder()
        .set_max_row_group_row_count(Some(group))
        .set_write_batch_size(100)
        .set_data_page_row_count_limit(100)
        .set_dictionary_enabled(false)
        .build();
    let mut writer = ArrowWriter::try_new(File::create(path).unwrap(), batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

fn binary(cells: &[Option<&[u8]>]) -> ArrayRef {
    let mut builder = BinaryBuilder::new();
    cells.iter().for_each(|cell| builder.append_option(*cell));
    Arc::new(builder.finish())
}

fn strings(cells: &[Option<&str>]) -> ArrayRef {
    Arc::new(StringArray::from(cells.to_vec()))
}

/// A column of Hugging Face's `Image`.
fn images(bytes: &[Option<&[u8]>], paths: &[Option<&str>], valid: &[bool]) -> ArrayRef {
    let fields = vec![Field::new("bytes", DataType::Binary, true), Field::new("path", DataType::Utf8, true)];
    let arrays = vec![binary(bytes), strings(paths)];
    Arc::new(StructArray::new(fields.into(), arrays, Some(NullBuffer::from(valid.to_vec()))))
}

fn samples(table: &Table) -> Vec<Sample> {
    let mut kept = Kept::default();
    table.send(&mut kept, LIMITS).unwrap();
    kept.samples
}

#[test]
fn images_of_datasets_are_read_embedded_or_by_their_path_and_a_null_is_a_row() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("cat.jpg"), "beside").unwrap();
    let path = folder.path().join("x.parquet");
    let column = images(
        &[Some(b"inside"), None, None, None],
        &[None, Some("cat.jpg"), Some("/absent/dog.jpg"), None],
        &[true, true, true, false],
    );
    write(&path, vec![("image", column), ("label", Arc::new(Int64Array::from(vec![0, 1, 2, 3])) as ArrayRef)], 100);
    let table = Table::open(&path, Modalities::Image, &Columns::default()).unwrap();
    let samples = samples(&table);
    assert_eq!(table.len(), 4);
    assert_eq!(samples[0].picture.as_deref(), Some(&b"inside"[..]));
    assert_eq!((samples[1].picture.as_deref(), samples[1].path.as_deref()), (Some(&b"beside"[..]), Some("cat.jpg")));
    assert!(samples[2].reason().unwrap().contains("/absent/dog.jpg"), "{:?}", samples[2]);
    assert_eq!((&samples[3].picture, &samples[3].error), (&None, &None));
    assert_eq!(samples[3].id, format!("{}:3", path.display()));
}

#[test]
fn columns_are_found_by_their_type_and_name_or_as_they_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.parquet");
    let columns = vec![
        ("jpg", binary(&[Some(b"1"), Some(b"123456789012345678901")])),
        ("caption", strings(&[Some("cat"), None])),
        ("alt", strings(&[Some("kitten"), Some("dog")])),
        ("key", Arc::new(Int64Array::from(vec![Some(7), None])) as ArrayRef),
    ];
    write(&path, columns, 100);
    let found = samples(&Table::open(&path, Modalities::Both, &Columns::default()).unwrap());
    assert_eq!((&*found[0].id, found[0].caption.as_deref()), ("7", Some("cat")));
    assert!(found[1].reason().unwrap().contains("21 bytes, the limit is 20") && found[1].id.ends_with(":1"));
    let named = Columns { text: Some("alt".into()), id: Some("caption".into()), ..Columns::default() };
    let named = samples(&Table::open(&path, Modalities::Text, &named).unwrap());
    assert_eq!((&*named[0].id, named[0].caption.as_deref(), named[0].picture.as_ref()), ("cat", Some("kitten"), None));
    for (columns, expected) in [
        (Columns { image: Some("caption2".into()), ..Columns::default() }, "no such column among jpg (Binary)"),
        (Columns { text: Some("jpg".into()), ..Columns::default() }, "--text-column jpg: the column is Binary"),
        (Columns { image: Some("key".into()), ..Columns::default() }, "--image-column key: the column is Int64"),
    ] {
        let error = Table::open(&path, Modalities::Both, &columns).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn integers_of_every_width_are_ids() {
    let columns: [ArrayRef; 4] = [
        Arc::new(Int8Array::from(vec![-7])),
        Arc::new(UInt16Array::from(vec![u16::MAX])),
        Arc::new(UInt32Array::from(vec![u32::MAX])),
        Arc::new(UInt64Array::from(vec![u64::MAX])),
    ];
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.parquet");
    for (column, expected) in columns.into_iter().zip(["-7", "65535", "4294967295", "18446744073709551615"]) {
        write(&path, vec![("jpg", binary(&[Some(b"1")])), ("id", column)], 100);
        let samples = samples(&Table::open(&path, Modalities::Image, &Columns::default()).unwrap());
        assert_eq!((&*samples[0].id, &samples[0].error), (expected, &None));
    }
}

#[test]
fn a_file_without_the_columns_is_refused_and_says_which_it_has() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.parquet");
    write(&path, vec![("title", strings(&[Some("cat")]))], 100);
    for (modality, expected) in [(Modalities::Image, "no column of pictures"), (Modalities::Text, "--text-column")] {
        let error = Table::open(&path, modality, &Columns::default()).unwrap_err();
        assert!(error.contains(expected) && error.contains("title (Utf8)"), "{error}");
    }
    write(&path, vec![("a", binary(&[Some(b"1")])), ("b", binary(&[Some(b"2")]))], 100);
    let error = Table::open(&path, Modalities::Image, &Columns::default()).unwrap_err();
    assert!(error.contains("(a, b); name one by --image-column"), "{error}");
    fs::write(&path, "PAR1 no more").unwrap();
    Table::open(&path, Modalities::Image, &Columns::default()).unwrap_err();
}

#[test]
fn rows_that_are_not_wanted_are_passed_and_the_others_keep_their_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.parquet");
    let cells: Vec<Vec<u8>> = (0..10).map(|row| vec![row; 3]).collect();
    let cells: Vec<_> = cells.iter().map(|cell| Some(&cell[..])).collect();
    write(&path, vec![("image", binary(&cells))], 4);
    let table = Table::open(&path, Modalities::Image, &Columns::default()).unwrap();
    let mut kept = Kept { unwanted: [0, 1, 2, 3, 5, 8].into(), ..Kept::default() };
    table.send(&mut kept, LIMITS).unwrap();
    let read: Vec<_> = kept.samples.iter().map(|sample| sample.picture.as_ref().unwrap()[0]).collect();
    assert_eq!((read, kept.origins.len()), (vec![4, 6, 7, 9], 10));
    assert!(kept.samples[0].id.ends_with(":4"));
}

#[test]
fn a_fault_in_a_row_group_is_in_its_rows_and_the_other_groups_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.parquet");
    write(
        &path,
        vec![("image", binary(&[Some(b"first picture"), Some(b"second"), Some(b"third"), Some(b"fourth")]))],
        2,
    );
    let mut bytes = fs::read(&path).unwrap();
    // The header of the first page.
    bytes[4..24].fill(0xff);
    fs::write(&path, bytes).unwrap();
    let table = Table::open(&path, Modalities::Image, &Columns::default()).unwrap();
    let samples = samples(&table);
    let failed: Vec<_> = samples.iter().map(|sample| sample.reason().is_some()).collect();
    assert_eq!(failed, [true, true, false, false]);
    assert!(samples[0].reason().unwrap().contains("the row cannot be read"), "{:?}", samples[0]);
    fs::remove_file(&path).unwrap();
    let mut kept = Kept::default();
    table.send(&mut kept, LIMITS).unwrap();
    assert_eq!(kept.samples.len(), 1, "gone since it was opened");
}

/// The header of a data page that claims so many bytes.
fn header(unpacked: u32) -> Vec<u8> {
    let mut claim = u64::from(unpacked) << 1;
    let mut varint = Vec::new();
    while claim > 0x7f {
        varint.push((claim & 0x7f) as u8 | 0x80);
        claim >>= 7;
    }
    varint.push(claim as u8);
    [&[0x15, 0, 0x15], &varint[..], &[0x15, 0x02, 0]].concat()
}

#[test]
fn a_page_that_claims_too_much_is_refused_before_it_is_taken() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.parquet");
    write(&path, vec![("image", binary(&[Some(&[7; 40]), Some(b"other"), Some(b"group")]))], 2);
    let whole = fs::read(&path).unwrap();
    for (claim, expected) in [
        ((1 << 29) + 1, "its pages claim 536870913 bytes that are in memory at once, the limit is 536870912"),
        // The next header is not where this one says.
        (1 << 29, "column image: its pages are not where the file says"),
    ] {
        let mut bytes = whole.clone();
        bytes.splice(4..4 + header(claim).len(), header(claim));
        fs::write(&path, bytes).unwrap();
        let samples = samples(&Table::open(&path, Modalities::Image, &Columns::default()).unwrap());
        assert_eq!(samples.len(), 3);
        assert!(samples[0].reason().unwrap().contains(expected), "{:?}", samples[0].error);
        assert_eq!(samples[2].picture.as_deref(), Some(&b"group"[..]));
    }
}

#[test]
fn pages_of_several_columns_that_are_in_memory_at_once_are_counted_together() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.parquet");
    let text = "t".repeat(99);
    write(&path, vec![("image", binary(&[Some(&[7; 99])])), ("caption", strings(&[Some(&text)]))], 2);
    let metadata = Footer::read(&File::open(&path).unwrap()).unwrap().metadata;
    let whole = fs::read(&path).unwrap();
    for (claims, is_refused) in [([300 << 20, 212 << 20], false), ([300 << 20, 213 << 20], true)] {
        let mut bytes = whole.clone();
        for (chunk, claim) in metadata.row_group(0).columns().iter().zip(claims) {
            let start = chunk.data_page_offset() as usize;
            // All that is behind the header is packed.
            let header = header(claim);
            let packed = chunk.compressed_size() as usize - header.len() - 1;
            let header = [&header[..header.len() - 2], &[(packed << 1) as u8 | 0x80, (packed >> 6) as u8, 0]].concat();
            bytes[start..start + header.len()].copy_from_slice(&header);
        }
        fs::write(&path, bytes).unwrap();
        let opened = opened(&path, Modalities::Both, &Columns::default()).unwrap();
        let refused = opened.batch(0).err();
        assert_eq!(refused.is_some(), is_refused, "{refused:?}");
        let expected = "its pages claim 537919488 bytes that are in memory at once, the limit is 536870912";
        assert!(refused.is_none_or(|reason| reason.contains(expected)));
    }
}

/// What is sent where the first `unwanted` rows are complete already.
fn samples_behind(table: &Table, unwanted: usize) -> Vec<Sample> {
    let mut kept = Kept { unwanted: (0..unwanted).collect::<HashSet<_>>(), ..Kept::default() };
    table.send(&mut kept, LIMITS).unwrap();
    assert_eq!(kept.origins.len() as u64, table.len());
    kept.samples
}

/// Changes all of `from` in the file.
fn replace(path: &Path, from: &[u8], to: &[u8]) {
    let mut bytes = fs::read(path).unwrap();
    let places: Vec<_> = (0..bytes.len() - from.len()).filter(|at| bytes[*at..].starts_with(from)).collect();
    assert!(!places.is_empty());
    places.into_iter().for_each(|at| bytes[at..at + to.len()].copy_from_slice(to));
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_string_that_is_not_utf_8_is_the_fault_of_its_row() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.parquet");
    let marked = |row: i32, at: i32, mark: &'static str| if row == at { mark } else { "ok" };
    let captions: Vec<_> = (0..1500).map(|row| Some(marked(row, 900, "CAPTION"))).collect();
    let ids: Vec<_> = (0..1500).map(|row| Some(marked(row, 1200, "NUMBER"))).collect();
    let pictures = vec![Some(&b"picture"[..]); 1500];
    write(&path, vec![("jpg", binary(&pictures)), ("text", strings(&captions)), ("id", strings(&ids))], 2000);
    replace(&path, b"CAPTION", b"CAP\xffION");
    replace(&path, b"NUMBER", b"NUM\xffER");
    for modality in [Modalities::Both, Modalities::Image] {
        let table = Table::open(&path, modality, &Columns::default()).unwrap();
        let all = samples(&table);
        let failed: Vec<_> = (0..all.len()).filter(|row| all[*row].reason().is_some()).collect();
        assert_eq!((failed, all.len()), (vec![900, 1200], 1500));
        // A text is no reason to lose a picture.
        assert_eq!((all[900].no_text.as_deref(), &all[900].caption), (Some("the text is not UTF-8"), &None));
        assert_eq!((&all[900].error, all[900].picture.as_deref()), (&None, Some(&b"picture"[..])));
        assert_eq!(all[1200].reason(), Some("the id is not UTF-8"));
        assert_eq!(all[1200].id, format!("{}:1200", path.display()));
        assert_eq!(all[0].caption.as_deref(), Some("ok"), "it stands beside its picture, too");
        for begun in [1, 700, 901, 1201, 1500] {
            assert_eq!(samples_behind(&table, begun), all[begun..], "from {begun}");
        }
    }
}

#[test]
fn a_page_that_cannot_be_read_takes_the_rows_of_its_batch_wherever_the_run_begins() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.parquet");
    let cells: Vec<_> =
        (0..5000).map(|row| if row == 2500 { "cell-MARK".into() } else { format!("cell-{row:04}") }).collect();
    let cells: Vec<_> = cells.iter().map(|cell| Some(cell.as_bytes())).collect();
    write(&path, vec![("image", binary(&cells))], 5000);
    // The length in front of the cell. The smallest and the largest of a page have none.
    replace(&path, b"\x09\0\0\0cell-MARK", b"\xff\xff\xff\xff");
    let table = Table::open(&path, Modalities::Image, &Columns::default()).unwrap();
    let all = samples(&table);
    let failed: Vec<_> = (0..all.len()).filter(|row| all[*row].reason().is_some()).collect();
    assert_eq!((failed.len(), failed[0], failed[failed.len() - 1]), (1024, 2048, 3071));
    assert_eq!(all[3072].picture.as_deref(), Some(&b"cell-3072"[..]));
    for begun in [1, 2047, 2048, 2501, 2700, 3071, 3072, 5000] {
        assert_eq!(samples_behind(&table, begun), all[begun..], "from {begun}");
    }
}

#[test]
fn ids_and_paths_have_a_length() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.parquet");
    let long = "n".repeat(5000);
    write(
        &path,
        vec![("id", strings(&[Some(&long), Some("b")])), ("image", strings(&[Some("a.jpg"), Some(&long)]))],
        9,
    );
    let columns = Columns { image: Some("image".into()), ..Columns::default() };
    let samples = samples(&Table::open(&path, Modalities::Image, &columns).unwrap());
    assert_eq!(samples[0].reason(), Some("the id has 5000 bytes, the limit is 4096"));
    assert_eq!(samples[0].id, format!("{}:0", path.display()));
    assert_eq!(samples[1].reason(), Some("the path has 5000 bytes, the limit is 4096"));
    assert_eq!((&*samples[1].id, &samples[1].path), ("b", &None));
}

#[test]
fn a_table_that_is_replaced_by_another_is_one_row_that_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.parquet");
    let pictures = || binary(&[Some(b"1"), Some(b"2")]);
    write(&path, vec![("id", strings(&[Some("a"), Some("b")])), ("image", pictures())], 9);
    let table = Table::open(&path, Modalities::Image, &Columns::default()).unwrap();
    for columns in [vec![("image", pictures())], vec![("x", strings(&[None, None]))]] {
        write(&path, columns, 9);
        let samples = samples(&table);
        assert_eq!(samples.len(), 1);
        assert!(samples[0].reason().is_some_and(|error| error.contains("column")), "{samples:?}");
    }
}
