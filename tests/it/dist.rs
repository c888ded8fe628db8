//! What `make dist` packs, as far as that needs no packing: licences, the wheel's command, and what docs/install.md and the unit agree on.
//!
//! Owns the rules of scripts/dist. The packages themselves are made and tried by `make test-dist`.

use std::{
    fs,
    io::Write,
    os::unix::{fs::symlink, process::ExitStatusExt},
    path::Path,
    process::{Command, Output, Stdio},
};

use serde_json::{Value, json};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("UTF-8")
}

/// What `scripts/dist licences` makes of what `cargo metadata` printed.
fn licences(metadata: &[u8]) -> Output {
    let folder = tempfile::tempdir().expect("a folder");
    let mut command = Command::new("python3");
    command.args(["-B", "scripts/dist", "licences"]).arg(folder.path()).current_dir(ROOT);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("Python 3");
    // It may end before it has read all.
    let _ = child.stdin.take().expect("a pipe").write_all(metadata);
    child.wait_with_output().expect("it ends")
}

#[test]
fn each_crate_that_is_linked_has_a_licence_that_deny_toml_allows_and_its_text() {
    let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let cargo = Command::new(env!("CARGO"))
        .args(["metadata", "--locked", "--offline", "--format-version", "1", "--filter-platform", &platform])
        .current_dir(ROOT)
        .output()
        .expect("cargo");
    assert!(cargo.status.success(), "{}", text(&cargo.stderr));
    let output = licences(&cargo.stdout);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let written = text(&output.stdout);
    // A crate of ours, one of theirs, C inside a crate; not one that is for tests, nor one that is for the build.
    for linked in ["ort 2", "ring 0", "libjpeg-turbo 3", "zstd 1"] {
        assert!(written.lines().any(|line| line.starts_with(linked) && line.contains(": ")), "{linked}");
    }
    for absent in ["multer ", "proptest ", "cmake ", "cc "] {
        assert!(!written.lines().any(|line| line.starts_with(absent)), "{absent}");
    }
    assert!(written.contains("Independent JPEG Group") && !written.contains("GENERAL PUBLIC LICENSE\n"), "texts");
}

/// What is made of one crate, `made-up` 1.2.3, that is needed in the way of `kind` and has these files.
fn of_one_crate(licence: &str, files: &[(&str, &str)], kind: &str, links: &str) -> Output {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("Cargo.lock"), "[[package]]\nname = \"clipserve\"\nversion = \"0.0.0\"\n")
        .expect("a lock");
    for (name, text) in files {
        let path = folder.path().join("made-up").join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(path, text).expect("a file");
    }
    let some = |text: &str| if text.is_empty() { Value::Null } else { text.into() };
    let package = |name: &str, folder: &Path, licence: &str, links: &str| {
        let manifest = folder.join("Cargo.toml");
        let licence = some(licence);
        json!({"id": name, "name": name, "version": "1.2.3", "manifest_path": manifest, "license": licence, "links": some(links)})
    };
    let metadata = json!({
        "packages": [
            package("clipserve", folder.path(), "MIT", ""),
            package("made-up", &folder.path().join("made-up"), licence, links),
        ],
        "resolve": {"root": "clipserve", "nodes": [
            {"id": "clipserve", "deps": [{"pkg": "made-up", "dep_kinds": [{"kind": some(kind)}]}]},
            {"id": "made-up", "deps": []},
        ]},
    });
    licences(metadata.to_string().as_bytes())
}

#[test]
fn a_crate_that_may_not_be_shipped_is_refused_by_name() {
    let file = [("LICENSE", "Do as you like.")];
    for (licence, files, links, said) in [
        ("", &file[..], "", "made-up 1.2.3 names no licence"),
        ("GPL-3.0-only", &file, "", "GPL-3.0-only is not among the licences that deny.toml allows"),
        ("MIT AND GPL-3.0-only", &file, "", "MIT AND GPL-3.0-only is not among"),
        ("MIT OR", &file, "", "made-up 1.2.3: 'MIT OR' is no SPDX expression"),
        ("(MIT", &file, "", "'(MIT' is no SPDX expression"),
        ("MIT Zlib", &file, "", "'MIT Zlib' is no SPDX expression"),
        ("Zlib", &[], "", "made-up 1.2.3 has no file of its licence, Zlib"),
        ("Zlib", &[("LICENSE.rs", "")], "", "made-up 1.2.3 has no file of its licence, Zlib"),
        ("Zlib", &[("vendor/c/LICENSE", "C's")], "", "made-up 1.2.3 has no file of its licence, Zlib"),
        ("MIT", &file, "made_up", "made-up 1.2.3 links made_up"),
    ] {
        let output = of_one_crate(licence, files, "", links);
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{licence}: {stderr}");
        assert!(
            stderr.starts_with("dist: made-up") && stderr.contains(said) && stderr.lines().count() == 1,
            "{stderr}"
        );
    }
    // What is for tests or builds alone is not shipped.
    for kind in ["dev", "build"] {
        assert!(of_one_crate("GPL-3.0-only", &file, kind, "").status.success(), "{kind}");
    }
}

