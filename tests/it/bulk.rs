//! `clipserve embed` by the real binary: what it writes is read back by other readers, and is what the embedder gives; killed, refused
//! and sharded runs.
//!
//! Owns what only a whole run can show; sources, formats and the journal have their tests beside their code.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{BufRead as _, BufReader, Read as _, Write as _},
    iter,
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use arrow_array::{
    Array as _, ArrayRef, BinaryArray, RecordBatch, StringArray, cast::AsArray as _, types::Float32Type,
};
use clipserve::{
    embedder::{self, Terms},
    health::Health,
    telemetry::Metrics,
};
use ndarray::Array2;
use ndarray_npy::ReadNpyExt as _;
use parquet::arrow::{ArrowWriter, arrow_reader::ParquetRecordBatchReaderBuilder};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::support::{configuration, fixture, pause, picture};

/// `embed` with the fixture model and `args`, none of our variables set.
fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_clipserve"));
    command.env_clear().arg("embed").args(args).args([
        "--provider",
        "cpu",
        "--set",
        "telemetry.log_level=warn",
        "--model",
    ]);
    command.arg(fixture("tiny-clip"));
    command
}

fn run(args: &[&str], code: i32) -> (String, String) {
    finished(command(args).output().unwrap(), code)
}

fn finished(output: Output, code: i32) -> (String, String) {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let (stdout, stderr) = (text(output.stdout), text(output.stderr));
    assert_eq!(output.status.code(), Some(code), "{stdout}{stderr}");
    (stdout, stderr)
}

/// One row of Parquet.
#[derive(Debug, PartialEq)]
struct Row {
    id: String,
    embedding: Option<Vec<f32>>,
    caption: Option<String>,
    error: Option<String>,
}

fn rows_of(path: &Path) -> Vec<Row> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(path).unwrap()).unwrap().build().unwrap();
    let mut rows = Vec::new();
    for batch in reader {
        let batch = batch.unwrap();
        let text = |name: &str, at: usize| {
            let column = batch.column_by_name(name).unwrap().as_string::<i32>();
            column.is_valid(at).then(|| column.value(at).to_owned())
        };
        let embeddings = batch.column_by_name("embedding").unwrap().as_fixed_size_list();
        let embedding = |at: usize| embeddings.value(at).as_primitive::<Float32Type>().values().to_vec();
        rows.extend((0..batch.num_rows()).map(|at| Row {
            id: text("id", at).unwrap(),
            embedding: embeddings.is_valid(at).then(|| embedding(at)),
            caption: text("caption", at),
            error: text("error", at),
        }));
    }
    rows
}

/// All rows of the parts in `out`, in the order of their names.
fn rows(out: &Path) -> Vec<Row> {
    let entries = fs::read_dir(out.join("embeddings")).unwrap().map(|entry| entry.unwrap().path());
    // Not what a run that ended early has left, whose name begins with a dot.
    let mut parts: Vec<_> = entries.filter(|path| path.extension().is_some_and(|suffix| suffix == "parquet")).collect();
    parts.sort();
    parts.iter().flat_map(|part| rows_of(part)).collect()
}

/// Every file below `out` but its lock, with its bytes.
fn files(out: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    for entry in walkdir::WalkDir::new(out) {
        let entry = entry.unwrap();
        if entry.file_type().is_file() && entry.file_name() != ".lock" {
            all.insert(entry.path().strip_prefix(out).unwrap().to_owned(), fs::read(entry.path()).unwrap());
        }
    }
    all
}

#[test]
fn only_the_encoder_that_is_needed_is_opened_and_the_model_is_still_the_same() {
    let root = tempfile::tempdir().unwrap();
    let at = |name: &str| root.path().join(name).to_str().unwrap().to_owned();
    fs::create_dir(at("pictures")).unwrap();
    fs::write(at("pictures/a.bmp"), picture("cat.bmp")).unwrap();
    fs::write(at("texts.txt"), "a cat\n").unwrap();
    for (source, other) in [("pictures", "text"), ("texts.txt", "vision")] {
        // Of the other encoder all is there but a graph that can be opened.
        let model = at(&format!("model-{other}"));
        for file in files(&fixture("tiny-clip")).into_keys() {
            let copy = Path::new(&model).join(&file);
            fs::create_dir_all(copy.parent().unwrap()).unwrap();
            fs::copy(fixture("tiny-clip").join(&file), copy).unwrap();
        }
        fs::write(Path::new(&model).join(format!("onnx/{other}_model.onnx")), "no graph").unwrap();
        let embed = |source: &str, code: i32| {
            let out = at(&format!("out-{other}-{code}"));
            let args = ["embed", source, "--out", &out, "--provider", "cpu", "--model", &model];
            let command = Command::new(env!("CARGO_BIN_EXE_clipserve")).env_clear().args(args).output().unwrap();
            (finished(command, code), PathBuf::from(out))
        };
        let (_, out) = embed(&at(source), 0);
        let rows = rows(&out);
        assert!(rows.len() == 1 && rows[0].embedding.is_some(), "{rows:?}");
        let ((_, error), _) = embed(&at(if other == "text" { "texts.txt" } else { "pictures" }), 1);
        assert!(error.contains(&format!("{other}_model.onnx")), "{error}");
    }
    // Pictures, texts and both say the same fingerprint of one model.
    let fingerprint = |source: &[&str]| {
        let out = at(&format!("out-{}", source.len())) + source[0].rsplit('/').next().unwrap();
        run(&[source, &["--out", &out]].concat(), 0);
        let run: Value = serde_json::from_slice(&fs::read(Path::new(&out).join("run.json")).unwrap()).unwrap();
        run["fingerprint"].as_str().unwrap().to_owned()
    };
    let (pictures, texts) = (at("pictures"), at("texts.txt"));
    let of_pictures = fingerprint(&[&pictures]);
    assert_eq!(fingerprint(&[&texts]), of_pictures);
    let pair = at("pair.jsonl");
    fs::write(&pair, format!("{{\"image\": \"{pictures}/a.bmp\", \"text\": \"a cat\"}}\n")).unwrap();
    assert_eq!(fingerprint(&[&pair]), of_pictures);
}

