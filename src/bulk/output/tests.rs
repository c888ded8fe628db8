//! Every format read back by another reader, with the rows that have no embedding.

use arrow_array::{Array as _, FixedSizeListArray, RecordBatch, cast::AsArray as _, types::Float32Type};
use arrow_schema::DataType;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::*;
use crate::bulk::{options::Dtype, sample::Chain};

fn row(number: usize, embedding: Option<Vec<f32>>) -> Row {
    Row {
        id: format!("id {number}"),
        // A cell of a table has none.
        path: (number != 5).then(|| format!("{number}.jpg")),
        caption: number.is_multiple_of(2).then(|| "a caption".to_owned()),
        metadata: None,
        error: embedding.is_none().then(|| "it is broken".to_owned()),
        text: embedding.as_ref().map(|embedding| embedding.iter().map(|value| -value).collect()),
        image: embedding,
        faulty: false,
        chain: Chain::EMPTY,
        timings: Default::default(),
        glimpse: None,
    }
}

/// More rows than are written at once; the second has no embedding.
fn rows() -> Vec<Row> {
    let embedding = |number: usize| (number != 1).then(|| vec![0.6, 0.8, number as f32 / 1000.0, -0.25]);
    (0..BATCH + 3).map(|number| row(number, embedding(number))).collect()
}

fn write(root: &Path, format: Format, modality: Modalities, dtype: Dtype) -> Vec<PathBuf> {
    let values = Values { dtype, scale: 100.0, dim: 4 };
    let output = Output::new(root, format, modality, values, &[("clipserve.model".to_owned(), "tiny".to_owned())]);
    let mut part = output.begin(7).unwrap();
    rows().into_iter().for_each(|row| part.push(row).unwrap());
    let files = part.finish().unwrap();
    files.iter().for_each(|file| file.publish().unwrap());
    files.iter().map(|file| file.path().to_owned()).collect()
}

fn read(path: &Path) -> (Vec<RecordBatch>, parquet::file::metadata::ParquetMetaData) {
    let builder = ParquetRecordBatchReaderBuilder::try_new(File::open(path).unwrap()).unwrap();
    let metadata = builder.metadata().as_ref().clone();
    (builder.with_batch_size(10_000).build().unwrap().map(Result::unwrap).collect(), metadata)
}

fn list(batch: &RecordBatch, name: &str) -> FixedSizeListArray {
    batch.column_by_name(name).unwrap().as_fixed_size_list().clone()
}

#[test]
fn parquet_has_fixed_size_lists_whose_element_is_called_so_and_nulls_for_failures() {
    let root = tempfile::tempdir().unwrap();
    let [path] = &write(root.path(), Format::Parquet, Modalities::Both, Dtype::F32)[..] else { panic!("one file") };
    assert_eq!(path, &root.path().join("embeddings/part-00007.parquet"));
    let (batches, metadata) = read(path);
    let [batch] = &batches[..] else { panic!("{} batches", batches.len()) };
    let names: Vec<_> = batch.schema().fields().iter().map(|field| field.name().clone()).collect();
    assert_eq!(names, ["id", "embedding", "text_embedding", "caption", "path", "metadata", "error"]);
    let DataType::FixedSizeList(element, 4) = batch.schema().field(1).data_type().clone() else { panic!("no list") };
    assert_eq!((element.name().as_str(), element.data_type()), ("element", &DataType::Float32));
    let (images, texts) = (list(batch, "embedding"), list(batch, "text_embedding"));
    for (number, row) in rows().iter().enumerate() {
        assert_eq!(images.is_null(number), row.image.is_none(), "{number}");
        if let Some(embedding) = &row.image {
            let read = images.value(number);
            assert_eq!(&read.as_primitive::<Float32Type>().values()[..], &embedding[..]);
            assert_eq!(texts.value(number).as_primitive::<Float32Type>().value(0), -0.6);
        }
    }
    let text = |name: &str, at| batch.column_by_name(name).unwrap().as_string::<i32>().value(at).to_owned();
    assert_eq!(
        (text("id", 1), text("error", 1), text("path", 1)),
        ("id 1".into(), "it is broken".into(), "1.jpg".into())
    );
    let column = metadata.row_group(0).column(1);
    assert_eq!(column.column_path().string(), "embedding.list.element");
    assert!(column.encodings().any(|encoding| encoding == parquet::basic::Encoding::BYTE_STREAM_SPLIT));
    let notes = metadata.file_metadata().key_value_metadata().unwrap();
    assert!(notes.iter().any(|note| note.key == "clipserve.model" && note.value.as_deref() == Some("tiny")));
}

