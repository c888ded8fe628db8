//! The services that are measured, as commands: clipserve, infinity, and the plain loops around `transformers` and OpenVINO.
//!
//! Owns their command lines and how each says that it is ready. Each has what its user would give it: the checkpoint, an
//! address, and nothing to tune; clipserve also takes `--set` from the command line of the benchmark.

use std::{
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    Result,
    arithmetic::Arithmetic,
    process::{Reader, Ready, Service},
};

/// Where the checkpoint, the graphs and the peers' Python are kept.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    /// The root of the checkout.
    pub(crate) root: PathBuf,
    cache: PathBuf,
}

impl Places {
    /// Of the checkout that this program was built from.
    pub(crate) fn new() -> Self {
        let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        let cache = root.join("target/bench/cache");
        Self { root, cache }
    }

    /// The same places with the graphs elsewhere.
    pub(crate) fn with_cache(&self, cache: PathBuf) -> Self {
        Self { cache, ..self.clone() }
    }

    /// What the benchmarks make.
    pub(crate) fn made(&self) -> PathBuf {
        self.root.join("target/bench")
    }

    /// The checkpoint that every service serves.
    pub(crate) fn checkpoint(&self) -> PathBuf {
        self.made().join("clip-vit-b-32")
    }

    /// A smaller one, where the time and the disk matter and the speed does not.
    pub(crate) fn small_checkpoint(&self) -> PathBuf {
        self.made().join("clip-small")
    }

    /// The graphs that clipserve makes of it.
    pub(crate) fn cache(&self) -> PathBuf {
        self.cache.clone()
    }

    /// The small model of the tests.
    pub(crate) fn fixture(&self) -> PathBuf {
        self.root.join("tests/fixtures/tiny-clip")
    }

    /// The model in the box.
    pub(crate) fn box_model(&self) -> PathBuf {
        self.root.join("onnx/emoji-clip")
    }

    /// The folder that `benches/peers/install.sh` makes.
    pub(crate) fn peers(&self) -> PathBuf {
        self.made().join("peers")
    }
}

/// The release binary with `model` and these `section.key=value`. Without its cache, unless they say otherwise: the loads of a
/// run begin their numbering anew, and what an earlier one asked for is to be computed again.
pub(crate) fn clipserve(places: &Places, model: &Path, arithmetic: Arithmetic, set: &[String]) -> Result<Service> {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    logging_clipserve(clipserve_command(places, model, arithmetic, set, any), Reader::Stays)
}

/// That command, ready, with its log in a pipe.
pub(crate) fn logging_clipserve(command: Command, reader: Reader) -> Result<Service> {
    let ready = |line: &str| match line.rsplit_once("address=") {
        Some((_, address)) => Some(Ready::At(address.trim().parse().ok()?)),
        None => line.trim_end().ends_with("ready").then_some(Ready::Serves),
    };
    Service::start(command, ready, None, reader)
}

/// The command of [`clipserve`].
pub(crate) fn clipserve_command(
    places: &Places,
    model: &Path,
    arithmetic: Arithmetic,
    set: &[String],
    listen: SocketAddr,
) -> Command {
    command_of(Path::new(env!("CARGO_BIN_EXE_clipserve")), places, model, arithmetic, set, listen)
}

/// The same of another build.
pub(crate) fn command_of(
    binary: &Path,
    places: &Places,
    model: &Path,
    arithmetic: Arithmetic,
    set: &[String],
    listen: SocketAddr,
) -> Command {
    let mut command = dying_with_us(binary);
    serve(&mut command, places, model, arithmetic, set, listen);
    command
}

/// This program as a server that leaks, with the model in the box.
pub(crate) fn leaking_clipserve(places: &Places, leak: &str, set: &[String]) -> Result<Command> {
    let mut command = dying_with_us(&std::env::current_exe()?);
    command.args(["leaking", leak]).envs(clipserve::engine::VARIABLES);
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    serve(&mut command, places, &places.box_model(), Arithmetic::F32, set, any);
    Ok(command)
}