/// What the server's own facade gives for `pictures`, of length 1.
fn expected(pictures: &[&str]) -> Array2<f32> {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let config = configuration(&[]);
    let embedder =
        embedder::start(&config, Arc::new(Metrics::new()), &Health::new(config.engine.stall_timeout)).unwrap();
    let pictures = pictures.iter().map(|name| picture(name).into()).collect();
    let terms = Terms::patient(Instant::now() + Duration::from_secs(60));
    let embedded = runtime.block_on(embedder.embed_images(pictures, terms)).unwrap();
    embedder.shut_down();
    embedded.finish(None, true)
}

fn add(folder: &Path, name: &str, bytes: &[u8]) {
    let path = folder.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

const PICTURES: [&str; 4] = ["cat.bmp", "cat_420.jpg", "logo_rgba.png", "rocket.jpg"];

/// A folder of four pictures, a broken one, and a text beside one of them.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    PICTURES.iter().for_each(|name| add(folder.path(), &format!("in/{name}"), &picture(name)));
    add(folder.path(), "in/broken.jpg", &picture("rocket.jpg")[..3000]);
    add(folder.path(), "in/rocket.txt", b"a rocket\n");
    folder
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn a_folder_becomes_parquet_with_the_embedders_own_numbers_and_a_null_for_what_is_broken() {
    let folder = folder();
    let (source, out) = (folder.path().join("in"), folder.path().join("out"));
    let (stdout, stderr) = run(&[text(&source), "--out", text(&out)], 2);
    assert!(stdout.contains("5 pictures in 1 part, 1 of them without an embedding"), "{stdout}");
    assert!(stdout.contains(&format!("{}/errors.jsonl says why", out.display())), "{stdout}");
    assert!(stderr.contains(" of 5 items, ") && stderr.contains("encoder "), "{stderr}");
    let rows = rows(&out);
    let names: Vec<_> = rows.iter().map(|row| row.id.rsplit('/').next().unwrap()).collect();
    assert_eq!(names, ["broken.jpg", "cat.bmp", "cat_420.jpg", "logo_rgba.png", "rocket.jpg"]);
    assert_eq!(rows[0].embedding, None);
    let reason = rows[0].error.clone().unwrap();
    assert!(reason.contains("JPEG"), "{reason}");
    let expected = expected(&PICTURES);
    for (row, expected) in rows[1..].iter().zip(expected.rows()) {
        assert_eq!(row.embedding.as_deref(), expected.as_slice(), "{}", row.id);
        assert_eq!(row.error, None);
    }
    assert_eq!((rows[4].caption.as_deref(), &rows[1].caption), (Some("a rocket"), &None));
    let errors = fs::read_to_string(out.join("errors.jsonl")).unwrap();
    let error: Value = serde_json::from_str(errors.trim_end()).unwrap();
    assert_eq!((&error["row"], &error["error"], &error["id"]), (&0.into(), &reason.into(), &rows[0].id.clone().into()));
    // What is complete is not made again.
    let (before, (stdout, _)) = (files(&out), run(&[text(&source), "--out", text(&out)], 2));
    assert!(stdout.contains("5 of them were there before"), "{stdout}");
    assert_eq!(files(&out), before);
}

#[test]
fn each_cpu_has_a_run_of_its_own_unless_threads_are_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    for number in 0..40 {
        add(folder.path(), &format!("in/{number:02}.bmp"), &picture(PICTURES[number % PICTURES.len()]));
    }
    let mut all = Vec::new();
    for (name, set, threads) in
        [("automatic", "engine.vision.sessions=auto", 1), ("asked", "engine.intra_threads=3", 3)]
    {
        let out = folder.path().join(name);
        let mut command = command(&[text(&folder.path().join("in")), "--out", text(&out), "--set", set]);
        let (_, log) = finished(command.args(["--set", "telemetry.log_level=info"]).output().unwrap(), 0);
        let started = log.lines().find(|line| line.contains("the engine started")).unwrap();
        assert!(started.contains(&format!("intra_threads={threads}")), "{started}");
        all.push(rows(&out));
    }
    assert_eq!(all[0], all[1], "and the bits are the same");
}

#[test]
fn what_exif_data_say_of_a_picture_counts() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["cat_exif_1.jpg", "cat_exif_6.jpg"] {
        add(folder.path(), &format!("in/{name}"), &picture(name));
    }
    let (source, out) = (folder.path().join("in"), folder.path().join("out"));
    let embedding = |out: &Path, more: &[&str]| -> Vec<Vec<f32>> {
        run(&[&[text(&source), "--out", text(out)], more].concat(), 0);
        rows(out).into_iter().map(|row| row.embedding.unwrap()).collect()
    };
    // The same pixels but for what the EXIF data say of them; how each looks turned, the goldens of the service hold.
    let [upright, turned] = &embedding(&out, &[])[..] else { panic!("two pictures") };
    assert_ne!(upright, turned);
    let stored = embedding(&folder.path().join("stored"), &["--set", "preprocess.exif_orientation=false"]);
    assert_eq!([upright, upright], [&stored[0], &stored[1]]);
}

