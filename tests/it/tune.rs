//! `clipserve tune` by the real binary: what it prints is a report, and what the report says to set can be set. And the
//! defaults that it starts from: they follow the CPUs that the process may use.
//!
//! Owns nothing about speed: the trials are too short to say anything.

use std::{
    fs,
    process::{Command, Output},
    thread,
};

use crate::support::fixture;

fn clipserve() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_clipserve"));
    command.env_clear();
    command
}

/// Tunes the fixture model in trials of 20 ms, one each.
fn tune(args: &[&str]) -> Output {
    let mut command = clipserve();
    command.args(["tune", "--seconds", "0.02", "--rounds", "1", "--provider", "cpu"]).args(args);
    command.arg("--model").arg(fixture("tiny-clip")).output().unwrap()
}

#[test]
fn the_report_has_every_stage_and_its_toml_is_a_configuration() {
    let output = tune(&["--set", "batch.vision.max_batch_size=3", "--set", "telemetry.log_level=warn"]);
    let (report, progress) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(output.status.success(), "{progress}");
    for stage in [
        "images: engine.vision.sessions x engine.intra_threads",
        "images: batch.vision.max_batch_size",
        "images: preprocess.threads",
        "texts: engine.text.sessions",
        "texts: batch.text.max_batch_size",
    ] {
        assert!(report.contains(&format!("\n## {stage}\n")), "{stage}\n{report}");
    }
    assert!(report.starts_with("# clipserve tune: tiny-clip, cpu, f32, ") && report.contains('█'), "{report}");
    let lines: Vec<_> = progress.lines().collect();
    assert!(lines[0].starts_with("tiny-clip, cpu, f32, ") && lines[0].contains(" trials, about "), "{progress}");
    assert!(lines.len() > 5 && lines[1..].iter().all(|line| line.ends_with("/s")), "{progress}");

    let snippets: Vec<_> = report.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert_eq!(snippets.len(), 2, "{report}");
    // One client says nothing about batches, so latency keeps what was given.
    assert!(snippets[1].contains("[batch.vision]\nmax_batch_size = 3\n"), "{}", snippets[1]);
    for snippet in snippets {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("tuned.toml");
        fs::write(&file, snippet).unwrap();
        let output = clipserve().args(["--check-config", "--model", "m", "--config"]).arg(&file).output().unwrap();
        assert!(output.status.success(), "{snippet}\n{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn a_picture_that_cannot_be_embedded_is_one_line() {
    let no_picture = fixture("tiny-clip/config.json");
    let output = tune(&["--image", no_picture.to_str().unwrap(), "--set", "telemetry.log_level=off"]);
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty() && errors.lines().count() == 1, "{errors}");
    assert!(errors.starts_with("clipserve: --image: "), "{errors}");
}

/// Leaves the calling thread, and the processes it starts, one of its CPUs.
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "affinity has no safe call in std")]
fn keep_one_cpu() {
    // SAFETY: a `cpu_set_t` is a bit set, of which all zeros is a value; both calls take its size and a pointer to it.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        assert_eq!(libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set), 0);
        let first = (0..libc::CPU_SETSIZE as usize).find(|&cpu| libc::CPU_ISSET(cpu, &set)).expect("a CPU to run on");
        libc::CPU_ZERO(&mut set);
        libc::CPU_SET(first, &mut set);
        assert_eq!(libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set), 0);
    }
}

#[cfg(target_os = "linux")]
#[test]
fn auto_follows_the_cpus_that_the_process_may_use() {
    // A thread of its own: the others of this process keep their CPUs.
    let pinned = thread::spawn(|| {
        keep_one_cpu();
        clipserve().args(["--print-config", "--model", "m"]).output().unwrap()
    });
    let printed = String::from_utf8(pinned.join().unwrap().stdout).unwrap();
    for line in ["threads = \"auto\" # 1 here", "intra_threads = \"auto\" # 1 here"] {
        assert!(printed.lines().any(|printed| printed == line), "{line}\n{printed}");
    }
}
