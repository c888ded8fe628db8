//! Reports of rows that were made up, and of their journals.

use std::time::Duration;

use serde_json::json;

use super::*;
use crate::bulk::{
    glimpse::{Glimpse, Picture},
    options::{Dtype, Format, Modalities},
    output::{Output, Values},
    progress::Progress,
    sample::Chain,
};

fn row(id: &str, millis: u64, error: Option<&str>, glimpse: bool) -> Row {
    let picture = Picture { bytes: 3, format: Ok("JPEG"), size: Some((640, 480)), thumbnail: None };
    let timings = crate::embedder::Timings { preprocess: Duration::from_millis(millis), ..Default::default() };
    Row {
        id: id.to_owned(),
        path: None,
        caption: None,
        metadata: None,
        image: None,
        text: None,
        error: error.map(str::to_owned),
        faulty: false,
        chain: Chain::EMPTY.then(id),
        timings,
        glimpse: glimpse.then_some(Glimpse { picture: Some(picture) }),
    }
}

fn record() -> Map<String, Value> {
    json!({"model": "<b>&", "sources": ["a\"b"], "--shard": null}).as_object().unwrap().clone()
}

/// The page of a run over `rows`, which are all complete, behind as many runs as `journal` has seen.
fn page_of(
    report: Report,
    journal: &mut Journal,
    root: &Path,
    mut rows: Vec<Row>,
    early: Option<&BulkError>,
) -> String {
    let values = Values { dtype: Dtype::F32, scale: 127.0, dim: 2 };
    let output = Output::new(root, Format::Jsonl, Modalities::Image, values, &[]);
    let before = journal.done();
    let mut print = |_: &str| {};
    let mut progress = Progress::new(before.rows, before.errors, None, &mut print);
    let (path, mut report) = (report.path.clone(), report);
    let errors = rows.iter().filter(|row| row.error.is_some()).count() as u64;
    if !rows.is_empty() {
        let mut part = output.begin(before.parts).unwrap();
        let (count, chain) = (rows.len() as u64, rows[rows.len() - 1].chain);
        for (number, row) in rows.iter_mut().enumerate() {
            progress.row(row);
            report.row(row);
            if row.error.is_some() {
                journal.error(before.rows + number as u64, row).unwrap();
            }
        }
        rows.into_iter().for_each(|row| part.push(row).unwrap());
        let files = part.finish().unwrap();
        journal.part(count, errors, chain, &files).unwrap();
    }
    let summary = progress.finish(Modalities::Image, journal.done().parts, journal.errors_file());
    report.write(&record(), journal, &summary, early).unwrap();
    fs::read_to_string(path).unwrap()
}

#[test]
fn a_page_has_the_whole_from_the_journal_and_what_this_run_saw() {
    let folder = tempfile::tempdir().unwrap();
    let (root, path) = (folder.path().join("out"), folder.path().join("report.html"));
    let mut journal = Journal::open(&root, &record()).unwrap();
    let begin = || Report::begin(&path, None, &Own::new(&root)).unwrap();
    let first = vec![row("1.jpg", 5, None, true), row("2.jpg", 0, Some("number 2 is broken"), true)];
    let page = page_of(begin(), &mut journal, &root, first, None);
    assert!(page.contains("<b>2</b> items") && page.contains("All by one run"), "{page}");
    assert!(page.contains("<b>5 ms</b> · 640×480 · 3 B") && page.contains("What failed"), "{page}");
    let second = vec![row("3.jpg", 0, Some("number 3 is broken"), true), row("4.jpg", 7, None, false)];
    let page = page_of(begin(), &mut journal, &root, second, Some(&BulkError::Faulty("<oh>".to_owned())));
    assert!(page.contains("<b>4</b> items") && page.contains("<b>2</b> without"), "{page}");
    assert!(page.contains("This run made 2 rows, 1 without an embedding, in 0.0 s; 2 were there before."), "{page}");
    assert!(page.contains("ended early: <bdi>the model stopped answering: &lt;oh&gt;</bdi>"), "{page}");
    let kind = "<td class=\"count\">2</td><td><bdi>number # is broken</bdi></td><td><bdi class=\"id\">2.jpg</bdi><bdi class=\"id\">3.jpg";
    assert!(page.contains(kind), "errors of both runs are one kind: {page}");
    assert!(!page.contains("1.jpg") && page.contains("3.jpg") && !page.contains("Slowest"), "{page}");
    let page = page_of(begin(), &mut journal, &root, Vec::new(), None);
    assert!(page.contains("found all complete") && page.contains("number # is broken"), "{page}");
    assert!(!page.contains("<svg"), "nothing has a rate: {page}");
}