#[test]
fn pictures_that_are_not_decoded_and_addresses_are_rows_that_say_so() {
    let folder = tempfile::tempdir().unwrap();
    add(folder.path(), "in/IMG_1.JP2", b"\0\0\0\x0cjP  \r\n\x87\n");
    let out = |name: &str| folder.path().join(name);
    run(&[text(&out("in")), "--out", text(&out("a"))], 2);
    add(folder.path(), "list", b"https://h/a.jpg\n");
    run(&["--from-file", text(&out("list")), "--out", text(&out("b"))], 2);
    for (name, expected) in [("a", "JPEG 2000"), ("b", "a web address")] {
        let rows = rows(&out(name));
        let error = rows[0].error.as_deref().unwrap();
        assert!(rows.len() == 1 && rows[0].embedding.is_none() && error.contains(expected), "{error}");
    }
}

#[test]
fn a_run_that_has_come_to_its_end_is_the_same_when_it_is_started_again_or_refused() {
    let folder = folder();
    let (source, out) = (folder.path().join("in"), folder.path().join("out"));
    for (format, part) in [("parquet", "embeddings/part-00001.parquet"), ("npy", "img_emb/img_emb_1.npy")] {
        let out = out.join(format);
        let args = [text(&source), "--out", text(&out), "--format", format, "--part-rows", "2"];
        let again = |change: &dyn Fn(), back: &dyn Fn(), expected: &str| {
            let before = files(&out);
            change();
            let (stdout, stderr) = run(&args, 1);
            assert!(stdout.is_empty() && stderr.contains(expected), "{format}: {stderr}");
            back();
            assert_eq!(files(&out), before, "{format}: {expected}");
        };
        run(&args, 2);
        let cat = source.join("cat.bmp");
        let more = source.join("z.png");
        again(
            &|| {
                fs::copy(&cat, &more).unwrap();
            },
            &|| fs::remove_file(&more).unwrap(),
            "the sources have changed: they have more than the 5 samples",
        );
        again(
            &|| fs::rename(&cat, &more).unwrap(),
            &|| fs::rename(&more, &cat).unwrap(),
            "the sources have changed: their first 5 samples",
        );
        let aside = folder.path().join("aside");
        again(
            &|| fs::rename(&cat, &aside).unwrap(),
            &|| fs::rename(&aside, &cat).unwrap(),
            "the sources have changed: they have 4 samples, and the complete parts 5",
        );
        again(
            &|| fs::rename(out.join(part), &aside).unwrap(),
            &|| fs::rename(&aside, out.join(part)).unwrap(),
            part.rsplit('/').next().unwrap(),
        );
        let (stdout, _) = run(&args, 2);
        assert!(stdout.contains("5 of them were there before"), "{stdout}");
    }
}

#[test]
fn other_limits_are_another_run() {
    let folder = folder();
    let (source, out) = (folder.path().join("in"), folder.path().join("out"));
    let args = [text(&source), "--out", text(&out)];
    run(&args, 2);
    for (limit, expected) in [
        ("limits.max_pixels=1000", "made with limits.max_pixels 50000000, and this run has 1000"),
        ("limits.max_body_bytes=20KiB", "made with limits.max_body_bytes 33554432, and this run has 20480"),
        ("limits.max_text_bytes=1KiB", "made with limits.max_text_bytes 16384, and this run has 1024"),
    ] {
        let (_, stderr) = run(&[&args[..], &["--set", limit]].concat(), 64);
        assert!(stderr.contains(expected), "{stderr}");
    }
    // What says only how much is done at a time is none of it.
    run(&[&args[..], &["--set", "limits.max_inflight_body_bytes=64MiB", "--set", "preprocess.threads=1"]].concat(), 2);
}

#[test]
fn a_report_shows_what_was_slow_and_what_failed_and_goes_on_with_the_run() {
    let folder = folder();
    let (source, out, report) = (folder.path().join("in"), folder.path().join("out"), folder.path().join("r.html"));
    add(&source, "a.jpg", b"%PDF-1.7 is no picture");
    let args = [text(&source), "--out", text(&out), "--part-rows", "3", "--report", text(&report)];
    let (_, stderr) = run(&[&args[..], &["--max-errors", "1"]].concat(), 1);
    assert!(stderr.contains("--max-errors is 1") && !stderr.contains("ERROR"), "{stderr}");
    let page = fs::read_to_string(&report).unwrap();
    assert!(page.contains("The run ended early: <bdi>2 items could not be embedded"), "{page}");
    assert!(page.contains("<b>0</b> items"), "no part is complete: {page}");
    run(&args, 2);
    let page = fs::read_to_string(&report).unwrap();
    assert!(page.contains("<b>6</b> items") && page.contains("<b>2</b> without"), "{page}");
    assert!(
        page.contains("<div class=\"none\">PDF</div>") && page.contains("<div class=\"none\">JPEG</div>"),
        "{page}"
    );
    assert_eq!(page.matches("<img src=\"data:image/jpeg;base64,").count(), PICTURES.len(), "{page}");
    assert!(page.contains("<svg") && page.contains("Errors by kind") && !page.contains("<script"), "{page}");
    let (_, stderr) = run(&args, 2);
    assert!(stderr.contains("r.html: nothing was made, and the page that is there stays"), "{stderr}");
    assert_eq!(fs::read_to_string(&report).unwrap(), page);
    fs::remove_file(&report).unwrap();
    run(&args, 2);
    let page = fs::read_to_string(&report).unwrap();
    assert!(page.contains("<b>6</b> items") && page.contains("This run found all complete"), "{page}");
    assert!(page.contains("PDF is not a supported image format") && !page.contains("<img"), "{page}");
    add(folder.path(), "mine.html", b"<p>mine");
    for (name, expected) in [
        ("absent/r.html", "there is no folder"),
        ("in/cat.bmp", "it is a source"),
        ("mine.html", "no earlier report"),
        ("out/errors.jsonl", "it lies in --out"),
    ] {
        let before = fs::read(folder.path().join(name)).ok();
        let (_, stderr) = run(&[&args[..5], &["--report", text(&folder.path().join(name))]].concat(), 64);
        assert!(stderr.contains("--report ") && stderr.contains(expected), "{stderr}");
        assert_eq!(fs::read(folder.path().join(name)).ok(), before, "{name}");
    }
}

