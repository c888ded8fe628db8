//! The rules of the source tree that the compiler does not check, read off the source text.
//!
//! Owns the table of which module may name which, and the few rules on files as a whole. Does not own the direction within a
//! module (`circles`), how names are read (`names`), style (rustfmt) or idiom (clippy). The text is lexed as Rust, so comments and
//! strings may mention anything; code that a macro makes from nothing goes unseen.
//!
//! Invariant: [`violations`] is a pure function of paths and texts, and every rule has an example below that breaks it.

mod circles;
mod names;

use std::{fs, path::Path, str::FromStr};

use proc_macro2::TokenStream;

use names::{Module, Named};

/// One file of the tree.
struct SourceFile {
    /// Relative to the package's root, with `/`: `src/batch/worker.rs`.
    path: String,
    text: String,
}

/// Lines in a file under `src/`, at most.
const MAX_LINES: usize = 500;

/// What everything may name: they sit below the service and name none of its parts.
const BASE: [&str; 7] = ["budget", "config", "health", "heavy", "regular", "telemetry", "watched"];

/// Which modules of the crate each module may name, besides itself and [`BASE`]. Dependencies point one way: `http ->
/// embedder -> {preprocess, batch, engine, export} -> {encoder, model}`. A module that is not listed (the
/// binary, the command line, the assembly) may name all.
const MAY_NAME: [(&str, &[&str]); 22] = [
    ("budget", &[]),
    ("heavy", &[]),
    ("regular", &[]),
    ("config", &[]),
    ("health", &["encoder"]),
    ("telemetry", &[]),
    ("signals", &[]),
    ("watched", &[]),
    ("tls", &[]),
    ("encoder", &[]),
    ("similarity", &["encoder"]),
    ("model", &["encoder"]),
    ("export", &["model", "encoder"]),
    // Its threads take jobs from one queue and put them into the next.
    ("preprocess", &["batch", "encoder", "model"]),
    ("batch", &["encoder", "model"]),
    ("engine", &["encoder", "model"]),
    ("embedder", &["preprocess", "batch", "engine", "encoder", "export", "model", "similarity"]),
    // What every client of this program has is the hub's.
    ("web", &["model"]),
    ("http", &["embedder", "tls", "web", "similarity", "encoder", "model"]),
    // Beside the server: they drive an embedder, and only the binary and the command line know of them.
    ("tune", &["embedder", "encoder"]),
    ("bulk", &["embedder", "model"]),
    ("compare", &["embedder", "model", "similarity"]),
];

/// External crates (and modules of `std`) that only some places may name, as path from the root, and the places.
const CONFINED: [(&[&str], &[&str]); 16] = [
    (&["ort"], &["engine"]),
    (&["std", "env"], &["config", "main"]),
    (&["anyhow"], &["main"]),
    (&["axum"], &["http", "server"]),
    (&["hyper"], &["http", "server"]),
    (&["http"], &["http", "server", "cli"]),
    // The service is a client of the hub that models come from, of the hosts that pictures are fetched from, and of the collector of spans;
    // `compare` is no part of the service.
    (&["ureq"], &["model", "web", "telemetry", "compare"]),
    (&["opentelemetry"], &["telemetry"]),
    (&["opentelemetry_http"], &["telemetry"]),
    (&["opentelemetry_otlp"], &["telemetry"]),
    (&["opentelemetry_proto"], &["telemetry"]),
    (&["opentelemetry_sdk"], &["telemetry"]),
    (&["rustls"], &["tls", "cli"]),
    (&["tokio_rustls"], &["http", "tls"]),
    (&["indicatif"], &["bulk", "model"]),
    (&["signal_hook"], &["signals"]),
];

