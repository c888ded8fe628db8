//! Which sources a command line names, in which order, and which of them are whose.

use std::fs;

use super::*;
use crate::bulk::{
    options::{Dtype, Format},
    sample::{Chain, Kept},
    turn::Turn,
};

const LIMITS: Limits = Limits { picture: 99, text: 99 };

fn options(sources: SourceArgs) -> BulkOptions {
    BulkOptions {
        sources,
        out: "out".into(),
        modality: None,
        format: Format::Parquet,
        dtype: Dtype::F32,
        part_rows: 10,
        max_errors: None,
        shard: None,
        columns: Columns::default(),
        report: None,
    }
}

fn opened(options: &BulkOptions) -> Result<Sources, String> {
    Sources::open(options, Own::new(&options.out))
}

fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for (file, contents) in files {
        let path = root.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, contents).unwrap();
    }
    root
}

fn places(root: &Path, names: &[&str]) -> SourceArgs {
    SourceArgs::Places(names.iter().map(|name| root.join(name).to_str().unwrap().to_owned()).collect())
}

/// What is sent, without the folder in front of it.
fn origins(root: &Path, options: &BulkOptions) -> Vec<String> {
    let sources = opened(options).unwrap();
    let mut kept = Kept::default();
    sources.send(&mut kept, LIMITS).unwrap();
    let mut turn = Turn::new(sources.samples_of(), 0, Chain::EMPTY, false);
    let ours: Vec<_> = kept.origins.iter().filter(|origin| turn.next(origin).unwrap().is_some()).collect();
    if let Some(total) = sources.total() {
        assert_eq!(total, ours.len() as u64);
    }
    ours.iter().map(|origin| origin.replace(&format!("{}/", root.display()), "")).collect()
}

#[test]
fn patterns_are_replaced_by_what_they_match_in_order_and_hidden_files_are_not_among_it() {
    let root = tree(&[("b.jpg", ""), ("B.jpg", ""), ("a/c.jpg", ""), (".d.jpg", ""), ("e[1].jpg", "")]);
    let matched = origins(root.path(), &options(places(root.path(), &["*.jpg"])));
    assert_eq!(matched, ["B.jpg", "b.jpg", "e[1].jpg"]);
    let deep = origins(root.path(), &options(places(root.path(), &["**/*.jpg"])));
    assert_eq!(deep, ["B.jpg", "a/c.jpg", "b.jpg", "e[1].jpg"]);
    assert_eq!(origins(root.path(), &options(places(root.path(), &["e[1].jpg", "a"]))), ["e[1].jpg", "a/c.jpg"]);
}