/// Leaves of `parts.jsonl` so many lines, as a run does that is killed in front of the next one.
fn forget_parts(out: &Path, lines: usize) {
    let journal = out.join("parts.jsonl");
    let text = fs::read_to_string(&journal).unwrap();
    fs::write(&journal, text.split_inclusive('\n').take(lines).collect::<String>()).unwrap();
}

#[test]
fn a_run_that_goes_on_reads_none_of_what_it_wrote_below_its_sources() {
    let folder = folder();
    let source = folder.path().join("in");
    fs::remove_file(source.join("rocket.txt")).unwrap();
    for pattern in ["in", "in/**/*", "in/*"] {
        let (out, pattern) = (source.join("out"), folder.path().join(pattern));
        let given = source.join("../in/out");
        let args = [text(&pattern), "--out", text(&given), "--part-rows", "2"];
        run(&args, 2);
        let whole = files(&out);
        forget_parts(&out, 1);
        let (stdout, _) = run(&args, 2);
        assert!(stdout.contains("5 pictures in 3 parts") && stdout.contains("2 of them were there before"), "{stdout}");
        assert_eq!(files(&out), whole, "{pattern:?}");
        let part = out.join("embeddings/part-00000.parquet");
        let (_, stderr) = run(&[text(&part), "--out", text(&out)], 64);
        assert!(stderr.contains("a run does not read what it writes"), "{stderr}");
        fs::remove_dir_all(out).unwrap();
    }
}

#[test]
fn a_part_that_got_its_name_and_not_its_line_does_not_outlive_its_sources() {
    let folder = folder();
    let (list_of, out) = (folder.path().join("list"), folder.path().join("out"));
    let lines = list(folder.path());
    let args = ["--from-file", text(&list_of), "--out", text(&out), "--part-rows", "3"];
    fs::write(&list_of, lines[..6].concat()).unwrap();
    run(&args, 2);
    forget_parts(&out, 1);
    assert!(out.join("embeddings/part-00001.parquet").exists());
    fs::write(&list_of, lines[..3].concat()).unwrap();
    run(&args, 2);
    assert_eq!(rows(&out).len(), 3);
    assert!(!out.join("embeddings/part-00001.parquet").exists());
}

#[test]
fn no_name_steers_the_terminal_that_shows_a_line() {
    let folder = tempfile::tempdir().unwrap();
    let (source, out) = (folder.path().join("in"), folder.path().join("out"));
    let name = "a\u{85}\u{9b}31m\u{202e}\u{2028}\u{7f}.jpg";
    add(&source, name, b"no picture");
    run(&[text(&source), "--out", text(&out), "--format", "jsonl"], 2);
    for file in ["errors.jsonl", "embeddings/part-00000.jsonl"] {
        let lines = fs::read_to_string(out.join(file)).unwrap();
        assert!(!lines.contains(['\u{85}', '\u{9b}', '\u{202e}', '\u{2028}', '\u{7f}']), "{lines:?}");
        let line: Value = serde_json::from_str(lines.trim_end()).unwrap();
        assert!(line["id"].as_str().unwrap().ends_with(name), "{line}");
    }
}