#[test]
fn texts_are_the_crate_s_own_or_those_of_spdx() {
    for (licence, files, said) in [
        ("MIT", &[("LICENSE", "Do as you like.")][..], &["Do as you like."][..]),
        ("MIT/Zlib", &[("LICENSE-MIT", "One."), ("NOTICE", "Two.")], &["One.", "Two.", "made-up 1.2.3: MIT OR Zlib"]),
        ("Zlib OR (MIT AND BSD-3-Clause)", &[], &["Permission is hereby granted", "Neither the name"]),
        ("GPL-3.0-only OR Apache-2.0", &[], &["Version 2.0, January 2004"]),
        ("MIT", &[("vendor/c/COPYING", "C's own.")], &["C's own.", "Permission is hereby granted"]),
        ("MIT", &[("LICENSES/MIT.txt", ""), ("LICENSES/LICENSE.txt", "In a folder.")], &["In a folder."]),
    ] {
        let output = of_one_crate(licence, files, "", "");
        assert!(output.status.success(), "{licence}: {}", text(&output.stderr));
        for said in said {
            assert!(text(&output.stdout).contains(said), "{licence}: {said}");
        }
    }
}

#[test]
fn the_wheel_s_command_becomes_the_program() {
    let folder = tempfile::tempdir().expect("a folder");
    let package = folder.path().join("clipserve");
    fs::create_dir(&package).expect("a folder");
    for name in ["__init__.py", "__main__.py"] {
        fs::copy(Path::new(ROOT).join("scripts/dist/package").join(name), package.join(name)).expect("a file");
    }
    let module = |args: &[&str]| {
        let mut command = Command::new("python3");
        command.args(["-B", "-m", "clipserve"]).args(args).current_dir(folder.path());
        command.output().expect("Python 3")
    };
    let missing = module(&[]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(
        text(&missing.stderr).contains("cannot be run: No such file or directory; install the wheel"),
        "{missing:?}"
    );

    symlink(env!("CARGO_BIN_EXE_clipserve"), package.join("clipserve")).expect("a link");
    let version = module(&["--version"]);
    assert_eq!(text(&version.stdout), format!("clipserve {}\n", env!("CARGO_PKG_VERSION")));
    assert_eq!(module(&["--modle"]).status.code(), Some(64));

    // What a program finds that does not say itself what it ignores, as Rust's do.
    let program = package.join("clipserve");
    fs::remove_file(&program).expect("the link");
    symlink("/bin/sh", &program).expect("a link");
    let show = ["-c", "grep Sig[BIC] /proc/self/status"];
    let alone = Command::new("/bin/sh").args(show).output().expect("a shell");
    assert_eq!(text(&module(&show).stdout), text(&alone.stdout));
    assert_eq!(module(&["-c", "kill -KILL $$"]).status.signal(), Some(9));
}

#[test]
fn the_unit_and_the_document_name_the_same_places() {
    let read = |name: &str| fs::read_to_string(Path::new(ROOT).join(name)).expect("a file");
    let (unit, document) = (read("deploy/clipserve.service"), read("docs/install.md"));
    for (key, place) in [
        ("ExecStart=", "/opt/clipserve/clipserve"),
        ("LoadCredential=clipserve.toml:", "/etc/clipserve/clipserve.toml"),
        ("Environment=CLIPSERVE__MODEL__CACHE_DIR=", "/var/cache/clipserve"),
    ] {
        assert!(unit.lines().any(|line| line.starts_with(&format!("{key}{place}"))), "{key}");
        assert!(document.contains(&format!("| `{place}` |")), "{place}");
    }
}
