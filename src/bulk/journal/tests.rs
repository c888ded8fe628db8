//! Folders that were stopped, changed, or are of another run.

use serde_json::json;

use super::*;
use crate::bulk::{
    options::{Dtype, Format, Modalities},
    output::{Output, Values},
};

fn record(dtype: &str) -> Map<String, Value> {
    json!({"layout": 3, "--dtype": dtype, "model": "tiny"}).as_object().unwrap().clone()
}

fn chain(origin: &str) -> Chain {
    Chain::EMPTY.then(origin)
}

fn failed() -> Row {
    Row {
        id: "a".to_owned(),
        path: None,
        caption: None,
        metadata: None,
        image: None,
        text: None,
        error: Some("broken".to_owned()),
        faulty: false,
        chain: chain("a"),
        timings: Default::default(),
        glimpse: None,
    }
}

/// Completes a part of one row that failed.
fn complete(journal: &mut Journal, root: &Path) {
    let values = Values { dtype: Dtype::F32, scale: 127.0, dim: 2 };
    let output = Output::new(root, Format::Jsonl, Modalities::Image, values, &[]);
    let mut part = output.begin(journal.done().parts).unwrap();
    part.push(failed()).unwrap();
    let files = part.finish().unwrap();
    journal.error(journal.done().rows, &failed()).unwrap();
    journal.part(1, 1, chain("a"), &files).unwrap();
}

#[test]
fn what_was_complete_is_known_and_what_was_not_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("out");
    let mut journal = Journal::open(&root, &record("f32")).unwrap();
    complete(&mut journal, &root);
    // What a process that is killed in its second part leaves.
    journal.error(1, &failed()).unwrap();
    drop(journal);
    let mut parts = OpenOptions::new().append(true).open(root.join(PARTS)).unwrap();
    parts.write_all(b"{\"part\": {\"number\": 1").unwrap();
    let mut journal = Journal::open(&root, &record("f32")).unwrap();
    let done = journal.done();
    assert_eq!((done.parts, done.rows, done.errors, done.chain, done.ended), (1, 1, 1, chain("a"), false));
    assert_eq!(fs::read_to_string(root.join(ERRORS)).unwrap().lines().count(), 1);
    complete(&mut journal, &root);
    journal.end().unwrap();
    drop(journal);
    let journal = Journal::open(&root, &record("f32")).unwrap();
    assert_eq!((journal.done().parts, journal.done().ended, journal.files().len()), (2, true, 2));
    let errors = fs::read_to_string(root.join(ERRORS)).unwrap();
    let rows: Vec<Value> = errors.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(rows[1], json!({"row": 1, "id": "a", "path": null, "error": "broken"}));
}

#[test]
fn a_folder_of_another_run_is_refused_and_the_difference_is_named() {
    let folder = tempfile::tempdir().unwrap();
    drop(Journal::open(folder.path(), &record("f32")).unwrap());
    let error = Journal::open(folder.path(), &record("f16")).unwrap_err().to_string();
    assert!(error.contains(r#"made with --dtype "f32", and this run has "f16""#), "{error}");
    let mut other = record("f32");
    other.insert("fingerprint".to_owned(), json!("other"));
    let error = Journal::open(folder.path(), &other).unwrap_err().to_string();
    assert!(error.contains("made with fingerprint "), "{error}");
    other.insert("precision".to_owned(), json!("int8"));
    let error = Journal::open(folder.path(), &other).unwrap_err().to_string();
    assert!(error.contains(r#"made with precision nothing, and this run has "int8""#), "{error}");
    let mut more = record("f32");
    more.insert("--shard".to_owned(), json!("0/2"));
    let error = Journal::open(folder.path(), &more).unwrap_err().to_string();
    assert!(error.contains(r#"--shard nothing, and this run has "0/2""#), "{error}");
}

#[test]
fn a_folder_that_holds_something_else_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("mine"), "").unwrap();
    let error = Journal::open(folder.path(), &record("f32")).unwrap_err().to_string();
    assert!(error.contains("not empty"), "{error}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "and nothing is left in it");
}

#[test]
fn a_record_that_is_not_ours_is_refused_and_stays() {
    let folder = tempfile::tempdir().unwrap();
    for contents in ["{\"model\": \"tiny\", \"--dtype\": \"f32\"}", "no JSON", "[]", ""] {
        fs::write(folder.path().join(RUN), contents).unwrap();
        let error = Journal::open(folder.path(), &record("f32")).unwrap_err().to_string();
        assert!(error.contains("no `clipserve embed` has made its run.json"), "{error}");
        assert_eq!(fs::read_to_string(folder.path().join(RUN)).unwrap(), contents);
    }
    assert!(!folder.path().join(PARTS).exists());
}

#[test]
fn what_the_run_goes_on_with_is_a_file_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::create_dir(at("out")).unwrap();
    fs::write(at("other"), "somebody's").unwrap();
    write_record(&at("out").join(RUN), &record("f32")).unwrap();
    for name in [PARTS, ERRORS] {
        std::os::unix::fs::symlink(at("other"), at("out").join(name)).unwrap();
        assert!(Journal::open(&at("out"), &record("f32")).is_err(), "{name}");
        fs::remove_file(at("out").join(name)).unwrap();
        assert!(std::process::Command::new("mkfifo").arg(at("out").join(name)).status().unwrap().success());
        assert!(Journal::open(&at("out"), &record("f32")).is_err(), "{name}: and nobody waits for its other end");
        fs::remove_file(at("out").join(name)).unwrap();
    }
    assert_eq!(fs::read_to_string(at("other")).unwrap(), "somebody's");
    Journal::open(&at("out"), &record("f32")).unwrap();
}

#[test]
fn one_process_has_a_folder_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let journal = Journal::open(folder.path(), &record("f32")).unwrap();
    let error = Journal::open(folder.path(), &record("f32")).unwrap_err().to_string();
    assert!(error.contains("another process"), "{error}");
    drop(journal);
    Journal::open(folder.path(), &record("f32")).unwrap();
}

#[test]
fn a_part_that_has_been_changed_or_taken_away_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let mut journal = Journal::open(folder.path(), &record("f32")).unwrap();
    complete(&mut journal, folder.path());
    drop(journal);
    let part = folder.path().join("embeddings/part-00000.jsonl");
    fs::write(&part, "short").unwrap();
    let error = Journal::open(folder.path(), &record("f32")).unwrap_err().to_string();
    assert!(error.contains("part-00000.jsonl: the file has 5 bytes"), "{error}");
    fs::remove_file(&part).unwrap();
    assert!(Journal::open(folder.path(), &record("f32")).unwrap_err().to_string().contains("part-00000.jsonl"));
}

#[test]
fn errors_that_were_complete_and_are_gone_are_missed() {
    let folder = tempfile::tempdir().unwrap();
    let mut journal = Journal::open(folder.path(), &record("f32")).unwrap();
    complete(&mut journal, folder.path());
    journal.end().unwrap();
    drop(journal);
    let errors = folder.path().join(ERRORS);
    let whole = fs::read(&errors).unwrap();
    fs::write(&errors, &whole[1..]).unwrap();
    let shorter = Journal::open(folder.path(), &record("f32")).unwrap_err().to_string();
    assert!(shorter.contains("errors.jsonl: it has ") && shorter.contains("give another --out"), "{shorter}");
    assert_eq!(fs::read(&errors).unwrap(), whole[1..], "and stays as it is");
    fs::remove_file(&errors).unwrap();
    assert!(Journal::open(folder.path(), &record("f32")).unwrap_err().to_string().contains("it has 0 bytes"));
    assert!(!errors.exists());
}