/// The most memory that a process has had.
#[cfg(target_os = "linux")]
fn peak(child: &Child) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    peak.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_line_of_json_takes_about_its_own_length_whatever_is_in_it() {
    let folder = folder();
    let (out, cat) = (folder.path().join("out"), folder.path().join("in/cat.bmp"));
    let line = |more: &str| format!("{{\"image\": \"{}\", \"more\": [{more}]}}\n", cat.display());
    add(folder.path(), "small.jsonl", line("[]").as_bytes());
    // Small values in great number are what takes most when it is made into something.
    let length = 30 << 20;
    add(folder.path(), "large.jsonl", line(&format!("{}[]", "[],".repeat(length / 3))).as_bytes());
    let args = ["--from-file", "-", "--out", text(&out), "--part-rows", "1", "--format", "jsonl"];
    let mut child = command(&args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut peaks = Vec::new();
    for (name, parts) in [("small.jsonl", 1), ("large.jsonl", 2)] {
        feed(&mut child, &[format!("{}\n", folder.path().join(name).display())]);
        while fs::read_to_string(out.join("parts.jsonl")).unwrap_or_default().lines().count() < parts {
            assert_eq!(child.try_wait().unwrap(), None, "it waits for lines");
            pause().await;
        }
        peaks.push(peak(&child));
    }
    let (stdout, _) = finished(child.wait_with_output().unwrap(), 0);
    assert!(stdout.contains("2 pictures"), "{stdout}");
    let taken = peaks[1] - peaks[0];
    assert!(taken < 4 * length as u64, "a line of {length} bytes took {taken}");
}

/// As `datasets` writes them: a row group has the pictures of 1,000 rows or more, some hundred megabytes.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_row_group_of_parquet_takes_what_a_few_of_its_rows_do() {
    const ROWS: usize = 400;
    let folder = folder();
    let out = folder.path().join("out");
    let write = |name: &str, length: usize| {
        // No two alike, and nothing that a decoder would work on.
        let rows: Vec<Vec<u8>> = (0..ROWS).map(|row| format!("{row:08}").repeat(length / 8).into_bytes()).collect();
        let column: ArrayRef = Arc::new(BinaryArray::from_iter_values(rows));
        let batch = RecordBatch::try_from_iter([("image", column)]).unwrap();
        let mut writer =
            ArrowWriter::try_new(File::create(folder.path().join(name)).unwrap(), batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        let written = writer.close().unwrap();
        assert_eq!(written.num_row_groups(), 1);
        written.row_group(0).total_byte_size()
    };
    write("small.parquet", 8);
    let group = write("large.parquet", 256 << 10);
    assert!(group > 100_000_000, "{group}");
    let args = ["--from-file", "-", "--out", text(&out), "--part-rows", &ROWS.to_string(), "--format", "jsonl"];
    let mut child = command(&args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut peaks = Vec::new();
    for (name, parts) in [("small.parquet", 1), ("large.parquet", 2)] {
        feed(&mut child, &[format!("{}\n", folder.path().join(name).display())]);
        while fs::read_to_string(out.join("parts.jsonl")).unwrap_or_default().lines().count() < parts {
            assert_eq!(child.try_wait().unwrap(), None, "it waits for lines");
            pause().await;
        }
        peaks.push(peak(&child));
    }
    let (stdout, _) = finished(child.wait_with_output().unwrap(), 2);
    assert!(stdout.contains("800 pictures in 2 parts, 800 of them without an embedding"), "{stdout}");
    let taken = peaks[1] - peaks[0];
    assert!(taken < 48 << 20, "a row group of {group} bytes took {taken}");
}

/// A terminal is made by `script` of util-linux, which shows what is written to it.
#[cfg(target_os = "linux")]
#[test]
fn on_a_terminal_a_bar_says_how_far_it_is_and_elsewhere_lines_do() {
    let folder = folder();
    let source = folder.path().join("in");
    let out = |name: &str| folder.path().join(name);
    let (_, lines) = run(&[text(&source), "--out", text(&out("piped"))], 2);
    assert!(lines.contains("2 of 5 items, "), "the first of five is broken: {lines}");
    assert!(!lines.contains('\r') && !lines.contains("encoder 0 %"), "{lines}");
    let inner = command(&[text(&source), "--out", text(&out("shown"))]);
    let words: Vec<String> = iter::once(inner.get_program())
        .chain(inner.get_args())
        .map(|word| format!("'{}'", word.to_str().unwrap()))
        .collect();
    let mut terminal = Command::new("script");
    terminal.args(["--quiet", "--return", "--command", &words.join(" "), "/dev/null"]).stdin(Stdio::null());
    let (shown, _) = finished(terminal.env("TERM", "xterm").output().unwrap(), 2);
    let bar = shown.split(['\r', '\n']).filter(|line| line.contains("] ") && line.contains(" of 5 items, "));
    let bar: Vec<&str> = bar.collect();
    let last = bar.last().unwrap_or_else(|| panic!("no bar in {shown:?}"));
    assert!(last.contains("/s, decode ") && last.contains("encoder "), "{last:?}");
    assert!(shown.contains("5 pictures in 1 part, 1 of them without an embedding"), "{shown:?}");
    assert!(!shown.contains("\n2 of 5 items, "), "a bar, and no lines: {shown:?}");
}

/// Twelve paths of pictures, some of which are broken or absent, one a line.
fn list(folder: &Path) -> Vec<String> {
    let names = ["in/cat.bmp", "in/broken.jpg", "in/logo_rgba.png", "in/absent.jpg", "in/rocket.jpg", "in/cat_420.jpg"];
    names.iter().chain(&names).map(|name| format!("{}\n", folder.join(name).display())).collect()
}

/// Starts a run over a list that it is given line by line.
fn listening(out: &Path, format: &str) -> Child {
    let args = ["--from-file", "-", "--out", text(out), "--part-rows", "3", "--format", format];
    command(&args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn feed(child: &mut Child, lines: &[String]) {
    child.stdin.as_mut().unwrap().write_all(lines.concat().as_bytes()).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_killed_goes_on_and_leaves_the_same_bytes_as_one_that_was_not() {
    let folder = folder();
    let lines = list(folder.path());
    for format in ["parquet", "npy", "jsonl"] {
        let whole = folder.path().join(format!("{format}-whole"));
        let mut child = listening(&whole, format);
        feed(&mut child, &lines);
        finished(child.wait_with_output().unwrap(), 2);

        let cut = folder.path().join(format!("{format}-cut"));
        // Killed in its second part, then in its third, each time with lines of what is not complete.
        for (given, complete) in [(5, 1), (8, 2)] {
            let mut child = listening(&cut, format);
            feed(&mut child, &lines[..given]);
            let journal = cut.join("parts.jsonl");
            while fs::read_to_string(&journal).unwrap_or_default().lines().count() < complete {
                assert_eq!(child.try_wait().unwrap(), None, "it waits for lines");
                pause().await;
            }
            child.kill().unwrap();
            child.wait().unwrap();
        }
        let mut child = listening(&cut, format);
        feed(&mut child, &lines);
        let (stdout, _) = finished(child.wait_with_output().unwrap(), 2);
        assert!(stdout.contains("6 of them were there before"), "{stdout}");
        let (whole, cut) = (files(&whole), files(&cut));
        assert_eq!(cut.keys().collect::<Vec<_>>(), whole.keys().collect::<Vec<_>>());
        for (path, bytes) in whole {
            assert_eq!(cut[&path], bytes, "{}", path.display());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_ends_a_run_in_order_also_while_it_waits_for_a_line() {
    let folder = folder();
    let lines = list(folder.path());
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let (out, report) = (folder.path().join(code.to_string()), folder.path().join(format!("{code}.html")));
        let args = [
            "--from-file",
            "-",
            "--out",
            text(&out),
            "--part-rows",
            "3",
            "--format",
            "jsonl",
            "--report",
            text(&report),
        ];
        let begin = || {
            let mut command = command(&args);
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        };
        let mut child = begin();
        feed(&mut child, &lines[..4]);
        while fs::read_to_string(out.join("parts.jsonl")).unwrap_or_default().is_empty() {
            assert_eq!(child.try_wait().unwrap(), None, "it waits for lines");
            pause().await;
        }
        // Held, so that the list has no end.
        let stdin = child.stdin.take();
        kill_process(Pid::from_child(&child), signal).unwrap();
        let (stdout, stderr) = finished(child.wait_with_output().unwrap(), code);
        drop(stdin);
        assert!(stdout.is_empty() && !stderr.contains("ERROR"), "{stdout}{stderr}");
        let last = "clipserve: stopped: 3 rows are complete; the same command goes on";
        assert_eq!(stderr.lines().last(), Some(last), "{stderr}");
        let page = fs::read_to_string(&report).unwrap();
        assert!(
            page.contains("The run ended early: <bdi>stopped: 3 rows") && page.contains("<b>3</b> items"),
            "{page}"
        );
        let mut child = begin();
        feed(&mut child, &lines);
        let (stdout, _) = finished(child.wait_with_output().unwrap(), 2);
        assert!(stdout.contains("3 of them were there before"), "{stdout}");
    }
}

#[test]
fn too_many_errors_end_a_run_that_waits_for_a_line() {
    let folder = folder();
    let out = folder.path().join("out");
    let mut command = command(&["--from-file", "-", "--out", text(&out), "--max-errors", "0"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    feed(&mut child, &list(folder.path())[..2]);
    let stdin = child.stdin.take();
    let (_, stderr) = finished(child.wait_with_output().unwrap(), 1);
    drop(stdin);
    assert!(stderr.contains("1 item could not be embedded") && !stderr.contains("ERROR"), "{stderr}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_run_was_made_of_is_what_it_goes_on_with() {
    let folder = folder();
    let (source, out) = (folder.path().join("in"), folder.path().join("out"));
    let lines = list(folder.path());
    let mut child = listening(&out, "jsonl");
    feed(&mut child, &lines[..4]);
    while fs::read_to_string(out.join("parts.jsonl")).unwrap_or_default().is_empty() {
        pause().await;
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let before = files(&out);
    let mut other = lines.clone();
    other.swap(0, 4);
    let mut child = listening(&out, "jsonl");
    feed(&mut child, &other);
    let (_, stderr) = finished(child.wait_with_output().unwrap(), 1);
    assert!(stderr.contains("the sources have changed: their first 3 samples"), "{stderr}");
    for (args, expected) in [
        (&["--part-rows", "3", "--format", "jsonl"][..], "made with sources"),
        (
            &["--from-file", "-", "--part-rows", "3", "--format", "npy"],
            r#"made with --format "jsonl", and this run has "npy""#,
        ),
        (
            &["--from-file", "-", "--part-rows", "3", "--format", "jsonl", "--set", "preprocess.fast_decode=true"],
            "made with fingerprint",
        ),
    ] {
        let mut args = [&["--out", text(&out)], args].concat();
        if !args.contains(&"--from-file") {
            args.push(text(&source));
        }
        let output = command(&args).stdin(Stdio::null()).output().unwrap();
        let (_, stderr) = finished(output, 64);
        assert!(stderr.contains(expected), "{stderr}");
    }
    assert_eq!(files(&out)[Path::new("parts.jsonl")], before[Path::new("parts.jsonl")]);
}

#[test]
fn npy_has_the_folders_of_clip_retrieval_numbered_as_wide_as_the_last_part() {
    let folder = folder();
    let (source, out) = (folder.path().join("in"), folder.path().join("out"));
    for number in 0..7 {
        add(&source, &format!("more/{number}.png"), &picture("one_pixel.png"));
    }
    run(&[text(&source), "--out", text(&out), "--format", "npy", "--part-rows", "1"], 2);
    let names: Vec<_> = files(&out).into_keys().map(|path| path.display().to_string()).collect();
    // The first part is the broken picture alone, and has no files.
    let mut expected: Vec<_> = ["run.json", "parts.jsonl", "errors.jsonl"].map(str::to_owned).into();
    for number in 1..12 {
        expected.push(format!("img_emb/img_emb_{number:02}.npy"));
        expected.push(format!("metadata/metadata_{number:02}.parquet"));
    }
    expected.sort();
    assert_eq!(names, expected);
    let array = Array2::<f32>::read_npy(File::open(out.join("img_emb/img_emb_01.npy")).unwrap()).unwrap();
    assert_eq!(array.dim().0, 1);
    let norm = array.iter().map(|value| value * value).sum::<f32>().sqrt();
    assert!((norm - 1.0).abs() < 1e-5, "{norm}");
}

/// A tar with these members.
fn tar(path: &Path, members: &[(&str, &[u8])]) {
    let mut builder = tar::Builder::new(File::create(path).unwrap());
    for (name, bytes) in members {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        builder.append_data(&mut header, name, *bytes).unwrap();
    }
    builder.finish().unwrap();
}

#[test]
fn tar_shards_and_parquet_give_pictures_and_texts_side_by_side() {
    let folder = folder();
    let path = |name: &str| folder.path().join(name);
    let (cat, rocket) = (picture("cat.bmp"), picture("rocket.jpg"));
    let members: [(&str, &[u8]); 5] = [
        ("1.bmp", &cat),
        ("2.JPG", &rocket),
        ("1.txt", b"a cat"),
        ("2.json", br#"{"caption": "a rocket"}"#),
        ("3.txt", b"alone"),
    ];
    tar(&path("s.tar"), &members);
    let batch = RecordBatch::try_from_iter([
        ("image", Arc::new(BinaryArray::from_vec(vec![&cat, &rocket])) as ArrayRef),
        ("caption", Arc::new(StringArray::from(vec!["a cat", "a rocket"]))),
    ]);
    let batch = batch.unwrap();
    let mut writer = ArrowWriter::try_new(File::create(path("t.parquet")).unwrap(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    let out = path("out");
    let args = [text(&path("s.tar")).to_owned(), text(&path("t.parquet")).to_owned()];
    run(&[&args[0], &args[1], "--out", text(&out), "--modality", "both", "--format", "jsonl"], 2);
    let lines = fs::read_to_string(out.join("embeddings/part-00000.jsonl")).unwrap();
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 5);
    let same = |one: usize, other: usize| {
        ["embedding", "text_embedding", "caption"].iter().all(|key| lines[one][key] == lines[other][key])
    };
    assert!(same(0, 3) && same(1, 4), "the same samples from a tar and from Parquet");
    assert_eq!(lines[0]["id"], "1");
    assert_eq!((&lines[1]["caption"], lines[1]["embedding"].is_array()), (&"a rocket".into(), true));
    assert_eq!((&lines[2]["error"], &lines[2]["embedding"]), (&"the sample has no picture".into(), &Value::Null));
    assert!(lines[2]["text_embedding"].is_array(), "what can be had is");
}

#[test]
fn with_both_a_half_that_cannot_be_embedded_costs_the_other_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let picture = picture("rocket.jpg");
    ["in/a.jpg", "in/b.jpg", "in/c.jpg"].iter().for_each(|name| add(folder.path(), name, &picture));
    fs::write(path("in/a.txt"), "a".repeat(20_000)).unwrap();
    fs::write(path("in/b.txt"), b"a cat in Latin-1: \xe9").unwrap();
    fs::write(path("in/c.txt"), b"\xff\xfec\0a\0t\0").unwrap();
    let records = [
        r#"{"path": "absent.jpg", "caption": "a"}"#,
        r#"{"path": "https://127.0.0.1/a.jpg", "caption": "a"}"#,
        r#"{"image": 5, "caption": "a"}"#,
        r#"{"path": "absent.jpg", "caption": 7}"#,
    ];
    fs::write(path("r.jsonl"), records.join("\n")).unwrap();
    let sources = [path("in"), path("r.jsonl")];
    let embedded = |modality: &str, code: i32| -> Vec<Value> {
        let out = path(modality);
        run(
            &[text(&sources[0]), text(&sources[1]), "--out", text(&out), "--modality", modality, "--format", "jsonl"],
            code,
        );
        let lines = fs::read_to_string(out.join("embeddings/part-00000.jsonl")).unwrap();
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let both = embedded("both", 2);
    let halves: Vec<_> =
        both.iter().map(|row| (row["embedding"].is_array(), row["text_embedding"].is_array())).collect();
    let (image, words, none) = ((true, false), (false, true), (false, false));
    assert_eq!(halves, [image, image, image, words, words, words, none], "{both:?}");
    for (row, expected) in both.iter().zip([
        "20000 bytes, the limit is 16384",
        "the text is not UTF-8",
        "save the file as UTF-8",
        "absent.jpg",
        "a web address",
        "its picture is no path",
        "its text is no string",
    ]) {
        assert!(row["error"].as_str().unwrap().contains(expected), "{row:?}");
    }
    assert!(both[6]["error"].as_str().unwrap().contains("absent.jpg"), "both reasons are there");
    // What is not asked for is no reason.
    let words: Vec<_> = embedded("text", 2).iter().map(|row| row["embedding"].is_array()).collect();
    assert_eq!(words, [false, false, false, true, true, true, false]);
}

#[test]
fn shards_have_folders_of_their_own_and_together_every_row_once() {
    let folder = folder();
    let (source, out, whole) = (folder.path().join("in"), folder.path().join("out"), folder.path().join("whole"));
    run(&[text(&source), "--out", text(&whole)], 2);
    // Three pictures with the broken one among them, and two.
    for (index, variable, code) in [("0", "JOB_COMPLETION_INDEX", 2), ("1", "SLURM_ARRAY_TASK_ID", 0)] {
        let mut command = command(&[text(&source), "--out", text(&out), "--shard", "auto/2"]);
        finished(command.env(variable, index).output().unwrap(), code);
    }
    for (more, expected) in
        [(&["--shard", "0/3"][..], "it holds shards of another number"), (&[], "it holds shards, made by --shard ")]
    {
        let (_, stderr) = run(&[&[text(&source), "--out", text(&out)], more].concat(), 64);
        assert!(stderr.contains(expected), "{stderr}");
    }
    let (first, second) = (rows(&out.join("shard-0-of-2")), rows(&out.join("shard-1-of-2")));
    assert_eq!((first.len(), second.len()), (3, 2));
    let mut all: Vec<_> = first.into_iter().chain(second).collect();
    all.sort_by(|a, b| a.id.cmp(&b.id));
    assert_eq!(all, rows(&whole));
}

#[test]
fn slurms_script_embeds_the_eighth_that_its_task_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    for number in 0..8 {
        tar(&path(&format!("{number}.tar")), &[(&*format!("{number}.bmp"), &picture("cat.bmp"))]);
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/slurm/embed.sbatch");
    let binary = Path::new(env!("CARGO_BIN_EXE_clipserve")).parent().unwrap();
    let mut ids = Vec::new();
    for index in ["0", "7"] {
        let mut command = Command::new("/bin/sh");
        command.arg(&script).arg(fixture("tiny-clip")).arg(path("*.tar")).arg(path("out"));
        command.env_clear().env("PATH", binary).env("SLURM_ARRAY_TASK_ID", index);
        finished(command.output().unwrap(), 0);
        ids.extend(rows(&path(&format!("out/shard-{index}-of-8"))).into_iter().map(|row| row.id));
    }
    assert_eq!(ids.len(), 2, "{ids:?}");
    assert_ne!(ids[0], ids[1]);
}

#[test]
fn texts_are_embedded_a_line_a_row_and_too_many_errors_end_the_run() {
    let folder = tempfile::tempdir().unwrap();
    let (source, out) = (folder.path().join("t.txt"), folder.path().join("out"));
    add(folder.path(), "t.txt", b"a cat\n\na dog\n\xff\xff\na cat\n");
    run(&[text(&source), "--out", text(&out)], 2);
    let all = rows(&out);
    assert_eq!(all.len(), 5);
    assert_eq!(all[0].embedding, all[4].embedding);
    assert_ne!(all[0].embedding, all[2].embedding);
    assert_eq!((all[3].embedding.as_ref(), all[3].error.as_deref()), (None, Some("the text is not UTF-8")));
    let strict = folder.path().join("strict");
    let args = [text(&source), "--out", text(&strict), "--part-rows", "2", "--max-errors", "0"];
    let (_, stderr) = run(&args, 1);
    assert!(stderr.contains("1 item could not be embedded, --max-errors is 0; "), "{stderr}");
    assert!(stderr.contains("strict/errors.jsonl says why") && !stderr.contains("ERROR"), "{stderr}");
    assert_eq!(rows(&strict).len(), 2, "the part in front of it is there");
    run(&[text(&source), "--out", text(&strict), "--part-rows", "2", "--max-errors", "1"], 2);
    assert_eq!(rows(&strict), all);
}

#[test]
fn what_cannot_be_embedded_at_all_is_one_line() {
    let folder = folder();
    let (source, out) = (folder.path().join("in"), folder.path().join("out"));
    let other = folder.path().join("other");
    add(&other, "mine", b"");
    for (args, expected) in [
        (&["/absent/folder", "--out", "out"][..], "/absent/folder: "),
        (&[text(&source), "--out", text(&source)], "a run does not read what it writes"),
        (
            &[text(&source.join("cat.bmp")), "--out", text(&out), "--report", text(&source.join("cat.bmp"))],
            "it is a source",
        ),
        (&[text(&source), "--out", text(&other)], "the folder is not empty"),
        (&[text(&source), "--out", text(&out), "--shard", "auto/2"], "none of JOB_COMPLETION_INDEX"),
    ] {
        let (stdout, stderr) = run(args, 64);
        assert!(stdout.is_empty() && stderr.lines().count() == 1 && stderr.contains(expected), "{stderr}");
    }
    assert!(!out.exists());
    run(&[text(&source)], 64);
}

/// What `path` of `address` answers.
fn asked(address: &str, path: &str) -> String {
    let mut socket = TcpStream::connect(address).unwrap();
    write!(socket, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_are_answered_while_a_run_lasts() {
    let folder = folder();
    let out = folder.path().join("out");
    let args = ["--from-file", "-", "--out", text(&out), "--metrics-listen", "127.0.0.1:0"];
    let mut command = command(&args);
    command.env("CLIPSERVE__TELEMETRY__LOG_FORMAT", "json").args(["--set", "telemetry.log_level=info"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
    let address = log.find_map(|line| {
        let line: Value = serde_json::from_str(&line.unwrap()).ok()?;
        Some(line["address"].as_str()?.to_owned())
    });
    let address = address.unwrap();
    let rest = std::thread::spawn(move || log.count());
    feed(&mut child, &list(folder.path())[..2]);
    let done = r#"clipserve_items_total{modality="image",outcome="ok"} 1"#;
    while !asked(&address, "/metrics").contains(done) {
        assert_eq!(child.try_wait().unwrap(), None, "it waits for lines");
        pause().await;
    }
    assert!(asked(&address, "/readyz").starts_with("HTTP/1.1 200 "));
    assert!(asked(&address, "/metrics").contains(r#"clipserve_items_total{modality="image",outcome="invalid"} 1"#));
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(2));
    rest.join().unwrap();
}