/// Every broken rule, as `path: what`, sorted.
fn violations(files: &[SourceFile]) -> Vec<String> {
    let mut found = Vec::new();
    for file in files {
        let mut complain = |what: String| found.push(format!("{}: {what}", file.path));
        if !file.text.starts_with("//!") {
            complain("does not open with `//!`".to_owned());
        }
        let Some(module) = Module::of(&file.path) else { continue };
        let lines = file.text.lines().count();
        if lines > MAX_LINES {
            complain(format!("{lines} lines, more than {MAX_LINES}"));
        }
        let Ok(tokens) = TokenStream::from_str(&file.text) else {
            complain("is not Rust".to_owned());
            continue;
        };
        let named = Named::in_tokens(tokens, &module);
        for stub in &named.stubs {
            complain(format!("holds `{stub}!`"));
        }
        let top = module.top();
        if let Some((_, allowed)) = MAY_NAME.iter().find(|(name, _)| *name == top) {
            for other in named.tops() {
                let listed = MAY_NAME.iter().any(|(name, _)| *name == other);
                if listed && other != top && !BASE.contains(&other) && !allowed.contains(&other) {
                    complain(format!("`{top}` names `{other}`"));
                }
            }
        }
        let paths = named.others();
        for (path, places) in CONFINED {
            let path = path.join("::");
            if paths.contains(&path) && !places.contains(&top) {
                complain(format!("names `{path}`, which only {} may", places.join(", ")));
            }
        }
    }
    found.sort();
    found
}

/// Every file below `folder` of the package whose name ends in `.extension`.
fn read_tree(folder: &str, extension: &str, into: &mut Vec<SourceFile>) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for entry in fs::read_dir(root.join(folder)).expect("a folder of the package") {
        let entry = entry.expect("a folder of the package");
        let path = format!("{folder}/{}", entry.file_name().to_str().expect("a UTF-8 file name"));
        if entry.path().is_dir() {
            read_tree(&path, extension, into);
        } else if path.ends_with(&format!(".{extension}")) {
            into.push(SourceFile { text: fs::read_to_string(entry.path()).expect("UTF-8 text"), path });
        }
    }
}