/// `binary`, which ends with this program, also when that is killed.
pub(crate) fn dying_with_us(binary: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]).arg(binary);
    command
}

fn serve(
    command: &mut Command,
    places: &Places,
    model: &Path,
    arithmetic: Arithmetic,
    set: &[String],
    listen: SocketAddr,
) {
    command.current_dir(&places.root).args(["serve", "--listen", &listen.to_string()]);
    command.arg("--model").arg(model).arg("--cache-dir").arg(places.cache());
    arithmetic.flags(command);
    command.args(["--set", "cache.max_bytes=0"]);
    for pair in set {
        command.args(["--set", pair]);
    }
}

/// infinity with its PyTorch engine, as its documentation starts it on a CPU.
pub(crate) fn infinity(places: &Places, model: &Path) -> Result<Service> {
    let address = free_address()?;
    let mut command = python(places, &places.peers().join("bin/infinity_emb"))?;
    command.args(["v2", "--engine", "torch", "--device", "cpu", "--served-model-name", "bench", "--model-id"]);
    command.arg(model).args(["--host", "127.0.0.1", "--port", &address.port().to_string()]);
    command.env("INFINITY_ANONYMOUS_USAGE_STATS", "0").env("DO_NOT_TRACK", "1");
    Service::start(command, uvicorn_is_ready, Some(address), Reader::Stays)
}

/// `benches/peers/fastapi_transformers.py`.
pub(crate) fn transformers(places: &Places, model: &Path) -> Result<Service> {
    uvicorn(places, "fastapi_transformers", &[("CLIP_CHECKPOINT", model)])
}

/// `benches/peers/fastapi_openvino.py`, with the graphs that it makes once and keeps beside the checkpoint.
pub(crate) fn openvino(places: &Places, model: &Path) -> Result<Service> {
    let graphs = model.with_extension("openvino");
    // What OpenVINO tells its maker of a conversion, it does not tell of one in a test run.
    let variables = [("CLIP_CHECKPOINT", model), ("CLIP_GRAPHS", &graphs), ("CI", Path::new("true"))];
    if !graphs.is_dir() {
        eprintln!("converting the checkpoint for OpenVINO into {}", graphs.display());
        let mut command = python(places, &places.root.join("benches/peers/fastapi_openvino.py"))?;
        let output = command.envs(variables).output()?;
        if !output.status.success() {
            return Err(format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr)).into());
        }
    }
    uvicorn(places, "fastapi_openvino", &variables)
}

/// A module of `benches/peers` with an application.
fn uvicorn(places: &Places, module: &str, variables: &[(&str, &Path)]) -> Result<Service> {
    let address = free_address()?;
    let mut command = python(places, &places.peers().join("bin/uvicorn"))?;
    command.envs(variables.iter().copied()).arg("--app-dir").arg(places.root.join("benches/peers"));
    command.args([&format!("{module}:app"), "--host", "127.0.0.1", "--port", &address.port().to_string()]);
    Service::start(command, uvicorn_is_ready, Some(address), Reader::Stays)
}

/// A program for the peers' Python, which reaches no hub.
fn python(places: &Places, program: &Path) -> Result<Command> {
    // By the interpreter and not by the script's first line, which names the place where the folder was made.
    let python = places.peers().join("bin/python3");
    for path in [program, &python] {
        if !path.is_file() {
            return Err(format!("{} is not there: run benches/peers/install.sh", path.display()).into());
        }
    }
    let mut command = Command::new(python);
    command.arg(program).env("HF_HUB_OFFLINE", "1").env("TRANSFORMERS_OFFLINE", "1");
    Ok(command)
}

/// All peers are uvicorn applications.
fn uvicorn_is_ready(line: &str) -> Option<Ready> {
    line.contains("Uvicorn running on").then_some(Ready::Serves)
}

/// An address that was free a moment ago, for a service that cannot say which free one it took.
pub(crate) fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}