#[test]
fn what_cannot_be_read_is_said_before_anything_is() {
    let root = tree(&[("a.zip", ""), ("empty/notes.md", ""), ("t.parquet", "")]);
    for (name, expected) in [
        ("*.png", "nothing matches"),
        ("absent.jpg", "absent.jpg"),
        ("a.zip", "one of avif, bmp"),
        ("empty", "no picture"),
        ("t.parquet", "t.parquet"),
    ] {
        let error = opened(&options(places(root.path(), &[name]))).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
    let error = opened(&options(SourceArgs::List(root.path().join("absent")))).unwrap_err();
    assert!(error.starts_with("--from-file "), "{error}");
}

#[test]
fn what_leads_to_nothing_is_told_what_it_was_taken_for() {
    for (name, expected) in [
        ("https://h/a.jpg", "a web address"),
        ("https://h/a.jpg?w=1", "a web address"),
        ("s3://bucket/*.tar", "a web address"),
        ("absent/{0..9}.tar", "braces are a shell's"),
        ("absent/{0..9}/*.tar", "braces are a shell's"),
        ("absent/*.tar", "nothing matches the pattern"),
        ("absent.tar", "No such file"),
    ] {
        let error = opened(&options(SourceArgs::Places(vec![name.to_owned()]))).unwrap_err();
        assert!(error.contains(expected) && error.contains(name), "{error}");
    }
}

#[test]
fn text_files_are_embedded_as_texts_and_whatever_else_as_pictures() {
    let root = tree(&[("a.txt", "one\ntwo"), ("b.jpg", "")]);
    let modality = |names: &[&str]| opened(&options(places(root.path(), names))).unwrap().modality();
    assert_eq!(modality(&["a.txt"]), Modalities::Text);
    assert_eq!(modality(&["b.jpg"]), Modalities::Image);
    assert_eq!(modality(&["."]), Modalities::Image);
}

#[test]
fn a_list_is_read_line_by_line_and_a_line_that_leads_nowhere_is_a_row() {
    let root = tree(&[("a.jpg", "1"), ("noext", "2"), ("t.txt", "one\ntwo"), ("d/b.jpg", "3")]);
    let path = |name: &str| root.path().join(name).display().to_string();
    let lines = ["a.jpg", "", "noext", "t.txt", "d", "absent.jpg", "absent.parquet"]
        .map(|name| if name.is_empty() { String::new() } else { path(name) });
    fs::write(root.path().join("list"), format!("{}\r\n\u{0}\n", lines.join("\n"))).unwrap();
    let mut kept = Kept::default();
    let sources = opened(&options(SourceArgs::List(root.path().join("list")))).unwrap();
    sources.send(&mut kept, LIMITS).unwrap();
    let found: Vec<_> =
        kept.samples.iter().map(|sample| (sample.id.replace(&path(""), ""), sample.reason().is_some())).collect();
    let expected = [
        ("a.jpg", false),
        ("noext", false),
        ("t.txt", true),
        ("d/b.jpg", false),
        ("absent.jpg", true),
        ("absent.parquet", true),
        ("\u{0}", true),
    ];
    assert_eq!(found, expected.map(|(name, failed)| (name.to_owned(), failed)));
}

#[test]
fn shards_deal_out_samples_or_lines_or_files_where_there_are_enough_of_them() {
    let root =
        tree(&[("p/a.jpg", ""), ("p/b.jpg", ""), ("p/c.jpg", ""), ("x.txt", "1\n2"), ("y.txt", "1"), ("z.txt", "1")]);
    fs::write(
        root.path().join("list"),
        ["p", "x.txt", "y.txt"].map(|name| root.path().join(name).display().to_string()).join("\n"),
    )
    .unwrap();
    let shard = |sources: &SourceArgs, index| {
        let shard = Some(Shard::new(index, 2).unwrap());
        let modality = matches!(sources, SourceArgs::List(_)).then_some(Modalities::Both);
        let options = BulkOptions { shard, modality, ..options(sources.clone()) };
        origins(root.path(), &options)
    };
    let folder = places(root.path(), &["p"]);
    assert_eq!(
        (shard(&folder, 0), shard(&folder, 1)),
        (vec!["p/a.jpg".into(), "p/c.jpg".into()], vec!["p/b.jpg".into()])
    );
    let files = places(root.path(), &["x.txt", "y.txt", "z.txt"]);
    assert_eq!(shard(&files, 0), ["x.txt:1", "x.txt:2", "z.txt:1"]);
    assert_eq!(shard(&files, 1), ["y.txt:1"]);
    let one = places(root.path(), &["x.txt"]);
    assert_eq!((shard(&one, 0), shard(&one, 1)), (vec!["x.txt:1".into()], vec!["x.txt:2".into()]));
    let list = SourceArgs::List(root.path().join("list"));
    assert_eq!(shard(&list, 1), ["x.txt:1", "x.txt:2"]);
}

#[cfg(unix)]
#[test]
fn a_name_that_is_not_utf8_and_a_link_that_leads_nowhere_are_rows_by_every_door() {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt as _};

    let root = tree(&[("p/sub/ok.png", "")]);
    let sub = root.path().join("p/sub");
    for name in [&b"a\xfe.png"[..], b"a\xff.png", b"t\xff.tar"] {
        fs::write(sub.join(OsStr::from_bytes(name)), "").unwrap();
    }
    for name in ["link.png", "link.parquet"] {
        std::os::unix::fs::symlink("nowhere", sub.join(name)).unwrap();
    }
    let list = [&b"a\xfe.png"[..], b"a\xff.png", b"link.png", b"ok.png"];
    let list = list.map(|name| [sub.as_os_str().as_bytes(), b"/", name, b"\n"].concat()).concat();
    fs::write(root.path().join("list"), list).unwrap();
    for (sources, more) in [
        (places(root.path(), &["p"]), &[][..]),
        (SourceArgs::List(root.path().join("list")), &[]),
        (places(root.path(), &["p/sub/*.png"]), &[]),
        (places(root.path(), &["p/**/*.png"]), &[]),
        (places(root.path(), &["p/**/*.*"]), &["link.parquet", "t\\xff.tar"]),
        (places(root.path(), &["p/sub/link.png", "p/sub/link.parquet", "p/sub/[ao]*"]), &["link.parquet"]),
    ] {
        let mut kept = Kept::default();
        let named = options(sources.clone());
        opened(&named).unwrap().send(&mut kept, LIMITS).unwrap();
        let mut rows: Vec<_> =
            kept.samples.iter().map(|row| (row.id.rsplit('/').next().unwrap(), row.reason())).collect();
        rows.sort_unstable();
        let mut expected = [&["a\\xfe.png", "a\\xff.png", "link.png", "ok.png"][..], more].concat();
        expected.sort_unstable();
        assert_eq!(rows.iter().map(|(id, _)| *id).collect::<Vec<_>>(), expected, "{sources:?}");
        for (id, error) in rows {
            let reason = match id {
                "ok.png" => None,
                id if id.starts_with("link") => Some("No such file"),
                _ => Some("the path is not UTF-8"),
            };
            assert_eq!(error.is_some(), reason.is_some(), "{id} {error:?}");
            assert!(reason.is_none_or(|reason| error.unwrap().contains(reason)), "{id} {error:?}");
        }
    }
}

