//! `scripts/gpu-check.sh` where there is no GPU: its values on the CPU provider, and what it says of what it has not.
//!
//! Owns the page and the exit code. The speeds are not asked for, because their load generator is a benchmark: `make gpu-check`
//! rehearses those.

use std::{fs, path::Path, process::Command};

/// The exit code, what went to stderr, and the page.
fn gpu_check(args: &[&str]) -> (Option<i32>, String, String) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = tempfile::tempdir().expect("a folder");
    let page = folder.path().join("page.md");
    let mut command = Command::new(root.join("scripts/gpu-check.sh"));
    command.args(["--binary", env!("CARGO_BIN_EXE_clipserve"), "--runtime"]).arg(root.join(".onnxruntime"));
    let output = command.arg("--page").arg(&page).args(args).output().expect("it runs");
    let page = fs::read_to_string(&page).unwrap_or_default();
    (output.status.code(), String::from_utf8(output.stderr).expect("UTF-8"), page)
}

#[test]
fn a_dry_run_compares_all_values_on_the_cpu_and_names_what_it_has_not() {
    let (code, stderr, page) = gpu_check(&["--dry-run", "goldens-f32"]);
    assert_eq!(code, Some(0), "{stderr}{page}");
    for said in [
        "A dry run on the CPU provider",
        "| pictures against transformers | 35 |",
        "| texts against transformers | 24 |",
        "| images alone and among others (",
        "its own name first for 10 of 10 drawings",
        "* CUDA's libraries: ",
    ] {
        assert!(page.contains(said), "{said}: {page}");
    }
    assert!(!page.contains("not hold") && !page.contains("ViT-"), "{page}");
}

#[test]
fn without_cuda_the_values_were_not_asked_for_and_that_is_a_failure() {
    let (code, stderr, page) = gpu_check(&["goldens-f32"]);
    assert_eq!(code, Some(1), "{stderr}{page}");
    assert!(
        page.contains("* Values in f32 on cuda: ") && page.contains("engine.provider = \"cuda\" cannot start"),
        "{page}"
    );
}

#[test]
fn a_wrong_command_line_exits_64_and_measures_nothing() {
    for (args, said) in [
        (&["--dry"][..], "--dry: neither an option nor a part"),
        (&["--page"], "--page wants a value"),
        (&["--binary", "/absent"], "/absent is not there"),
        (&["--list", "--binary", "/absent"], "/absent is not there"),
    ] {
        let (code, stderr, page) = gpu_check(args);
        assert_eq!(code, Some(64), "{stderr}");
        assert!(stderr.contains(said) && page.is_empty(), "{stderr}{page}");
    }
}
