//! What a table of numbers must name: the machine, the versions, the day.
//!
//! Owns reading them from `/proc`, the system and the peers' Python.

use std::{fs, path::Path, process::Command, thread};

use crate::{Result, services::Places};

/// The instruction sets that decide how fast matrix products are, as `/proc/cpuinfo` spells them.
const FLAGS: [&str; 7] = ["avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_bf16", "amx_int8"];

/// The packages whose versions decide the peers' speed.
const PACKAGES: [&str; 7] = ["infinity_emb", "torch", "transformers", "openvino", "fastapi", "uvicorn", "pillow"];

/// `AMD EPYC, 2 cores, avx2 avx512f, 24 GB`.
pub(crate) fn describe() -> Result<String> {
    let info = fs::read_to_string("/proc/cpuinfo")?;
    let field = |name: &str| {
        let line = info.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        line.trim_start_matches([' ', '\t', ':']).to_owned()
    };
    let flags = field("flags");
    let has: Vec<_> = FLAGS.into_iter().filter(|flag| flags.split_whitespace().any(|has| has == *flag)).collect();
    let memory = fs::read_to_string("/proc/meminfo")?;
    let kilobytes: f64 = memory.split_whitespace().nth(1).ok_or("meminfo is empty")?.parse()?;
    let cores = thread::available_parallelism()?;
    let (model, memory) = (field("model name"), kilobytes / 1e6);
    Ok(format!(
        "{model} (family {}, model {}), {cores} cores, {}, {memory:.0} GB",
        field("cpu family"),
        field("model"),
        has.join(" ")
    ))
}

/// `name version` of what runs.
pub(crate) fn versions(places: &Places) -> Result<Vec<String>> {
    let mut versions = vec![format!("clipserve {} ({})", env!("CARGO_PKG_VERSION"), commit(&places.root))];
    let python = places.peers().join("bin/python");
    if python.is_file() {
        let code = "import sys, platform, importlib.metadata as m; print('Python', platform.python_version()); \
                    [print(name, m.version(name)) for name in sys.argv[1:]]";
        let output = Command::new(python).arg("-c").arg(code).args(PACKAGES).output()?;
        versions.extend(String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned));
    }
    Ok(versions)
}

/// The commit, with a mark when the tree differs from it.
fn commit(root: &Path) -> String {
    first_line(Command::new("git").args(["describe", "--always", "--dirty"]).current_dir(root))
}

/// `2026-11-24`.
pub(crate) fn today() -> String {
    first_line(Command::new("date").args(["-u", "+%Y-%m-%d"]))
}

fn first_line(command: &mut Command) -> String {
    let output = command.output().map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    output.unwrap_or_else(|_| "unknown".to_owned())
}