#[test]
fn what_the_run_writes_is_no_source_by_any_door() {
    let root =
        tree(&[("p/a.jpg", "1"), ("p/out/embeddings/part-00000.parquet", ""), ("p/out/x.jpg", "2"), ("p/z.jpg", "3")]);
    let at = |name: &str| root.path().join(name);
    std::os::unix::fs::symlink(at("p/out/x.jpg"), at("p/b.jpg")).unwrap();
    std::os::unix::fs::symlink(at("p/out"), at("p/link")).unwrap();
    let own = |sources: SourceArgs| BulkOptions { out: at("p/link/../out"), ..options(sources) };
    for name in ["p", "p/*.jpg", "p/**/*", "*/**/*.jpg", "p/*"] {
        let mut kept = Kept::default();
        opened(&own(places(root.path(), &[name]))).unwrap().send(&mut kept, LIMITS).unwrap();
        let names: Vec<_> = kept.origins.iter().map(|origin| origin.rsplit('/').next().unwrap()).collect();
        assert_eq!(names, ["a.jpg", "z.jpg"], "{name}");
    }
    for name in [
        "p/out",
        "p/link",
        "p/b.jpg",
        "p/out/x.jpg",
        "p/out/embeddings/part-00000.parquet",
        "p/out/*/*.parquet",
        "p/link/*",
    ] {
        let error = opened(&own(places(root.path(), &[name]))).unwrap_err();
        assert!(error.contains("a run does not read what it writes"), "{name}: {error}");
    }
    fs::write(
        at("list"),
        ["p/a.jpg", "p/b.jpg", "p/link", "p/out/x.jpg", "p"].map(|name| at(name).display().to_string()).join("\n"),
    )
    .unwrap();
    let mut kept = Kept::default();
    opened(&own(SourceArgs::List(at("list")))).unwrap().send(&mut kept, LIMITS).unwrap();
    let failed: Vec<_> = kept.samples.iter().map(|sample| sample.reason().is_some()).collect();
    assert_eq!(failed, [false, true, true, true, false, false], "{:?}", kept.samples);
    assert!(kept.samples[1].reason().unwrap().contains("a run does not read what it writes"));
    fs::write(at("p/out/list"), "").unwrap();
    let error = opened(&own(SourceArgs::List(at("p/out/list")))).unwrap_err();
    assert!(error.starts_with("--from-file ") && error.contains("a run does not read what it writes"), "{error}");
}

fn pipe(path: &Path) {
    assert!(std::process::Command::new("mkfifo").arg(path).status().unwrap().success());
}