#[test]
fn what_sources_say_is_text_in_the_page_and_no_page_grows_with_the_items() {
    let folder = tempfile::tempdir().unwrap();
    let (root, path) = (folder.path().join("out"), folder.path().join("report.html"));
    let mut journal = Journal::open(&root, &record()).unwrap();
    let hostile = "<script>\"'&\u{7}\u{202e}".repeat(1000);
    let rows = (0..3000).map(|number| {
        let id = format!("{hostile}{number}");
        row(&id, number, (number % 2 == 0).then_some(&*hostile), number % 100 < 4)
    });
    let report = Report::begin(&path, None, &Own::new(&root)).unwrap();
    let page = page_of(report, &mut journal, &root, rows.collect(), None);
    assert!(!page.contains("<script") && !page.contains('\u{7}') && page.contains("&lt;script&gt;"));
    assert!(
        page.contains("<h1>Embeddings by <code>&lt;b&gt;&amp;</code></h1>")
            && page.contains("[&quot;a\\&quot;b&quot;]")
    );
    let cards =
        |title: &str| page.split(title).nth(1).unwrap().split("</section>").next().unwrap().matches("<figure>").count();
    assert_eq!(cards("<h2>Slowest"), SLOWEST);
    assert!(page.len() < 400_000, "{}", page.len());
    assert!(page.find("<b>2903 ms").unwrap() < page.find("<b>2901 ms").unwrap(), "slowest first");
}

#[test]
fn a_report_that_could_not_be_written_is_refused_before_the_run() {
    let folder = tempfile::tempdir().unwrap();
    let (at, own) = (|name: &str| folder.path().join(name), Own::new(&folder.path().join("out")));
    fs::create_dir_all(at("out/embeddings")).unwrap();
    std::os::unix::fs::symlink(at("out"), at("link")).unwrap();
    std::os::unix::fs::symlink("nowhere", at("lost.html")).unwrap();
    for (name, contents) in
        [("mine.html", "<!doctype html>\n<html lang=\"en\">\n<p>mine"), ("list", "a.jpg"), ("a.jpg", "")]
    {
        fs::write(at(name), contents).unwrap();
    }
    for (name, expected) in [
        ("", "it is a folder"),
        ("a/b.html", "there is no folder"),
        ("out/errors.jsonl", "it lies in --out"),
        ("out/embeddings/r.html", "it lies in --out"),
        ("link/run.json", "it lies in --out"),
        ("mine.html", "no earlier report"),
        ("list", "no earlier report"),
        ("lost.html", "no earlier report"),
        ("a.jpg", "it is a source"),
        ("new.tar", "it is a source"),
    ] {
        let error = Report::begin(&at(name), None, &own).err().unwrap().to_string();
        assert!(error.starts_with("--report ") && error.contains(expected), "{name}: {error}");
    }
    assert_eq!(fs::read(at("list")).unwrap(), b"a.jpg");
    let shard = Shard::new(1, 3).ok();
    let report = Report::begin(&folder.path().join("r.html"), shard, &own).unwrap();
    assert_eq!(report.path, folder.path().join("r-shard-1-of-3.html"));
}