#[test]
fn the_other_types_are_as_they_are_called_and_int8_has_a_dictionary() {
    let root = tempfile::tempdir().unwrap();
    for (dtype, expected) in [(Dtype::F16, DataType::Float16), (Dtype::Int8, DataType::Int8)] {
        let path = write(root.path(), Format::Parquet, Modalities::Text, dtype).remove(0);
        let (batches, metadata) = read(&path);
        let embeddings = list(&batches[0], "embedding");
        assert_eq!(embeddings.value_type(), expected);
        assert!(embeddings.is_null(1));
        let column = metadata.row_group(0).column(1);
        assert_eq!(column.dictionary_page_offset().is_some(), dtype == Dtype::Int8);
        // DuckDB 2.0.0 reads it of 32 and 64 bits alone.
        assert!(!column.encodings().any(|encoding| encoding == parquet::basic::Encoding::BYTE_STREAM_SPLIT));
        if dtype == Dtype::Int8 {
            let value = embeddings.value(0);
            assert_eq!(&value.as_primitive::<arrow_array::types::Int8Type>().values()[..], &[-60, -80, 0, 25]);
        }
    }
}

#[test]
fn numpy_and_metadata_have_the_same_rows_and_none_of_those_that_failed() {
    use ndarray_npy::ReadNpyExt as _;

    let root = tempfile::tempdir().unwrap();
    let files = write(root.path(), Format::Npy, Modalities::Both, Dtype::F32);
    let names: Vec<_> = files.iter().map(|file| file.strip_prefix(root.path()).unwrap().to_str().unwrap()).collect();
    assert_eq!(names, ["img_emb/img_emb_00007.npy", "text_emb/text_emb_00007.npy", "metadata/metadata_00007.parquet"]);
    let array = |at: usize| ndarray::Array2::<f32>::read_npy(File::open(&files[at]).unwrap()).unwrap();
    let (images, texts) = (array(0), array(1));
    assert_eq!((images.dim(), texts.dim()), ((BATCH + 2, 4), (BATCH + 2, 4)));
    assert_eq!((images[[1, 2]], texts[[0, 0]]), (0.002, -0.6));
    let rows: usize = read(&files[2]).0.iter().map(RecordBatch::num_rows).sum();
    let batch = &read(&files[2]).0[0];
    let column = |name: &str| batch.column_by_name(name).unwrap().as_string::<i32>().clone();
    assert_eq!((rows, column("key").value(1), column("image_path").value(1)), (BATCH + 2, "id 2", "2.jpg"));
    assert_eq!((column("key").value(4), column("image_path").value(4)), ("id 5", "id 5"));
    let texts = write(root.path(), Format::Npy, Modalities::Text, Dtype::F16);
    assert!(read(&texts[1]).0[0].column_by_name("image_path").is_none());
}

#[test]
fn a_part_in_which_all_failed_has_no_arrays() {
    let root = tempfile::tempdir().unwrap();
    let values = Values { dtype: Dtype::F32, scale: 100.0, dim: 4 };
    let output = Output::new(root.path(), Format::Npy, Modalities::Image, values, &[]);
    let mut part = output.begin(0).unwrap();
    part.push(row(1, None)).unwrap();
    assert!(part.finish().unwrap().is_empty());
    let files = fs::read_dir(root.path().join("img_emb")).unwrap().count();
    assert_eq!(files, 0);
}

#[test]
fn json_lines_have_null_in_place_of_an_embedding() {
    let root = tempfile::tempdir().unwrap();
    let path = write(root.path(), Format::Jsonl, Modalities::Image, Dtype::F32).remove(0);
    let text = fs::read_to_string(path).unwrap();
    let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), BATCH + 3);
    assert_eq!((&lines[1]["embedding"], &lines[1]["error"]), (&serde_json::Value::Null, &"it is broken".into()));
    let values: Vec<f32> = serde_json::from_value(lines[2]["embedding"].clone()).unwrap();
    assert_eq!(values, rows()[2].image.clone().unwrap());
}