#[test]
fn the_source_tree_keeps_its_rules() {
    let mut files = Vec::new();
    read_tree("src", "rs", &mut files);
    read_tree("tests", "rs", &mut files);
    let found = violations(&files);
    assert!(files.len() > 3, "only {} files found", files.len());
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

/// The violations of one file that holds `code` below a proper first line.
fn in_file(path: &str, code: &str) -> Vec<String> {
    violations(&[SourceFile { path: path.to_owned(), text: format!("//! Owns.\n{code}") }])
}

#[test]
fn a_file_without_a_head_is_found() {
    let file = |text: &str| [SourceFile { path: "tests/it/x.rs".to_owned(), text: text.to_owned() }];
    assert_eq!(violations(&file("use std::fs;\n")), ["tests/it/x.rs: does not open with `//!`"]);
    assert!(violations(&file("//! Owns.\n")).is_empty());
}

#[test]
fn a_long_file_is_found_under_src_only() {
    assert!(in_file("src/cli.rs", &"\n".repeat(MAX_LINES - 1)).is_empty());
    assert_eq!(in_file("src/cli.rs", &"\n".repeat(MAX_LINES)), ["src/cli.rs: 501 lines, more than 500"]);
    assert!(in_file("tests/it/x.rs", &"\n".repeat(MAX_LINES)).is_empty());
}

#[test]
fn a_stub_is_found() {
    assert_eq!(in_file("src/cli.rs", "fn a() { todo!() }"), ["src/cli.rs: holds `todo!`"]);
    assert_eq!(in_file("src/cli.rs", "fn a() { unimplemented!() }"), ["src/cli.rs: holds `unimplemented!`"]);
}

#[test]
fn a_module_that_names_one_it_must_not_is_found_however_it_is_written() {
    for code in [
        "use crate::http::Router;",
        "use crate::{config::Config, http::{Router, State}};",
        "pub(crate) use crate::http;",
        "fn a() -> crate::http::Router { b() }",
        "use super::super::http::Router;",
        "mod tests { use super::super::super::http; }",
        "fn a() { select! { x = crate::http::serve() => {} } }",
    ] {
        assert_eq!(in_file("src/batch/worker.rs", code), ["src/batch/worker.rs: `batch` names `http`"], "{code}");
    }
    for (path, code, what) in [
        ("src/batch/mod.rs", "use crate::engine::Session;", "`batch` names `engine`"),
        ("src/batch/mod.rs", "use super::preprocess;", "`batch` names `preprocess`"),
        ("src/model/mod.rs", "use crate::engine;", "`model` names `engine`"),
        ("src/encoder.rs", "use crate::batch::Job;", "`encoder` names `batch`"),
        ("src/export/mod.rs", "use crate::engine;", "`export` names `engine`"),
        ("src/http/mod.rs", "use crate::engine;", "`http` names `engine`"),
        ("src/config/mod.rs", "use crate::http;", "`config` names `http`"),
        ("src/embedder/mod.rs", "use crate::tune;", "`embedder` names `tune`"),
        ("src/tune/mod.rs", "use crate::engine;", "`tune` names `engine`"),
    ] {
        assert_eq!(in_file(path, code), [format!("{path}: {what}")], "{code}");
    }
}

#[test]
fn what_points_the_right_way_passes() {
    for (path, code) in [
        ("src/http/embed_image.rs", "use super::error::ApiError; use crate::embedder::Embedder;"),
        ("src/embedder.rs", "use crate::{batch, engine, preprocess};"),
        ("src/batch/worker.rs", "use super::{Job, queue}; use crate::{config, encoder::Encoder, telemetry};"),
        ("src/batch/worker.rs", "mod tests { use super::super::queue; use super::*; }"),
        ("src/server.rs", "use crate::{batch, engine, http, model};"),
        ("src/main.rs", "use clipserve::{http, engine};"),
        ("tests/it/api.rs", "use crate::http; use ort::session;"),
    ] {
        assert!(in_file(path, code).is_empty(), "{path}: {code}: {:?}", in_file(path, code));
    }
}

#[test]
fn a_confined_crate_is_found_outside_its_place() {
    let ort = "src/model/mod.rs: names `ort`, which only engine may";
    for code in ["use ort::session::Session;", "use ort;", "use {ort::Error, std::fmt};", "fn a(e: ort::Error) {}"] {
        assert_eq!(in_file("src/model/mod.rs", code), [ort], "{code}");
        assert!(in_file("src/engine/mod.rs", code).is_empty(), "{code}");
    }
    for code in ["use std::env;", "use std::{env, fs};", "fn a() { std::env::var(\"HOME\"); }"] {
        let found = in_file("src/engine/mod.rs", code);
        assert_eq!(found, ["src/engine/mod.rs: names `std::env`, which only config, main may"], "{code}");
        assert!(in_file("src/config/env.rs", code).is_empty() && in_file("src/main.rs", code).is_empty(), "{code}");
    }
    for (path, code) in [
        ("src/batch/mod.rs", "use http::StatusCode;"),
        ("src/preprocess/mod.rs", "use axum::body::Bytes;"),
        ("src/preprocess/mod.rs", "fn a(b: hyper::Error) {}"),
        ("src/embedder.rs", "use anyhow::Context;"),
        ("src/embedder.rs", "use ureq::Agent;"),
        ("src/server.rs", "use indicatif::ProgressBar;"),
    ] {
        assert_eq!(in_file(path, code).len(), 1, "{path}: {code}");
    }
}

#[test]
fn comments_strings_fields_and_variables_may_say_anything() {
    let code = r##"
        /* crate::http, todo!() */
        /// Unlike [`crate::http`] and `ort::Session`.
        fn a(config: &Config) -> usize {
            let (http, ort, env) = ("crate::http", r#"use ort::x"#, env!("CARGO_PKG_NAME")); // std::env::var
            config.engine.threads + http.len() + ort.len() + env.len()
        }
    "##;
    assert_eq!(in_file("src/batch/mod.rs", code), Vec::<String>::new());
}