#[test]
fn a_pipe_where_a_file_is_expected_is_refused_or_a_row_and_nobody_waits_for_it() {
    let root = tree(&[]);
    let names = ["a.jpg", "a.tar", "a.parquet", "a.jsonl", "a.txt", "a"];
    names.iter().for_each(|name| pipe(&root.path().join(name)));
    for name in names {
        let error = opened(&options(places(root.path(), &[name]))).unwrap_err();
        assert!(error.contains("neither a regular file nor a folder"), "{error}");
    }
    fs::write(root.path().join("list"), names.map(|name| root.path().join(name).display().to_string()).join("\n"))
        .unwrap();
    let mut kept = Kept::default();
    let mut list = options(SourceArgs::List(root.path().join("list")));
    list.modality = Some(Modalities::Both);
    opened(&list).unwrap().send(&mut kept, LIMITS).unwrap();
    assert_eq!(kept.samples.len(), names.len());
    for sample in kept.samples {
        assert!(sample.reason().unwrap().contains("it is no regular file"), "{sample:?}");
    }
}

#[test]
fn a_list_may_be_a_pipe_and_is_read_once() {
    let root = tree(&[("a.jpg", "1"), ("b.jpg", "2")]);
    let (list, lines) =
        (root.path().join("list"), ["a.jpg", "b.jpg"].map(|name| format!("{}\n", root.path().join(name).display())));
    pipe(&list);
    let sources = opened(&options(SourceArgs::List(list.clone()))).unwrap();
    let writer = std::thread::spawn(move || fs::write(list, lines.concat()));
    let mut kept = Kept::default();
    sources.send(&mut kept, LIMITS).unwrap();
    writer.join().unwrap().unwrap();
    assert_eq!(kept.samples.iter().filter(|sample| sample.reason().is_none()).count(), 2);
    let _socket = std::os::unix::net::UnixListener::bind(root.path().join("socket")).unwrap();
    let error = opened(&options(SourceArgs::List(root.path().join("socket")))).unwrap_err();
    assert!(error.contains("neither a file nor a pipe"), "{error}");
}

#[test]
fn a_line_of_a_list_has_the_length_of_a_path() {
    let root = tree(&[]);
    fs::write(root.path().join("list"), "n".repeat(4097)).unwrap();
    let mut kept = Kept::default();
    opened(&options(SourceArgs::List(root.path().join("list")))).unwrap().send(&mut kept, LIMITS).unwrap();
    assert_eq!(kept.samples[0].reason(), Some("the path has 4097 bytes, the limit is 4096"));
    assert!(kept.samples[0].id.ends_with("list:1"), "{:?}", kept.samples);
}

#[test]
fn a_file_of_texts_beside_other_sources_wants_a_word_which_of_them_is_embedded() {
    let root = tree(&[("a.jpg", ""), ("texts.txt", "cat\ndog\n")]);
    let mut both = options(places(root.path(), &["a.jpg", "texts.txt"]));
    let mut alone = options(places(root.path(), &["texts.txt"]));
    alone.modality = Some(Modalities::Image);
    let error = opened(&alone).unwrap_err();
    assert!(error.ends_with("a list of paths is given by --from-file"), "{error}");
    let error = opened(&both).unwrap_err();
    assert!(error.contains("texts.txt is a file of texts") && error.contains("a.jpg is not"), "{error}");
    assert!(error.ends_with("--modality text or both, or give one kind alone"), "{error}");
    both.modality = Some(Modalities::Both);
    assert_eq!(origins(root.path(), &both).len(), 3);
    for (name, modality) in [("a.jpg", Modalities::Image), ("texts.txt", Modalities::Text)] {
        let alone = options(places(root.path(), &[name]));
        assert_eq!(opened(&alone).unwrap().modality(), modality);
    }
}

#[test]
fn a_folder_of_texts_alone_says_how_they_are_embedded() {
    let root = tree(&[("texts/a.txt", "cat"), ("none/notes.md", "")]);
    let mut folder = options(places(root.path(), &["texts"]));
    let error = opened(&folder).unwrap_err();
    assert!(error.contains("no picture in it, but texts, which --modality text embeds"), "{error}");
    folder.modality = Some(Modalities::Text);
    assert_eq!(origins(root.path(), &folder), ["texts/a.txt"]);
    let error = opened(&options(places(root.path(), &["none"]))).unwrap_err();
    assert!(error.contains("tar and Parquet files are given by themselves"), "{error}");
}