#[test]
fn the_same_rows_are_the_same_bytes() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for format in [Format::Parquet, Format::Npy, Format::Jsonl] {
        let files = |root: &Path| {
            let files = write(root, format, Modalities::Both, Dtype::F16);
            files.iter().map(|file| fs::read(file).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(files(one.path()), files(other.path()), "{format:?}");
    }
}

#[test]
fn long_texts_do_not_wait_for_a_whole_batch_of_rows() {
    let root = tempfile::tempdir().unwrap();
    let values = Values { dtype: Dtype::F32, scale: 100.0, dim: 4 };
    for format in [Format::Parquet, Format::Npy, Format::Jsonl] {
        let output = Output::new(root.path(), format, Modalities::Image, values, &[]);
        let mut part = output.begin(0).unwrap();
        for number in 0..20 {
            let mut row = row(number, Some(vec![0.6, 0.8, 0.0, 0.0]));
            row.metadata = Some("x".repeat(BATCH_BYTES / 4));
            part.push(row).unwrap();
            assert!(part.rows.len() < 4, "{format:?}: {} wait", part.rows.len());
        }
    }
}

#[test]
fn what_is_there_under_a_hidden_name_is_replaced_and_never_written_through() {
    let root = tempfile::tempdir().unwrap();
    let at = |name: &str| root.path().join(name);
    fs::create_dir(at("embeddings")).unwrap();
    for name in ["linked", "named"] {
        fs::write(at(name), "somebody's").unwrap();
    }
    std::os::unix::fs::symlink(at("linked"), at("embeddings/.part-00007.parquet.partial")).unwrap();
    fs::hard_link(at("named"), at("embeddings/.part-00007.jsonl.partial")).unwrap();
    for (format, suffix) in [(Format::Parquet, "parquet"), (Format::Jsonl, "jsonl")] {
        let path = write(root.path(), format, Modalities::Image, Dtype::F32).remove(0);
        assert!(fs::symlink_metadata(&path).unwrap().is_file());
        assert!(!at(&format!("embeddings/.part-00007.{suffix}.partial")).exists());
    }
    for name in ["linked", "named"] {
        assert_eq!(fs::read(at(name)).unwrap(), b"somebody's", "{name}");
    }
}

#[test]
fn parts_that_nobody_knows_are_forgotten_and_nothing_else() {
    let root = tempfile::tempdir().unwrap();
    let names = |root: &Path| {
        let all =
            walkdir::WalkDir::new(root).into_iter().map(Result::unwrap).filter(|entry| entry.file_type().is_file());
        let mut all: Vec<_> = all.map(|entry| entry.file_name().to_str().unwrap().to_owned()).collect();
        all.sort();
        all
    };
    for (format, kept) in [
        (Format::Parquet, &["mine.parquet", "part-00007.parquet", "part-1.parquet", "part-00008x.parquet"][..]),
        (Format::Npy, &["img_emb_00007.npy", "img_emb_8.npy"]),
    ] {
        let root = root.path().join(kept[0]);
        write(&root, format, Modalities::Image, Dtype::F32);
        let folder = root.join(if format == Format::Npy { "img_emb" } else { "embeddings" });
        kept.iter().for_each(|name| drop(fs::OpenOptions::new().append(true).create(true).open(folder.join(name))));
        let mut before = names(&root);
        let (ghost, partial) = match format {
            Format::Npy => ("img_emb_00008.npy", ".img_emb_00009.npy.partial"),
            _ => ("part-00008.parquet", ".part-00009.parquet.partial"),
        };
        [ghost, partial].iter().for_each(|name| fs::write(folder.join(name), "").unwrap());
        let values = Values { dtype: Dtype::F32, scale: 100.0, dim: 4 };
        let output = Output::new(&root, format, Modalities::Image, values, &[]);
        output.forget(8).unwrap();
        before.sort();
        assert_eq!(names(&root), before, "{format:?}");
        output.forget(0).unwrap();
        assert!(!names(&root).iter().any(|name| name.contains("00007")), "{format:?}");
    }
    let values = Values { dtype: Dtype::F32, scale: 100.0, dim: 4 };
    Output::new(&root.path().join("absent"), Format::Npy, Modalities::Image, values, &[]).forget(0).unwrap();
}

#[test]
fn long_texts_do_not_wait_for_a_whole_row_group() {
    let root = tempfile::tempdir().unwrap();
    let values = Values { dtype: Dtype::F32, scale: 100.0, dim: 4 };
    let output = Output::new(root.path(), Format::Parquet, Modalities::Image, values, &[]);
    let mut part = output.begin(0).unwrap();
    let mut random = fastrand::Rng::with_seed(1);
    // Of which nothing can be packed away but one bit of eight.
    let text: String = (0..4 << 20).map(|_| char::from(random.u8(..128))).collect();
    for number in 0..24 {
        let mut row = row(number, Some(vec![0.6, 0.8, 0.0, 0.0]));
        row.metadata = Some(format!("{number}{text}"));
        part.push(row).unwrap();
        let Form::Parquet(table) = &part.form else { panic!("another format") };
        assert!(table.waiting() < 90 << 20, "{} bytes wait", table.waiting());
    }
    part.finish().unwrap().iter().for_each(|file| file.publish().unwrap());
    let (_, metadata) = read(&root.path().join("embeddings/part-00000.parquet"));
    assert_eq!(metadata.num_row_groups(), 2);
}
